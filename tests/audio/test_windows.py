"""Windows of recordings: training epochs, and fixed windows of held-out scores."""

from __future__ import annotations

import math
import zlib
from statistics import NormalDist

import numpy as np
import pytest

from musiclora.audio.diffrhythm.conditions import DROP_RATES, DiffRhythmForm
from musiclora.audio.windows import (
    TIMES,
    WINDOWS,
    Recording,
    WindowEpochs,
    fixed_batches,
    fixed_windows,
    make_batch,
    pieces_of,
)
from musiclora.flow import draw_times

LENGTH = 20


def recording(frames, seed=0, **parts):
    # The value says which frame it is, so that a window shows where it was taken.
    latents = np.repeat(np.arange(frames, dtype=np.float32)[:, None] + 1000 * seed, 3, axis=1)
    return Recording(f"r{seed}", f"r{seed}.wav", f"{seed:064x}", latents, parts)


@pytest.fixture
def recordings():
    return [recording(frames, seed) for seed, frames in enumerate((50, 20, 7, 33, 41))]


def epochs(recordings, rows=2, seed=3, **form):
    return WindowEpochs(recordings, DiffRhythmForm(LENGTH, 40, form.pop("has_duration", False), **form), rows, seed)


def rows_of(batches):
    """(first frame, frames, time, start_time) of every row."""
    for batch in batches:
        for row in range(len(batch["time"])):
            frames = int(batch["valid"][row].sum())
            yield float(batch["latents"][row, 0, 0]), frames, float(batch["time"][row]), float(batch["start_time"][row])


def test_every_recording_gives_as_many_windows_as_cover_it(recordings):
    found = list(rows_of(epochs(recordings).batches(0)))
    per_recording = [sum(int(first // 1000) == i for first, *_ in found) for i in range(len(recordings))]
    assert per_recording == [3, 1, 1, 2, 3] == [pieces_of(r.frames, LENGTH) for r in recordings]
    assert sorted({frames for _, frames, *_ in found}) == [7, 20]


def test_windows_lie_inside_and_their_start_is_a_share_of_the_recording(recordings):
    for epoch in range(6):
        for first, frames, _, start_time in rows_of(epochs(recordings).batches(epoch)):
            whole = recordings[int(first // 1000)].frames
            assert 0 <= first % 1000 <= whole - frames
            assert start_time == pytest.approx(first % 1000 / whole, abs=1e-6)


def test_every_place_of_a_recording_is_reached_in_time():
    places = {first for epoch in range(400) for first, *_ in rows_of(epochs([recording(26)]).batches(epoch))}
    assert places == set(range(7))


def test_an_epoch_is_the_same_for_the_same_number_and_another_for_another(recordings):
    first, again, other = (list(epochs(recordings).batches(n)) for n in (4, 4, 5))
    assert all(np.array_equal(a[k], b[k]) for a, b in zip(first, again, strict=True) for k in a)
    assert sorted(rows_of(first)) != sorted(rows_of(other))
    noise = [np.concatenate([b["noise"].reshape(-1) for b in part]) for part in (first, other)]
    assert not np.isin(noise[0][:50], noise[1]).any()


def test_short_windows_are_filled_up_and_not_scored(recordings):
    (batch,) = [b for b in epochs(recordings).batches(0) if not b["valid"].all()]
    row = int(np.flatnonzero(~batch["valid"].all(1))[0])
    assert batch["valid"][row].tolist() == [True] * 7 + [False] * 13
    assert not batch["latents"][row, 7:].any()
    assert batch["noise"][row, 7:].all()


def test_the_noise_of_a_frame_does_not_depend_on_how_far_the_batch_is_filled_up(recordings):
    form = DiffRhythmForm(LENGTH, 40, False)
    short, long = fixed_windows(recordings[2], form)[0], fixed_windows(recordings[0], form)[0]
    alone, together = make_batch([short], form), make_batch([short, long], form)
    assert np.array_equal(alone["noise"][0], together["noise"][0, :7])


def test_slices_of_an_epoch_are_the_same_batches(recordings):
    batches = epochs(recordings).batches(0)
    assert len(batches) == 5
    assert all(np.array_equal(a["noise"], b["noise"]) for a, b in zip(batches[1:3], list(batches)[1:3], strict=True))


def test_conditions_are_dropped_as_often_as_in_the_original(recordings):
    batches = [batch for epoch in range(300) for batch in epochs(recordings).batches(epoch)]
    for name, share in DROP_RATES.items():
        # 1,500 draws: three standard deviations are 0.035 at most
        assert np.mean([bool(batch[name]) for batch in batches]) == pytest.approx(share, abs=0.036)
    assert DROP_RATES == {"drop_audio": 0.3, "drop_style": 0.1, "drop_text": 0.1}


def test_times_are_logit_normal():
    times = draw_times(np.random.default_rng(0), 20_000)
    logits = np.log(times / (1 - times))
    assert logits.mean() == pytest.approx(0, abs=0.03)
    assert logits.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("has_duration", [False, True], ids=["without", "with"])
def test_the_duration_is_a_share_of_the_longest_piece_where_the_model_has_it(recordings, has_duration):
    for batch in epochs(recordings, has_duration=has_duration).batches(0):
        assert ("duration" in batch) == has_duration
        if has_duration:
            np.testing.assert_allclose(batch["duration"], batch["valid"].sum(1) / 40)


def test_text_is_cut_as_its_latents_are():
    sung = recording(50, 1, text=np.arange(50, dtype=np.int32))
    plain = recording(30, 2)
    for batch in epochs([sung, plain]).batches(0):
        for row in range(len(batch["time"])):
            first = int(batch["latents"][row, 0, 0])
            expected = np.arange(first - 1000, first - 980) if first < 2000 else np.zeros(20)
            assert np.array_equal(batch["text"][row], expected)
    assert all("text" not in batch for batch in epochs([plain]).batches(0))


def test_styles_come_from_the_recordings_or_from_the_one_given():
    styles = np.eye(512, dtype=np.float32)
    styled = [recording(20, i, style=styles[i]) for i in range(3)]
    (batch,) = epochs(styled, rows=3).batches(0)
    for row, first in enumerate(batch["latents"][:, 0, 0]):
        assert np.array_equal(batch["style"][row], styles[int(first // 1000)])
    (batch,) = epochs(styled, rows=3, style=styles[9]).batches(0)
    assert np.array_equal(batch["style"], styles[[9, 9, 9]])
    (batch,) = epochs([recording(20)]).batches(0)
    assert "style" not in batch


def test_scores_do_not_depend_on_rows_a_batch_or_on_other_recordings(recordings):
    form = DiffRhythmForm(LENGTH, 40, False)

    def found(part, rows):
        batches = fixed_batches(part, form, rows)
        assert all(batch["valid"].all() for batch in batches)
        return {
            (float(b["latents"][i, 0, 0]), float(b["time"][i])): b["noise"][i]
            for b in batches
            for i in range(len(b["time"]))
        }

    one, many = found(recordings, 1), found(recordings, 5)
    assert set(one) == set(many)
    assert all(np.array_equal(one[key], many[key]) for key in one)
    alone = found(recordings[3:4], 2)
    assert alone
    assert all(np.array_equal(one[key], alone[key]) for key in alone)


def test_scored_windows_spread_over_a_recording_and_its_times_over_their_distribution():
    windows = fixed_windows(recording(1000), DiffRhythmForm(LENGTH, 40, False))
    assert len(windows) == WINDOWS * TIMES
    assert sorted({w.start for w in windows}) == [0, 327, 653, 980]
    for start in {w.start for w in windows}:
        logits = [np.log(w.time / (1 - w.time)) for w in windows if w.start == start]
        # one in each quarter of a standard normal, whose quartiles are -0.674, 0 and 0.674
        assert np.searchsorted([-0.6745, 0, 0.6745], logits).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("frames", [7, 20, 50, 205], ids=["short", "one window", "three windows", "four windows"])
def test_held_out_windows_follow_the_published_definition(frames):
    """Computed as docs/audio.md states it, with nothing of ours."""
    r = recording(frames, seed=5)
    key = zlib.crc32(r.checksum.encode())
    length = min(LENGTH, frames)
    count = min(4, math.ceil(frames / LENGTH))
    expected = []
    for place in range(count):
        start = round(place * (frames - length) / (count - 1)) if count > 1 else 0
        u = np.random.default_rng([20250301, key, place]).random()
        for k in range(4):
            time = 1 / (1 + math.exp(-NormalDist().inv_cdf((k + 0.02 + 0.96 * u) / 4)))
            noise = np.random.default_rng([20250301, key, place, k]).standard_normal((length, 3), np.float32)
            expected.append((start, time, noise))
    (batch,) = fixed_batches([r], DiffRhythmForm(LENGTH, 40, False), 99)
    assert batch["latents"][:, 0, 0].tolist() == [5000 + start for start, _, _ in expected]
    np.testing.assert_allclose(batch["time"], [time for _, time, _ in expected], rtol=1e-6)
    np.testing.assert_array_equal(batch["noise"], np.stack([noise for _, _, noise in expected]))
    np.testing.assert_allclose(batch["start_time"], [start / frames for start, _, _ in expected], rtol=1e-6)
    assert batch["valid"].all()
    assert not {"cond", *DROP_RATES} & batch.keys()
