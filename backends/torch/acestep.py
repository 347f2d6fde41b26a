"""ACE-Step 1.5 on torch: transformer, adapter, training loss and guided velocity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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
from musiclora.convert.errors import BackendError
from musiclora.convert.models.acestep_config import AceStepConfig
from musiclora.convert.models.acestep_names import NULL_CONDITION

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
    negative of the network's output. There is no style vector.

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

    # --- style ---

    def set_style(self, style: np.ndarray | None) -> None:
        """Refuse a style vector, which this architecture has no input for; None changes nothing.

        Raises:
            BackendError: a style vector.
        """
        if style is not None:
            raise BackendError("set_style: ACE-Step has no style vector; its condition is text, lyrics and timbre")

    def read_style(self) -> None:
        """Return None: there is no style vector."""
        return

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
        arrays = self._to_tensors(acestep_batches.flow_inputs(batch, self._null_row()))
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
        """Create a trainer of the adapter, or of all weights of the transformer.

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

        It keeps the adapter as it is now: what is changed afterwards needs another call. So does a training of all
        weights, which changes them in place.

        Args:
            conditioning: a batch of `acestep_batches` without latents, noise and time; `valid` is optional.

        Raises:
            DataError: a conditioning without a context, or arrays that do not fit.
        """
        shape, given = acestep_batches.conditioning(conditioning, self.config, self._null_row())
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
        latents, times = latents_and_times(x, time, prepared.shape)
        if (times == times[0]).all():
            times = times[:1]  # its modulation is computed once
        strength = 0.0 if guidance < UNGUIDED else float(guidance)
        with torch.inference_mode():
            noisy, at = (torch.from_numpy(value).to(self.device) for value in (latents, times))
            found = acestep_network.guided_velocity(
                prepared.module, self.config, noisy, at, prepared.frame, prepared.crossing, strength
            )
            result: np.ndarray = found.cpu().numpy()
        return result


if TYPE_CHECKING:
    _: type[FlowModel] = TorchAceStep
