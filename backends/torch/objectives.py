"""Training objectives: the trained parameters and the loss of each kind of model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from musiclora.backends import flow_batches
from musiclora.backends.base import Arrays
from musiclora.backends.torch.adapted import AdaptedModule, StyledModule
from musiclora.backends.torch.adapter import Masks
from musiclora.backends.torch.training import Objective


class TokenObjective:
    """Cross-entropy of a decoder's scored tokens (implements `training.Objective`)."""

    def __init__(self, model: AdaptedModule, everything: bool) -> None:
        self.model, self.everything = model, everything
        self.mask_dtype = model.dtype

    def trained(self) -> dict[str, Tensor]:
        return dict(self.model.base_parameters() if self.everything else self.model.adapter_parameters())

    def check(self, batch: Arrays) -> None:
        self.model.check(batch)

    def weight(self, batch: Arrays) -> float:
        return self.model.weight(batch)

    def loss(self, batch: Arrays, masks: Masks | None, checkpointing: bool) -> Tensor:
        """Summed over scored tokens, nats."""
        return self.model.loss_sum(batch, masks, checkpointing)


class FlowObjective:
    """Squared error of a flow model's velocity (implements `training.Objective`).

    With the adapter the model's own style vector is trained, where it has one.
    """

    mask_dtype = torch.float32  # PEFT's layers make their low-rank products in it

    def __init__(self, model: StyledModule, everything: bool) -> None:
        self.model, self.everything = model, everything

    def trained(self) -> dict[str, Tensor]:
        if self.everything:
            return dict(self.model.base_parameters())
        style = {} if self.model.style is None else {flow_batches.STYLE: self.model.style}
        return {**self.model.adapter_parameters(), **style}

    def check(self, batch: Arrays) -> None:
        self.model.check(batch)

    def weight(self, batch: Arrays) -> float:
        return self.model.weight(batch)

    def loss(self, batch: Arrays, masks: Masks | None, checkpointing: bool) -> Tensor:
        """Summed over all values of valid frames."""
        return self.model.loss_sum(batch, masks, checkpointing)


if TYPE_CHECKING:
    _objectives: tuple[type[Objective], type[Objective]] = (TokenObjective, FlowObjective)
