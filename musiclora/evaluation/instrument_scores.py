"""Scores by instrument: which notes of a band a token model predicts well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

TIMING = "timing"  # tokens that belong to no note


@dataclass(frozen=True)
class InstrumentScore:
    """Score of a token model on the notes of one instrument.

    Attributes:
        loss: nats a token.
        bits_per_note: nats of the tokens / ln 2 / notes of the instrument; for timing, notes of all instruments, so
            that the sum over instruments, weighted by notes, and timing is the score of the songs.
        notes: notes of the instrument; 0 for timing.
        tokens: scored tokens.
    """

    loss: float
    bits_per_note: float
    notes: int
    tokens: int


def instrument_scores(
    nats: Mapping[str, float], tokens: Mapping[str, int], notes: Mapping[str, int]
) -> dict[str, InstrumentScore]:
    """Build the scores of instruments, and of `timing`, by name; those without a scored token are left out.

    Args:
        nats: summed loss by name.
        tokens: scored tokens by name.
        notes: notes by name of the instrument.
    """
    every = sum(notes.values())
    return {
        name: InstrumentScore(
            nats[name] / tokens[name],
            nats[name] / math.log(2) / max(every if name == TIMING else notes.get(name, 0), 1),
            notes.get(name, 0),
            tokens[name],
        )
        for name in sorted(tokens, key=lambda name: (name == TIMING, -notes.get(name, 0), name))
        if tokens[name]
    }


def instrument_lines(scores: Mapping[str, InstrumentScore], base: Mapping[str, InstrumentScore]) -> list[str]:
    """Format a table of bits a note by instrument; empty where there is one instrument only.

    Args:
        scores: of the model, or of the base with its adapters.
        base: of the base alone; empty without adapters.
    """
    if sum(name != TIMING for name in scores) < 2:
        return []
    width = max(len(name) for name in scores) + 2
    head = f"{'base':>10}{'adapter':>10}" if base else f"{'bits a note':>13}"
    lines = [f"{'bits a note' if base else '':{width}}{'notes':>8}{'tokens':>9}{head}"]
    for name, score in scores.items():
        notes = f"{score.notes:8d}" if score.notes else f"{'':8}"
        bits = f"{base[name].bits_per_note:10.3f}{score.bits_per_note:10.3f}" if name in base else ""
        lines.append(f"{name:{width}}{notes}{score.tokens:9d}{bits or f'{score.bits_per_note:13.3f}'}")
    return lines
