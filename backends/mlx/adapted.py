"""A model's base arrays and the one adapter on them, apart from what is computed with both."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from musiclora.backends.base import Arrays
from musiclora.backends.mlx import lora
from musiclora.backends.mlx.decoder import Adapter
from musiclora.convert.adapter import LoraSpec, match_targets, state_keys
from musiclora.convert.errors import BackendError


class AdaptedWeights:
    """Base weights whose matrices lie as in torch, [out, in], and LoRA on some of them.

    Arrays are never changed in place: training and fusing put new ones into `weights` and `factors`, so that whoever
    holds the old ones keeps them bit for bit.

    Attributes:
        weights: base arrays by name.
        factors: the adapter's arrays under their state keys, float32; empty without one.
        spec: the adapter's record, None without one.
        names: the modules that it touches.
    """

    def __init__(self, shapes: dict[str, tuple[int, int]]) -> None:
        self._shapes = shapes
        self.weights: dict[str, mx.array] = {}
        self.factors: dict[str, mx.array] = {}
        self.spec: LoraSpec | None = None
        self.names: list[str] = []
        self._enabled = True

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of every linear layer, in model order."""
        return dict(self._shapes)

    def inject_adapter(self, spec: LoraSpec, initial: Arrays) -> None:
        """Add the adapter that spec describes, filled with initial; a second call replaces the first."""
        names = match_targets(self._shapes, spec.targets)
        lora.check_state(initial, lora.state_shapes(spec, names, self._shapes), "adapter")
        self.spec, self.names, self._enabled = spec, names, True
        self._fill(initial)

    def _fill(self, state: Arrays) -> None:
        shapes = lora.state_shapes(self.need_adapter("write_adapter"), self.names, self._shapes)
        self.factors = {key: mx.array(np.array(state[key], np.float32)) for key in shapes}
        mx.eval(self.factors)

    def need_adapter(self, what: str) -> LoraSpec:
        """The adapter's record.

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
        """Adapter state, float32 copies."""
        self.need_adapter("read_adapter")
        return {key: np.array(value) for key, value in self.factors.items()}

    def write_adapter(self, state: Arrays) -> None:
        """Fill the adapter; strict."""
        spec = self.need_adapter("write_adapter")
        lora.check_state(state, lora.state_shapes(spec, self.names, self._shapes), "adapter state")
        self._fill(state)

    def active_adapter(self) -> Adapter | None:
        """The adapter as the forward pass takes it; None without one or when it is switched off."""
        return Adapter(self.factors, self.spec.scale) if self.spec and self._enabled else None

    def merged_weights(self) -> dict[str, mx.array]:
        """Weights with the active adapter added; the model's own are not touched, and shared where it does nothing."""
        if not self.spec or not self._enabled:
            return self.weights
        merged = dict(self.weights)
        for name in self.names:
            key_a, key_b = state_keys(name)
            weight = merged[f"{name}.weight"]
            update = mx.addmm(weight.astype(mx.float32), self.factors[key_b] * self.spec.scale, self.factors[key_a])
            merged[f"{name}.weight"] = update.astype(weight.dtype)
            mx.eval(merged[f"{name}.weight"])  # one by one: the float32 sum of a half-precision base is short-lived
        return merged

    def fuse(self) -> None:
        """Add the update to the weights, summed in float32 and cast once, and drop the adapter."""
        self.need_adapter("fuse")
        self._enabled = True
        self.weights = self.merged_weights()
        self.spec, self.names, self.factors = None, [], {}
