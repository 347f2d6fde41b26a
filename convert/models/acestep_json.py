"""ACE-Step's configuration in the original's config.json and in the two of a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from musiclora.convert.errors import ConvertError, join_problems, show_value
from musiclora.convert.files.json_file import BOOLEAN, INTEGER, NULL, NUMBER, TEXT, Kind, list_of, object_with
from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating
from musiclora.convert.models.kept_settings import add_further, settings_besides

MODEL_TYPE = "acestep"
TRANSFORMER_CLASS, ENCODER_CLASS, PIPELINE_CLASS = (
    "AceStepTransformer1DModel",
    "AceStepConditionEncoder",
    "AceStepPipeline",
)
# Private to this package: diffusers ignores keys that begin with an underscore, and keeps them when it saves a model.
ORIGINAL_KEY = "_original_settings"
# Without them upstream cannot load a copy: they name its class and the file that defines it.
_UPSTREAM_KEYS = ("architectures", "auto_map")
_CLASS_KEYS = ("_class_name", "_diffusers_version")

_STACK = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
_SHARED = ("rope_theta", "rms_norm_eps", "attention_bias", "sliding_window")
_MOST_LAYERS = 1000
_TRAINING = ("timestep_mu", "timestep_sigma", "data_proportion")
_ORIGINAL_NAMES = (
    *_STACK,
    *(f"encoder_{name}" for name in _STACK),
    *_SHARED,
    *_TRAINING,
    "audio_acoustic_hidden_dim",
    "head_dim",
    "in_channels",
    "is_turbo",
    "layer_types",
    "model_version",
    "num_hidden_layers",
    "num_lyric_encoder_hidden_layers",
    "num_timbre_encoder_hidden_layers",
    "patch_size",
    "text_hidden_dim",
    "timbre_hidden_dim",
)
_TRANSFORMER_NAMES = (
    *_STACK,
    *_SHARED,
    "audio_acoustic_hidden_dim",
    "encoder_hidden_size",
    "head_dim",
    "in_channels",
    "is_turbo",
    "layer_types",
    "model_version",
    "num_hidden_layers",
    "patch_size",
)
_OPTIONAL = ("encoder_hidden_size", "layer_types", "model_version", "data_proportion")
_REQUIRED = (*_STACK, "num_hidden_layers", "head_dim")
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(_ORIGINAL_NAMES, INTEGER),
    **dict.fromkeys(("rope_theta", "rms_norm_eps", *_TRAINING), NUMBER),
    **dict.fromkeys(("attention_bias", "is_turbo", "use_sliding_window"), BOOLEAN),
    "hidden_act": TEXT,
    "layer_types": list_of(TEXT),
    "model_version": TEXT,
}
_SCHEMA = object_with(
    {name: kind | NULL if name.startswith("encoder_") or name in _OPTIONAL else kind for name, kind in _KINDS.items()}
)


def config_from_original(config: Mapping[str, Any], where: str) -> AceStepConfig:
    """Read the original's config.json, or that of our model folder.

    Raises:
        ConvertError: values of other types, sizes that are missing, or an architecture that is not supported.
    """
    settings = _with_rope_theta(config)
    problems = _find_problems(settings, _REQUIRED) or _find_unsupported(settings)
    if problems:
        raise ConvertError(f"{where}: {join_problems(problems)}")
    own = {name: settings.get(f"encoder_{name}") or settings[name] for name in _STACK}
    return _build(settings, settings, _stack(settings), _stack({**settings, **own}), where)


def config_from_pipeline(transformer: Mapping[str, Any], encoder: Mapping[str, Any], where: str) -> AceStepConfig:
    """Read transformer/config.json and condition_encoder/config.json of a diffusers pipeline.

    Raises:
        ConvertError: values of other types, sizes that are missing, or two parts that do not fit each other.
    """
    problems = [f"transformer: {text}" for text in _find_problems(transformer, _REQUIRED)]
    problems += [f"condition_encoder: {text}" for text in _find_problems(encoder, (*_STACK, "head_dim"))]
    if not problems:
        width = transformer.get("encoder_hidden_size") or transformer["hidden_size"]
        if width != encoder["hidden_size"]:
            problems.append(f"the transformer takes conditions of {width} values, the encoder gives others")
        problems += [
            f"{name} is {show_value(transformer[name])} in the transformer and {show_value(encoder[name])} in the "
            "condition encoder"
            for name in _SHARED
            if name in transformer and name in encoder and transformer[name] != encoder[name]
        ]
        lyric_kinds = encoder.get("layer_types")
        if lyric_kinds and tuple(lyric_kinds) != alternating(len(lyric_kinds)):
            problems.append("condition_encoder: its layer_types do not alternate")
    if problems:
        raise ConvertError(f"{where}: {join_problems(problems)}")
    kept = transformer.get(ORIGINAL_KEY)
    training = {name: kept[name] for name in _TRAINING if name in kept} if isinstance(kept, dict) else {}
    return _build({**transformer, **training}, encoder, _stack(transformer), _stack(encoder), where)


def config_to_original(config: AceStepConfig, other: Mapping[str, Any]) -> dict[str, Any]:
    """Build the original's config.json.

    Args:
        config: sizes of the model.
        other: further keys of the source, see `other_settings`.

    Raises:
        ConvertError: heads of two widths, or kinds of blocks that upstream's encoders would read otherwise.
    """
    if config.decoder.head_dim != config.encoder.head_dim:
        raise ConvertError("the original's config.json has one head_dim; transformer and condition encoder have two")
    own = {"model_type": MODEL_TYPE, **_stack_settings(config.decoder)}
    if config.encoder != config.decoder:
        own |= {f"encoder_{name}": value for name, value in _stack_settings(config.encoder).items()}
        del own["encoder_head_dim"]
    own |= _transformer_settings(config) | {
        "use_sliding_window": True,
        "text_hidden_dim": config.text_dim,
        "timbre_hidden_dim": config.latent_dim,
        "num_lyric_encoder_hidden_layers": config.lyric_layers,
        "num_timbre_encoder_hidden_layers": config.timbre_layers,
        "timestep_mu": config.timestep_mu,
        "timestep_sigma": config.timestep_sigma,
        "data_proportion": config.data_proportion,
    }
    if problems := _find_unsupported(own):
        raise ConvertError(f"the original's config.json cannot hold this model: {join_problems(problems)}")
    own = {name: value for name, value in own.items() if value is not None}
    return add_further(own, {"architectures": ["AceStepConditionGenerationModel"], **other})


def configs_for_pipeline(config: AceStepConfig, other: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Build the config.json of diffusers' transformer and of its condition encoder."""
    kept = {name: getattr(config, name) for name in _TRAINING if getattr(config, name) is not None}
    transformer = {
        "_class_name": TRANSFORMER_CLASS,
        ORIGINAL_KEY: {**kept, **other},
        **_stack_settings(config.decoder),
        **_transformer_settings(config),
        "encoder_hidden_size": config.encoder.hidden,
    }
    encoder = {
        "_class_name": ENCODER_CLASS,
        **_stack_settings(config.encoder),
        **_shared_settings(config),
        "text_hidden_dim": config.text_dim,
        "timbre_hidden_dim": config.latent_dim,
        "num_lyric_encoder_hidden_layers": config.lyric_layers,
        "num_timbre_encoder_hidden_layers": config.timbre_layers,
    }
    return transformer, encoder


def other_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the further keys of the original's config.json that a copy keeps."""
    known = (*_ORIGINAL_NAMES, "use_sliding_window", "rope_parameters")
    upstream = {name: config[name] for name in _UPSTREAM_KEYS if name in config}
    return upstream | settings_besides(config, known)


def other_pipeline_settings(transformer: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the further keys that diffusers' transformer/config.json keeps of the original, and those of its own."""
    kept = transformer.get(ORIGINAL_KEY)
    original = {k: v for k, v in kept.items() if k not in _TRAINING} if isinstance(kept, dict) else {}
    private = (*_CLASS_KEYS, ORIGINAL_KEY, *(name for name in transformer if name.startswith("_")))
    return original | settings_besides(transformer, (*_TRANSFORMER_NAMES, *private))


def _with_rope_theta(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy whose rope_theta is where transformers up to version 4 wrote it."""
    settings, newer = dict(config), config.get("rope_parameters")
    if "rope_theta" not in settings and isinstance(newer, dict) and "rope_theta" in newer:
        settings["rope_theta"] = newer["rope_theta"]
    return settings


def _find_problems(settings: Mapping[str, Any], required: tuple[str, ...]) -> list[str]:
    return _SCHEMA.problems(settings, "") + [f"{name} is missing" for name in required if name not in settings]


def _find_unsupported(settings: Mapping[str, Any]) -> list[str]:
    """List what no published model has and the networks here do not compute."""
    problems = []
    if settings.get("hidden_act", "silu") != "silu":
        problems.append(f"hidden_act is {show_value(settings['hidden_act'])}, only silu is supported")
    if settings.get("use_sliding_window") is False:
        problems.append("use_sliding_window is false, which is not supported")
    newer = settings.get("rope_parameters")
    scaling = settings.get("rope_scaling") or (newer if isinstance(newer, dict) else None)
    if scaling and scaling.get("rope_type", scaling.get("type", "default")) != "default":
        problems.append("a scaled rotary embedding is not supported")
    depth = max(settings.get("num_lyric_encoder_hidden_layers", 8), settings.get("num_timbre_encoder_hidden_layers", 4))
    first = tuple((settings.get("layer_types") or ())[:depth])
    if first != alternating(len(first)):  # upstream's encoders read the same list
        problems.append("layer_types do not alternate where the lyric and timbre encoders read them")
    return problems


def _build(
    settings: Mapping[str, Any], conditions: Mapping[str, Any], decoder: StackConfig, encoder: StackConfig, where: str
) -> AceStepConfig:
    """Build the configuration from the settings of the transformer and those of the condition encoder."""
    layers = settings["num_hidden_layers"]
    counts = [layers, *(conditions.get(f"num_{part}_encoder_hidden_layers", 1) for part in ("lyric", "timbre"))]
    if not all(0 < count <= _MOST_LAYERS for count in counts):
        raise ConvertError(f"{where}: {max(counts)} layers; at most {_MOST_LAYERS} are supported, and at least one")
    kinds = tuple(settings.get("layer_types") or alternating(layers))
    latent = settings.get("audio_acoustic_hidden_dim", 64)
    problems = []
    if len(kinds) != layers:
        problems.append(f"num_hidden_layers is {layers}, layer_types has {len(kinds)} entries")
    if settings.get("in_channels", 3 * latent) != 3 * latent:
        problems.append(f"in_channels is {settings['in_channels']}, expected {3 * latent}: source, mask and noise")
    if conditions.get("timbre_hidden_dim", latent) != latent:
        problems.append(f"timbre_hidden_dim is {conditions['timbre_hidden_dim']}, the latents have {latent} channels")
    if problems:
        raise ConvertError(f"{where}: {join_problems(problems)}")
    renamed = {
        "lyric_layers": "num_lyric_encoder_hidden_layers",
        "timbre_layers": "num_timbre_encoder_hidden_layers",
        "text_dim": "text_hidden_dim",
    }
    given = {name: conditions[theirs] for name, theirs in renamed.items() if theirs in conditions}
    own = ("patch_size", *_SHARED, *_TRAINING, "is_turbo", "model_version")
    given |= {name: settings[name] for name in own if settings.get(name) is not None}
    try:
        return AceStepConfig(decoder, encoder, kinds, latent_dim=latent, **given)
    except ConvertError as error:
        raise ConvertError(f"{where}: {error}") from error


def _stack(settings: Mapping[str, Any]) -> StackConfig:
    return StackConfig(
        settings["hidden_size"],
        settings["intermediate_size"],
        settings["num_attention_heads"],
        settings["num_key_value_heads"],
        settings["head_dim"],
    )


def _stack_settings(stack: StackConfig) -> dict[str, Any]:
    values = (stack.hidden, stack.intermediate, stack.heads, stack.kv_heads, stack.head_dim)
    return dict(zip((*_STACK, "head_dim"), values, strict=True))


def _shared_settings(config: AceStepConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in _SHARED}


def _transformer_settings(config: AceStepConfig) -> dict[str, Any]:
    return {
        **_shared_settings(config),
        "num_hidden_layers": len(config.layer_types),
        "in_channels": config.in_channels,
        "audio_acoustic_hidden_dim": config.latent_dim,
        "patch_size": config.patch_size,
        "layer_types": list(config.layer_types),
        "is_turbo": config.is_turbo,
        "model_version": config.model_version,
    }
