"""Tensors of ACE-Step: their shapes under the original's names, and their names in every container."""

from __future__ import annotations

import re
from collections.abc import Mapping

from musiclora.convert.files.safetensors_file import Shape
from musiclora.convert.models.acestep_config import FULL, AceStepConfig, StackConfig
from musiclora.convert.models.name_mapping import Rule

SILENCE, NULL_CONDITION = "silence_latent", "null_condition_emb"
SILENCE_FRAMES = 15_000  # ten minutes at 25 frames a second
DECODER, ENCODER = "decoder.", "encoder."
LAYERS = f"{DECODER}layers."  # blocks of the transformer; their matrices are what quantisation packs
# The 5 Hz tokenizer of upstream's covers: no part of text-to-music.
CODE_PREFIXES = ("tokenizer.", "detokenizer.")
TRANSFORMER_PART, ENCODER_PART = "transformer/", "condition_encoder/"

# Names of diffusers since its class for ACE-Step; files of its first conversion script have the original's.
_ATTENTION = {
    "q_proj": "to_q",
    "k_proj": "to_k",
    "v_proj": "to_v",
    "o_proj": "to_out.0",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
}
_PROJECTIONS = {"proj_in.1.": "proj_in_conv.", "proj_out.1.": "proj_out_conv."}


def tensor_shapes(config: AceStepConfig) -> dict[str, Shape]:
    """Compute the shape of every tensor by its canonical name, in torch's layouts."""
    encoder = {ENCODER + name: shape for name, shape in _encoder_shapes(config).items()}
    return {
        **{DECODER + name: shape for name, shape in _decoder_shapes(config).items()},
        **encoder,
        NULL_CONDITION: (1, 1, config.encoder.hidden),
        SILENCE: (SILENCE_FRAMES, config.latent_dim),
    }


def transformer_names(config: AceStepConfig) -> list[str]:
    """List the canonical names of the transformer's tensors and of the null condition."""
    return [name for name in tensor_shapes(config) if name.startswith(DECODER) or name == NULL_CONDITION]


def _decoder_shapes(config: AceStepConfig) -> dict[str, Shape]:
    width, head, patch = config.decoder.hidden, config.decoder.head_dim, config.patch_size
    shapes: dict[str, Shape] = {}
    for name, shape in config.linear_shapes().items():
        shapes[f"{name}.weight"] = shape
        biased = config.attention_bias if "_attn." in name else ".mlp." not in name
        shapes |= {f"{name}.bias": shape[:1]} if biased else {}
    for i in range(len(config.layer_types)):
        block = f"layers.{i}."
        shapes |= {f"{block}{norm}.weight": (width,) for norm in ("self_attn_norm", "cross_attn_norm", "mlp_norm")}
        for part in ("self_attn", "cross_attn"):
            shapes |= {f"{block}{part}.{norm}.weight": (head,) for norm in ("q_norm", "k_norm")}
        shapes[f"{block}scale_shift_table"] = (1, 6, width)
    shapes["proj_in.1.weight"], shapes["proj_in.1.bias"] = (width, config.in_channels, patch), (width,)
    shapes["proj_out.1.weight"] = (width, config.latent_dim, patch)  # transposed convolution: inputs first
    shapes["proj_out.1.bias"] = (config.latent_dim,)
    return {**shapes, "norm_out.weight": (width,), "scale_shift_table": (1, 2, width)}


def _encoder_shapes(config: AceStepConfig) -> dict[str, Shape]:
    stack = config.encoder
    shapes: dict[str, Shape] = {"text_projector.weight": (stack.hidden, config.text_dim)}
    parts = (
        ("lyric_encoder", config.lyric_layers, config.text_dim),
        ("timbre_encoder", config.timbre_layers, config.latent_dim),
    )
    for part, layers, inputs in parts:
        shapes[f"{part}.embed_tokens.weight"] = (stack.hidden, inputs)
        shapes[f"{part}.embed_tokens.bias"] = shapes[f"{part}.norm.weight"] = (stack.hidden,)
        for i in range(layers):
            block = f"{part}.layers.{i}."
            for name, shape in stack.attention_shapes().items():
                shapes[f"{block}self_attn.{name}.weight"] = shape
                shapes |= {f"{block}self_attn.{name}.bias": shape[:1]} if config.attention_bias else {}
            shapes |= {f"{block}self_attn.{norm}.weight": (stack.head_dim,) for norm in ("q_norm", "k_norm")}
            shapes |= {f"{block}mlp.{name}.weight": shape for name, shape in stack.mlp_shapes().items()}
            shapes |= {
                f"{block}{norm}.weight": (stack.hidden,) for norm in ("input_layernorm", "post_attention_layernorm")
            }
    return {**shapes, "timbre_encoder.special_token": (1, 1, stack.hidden)}


# --- names ---


def _patterns() -> Mapping[str, Shape]:
    """List the canonical names with {i} for the number of a block, of a model that has every kind of tensor."""
    stack = StackConfig(2, 2, 1, 1, 2)
    config = AceStepConfig(stack, stack, (FULL,), lyric_layers=1, timbre_layers=1, attention_bias=True)
    return {re.sub(r"layers\.\d+", "layers.{i}", name): shape for name, shape in tensor_shapes(config).items()}


def rename_attention(path: str) -> str:
    """Return a module's or tensor's path, or the end of one, with diffusers' names of the attention's parts."""
    parts = path.split(".")
    return ".".join(_ATTENTION.get(part, part) for part in parts)


def restore_attention(path: str) -> str:
    """Invert `rename_attention`."""
    for ours, theirs in _ATTENTION.items():
        path = re.sub(rf"(?:(?<=_attn\.)|^){re.escape(theirs)}(?=\.|$)", ours, path)
    return path


def _diffusers_names(name: str) -> tuple[str, ...]:
    """List the names of a tensor in a diffusers pipeline, the one that is written first."""
    if name.startswith(DECODER):
        plain = name.removeprefix(DECODER)
        for ours, theirs in _PROJECTIONS.items():
            plain = plain.replace(ours, theirs)
        stored = TRANSFORMER_PART + plain
    else:
        stored = ENCODER_PART + name.removeprefix(ENCODER)
    return tuple(dict.fromkeys((rename_attention(stored), stored)))


def _mlx_axes(name: str) -> tuple[int, ...]:
    """Return the order of a kernel's axes from MLX's [out, k, in] to torch's."""
    return {"decoder.proj_in.1.weight": (0, 2, 1), "decoder.proj_out.1.weight": (2, 0, 1)}.get(name, ())


def _build_rules() -> dict[str, tuple[Rule, ...]]:
    names = list(_patterns())
    # The original's silence is [1, C, T]; in diffusers it is a buffer [1, T, C].
    original = [Rule(n, n, axes=(1, 0) if n == SILENCE else (), batched=n == SILENCE) for n in names]
    original += [
        Rule(f"{part}rotary_emb.inv_freq", None, reason="a table of rotations, computed and not a weight")
        for part in (DECODER, f"{ENCODER}lyric_encoder.", f"{ENCODER}timbre_encoder.")
    ]
    diffusers = [Rule(theirs, n, batched=n == SILENCE) for n in names for theirs in _diffusers_names(n)]
    diffusers.append(Rule(SILENCE, SILENCE, axes=(1, 0), batched=True))  # beside the parts, from an early script
    mlx = [Rule(n, n, axes=_mlx_axes(n)) for n in names]
    return {"hf": tuple(original), "diffusers": tuple(diffusers), "mlx": tuple(mlx)}


ACESTEP_LAYOUTS: dict[str, tuple[Rule, ...]] = _build_rules()
