"""Settings of a LoRA in the header of a safetensors file, from which diffusers takes rank and alpha."""

from __future__ import annotations

import json

from musiclora.convert.adapters.audio_modules import AudioModules
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.adapters.peft_config import lora_config

CONFIG_KEY = "lora_adapter_metadata"
PREFIX = "transformer."  # of keys and arrays: the pipeline's component


def diffusers_header(adapter: LoraAdapter, names: AudioModules) -> dict[str, str]:
    """Build the header's entry, with diffusers' names of the modules.

    Args:
        adapter: the adapter.
        names: those of its architecture.
    """
    config = lora_config(adapter.spec, adapter.rank_scales, dora=bool(adapter.magnitudes))
    # diffusers leaves the layers that it adds in training mode, so that dropout would change every sampling step.
    config["lora_dropout"] = 0.0
    config["base_model_name_or_path"] = adapter.base_model
    config["target_modules"] = sorted(names.to_diffusers(target) for target in config["target_modules"])
    for key in ("rank_pattern", "alpha_pattern"):
        config[key] = {names.to_diffusers(module): value for module, value in config[key].items()}
    prefixed = {PREFIX + key: config[key] for key in sorted(config)}
    return {CONFIG_KEY: json.dumps(prefixed, indent=2)}
