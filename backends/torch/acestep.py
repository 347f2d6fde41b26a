"""ACE-Step 1.5 on torch: transformer, adapter, training loss and guided velocity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from musiclora.backends import acestep_batches
from musiclora.backends.base import Arrays, FlowModel, OptimSpec
from musiclora.backends.flow_batches import UNGUIDED, latents_and_times
from musiclora.backends.torch import acestep_network, lora
from musiclora.backends.torch.acestep_module import (
    PREFIX,
    empty_module,
    fill_module,
    linear_shapes,
    put,
)
from musiclora.backends.torch.acestep_network import Crossing, Frame
from musiclora.backends.torch.adapted import StyledModule
from musiclora.backends.torch.objectives import FlowObjective
from musiclora.convert.models.acestep import read_acestep
from musiclora.convert.models.acestep_config import AceStepConfig
from musiclora.convert.models.acestep_names import NULL_CONDITION, transformer_names

if TYPE_CHECKING:
    from musiclora.backends.torch.training import TorchTraining

__all__ = ["Prepared", "TorchAceStep"]


@dataclass(frozen=True)
class Prepared:
    """The time-independent part of one conditioning, with the adapter of the moment it was made.

    Attributes:
        shape: [B, T, C] of the latents it is for.
        frame: context, rotary embedding and attention plans.
        crossing: keys and values of cross attention in every block.
        module: with the adapter added; it shares the model's other weights.
    """

    shape: tuple[int, ...]
    frame: Frame
    crossing: Crossing
    module: nn.Module


class TorchAceStep(StyledModule):
    """ACE-Step's transformer on one device (implements `backends.base.FlowModel`).

    Batches are those of `backends.acestep_batches`. The interface's time is 1 - t of ACE-Step, and its velocity the
    negative of the network's output.

    Args:
        config: sizes of the model.
        tensors: checkpoint by canonical name, `decoder.*` and `null_condition_emb`; other parts are passed over.
        dtype: of the computation; the residual stream, too.
        device: where everything lies.

    Raises:
        ConvertError: missing, surplus or mis-shaped tensors, all at once.
    """

    has_duration = False
    max_frames = acestep_batches.MAX_FRAMES

    def __init__(
        self,
        config: AceStepConfig,
        tensors: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, where = config, torch.device(device)
        module = empty_module(config)
        self._null = fill_module(module, config, tensors, dtype, where)
        super().__init__(module, linear_shapes(module), dtype, where)
        self.latent_channels = config.latent_dim

    @classmethod
    def from_folder(cls, path: Path, dtype: torch.dtype, device: torch.device) -> TorchAceStep:
        """Load a model folder in any layout; quantised weights are de-quantised.

        Raises:
            BackendError: diffusers is not installed, or has no ACE-Step.
            ConvertError: a folder that does not fit.
        """
        checkpoint = read_acestep(path)
        return cls(checkpoint.config, checkpoint.tensors(transformer_names(checkpoint.config)), dtype, device)

    # --- style ---

    def check_style(self, style: np.ndarray) -> np.ndarray:
        """Copy a trained condition, float32 [K, D].

        Raises:
            DataError: another shape, or values that are not finite.
        """
        return acestep_batches.check_trained_condition(style, self.config)

    def _own_rows(self) -> int:
        return 0 if self.style is None else len(self.style)

    def read_weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield `decoder.*` and `null_condition_emb` one by one, float32, under canonical names and layouts."""
        for name, value in super().read_weights():
            yield PREFIX + name, value
        yield NULL_CONDITION, self._null.cpu().numpy().reshape(1, 1, -1).copy()

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

    def loss_sum(self, batch: Arrays, masks: lora.Masks | None = None, checkpointing: bool = False) -> Tensor:
        """Sum the squared error of the velocity over valid frames, a float32 scalar with its gradient.

        Args:
            batch: a flow batch of `acestep_batches`.
            masks: LoRA dropout, also of the second pass that checkpointing makes; None for none.
            checkpointing: keep only the blocks' inputs for the backward pass.

        Source: Liu et al. 2022 (arXiv 2209.03003), eq. 1.
        """
        self.check(batch)
        self._masking.masks = masks
        arrays = self._to_tensors(acestep_batches.flow_inputs(batch, self._null_row(), self._own_rows()))
        if self.style is not None and acestep_batches.OWN in arrays:
            arrays["condition"] = arrays["condition"] + arrays[acestep_batches.OWN][:, None, None] * self.style
        time, latents, noise = arrays["time"][:, None, None], arrays["latents"], arrays["noise"]
        noisy = torch.lerp(noise, latents, time)
        found = acestep_network.velocity(self.module, self.config, noisy, arrays["time"], arrays, checkpointing)
        error = (found - (latents - noise)).square()
        return (error.sum(dim=-1) * arrays["valid"]).sum()

    def _null_row(self) -> np.ndarray:
        row: np.ndarray = self._null.cpu().numpy()
        return row

    def _to_tensors(self, arrays: Arrays) -> dict[str, Tensor]:
        return {key: torch.from_numpy(np.array(value)).to(self.device) for key, value in arrays.items()}

    def start_training(self, optim: OptimSpec, trainable: Literal["adapter", "all"] = "adapter") -> TorchTraining:
        """Create a trainer of the adapter and the trained condition, or of all weights of the transformer.

        Raises:
            BackendError: no adapter to train, or one in the way; all weights in another dtype than float32.
        """
        from musiclora.backends.torch.training import TorchTraining

        self.need_trainable(trainable)
        return TorchTraining(FlowObjective(self, trainable == "all"), optim)

    # --- sampling ---

    def _merged_module(self) -> nn.Module:
        """Build a module with the active adapter added; its other weights are shared."""
        module = empty_module(self.config)
        merged = dict(self.merged_weights("prepare")) if self.spec and self.enabled else {}
        for name, value in {**self.base_parameters(), **merged}.items():
            put(module, name, value.detach())
        return module

    def prepare(self, conditioning: Arrays) -> Prepared:
        """Compute the time-independent part once: context, and cross-attention keys and values of every block.

        It keeps the adapter and the trained condition as they are now: what is changed afterwards needs another call.
        So does a training of all weights, which changes them in place.

        Args:
            conditioning: a batch of `acestep_batches` without latents, noise and time; `valid` is optional.

        Raises:
            DataError: a conditioning without a context, or arrays that do not fit.
        """
        shape, given = acestep_batches.conditioning(conditioning, self.config, self._null_row(), self.read_style())
        module, arrays = self._merged_module(), self._to_tensors(given)
        with torch.inference_mode():
            frame = acestep_network.frame_of(module, self.config, arrays["context"], arrays["valid"])
            crossing = acestep_network.crossing_of(module, arrays["condition"], arrays["condition_valid"], self._null)
        return Prepared(shape, frame, crossing, module)

    def velocity(self, x: np.ndarray, time: float | np.ndarray, prepared: Prepared, guidance: float) -> np.ndarray:
        """Compute the velocity float32 [B, T, C] of x at a time, guided as v = p + guidance (p - q).

        Raises:
            DataError: x does not fit what was prepared.
        """
        p, q = self._pass(x, time, prepared, guidance >= UNGUIDED)
        return p if q is None else p + np.float32(guidance) * (p - q)

    def velocities(self, x: np.ndarray, time: float | np.ndarray, prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
        """Compute the velocities with the condition and with the null condition, float32 [B, T, C], in one pass.

        Raises:
            DataError: x does not fit what was prepared.
        """
        p, q = self._pass(x, time, prepared, True)
        return p, cast(np.ndarray, q)

    def _pass(
        self, x: np.ndarray, time: float | np.ndarray, prepared: Prepared, twice: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        latents, times = latents_and_times(x, time, prepared.shape)
        if (times == times[0]).all():
            times = times[:1]  # its modulation is computed once
        with torch.inference_mode():
            noisy, at = (torch.from_numpy(value).to(self.device) for value in (latents, times))
            found = acestep_network.sampling_velocities(
                prepared.module, self.config, noisy, at, prepared.frame, prepared.crossing, twice
            )
            p, q = (None if part is None else part.cpu().numpy() for part in found)
        return cast(np.ndarray, p), q


if TYPE_CHECKING:
    _: type[FlowModel] = TorchAceStep
