"""Audio adapters and their base: fused into one checkpoint, compared by velocity, style vectors blended."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.blend import fuse_tensors
from musiclora.convert.diffrhythm import CONDITION, DiffRhythmConfig, read_diffrhythm, write_diffrhythm
from musiclora.convert.files import write_json
from musiclora.convert.fingerprint import RECORD
from musiclora.convert.lora import LoraSpec
from musiclora.convert.tensors import read_safetensors, write_safetensors
from musiclora.errors import BackendError, ConvertError
from musiclora.fusing import UNCOMPARED, Merged, Rounding
from musiclora.models import Adapter, BaseModel
from musiclora.verification import Converted, beside, withdrawn_on_failure

STYLE = "style.safetensors"
SAME_TOLERANCE = 1e-5  # times max(1, largest value): the same arrays in the same order of sums
FUSED_TOLERANCE = 1e-4  # the same: a fused product sums in another order, a wrong update is off by whole units
_FRAMES = 24

AdapterParts = tuple[LoraSpec, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Velocities:
    """How far two models' velocities are apart on one batch; None where nothing could compute them."""

    difference: float | None = None
    largest: float | None = None
    backend: str = ""

    def refuse_above(self, tolerance: float, path: Path) -> None:
        """Raise ConvertError where they differ by more than tolerance times max(1, the largest value)."""
        if self.difference is None or self.largest is None:
            return
        if not self.difference <= tolerance * max(1.0, self.largest):
            raise ConvertError(
                f"{path}: the velocity differs by {self.difference:.3g} (largest value {self.largest:.3g}) from that "
                "before; the output was withdrawn"
            )


def compare_velocities(
    first: Path, first_adapter: AdapterParts | None, second: Path, second_adapter: AdapterParts | None, backend: str
) -> Velocities:
    """Velocities of two models on one batch; empty where no backend can run and none was asked for by name.

    Args:
        first, second: model folders.
        first_adapter, second_adapter: settings and arrays, or None for the model alone.
        backend: mlx, torch or auto.
    """
    return _compare(
        lambda b: _velocity(b, first, first_adapter), lambda b: _velocity(b, second, second_adapter), backend
    )


def compare_fused_velocities(base: BaseModel, first: Merged, second: Merged, backend: str) -> Velocities:
    """Velocities of a base with one set of adapters and with another, each fused in float32 in a temporary folder.

    For DoRA, which the backends compute only fused. One fused model is on the disk at a time.
    """
    checkpoint = read_diffrhythm(base.path)

    def fused(merged: Merged, backend: Any) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            tensors = fuse_tensors(checkpoint.tensors(), merged.spec, merged.state, conv1d=False, dora=merged.dora)
            write_diffrhythm(Path(folder) / "fused", checkpoint.config, tensors, "hf", "float32")
            return _velocity(backend, Path(folder) / "fused", None)

    return _compare(lambda b: fused(first, b), lambda b: fused(second, b), backend)


def _compare(first: Callable[[Any], np.ndarray], second: Callable[[Any], np.ndarray], backend: str) -> Velocities:
    """What two calls make of a backend; empty where none can run and none was asked for by name."""
    from musiclora.backends.registry import choose, get_backend

    try:
        name = choose(backend)
    except BackendError:
        if backend != "auto":
            raise
        return Velocities()
    before = first(get_backend(name))
    gc.collect()  # a model refers to itself; two of a billion parameters need not be in memory at a time
    after = second(get_backend(name))
    return Velocities(float(np.abs(before - after).max()), float(np.abs(before).max()), name)


def _velocity(backend: Any, folder: Path, adapter: AdapterParts | None) -> np.ndarray:
    from musiclora.backends.base import FAMILIES

    config = read_diffrhythm(folder).config
    model = backend.load(FAMILIES["audio"], folder)
    if adapter:
        model.inject_adapter(*adapter)
    x, time, conditioning = _batch(config)
    velocity: np.ndarray = model.velocity(x, time, model.prepare(conditioning), 0.0)
    return velocity


def _batch(config: DiffRhythmConfig) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Two rows in which every condition is something else than zero, so that no adapted module goes untested."""
    rng = np.random.default_rng(0)
    frames = min(_FRAMES, config.max_frames)
    shape = (2, frames, config.mel_dim)
    conditioning = {
        "cond": rng.standard_normal(shape, np.float32),
        "text": rng.integers(0, config.text_num_embeds + 1, shape[:2]).astype(np.int32),
        "style": rng.standard_normal((2, CONDITION), np.float32),
        "start_time": np.array([0.0, 0.4], np.float32),
        "valid": np.ones(shape[:2], bool),
    }
    if config.duration_embedding:
        conditioning["duration"] = np.array([1.0, 0.3], np.float32)
    return rng.standard_normal(shape, np.float32), np.array([0.2, 0.7], np.float32), conditioning


def fuse_audio(
    base: BaseModel,
    adapters: Sequence[Adapter],
    merged: Merged,
    destination: Path,
    to: str,
    dtype: str | None,
    backend: str,
) -> Converted:
    """Add adapters to DiffRhythm and write one model folder, with the base's codec and the adapters' style beside it.

    Args:
        base: the base model's folder.
        adapters: with their strengths; where the styles come from.
        merged: the sum of the adapters.
        destination: new folder.
        to: hf or mlx.
        dtype: of all weights; None keeps each one's.
        backend: what computes the velocities before and after.

    Raises:
        ConvertError: they do not fit, or in float32 the fused model computes something else than base and adapter.
    """
    checkpoint = read_diffrhythm(base.path)
    merged.check(checkpoint.config.linear_shapes())
    rounded = sorted({str(kind) for kind in ([dtype] if dtype else checkpoint.dtypes.values())} - {"float32"})
    rounding = Rounding(rounded[0] if rounded else "float32")
    notes = []
    with withdrawn_on_failure(destination):
        tensors = rounding.before(checkpoint.tensors())
        fused = fuse_tensors(tensors, merged.spec, merged.state, conv1d=False, dora=merged.dora)
        write_diffrhythm(destination, checkpoint.config, rounding.after(fused), to, dtype or checkpoint.dtypes)
        notes += _copy_beside(base, adapters, destination)
        found = Velocities()
        if merged.dora:
            notes.append(UNCOMPARED)
        elif merged.spec:
            found = compare_velocities(base.path, (merged.spec, merged.state), destination, None, backend)
        if rounded:
            notes += rounding.notes()
        else:
            found.refuse_above(FUSED_TOLERANCE, destination)
    return Converted(
        destination,
        to,
        backend=found.backend,
        notes=tuple(notes),
        velocity_difference=found.difference,
        largest_velocity=found.largest,
    )


def _copy_beside(base: BaseModel, adapters: Sequence[Adapter], destination: Path) -> list[str]:
    """Put card, codec and style beside the fused weights; what the user should know of it."""
    notes = []
    for name, data in beside(base.path).items():
        (destination / name).write_bytes(data)
    names = {adapter.path.name: adapter.strength for adapter in adapters}
    write_json(destination / RECORD, {"family": "audio", "base_model": base.name, "fused": names})
    if (base.path / "vae").is_dir():
        shutil.copytree(base.path / "vae", destination / "vae")
    else:
        notes.append(f"{base.name} has no codec to copy; generate from the fused model with --vae")
    style = blended_style(adapters)
    if style is not None:
        own = destination / "style" / STYLE  # not beside the weights: the safetensors of a model folder are one model
        own.parent.mkdir()
        write_safetensors(own, {"style": style}, {"format": "pt"})
        notes.append(f"the style vector is no weight and cannot be fused: generate with --style {own}")
    return notes


def blended_style(adapters: Sequence[Adapter]) -> np.ndarray | None:
    """Sum of the adapters' style vectors, each times its strength, float32 [512]; None where none has one.

    Raises:
        ConvertError: a style file that holds something else.
    """
    styles = [(read_style(adapter.path / STYLE), adapter.strength) for adapter in adapters]
    known = [(style, strength) for style, strength in styles if style is not None]
    if not known:
        return None
    total: np.ndarray = np.zeros(CONDITION, np.float32)
    for style, strength in known:
        total = total + np.float32(strength) * style
    return total


def read_style(path: Path) -> np.ndarray | None:
    """An adapter's style vector, float32 [512]; None where the file is not there.

    Raises:
        ConvertError: it holds something else.
    """
    if not path.is_file():
        return None
    style = read_safetensors(path).get("style")
    if style is None or style.shape != (CONDITION,) or not np.isfinite(style.astype(np.float32)).all():
        raise ConvertError(f"{path}: expected one vector `style` of {CONDITION} finite values")
    return style.astype(np.float32)


def carry_style(source: Path, destination: Path) -> list[str]:
    """Copy an adapter's style vector into the folder that was made from it; a note where it has to stay behind."""
    style = read_style(source / STYLE)
    if style is None:
        return []
    if not destination.is_dir():
        return [f"the style vector does not fit into this file; it stays in {source / STYLE}"]
    write_safetensors(destination / STYLE, {"style": style}, {"format": "pt"})
    return []
