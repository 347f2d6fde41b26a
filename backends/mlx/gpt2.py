"""GPT-2 on MLX: weights, adapter, training loss and logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import mlx.core as mx
import numpy as np

from musiclora.backends import token_batches
from musiclora.backends.base import Arrays, GenerationSession, Grammar, LossSum, OptimSpec, SamplingSpec, TokenModel
from musiclora.backends.mlx import batches, decoder, lora
from musiclora.backends.mlx.adapted import AdaptedWeights
from musiclora.backends.mlx.kernels import head, quantised
from musiclora.convert.errors import BackendError
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.convert.models.quantise import Packed

if TYPE_CHECKING:
    from musiclora.backends.mlx.training import MlxTraining


class MlxGpt2(AdaptedWeights):
    """A GPT-2 checkpoint (implements `backends.base.TokenModel`).

    Attributes:
        weights: base arrays under canonical names; a quantised one with its scales and biases, see `quantised`.
    """

    def __init__(self, folder: Path, dtype: mx.Dtype) -> None:
        checkpoint = read_checkpoint(folder)
        self.config = checkpoint.config
        super().__init__(self.config.linear_shapes(), dtype)
        self.vocab_size: int = checkpoint.config.vocab_size
        self.n_positions: int = checkpoint.config.n_positions
        for name, value in checkpoint.stored():  # names and shapes are proven to be those of the configuration
            if isinstance(value, Packed):
                self.weights |= quantised.load(name, value, dtype)
            else:
                self.weights[name] = mx.array(np.ascontiguousarray(value, np.float32)).astype(dtype)
        mx.eval(self.weights)

    # --- weights ---

    def merged_weights(self) -> dict[str, mx.array]:
        """Return weights with the active adapter added, or kept beside quantised ones; the model's own stay."""
        if not self.spec or not self._enabled:
            return self.weights
        scale, beside = self.spec.scale, [n for n in self.names if quantised.find(self.weights, n)]
        merged = lora.fused(self.weights, self.factors, [n for n in self.names if n not in beside], scale)
        return merged | lora.beside_quantised(self.weights, self.factors, beside, scale)

    def fuse(self) -> None:
        """Add the update to the weights and drop the adapter; adapted weights become float."""
        spec = self.need_adapter("fuse")
        self.put_fused(lora.fused(self.weights, self.factors, self.names, spec.scale))

    def read_weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield base weights one by one, float32, under transformers' names and layouts."""
        shapes = self.linear_shapes()
        for name in self.config.tensor_shapes():
            module = name.removesuffix(".weight")
            parts = quantised.find(self.weights, module)
            if parts is None:
                yield name, np.array(self.weights[name].astype(mx.float32))
                continue
            linear = shapes.get(module)
            value = np.array(
                quantised.dequantised(parts, linear[1] if linear else self.config.n_embd).astype(mx.float32)
            )
            yield name, value.T if linear else value

    # --- computing ---

    def _hidden_states(self, batch: Arrays) -> mx.array:
        token_batches.check_token_batch(batch, self.vocab_size, self.n_positions)
        inputs = batches.token_inputs(batch)
        return decoder.hidden_states(
            inputs["tokens"],
            self.weights,
            self.config,
            self.active_adapter(),
            inputs.get("positions"),
            inputs.get("segments"),
        )

    def weight(self, batch: Arrays) -> float:
        """Count the scored tokens of the batch."""
        return float(token_batches.count_tokens(batch))

    def loss(self, batch: Arrays) -> LossSum:
        """Compute the loss without gradient or dropout; repeatable."""
        states, rows = self._hidden_states(batch), batches.scored_rows(batch)
        total = head.loss(states[rows["rows"]], decoder.table(self.weights), rows["targets"], rows["weights"])
        return LossSum(float(np.array(total)), self.weight(batch))

    def token_losses(self, batch: Arrays) -> np.ndarray:
        """Compute the cross-entropy of each scored target in nats, float32 [B, L]; 0 elsewhere."""
        states, rows = self._hidden_states(batch), batches.scored_rows(batch)
        nats = np.array(head.row_losses(states[rows["rows"]], decoder.table(self.weights), rows["targets"]))
        found, scored = np.zeros(np.shape(batch["tokens"]), np.float32), np.asarray(batch["loss_mask"], bool)
        found[scored] = nats[: np.count_nonzero(scored)]
        return found

    def logits(self, batch: Arrays) -> np.ndarray:
        """Compute next-token logits, float32 [B, L, V]."""
        found = (self._hidden_states(batch) @ decoder.table(self.weights).T).astype(mx.float32)
        return np.array(found.reshape(*np.shape(batch["tokens"]), self.vocab_size))

    def start_training(self, optim: OptimSpec, trainable: Literal["adapter", "all"] = "adapter") -> MlxTraining:
        """Create a trainer of the adapter or of all base weights.

        Raises:
            BackendError: no adapter to train, or one in the way; all weights in another dtype than float32.
        """
        from musiclora.backends.mlx.objectives import TokenObjective
        from musiclora.backends.mlx.training import MlxTraining

        self.need_trainable(trainable)
        if trainable == "all" and quantised.find(self.weights, decoder.EMBEDDING.removesuffix(".weight")):
            raise BackendError("start_training('all'): this base is quantised; train the float base instead")
        return MlxTraining(TokenObjective(self, trainable == "all"), optim)

    def start_generation(self, batch: int, capacity: int, spec: SamplingSpec) -> GenerationSession:
        """Start a session of empty rows; see `backends.base.TokenModel`."""
        from musiclora.backends.mlx.generation import MlxSession

        return MlxSession(self, batch, capacity, spec)

    def generate(
        self,
        prompts: np.ndarray,
        spec: SamplingSpec,
        uniforms: np.ndarray,
        grammar: Grammar | None = None,
        on_tokens: Callable[[np.ndarray], None] | None = None,
    ) -> np.ndarray:
        """Continue prompts; see `backends.base.TokenModel`."""
        from musiclora.backends.mlx.generation import generate

        return generate(self, prompts, spec, uniforms, grammar, on_tokens)


if TYPE_CHECKING:
    _: type[TokenModel] = MlxGpt2
