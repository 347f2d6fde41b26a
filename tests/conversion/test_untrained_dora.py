"""DoRA adapters that change nothing are named as such, and cards say DoRA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import toy_audio

from musiclora.audio.model import open_flow
from musiclora.backends import lora_init
from musiclora.conversion.adapter import convert_adapter
from musiclora.conversion.blend import blend_adapters
from musiclora.conversion.fuse import fuse_adapters
from musiclora.convert.adapters.lora import LoraSpec, split_magnitudes
from musiclora.convert.adapters.lora_math import has_row_lengths
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.models.diffrhythm import read_diffrhythm
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.jobs import train
from musiclora.symbolic.model import open_model
from musiclora.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("plain_pictures")

SPEC = LoraSpec(2, 4.0, 0.0, ("c_attn", "mlp.c_proj"), dora=True)


@pytest.fixture(autouse=True)
def work(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    checkpoint = read_checkpoint(tiny_base)
    state = lora_init.initial(SPEC, checkpoint.config.linear_shapes(), 3)
    plain, magnitudes = split_magnitudes(lora_init.with_magnitudes(state, checkpoint.tensors(), conv1d=True))
    write_peft(Path("untrained"), SPEC, plain, base_model=str(tiny_base), magnitudes=magnitudes)
    longer = {module: vector * np.float32(1.01) for module, vector in magnitudes.items()}
    write_peft(Path("longer"), SPEC, plain, base_model=str(tiny_base), magnitudes=longer)


@pytest.mark.parametrize(("name", "count"), [("untrained", 1), ("longer", 0)])
@pytest.mark.parametrize("job", ["open", "fuse", "fuse to bfloat16", "blend", "convert"])
def test_an_untrained_dora_adapter_is_said_once(tiny_base, any_backend, job, name, count):
    base = str(tiny_base)
    if job == "open":
        notes = open_model(base, [name], any_backend).notes
    elif job == "blend":
        notes = blend_adapters([name, "longer"], Path("out"))[0].notes
    elif job == "convert":
        notes = convert_adapter(name, Path("out"), "peft", base, any_backend).notes
    else:
        notes = fuse_adapters([name], Path("out"), base, dtype="bfloat16" if "to" in job else None).notes
    said = [n for n in notes if "changes nothing" in n or "does not change" in n or "changes no weight" in n]
    assert len(said) == count
    assert all("its magnitudes are the base's, as before training" in note for note in said)


def test_has_row_lengths_compares_every_module():
    weight = np.arange(1, 7, dtype=np.float32).reshape(2, 3)  # Conv1D: [in, out]
    lengths = np.linalg.norm(weight, axis=0)
    assert has_row_lengths({"m": lengths}, [("m.weight", weight)], conv1d=True)
    assert not has_row_lengths({"m": lengths}, [("m.weight", weight)], conv1d=False)
    assert not has_row_lengths({"m": lengths * 1.0001}, [("m.weight", weight)], conv1d=True)
    assert not has_row_lengths({"m": lengths, "n": lengths}, [("m.weight", weight)], conv1d=True)


def test_an_untrained_dora_adapter_of_the_audio_family_is_said_once(any_backend, tmp_path):
    base = toy_audio.write_base(tmp_path / "flow")
    checkpoint = read_diffrhythm(base)
    spec = LoraSpec(2, 4.0, 0.0, ("q_proj", "proj_out"), dora=True)
    state = lora_init.initial(spec, checkpoint.config.linear_shapes(), 3)
    plain, magnitudes = split_magnitudes(lora_init.with_magnitudes(state, checkpoint.tensors(), conv1d=False))
    form = {"task_type": None, "fan_in_fan_out": False, "record": {"family": "audio"}}
    write_peft(Path("flow-untrained"), spec, plain, base_model=str(base), magnitudes=magnitudes, **form)
    notes = open_flow(str(base), ["flow-untrained"], any_backend, with_codec=False).notes
    said = [note for note in notes if "changes nothing" in note or "does not change" in note]
    assert len(said) == 1
    assert "its magnitudes are the base's" in said[0]


@pytest.mark.usefixtures("no_backend")
def test_cards_of_converted_blended_and_fused_adapters_say_dora(tiny_base):
    convert_adapter("longer", Path("converted"), "mlx-lm", str(tiny_base))
    blend_adapters(["longer"], Path("blended"))
    fuse_adapters(["longer"], Path("fused"), str(tiny_base))
    for name in ("converted", "blended"):
        card = (Path(name) / "README.md").read_text()
        assert "\n# A DoRA adapter for " in card
        assert "tags: [music, lora, dora, midi]" in card
    assert "with a DoRA adapter fused into it" in (Path("fused") / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("dora", "kind"), [(True, "DoRA"), (None, "LoRA")])
def test_the_card_of_a_run_names_the_kind_of_its_adapter(tiny_base, tunes, any_backend, dora, kind):
    options = {"max_seq_len": 64, "batch_size": 4, "max_steps": 1, "lora_r": 2, "num_workers": 1, "use_dora": dora}
    result = train(TrainConfig(str(tunes), "run", str(tiny_base), backend=any_backend, **options))
    card = (result.run_dir / "adapter-best" / "README.md").read_text()
    assert f"\n# A {kind} adapter for " in card
    assert ("tags: [music, lora, dora, midi]" in card) == bool(dora)
