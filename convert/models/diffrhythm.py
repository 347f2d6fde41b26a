"""DiffRhythm's diffusion transformer: configuration, shapes, names, and checkpoints in every container."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.errors import ConvertError, join_problems, show_value
from musiclora.convert.files.atomic import atomic_folder, write_json
from musiclora.convert.files.checkpoint_source import Source, open_source
from musiclora.convert.files.json_file import BOOLEAN, object_with
from musiclora.convert.files.safetensors_file import Dtype, Shape, Tensors, dtypes_for, write_safetensors
from musiclora.convert.models.kept_settings import add_further, settings_besides
from musiclora.convert.models.name_mapping import NameMapping, Rule, map_names, rename_for_export

HEADS = 32  # the original ignores its configuration and takes the library's default
CONDITION = 512  # width of the time, start, duration and style vectors
_SINUSOID_WIDTH = 256
_LARGEST_SIZE = 2**24

_SWITCHES = object_with({"causal": BOOLEAN, "duration_embedding": BOOLEAN})  # any text counts as true in Python


@dataclass(frozen=True)
class DiffRhythmConfig:
    """Sizes and switches of the model.

    Attributes:
        dim, depth: width and number of blocks; attention has 32 heads.
        ff_mult: width of the MLP divided by dim.
        text_dim: width of the text embedding, 512.
        conv_layers: ConvNeXt blocks over the text.
        mel_dim: latent channels.
        text_num_embeds: phonemes; the table has one more row, 0, the filler.
        max_frames: longest piece in latent frames.
        causal: attention sees the past only (weights of the v1.0 line; no file says so).
        duration_embedding: the duration is a condition (the v1.2 model of 6144 frames).
    """

    dim: int
    depth: int
    ff_mult: int
    text_dim: int = 512
    conv_layers: int = 4
    mel_dim: int = 64
    text_num_embeds: int = 363
    max_frames: int = 2048
    causal: bool = False
    duration_embedding: bool = False

    @property
    def style_width(self) -> int:
        """Length of a style vector."""
        return CONDITION

    def __post_init__(self) -> None:
        sizes = ("dim", "depth", "ff_mult", "text_dim", "conv_layers", "mel_dim", "text_num_embeds", "max_frames")
        problems = [
            f"{key} is {show_value(value)}"
            for key in sizes
            if type(value := getattr(self, key)) is not int or not (key != "conv_layers") <= value <= _LARGEST_SIZE
        ]
        if not problems and (self.dim % HEADS or self.dim % 16):
            problems.append(f"dim {self.dim} is no multiple of {HEADS} heads")
        if not problems and (self.depth > 1000 or self.conv_layers > 1000):
            problems.append("more than 1000 blocks")
        if problems:
            raise ConvertError(f"DiffRhythm configuration: {join_problems(problems)}")

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> DiffRhythmConfig:
        """Read a config.json of this package or the original; missing keys have the original's values.

        Raises:
            ConvertError: another architecture, or numbers that make none.
        """
        if config.get("model_type") != "diffrhythm" or not isinstance(config.get("model"), dict):
            raise ConvertError(
                f'not DiffRhythm: model_type is {show_value(config.get("model_type"))}, expected "diffrhythm"'
            )
        if problems := _SWITCHES.problems(config, ""):
            raise ConvertError(f"DiffRhythm configuration: {join_problems(problems)}")
        model = config["model"]
        if missing := [key for key in ("dim", "depth", "ff_mult") if key not in model]:
            raise ConvertError(f"DiffRhythm configuration: model has no {join_problems(missing)}")
        keys = ("dim", "depth", "ff_mult", "text_dim", "conv_layers", "mel_dim", "text_num_embeds")
        frames = config.get("max_frames", 2048)
        duration = bool(config.get("duration_embedding", frames == 6144))
        return cls(
            **{key: model[key] for key in keys if key in model},
            max_frames=frames,
            causal=bool(config.get("causal", False)),
            duration_embedding=duration,
        )

    def to_json(self) -> dict[str, Any]:
        """Build the config.json of an audio model folder."""
        model = asdict(self)
        outer = {key: model.pop(key) for key in ("max_frames", "causal", "duration_embedding")}
        return {"model_type": "diffrhythm", "model": model, **outer}

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Compute (out, in) of every linear layer, by its path in the DiT."""
        d, inner, text, c = self.dim, self.dim * self.ff_mult, self.text_dim, CONDITION
        embeds = ["time_embed", "start_time_embed"] + ["duration_time_embed"] * self.duration_embedding
        shapes = {f"{e}.time_mlp.{k}": (c, n) for e in embeds for k, n in ((0, _SINUSOID_WIDTH), (2, c))}
        for i in range(self.conv_layers):
            shapes[f"text_embed.text_blocks.{i}.pwconv1"] = (2 * text, text)
            shapes[f"text_embed.text_blocks.{i}.pwconv2"] = (text, 2 * text)
        shapes["input_embed.proj"] = (d, 2 * self.mel_dim + text + 2 * c)
        for i in range(self.depth):
            block = f"transformer_blocks.{i}."
            shapes |= {f"{block}self_attn.{name}_proj": (d, d) for name in "qkvo"}
            shapes |= {f"{block}mlp.{name}_proj": (inner, d) for name in ("gate", "up")}
            shapes[f"{block}mlp.down_proj"] = (d, inner)
        shapes |= {f"text_fusion_linears.{i}.0": (d, text) for i in range(self.depth // 2)}
        return {**shapes, "norm_out.linear": (2 * d, c), "proj_out": (self.mel_dim, d)}

    def tensor_shapes(self) -> dict[str, Shape]:
        """Compute the shape of every tensor by its path in the DiT, in torch's layouts."""
        d, text = self.dim, self.text_dim
        shapes: dict[str, Shape] = {"text_embed.text_embed.weight": (self.text_num_embeds + 1, text)}
        for name, shape in self.linear_shapes().items():
            shapes[f"{name}.weight"] = shape
            if not name.startswith("transformer_blocks."):
                shapes[f"{name}.bias"] = shape[:1]
        for i in range(self.conv_layers):
            block = f"text_embed.text_blocks.{i}."
            shapes[f"{block}dwconv.weight"] = (text, 1, 7)
            shapes |= {f"{block}{name}": (text,) for name in ("dwconv.bias", "norm.weight", "norm.bias")}
            shapes |= {f"{block}grn.{name}": (1, 1, 2 * text) for name in ("gamma", "beta")}
        for k in (0, 2):
            shapes[f"input_embed.conv_pos_embed.conv1d.{k}.weight"] = (d, d // 16, 31)
            shapes[f"input_embed.conv_pos_embed.conv1d.{k}.bias"] = (d,)
        for i in range(self.depth):
            for name in ("input_layernorm", "post_attention_layernorm"):
                shapes[f"transformer_blocks.{i}.{name}.weight"] = (d,)
        return shapes


def _container_rules(prefix: str, kernel: tuple[int, ...]) -> tuple[Rule, ...]:
    """Write the table for one container; kernel orders the axes of convolutions."""
    # Derived from a model with every part; placeholders replace the numbers that count blocks.
    widest = DiffRhythmConfig(32, 2, 1, conv_layers=1, duration_embedding=True).tensor_shapes()
    rules = []
    for name, shape in widest.items():
        pattern = re.sub(r"(text_blocks|transformer_blocks|text_fusion_linears)\.\d+", r"\1.{i}", name)
        axes = kernel if len(shape) == 3 and name.endswith(".weight") else ()
        rules.append(Rule(prefix + pattern, pattern, axes=axes))
    computed = "a table of rotations, computed and not a weight"
    rules.append(Rule(f"{prefix}rotary_embed.inv_freq", None, reason=computed))
    rules.append(Rule(f"{prefix}transformer_blocks.{{i}}.self_attn.rotary_emb.inv_freq", None, reason=computed))
    return tuple(dict.fromkeys(rules))


DIFFRHYTHM_LAYOUTS: dict[str, tuple[Rule, ...]] = {
    "hf": _container_rules("transformer.", ()),
    "bare": _container_rules("", ()),
    "mlx": _container_rules("", (0, 2, 1)),
}


@dataclass(frozen=True)
class DiffRhythmCheckpoint:
    """Open checkpoint whose names and shapes are proven to fit its configuration.

    Attributes:
        config: sizes of the model.
        layout: hf (the original's names), bare (without its prefix) or mlx.
        other_settings: keys of config.json that the maths does not need, for copies to keep.
        dtypes: stored dtype of every tensor.
        dropped: names that are not weights, with the reason.
        notes: choices among several state dicts.
    """

    config: DiffRhythmConfig
    layout: str
    other_settings: dict[str, Any]
    dtypes: dict[str, Dtype]
    dropped: dict[str, str]
    notes: tuple[str, ...]
    _plan: NameMapping
    _source: Source

    @property
    def bits(self) -> None:
        """None: no matrix is quantised."""
        return

    def tensors(self, *, checked: bool = True) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (path in the DiT, array in its stored dtype and torch's layout) one at a time; see `Source.tensors`."""
        moves = {move.source: move for move in self._plan.moves}
        for name, array in self._source.tensors(moves, checked=checked):
            yield moves[name].target, moves[name].apply(array)

    def checksums(self) -> dict[str, int]:
        """Collect the CRC-32 of each tensor that `tensors` yields unchanged from its file, where the file states it."""
        stated = self._source.checksums()
        return {m.target: stated[m.source] for m in self._plan.moves if m.source in stated and not m.order}


def is_diffrhythm(layout: Iterable[str]) -> bool:
    """Tell whether names are those of this model, in any container."""
    return any("transformer_blocks." in name or "text_fusion_linears." in name for name in layout)


def read_diffrhythm(path: Path, *, causal: bool | None = None) -> DiffRhythmCheckpoint:
    """Open the original's .pt or safetensors, or a model folder; weights are read on demand.

    Args:
        path: file or folder.
        causal: overrides the configuration; a bare file has none and counts as not causal.

    Raises:
        ConvertError: another model, or tensors that are missing, surplus or mis-shaped, all at once.
    """
    source = open_source(path)
    if not is_diffrhythm(source.layout):
        raise ConvertError(f"{path}: not DiffRhythm: it has no transformer_blocks")
    if any(name.startswith("transformer.") for name in source.layout):
        layout = "hf"
    else:
        layout = "mlx" if source.metadata.get("format") == "mlx" else "bare"
    shapes = {name: shape for name, (_, shape) in source.layout.items()}
    other: dict[str, Any] = {}
    if source.config.get("model_type") == "diffrhythm":
        other = settings_besides(source.config, ())
        config = DiffRhythmConfig.from_json(source.config)
        if "duration_embedding" not in source.config:  # the original's config.json does not say it
            config = _infer_duration(config, shapes)
    else:
        config = _infer_config(shapes, path)
    if causal is not None:
        config = DiffRhythmConfig(**{**asdict(config), "causal": causal})
    mapping = map_names(DIFFRHYTHM_LAYOUTS[layout], shapes, config.tensor_shapes(), str(path))
    source.refuse_integers([move.source for move in mapping.moves])
    dtypes = {move.target: source.layout[move.source][0] for move in mapping.moves}
    return DiffRhythmCheckpoint(config, layout, other, dtypes, mapping.dropped, source.notes, mapping, source)


def write_diffrhythm(
    folder: Path,
    config: DiffRhythmConfig,
    tensors: Tensors,
    layout: str,
    dtypes: Mapping[str, Dtype] | str,
    other_settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a model folder, whole or not at all, one tensor in memory at a time.

    Args:
        folder: destination.
        config: sizes of the model.
        tensors: (path in the DiT, array in torch's layout), in any order.
        layout: hf (the original's names) or mlx.
        dtypes: of each tensor, or one name for all.
        other_settings: more keys of config.json; see `DiffRhythmCheckpoint`.

    Raises:
        ConvertError: missing, surplus or mis-shaped tensors, or values that do not fit the dtype.
        OutputError: the system refuses to write.
    """
    shapes = config.tensor_shapes()
    other, own = other_settings or {}, config.to_json()
    own["model"] = add_further(own["model"], other.get("model", {}))
    stored, renamed = rename_for_export(DIFFRHYTHM_LAYOUTS[layout], shapes, dtypes_for(shapes, dtypes), tensors)
    with atomic_folder(folder) as temporary:
        header = {"format": "mlx" if layout == "mlx" else "pt"}
        write_safetensors(temporary / "model.safetensors", renamed, header, layout=stored)
        write_json(temporary / "config.json", add_further(own, other))


def _infer_duration(config: DiffRhythmConfig, shapes: Mapping[str, Shape]) -> DiffRhythmConfig:
    """Set the duration embedding, and the length that goes with it, by the names of the tensors."""
    has = any("duration_time_embed." in name for name in shapes)
    frames = 6144 if has else config.max_frames
    return DiffRhythmConfig(**{**asdict(config), "duration_embedding": has, "max_frames": frames})


def _infer_config(shapes: Mapping[str, Shape], path: Path) -> DiffRhythmConfig:
    """Infer the configuration from a bare file's shapes and names."""
    plain = {name.removeprefix("transformer."): shape for name, shape in shapes.items()}
    gate, table = "transformer_blocks.0.mlp.gate_proj.weight", "text_embed.text_embed.weight"
    missing = [name for name in (gate, table, "proj_out.weight") if len(plain.get(name, ())) != 2 or 0 in plain[name]]
    if missing:
        raise ConvertError(f"{path}: cannot tell the model's size without the matrices {join_problems(missing)}")
    inner, dim = plain[gate]
    blocks, text_blocks = (_count_blocks(plain, stem) for stem in ("transformer_blocks", "text_embed.text_blocks"))
    rows, text_dim = plain[table]
    channels = plain["proj_out.weight"][0]
    config = DiffRhythmConfig(dim, blocks, inner // dim, text_dim, text_blocks, channels, rows - 1)
    return _infer_duration(config, plain)


def _count_blocks(names: Iterable[str], stem: str) -> int:
    """Count the different indices under a stem; a single large index cannot make the count large."""
    return len({name.removeprefix(f"{stem}.").split(".")[0] for name in names if name.startswith(f"{stem}.")})
