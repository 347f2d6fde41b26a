"""Training on MLX: gradients of weighted sums, clipping and AdamW as compiled functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx
import numpy as np

from musiclora.backends.base import Arrays, OptimSpec, StepResult, Training
from musiclora.backends.mlx.decoder import Dropout
from musiclora.backends.mlx.kernels import ops
from musiclora.backends.mlx.lora import DropoutPool
from musiclora.backends.optimiser_state import MOMENTS, check_optimiser_state, flat_moments, is_raised, raised_last
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.errors import BackendError

_Named = dict[str, mx.array]
_Shapes = dict[str, tuple[int, ...]]


class Adapted(Protocol):
    """A model that may carry an adapter."""

    spec: LoraSpec | None
    names: list[str]

    def linear_shapes(self) -> dict[str, tuple[int, int]]: ...


class Objective(Protocol):
    """The trained arrays of a model and the loss to minimise.

    Attributes:
        model: whose adapter's dropout is applied.
        everything: whether base weights are trained in place of the adapter.
    """

    everything: bool

    @property
    def model(self) -> Adapted: ...

    def trained(self) -> _Named:
        """Return the arrays that are trained, as they are now; float32."""

    def frozen(self) -> _Named:
        """Return the other arrays that the loss reads."""

    def replace(self, trained: _Named) -> None:
        """Replace the trained arrays."""

    def check(self, batch: Arrays) -> None:
        """Raise DataError where a batch does not fit the model."""

    def weight(self, batch: Arrays) -> float:
        """Count the scored targets."""

    def rows(self, batch: Arrays) -> int:
        """Count the rows of a linear layer's largest input, which a dropout mask must cover."""

    def arrays(self, batch: Arrays) -> _Named:
        """Copy the arrays that the loss reads of a batch to the device."""

    def loss(
        self, trained: _Named, frozen: _Named, arrays: _Named, dropout: Dropout | None, checkpointing: bool
    ) -> mx.array:
        """Sum the loss over scored targets, a float32 scalar."""


class MlxTraining:
    """AdamW on the arrays of an objective (implements `backends.base.Training`)."""

    def __init__(self, objective: Objective, optim: OptimSpec) -> None:
        self._objective, self._optim = objective, optim
        self._step = 0
        self._shapes = raised_last(self._trained_shapes(), optim.lora_plus_ratio)
        self._pool: DropoutPool | None = None
        size = sum(math.prod(shape) for shape in self._shapes.values())
        self._moments = [mx.zeros((size,), mx.float32) for _ in MOMENTS]
        # Not methods: a trainer that refers to itself would keep the model until the garbage is collected.
        self._gradient = mx.compile(mx.value_and_grad(partial(_summed_loss, objective, optim.checkpointing)))
        self._update = mx.compile(partial(_adamw_update, optim, self._shapes))

    def _trained_shapes(self) -> _Shapes:
        return {key: tuple(value.shape) for key, value in self._objective.trained().items()}

    # --- gradient ---

    def _dropout_arrays(self, rows: int, index: int) -> _Named:
        """Return the pool and the masks' offsets for one micro-batch; empty without dropout."""
        model = self._objective.model
        if self._objective.everything or model.spec is None or not model.spec.dropout:
            return {}
        shapes = model.linear_shapes()
        largest = rows * max(shapes[name][1] for name in model.names)
        if self._pool is None or len(self._pool.values) < largest + DropoutPool.SLACK:
            self._pool = DropoutPool.draw(self._optim.seed, model.spec.dropout, largest)
        return {
            "values": self._pool.values,
            "offsets": DropoutPool.offsets(model.names, self._step, index),
        }

    def _accumulate_gradients(self, micro_batches: Sequence[Arrays]) -> tuple[mx.array, _Named]:
        """Sum the losses and their gradients; each micro-batch is computed before the next begins."""
        loss, total = mx.zeros((), mx.float32), None
        objective = self._objective
        trained, frozen = objective.trained(), objective.frozen()
        for index, batch in enumerate(micro_batches):
            if not objective.weight(batch):
                continue
            dropout = self._dropout_arrays(objective.rows(batch), index)
            part, grads = self._gradient(trained, frozen, objective.arrays(batch), dropout)
            loss = loss + part
            total = grads if total is None else {key: total[key] + grads[key] for key in grads}
            if index + 1 < len(micro_batches):
                mx.eval(loss, total)
        return loss, total or {}

    # --- update ---

    def step(self, micro_batches: Sequence[Arrays], lr: float) -> StepResult:
        """Make one update from the gradient of (sum of losses) / (sum of weights).

        A non-finite loss or gradient leaves arrays and optimiser untouched and is returned as it is; so does a step
        without any scored target, with loss, weight and norm 0.
        """
        objective = self._objective
        if self._trained_shapes() != self._shapes:
            raise BackendError("step: the adapter was fused or replaced since start_training; call that again")
        for batch in micro_batches:
            objective.check(batch)
        weight = sum(objective.weight(batch) for batch in micro_batches)
        if not weight:
            return StepResult(0.0, 0.0, 0.0)
        loss, grads = self._accumulate_gradients(micro_batches)
        trained, moments, norm = self._update(objective.trained(), grads, self._moments, self._step_scalars(weight, lr))
        del grads
        mx.eval(trained, moments, norm, loss)
        result = StepResult(float(np.array(loss)), float(weight), float(np.array(norm)))
        if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
            objective.replace(trained)
            self._moments = moments
            self._step += 1
        return result

    def _step_scalars(self, weight: float, lr: float) -> mx.array:
        """Compute float32 [6]: 1/weight, 1/sqrt of the second moment's correction, and decay and step size twice.

        The second pair is that of the arrays with LoRA+'s higher learning rate.
        """
        first, second = (1 - beta ** (self._step + 1) for beta in self._optim.betas)
        values = [1 / weight, second**-0.5]
        for rate in (lr, lr * self._optim.lora_plus_ratio):
            values += [1 - rate * self._optim.weight_decay, rate / first]
        return mx.array(np.array(values, np.float32))

    # --- state ---

    def read_state(self) -> dict[str, np.ndarray]:
        """Copy `step`, an int64 scalar, and float32 `exp_avg.<name>`, `exp_avg_sq.<name>` of every trained array."""
        state = {"step": np.array(self._step, np.int64)}
        for kind, flat in zip(MOMENTS, self._moments, strict=True):
            state |= {f"{kind}.{key}": np.array(value) for key, value in _split_flat(flat, self._shapes).items()}
        return state

    def write_state(self, state: Arrays) -> None:
        """Invert read_state.

        Raises:
            ConvertError: missing, surplus, mis-shaped or non-finite arrays, all at once.
        """
        check_optimiser_state(state, self._shapes)
        self._step = int(state["step"])
        self._moments = [mx.array(flat) for flat in flat_moments(state, self._shapes).values()]


def _summed_loss(
    objective: Objective, checkpointing: bool, trained: _Named, frozen: _Named, arrays: _Named, dropout: _Named
) -> mx.array:
    """Sum the loss over a micro-batch's scored targets."""
    masks = None
    if dropout:
        masks = Dropout(DropoutPool(dropout["values"]), tuple(objective.model.names), dropout["offsets"])
    return objective.loss(trained, frozen, arrays, masks, checkpointing)


def _adamw_update(
    optim: OptimSpec,
    shapes: _Shapes,
    trained: _Named,
    grads: _Named,
    moments: list[mx.array],
    scalars: mx.array,
) -> tuple[_Named, list[mx.array], mx.array]:
    """Compute new arrays, new moments and the gradient's norm before clipping, on one flat array."""
    inverse, correction, *rates = scalars
    # Sums by rows first: one float32 running sum over millions of squares would lose digits.
    squares = [ops.row_sums(mx.square(g).sum(axis=-1).reshape(1, -1)).sum() for g in grads.values()]
    norm = mx.sqrt(mx.stack(squares).sum()) * inverse
    limit = optim.max_grad_norm
    clip = inverse * mx.minimum(1.0, limit / norm) if limit else inverse
    grad, value = (mx.concatenate([t[key].reshape(-1) for key in shapes]) for t in (grads, trained))
    grad = grad * clip
    (beta1, beta2), (first, second) = optim.betas, moments
    first = beta1 * first + (1 - beta1) * grad
    second = beta2 * second + (1 - beta2) * mx.square(grad)
    spread = mx.sqrt(second) * correction + optim.eps
    if optim.lora_plus_ratio == 1:
        value = value * rates[0] - rates[1] * first / spread
    else:
        low = sum(math.prod(shape) for key, shape in shapes.items() if not is_raised(key))
        parts = ((slice(None, low), rates[:2]), (slice(low, None), rates[2:]))
        value = mx.concatenate([value[at] * decay - size * first[at] / spread[at] for at, (decay, size) in parts])
    return _split_flat(value, shapes), [first, second], norm


def _split_flat(flat: mx.array, shapes: _Shapes) -> _Named:
    """Split a flat array into named ones."""
    named, start = {}, 0
    for key, shape in shapes.items():
        stop = start + math.prod(shape)
        named[key] = mx.contiguous(flat[start:stop]).reshape(shape)
        start = stop
    return named


if TYPE_CHECKING:
    _: type[Training] = MlxTraining
