"""Base parameters of a module and its LoRA adapter, for every architecture on torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from musiclora.backends.base import Arrays, LossSum
from musiclora.backends.torch import lora
from musiclora.convert.adapters.lora import (
    LoraSpec,
    check_state,
    magnitude_key,
    match_targets,
    state_keys,
    state_shapes,
)
from musiclora.convert.errors import BackendError


class AdaptedModule:
    """Base parameters by canonical name and one LoRA adapter; base class of the models.

    Attributes:
        module: holds the parameters; PEFT's layers are put into it.
        dtype: in which it is computed.
        device: where everything lies.
        spec: the adapter's record, None without one.
        names: the modules that it touches.
        enabled: whether it is computed with.
    """

    _conv1d = False  # whether weights lie as [in, out]

    def __init__(
        self, module: nn.Module, shapes: dict[str, tuple[int, int]], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.module, self._shapes, self.dtype, self.device = module, shapes, dtype, device
        self.spec: LoraSpec | None = None
        self.names: list[str] = []
        self.enabled = True

    def refresh(self) -> None:
        """Invalidate cached structures after parameters were replaced or the adapter was switched."""

    def check(self, batch: Arrays) -> None:
        """Compare a batch with the model; each kind of model has its own batches.

        Raises:
            DataError: the batch does not fit.
        """
        raise NotImplementedError

    def weight(self, batch: Arrays) -> float:
        """Count the scored targets of a batch."""
        raise NotImplementedError

    def loss_sum(self, batch: Arrays, masks: lora.Masks | None = None, checkpointing: bool = False) -> Tensor:
        """Sum the loss over scored targets, a float32 scalar with its gradient.

        Args:
            batch: checked first.
            masks: LoRA dropout; None for none.
            checkpointing: keep only the blocks' inputs and recompute the rest in the backward pass.
        """
        raise NotImplementedError

    def loss(self, batch: Arrays) -> LossSum:
        """Compute the loss without gradient or dropout; repeatable."""
        with torch.inference_mode():
            total = self.loss_sum(batch)
        return LossSum(float(total), self.weight(batch))

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Return (out, in) of every module that can carry LoRA, in model order."""
        return dict(self._shapes)

    def base_parameters(self) -> dict[str, nn.Parameter]:
        """Return the checkpoint's parameters by canonical name, without the adapter's."""
        named = self.module.named_parameters()
        return {name.replace(".base_layer.", "."): value for name, value in named if ".lora_" not in name}

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Return the adapter's parameters by state key."""
        found = {}
        for name in self.names:
            for key, value in zip(state_keys(name), lora.factors(self.module, name), strict=True):
                found[key] = value
            if self.spec is not None and self.spec.dora:
                found[magnitude_key(name)] = lora.magnitude(self.module, name).weight
        return found

    def inject_adapter(self, spec: LoraSpec, initial: Arrays) -> None:
        """Add the adapter that spec describes, filled with initial; a second call replaces the first."""
        names = match_targets(self._shapes, spec.targets)
        check_state(initial, state_shapes(spec, self._shapes), "adapter")
        self.drop_adapter()
        lora.inject(self.module, spec, names, conv1d=self._conv1d)
        lora.fill(self.module, names, initial, self.device)
        if spec.dora:
            lora.add_magnitudes(self.module, names, initial, self.device, conv1d=self._conv1d)
        self.module.requires_grad_(False)
        self.spec, self.names = spec, names
        self.refresh()

    def drop_adapter(self) -> None:
        """Put the plain layers back."""
        lora.remove(self.module, self.names)
        self.spec, self.names, self.enabled = None, [], True
        self.refresh()

    def need_adapter(self, what: str) -> LoraSpec:
        """Return the adapter's record.

        Raises:
            BackendError: there is no adapter; what names the call that needs it.
        """
        if self.spec is None:
            raise BackendError(f"{what}: this model has no adapter; call inject_adapter first")
        return self.spec

    def need_trainable(self, trainable: Literal["adapter", "all"]) -> None:
        """Refuse a training that is not possible.

        Raises:
            BackendError: no adapter to train, or one in the way.
        """
        if trainable == "adapter":
            self.need_adapter("start_training")
        elif self.spec is not None:
            raise BackendError("start_training('all'): this model has an adapter; fuse it or load the model again")

    def set_adapter(self, enabled: bool) -> None:
        """Switch the adapter; off computes bit for bit what the base does."""
        self.need_adapter("set_adapter")
        self.enabled = enabled
        self.refresh()

    def read_adapter(self) -> dict[str, np.ndarray]:
        """Copy the adapter state, float32."""
        self.need_adapter("read_adapter")
        return {k: p.detach().cpu().numpy().copy() for k, p in self.adapter_parameters().items()}

    def write_adapter(self, state: Arrays) -> None:
        """Fill the adapter in place; strict."""
        spec = self.need_adapter("write_adapter")
        check_state(state, state_shapes(spec, self._shapes), "adapter state")
        lora.fill(self.module, self.names, state, self.device)
        if spec.dora:
            lora.fill_magnitudes(self.module, self.names, state)

    def merged_weights(self, what: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield name and value of each adapted weight plus its update, summed in float32 and cast once."""
        spec = self.need_adapter(what)
        with torch.no_grad():
            for name in self.names:
                weight = lora.base_layer(self.module, name).get_parameter("weight")
                a, b = lora.factors(self.module, name)
                magnitude = lora.magnitude(self.module, name).weight if spec.dora else None
                value = lora.fused_weight(weight, a, b, spec.scale, magnitude, conv1d=self._conv1d)
                yield f"{name}.weight", nn.Parameter(value, requires_grad=False)

    def fuse(self) -> None:
        """Add the update to new weights and drop the adapter; the old weights stay as they are."""
        for name, value in self.merged_weights("fuse"):
            lora.base_layer(self.module, name.removesuffix(".weight")).register_parameter("weight", value)
        self.drop_adapter()

    def read_weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield base weights one by one, float32, under canonical names and layouts."""
        for name, value in self.base_parameters().items():
            yield name, value.detach().float().cpu().numpy().copy()


class StyledModule(AdaptedModule):
    """A flow model's module: PEFT's layers with pooled dropout masks, and an optional style of its own.

    Attributes:
        style: the model's own style vector [width] or trained condition [K, D], float32, or None.
    """

    style: nn.Parameter | None = None

    def __init__(
        self, module: nn.Module, shapes: dict[str, tuple[int, int]], dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(module, shapes, dtype, device)
        self._masking = lora.Masking()

    def check_style(self, style: np.ndarray) -> np.ndarray:
        """Copy a style in float32; each kind of model has its own shape.

        Raises:
            DataError: another shape, or values that are not finite.
        """
        raise NotImplementedError

    def set_style(self, style: np.ndarray | None) -> None:
        """Set the model's own style, or remove it; see `backends.base.FlowModel`.

        Raises:
            DataError: another shape, or values that are not finite.
        """
        if style is None:
            self.style = None
            return
        found = torch.from_numpy(self.check_style(style)).to(self.device)
        if self.style is None or self.style.shape != found.shape:
            self.style = nn.Parameter(found, requires_grad=False)
        else:
            with torch.no_grad():  # in place: a training may hold it
                self.style.copy_(found)

    def read_style(self) -> np.ndarray | None:
        """Copy the model's own style, float32; None without one."""
        return None if self.style is None else self.style.detach().cpu().numpy().copy()

    def inject_adapter(self, spec: LoraSpec, initial: Arrays) -> None:
        """Add the adapter that spec describes, filled with initial; a second call replaces the first."""
        super().inject_adapter(spec, initial)
        if spec.dropout:
            lora.pool_dropout(self.module, self.names, self._masking)

    def refresh(self) -> None:
        """Switch PEFT's layers with the adapter."""
        lora.switch(self.module, self.names, self.enabled)

    def need_trainable(self, trainable: Literal["adapter", "all"]) -> None:
        """Refuse a training that is not possible.

        Raises:
            BackendError: no adapter to train, or one in the way; all weights in another dtype than float32.
        """
        super().need_trainable(trainable)
        if trainable == "all" and self.dtype != torch.float32:
            raise BackendError("start_training('all'): all weights are trained in float32; load with dtype='float32'")
