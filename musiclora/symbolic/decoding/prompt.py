"""Prompt of a generation: its first bars, its tokens, and the part of it that the model sees."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from musiclora.errors import DataError
from musiclora.music.bars import bar_lines
from musiclora.symbolic.decoding.excerpt import first_bars, last_bars
from musiclora.symbolic.decoding.grammar import GrammarInfo
from musiclora.symbolic.tokens.kept import Kept, encode_and_count
from musiclora.symbolic.tokens.kept_lines import list_left_out, list_playing_lost
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer

if TYPE_CHECKING:
    from symusic import Score


@dataclass(frozen=True)
class Prompt:
    """Encoded prompt.

    Attributes:
        ids: tokens without BOS; up to the bar line where the continuation begins, if bars are counted.
        score: the bars that are continued, or None without a prompt.
        remarks: what the tokens do not hold of it, and what the model does not see of it, for the user.
    """

    ids: list[int] = dataclasses.field(default_factory=list)
    score: Score | None = None
    remarks: tuple[str, ...] = ()


def describe_context(info: GrammarInfo, tokens: int, seen: list[int], n_positions: int) -> str:
    """Say from which part of a prompt a model goes on that cannot hold all its tokens."""
    bars = int(info.opens_bar[seen].sum())
    part = ("bar" if bars == 1 else f"{bars} bars") if bars else f"{len(seen)} tokens"
    return (
        f"--prompt: its {tokens} tokens are more than the model's {n_positions} positions hold; "
        f"the model sees the last {part} of it"
    )


def encode_prompt(
    tokenizer: MusicTokenizer, info: GrammarInfo, score: Score | None, bars: int, *, from_end: bool = False
) -> Prompt:
    """Encode the first bars of a score, or its last, counted by its own metres; 0 takes all.

    Raises:
        DataError: the tokenizer keeps no note of it.
    """
    if score is None:
        return Prompt()
    line = None
    if from_end:
        score = last_bars(score, bars)
    else:
        score, line = first_bars(score, bars)
    tokens, kept = encode_and_count(tokenizer, score)
    ids = [int(i) for i in tokens]
    if not ids:
        raise DataError(f"--prompt: holds no notes that this model's tokenizer can write{_in_bars(bars, from_end)}")
    if line is not None:
        ids += _missing_bar_lines(tokenizer, info, ids, score, line)
    return Prompt(ids, score, tuple(_describe_losses(tokenizer, kept)))


def _describe_losses(tokenizer: MusicTokenizer, kept: Kept) -> list[str]:
    """Say which notes of a prompt the tokens leave out, and what else of it they lose."""
    left_out = list_left_out(kept, tokenizer.holds)
    lines = [f"--prompt: left out {', '.join(left_out)}"] if left_out else []
    if lost := list_playing_lost(kept, tokenizer.holds):
        lines.append(f"--prompt: the tokens lose {', '.join(lost)}")
    if kept.tracks_kept < kept.tracks:
        lines.append(f"--prompt: {kept.tracks} tracks merged into {kept.tracks_kept}")
    if kept.metres and tokenizer.metres_in_tokens:  # without metres in the tokens, the piece keeps the prompt's
        lines.append("--prompt: its time signature has no token in this model; the piece is written in another")
    return lines


def _in_bars(bars: int, from_end: bool) -> str:
    return f" in its {'last' if from_end else 'first'} {bars} bars (--prompt-bars)" if bars else ""


def _missing_bar_lines(
    tokenizer: MusicTokenizer, info: GrammarInfo, ids: list[int], score: Score, line: int
) -> list[int]:
    """Return the bar tokens that lead to a bar line of the score, where one token is one bar line."""
    single = [i for i in np.flatnonzero(info.opens_bar) if len(info.tokens[i]) == 1]
    if len(single) != 1 or tokenizer.kind == "MMM":  # MMM writes one track after the other
        return []
    if tokenizer.metres_in_tokens:
        wanted = bar_lines(score, line).index(line)
    else:  # tokens count bars of four quarters
        wanted, rest = divmod(line, 4 * int(score.ticks_per_quarter))
        if rest:
            return []  # the line lies inside a bar of the tokens: the piece goes on after its last onset
    return [int(single[0])] * (wanted - info.count_lines(ids))
