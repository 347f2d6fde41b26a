"""ACE-Step's part of `fuse`, and of the comparison of adapters."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from musiclora.audio.style_files import blended_style
from musiclora.conversion.acestep_parts import copy_parts
from musiclora.conversion.compare import OutputComparison
from musiclora.conversion.fuse_flow import Batch, Change, FlowFusing, Kinds
from musiclora.conversion.merged import MergedAdapters
from musiclora.conversion.protocols import CompareAdapters, FuseModel, ModelConversion, ModelFusion
from musiclora.conversion.verify import Converted
from musiclora.convert.files.safetensors_file import Tensors
from musiclora.convert.models.acestep import AceStepCheckpoint, AceStepConfig, read_acestep, tensor_shapes
from musiclora.convert.models.acestep_folders import find_acestep
from musiclora.convert.models.acestep_names import DECODER
from musiclora.convert.models.acestep_write import write_acestep
from musiclora.families import ACESTEP
from musiclora.progress import Reporter

_BATCH_FRAMES, _CONDITION_ROWS = 25, 9


def fuse_acestep(fusion: ModelFusion, reporter: Reporter) -> Converted:
    """Add adapters to ACE-Step and write one model folder with the base's codec, text encoder and tokenizer.

    Raises:
        ConvertError: they do not fit, or the float32 result differs from base and adapter; nothing is written then.
    """
    return FUSING.fuse(fusion, reporter)


def compare_acestep_adapters(
    base: Path, before: MergedAdapters, after: MergedAdapters, backend: str
) -> OutputComparison:
    """Compare the velocities of a base with one set of adapters and with another."""
    return FUSING.compare(base, before, after, backend)


def _write(checkpoint: AceStepCheckpoint, folder: Path, change: Change, to: str, kinds: Kinds) -> None:
    carried = checkpoint.carried if to == "hf" else {}

    def read(names: Collection[str]) -> Tensors:
        weights = [name for name in names if name not in carried]
        tensors = checkpoint.tensors(weights)
        # The silence is in a file of its own, where no module is missing because it is not there.
        yield from change(tensors) if any(name.startswith(DECODER) for name in weights) else tensors
        codes = [name for name in names if name in carried]
        if codes:
            yield from checkpoint.tensors(codes)

    write_acestep(folder, checkpoint.config, read, to, kinds, other_settings=checkpoint.other_settings, carried=carried)


def _random_batch(config: AceStepConfig) -> Batch:
    """Draw two rows with conditions of different lengths, so that every adapted module is tested."""
    rng = np.random.default_rng(0)
    shape = (2, _BATCH_FRAMES, config.latent_dim)
    lengths = np.array([[_CONDITION_ROWS], [_CONDITION_ROWS // 2]])
    conditioning = {
        "condition": rng.standard_normal((2, _CONDITION_ROWS, config.encoder.hidden), np.float32),
        "condition_valid": np.arange(_CONDITION_ROWS) < lengths,
        "context": rng.standard_normal((*shape[:2], 2 * config.latent_dim), np.float32),
    }
    return rng.standard_normal(shape, np.float32), np.array([0.2, 0.7], np.float32), conditioning


def _copy_parts(fusion: ModelFusion, folder: Path) -> list[str]:
    """Copy codec, text encoder, tokenizer and papers next to the fused weights; return notes for the user."""
    source = find_acestep(fusion.base.path)
    conversion = ModelConversion(fusion.base.path, fusion.destination, fusion.to, fusion.dtype)
    channels = read_acestep(fusion.base.path).config.latent_dim
    notes = copy_parts(conversion, source, channels, folder, fusion.dtype, Reporter())
    if blended_style(fusion.adapters) is not None:
        notes.append(
            "the trained condition is no weight and cannot be fused: give --caption to the fused model, or generate "
            "from the base with --adapter-dir"
        )
    return notes


FUSING = FlowFusing(ACESTEP, read_acestep, tensor_shapes, _write, _random_batch, _copy_parts)

if TYPE_CHECKING:
    _fuse: FuseModel = fuse_acestep
    _compare: CompareAdapters = compare_acestep_adapters
