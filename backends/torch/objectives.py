"""What is trained and what is minimised: one class for each kind of model, all that `training` needs to know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from musiclora.backends import flow_batches, token_batches
from musiclora.backends.base import Arrays

if TYPE_CHECKING:
    from musiclora.backends.torch.adapter import Masks
    from musiclora.backends.torch.diffrhythm import TorchFlow
    from musiclora.backends.torch.gpt2 import TorchGpt2

STYLE = "style"


class TokenObjective:
    """Cross-entropy of a decoder's scored tokens (implements `training.Objective`)."""

    def __init__(self, model: TorchGpt2, everything: bool) -> None:
        self.model, self.everything = model, everything
        self.mask_dtype = model.dtype

    def trained(self) -> dict[str, Tensor]:
        return dict(self.model.base_parameters() if self.everything else self.model.adapter_parameters())

    def check(self, batch: Arrays) -> None:
        token_batches.check(batch, self.model.vocab_size, self.model.n_positions)

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

    def __init__(self, model: TorchFlow, everything: bool) -> None:
        self.model, self.everything = model, everything

    def trained(self) -> dict[str, Tensor]:
        if self.everything:
            return dict(self.model.base_parameters())
        style = {} if self.model.style is None else {STYLE: self.model.style}
        return {**self.model.adapter_parameters(), **style}

    def check(self, batch: Arrays) -> None:
        flow_batches.check(batch, self.model.config)

    def weight(self, batch: Arrays) -> float:
        return self.model.weight(batch)

    def loss(self, batch: Arrays, masks: Masks | None, checkpointing: bool) -> Tensor:
        """Summed over all values of valid frames."""
        return self.model.loss_sum(batch, masks, checkpointing)
