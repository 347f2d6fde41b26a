"""Copy indexes through convert and blend, and the songs that a blend records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from melodies import tune

from musiclora.conversion.adapter import convert_adapter
from musiclora.conversion.blend import blend_adapters
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.models.gpt2 import Gpt2Config
from musiclora.evaluation.copies.index_file import COPY_INDEX, copy_index_bytes, identify_songs, read_copy_index
from musiclora.symbolic.copying import open_piece_meter

CONFIG = Gpt2Config(vocab_size=40, n_positions=16, n_embd=12, n_layer=2, n_head=3, n_inner=48)
SPEC = LoraSpec(2, 4.0, 0.0, ("c_attn",))


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, songs in (("a", ["s1", "s2"]), ("b", ["s2", "s3"])):
        shapes = state_shapes(SPEC, CONFIG.linear_shapes())
        state = {n: np.random.default_rng(0).standard_normal(s).astype(np.float32) for n, s in shapes.items()}
        index = copy_index_bytes([tune(i) for i in range(3)], [tune(9)], identify_songs(songs))
        record = {"musiclora": "0.2", "trained_on": songs}
        write_peft(Path(name), SPEC, state, base_model="", record=record, extra_files={COPY_INDEX: index})


@pytest.mark.usefixtures("no_backend")
@pytest.mark.parametrize("to", ["peft", "mlx-lm"])
def test_convert_carries_the_copy_index_which_is_that_of_its_record(to):
    found = convert_adapter("a", Path("out"), to)
    assert (Path("out") / COPY_INDEX).read_bytes() == (Path("a") / COPY_INDEX).read_bytes()
    assert not [note for note in found.notes if "copy index" in note]
    songs = json.loads((Path("out") / "musiclora.json").read_text())["trained_on"]
    assert read_copy_index(Path("out") / COPY_INDEX, identify_songs(songs))


@pytest.mark.usefixtures("no_backend")
def test_convert_leaves_out_a_copy_index_of_another_adapter_and_says_so():
    (Path("a") / COPY_INDEX).write_bytes((Path("b") / COPY_INDEX).read_bytes())
    found = convert_adapter("a", Path("out"), "peft")
    assert [note for note in found.notes if note.startswith("left out the copy index: ")]
    assert not (Path("out") / COPY_INDEX).exists()


@pytest.mark.usefixtures("no_backend")
def test_blend_says_that_several_indexes_are_not_joined_and_records_all_songs():
    found, _, _ = blend_adapters(["a", "b:0.5"], Path("both"))
    assert len([note for note in found.notes if f"the blended adapter has no {COPY_INDEX}" in note]) == 1
    assert not (Path("both") / COPY_INDEX).exists()
    assert json.loads((Path("both") / "musiclora.json").read_text())["trained_on"] == ["s1", "s2", "s3"]


@pytest.mark.usefixtures("no_backend")
def test_blend_of_one_adapter_carries_its_index():
    from musiclora.adapters import find_adapter
    from musiclora.progress import Reporter

    found, _, _ = blend_adapters(["a:0.5"], Path("half"))
    assert not [note for note in found.notes if COPY_INDEX in note]
    assert open_piece_meter([find_adapter("half")], None, Reporter()) is not None
