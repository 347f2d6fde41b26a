"""The adapter_config.json of PEFT: keys that are written, read and refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from musiclora.convert.adapters.lora import LoraSpec, RankScales, alpha_for
from musiclora.convert.errors import ConvertError, join_problems

PEFT_PREFIX = "base_model.model."
LARGEST_ALPHA = 3.4e38  # an alpha must fit float32

# Keys that change the adapter's result or add tensors, with the name of the feature.
_REFUSED_KEYS = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "lora_bias": "a bias on B",
    "modules_to_save": "modules_to_save",
    "trainable_token_indices": "trainable tokens",
    "target_parameters": "target_parameters",
    "layer_replication": "layer replication",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "megatron_config": "Megatron",
}
# A repeated group, or many repeats: such a pattern from an untrusted file can hang the process.
_SLOW_PATTERN = re.compile(r"\)[*+{?]|([*+{].*){5}")

# Initialisations that also change the base's weights; the adapter is wrong without the changed base.
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


def lora_config(spec: LoraSpec, rank_scales: RankScales | None = None, *, dora: bool = False) -> dict[str, Any]:
    """Build the keys of adapter_config.json that describe a LoRA, plain or weight-decomposed.

    Args:
        spec: settings of the adapter.
        rank_scales: rank and scale of every module, where they differ; the commonest become r and lora_alpha.
        dora: the adapter has magnitude vectors.
    """
    config = {
        "peft_type": "LORA",
        "r": spec.rank,
        "lora_alpha": _shorten_number(spec.alpha),
        "lora_dropout": spec.dropout,
        "target_modules": sorted(spec.targets),
        "use_rslora": spec.rslora,
        "use_dora": dora,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    return config | _rank_patterns(rank_scales) if rank_scales else config


def _rank_patterns(rank_scales: RankScales) -> dict[str, Any]:
    ranks = {module: rank for module, (rank, _) in rank_scales.items()}
    alphas = {m: _shorten_number(alpha_for(scale, rank)) for m, (rank, scale) in rank_scales.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": False,  # the scales of both kinds are in alpha
        "rank_pattern": {_exact_pattern(module): value for module, value in ranks.items() if value != rank},
        "alpha_pattern": {_exact_pattern(module): value for module, value in alphas.items() if value != alpha},
    }


def _exact_pattern(module: str) -> str:
    """Write a pattern that matches this module alone: PEFT also matches at the end of a longer path."""
    return "^" + re.escape(module)


def _shorten_number(alpha: float) -> float:
    return int(alpha) if float(alpha).is_integer() else alpha


def refuse_others(config: Mapping[str, Any], where: str, *, dora: bool = False) -> None:
    """Refuse other methods than LoRA (and, with dora, DoRA), by their names.

    Raises:
        ConvertError: another adapter type, or options that change its maths or add tensors.
    """
    if "fine_tune_type" in config or "lora_parameters" in config:
        raise ConvertError(f"{where}: an mlx-lm adapter; turn it into a PEFT folder with `musiclora convert adapter`")
    if config.get("peft_type") != "LORA":
        raise ConvertError(
            f"{where}: adapter type {str(config.get('peft_type'))[:40]!r} is not supported, only LORA is"
        )
    problems = [name for key, name in _REFUSED_KEYS.items() if config.get(key) and not (dora and key == "use_dora")]
    if config.get("bias", "none") != "none":
        problems.append(f"bias {config['bias']!r}")
    initial = config.get("init_lora_weights")
    if isinstance(initial, str) and initial.lower().startswith(_BASE_CHANGING):
        problems.append(f"init_lora_weights {initial!r} (it changes the base's weights too)")
    if problems:
        raise ConvertError(f"{where}: not supported in a LoRA adapter: {join_problems(problems)}")


def module_scale(config: Mapping[str, Any], module: str, where: str) -> tuple[int, float]:
    """Compute rank and multiplier of one module after rank_pattern and alpha_pattern.

    Args:
        config: content of adapter_config.json.
        module: path of the module.
        where: the folder or file, for messages.

    Raises:
        ConvertError: a pattern that is no regular expression, or a rank or alpha that is no number.
    """
    rank = _pattern_value(config, "rank_pattern", module, config.get("r"), where)
    alpha = _pattern_value(config, "alpha_pattern", module, config.get("lora_alpha", 8), where)
    usable = type(alpha) in (int, float) and abs(alpha) <= LARGEST_ALPHA  # NaN is not
    if type(rank) is not int or not 0 < rank < 2**20 or not usable:
        found = f"rank {str(rank)[:20]} and alpha {str(alpha)[:20]} of {module}"
        raise ConvertError(f"{where}: adapter_config.json: {found} are not usable")
    return rank, alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _pattern_value(config: Mapping[str, Any], key: str, module: str, default: object, where: str) -> Any:
    """Look up the first pattern that matches, by PEFT's rule; the default where none does."""
    patterns = config.get(key) or {}
    if any(len(str(pattern)) > 200 or _SLOW_PATTERN.search(str(pattern)) for pattern in patterns):
        raise ConvertError(
            f"{where}: adapter_config.json: {key} has a regular expression that could take for ever to match"
        )
    try:
        return next((v for pattern, v in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), default)
    except (re.error, AttributeError, TypeError) as error:
        raise ConvertError(f"{where}: adapter_config.json: {key} is not usable: {error}") from error
