"""ACE-Step's context latents: the source, which is silence or a recording, and the mask of what is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from musiclora.convert.models.acestep import read_acestep
from musiclora.convert.models.acestep_names import SILENCE
from musiclora.errors import DataError


def read_silence(model: Path) -> np.ndarray:
    """Read a model's encoded silence, float32 [frames, C].

    Raises:
        ConvertError: no readable ACE-Step.
    """
    ((_, silence),) = read_acestep(model).tensors([SILENCE])
    return np.asarray(silence, np.float32)


def context_of(
    silence: np.ndarray, frames: int, known: np.ndarray | None = None, new: np.ndarray | None = None
) -> np.ndarray:
    """Build the context of one row, float32 [T, 2 C]: source latents and mask.

    Args:
        silence: the model's, float32 [frames, C].
        frames: T.
        known: latents float32 [T, C] of a recording that is partly kept; None for music from nothing.
        new: bool [T], True where frames are made; there the source is silence.

    Raises:
        DataError: more frames than the silence has.
    """
    if frames > len(silence):
        raise DataError(f"{frames} latent frames are asked for; this model makes at most {len(silence)}")
    source, mask = silence[:frames], np.ones((frames, silence.shape[1]), np.float32)
    if known is not None and new is not None:
        source = np.where(new[:, None], source, known)
        mask = np.repeat(new[:, None], silence.shape[1], axis=1).astype(np.float32)
    return np.concatenate([source, mask], axis=1)
