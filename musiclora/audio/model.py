"""Audio models as the jobs open them: a base with its adapters and its codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from musiclora.adapters import Adapter, find_base_and_adapters, inject_adapters
from musiclora.audio.architecture import architecture_of
from musiclora.audio.style_files import blended_style
from musiclora.backends.base import FAMILIES, Codec, FlowModel
from musiclora.backends.registry import choose, get_backend
from musiclora.convert.files.fingerprint import fingerprint_tensors, read_record
from musiclora.convert.models.oobleck import read_oobleck
from musiclora.errors import ConfigError, ConvertError
from musiclora.families import checkpoint_fingerprint
from musiclora.formats import expand_home
from musiclora.models import GUIDANCE, BaseModel
from musiclora.training.adapter_effect import note_unchanged_output


@dataclass(frozen=True)
class OpenedFlow:
    """Loaded audio model.

    Attributes:
        model: the base with the adapters injected as one.
        loaded_codec: its codec, None where it was not loaded.
        base: source of the weights.
        backend: name of the backend.
        adapters: the injected adapters.
        style: styles or trained conditions of the adapters, each times its strength, summed; None where none has one.
        notes: remarks for the user.
    """

    model: FlowModel
    loaded_codec: Codec | None
    base: BaseModel
    backend: str
    adapters: tuple[Adapter, ...]
    style: np.ndarray | None
    notes: tuple[str, ...]

    @property
    def codec(self) -> Codec:
        """The codec; opened without one this raises RuntimeError."""
        if self.loaded_codec is None:
            raise RuntimeError("the model was opened without its codec")
        return self.loaded_codec


def codec_folder(base: BaseModel, vae: str | Path | None) -> Path:
    """Find the codec: the value of --vae, else the `vae` folder of the model.

    Raises:
        ConfigError: there is no such file or folder.
    """
    if vae is not None:
        path = expand_home(vae)
        if not path.exists():
            raise ConfigError(f"--vae {vae}: there is no such file or folder")
        return path
    own = architecture_of(base.path).find_codec(base.path)
    if own is None:
        raise ConfigError(f"{base.name}: has no codec beside it (vae/); give --vae")
    return own


def has_codec(base: BaseModel, vae: str | Path | None) -> bool:
    """Tell whether there is a codec: the value of --vae, or one that belongs to the model."""
    return vae is not None or architecture_of(base.path).find_codec(base.path) is not None


def frame_rate(base: BaseModel, vae: str | Path | None) -> float:
    """Return the latent frames a second of a model's codec, or of its architecture's where it is not at hand."""
    if not has_codec(base, vae):
        return architecture_of(base.path).frame_rate
    config = read_oobleck(codec_folder(base, vae)).config
    return config.sample_rate / config.hop


def own_guidance(folder: Path) -> float | None:
    """Read the guidance strength that a model folder's record states as its default; None where it states none."""
    value = read_record(folder).get(GUIDANCE)
    return float(value) if isinstance(value, int | float) and 0 <= value < float("inf") else None


def codec_fingerprint(path: Path) -> str:
    """Compute the hash of a codec's weights."""
    return fingerprint_tensors(read_oobleck(path).tensors())


def audio_fingerprints(base: Path, codec: str) -> dict[str, str]:
    """Compute the fingerprints of a base by part, and add that of the latents' codec."""
    return {**checkpoint_fingerprint(base), "codec": codec}


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
        ConfigError, ConvertError, DataError, BackendError: the model, an adapter or the codec does not fit.
    """
    base, found, notes = find_base_and_adapters(model, adapters, allow_base_mismatch)
    where = codec_folder(base, vae) if with_codec else None
    name = choose(backend)
    architecture = architecture_of(base.path)
    style = blended_style(found)
    if style is not None and style.shape[-1] != architecture.read_shape(base.path).condition_width:
        raise ConvertError(f"{found[0].path}: its style has shape {list(style.shape)}, which {base.name} cannot take")
    loaded = cast(FlowModel, get_backend(name).load(FAMILIES["audio"], base.path, dtype=dtype))
    inject_adapters(loaded, found)
    if found:
        notes += note_unchanged_output(loaded, found, architecture.probe(base.path), base)
    codec = None
    if where is not None:
        notes += _compare_codecs(found, codec_fingerprint(where), allow_base_mismatch)
        codec = get_backend(name).load_codec(where)
        if codec.latent_channels != loaded.latent_channels:
            raise ConfigError(
                f"{where}: its latents have {codec.latent_channels} channels, those of {base.name} "
                f"{loaded.latent_channels}; give another --vae"
            )
    return OpenedFlow(loaded, codec, base, name, found, style, tuple(notes))


def _compare_codecs(adapters: Sequence[Adapter], actual: str, allow: bool) -> list[str]:
    """Compare the codec with those that the adapters record.

    Returns:
        Notes on adapters trained on latents of another codec.

    Raises:
        ConvertError: there is such an adapter, and `allow` is off.
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
