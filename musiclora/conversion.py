"""The job behind `musiclora convert`: weights and adapters in another format, checked after writing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.adapter import PeftAdapter, check_state, read_peft, state_shapes, uniform, write_peft
from musiclora.convert.blend import Part
from musiclora.convert.fingerprint import RECORD, checkpoint_fingerprint
from musiclora.convert.folders import read_json
from musiclora.convert.gpt2 import Gpt2Checkpoint, read_checkpoint, write_checkpoint
from musiclora.convert.lora import LoraSpec, state_keys
from musiclora.convert.mlx_lm import is_mlx_lm, read_mlx_lm, write_mlx_lm
from musiclora.errors import ConfigError, ConvertError
from musiclora.models import Adapter, BaseModel, check_base, find_adapter, find_model
from musiclora.verification import (
    LOGIT_TOLERANCE,
    Converted,
    Logits,
    beside,
    compare_logits,
    same_update,
    withdrawn_on_failure,
)


def convert_model(
    source: str,
    destination: Path,
    to: str,
    dtype: str | None = None,
    *,
    causal: bool = False,
    vae: Path | None = None,
) -> Converted:
    """Write a model of either family in another layout.

    Args:
        source: bundled, a Hub id, a folder, or a file of the audio family.
        destination: new folder.
        to: hf, mlx or (the audio codec) diffusers.
        dtype: float32, float16 or bfloat16; None keeps the source's.
        causal: the audio weights are of the v1.0 line.
        vae: the audio family's codec, to go into the same folder.

    Raises:
        ConvertError: the source does not fit, or the copy reads back with other values; nothing is left then.
    """
    path = Path(source).expanduser()
    path = path if path.exists() else find_model(source).path
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConfigError(f"{destination} exists already; remove it or choose another name")
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if path.is_file() or config.get("model_type", "oobleck") in ("diffrhythm", "oobleck"):
        from musiclora.audio_conversion import convert_audio

        return convert_audio(path, destination, to, dtype, causal, vae)
    if causal or vae or to == "diffusers":
        raise ConfigError("--causal, --vae and --to diffusers are for the audio family")
    return _convert_gpt2(path, destination, to, dtype)


def _convert_gpt2(path: Path, destination: Path, to: str, dtype: str | None) -> Converted:
    checkpoint = read_checkpoint(path)
    before = checkpoint_fingerprint(path)
    kept = dtype or checkpoint.dtype
    notes = [f"left out {name}: {reason}" for name, reason in _grouped(checkpoint.dropped).items()]
    files = beside(path) | {RECORD: _json(_record_of(path) | {"source_fingerprint": before})}
    with withdrawn_on_failure(destination):
        write_checkpoint(destination, checkpoint.config, checkpoint.tensors(), to, dtype=kept, extra_files=files)
        after = checkpoint_fingerprint(destination)
        if after["weights"] == before["weights"]:
            notes.append(f"every weight is bit for bit the same (fingerprint {after['weights'][:8]})")
        elif kept == checkpoint.dtype:
            raise ConvertError(f"{destination}: the copy's fingerprint differs from the source's; it was withdrawn")
        else:
            rounding = _largest_rounding(checkpoint, read_checkpoint(destination))
            notes.append(f"rounded from {checkpoint.dtype} to {kept}: the largest change of a weight is {rounding:.3g}")
    return Converted(destination, to, notes=tuple(notes))


def convert_adapter(
    source: str,
    destination: Path,
    to: str,
    model: str | None = None,
    backend: str = "auto",
    *,
    allow_base_mismatch: bool = False,
) -> Converted:
    """Write an adapter in another format, recognising the source's from its files.

    Args:
        source: folder of a PEFT or mlx-lm adapter, or a run folder.
        destination: new folder.
        to: peft or mlx-lm.
        model: its base, for the check of shapes, fingerprint and logits; None takes the recorded one where it is local.
        backend: what computes the logits.
        allow_base_mismatch: go on although the recorded base differs.

    Raises:
        ConvertError: it does not fit, or the written adapter computes something else; nothing is left behind then.
    """
    folder, adapter = read_adapter(source)
    spec, state = uniform(adapter)
    base = find_model(model) if model else _local_base(adapter.base_model)
    notes: list[str] = []
    if base:
        check_state(state, state_shapes(spec, read_checkpoint(base.path).config.linear_shapes()), str(folder))
        found = Adapter(folder, 1.0, spec, state, adapter.base_model, adapter.record)
        notes += check_base(found, base, allow_base_mismatch)
    if not adapter.is_uniform:
        notes.append(f"ranks or scales differed between modules; now rank {spec.rank} for all, padded with zeros")
    with withdrawn_on_failure(destination):
        if to == "mlx-lm":
            write_mlx_lm(destination, spec, state, base_model=adapter.base_model, record=adapter.record)
            written = read_mlx_lm(destination)
        else:
            files = beside(folder)
            write_peft(
                destination, spec, state, base_model=adapter.base_model, record=adapter.record,
                readme=files.pop("README.md", b"").decode("utf-8", "replace"), extra_files=files,
            )  # fmt: skip
            written = read_peft(destination)
        after: Part = (*uniform(written), 1.0)
        difference = same_update(_parts(adapter), [after])
        logits = compare_logits(base, (spec, state), base, after[:2], backend) if base else Logits()
        logits.refuse_above(LOGIT_TOLERANCE, destination)
    return Converted(destination, to, difference, logits.difference, logits.largest, logits.backend, tuple(notes))


def read_adapter(source: str) -> tuple[Path, PeftAdapter]:
    """Read a PEFT or mlx-lm folder, whichever it is; a run folder stands for its best adapter.

    Raises:
        ConvertError: neither; other formats are refused by name.
    """
    path = Path(source).expanduser()
    if path.is_file():
        raise ConvertError(
            f"{path}: is a file; PEFT and mlx-lm adapters are folders (kohya, diffusers and .pt are not read)"
        )
    if path.is_dir() and not (path / "adapter_config.json").is_file() and (path / "adapter-best").is_dir():
        path = path / "adapter-best"
    if not path.is_dir():
        found = find_adapter(source)
        path = found.path
    if (path / "pytorch_lora_weights.safetensors").is_file():
        raise ConvertError(f"{path}: a diffusers adapter; this version reads PEFT and mlx-lm adapters")
    config = path / "adapter_config.json"
    return path, read_mlx_lm(path) if config.is_file() and is_mlx_lm(read_json(config)) else read_peft(path)


def _parts(adapter: PeftAdapter) -> list[Part]:
    """One part for each module, with its own rank and scale."""
    parts: list[Part] = []
    for module, rank in adapter.ranks.items():
        own = {key: adapter.state[key] for key in state_keys(module)}
        parts.append((LoraSpec(rank, adapter.scales[module] * rank, 0.0, (module,)), own, 1.0))
    return parts


def _local_base(name: str) -> BaseModel | None:
    """The recorded base where it is at hand without the network."""
    try:
        return find_model(name) if name == "bundled" or (name and Path(name).expanduser().is_dir()) else None
    except ConfigError:
        return None


def _largest_rounding(before: Gpt2Checkpoint, after: Gpt2Checkpoint) -> float:
    written = {name: array for name, array in after.tensors()}
    return max(
        float(np.abs(a.astype(np.float32) - written[n].astype(np.float32)).max(initial=0)) for n, a in before.tensors()
    )


def _grouped(dropped: Mapping[str, str]) -> dict[str, str]:
    """Dropped names by their reason, counted where there are many of one kind."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in dropped.items():
        by_reason.setdefault(reason, []).append(name)
    return {names[0] + (f" and {len(names) - 1} more" if names[1:] else ""): why for why, names in by_reason.items()}


def _record_of(folder: Path) -> dict[str, Any]:
    return read_json(folder / RECORD) if (folder / RECORD).is_file() else {}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
