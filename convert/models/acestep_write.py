"""Writers of ACE-Step: the original's folder, a diffusers pipeline and the MLX layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.errors import ConvertError
from musiclora.convert.files.atomic import atomic_folder, write_json
from musiclora.convert.files.json_file import read_bounded, read_optional_json
from musiclora.convert.files.safetensors_file import Dtype, Layout, Shape, Tensors, dtypes_for, write_safetensors
from musiclora.convert.models.acestep_config import AceStepConfig
from musiclora.convert.models.acestep_folders import (
    CODE_FOLDERS,
    CONDITION_ENCODER,
    TEXT_ENCODER,
    TOKENIZER,
    TRANSFORMER,
    VAE,
)
from musiclora.convert.models.acestep_json import (
    ENCODER_CLASS,
    PIPELINE_CLASS,
    TRANSFORMER_CLASS,
    config_to_original,
    configs_for_pipeline,
)
from musiclora.convert.models.acestep_names import (
    ACESTEP_LAYOUTS,
    DECODER,
    ENCODER_PART,
    LAYERS,
    SILENCE,
    TRANSFORMER_PART,
    tensor_shapes,
)
from musiclora.convert.models.name_mapping import rename_for_export
from musiclora.convert.models.quantise import group_size, packed_layout, packed_stream, quantisation_settings

# Yields (canonical name, array) of the tensors named, in any order; each file of a folder asks for its own.
ReadTensors = Callable[[Collection[str]], Tensors]

_WEIGHTS, _PART_WEIGHTS = "model.safetensors", "diffusion_pytorch_model.safetensors"
_SCHEDULER = "scheduler"
_PIPELINE_MODULE = "ace_step"  # of diffusers.pipelines, for classes that it keeps beside the pipeline
_CODE_CLASSES = ("AceStepAudioTokenizer", "AceStepAudioTokenDetokenizer")
# The pipeline computes its times itself, in [0, 1].
_SCHEDULER_CONFIG = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1, "shift": 1.0}


def write_acestep(
    folder: Path,
    config: AceStepConfig,
    read: ReadTensors,
    layout: str,
    dtypes: Mapping[str, Dtype] | str,
    *,
    other_settings: Mapping[str, Any] | None = None,
    carried: Layout | None = None,
    bits: int | None = None,
) -> None:
    """Write a model folder, whole or not at all, one tensor in memory at a time.

    Args:
        folder: destination.
        config: sizes of the model.
        read: source of the tensors, in torch's layouts.
        layout: hf (the original's names), diffusers or mlx.
        dtypes: of each tensor, or one name for all but the carried.
        other_settings: more keys of config.json; see `AceStepCheckpoint`.
        carried: dtype and shape of further tensors, under their own names (hf only).
        bits: quantise the matrices of the transformer's blocks to 4 or 8 bits an element (mlx only).

    Raises:
        ConvertError: missing, surplus or mis-shaped tensors, values that do not fit the dtype, or a layout that cannot
            hold this model.
        OutputError: the system refuses to write.
    """
    if layout not in ACESTEP_LAYOUTS:
        raise ConvertError(f"unknown layout {layout!r}; known: {', '.join(ACESTEP_LAYOUTS)}")
    if (bits and layout != "mlx") or (carried and layout != "hf"):
        raise ConvertError("only the mlx layout holds quantised weights, only hf the 5 Hz tokenizer")
    other = other_settings or {}
    kinds = dtypes_for(tensor_shapes(config), dtypes)
    with atomic_folder(folder) as temporary:
        if layout == "diffusers":
            _write_pipeline(temporary, config, read, kinds, other)
        else:
            _write_model(temporary, config, read, layout, kinds, other, carried or {}, bits)


def write_pipeline_index(folder: Path) -> None:
    """Write the model_index.json of a pipeline; parts that are not in the folder are null, for the user to pass.

    Raises:
        OutputError: the system refuses to write.
    """
    text = read_optional_json(folder / TEXT_ENCODER / "config.json").get("architectures")
    classes = {
        CONDITION_ENCODER: (_PIPELINE_MODULE, ENCODER_CLASS),
        _SCHEDULER: ("diffusers", str(_SCHEDULER_CONFIG["_class_name"])),
        TEXT_ENCODER: ("transformers", _plain_model(text[0]) if isinstance(text, list) and text else "Qwen3Model"),
        TOKENIZER: ("transformers", _tokenizer_class(folder / TOKENIZER / "tokenizer_config.json")),
        TRANSFORMER: ("diffusers", TRANSFORMER_CLASS),
        VAE: ("diffusers", "AutoencoderOobleck"),
    }
    classes |= dict(zip(CODE_FOLDERS, ((_PIPELINE_MODULE, name) for name in _CODE_CLASSES), strict=True))
    parts = {name: list(entry) if (folder / name).is_dir() else [None, None] for name, entry in classes.items()}
    write_json(folder / "model_index.json", {"_class_name": PIPELINE_CLASS, **parts})


def is_packed(name: str, shape: Shape) -> bool:
    """Tell whether quantisation packs a tensor: a matrix of the transformer's blocks whose rows can be grouped."""
    return name.startswith(LAYERS) and group_size(shape) is not None


def _tokenizer_class(file: Path) -> str:
    # Not as JSON: transformers writes a model_max_length of 31 digits, which the reader of JSON refuses.
    match = re.search(rb'"tokenizer_class"\s*:\s*"(\w+)"', read_bounded(file)) if file.is_file() else None
    return match[1].decode() if match else "Qwen2Tokenizer"


def _plain_model(architecture: object) -> str:
    """Return the class without an output head: a language model's checkpoint may name that with its head."""
    return str(architecture).replace("ForCausalLM", "Model")


def _write_model(
    folder: Path,
    config: AceStepConfig,
    read: ReadTensors,
    layout: str,
    kinds: Mapping[str, Dtype],
    other: Mapping[str, Any],
    carried: Layout,
    bits: int | None,
) -> None:
    """Write the original's folder, or the MLX layout, whose single file holds the silence too."""
    content = config_to_original(config, other)
    shapes = tensor_shapes(config)
    apart = {SILENCE: shapes.pop(SILENCE)} if layout == "hf" else {}
    stored, renamed = _rename(layout, shapes, kinds, read([*shapes, *carried]))
    stored |= carried
    if bits:
        packed = {name: entry for name, entry in stored.items() if is_packed(name, entry[1])}
        content["quantization"] = quantisation_settings(packed, bits)
        stored = {name: entry for name, entry in stored.items() if name not in packed} | packed_layout(packed, bits)
        renamed = _pack(renamed, bits)
    write_safetensors(folder / _WEIGHTS, renamed, {"format": "mlx" if layout == "mlx" else "pt"}, layout=stored)
    if apart:
        stored, renamed = _rename(layout, apart, kinds, read(list(apart)))
        write_safetensors(folder / f"{SILENCE}.safetensors", renamed, {"format": "pt"}, layout=stored)
    write_json(folder / "config.json", content)


def _write_pipeline(
    folder: Path, config: AceStepConfig, read: ReadTensors, kinds: Mapping[str, Dtype], other: Mapping[str, Any]
) -> None:
    transformer, encoder = configs_for_pipeline(config, other)
    shapes = tensor_shapes(config)
    parts = (
        (TRANSFORMER, TRANSFORMER_PART, transformer, {n: s for n, s in shapes.items() if n.startswith(DECODER)}),
        (CONDITION_ENCODER, ENCODER_PART, encoder, {n: s for n, s in shapes.items() if not n.startswith(DECODER)}),
    )
    for name, prefix, content, own in parts:
        (folder / name).mkdir()
        stored, renamed = _rename("diffusers", own, kinds, read(list(own)))
        plain = {stored_name.removeprefix(prefix): entry for stored_name, entry in stored.items()}
        unprefixed = ((stored_name.removeprefix(prefix), array) for stored_name, array in renamed)
        write_safetensors(folder / name / _PART_WEIGHTS, unprefixed, {"format": "pt"}, layout=plain)
        write_json(folder / name / "config.json", content)
    (folder / _SCHEDULER).mkdir()
    write_json(folder / _SCHEDULER / "scheduler_config.json", _SCHEDULER_CONFIG)
    write_pipeline_index(folder)


def _rename(
    layout: str, shapes: Mapping[str, Shape], kinds: Mapping[str, Dtype], tensors: Tensors
) -> tuple[Layout, Iterator[tuple[str, np.ndarray]]]:
    return rename_for_export(ACESTEP_LAYOUTS[layout], shapes, kinds, tensors)


def _pack(tensors: Tensors, bits: int) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in tensors:
        if is_packed(name, array.shape):
            yield from packed_stream([(name, array)], bits)
        else:
            yield name, array
