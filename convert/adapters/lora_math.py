"""Arithmetic of LoRA updates: fusing, compression to a rank, comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from musiclora.convert.adapters.lora import LoraSpec, module_of_weight, state_keys, state_modules
from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.safetensors_file import Arrays, Tensors

Part = tuple[LoraSpec, Arrays, float]  # settings, arrays and strength of an adapter


@dataclass(frozen=True)
class Dora:
    """Weight-decomposed adapter (DoRA): the rows of the updated weight are scaled to given lengths.

    Attributes:
        spec, state: settings and arrays of the LoRA part.
        magnitudes: length of every row [out] of each module.
        strength: multiplier of the change: 0 leaves the base, 1 is the adapter.

    Source: Liu et al. 2024 (arXiv 2402.09353), eq. 5.
    """

    spec: LoraSpec
    state: Arrays
    magnitudes: Arrays
    strength: float = 1.0

    def change(self, module: str, weight: np.ndarray) -> np.ndarray:
        """Compute the change of a weight [out, in], float32; zeros where the module is not adapted."""
        if module not in self.magnitudes:
            return np.zeros(weight.shape, np.float32)
        moved = weight.astype(np.float32) + _lora_update(self.spec, self.state, module)
        lengths = np.linalg.norm(moved.astype(np.float64), axis=1, keepdims=True)
        # A row of zeros has no direction; it stays zero, where the formula divides by zero.
        scale = self.magnitudes[module][:, None] / np.where(lengths, lengths, 1.0)
        change: np.ndarray = np.float32(self.strength) * ((scale * moved).astype(np.float32) - weight)
        return change


def has_row_lengths(magnitudes: Arrays, tensors: Tensors, *, conv1d: bool) -> bool:
    """Return True where DoRA's magnitudes are the lengths of the base's rows, as before training.

    Args:
        magnitudes: one vector [out] a module.
        tensors: (canonical name, array) of the base.
        conv1d: linear weights are [in, out] (GPT-2) and not [out, in].
    """
    left = dict(magnitudes)
    for name, array in tensors:
        vector = left.pop(module_of_weight(name), None)
        if vector is None:
            continue
        lengths = np.linalg.norm(array.astype(np.float64), axis=0 if conv1d else 1)
        # Magnitudes are float32, and sums of squares differ by their order.
        if lengths.shape != vector.shape or not np.allclose(vector, lengths, rtol=1e-6, atol=0):
            return False
    return not left


def compress_to_rank(spec: LoraSpec, state: Arrays, rank: int) -> tuple[LoraSpec, dict[str, np.ndarray], float]:
    """Find the best adapter of a lower rank by singular values, and its error.

    Returns:
        Settings, state, and ||update - compressed|| / ||update|| over all modules (Frobenius).

    Source: Eckart and Young 1936; two thin QR factorisations give the values without forming any update.
    """
    compressed: dict[str, np.ndarray] = {}
    lost = total = 0.0
    for module in state_modules(state):
        key_a, key_b = state_keys(module)
        q_out, r_out = np.linalg.qr(state[key_b].astype(np.float64) * spec.scale)
        q_in, r_in = np.linalg.qr(state[key_a].astype(np.float64).T)
        left, values, right = np.linalg.svd(r_out @ r_in.T)
        kept = min(rank, len(values))
        roots = np.sqrt(values[:kept])
        b, a = q_out @ (left[:, :kept] * roots), (roots[:, None] * right[:kept]) @ q_in.T
        compressed[key_a] = np.pad(a, ((0, rank - kept), (0, 0))).astype(np.float32)
        compressed[key_b] = np.pad(b, ((0, 0), (0, rank - kept))).astype(np.float32)
        lost += float((values[kept:] ** 2).sum())
        total += float((values**2).sum())
    error = (lost / total) ** 0.5 if total else 0.0
    return LoraSpec(rank, float(rank), 0.0, spec.targets), compressed, error


def fuse_tensors(
    tensors: Tensors,
    spec: LoraSpec | None,
    state: Arrays,
    *,
    conv1d: bool,
    dora: Sequence[Dora] = (),
) -> Iterator[tuple[str, np.ndarray]]:
    """Add the update to a checkpoint's tensors as they stream by; adapted ones come out in float32.

    Args:
        tensors: (canonical name, array).
        spec: gives the scale; None where there are DoRA adapters only.
        state: adapter arrays, one rank and scale for all modules.
        conv1d: linear weights are [in, out] (GPT-2) and not [out, in].
        dora: more adapters, whose changes of the base are added too.

    Raises:
        ConvertError: adapted modules that the checkpoint lacks, or whose sizes differ, all named at the end.
    """
    left = dict.fromkeys(m for s in (state, *(part.state for part in dora)) for m in state_modules(s))
    problems: list[str] = []
    for name, array in tensors:
        module = module_of_weight(name)
        if module not in left:
            yield name, array
            continue
        del left[module]
        weight = array.T if conv1d else array
        sizes = {_module_size(s, module) for s in (state, *(part.state for part in dora)) if state_keys(module)[0] in s}
        if sizes != {weight.shape}:
            own = " and ".join(str(list(size[::-1] if conv1d else size)) for size in sorted(sizes))
            problems.append(f"{module} is {list(array.shape)} in the base and {own} in the adapter")
            continue
        update = _lora_update(spec, state, module)
        for part in dora:
            update = update + part.change(module, weight)
        yield name, array.astype(np.float32) + (update.T if conv1d else update)
    problems += [f"{module} is not in the base" for module in left]
    if problems:
        raise ConvertError(f"the adapter does not fit this base: {join_problems(problems)}")


def _module_size(state: Arrays, module: str) -> tuple[int, int]:
    """Compute (out, in) of a module from its arrays."""
    key_a, key_b = state_keys(module)
    return state[key_b].shape[0], state[key_a].shape[1]


def _lora_update(spec: LoraSpec | None, state: Arrays, module: str) -> np.ndarray:
    """Compute the update of a weight [out, in], float32; 0 where the module is not adapted."""
    key_a, key_b = state_keys(module)
    if spec is None or key_a not in state:
        return np.zeros((), np.float32)
    product: np.ndarray = state[key_b].astype(np.float32) @ state[key_a].astype(np.float32)
    return np.float32(spec.scale) * product


def update_difference(before: Sequence[Part], after: Sequence[Part]) -> float:
    """Compute the largest difference between two sums of updates, relative to the largest value of the first.

    It is computed densely in float64, module by module, independent of the code that it checks.
    """
    largest, scale = 0.0, 1e-30
    for module in dict.fromkeys(m for _, state, _ in (*before, *after) for m in state_modules(state)):
        firsts, seconds = ([_dense_update(part, module) for part in parts] for parts in (before, after))
        sizes = {update.shape for update in (*firsts, *seconds) if update.ndim}
        if len(sizes) > 1:
            return float("inf")
        scale = max(scale, *(float(np.abs(update).max(initial=0)) for update in firsts))
        difference: np.ndarray = sum(firsts, np.zeros(())) - sum(seconds, np.zeros(()))
        largest = max(largest, float(np.abs(difference).max(initial=0)))
    return largest / scale


def _dense_update(part: Part, module: str) -> np.ndarray:
    spec, state, strength = part
    key_a, key_b = state_keys(module)
    if key_a not in state:
        return np.zeros(())
    dense: np.ndarray = strength * spec.scale * (state[key_b].astype(np.float64) @ state[key_a].astype(np.float64))
    return dense
