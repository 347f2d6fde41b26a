"""LoRA checkpoints of the lora_music_generation scripts: a .pt with lora_state_dict, step and loss."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from musiclora.convert.adapters.audio_adapter import build_adapter
from musiclora.convert.adapters.lora import rank_of, state_keys, state_modules
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.torch_file import TorchFile

ALPHA = 16.0  # fixed in the scripts; the files do not state it
_ARRAY_NAME = re.compile(r"(?:transformer\.)?(?P<module>.+)\.lora_(?P<part>[AB])")


def read_lora_music_generation(path: Path) -> LoraAdapter:
    """Read such a checkpoint, which keeps A as [in, rank] and B as [rank, out].

    Raises:
        ConvertError: another file, a name off the unpickler's allow-list, or arrays that do not fit.
    """
    file = TorchFile(path)
    part = file.tree.get("lora_state_dict") if isinstance(file.tree, dict) else None
    if not isinstance(part, dict):
        raise ConvertError(f"{path}: no LoRA checkpoint: it has no lora_state_dict")
    state: dict[str, np.ndarray] = {}
    problems: list[str] = []
    for name, array in file.read(file.tensors(part).items()):
        match = _ARRAY_NAME.fullmatch(name)
        if match is None or array.ndim != 2:
            problems.append(f"{name} {list(array.shape)} is no LoRA matrix")
            continue
        # Transposed here: where rank equals the width, the wrong one would fit as well.
        state[state_keys(match["module"])[match["part"] == "B"]] = np.ascontiguousarray(array.T)
    if problems:
        raise ConvertError(f"{path}: {join_problems(problems)}")
    scales = {module: ALPHA / max(rank_of(state, module), 1) for module in state_modules(state)}
    return build_adapter(state, scales, str(path))
