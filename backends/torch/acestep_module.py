"""diffusers' ACE-Step transformer as a container of weights under the original's names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from musiclora.backends.loading import needs_package
from musiclora.convert.errors import ConvertError, join_problems, list_names
from musiclora.convert.models.acestep_config import TIME_FEATURES, AceStepConfig
from musiclora.convert.models.acestep_names import NULL_CONDITION

PREFIX = "decoder."
# Parts of a checkpoint that only the condition encoder, silence and covers need.
_OTHER_PARTS = ("encoder.", "silence_latent", "tokenizer.", "detokenizer.")
_ATTENTION_NAMES = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "norm_q": "q_norm", "norm_k": "k_norm"}


def empty_module(config: AceStepConfig) -> nn.Module:
    """Build the transformer without storage, its parts renamed to the original's names below `decoder.`.

    Raises:
        BackendError: diffusers is not installed, or has no ACE-Step.
    """
    try:
        from diffusers import AceStepTransformer1DModel
    except ImportError as error:
        raise needs_package("ACE-Step's transformer on torch", "diffusers", "acestep", error) from error
    sizes, transformer = config.decoder, cast(Any, AceStepTransformer1DModel)
    with torch.device("meta"):
        module: nn.Module = transformer(
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
    _rename_parts(module)
    return module.requires_grad_(False)


def _rename_parts(module: Any) -> None:
    """Give attention and patch convolutions the original's names, which adapters are keyed by."""
    for block in module.layers:
        for attention in (block.self_attn, block.cross_attn):
            for theirs, original in _ATTENTION_NAMES.items():
                part = getattr(attention, theirs)
                delattr(attention, theirs)
                setattr(attention, original, part)
            attention.o_proj = attention.to_out[0]
            del attention.to_out
    for side in ("in", "out"):  # the original wraps each convolution in two transpositions
        convolution = getattr(module, f"proj_{side}_conv")
        delattr(module, f"proj_{side}_conv")
        setattr(module, f"proj_{side}", nn.Sequential(nn.Identity(), convolution, nn.Identity()))


def linear_shapes(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Return (out, in) of every linear layer of an empty module, by its path, in model order."""
    named = module.named_modules()
    return {name: (part.out_features, part.in_features) for name, part in named if isinstance(part, nn.Linear)}


def put(module: nn.Module, name: str, value: Tensor) -> None:
    """Register a frozen parameter."""
    parent, _, leaf = name.rpartition(".")
    module.get_submodule(parent).register_parameter(leaf, nn.Parameter(value, requires_grad=False))


def tensor_shapes(module: nn.Module, config: AceStepConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that a model needs, by canonical name."""
    shapes = {f"{PREFIX}{name}": tuple(value.shape) for name, value in module.named_parameters()}
    return {**shapes, NULL_CONDITION: (1, 1, config.encoder.hidden)}


def fill_module(
    module: nn.Module,
    config: AceStepConfig,
    tensors: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Fill an empty module with canonical tensors, one by one, and return the null condition, float32 [D].

    Tensors of the condition encoder and of the tokenizers, and the silence latent, are passed over.

    Raises:
        ConvertError: missing, surplus or mis-shaped tensors, all at once.
    """
    wanted, problems, null = tensor_shapes(module, config), list[str](), torch.empty(0)
    for name, value in tensors.items() if isinstance(tensors, Mapping) else tensors:
        if name.startswith(_OTHER_PARTS):
            continue
        shape = wanted.pop(name, None)
        if shape is None:
            problems.append(f"{name} is surplus")
        elif tuple(value.shape) != shape:
            problems.append(f"{name} has shape {list(value.shape)}, expected {list(shape)}")
        elif name == NULL_CONDITION:
            null = torch.from_numpy(np.array(value, np.float32)).to(device).flatten()
        else:
            put(module, name.removeprefix(PREFIX), torch.from_numpy(np.array(value, np.float32)).to(device, dtype))
    if wanted:
        problems.append(f"missing: {list_names(list(wanted), 5)}")
    if problems:
        raise ConvertError(f"ACE-Step's transformer: {join_problems(problems)}")
    return null


def time_waves() -> np.ndarray:
    """Compute the frequencies of a time's sinusoids, float32 [128]; wave lengths from 2 pi to 10000 times that.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5.
    """
    half = TIME_FEATURES // 2
    return np.exp(-np.log(10000.0) * np.arange(half, dtype=np.float32) / half).astype(np.float32)
