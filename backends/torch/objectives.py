"""Training objectives: the trained parameters and the loss of each kind of model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from musiclora.backends import flow_batches
from musiclora.backends.base import Arrays
from musiclora.backends.torch.adapted import AdaptedModule, StyledModule
from musiclora.backends.torch.lora import Masks
from musiclora.backends.torch.training import Objective


class _ModelObjective:
    """Shared part of the objectives: the model's own batches, loss and parameters."""

    def __init__(self, model: AdaptedModule, everything: bool) -> None:
        self.model, self.everything = model, everything

    def trained(self) -> dict[str, Tensor]:
        """Return the base parameters or the adapter's."""
        return dict(self.model.base_parameters() if self.everything else self.model.adapter_parameters())

    def check(self, batch: Arrays) -> None:
        self.model.check(batch)

    def weight(self, batch: Arrays) -> float:
        return self.model.weight(batch)

    def loss(self, batch: Arrays, masks: Masks | None, checkpointing: bool) -> Tensor:
        return self.model.loss_sum(batch, masks, checkpointing)


class TokenObjective(_ModelObjective):
    """Cross-entropy of a decoder's scored tokens in nats (implements `training.Objective`)."""

    def __init__(self, model: AdaptedModule, everything: bool) -> None:
        super().__init__(model, everything)
        self.mask_dtype = model.dtype


class FlowObjective(_ModelObjective):
    """Squared error of a flow model's velocity over valid frames (implements `training.Objective`).

    With the adapter the model's own style vector is trained, where it has one.
    """

    mask_dtype = torch.float32  # PEFT's layers make their low-rank products in it

    def __init__(self, model: StyledModule, everything: bool) -> None:
        super().__init__(model, everything)
        self._styled = model

    def trained(self) -> dict[str, Tensor]:
        """Return the base parameters, or the adapter's and the style vector."""
        style = self._styled.style
        return super().trained() | ({} if self.everything or style is None else {flow_batches.STYLE: style})


if TYPE_CHECKING:
    _objectives: tuple[type[Objective], type[Objective]] = (TokenObjective, FlowObjective)
