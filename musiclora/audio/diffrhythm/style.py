"""DiffRhythm's style vectors: 512 values from a file, or an embedding of words or a recording by MuQ-MuLan."""

from __future__ import annotations

import tokenize
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from musiclora.audio.files.sound import Sound
from musiclora.convert.files.safetensors_file import read_safetensors
from musiclora.convert.files.torch_file import TorchFile
from musiclora.convert.models.diffrhythm import CONDITION
from musiclora.errors import ConfigError, DataError
from musiclora.formats import expand_home

MUQ_RATE_HZ, MUQ_SECONDS = 24000, 10.0  # input of the music encoder: the middle of a recording
STYLE_SUFFIXES = (".npy", ".pt", ".safetensors")


def style_of_file(path: Path) -> np.ndarray:
    """Read the one vector of a `.safetensors` (`style`), `.npy` or `.pt` file, float32 [512].

    Pickles are read through the allow-list only.

    Raises:
        ConfigError: another ending.
        DataError, ConvertError: unreadable, or not 512 finite values.
    """
    if path.suffix.lower() not in STYLE_SUFFIXES:
        raise ConfigError(f"{path}: a style is a file that ends in {', '.join(STYLE_SUFFIXES)}")
    found = np.asarray(_read_array(path), np.float32).squeeze()
    if found.shape != (CONDITION,) or not np.isfinite(found).all():
        raise DataError(
            f"{path}: expected one style vector of {CONDITION} finite values, found shape {list(found.shape)}"
        )
    return found


def _read_array(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".safetensors":
        arrays = read_safetensors(path)
        if "style" not in arrays and len(arrays) != 1:
            raise DataError(f"{path}: holds no tensor `style`")
        return arrays.get("style", next(iter(arrays.values())))
    if path.suffix.lower() == ".npy":
        return _read_npy(path)
    file = TorchFile(path)
    arrays = dict(file.read(file.tensors().items()))
    if len(arrays) != 1:
        raise DataError(f"{path}: holds {len(arrays)} tensors; expected one style vector")
    return next(iter(arrays.values()))


def _read_npy(path: Path) -> np.ndarray:
    """Read a .npy file of numbers; the file is mapped, so a header cannot claim more values than the file holds."""
    try:
        values = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, OverflowError, SyntaxError, tokenize.TokenError) as error:
        raise DataError(f"{path}: is no numpy file of numbers, or a damaged one") from error
    if values.dtype.kind not in "fiu":
        raise DataError(f"{path}: holds {values.dtype} values; a style vector is made of numbers")
    return np.array(values)


def need_muq(option: str) -> None:
    """Check that MuQ-MuLan can be used.

    Raises:
        ConfigError: the package is not installed, or torch is missing for it.
    """
    missing = [name for name in ("muq", "torch") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{option}: needs the text and music encoder MuQ-MuLan, and {' and '.join(missing)} is not installed; "
            "try: pip install muq torch, or give a style file"
        )


def style_of_words(text: str, option: str = "--style") -> np.ndarray:
    """Embed words with MuQ-MuLan, float32 [512] of unit length.

    Raises:
        ConfigError: the package or its weights are not there.
    """
    need_muq(option)
    from musiclora.backends.torch.muq import embed_text

    return embed_text(text)


def given_style(text: str, backend: str) -> np.ndarray:
    """Read the style vector of a file, or embed words, float32 [512].

    Raises:
        ConfigError, DataError: another width, or words without an installed text encoder.
    """
    path = expand_home(text)
    if path.is_file():
        return style_of_file(path)
    if path.suffix.lower() in STYLE_SUFFIXES:
        raise ConfigError(f"--style {text}: there is no such file")
    return style_of_words(text, f"--style {text!r}")


def style_of_recording(path: Path) -> np.ndarray:
    """Embed the middle ten seconds of a recording with MuQ-MuLan, float32 [512] of unit length.

    Source: DiffRhythm's inference code, which takes 10 s of mono at 24 kHz from (length // 2) - 5 s.

    Raises:
        ConfigError: the package or its weights are not there.
        DataError: the recording is shorter than ten seconds, or cannot be read.
    """
    need_muq("--style muq")
    audio = read_middle(path, MUQ_SECONDS, MUQ_RATE_HZ)
    from musiclora.backends.torch.muq import embed_audio

    return embed_audio(audio)


def read_middle(path: Path, seconds: float, rate: int) -> np.ndarray:
    """Read the middle of a recording, mono float32 [N] at a rate in Hz.

    Raises:
        DataError: the recording is shorter, or cannot be read.
    """
    with Sound(path) as sound:
        frames = sum(map(len, sound.blocks()))  # counted, since headers may be wrong
    length = frames / sound.rate
    if length < seconds:
        raise DataError(f"{path}: {length:.1f} s are too short for a style by MuQ-MuLan ({seconds:g} s at least)")
    first, parts, at = round(max(0.0, int(length) // 2 - seconds / 2) * rate), [], 0
    last = first + round(seconds * rate)
    with Sound(path) as sound:
        for block in sound.stream(rate):
            parts.append(block[max(0, first - at) : max(0, last - at)].mean(1))
            at += len(block)
            if at >= last:
                break
    return np.concatenate(parts)
