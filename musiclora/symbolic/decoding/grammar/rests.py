"""Time of REMI tokens with rests, which cross bar lines without a Bar token.

A Rest counts from the end of the longest note. A finite automaton of a practical size cannot follow that. This module
repeats the arithmetic of MidiTok's decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miditok import MusicTokenizer as MidiTokTokenizer


class _Clock:
    """Place of the decoder in a piece, in ticks of the tokenizer.

    Attributes:
        bar: number of the current bar, from 0; -1 before the first token that tells a time.
        bar_start: tick of its bar line.
        now: current tick.
    """

    def __init__(self, tokenizer: MidiTokTokenizer) -> None:
        self._tokenizer = tokenizer
        self._beat = tokenizer.time_division
        self._bar_length = 4 * self._beat
        self._end = 0  # of the longest note
        self.bar, self.bar_start, self.now = -1, 0, 0

    def open_bar(self) -> None:
        if self.bar >= 0:
            self.bar_start += self._bar_length
        self.bar += 1
        self.now = self.bar_start

    def tick_of(self, position: str) -> int:
        """Return the tick of a position in the current bar."""
        return int(self.bar_start + int(position) * self._tokenizer._compute_ticks_per_pos(self._beat))

    def follow(self, token: str, previous: str) -> None:
        """Move on by a token.

        Args:
            token: base token.
            previous: the one before it.
        """
        kind, value = token.split("_")
        if token == "Bar_None":
            self.open_bar()
        elif kind == "TimeSig":
            numerator, denominator = map(int, value.split("/"))
            self._beat = self._tokenizer._tpb_per_ts[denominator]
            self._bar_length = numerator * self._beat
        elif kind == "Rest":
            self.now = max(self._end, self.now) + self._tokenizer._tpb_rests_to_ticks[self._beat][value]
            passed = (self.now - self.bar_start) // self._bar_length
            self.bar = max(self.bar, 0) + passed
            self.bar_start += passed * self._bar_length
        elif kind == "Position":
            self.bar, self.now = max(self.bar, 0), self.tick_of(value)
        elif kind == "Duration" and not previous.startswith("Pedal"):
            self._end = max(self._end, self.now + self._tokenizer._tpb_tokens_to_ticks[self._beat][value])
        elif kind in {"Tempo", "KeySig"}:
            self._end = max(self._end, self.now)


def open_missing_bars(tokenizer: MidiTokTokenizer, tokens: Sequence[str]) -> list[str]:
    """Begin a new bar after a Rest where a Position would go back in time, or a metre change inside a bar."""
    clock, out, metre = _Clock(tokenizer), [""], list[str]()
    for token in tokens:
        kind, _, value = token.partition("_")
        rested = out[-1].startswith("Rest_")
        if rested and kind == "Position" and clock.tick_of(value) < clock.now:
            clock.open_bar()
            out += ["Bar_None", *metre]
        elif rested and kind == "TimeSig" and clock.now != clock.bar_start:
            clock.open_bar()
            out.append("Bar_None")
        if kind == "TimeSig":
            metre = [token]
        clock.follow(token, out[-1])
        out.append(token)
    return out[1:]


def count_lines(tokenizer: MidiTokTokenizer, tokens: Sequence[str]) -> int:
    """Count the bar lines that tokens pass after the beginning of the piece."""
    clock, previous = _Clock(tokenizer), ""
    for token in tokens:
        clock.follow(token, previous)
        previous = token
    return max(clock.bar, 0)
