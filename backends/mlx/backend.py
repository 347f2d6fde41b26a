"""MLX backend: device report and loading of checkpoints."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from musiclora.backends.base import Backend, Codec, ConditionEncoder, Family, Model, TextEncoder
from musiclora.backends.loading import (
    find_codec,
    find_condition_encoder,
    find_dtype,
    find_model_class,
    find_text_encoder,
    process_peak_bytes,
)
from musiclora.backends.mlx import blas, device
from musiclora.backends.specs import MLX

_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


def describe() -> dict[str, Any]:
    """Describe the device as JSON: device, name, mlx, blas (None where none was loaded), blas_reason."""
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

    name = MLX.name

    def load(self, family: Family, checkpoint: Path, *, dtype: str = "float32") -> Model:
        """Load a checkpoint folder.

        Args:
            family: which kind of model.
            checkpoint: a folder in the hf or mlx layout; of the audio family also a file.
            dtype: of the base weights; the adapter is always float32. bfloat16 and float16 are meant for GPUs: on the
                CPU build they are right, but about 50 times slower than float32.

        Raises:
            BackendError: a dtype or architecture that this backend does not offer.
            ConvertError: a folder that does not fit.
        """
        kind = find_dtype(MLX, dtype, _DTYPES)
        model_class = find_model_class(MLX, family, Path(checkpoint))
        device.configure()
        return model_class(Path(checkpoint), kind)

    def load_codec(self, checkpoint: Path, *, dtype: str = "float32") -> Codec:
        """Load the audio family's codec.

        Args:
            checkpoint: its folder or file, or the audio model's folder that holds it as `vae`.
            dtype: of its weights; float32 is what it was made for.

        Raises:
            BackendError: a dtype that this backend does not offer.
            ConvertError: no codec, or one that does not fit.
        """
        kind = find_dtype(MLX, dtype, _DTYPES)
        codec_class, path = find_codec(MLX, Path(checkpoint))
        device.configure()
        return codec_class(path, kind)

    def load_text_encoder(self, folder: Path, *, dtype: str = "float32") -> TextEncoder:
        """Load a text encoder.

        Args:
            folder: config.json and weights.
            dtype: of its weights; half precision is meant for GPUs.

        Raises:
            BackendError: a dtype that this backend does not offer, or a package that is not installed.
            ConvertError: a folder that does not fit.
        """
        kind = find_dtype(MLX, dtype, _DTYPES)
        encoder_class = find_text_encoder(MLX, Path(folder))
        device.configure()
        return encoder_class(Path(folder), kind)

    def load_condition_encoder(self, checkpoint: Path, *, dtype: str = "float32") -> ConditionEncoder:
        """Load the condition encoder of an audio model's folder.

        Raises:
            BackendError: a dtype that this backend does not offer, or a package that is not installed.
            ConvertError: a folder that does not fit.
        """
        kind = find_dtype(MLX, dtype, _DTYPES)
        encoder_class = find_condition_encoder(MLX, Path(checkpoint))
        device.configure()
        return encoder_class(Path(checkpoint), kind)

    def device(self) -> str:
        """Describe the device in words; on the CPU with its BLAS."""
        if device.is_gpu():
            return f"{'Metal' if device.kind() == 'metal' else 'cuda'} ({device.name()})"
        return f"cpu ({blas.status().name or 'no fast BLAS'})" if sys.platform.startswith("linux") else "cpu"

    def peak_memory(self) -> int:
        """Measure peak bytes: of MLX's allocator on a GPU, of the whole process on the CPU."""
        if device.is_gpu():
            return int(mx.get_peak_memory())
        return process_peak_bytes()


BACKEND = MlxBackend()

if TYPE_CHECKING:
    _: Backend = BACKEND
