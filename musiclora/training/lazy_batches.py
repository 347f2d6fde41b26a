"""Lazy sequences of batches: each one is built when it is indexed, and none is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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


class PartedBatches(Sequence[Arrays]):
    """Sequence of batches that consists of named parts, whose losses are reported too.

    Attributes:
        parts: the batches of each part, by its name.
    """

    def __init__(self, parts: Mapping[str, Sequence[Arrays]]) -> None:
        self.parts = parts
        self._places = [(batches, index) for batches in parts.values() for index in range(len(batches))]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Arrays: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Arrays]: ...

    def __getitem__(self, index: int | slice) -> Arrays | Sequence[Arrays]:
        if isinstance(index, slice):
            return [batches[i] for batches, i in self._places[index]]
        batches, i = self._places[index]
        return batches[i]


def parts_of(batches: Sequence[Arrays]) -> Mapping[str, Sequence[Arrays]]:
    """Return the parts of a sequence of batches by name; one without a name where it has none."""
    return batches.parts if isinstance(batches, PartedBatches) else {"": batches}
