"""What MLX computes on here, and the few settings that depend on it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache

import mlx.core as mx

COMPILE_SWITCH = "MUSICLORA_COMPILE"
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h
_KEPT_CACHE = 2 << 30  # bytes of freed buffers that a GPU may keep between steps


@cache
def kind() -> str:
    """Metal, cuda or cpu, in small letters."""
    if mx.default_device() == mx.Device(mx.cpu, 0) or mx.default_device().type == mx.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def is_gpu() -> bool:
    """Whether kernels are launched on a device beside the processor."""
    return kind() != "cpu"


@cache
def name() -> str:
    """The device's own name, such as `Apple M1 Pro`."""
    if is_gpu():
        return str(mx.device_info().get("device_name", kind()))
    return platform.processor() or platform.machine()


@cache
def configure() -> None:
    """Set, once in a process: compiling on or off, and how memory is kept.

    On the Linux CPU build every temporary comes from malloc. glibc would map and unmap large ones each time, and the
    page faults cost several times the arithmetic (measured: 1.8 ns an element of an addition against 0.24); so freed
    memory is kept in one heap. On a GPU, wired memory is raised to what the system recommends, and freed buffers
    beyond 2 GiB are given back.
    """
    if os.environ.get(COMPILE_SWITCH, "").lower() == "off":
        mx.disable_compile()
    if is_gpu():
        recommended = int(mx.device_info().get("max_recommended_working_set_size", 0))
        if kind() == "metal" and recommended:
            mx.set_wired_limit(recommended)
        mx.set_cache_limit(_KEPT_CACHE)
    elif sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
        if mallopt is not None:
            for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 1)):
                mallopt(option, value)
