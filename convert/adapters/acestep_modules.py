"""Modules of ACE-Step's transformer in adapter files."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from musiclora.convert.models.acestep_config import FULL, AceStepConfig, StackConfig

_MOST_LAYERS = 64  # twice those of the largest published model


@cache
def known_modules() -> frozenset[str]:
    """List the paths of all linear layers of a model larger than any published one, by the original's names."""
    stack = StackConfig(2, 2, 1, 1, 2)
    return frozenset(AceStepConfig(stack, stack, (FULL,) * _MOST_LAYERS).linear_shapes())


def owns_acestep_modules(modules: Iterable[str]) -> bool:
    """Tell whether an adapter is for ACE-Step's transformer, by the paths of the modules it adapts."""
    return set(modules) <= known_modules()
