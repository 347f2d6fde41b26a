"""Adapters of a small ACE-Step with random arrays."""

from __future__ import annotations

from pathlib import Path

import acestep_toys as toys
import numpy as np

from musiclora.convert.adapters.formats import WRITERS
from musiclora.convert.adapters.kohya import write_comfyui
from musiclora.convert.adapters.lora import LoraSpec, state_keys
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.adapters.peft import write_peft

SHAPES = toys.SMALL.linear_shapes()
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MODULES = [name for name in SHAPES if name.endswith(ATTENTION)]


def adapter(modules: list[str] | None = None, ranks: dict[str, int] | None = None, alpha: float = 6.0) -> LoraAdapter:
    """Build an adapter of rank 4 with random arrays; some modules may have another rank."""
    rng, state = np.random.default_rng(0), {}
    scales = {}
    for module in modules or MODULES:
        rank, (out, inputs) = (ranks or {}).get(module, 4), SHAPES[module]
        key_a, key_b = state_keys(module)
        state[key_a] = rng.standard_normal((rank, inputs), np.float32)
        state[key_b] = rng.standard_normal((out, rank), np.float32)
        scales[module] = (rank, alpha / rank)
    spec = LoraSpec(4, alpha, 0.1, tuple(modules or MODULES) if modules or ranks else ATTENTION)
    return LoraAdapter.from_spec(spec, state, "ACE-Step/acestep-v15-base", rank_scales=scales if ranks else None)


def write(path: Path, found: LoraAdapter, to: str) -> None:
    """Write an adapter in a format, as PEFT with the settings of ACE-Step."""
    if to == "peft":
        write_peft(
            path,
            found.spec,
            found.state,
            base_model=found.base_model,
            rank_scales=found.rank_scales,
            task_type="FEATURE_EXTRACTION",
            fan_in_fan_out=False,
        )
    else:
        {**WRITERS, "comfyui": write_comfyui}[to](path, found)


def assert_same(found: LoraAdapter, expected: LoraAdapter) -> None:
    """Compare scales, names and every bit of the arrays."""
    assert found.scales == expected.scales
    assert set(found.state) == set(expected.state)
    for name, array in expected.state.items():
        np.testing.assert_array_equal(found.state[name], array, err_msg=name)
