"""Memory of an ACE-Step training, counted in bytes before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from musiclora.convert.adapters.lora import LoraSpec, match_targets
from musiclora.convert.models.acestep import tensor_shapes
from musiclora.convert.models.acestep_config import AceStepConfig
from musiclora.convert.models.acestep_names import DECODER, LAYERS

_GROUP_BYTES = 4 / 64  # scale and offset of a quantised group of 64 elements, float16 each
_FLOAT = 4
# Float32 arrays of the adapter: factors, gradients, both moments of AdamW, and two that a step needs for a moment.
_ADAPTER_COPIES = 6
# Arrays of a block that the backward pass reads, counted in the graph: inputs and results of norms, gates and residual
# sums (hidden wide), of queries with rotation and of both attentions (all heads), and of the MLP (intermediate wide).
_HIDDEN_ARRAYS, _HEAD_ARRAYS, _KEY_ARRAYS, _MLP_ARRAYS = 14, 8, 6, 4
_GRADIENT_BLOCKS = 2  # while one block is differentiated, its gradients take as much as its arrays twice


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a training.

    Attributes:
        weights: of the frozen transformer.
        adapter: factors, gradients, moments, and what a step needs for a moment.
        activations: of one forward and backward pass.
    """

    weights: float
    adapter: float
    activations: float

    @property
    def total(self) -> float:
        """All of them; the framework and its libraries come on top."""
        return self.weights + self.adapter + self.activations

    def line(self) -> str:
        """Describe it in a line."""
        parts = (self.weights, self.adapter, self.activations)
        weights, adapter, activations = (f"{size / 2**30:.1f}" for size in parts)
        return (
            f"memory, counted: {self.total / 2**30:.1f} GiB (weights {weights}, adapter and optimiser {adapter}, "
            f"activations {activations}), and the framework's own"
        )


def weight_bytes(config: AceStepConfig, dtype_bytes: int, bits: int | None = None) -> float:
    """Count the bytes of the transformer's weights.

    Args:
        config: the model's sizes.
        dtype_bytes: of a float weight.
        bits: of the matrices of quantised blocks; None for a float model.
    """
    total = 0.0
    for name, shape in tensor_shapes(config).items():
        if not name.startswith(DECODER):
            continue
        packed = bits is not None and name.startswith(LAYERS) and len(shape) == 2
        total += math.prod(shape) * (bits / 8 + _GROUP_BYTES if packed and bits is not None else dtype_bytes)
    return total


def adapter_parameters(config: AceStepConfig, spec: LoraSpec) -> int:
    """Count an adapter's parameters."""
    shapes = config.linear_shapes()
    sides = [shapes[module] for module in match_targets(shapes, spec.targets)]
    return sum(spec.rank * (rows + columns) + (rows if spec.dora else 0) for rows, columns in sides)


def plan_memory(
    config: AceStepConfig,
    spec: LoraSpec,
    *,
    rows: int,
    frames: int,
    dtype_bytes: int,
    checkpointing: bool,
    bits: int | None = None,
) -> MemoryPlan:
    """Count the bytes of a training step.

    Args:
        config: the model's sizes.
        spec: settings of the adapter.
        rows: windows of a pass.
        frames: latent frames of a window.
        dtype_bytes: of the frozen weights and the activations.
        checkpointing: only the blocks' inputs are kept.
        bits: of quantised weights.
    """
    stack, patches = config.decoder, rows * math.ceil(frames / config.patch_size)
    heads, keys = stack.heads * stack.head_dim, stack.kv_heads * stack.head_dim
    wide = _HIDDEN_ARRAYS * stack.hidden + _HEAD_ARRAYS * heads + _KEY_ARRAYS * keys + _MLP_ARRAYS * stack.intermediate
    layers, block = len(config.layer_types), patches * wide * dtype_bytes
    kept = layers * patches * stack.hidden * dtype_bytes + block if checkpointing else layers * block
    adapter = adapter_parameters(config, spec) * _FLOAT * _ADAPTER_COPIES
    return MemoryPlan(weight_bytes(config, dtype_bytes, bits), adapter, kept + _GRADIENT_BLOCKS * block)
