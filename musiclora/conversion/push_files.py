"""Files of an adapter or a model that may go to the Hub, and a look for what must not leave this machine."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from musiclora.convert.files.fingerprint import RECORD, read_record
from musiclora.convert.files.json_file import read_json, read_optional_json
from musiclora.errors import ConfigError, ConvertError
from musiclora.formats import expand_home
from musiclora.models import public_base
from musiclora.training.run_folder import BEST, META, MODEL_BEST

CARD = "README.md"
ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_FILES = (
    ADAPTER_CONFIG,
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
    RECORD,
    "tokenizer.json",
    "style.safetensors",
    "copy_index.safetensors",  # hashes of passages, without notes and names
)
_MODEL_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
_NEVER = (META, "provenance.json", "manifest.json", "index.json", "trackers.json")  # they name songs or folders
_PATH = re.compile(
    r"(?<![\w./:-])(?:/(?:home|Users|root|tmp|mnt|media|Volumes|private|var|work|data|opt|srv)/[^\s\"'<>|]+"
    r"|~/[^\s\"'<>|]+|[A-Za-z]:\\\\?[^\s\"'<>|]+)"
)


@dataclass(frozen=True)
class PushFolder:
    """Folder to upload, and what is known of it.

    Attributes:
        path: the folder of the adapter or model itself.
        kind: `adapter` or `model`.
        files: name in the repository and content, a file or bytes; without the card.
        record: musiclora.json; empty for other tools.
        songs: file names of songs that must not be in any text.
        samples: pieces that the run made, the last one first.
    """

    path: Path
    kind: Literal["adapter", "model"]
    files: dict[str, Path | bytes]
    record: dict[str, Any]
    songs: tuple[str, ...]
    samples: tuple[Path, ...]


def collect_folder(name: str) -> PushFolder:
    """Find what a folder would send: known files only.

    Args:
        name: folder of an adapter or a model, or a run folder, of which the best is taken.

    Raises:
        ConfigError: there is no such folder, or it is neither.
        ConvertError: its records are damaged.
    """
    path = expand_home(name)
    if not path.is_dir():
        raise ConfigError(f"{name}: there is no such folder; give that of an adapter or a model")
    if not (path / ADAPTER_CONFIG).is_file() and not (path / "config.json").is_file():
        path = next((path / best for best in (BEST, MODEL_BEST) if (path / best).is_dir()), path)
    run = path.parent if (path.parent / META).is_file() else None
    if (path / ADAPTER_CONFIG).is_file():
        files: dict[str, Path | bytes] = {n: path / n for n in _ADAPTER_FILES if (path / n).is_file()}
        if not any(n.endswith(".safetensors") and n.startswith(("adapter", "pytorch")) for n in files):
            raise ConfigError(f"{name}: holds no adapter_model.safetensors; convert it with musiclora convert adapter")
        files |= _public_config(path)
        return PushFolder(path, "adapter", files, read_record(path), _song_names(run), _samples(run))
    if (path / "config.json").is_file() or (path / "model_index.json").is_file():
        return PushFolder(path, "model", _model_files(path), read_record(path), _song_names(run), _samples(run))
    raise ConfigError(f"{name}: is neither the folder of an adapter nor that of a model")


def _public_config(path: Path) -> dict[str, Path | bytes]:
    """Return adapter_config.json without the path of a local base; nothing where it has none."""
    config = read_json(path / ADAPTER_CONFIG)
    base = str(config.get("base_model_name_or_path") or "")
    public = public_base(base, read_record(path))[1]
    if not base or public == base:
        return {}
    return {ADAPTER_CONFIG: (json.dumps({**config, "base_model_name_or_path": public}, indent=2) + "\n").encode()}


def _model_files(path: Path) -> dict[str, Path | bytes]:
    found: dict[str, Path | bytes] = {}
    for file in sorted(path.rglob("*")):
        below = file.relative_to(path)
        hidden = any(part.startswith(".") or part in ("state", "samples") for part in below.parts)
        if file.is_file() and not hidden and file.suffix in _MODEL_SUFFIXES and file.name not in _NEVER:
            found[below.as_posix()] = file
    if not any(name.endswith(".safetensors") for name in found):
        raise ConfigError(f"{path}: holds no .safetensors weights; convert it with musiclora convert model")
    return found


def _song_names(run: Path | None) -> tuple[str, ...]:
    if run is None:
        return ()
    try:
        meta = read_optional_json(run / META)
    except ConvertError:
        return ()
    named = [*meta.get("held_out_songs", ()), *meta.get("skipped_files", ())]
    return tuple(sorted({Path(str(song)).name for song in named}))


def _samples(run: Path | None) -> tuple[Path, ...]:
    """List the pieces that a run's adapter made, the last one first; the base's own are left out."""
    if run is None:
        return ()
    found = [*(run / "samples").glob("epoch-*.mid")] or [*(run / "samples").glob("epoch-*.wav")]
    return tuple(sorted(found, reverse=True))


def find_secrets(texts: dict[str, str], songs: tuple[str, ...]) -> list[str]:
    """List the absolute paths and song names in texts that are to be sent, each with its file.

    Args:
        texts: content by file name.
        songs: file names of songs.
    """
    found = []
    for name, text in texts.items():
        found += [f"{name} holds the path {match[0]}" for match in _PATH.finditer(text)]
        found += [f"{name} names the song {song}" for song in songs if song and song in text]
    return list(dict.fromkeys(found))
