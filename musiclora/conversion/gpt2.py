"""GPT-2's part of `convert model`: copies in another layout or dtype, quantised ones included."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from musiclora.conversion.protocols import ConvertModel, IsModelSource, ModelConversion
from musiclora.conversion.quantised_loss import measure_loss_change
from musiclora.conversion.verify import (
    Converted,
    companion_files,
    describe_dropped,
    describe_zeros,
    largest_change,
    record_with_source,
    stored_dtype,
    zeros_made,
)
from musiclora.convert.files.atomic import atomic_folder, write_json
from musiclora.convert.files.fingerprint import RECORD, Watch, fingerprint_tensors
from musiclora.convert.files.json_file import read_optional_json
from musiclora.convert.files.safetensors_file import cast_tensor, checksum, dtype_named
from musiclora.convert.models.gpt2 import read_checkpoint, rows_of, write_checkpoint
from musiclora.convert.models.quantise import group_size, round_matrix
from musiclora.errors import ConfigError, ConvertError, join_problems
from musiclora.families import checkpoint_fingerprint
from musiclora.progress import Reporter, track_tensors


@dataclass(frozen=True)
class Quantised(Converted):
    """Result of quantising a model.

    Attributes:
        bits: of an element.
        loss, float_loss: nats a token of the quantised and of the float model, on tokens that the float model drew;
            None where no backend is at hand.
    """

    bits: int = 0
    loss: float | None = None
    float_loss: float | None = None


def is_gpt2_source(path: Path) -> bool:
    """Tell whether a path is a folder whose config.json names GPT-2."""
    return path.is_dir() and read_optional_json(path / "config.json").get("model_type") == "gpt2"


def convert_gpt2(conversion: ModelConversion, reporter: Reporter) -> Converted:
    """Write a GPT-2 in another layout, read it back and compare.

    Raises:
        ConfigError: options of the audio family, or a quantised source or layout that cannot be quantised.
        ConvertError: the source does not fit, or the copy reads back with other values; nothing is written then.
    """
    if conversion.causal or conversion.vae or conversion.to == "diffusers":
        raise ConfigError("--causal, --vae and --to diffusers are for the audio family")
    if conversion.bits and conversion.to != "mlx":
        raise ConfigError(f"--quantize goes with --to mlx; the layout {conversion.to} holds no quantised weights")
    return _Gpt2Copy(conversion, reporter).run()


class _Gpt2Copy:
    """One conversion of a GPT-2."""

    def __init__(self, conversion: ModelConversion, reporter: Reporter) -> None:
        self._conversion, self._reporter = conversion, reporter
        self._zeros = 0  # values that rounding turned into zero
        self._checkpoint = read_checkpoint(conversion.source)
        found = self._checkpoint.dtypes
        self._dtype = stored_dtype(conversion.dtype, found, conversion.to) or self._checkpoint.dtype
        if conversion.bits and self._checkpoint.bits:
            raise ConfigError(f"{conversion.source}: is quantised already; give the float model that it was made from")

    def run(self) -> Converted:
        """Write, read back, compare."""
        wanted, checkpoint = self._conversion, self._checkpoint
        notes = describe_dropped(checkpoint.dropped)
        if wanted.to == "mlx" and (problems := checkpoint.config.mlx_lm_differs()):
            notes.append(f"for musiclora's MLX backend only; mlx-lm refuses it, it lacks: {join_problems(problems)}")
        if checkpoint.bits:
            notes.append(f"de-quantised: the {checkpoint.bits}-bit values of the source are written as {self._dtype}")
        with self._track("reading") as watch:
            before = checkpoint_fingerprint(wanted.source, watch)
        record = record_with_source(wanted.source, before)
        files = companion_files(wanted.source)
        with atomic_folder(wanted.destination) as folder:
            with self._track("writing") as watch:
                write_checkpoint(
                    folder,
                    checkpoint.config,
                    watch(checkpoint.tensors()),
                    wanted.to,
                    dtype=self._dtype,
                    bits=wanted.bits,
                    extra_files=files,
                    other_settings=checkpoint.other_settings,
                )
            with self._track("checking") as watch:
                after = fingerprint_tensors(watch(read_checkpoint(folder).tensors()))
            write_json(folder / RECORD, record | {"fingerprint": {"weights": after}})
            if wanted.bits:
                return self._check_quantised(folder, wanted.bits, notes)
            return self._check_copy(folder, before["weights"], after, notes)

    def _check_copy(self, folder: Path, before: str, after: str, notes: list[str]) -> Converted:
        wanted = self._conversion
        narrower = self._dtype != self._checkpoint.dtype and self._checkpoint.dtype == "float64"
        if after == before and not narrower:  # fingerprints are those of float32 values
            notes.append(f"every weight is bit for bit the same (fingerprint {after[:8]})")
        elif self._dtype == self._checkpoint.dtype:
            raise ConvertError(
                f"{wanted.destination}: the copy's fingerprint differs from the source's; it was withdrawn"
            )
        else:
            dtype = dtype_named(self._dtype)
            change = self._largest_change(folder, lambda name, array: cast_tensor(name, array, dtype))
            dtypes = f"from {self._checkpoint.dtype} to {self._dtype}"
            notes.append(f"rounded {dtypes}: the largest change of a weight is {change:.3g}")
            notes += describe_zeros(self._zeros, self._dtype)
        return Converted(wanted.destination, wanted.to, notes=tuple(notes))

    def _check_quantised(self, folder: Path, bits: int, notes: list[str]) -> Converted:
        wanted, dtype = self._conversion, dtype_named(self._dtype)

        def expected(name: str, array: np.ndarray) -> np.ndarray:
            rows = rows_of(name, array, "mlx")
            if group_size(rows.shape) is None:
                return cast_tensor(name, array, dtype)
            return rows_of(name, round_matrix(rows, bits, dtype), "mlx")

        change = self._largest_change(folder, expected)
        notes.append(f"quantised to {bits} bits an element: the largest change of a weight is {change:.3g}")
        shapes = self._checkpoint.config.tensor_shapes()
        wide = [n for n, s in shapes.items() if len(s) == 2 and not group_size(rows_of(n, np.empty(s), "mlx").shape)]
        if wide:
            notes.append(f"left in {self._dtype}, rows of no multiple of 32 values: {join_problems(wide)}")
        notes.append(f"left in {self._dtype}: layer norms and biases")
        losses = measure_loss_change(wanted.source, folder)
        notes.append(losses.describe(f"quantised to {bits} bits"))
        return Quantised(
            wanted.destination,
            wanted.to,
            backend=losses.backend,
            notes=tuple(notes),
            bits=bits,
            loss=losses.second,
            float_loss=losses.first,
        )

    def _largest_change(self, folder: Path, expected: Callable[[str, np.ndarray], np.ndarray]) -> float:
        """Find the largest change of a value; the copy must hold exactly the expected form of each source tensor."""
        sums: dict[str, int] = {}
        largest = 0.0
        for name, array in self._checkpoint.tensors():
            new = expected(name, array)
            sums[name] = checksum(new)
            largest = max(largest, largest_change(array, new))
            self._zeros += zeros_made(array, new)
        if wrong := [name for name, array in read_checkpoint(folder).tensors() if checksum(array) != sums[name]]:
            raise ConvertError(
                f"{self._conversion.destination}: reads back with other values ({join_problems(wrong)}); "
                "it was withdrawn"
            )
        return largest

    def _track(self, what: str) -> AbstractContextManager[Watch]:
        return track_tensors(self._reporter, what, self._checkpoint.config.tensor_shapes())


if TYPE_CHECKING:
    _convert: ConvertModel = convert_gpt2
    _is_source: IsModelSource = is_gpt2_source
