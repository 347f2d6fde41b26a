"""Outputs of two models on one batch, compared: logits and velocities."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.conversion.merged import MergedAdapters
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.adapters.lora_math import fuse_tensors
from musiclora.convert.models.diffrhythm import CONDITION, DiffRhythmConfig, read_diffrhythm, write_diffrhythm
from musiclora.convert.models.gpt2 import read_checkpoint, write_checkpoint
from musiclora.errors import BackendError, ConvertError
from musiclora.models import BaseModel

SAME_TOLERANCE = 1e-5  # times max(1, largest value): the same arrays in the same order of sums
FUSED_TOLERANCE = 1e-4  # the same: a fused product sums in another order, a wrong update is off by whole units
_FRAMES = 24
AdapterParts = tuple[LoraSpec, Mapping[str, np.ndarray]]

UNCOMPARED = "DoRA: the backends compute such an adapter only fused, so there was nothing to compare the outputs with"

LOGIT_TOLERANCE = 1e-5  # times max(1, largest logit): rounding of float32 sums in another order


@dataclass(frozen=True)
class LogitComparison:
    """How far two models' logits are apart on one batch; None where nothing could compute them."""

    difference: float | None = None
    largest: float | None = None
    backend: str = ""

    def refuse_above(self, tolerance: float, path: Path) -> None:
        """Raise ConvertError where they differ by more than tolerance times max(1, the largest logit)."""
        if self.difference is None or self.largest is None:
            return
        if not self.difference <= tolerance * max(1.0, self.largest):
            raise ConvertError(
                f"{path}: the logits differ by {self.difference:.3g} (largest {self.largest:.3g}) from those before; "
                "the output was withdrawn"
            )


def compare_logits(
    first: BaseModel, first_adapter: Any, second: BaseModel, second_adapter: Any, backend: str
) -> LogitComparison:
    """Logits of two models on one batch; empty where no backend can run and none was asked for by name."""
    from musiclora.backends.registry import choose, get_backend

    try:
        name = choose(backend)
    except BackendError:
        if backend != "auto":
            raise
        return LogitComparison()
    before = _logits(get_backend(name), first, first_adapter)
    after = _logits(get_backend(name), second, second_adapter)
    return LogitComparison(float(np.abs(before - after).max()), float(np.abs(before).max()), name)


def _logits(backend: Any, base: BaseModel, adapter: tuple[LoraSpec, Mapping[str, np.ndarray]] | None) -> np.ndarray:
    from musiclora.backends.base import FAMILIES

    model = backend.load(FAMILIES["symbolic"], base.path)
    if adapter:
        model.inject_adapter(*adapter)
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (2, min(64, model.n_positions)), dtype=np.int32)
    mask = np.ones(tokens.shape, bool)
    mask[:, 0] = False
    logits: np.ndarray = model.logits({"tokens": tokens, "loss_mask": mask})
    return logits


def compare_fused(base: BaseModel, first: MergedAdapters, second: MergedAdapters, backend: str) -> LogitComparison:
    """Logits of a base with one set of adapters and with another, each fused in float32 in a temporary folder."""
    checkpoint = read_checkpoint(base.path)
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for name, merged in (("first", first), ("second", second)):
            tensors = fuse_tensors(checkpoint.tensors(), merged.spec, merged.state, conv1d=True, dora=merged.dora)
            write_checkpoint(Path(folder) / name, checkpoint.config, tensors, "hf")
            found.append(BaseModel(name, Path(folder) / name, base.licence))
        return compare_logits(found[0], None, found[1], None, backend)


@dataclass(frozen=True)
class VelocityComparison:
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
) -> VelocityComparison:
    """Velocities of two models on one batch; empty where no backend can run and none was asked for by name.

    Args:
        first, second: model folders.
        first_adapter, second_adapter: settings and arrays, or None for the model alone.
        backend: mlx, torch or auto.
    """
    return _compare(
        lambda b: _velocity(b, first, first_adapter), lambda b: _velocity(b, second, second_adapter), backend
    )


def compare_fused_velocities(
    base: BaseModel, first: MergedAdapters, second: MergedAdapters, backend: str
) -> VelocityComparison:
    """Velocities of a base with one set of adapters and with another, each fused in float32 in a temporary folder.

    For DoRA, which the backends compute only fused. One fused model is on the disk at a time.
    """
    checkpoint = read_diffrhythm(base.path)

    def fused(merged: MergedAdapters, backend: Any) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            tensors = fuse_tensors(checkpoint.tensors(), merged.spec, merged.state, conv1d=False, dora=merged.dora)
            write_diffrhythm(Path(folder) / "fused", checkpoint.config, tensors, "hf", "float32")
            return _velocity(backend, Path(folder) / "fused", None)

    return _compare(lambda b: fused(first, b), lambda b: fused(second, b), backend)


def _compare(
    first: Callable[[Any], np.ndarray], second: Callable[[Any], np.ndarray], backend: str
) -> VelocityComparison:
    """What two calls make of a backend; empty where none can run and none was asked for by name."""
    from musiclora.backends.registry import choose, get_backend

    try:
        name = choose(backend)
    except BackendError:
        if backend != "auto":
            raise
        return VelocityComparison()
    before = first(get_backend(name))
    gc.collect()  # a model refers to itself; two of a billion parameters need not be in memory at a time
    after = second(get_backend(name))
    return VelocityComparison(float(np.abs(before - after).max()), float(np.abs(before).max()), name)


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
