"""MLX's default device and the settings that depend on it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache

import mlx.core as mx

COMPILE_SWITCH = "MUSICLORA_COMPILE"
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h
_CACHE_LIMIT_BYTES = 2 << 30  # freed buffers that a GPU may keep between steps


@cache
def kind() -> str:
    """Return the kind of device: metal, cuda or cpu."""
    if mx.default_device() == mx.Device(mx.cpu, 0) or mx.default_device().type == mx.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def is_gpu() -> bool:
    """Tell whether MLX computes on a GPU."""
    return kind() != "cpu"


@cache
def name() -> str:
    """Return the device's own name, such as `Apple M1 Pro`."""
    if is_gpu():
        return str(mx.device_info().get("device_name", kind()))
    return platform.processor() or platform.machine()


@cache
def configure() -> None:
    """Set compilation and memory limits, once in a process.

    On the Linux CPU build every temporary comes from malloc. glibc maps and unmaps large ones each time, and the page
    faults cost several times the arithmetic (measured: 1.8 ns per element of an addition against 0.24). So freed
    memory is kept in one heap. On a GPU the wired limit is what the system recommends, and freed buffers beyond
    2 GiB are returned.
    """
    if os.environ.get(COMPILE_SWITCH, "").lower() == "off":
        mx.disable_compile()
    if is_gpu():
        recommended = int(mx.device_info().get("max_recommended_working_set_size", 0))
        if kind() == "metal" and recommended:
            mx.set_wired_limit(recommended)
        mx.set_cache_limit(_CACHE_LIMIT_BYTES)
    elif sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
        if mallopt is not None:
            for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 1)):
                mallopt(option, value)
