"""The adapter_config.json of PEFT: ranks and scales by module, written and read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from musiclora.convert.adapters.lora import LoraSpec, RankScales, alpha_for
from musiclora.convert.adapters.path_patterns import PatternError, matches_path
from musiclora.convert.errors import ConvertError, show_value

PEFT_PREFIX = "base_model.model."
_DEFAULT_PATTERNS = {"r": 8, "lora_alpha": 8, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
LARGEST_ALPHA = 3.4e38  # an alpha must fit float32

_BLOCK = re.compile(r".*\.[^.]*\.(?P<layer>\d+)\.", re.ASCII)  # as PEFT finds the number of a layer
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]*\w@", re.ASCII)  # with a revision after it


def base_keys(base_model: str) -> dict[str, str | None]:
    """Build the keys that name the base; PEFT keeps the revision of `owner/name@revision` under a key of its own."""
    name, _, revision = base_model.partition("@") if _HUB_ID.match(base_model) else (base_model, "", "")
    return {"base_model_name_or_path": name or None, "revision": revision or None}


def named_base(config: Mapping[str, Any]) -> str:
    """Read the base's name, with its revision where that is not the main one."""
    name, revision = str(config.get("base_model_name_or_path") or ""), config.get("revision")
    return f"{name}@{revision}" if revision and revision != "main" and "/" in name else name


def lora_config(
    spec: LoraSpec, rank_scales: RankScales | None = None, *, dora: bool = False, own: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Build the keys of adapter_config.json that describe a LoRA, plain or weight-decomposed.

    Args:
        spec: settings of the adapter.
        rank_scales: rank and scale of every module, where they differ; the commonest become r and lora_alpha.
        dora: the adapter has magnitude vectors.
        own: the adapter_config.json that the adapter was read from; its patterns are kept where all versions of PEFT
            read rank_scales from them.
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
    if not rank_scales:
        return config
    kept = _DEFAULT_PATTERNS | {key: own[key] for key in _DEFAULT_PATTERNS if key in own} if own else None
    return config | (kept if kept and _all_versions_read(kept, rank_scales) else _rank_patterns(rank_scales))


def _rank_patterns(rank_scales: RankScales) -> dict[str, Any]:
    r"""Write patterns whose keys are full paths.

    PEFT up to 0.14 looks a path up as it stands where no key matches the end of it; a key with `^` or `\.` it never
    finds.
    """
    ranks = {module: rank for module, (rank, _) in rank_scales.items()}
    alphas = {m: _shorten_number(alpha_for(scale, rank)) for m, (rank, scale) in rank_scales.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": False,  # the scales of both kinds are in alpha
        "rank_pattern": {module: value for module, value in ranks.items() if value != rank},
        "alpha_pattern": {module: value for module, value in alphas.items() if value != alpha},
    }


def _all_versions_read(config: Mapping[str, Any], rank_scales: RankScales) -> bool:
    """Tell whether PEFT's rule of today and that of versions up to 0.14 both read these ranks and scales."""
    keys = (*(config["rank_pattern"] or {}), *(config["alpha_pattern"] or {}))
    if any("|" in key for key in keys):  # an alternative of the old rule ends where the new one's does not
        return False
    return all(
        module_scale(config, module, "") == wanted == _module_scale_of_0_14(config, module)
        for module, wanted in rank_scales.items()
    )


def _module_scale_of_0_14(config: Mapping[str, Any], module: str) -> tuple[int, float] | None:
    """Compute rank and multiplier of one module by the rule of PEFT up to 0.14; None where it finds no usable value.

    One key serves both patterns: the first that matches a dotted suffix of the path, else the path itself.
    """
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    rest = module.partition(".")[2]
    try:
        key = next((key for key in (*ranks, *alphas) if "^" not in key and matches_path(key, rest)), module)
    except PatternError:  # of a key that today's rule does not reach
        return None
    return _rank_and_scale(config, ranks.get(key, config.get("r", 8)), alphas.get(key, config.get("lora_alpha", 8)))


def _rank_and_scale(config: Mapping[str, Any], rank: Any, alpha: Any) -> tuple[int, float] | None:
    """Compute rank and multiplier; None where the rank or the alpha is no usable number."""
    usable = type(alpha) in (int, float) and abs(alpha) <= LARGEST_ALPHA  # NaN is not
    if type(rank) is not int or not 0 < rank < 2**20 or not usable:
        return None
    return rank, alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _shorten_number(alpha: float) -> float:
    return int(alpha) if float(alpha).is_integer() else alpha


def module_scale(config: Mapping[str, Any], module: str, where: str) -> tuple[int, float]:
    """Compute rank and multiplier of one module after rank_pattern and alpha_pattern.

    Args:
        config: content of adapter_config.json.
        module: path of the module.
        where: the folder or file, for messages.

    Raises:
        ConvertError: a pattern that is no regular expression, or a rank or alpha that is no number.
    """
    rank = _pattern_value(config, "rank_pattern", module, config.get("r", 8), where)
    alpha = _pattern_value(config, "alpha_pattern", module, config.get("lora_alpha", 8), where)
    found = _rank_and_scale(config, rank, alpha)
    if found is None:
        values = f"rank {show_value(rank)} and alpha {show_value(alpha)} of {module}"
        raise ConvertError(f"{where}: adapter_config.json: {values} are not usable")
    return found


def _pattern_value(config: Mapping[str, Any], key: str, module: str, default: object, where: str) -> Any:
    """Look up the first pattern that matches, by PEFT's rule; the default where none does."""
    try:
        return next((v for pattern, v in (config.get(key) or {}).items() if matches_path(pattern, module)), default)
    except PatternError as error:
        raise ConvertError(f"{where}: adapter_config.json: {key} has an unusable pattern: {error}") from error


def left_out(config: Mapping[str, Any], modules: Sequence[str]) -> list[str]:
    """List modules with arrays that target_modules, exclude_modules or layers_to_transform leave out, by PEFT's rule.

    A pattern beyond those of `matches_path` is not judged.
    """
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    layers = config.get("layers_to_transform")
    wanted = [layers] if isinstance(layers, int) else layers or []
    problems = []
    for module in modules:
        if isinstance(targets, str) and targets.lower() != "all-linear" and not _selects(targets, module, True):
            problems.append(f"target_modules {show_value(targets)} does not match {module}")
        elif excluded and _selects(excluded, module, False):
            problems.append(f"exclude_modules {show_value(excluded)} leaves {module} out")
        elif isinstance(targets, list) and module not in targets and wanted:
            block = _BLOCK.match(module)
            if block and int(block["layer"]) not in wanted:
                problems.append(f"layers_to_transform {show_value(layers)} leaves {module} out")
    return problems


def _selects(names: str | list[str], module: str, unknown: bool) -> bool:
    """Tell whether a pattern or a list of names selects a module; `unknown` where a pattern cannot be judged."""
    if isinstance(names, list):
        return any(module == name or module.endswith("." + name) for name in names)
    try:
        return matches_path(names, module, whole=True)
    except PatternError:
        return unknown
