"""Qwen3 as a text encoder: sizes from config.json, and its tensors, proven complete."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.errors import ConvertError, join_problems, show_value
from musiclora.convert.files.json_file import ANYTHING, BOOLEAN, INTEGER, NULL, NUMBER, TEXT, object_with, read_json
from musiclora.convert.files.safetensors_file import FLOATS, Shape
from musiclora.convert.files.weight_files import WeightFiles, weight_files
from musiclora.convert.models.name_mapping import NameMapping, Rule, map_names

MODEL_TYPE = "qwen3"
_LARGEST_SIZE = 2**24
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
_KIND = object_with(
    {
        "model_type": TEXT,
        **dict.fromkeys(_SIZES, INTEGER),
        "rms_norm_eps": NUMBER,
        "rope_theta": NUMBER,
        "rope_scaling": ANYTHING,
        "rope_parameters": object_with({"rope_theta": NUMBER, "rope_type": TEXT}) | NULL,
        "attention_bias": BOOLEAN,
        "use_sliding_window": BOOLEAN,
        "hidden_act": TEXT,
        "quantization": ANYTHING,
        "quantization_config": ANYTHING,
    },
    _SIZES,
)


@dataclass(frozen=True)
class Qwen3Config:
    """Sizes of a Qwen3 model.

    Attributes:
        vocabulary: number of tokens.
        hidden, intermediate: width of the model, and of its MLPs.
        layers: number of blocks.
        heads, kv_heads, head_dim: of the attention; heads * head_dim need not be `hidden`.
        rope_theta: base of the rotary embedding.
        rms_norm_eps: added to mean squares.
    """

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6

    def tensor_shapes(self) -> dict[str, Shape]:
        """Compute the shape of every tensor below `model.` by its name in the checkpoint, [out, in] for matrices."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        block: dict[str, Shape] = {
            "self_attn.q_proj": (wide, self.hidden),
            "self_attn.k_proj": (narrow, self.hidden),
            "self_attn.v_proj": (narrow, self.hidden),
            "self_attn.o_proj": (self.hidden, wide),
            "self_attn.q_norm": (self.head_dim,),
            "self_attn.k_norm": (self.head_dim,),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
            "input_layernorm": (self.hidden,),
            "post_attention_layernorm": (self.hidden,),
        }
        shapes: dict[str, Shape] = {"embed_tokens.weight": (self.vocabulary, self.hidden)}
        for i in range(self.layers):
            shapes |= {f"layers.{i}.{name}.weight": shape for name, shape in block.items()}
        return {**shapes, "norm.weight": (self.hidden,)}


@dataclass(frozen=True)
class Qwen3Checkpoint:
    """Open checkpoint whose names and shapes are proven to fit its configuration.

    Attributes:
        path: its folder.
        config: sizes of the model.
        dropped: names that the encoder does not need, with the reason.
    """

    path: Path
    config: Qwen3Config
    dropped: dict[str, str]
    _plan: NameMapping
    _files: WeightFiles

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name below `model.`, array in its stored dtype), one tensor in memory at a time.

        Raises:
            ConvertError: a damaged file, or a NaN or infinity, with the tensor's name.
        """
        moves = {move.source: move for move in self._plan.moves}
        for name, array in self._files.tensors(moves):
            yield moves[name].target, moves[name].apply(array)


def read_qwen3(path: Path) -> Qwen3Checkpoint:
    """Open a text encoder; its weights are read on demand.

    Args:
        path: its folder, of the bare model or of one with a language model's head, which is dropped.

    Raises:
        ConvertError: another model, missing files, or tensors that are missing, surplus or mis-shaped, all at once.
    """
    path = Path(path)
    if not path.is_dir():
        raise ConvertError(f"{path}: {'a file; give its folder' if path.exists() else 'no such folder'}")
    config = config_from_json(read_json(path / "config.json", _KIND), str(path / "config.json"))
    files = weight_files(path)
    sources = {name: shape for name, (_, shape) in files.layout.items()}
    rules = [Rule("lm_head.weight", None, reason="the head that predicts tokens; only hidden states are used")]
    for name in config.tensor_shapes():
        rules += [Rule(name, name), Rule(f"model.{name}", name)]
    plan = map_names(tuple(rules), sources, config.tensor_shapes(), str(path))
    if integers := [f"{m.source} is {k}" for m in plan.moves if (k := files.layout[m.source][0]) not in FLOATS]:
        raise ConvertError(f"{path}: quantised or integer tensors are not supported: {join_problems(integers)}")
    return Qwen3Checkpoint(path, config, plan.dropped, plan, files)


def config_from_json(content: dict[str, Any], where: str) -> Qwen3Config:
    """Read the sizes of a config.json of any transformers version.

    Raises:
        ConvertError: another model type, sizes that do not fit, or variants that are not supported, all at once.
    """
    if content.get("model_type") != MODEL_TYPE:
        raise ConvertError(f"{where}: model_type is {show_value(content.get('model_type'))}, expected {MODEL_TYPE}")
    rope = content.get("rope_parameters") or {}
    numbers = {
        "rope_theta": content.get("rope_theta", rope.get("rope_theta", Qwen3Config.rope_theta)),
        "rms_norm_eps": content.get("rms_norm_eps", Qwen3Config.rms_norm_eps),
    }
    problems = [f"{name} is {show_value(content[name])}" for name in _SIZES if not 0 < content[name] <= _LARGEST_SIZE]
    problems += [f"{name} is {value:g}" for name, value in numbers.items() if not value > 0]
    if not problems and content["num_attention_heads"] % content["num_key_value_heads"]:
        problems.append("num_attention_heads is no multiple of num_key_value_heads")
    if content["head_dim"] % 2:
        problems.append(f"head_dim {content['head_dim']} is odd")
    unsupported = {
        "attention_bias": bool(content.get("attention_bias")),
        "use_sliding_window": bool(content.get("use_sliding_window")),
        "rope_scaling": content.get("rope_scaling") is not None or rope.get("rope_type", "default") != "default",
        "hidden_act": content.get("hidden_act", "silu") != "silu",
        "quantization": bool(content.get("quantization") or content.get("quantization_config")),
    }
    problems += [f"{name} is set, which is not supported" for name, is_set in unsupported.items() if is_set]
    if problems:
        raise ConvertError(f"{where}: {join_problems(problems)}")
    return Qwen3Config(
        vocabulary=content["vocab_size"],
        hidden=content["hidden_size"],
        intermediate=content["intermediate_size"],
        layers=content["num_hidden_layers"],
        heads=content["num_attention_heads"],
        kv_heads=content["num_key_value_heads"],
        head_dim=content["head_dim"],
        rope_theta=float(numbers["rope_theta"]),
        rms_norm_eps=float(numbers["rms_norm_eps"]),
    )
