"""Adapters in diffusers' format, loaded by diffusers itself."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tolerance
from require import require

from musiclora.conversion.adapter import convert_adapter
from musiclora.convert.adapters.diffusers import FILE
from musiclora.convert.files.safetensors_file import safetensors_header
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, write_diffrhythm

CONFIG = DiffRhythmConfig(64, 2, 2, conv_layers=1, mel_dim=8, text_num_embeds=5, max_frames=64)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(1)
    tensors = {n: (0.1 * rng.standard_normal(s)).astype(np.float32) for n, s in CONFIG.tensor_shapes().items()}
    write_diffrhythm(tmp_path / "base", CONFIG, tensors.items(), "hf", "float32")
    return tmp_path / "base"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"proj_out": 3, r".*\.1\.self_attn.*": 5}, "alpha_pattern": {"o_proj": 2, "q_proj": 0.1}},
    ],
    ids=["plain", "rslora", "dora", "patterns"],
)
def test_it_computes_what_vanilla_peft_does_with_the_original(settings: dict[str, Any], base: Path) -> None:
    torch, peft = require("torch"), require("peft")
    mixin = require("diffusers.loaders.peft").PeftAdapterMixin
    from safetensors.torch import load_file

    from musiclora.backends.torch.diffrhythm import DiT

    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "o_proj", "proj_out", "time_mlp.0"],
        init_lora_weights=False,
        **settings,
    )
    model = peft.get_peft_model(DiT.from_folder(base), config)
    model.save_pretrained(base.parent / "a", save_embedding_layers=False)
    expected = model.merge_and_unload().state_dict()
    convert_adapter(str(base.parent / "a"), base.parent / "d", "diffusers")
    file = base.parent / "d" / FILE
    header = json.loads(safetensors_header(file)[1]["lora_adapter_metadata"])
    theirs: Any = DiT.from_folder(base)
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    # What a model of diffusers has beside its layers.
    theirs.__class__ = type("Theirs", (type(theirs), mixin), {"_hf_peft_config_loaded": False, "dtype": torch.float32})
    theirs.device = torch.device("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.load_lora_adapter(load_file(file), prefix="transformer", metadata=header)
        theirs.fuse_lora()
    found = {n.replace(".base_layer", ""): t for n, t in theirs.state_dict().items() if "lora_" not in n}
    # Sums over the rank of up to 5; with DoRA a norm of up to 512 squares, a quotient and a product.
    for name, tensor in expected.items():
        tolerance.assert_near(found[name], tensor, tolerance.rounding(5 + 512 + 8, max(0.1, tensor.abs().max())), name)
    assert max(float((before[n] - expected[n]).abs().max()) for n in expected) > 0.01
