"""A fast BLAS for MLX's Linux CPU build, loaded before MLX is, and what its products then reach.

The wheel links the reference BLAS (a few GFLOP/s). Symbols of a library that is loaded globally first win over it, so
that loading OpenBLAS before the first `import mlx.core` makes matrix products 25 to 60 times faster.
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
_SYMBOL = "sgemm_"  # what a library must offer to be of use


@dataclass(frozen=True)
class BlasStatus:
    """Which library computes MLX's matrix products on the CPU.

    Attributes:
        name: openblas, mkl or torch; None where nothing was loaded.
        path: the file or library name that was loaded.
        reason: why nothing was loaded, in words; None where something was.
    """

    name: str | None
    path: str | None = None
    reason: str | None = None


@cache
def status() -> BlasStatus:
    """Load the first BLAS that is found (once in a process) and say which.

    Only on Linux, never with `MUSICLORA_BLAS=off`, and only while mlx.core has not been imported: afterwards it would
    change nothing.
    """
    if not sys.platform.startswith("linux"):
        return BlasStatus(None, reason="MLX brings its own here")
    if os.environ.get(SWITCH, "").lower() == "off":
        return BlasStatus(None, reason=f"{SWITCH}=off")
    if "mlx.core" in sys.modules:
        return BlasStatus(None, reason="mlx.core was imported before musiclora's backend, too late for another BLAS")
    for name, path in _candidates():
        try:
            library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:  # not installed, or of another architecture
            continue
        if hasattr(library, _SYMBOL):
            return BlasStatus(name, path)
    return BlasStatus(None, reason="no BLAS library found; try: apt install libopenblas0-pthread")


def _candidates() -> Iterator[tuple[str, str]]:
    """Libraries in the order in which they are tried."""
    yield "openblas", "libopenblas.so.0"
    for name in ("libmkl_rt.so.3", "libmkl_rt.so.2"):
        yield "mkl", str(Path(sys.prefix) / "lib" / name)
        yield "mkl", name
    torch = importlib.util.find_spec("torch")
    if torch is not None and torch.origin:
        yield "torch", str(Path(torch.origin).parent / "lib" / "libtorch_cpu.so")


def gflops(size: int = 1024, repeats: int = 5) -> float:
    """Float32 matrix products of size x size in 10^9 operations a second, the best of a few on the default device."""
    import mlx.core as mx

    a, b = mx.ones((size, size)), mx.ones((size, size))
    mx.eval(a @ b)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(a @ b)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9
