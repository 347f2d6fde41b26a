"""`fuse` for the symbolic family, and what adapters of both kinds add up to."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from musiclora.adapters import combine
from musiclora.convert.adapter import check_state, state_shapes
from musiclora.convert.blend import Dora, fuse_tensors
from musiclora.convert.fingerprint import TOKENIZER_FILES, fingerprint_file
from musiclora.convert.gpt2 import read_checkpoint, rows_of, write_checkpoint
from musiclora.convert.lora import LoraSpec
from musiclora.convert.quantise import group_size, rounded
from musiclora.convert.tensors import cast, dtype_named
from musiclora.errors import ConvertError
from musiclora.models import Adapter, BaseModel
from musiclora.results import Reporter
from musiclora.verification import (
    LOGIT_TOLERANCE,
    Converted,
    Logits,
    beside,
    compare_logits,
    largest_change,
    withdrawn_on_failure,
)
from musiclora.watching import shown

Arrays = Mapping[str, np.ndarray]
UNCOMPARED = "DoRA: the backends compute such an adapter only fused, so there was nothing to compare the outputs with"
_TOKENIZER = (
    *TOKENIZER_FILES,
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.json",
)


@dataclass(frozen=True)
class Merged:
    """Several adapters as what is added to a base.

    Attributes:
        spec, state: the sum of the plain LoRA adapters; None and empty where there are none.
        dora: the DoRA adapters, whose change depends on the base's weights.
    """

    spec: LoraSpec | None
    state: Arrays
    dora: tuple[Dora, ...] = ()

    @classmethod
    def of(cls, adapters: Sequence[Adapter]) -> Merged:
        """Add up adapters with their strengths.

        Raises:
            ConvertError: a module has different shapes in two of them.
        """
        plain = [(a.spec, a.state, a.strength) for a in adapters if not a.magnitudes]
        dora = tuple(Dora(a.spec, a.state, a.magnitudes, a.strength) for a in adapters if a.magnitudes)
        spec, state = combine(plain) if plain else (None, {})
        return cls(spec, state, dora)

    def check(self, linear_shapes: Mapping[str, tuple[int, int]]) -> None:
        """Compare with the modules of a base; raises ConvertError or ConfigError where they do not fit."""
        parts = [(part.spec, part.state) for part in self.dora] + ([(self.spec, self.state)] if self.spec else [])
        for spec, state in parts:
            check_state(state, state_shapes(spec, linear_shapes), "the adapters")


@dataclass
class Rounding:
    """What is lost where fused weights are stored in fewer bits, gathered while they stream by.

    Attributes:
        dtype: what the fused weights are stored in.
        bits: of the base's quantised matrices, None where there are none.
    """

    dtype: str
    bits: int | None = None
    _base: np.ndarray = field(default_factory=lambda: np.empty(0))
    _lost: float = 0.0
    _update: float = 0.0
    _step: float = 0.0

    def before(self, tensors: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
        for name, array in tensors:
            self._base = array
            yield name, array

    def after(self, tensors: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
        kept = dtype_named(self.dtype)
        for name, array in tensors:
            if array is not self._base and self.dtype != "float32":
                self._update += _square(array - self._base.astype(np.float32))
                self._lost += _square(cast(name, array, kept).astype(np.float32) - array)
            if array is not self._base and self.bits:
                self._step = max(self._step, _step(rows_of(name, array, "mlx"), self.bits))
            yield name, array

    def notes(self) -> list[str]:
        """In words; empty where nothing is lost."""
        notes = []
        if self.bits:
            notes.append(
                f"the {self.bits}-bit base was de-quantised and the update added in float32; quantising the result "
                f"again (convert model --quantize {self.bits}) would change an adapted weight by up to {self._step:.3g}"
            )
        if self.dtype != "float32":
            share = (self._lost / self._update) ** 0.5 if self._update else 0.0
            notes.append(
                f"the fused weights are rounded to {self.dtype}, which changes them by {100 * share:.2g} % of the "
                "update; --dtype float32 keeps it whole"
            )
        return notes


def fuse_symbolic(
    base: BaseModel,
    adapters: Sequence[Adapter],
    merged: Merged,
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
        with shown(out, "fusing", checkpoint.config.tensor_shapes()) as watch:
            tensors = rounding.before(watch(checkpoint.tensors()))
            fused = fuse_tensors(tensors, merged.spec, merged.state, conv1d=True, dora=merged.dora)
            write_checkpoint(destination, checkpoint.config, rounding.after(fused), to, dtype=kept, extra_files=files)
        logits = _compared(base, merged, BaseModel(destination.name, destination, base.licence), backend)
        if kept == "float32":
            # The fused product sums in another order; a wrong or missing update is off by whole units.
            logits.refuse_above(10 * LOGIT_TOLERANCE, destination)
    notes += rounding.notes() + ([UNCOMPARED] if merged.dora else [])
    return Converted(destination, to, None, logits.difference, logits.largest, logits.backend, tuple(notes))


def _compared(base: BaseModel, merged: Merged, fused: BaseModel, backend: str) -> Logits:
    if merged.dora or merged.spec is None:
        return Logits()
    return compare_logits(base, (merged.spec, merged.state), fused, None, backend)


def compare_fused(base: BaseModel, first: Merged, second: Merged, backend: str) -> Logits:
    """Logits of a base with one set of adapters and with another, each fused in float32 in a temporary folder."""
    checkpoint = read_checkpoint(base.path)
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for name, merged in (("first", first), ("second", second)):
            tensors = fuse_tensors(checkpoint.tensors(), merged.spec, merged.state, conv1d=True, dora=merged.dora)
            write_checkpoint(Path(folder) / name, checkpoint.config, tensors, "hf")
            found.append(BaseModel(name, Path(folder) / name, base.licence))
        return compare_logits(found[0], None, found[1], None, backend)


def _files(
    base: BaseModel, adapters: Sequence[Adapter], allow_base_mismatch: bool
) -> tuple[dict[str, bytes], list[str]]:
    """What goes beside the weights: the base's files, but the tokenizer that the adapters were trained with.

    Raises:
        ConvertError: the adapters were trained with different tokenizers.
    """
    files = beside(base.path)
    own = [{n: data for n, data in beside(a.path).items() if n in _TOKENIZER} for a in adapters]
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


def _step(rows: np.ndarray, bits: int) -> float:
    """Largest change of a value by quantising; 0 where the matrix would stay as it is."""
    return largest_change(rounded(rows, bits, np.dtype(np.float32)), rows) if group_size(rows.shape) else 0.0


def _square(array: np.ndarray) -> float:
    return float(np.square(array, dtype=np.float64).sum())
