"""LoRA files whose arrays are no matrices, or too large: one message names the array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from musiclora.convert.adapters.diffrhythm_modules import known_modules
from musiclora.convert.adapters.formats import read_any_file
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import write_safetensors

GPT2 = "base_model.model.transformer.h.0.attn.c_attn"
AUDIO = "transformer_blocks.0.self_attn.q_proj"
_FLAT = f"lora_unet_{AUDIO.replace('.', '_')}"
NAMES = {
    "kohya": (f"{_FLAT}.lora_down.weight", f"{_FLAT}.lora_up.weight"),
    "diffusers": (f"transformer.{AUDIO}.lora_A.weight", f"transformer.{AUDIO}.lora_B.weight"),
    "peft": (f"{GPT2}.lora_A.weight", f"{GPT2}.lora_B.weight"),
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(
    ("a", "b", "named"),
    [
        (np.float32(1).reshape(()), np.ones((8, 4), np.float32), r"lora_A.weight is \[\], expected \[rank, in\]"),
        (np.ones((0, 4), np.float32), np.ones((8, 0), np.float32), r"lora_A.weight is \[0, 4\], expected \[rank, in\]"),
        (None, np.ones((8, 4), np.float32), "lora_A.weight is missing"),
        (np.full((4, 8), 1e300), np.ones((8, 4)), r"its largest value 1e\+300 does not fit float32$"),
    ],
    ids=["scalar", "no rank", "missing", "too large"],
)
def test_an_array_that_is_no_matrix_is_named(
    tmp_path: Path, kind: str, a: np.ndarray | None, b: np.ndarray, named: str
) -> None:
    assert AUDIO in known_modules()
    name_a, name_b = NAMES[kind]
    write_safetensors(tmp_path / "x.safetensors", {name_b: b} if a is None else {name_a: a, name_b: b})
    with pytest.raises(ConvertError, match=named):
        read_any_file(tmp_path / "x.safetensors")
