"""Sources of base models and adapters: bundled folders, the Hugging Face Hub, local folders."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.bundled import BUNDLED_MODELS
from musiclora.convert.errors import printable
from musiclora.convert.files.fingerprint import read_record
from musiclora.convert.files.json_file import read_optional_json
from musiclora.convert.files.torch_file import TORCH_SUFFIXES
from musiclora.errors import ConfigError, ConvertError
from musiclora.families import SPECS
from musiclora.formats import expand_home

GUIDANCE = "guidance"  # key of an audio model's musiclora.json: default strength of classifier-free guidance
# A repository, perhaps at a revision (branch, tag or commit); never a path such as ./base or ../base.
_HUB_ID = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]*\w)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)
_NOT_FOUND = "there is no such file or folder, and it is no Hub id (owner/name or owner/name@revision)"
NO_FOLDER = "if a folder is meant, there is none of this name"
_RUN_METADATA = "training_meta.json"  # of the run folder around an adapter; it is not shared, and keeps the base's path
_PATTERNS = ("*.json", "*.safetensors", "*.bin", "*.txt", "README.md")


@dataclass(frozen=True)
class BaseModel:
    """Base model on disk.

    Attributes:
        name: as it was given: `bundled`, a Hub id, or a folder.
        path: its folder.
        licence: as its card states it, `unknown` where it does not.
        kind: `bundled`, `hub` or `local`.
    """

    name: str
    path: Path
    licence: str
    kind: str = "local"

    @property
    def public_name(self) -> str:
        """Return the name that an adapter records; empty for a local folder, whose path is nobody else's business."""
        return "" if self.kind == "local" else self.name


def is_hub_id(name: str) -> bool:
    """Tell whether a name has the form of a Hub id, `owner/name`, and is no weight file's."""
    match = _HUB_ID.fullmatch(name)
    return match is not None and Path(match["name"]).suffix not in (".safetensors", *TORCH_SUFFIXES)


def name_argument(option: str, value: str) -> str:
    """Format what the user gave for a message: option and value, or the value of an argument, whose option is ""."""
    return f"{option} {value}" if option else value


def find_model(name: str, option: str = "--model", hint: str = "") -> BaseModel:
    """Find a base model by the value of --model.

    Args:
        name: bundled, a Hub id (`owner/name`, or `owner/name@revision`) or a folder.
        option: what the user gave it as, for messages; "" for an argument.
        hint: what to do where the Hub cannot be reached, for messages; by default the bundled model is named.

    Raises:
        ConfigError: no such folder, or the Hub cannot be reached; with what to do.
    """
    if name in BUNDLED_MODELS:
        path = BUNDLED_MODELS[name]
        if not (path / "config.json").is_file():
            raise ConfigError(f"the bundled model is missing from this installation ({path}); reinstall musiclora")
        return BaseModel(name, path, "Apache-2.0", "bundled")
    path = expand_home(name)
    if path.exists():
        if not path.is_dir():
            given = name_argument(option, name)
            raise ConfigError(f"{given}: is a file; give its folder (with config.json and model.safetensors)")
        refuse_adapter_folder(path, name, option)
        return BaseModel(name, path, card_licence(path))
    folder = fetch_from_hub(name, option, hint or f"{NO_FOLDER}; offline, use {option} bundled")
    return BaseModel(name, folder, card_licence(folder), "hub")


def refuse_adapter_folder(path: Path, name: str, option: str) -> None:
    """Refuse the folder of an adapter, or of a training run, where a model is wanted.

    Raises:
        ConfigError: it is one.
    """
    if (path / "config.json").is_file():
        return
    if (path / "adapter_config.json").is_file() or (path / "adapter-best").is_dir():
        raise ConfigError(
            f"{name_argument(option, name)}: is an adapter's folder, not a model's; give its base as --model, "
            "and the adapter as --adapter-dir where the command takes one"
        )


def fetch_from_hub(name: str, option: str, hint: str) -> Path:
    """Download a repository of the Hugging Face Hub, or find it in the local cache.

    Args:
        name: Hub id, `owner/name` or `owner/name@revision`.
        option: the option that gave it, for messages.
        hint: what to do where the Hub cannot be reached; empty for nothing.

    Raises:
        ConfigError: no Hub id, or the Hub cannot be reached.
    """
    given = name_argument(option, name)
    match = _HUB_ID.fullmatch(name)
    if not match or not is_hub_id(name):
        raise ConfigError(f"{given}: {_NOT_FOUND}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    hint = f"; {hint}" if hint else ""
    wanted = [*_PATTERNS, *(f"*{file}" for spec in SPECS for file in spec.hub_files)]
    ignored = [pattern for spec in SPECS for pattern in spec.hub_ignored]
    try:
        found = snapshot_download(
            match["name"], revision=match["revision"], allow_patterns=wanted, ignore_patterns=ignored
        )
        return Path(found)
    except HFValidationError as error:
        raise ConfigError(f"{given}: {_NOT_FOUND}") from error
    except LocalEntryNotFoundError as error:
        raise ConfigError(f"{given}: not in the local cache, and the Hub cannot be reached{hint}") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{given}: cannot be fetched from the Hub ({reason}){hint}") from error


def recorded_base(name: str, record: Mapping[str, Any]) -> tuple[str, str]:
    """Judge which base an adapter names.

    Records of earlier versions hold the base as it was typed; a folder must not pass for a Hub id then.

    Args:
        name: `base_model_name_or_path` of adapter_config.json, "" for none.
        record: content of musiclora.json, empty for adapters of other tools.

    Returns:
        `bundled`, `hub` or `local`, and the name; a local base may have none.
    """
    if name in BUNDLED_MODELS:
        return "bundled", name
    ours = "fingerprints" in record or "musiclora" in record
    # Earlier versions wrote a local folder's own name into their record, and a Hub id unchanged.
    sure = record.get("base_kind") == "hub" or (record.get("base_model") == name and "blend" not in record)
    if ours:
        return ("hub" if sure and is_hub_id(name) else "local"), name
    # Other tools also use names without an owner, such as `gpt2`.
    named = is_hub_id(name) or is_hub_id(f"owner/{name}")
    return ("hub" if named and not Path(name).is_dir() else "local"), name


def public_base(name: str, record: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind and the name of a recorded base as others may read it: a local folder has no name."""
    kind, name = recorded_base(name, record)
    return kind, "" if kind == "local" else name


def locate_base(path: Path, name: str, record: Mapping[str, Any]) -> tuple[str, str] | None:
    """Find the kind of an adapter's base and the value of --model that names it; None where nothing leads to it.

    Args:
        path: folder of the adapter; the run folder around it keeps the path of a local base.
        name: `base_model_name_or_path` of adapter_config.json, "" for none.
        record: content of musiclora.json.
    """
    kind, name = recorded_base(name, record)
    if kind != "local":
        return kind, name
    with contextlib.suppress(ConvertError):
        name = name or str(read_optional_json(path.parent / _RUN_METADATA).get("base_model") or "")
    folder = expand_home(name)
    return (kind, str(folder.absolute())) if name and folder.is_dir() else None


def card_licence(folder: Path) -> str:
    """Read the licence that a folder's card states; `unknown` without one."""
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    found = re.search(r"^licen[cs]e:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return printable(found[1], 60) if found else "unknown"


def kept_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a model folder's record that a converted or fused copy keeps."""
    return {key: value for key, value in read_record(folder).items() if key == GUIDANCE}
