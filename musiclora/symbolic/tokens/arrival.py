"""Arrival-time tokens of the Anticipatory Music Transformer: each note is its time, its duration and its pitch.

Source: Thickstun, Hall, Donahue and Liang 2023, "Anticipatory Music Transformer", arXiv 2306.08620.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from musiclora.convert.errors import ConvertError, DataError, show_value
from musiclora.convert.files.json_file import COUNT, TEXT, object_with, parse_json
from musiclora.symbolic.tokens.holds import DRUMS, Holds
from musiclora.symbolic.tokens.protocol import TOKENIZER_FILE, NoteSpans
from musiclora.symbolic.tokens.seconds import TempoMap

if TYPE_CHECKING:
    from symusic import Score

KIND = "ArrivalTime"
TIME_OFFSET = 0
DUR_OFFSET = 10_000
NOTE_OFFSET = 11_000
REST = 27_512
CONTROL_OFFSET = 27_513
SEPARATOR = 55_025
AUTOREGRESS = 55_026
ANTICIPATE = 55_027
VOCAB_SIZE = 55_028

EVENT_TOKENS = 3  # time, duration and note
STEPS_PER_SECOND = 100
MAX_STEPS = DUR_OFFSET - TIME_OFFSET  # times of one context are below this
MAX_DURATION_STEPS = NOTE_OFFSET - DUR_OFFSET - 1
PITCHES = 128
DRUM_INSTRUMENT = 128
MAX_INSTRUMENTS = 15  # besides drums: the bases have seen no song with more
VELOCITY = 72  # of all decoded notes
_TICKS_PER_QUARTER = 50  # at 120 quarters a minute one tick is one step
_VERSION = 1
_FILE_KIND = object_with({"tokenization": TEXT, "version": COUNT, "vocab_size": COUNT}, ("tokenization",))


class ArrivalTokenizer:
    """Tokenizer that writes each note as an event of three ids: arrival time, duration, and instrument with pitch.

    Times are steps of 10 ms from the start of the song. They are absolute: after 99.99 s a time's id exceeds the 10,000
    ids of its block, and its position in the triple alone tells it from others. A row of a model shifts them.

    Attributes:
        kind: `ArrivalTime`.
        vocab_size: number of ids of a model.
        pad_id: id that fills rows; it is never a target.
        inferred: True where the tokenizer was chosen by facts of the checkpoint.
    """

    def __init__(self, inferred: bool = False) -> None:
        self.kind = KIND
        self.vocab_size = VOCAB_SIZE
        self.pad_id = SEPARATOR
        self.inferred = inferred

    def __reduce__(self) -> tuple[Callable[[bool], ArrivalTokenizer], tuple[bool]]:
        return ArrivalTokenizer, (self.inferred,)

    @property
    def holds(self) -> Holds:
        """Facts of music that the tokens can hold."""
        return Holds(
            pitches=(0, PITCHES - 1),
            drum_pitches=(0, PITCHES - 1),
            programs=frozenset(range(DRUMS, DRUM_INSTRUMENT)),
            longest_seconds=MAX_DURATION_STEPS / STEPS_PER_SECOND,
            most_instruments=MAX_INSTRUMENTS,
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings, in hexadecimal."""
        return hashlib.sha256(json.dumps(_settings(), sort_keys=True).encode()).hexdigest()

    def hold(self, score: Score) -> Score:
        """Leave out the instruments of a score past the fifteen with the most notes, besides drums.

        The score is not changed. Other events for which there are no tokens stay, and ticks are not rounded.
        """
        counts: Counter[int] = Counter()
        for track in score.tracks:
            if not track.is_drum and len(track.notes):
                counts[int(track.program)] += len(track.notes)
        if len(counts) <= MAX_INSTRUMENTS:
            return score
        kept = {program for program, _ in counts.most_common(MAX_INSTRUMENTS)}  # of equals, the first in the score
        held = score.copy()
        held.tracks = [track for track in held.tracks if track.is_drum or track.program in kept]
        return held

    def encode(self, score: Score) -> np.ndarray:
        """Encode a score in ticks as events, int32 [3n], in order of time; empty without notes."""
        return self.encode_held(self.hold(score))

    def encode_held(self, held: Score) -> np.ndarray:
        """Encode what `hold` returned, int32 [3n]."""
        tracks = [track for track in held.tracks if len(track.notes)]
        if not tracks:
            return np.zeros(0, np.int32)
        arrays = [track.notes.numpy() for track in tracks]
        instruments = [DRUM_INSTRUMENT if track.is_drum else int(track.program) for track in tracks]
        ticks = np.concatenate([notes["time"] for notes in arrays]).astype(np.int64)
        ends = ticks + np.concatenate([notes["duration"] for notes in arrays])
        pitches = np.concatenate([notes["pitch"] for notes in arrays]).astype(np.int64)
        instrument = np.repeat(instruments, [len(notes["time"]) for notes in arrays])
        played = TempoMap(held)
        begin = played.at(ticks)
        events = np.stack(
            [
                np.rint(begin * STEPS_PER_SECOND).astype(np.int64),
                DUR_OFFSET + np.rint((played.at(ends) - begin) * STEPS_PER_SECOND).clip(0, MAX_DURATION_STEPS),
                NOTE_OFFSET + PITCHES * instrument + pitches,
            ],
            axis=1,
        )
        # Notes that begin together keep the order of their tracks, and in a track their own.
        return events[np.argsort(ticks, kind="stable")].astype(np.int32).ravel()

    def decode(self, ids: np.ndarray) -> Score:
        """Decode ids [n] to a score of 50 ticks a quarter at 120, so that a tick is 10 ms.

        There is one track for each instrument, in the order in which they begin. Rests, separators, the token that
        opens a row, and triples that are no event are left out; controls are notes as events are.

        Raises:
            DataError: an id lies outside the vocabulary.
        """
        from symusic import Note, Score, Tempo, Track

        events = split_events(ids)
        score = Score(_TICKS_PER_QUARTER)
        score.tempos.append(Tempo(0, 120.0))
        instrument, pitch = np.divmod(events[:, 2], PITCHES)
        found, first = np.unique(instrument, return_index=True)
        for one in found[np.argsort(first)].tolist():
            own = np.flatnonzero(instrument == one)
            drums = one == DRUM_INSTRUMENT
            track = Track(program=0 if drums else one, is_drum=drums)
            track.notes = Note.from_numpy(
                time=events[own, 0].astype(np.int32),
                duration=events[own, 1].astype(np.int32),
                pitch=pitch[own].astype(np.int8),
                velocity=np.full(len(own), VELOCITY, np.int8),
            )
            score.tracks.append(track)
        return score

    def note_count(self, ids: np.ndarray) -> int:
        """Count the notes that ids [n] decode to."""
        return len(split_events(ids))

    def note_spans(self, ids: np.ndarray) -> NoteSpans:
        """Find the three ids of each note."""
        at, events = _find_events(ids)
        instrument = events[:, 2] // PITCHES
        return NoteSpans(at, at + EVENT_TOKENS, np.where(instrument == DRUM_INSTRUMENT, DRUMS, instrument))

    def to_json(self) -> str:
        """Return the content of tokenizer.json."""
        return json.dumps(_settings())

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into the folder."""
        (folder / TOKENIZER_FILE).write_text(self.to_json(), encoding="utf-8")


def _settings() -> dict[str, str | int]:
    return {"tokenization": KIND, "version": _VERSION, "vocab_size": VOCAB_SIZE}


def split_events(ids: np.ndarray) -> np.ndarray:
    """Split ids [n] into the notes that they write.

    Returns:
        int64 [m, 3]: time and duration in steps, 128 x instrument + pitch.

    Raises:
        DataError: an id lies outside the vocabulary.
    """
    return _find_events(ids)[1]


def _find_events(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the index of each note's first id, int64 [m], and the notes as `split_events` returns them."""
    values = np.asarray(ids, np.int64)
    skipped = int(_opens_with_flag(values))
    count = (len(values) - skipped) // EVENT_TOKENS
    triples = values[skipped : skipped + EVENT_TOKENS * count].reshape(-1, EVENT_TOKENS)
    if len(triples) and (triples.min() < 0 or triples[:, 1:].max() >= VOCAB_SIZE):
        raise DataError(
            f"token ids reach from {triples.min()} to {triples.max()}, but {KIND} tokens have {VOCAB_SIZE}; "
            "decode with the tokenizer that belongs to the model"
        )
    controls = (triples[:, 2] > REST) & (triples[:, 2] != SEPARATOR)
    events = triples - CONTROL_OFFSET * controls[:, None] - (TIME_OFFSET, DUR_OFFSET, NOTE_OFFSET)
    limits = (NOTE_OFFSET - DUR_OFFSET, REST - NOTE_OFFSET)
    valid = (events >= 0).all(axis=1) & (events[:, 1:] < limits).all(axis=1)
    return skipped + EVENT_TOKENS * np.flatnonzero(valid), events[valid]


def _opens_with_flag(values: np.ndarray) -> bool:
    """Return True where the first id opens a row; in absolute time it could also be a note after 550 s."""
    if not len(values) or values[0] not in (AUTOREGRESS, ANTICIPATE):
        return False
    return len(values) < 2 or not DUR_OFFSET <= values[1] % CONTROL_OFFSET < NOTE_OFFSET


def arrival_from_json(text: str | bytes, inferred: bool = False, where: str = "tokenizer") -> ArrivalTokenizer:
    """Build the tokenizer that a tokenizer.json describes.

    Args:
        text: content of the file.
        inferred: see `ArrivalTokenizer`.
        where: source of the text, for error messages.

    Raises:
        DataError: the file is damaged, or describes other tokens.
    """
    try:
        found = parse_json(text, where, _FILE_KIND)
    except ConvertError as error:
        raise DataError(f"not a tokenizer of arrival-time tokens: {error}") from error
    for name, expected in _settings().items():
        if found.get(name, expected) != expected:
            raise DataError(f"{where}: {name} is {show_value(found[name])}, this version reads {expected}")
    return ArrivalTokenizer(inferred)
