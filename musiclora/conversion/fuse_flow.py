"""Part of `fuse`, and of the comparison of adapters, that flow models share: by velocity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from musiclora.adapters import changes_nothing
from musiclora.conversion.cards import write_fused_record
from musiclora.conversion.compare import (
    FUSED_TOLERANCE,
    AdapterParts,
    OutputComparison,
    compare_fused,
    compare_merged,
)
from musiclora.conversion.merged import MergedAdapters, Rounding
from musiclora.conversion.protocols import ModelFusion
from musiclora.conversion.verify import Converted, stored_dtype
from musiclora.convert.files.atomic import atomic_folder
from musiclora.convert.files.safetensors_file import Arrays, Dtype, Shape, Tensors
from musiclora.families import FamilySpec
from musiclora.progress import Reporter, track_tensors

if TYPE_CHECKING:
    from musiclora.backends.base import Backend, FlowModel

Change = Callable[[Tensors], Tensors]
Kinds = Mapping[str, Dtype] | str
# Noisy latents [B, T, C], their times [B], and the conditioning.
Batch = tuple[np.ndarray, np.ndarray, Arrays]


class FlowCheckpoint(Protocol):
    """Open checkpoint of a flow model."""

    @property
    def config(self) -> Any: ...
    @property
    def dtypes(self) -> dict[str, Dtype]: ...
    @property
    def bits(self) -> int | None: ...
    def tensors(self) -> Iterator[tuple[str, np.ndarray]]: ...


@dataclass(frozen=True)
class FlowFusing:
    """What an architecture brings to `fuse`.

    Attributes:
        spec: its record.
        read: opens a model folder.
        tensor_shapes: shapes of all tensors of a configuration.
        write: writes the tensors of a checkpoint, changed as they stream by, as a folder in a layout.
        random_batch: draws a batch in which every adapted module takes part.
        copy_parts: copies the other files of the base; returns notes.
    """

    spec: FamilySpec
    read: Callable[[Path], Any]
    tensor_shapes: Callable[[Any], Mapping[str, Shape]]
    write: Callable[[Any, Path, Change, str, Kinds], None]
    random_batch: Callable[[Any], Batch]
    copy_parts: Callable[[ModelFusion, Path], list[str]]

    def fuse(self, fusion: ModelFusion, reporter: Reporter) -> Converted:
        """Add adapters to a base and write one model folder with the base's other parts.

        Raises:
            ConvertError: they do not fit, or the float32 result differs from base and adapter; nothing is written then.
        """
        merged, destination = fusion.merged, fusion.destination
        checkpoint: FlowCheckpoint = self.read(fusion.base.path)
        merged.check(checkpoint.config.linear_shapes())
        dtype = stored_dtype(fusion.dtype, checkpoint.dtypes.values(), fusion.to)
        dtypes = [dtype] if dtype else checkpoint.dtypes.values()
        rounded = sorted({str(kind) for kind in dtypes} - {"float32"})
        kinds = {} if dtype else checkpoint.dtypes
        rounding = Rounding(rounded[0] if rounded else "float32", checkpoint.bits, kinds)
        with atomic_folder(destination) as folder:
            with track_tensors(reporter, "fusing", self.tensor_shapes(checkpoint.config)) as watch:

                def change(tensors: Tensors) -> Tensors:
                    return rounding.after(merged.fuse(rounding.before(watch(tensors)), conv1d=False))

                self.write(checkpoint, folder, change, fusion.to, dtype or checkpoint.dtypes)
            notes = self.copy_parts(fusion, folder)
            write_fused_record(fusion, folder, self.spec, rounding.arrival)
            parts = merged.as_one(checkpoint.tensors(), conv1d=False)
            found = compare_fused(fusion.base.path, parts, folder, fusion.backend, "velocity", self.run_velocity)
            if not rounded:
                found.refuse_above(FUSED_TOLERANCE, destination)
        notes += rounding.notes()
        if not changes_nothing(fusion.adapters, fusion.base):
            notes += rounding.arrival.notes(rounding.dtype)
        return found.add_to(Converted(destination, fusion.to, notes=tuple(notes)))

    def compare(self, base: Path, before: MergedAdapters, after: MergedAdapters, backend: str) -> OutputComparison:
        """Compare the velocities of a base with one set of adapters and with another."""
        return compare_merged(base, before, after, backend, "velocity", self.run_velocity, self._write_fused)

    def run_velocity(self, backend: Backend, folder: Path, adapter: AdapterParts | None) -> np.ndarray:
        """Compute the velocity of a random batch, float32 [B, T, C]."""
        from musiclora.backends.base import FAMILIES

        config = self.read(folder).config
        model = cast("FlowModel", backend.load(FAMILIES[self.spec.family], folder))
        if adapter:
            model.inject_adapter(*adapter)
        x, time, conditioning = self.random_batch(config)
        return model.velocity(x, time, model.prepare(conditioning), 0.0)

    def _write_fused(self, base: Path, merged: MergedAdapters, folder: Path) -> None:
        self.write(self.read(base), folder, partial(merged.fuse, conv1d=False), "hf", "float32")
