"""ACE-Step 1.5 on MLX: weights, adapter, trained condition, training loss and velocities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import mlx.core as mx
import numpy as np

from musiclora.backends import acestep_batches
from musiclora.backends.base import Arrays, FlowModel, LossSum, OptimSpec
from musiclora.backends.flow_batches import UNGUIDED, latents_and_times
from musiclora.backends.mlx import acestep, acestep_weights, device
from musiclora.backends.mlx.adapted import StyledWeights
from musiclora.backends.mlx.decoder import ActiveAdapter
from musiclora.backends.mlx.kernels import quantised
from musiclora.backends.mlx.objectives import FlowObjective, noisy_latents, squared_error, to_mlx
from musiclora.convert.adapters.lora import state_keys
from musiclora.convert.errors import BackendError
from musiclora.convert.models.acestep import read_acestep
from musiclora.convert.models.acestep_config import AceStepConfig
from musiclora.convert.models.acestep_names import DECODER, NULL_CONDITION, transformer_names
from musiclora.convert.models.quantise import Packed

if TYPE_CHECKING:
    from musiclora.backends.mlx.training import MlxTraining

# Rows of conditions in training are filled up to a multiple: a step of 24 blocks that is compiled again for each new
# number of rows costs seconds.
_BUCKET_ROWS = 64
_FRAMES = "frames"  # of the loss's arrays: valid frames, where there is padding


@dataclass(frozen=True)
class Prepared:
    """The time-independent part of one conditioning, with the adapter and trained condition of that moment.

    Attributes:
        shape: [B, T, C] of the latents it is for.
        valid: bool [B, T, 1].
        once: context, and cross attention's keys and values, for B rows.
        twice: the same for 2 B rows, the second half with the null condition.
        weights: with the adapter added where they are float.
        factors: of the adapter that is applied beside quantised weights, with its scale in B; empty without.
    """

    shape: tuple[int, int, int]
    valid: np.ndarray
    once: dict[str, mx.array]
    twice: dict[str, mx.array]
    weights: dict[str, mx.array]
    factors: dict[str, mx.array]


class MlxAceStep(StyledWeights):
    """An ACE-Step checkpoint (implements `backends.base.FlowModel`).

    Batches are those of `backends.acestep_batches`. The interface's time is 1 - t of ACE-Step, and its velocity the
    negative of the network's output.

    Args:
        path: model folder in any layout; quantised matrices stay quantised.
        dtype: of the weights and of the computation.

    Attributes:
        weights: the transformer's arrays without `decoder.`, laid out as `acestep_weights.stored` does.

    Raises:
        ConvertError: a folder that does not fit.
    """

    has_duration = False
    max_frames = acestep_batches.MAX_FRAMES

    def __init__(self, path: Path, dtype: mx.Dtype) -> None:
        checkpoint = read_acestep(path)
        self.config = checkpoint.config
        self.latent_channels = self.config.latent_dim
        super().__init__(self.config.linear_shapes(), dtype)
        self._null = np.zeros(0, np.float32)
        for name, value in checkpoint.stored(transformer_names(self.config)):
            if isinstance(value, Packed):
                arrays = quantised.load(name.removeprefix(DECODER), value, dtype)
            elif name == NULL_CONDITION:
                self._null = np.array(value, np.float32).reshape(-1)
                continue
            else:
                arrays = acestep_weights.transformer_weights({name: value}, self.config, dtype)
            mx.eval(arrays)  # one by one, so that nothing is held twice
            self.weights |= arrays
        # On the CPU build compiling a whole pass takes seconds and saves few: products are nearly all of it.
        # Not a method: a model that refers to itself would keep its memory until the garbage is collected.
        velocity = partial(repeated_velocity, self.config)
        self._velocity = mx.compile(velocity) if device.is_gpu() else velocity

    def check_style(self, style: np.ndarray) -> np.ndarray:
        """Copy a trained condition, float32 [K, D].

        Raises:
            DataError: another shape, or values that are not finite.
        """
        return acestep_batches.check_trained_condition(style, self.config)

    def _own_rows(self) -> int:
        return 0 if self.style is None else int(self.style.shape[0])

    # --- weights ---

    @property
    def is_quantised(self) -> bool:
        """Whether some matrices are quantised."""
        return any(name.endswith(".scales") for name in self.weights)

    def read_weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield `decoder.*` and `null_condition_emb` one by one, float32, under canonical names and layouts."""
        for name in transformer_names(self.config):
            if name == NULL_CONDITION:
                yield name, self._null.reshape(1, 1, -1).copy()
                continue
            own = name.removeprefix(DECODER)
            stem, value = own.removesuffix(".weight"), self.weights[own]
            if parts := quantised.find(self.weights, stem):
                value = quantised.dequantised(parts, self._shapes[stem][1])
            yield name, acestep_weights.canonical(own, np.array(value.astype(mx.float32)), self.config)

    # --- training ---

    def weight(self, batch: Arrays) -> float:
        """Count the scored latent values: all channels of the valid frames."""
        return float(acestep_batches.count_values(batch))

    def check(self, batch: Arrays) -> None:
        """Compare a flow batch with the model; see `acestep_batches.check_batch`.

        Raises:
            DataError: missing arrays, shapes that differ or rows that are too long; all at once.
        """
        acestep_batches.check_batch(batch, self.config)

    def rows(self, batch: Arrays) -> int:
        """Count the rows of a linear layer's largest input: patches of all examples, or rows of their conditions."""
        batch_rows, frames = np.shape(batch["valid"])
        conditions = np.shape(batch["condition"])[1] if "condition" in batch else self._own_rows()
        return batch_rows * max(-(-frames // self.config.patch_size), _filled(conditions))

    def arrays(self, batch: Arrays) -> dict[str, mx.array]:
        """Copy the arrays that the loss reads of a batch to the device."""
        given = acestep_batches.flow_inputs(batch, self._null, self._own_rows())
        if acestep_batches.OWN not in given:
            rows = given["condition"].shape[1]
            missing = ((0, 0), (0, _filled(rows) - rows))
            given["condition"] = np.pad(given["condition"], (*missing, (0, 0)))
            given["condition_valid"] = np.pad(given["condition_valid"], missing)
        if not given["valid"].all():
            given[_FRAMES] = given["valid"]
        return to_mlx(given)

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
            style: the trained condition float32 [K, D], or None.
            weights: of the transformer.
            adapter: LoRA, or None.
            checkpointing: keep only the blocks' inputs for the backward pass.
        """
        condition = arrays["condition"]
        if style is not None and acestep_batches.OWN in arrays:
            condition = condition + arrays[acestep_batches.OWN][:, None, None] * style
        valid, frames, config = arrays["condition_valid"], arrays.get(_FRAMES), self.config
        made = acestep.prepare(condition, valid, arrays["context"], weights, adapter, config, frames)
        x, t = noisy_latents(arrays), 1 - arrays["time"]
        found = acestep.predict(x, t, made, weights, adapter, config, checkpointing=checkpointing)
        return squared_error(-found.astype(mx.float32), arrays)

    def loss(self, batch: Arrays) -> LossSum:
        """Compute the loss without gradient or dropout; repeatable."""
        self.check(batch)
        total = self.loss_sum(self.arrays(batch), self.style, self.weights, self.active_adapter())
        return LossSum(float(np.array(total)), self.weight(batch))

    def start_training(self, optim: OptimSpec, trainable: Literal["adapter", "all"] = "adapter") -> MlxTraining:
        """Create a trainer of the adapter and the trained condition, or of all weights of the transformer.

        Raises:
            BackendError: no adapter to train, or one in the way; all weights in another dtype than float32, or
                quantised.
        """
        from musiclora.backends.mlx.training import MlxTraining

        self.need_trainable(trainable)
        if trainable == "all" and self.is_quantised:
            raise BackendError("start_training('all'): this base is quantised; train the float base instead")
        return MlxTraining(FlowObjective(self, trainable == "all"), optim)

    # --- sampling ---

    def merged_weights(self) -> dict[str, mx.array]:
        """Return weights with the active adapter added where they are float; the others are the model's own."""
        active = self.active_adapter()
        return self.weights if active is None or self.is_quantised else self.weights_with(active)

    def prepare(self, conditioning: Arrays) -> Prepared:
        """Compute the time-independent part once: context, and cross-attention keys and values of every block.

        It keeps the adapter and the trained condition as they are now: what is changed afterwards needs another call.

        Raises:
            DataError: a conditioning without a context, or arrays that do not fit.
        """
        shape, given = acestep_batches.conditioning(conditioning, self.config, self._null, self.read_style())
        active, config = self.active_adapter(), self.config
        weights, factors = self.merged_weights(), dict[str, mx.array]()
        if active is not None and self.is_quantised:
            last = {state_keys(name)[1] for name in self.names}
            factors = {k: v * active.scale if k in last else v for k, v in active.factors.items()}
        adapter, arrays = _scaled(factors), to_mlx(given)
        frames = None if given["valid"].all() else arrays["valid"]
        padding = None if given["condition_valid"].all() else arrays["condition_valid"]
        made = acestep.prepare(arrays["condition"], padding, arrays["context"], weights, adapter, config, frames)
        once = acestep.prepare_keys(made, shape[0], weights, adapter, config)
        twice = acestep.with_null_condition(once, mx.array(self._null), weights, adapter, config)
        mx.eval(once, twice)
        return Prepared(shape, given["valid"][..., None], once, twice, weights, factors)

    def velocity(self, x: np.ndarray, time: float | np.ndarray, prepared: Prepared, guidance: float) -> np.ndarray:
        """Compute the velocity float32 [B, T, C] of x at a time, guided as v = p + guidance (p - q).

        Raises:
            DataError: x does not fit what was prepared.
        """
        if guidance < UNGUIDED:
            return self._pass(x, time, prepared, prepared.once)
        p, q = self.velocities(x, time, prepared)
        guided: np.ndarray = p + np.float32(guidance) * (p - q)
        return guided

    def velocities(self, x: np.ndarray, time: float | np.ndarray, prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
        """Compute the velocities with the condition and with the null condition, float32 [B, T, C], in one pass.

        Raises:
            DataError: x does not fit what was prepared.
        """
        p, q = np.split(self._pass(x, time, prepared, prepared.twice), 2)
        return p, q

    def _pass(
        self, x: np.ndarray, time: float | np.ndarray, prepared: Prepared, made: dict[str, mx.array]
    ) -> np.ndarray:
        """Compute the velocities of x for once or twice B rows."""
        latents, times = latents_and_times(x, time, prepared.shape)
        latents = np.where(prepared.valid, latents, np.float32(0))  # a patch may be half padding
        repeats = 1 + (made is prepared.twice)
        noisy, t = mx.array(np.concatenate([latents] * repeats)), mx.array(1 - np.tile(times, repeats))
        return np.array(self._velocity(noisy, t, made, prepared.weights, prepared.factors))


def _filled(rows: int) -> int:
    """Round a number of condition rows up to the next bucket, at least one."""
    return max(1, -(-rows // _BUCKET_ROWS)) * _BUCKET_ROWS


def _scaled(factors: dict[str, mx.array]) -> ActiveAdapter | None:
    """Apply factors that have their scale in B."""
    return ActiveAdapter(factors, 1.0) if factors else None


def repeated_velocity(
    config: AceStepConfig,
    x: mx.array,
    t: mx.array,
    made: dict[str, mx.array],
    weights: dict[str, mx.array],
    factors: dict[str, mx.array],
) -> mx.array:
    """Compute the float32 velocity, from noise to data, of x [B, T, C] at ACE-Step's times t [B]."""
    return -acestep.predict(x, t, made, weights, _scaled(factors), config).astype(mx.float32)


if TYPE_CHECKING:
    _: type[FlowModel] = MlxAceStep
