"""Backend records: the requirements, devices and model classes of each backend (standard library only).

A new backend is one folder beside this file and one record in `BACKENDS`; nothing else lists backends by name.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class BackendSpec:
    """One backend.

    Classes, or class methods that load them, are references for `resolve_class`, so that only the asked-for
    architecture is imported.

    Attributes:
        name: value of `--backend`.
        modules: importable modules that it needs.
        extra: pip extra that installs them.
        backend: module that holds `BACKEND` and `describe`.
        devices: rank of each kind of device; `auto` takes the usable pair of backend and device of the lowest rank.
        models: model class by architecture, which is `model_type` of config.json.
        codecs: codec class by architecture.
        text_encoders: class of text encoders by architecture.
        condition_encoders: class of the condition encoder by the model's architecture, where it has one.
    """

    name: str
    modules: tuple[str, ...]
    extra: str
    backend: str
    devices: Mapping[str, int]
    models: Mapping[str, str]
    codecs: Mapping[str, str]
    text_encoders: Mapping[str, str] = field(default_factory=dict)
    condition_encoders: Mapping[str, str] = field(default_factory=dict)


MLX = BackendSpec(
    name="mlx",
    modules=("mlx",),
    extra="mlx",
    backend="musiclora.backends.mlx.backend",
    devices={"metal": 10, "cuda": 30, "cpu": 60},
    models={
        "gpt2": "musiclora.backends.mlx.gpt2:MlxGpt2",
        "diffrhythm": "musiclora.backends.mlx.diffrhythm:MlxFlow",
        "acestep": "musiclora.backends.mlx.acestep_model:MlxAceStep",
    },
    codecs={"oobleck": "musiclora.backends.mlx.oobleck:MlxOobleck"},
    text_encoders={"qwen3": "musiclora.backends.mlx.qwen3:MlxQwen3"},
    condition_encoders={"acestep": "musiclora.backends.mlx.acestep_encoder:MlxConditionEncoder"},
)

TORCH = BackendSpec(
    name="torch",
    modules=("torch", "peft", "transformers"),
    extra="torch",
    backend="musiclora.backends.torch.backend",
    devices={"cuda": 20, "mps": 40, "cpu": 50},
    models={
        "gpt2": "musiclora.backends.torch.gpt2:TorchGpt2",
        "diffrhythm": "musiclora.backends.torch.diffrhythm:TorchFlow",
        "acestep": "musiclora.backends.torch.acestep:TorchAceStep.from_folder",
    },
    codecs={"oobleck": "musiclora.backends.torch.oobleck:TorchOobleck"},
    text_encoders={"qwen3": "musiclora.backends.torch.qwen3:TorchQwen3"},
    condition_encoders={"acestep": "musiclora.backends.torch.acestep_encoder:TorchConditionEncoder"},
)

BACKENDS: Mapping[str, BackendSpec] = {spec.name: spec for spec in (MLX, TORCH)}


def preference_order() -> list[tuple[str, str]]:
    """List the pairs (backend, kind of device) in the order in which `auto` takes them."""
    ranked = [(rank, spec.name, kind) for spec in BACKENDS.values() for kind, rank in spec.devices.items()]
    return [(name, kind) for _, name, kind in sorted(ranked)]


def install_hint(*names: str) -> str:
    """Name the commands that install these backends."""
    return " or ".join(f"pip install 'musiclora[{BACKENDS[name].extra}]'" for name in names)


def resolve_class(reference: str) -> Any:
    """Import the class, or its class method, that a reference `module:Class` or `module:Class.method` names."""
    module, _, name = reference.partition(":")
    return operator.attrgetter(name)(importlib.import_module(module))
