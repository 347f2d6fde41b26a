"""What audio jobs open: recordings as latents, a base with its adapters and codec, style vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.adapters import Adapter, find_base_and_adapters, inject_adapters
from musiclora.audio.latents.encode import encode_recordings
from musiclora.audio.latents.store import is_latents, read_latents
from musiclora.audio.style import STYLE_SUFFIXES as STYLE_SUFFIXES
from musiclora.audio.style import blended_style, style_of_file, style_of_words
from musiclora.audio.windows import Recording
from musiclora.backends.base import FAMILIES
from musiclora.backends.registry import choose, get_backend
from musiclora.convert.files.fingerprint import fingerprint_tensors
from musiclora.convert.models.diffrhythm import read_diffrhythm
from musiclora.convert.models.oobleck import read_oobleck
from musiclora.errors import ConfigError, ConvertError, DataError
from musiclora.families import checkpoint_fingerprint
from musiclora.models import BaseModel
from musiclora.progress import Reporter

MIN_FRAMES = 16  # frames; a recording shorter than three quarters of a second is left out


@dataclass(frozen=True)
class Found:
    """Recordings of a folder.

    Attributes:
        recordings: as latents.
        codec: fingerprint of the codec that made them.
        notes: what the user should know.
    """

    recordings: list[Recording]
    codec: str
    notes: list[str]


@dataclass(frozen=True)
class OpenedFlow:
    """A loaded audio model.

    Attributes:
        model: a FlowModel of the backend, the adapters injected as one.
        codec: its codec, or None where none was asked for.
        base: where the weights came from.
        backend: what computes.
        adapters: what was injected.
        style: of the adapters, float32 [512], each times its strength; None where none has one.
        notes: what the user should know.
    """

    model: Any
    codec: Any
    base: BaseModel
    backend: str
    adapters: tuple[Adapter, ...]
    style: np.ndarray | None
    notes: tuple[str, ...]


def codec_folder(base: BaseModel, vae: str | Path | None) -> Path:
    """Where the codec is: what --vae says, else the model folder's own.

    Raises:
        ConfigError: it is not there.
    """
    if vae is not None:
        path = Path(vae).expanduser()
        if not path.exists():
            raise ConfigError(f"--vae {vae}: there is no such file or folder")
        return path
    path = base.path / "vae"
    if not path.is_dir():
        raise ConfigError(f"{base.name}: has no codec beside it (vae/); give --vae")
    return path


def codec_fingerprint(path: Path) -> str:
    """Hash of a codec's weights."""
    return fingerprint_tensors(read_oobleck(path).tensors())


def audio_fingerprints(base: Path, codec: str) -> dict[str, str]:
    """Fingerprints of a base by part, with the codec that its adapter's latents come from."""
    return {**checkpoint_fingerprint(base), "codec": codec}


def given_style(text: str, backend: str) -> np.ndarray:
    """The style vector of a file, or of words, float32 [512].

    Raises:
        ConfigError, DataError: another width, or words where no encoder of them is installed.
    """
    path = Path(text).expanduser()
    if path.is_file():
        return style_of_file(path)
    if path.suffix.lower() in STYLE_SUFFIXES:
        raise ConfigError(f"--style {text}: there is no such file")
    return style_of_words(text, f"--style {text!r}")


def recordings_in(
    folder: Path,
    base: BaseModel,
    vae: str | Path | None,
    backend: str,
    cache: Path,
    reporter: Reporter,
    workers: int | None = None,
) -> Found:
    """Latents of a folder: read where it is a latents folder, else its recordings are encoded into the cache.

    Raises:
        MusicLoraError: whatever does not fit, in one line.
    """
    notes: list[str] = []
    codec = codec_fingerprint(codec_folder(base, vae)) if vae or (base.path / "vae").is_dir() else ""
    if not is_latents(folder):
        where = codec_folder(base, vae)
        loaded = get_backend(backend).load_codec(where)
        notes += encode_recordings(folder, cache, loaded, codec, reporter).notes()
        folder = cache
    channels = read_diffrhythm(base.path).config.mel_dim
    recordings = []
    for item, arrays in read_latents(folder):
        name = str(item["source"])
        _check_latents(arrays["latents"], str(item.get("codec", "")), codec, channels, f"{folder}: {name}", base.name)
        codec = codec or str(item.get("codec", ""))
        if len(arrays["latents"]) < MIN_FRAMES:
            notes.append(f"left out: {name} is shorter than {MIN_FRAMES} latent frames")
            continue
        span = f"{name}@{item['start']:g}" if item.get("start") else name
        recordings.append(
            Recording(span, name, str(item["sha256"]), arrays["latents"], arrays.get("style"), arrays.get("text"))
        )
    if not recordings:
        raise DataError(f"{folder}: no recording is as long as {MIN_FRAMES} latent frames (0.7 s)")
    return Found(recordings, codec, notes)


def _check_latents(latents: np.ndarray, made_by: str, codec: str, channels: int, where: str, base: str) -> None:
    """Raise DataError for latents of another codec than the base's."""
    if latents.shape[1] != channels:
        raise DataError(f"{where}: has {latents.shape[1]} channels, {base} has {channels}: these are another codec's")
    if made_by and codec and made_by != codec:
        raise DataError(
            f"{where}: was encoded by another codec (recorded {made_by[:8]}, that of {base} is {codec[:8]}); encode "
            "the recordings anew, or give the codec with --vae"
        )


def open_flow(
    model: str | None,
    adapters: Sequence[str] = (),
    backend: str = "auto",
    *,
    vae: str | Path | None = None,
    with_codec: bool = True,
    dtype: str = "float32",
    allow_base_mismatch: bool = False,
) -> OpenedFlow:
    """Load an audio base, inject adapters given as `PATH` or `PATH:STRENGTH`, and load the codec.

    Raises:
        ConfigError, ConvertError, DataError, BackendError: whatever does not fit, in one line.
    """
    base, found, notes = find_base_and_adapters(model, adapters, allow_base_mismatch)
    where = codec_folder(base, vae) if with_codec else None
    name = choose(backend)
    loaded: Any = get_backend(name).load(FAMILIES["audio"], base.path, dtype=dtype)
    inject_adapters(loaded, found)
    codec = None
    if where is not None:
        notes += _check_codec(found, codec_fingerprint(where), allow_base_mismatch)
        codec = get_backend(name).load_codec(where)
        if codec.latent_channels != loaded.latent_channels:
            raise ConfigError(
                f"{where}: its latents have {codec.latent_channels} channels, those of {base.name} "
                f"{loaded.latent_channels}; give another --vae"
            )
    return OpenedFlow(loaded, codec, base, name, found, blended_style(found), tuple(notes))


def _check_codec(adapters: Sequence[Adapter], actual: str, allow: bool) -> list[str]:
    """Notes on adapters whose latents came from another codec than the one at hand.

    Raises:
        ConvertError: there is such a one, and that was not allowed.
    """
    notes = []
    for adapter in adapters:
        recorded = (adapter.record.get("fingerprints") or {}).get("codec")
        if recorded and recorded != actual:
            text = f"{adapter.path}: trained on latents of another codec (recorded {recorded[:8]}, found {actual[:8]})"
            if not allow:
                raise ConvertError(f"{text}; give its --vae, or --allow-base-mismatch to use it all the same")
            notes.append(text)
    return notes


def diffrhythm_facts(folder: Path) -> dict[str, Any]:
    """Collect size and codec of a DiffRhythm folder, for `doctor`."""
    c = read_diffrhythm(folder).config
    return {
        "max_frames": c.max_frames,
        "dim": c.dim,
        "depth": c.depth,
        "causal": c.causal,
        "codec": "vae" if (folder / "vae").is_dir() else None,
    }
