"""The job behind `musiclora convert model`: weights in another layout, checked after writing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.files import write_json
from musiclora.convert.fingerprint import RECORD, checkpoint_fingerprint, recorded_source
from musiclora.convert.folders import read_json
from musiclora.convert.gpt2 import read_checkpoint, rows_of, write_checkpoint
from musiclora.convert.quantise import group_size, rounded
from musiclora.convert.tensors import cast, checksum, dtype_named
from musiclora.errors import ConfigError, ConvertError, listed
from musiclora.models import find_model
from musiclora.quantising import Quantised, own_loss
from musiclora.results import Reporter
from musiclora.verification import Converted, beside, largest_change, withdrawn_on_failure
from musiclora.watching import shown


def convert_model(
    source: str,
    destination: Path,
    to: str,
    dtype: str | None = None,
    *,
    causal: bool = False,
    vae: Path | None = None,
    bits: int | None = None,
    reporter: Reporter | None = None,
) -> Converted:
    """Write a model of either family in another layout.

    Args:
        source: bundled, a Hub id, a folder, or a file of the audio family.
        destination: new folder.
        to: hf, mlx or (the audio codec) diffusers.
        dtype: float32, float16 or bfloat16; None keeps the source's.
        causal: the audio weights are of the v1.0 line.
        vae: the audio family's codec, to go into the same folder.
        bits: quantise to 4 or 8 bits an element (symbolic, to mlx).
        reporter: shows how far it is.

    Raises:
        ConvertError: the source does not fit, or the copy reads back with other values; nothing is left then.
    """
    out = reporter or Reporter()
    path = Path(source).expanduser()
    path = path if path.exists() else find_model(source, "").path
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConfigError(f"{destination} exists already; remove it or choose another name")
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if path.is_file() or config.get("model_type", "oobleck") in ("diffrhythm", "oobleck"):
        from musiclora.audio_conversion import convert_audio

        if bits:
            raise ConfigError("--quantize is for the symbolic family; the audio family's weights stay float")
        return convert_audio(path, destination, to, dtype, causal, vae, out)
    if causal or vae or to == "diffusers":
        raise ConfigError("--causal, --vae and --to diffusers are for the audio family")
    if bits and to != "mlx":
        raise ConfigError(f"--quantize goes with --to mlx; the layout {to} holds no quantised weights")
    return _Gpt2Copy(path, destination, to, dtype, bits, out).convert()


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
        notes = left_out(checkpoint.dropped)
        if self._to == "mlx" and (problems := checkpoint.config.mlx_lm_differs()):
            notes.append(f"for musiclora's MLX backend only; mlx-lm refuses it, it lacks: {listed(problems)}")
        if checkpoint.bits:
            notes.append(f"de-quantised: the {checkpoint.bits}-bit values of the source are written as {self._kept}")
        with self._shown("reading") as watch:
            before = checkpoint_fingerprint(self._path, watch)
        record = record_with_source(self._path, before)
        files = beside(self._path) | {RECORD: _json(record)}
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
            change = self._largest_change(lambda name, array: cast(name, array, dtype))
            notes.append(
                f"rounded from {self._checkpoint.dtype} to {self._kept}: the largest change of a weight is {change:.3g}"
            )
        return Converted(self._destination, self._to, notes=tuple(notes))

    def _quantised(self, bits: int, notes: list[str]) -> Converted:
        dtype = dtype_named(self._kept)

        def expected(name: str, array: np.ndarray) -> np.ndarray:
            rows = rows_of(name, array, "mlx")
            if group_size(rows.shape) is None:
                return cast(name, array, dtype)
            return rows_of(name, rounded(rows, bits, dtype), "mlx")

        change = self._largest_change(expected)
        notes.append(f"quantised to {bits} bits an element: the largest change of a weight is {change:.3g}")
        shapes = self._checkpoint.config.tensor_shapes()
        wide = [n for n, s in shapes.items() if len(s) == 2 and not group_size(rows_of(n, np.empty(s), "mlx").shape)]
        if wide:
            notes.append(f"left in {self._kept}, rows of no multiple of 32 values: {listed(wide)}")
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
            raise ConvertError(f"{self._destination}: reads back with other values ({listed(wrong)}); it was withdrawn")
        return largest

    def _shown(self, what: str) -> Any:
        return shown(self._out, what, self._checkpoint.config.tensor_shapes())


def record_with_source(folder: Path, fingerprint: Mapping[str, str] | None) -> dict[str, Any]:
    """The record of a folder's copy: of a chain of conversions the first source counts, so that its adapters fit.

    Args:
        folder: the source.
        fingerprint: the source's; None where its copy has the same.
    """
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    first = recorded_source(record, fingerprint["weights"] if fingerprint else None)
    if not first and fingerprint:
        first = {key: value for key, value in fingerprint.items() if not key.startswith("source_")}
    stated = {"source_fingerprint"} if fingerprint is None else {"source_fingerprint", "fingerprint"}
    rest = {key: value for key, value in record.items() if key not in stated}
    return rest | ({"source_fingerprint": first} if first else {})


def left_out(dropped: Mapping[str, str]) -> list[str]:
    """Notes on names that were dropped, by their reason, counted where there are many of one kind."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in dropped.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        f"left out {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {reason}"
        for reason, names in by_reason.items()
    ]


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
