"""Training objectives: the trained arrays and the loss of each kind of model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import mlx.core as mx
import numpy as np

from musiclora.backends import flow_batches, token_batches
from musiclora.backends.base import Arrays
from musiclora.backends.mlx import batches, decoder, dit
from musiclora.backends.mlx.decoder import ActiveAdapter, Dropout
from musiclora.backends.mlx.kernels import head
from musiclora.backends.mlx.training import Adapted, Objective
from musiclora.convert.models.diffrhythm import DiffRhythmConfig
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
    """Weights of a flow model, and its style vector where it has one."""

    config: DiffRhythmConfig
    style: mx.array | None


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

    With the adapter the model's own style vector is trained, where it has one.
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
        flow_batches.check_flow_batch(batch, self.model.config)

    def weight(self, batch: Arrays) -> float:
        return self.model.weight(batch)

    def rows(self, batch: Arrays) -> int:
        return int(np.size(batch["valid"]))

    def arrays(self, batch: Arrays) -> Named:
        return to_mlx(flow_batches.flow_inputs(batch, self.model.config, self.model.style is not None))

    def loss(
        self, trained: Named, frozen: Named, arrays: Named, dropout: Dropout | None, checkpointing: bool
    ) -> mx.array:
        """Sum the loss over scored targets: nats of tokens, squared error of latent values."""
        model = self.model
        weights = trained if self.everything else frozen
        adapter = None if model.spec is None else ActiveAdapter(trained, model.spec.scale, dropout)
        style = (frozen if self.everything else trained).get(flow_batches.STYLE)
        return flow_loss(arrays, style, weights, adapter, model.config, checkpointing)


def flow_loss(
    arrays: Named,
    style: mx.array | None,
    weights: Named,
    adapter: ActiveAdapter | None,
    config: DiffRhythmConfig,
    checkpointing: bool = False,
) -> mx.array:
    """Sum the squared error of the velocity at (1 - t) noise + t latents against latents - noise, in float32.

    Args:
        arrays: what `flow_batches.flow_inputs` made, as MLX's.
        style: the model's own style vector float32 [512], or None.
        weights: of the model.
        adapter: LoRA, or None.
        config: the model's numbers.
        checkpointing: keep only the blocks' inputs for the backward pass.

    Source: Liu et al. 2022 (arXiv 2209.03003), eq. 1.
    """
    if style is not None:
        arrays = arrays | {"style": arrays["style"] + arrays["own"] * style}
    time, latents, noise = arrays["time"][:, None, None], arrays["latents"], arrays["noise"]
    made = dit.conditions(arrays, weights, adapter, config)
    found = dit.velocity(
        (1 - time) * noise + time * latents, arrays["time"], made, weights, adapter, config, checkpointing
    )
    error = mx.square(found.astype(mx.float32) - (latents - noise))
    return (error.sum(axis=-1) * arrays["valid"]).sum()


if TYPE_CHECKING:
    _objectives: tuple[type[Objective], type[Objective]] = (TokenObjective, FlowObjective)
