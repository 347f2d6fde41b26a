"""Shows how far a stream of tensors is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from musiclora.results import Reporter

Tensors = Iterable[tuple[str, np.ndarray]]
_UNIT = 1_000_000  # values; what is shown is counted in millions


@contextmanager
def shown(out: Reporter, what: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Callable[[Tensors], Tensors]]:
    """Yield a function that passes tensors through and shows how many million values have gone by.

    Args:
        out: where it is shown.
        what: the task's name.
        shapes: of all tensors that will come.
    """
    total = sum(math.prod(shape) for shape in shapes.values())
    with out.task(f"{what}, million values") as update:

        def watch(tensors: Tensors) -> Iterator[tuple[str, np.ndarray]]:
            done = 0
            for name, array in tensors:
                yield name, array
                done += array.size
                update(round(done / _UNIT), max(1, round(total / _UNIT)))

        yield watch
