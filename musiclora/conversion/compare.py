"""Comparison of two models' outputs on one batch."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from musiclora.conversion.merged import MergedAdapters
from musiclora.conversion.verify import Converted
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.files.safetensors_file import Arrays
from musiclora.convert.files.temporary import scratch_folder
from musiclora.errors import BackendError, ConvertError

if TYPE_CHECKING:
    from musiclora.backends.base import Backend

# Both times max(1, largest value).
SAME_TOLERANCE = 1e-5  # the same arrays: rounding of float32 sums
FUSED_TOLERANCE = 1e-4  # a fused product sums in another order; a wrong update is off by whole units

AdapterParts = tuple[LoraSpec, Arrays]
Quantity = Literal["logits", "velocity"]

_DIFFERENCES: dict[Quantity, str] = {
    "logits": "the logits differ by {0:.3g} (largest {1:.3g}) from those before",
    "velocity": "the velocity differs by {0:.3g} (largest value {1:.3g}) from that before",
}


class RunModel(Protocol):
    """Forward pass of an architecture on a fixed batch."""

    def __call__(self, backend: Backend, folder: Path, adapter: AdapterParts | None, /) -> np.ndarray: ...


class WriteFused(Protocol):
    """Writer of a base with adapters fused in float32."""

    def __call__(self, base: Path, merged: MergedAdapters, folder: Path, /) -> None: ...


@dataclass(frozen=True)
class OutputComparison:
    """Difference between two models' outputs on one batch.

    Attributes:
        quantity: output that was compared.
        difference: largest absolute difference; None where no backend could compute the outputs.
        largest: largest absolute value of the first model's output.
        backend: backend that computed them, "" where none did.
    """

    quantity: Quantity
    difference: float | None = None
    largest: float | None = None
    backend: str = ""

    def refuse_above(self, tolerance: float, path: Path) -> None:
        """Raise ConvertError if the outputs differ by more than tolerance times max(1, the largest value)."""
        if self.difference is None or self.largest is None:
            return
        if not self.difference <= tolerance * max(1.0, self.largest):
            text = _DIFFERENCES[self.quantity].format(self.difference, self.largest)
            raise ConvertError(f"{path}: {text}; the output was withdrawn")

    def add_to(self, result: Converted) -> Converted:
        """Add the numbers to a job's result."""
        if self.quantity == "logits":
            return replace(result, logit_difference=self.difference, largest_logit=self.largest, backend=self.backend)
        return replace(result, velocity_difference=self.difference, largest_velocity=self.largest, backend=self.backend)


def usable_backend(name: str) -> Backend | None:
    """Find the backend of a name; None where the name is auto and no backend can run.

    Raises:
        BackendError: a backend that was asked for by name cannot run.
    """
    from musiclora.backends.registry import choose, get_backend

    try:
        return get_backend(choose(name))
    except BackendError:
        if name != "auto":
            raise
        return None


def compare_outputs(
    first: Callable[[Backend], np.ndarray], second: Callable[[Backend], np.ndarray], backend: str, quantity: Quantity
) -> OutputComparison:
    """Compare the outputs of two functions of a backend; empty where none can run and none was asked for by name."""
    chosen = usable_backend(backend)
    if chosen is None:
        return OutputComparison(quantity)
    before = first(chosen)
    if not np.isfinite(before).all():
        raise ConvertError(f"the {quantity} of the base are not finite: its weights or an adapter's are too large")
    gc.collect()  # a model refers to itself; two of a billion parameters need not be in memory at a time
    after = second(chosen)
    return OutputComparison(quantity, float(np.abs(before - after).max()), float(np.abs(before).max()), chosen.name)


def compare_fused(
    base: Path, parts: AdapterParts, fused: Path, backend: str, quantity: Quantity, run: RunModel
) -> OutputComparison:
    """Compare a base with an adapter and the fused model."""
    return compare_outputs(lambda b: run(b, base, parts), lambda b: run(b, fused, None), backend, quantity)


def compare_merged(
    base: Path,
    before: MergedAdapters,
    after: MergedAdapters,
    backend: str,
    quantity: Quantity,
    run: RunModel,
    write_fused: WriteFused,
) -> OutputComparison:
    """Compare a base with one set of adapters and with another.

    DoRA adapters are fused in a temporary folder first. One fused model is on the disk at a time.
    """

    def output(merged: MergedAdapters, chosen: Backend) -> np.ndarray:
        if merged.spec is not None and not merged.dora:
            return run(chosen, base, (merged.spec, merged.state))
        with scratch_folder() as folder:
            write_fused(base, merged, folder / "fused")
            return run(chosen, folder / "fused", None)

    return compare_outputs(lambda b: output(before, b), lambda b: output(after, b), backend, quantity)
