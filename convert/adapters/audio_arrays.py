"""Arrays of the audio family's LoRA files by the many spellings of their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from musiclora.convert.adapters.audio_modules import ACESTEP, KNOWN, flat_paths, known_paths
from musiclora.convert.adapters.lora import (
    MAGNITUDE,
    describe_foreign_array,
    rank_of,
    state_keys,
    state_modules,
    to_float32,
)
from musiclora.convert.adapters.lora_adapter import UNSTATED_ALPHA
from musiclora.convert.adapters.peft_config import LARGEST_ALPHA
from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.safetensors_file import Tensors

# PEFT, ComfyUI, diffusers (three ages of it), kohya and LyCORIS; DoRA as PEFT and as LyCORIS write it.
_NAME = re.compile(
    r"(?P<path>.+?)\.(?:"
    r"(?P<A>lora_A(?:\.default)?\.weight|lora_down\.weight|lora\.down\.weight|lora_linear_layer\.down\.weight)|"
    r"(?P<B>lora_B(?:\.default)?\.weight|lora_up\.weight|lora\.up\.weight|lora_linear_layer\.up\.weight)|"
    rf"(?P<alpha>alpha)|(?P<magnitude>{MAGNITUDE}(?:\.default)?(?:\.weight)?)|(?P<dora_scale>dora_scale))"
)
# They may follow each other.
_PREFIXES = (
    "base_model.model.",
    "diffusion_model.",
    "transformer.",
    "decoder.",
    "model.",
    "cfm.",
    "module.",
    "_orig_mod.",
)
_DIFFRHYTHM_PREFIXES = {"model.", "cfm."}  # model.layers.0.self_attn.q_proj is a language model's
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lora_diffusion_model_", "lycoris_", "lora_")
_OTHER_METHODS = {"lora_mid": "Tucker", "lora_te": "text encoder"}


@dataclass(frozen=True)
class LoraArrays:
    """Content of a LoRA file.

    Attributes:
        state: A [rank, in] and B [out, rank] by state key, float32.
        alphas: alpha of the modules that state one.
        magnitudes: of a DoRA adapter, one vector [out] a module.
    """

    state: dict[str, np.ndarray] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)
    magnitudes: dict[str, np.ndarray] = field(default_factory=dict)

    def notes(self) -> tuple[str, ...]:
        """Say which modules have no alpha of their own."""
        missing = [module for module in state_modules(self.state) if module not in self.alphas]
        if not (self.alphas and missing):
            return (UNSTATED_ALPHA,) if missing else ()
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        return (f"no alpha is stated for {missing[0]}{more}; it was taken for the rank (scale 1)",)

    def scales(self, others: Mapping[str, float] | None = None) -> dict[str, float]:
        """Compute the multiplier of B @ A of every module.

        Args:
            others: multiplier of modules without an alpha of their own; 1 where there is none, as in other readers.
        """
        ranks = {module: rank_of(self.state, module) for module in state_modules(self.state)}
        return {
            module: self.alphas[module] / rank if module in self.alphas and rank else (others or {}).get(module, 1.0)
            for module, rank in ranks.items()
        }


def sort_lora_arrays(tensors: Tensors, where: str) -> LoraArrays:
    """Sort a file's arrays by the modules and parts that their names mean.

    Raises:
        ConvertError: names of other methods, of modules that no architecture has or with an unknown prefix, shapes that
            no linear layer has, an alpha without arrays, or two arrays for one part, all at once.
    """
    found = LoraArrays()
    problems: list[str] = []
    for name, array in tensors:
        match = _NAME.fullmatch(name)
        module = find_module(match["path"]) if match else None
        if match is None or module is None:
            problems.append(_describe_stranger(name, match["path"] if match else ""))
        elif problem := _add_array(found, module, match.lastgroup or "", name, array):
            problems.append(problem)
    modules = set(state_modules(found.state))
    problems += [
        f"the alpha of {module} has no LoRA arrays beside it" for module in found.alphas if module not in modules
    ]
    if problems:
        known = f"; known prefixes are {', '.join((*_PREFIXES, *FLAT_PREFIXES))}"
        hint = known if any(" has the unknown prefix " in text for text in problems) else ""
        raise ConvertError(f"{where}: {join_problems(problems)}{hint}")
    return found


def find_module(path: str) -> str | None:
    """Find the module that a path with a known prefix means, by its canonical path; None where there is none."""
    for prefix in FLAT_PREFIXES:
        if path.startswith(prefix) and path.removeprefix(prefix) in flat_paths():
            return flat_paths()[path.removeprefix(prefix)]
    removed = set()
    while path not in known_paths():
        prefix = next((p for p in _PREFIXES if path.startswith(p)), "")
        if not prefix:
            return None
        removed.add(prefix)
        path = path.removeprefix(prefix)
    module = known_paths()[path]
    return None if removed & _DIFFRHYTHM_PREFIXES and module in ACESTEP.list_modules() else module


def _describe_stranger(name: str, path: str) -> str:
    """Say why a name is not understood: another method, an unknown prefix, or a module that no architecture has."""
    text = describe_foreign_array(name, _OTHER_METHODS)
    if not path or text.endswith("is not supported)"):
        return text
    endings = [path[i + 1 :] for i, letter in enumerate(path[:400]) if letter in "._"]
    known = next((e for e in endings if e in known_paths() or e in flat_paths()), None)
    if known is None:
        return f"{name} is no linear layer of {KNOWN}"
    return f"{name} has the unknown prefix {path.removesuffix(known)!r}"


def _add_array(found: LoraArrays, module: str, part: str, name: str, array: np.ndarray) -> str:
    """Add an array; return what is wrong with it, "" for nothing."""
    if part == "alpha":
        if array.size != 1 or not abs(float(array.reshape(-1)[0])) <= LARGEST_ALPHA:
            return f"{name} is no single finite number"
        return _add(found.alphas, module, float(array.reshape(-1)[0]), name)
    try:
        array = to_float32(name, array)
    except ConvertError as error:
        return str(error)
    if part == "magnitude":
        return _add(found.magnitudes, module, array, name)
    if part == "dora_scale":
        if array.ndim != 2 or array.shape[1] != 1:
            # LyCORIS without wd_on_out keeps lengths of columns; on a square matrix only the shape tells.
            return f"{name} is {list(array.shape)}, only DoRA over outputs, [out, 1], is supported"
        return _add(found.magnitudes, module, array[:, 0], name)
    if set(array.shape[2:]) - {1}:
        return f"{name} is {list(array.shape)}, the kernel of a convolution; only linear layers are adapted here"
    matrix = array.reshape(array.shape[:2]) if array.ndim > 2 else array
    return _add(found.state, state_keys(module)[part == "B"], matrix, name)


def _add(values: dict[str, Any], key: str, value: object, name: str) -> str:
    if key in values:
        return f"{name} comes twice, under another name"
    values[key] = value
    return ""
