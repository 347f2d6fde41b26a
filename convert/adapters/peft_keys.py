"""Keys of PEFT's adapter_config.json: those that are read, those without effect on the result, and those refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from musiclora.convert.errors import ConvertError, join_problems, show_value
from musiclora.convert.files.json_file import (
    BOOLEAN,
    INTEGER,
    NULL,
    NUMBER,
    TEXT,
    list_of,
    map_of,
    object_with,
    read_json,
)

# Keys that describe the training, the base or PEFT itself; the update is the same whatever their values.
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "loftq_config",
        "lora_ga_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
        "velora_config",
    }
)

# Keys that change the adapter's result or add tensors, with the name of the feature.
_REFUSED = {
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "layer_replication": "layer replication",
    "lora_bias": "a bias on B",
    "megatron_config": "Megatron",
    "modules_to_save": "modules_to_save",
    "monteclora_config": "MonteCLoRA",
    "target_parameters": "target_parameters",
    "trainable_token_indices": "trainable tokens",
    "use_bdlora": "block-diagonal LoRA",
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
}

# Initialisations that leave the base's weights alone. Others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) change them too, and
# the adapter is wrong without the changed base.
_KNOWN_INITIALISATIONS = frozenset({"eva", "gaussian", "mica", "orthogonal"})

_NAMES = TEXT | list_of(TEXT) | NULL
_LAYERS = INTEGER | list_of(INTEGER) | NULL
# Types of the keys that are read here.
_TYPES = {
    "peft_type": TEXT | NULL,
    "task_type": TEXT | NULL,
    "base_model_name_or_path": TEXT | NULL,
    "revision": TEXT | NULL,
    "r": INTEGER,
    "lora_alpha": NUMBER,
    "lora_dropout": NUMBER,
    "bias": TEXT | NULL,
    "target_modules": _NAMES,
    "exclude_modules": _NAMES,
    "layers_pattern": _NAMES,
    "layers_to_transform": _LAYERS,
    "modules_to_save": list_of(TEXT) | NULL,
    "rank_pattern": map_of(INTEGER) | NULL,
    "alpha_pattern": map_of(NUMBER) | NULL,
    "init_lora_weights": BOOLEAN | TEXT | NULL,
    **dict.fromkeys(
        ("use_rslora", "use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "inference_mode"), BOOLEAN | NULL
    ),
}
CONFIG_KIND = object_with(_TYPES)


def read_config(path: Path) -> dict[str, Any]:
    """Read an adapter_config.json whose known keys hold values of their types.

    Raises:
        ConvertError: unreadable, or values of other types, all named.
    """
    return read_json(path, CONFIG_KIND)


def known_keys() -> frozenset[str]:
    """List all keys of adapter_config.json that are read, ignored or refused by name."""
    return _WITHOUT_EFFECT | _REFUSED.keys() | _TYPES.keys()


def refuse_others(config: Mapping[str, Any], where: str, *, dora: bool = False) -> None:
    """Refuse other methods than LoRA (and, with dora, DoRA) by name, and values of the wrong type.

    Args:
        config: content of adapter_config.json.
        where: the folder or file, for messages.
        dora: accept DoRA.

    Raises:
        ConvertError: another adapter type, options that change its maths or add tensors, an unknown option that has a
            value, or a value of the wrong type.
    """
    if "fine_tune_type" in config or "lora_parameters" in config:
        raise ConvertError(f"{where}: an mlx-lm adapter; turn it into a PEFT folder with `musiclora convert adapter`")
    if config.get("peft_type") != "LORA":
        raise ConvertError(
            f"{where}: adapter type {show_value(config.get('peft_type'))} is not supported, only LORA is"
        )
    if problems := CONFIG_KIND.problems(config, ""):  # a header's settings were not read by their types
        raise ConvertError(f"{where}: its settings of LoRA: {join_problems(problems)}")
    if problems := _other_methods(config, dora):
        raise ConvertError(f"{where}: not supported in a LoRA adapter: {join_problems(problems)}")


def _other_methods(config: Mapping[str, Any], dora: bool) -> list[str]:
    """List the methods beside LoRA that a configuration asks for, by name."""
    problems = [
        name for key, name in _REFUSED.items() if _has_value(config.get(key)) and not (dora and key == "use_dora")
    ]
    if config.get("bias", "none") != "none":
        problems.append(f"bias {show_value(config['bias'])}")
    initial = config.get("init_lora_weights")
    if isinstance(initial, str) and initial.lower() not in _KNOWN_INITIALISATIONS:
        problems.append(f"init_lora_weights {show_value(initial)} (it changes the base's weights too, or is unknown)")
    unknown = [key for key, value in config.items() if key not in known_keys() and _has_value(value)]
    problems += [f"{show_value(key)}: {show_value(config[key])}, an option that is not known here" for key in unknown]
    return problems


def _has_value(value: object) -> bool:
    """Tell whether an option is set to more than an empty default (null, false, 0, or nothing in it)."""
    return bool(value)
