"""Checkpoints of the Oobleck VAE in every container, with weight norm and without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.atomic import atomic_folder, write_json
from musiclora.convert.files.checkpoint_source import Source, open_source
from musiclora.convert.files.safetensors_file import Dtype, Shape, Tensors, dtypes_for, write_safetensors
from musiclora.convert.models.name_mapping import (
    NameMapping,
    Rule,
    map_names,
    moves_from_names,
    rename_for_export,
)
from musiclora.convert.models.oobleck_config import OobleckConfig, sample_rate_of
from musiclora.convert.models.oobleck_names import EXPORTS, PRETRANSFORM_PREFIX, oobleck_rules


def fold_weight_norm(gain: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Compute the weight of a weight-normed layer, float32: g v / ||v||, the norm over all axes but the first.

    Source: Salimans and Kingma 2016 (arXiv 1602.07868), eq. 2; the axis as in torch, also for transposed convolutions.
    """
    values = direction.astype(np.float32)
    norms = np.sqrt(np.square(values).sum(axis=(1, 2), dtype=np.float64))[:, None, None]
    gains = gain.reshape(norms.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = (gains.astype(np.float64) / norms).astype(np.float32)
    factor[gains == norms.astype(np.float32)] = 1  # inverts `unfold_weight_norm` bit for bit
    if not np.isfinite(factor).all():
        raise ConvertError("a weight norm of zero: g / ||v|| is not finite")
    folded: np.ndarray = values * factor
    return folded


FORMS = {"hf": (False, True), "mlx": (False,), "diffusers": (True,)}  # weight norm that each layout can hold

__all__ = [
    "OobleckCheckpoint",
    "OobleckConfig",
    "fold_weight_norm",
    "is_oobleck",
    "read_oobleck",
    "unfold_weight_norm",
    "write_oobleck",
]


def unfold_weight_norm(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split a weight into gain (float32) and direction, which is the weight itself; see `fold_weight_norm`."""
    norms = np.sqrt(np.square(weight.astype(np.float32)).sum(axis=(1, 2), dtype=np.float64))[:, None, None]
    direction = np.where(norms == 0, np.ones((), weight.dtype), weight)  # a kernel of zeros has no direction
    return norms.astype(np.float32), direction


@dataclass(frozen=True)
class OobleckCheckpoint:
    """Open codec whose names and shapes are proven to fit its configuration.

    Attributes:
        config: sizes of the codec.
        layout: hf (stable-audio-tools' names), diffusers or mlx.
        weight_norm: weights are stored as weight_g and weight_v.
        dtypes: stored dtype of every tensor, by stable-audio-tools' name.
        dropped: names that do not belong to the codec, with the reason.
    """

    config: OobleckConfig
    layout: str
    weight_norm: bool
    dtypes: dict[str, Dtype]
    dropped: dict[str, str]
    _plan: NameMapping
    _source: Source

    def tensors(self, *, weight_norm: bool = False) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (stable-audio-tools' name, array in torch's layout) one at a time, folded or as gain and direction."""
        moves = {move.source: move for move in self._plan.moves}
        stored = ((moves[n].target, moves[n].apply(array)) for n, array in self._source.tensors(moves))
        if weight_norm == self.weight_norm:
            return stored
        return _unfold_all(stored) if weight_norm else _fold_all(stored, self._source.path)

    def dtypes_of(self, *, weight_norm: bool = False) -> dict[str, Dtype]:
        """Return the dtype of every tensor of `tensors`; folded weights and new gains are float32."""
        if weight_norm == self.weight_norm:
            return self.dtypes
        rest = {n: d for n, d in self.dtypes.items() if not n.endswith(("weight", "_g", "_v"))}
        if weight_norm:
            weights = {n: d for n, d in self.dtypes.items() if n.endswith("weight")}
            gains = dict.fromkeys((f"{n}_g" for n in weights), np.dtype("float32"))
            return rest | gains | {f"{n}_v": d for n, d in weights.items()}
        return rest | {n[:-2]: np.dtype("float32") for n in self.dtypes if n.endswith("_g")}


def _unfold_all(tensors: Tensors) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in tensors:
        if not name.endswith(".weight"):
            yield name, array
            continue
        gain, direction = unfold_weight_norm(array)
        yield f"{name}_g", gain
        yield f"{name}_v", direction


def _fold_all(tensors: Tensors, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    halves: dict[str, np.ndarray] = {}
    for name, array in tensors:
        if not name.endswith(("weight_g", "weight_v")):
            yield name, array
            continue
        weight, other = name[:-2], f"{name[:-1]}{'v' if name.endswith('g') else 'g'}"
        if other not in halves:
            halves[name] = array
            continue
        pair = (array, halves.pop(other)) if name.endswith("g") else (halves.pop(other), array)
        try:
            yield weight, fold_weight_norm(*pair)
        except ConvertError as error:
            raise ConvertError(f"{path}: {weight}: {error}") from error


def is_oobleck(layout: Iterable[str]) -> bool:
    """Tell whether names are those of this codec, in any container."""
    plain = {name.removeprefix(PRETRANSFORM_PREFIX) for name in layout}
    return any(name.startswith(("encoder.layers.", "encoder.block.")) for name in plain)


def read_oobleck(path: Path) -> OobleckCheckpoint:
    """Open a codec of stable-audio-tools, diffusers or this package: TorchScript, .pt, safetensors or folder.

    Raises:
        ConvertError: another model, or tensors that are missing, surplus or mis-shaped, all at once.
    """
    source = open_source(path)
    if not is_oobleck(source.layout):
        raise ConvertError(f"{path}: not the Oobleck codec: it has no encoder.layers")
    shapes = {name: shape for name, (_, shape) in source.layout.items()}
    around: dict[str, str] = {}
    if any(name.startswith(PRETRANSFORM_PREFIX) for name in shapes):
        layout = "pretransform"
        around = {
            name: "a part of the model around the codec" for name in shapes if not name.startswith(PRETRANSFORM_PREFIX)
        }
        shapes = {name: shape for name, shape in shapes.items() if name not in around}
    elif any(name.startswith("encoder.block.") for name in shapes):
        layout = "diffusers"
    else:
        layout = "mlx" if source.metadata.get("format") == "mlx" else "hf"
    normed = any(name.endswith("weight_g") for name in shapes)
    table = oobleck_rules(layout, _count_stages(shapes))
    config = _find_config(source, table, shapes)
    mapping = map_names(table, shapes, config.normed_shapes() if normed else config.tensor_shapes(), str(path))
    source.refuse_integers([move.source for move in mapping.moves])
    dtypes = {move.target: source.layout[move.source][0] for move in mapping.moves}
    return OobleckCheckpoint(config, layout, normed, dtypes, mapping.dropped | around, mapping, source)


def write_oobleck(
    folder: Path,
    config: OobleckConfig,
    tensors: Tensors,
    layout: str,
    dtypes: Mapping[str, Dtype] | str,
    *,
    weight_norm: bool = False,
) -> None:
    """Write a codec folder, whole or not at all, one tensor in memory at a time.

    Args:
        folder: destination.
        config: sizes of the codec.
        tensors: (stable-audio-tools' name, array in torch's layout), in any order.
        layout: hf (stable-audio-tools' names), mlx or diffusers.
        dtypes: of each tensor, or one name for all.
        weight_norm: the tensors hold weight_g and weight_v: never in mlx, always in diffusers. The class of diffusers
            has no other parameters and would silently start from random ones.

    Raises:
        ConvertError: a layout that cannot hold this codec, or tensors that do not fit.
        OutputError: the system refuses to write.
    """
    if layout not in EXPORTS or weight_norm not in FORMS[layout]:
        raise ConvertError(f"layout {layout!r} cannot hold this codec; known: {', '.join(EXPORTS)}")
    settings = config.to_json(layout)
    shapes = config.normed_shapes() if weight_norm else config.tensor_shapes()
    rules = oobleck_rules(layout, len(config.strides))
    stored, renamed = rename_for_export(rules, shapes, dtypes_for(shapes, dtypes), tensors)
    file = "diffusion_pytorch_model.safetensors" if layout == "diffusers" else "model.safetensors"
    with atomic_folder(folder) as temporary:
        write_safetensors(temporary / file, renamed, {"format": "mlx" if layout == "mlx" else "pt"}, layout=stored)
        write_json(temporary / "config.json", settings)


def _count_stages(names: Iterable[str]) -> int:
    """Count the stages of the codec by the encoder's changes of rate."""
    paths = [name.removeprefix(PRETRANSFORM_PREFIX).split(".") for name in names]
    wide = {path[2] for path in paths if path[:2] == ["encoder", "layers"] and path[3:5] == ["layers", "4"]}
    blocks = {path[2] for path in paths if path[:2] == ["encoder", "block"]}
    return min(max(len(wide), len(blocks)), 20)


def _find_config(source: Source, table: Iterable[Rule], shapes: Mapping[str, Shape]) -> OobleckConfig:
    """Read the configuration next to the weights, or infer it from their shapes."""
    if source.config.get("model_type") == "oobleck" or source.config.get("_class_name") == "AutoencoderOobleck":
        return OobleckConfig.from_json(source.config)
    moves = {move.source: move for move in moves_from_names(tuple(table), shapes)}
    plain = {move.target.removesuffix("_v"): move.shape(shapes[name]) for name, move in moves.items()}
    stages = _count_stages(shapes)
    needed = ["encoder.layers.0.weight", f"encoder.layers.{stages + 2}.weight", "decoder.layers.0.weight"]
    needed += [f"encoder.layers.{i}.layers.4.weight" for i in range(1, stages + 1)]
    if missing := [name for name in needed if len(plain.get(name, ())) != 3 or 0 in plain[name]]:
        raise ConvertError(f"{source.path}: cannot tell the codec's size without the kernels {join_problems(missing)}")
    channels, audio, _ = plain["encoder.layers.0.weight"]
    changes = [plain[f"encoder.layers.{i}.layers.4.weight"] for i in range(1, stages + 1)]
    strides = tuple(kernel // 2 for _, _, kernel in changes)
    return OobleckConfig(
        channels,
        tuple(out // channels for out, _, _ in changes),
        strides,
        plain["decoder.layers.0.weight"][1],
        plain[f"encoder.layers.{stages + 2}.weight"][0],
        audio,
        sample_rate_of(strides),
    )
