"""GPT-2's part of `fuse`, and of the comparison of adapters: by logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from musiclora.adapters import Adapter
from musiclora.conversion.compare import (
    FUSED_TOLERANCE,
    UNCOMPARED,
    AdapterParts,
    OutputComparison,
    compare_fused,
    compare_merged,
)
from musiclora.conversion.merged import MergedAdapters, Rounding
from musiclora.conversion.protocols import CompareAdapters, FuseModel, ModelFusion
from musiclora.conversion.verify import Converted, companion_files
from musiclora.convert.files.atomic import atomic_folder
from musiclora.convert.files.fingerprint import TOKENIZER_FILES, fingerprint_file
from musiclora.convert.models.gpt2 import read_checkpoint, write_checkpoint
from musiclora.errors import ConvertError
from musiclora.progress import Reporter, track_tensors

if TYPE_CHECKING:
    from musiclora.backends.base import Backend, TokenModel

_BATCH_ROWS, _BATCH_TOKENS = 2, 64
_TOKENIZER_FILES = (
    *TOKENIZER_FILES,
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.json",
)


def fuse_gpt2(fusion: ModelFusion, reporter: Reporter) -> Converted:
    """Add adapters to a GPT-2 and write one folder; summed in float32, cast once.

    Raises:
        ConvertError: they do not fit, or the float32 result differs from base and adapter; nothing is written then.
    """
    merged, destination = fusion.merged, fusion.destination
    checkpoint = read_checkpoint(fusion.base.path)
    merged.check(checkpoint.config.linear_shapes())
    files, notes = _choose_files(fusion.base.path, fusion.adapters, fusion.allow_base_mismatch)
    dtype = fusion.dtype or checkpoint.dtype
    rounding = Rounding(dtype, checkpoint.bits)
    with atomic_folder(destination) as folder:
        with track_tensors(reporter, "fusing", checkpoint.config.tensor_shapes()) as watch:
            tensors = rounding.before(watch(checkpoint.tensors()))
            fused = merged.fuse(tensors, conv1d=True)
            write_checkpoint(
                folder, checkpoint.config, rounding.after(fused), fusion.to, dtype=dtype, extra_files=files
            )
        found = compare_fused(fusion.base.path, merged, folder, fusion.backend, "logits", _run_logits)
        if dtype == "float32":
            found.refuse_above(FUSED_TOLERANCE, destination)
    notes += rounding.notes() + ([UNCOMPARED] if merged.dora else [])
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
    own = [{n: data for n, data in companion_files(a.path).items() if n in _TOKENIZER_FILES} for a in adapters]
    own = [found for found in own if _tokenizer_fingerprint(found)]
    if len({_tokenizer_fingerprint(found) for found in own}) > 1 and not allow_base_mismatch:
        raise ConvertError("the adapters were trained with different tokenizers; --allow-base-mismatch takes the first")
    if not own or _tokenizer_fingerprint(own[0]) == _tokenizer_fingerprint(files):
        return files, []
    rest = {name: data for name, data in files.items() if name not in _TOKENIZER_FILES}
    return rest | own[0], ["took the tokenizer of the adapter; the base's is another, or missing"]


def _tokenizer_fingerprint(files: Mapping[str, bytes]) -> str:
    """Hash the tokenizer among files; "" without one."""
    return next((fingerprint_file(files[name]) for name in TOKENIZER_FILES if name in files), "")


if TYPE_CHECKING:
    _fuse: FuseModel = fuse_gpt2
    _compare: CompareAdapters = compare_gpt2_adapters
