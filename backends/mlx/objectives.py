"""Training objectives: the trained arrays and the loss of each kind of model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import mlx.core as mx
import numpy as np

from musiclora.backends import flow_batches, token_batches
from musiclora.backends.base import Arrays
from musiclora.backends.mlx import batches, decoder
from musiclora.backends.mlx.decoder import ActiveAdapter, Dropout
from musiclora.backends.mlx.kernels import head
from musiclora.backends.mlx.training import Adapted, Objective
from musiclora.convert.models.gpt2 import Gpt2Config

Named = dict[str, mx.array]


class WeightedModel(Adapted, Protocol):
    """A model that keeps its base weights and its adapter's factors in dictionaries.

    Attributes:
        weights: base arrays by name.
        factors: arrays of the adapter by state key.
    """

    weights: Named
    factors: Named

    def weight(self, batch: Arrays) -> float: ...


class TokenWeights(WeightedModel, Protocol):
    """Weights of a decoder over tokens."""

    config: Gpt2Config


class FlowWeights(WeightedModel, Protocol):
    """Weights of a flow model, and its own style where it has one."""

    style: mx.array | None

    def check(self, batch: Arrays) -> None: ...
    def rows(self, batch: Arrays) -> int: ...
    def arrays(self, batch: Arrays) -> Named: ...
    def loss_sum(
        self,
        arrays: Named,
        style: mx.array | None,
        weights: Named,
        adapter: ActiveAdapter | None,
        checkpointing: bool = False,
    ) -> mx.array: ...


def to_mlx(arrays: Arrays) -> Named:
    """Copy numpy arrays to the device."""
    return {key: mx.array(value) for key, value in arrays.items()}


class TokenObjective:
    """Cross-entropy of a decoder's scored tokens (implements `training.Objective`)."""

    def __init__(self, model: TokenWeights, everything: bool) -> None:
        self.model, self.everything = model, everything

    def trained(self) -> Named:
        return self.model.weights if self.everything else self.model.factors

    def frozen(self) -> Named:
        return {} if self.everything else self.model.weights

    def replace(self, trained: Named) -> None:
        self.trained().update(trained)

    def check(self, batch: Arrays) -> None:
        token_batches.check_token_batch(batch, self.model.config.vocab_size, self.model.config.n_positions)

    def weight(self, batch: Arrays) -> float:
        return self.model.weight(batch)

    def rows(self, batch: Arrays) -> int:
        return int(np.size(batch["tokens"]))

    def arrays(self, batch: Arrays) -> Named:
        return {**batches.token_inputs(batch), **batches.scored_rows(batch)}

    def loss(
        self, trained: Named, frozen: Named, arrays: Named, dropout: Dropout | None, checkpointing: bool
    ) -> mx.array:
        """Sum the loss over scored targets: nats of tokens, squared error of latent values."""
        model = self.model
        weights = trained if self.everything else frozen
        adapter = None if model.spec is None else ActiveAdapter(trained, model.spec.scale, dropout)
        states = decoder.hidden_states(
            arrays["tokens"],
            weights,
            model.config,
            adapter,
            arrays.get("positions"),
            arrays.get("segments"),
            checkpointing,
        )
        scored, wte = states[arrays["rows"]], decoder.table(weights)
        return head.loss_for_training(scored, wte, arrays["targets"], arrays["weights"], self.everything)


class FlowObjective:
    """Squared error of a flow model's velocity (implements `training.Objective`).

    With the adapter the model's own style is trained, where it has one.
    """

    def __init__(self, model: FlowWeights, everything: bool) -> None:
        self.model, self.everything = model, everything

    def _style(self) -> Named:
        return {} if self.model.style is None else {flow_batches.STYLE: self.model.style}

    def trained(self) -> Named:
        return self.model.weights if self.everything else self.model.factors | self._style()

    def frozen(self) -> Named:
        return self._style() if self.everything else self.model.weights

    def replace(self, trained: Named) -> None:
        if self.everything:
            self.model.weights.update(trained)
            return
        self.model.factors.update({key: value for key, value in trained.items() if key != flow_batches.STYLE})
        self.model.style = trained.get(flow_batches.STYLE)

    def check(self, batch: Arrays) -> None:
        self.model.check(batch)

    def weight(self, batch: Arrays) -> float:
        return self.model.weight(batch)

    def rows(self, batch: Arrays) -> int:
        return self.model.rows(batch)

    def arrays(self, batch: Arrays) -> Named:
        return self.model.arrays(batch)

    def loss(
        self, trained: Named, frozen: Named, arrays: Named, dropout: Dropout | None, checkpointing: bool
    ) -> mx.array:
        """Sum the squared error of the velocity over all values of valid frames."""
        model = self.model
        weights = trained if self.everything else frozen
        adapter = None if model.spec is None else ActiveAdapter(trained, model.spec.scale, dropout)
        style = (frozen if self.everything else trained).get(flow_batches.STYLE)
        return model.loss_sum(arrays, style, weights, adapter, checkpointing)


def squared_error(velocity: mx.array, arrays: Named) -> mx.array:
    """Sum the squared error of a velocity [B, T, C] against latents - noise over valid frames, in float32.

    Source: Liu et al. 2022 (arXiv 2209.03003), eq. 1.
    """
    error = mx.square(velocity.astype(mx.float32) - (arrays["latents"] - arrays["noise"]))
    return (error.sum(axis=-1) * arrays["valid"]).sum()


def noisy_latents(arrays: Named) -> mx.array:
    """Compute (1 - time) noise + time latents, float32 [B, T, C]."""
    time = arrays["time"][:, None, None]
    return (1 - time) * arrays["noise"] + time * arrays["latents"]


if TYPE_CHECKING:
    _objectives: tuple[type[Objective], type[Objective]] = (TokenObjective, FlowObjective)
