"""Random scores of a band, and the notes of scores as multisets."""

from __future__ import annotations

from collections import Counter

import numpy as np
from symusic import ControlChange, KeySignature, Note, Score, Tempo, TimeSignature, Track

from musiclora.symbolic.decoding.arrival.parts import program_of

QUARTER = 96


def band(seed=0, bars=8, metre=(3, 4), names=("melody", "chords", "bass", "kit")):
    """Random band with tempo changes, a metre, a key and controllers; its notes of one pitch do not overlap."""
    rng = np.random.default_rng(seed)
    score = Score(QUARTER)
    score.tempos = [Tempo(0, 93.0), Tempo(QUARTER * 4 + 7, 121.3), Tempo(QUARTER * 9, 77.7)]
    score.time_signatures = [TimeSignature(0, *metre)]
    score.key_signatures = [KeySignature(0, -3, 0)]
    end = bars * QUARTER * 4 * metre[0] // metre[1]
    for name, program in zip(names, (40, 0, 33, -1), strict=True):
        track = Track(name=name, program=max(program, 0), is_drum=program < 0)
        track.controls = [ControlChange(0, 7, 101), ControlChange(QUARTER, 10, 30)]
        for pitch in rng.choice(np.arange(40, 80), 5, replace=False).tolist():
            at = int(rng.integers(0, 60))
            while at < end - 10:
                length = int(rng.integers(5, 90))
                track.notes.append(Note(at, length, pitch, int(rng.integers(1, 128))))
                at += length + int(rng.integers(0, 3 * QUARTER))
        track.notes.sort(key=lambda note: note.time, inplace=True)
        score.tracks.append(track)
    return score


def notes_of(score, tracks=None):
    """Multiset of the notes of some tracks, by program."""
    chosen = score.tracks if tracks is None else [score.tracks[i] for i in tracks]
    return Counter((program_of(t), n.time, n.duration, n.pitch, n.velocity) for t in chosen for n in t.notes)
