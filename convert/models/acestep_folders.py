"""Folders that hold ACE-Step: the original's, a diffusers pipeline, and a model folder of this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.convert.errors import ConvertError, join_problems, show_value
from musiclora.convert.files.fingerprint import RECORD
from musiclora.convert.files.json_file import read_json, read_optional_json
from musiclora.convert.models.acestep_json import ENCODER_CLASS, MODEL_TYPE, PIPELINE_CLASS, TRANSFORMER_CLASS

TRANSFORMER, CONDITION_ENCODER, VAE = "transformer", "condition_encoder", "vae"
TEXT_ENCODER, TOKENIZER = "text_encoder", "tokenizer"
CODE_FOLDERS = ("audio_tokenizer", "audio_token_detokenizer")
_UPSTREAM_TEXT_ENCODER = "Qwen3-Embedding-0.6B"
_EXPECTED = (
    f'expected config.json with model_type "{MODEL_TYPE}" and its weights, or a diffusers pipeline with '
    f"{TRANSFORMER}/ and {CONDITION_ENCODER}/"
)


@dataclass(frozen=True)
class AceStepFolder:
    """Places of a model's parts.

    Attributes:
        path: folder with config.json and the weights, or with the pipeline's parts.
        is_pipeline: the parts are those of a diffusers pipeline.
        vae, text_encoder, tokenizer: folders of the parts that ACE-Step shares with other models; None where missing.
    """

    path: Path
    is_pipeline: bool
    vae: Path | None
    text_encoder: Path | None
    tokenizer: Path | None


def is_acestep_folder(path: Path) -> bool:
    """Tell whether a folder says that it holds ACE-Step, or is the parent of such folders."""
    return path.is_dir() and (_is_pipeline(path) or bool(_model_folders(path)))


def find_acestep(path: Path) -> AceStepFolder:
    """Find the parts of a model.

    Args:
        path: the original's folder of one model (the others are beside it) or the folder around it, a diffusers
            pipeline, or a model folder of this package.

    Raises:
        ConvertError: another model, several, or only some of the parts.
    """
    path = Path(path)
    if not path.is_dir():
        raise ConvertError(f"{path}: {'a file; give its folder' if path.exists() else 'no such folder'}")
    if _is_pipeline(path):
        _check_pipeline(path)
        parts = (_folder_or_none(path / name) for name in (VAE, TEXT_ENCODER, TOKENIZER))
        return AceStepFolder(path, True, *parts)
    found = _model_folders(path)
    if len(found) > 1:
        raise ConvertError(f"{path}: several models here ({join_problems([f.name for f in found])}); give one of them")
    if not found:
        raise ConvertError(f"{path}: not ACE-Step: {_describe_other(path)}; {_EXPECTED}")
    return _beside(found[0])


def _is_pipeline(path: Path) -> bool:
    """Tell whether a folder is laid out as a pipeline: by its index, or by the transformer of an unfinished one."""
    if (path / "model_index.json").is_file():
        return _class_of(path / "model_index.json") == PIPELINE_CLASS
    return _class_of(path / TRANSFORMER / "config.json") == TRANSFORMER_CLASS


def _check_pipeline(path: Path) -> None:
    problems = []
    for part, expected in ((TRANSFORMER, TRANSFORMER_CLASS), (CONDITION_ENCODER, ENCODER_CLASS)):
        if not (path / part / "config.json").is_file():
            problems.append(f"{part}/config.json is missing")
        elif (found := _class_of(path / part / "config.json")) != expected:
            problems.append(f"{part} is {show_value(found)}, expected {expected}")
    if problems:
        raise ConvertError(f"{path}: an ACE-Step pipeline without all its parts: {join_problems(problems)}")


def _model_folders(path: Path) -> list[Path]:
    """List the folder itself or its subfolders whose config.json names ACE-Step."""
    if (path / "config.json").is_file():
        return [path] if _config(path).get("model_type") == MODEL_TYPE else []
    folders = [file.parent for file in sorted(path.glob("*/config.json"))]
    return [folder for folder in folders if _config(folder).get("model_type") == MODEL_TYPE]


def _beside(model: Path) -> AceStepFolder:
    """Find the other parts in a model folder, or beside it as upstream keeps them."""

    def find(*names: str) -> Path | None:
        around = [] if (model / RECORD).is_file() else [model.parent]  # a folder of this package is complete
        places = [place / name for place in (model, *around) for name in names]
        return next((place for place in places if (place / "config.json").is_file()), None)

    text_encoder = find(TEXT_ENCODER, _UPSTREAM_TEXT_ENCODER)
    own = _folder_or_none(model / TOKENIZER)
    has_tokenizer = text_encoder and (text_encoder / "tokenizer_config.json").is_file()
    return AceStepFolder(model, False, find(VAE), text_encoder, own or (text_encoder if has_tokenizer else None))


def _describe_other(path: Path) -> str:
    """Describe a folder without ACE-Step: by its config.json, or by what lies in it."""
    config = _config(path)
    if "model_type" in config:
        kind = show_value(config["model_type"])
        return f"model_type is {kind}" + (", a text encoder" if "qwen" in kind.lower() else "")
    if config.get("_class_name") in (TRANSFORMER_CLASS, ENCODER_CLASS):
        return "one part of a pipeline; give the folder around it"
    if (path / "model_index.json").is_file():
        return f"a pipeline of class {show_value(_class_of(path / 'model_index.json'))}"
    names = [file.name for file in sorted(path.iterdir())]
    return f"it holds {join_problems(names)}" if names else "it is empty"


def _config(folder: Path) -> dict[str, Any]:
    return read_optional_json(folder / "config.json")


def _class_of(file: Path) -> object:
    return read_json(file).get("_class_name") if file.is_file() else None


def _folder_or_none(path: Path) -> Path | None:
    return path if path.is_dir() else None
