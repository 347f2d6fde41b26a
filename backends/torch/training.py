"""Training on torch: gradients of weighted sums, clipping and AdamW over one flat array."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from musiclora.backends.base import Arrays, OptimSpec, StepResult, Training
from musiclora.backends.optimiser_state import MOMENTS, check_optimiser_state, flat_moments, is_raised, raised_last
from musiclora.backends.torch.adapted import AdaptedModule
from musiclora.backends.torch.lora import DropoutPool, Masks
from musiclora.convert.errors import BackendError


class _FlatTensors:
    """Named tensors as views of one flat array, and their gradients likewise."""

    def __init__(self, named: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        first = next(iter(named.values()))
        self.shapes = {k: tuple(t.shape) for k, t in named.items()}
        self.values = torch.empty(sum(t.numel() for t in named.values()), dtype=dtype, device=first.device)
        self.grads = torch.zeros_like(self.values)
        self.views = self.split(self.values)
        self.grad_views = self.split(self.grads)
        with torch.no_grad():
            for name, tensor in named.items():
                self.views[name].copy_(tensor)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Split an array of the same layout into views."""
        parts = torch.split(flat, [math.prod(shape) for shape in self.shapes.values()])
        return {k: part.view(shape) for part, (k, shape) in zip(parts, self.shapes.items(), strict=True)}


class Objective(Protocol):
    """The trained arrays of a model and the loss to minimise.

    Attributes:
        model: whose adapter's dropout is applied.
        everything: whether base weights are trained in place of the adapter.
        mask_dtype: of the dropout masks.
    """

    everything: bool
    mask_dtype: torch.dtype

    @property
    def model(self) -> AdaptedModule: ...

    def trained(self) -> dict[str, Tensor]:
        """Return the float32 parameters that are trained; the same tensors until something replaces them."""

    def check(self, batch: Arrays) -> None:
        """Raise DataError where a batch does not fit the model."""

    def weight(self, batch: Arrays) -> float:
        """Count the scored targets."""

    def loss(self, batch: Arrays, masks: Masks | None, checkpointing: bool) -> Tensor:
        """Sum the loss over scored targets, a float32 scalar with its gradient."""


class TorchTraining:
    """AdamW on the parameters of an objective (implements `backends.base.Training`).

    The trained parameters become views of one float32 array, so that clipping and AdamW are a handful of operations.

    Args:
        objective: what is trained.
        optim: the optimiser's settings.
        compute_with: takes copies of the trained arrays in the model's own dtype; the loss is then computed with
            these, and the float32 array holds the masters.
    """

    def __init__(
        self,
        objective: Objective,
        optim: OptimSpec,
        compute_with: Callable[[dict[str, Tensor]], None] | None = None,
    ) -> None:
        self._objective, self._optim = objective, optim
        self._step = 0
        self._copy: _FlatTensors | None = None
        named = raised_last(objective.trained(), optim.lora_plus_ratio)
        self._flat = _FlatTensors(named, torch.float32)
        for name, parameter in named.items():
            parameter.data = self._flat.views[name]
        if compute_with is not None:
            self._copy = self._copy_for_compute(compute_with)
        else:
            for name, parameter in named.items():
                parameter.requires_grad_(True)
                parameter.grad = self._flat.grad_views[name]
        model = objective.model
        self._groups = self._rate_groups()
        self._optimiser = torch.optim.AdamW(
            [{"params": [values]} for values, _, _ in self._groups],
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=model.device.type in ("cpu", "cuda"),
        )
        self._pool: DropoutPool | None = None
        if not objective.everything and model.spec is not None and model.spec.dropout > 0:
            self._pool = DropoutPool(optim.seed, model.spec.dropout, objective.mask_dtype, model.device)
        model.refresh()

    def _rate_groups(self) -> list[tuple[Tensor, Tensor, float]]:
        """Split the flat array by learning rate: values, gradients and the rate's ratio; one group without LoRA+."""
        flat, ratio = self._flat, self._optim.lora_plus_ratio
        if ratio == 1:
            return [(flat.values, flat.grads, 1.0)]
        first = sum(math.prod(shape) for name, shape in flat.shapes.items() if not is_raised(name))
        parts = ((slice(None, first), 1.0), (slice(first, None), ratio))
        return [(flat.values[part], flat.grads[part], rate) for part, rate in parts if flat.values[part].numel()]

    def _copy_for_compute(self, compute_with: Callable[[dict[str, Tensor]], None]) -> _FlatTensors:
        """Copy the masters to the model's own dtype, as leaves whose gradients are views of one array."""
        copy = _FlatTensors(self._flat.views, self._objective.model.dtype)
        leaves = {k: v.detach().requires_grad_(True) for k, v in copy.views.items()}
        for name, leaf in leaves.items():
            leaf.grad = copy.grad_views[name]
        compute_with(leaves)
        return copy

    def _check_step(self, micro_batches: Sequence[Arrays]) -> None:
        """Refuse batches that do not fit, and parameters that are no longer those of the optimiser."""
        views, found = self._flat.views, self._objective.trained()
        if found.keys() != views.keys() or any(found[k].data_ptr() != view.data_ptr() for k, view in views.items()):
            raise BackendError("step: the adapter was fused or replaced since start_training; call that again")
        for batch in micro_batches:
            self._objective.check(batch)

    def step(self, micro_batches: Sequence[Arrays], lr: float) -> StepResult:
        """Make one update from the gradient of (sum of losses) / (sum of weights).

        A non-finite loss or gradient leaves arrays and optimiser untouched and is returned as it is; so does a step
        without any scored target, with loss, weight and norm 0.
        """
        self._check_step(micro_batches)
        weight = float(sum(self._objective.weight(batch) for batch in micro_batches))
        if not weight:
            return StepResult(0.0, 0.0, 0.0)
        self._flat.grads.zero_()
        scored = ((index, batch) for index, batch in enumerate(micro_batches) if self._objective.weight(batch))
        losses = [self._add_gradient(batch, index, weight) for index, batch in scored]
        norm = torch.linalg.vector_norm(self._flat.grads)
        loss, size = (float(v) for v in torch.stack([torch.stack(losses).sum(), norm]).tolist())
        if math.isfinite(loss) and math.isfinite(size):
            self._apply_update(lr, size)
        return StepResult(loss, weight, size)

    def _add_gradient(self, batch: Arrays, index: int, weight: float) -> Tensor:
        """Add the gradient of one micro-batch's share; returns its summed loss."""
        if self._pool is not None:
            self._pool.prefix = f"{self._step}/{index}"
        loss = self._objective.loss(batch, self._pool, self._optim.checkpointing)
        (loss / weight).backward()  # type: ignore[no-untyped-call]
        if self._copy is not None:
            self._flat.grads.add_(self._copy.grads)
            self._copy.grads.zero_()
        return loss.detach()

    def _apply_update(self, lr: float, norm: float) -> None:
        limit = self._optim.max_grad_norm
        if limit and norm > limit:
            self._flat.grads.mul_(limit / norm)
        for group, (values, grads, ratio) in zip(self._optimiser.param_groups, self._groups, strict=True):
            values.grad = grads
            group["lr"] = lr * ratio
        self._optimiser.step()
        self._step += 1
        if self._copy is not None:
            self._copy.values.copy_(self._flat.values)

    def read_state(self) -> dict[str, np.ndarray]:
        """Copy `step`, an int64 scalar, and float32 `exp_avg.<name>`, `exp_avg_sq.<name>` of every trained array."""
        state = {"step": np.array(self._step, np.int64)}
        for kind in MOMENTS:
            parts = [self._optimiser.state.get(v, {}).get(kind, torch.zeros_like(v)) for v, _, _ in self._groups]
            flat = parts[0] if len(parts) == 1 else torch.cat(parts)
            state |= {f"{kind}.{k}": v.cpu().numpy().copy() for k, v in self._flat.split(flat).items()}
        return state

    def write_state(self, state: Arrays) -> None:
        """Invert read_state.

        Raises:
            ConvertError: missing, surplus, mis-shaped or non-finite arrays, all at once.
        """
        check_optimiser_state(state, self._flat.shapes)
        self._step = int(state["step"])
        moments = {
            name: torch.from_numpy(flat).to(self._flat.values.device)
            for name, flat in flat_moments(state, self._flat.shapes).items()
        }
        fused = self._flat.values.device if self._optimiser.defaults["fused"] else "cpu"
        sizes = [values.numel() for values, _, _ in self._groups]
        for index, (values, _, _) in enumerate(self._groups):
            step = torch.tensor(float(self._step), dtype=torch.float32, device=fused)
            own = {name: torch.split(flat, sizes)[index].clone() for name, flat in moments.items()}
            self._optimiser.state[values] = {"step": step, **own}


if TYPE_CHECKING:
    _: type[Training] = TorchTraining
