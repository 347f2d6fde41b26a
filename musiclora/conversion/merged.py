"""Sum of several adapters, and the rounding error of a fused checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from musiclora.adapters import Adapter, find_adapter, parse_adapter
from musiclora.conversion.update_arrival import UpdateArrival
from musiclora.conversion.verify import (
    TOKENIZER_PARTS,
    companion_files,
    describe_zeros,
    largest_change,
    tokenizer_fingerprint,
    zeros_made,
)
from musiclora.convert.adapters.combine import combine_adapters
from musiclora.convert.adapters.combine_dora import WholePart, combine_with_dora
from musiclora.convert.adapters.lora import LoraSpec, check_state, join_magnitudes, state_modules, state_shapes
from musiclora.convert.adapters.lora_math import Dora, fuse_tensors
from musiclora.convert.files.safetensors_file import Arrays, Dtype, Tensors, cast_tensor, dtype_named
from musiclora.convert.models.quantise import group_size, round_matrix
from musiclora.errors import ConvertError, join_problems
from musiclora.families import FamilySpec, spec_of_modules


def find_adapters(texts: Sequence[str], *, option: str = "--adapter-dir") -> tuple[FamilySpec, list[Adapter]]:
    """Read adapters given as PATH or PATH:STRENGTH, and find the record of their architecture.

    Args:
        texts: at least one adapter.
        option: what the user gave them as, for messages; "" for arguments.

    Raises:
        ConvertError: adapters of different architectures, or of one that is not known here.
    """
    found = [find_adapter(*parse_adapter(text, option), option=option) for text in texts]
    specs = list(dict.fromkeys(spec_of_modules(state_modules(a.state), str(a.path)) for a in found))
    if len(specs) > 1:
        names = ", ".join(f"{spec.family} ({spec.architecture})" for spec in specs)
        raise ConvertError(f"these adapters are for different families: {names}")
    return specs[0], found


def shared_tokenizer(
    adapters: Sequence[Adapter], *, allow_mismatch: bool = False, remedy: str = ""
) -> dict[str, bytes]:
    """Read the tokenizer files that adapters were trained with; empty where none has one.

    Args:
        adapters: the adapters.
        allow_mismatch: take the first tokenizer where they differ.
        remedy: what to do then, for the message.

    Raises:
        ConvertError: the tokenizers differ.
    """
    read = {a.path: {n: data for n, data in companion_files(a.path).items() if n in TOKENIZER_PARTS} for a in adapters}
    own = {path: files for path, files in read.items() if tokenizer_fingerprint(files)}
    firsts = {tokenizer_fingerprint(files): path for path, files in reversed(own.items())}
    if len(firsts) > 1 and not allow_mismatch:
        names = join_problems([str(path) for path in reversed(firsts.values())])
        raise ConvertError(f"the adapters were trained with different tokenizers ({names}){remedy}")
    return next(iter(own.values()), {})


@dataclass(frozen=True)
class MergedAdapters:
    """Update of a base by several adapters.

    Attributes:
        spec, state: sum of the plain LoRA adapters; None and empty where there are none.
        dora: DoRA adapters, whose change depends on the base's weights.
    """

    spec: LoraSpec | None
    state: Arrays
    dora: tuple[Dora, ...] = ()

    @classmethod
    def of(cls, adapters: Sequence[Adapter]) -> MergedAdapters:
        """Add up adapters with their strengths.

        Raises:
            ConvertError: a module has different shapes in two of them.
        """
        plain = [(a.spec, a.state, a.strength) for a in adapters if not a.magnitudes]
        dora = tuple(Dora(a.spec, a.state, a.magnitudes, a.strength) for a in adapters if a.magnitudes)
        spec, state = combine_adapters(plain) if plain else (None, {})
        return cls(spec, state, dora)

    def fuse(self, tensors: Tensors, *, conv1d: bool) -> Iterator[tuple[str, np.ndarray]]:
        """Add the update to a checkpoint's tensors as they stream by; see `fuse_tensors`."""
        return fuse_tensors(tensors, self.spec, self.state, conv1d=conv1d, dora=self.dora)

    def as_one(self, tensors: Tensors, *, conv1d: bool) -> tuple[LoraSpec, Arrays]:
        """Express the update as one adapter, as a backend computes it; see `combine_with_dora`."""
        if not self.dora and self.spec is not None:
            return self.spec, self.state
        parts = [WholePart(p.spec, p.state, p.magnitudes, p.strength) for p in self.dora]
        plain = [WholePart(self.spec, self.state, {}, 1.0)] if self.spec else []
        return combine_with_dora(parts + plain, tensors, conv1d=conv1d)

    def check(self, linear_shapes: Mapping[str, tuple[int, int]]) -> None:
        """Compare with the modules of a base.

        Raises:
            ConfigError: a target that matches nothing.
            ConvertError: arrays that do not fit.
        """
        parts = [(p.spec, join_magnitudes(p.state, p.magnitudes)) for p in self.dora] + (
            [(self.spec, self.state)] if self.spec else []
        )
        for spec, state in parts:
            check_state(state, state_shapes(spec, linear_shapes), "the adapters")


@dataclass
class Rounding:
    """Rounding error of fused weights, accumulated while they stream by.

    Attributes:
        dtype: stored dtype of the fused weights; where they have several, the one that rounds most.
        kinds: stored dtype of each weight, where it is not that one.
        rows_of: brings a tensor into the layout whose rows are quantised.
        bits: of the base's quantised matrices; None where there are none.
        arrival: number of weights that the update still changes.
    """

    dtype: str
    bits: int | None = None
    kinds: Mapping[str, Dtype] = field(default_factory=dict)
    rows_of: Callable[[str, np.ndarray], np.ndarray] = lambda name, array: array
    arrival: UpdateArrival = field(default_factory=UpdateArrival)
    _base: np.ndarray = field(default_factory=lambda: np.empty(0))
    _largest_step: float = 0.0
    _zeros: int = 0

    def before(self, tensors: Tensors) -> Iterator[tuple[str, np.ndarray]]:
        """Pass the base's tensors through on their way to fusing."""
        for name, array in tensors:
            self._base = array
            yield name, array

    def after(self, tensors: Tensors) -> Iterator[tuple[str, np.ndarray]]:
        """Pass the fused tensors through and measure how rounding changes them."""
        for name, array in tensors:
            kept = self.kinds.get(name, dtype_named(self.dtype))
            if array is not self._base:
                self.arrival.add(self._base, array, kept)
            if array.dtype != kept:
                self._zeros += zeros_made(array, cast_tensor(name, array, kept))
            if array is not self._base and self.bits:
                self._largest_step = max(self._largest_step, _quantisation_step(self.rows_of(name, array), self.bits))
            yield name, array

    def notes(self) -> list[str]:
        """Describe the error; empty where nothing is lost."""
        notes = []
        if self.bits:
            notes.append(
                f"the {self.bits}-bit base was de-quantised and the update added in float32; quantising the result "
                f"again (convert model --quantize {self.bits}) would change an adapted weight by up to "
                f"{self._largest_step:.3g}"
            )
        if self.dtype != "float32":
            share = 100 * self.arrival.error(self.arrival.stored)
            notes.append(
                f"the fused weights are rounded to {self.dtype}, which changes them by "
                f"{share:.{3 if share > 100 else 2}g} % of the update; --dtype float32 keeps it whole"
            )
        return notes + describe_zeros(self._zeros, self.dtype)


def _quantisation_step(rows: np.ndarray, bits: int) -> float:
    """Compute the largest change of a value by quantising; 0 where the matrix would stay as it is."""
    return largest_change(round_matrix(rows, bits, np.dtype(np.float32)), rows) if group_size(rows.shape) else 0.0
