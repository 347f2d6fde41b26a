"""Drawing of arrival-time tokens: blocks of events between the controls, for several pieces at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from musiclora.backends.base import GenerationSession, Grammar, SamplingSpec, TokenModel
from musiclora.sampling import uniforms
from musiclora.symbolic.decoding.arrival.context import ArrivalPiece
from musiclora.symbolic.decoding.arrival.grammar import ArrivalGrammar
from musiclora.symbolic.tokens.arrival import EVENT_TOKENS

_MOST_AT_ONCE = 32  # events drawn between two looks at them

Draws = Callable[[int, int, int], np.ndarray]


class UniformDraws:
    """Uniform draws of the pieces of one seed, as `sampling.uniforms` has them, for as many tokens as are asked for."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._columns: dict[int, np.ndarray] = {}

    def __call__(self, number: int, first: int, count: int) -> np.ndarray:
        """Return draws first to first + count of a piece, float32 [count]."""
        column = self._columns.get(number, np.zeros(0, np.float32))
        if len(column) < first + count:
            column = uniforms(self._seed, max(1024, 2 * (first + count)), 1, number)[:, 0]
            self._columns[number] = column
        return column[first : first + count]


def draw_events(
    model: TokenModel,
    pieces: Sequence[ArrivalPiece],
    spec: SamplingSpec,
    draws: Draws,
    grammar: ArrivalGrammar,
    on_events: Callable[[int], None] = lambda _: None,
    at_once: int | None = None,
) -> None:
    """Draw the events of some pieces, which grow in place, in one session with a row for each.

    Events are drawn several at a time; those behind a place where a control is due are taken back. Draws are indexed
    by drawn token, so that the result is that of a loop over single events.

    Args:
        model: model of arrival-time tokens.
        pieces: pieces with what they are given.
        spec: settings of the sampler.
        draws: uniform draws by number of the piece, first token and count.
        grammar: of the model's vocabulary.
        on_events: called with the number of events that all pieces have gained.
        at_once: events drawn between two looks at them; None chooses.
    """
    most = (model.n_positions - 1) // EVENT_TOKENS
    session = model.start_generation(len(pieces), 1 + EVENT_TOKENS * most, spec)
    session.extend(np.array([[piece.flag] for piece in pieces], np.int32))
    while not all(piece.done for piece in pieces):
        _show_pieces(session, pieces, most)
        waiting = [piece for piece in pieces if not piece.done]
        count = min(at_once or _choose_block(waiting), *(most - piece.kept for piece in waiting))
        count = min(count, max(piece.given.most_events - len(piece.drawn) for piece in waiting))
        found = session.draw(_stack_draws(pieces, draws, count), _grammar_of(pieces, grammar))
        gained = [_take_events(piece, row, most) for piece, row in zip(pieces, found, strict=True) if not piece.done]
        on_events(sum(gained))


def _choose_block(pieces: Sequence[ArrivalPiece]) -> int:
    """Return the number of events to draw at once: as many as come, on the average, before a control is due."""
    return max(1, round(min(_MOST_AT_ONCE, *(piece.events_to_control() for piece in pieces))))


def _show_pieces(session: GenerationSession, pieces: Sequence[ArrivalPiece], most: int) -> None:
    """Take back what was drawn in vain, and show each piece its due controls, or a later context."""
    for piece in pieces:
        if piece.done:
            piece.kept = 0
        else:
            piece.show_controls()
            piece.begin_context(most)
    lengths = np.array([piece.length for piece in pieces])
    if (lengths != session.lengths).any():
        session.rewind(lengths)
    tokens = [[] if piece.done else piece.tokens_to_show() for piece in pieces]
    counts = np.array([len(row) for row in tokens])
    if counts.any():
        table = np.zeros((len(pieces), counts.max()), np.int32)
        for row, new in zip(table, tokens, strict=True):
            row[: len(new)] = new
        session.extend(table, counts)


def _stack_draws(pieces: Sequence[ArrivalPiece], draws: Draws, events: int) -> np.ndarray:
    """Return the draws of the next events, float32 [3 events, B]; those of finished pieces are 0."""
    count = EVENT_TOKENS * events
    columns = [
        np.zeros(count, np.float32) if piece.done else draws(piece.number, EVENT_TOKENS * len(piece.drawn), count)
        for piece in pieces
    ]
    return np.stack(columns, axis=1)


def _grammar_of(pieces: Sequence[ArrivalPiece], grammar: ArrivalGrammar) -> Grammar:
    return grammar.at([piece.earliest for piece in pieces], [piece.allowed_instruments() for piece in pieces])


def _take_events(piece: ArrivalPiece, tokens: np.ndarray, most: int) -> int:
    """Add drawn events to a piece up to the first after which something must be shown; return their number."""
    gained, full = 0, piece.is_full_band()
    for step, duration, note in tokens.reshape(-1, EVENT_TOKENS).tolist():
        if not piece.add_drawn((step + piece.origin, duration, note)):
            break
        gained += 1
        if piece.done or piece.is_stale(most) or piece.is_full_band() != full:
            break
    return gained
