"""Training that starts from an adapter: its settings become the run's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from musiclora.adapters import Adapter, base_of, check_base, find_adapter
from musiclora.convert.adapters.lora import alpha_for
from musiclora.convert.adapters.peft import read_peft
from musiclora.convert.files.fingerprint import find_tokenizer_file, fingerprint_file
from musiclora.errors import ConfigError, option_name
from musiclora.models import BaseModel
from musiclora.training.config import DEFAULT_MODEL, TrainConfig


def take_adapter_settings(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """Fill in rank, alpha, target modules, kind, base and tokenizer of the adapter that training starts from.

    Args:
        config: the options; without `adapter_dir` they are returned as they are.

    Returns:
        The options, and notes for the user.

    Raises:
        ConfigError: options that contradict the adapter, or an adapter whose modules have different ranks or scales.
        ConvertError: it cannot be read, or belongs to another base.
    """
    if config.adapter_dir is None:
        return config, []
    adapter = find_adapter(config.adapter_dir)
    if not read_peft(adapter.path).is_uniform:
        text = "its modules have different ranks or scales, and training keeps one"
        raise ConfigError(f"--adapter-dir {config.adapter_dir}: {text}")
    base = base_of(None if config.model == DEFAULT_MODEL else config.model, [adapter])
    notes = check_base(adapter, base, config.allow_base_mismatch)
    spec = adapter.spec
    own: dict[str, Any] = {
        "lora_r": spec.rank,
        "lora_alpha": alpha_for(spec.scale, spec.rank),  # of plain LoRA, also where the adapter's is rank-stabilised
        "target_modules": spec.targets,
        "use_rslora": False,
        "use_dora": spec.dora,
    }
    wrong = [
        f"{option_name(name)} is {given}, not {value}"
        for name, value in own.items()
        if (given := _sorted_names(getattr(config, name))) is not None and given != value
    ]
    if wrong:
        raise ConfigError(f"--adapter-dir {config.adapter_dir}: {'; '.join(wrong)}; leave these options out")
    tokenizer = config.tokenizer or _own_tokenizer(adapter, base)
    return dataclasses.replace(config, **own, model=base.name, tokenizer=tokenizer), notes


def _sorted_names(value: Any) -> Any:
    """Return target modules in the order of `LoraSpec`, other values as they are."""
    return tuple(sorted(set(value))) if isinstance(value, tuple) else value


def _own_tokenizer(adapter: Adapter, base: BaseModel) -> str | None:
    """Find the tokenizer that the adapter was trained with, where it is not the base's."""
    files = [find_tokenizer_file(folder) for folder in (adapter.path, base.path)]
    own, other = (fingerprint_file(file.read_bytes()) if file else "" for file in files)
    return str(files[0]) if own and own != other and adapter.record else None


def adapter_folder(name: str) -> Path:
    """Find the folder of the adapter that training starts from."""
    return find_adapter(name).path
