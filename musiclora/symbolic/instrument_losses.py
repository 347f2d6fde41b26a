"""Losses of songs token by token, summed by instrument."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from musiclora.backends.base import LossSum, TokenModel
from musiclora.errors import DataError
from musiclora.evaluation.instrument_scores import TIMING, InstrumentScore, instrument_scores
from musiclora.music.instruments import instrument_name
from musiclora.progress import OnProgress
from musiclora.symbolic.dataset.batches import batch_plan
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer

_NO_NOTE = -2  # where a program stands: the token belongs to no note
_ROWS = 4


@dataclass(frozen=True)
class SongLosses:
    """Losses of songs.

    Attributes:
        sums: one a song.
        by_instrument: scores by the instrument's name, and of `timing`: tokens that belong to no note.
    """

    sums: list[LossSum]
    by_instrument: dict[str, InstrumentScore]


def score_songs(
    model: TokenModel,
    pieces: Sequence[Piece],
    tokenizer: SymbolicTokenizer,
    length: int,
    on_song: OnProgress | None = None,
) -> SongLosses:
    """Score each song on its own, and the notes of each instrument over all songs.

    Args:
        model: the model.
        pieces: the songs.
        tokenizer: the one that made their tokens.
        length: longest row in tokens.
        on_song: called with (done, total) songs.

    Raises:
        DataError: the loss of a song is infinite or undefined.
    """
    nats: defaultdict[int, float] = defaultdict(float)
    tokens: Counter[int] = Counter()
    notes: Counter[int] = Counter()
    sums = []
    for number, piece in enumerate(pieces, 1):
        programs = _programs_of_tokens(piece, tokenizer, notes)
        losses, owners = _token_losses(model, piece, programs, tokenizer, length)
        total = float(losses.sum())
        if not math.isfinite(total):
            raise DataError(
                f"the loss of song {number} of {len(pieces)} is not finite: this model, or an adapter at this "
                "strength, computes infinite values; check its weights, or take float32"
            )
        sums.append(LossSum(total, float(len(losses))))
        for owner in np.unique(owners).tolist():
            own = losses[owners == owner]
            nats[owner] += float(own.sum())
            tokens[owner] += len(own)
        if on_song is not None:
            on_song(number, len(pieces))
    names = {program: TIMING if program == _NO_NOTE else instrument_name(program) for program in {*tokens, *notes}}
    by_name = instrument_scores(
        {names[key]: value for key, value in nats.items()},
        {names[key]: value for key, value in tokens.items()},
        {names[key]: value for key, value in notes.items()},
    )
    return SongLosses(sums, by_name)


def _programs_of_tokens(piece: Piece, tokenizer: SymbolicTokenizer, notes: Counter[int]) -> np.ndarray:
    """Return the program of the note that each token of a piece belongs to, int64 [n + 1], and count the notes.

    The last entry is that of tokens outside the piece.
    """
    programs = np.full(len(piece.tokens) + 1, _NO_NOTE, np.int64)
    spans = tokenizer.note_spans(piece.tokens)
    notes.update(spans.program.tolist())
    lengths = spans.stop - spans.start
    offsets = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    programs[np.repeat(spans.start, lengths) + offsets] = np.repeat(spans.program, lengths)
    return programs


def _token_losses(
    model: TokenModel, piece: Piece, programs: np.ndarray, tokenizer: SymbolicTokenizer, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of each scored token of a piece, float64 [m], and the program that it belongs to, int64 [m]."""
    plan = batch_plan([piece], tokenizer, length, _ROWS, 0)
    losses, owners = [], []
    for batch, source in zip(plan.batches(0), plan.sources(0), strict=True):
        scored = batch["loss_mask"]
        losses.append(model.token_losses(batch)[scored].astype(np.float64))
        owners.append(programs[source[scored]])
    return np.concatenate(losses), np.concatenate(owners)
