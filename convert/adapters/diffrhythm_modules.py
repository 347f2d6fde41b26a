"""Modules of DiffRhythm's transformer in adapter files."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from musiclora.convert.models.diffrhythm import DiffRhythmConfig


@cache
def known_modules() -> frozenset[str]:
    """List the paths of all linear layers of a model larger than any published one.

    A file with flat names needs them: `a_b` may stand for `a.b` or `a_b`.
    """
    return frozenset(DiffRhythmConfig(32, 64, 1, conv_layers=16, duration_embedding=True).linear_shapes())


def owns_diffrhythm_modules(modules: Iterable[str]) -> bool:
    """Tell whether an adapter is for DiffRhythm's transformer, by the paths of the modules it adapts."""
    return set(modules) <= known_modules()
