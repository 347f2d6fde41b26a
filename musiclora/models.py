"""Sources of base models and adapters: bundled folders, the Hugging Face Hub, local folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from musiclora.bundled import BUNDLED_MODELS
from musiclora.errors import ConfigError

GUIDANCE = "guidance"  # key of an audio model's musiclora.json: default strength of classifier-free guidance
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]*\w", re.ASCII)  # never a path such as ./base or ../base
_WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
# The last two are how the original of the audio family comes.
_PATTERNS = ["*.json", "*.safetensors", "*.bin", "*.txt", "README.md", "cfm_model.pt", "vae_model.pt"]


@dataclass(frozen=True)
class BaseModel:
    """Base model on disk.

    Attributes:
        name: what to record in an adapter: `bundled`, a Hub id, or a folder's name.
        path: its folder.
        licence: as its card states it, `unknown` where it does not.
    """

    name: str
    path: Path
    licence: str


def find_model(name: str, option: str = "--model") -> BaseModel:
    """Find a base model by the value of --model.

    Args:
        name: bundled, a Hub id or a folder.
        option: what the user gave it as, for messages; "" for an argument.

    Raises:
        ConfigError: no such folder, or the Hub cannot be reached; with what to do.
    """
    if name in BUNDLED_MODELS:
        path = BUNDLED_MODELS[name]
        if not (path / "config.json").is_file():
            raise ConfigError(f"the bundled model is missing from this installation ({path}); reinstall musiclora")
        return BaseModel(name, path, "Apache-2.0")
    path = Path(name).expanduser()
    if path.exists():
        if not path.is_dir():
            said = f"{option} {name}".strip()
            raise ConfigError(f"{said}: is a file; give its folder (with config.json and model.safetensors)")
        refuse_adapter_folder(path, name, option)
        return BaseModel(name, path, _card_licence(path))
    folder = fetch_from_hub(name, option, "bundled")
    return BaseModel(name, folder, _card_licence(folder))


def refuse_adapter_folder(path: Path, name: str, option: str) -> None:
    """Refuse the folder of an adapter, or of a training run, where a model is wanted.

    Raises:
        ConfigError: it is one.
    """
    if (path / "config.json").is_file():
        return
    if (path / "adapter_config.json").is_file() or (path / "adapter-best").is_dir():
        said = f"{option} {name}".strip()
        raise ConfigError(
            f"{said}: is an adapter's folder, not a model's; give it as --adapter-dir, its base as --model"
        )


def fetch_from_hub(name: str, option: str, instead: str) -> Path:
    """Download a repository of the Hugging Face Hub, or find it in the local cache.

    Args:
        name: Hub id, `owner/name`.
        option: the option that gave it, for messages.
        instead: value of that option that works offline; empty for none.

    Raises:
        ConfigError: no Hub id, or the Hub cannot be reached.
    """
    said = f"{option} {name}".strip()
    if not _HUB_ID.fullmatch(name) or Path(name).suffix in _WEIGHTS:
        raise ConfigError(f"{said}: there is no such file or folder, and it is no Hub id (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    hint = f"; offline, use {f'{option} {instead}'.strip()}" if instead else ""
    try:
        return Path(snapshot_download(name, allow_patterns=_PATTERNS))
    except HFValidationError as error:
        raise ConfigError(f"{said}: there is no such file or folder, and it is no Hub id (owner/name)") from error
    except LocalEntryNotFoundError as error:
        raise ConfigError(f"{said}: not in the local cache, and the Hub cannot be reached{hint}") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{said}: cannot be fetched from the Hub ({reason}){hint}") from error


def _card_licence(folder: Path) -> str:
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    found = re.search(r"^licen[cs]e:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return found[1] if found else "unknown"


def kept_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a model folder's record that a converted or fused copy keeps."""
    return {key: value for key, value in read_record(folder).items() if key == GUIDANCE}
