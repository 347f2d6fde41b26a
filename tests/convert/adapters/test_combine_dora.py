"""Sums of DoRA and LoRA adapters with strengths as one DoRA adapter."""

from __future__ import annotations

import numpy as np
import pytest
import tolerance

from musiclora.convert.adapters.combine import combine_adapters
from musiclora.convert.adapters.combine_dora import WholePart, combine_with_dora
from musiclora.convert.adapters.lora import LoraSpec, split_magnitudes, state_shapes
from musiclora.convert.adapters.lora_math import Dora, fuse_tensors
from musiclora.convert.errors import ConvertError

SHAPES = {"h.0.wide": (7, 5), "h.0.tall": (4, 9), "h.1.square": (6, 6)}  # (out, in)


def part(seed: int, strength: float, targets: tuple[str, ...] = ("wide", "tall", "square"), dora: bool = True):
    rng = np.random.default_rng(seed)
    spec = LoraSpec(2 + seed % 2, 3.0, 0.1, targets, rslora=seed % 2 == 0, dora=dora)
    plain = {k: s for k, s in state_shapes(spec, SHAPES).items() if "magnitude" not in k}
    state = {k: rng.standard_normal(s).astype(np.float32) * 0.3 for k, s in plain.items()}
    modules = [m for m in SHAPES if m.endswith(targets)]
    lengths = {m: rng.uniform(0.5, 2, SHAPES[m][0]).astype(np.float32) for m in modules} if dora else {}
    return WholePart(spec, state, lengths, strength)


def base(conv1d: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    found = {f"{m}.weight": rng.standard_normal(shape).astype(np.float32) for m, shape in SHAPES.items()}
    return {k: np.ascontiguousarray(v.T) if conv1d else v for k, v in found.items()} | {"h.0.bias": np.ones(3)}


def fused(parts, weights, conv1d: bool) -> dict[str, np.ndarray]:
    """Add every adapter's own change to the base."""
    plain = [(p.spec, p.state, p.strength) for p in parts if not p.magnitudes]
    spec, state = combine_adapters(plain) if plain else (None, {})
    dora = [Dora(p.spec, p.state, p.magnitudes, p.strength) for p in parts if p.magnitudes]
    return dict(fuse_tensors(weights.items(), spec, state, conv1d=conv1d, dora=dora))


CASES = {
    "half strength": [part(0, 0.5)],
    "reversed": [part(0, -1.0)],
    "off": [part(1, 0.0)],
    "two": [part(0, 0.7), part(1, 0.6)],
    "with LoRA": [part(0, 1.0), part(3, 0.8, dora=False)],
    "other modules": [part(0, 0.5, ("wide",)), part(1, 1.0, ("tall",)), part(2, 2.0, ("square",), dora=False)],
}


@pytest.mark.parametrize("conv1d", [True, False], ids=["Conv1D", "Linear"])
@pytest.mark.parametrize("parts", CASES.values(), ids=CASES)
def test_one_adapter_changes_the_base_as_all_of_them_do(parts, conv1d):
    weights = base(conv1d)
    spec, joined = combine_with_dora(parts, weights.items(), conv1d=conv1d)
    state, magnitudes = split_magnitudes(joined)
    assert spec.dora
    assert sorted(joined) == sorted(state_shapes(spec, {m: SHAPES[m] for m in magnitudes}))
    found = fused([WholePart(spec, state, magnitudes, 1.0)], weights, conv1d)
    for name, expected in fused(parts, weights, conv1d).items():
        # Sums over up to 9 inputs and ranks of up to 7, with factors of up to 4 between.
        tolerance.assert_near(found[name], expected, tolerance.rounding(30, 4 * max(1.0, np.abs(expected).max())), name)


def test_a_single_adapter_at_full_strength_is_itself_and_reads_no_weights():
    alone = part(1, 1.0)

    def weights():
        raise AssertionError("read")
        yield

    spec, joined = combine_with_dora([alone], weights(), conv1d=True)
    state, magnitudes = split_magnitudes(joined)
    assert spec == alone.spec
    assert all(np.array_equal(state[k], alone.state[k]) for k in alone.state)
    assert all(np.array_equal(magnitudes[k], alone.magnitudes[k]) for k in alone.magnitudes)


def test_a_gain_of_zero_keeps_the_update():
    """Magnitudes of twice the rows' lengths at strength -1 take the base away and leave minus two updates."""
    weights = base(False)
    spec = LoraSpec(2, 2.0, 0.0, ("square",))
    state = part(1, 1.0, ("square",)).state
    state = {k: v[:2] if "lora_A" in k else v[:, :2] for k, v in state.items()}
    moved = weights["h.1.square.weight"].astype(np.float64) + state["h.1.square.lora_B.weight"].astype(
        np.float64
    ) @ state["h.1.square.lora_A.weight"].astype(np.float64)
    lengths = {"h.1.square": (2 * np.linalg.norm(moved, axis=1)).astype(np.float32)}
    parts = [WholePart(spec, state, lengths, -1.0)]
    one, joined = combine_with_dora(parts, weights.items(), conv1d=False)
    plain, magnitudes = split_magnitudes(joined)
    assert all(np.isfinite(v).all() for v in joined.values())
    found = fused([WholePart(one, plain, magnitudes, 1.0)], weights, False)["h.1.square.weight"]
    expected = fused(parts, weights, False)["h.1.square.weight"]
    tolerance.assert_near(found, expected, tolerance.rounding(30, 4 * np.abs(weights["h.1.square.weight"]).max()))


def test_adapters_that_do_not_fit_the_base_are_named_all_at_once():
    weights = base(False)
    weights["h.0.wide.weight"] = weights["h.0.wide.weight"][:, :3]
    del weights["h.0.tall.weight"]
    with pytest.raises(ConvertError) as caught:
        combine_with_dora([part(0, 0.5)], weights.items(), conv1d=False)
    assert "h.0.wide is [7, 3] in the base and [7, 5] in the adapters" in str(caught.value)
    assert "h.0.tall is not in the base" in str(caught.value)
