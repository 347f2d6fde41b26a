"""Sums of adapters against dense arithmetic."""

import numpy as np
import pytest
import tolerance

from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.adapters.lora_math import compress_to_rank, fuse_tensors, update_difference
from musiclora.convert.errors import ConvertError

SIZES = {"a.wide": (7, 5), "a.square": (6, 6), "b.tall": (4, 9)}


def adapter(rank: int, alpha: float, modules: list[str], seed: int) -> tuple[LoraSpec, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    state = {}
    for module in modules:
        out, inputs = SIZES[module]
        state[f"{module}.lora_A.weight"] = rng.standard_normal((rank, inputs)).astype(np.float32)
        state[f"{module}.lora_B.weight"] = rng.standard_normal((out, rank)).astype(np.float32)
    return LoraSpec(rank, alpha, 0.1, tuple(modules), rslora=seed % 2 == 1), state


def dense(spec: LoraSpec, state: dict[str, np.ndarray], module: str) -> np.ndarray:
    if f"{module}.lora_A.weight" not in state:
        return np.zeros(SIZES[module])
    return spec.scale * state[f"{module}.lora_B.weight"].astype(np.float64) @ state[f"{module}.lora_A.weight"]


FIRST, SECOND = adapter(3, 5.0, ["a.wide", "a.square"], 0), adapter(2, 1.0, ["a.square", "b.tall"], 1)


@pytest.mark.parametrize("rank", [1, 3, 5, 12], ids=str)
def test_compression_is_the_best_of_its_rank_and_states_its_error(rank: int) -> None:
    spec, state = adapter(5, 3.0, list(SIZES), 4)
    small, arrays, error = compress_to_rank(spec, state, rank)
    assert small.rank == rank
    lost = total = 0.0
    for module in SIZES:
        update = dense(spec, state, module)
        values = np.linalg.svd(update)[1]
        lost, total = lost + (values[rank:] ** 2).sum(), total + (values**2).sum()
        found = np.linalg.norm(update - dense(small, arrays, module))
        # Eckart-Young; the factors are rounded to float32, and their product sums over the rank.
        limit = tolerance.rounding(rank + 2, np.linalg.norm(values))
        assert found == pytest.approx((values[rank:] ** 2).sum() ** 0.5, abs=limit)
    assert error == pytest.approx((lost / total) ** 0.5, abs=1e-9)
    assert (error < 1e-6) == (rank >= 5)


@pytest.mark.parametrize("conv1d", [False, True], ids=["linear", "conv1d"])
def test_fusing_adds_the_update_in_the_layout_of_the_weight(conv1d: bool) -> None:
    rng = np.random.default_rng(3)
    weights = {f"{m}.weight": rng.standard_normal(s).astype(np.float16) for m, s in SIZES.items()}
    stored = {name: array.T if conv1d else array for name, array in weights.items()} | {"ln.weight": np.ones(3)}
    found = dict(fuse_tensors(stored.items(), *FIRST, conv1d=conv1d))
    assert found["ln.weight"] is stored["ln.weight"]
    for module in SIZES:
        expected = weights[f"{module}.weight"].astype(np.float64) + dense(*FIRST, module)
        name = f"{module}.weight"
        # A sum over a rank of a few, the scale and the weight.
        limit = tolerance.rounding(8, 3 * max(1.0, np.abs(expected).max()))
        tolerance.assert_near(found[name].T if conv1d else found[name], expected, limit)


def test_fusing_into_a_base_without_the_modules_or_of_another_size_names_them() -> None:
    with pytest.raises(ConvertError, match=r"a\.wide is \[5, 7\].*a\.square is not in the base"):
        list(fuse_tensors([("a.wide.weight", np.zeros((5, 7)))], *FIRST, conv1d=False))


def test_the_check_sees_a_transposed_square_update() -> None:
    wrong = FIRST[1] | {
        "a.square.lora_A.weight": FIRST[1]["a.square.lora_B.weight"].T,
        "a.square.lora_B.weight": FIRST[1]["a.square.lora_A.weight"].T,
    }
    assert update_difference([(*FIRST, 1.0)], [(FIRST[0], wrong, 1.0)]) > 0.1


def test_the_check_compares_sums_over_adapters_that_touch_other_modules() -> None:
    spec, state = FIRST
    double = LoraSpec(spec.rank, spec.alpha * 2, 0.0, spec.targets)
    assert update_difference([(*FIRST, 1.0), (*FIRST, 1.0)], [(double, state, 1.0)]) == 0
    assert update_difference([(*FIRST, 1.0), (*SECOND, 1.0)], [(*FIRST, 1.0)]) > 0.1
    assert update_difference([(*FIRST, 1.0)], [(*FIRST, 1.0), (*SECOND, 1.0)]) > 0.1


def test_updates_that_cancel_are_measured_against_their_own_size() -> None:
    spec, state = FIRST
    rounded = {name: array * np.float32(1 + 2e-7) if "lora_B" in name else array for name, array in state.items()}
    assert update_difference([(*FIRST, 1.0), (*FIRST, -1.0)], [(spec, state, 1.0), (spec, rounded, -1.0)]) < 1e-6
