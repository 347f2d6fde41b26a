"""Continuing and repainting: which frames of a recording are kept."""

from __future__ import annotations

import numpy as np
import pytest

from musiclora.audio.init_audio import reference_of
from musiclora.errors import ConfigError

PACE, LONGEST = 10.0, 100


def of(frames, repaint=(), wanted=None):
    latents = np.arange(1, 1 + frames, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    return reference_of(latents, repaint, PACE, wanted, LONGEST)


def made(reference):
    return np.flatnonzero(reference.mask).tolist()


def test_a_recording_is_continued_to_the_length_asked_for():
    reference, notes = of(30, wanted=50)
    assert made(reference) == list(range(30, 50))
    assert reference.known[29, 0] == 30
    assert not reference.known[30:].any()
    assert not notes


def test_without_a_length_it_is_continued_to_what_the_model_holds_and_repainted_at_its_own():
    assert len(of(30)[0].mask) == LONGEST
    assert len(of(30, [(1, 2)])[0].mask) == 30


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(1, 2)], range(10, 20)),
        ([(-1, 0.5)], range(5)),
        ([(2.5, -1)], range(25, 30)),
        ([(0, 0.2), (2.9, 9)], [0, 1, 29]),
    ],
    ids=["inside", "from the beginning", "to the end", "two spans"],
)
def test_spans_are_made_anew_and_the_rest_is_kept(spans, expected):
    assert made(of(30, spans)[0]) == list(expected)


def test_a_recording_longer_than_wanted_is_cut_and_that_is_said():
    reference, notes = of(80, [(1, 2)], wanted=40)
    assert len(reference.mask) == 40
    assert "8.0 s are cut to 4.0 s" in notes[0]


@pytest.mark.parametrize(
    ("frames", "spans", "wanted", "words"),
    [
        (120, [], None, "nothing to continue"),
        (30, [], 30, "nothing would be generated"),
        (30, [(-1, -1)], None, "nothing of the recording would be kept"),
        (30, [(2, 1)], None, "--repaint 2 1"),
        (30, [(7, 8)], None, "--repaint 7 8"),
        (30, [(1, 1.05)], None, "--repaint 1 1.05"),
        (30, [(-3, 2)], None, "--repaint -3 2"),
    ],
    ids=["too long", "as long", "everything", "backwards", "outside", "empty", "negative"],
)
def test_spans_that_make_no_sense_are_refused(frames, spans, wanted, words):
    with pytest.raises(ConfigError, match=words):
        of(frames, spans, wanted)


def test_rows_repeat_the_same_reference():
    known, mask = of(30, [(1, 2)])[0].rows(3)
    assert (known.shape, mask.shape) == ((3, 30, 3), (3, 30))
    assert np.array_equal(known[0], known[2])
