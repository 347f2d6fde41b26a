"""Symbolic part of `musiclora evaluate`: loss, perplexity and bits per note over a folder of music."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from musiclora.adapters import training_songs
from musiclora.errors import ConfigError, DataError
from musiclora.evaluation.scores import pick, token_gain, token_score, total_loss
from musiclora.evaluation.verdict import BaseCheck, Evaluation
from musiclora.progress import Reporter
from musiclora.symbolic.dataset.pieces import load_pieces
from musiclora.symbolic.dataset.songs import describe_windows
from musiclora.symbolic.dataset.splits import cluster_pieces
from musiclora.symbolic.instrument_losses import score_songs
from musiclora.symbolic.model import open_model
from musiclora.symbolic.reading.health import describe_skipped
from musiclora.symbolic.task import chance_text

LEAST_TOKENS = 8  # of a window, as in training


def evaluate_songs(
    data_dir: Path,
    model: str | None = None,
    adapters: Sequence[str] = (),
    backend: str = "auto",
    *,
    tokenizer: str | None = None,
    max_seq_len: int | None = None,
    allow_base_mismatch: bool = False,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Score every song of a folder, without augmented copies.

    Args:
        data_dir: folder of music, one file, or a token cache.
        model: base model, or None for the one that the adapters record.
        adapters: `PATH` or `PATH:STRENGTH`, any number; with adapters the base is scored too.
        backend: `auto`, `mlx` or `torch`.
        tokenizer: overrides the model's own.
        max_seq_len: longest window in tokens; None is the model's context length.
        allow_base_mismatch: accept an adapter of another base.
        workers: child processes that read music; None: one for each core, at most eight.
        reporter: shows progress.

    Raises:
        MusicLoraError: the folder, the model or the adapters do not fit.
    """
    if max_seq_len is not None and max_seq_len < LEAST_TOKENS:
        raise ConfigError(f"--max-seq-len is {max_seq_len}; it must be at least {LEAST_TOKENS}")
    out = reporter or Reporter()
    opened = open_model(model, adapters, backend, tokenizer=tokenizer, allow_base_mismatch=allow_base_mismatch)
    with out.task("reading songs") as update:
        found = load_pieces(data_dir, opened.tokenizer, workers=workers, on_progress=update)
    pieces = [piece for piece in found.pieces if piece.is_original]
    if not pieces:
        raise DataError(f"{data_dir}: holds augmented copies only; score the folder they were made from")
    length = min(max_seq_len or opened.model.n_positions, opened.model.n_positions)
    remarks = [*found.remarks, *describe_skipped(found.health)]
    remarks += describe_windows(pieces, opened.tokenizer, length, opened.model.n_positions)
    notes = [piece.notes for piece in pieces]
    with out.task("scoring") as update:
        scored = score_songs(opened.model, pieces, opened.tokenizer, length, update)
    sums, base, difference = scored.sums, None, None
    base_losses, seen = scored, training_songs(opened.adapters)
    clusters = cluster_pieces(pieces)
    known = {cluster for cluster, piece in zip(clusters, pieces, strict=True) if piece.fingerprint in seen}
    unseen = [i for i, cluster in enumerate(clusters) if cluster not in known]
    if opened.adapters:
        opened.model.set_adapter(False)
        with out.task("scoring the base") as update:
            base_losses = score_songs(opened.model, pieces, opened.tokenizer, length, update)
        judged = unseen or list(range(len(pieces)))
        before = base_losses.sums
        base = token_score(total_loss(before), sum(notes))
        difference = token_gain(pick(before, judged), pick(sums, judged), pick(notes, judged), pick(clusters, judged))
    check = BaseCheck(total_loss(base_losses.sums).mean, math.log(opened.model.vocab_size))
    remarks += [] if check.is_known else [f"warning: {chance_text(opened.base.name, check)}"]
    return Evaluation(
        opened.backend,
        token_score(total_loss(sums), sum(notes)),
        base,
        difference,
        len(pieces),
        (*opened.notes, *remarks),
        check,
        len(pieces) - len(unseen),
        by_instrument=scored.by_instrument,
        base_by_instrument=base_losses.by_instrument if opened.adapters else {},
    )
