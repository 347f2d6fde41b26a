"""The MLX backend: what it computes on, and how checkpoints are loaded."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from musiclora.backends.base import Codec, Family
from musiclora.backends.mlx import blas, device
from musiclora.convert.errors import BackendError

_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
_MODELS = {"symbolic": ("gpt2", "MlxGpt2"), "audio": ("diffrhythm", "MlxFlow")}  # imported when they are asked for


def _dtype(name: str) -> mx.Dtype:
    if name not in _DTYPES:
        raise BackendError(f"mlx: dtype {name!r} is not offered; there are {', '.join(_DTYPES)}")
    return _DTYPES[name]


def describe() -> dict[str, Any]:
    """Where this backend computes here, as JSON: device, name, mlx, blas (None where none was loaded), blas_reason."""
    loaded = blas.status()
    return {
        "device": device.kind(),
        "name": device.name(),
        "mlx": version("mlx"),
        "blas": loaded.name,
        "blas_path": loaded.path,
        "blas_reason": loaded.reason,
    }


class MlxBackend:
    """MLX on Metal, CUDA or the CPU (implements `backends.base.Backend`)."""

    name = "mlx"

    def load(self, family: Family, checkpoint: Path, *, dtype: str = "float32") -> Any:
        """Load a checkpoint folder.

        Args:
            family: which kind of model.
            checkpoint: a folder in the hf or mlx layout; of the audio family also a file.
            dtype: of the base weights; the adapter is always float32. bfloat16 and float16 are meant for GPUs: on the
                CPU build they are right, but about 50 times slower than float32.

        Raises:
            BackendError: a dtype or family that this backend does not offer.
            ConvertError: a folder that does not fit.
        """
        kind = _dtype(dtype)
        if family.name not in _MODELS:
            raise BackendError(f"mlx: the family {family.name!r} is not known; known: {', '.join(_MODELS)}")
        module, name = _MODELS[family.name]
        device.configure()
        return getattr(import_module(f"musiclora.backends.mlx.{module}"), name)(Path(checkpoint), kind)

    def load_codec(self, checkpoint: Path, *, dtype: str = "float32") -> Codec:
        """Load the audio family's codec.

        Args:
            checkpoint: its folder or file, or the audio model's folder that holds it as `vae`.
            dtype: of its weights; float32 is what it was made for.

        Raises:
            BackendError: a dtype that this backend does not offer.
            ConvertError: no codec, or one that does not fit.
        """
        kind = _dtype(dtype)
        from musiclora.backends.mlx.oobleck import MlxOobleck

        device.configure()
        inner = Path(checkpoint) / "vae"
        return MlxOobleck(inner if inner.is_dir() else Path(checkpoint), kind)

    def device(self) -> str:
        """What it computes on, in words, with the BLAS where that is the processor."""
        if device.is_gpu():
            return f"{'Metal' if device.kind() == 'metal' else 'cuda'} ({device.name()})"
        return f"cpu ({blas.status().name or 'no fast BLAS'})" if sys.platform.startswith("linux") else "cpu"

    def peak_memory(self) -> int:
        """Peak bytes: on a GPU of MLX's allocator, on the CPU of the whole process."""
        if device.is_gpu():
            return int(mx.get_peak_memory())
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kilobytes on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


BACKEND = MlxBackend()
