"""Anticipated controls: rows in which a part of the events is given in advance.

Source: Thickstun, Hall, Donahue and Liang 2023, "Anticipatory Music Transformer", arXiv 2306.08620, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from musiclora.errors import ConfigError
from musiclora.symbolic.dataset.arrival_rows import ArrivalRows, fill_with_controls
from musiclora.symbolic.dataset.layout import RowTokens
from musiclora.symbolic.dataset.packing import Unit
from musiclora.symbolic.tokens.arrival import (
    DRUM_INSTRUMENT,
    NOTE_OFFSET,
    PITCHES,
    STEPS_PER_SECOND,
    ArrivalTokenizer,
)
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer
from musiclora.training.config import TrainConfig

DEFAULT_SHARE = 0.9  # the bases saw nine of ten copies of a song with controls
SPANS, RANDOM, INSTRUMENTS = "spans", "random events", "instruments"
KINDS = {SPANS: 1, RANDOM: 4, INSTRUMENTS: 4}  # copies of nine
SPAN_STEPS = 5 * STEPS_PER_SECOND
_MEAN_GAP_STEPS = 20 * STEPS_PER_SECOND  # from one span to the next
_RATES = 10  # random events are controls at 1/10 to 9/10


def check_anticipation(config: TrainConfig, tokenizer: SymbolicTokenizer, base: str) -> None:
    """Refuse --anticipation with tokens that have no controls.

    Raises:
        ConfigError: it was given, and the tokens are no arrival-time tokens.
    """
    if config.anticipation is not None and not isinstance(tokenizer, ArrivalTokenizer):
        raise ConfigError(
            f"--anticipation is for bases with arrival-time tokens, such as stanford-crfm/music-small-800k; {base} has "
            f"{tokenizer.kind} tokens"
        )


def describe_anticipation(share: float) -> str:
    """Format 'anticipated rows: 90 % (spans 10, random events 40, instruments 40)'."""
    if not share:
        return "anticipated rows: none; the adapter does not learn to accompany or to fill"
    parts = ", ".join(f"{kind} {100 * share * copies / sum(KINDS.values()):.3g}" for kind, copies in KINDS.items())
    return f"anticipated rows: {100 * share:.3g} % ({parts})"


def instruments_of(tokens: np.ndarray) -> np.ndarray:
    """Return the instrument of each event of int [3n]: 0 to 127, 128 for drums."""
    found: np.ndarray = (np.asarray(tokens)[2::3] - NOTE_OFFSET) // PITCHES
    return found


def draw_controls(tokens: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray | None:
    """Draw the events of a song that become controls.

    Args:
        tokens: events, int [3n], in order of time.
        kind: `spans` of five seconds, 20 s apart on average; `random events` at one rate, drawn from 0.1 to 0.9; all
            events of some `instruments`, drums among them, but not of all.
        rng: source of the draw.

    Returns:
        True for controls, bool [n]; None for instruments where the song has only one.
    """
    times = np.asarray(tokens)[::3]
    if kind == SPANS:
        return _draw_spans(times, rng)
    if kind == RANDOM:
        return rng.random(len(times)) < rng.integers(1, _RATES) / _RATES
    instruments = instruments_of(tokens)
    found = np.unique(instruments)
    if len(found) < 2:
        return None
    chosen: np.ndarray = rng.choice(found, int(rng.integers(1, len(found))), replace=False)
    return np.isin(instruments, chosen)


def _draw_spans(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    chosen = np.zeros(len(times), bool)
    end = 0
    while len(times) and end <= times[-1]:
        start = end + int(rng.exponential(_MEAN_GAP_STEPS))
        end = start + SPAN_STEPS
        chosen |= (times >= start) & (times < end)
    return chosen


def find_melody(tokens: np.ndarray) -> int | None:
    """Find the instrument with the highest mean pitch, the lower number among equals; None where all are drums."""
    notes = np.asarray(tokens)[2::3] - NOTE_OFFSET
    instruments, pitches = np.divmod(notes, PITCHES)
    pitched = instruments < DRUM_INSTRUMENT
    if not pitched.any():
        return None
    found, number = np.unique(instruments[pitched], return_inverse=True)
    return int(found[np.argmax(np.bincount(number, pitches[pitched]) / np.bincount(number))])


def has_accompaniment(tokens: np.ndarray) -> bool:
    """Return True for a song of two or more instruments, of which one is not drums."""
    return find_melody(tokens) is not None and len(np.unique(instruments_of(tokens))) > 1


@dataclass(frozen=True)
class AnticipatedRows(ArrivalRows):
    """Layout of training rows of one epoch, a share of which has controls.

    What is drawn depends on seed, epoch, song and window only.

    Attributes:
        share: probability of a row with controls, 0 to 1. Where instruments are drawn and the song has only one, the
            row stays plain.
        seed: random seed.
        epoch: number of the epoch.
    """

    share: float
    seed: int
    epoch: int

    def fill(self, tokens: np.ndarray, unit: Unit) -> RowTokens:
        rng = np.random.default_rng([self.seed, self.epoch, 11, unit.piece, unit.start])
        if rng.random() < self.share:
            copies = np.array(list(KINDS.values()))
            chosen = draw_controls(tokens, str(rng.choice(list(KINDS), p=copies / copies.sum())), rng)
            if chosen is not None:
                return fill_with_controls(tokens, unit, chosen)
        return super().fill(tokens, unit)


@dataclass(frozen=True)
class AccompanimentRows(ArrivalRows):
    """Layout of rows in which the melody is given as controls and the other events are scored."""

    def fill(self, tokens: np.ndarray, unit: Unit) -> RowTokens:
        return fill_with_controls(tokens, unit, instruments_of(tokens) == find_melody(tokens))
