"""Training on MLX: gradients of token-weighted sums, clipping and AdamW, each one compiled function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import mlx.core as mx
import numpy as np

from musiclora.backends.base import Arrays, OptimSpec, StepResult
from musiclora.backends.mlx import batches, decoder, head
from musiclora.backends.mlx.lora import DropoutPool, check_state
from musiclora.convert.errors import BackendError

if TYPE_CHECKING:
    from musiclora.backends.mlx.gpt2 import MlxGpt2

_MOMENTS = ("exp_avg", "exp_avg_sq")
_Named = dict[str, mx.array]


class MlxTraining:
    """AdamW on a model's adapter, or on all its base weights (implements `backends.base.Training`)."""

    def __init__(self, model: MlxGpt2, optim: OptimSpec, trainable: Literal["adapter", "all"]) -> None:
        self._model, self._optim, self._all = model, optim, trainable == "all"
        self._step = 0
        self._shapes = {key: tuple(value.shape) for key, value in self._trained().items()}
        self._pool: DropoutPool | None = None
        size = sum(math.prod(shape) for shape in self._shapes.values())
        self._moments = [mx.zeros((size,), mx.float32) for _ in _MOMENTS]
        self._gradient = mx.compile(mx.value_and_grad(self._loss))
        self._update = mx.compile(self._adamw)

    def _trained(self) -> _Named:
        return self._model.weights if self._all else self._model.factors

    # --- gradient ---

    def _loss(self, trained: _Named, frozen: _Named, batch: _Named, dropout: _Named) -> mx.array:
        """Summed loss over a micro-batch's scored rows."""
        model, config = self._model, self._model.config
        weights = trained if self._all else frozen
        masks = None
        if dropout:
            masks = decoder.Dropout(DropoutPool(dropout["values"]), tuple(model.names), dropout["offsets"])
        adapter = None if model.spec is None else decoder.Adapter(trained, model.spec.scale, masks)
        states = decoder.hidden_states(
            batch["tokens"],
            weights,
            config,
            adapter,
            batch.get("positions"),
            batch.get("segments"),
            self._optim.checkpointing,
        )
        scored = states[batch["rows"]]
        wte = decoder.table(weights)
        return head.loss_for_training(scored, wte, batch["targets"], batch["weights"], self._all)

    def _dropout(self, rows: int, index: int) -> _Named:
        """The pool and the masks' places for one micro-batch; empty without dropout."""
        spec = self._model.spec
        if self._all or spec is None or not spec.dropout:
            return {}
        largest = rows * max(self._model.linear_shapes()[name][1] for name in self._model.names)
        if self._pool is None or len(self._pool.values) < largest + DropoutPool.SLACK:
            self._pool = DropoutPool.draw(self._optim.seed, spec.dropout, largest)
        return {
            "values": self._pool.values,
            "offsets": DropoutPool.offsets(self._model.names, self._step, index),
        }

    def _accumulated(self, micro_batches: Sequence[Arrays]) -> tuple[mx.array, _Named]:
        """Sums of the losses and of their gradients; each micro-batch is computed before the next begins."""
        loss, total = mx.zeros((), mx.float32), None
        frozen = {} if self._all else self._model.weights
        for index, batch in enumerate(micro_batches):
            if not batches.weight(batch):
                continue
            arrays = {**batches.inputs(batch), **batches.scored(batch)}
            dropout = self._dropout(int(np.size(batch["tokens"])), index)
            part, grads = self._gradient(self._trained(), frozen, arrays, dropout)
            loss = loss + part
            total = grads if total is None else {key: total[key] + grads[key] for key in grads}
            if index + 1 < len(micro_batches):
                mx.eval(loss, total)
        return loss, total or {}

    # --- update ---

    def step(self, micro_batches: Sequence[Arrays], lr: float) -> StepResult:
        """One update from the gradient of (sum of losses) / (sum of weights).

        A non-finite loss or gradient leaves arrays and optimiser untouched and is returned as it is; so does a step
        without any scored target, with loss, weight and norm 0.
        """
        if {key: tuple(value.shape) for key, value in self._trained().items()} != self._shapes:
            raise BackendError("step: the adapter was fused or replaced since start_training; call that again")
        for batch in micro_batches:
            batches.check(batch, self._model.vocab_size, self._model.n_positions)
        weight = sum(batches.weight(batch) for batch in micro_batches)
        if not weight:
            return StepResult(0.0, 0.0, 0.0)
        loss, grads = self._accumulated(micro_batches)
        trained, moments, norm = self._update(self._trained(), grads, self._moments, loss, self._scalars(weight, lr))
        del grads
        mx.eval(trained, moments, norm, loss)
        result = StepResult(float(np.array(loss)), float(weight), float(np.array(norm)))
        if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
            self._trained().update(trained)
            self._moments = moments
            self._step += 1
        return result

    def _scalars(self, weight: int, lr: float) -> mx.array:
        """What changes from step to step, float32 [4]: 1/weight, decay, step size, 1/sqrt of the second correction."""
        first, second = (1 - beta ** (self._step + 1) for beta in self._optim.betas)
        values = [1 / weight, 1 - lr * self._optim.weight_decay, lr / first, second**-0.5]
        return mx.array(np.array(values, np.float32))

    def _adamw(
        self, trained: _Named, grads: _Named, moments: list[mx.array], loss: mx.array, scalars: mx.array
    ) -> tuple[_Named, list[mx.array], mx.array]:
        """New arrays, new moments and the gradient's norm before clipping; all arrays end to end as one."""
        inverse, decay, size, correction = scalars
        # Sums by rows first: one float32 running sum over millions of squares would lose digits.
        squares = [mx.square(g).sum(axis=-1).sum() for g in grads.values()]
        norm = mx.sqrt(mx.stack(squares).sum()) * inverse
        limit = self._optim.max_grad_norm
        clip = inverse * mx.minimum(1.0, limit / norm) if limit else inverse
        grad, value = (mx.concatenate([t[key].reshape(-1) for key in self._shapes]) for t in (grads, trained))
        grad = grad * clip
        (beta1, beta2), (first, second) = self._optim.betas, moments
        first = beta1 * first + (1 - beta1) * grad
        second = beta2 * second + (1 - beta2) * mx.square(grad)
        value = value * decay - size * first / (mx.sqrt(second) * correction + self._optim.eps)
        return self._split(value), [first, second], norm

    def _split(self, flat: mx.array) -> _Named:
        """Named arrays of a flat one."""
        named, start = {}, 0
        for key, shape in self._shapes.items():
            stop = start + math.prod(shape)
            named[key] = mx.contiguous(flat[start:stop]).reshape(shape)
            start = stop
        return named

    # --- state ---

    def read_state(self) -> dict[str, np.ndarray]:
        """`step`, int64 scalar, and `exp_avg.<name>`, `exp_avg_sq.<name>` for every trained array, float32."""
        state = {"step": np.array(self._step, np.int64)}
        for kind, flat in zip(_MOMENTS, self._moments, strict=True):
            state |= {f"{kind}.{key}": np.array(value) for key, value in self._split(flat).items()}
        return state

    def write_state(self, state: Arrays) -> None:
        """Inverse of read_state.

        Raises:
            ConvertError: missing, surplus or mis-shaped arrays, all at once.
        """
        shapes: Mapping[str, tuple[int, ...]] = {f"{m}.{k}": s for m in _MOMENTS for k, s in self._shapes.items()}
        check_state(state, {"step": (), **shapes}, "optimiser state")
        self._step = int(state["step"])
        self._moments = [
            mx.array(np.concatenate([np.asarray(state[f"{m}.{k}"], np.float32).reshape(-1) for k in self._shapes]))
            for m in _MOMENTS
        ]
