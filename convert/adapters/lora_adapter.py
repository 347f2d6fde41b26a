"""The common form of a LoRA adapter, which every format is read into and written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from musiclora.convert.adapters.lora import (
    MAGNITUDE_KEY,
    STATE_KEY,
    LoraSpec,
    RankScales,
    alpha_for,
    check_magnitudes,
    check_state,
    describe_foreign_array,
    join_magnitudes,
    shapes_by_rank,
    state_keys,
    state_modules,
    to_float32,
)
from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.safetensors_file import Arrays, Tensors

# GPT-2's embedding and its tied output head, which PEFT saves with `save_embedding_layers`.
EMBEDDINGS = ("transformer.wte.weight", "lm_head.weight")
UNSTATED_ALPHA = "no alpha is stated; it was taken for the rank, as other readers do (scale 1)"


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA or DoRA adapter, independent of its file format.

    Attributes:
        spec: settings; rank and alpha hold for every module only if `is_uniform`, and `dora` follows the magnitudes.
        state: float32 arrays, `<module>.lora_A.weight` [rank, in] and `<module>.lora_B.weight` [out, rank].
        base_model: the base it names, "" where it names none.
        record: content of musiclora.json, empty where there is none.
        config: content of adapter_config.json, empty for formats without one.
        ranks: rank of every module.
        scales: multiplier of B @ A of every module.
        magnitudes: of a DoRA adapter (Liu et al. 2024, arXiv 2402.09353), one vector [out] a module; else empty.
        embeddings: whole tensors that PEFT saved with it, by name; they must equal the base's.
        notes: remarks for the user on how it was read.
    """

    spec: LoraSpec
    state: dict[str, np.ndarray]
    base_model: str
    record: dict[str, Any]
    config: dict[str, Any]
    ranks: dict[str, int]
    scales: dict[str, float]
    magnitudes: dict[str, np.ndarray] = field(default_factory=dict)
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.spec.dora != bool(self.magnitudes):
            object.__setattr__(self, "spec", replace(self.spec, dora=bool(self.magnitudes)))

    @classmethod
    def from_spec(
        cls,
        spec: LoraSpec,
        state: Arrays,
        base_model: str = "",
        *,
        rank_scales: RankScales | None = None,
        magnitudes: Arrays | None = None,
        record: Mapping[str, Any] | None = None,
        notes: tuple[str, ...] = (),
    ) -> LoraAdapter:
        """Build an adapter from its settings and arrays.

        Args:
            spec: rank and scale of all modules.
            state: arrays by state key.
            base_model: the base it belongs to.
            rank_scales: rank and scale of every module, where they differ from those of spec.
            magnitudes: of a DoRA adapter, one vector [out] a module.
            record: content of musiclora.json.
            notes: remarks for the user.
        """
        shared = dict.fromkeys(state_modules(state), (spec.rank, spec.scale))
        own = shared if rank_scales is None else rank_scales
        ranks = {module: own[module][0] for module in shared}
        scales = {module: own[module][1] for module in shared}
        return cls(
            spec, dict(state), base_model, dict(record or {}), {}, ranks, scales, dict(magnitudes or {}), notes=notes
        )

    @property
    def is_uniform(self) -> bool:
        """True if one rank and one scale hold for every module."""
        return set(self.ranks.values()) == {self.spec.rank} and set(self.scales.values()) == {self.spec.scale}

    @property
    def rank_scales(self) -> RankScales | None:
        """Rank and scale of every module; None where those of spec hold for all."""
        return None if self.is_uniform else {m: (rank, self.scales[m]) for m, rank in self.ranks.items()}

    @property
    def model_state(self) -> dict[str, np.ndarray]:
        """Return the arrays under the keys of `Model.read_adapter`: the matrices and DoRA's magnitudes."""
        return join_magnitudes(self.state, self.magnitudes)

    def check_arrays(self, where: str) -> None:
        """Compare names and shapes of the arrays with the ranks.

        Raises:
            ConvertError: missing, surplus, mis-shaped or non-finite arrays, all at once.
        """
        check_state(self.state, shapes_by_rank(self.state, self.ranks), where)
        if self.magnitudes or self.config.get("use_dora") or self.config.get("fine_tune_type") == "dora":
            check_magnitudes(self.magnitudes, self.state, where)


def make_uniform(adapter: LoraAdapter) -> tuple[LoraSpec, dict[str, np.ndarray]]:
    """Express the same update with one rank and one scale.

    Ranks are padded with zeros, and ratios of scales are multiplied into B.
    """
    if adapter.is_uniform:
        return adapter.spec, dict(adapter.state)
    spec, rank = adapter.spec, max(adapter.ranks.values())
    scale = max(adapter.scales.values(), key=abs)
    state: dict[str, np.ndarray] = {}
    for module, own in adapter.ranks.items():
        key_a, key_b = state_keys(module)
        ratio = np.float32(adapter.scales[module] / scale) if scale else np.float32(1)
        state[key_a] = np.pad(adapter.state[key_a], ((0, rank - own), (0, 0)))
        state[key_b] = np.pad(adapter.state[key_b] * ratio, ((0, 0), (0, rank - own)))
    return LoraSpec(rank, alpha_for(scale, rank), spec.dropout, spec.targets, rslora=False, dora=spec.dora), state


@dataclass(frozen=True)
class PeftArrays:
    """Arrays of a file with PEFT's names.

    Attributes:
        state: A and B by state key, float32.
        magnitudes: DoRA's, by module, float32.
        embeddings: whole embedding and output head, by name, as stored.
    """

    state: dict[str, np.ndarray] = field(default_factory=dict)
    magnitudes: dict[str, np.ndarray] = field(default_factory=dict)
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)


def sort_arrays(tensors: Tensors, prefix: str, where: str) -> PeftArrays:
    """Sort the arrays of a file with PEFT's names.

    Args:
        tensors: (name in the file, array).
        prefix: optional prefix of a module's path.
        where: the file, for messages.

    Raises:
        ConvertError: arrays of another method (named), or two for one key.
    """
    found = PeftArrays()
    problems: list[str] = []
    for name, array in tensors:
        plain = name.removeprefix(prefix)
        if vector := MAGNITUDE_KEY.fullmatch(plain):
            found.magnitudes[vector["module"]] = to_float32(f"{where}: {name}", array)
        elif match := STATE_KEY.fullmatch(plain):
            key = f"{match['module']}.lora_{match['part']}.weight"
            if key in found.state:
                problems.append(f"{key} comes twice")
            found.state[key] = to_float32(f"{where}: {name}", array)
        elif plain in EMBEDDINGS:
            found.embeddings[plain] = array
        else:
            text = describe_foreign_array(name)
            hint = "; PEFT's are MODULE.lora_A.weight and MODULE.lora_B.weight"
            problems.append(text + hint if ".lora" in name and text.endswith("no LoRA array") else text)
    if problems:
        raise ConvertError(f"{where}: {join_problems(problems)}")
    return found
