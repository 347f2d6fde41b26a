"""`fuse` for the symbolic family, and what adapters of both kinds add up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from musiclora.adapters import Adapter
from musiclora.conversion.compare import LOGIT_TOLERANCE, UNCOMPARED, LogitComparison, compare_logits
from musiclora.conversion.merged import MergedAdapters, Rounding
from musiclora.conversion.verify import Converted, companion_files, withdrawn_on_failure
from musiclora.convert.adapters.lora_math import fuse_tensors
from musiclora.convert.files.fingerprint import TOKENIZER_FILES, fingerprint_file
from musiclora.convert.models.gpt2 import read_checkpoint, write_checkpoint
from musiclora.errors import ConvertError
from musiclora.models import BaseModel
from musiclora.progress import Reporter, track_tensors

_TOKENIZER = (
    *TOKENIZER_FILES,
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.json",
)


def fuse_symbolic(
    base: BaseModel,
    adapters: Sequence[Adapter],
    merged: MergedAdapters,
    destination: Path,
    to: str,
    dtype: str | None,
    backend: str,
    allow_base_mismatch: bool,
    out: Reporter,
) -> Converted:
    """Add adapters to a GPT-2 and write one folder; summed in float32, cast once.

    Raises:
        ConvertError: they do not fit, or in float32 the fused model computes something else than base and adapter.
    """
    checkpoint = read_checkpoint(base.path)
    merged.check(checkpoint.config.linear_shapes())
    files, notes = _files(base, adapters, allow_base_mismatch)
    kept = dtype or checkpoint.dtype
    rounding = Rounding(kept, checkpoint.bits)
    with withdrawn_on_failure(destination):
        with track_tensors(out, "fusing", checkpoint.config.tensor_shapes()) as watch:
            tensors = rounding.before(watch(checkpoint.tensors()))
            fused = fuse_tensors(tensors, merged.spec, merged.state, conv1d=True, dora=merged.dora)
            write_checkpoint(destination, checkpoint.config, rounding.after(fused), to, dtype=kept, extra_files=files)
        logits = _compared(base, merged, BaseModel(destination.name, destination, base.licence), backend)
        if kept == "float32":
            # The fused product sums in another order; a wrong or missing update is off by whole units.
            logits.refuse_above(10 * LOGIT_TOLERANCE, destination)
    notes += rounding.notes() + ([UNCOMPARED] if merged.dora else [])
    return Converted(destination, to, None, logits.difference, logits.largest, logits.backend, tuple(notes))


def _compared(base: BaseModel, merged: MergedAdapters, fused: BaseModel, backend: str) -> LogitComparison:
    if merged.dora or merged.spec is None:
        return LogitComparison()
    return compare_logits(base, (merged.spec, merged.state), fused, None, backend)


def _files(
    base: BaseModel, adapters: Sequence[Adapter], allow_base_mismatch: bool
) -> tuple[dict[str, bytes], list[str]]:
    """What goes beside the weights: the base's files, but the tokenizer that the adapters were trained with.

    Raises:
        ConvertError: the adapters were trained with different tokenizers.
    """
    files = companion_files(base.path)
    own = [{n: data for n, data in companion_files(a.path).items() if n in _TOKENIZER} for a in adapters]
    own = [found for found in own if _print(found)]
    if len({_print(found) for found in own}) > 1 and not allow_base_mismatch:
        raise ConvertError("the adapters were trained with different tokenizers; --allow-base-mismatch takes the first")
    if not own or _print(own[0]) == _print(files):
        return files, []
    rest = {name: data for name, data in files.items() if name not in _TOKENIZER}
    return rest | own[0], ["took the tokenizer of the adapter; the base's is another, or missing"]


def _print(files: Mapping[str, bytes]) -> str:
    """Fingerprint of the tokenizer among files, "" without one."""
    return next((fingerprint_file(files[name]) for name in TOKENIZER_FILES if name in files), "")
