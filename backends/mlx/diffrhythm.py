"""DiffRhythm on MLX: weights, adapter, style vector, training loss and velocity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import mlx.core as mx
import numpy as np

from musiclora.backends import flow_batches
from musiclora.backends.base import Arrays, FlowModel, LossSum, OptimSpec
from musiclora.backends.mlx import device, dit, lora
from musiclora.backends.mlx.adapted import AdaptedWeights
from musiclora.backends.mlx.decoder import ActiveAdapter
from musiclora.backends.mlx.objectives import FlowObjective, flow_loss, to_mlx
from musiclora.convert.adapters.lora import magnitude_key, state_keys
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, read_diffrhythm

if TYPE_CHECKING:
    from musiclora.backends.mlx.training import MlxTraining


@dataclass(frozen=True)
class Prepared:
    """The time-independent part of one conditioning, with the adapter and style of the moment it was made.

    Attributes:
        rows: B.
        made: what `dit.conditions` made, for 2 B rows: as the conditioning says, then without conditions.
        weights: with the adapter added.
    """

    rows: int
    made: dict[str, mx.array]
    weights: dict[str, mx.array]


class MlxFlow(AdaptedWeights):
    """A DiffRhythm checkpoint (implements `backends.base.FlowModel`).

    Attributes:
        style: the model's own style vector, float32 [512], or None.
    """

    def __init__(self, path: Path, dtype: mx.Dtype) -> None:
        checkpoint = read_diffrhythm(path)
        self.config: DiffRhythmConfig = checkpoint.config
        self.latent_channels, self.max_frames = self.config.mel_dim, self.config.max_frames
        self.has_duration = self.config.duration_embedding
        super().__init__(self.config.linear_shapes(), dtype)
        for name, value in checkpoint.tensors():
            array = mx.array(dit.stored(name, np.asarray(value, np.float32))).astype(dtype)
            mx.eval(array)  # one by one, so that nothing is held twice
            self.weights[name] = array
        self.style: mx.array | None = None
        # On the CPU build compiling a whole pass takes seconds and saves few: products are nearly all of it.
        # Not a method: a model that refers to itself would keep its memory until the garbage is collected.
        velocity = partial(guided, self.config)
        self._velocity = mx.compile(velocity) if device.is_gpu() else velocity

    # --- style ---

    def set_style(self, style: np.ndarray | None) -> None:
        """Set the model's own style vector, or remove it; see `backends.base.FlowModel`.

        Raises:
            DataError: another shape, or values that are not finite.
        """
        if style is None:
            self.style = None
            return
        self.style = mx.array(flow_batches.check_style(style, self.config))

    def read_style(self) -> np.ndarray | None:
        """Copy the model's own style vector, float32; None without one."""
        return None if self.style is None else np.array(self.style)

    # --- weights ---

    def merged_weights(self) -> dict[str, mx.array]:
        """Return weights with the active adapter added; unaffected arrays are shared with the model's own."""
        active = self.active_adapter()
        return self.weights if active is None else self._weights_with(active)

    def fuse(self) -> None:
        """Add the update to the weights, summed in float32 and cast once, and drop the adapter."""
        self.put_fused(self._weights_with(ActiveAdapter(self.factors, self.need_adapter("fuse").scale)))

    def _weights_with(self, adapter: ActiveAdapter) -> dict[str, mx.array]:
        merged = dict(self.weights)
        for name in self.names:
            key_a, key_b = state_keys(name)
            weight = merged[f"{name}.weight"]
            a, b, magnitude = adapter.factors[key_a], adapter.factors[key_b], adapter.factors.get(magnitude_key(name))
            merged[f"{name}.weight"] = lora.fused_weight(weight, a, b, adapter.scale, magnitude, conv1d=False)
            mx.eval(merged[f"{name}.weight"])  # one by one: the float32 sum of a half-precision base is short-lived
        return merged

    def read_weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield base weights one by one, float32, under their paths in the DiT and in torch's layouts."""
        for name, value in self.weights.items():
            yield name, dit.canonical(name, np.array(value.astype(mx.float32)))

    # --- training ---

    def weight(self, batch: Arrays) -> float:
        """Count the scored latent values: all channels of the valid frames."""
        return float(flow_batches.count_values(batch))

    def loss(self, batch: Arrays) -> LossSum:
        """Compute the loss without gradient or dropout; repeatable."""
        flow_batches.check_flow_batch(batch, self.config)
        arrays = to_mlx(flow_batches.flow_inputs(batch, self.config, self.style is not None))
        total = flow_loss(arrays, self.style, self.weights, self.active_adapter(), self.config)
        return LossSum(float(np.array(total)), self.weight(batch))

    def start_training(self, optim: OptimSpec, trainable: Literal["adapter", "all"] = "adapter") -> MlxTraining:
        """Create a trainer of the adapter and the style vector, or of all base weights.

        Raises:
            BackendError: no adapter to train, or one in the way; all weights in another dtype than float32.
        """
        from musiclora.backends.mlx.training import MlxTraining

        self.need_trainable(trainable)
        return MlxTraining(FlowObjective(self, trainable == "all"), optim)

    # --- sampling ---

    def prepare(self, conditioning: Arrays) -> Prepared:
        """Compute the time-independent part once; see `backends.base.FlowModel`.

        It keeps the adapter and the style as they are now: what is changed afterwards needs another call.

        Raises:
            DataError: a conditioning without a length, or arrays that do not fit.
        """
        rows, given = flow_batches.conditioning(conditioning, self.config, self.read_style())
        weights = self.merged_weights()
        made = dit.conditions(to_mlx(given), weights, None, self.config)
        mx.eval(made)
        return Prepared(rows, made, weights)

    def velocity(self, x: np.ndarray, time: float | np.ndarray, prepared: Prepared, guidance: float) -> np.ndarray:
        """Compute the velocity float32 [B, T, C] of x at a time, guided as v = p + guidance (p - q).

        Raises:
            DataError: x does not fit what was prepared.
        """
        made = prepared.made
        shape = (prepared.rows, made["static"].shape[1], self.latent_channels)
        noisy, times = (mx.array(value) for value in flow_batches.latents_and_times(x, time, shape))
        if guidance < flow_batches.UNGUIDED:
            made = {key: value[: prepared.rows] for key, value in made.items()}
        strength = mx.array(guidance, mx.float32)
        return np.array(self._velocity(noisy, times, made, prepared.weights, strength))


def guided(
    config: DiffRhythmConfig,
    x: mx.array,
    time: mx.array,
    made: dict[str, mx.array],
    weights: dict[str, mx.array],
    guidance: mx.array,
) -> mx.array:
    """Compute the float32 velocity of x [B, T, C]; made has B rows, or 2 B rows with guidance."""
    twice = made["static"].shape[0] > x.shape[0]
    if twice:
        x, time = mx.concatenate([x, x]), mx.concatenate([time, time])
    v = dit.velocity(x, time, made, weights, None, config).astype(mx.float32)
    if not twice:
        return v
    p, q = mx.split(v, 2)
    return p + guidance * (p - q)


if TYPE_CHECKING:
    _: type[FlowModel] = MlxFlow
