"""GPT-2's part of `fuse`, and of the comparison of adapters: by logits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from musiclora.adapters import Adapter, changes_nothing
from musiclora.conversion.cards import write_fused_record
from musiclora.conversion.compare import (
    FUSED_TOLERANCE,
    AdapterParts,
    OutputComparison,
    compare_fused,
    compare_merged,
)
from musiclora.conversion.merged import MergedAdapters, Rounding, shared_tokenizer
from musiclora.conversion.protocols import CompareAdapters, FuseModel, ModelFusion
from musiclora.conversion.verify import TOKENIZER_PARTS, Converted, companion_files, stored_dtype, tokenizer_fingerprint
from musiclora.convert.files.atomic import atomic_folder
from musiclora.convert.models.gpt2 import read_checkpoint, rows_of, write_checkpoint
from musiclora.families import GPT2
from musiclora.progress import Reporter, track_tensors

if TYPE_CHECKING:
    from musiclora.backends.base import Backend, TokenModel

_BATCH_ROWS, _BATCH_TOKENS = 2, 64


def fuse_gpt2(fusion: ModelFusion, reporter: Reporter) -> Converted:
    """Add adapters to a GPT-2 and write one folder; summed in float32, cast once.

    Raises:
        ConvertError: they do not fit, or the float32 result differs from base and adapter; nothing is written then.
    """
    merged, destination = fusion.merged, fusion.destination
    checkpoint = read_checkpoint(fusion.base.path)
    merged.check(checkpoint.config.linear_shapes())
    files, notes = _choose_files(fusion.base.path, fusion.adapters, fusion.allow_base_mismatch)
    dtype = stored_dtype(fusion.dtype, checkpoint.dtypes, fusion.to) or checkpoint.dtype
    rounding = Rounding(dtype, checkpoint.bits, rows_of=partial(rows_of, layout="mlx"))
    with atomic_folder(destination) as folder:
        with track_tensors(reporter, "fusing", checkpoint.config.tensor_shapes()) as watch:
            tensors = rounding.before(watch(checkpoint.tensors()))
            fused = merged.fuse(tensors, conv1d=True)
            write_checkpoint(
                folder,
                checkpoint.config,
                rounding.after(fused),
                fusion.to,
                dtype=dtype,
                extra_files=files,
                other_settings=checkpoint.other_settings,
            )
        write_fused_record(fusion, folder, GPT2, rounding.arrival)
        parts = merged.as_one(checkpoint.tensors(), conv1d=True)
        found = compare_fused(fusion.base.path, parts, folder, fusion.backend, "logits", _run_logits)
        if dtype == "float32":
            found.refuse_above(FUSED_TOLERANCE, destination)
    notes += rounding.notes()
    if not changes_nothing(fusion.adapters, fusion.base):
        notes += rounding.arrival.notes(dtype)
    return found.add_to(Converted(destination, fusion.to, notes=tuple(notes)))


def compare_gpt2_adapters(base: Path, before: MergedAdapters, after: MergedAdapters, backend: str) -> OutputComparison:
    """Compare the logits of a base with one set of adapters and with another."""
    return compare_merged(base, before, after, backend, "logits", _run_logits, _write_fused)


def _run_logits(backend: Backend, folder: Path, adapter: AdapterParts | None) -> np.ndarray:
    """Compute logits of random tokens, float32 [B, L, V]."""
    from musiclora.backends.base import FAMILIES

    model = cast("TokenModel", backend.load(FAMILIES["symbolic"], folder))
    if adapter:
        model.inject_adapter(*adapter)
    shape = (_BATCH_ROWS, min(_BATCH_TOKENS, model.n_positions))
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, shape, dtype=np.int32)
    mask = np.ones(tokens.shape, bool)
    mask[:, 0] = False
    return model.logits({"tokens": tokens, "loss_mask": mask})


def _write_fused(base: Path, merged: MergedAdapters, folder: Path) -> None:
    checkpoint = read_checkpoint(base)
    tensors = merged.fuse(checkpoint.tensors(), conv1d=True)
    write_checkpoint(folder, checkpoint.config, tensors, "hf")


def _choose_files(
    base: Path, adapters: Sequence[Adapter], allow_base_mismatch: bool
) -> tuple[dict[str, bytes], list[str]]:
    """Collect the base's companion files, but the tokenizer that the adapters were trained with.

    Raises:
        ConvertError: the adapters were trained with different tokenizers.
    """
    files = companion_files(base)
    own = shared_tokenizer(
        adapters, allow_mismatch=allow_base_mismatch, remedy="; --allow-base-mismatch takes the first"
    )
    if not own or tokenizer_fingerprint(own) == tokenizer_fingerprint(files):
        return files, []
    rest = {name: data for name, data in files.items() if name not in TOKENIZER_PARTS}
    return rest | own, ["took the tokenizer of the adapter; the base's is another, or missing"]


if TYPE_CHECKING:
    _fuse: FuseModel = fuse_gpt2
    _compare: CompareAdapters = compare_gpt2_adapters
