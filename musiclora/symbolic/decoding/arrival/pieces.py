"""Generation with arrival-time tokens: free pieces, continuations, accompaniments, filled gaps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from musiclora.backends.base import TokenModel
from musiclora.errors import DataError
from musiclora.progress import OnProgress
from musiclora.symbolic.decoding.arrival.context import ArrivalPiece
from musiclora.symbolic.decoding.arrival.draw import UniformDraws, draw_events
from musiclora.symbolic.decoding.arrival.grammar import ArrivalGrammar
from musiclora.symbolic.decoding.arrival.plan import ArrivalPlan, plan_arrival
from musiclora.symbolic.decoding.arrival.score import build_score
from musiclora.symbolic.decoding.clock import Clock
from musiclora.symbolic.decoding.loudness import DEFAULT_LOUDNESS, LOUDNESS_OF_SONGS, Loudness
from musiclora.symbolic.decoding.redraw import redraw_copies, redraw_seed
from musiclora.symbolic.decoding.request import GeneratedPiece, GenerationRequest
from musiclora.symbolic.decoding.to_score import describe_channels
from musiclora.symbolic.tokens.arrival import EVENT_TOKENS, REST, SEPARATOR, STEPS_PER_SECOND

BATCH_PIECES = 8  # pieces generated at once
_DEFAULT_TOP_K = 0  # the tokens are a few large blocks, of which a nucleus is taken


def generate_arrival_pieces(
    model: TokenModel, request: GenerationRequest, on_progress: OnProgress | None = None
) -> list[GeneratedPiece]:
    """Generate pieces with a model of arrival-time tokens; see `pieces.generate_pieces`."""
    plan = plan_arrival(request, (model.n_positions - 1) // EVENT_TOKENS)
    spec = request.sampling(_DEFAULT_TOP_K, pad_id=SEPARATOR)
    grammar = ArrivalGrammar(model.vocab_size)
    draws = UniformDraws(request.seed)
    made = []
    for first in range(0, request.count, BATCH_PIECES):
        numbers = range(first, min(first + BATCH_PIECES, request.count))
        pieces = [ArrivalPiece(number, plan.given) for number in numbers]
        report = _progress_of(plan, pieces, first, request.count, on_progress)
        draw_events(model, pieces, spec, draws, grammar, report)
        finished = [_finish_piece(plan, piece, request) for piece in pieces]
        made += _without_copies(model, request, plan, pieces, finished)
    if on_progress is not None:
        on_progress(1, 1)
    return made


def _without_copies(
    model: TokenModel,
    request: GenerationRequest,
    plan: ArrivalPlan,
    pieces: list[ArrivalPiece],
    made: list[GeneratedPiece],
) -> list[GeneratedPiece]:
    """Draw pieces again that copy, from before the copied passage."""
    spec, grammar = request.sampling(_DEFAULT_TOP_K, pad_id=SEPARATOR), ArrivalGrammar(model.vocab_size)

    def draw_again(onsets: Mapping[int, float], attempt: int) -> Mapping[int, GeneratedPiece]:
        for i, onset in onsets.items():
            clock, quarter = Clock(made[i].score), int(made[i].score.ticks_per_quarter)
            pieces[i] = _cut_piece(pieces[i], round(float(clock.seconds(onset * quarter)) * STEPS_PER_SECOND))
        draw_events(model, [pieces[i] for i in onsets], spec, UniformDraws(redraw_seed(request.seed, attempt)), grammar)
        return {i: dataclasses.replace(_finish_piece(plan, pieces[i], request), redraws=attempt) for i in onsets}

    return redraw_copies(made, request.redraw, draw_again)


def _cut_piece(piece: ArrivalPiece, step: int) -> ArrivalPiece:
    """Return a piece without what was drawn from a step on."""
    cut = ArrivalPiece(piece.number, piece.given)
    for event in piece.drawn:
        if event[0] >= step:
            break
        cut.show_controls()
        cut.add_drawn(event)
    cut.kept = 0  # a new session has been shown nothing
    return cut


def _progress_of(
    plan: ArrivalPlan, pieces: list[ArrivalPiece], before: int, count: int, on_progress: OnProgress | None
) -> Callable[[int], None]:
    """Build the function that reports how far the pieces are: in time where their end is known, else in tokens."""
    given = plan.given

    def position(piece: ArrivalPiece) -> int:
        if given.stop is None:
            return EVENT_TOKENS * len(piece.drawn)
        return given.stop - given.start if piece.done else min(given.stop, piece.latest) - given.start

    each = EVENT_TOKENS * given.most_events if given.stop is None else max(1, given.stop - given.start)

    def report(events: int) -> None:
        if on_progress is not None and events:
            on_progress(before * each + sum(max(0, position(piece)) for piece in pieces), count * each)

    return report


def _finish_piece(plan: ArrivalPlan, piece: ArrivalPiece, request: GenerationRequest) -> GeneratedPiece:
    """Build the piece's score and say how it ends."""
    drawn = np.array(piece.drawn, np.int64).reshape(-1, EVENT_TOKENS)
    loudness = request.loudness or Loudness()
    score, new, cut = build_score(plan, drawn, loudness, limited=piece.limited)
    notes = int(score.note_num())
    if not notes:
        raise DataError(
            f"not one note in {request.most_tokens} tokens; raise --max-new-tokens, or try another --seed "
            "or --temperature"
        )
    remarks = list(plan.remarks)
    if plan.end and not new:
        remarks.append(f"piece {piece.number + 1}: the model wrote no note; try another --seed or --temperature")
    elif plan.end and piece.limited:
        remarks.append(
            f"piece {piece.number + 1}: the new notes end at {piece.latest / STEPS_PER_SECOND:.0f} s, where "
            "--max-new-tokens is reached"
        )
    remarks += describe_channels(score)
    if new:
        remarks.append(DEFAULT_LOUDNESS if request.loudness is None else LOUDNESS_OF_SONGS)
    prompt = plan.given.prompt
    ids = [*prompt[prompt[:, 2] != REST].ravel().tolist(), *drawn.ravel().tolist()]
    ending = plan.end or ("" if cut else "cut after a note")
    return GeneratedPiece(piece.number + 1, score, ids, notes - new, notes, False, tuple(remarks), ending, plan.score)
