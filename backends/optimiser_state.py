"""Names, shapes and validation of a saved AdamW state, the same for every backend (numpy)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from musiclora.backends.base import Arrays
from musiclora.convert.adapters.lora import MAGNITUDE, state_problems
from musiclora.convert.errors import ConvertError, join_problems

T = TypeVar("T")

MOMENTS = ("exp_avg", "exp_avg_sq")


def check_optimiser_state(state: Arrays, trained: Mapping[str, tuple[int, ...]]) -> None:
    """Compare an optimiser state with the arrays that are trained.

    Args:
        state: `step`, a scalar, and `exp_avg.<name>` and `exp_avg_sq.<name>` for every trained array.
        trained: shape of each trained array by name.

    Raises:
        ConvertError: missing, surplus, mis-shaped or non-finite arrays, all at once.
    """
    expected: dict[str, tuple[int, ...]] = {"step": ()}
    expected |= {f"{moment}.{name}": shape for moment in MOMENTS for name, shape in trained.items()}
    if problems := state_problems(state, expected):
        raise ConvertError(f"the optimiser state does not fit this model: {join_problems(problems)}")


def flat_moments(state: Arrays, trained: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Join the moments of all trained arrays end to end, float32, by the moment's name."""
    return {
        moment: np.concatenate([np.asarray(state[f"{moment}.{name}"], np.float32).reshape(-1) for name in trained])
        for moment in MOMENTS
    }


def is_raised(name: str) -> bool:
    """Tell whether LoRA+ gives a trained array the higher learning rate: B and DoRA's magnitudes.

    Source: peft/optimizers/loraplus.py, whose group B holds `lora_B` and what has one axis. A style vector, which is
    no part of an adapter's layers, stays at the rate of A.
    """
    return name.endswith((".lora_B.weight", f".{MAGNITUDE}"))


def raised_last(trained: Mapping[str, T], ratio: float) -> dict[str, T]:
    """Order trained arrays so that those of the higher learning rate are one stretch at the end.

    With a ratio of 1 all arrays have one rate, and the order stays.
    """
    return dict(trained) if ratio == 1 else dict(sorted(trained.items(), key=lambda item: is_raised(item[0])))
