"""Folds of songs for cross-validation, and nested subsets of songs for a learning curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from musiclora.errors import DataError


def hold_out_fold(sizes: Mapping[str, int], fold: tuple[int, int], seed: int) -> set[str]:
    """Choose the groups of songs that one fold of a cross-validation holds out.

    The groups go in random order, large ones first, each into the fold with the fewest songs. Each group is held out by
    exactly one fold, and every fold holds out at least one group.

    Args:
        sizes: number of songs by name of the group; near duplicates form one group.
        fold: number of the fold from 1, and the number of folds.
        seed: of the order; the same for all folds.

    Raises:
        DataError: fewer groups than folds.
    """
    number, folds = fold
    if len(sizes) < folds:
        raise DataError(
            f"--folds {folds}: there {'is 1 song' if len(sizes) == 1 else f'are {len(sizes)} songs'} that can be held "
            f"out (near duplicates count once); give at most {len(sizes)}, at least 2, or add songs"
        )
    counts, held = [0] * folds, set[str]()
    order = np.random.default_rng([seed, len(sizes), 3]).permutation(len(sizes))
    shuffled = [sorted(sizes)[i] for i in order]
    for name in sorted(shuffled, key=lambda name: -sizes[name]):
        smallest = counts.index(min(counts))
        counts[smallest] += sizes[name]
        if smallest == number - 1:
            held.add(name)
    return held


def keep_share(names: Sequence[str], share: float, seed: int) -> set[str]:
    """Choose a share of the groups, at least one; a larger share of the same names holds every smaller one.

    Args:
        names: of the groups of songs; repeated names count once.
        share: in (0, 1].
        seed: of the order.
    """
    distinct = sorted(set(names))
    order = np.random.default_rng([seed, len(distinct), 4]).permutation(len(distinct))
    return {distinct[i] for i in order[: max(1, math.ceil(share * len(distinct) - 1e-9))]}
