"""diffusers' ACE-Step transformer under canonical names, and plain PEFT on it: what we are compared with."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from diffusers import AceStepTransformer1DModel

from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.models.acestep_config import AceStepConfig

_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "o_proj": "to_out.0"}
_NORMS = {"q_norm": "norm_q", "k_norm": "norm_k"}


def theirs(name: str) -> str:
    """Translate a canonical name below `decoder.` to diffusers' name."""
    name = re.sub(r"^proj_(in|out)\.1\.", r"proj_\1_conv.", name)
    for ours, other in {**_ATTENTION, **_NORMS}.items():
        name = name.replace(f"attn.{ours}", f"attn.{other}")
    return name


def ours(name: str) -> str:
    """Invert `theirs`."""
    name = re.sub(r"^proj_(in|out)_conv\.", r"proj_\1.1.", name)
    for canonical, other in {**_ATTENTION, **_NORMS}.items():
        name = name.replace(f"attn.{other}", f"attn.{canonical}")
    return name


def transformer(config: AceStepConfig, tensors: dict[str, np.ndarray] | None = None) -> Any:
    sizes = config.decoder
    model = AceStepTransformer1DModel(
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=len(config.layer_types),
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        in_channels=config.in_channels,
        audio_acoustic_hidden_dim=config.latent_dim,
        patch_size=config.patch_size,
        rope_theta=config.rope_theta,
        attention_bias=config.attention_bias,
        rms_norm_eps=config.rms_norm_eps,
        sliding_window=config.sliding_window,
        layer_types=list(config.layer_types),
        encoder_hidden_size=config.encoder.hidden,
    )
    if tensors is not None:
        state = {theirs(k.removeprefix("decoder.")): torch.from_numpy(v) for k, v in tensors.items() if "null" not in k}
        model.load_state_dict(state, strict=True)
    return model.eval()


def tensor_shapes(config: AceStepConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's canonical tensors, as diffusers builds them."""
    with torch.device("meta"):
        shapes = {f"decoder.{ours(k)}": tuple(v.shape) for k, v in transformer(config).state_dict().items()}
    return {**shapes, "null_condition_emb": (1, 1, config.encoder.hidden)}


def output(model: Any, batch: dict[str, np.ndarray], x: np.ndarray, time: np.ndarray) -> Any:
    """Compute the network's output as a tensor; time runs from noise (0) to data (1)."""
    t = 1 - torch.from_numpy(np.array(time, np.float32))
    given = (torch.from_numpy(np.array(batch[key])) for key in ("condition", "context"))
    return model(torch.from_numpy(x), t, t, *given, return_dict=False)[0]


def velocity(model: Any, batch: dict[str, np.ndarray], x: np.ndarray, time: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return -output(model, batch, x, time).numpy()


def with_null(batch: dict[str, np.ndarray], tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace the whole condition by the null condition."""
    null = np.broadcast_to(tensors["null_condition_emb"], batch["condition"].shape)
    return {**batch, "condition": null}


def loss(model: Any, batch: dict[str, np.ndarray]) -> Any:
    """Sum the squared error of ACE-Step's own objective, as a tensor."""
    t = (1 - batch["time"])[:, None, None]
    x = t * batch["noise"] + (1 - t) * batch["latents"]
    target = torch.from_numpy(batch["noise"] - batch["latents"])
    return (output(model, batch, x, batch["time"]) - target).square().sum()


def adapted(
    config: AceStepConfig, tensors: dict[str, np.ndarray], spec: LoraSpec, state: dict[str, np.ndarray]
) -> tuple[Any, dict[str, Any]]:
    """Build diffusers' model with PEFT's layers; returns it and the adapter's parameters by our state keys."""
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules=[_ATTENTION.get(target, target) for target in spec.targets],
        use_rslora=spec.rslora,
        use_dora=spec.dora,
    )
    model = inject_adapter_in_model(settings, transformer(config, tensors)).eval()
    found = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            key = ours(name).replace(".default", "")
            found[key.removesuffix(".weight") if "magnitude" in key else key] = parameter
    assert sorted(found) == sorted(state)
    with torch.no_grad():
        for name, value in state.items():
            found[name].copy_(torch.from_numpy(value))
    return model, found
