"""MuQ-MuLan, the text and music encoder of DiffRhythm's style vectors; an optional package."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

from musiclora.convert.errors import ConfigError

WEIGHTS = "OpenMuQ/MuQ-MuLan-large"


@cache
def _encoder() -> Any:
    from muq import MuQMuLan

    try:
        return MuQMuLan.from_pretrained(WEIGHTS).eval()
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"the weights {WEIGHTS} cannot be loaded ({reason}); give a style file instead") from error


def embed_text(text: str) -> np.ndarray:
    """Embed words, float32 [512] of unit length.

    Raises:
        ConfigError: the weights are not there.
    """
    with torch.inference_mode():
        return _normalise_vector(_encoder()(texts=[text]))


def embed_audio(audio: np.ndarray) -> np.ndarray:
    """Embed mono audio float32 [N] at 24 kHz, float32 [512] of unit length.

    Raises:
        ConfigError: the weights are not there.
    """
    with torch.inference_mode():
        return _normalise_vector(_encoder()(wavs=torch.from_numpy(np.ascontiguousarray(audio, np.float32))[None]))


def _normalise_vector(found: torch.Tensor) -> np.ndarray:
    vector: np.ndarray = found.float().cpu().numpy().reshape(-1)
    return vector / np.float32(np.linalg.norm(vector))
