"""Parts that ACE-Step shares with other models, copied along: codec, text encoder, tokenizer, licence and code."""

from __future__ import annotations

import shutil
from pathlib import Path

from musiclora.conversion.codec import write_codec
from musiclora.conversion.protocols import ModelConversion
from musiclora.conversion.verify import TOKENIZER_PARTS
from musiclora.convert.files.links import copy_folder, refuse_foreign_link
from musiclora.convert.models.acestep_folders import CODE_FOLDERS, TEXT_ENCODER, TOKENIZER, VAE, AceStepFolder
from musiclora.convert.models.acestep_names import SILENCE
from musiclora.convert.models.oobleck import read_oobleck
from musiclora.errors import ConvertError
from musiclora.progress import Reporter

_TOKENIZER_FILES = (*TOKENIZER_PARTS, "added_tokens.json", "chat_template.jinja")
_PAPERS = ("README.md", "LICENSE", "LICENSE.txt")
_MAX_BYTES = 100_000_000


def copy_parts(
    conversion: ModelConversion,
    source: AceStepFolder,
    channels: int,
    folder: Path,
    dtype: str | None,
    reporter: Reporter,
) -> list[str]:
    """Copy the other parts of a model into a copy of its weights.

    Args:
        conversion: the request.
        source: places of the parts.
        channels: of the latents that the model is trained on.
        folder: new folder, which holds the weights.
        dtype: of the codec; None keeps each tensor's.
        reporter: shows progress.

    Returns:
        Notes for the user.

    Raises:
        ConvertError: a codec that does not fit, or a file that is a link out of the source's folder.
    """
    notes = []
    codec = conversion.vae or source.vae
    if codec:
        _check_codec(codec, channels)
        layout = "mlx" if conversion.to == "mlx" else "diffusers"  # upstream keeps its codec as diffusers does
        notes += [f"codec: {text}" for text in write_codec(codec, folder / VAE, layout, dtype, reporter)]
    else:
        notes.append("no codec: give --vae to have it in the same folder")
    home = source.path
    if source.text_encoder:
        copy_folder(source.text_encoder, folder / TEXT_ENCODER, _home_of(source.text_encoder, home))
    else:
        notes.append("no text encoder beside the source; preprocess and generate need one for captions")
    if source.tokenizer:
        (folder / TOKENIZER).mkdir()
        _copy_files(source.tokenizer, folder / TOKENIZER, _TOKENIZER_FILES, _home_of(source.tokenizer, home))
    _copy_files(home, folder, _PAPERS, home)
    if conversion.to == "hf" and not source.is_pipeline:
        # Upstream's loader reads the silence from this file, and its classes from these.
        own = [path.name for path in sorted(home.glob("*.py"))]
        _copy_files(home, folder, (f"{SILENCE}.pt", *own), home)
    if conversion.to == "hf" and not (folder / f"{SILENCE}.pt").exists():
        notes.append(f"upstream's loader reads {SILENCE}.pt, which is not written here; put its file beside the copy")
    if conversion.to == "diffusers" and source.is_pipeline:
        for name in CODE_FOLDERS:
            if (home / name).is_dir():
                copy_folder(home / name, folder / name, home)
    return notes


def _check_codec(codec: Path, channels: int) -> None:
    found = read_oobleck(codec).config
    if found.latent_dim != channels:
        raise ConvertError(
            f"{codec}: a codec of {found.latent_dim} latent channels; this model is trained on {channels}"
        )


def _home_of(part: Path, model: Path) -> Path:
    """Return the folder that a part must lie in: the model's, or the one around it where the part is beside it."""
    return model if part.is_relative_to(model) else model.parent


def _copy_files(source: Path, folder: Path, names: tuple[str, ...], home: Path) -> None:
    for path in (source / name for name in names):
        if path.is_file() and path.stat().st_size <= _MAX_BYTES:
            refuse_foreign_link(path, home)
            shutil.copyfile(path, folder / path.name)
