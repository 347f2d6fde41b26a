"""Where base models and adapters come from: the bundled one, the Hub, folders."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from musiclora.convert.adapter import LoraSpec, read_peft, uniform
from musiclora.convert.fingerprint import checkpoint_fingerprint, compare_fingerprints, matches_by_source
from musiclora.errors import ConfigError, ConvertError

BUNDLED = {"bundled": "symbolic", "bundled-audio": "audio"}
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]*\w", re.ASCII)  # never a path such as ./base or ../base
_WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
# The last two are how the original of the audio family comes.
_PATTERNS = ["*.json", "*.safetensors", "*.bin", "*.txt", "README.md", "cfm_model.pt", "vae_model.pt"]


@dataclass(frozen=True)
class BaseModel:
    """A base model on disk.

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
    if name in BUNDLED:
        path = Path(str(resources.files("musiclora.bundled"))) / BUNDLED[name]
        if not (path / "config.json").is_file():
            raise ConfigError(f"the bundled model is missing from this installation ({path}); reinstall musiclora")
        return BaseModel(name, path, "Apache-2.0")
    path = Path(name).expanduser()
    if path.exists():
        if not path.is_dir():
            said = f"{option} {name}".strip()
            raise ConfigError(f"{said}: is a file; give its folder (with config.json and model.safetensors)")
        return BaseModel(name, path, _licence(path))
    folder = _from_hub(name, option, "bundled")
    return BaseModel(name, folder, _licence(folder))


def _from_hub(name: str, option: str, instead: str) -> Path:
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


def _licence(folder: Path) -> str:
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    found = re.search(r"^licen[cs]e:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return found[1] if found else "unknown"


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk.

    Attributes:
        path: its folder.
        strength: multiplier of its update.
        spec, state: settings and arrays; ranks made uniform.
        base_model: the base it names.
        record: musiclora.json, empty for adapters of other tools.
        magnitudes: of a DoRA adapter, one vector a module; else empty.
    """

    path: Path
    strength: float
    spec: LoraSpec
    state: dict[str, Any]
    base_model: str
    record: dict[str, Any]
    magnitudes: dict[str, Any] = field(default_factory=dict)


def find_adapter(name: str, strength: float = 1.0, *, dora: bool = False, option: str = "--adapter-dir") -> Adapter:
    """Read an adapter folder or Hub id; a DoRA one only where dora says that it can be used.

    Raises:
        ConfigError: it cannot be found.
        ConvertError: it cannot be read as a LoRA adapter.
    """
    path = Path(name).expanduser()
    if path.is_dir() and not (path / "adapter_config.json").is_file() and (path / "adapter-best").is_dir():
        path = path / "adapter-best"  # a run folder was given: its best adapter is meant
    if not path.is_dir():
        if path.exists():
            raise ConfigError(f"{option} {name}: is a file; give the adapter's folder")
        path = _from_hub(name, option, "")
    adapter = read_peft(path)
    if adapter.magnitudes and not dora:
        raise ConvertError(
            f"{path}: a DoRA adapter can be fused and converted only; make a model with "
            f"`musiclora fuse --adapter-dir {name} --output-dir NEW` and give that as --model"
        )
    spec, state = uniform(adapter)
    return Adapter(path, strength, spec, state, adapter.base_model or "", adapter.record, adapter.magnitudes)


def check_base(adapter: Adapter, base: BaseModel, allow_mismatch: bool = False) -> list[str]:
    """Compare the base an adapter was trained on with the one at hand.

    Returns:
        Notes for the user: parts that differ but were allowed to, or that nothing was recorded.

    Raises:
        ConvertError: the recorded fingerprint differs and allow_mismatch is off.
    """
    recorded = adapter.record.get("fingerprints")
    if not recorded:
        return [
            f"{adapter.path.name}: no fingerprint of its base is recorded; cannot tell whether {base.name} is right"
        ]
    actual = checkpoint_fingerprint(base.path)
    differing = compare_fingerprints(recorded, actual)
    if not differing:
        same = f"{adapter.path.name}: {base.name} is a conversion of the base that it was trained on, or the reverse"
        return [same] if matches_by_source(recorded, actual) else []
    text = f"{adapter.path}: trained on another base than {base.name}: {', '.join(differing)} differ"
    if not allow_mismatch:
        wanted = f"give --model {adapter.base_model}" if adapter.base_model else "give the right --model"
        raise ConvertError(f"{text}; {wanted}, or --allow-base-mismatch to use it all the same")
    return [text]


def base_of(model: str | None, adapters: Sequence[Adapter]) -> BaseModel:
    """The base model to use: the one asked for, else the one recorded in the adapters.

    Raises:
        ConfigError: neither is given, or the adapters name different ones.
    """
    if model:
        return find_model(model)
    names = sorted({a.base_model for a in adapters if a.base_model})
    if not names:
        raise ConfigError("no base model is known; give --model, or an --adapter-dir that records one")
    if len(names) > 1:
        raise ConfigError(f"the adapters were trained on different bases ({', '.join(names)}); give --model")
    return find_model(names[0])


def read_record(folder: Path) -> dict[str, Any]:
    """musiclora.json of a folder, empty where there is none or it is damaged."""
    try:
        content = json.loads((folder / "musiclora.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
