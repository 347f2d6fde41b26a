"""Checksums of tensors that are quantised as they are written, which the copy is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from musiclora.conversion.verify import largest_change
from musiclora.convert.files.fingerprint import Fingerprint
from musiclora.convert.files.safetensors_file import Dtype, Shape, Tensors, cast_tensor, checksum
from musiclora.convert.models.quantise import round_matrix
from musiclora.errors import ConvertError, join_problems


class QuantisedVerifier:
    """Recorder of the values that a quantised copy must hold, and of the source's fingerprint."""

    def __init__(self, bits: int, dtypes: Mapping[str, Dtype], packs: Callable[[str, Shape], bool]) -> None:
        """Prepare a copy.

        Args:
            bits: of an element of a quantised matrix.
            dtypes: of every tensor of the copy; of scales and biases where it is quantised.
            packs: tells whether a tensor is quantised.
        """
        self._bits, self._dtypes, self._packs = bits, dtypes, packs
        self._source, self._copy = Fingerprint(), Fingerprint()
        self._sums: dict[str, int] = {}
        self._left: list[str] = []
        self._largest = 0.0

    def __call__(self, tensors: Tensors) -> Iterator[tuple[str, np.ndarray]]:
        """Pass tensors through and record what they become."""
        for name, array in self._source.tap(tensors):
            self._record(name, array)
            yield name, array

    def _record(self, name: str, array: np.ndarray) -> None:
        if self._packs(name, array.shape):
            expected = round_matrix(array, self._bits, self._dtypes[name])
            self._largest = max(self._largest, largest_change(array, expected))
        else:
            expected = cast_tensor(name, array, self._dtypes[name])
            self._left += [name] if array.ndim == 2 else []
        self._sums[name] = checksum(expected)

    def compare(self, tensors: Tensors, destination: Path) -> None:
        """Raise ConvertError if the copy reads back with other values."""
        found = {name: checksum(array) for name, array in self._copy.tap(tensors)}
        if differing := sorted(name for name in {**found, **self._sums} if found.get(name) != self._sums.get(name)):
            raise ConvertError(
                f"{destination}: reads back with other values ({join_problems(differing)}); it was withdrawn"
            )

    def notes(self) -> list[str]:
        """Describe how the values changed."""
        names = join_problems(self._left, 3)
        return [
            f"quantised to {self._bits} bits an element: the largest change of a weight is {self._largest:.3g}",
            f"matrices left as floats: {names}",
        ]

    def source_fingerprint(self) -> dict[str, str]:
        """Return the source's fingerprint for the record."""
        return {"weights": self._source.value()}

    def own_fingerprint(self) -> dict[str, str]:
        """Return the fingerprint of the copy as it is read."""
        return {"weights": self._copy.value()}
