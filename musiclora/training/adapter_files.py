"""Adapter and model folders that a run writes, with their records and cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from musiclora import __version__
from musiclora.backends import lora_init
from musiclora.backends.base import Arrays, Model
from musiclora.convert.adapters.lora import LoraSpec, module_of_weight, split_magnitudes, state_keys
from musiclora.convert.adapters.lora_math import Dora
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.models.gpt2 import Gpt2Config, write_checkpoint
from musiclora.families import spec_of_family
from musiclora.models import BaseModel
from musiclora.reporting.model_card import adapter_kind, adapter_tags, card_header, describe_base

_CARD = """{header}
# A {kind} adapter for {base}

Trained with musiclora {version} on {songs} {form.pieces}. The base model's licence: {licence}. Whoever shares this
adapter answers for the rights in the music it was trained on.

{scores}
{lines}
    musiclora generate --adapter-dir THIS_FOLDER --model {model} --output {form.output}

It is a plain PEFT folder: `PeftModel.from_pretrained(base, THIS_FOLDER)` loads it as well{form.how}.
"""


@dataclass(frozen=True)
class AdapterForm:
    """Card texts and PEFT settings of a family's adapter folders.

    Attributes:
        pieces, output, how: texts of the card: the kind of training data, the file to generate with what its command
            needs besides, and how PEFT's base is loaded.
        task_type, fan_in_fan_out: PEFT's settings.
    """

    pieces: str = "pieces of music"
    output: str = "new.mid"
    how: str = ""
    task_type: str | None = "CAUSAL_LM"
    fan_in_fan_out: bool = True


@dataclass(frozen=True)
class Provenance:
    """Origin of an adapter, for its record and card; no absolute paths and no song names.

    Attributes:
        base: the base model.
        family: `symbolic` or `audio`.
        backend: the backend that trained it.
        fingerprints: of the base, by part.
        songs: number of training songs.
        files: further files of the folder, such as tokenizer.json.
        form: card texts and settings of the family's folders.
        extra: the family's own entries of musiclora.json.
        lines: the family's own lines of the card.
    """

    base: BaseModel
    family: str
    backend: str
    fingerprints: Mapping[str, str]
    songs: int
    files: Mapping[str, bytes]
    form: AdapterForm = AdapterForm()
    extra: Mapping[str, Any] = field(default_factory=dict)
    lines: Sequence[str] = ()

    def record(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Return the content of musiclora.json."""
        return {
            "format": 1,
            "musiclora": __version__,
            "family": self.family,
            "base_model": self.base.public_name,
            "base_kind": self.base.kind,
            "backend": self.backend,
            "fingerprints": dict(self.fingerprints),
            "songs": self.songs,
            "metrics": dict(metrics),
            **self.extra,
        }


def save_adapter(path: Path, model: Model, spec: LoraSpec, origin: Provenance, metrics: Mapping[str, float]) -> None:
    """Write the model's adapter as a PEFT folder; it replaces an older one as a whole."""
    form = origin.form
    scores = "\n".join(f"* {name}: {value:.4f}" for name, value in metrics.items() if isinstance(value, float))
    base, family = origin.base, spec_of_family(origin.family)
    card = _CARD.format(
        header=card_header(
            pipeline_tag=family.pipeline_tag,
            tags=adapter_tags(family.card_tag, spec.dora),
            base=base.name if base.kind == "hub" else "",
            licence=base.licence,
            library="peft",
        ),
        kind=adapter_kind(spec.dora),
        base=describe_base(base.public_name, origin.fingerprints.get("weights", "")),
        model=base.public_name or "BASE_FOLDER",
        version=__version__,
        songs=origin.songs,
        licence=base.licence,
        scores=scores,
        lines="".join(f"* {line}\n" for line in origin.lines),
        form=form,
    )
    state, magnitudes = split_magnitudes(model.read_adapter())
    write_peft(
        path,
        spec,
        state,
        base_model=base.public_name,
        magnitudes=magnitudes,
        record=origin.record(metrics),
        readme=card,
        task_type=form.task_type,
        fan_in_fan_out=form.fan_in_fan_out,
        extra_files=origin.files,
        overwrite=True,
    )


def save_model(path: Path, model: Model, config: Gpt2Config, files: Mapping[str, bytes]) -> None:
    """Write the model's weights as a Hugging Face folder, with more files by name."""
    write_checkpoint(path, config, model.read_weights(), "hf", dtype="float32", extra_files=files, overwrite=True)


def update_size(base: Mapping[str, float], spec: LoraSpec, state: Arrays) -> dict[str, float]:
    """Compute the size of the update relative to the weights, by module.

    Args:
        base: Frobenius norm of each adapted module's weight.
        spec: holds the scale.
        state: adapter arrays.

    Returns:
        ||scale * B A||_F / ||W||_F by module. The norm of the product comes from two rank x rank matrices:
        ||B A||_F^2 = sum(B^T B * A A^T).
    """
    ratios = {}
    for module, norm in base.items():
        key_a, key_b = state_keys(module)
        a, b = state[key_a].astype(np.float64), state[key_b].astype(np.float64)
        squared = float(((b.T @ b) * (a @ a.T)).sum())
        ratios[module] = spec.scale * max(squared, 0.0) ** 0.5 / max(norm, 1e-30)
    return ratios


def measure_update(
    model: Model, base: Mapping[str, float], spec: LoraSpec, state: Arrays, form: AdapterForm
) -> dict[str, float]:
    """Compute the size of the update relative to the weights, by module: ||W' - W||_F / ||W||_F.

    Args:
        model: gives the base's weights, on which a DoRA adapter's change depends.
        base: Frobenius norm of each adapted module's weight.
        spec: settings of the adapter.
        state: adapter arrays, with DoRA's magnitudes where spec asks for them.
        form: says how the weights lie.
    """
    if not spec.dora:
        return update_size(base, spec, state)
    plain, magnitudes = split_magnitudes(state)
    adapter, ratios = Dora(spec, plain, magnitudes), dict[str, float]()
    for name, array in model.read_weights():
        if (module := module_of_weight(name)) in base:
            change = adapter.change(module, array.T if form.fan_in_fan_out else array)
            ratios[module] = float(np.linalg.norm(change)) / max(base[module], 1e-30)
    return ratios


def initial_arrays(model: Model, spec: LoraSpec, seed: int, form: AdapterForm) -> dict[str, np.ndarray]:
    """Draw the arrays that an adapter's training starts from; it changes nothing yet.

    Args:
        model: the base.
        spec: settings of the adapter.
        seed: of A.
        form: says how the weights lie.

    Raises:
        ConfigError: a target that matches nothing.
    """
    state = lora_init.initial(spec, model.linear_shapes(), seed)
    return lora_init.with_magnitudes(state, model.read_weights(), conv1d=form.fan_in_fan_out) if spec.dora else state


def weight_norms(model: Model, modules: list[str]) -> tuple[dict[str, float], int]:
    """Compute the Frobenius norm of each module's weight, and count all parameters of the model."""
    wanted, norms, parameters = set(modules), dict[str, float](), 0
    for name, array in model.read_weights():
        parameters += array.size
        if (module := module_of_weight(name)) in wanted:
            norms[module] = float(np.linalg.norm(array.astype(np.float32)))
    return norms, parameters
