"""Counted memory of a training: weights and adapters as they are, activations in proportion."""

from __future__ import annotations

import dataclasses
import math

import pytest
from acestep_toys import SMALL, random_tensors

from musiclora.audio.acestep.memory import adapter_parameters, plan_memory, weight_bytes
from musiclora.backends.base import FAMILIES
from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating
from musiclora.training.config import list_presets, resolve_config

FULL_STACK = StackConfig(2048, 6144, 16, 8, 128)
FULL = AceStepConfig(FULL_STACK, FULL_STACK, alternating(24))
SPEC = FAMILIES["audio"].of("acestep").lora


def test_the_default_adapter_of_the_full_model_has_the_published_size() -> None:
    # 22.0 M in self and as many in cross attention, 192 modules: the specification's count.
    assert adapter_parameters(FULL, SPEC) == pytest.approx(44.0e6, rel=0.002)
    half = dataclasses.replace(SPEC, targets=(r"self_attn.q_proj", "self_attn.k_proj"))
    assert adapter_parameters(FULL, half) == 24 * 64 * (2048 + 2048 + 2048 + 1024)


def test_weights_are_counted_as_they_lie_in_the_file() -> None:
    values = sum(math.prod(a.shape) for n, a in random_tensors(SMALL).items() if n.startswith("decoder."))
    assert weight_bytes(SMALL, 4) == 4 * values
    assert weight_bytes(FULL, 2) == pytest.approx(2 * 1.575e9, rel=1e-3)
    assert 0.55 < weight_bytes(FULL, 2, bits=8) / weight_bytes(FULL, 2) < 0.6


def test_checkpointing_and_rows_change_activations_only() -> None:
    settings = {"rows": 2, "frames": 750, "dtype_bytes": 2}
    all_kept = plan_memory(FULL, SPEC, checkpointing=False, **settings)  # type: ignore[arg-type]
    inputs_kept = plan_memory(FULL, SPEC, checkpointing=True, **settings)  # type: ignore[arg-type]
    assert all_kept.weights == inputs_kept.weights
    assert all_kept.adapter == inputs_kept.adapter == 24 * adapter_parameters(FULL, SPEC)
    assert all_kept.activations > 5 * inputs_kept.activations
    twice = plan_memory(FULL, SPEC, checkpointing=False, **{**settings, "rows": 4})  # type: ignore[arg-type]
    assert twice.activations == pytest.approx(2 * all_kept.activations)
    assert inputs_kept.line().startswith("memory, counted: ")


@pytest.mark.parametrize(("name", "size"), [("8gb", 8), ("16gb", 16), ("24gb", 24)])
def test_the_presets_leave_room_for_the_framework(name: str, size: int) -> None:
    train = resolve_config({"data_dir": "a", "output_dir": "b"}, f"acestep-{name}")
    plan = plan_memory(
        FULL,
        SPEC,
        rows=train.batch_size or 0,
        frames=train.max_seq_len,
        dtype_bytes=2,
        checkpointing=train.grad_checkpointing is not False,
    )
    # At least 2.5 GiB for kernels, the allocator's gaps and a display, and most of the rest in use.
    assert 0.5 * size < plan.total / 2**30 < size - 2.5
    stated = list_presets()[f"acestep-{name}"]
    assert f"{plan.total / 2**30:.0f} GiB counted" in stated
