"""Errors for lack of memory, of the processor and of every GPU, as one line that names what to lower."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Texts by which frameworks report it, mostly as a plain RuntimeError: CUDA (torch, MLX), MPS, Metal, and the allocators
# of torch, MLX and C++ on the processor.
_TEXTS = re.compile(
    r"out of memory|OutOfMemory|insufficient memory|can't allocate memory|unable to allocate|"
    r"\[(?:metal::)?malloc\w*\]|attempting to allocate|std::bad_alloc|"
    r"CUBLAS_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)
_WANTED = re.compile(r"(?:allocate|allocating)\D{0,12}([\d.]+)\s*(GiB|MiB|GB|MB|bytes)", re.IGNORECASE)
# Options that need less memory when they are lower, or when they are given; the commonest first.
_LOWER = ("--batch-size", "--max-seq-len", "--count", "--max-new-tokens", "--seconds", "--num-workers")
_GIVE = ("--grad-checkpointing",)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for an error by which Python, numpy, torch or MLX say that memory is short."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and bool(_TEXTS.search(str(error)[:2000]))


def memory_message(error: BaseException, options: Iterable[str]) -> str:
    """Say that memory is short, and what to lower.

    Args:
        error: one that `is_out_of_memory` knows.
        options: of the command that ran, such as `--batch-size`.
    """
    wanted = _WANTED.search(str(error)[:2000])
    size = f" ({_format_size(float(wanted[1]), wanted[2])} more were asked for)" if wanted else ""
    known = set(options)
    lower, give = ([name for name in names if name in known] for names in (_LOWER, _GIVE))
    if not lower:
        return f"not enough memory{size}; close other programs, or use a machine with more memory"
    advice = f"try a smaller {' or '.join(lower)}" + "".join(f", or {name}" for name in give)
    return f"not enough memory{size}; {advice}"


def _format_size(number: float, unit: str) -> str:
    return f"{number / 2**30:.1f} GiB" if unit.lower() == "bytes" else f"{number:g} {unit}"
