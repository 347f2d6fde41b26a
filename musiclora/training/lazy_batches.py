"""Lazy sequence of batches: each one is built when it is indexed, and none is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import overload

from musiclora.backends.base import Arrays


class LazyBatches(Sequence[Arrays]):
    """Sequence of batches that holds their builders only, so that memory does not grow with the epoch."""

    def __init__(self, builders: Sequence[Callable[[], Arrays]]) -> None:
        """Keep the builders.

        Args:
            builders: one function a batch; each call returns the same arrays.
        """
        self._builders = builders

    def __len__(self) -> int:
        return len(self._builders)

    @overload
    def __getitem__(self, index: int) -> Arrays: ...

    @overload
    def __getitem__(self, index: slice) -> LazyBatches: ...

    def __getitem__(self, index: int | slice) -> Arrays | LazyBatches:
        if isinstance(index, slice):
            return LazyBatches(self._builders[index])
        return self._builders[index]()

    def __iter__(self) -> Iterator[Arrays]:
        return (build_batch() for build_batch in self._builders)
