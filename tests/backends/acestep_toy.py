"""A small ACE-Step checkpoint on a backend, with the methods of `audio_toys.FlowToy`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from acestep_flow_toys import CONFIGS as SHAPES
from acestep_flow_toys import PARITY, SPEC, conditioning_of, flow_batch, random_tensors
from acestep_toys import reader
from audio_toys import CONFIGS as DIFFRHYTHM
from audio_toys import FlowToy
from require import require

from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.models.acestep import tensor_shapes
from musiclora.convert.models.acestep_config import AceStepConfig, alternating
from musiclora.convert.models.acestep_names import transformer_names
from musiclora.convert.models.acestep_write import write_acestep

# The encoder's blocks play no part here.
CONFIGS = {
    f"acestep-{name}": replace(config, lyric_layers=1, timbre_layers=1, text_dim=8) for name, config in SHAPES.items()
}
ROUNDING = 2e-5  # of the largest value: three blocks in float32, in two orders of summation


def write_toy(
    folder: Path, config: AceStepConfig, tensors: dict[str, np.ndarray] | None = None, layout: str = "hf", **more: Any
) -> Path:
    """Write a checkpoint whose weights depend on their names, but for the tensors given."""
    found = random_tensors(tensor_shapes(config)) | (tensors or {})
    if config.layer_types[: len(alternating(2))] != alternating(2):
        layout = "diffusers"  # the original's config.json says how its encoders' blocks alternate, too
    write_acestep(folder, config, reader(found), layout, "float32", **more)
    return folder


@dataclass
class AceStepToy(FlowToy):
    """A backend with one checkpoint folder; every model it gives is loaded again."""

    spec: ClassVar[LoraSpec] = SPEC
    style_keys: ClassVar[tuple[str, ...]] = ("condition", "condition_valid")
    root: ClassVar[str] = "decoder."

    def tensors(self) -> dict[str, np.ndarray]:
        shapes = tensor_shapes(self.config)
        return random_tensors({name: shapes[name] for name in transformer_names(self.config)})

    def written(self, folder: Path, tensors: dict[str, np.ndarray]) -> FlowToy:
        return replace(self, folder=write_toy(folder, self.config, tensors))

    def batch(self, length: int = 23, **settings: Any) -> dict[str, np.ndarray]:
        """Two rows, the second with half as many frames and a shorter condition."""
        batch = flow_batch(self.config, frames=length, **settings)
        batch["valid"][1:, length // 2 :] = False
        batch["condition_valid"][1:, 4:] = False
        return batch

    def style(self) -> np.ndarray:
        return np.random.default_rng(6).standard_normal((3, self.config.encoder.hidden), np.float32)

    def conditioning(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return conditioning_of(batch)

    def velocity_tolerance(self, expected: np.ndarray, guidance: float) -> float:
        return (1 + 2 * guidance) * ROUNDING * max(1.0, float(np.abs(expected).max()))

    def loss_tolerance(self) -> float:
        return ROUNDING

    def gradient_tolerance(self, batch: dict[str, np.ndarray], largest: float) -> float:
        return PARITY / 2 * largest


def make_toy(backend: Any, folders: dict[str, Path], name: str) -> FlowToy:
    """Build a toy of either architecture by its name."""
    if name not in CONFIGS:
        return FlowToy(backend, folders[name], DIFFRHYTHM[name])
    if backend.name == "torch":
        require("diffusers")
    return AceStepToy(backend, folders[name], CONFIGS[name])
