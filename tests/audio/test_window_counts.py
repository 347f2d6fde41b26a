"""Windows of each recording: as many as cover it, or the same sound of every recording."""

from __future__ import annotations

import numpy as np
import pytest

from musiclora.audio.diffrhythm.conditions import DiffRhythmForm
from musiclora.audio.window_counts import WindowCounts
from musiclora.audio.windows import Recording, WindowEpochs

LENGTH, EPOCHS = 20, 300
FRAMES = (900, 700, 7, 18, 20, 25, 30, 33, 41, 50, 60, 64)  # two long recordings and ten short ones


def recordings(frames=FRAMES):
    return [Recording(f"r{i}", f"r{i}.wav", f"{i:064x}", np.full((n, 3), i, np.float32)) for i, n in enumerate(frames)]


def trained_frames(found, labels, count=EPOCHS):
    """Count the scored frames of each recording over some epochs, and the batches of each epoch."""
    counts = WindowCounts(found, LENGTH, 3, labels)
    epochs = WindowEpochs(found, DiffRhythmForm(LENGTH, 40, False), 4, 3, counts.draw)
    frames, batches = np.zeros(len(found)), []
    for epoch in range(count):
        listed = epochs.batches(epoch)
        batches.append(len(listed))
        for batch in listed:
            numbers = batch["latents"][:, 0, 0].astype(int)
            np.add.at(frames, numbers, batch["valid"].sum(1))
    return frames / count, batches, counts


def test_two_long_and_ten_short_recordings_have_the_same_expected_frames():
    found = recordings()
    frames, batches, counts = trained_frames(found, [r.name for r in found])
    each = counts.frames / len(found)
    # The visits of an epoch are within 1 of their expectation, so the mean of 300 epochs has a standard error below
    # 0.5 / sqrt(300) = 0.03 windows of 20 frames; each recording gives about 170.
    np.testing.assert_allclose(frames, each, atol=3.0)
    assert len(set(batches)) == 1
    assert counts.lines() == [f"--weigh songs: each recording gives about {each:,.0f} frames an epoch"]


def test_the_segments_of_a_recording_count_with_it():
    found = recordings((40, 40, 40, 60))
    frames, _, _ = trained_frames(found, ["a", "a", "a", "b"])
    assert frames[:3].sum() == pytest.approx(frames[3], rel=0.05)


def test_an_epoch_has_about_as_many_frames_as_without_weights():
    found = recordings()
    plain, weighed = WindowCounts(found, LENGTH, 3), WindowCounts(found, LENGTH, 3, [r.name for r in found])
    assert plain.frames <= weighed.frames < plain.frames + 2 * LENGTH  # rounded up to whole windows
    assert plain.longest == weighed.longest == LENGTH
    assert plain.lines() == []


def test_without_weights_each_recording_is_covered():
    assert WindowCounts(recordings((50, 20, 7)), LENGTH, 3).draw(4) == [3, 1, 1]


def test_the_same_epoch_draws_the_same_windows():
    found = recordings((300, 21, 90, 44))
    draws = [
        WindowCounts(found, LENGTH, seed, [r.name for r in found]).draw(epoch)
        for seed, epoch in ((3, 1), (3, 1), (3, 2), (3, 3), (4, 1))
    ]
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) > 1
