"""Several adapters merged into one update, and the rounding of a fused checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from musiclora.adapters import Adapter, combine_adapters
from musiclora.conversion.verify import largest_change
from musiclora.convert.adapters.lora import LoraSpec, check_state, state_shapes
from musiclora.convert.adapters.lora_math import Dora
from musiclora.convert.files.safetensors_file import Arrays, cast_tensor, dtype_named
from musiclora.convert.models.gpt2 import rows_of
from musiclora.convert.models.quantise import group_size, round_matrix


@dataclass(frozen=True)
class MergedAdapters:
    """Several adapters as what is added to a base.

    Attributes:
        spec, state: the sum of the plain LoRA adapters; None and empty where there are none.
        dora: the DoRA adapters, whose change depends on the base's weights.
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
                self._lost += _square(cast_tensor(name, array, kept).astype(np.float32) - array)
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


def _step(rows: np.ndarray, bits: int) -> float:
    """Largest change of a value by quantising; 0 where the matrix would stay as it is."""
    return largest_change(round_matrix(rows, bits, np.dtype(np.float32)), rows) if group_size(rows.shape) else 0.0


def _square(array: np.ndarray) -> float:
    return float(np.square(array, dtype=np.float64).sum())
