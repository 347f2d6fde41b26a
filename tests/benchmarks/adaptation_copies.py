"""Copies of the adaptation benchmark: how much new pieces share with the training songs, beside unseen songs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from adaptation_runs import Bench, Recipe

from musiclora.evaluation.copies.meter import CopyMeter
from musiclora.evaluation.copies.notes import NoteList
from musiclora.symbolic.copying import notes_of
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.decoding.pieces import generate_pieces
from musiclora.symbolic.decoding.request import GenerationRequest

SAMPLES, SAMPLE_TOKENS = 50, 500


def measure_copies(bench: Bench, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Train a recipe, write new pieces, and measure them against its songs.

    Returns:
        `copied`: pieces whose longest match passes the meter's threshold, and `unseen_copied` of the songs that are
        reported, of `samples` and `unseen`; medians and largest values of the longest match in notes, without repeats,
        and means of the share of notes in matches.
    """
    session, _ = bench.train(recipe, seed)
    request = GenerationRequest(count=SAMPLES, max_new_tokens=SAMPLE_TOKENS, seed=seed)
    pieces = generate_pieces(session.model, bench.tokenizer, request)
    drawn = bench.corpus.draw(recipe.songs, seed)
    meter = CopyMeter.from_songs(_decode(bench, drawn), _decode(bench, bench.corpus.report))
    written = [meter.measure(notes_of(f"{piece.number}", piece.score)) for piece in pieces]
    unseen = [meter.measure(notes) for notes in _decode(bench, bench.corpus.report)]
    found: dict[str, Any] = {"samples": len(written), "unseen": len(unseen), "threshold": meter.threshold}
    for name, results in (("", written), ("unseen_", unseen)):
        content = [result.content for result in results]
        found[f"{name}copied"] = sum(result.copied for result in results)
        found[f"{name}median_match"], found[f"{name}largest_match"] = float(np.median(content)), max(content)
        found[f"{name}share"] = round(float(np.mean([result.share for result in results])), 4)
    return found


def _decode(bench: Bench, pieces: Sequence[Piece]) -> list[NoteList]:
    return [notes_of(piece.name, bench.tokenizer.decode(piece.tokens)) for piece in pieces]
