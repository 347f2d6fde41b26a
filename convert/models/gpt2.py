"""GPT-2 checkpoint folders in the layouts of transformers (hf) and mlx-lm (mlx), read and written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.atomic import atomic_folder, atomic_write, write_json
from musiclora.convert.files.fingerprint import TOKENIZER_FILES, is_miditok
from musiclora.convert.files.json_file import read_json
from musiclora.convert.files.safetensors_file import (
    FLOATS,
    Arrays,
    Dtype,
    Shape,
    Tensors,
    dtype_named,
    widest_float,
    write_safetensors,
)
from musiclora.convert.files.weight_files import WeightFiles, weight_files
from musiclora.convert.models.gpt2_config import ACTIVATIONS, GELU_TANH, Gpt2Config, fresh_tensors, other_settings
from musiclora.convert.models.name_mapping import (
    NameMapping,
    Rule,
    TensorMove,
    map_names,
    map_names_for_export,
    rename_for_export,
)
from musiclora.convert.models.quantise import (
    Packed,
    QuantisedFiles,
    packed_layout,
    packed_stream,
    quantisation_settings,
    quantised_files,
)

__all__ = [
    "ACTIVATIONS",
    "GELU_TANH",
    "GPT2_LAYOUTS",
    "Gpt2Checkpoint",
    "Gpt2Config",
    "fresh_tensors",
    "read_checkpoint",
    "rows_of",
    "write_checkpoint",
]

_BLOCK_PARTS = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
_LINEAR_MODULE = re.compile(
    r"transformer\.h\.(?:0|[1-9]\d*)\.(?:attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)", re.ASCII
)
_OUTER_NAMES = ("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias")
_MASK_REASON = "a causal mask, not a weight"
_TIED_REASON = "the tied output head, equal to wte"


def _container_rules(prefix: str, transpose: bool) -> tuple[Rule, ...]:
    """Write the table for one container; Conv1D keeps [in, out], mlx-lm's Linear [out, in]."""
    rules = [Rule(f"{prefix}.{name}", f"transformer.{name}") for name in _OUTER_NAMES]
    for part in _BLOCK_PARTS:
        linear = ".c_" in part
        name = f"h.{{i}}.{part}"
        rules.append(Rule(f"{prefix}.{name}.weight", f"transformer.{name}.weight", transpose=transpose and linear))
        rules.append(Rule(f"{prefix}.{name}.bias", f"transformer.{name}.bias"))
    rules.append(Rule(f"{prefix}.h.{{i}}.attn.bias", None, reason=_MASK_REASON))
    rules.append(Rule(f"{prefix}.h.{{i}}.attn.masked_bias", None, reason=_MASK_REASON))
    return (*rules, Rule("lm_head.weight", None, reason=_TIED_REASON))


GPT2_LAYOUTS: dict[str, tuple[Rule, ...]] = {
    "hf": _container_rules("transformer", transpose=False),
    "mlx": _container_rules("model", transpose=True),
}


@dataclass(frozen=True)
class Gpt2Checkpoint:
    """Open checkpoint folder whose names and shapes are proven to fit its configuration.

    Attributes:
        folder: path of the folder.
        config: sizes of the model.
        layout: "hf" or "mlx".
        other_settings: keys of config.json that the maths does not need, for copies to keep.
        dropped: names that are not weights, with the reason.
    """

    folder: Path
    config: Gpt2Config
    layout: Literal["hf", "mlx"]
    other_settings: dict[str, Any]
    dropped: dict[str, str]
    _plan: NameMapping
    _files: WeightFiles

    @property
    def bits(self) -> int | None:
        """Bits an element of the quantised matrices; None where there are none."""
        return max(self._files.bits.values(), default=None) if isinstance(self._files, QuantisedFiles) else None

    @property
    def dtypes(self) -> set[Dtype]:
        """Dtypes of the weights as they are read."""
        return {self._files.layout[_stored_name(move.source, self._files)][0] for move in self._plan.moves}

    @property
    def dtype(self) -> str:
        """Narrowest dtype that holds all weights as they are read, such as `float32`."""
        return widest_float(self.dtypes)

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (canonical name, array in its stored dtype), one at a time.

        Raises:
            ConvertError: a non-finite value, or an output head that differs from wte.
        """
        moves = {_stored_name(move.source, self._files): move for move in self._plan.moves}
        tied: dict[str, np.ndarray] = {}
        for name, array in self._files.tensors(self._wanted(moves)):
            move = moves.get(name)
            if "lm_head.weight" in self.dropped and (name == "lm_head.weight" or name.endswith("wte.weight")):
                tied[name] = array
                if len(tied) == 2 and not _are_equal(*tied.values()):
                    raise ConvertError(
                        f"{self.folder}: lm_head.weight differs from wte; an untied head is not supported"
                    )
            if move:
                yield move.target, move.apply(array)

    def _wanted(self, moves: Mapping[str, TensorMove]) -> set[str]:
        """Name the tensors to read: those that are moved, and the output head for its comparison with wte."""
        return {*moves, *({"lm_head.weight"} & self.dropped.keys())}

    def stored(self) -> Iterator[tuple[str, np.ndarray | Packed]]:
        """Yield tensors, but keep quantised matrices packed: [out, in] of a linear layer, [rows, width] of a table."""
        if not isinstance(self._files, QuantisedFiles):
            yield from self.tensors()
            return
        moves = {_stored_name(move.source, self._files): move for move in self._plan.moves}
        for name, value in self._files.stored(self._wanted(moves)):
            if move := moves.get(name):
                yield move.target, value if isinstance(value, Packed) else move.apply(value)

    def load(self, dtype: npt.DTypeLike = np.float32) -> dict[str, np.ndarray]:
        """Read all tensors in one dtype under canonical names."""
        return {name: np.ascontiguousarray(array, dtype=dtype) for name, array in self.tensors()}


def owns_gpt2_modules(modules: Iterable[str]) -> bool:
    """Tell whether an adapter is for GPT-2, by the paths of the modules it adapts."""
    return all(_LINEAR_MODULE.fullmatch(module) for module in modules)


def read_checkpoint(folder: Path) -> Gpt2Checkpoint:
    """Open a GPT-2 folder; weights are read on demand. Those that MLX quantised are read as float32.

    Raises:
        ConvertError: not a GPT-2, or tensors that are missing, surplus or mis-shaped, all at once.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConvertError(f"{folder}: no such folder")
    if not (folder / "config.json").is_file():
        raise ConvertError(f"{folder}: no config.json here, so this is no model folder")
    content = read_json(folder / "config.json")
    quantised = _take_quantisation(content)
    # An output head stored apart is compared with the embedding when the tensors are read.
    apart = content.get("tie_word_embeddings") is False and not quantised
    try:
        config = Gpt2Config.from_json(content, tied=apart and "lm_head.weight" in weight_files(folder).layout)
    except ConvertError as error:
        raise ConvertError(f"{folder}: {error}") from error
    files = weight_files(folder)
    if quantised:
        files = quantised_files(files, quantised, str(folder))
    layout: Literal["hf", "mlx"] = "mlx" if any(name.startswith("model.") for name in files.layout) else "hf"
    if quantised and layout == "hf":
        raise ConvertError(f"{folder}: quantised, but not in mlx-lm's layout (names begin with 'model.')")
    masks = (".attn.bias", ".attn.masked_bias")
    if integers := [n for n, (dtype, _) in files.layout.items() if dtype not in FLOATS and not n.endswith(masks)]:
        raise ConvertError(f"{folder}: quantised or integer tensors are not supported: {join_problems(integers)}")
    shapes = _prefix_names(files, layout)
    mapping = map_names(GPT2_LAYOUTS[layout], shapes, config.tensor_shapes(), str(folder))
    return Gpt2Checkpoint(folder, config, layout, other_settings(content), mapping.dropped, mapping, files)


def write_checkpoint(
    folder: Path,
    config: Gpt2Config,
    tensors: Arrays | Tensors,
    layout: str,
    *,
    dtype: str = "float32",
    bits: int | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    other_settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a folder that transformers (hf) or mlx-lm (mlx) loads, whole or not at all, one tensor in memory at a time.

    Args:
        folder: destination.
        config: sizes of the model.
        tensors: canonical names and layouts, in any order.
        layout: "hf" or "mlx".
        dtype: float32, float16 or bfloat16, for every tensor; for scales and biases of quantised ones.
        bits: quantise the matrices to 4 or 8 bits an element (mlx only); see `quantise_matrix`.
        extra_files: more files by plain name, such as the tokenizer.
        other_settings: more keys of config.json; see `Gpt2Checkpoint`.
        overwrite: replace an existing folder.

    Raises:
        ConvertError: missing, surplus or mis-shaped tensors, or values that do not fit the dtype.
        OutputError: the system refuses to write.
    """
    if layout not in GPT2_LAYOUTS:
        raise ConvertError(f"unknown layout {layout!r}; known: {', '.join(GPT2_LAYOUTS)}")
    if bits and layout != "mlx":
        raise ConvertError("only the mlx layout holds quantised weights")
    stored = dtype_named(dtype)
    shapes = config.tensor_shapes()
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    plain, moved = rename_for_export(GPT2_LAYOUTS[layout], shapes, dict.fromkeys(shapes, stored), pairs)
    described: dict[str, Any] = {**config.to_json(layout), **(other_settings or {}), "torch_dtype": dtype}
    if bits:
        # mlx-lm writes both keys; transformers' tools look at the second.
        described |= dict.fromkeys(("quantization", "quantization_config"), quantisation_settings(plain, bits))
        plain, moved = packed_layout(plain, bits), packed_stream(moved, bits)
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        write_safetensors(
            temporary / "model.safetensors",
            moved,
            {"format": "pt" if layout == "hf" else "mlx"},
            layout=plain,
        )
        write_json(temporary / "config.json", described)
        for name, content in _rename_tokenizer(extra_files or {}, layout).items():
            atomic_write(temporary / Path(name).name, content)


def _rename_tokenizer(files: Mapping[str, bytes], layout: str) -> dict[str, bytes]:
    """Name MidiTok's tokenizer tokenizer.conf in an MLX folder, since mlx-lm cannot load it as a tokenizer.json."""
    old, new = TOKENIZER_FILES if layout == "mlx" else TOKENIZER_FILES[::-1]
    if old in files and new not in files and is_miditok(files[old]):
        return {new if name == old else name: content for name, content in files.items()}
    return dict(files)


def rows_of(name: str, array: np.ndarray, layout: str) -> np.ndarray:
    """Bring a tensor into a layout's axis order, or back: a swap of axes undoes itself."""
    return map_names_for_export(GPT2_LAYOUTS[layout], [name])[name].apply(array)


def _take_quantisation(content: dict[str, Any]) -> dict[str, Any]:
    """Remove and return MLX's settings of a config.json; those of other tools stay, to be refused."""
    found = content.get("quantization")
    if not isinstance(found, dict) or "bits" not in found or "quant_method" in found:
        return {}
    del content["quantization"]
    if content.get("quantization_config") == found:
        del content["quantization_config"]
    return found


def _prefix_names(files: WeightFiles, layout: str) -> dict[str, Shape]:
    """Collect shapes by name; a bare GPT2Model's names get the prefix of GPT2LMHeadModel's."""
    shapes: dict[str, Shape] = {}
    doubled: list[str] = []
    for name, (_, shape) in files.layout.items():
        full = name if layout == "mlx" or name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"
        if full in shapes:
            doubled.append(f"{full} is there with and without its prefix")
        shapes[full] = shape
    if doubled:
        raise ConvertError(f"{next(iter(files.files)).parent}: {join_problems(doubled)}")
    return shapes


def _stored_name(name: str, files: WeightFiles) -> str:
    """Return the name in the file of a source to which `_prefix_names` may have added a prefix."""
    return name if name in files.layout else name.removeprefix("transformer.")


def _are_equal(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and bool(np.array_equal(first, second))
