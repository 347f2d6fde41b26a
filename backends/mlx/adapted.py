"""Base arrays of a model, its LoRA adapter and its own style, for every architecture on MLX."""

from __future__ import annotations

from typing import Literal

import mlx.core as mx
import numpy as np

from musiclora.backends.base import Arrays
from musiclora.backends.mlx import lora
from musiclora.backends.mlx.decoder import ActiveAdapter
from musiclora.backends.mlx.kernels import quantised
from musiclora.convert.adapters.lora import (
    LoraSpec,
    check_state,
    magnitude_key,
    match_targets,
    state_keys,
    state_shapes,
)
from musiclora.convert.errors import BackendError


class AdaptedWeights:
    """Base weights and the arrays of one LoRA adapter; base class of the models.

    Arrays are never changed in place: training and fusing put new ones into `weights` and `factors`, so that whoever
    holds the old ones keeps them bit for bit.

    Attributes:
        weights: base arrays by name.
        factors: the adapter's arrays under their state keys, float32; empty without one.
        spec: the adapter's record, None without one.
        names: the modules that it touches.
        dtype: of the base weights.
    """

    def __init__(self, shapes: dict[str, tuple[int, int]], dtype: mx.Dtype) -> None:
        self._shapes, self.dtype = shapes, dtype
        self.weights: dict[str, mx.array] = {}
        self.factors: dict[str, mx.array] = {}
        self.spec: LoraSpec | None = None
        self.names: list[str] = []
        self._enabled = True

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Return (out, in) of every module that can carry LoRA, in model order."""
        return dict(self._shapes)

    def inject_adapter(self, spec: LoraSpec, initial: Arrays) -> None:
        """Add the adapter that spec describes, filled with initial; a second call replaces the first."""
        names = match_targets(self._shapes, spec.targets)
        check_state(initial, state_shapes(spec, self._shapes), "adapter")
        self.spec, self.names, self._enabled = spec, names, True
        self._fill_factors(spec, initial)

    def _fill_factors(self, spec: LoraSpec, state: Arrays) -> None:
        self.factors = {key: mx.array(np.array(state[key], np.float32)) for key in state_shapes(spec, self._shapes)}
        mx.eval(self.factors)

    def need_adapter(self, what: str) -> LoraSpec:
        """Return the adapter's record.

        Raises:
            BackendError: there is no adapter; what names the call that needs it.
        """
        if self.spec is None:
            raise BackendError(f"{what}: this model has no adapter; call inject_adapter first")
        return self.spec

    def set_adapter(self, enabled: bool) -> None:
        """Switch the adapter; off computes bit for bit what the base does."""
        self.need_adapter("set_adapter")
        self._enabled = enabled

    def read_adapter(self) -> dict[str, np.ndarray]:
        """Copy the adapter state, float32."""
        self.need_adapter("read_adapter")
        return {key: np.array(value) for key, value in self.factors.items()}

    def write_adapter(self, state: Arrays) -> None:
        """Fill the adapter; strict."""
        spec = self.need_adapter("write_adapter")
        check_state(state, state_shapes(spec, self._shapes), "adapter state")
        self._fill_factors(spec, state)

    def active_adapter(self) -> ActiveAdapter | None:
        """Return the adapter for the forward pass; None without one or when it is switched off."""
        return ActiveAdapter(self.factors, self.spec.scale) if self.spec and self._enabled else None

    def need_trainable(self, trainable: Literal["adapter", "all"]) -> None:
        """Refuse a training that is not possible.

        Raises:
            BackendError: no adapter to train, or one in the way; all weights in another dtype than float32.
        """
        if trainable == "adapter":
            self.need_adapter("start_training")
        elif self.spec is not None:
            raise BackendError("start_training('all'): this model has an adapter; fuse it or load the model again")
        elif self.dtype != mx.float32:
            raise BackendError("start_training('all'): all weights are trained in float32; load with dtype='float32'")

    def put_fused(self, weights: dict[str, mx.array]) -> None:
        """Replace the weights by fused ones and drop the adapter."""
        self.weights = weights
        self.spec, self.names, self.factors, self._enabled = None, [], {}, True


class StyledWeights(AdaptedWeights):
    """A flow model's arrays: linear weights as torch lays them, and an optional style of its own.

    Attributes:
        style: the model's own style vector [width] or trained condition [K, D], float32, or None.
    """

    style: mx.array | None = None

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
        self.style = None if style is None else mx.array(self.check_style(style))

    def read_style(self) -> np.ndarray | None:
        """Copy the model's own style, float32; None without one."""
        return None if self.style is None else np.array(self.style)

    def fuse(self) -> None:
        """Add the update to the weights, summed in float32 and cast once, and drop the adapter.

        A quantised matrix becomes a float one.
        """
        self.put_fused(self.weights_with(ActiveAdapter(self.factors, self.need_adapter("fuse").scale)))

    def weights_with(self, adapter: ActiveAdapter) -> dict[str, mx.array]:
        """Return all weights with an adapter added; unaffected arrays are shared with the model's own."""
        merged = dict(self.weights)
        for name in self.names:
            key_a, key_b = state_keys(name)
            a, b, magnitude = adapter.factors[key_a], adapter.factors[key_b], adapter.factors.get(magnitude_key(name))
            weight = merged[f"{name}.weight"]
            if parts := quantised.find(merged, name):
                weight = quantised.dequantised(parts, a.shape[1])
                del merged[f"{name}.scales"], merged[f"{name}.biases"]
            merged[f"{name}.weight"] = lora.fused_weight(weight, a, b, adapter.scale, magnitude, conv1d=False)
            mx.eval(merged[f"{name}.weight"])  # one by one: the float32 sum of a half-precision base is short-lived
        return merged
