"""Fast BLAS for MLX's Linux CPU build, loaded before MLX, and its measured speed.

The wheel links the reference BLAS (a few GFLOP/s). Symbols of a library that is loaded globally first take precedence.
So loading OpenBLAS before the first `import mlx.core` makes matrix products 25 to 60 times faster.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SWITCH = "MUSICLORA_BLAS"
_SYMBOL = "sgemm_"  # that MLX calls


@dataclass(frozen=True)
class BlasStatus:
    """The library that computes MLX's matrix products on the CPU.

    Attributes:
        name: openblas, mkl or torch; None where nothing was loaded.
        path: the file or library name that was loaded.
        reason: reason that nothing was loaded, in words; None where something was.
    """

    name: str | None
    path: str | None = None
    reason: str | None = None


@cache
def status() -> BlasStatus:
    """Load the first BLAS found, once in a process, and report it.

    It does so only on Linux, never with `MUSICLORA_BLAS=off`, and only before mlx.core is imported: later it has no
    effect.
    """
    if not sys.platform.startswith("linux"):
        return BlasStatus(None, reason="MLX brings its own here")
    if os.environ.get(SWITCH, "").lower() == "off":
        return BlasStatus(None, reason=f"{SWITCH}=off")
    if "mlx.core" in sys.modules:
        return BlasStatus(None, reason="mlx.core was imported before musiclora's backend, too late for another BLAS")
    for name, path in _candidate_libraries():
        try:
            library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:  # not installed, or of another architecture
            continue
        if hasattr(library, _SYMBOL):
            return BlasStatus(name, path)
    return BlasStatus(None, reason="no BLAS library found; try: apt install libopenblas0-pthread")


def _candidate_libraries() -> Iterator[tuple[str, str]]:
    """Yield names and paths of libraries in the order in which they are tried."""
    yield "openblas", "libopenblas.so.0"
    for name in ("libmkl_rt.so.3", "libmkl_rt.so.2"):
        yield "mkl", str(Path(sys.prefix) / "lib" / name)
        yield "mkl", name
    torch = importlib.util.find_spec("torch")
    if torch is not None and torch.origin:
        yield "torch", str(Path(torch.origin).parent / "lib" / "libtorch_cpu.so")


def gflops(size: int = 1024, repeats: int = 5) -> float:
    """Measure float32 products of size x size in 10^9 operations a second: the best of a few, default device."""
    import mlx.core as mx

    a, b = mx.ones((size, size)), mx.ones((size, size))
    mx.eval(a @ b)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(a @ b)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9
