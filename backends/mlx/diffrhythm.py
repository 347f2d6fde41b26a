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
from musiclora.backends.mlx import device, dit
from musiclora.backends.mlx.adapted import StyledWeights
from musiclora.backends.mlx.decoder import ActiveAdapter
from musiclora.backends.mlx.objectives import FlowObjective, noisy_latents, squared_error, to_mlx
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


class MlxFlow(StyledWeights):
    """A DiffRhythm checkpoint (implements `backends.base.FlowModel`)."""

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
        # On the CPU build compiling a whole pass takes seconds and saves few: products are nearly all of it.
        # Not a method: a model that refers to itself would keep its memory until the garbage is collected.
        velocity = partial(repeated_velocity, self.config)
        self._velocity = mx.compile(velocity) if device.is_gpu() else velocity

    def check_style(self, style: np.ndarray) -> np.ndarray:
        """Copy a style vector, float32 [512].

        Raises:
            DataError: another shape, or values that are not finite.
        """
        return flow_batches.check_style(style, self.config)

    # --- weights ---

    def merged_weights(self) -> dict[str, mx.array]:
        """Return weights with the active adapter added; unaffected arrays are shared with the model's own."""
        active = self.active_adapter()
        return self.weights if active is None else self.weights_with(active)

    def read_weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield base weights one by one, float32, under their paths in the DiT and in torch's layouts."""
        for name, value in self.weights.items():
            yield name, dit.canonical(name, np.array(value.astype(mx.float32)))

    # --- training ---

    def weight(self, batch: Arrays) -> float:
        """Count the scored latent values: all channels of the valid frames."""
        return float(flow_batches.count_values(batch))

    def check(self, batch: Arrays) -> None:
        """Compare a flow batch with the model.

        Raises:
            DataError: rows that are too long, ids out of range, missing arrays or shapes that differ; all at once.
        """
        flow_batches.check_flow_batch(batch, self.config)

    def rows(self, batch: Arrays) -> int:
        """Count the rows of a linear layer's largest input."""
        return int(np.size(batch["valid"]))

    def arrays(self, batch: Arrays) -> dict[str, mx.array]:
        """Copy the arrays that the loss reads of a batch to the device."""
        return to_mlx(flow_batches.flow_inputs(batch, self.config, self.style is not None))

    def loss_sum(
        self,
        arrays: dict[str, mx.array],
        style: mx.array | None,
        weights: dict[str, mx.array],
        adapter: ActiveAdapter | None,
        checkpointing: bool = False,
    ) -> mx.array:
        """Sum the squared error of the velocity over valid frames, a float32 scalar.

        Args:
            arrays: of `arrays`.
            style: the model's own style vector float32 [512], or None.
            weights: of the model.
            adapter: LoRA, or None.
            checkpointing: keep only the blocks' inputs for the backward pass.
        """
        if style is not None:
            arrays = arrays | {"style": arrays["style"] + arrays["own"] * style}
        made = dit.conditions(arrays, weights, adapter, self.config)
        x = noisy_latents(arrays)
        return squared_error(
            dit.velocity(x, arrays["time"], made, weights, adapter, self.config, checkpointing), arrays
        )

    def loss(self, batch: Arrays) -> LossSum:
        """Compute the loss without gradient or dropout; repeatable."""
        self.check(batch)
        total = self.loss_sum(self.arrays(batch), self.style, self.weights, self.active_adapter())
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
        if guidance < flow_batches.UNGUIDED:
            made = {key: value[: prepared.rows] for key, value in prepared.made.items()}
            return np.array(self._pass(x, time, prepared, made))
        p, q = self.velocities(x, time, prepared)
        guided: np.ndarray = p + np.float32(guidance) * (p - q)
        return guided

    def velocities(self, x: np.ndarray, time: float | np.ndarray, prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
        """Compute the conditional and the unconditional velocity, each float32 [B, T, C], in one pass of 2 B rows.

        Raises:
            DataError: x does not fit what was prepared.
        """
        p, q = np.split(np.array(self._pass(x, time, prepared, prepared.made)), 2)
        return p, q

    def _pass(self, x: np.ndarray, time: float | np.ndarray, prepared: Prepared, made: dict[str, mx.array]) -> mx.array:
        """Compute the velocities of x as often as it fits into the rows of made, [k B, T, C]."""
        shape = (prepared.rows, made["static"].shape[1], self.latent_channels)
        noisy, times = (mx.array(value) for value in flow_batches.latents_and_times(x, time, shape))
        return self._velocity(noisy, times, made, prepared.weights)


def repeated_velocity(
    config: DiffRhythmConfig, x: mx.array, time: mx.array, made: dict[str, mx.array], weights: dict[str, mx.array]
) -> mx.array:
    """Compute the float32 velocity of x [B, T, C]; made has B rows, or 2 B for both passes of guidance."""
    times = made["static"].shape[0] // x.shape[0]
    x, time = mx.concatenate([x] * times), mx.concatenate([time] * times)
    return dit.velocity(x, time, made, weights, None, config).astype(mx.float32)


if TYPE_CHECKING:
    _: type[FlowModel] = MlxFlow
