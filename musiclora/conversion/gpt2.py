"""What quantising a base costs: the loss on tokens that the float model draws itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.conversion.verify import (
    Converted,
    companion_files,
    describe_dropped,
    largest_change,
    record_with_source,
    withdrawn_on_failure,
)
from musiclora.convert.files.atomic import write_json
from musiclora.convert.files.fingerprint import RECORD
from musiclora.convert.files.safetensors_file import cast_tensor, checksum, dtype_named
from musiclora.convert.models.gpt2 import read_checkpoint, rows_of, write_checkpoint
from musiclora.convert.models.quantise import group_size, round_matrix
from musiclora.errors import BackendError, ConfigError, ConvertError, join_problems
from musiclora.families import checkpoint_fingerprint
from musiclora.progress import Reporter, track_tensors

ROWS, LENGTH = 4, 128  # of the batch that is drawn


@dataclass(frozen=True)
class Quantised(Converted):
    """As Converted, with what it cost.

    Attributes:
        bits: of an element.
        loss, float_loss: nats a token of the quantised and of the float model, on tokens that the float model drew;
            None where no backend is at hand.
    """

    bits: int = 0
    loss: float | None = None
    float_loss: float | None = None


@dataclass(frozen=True)
class Losses:
    """Nats a token of two models on one batch; None where nothing could compute them."""

    first: float | None = None
    second: float | None = None
    backend: str = ""

    def words(self, what: str) -> str:
        """The change as a note; what says which change it is."""
        if self.first is None or self.second is None:
            return f"{what}: no backend is at hand to measure the loss"
        change = self.second - self.first
        return (
            f"{what}: loss {self.first:.4f} -> {self.second:.4f} nats a token ({change:+.4f}), "
            f"on tokens that the float model drew, by {self.backend}"
        )


def own_loss(first: Path, second: Path, backend: str = "auto") -> Losses:
    """Losses of two symbolic models on tokens that the first one draws; empty where no backend can run.

    Raises:
        BackendError: a backend that was asked for by name cannot run.
    """
    from musiclora.backends.base import FAMILIES
    from musiclora.backends.registry import choose, get_backend

    try:
        name = choose(backend)
    except BackendError:
        if backend != "auto":
            raise
        return Losses()
    load = get_backend(name).load
    model = load(FAMILIES["symbolic"], first)
    batch = _drawn(model)
    before = model.loss(batch).mean
    del model
    return Losses(before, load(FAMILIES["symbolic"], second).loss(batch).mean, name)


def _drawn(model: Any) -> dict[str, np.ndarray]:
    """A batch that the model generates from each of its first tokens, the same for every run."""
    from musiclora.backends.base import SamplingSpec

    steps = min(LENGTH, model.n_positions) - 1
    prompts = (np.arange(ROWS, dtype=np.int32) % model.vocab_size)[:, None]
    drawn = model.generate(prompts, SamplingSpec(), np.random.default_rng(0).random((steps, ROWS), np.float32))
    tokens = np.concatenate([prompts, drawn], axis=1).astype(np.int32)
    mask = np.ones(tokens.shape, bool)
    mask[:, 0] = False
    return {"tokens": tokens, "loss_mask": mask}


class _Gpt2Copy:
    """One conversion of a GPT-2."""

    def __init__(
        self, path: Path, destination: Path, to: str, dtype: str | None, bits: int | None, out: Reporter
    ) -> None:
        self._path, self._destination, self._to, self._bits, self._out = path, destination, to, bits, out
        self._checkpoint = read_checkpoint(path)
        self._kept = dtype or self._checkpoint.dtype
        if bits and self._checkpoint.bits:
            raise ConfigError(f"{path}: is quantised already; give the float model that it was made from")

    def convert(self) -> Converted:
        """Write, read back, compare."""
        checkpoint = self._checkpoint
        notes = describe_dropped(checkpoint.dropped)
        if self._to == "mlx" and (problems := checkpoint.config.mlx_lm_differs()):
            notes.append(f"for musiclora's MLX backend only; mlx-lm refuses it, it lacks: {join_problems(problems)}")
        if checkpoint.bits:
            notes.append(f"de-quantised: the {checkpoint.bits}-bit values of the source are written as {self._kept}")
        with self._shown("reading") as watch:
            before = checkpoint_fingerprint(self._path, watch)
        record = record_with_source(self._path, before)
        files = companion_files(self._path) | {RECORD: _json(record)}
        with withdrawn_on_failure(self._destination):
            with self._shown("writing") as watch:
                write_checkpoint(
                    self._destination,
                    checkpoint.config,
                    watch(checkpoint.tensors()),
                    self._to,
                    dtype=self._kept,
                    bits=self._bits,
                    extra_files=files,
                )
            with self._shown("checking") as watch:
                after = checkpoint_fingerprint(self._destination, watch)
            write_json(self._destination / RECORD, record | {"fingerprint": {"weights": after["weights"]}})
            return self._proven(before["weights"], after["weights"], notes)

    def _proven(self, before: str, after: str, notes: list[str]) -> Converted:
        if self._bits:
            return self._quantised(self._bits, notes)
        if after == before:
            notes.append(f"every weight is bit for bit the same (fingerprint {after[:8]})")
        elif self._kept == self._checkpoint.dtype:
            raise ConvertError(
                f"{self._destination}: the copy's fingerprint differs from the source's; it was withdrawn"
            )
        else:
            dtype = dtype_named(self._kept)
            change = self._largest_change(lambda name, array: cast_tensor(name, array, dtype))
            notes.append(
                f"rounded from {self._checkpoint.dtype} to {self._kept}: the largest change of a weight is {change:.3g}"
            )
        return Converted(self._destination, self._to, notes=tuple(notes))

    def _quantised(self, bits: int, notes: list[str]) -> Converted:
        dtype = dtype_named(self._kept)

        def expected(name: str, array: np.ndarray) -> np.ndarray:
            rows = rows_of(name, array, "mlx")
            if group_size(rows.shape) is None:
                return cast_tensor(name, array, dtype)
            return rows_of(name, round_matrix(rows, bits, dtype), "mlx")

        change = self._largest_change(expected)
        notes.append(f"quantised to {bits} bits an element: the largest change of a weight is {change:.3g}")
        shapes = self._checkpoint.config.tensor_shapes()
        wide = [n for n, s in shapes.items() if len(s) == 2 and not group_size(rows_of(n, np.empty(s), "mlx").shape)]
        if wide:
            notes.append(f"left in {self._kept}, rows of no multiple of 32 values: {join_problems(wide)}")
        notes.append(f"left in {self._kept}: layer norms and biases")
        losses = own_loss(self._path, self._destination)
        notes.append(losses.words(f"quantised to {bits} bits"))
        return Quantised(
            self._destination,
            self._to,
            backend=losses.backend,
            notes=tuple(notes),
            bits=bits,
            loss=losses.second,
            float_loss=losses.first,
        )

    def _largest_change(self, expected: Callable[[str, np.ndarray], np.ndarray]) -> float:
        """Largest change of a value; the copy must hold exactly what expected makes of each source tensor."""
        sums: dict[str, int] = {}
        largest = 0.0
        for name, array in self._checkpoint.tensors():
            new = expected(name, array)
            sums[name] = checksum(new)
            largest = max(largest, largest_change(array, new))
        copy = read_checkpoint(self._destination)
        if wrong := [name for name, array in copy.tensors() if checksum(array) != sums[name]]:
            raise ConvertError(
                f"{self._destination}: reads back with other values ({join_problems(wrong)}); it was withdrawn"
            )
        return largest

    def _shown(self, what: str) -> Any:
        return track_tensors(self._out, what, self._checkpoint.config.tensor_shapes())


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
