"""Keys of PEFT's adapter_config.json: those that are read, those without effect on the result, and those refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from musiclora.convert.errors import ConvertError, join_problems

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


def _is_flag(value: object) -> bool:
    return value is None or isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return type(value) is int


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_names(value: object) -> bool:
    return _is_text(value) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _is_layers(value: object) -> bool:
    return value is None or _is_integer(value) or (isinstance(value, list) and all(map(_is_integer, value)))


def _is_initialisation(value: object) -> bool:
    return _is_flag(value) or isinstance(value, str)


def _is_pattern(value: object) -> bool:
    return value is None or isinstance(value, dict)


_TYPES: dict[str, tuple[Callable[[object], bool], str]] = {
    "r": (_is_integer, "a whole number"),
    "lora_alpha": (_is_number, "a number"),
    "lora_dropout": (_is_number, "a number"),
    "use_rslora": (_is_flag, "true or false"),
    "use_dora": (_is_flag, "true or false"),
    "fan_in_fan_out": (_is_flag, "true or false"),
    "inference_mode": (_is_flag, "true or false"),
    "bias": (_is_text, "a text"),
    "base_model_name_or_path": (_is_text, "a text"),
    "init_lora_weights": (_is_initialisation, "true, false or a text"),
    "target_modules": (_is_names, "a text or a list of texts"),
    "exclude_modules": (_is_names, "a text or a list of texts"),
    "layers_pattern": (_is_names, "a text or a list of texts"),
    "layers_to_transform": (_is_layers, "a whole number or a list of them"),
    "rank_pattern": (_is_pattern, "an object"),
    "alpha_pattern": (_is_pattern, "an object"),
}


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
        raise ConvertError(f"{where}: adapter type {_shorten(config.get('peft_type'))} is not supported, only LORA is")
    if problems := _wrong_types(config):
        raise ConvertError(f"{where}: adapter_config.json: {join_problems(problems)}")
    if problems := _other_methods(config, dora):
        raise ConvertError(f"{where}: not supported in a LoRA adapter: {join_problems(problems)}")


def _wrong_types(config: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} is {_shorten(config[key])}, which is not usable; expected {words}"
        for key, (is_right, words) in _TYPES.items()
        if key in config and not is_right(config[key])
    ]


def _other_methods(config: Mapping[str, Any], dora: bool) -> list[str]:
    """List the methods beside LoRA that a configuration asks for, by name."""
    problems = [
        name for key, name in _REFUSED.items() if _has_value(config.get(key)) and not (dora and key == "use_dora")
    ]
    if config.get("bias", "none") != "none":
        problems.append(f"bias {_shorten(config['bias'])}")
    initial = config.get("init_lora_weights")
    if isinstance(initial, str) and initial.lower() not in _KNOWN_INITIALISATIONS:
        problems.append(f"init_lora_weights {_shorten(initial)} (it changes the base's weights too, or is unknown)")
    unknown = [key for key, value in config.items() if key not in known_keys() and _has_value(value)]
    problems += [f"{_shorten(key)}: {_shorten(config[key])}, an option that is not known here" for key in unknown]
    return problems


def _has_value(value: object) -> bool:
    """Tell whether an option is set to more than an empty default (null, false, 0, or nothing in it)."""
    return bool(value)


def _shorten(value: object) -> str:
    """Quote a value from a file, cut to 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
