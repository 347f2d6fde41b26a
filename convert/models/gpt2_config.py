"""GPT-2's configuration, tensor shapes and initialisation."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from musiclora.convert.errors import ConvertError, join_problems, show_value
from musiclora.convert.files.safetensors_file import Shape
from musiclora.convert.models.kept_settings import settings_besides

GELU_TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # three names of one function
ACTIVATIONS = (*GELU_TANH, "gelu", "relu", "silu", "swish", "tanh")

# Defaults of transformers' GPT2Config, for keys that a file leaves out.
_KEY_DEFAULTS: dict[str, Any] = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "scale_attn_by_inverse_layer_idx": False,
}
_KEY_ALIASES = {
    "n_positions": ("max_position_embeddings", "n_ctx"),
    "n_embd": ("hidden_size",),
    "n_layer": ("num_hidden_layers",),
    "n_head": ("num_attention_heads",),
}
_MUST_BE: dict[str, Any] = {
    "scale_attn_weights": True,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_LARGEST_SIZE = 2**31


@dataclass(frozen=True)
class Gpt2Config:
    """Sizes and switches of a GPT-2.

    Attributes:
        n_inner: width of the MLP, resolved (4 n_embd where a file says null).
        activation_function: one of ACTIVATIONS; those in GELU_TANH are the same function.
        bos_token_id, eos_token_id: first and last token of a piece; None where there is none.
        scale_attn_by_inverse_layer_idx: divide the attention logits of layer i, counted from 0, by i + 1 as well.
    """

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    scale_attn_by_inverse_layer_idx: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"{key} is {show_value(value)}"
            for key in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")
            if type(value := getattr(self, key)) is not int
            or not 0 < value < (10_000 if key == "n_layer" else _LARGEST_SIZE)
        ]
        if not problems and self.n_embd % self.n_head:
            problems.append(f"n_embd {self.n_embd} is no multiple of n_head {self.n_head}")
        if self.activation_function not in ACTIVATIONS:
            problems.append(
                f"activation_function is {show_value(self.activation_function)}, known: {', '.join(ACTIVATIONS)}"
            )
        if not isinstance(self.layer_norm_epsilon, float | int) or not 0 <= self.layer_norm_epsilon < 1:
            problems.append(f"layer_norm_epsilon is {show_value(self.layer_norm_epsilon)}")
        if not isinstance(self.scale_attn_by_inverse_layer_idx, bool):
            shown = show_value(self.scale_attn_by_inverse_layer_idx)
            problems.append(f"scale_attn_by_inverse_layer_idx is {shown}")
        if problems:
            raise ConvertError(f"GPT-2 configuration: {join_problems(problems)}")

    @classmethod
    def from_json(cls, config: Mapping[str, Any], *, tied: bool = False) -> Gpt2Config:
        """Read a config.json of transformers or mlx-lm.

        Args:
            config: its content.
            tied: accept one that says its output head is not tied, since the head is compared with the embedding.

        Raises:
            ConvertError: another architecture, or a key that changes the maths in a way that is not supported.
        """
        _refuse_others({**config, "tie_word_embeddings": True} if tied else config)
        values = {key: _read_value(config, key) for key in _KEY_DEFAULTS}
        if values["n_inner"] is None and type(values["n_embd"]) is int:
            values["n_inner"] = 4 * values["n_embd"]
        for key in ("bos_token_id", "eos_token_id"):
            value = values[key][0] if isinstance(values[key], list) and values[key] else values[key]
            values[key] = value if type(value) is int and value >= 0 else None
        return cls(**values)

    def to_json(self, layout: str = "hf") -> dict[str, Any]:
        """Build the config.json for transformers, or for mlx-lm (which needs n_ctx)."""
        config: dict[str, Any] = {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            **{key: getattr(self, key) for key in _KEY_DEFAULTS},
            "n_ctx": self.n_positions,
            "tie_word_embeddings": True,
        }
        if not self.scale_attn_by_inverse_layer_idx:
            del config["scale_attn_by_inverse_layer_idx"]  # transformers' default
        if layout == "hf":
            config["n_inner"] = None if self.n_inner == 4 * self.n_embd else self.n_inner
        elif self.mlx_lm_differs():
            del config["n_ctx"]  # mlx-lm needs it, and so refuses a model that it would compute wrongly
        return config

    def mlx_lm_differs(self) -> list[str]:
        """List features of this model that mlx-lm's GPT-2 (0.32) lacks and would silently ignore."""
        problems = []
        if self.activation_function not in GELU_TANH:
            problems.append(f"activation_function {self.activation_function} (it always takes the tanh form of GELU)")
        if self.n_inner != 4 * self.n_embd:
            problems.append(f"n_inner {self.n_inner} (it always takes 4 n_embd)")
        if self.scale_attn_by_inverse_layer_idx:
            problems.append("scale_attn_by_inverse_layer_idx (it does not divide the attention logits by the layer)")
        return problems

    def attention_scales(self) -> list[float]:
        """Compute the factor of the attention logits (products of queries and keys) in each layer."""
        scale = (self.n_embd // self.n_head) ** -0.5
        return [scale / (i + 1 if self.scale_attn_by_inverse_layer_idx else 1) for i in range(self.n_layer)]

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Compute (out, in) of every module that can carry LoRA, by canonical path, in model order."""
        d, inner = self.n_embd, self.n_inner
        shapes = {"attn.c_attn": (3 * d, d), "attn.c_proj": (d, d), "mlp.c_fc": (inner, d), "mlp.c_proj": (d, inner)}
        return {f"transformer.h.{i}.{name}": shape for i in range(self.n_layer) for name, shape in shapes.items()}

    def tensor_shapes(self) -> dict[str, Shape]:
        """Compute the shape of every tensor; linear weights are Conv1D's [in, out], the head is tied."""
        d = self.n_embd
        shapes: dict[str, Shape] = {
            "transformer.wte.weight": (self.vocab_size, d),
            "transformer.wpe.weight": (self.n_positions, d),
        }
        linear = self.linear_shapes()
        for i in range(self.n_layer):
            block = f"transformer.h.{i}."
            for name in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"):
                out, inputs = linear.get(block + name, (d, 0))
                shapes[f"{block}{name}.weight"] = (inputs, out) if inputs else (d,)
                shapes[f"{block}{name}.bias"] = (out,)
        return {**shapes, "transformer.ln_f.weight": (d,), "transformer.ln_f.bias": (d,)}


def other_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the keys of a config.json that `Gpt2Config` does not hold, and lists of token ids."""
    known = {*_KEY_DEFAULTS, *(alias for names in _KEY_ALIASES.values() for alias in names), *_MUST_BE}
    kept = settings_besides(config, known)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id") if isinstance(config.get(key), list)}
    return kept | ids


def fresh_tensors(config: Gpt2Config, seed: int) -> dict[str, np.ndarray]:
    """Draw initial weights for training from scratch, float32 under canonical names.

    Weights are normal with deviation 1 / sqrt(n_embd), divided by sqrt(2 n_layer) for projections into the residual
    stream. Layer norms are one, biases zero. Each tensor is drawn from (seed, its name), so another layer changes none
    of the others. GPT-2's own deviation of 0.02 suits widths of 768 and more: at width 256 it reached 10.2 bits a note
    on held-out tunes after 512,000 tokens, this one 9.3.

    Source: Radford et al. 2019, section 2.3 (the scaling by depth).
    """
    tensors = {}
    for name, shape in config.tensor_shapes().items():
        if len(shape) == 1:
            is_norm = ".ln_" in name and name.endswith(".weight")
            tensors[name] = np.full(shape, 1.0 if is_norm else 0.0, np.float32)
            continue
        deviation = config.n_embd**-0.5
        if name.endswith("c_proj.weight"):
            deviation /= (2 * config.n_layer) ** 0.5
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        tensors[name] = generator.standard_normal(shape, np.float32) * np.float32(deviation)
    return tensors


def _refuse_others(config: Mapping[str, Any]) -> None:
    if config.get("model_type") != "gpt2":
        raise ConvertError(
            f'a base that is not GPT-2: model_type is {show_value(config.get("model_type"))}, expected "gpt2"'
        )
    problems = [
        f"{key} is {show_value(config[key])}, supported is {show_value(value)}"
        for key, value in _MUST_BE.items()
        if config.get(key, value) is not value
    ]
    problems += [f"{key} is set" for key in ("quantization", "quantization_config") if config.get(key)]
    if problems:
        raise ConvertError(f"a GPT-2 variant that is not supported: {join_problems(problems)}")


def _read_value(config: Mapping[str, Any], key: str) -> Any:
    """Read a key under its own name or an alias that transformers accepts, else transformers' default."""
    for name in (key, *_KEY_ALIASES.get(key, ())):
        if config.get(name) is not None:
            return config[name]
    return None if key in config and key.endswith("_token_id") else _KEY_DEFAULTS[key]
