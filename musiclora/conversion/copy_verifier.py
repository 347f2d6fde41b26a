"""Checksums of tensors as they are written, which the copy is compared with."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from musiclora.conversion.verify import describe_zeros, largest_change, zeros_made
from musiclora.convert.files.fingerprint import Fingerprint
from musiclora.convert.files.safetensors_file import Tensors, cast_tensor, checksum, dtype_named
from musiclora.errors import ConvertError, join_problems

_THREADS = 2  # rounding takes far longer than reading and writing


class CopyVerifier:
    """Recorder of a checksum for each tensor as it is written, and of the source's fingerprint.

    A checksum that the source's file states is not computed again where the values stay as they are.
    """

    def __init__(
        self,
        dtype: str | None,
        stated: Mapping[str, int] | None = None,
        *,
        fingerprint: bool = True,
        rounds: bool = False,
        own: bool = True,
    ) -> None:
        """Prepare a copy.

        Args:
            dtype: of the copy; None keeps each tensor's.
            stated: CRC-32 that the source's file states, by name.
            fingerprint: compute the source's fingerprint.
            rounds: the copy's values differ from the source's.
            own: compute the fingerprint of a copy that rounds.
        """
        self._source = Fingerprint() if fingerprint else None
        self._copy = self._source if not rounds else Fingerprint() if own else None
        self._dtype = dtype_named(dtype) if dtype else None
        self._stated = stated or {}
        self._sums: dict[str, int] = {}
        self._changes: list[float] = []
        self._zeros: list[int] = []

    def __call__(self, tensors: Tensors) -> Iterator[tuple[str, np.ndarray]]:
        """Pass tensors through in the copy's dtype, and record them."""
        kept = self._cast_all(self._source.tap(tensors) if self._source else tensors)
        return self._copy.tap(kept) if self._copy and self._copy is not self._source else kept

    def _cast_all(self, tensors: Tensors) -> Iterator[tuple[str, np.ndarray]]:
        if self._dtype is None:
            for name, array in tensors:
                self._sums[name] = self._stated[name] if name in self._stated else checksum(array)
                yield name, array
            return
        with ThreadPoolExecutor(_THREADS) as pool:
            waiting: deque[Future[tuple[str, np.ndarray]]] = deque()
            for item in tensors:
                waiting.append(pool.submit(self._cast_one, *item))
                if len(waiting) > _THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _cast_one(self, name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
        """Cast a tensor to the copy's dtype; numpy lets other threads run meanwhile."""
        rounded = cast_tensor(name, array, self._dtype or array.dtype)
        self._sums[name] = checksum(rounded)
        if rounded is not array:
            self._changes.append(largest_change(array, rounded))
            self._zeros.append(zeros_made(array, rounded))
        return name, rounded

    def compare(self, tensors: Tensors, destination: Path) -> None:
        """Raise ConvertError if the copy reads back with other values."""
        found = {name: checksum(array) for name, array in tensors}
        if differing := sorted(name for name in {**found, **self._sums} if found.get(name) != self._sums.get(name)):
            raise ConvertError(
                f"{destination}: reads back with other values ({join_problems(differing)}); it was withdrawn"
            )

    def notes(self) -> list[str]:
        """Describe how the values changed."""
        if change := max(self._changes, default=0.0):
            text = f"rounded to {self._dtype}: the largest change of a weight is {change:.3g}"
            return [text, *describe_zeros(sum(self._zeros), str(self._dtype))]
        known = f" (fingerprint {self._source.value()[:8]})" if self._source else ""
        return [f"every weight has the same value{known}"]

    def source_fingerprint(self) -> dict[str, str] | None:
        """Return the source's fingerprint for the record; None where it was left out."""
        return {"weights": self._source.value()} if self._source else None

    def own_fingerprint(self) -> dict[str, str] | None:
        """Return the copy's fingerprint, for which its record holds; None where it was left out."""
        return {"weights": self._copy.value()} if self._copy else None
