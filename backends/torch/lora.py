"""LoRA on a torch module: PEFT's injection, adapter state, fusing, and the dropout masks."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from musiclora.backends.torch import dora
from musiclora.convert.adapters.lora import LoraSpec, magnitude_key, state_keys

ADAPTER = "default"

# Dropout mask of a module's input by name, rows and columns: multipliers [rows, columns], 0 or 1 / (1 - p).
Masks = Callable[[str, int, int], Tensor]


def base_layer(root: nn.Module, name: str) -> nn.Module:
    """Return the module at a canonical path, without PEFT's wrapper."""
    layer = root.get_submodule(name)
    inner = getattr(layer, "base_layer", layer)
    return inner if isinstance(inner, nn.Module) else layer


def inject(root: nn.Module, spec: LoraSpec, names: list[str], *, conv1d: bool) -> None:
    """Wrap the modules in PEFT's LoRA layers, float32 and not yet filled; conv1d: their weights lie as [in, out]."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=list(names),
        use_rslora=spec.rslora,
        fan_in_fan_out=conv1d,
    )
    # Without values PEFT draws nothing from the global random state.
    inject_adapter_in_model(config, root, adapter_name=ADAPTER, low_cpu_mem_usage=True)


def factors(root: nn.Module, name: str) -> tuple[nn.Parameter, nn.Parameter]:
    """Return A and B of one module."""
    return (
        root.get_parameter(f"{name}.lora_A.{ADAPTER}.weight"),
        root.get_parameter(f"{name}.lora_B.{ADAPTER}.weight"),
    )


def magnitude(root: nn.Module, name: str) -> dora.Magnitude:
    """Return the magnitudes of one module of a DoRA adapter."""
    return cast(dora.Magnitude, root.get_submodule(f"{name}.lora_magnitude_vector.{ADAPTER}"))


def fill(root: nn.Module, names: list[str], state: Mapping[str, np.ndarray], device: torch.device) -> None:
    """Write the arrays in float32, in place where they have storage (an optimiser may hold views)."""
    for name in names:
        layer = root.get_submodule(name)
        for part, key in zip(("lora_A", "lora_B"), state_keys(name), strict=True):
            linear = layer.get_submodule(f"{part}.{ADAPTER}")
            value = torch.from_numpy(np.array(state[key], np.float32))
            old = linear.get_parameter("weight")
            if old.is_meta:
                linear.register_parameter("weight", nn.Parameter(value.to(device)))
            else:
                with torch.no_grad():
                    old.copy_(value)


def add_magnitudes(
    root: nn.Module, names: list[str], state: Mapping[str, np.ndarray], device: torch.device, *, conv1d: bool
) -> None:
    """Make the wrapped modules DoRA layers with the state's magnitudes."""
    for name in names:
        value = torch.from_numpy(np.array(state[magnitude_key(name)], np.float32))
        dora.add_magnitude(root.get_submodule(name), ADAPTER, value.to(device), conv1d=conv1d)


def fill_magnitudes(root: nn.Module, names: list[str], state: Mapping[str, np.ndarray]) -> None:
    """Write the state's magnitudes into DoRA layers, in place."""
    for name in names:
        with torch.no_grad():
            magnitude(root, name).weight.copy_(torch.from_numpy(np.array(state[magnitude_key(name)], np.float32)))


class Masking:
    """Source of one model's dropout masks; None, as in evaluation, disables dropout."""

    masks: Masks | None = None


class PooledDropout(nn.Module):
    """Replacement of a LoRA layer's dropout that multiplies by the mask of the layer's name."""

    def __init__(self, name: str, masking: Masking) -> None:
        super().__init__()
        self._name, self._masking = name, masking

    def mask(self, rows: int, columns: int) -> Tensor | None:
        """Return the multipliers [rows, columns] of this moment; None while dropout is disabled."""
        masks = self._masking.masks
        return None if masks is None else masks(self._name, rows, columns)

    def forward(self, x: Tensor) -> Tensor:
        columns = x.shape[-1]
        mask = self.mask(x.numel() // columns, columns)
        return x if mask is None else x * mask.view(x.shape)


def pool_dropout(root: nn.Module, names: list[str], masking: Masking) -> None:
    """Replace the wrapped modules' dropouts by pooled ones, independent of torch's random state."""
    for name in names:
        dropouts = root.get_submodule(f"{name}.lora_dropout")
        dropouts.add_module(ADAPTER, PooledDropout(name, masking))


def switch(root: nn.Module, names: list[str], enabled: bool) -> None:
    """Enable or disable the adapter of the wrapped modules."""
    for name in names:
        # Not `enable_adapters`, which also changes what has a gradient.
        root.get_submodule(name)._disable_adapters = not enabled  # type: ignore[assignment]


def remove(root: nn.Module, names: list[str]) -> None:
    """Put the plain modules back."""
    for name in names:
        parent, _, leaf = name.rpartition(".")
        setattr(root.get_submodule(parent), leaf, base_layer(root, name))
    for attribute in ("peft_config",):
        if hasattr(root, attribute):
            delattr(root, attribute)


def fused_weight(
    weight: Tensor, a: Tensor, b: Tensor, scale: float, magnitude: Tensor | None = None, *, conv1d: bool
) -> Tensor:
    """Add scale * B A (transposed where conv1d) to weight, summed in float32 and cast once; a new tensor.

    With magnitudes [out] the rows of the sum are scaled to them (DoRA).
    """
    left, right = (a.t(), b.t()) if conv1d else (b, a)
    moved = torch.addmm(weight.float(), left, right, alpha=scale)
    return (moved if magnitude is None else dora.scale_rows(moved, magnitude, conv1d=conv1d)).to(weight.dtype)


class DropoutPool:
    """LoRA dropout masks as windows into one array of random multipliers.

    Drawing a fresh mask for every module and step costs as much as the products it masks, and keeping it for the
    backward pass costs memory. Here 0 and 1 / (1 - p) are drawn once for a seed, and the mask of a (step, micro-batch,
    module) is the window that begins at a hash of these. Within one mask all elements are independent; masks of
    different modules or steps repeat stretches of the pool at other places.
    """

    _SLACK = 1 << 21  # elements among which a window begins

    def __init__(self, seed: int, probability: float, dtype: torch.dtype, device: torch.device) -> None:
        self._seed, self._probability, self._dtype, self._device = seed, probability, dtype, device
        self._values = torch.empty(0, dtype=dtype, device=device)
        self.prefix = ""

    def __call__(self, module: str, rows: int, columns: int) -> Tensor:
        """Return the multipliers [rows, columns] of a module under the current prefix (step and micro-batch)."""
        size = rows * columns
        if self._values.numel() < size + self._SLACK:
            self._draw_values(size + self._SLACK)
        start = zlib.crc32(f"{self._seed}/{self.prefix}/{module}".encode()) % self._SLACK & ~15
        return self._values[start : start + size].view(rows, columns)

    def _draw_values(self, count: int) -> None:
        # A longer draw from the same seed begins with the shorter one, so a window does not depend on the pool's size.
        kept = np.random.default_rng(self._seed).random(count, np.float32) >= self._probability
        values = torch.from_numpy(kept).to(self._device, self._dtype)
        self._values = values.div_(1 - self._probability)
