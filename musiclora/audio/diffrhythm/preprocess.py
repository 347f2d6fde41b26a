"""DiffRhythm's part of `musiclora preprocess`: encode a folder of recordings into a latents folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from musiclora.audio.diffrhythm.style import given_style, need_muq, style_of_recording
from musiclora.audio.latents.encode import Encoding, encode_recordings
from musiclora.audio.latents.result import LatentsResult
from musiclora.audio.latents.store import refuse_foreign_files
from musiclora.audio.model import codec_fingerprint, codec_folder
from musiclora.backends.registry import choose, get_backend
from musiclora.convert.files.outputs import check_folder
from musiclora.models import find_model
from musiclora.progress import Reporter

ADAPTER, MUQ = "adapter", "muq"


def preprocess_recordings(
    data_dir: Path,
    output_dir: Path,
    model: str,
    reporter: Reporter,
    *,
    backend: str = "auto",
    vae: Path | None = None,
    style: str | None = None,
    posterior: str | None = None,
    seed: int = 42,
    num_workers: int | None = None,
) -> LatentsResult:
    """Encode a folder of recordings; an interrupted start is resumed.

    Args:
        data_dir: recordings, or what `cut` wrote.
        output_dir: the latents folder.
        model: its codec is used unless `vae` names one.
        reporter: receives the progress.
        backend: `auto`, `mlx` or `torch`.
        vae: a codec.
        style: a file or words for all recordings, or `muq` for an embedding of each. With `adapter` or None, one vector
            is trained with the adapter.
        posterior: `mean` (default) or `sample`.
        seed: of the samples.
        num_workers: accepted; a codec uses all cores by itself.

    Raises:
        MusicLoraError: the folders, the codec or the options do not fit. Latents encoded so far are kept.
    """
    check_folder(output_dir)
    refuse_foreign_files(output_dir)
    base, name = find_model(model), choose(backend)
    where = codec_folder(base, vae)
    encoding = Encoding(posterior or "mean", seed, *_resolve_style(style, name))
    codec = get_backend(name).load_codec(where)
    encoded = encode_recordings(data_dir, output_dir, codec, codec_fingerprint(where), reporter, encoding)
    return LatentsResult(output_dir, name, encoded)


def _resolve_style(style: str | None, backend: str) -> tuple[Callable[[Path], np.ndarray] | None, str]:
    """Return the function that computes a recording's style, and the name that identifies it."""
    if style in (None, ADAPTER):
        return None, ""
    if style == MUQ:
        need_muq("--style muq")
        return style_of_recording, MUQ
    vector = given_style(str(style), backend)
    return (lambda path: vector), hashlib.sha256(vector.tobytes()).hexdigest()
