"""PyTorch backend: device report and loading of checkpoints."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from musiclora.backends.base import Backend, Codec, ConditionEncoder, Family, Model, TextEncoder
from musiclora.backends.loading import (
    find_codec,
    find_condition_encoder,
    find_dtype,
    find_model_class,
    find_text_encoder,
    process_peak_bytes,
)
from musiclora.backends.specs import TORCH
from musiclora.convert.errors import BackendError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def device() -> torch.device:
    """Describe the device in words."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def has_bfloat16(where: torch.device) -> bool:
    """Tell whether the hardware multiplies in bfloat16, so that the dtype is worth choosing."""
    if where.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if where.type == "mps":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported()) if platform.machine() in ("x86_64", "AMD64") else False


def describe() -> dict[str, Any]:
    """Describe the device as JSON: device, name, torch, threads, bfloat16."""
    where = device()
    names = {"cuda": lambda: torch.cuda.get_device_name(), "mps": lambda: f"Metal ({platform.machine()})"}
    return {
        "device": where.type,
        "name": names.get(where.type, lambda: platform.processor() or platform.machine())(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "bfloat16": has_bfloat16(where),
    }


def _dtype(name: str, where: torch.device) -> torch.dtype:
    """Look up a dtype that this backend offers on this device.

    Raises:
        BackendError: this backend, or this device, does not offer it.
    """
    found = find_dtype(TORCH, name, _DTYPES)
    if where.type == "mps" and name != "float32":
        raise BackendError("torch: on MPS only float32 is offered (half precision gives NaN there)")
    return found


def _keep_float32(where: torch.device) -> None:
    """Disable TF32 in CUDA's convolutions, which rounds float32 to ten bits of mantissa by default."""
    if where.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False


class TorchBackend:
    """PyTorch with PEFT's injection (implements `backends.base.Backend`)."""

    name = TORCH.name

    def load(self, family: Family, checkpoint: Path, *, dtype: str = "float32") -> Model:
        """Load a checkpoint folder; float32, or a frozen base in bfloat16.

        Raises:
            BackendError: a dtype or architecture that this backend does not offer.
            ConvertError: a folder that does not fit.
        """
        where = device()
        kind = _dtype(dtype, where)
        _keep_float32(where)
        return find_model_class(TORCH, family, Path(checkpoint))(Path(checkpoint), kind, where)

    def load_codec(self, checkpoint: Path, *, dtype: str = "float32") -> Codec:
        """Load the audio family's codec.

        Args:
            checkpoint: its folder or file, or the audio model's folder that holds it as `vae`.
            dtype: of its weights; float32 is what it was made for.

        Raises:
            BackendError: a dtype that this backend does not offer.
            ConvertError: no codec, or one that does not fit.
        """
        where = device()
        kind = _dtype(dtype, where)
        _keep_float32(where)
        codec_class, path = find_codec(TORCH, Path(checkpoint))
        return codec_class(path, kind, where)

    def load_text_encoder(self, folder: Path, *, dtype: str = "float32") -> TextEncoder:
        """Load a text encoder.

        Args:
            folder: config.json and weights.
            dtype: of its weights; half precision is meant for GPUs.

        Raises:
            BackendError: a dtype that this backend does not offer, or a package that is not installed.
            ConvertError: a folder that does not fit.
        """
        where = device()
        kind = _dtype(dtype, where)
        _keep_float32(where)
        return find_text_encoder(TORCH, Path(folder))(Path(folder), kind, where)

    def load_condition_encoder(self, checkpoint: Path, *, dtype: str = "float32") -> ConditionEncoder:
        """Load the condition encoder of an audio model's folder.

        Raises:
            BackendError: a dtype that this backend does not offer, or a package that is not installed.
            ConvertError: a folder that does not fit.
        """
        where = device()
        kind = _dtype(dtype, where)
        _keep_float32(where)
        return find_condition_encoder(TORCH, Path(checkpoint))(Path(checkpoint), kind, where)

    def device(self) -> str:
        """Describe the device in words."""
        found = describe()
        return f"{found['device']} ({found['name']})" if found["device"] != "cpu" else "cpu"

    def peak_memory(self) -> int:
        """Measure peak bytes: CUDA's allocator, MPS's driver at this moment, else the process (0 on Windows)."""
        where = device()
        if where.type == "cuda":
            return int(torch.cuda.max_memory_allocated())
        if where.type == "mps":
            return int(torch.mps.driver_allocated_memory())
        return process_peak_bytes()


BACKEND = TorchBackend()

if TYPE_CHECKING:
    _: Backend = BACKEND
