"""Generation with MidiTok's tokens: prompts, batches, a sliding context for long pieces, endings on a bar line."""

from __future__ import annotations

import dataclasses
import functools
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from musiclora.backends.base import TokenModel
from musiclora.errors import DataError
from musiclora.progress import OnProgress
from musiclora.sampling import OpenKeys, uniforms
from musiclora.symbolic.decoding.grammar import GrammarInfo, grammar_for
from musiclora.symbolic.decoding.grammar.onset_keys import count_notes_at_once, with_limit
from musiclora.symbolic.decoding.grammar.program_in_force import resume
from musiclora.symbolic.decoding.grammar.restrict import restrict_programs
from musiclora.symbolic.decoding.loudness import LOUDNESS_OF_SONGS, set_loudness
from musiclora.symbolic.decoding.prompt import Prompt, describe_context, encode_prompt
from musiclora.symbolic.decoding.redraw import redraw_copies, redraw_seed
from musiclora.symbolic.decoding.request import GeneratedPiece, GenerationRequest
from musiclora.symbolic.decoding.to_score import (
    clean_score,
    count_notes,
    decode_tokens,
    describe_channels,
    drop_last_part_of_bar,
    keep_metre_and_tempo,
)
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer

BATCH_PIECES = 8  # pieces generated at once


@dataclass
class _UnfinishedPiece:
    """Tokens of an unfinished piece without BOS, and the grammar's state after them.

    Attributes:
        number: number in the request, from 0.
        ids: tokens of prompt and continuation.
        state: state of the grammar.
        onset: notes that sound at the latest onset.
        drawn: number of tokens drawn.
        ended: True where the model drew EOS.
        whole: length of the longest prefix of ids after which no note is half written.
        starts: indices into ids where a context may begin: bar lines, or whole notes.
    """

    number: int
    ids: list[int]
    state: int
    onset: OpenKeys
    drawn: int = 0
    ended: bool = False
    whole: int = 0
    starts: list[int] = field(default_factory=list)


def continue_pieces(
    model: TokenModel, tokenizer: MusicTokenizer, request: GenerationRequest, on_progress: OnProgress | None = None
) -> list[GeneratedPiece]:
    """Generate pieces that decode, each ending on a bar line or at the model's EOS.

    Args:
        model: model with its adapter injected, if any.
        tokenizer: tokenizer of the model.
        request: settings.
        on_progress: called with (tokens done, tokens at most).

    Raises:
        DataError: the prompt or a piece has no note.
    """
    info = _grammar_of(tokenizer)
    given = encode_prompt(tokenizer, info, request.prompt, request.prompt_bars, from_end=request.from_end)
    prompt = given.ids
    info = _bound_onsets(info, request.notes_at_once, prompt)
    if request.instruments is not None:
        info = restrict_programs(info, tokenizer, request.instruments)
    if not prompt and info.bos_id is None:
        prompt = np.flatnonzero(info.allowed(info.start))[:1].tolist()  # a model needs a token to start from
    total, done = request.count * request.most_tokens, 0

    def count_tokens(number: int) -> None:
        nonlocal done
        done += number
        if on_progress is not None:
            on_progress(min(done, total), total)

    pieces = []
    for first in range(0, request.count, BATCH_PIECES):
        numbers = range(first, min(first + BATCH_PIECES, request.count))
        rows = [_UnfinishedPiece(i, [], info.start, OpenKeys(info.keys)) for i in numbers]
        for row in rows:
            _append_tokens(row, prompt, info)
            row.state = int(info.unsounded[row.state])
        seen = _context_of(rows[0], info, model.n_positions)
        if first == 0 and len(prompt) > len(seen):
            context = describe_context(info, len(prompt), seen, model.n_positions)
            given = dataclasses.replace(given, remarks=tuple(dict.fromkeys((*given.remarks, context))))

        def draw_rows(some: list[_UnfinishedPiece], attempt: int, first: int = first, size: int = len(rows)) -> None:
            draw = uniforms(redraw_seed(request.seed, attempt), request.most_tokens, size, first)
            _draw_tokens(model, info, some, request, draw, count_tokens)

        pieces += _finish_rows(tokenizer, info, rows, given, request, draw_rows)
    if on_progress is not None:
        on_progress(total, total)
    return pieces


@functools.lru_cache(maxsize=4)
def _grammar_of(tokenizer: MusicTokenizer) -> GrammarInfo:
    return grammar_for(tokenizer)  # a second, for a tokenizer with programs and metres


def _bound_onsets(info: GrammarInfo, most: int | None, prompt: Sequence[int]) -> GrammarInfo:
    """Bound the notes that begin at once: by the request, but not below the prompt's own."""
    rule = with_limit(info.keys, most)
    shown = count_notes_at_once(rule, [np.array(prompt, int)])
    return dataclasses.replace(info, keys=with_limit(rule, max(rule.limit, shown)))


def _append_tokens(row: _UnfinishedPiece, ids: Sequence[int], info: GrammarInfo) -> None:
    """Append tokens, advance the state and record where contexts may begin."""
    for token in ids:
        if info.opens_bar[token] or (info.whole[row.state] and not info.opens_bar.any()):
            row.starts.append(len(row.ids))
        row.state = info.step(row.state, token)
        row.onset.follow(token)
        row.ids.append(token)
        if info.whole[row.state]:
            row.whole = len(row.ids)


def _draw_tokens(
    model: TokenModel,
    info: GrammarInfo,
    rows: list[_UnfinishedPiece],
    request: GenerationRequest,
    draw: np.ndarray,
    count_tokens: Callable[[int], None],
) -> None:
    """Draw tokens until every row is complete; rows with contexts of equal length share a batch."""
    spec = request.sampling(eos_id=info.eos_id, pad_id=info.pad_id)
    while open_rows := [r for r in rows if not r.ended and r.drawn < request.most_tokens]:
        contexts = [_context_of(row, info, model.n_positions) for row in open_rows]
        size = len(contexts[0])
        together = [
            (r, c) for r, c in zip(open_rows, contexts, strict=True) if len(c) == size and r.drawn == open_rows[0].drawn
        ]
        batch = [row for row, _ in together]
        drawn = batch[0].drawn
        steps = min(request.most_tokens - drawn, model.n_positions - size)
        found = model.generate(
            np.array([c for _, c in together], np.int32),
            spec,
            draw[drawn : drawn + steps, [row.number % BATCH_PIECES for row in batch]],
            info.at([row.state for row in batch], model.vocab_size, [row.onset for row in batch]),
            lambda block: count_tokens(block.size),
        )
        for row, new in zip(batch, found.tolist(), strict=True):
            row.drawn += steps
            if info.eos_id is not None and info.eos_id in new:
                new = new[: new.index(info.eos_id)]
                row.ended = True
            _append_tokens(row, new, info)


def _finish_rows(
    tokenizer: MusicTokenizer,
    info: GrammarInfo,
    rows: list[_UnfinishedPiece],
    prompt: Prompt,
    request: GenerationRequest,
    draw_rows: Callable[[list[_UnfinishedPiece], int], None],
) -> list[GeneratedPiece]:
    """Draw and decode rows, and draw those again that copy, from before the copied passage.

    Args:
        tokenizer, info, prompt, request: as for `continue_pieces`.
        rows: rows with the prompt.
        draw_rows: draws the rest of some rows with the random numbers of an attempt.
    """
    draw_rows(rows, 0)
    made = [_decode_piece(tokenizer, info, row, prompt, request) for row in rows]

    def draw_again(onsets: Mapping[int, float], attempt: int) -> Mapping[int, GeneratedPiece]:
        for i, onset in onsets.items():
            rows[i] = _cut_row(tokenizer, info, rows[i], len(prompt.ids), onset)
        draw_rows([rows[i] for i in onsets], attempt)
        decoded = {i: _decode_piece(tokenizer, info, rows[i], prompt, request) for i in onsets}
        return {i: dataclasses.replace(piece, redraws=attempt) for i, piece in decoded.items()}

    return redraw_copies(made, request.redraw, draw_again)


def _cut_row(
    tokenizer: MusicTokenizer, info: GrammarInfo, row: _UnfinishedPiece, prompt: int, onset: float
) -> _UnfinishedPiece:
    """Return a row without its notes from an onset on.

    Args:
        tokenizer, info: of the model.
        row: finished row.
        prompt: number of tokens of the prompt, which is kept.
        onset: in quarter notes.
    """

    def count_later(stop: int) -> int:
        score = decode_tokens(tokenizer.inner, info.base_tokens(row.ids[:stop])) if stop else None
        line = onset * score.ticks_per_quarter if score else 0
        return sum(note.time >= line for track in score.tracks for note in track.notes) if score else 0

    stops = [prompt, *(start for start in row.starts if start > prompt)]
    given = count_later(prompt)  # rises with the stop, whatever the order of the tokens
    kept = stops[max(0, bisect_right(stops, given, key=count_later) - 1)]
    cut = _UnfinishedPiece(row.number, [], info.start, OpenKeys(info.keys), drawn=kept - prompt)
    _append_tokens(cut, row.ids[:kept], info)
    if kept == prompt:
        cut.state = int(info.unsounded[cut.state])
    return cut


def _context_of(row: _UnfinishedPiece, info: GrammarInfo, n_positions: int) -> list[int]:
    """Return the model's context: the whole piece, or its last bars up to about half of the context length.

    As in training, positions count from the context's start and BOS comes first where there is one.
    """
    bos = [] if info.bos_id is None else [info.bos_id]
    if len(row.ids) + len(bos) < n_positions:
        return [*bos, *row.ids]
    wanted = len(row.ids) - (n_positions // 2 - len(bos))
    # the first start that leaves at most half; a bar longer than that is taken whole, or cut where it must be
    later = [s for s in row.starts if s >= wanted]
    within = [s for s in row.starts if len(row.ids) - s + len(bos) < n_positions]
    start = later[0] if later else within[-1] if within else wanted
    if info.opens_bar[row.ids[start]] and not info.opens_with_bar() and len(info.tokens[row.ids[start]]) == 1:
        start += 1  # where pieces begin without a bar token, so do contexts
    context = [*bos, *resume(info, row.ids, start)]
    return context if len(context) < n_positions else [*bos, *row.ids[start:]]


def _decode_piece(
    tokenizer: MusicTokenizer, info: GrammarInfo, row: _UnfinishedPiece, prompt: Prompt, request: GenerationRequest
) -> GeneratedPiece:
    """Decode a row up to its last bar line, or to its last whole note if no new note comes before that line."""
    inner = tokenizer.inner
    prompt_notes = count_notes(inner, info.base_tokens(row.ids[: len(prompt.ids)]))
    tokens, cut = info.base_tokens(row.ids[: row.whole]), False
    if not row.ended:
        everything = info.base_tokens(row.ids)
        lines = [i for i, t in enumerate(everything) if t.startswith("Bar_") and t != "Bar_End"]
        if lines and count_notes(inner, everything[: lines[-1]]) > prompt_notes:
            tokens, cut = everything[: lines[-1]], True
    score = decode_tokens(inner, tokens)
    if prompt.score is not None:
        keep_metre_and_tempo(score, prompt.score, tokenizer)
        if cut and not tokenizer.metres_in_tokens:
            drop_last_part_of_bar(score, prompt_notes)
    if not score.note_num():
        raise DataError(
            f"not one note in {request.most_tokens} tokens; raise --max-new-tokens, or try another --seed "
            "or --temperature"
        )
    clean_score(score, prompt.score, cut)
    remarks = [*prompt.remarks, *describe_channels(score)]
    if request.loudness is not None and not tokenizer.holds.velocities:
        set_loudness(score, request.loudness)
        remarks.append(LOUDNESS_OF_SONGS)
    shown = decode_tokens(inner, info.base_tokens(row.ids[: len(prompt.ids)])) if prompt.score is not None else None
    return GeneratedPiece(
        row.number + 1, score, row.ids, prompt_notes, int(score.note_num()), row.ended, tuple(remarks), given=shown
    )
