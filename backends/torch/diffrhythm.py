"""DiffRhythm on torch: module, adapter, style vector, training loss and velocity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from musiclora.backends import flow_batches
from musiclora.backends.base import Arrays, FlowModel, OptimSpec
from musiclora.backends.torch import lora
from musiclora.backends.torch.adapted import StyledModule
from musiclora.backends.torch.dit import DiT
from musiclora.backends.torch.dit_layers import Conditions
from musiclora.backends.torch.objectives import FlowObjective

if TYPE_CHECKING:
    from musiclora.backends.torch.training import TorchTraining

__all__ = ["DiT", "Prepared", "TorchFlow"]

_GIVEN = ("text", "style", "start_time", "duration", "cond")


@dataclass(frozen=True)
class Prepared:
    """The time-independent part of one conditioning, with the adapter and style of the moment it was made.

    Attributes:
        shape: [B, T, C] of the latents it is for.
        made: for 2 B rows, as the conditioning says, then without conditions.
        module: with the adapter added; it shares the model's other weights.
    """

    shape: tuple[int, ...]
    made: Conditions
    module: DiT


class TorchFlow(StyledModule):
    """A DiffRhythm checkpoint on one device (implements `backends.base.FlowModel`).

    Attributes:
        style: the model's own style vector, float32 [512], or None.
    """

    module: DiT

    def __init__(self, path: Path, dtype: torch.dtype, device: torch.device) -> None:
        module = DiT.from_folder(path, dtype, device)
        self.config = config = module.sizes
        super().__init__(module, config.linear_shapes(), dtype, device)
        self.latent_channels, self.max_frames = config.mel_dim, config.max_frames
        self.has_duration = config.duration_embedding

    # --- style ---

    def check_style(self, style: np.ndarray) -> np.ndarray:
        """Copy a style vector, float32 [512].

        Raises:
            DataError: another shape, or values that are not finite.
        """
        return flow_batches.check_style(style, self.config)

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

    def loss_sum(self, batch: Arrays, masks: lora.Masks | None = None, checkpointing: bool = False) -> Tensor:
        """Sum the squared error of the velocity over valid frames, a float32 scalar with its gradient.

        Args:
            batch: a flow batch.
            masks: LoRA dropout, also of the second pass that checkpointing makes; None for none.
            checkpointing: keep only the blocks' inputs for the backward pass.

        Source: Liu et al. 2022 (arXiv 2209.03003), eq. 1.
        """
        self.check(batch)
        self._masking.masks = masks
        arrays = self._to_tensors(flow_batches.flow_inputs(batch, self.config, self.style is not None))
        if self.style is not None:
            arrays["style"] = arrays["style"] + arrays["own"] * self.style
        time, latents, noise = arrays["time"][:, None, None], arrays["latents"], arrays["noise"]
        made = self.module.conditions(**{key: arrays[key] for key in _GIVEN if key in arrays})
        found = self.module.velocity((1 - time) * noise + time * latents, arrays["time"], made, checkpointing)
        error = (found.float() - (latents - noise)).square()
        return (error.sum(dim=-1) * arrays["valid"]).sum()

    def _to_tensors(self, arrays: Arrays) -> dict[str, Tensor]:
        return {key: torch.from_numpy(np.array(value)).to(self.device) for key, value in arrays.items()}

    def start_training(self, optim: OptimSpec, trainable: Literal["adapter", "all"] = "adapter") -> TorchTraining:
        """Create a trainer of the adapter and the style vector, or of all base weights.

        Raises:
            BackendError: no adapter to train, or one in the way; all weights in another dtype than float32.
        """
        from musiclora.backends.torch.training import TorchTraining

        self.need_trainable(trainable)
        return TorchTraining(FlowObjective(self, trainable == "all"), optim)

    # --- sampling ---

    def _merged_module(self) -> DiT:
        """Build a module with the active adapter added; its other weights are shared."""
        module = DiT.empty(self.config)
        merged = dict(self.merged_weights("prepare")) if self.spec and self.enabled else {}
        for name, value in {**self.base_parameters(), **merged}.items():
            module.put(name, value.detach())
        return module

    def prepare(self, conditioning: Arrays) -> Prepared:
        """Compute the time-independent part once; see `backends.base.FlowModel`.

        It keeps the adapter and the style as they are now: what is changed afterwards needs another call. So does a
        training of all weights, which changes them in place.

        Raises:
            DataError: a conditioning without a length, or arrays that do not fit.
        """
        rows, given = flow_batches.conditioning(conditioning, self.config, self.read_style())
        module = self._merged_module()
        with torch.inference_mode():
            made = module.ahead(module.conditions(**self._to_tensors(given)))
        return Prepared((rows, given["text"].shape[1], self.latent_channels), made, module)

    def velocity(self, x: np.ndarray, time: float | np.ndarray, prepared: Prepared, guidance: float) -> np.ndarray:
        """Compute the velocity float32 [B, T, C] of x at a time, guided as v = p + guidance (p - q).

        Raises:
            DataError: x does not fit what was prepared.
        """
        if guidance < flow_batches.UNGUIDED:
            noisy, times = self._noisy(x, time, prepared)
            with torch.inference_mode():
                found: np.ndarray = conditional(noisy, times, prepared).cpu().numpy()
            return found
        p, q = self.velocities(x, time, prepared)
        guided: np.ndarray = p + np.float32(guidance) * (p - q)
        return guided

    def velocities(self, x: np.ndarray, time: float | np.ndarray, prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
        """Compute the conditional and the unconditional velocity, each float32 [B, T, C], in one pass of 2 B rows.

        Raises:
            DataError: x does not fit what was prepared.
        """
        noisy, times = self._noisy(x, time, prepared)
        with torch.inference_mode():
            p, q = both(noisy, times, prepared)
            return p.cpu().numpy(), q.cpu().numpy()

    def _noisy(self, x: np.ndarray, time: float | np.ndarray, prepared: Prepared) -> tuple[Tensor, Tensor]:
        given = flow_batches.latents_and_times(x, time, prepared.shape)
        latents, times = (torch.from_numpy(value).to(self.device) for value in given)
        return latents, times


def conditional(x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
    """Compute the float32 velocity of x [B, T, C] under its conditioning."""
    return prepared.module.velocity(x, time, prepared.made.rows(len(x))).float()


def both(x: Tensor, time: Tensor, prepared: Prepared) -> tuple[Tensor, Tensor]:
    """Compute the float32 velocities of x [B, T, C] with and without conditions, in one pass of 2 B rows."""
    twice = prepared.module.velocity(torch.cat([x, x]), torch.cat([time, time]), prepared.made)
    p, q = twice.float().chunk(2)
    return p, q


if TYPE_CHECKING:
    _: type[FlowModel] = TorchFlow
