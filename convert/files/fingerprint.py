"""Fingerprints of models, independent of layout, shards and stored order."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from musiclora.convert.errors import ConvertError, MusicLoraError
from musiclora.convert.files.atomic import write_json
from musiclora.convert.files.json_file import (
    NULL,
    OBJECT,
    TEXT,
    map_of,
    object_with,
    parse_json,
    read_json,
    read_optional_json,
)
from musiclora.convert.files.safetensors_file import Tensors
from musiclora.convert.files.torch_file import TORCH_SUFFIXES

Watch = Callable[[Tensors], Tensors]


class Checkpoint(Protocol):
    """An open model folder: its configuration (a dataclass) and its tensors under canonical names."""

    @property
    def config(self) -> Any: ...

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]: ...


PIPELINE_INDEX = "model_index.json"  # of diffusers, whose weights lie in subfolders
RECORD = "musiclora.json"  # beside weights or an adapter: what this package notes about them
_FINGERPRINTS = map_of(TEXT | NULL) | NULL
RECORD_KIND = object_with(
    {
        "family": TEXT | NULL,
        "base_model": TEXT | NULL,
        "backend": TEXT | NULL,
        "style": TEXT | NULL,
        "fingerprints": _FINGERPRINTS,
        "fingerprint": _FINGERPRINTS,
        "source_fingerprint": _FINGERPRINTS,
    }
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.conf")
_BLOCK = 1 << 18  # values hashed at a time
_THREADS = 2  # SHA-256 is slower than the disk; digests of single tensors do not wait for each other
# No part of the maths. Many writers leave token ids at transformers' defaults; diffusers drops the distribution of
# ACE-Step's training times.
_LEFT_OUT = ("bos_token_id", "eos_token_id", "data_proportion", "timestep_mu", "timestep_sigma")
# Switches that came later count only where they are on: models without them keep their fingerprint.
_LEFT_OUT_WHEN_OFF = ("scale_attn_by_inverse_layer_idx",)
# Three names that transformers has for one function, the tanh approximation of GELU.
_GELU_TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
_WHAT = {"weights": "the weights", "config": "the configuration", "tokenizer": "the tokenizer"}


class Fingerprint:
    """SHA-256 over names, shapes and float32 values, whatever the order; one tensor in memory at a time."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []

    def add(self, name: str, array: np.ndarray) -> None:
        """Add one tensor under its canonical name and layout."""
        digest = hashlib.sha256(json.dumps([name, list(array.shape)]).encode())
        flat = np.ascontiguousarray(array).reshape(-1)
        for start in range(0, flat.size, _BLOCK):  # the float32 copy stays in the processor's cache
            values = flat[start : start + _BLOCK].astype("<f4", copy=False)
            digest.update(values.view(np.uint8).data)
        self._digests.append(digest.digest())

    def tap(self, tensors: Tensors) -> Iterator[tuple[str, np.ndarray]]:
        """Pass tensors through and add them on other threads; a few more tensors are in memory meanwhile."""
        with ThreadPoolExecutor(_THREADS) as pool:
            waiting: deque[Future[None]] = deque()
            for name, array in tensors:
                if len(waiting) > _THREADS:
                    waiting.popleft().result()
                waiting.append(pool.submit(self.add, name, array))
                yield name, array
            for future in waiting:
                future.result()

    def value(self) -> str:
        """Return the fingerprint, hexadecimal."""
        return hashlib.sha256(b"".join(sorted(self._digests))).hexdigest()


def fingerprint_tensors(tensors: Tensors) -> str:
    """Hash names, shapes and float32 values with SHA-256, independent of their order."""
    fingerprint = Fingerprint()
    for name, array in tensors:
        fingerprint.add(name, array)
    return fingerprint.value()


def fingerprint_config(config: Any) -> str:
    """Hash the numbers of a configuration (a dataclass or a mapping) with SHA-256, without those outside the maths."""
    values = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(config)  # type: ignore[arg-type]
    off = {key for key in _LEFT_OUT_WHEN_OFF if not values.get(key)}
    values = {key: value for key, value in values.items() if key not in _LEFT_OUT and key not in off}
    if values.get("activation_function") in _GELU_TANH:
        values["activation_function"] = _GELU_TANH[0]
    return hashlib.sha256(_canonical_json(values)).hexdigest()


def fingerprint_file(content: bytes | str) -> str:
    """Hash a tokenizer's JSON with SHA-256, independent of its layout and of library versions."""
    data = content.encode() if isinstance(content, str) else content
    with contextlib.suppress(ConvertError):
        value = parse_json(data, "the tokenizer")
        if isinstance(value, dict):
            value = {key: item for key, item in value.items() if not key.endswith("_version")}
        data = _canonical_json(value)
    return hashlib.sha256(data).hexdigest()


def fingerprint_folder(
    folder: Path, open_checkpoint: Callable[[Path], Checkpoint], watch: Watch | None = None
) -> dict[str, str]:
    """Compute the fingerprints of a model folder: `weights`, `config`, `tokenizer` ("" where there is none).

    `source_weights` is added where `convert model` recorded the checkpoint that the folder was made from (see
    `recorded_source`). What was hashed is cached in the user's cache folder by path, size and times of the files; the
    model folder is never written to.

    Args:
        folder: the model's.
        open_checkpoint: the reader of its architecture; not called where the fingerprints are cached.
        watch: passes the tensors through on their way, to show how far it is.

    Raises:
        ConvertError: the folder holds no readable checkpoint.
    """
    folder = Path(folder)
    result = _hash_or_recall(folder, open_checkpoint, watch)
    record = read_record(folder)
    if source := recorded_source(record, result["weights"]):
        result["source_weights"] = source["weights"]
    return result


def is_miditok(content: bytes) -> bool:
    """Tell whether a tokenizer file is MidiTok's; transformers' files of the same name hold something else."""
    with contextlib.suppress(MusicLoraError):
        return "tokenization" in parse_json(content, "", OBJECT)
    return False


def find_tokenizer_file(folder: Path) -> Path | None:
    """Find a model folder's tokenizer: tokenizer.json, or tokenizer.conf where that is not MidiTok's or missing."""
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if len(found) < 2:
        return found[0] if found else None
    return next((path for path in found if is_miditok(path.read_bytes())), found[0])


def read_record(folder: Path) -> dict[str, Any]:
    """Read the musiclora.json of a folder; empty where there is none.

    Raises:
        ConvertError: unreadable, or a known key with a value of another type.
    """
    return read_optional_json(folder / RECORD, RECORD_KIND)


def recorded_source(record: Mapping[str, Any], weights: str | None) -> dict[str, Any] | None:
    """Find the fingerprint of the checkpoint that a folder was converted from; None where the record does not hold.

    A record that also states what the folder's own weights were (`fingerprint`) holds for those only: a matrix that
    was changed or stored transposed afterwards must not pass for the original.

    Args:
        record: content of the folder's musiclora.json.
        weights: fingerprint of the weights that are there now; None where it is not known.
    """
    source, own = record.get("source_fingerprint"), record.get("fingerprint")
    if not isinstance(source, dict) or not isinstance(source.get("weights"), str):
        return None
    changed = weights is not None and isinstance(own, dict) and own.get("weights") != weights
    return None if changed else source


def _hash_or_recall(folder: Path, open_checkpoint: Callable[[Path], Checkpoint], watch: Watch | None) -> dict[str, str]:
    key = _cache_key(folder)
    cached = _cache_folder() / f"{key}.json"
    if key and cached.is_file():
        with contextlib.suppress(MusicLoraError):
            values = read_json(cached)
            if set(values) == {"weights", "config", "tokenizer"} and all(isinstance(v, str) for v in values.values()):
                return values
    checkpoint = open_checkpoint(folder)
    tokenizer = find_tokenizer_file(folder)
    result = {
        "weights": fingerprint_tensors(watch(checkpoint.tensors()) if watch else checkpoint.tensors()),
        "config": fingerprint_config(checkpoint.config),
        "tokenizer": fingerprint_file(tokenizer.read_bytes()) if tokenizer else "",
    }
    if key:
        with contextlib.suppress(MusicLoraError):  # a read-only home only costs the time to hash again
            write_json(cached, result)
    return result


def compare_fingerprints(recorded: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    """List the parts in which the base of an adapter differs from the base at hand.

    Parts that either side does not know are not compared. Weights also match through the checkpoint that a converted
    folder was made from.
    """
    differences = []
    for part, words in _WHAT.items():
        known, found = _known_values(recorded, part), _known_values(actual, part)
        if known and found and not known & found:
            values = [(side.get(part) or side[f"source_{part}"])[:8] for side in (recorded, actual)]
            differences.append(f"{words} (recorded {values[0]}, found {values[1]})")
    return differences


def matches_by_source(recorded: Mapping[str, str], actual: Mapping[str, str]) -> bool:
    """Tell whether the weights match only through the checkpoint that one side was converted from."""
    return (
        bool(recorded.get("weights"))
        and recorded["weights"] != actual["weights"]
        and not compare_fingerprints(
            {"weights": recorded["weights"], "source_weights": recorded.get("source_weights", "")}, actual
        )
    )


def _known_values(fingerprint: Mapping[str, str], part: str) -> set[str]:
    return {value for key in (part, f"source_{part}") if (value := fingerprint.get(key))}


def _canonical_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _cache_folder() -> Path:
    if chosen := os.environ.get("MUSICLORA_CACHE"):
        return Path(chosen) / "fingerprints"
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "musiclora" / "fingerprints"


def _cache_key(folder: Path) -> str:
    """Hash the path, the size and the times of every file that counts; "" where there are none to be listed."""
    try:
        suffixes = {".safetensors", ".json", ".conf", *TORCH_SUFFIXES}
        home = folder.resolve()
        paths = [*home.iterdir(), *(home.glob("*/*") if (home / PIPELINE_INDEX).is_file() else ())]
        files = sorted(p for p in paths if p.suffix in suffixes and p.name != RECORD)
        # Archives set the time of modification themselves; the time of the last change of a file they cannot set.
        facts = [(str(p), s.st_size, s.st_mtime_ns, s.st_ctime_ns) for p in files for s in (p.stat(),)]
    except OSError:
        return ""
    # A folder around models has no file of its own, so that nothing would tell it from another one.
    return hashlib.sha256(_canonical_json(["3", facts])).hexdigest() if facts else ""
