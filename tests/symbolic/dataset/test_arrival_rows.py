"""Rows of arrival-time tokens: the recorded rows to the id, and windows that score each event once."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from arrival_recordings import FOLDER, NAMES, recorded
from arrival_songs import song_of
from hypothesis import given, settings
from hypothesis import strategies as st

from musiclora.convert.errors import ConfigError
from musiclora.symbolic.dataset.anticipation import instruments_of
from musiclora.symbolic.dataset.arrival_rows import ArrivalRows, interleave, pad_rests, relative, split_controls
from musiclora.symbolic.dataset.batches import BatchPlan, batch_plan
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.dataset.songs import describe_windows
from musiclora.symbolic.dataset.transpose import transpose_piece, versions_within
from musiclora.symbolic.tokens.arrival import (
    ANTICIPATE,
    AUTOREGRESS,
    CONTROL_OFFSET,
    DRUM_INSTRUMENT,
    DUR_OFFSET,
    NOTE_OFFSET,
    REST,
    SEPARATOR,
    ArrivalTokenizer,
)

ROWS = json.loads((FOLDER / "rows.json").read_text())
LAYOUT = ArrivalRows()


# Dense bars, silences of more than a row of 100 s, and notes at one time.
GAP = st.one_of(st.integers(0, 60), st.integers(0, 400), st.integers(9_000, 15_000))
GAPS = st.lists(GAP, min_size=1, max_size=200)


def windows(song, limit):
    units = LAYOUT.cut(0, song, limit)
    return units, [LAYOUT.fill(song, unit) for unit in units]


def times_of(row):
    """Split a plain row into flag, separators and times."""
    body = row.tokens[1:]
    separators = int((body == SEPARATOR).sum())
    return separators, body[separators::3]


# -- recorded rows -----


def concatenated(instruments):
    """Write the recorded pieces one after another as the original does."""
    parts = []
    for name in ROWS["order"]:
        events = recorded(name, "events").ravel()
        chosen = np.isin(instruments_of(events), instruments.get(name, []))
        rest, controls = split_controls(events, chosen)
        parts += [[SEPARATOR] * 3, interleave(pad_rests(rest, int(events[::3].max())), controls)]
    return np.concatenate(parts)


def cut_every_341(tokens, flag):
    """Cut as the original does: what is left at the end waits, and rows that reach 100 s are left out."""
    rows = []
    for start in range(0, len(tokens) - 1022, 1023):
        row = tokens[start : start + 1023]
        ends = np.flatnonzero(row[2::3] == SEPARATOR)
        first = 3 * int(ends[0]) if len(ends) else len(row)  # a song that begins in the row keeps its times
        row = np.concatenate([relative(row[:first]), row[first:]])
        times = row[::3] - CONTROL_OFFSET * (row[2::3] >= CONTROL_OFFSET)
        if times[row[2::3] != SEPARATOR].max() < 10_000:
            rows.append([flag, *row.tolist()])
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_rests_are_those_of_the_original(name):
    np.testing.assert_array_equal(pad_rests(recorded(name, "events").ravel()), recorded(name, "padded").ravel())


def test_autoregressive_rows_are_those_of_the_original():
    assert cut_every_341(concatenated({}), AUTOREGRESS) == ROWS["autoregressive"]


def test_rows_with_the_melody_as_controls_are_those_of_the_original():
    expected = ROWS["melody_as_control"]
    assert cut_every_341(concatenated(expected["instruments"]), ANTICIPATE) == expected["rows"]


def test_the_first_window_of_a_long_song_is_the_original_row():
    # long_piece begins inside a row of the original; alone its first window is what stands there.
    events = recorded("long_piece", "events").ravel()
    row = LAYOUT.fill(events, LAYOUT.cut(0, events, 1024)[0])
    assert len(row.tokens) == 1024
    np.testing.assert_array_equal(row.tokens[:4], [AUTOREGRESS, SEPARATOR, SEPARATOR, SEPARATOR])
    np.testing.assert_array_equal(row.tokens[4:], recorded("long_piece", "padded").ravel()[:1020])


# -- padding and controls -----


@settings(max_examples=60, deadline=None)
@given(GAPS, st.integers(0, 500))
def test_no_second_passes_without_an_event_or_a_rest(gaps, tail):
    song = song_of(gaps)
    end = int(song[-3]) + tail
    padded = pad_rests(song, end).reshape(-1, 3)
    assert np.diff([0, *padded[:, 0]]).max() <= 100
    assert end - padded[-1, 0] <= 100
    rests = padded[:, 2] == REST
    assert (padded[rests, 1] == DUR_OFFSET).all()
    np.testing.assert_array_equal(padded[~rests].ravel(), song)
    np.testing.assert_array_equal(np.diff([0, *padded[:, 0]])[rests], 100)


@settings(max_examples=60, deadline=None)
@given(GAPS, st.integers(0, 3))
def test_a_control_stands_where_the_previous_event_has_come_within_five_seconds(gaps, seed):
    song = song_of(gaps, seed)
    chosen = np.random.default_rng(seed).random(len(song) // 3) < 0.4
    events, controls = split_controls(song, chosen)
    stream = pad_rests(events, int(song[-3]))
    both = interleave(stream, controls).reshape(-1, 3)
    given_in_advance = both[:, 2] >= CONTROL_OFFSET
    np.testing.assert_array_equal(both[~given_in_advance].ravel(), stream)
    np.testing.assert_array_equal(both[given_in_advance].ravel(), controls)
    reached, before = 0, 0  # times of the latest event, and of the one before it
    for number, (time, _, note) in enumerate(both.tolist()):
        if note < CONTROL_OFFSET:
            before, reached = reached, time
            continue
        due = time - CONTROL_OFFSET - 500
        after = both[number + 1 :]
        if (after[:, 2] < CONTROL_OFFSET).any():
            assert reached >= due  # not before its time
        previous = both[number - 1, 2] if number else 0
        if number and previous < CONTROL_OFFSET:
            assert before < due  # and not later than that


def test_relative_times_leave_separators_alone():
    row = [SEPARATOR] * 3 + [700, DUR_OFFSET, NOTE_OFFSET, 650 + CONTROL_OFFSET, DUR_OFFSET + CONTROL_OFFSET, 40_000]
    found = relative(np.array(row))
    assert found.tolist() == [*row[:3], 50, *row[4:6], CONTROL_OFFSET, *row[7:]]
    assert relative(np.array(row[:3])).tolist() == row[:3]


# -- windows -----


@settings(max_examples=50, deadline=None)
@given(GAPS, st.sampled_from([8, 13, 64, 100, 256, 1024, 3000]))
def test_each_event_and_rest_is_scored_once_in_windows_that_fit(gaps, limit):
    song = song_of(gaps)
    padded = pad_rests(song)
    scored: Counter = Counter()
    rests = 0
    for number, (unit, row) in enumerate(zip(*windows(song, limit), strict=True)):
        separators, times = times_of(row)
        assert len(row.tokens) == unit.length <= limit
        assert row.scored.sum() == unit.targets
        assert row.tokens[0] == AUTOREGRESS
        assert separators == (0 if number else 3)
        assert times.min() >= 0
        assert times.max() < 10_000
        assert (np.diff(times) >= 0).all()
        assert not row.scored[: 1 + separators].any()
        if number:
            assert times[0] == 0
            assert not row.scored[:4].any()  # a relative time of 0 says nothing
        of_piece = row.source >= 0
        np.testing.assert_array_equal(row.tokens[of_piece][1::3], song[row.source[of_piece]][1::3])
        np.testing.assert_array_equal(row.tokens[of_piece][2::3], song[row.source[of_piece]][2::3])
        scored.update(row.source[row.scored & of_piece].tolist())
        rests += int((row.scored & ~of_piece).sum())
    assert scored == Counter(range(len(song)))
    assert rests == len(padded) - len(song)


def test_windows_share_about_a_quarter_and_the_last_one_is_full():
    song = song_of([20] * 1000)
    units = LAYOUT.cut(0, song, 1024)
    assert [u.length for u in units] == [1024] * 4
    assert units[1].start == 3 * (340 - 85)
    assert units[-1].stop == 3000


def test_a_song_begins_at_its_own_silence():
    row = LAYOUT.fill(song_of([250, 10]), LAYOUT.cut(0, song_of([250, 10]), 64)[0])
    assert row.tokens[4::3].tolist() == [100, 200, 250, 260]


def test_a_row_that_holds_no_two_events_is_refused():
    with pytest.raises(ConfigError, match="--max-seq-len is 6; a row of arrival-time tokens needs at least 7"):
        LAYOUT.cut(0, song_of([1, 2]), 6)


def test_batches_of_arrival_tokens_know_where_their_cells_come_from():
    songs = [song_of([40] * n, n) for n in (300, 20, 90)]
    pieces = [Piece(f"s{i}", f"s{i}", song, len(song) // 3) for i, song in enumerate(songs)]
    plan = batch_plan(pieces, ArrivalTokenizer(), 256, 2, 0)
    scored = 0
    for batch, source in zip(plan.batches(3), plan.sources(3), strict=True):
        assert source.shape == batch["tokens"].shape
        assert (batch["tokens"][batch["segments"] < 0] == SEPARATOR).all()
        assert not batch["loss_mask"][batch["segments"] < 0].any()
        assert not batch["loss_mask"][:, 0].any()
        assert batch["tokens"].max() <= ANTICIPATE
        scored += int(batch["loss_mask"].sum())
    assert scored == plan.tokens_per_epoch == sum(len(song) for song in songs)
    song = plan.pieces[0].tokens
    alone = BatchPlan(plan.pieces[:1], 256, 2, 0, ArrivalRows())
    for batch, source in zip(alone.batches(0), alone.sources(0), strict=True):
        notes = (source % 3 == 2) & (source >= 0)
        np.testing.assert_array_equal(batch["tokens"][notes], song[source[notes]])


def test_windows_are_said():
    pieces = [Piece("long", "long", song_of([40] * 500), 500), Piece("slow", "slow", song_of([900] * 20), 20)]
    (line,) = describe_windows(pieces, ArrivalTokenizer(), 1024, 1024)
    assert line.startswith("2 of 2 pieces are longer than 1,024 tokens or 100 s (the longest 1,504)")


# -- transposition -----


def test_a_transposition_moves_pitches_and_never_drums():
    song = song_of([30] * 200)
    piece = Piece("band", "band", song, 200, pitches=np.array([60, 62], np.int16))
    drums = instruments_of(song) == DRUM_INSTRUMENT
    versions = versions_within(ArrivalTokenizer(), piece, 3)
    assert len(versions) == 7
    for shift, version in zip(range(-3, 4), versions, strict=True):
        moved = (version.tokens - song).reshape(-1, 3)
        assert (moved[:, :2] == 0).all()
        assert (moved[drums, 2] == 0).all()
        assert (moved[~drums, 2] == shift).all()
        np.testing.assert_array_equal(instruments_of(version.tokens), instruments_of(song))
    pitches = (song[2::3][~drums] - NOTE_OFFSET) % 128
    every = transpose_piece(ArrivalTokenizer(), piece, 0, 127)
    assert (every.shifts[0], every.shifts[-1]) == (-pitches.min(), 127 - pitches.max())


def test_a_piece_of_drums_has_no_other_key():
    piece = Piece("drums", "drums", song_of([30] * 20, instruments=1), 20)
    (only,) = versions_within(ArrivalTokenizer(), piece, 5)
    assert only is piece
