"""MLX's affine quantisation in numpy: small integers, with a scale and a bias for each group of a row."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from musiclora.convert.errors import ConvertError, join_problems, show_value
from musiclora.convert.files.safetensors_file import Dtype, Layout, Shape, Tensors
from musiclora.convert.files.weight_files import WeightFiles

BITS = (2, 4, 8)  # those that divide a 32-bit word; MLX packs 3, 5 and 6 across words
GROUP_SIZES = (64, 32, 128)  # those of MLX's kernels; the first that divides a width is taken
_BLOCK_VALUES = 1 << 17  # of a block of rows
_SMALLEST_SCALE = np.float32(1e-7)
_PART_SUFFIXES = (".weight", ".scales", ".biases")


class Packed(NamedTuple):
    """Quantised matrix [rows, width].

    Attributes:
        values: uint32 [rows, width * bits / 32]; the first element of a word is in its lowest bits.
        scales: float [rows, width / group size].
        biases: float [rows, width / group size].
        bits: of one element.
    """

    values: np.ndarray
    scales: np.ndarray
    biases: np.ndarray
    bits: int


def group_size(shape: Shape) -> int | None:
    """Choose how many elements of a row share a scale; None where the array cannot be quantised."""
    if len(shape) != 2 or not all(shape):
        return None
    return next((size for size in GROUP_SIZES if shape[1] % size == 0), None)


def quantise_matrix(weight: np.ndarray, bits: int, group: int) -> Packed:
    """Round a matrix to bits an element; equals `mx.quantize(weight, group, bits)` on the CPU bit for bit.

    Args:
        weight: float [rows, width]; the width must be a multiple of group.
        bits: 2, 4 or 8.
        group: elements of a row that share a scale and a bias.

    Returns:
        Scales and biases are float32. The element of a group that is farthest from zero is kept exactly.

    Source: mlx 0.32, the documentation of `mlx.core.quantize` (mode affine).
    """
    blocks = [_quantise_rows(weight[rows], bits, group) for rows in _row_blocks(*weight.shape)]
    values, scales, biases = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return Packed(values, scales, biases, bits)


def _row_blocks(rows: int, width: int) -> list[slice]:
    """Cut rows into blocks whose intermediate arrays stay in the processor's cache."""
    step = max(1, _BLOCK_VALUES // max(1, width))
    return [slice(start, start + step) for start in range(0, max(1, rows), step)]


def _quantise_rows(weight: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, width = weight.shape
    grouped = weight.astype(np.float32).reshape(rows, width // group, group)
    low, high = grouped.min(axis=-1), grouped.max(axis=-1)
    top = np.float32(2**bits - 1)
    below = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / top, _SMALLEST_SCALE)
    scale, edge = np.where(below, scale, -scale), np.where(below, low, high)
    steps = np.rint(edge / scale)
    moved = steps != 0  # else zero itself is the edge
    scale = np.where(moved, edge / np.where(moved, steps, np.float32(1)), scale)
    bias = np.where(moved, edge, np.float32(0))
    integers = np.clip(np.rint((grouped - bias[..., None]) / scale[..., None]), 0, top).astype(np.uint32)
    words = (integers.reshape(rows, -1, 32 // bits) << _bit_shifts(bits)).sum(axis=-1, dtype=np.uint32)
    return words, scale, bias


def dequantise_matrix(packed: Packed) -> np.ndarray:
    """Compute the matrix in float32: scale * integer + bias."""
    rows, width = len(packed.values), packed.values.shape[1] * 32 // packed.bits
    dense = np.empty((rows, width), np.float32)
    for block in _row_blocks(rows, width):
        own = Packed(packed.values[block], packed.scales[block], packed.biases[block], packed.bits)
        dense[block] = _dequantise_rows(own)
    return dense


def _dequantise_rows(packed: Packed) -> np.ndarray:
    integers = (packed.values[..., None] >> _bit_shifts(packed.bits)) & np.uint32(2**packed.bits - 1)
    scales, biases = (part.astype(np.float32)[..., None] for part in (packed.scales, packed.biases))
    grouped = integers.reshape(*scales.shape[:2], -1).astype(np.float32)
    dense: np.ndarray = (grouped * scales + biases).reshape(len(packed.values), -1)
    return dense


def round_matrix(weight: np.ndarray, bits: int, dtype: Dtype) -> np.ndarray:
    """Quantise and de-quantise a matrix [rows, width], with scales and biases in dtype; float32.

    Raises:
        ConvertError: the width is no multiple of any group size.
    """
    group = group_size(weight.shape)
    if group is None:
        raise ConvertError(f"a matrix {list(weight.shape)} cannot be quantised: no group size divides its rows")
    packed = quantise_matrix(weight, bits, group)
    return dequantise_matrix(packed._replace(scales=packed.scales.astype(dtype), biases=packed.biases.astype(dtype)))


def _bit_shifts(bits: int) -> np.ndarray:
    return np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)


# --- writing ---


def packed_layout(layout: Layout, bits: int) -> Layout:
    """Lay out a file whose matrices are quantised; scales and biases keep the matrix's dtype."""
    result: Layout = {}
    for name, (dtype, shape) in layout.items():
        group = group_size(shape)
        if group is None:
            result[name] = (dtype, shape)
            continue
        stem = name.removesuffix(".weight")
        rows, width = shape
        result[name] = (np.dtype(np.uint32), (rows, width * bits // 32))
        result[f"{stem}.scales"] = result[f"{stem}.biases"] = (dtype, (rows, width // group))
    return result


def packed_stream(tensors: Tensors, bits: int) -> Iterator[tuple[str, np.ndarray]]:
    """Quantise the matrices among tensors as they stream by."""
    for name, array in tensors:
        group = group_size(array.shape)
        if group is None:
            yield name, array
            continue
        packed = quantise_matrix(array, bits, group)
        stem = name.removesuffix(".weight")
        yield name, packed.values
        yield f"{stem}.scales", packed.scales
        yield f"{stem}.biases", packed.biases


def quantisation_settings(layout: Layout, bits: int) -> dict[str, Any]:
    """Build the `quantization` of config.json: one group size for all, and the modules that have another."""
    groups = {name.removesuffix(".weight"): group_size(shape) for name, (_, shape) in layout.items()}
    sizes = [size for size in groups.values() if size]
    if not sizes:
        raise ConvertError(f"nothing here can be quantised: MLX needs rows of a multiple of {min(GROUP_SIZES)} values")
    common = max(sorted(set(sizes)), key=sizes.count)
    record: dict[str, Any] = {"group_size": common, "bits": bits, "mode": "affine"}
    return record | {n: {"group_size": g, "bits": bits} for n, g in groups.items() if g and g != common}


# --- reading ---


@dataclass(frozen=True)
class QuantisedFiles(WeightFiles):
    """Weight files whose quantised matrices are read as float32; `layout` describes these.

    Attributes:
        bits: of every quantised matrix, by the name of its weight.
    """

    bits: Mapping[str, int]

    def tensors(self, wanted: Container[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name, array) of the wanted tensors one at a time, de-quantised."""
        for name, value in self.stored(wanted):
            yield name, dequantise_matrix(value) if isinstance(value, Packed) else value

    def stored(self, wanted: Container[str]) -> Iterator[tuple[str, np.ndarray | Packed]]:
        """Yield (name, array), or all parts of a quantised matrix under the name of its weight."""
        stems = {weight.removesuffix(".weight") for weight in self.bits if weight in wanted}
        small = {stem + part for stem in stems for part in _PART_SUFFIXES[1:]}
        # First: in a file they may lie behind the words of all matrices, which would wait in memory.
        parts = dict(super().tensors(small))
        kept = {name for names in self.files.values() for name in names if name in wanted} - small
        for name, array in super().tensors(kept):
            stem = name.removesuffix(".weight")
            if name in self.bits:
                yield name, Packed(array, parts.pop(f"{stem}.scales"), parts.pop(f"{stem}.biases"), self.bits[name])
            else:
                yield name, array


def quantised_files(files: WeightFiles, config: Mapping[str, Any], where: str) -> QuantisedFiles:
    """Read a folder by the `quantization` of its config.json.

    Args:
        files: stored tensors of the folder.
        config: content of `quantization`: bits, group_size, mode, and modules with their own settings.
        where: the folder, for messages.

    Raises:
        ConvertError: another mode or number of bits, or parts that are missing or do not fit each other, all at once.
    """
    if config.get("mode", "affine") != "affine":
        raise ConvertError(f"{where}: quantisation mode {show_value(config['mode'])} is not supported, only affine is")
    layout: Layout = dict(files.layout)
    bits: dict[str, int] = {}
    problems: list[str] = []
    for stem in [name.removesuffix(".scales") for name in files.layout if name.endswith(".scales")]:
        own = config.get(stem, config)
        count, size = (own.get(k, config.get(k)) if isinstance(own, dict) else None for k in ("bits", "group_size"))
        found = [files.layout.get(stem + part) for part in _PART_SUFFIXES]
        if count not in BITS:
            problems.append(f"{stem} has {show_value(count)} bits; supported are {', '.join(map(str, BITS))}")
        elif problem := _find_misfit(found, int(count), size):
            problems.append(f"{stem}: {problem}")
        else:
            for part in _PART_SUFFIXES:
                del layout[stem + part]
            (_, (rows, words)) = files.layout[f"{stem}.weight"]
            layout[f"{stem}.weight"] = (np.dtype(np.float32), (rows, words * 32 // int(count)))
            bits[f"{stem}.weight"] = int(count)
    if problems:
        raise ConvertError(f"{where}: its quantised tensors do not fit: {join_problems(problems)}")
    return QuantisedFiles(files.files, layout, files.metadata, bits)


def _find_misfit(found: list[tuple[Dtype, Shape] | None], bits: int, size: object) -> str:
    """Describe a misfit between stored weight, scales and biases; "" where there is none."""
    if None in found:
        return "needs weight, scales and biases"
    (kind, words), (_, scales), (_, biases) = (part for part in found if part)
    if kind != np.uint32 or len(words) != 2:
        return f"its weight is {kind} {list(words)}, expected uint32 words in rows"
    width = words[1] * 32 // bits
    if type(size) is not int or size not in GROUP_SIZES or width % size:
        return f"group size {show_value(size)} does not divide its width {width}"
    if scales != (words[0], width // size) or biases != scales:
        return f"scales {list(scales)} and biases {list(biases)}, expected {[words[0], width // size]}"
    return ""
