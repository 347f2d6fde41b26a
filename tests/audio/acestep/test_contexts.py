"""Context latents: source and mask, for music from nothing and for repainting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from acestep_toys import SMALL, write_random

from musiclora.audio.acestep.contexts import context_of, read_silence
from musiclora.errors import DataError


def test_silence_is_read_from_the_checkpoint(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "model", SMALL, "hf")
    silence = read_silence(tmp_path / "model")
    np.testing.assert_array_equal(silence, tensors["silence_latent"])


def test_music_from_nothing_has_silence_as_its_source() -> None:
    silence = np.arange(12, dtype=np.float32).reshape(6, 2)
    context = context_of(silence, 4)
    np.testing.assert_array_equal(context[:, :2], silence[:4])
    np.testing.assert_array_equal(context[:, 2:], 1)


def test_kept_frames_are_the_recording_with_mask_zero() -> None:
    silence, known = np.zeros((6, 2), np.float32), np.full((4, 2), 5, np.float32)
    context = context_of(silence, 4, known, np.array([False, True, True, False]))
    np.testing.assert_array_equal(context[:, 0], [5, 0, 0, 5])
    np.testing.assert_array_equal(context[:, 2:], [[0, 0], [1, 1], [1, 1], [0, 0]])


def test_longer_than_the_silence_is_refused() -> None:
    with pytest.raises(DataError, match="at most 6"):
        context_of(np.zeros((6, 2), np.float32), 7)
