"""Updates that rounding loses: said by fuse, and by convert model of what was fused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from musiclora.conversion.fuse import fuse_adapters
from musiclora.conversion.model import convert_model
from musiclora.conversion.update_arrival import UPDATE_ROUNDED, UpdateArrival, describe_arrival
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.files.fingerprint import RECORD
from musiclora.convert.files.safetensors_file import dtype_named
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, write_diffrhythm
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint
from musiclora.families import checkpoint_fingerprint

GPT2 = Gpt2Config(vocab_size=40, n_positions=16, n_embd=12, n_layer=2, n_head=3, n_inner=48)
DIT = DiffRhythmConfig(64, 2, 2, conv_layers=1, mel_dim=8, text_num_embeds=5, max_frames=64)
FAMILIES = {"symbolic": (GPT2, ("c_attn",)), "audio": (DIT, ("q_proj",))}


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def make(family: str, size: float, dtype: str = "float32") -> None:
    """Write a base, and an adapter whose matrices B have values of a size."""
    config, targets = FAMILIES[family]
    rng = np.random.default_rng(0)
    if family == "symbolic":
        write_checkpoint(Path("base"), config, fresh_tensors(config, 0), "hf", dtype=dtype)
    else:
        tensors = {n: (0.1 * rng.standard_normal(s)).astype(np.float32) for n, s in config.tensor_shapes().items()}
        write_diffrhythm(Path("base"), config, tensors.items(), "hf", dtype)
    spec = LoraSpec(2, 4.0, 0.0, targets)
    shapes = state_shapes(spec, config.linear_shapes())
    state = {n: rng.standard_normal(s).astype(np.float32) * (size if "lora_B" in n else 1) for n, s in shapes.items()}
    record = {"family": family, "fingerprints": checkpoint_fingerprint(Path("base"))}
    task = {"task_type": None, "fan_in_fan_out": False} if family == "audio" else {}
    write_peft(Path("adapter"), spec, state, base_model="base", record=record, **task)


def warnings(result) -> list[str]:
    return [note for note in result.notes if note.startswith("warning: ")]


@pytest.mark.usefixtures("no_backend")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_fuse_says_that_nothing_of_the_update_arrives(family, dtype):
    make(family, 1e-7, dtype)
    said = warnings(fuse_adapters(["adapter"], Path("out"), "base"))
    kept = "nothing of the update arrives: rounded to {}, "
    assert len(said) == 1
    assert kept.format(dtype) in said[0]
    assert said[0].endswith("use --dtype float32")
    assert not warnings(fuse_adapters(["adapter"], Path("whole"), "base", dtype="float32"))


@pytest.mark.usefixtures("no_backend")
@pytest.mark.parametrize("family", FAMILIES)
def test_fuse_of_a_trained_adapter_says_nothing_and_records_what_arrives(family):
    make(family, 0.01, "bfloat16")
    assert not warnings(fuse_adapters(["adapter"], Path("out"), "base"))
    kept = json.loads((Path("out") / RECORD).read_text())[UPDATE_ROUNDED]
    assert kept["float16"]["changed"] > kept["bfloat16"]["changed"] > 0.5
    assert kept["float16"]["error"] < kept["bfloat16"]["error"] < 0.5


@pytest.mark.usefixtures("no_backend")
def test_fuse_says_where_not_even_float32_holds_the_update():
    make("symbolic", 1e-25)
    found = fuse_adapters(["adapter"], Path("out"), "base")
    assert warnings(found) == [
        "warning: the update changes no weight, not even in float32: the fused model is the base"
    ]
    assert UPDATE_ROUNDED not in json.loads((Path("out") / RECORD).read_text())


@pytest.mark.usefixtures("no_backend")
@pytest.mark.parametrize(("size", "strength"), [(0.0, ""), (1.0, ":0")], ids=["zero", "strength 0"])
def test_an_empty_update_is_said_once(size, strength):
    make("symbolic", size)
    found = fuse_adapters([f"adapter{strength}"], Path("out"), "base", dtype="bfloat16")
    assert not warnings(found)
    assert len([note for note in found.notes if "changes nothing" in note]) == 1


@pytest.mark.usefixtures("no_backend")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("size", "lost"), [(1e-7, True), (0.01, False)], ids=["lost", "kept"])
def test_convert_model_of_a_fused_one_says_what_its_rounding_loses(family, size, lost):
    make(family, size, "bfloat16")
    fuse_adapters(["adapter"], Path("fused"), "base", dtype="float32")
    convert_model("fused", Path("copy"), "hf")  # its record passes on what was measured
    found = convert_model("copy", Path("half"), "hf", "bfloat16")
    assert len(warnings(found)) == lost
    assert not warnings(convert_model("copy", Path("same"), "hf", "float32"))


@pytest.mark.usefixtures("no_backend")
def test_convert_model_says_what_it_cannot_know_of_an_earlier_versions_fusion():
    make("symbolic", 0.01)
    fuse_adapters(["adapter"], Path("fused"), "base", dtype="float32")
    path = Path("fused") / RECORD
    record = json.loads(path.read_text())
    del record[UPDATE_ROUNDED]
    path.write_text(json.dumps(record))
    found = convert_model("fused", Path("half"), "hf", "float16")
    assert [n for n in found.notes if "is not known" in n] == [
        "fused by an earlier version: how much of its update float16 keeps is not known; fuse again to see"
    ]
    path.write_text(json.dumps({**record, UPDATE_ROUNDED: {"float16": {"changed": "all"}}}))
    assert any("is not known" in note for note in convert_model("fused", Path("odd"), "hf", "float16").notes)
    assert not any("is not known" in note for note in convert_model("base", Path("plain"), "hf", "float16").notes)


@pytest.mark.usefixtures("no_backend")
def test_an_update_that_rounding_outweighs_is_said_although_weights_change():
    make("symbolic", 1e-4)  # the base is float32: rounding moves weights across the update's small steps
    found = fuse_adapters(["adapter"], Path("out"), "base", dtype="bfloat16")
    assert json.loads((Path("out") / RECORD).read_text())[UPDATE_ROUNDED]["bfloat16"]["changed"] > 0.01
    assert len(warnings(found)) == 1
    assert warnings(found)[0].startswith("warning: rounding to bfloat16 changes the adapted weights ")
    assert not warnings(fuse_adapters(["adapter"], Path("whole"), "base"))


def test_update_arrival_counts_what_rounding_leaves():
    base = np.ones(1000, np.float32)
    found = UpdateArrival()
    fused = base.copy()
    fused[:100] += np.float32(1e-4)  # below half a step of bfloat16 and float16 at 1
    fused[100:130] += np.float32(1e-3)  # one step of float16, 2^-10, and below half of bfloat16's, 2^-7
    fused[130:134] += np.float32(0.25)
    found.add(base, fused, dtype_named("bfloat16"))
    assert (found.changed, found.stored.changed) == (134, 4)
    assert {half: r.changed for half, r in found.halves.items()} == {"float16": 34, "bfloat16": 4}
    lost = (100 * 1e-8 + 30 * 1e-6) ** 0.5
    whole = (100 * 1e-8 + 30 * 1e-6 + 4 / 16) ** 0.5
    assert found.error(found.stored) == pytest.approx(lost / whole, rel=2e-3)  # 1 + 1e-4 is rounded to float32 itself
    assert found.record()[UPDATE_ROUNDED]["bfloat16"]["changed"] == pytest.approx(4 / 134, abs=1e-6)


@pytest.mark.parametrize(
    ("share", "error", "words"),
    [
        (0.0, 1.0, "warning: nothing of"),
        (0.004, 0.99, "warning: nearly nothing of"),
        (0.01, 0.9, None),
        (0.2, 9.3, "warning: rounding to float16 changes the adapted weights 9.3 times as much as the update does"),
        (1.0, 0.01, None),
    ],
)
def test_describe_arrival_names_what_is_lost_and_what_is_outweighed(share, error, words):
    found = describe_arrival(share, error, "float16")
    assert len(found) == (words is not None)
    assert all(line.startswith(words) for line in found)
