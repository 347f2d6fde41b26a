"""Converted, blended and fused adapters: what they say of their base, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from musiclora.adapters import find_base_and_adapters
from musiclora.bundled import BUNDLED_MODELS
from musiclora.conversion.adapter import convert_adapter
from musiclora.conversion.blend import blend_adapters
from musiclora.conversion.fuse import fuse_adapters
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint
from musiclora.errors import ConfigError, ConvertError, MusicLoraError
from musiclora.families import checkpoint_fingerprint

CONFIG = Gpt2Config(vocab_size=40, n_positions=16, n_embd=12, n_layer=2, n_head=3, n_inner=48)
SPEC = LoraSpec(2, 4.0, 0.0, ("c_attn",))


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with a base and two adapters, as an earlier version wrote them, the working directory."""
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "my" / "secret", CONFIG, fresh_tensors(CONFIG, 0), "hf")
    for name in ("a", "b"):
        write_adapter(tmp_path / name, "my/secret", base_model="secret")
    return tmp_path


def write_adapter(folder: Path, base: str, spec: LoraSpec = SPEC, **record: object) -> None:
    rng = np.random.default_rng(0)
    shapes = state_shapes(spec, CONFIG.linear_shapes())
    state = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    facts = {"musiclora": "0.2", "fingerprints": checkpoint_fingerprint(Path("my/secret")), **record}
    write_peft(folder, spec, state, base_model=base, record=facts)


def texts_of(folder: Path) -> str:
    return "\n".join(p.read_text() for p in folder.iterdir() if p.suffix in (".json", ".md"))


@pytest.mark.usefixtures("no_backend")
@pytest.mark.parametrize("made", ["peft", "mlx-lm", "blend", "fuse"])
def test_no_output_names_a_local_base_and_every_card_has_licence_and_task(made: str) -> None:
    if made == "blend":
        blend_adapters(["a", "b:0.5"], Path("out"))
    elif made == "fuse":
        fuse_adapters(["a", "b:0.5"], Path("out"))
    else:
        convert_adapter("a", Path("out"), made)
    text = texts_of(Path("out"))
    assert "secret" not in text
    assert "\nlicense: other\npipeline_tag: text-generation\n" in (Path("out") / "README.md").read_text()
    assert "base_model: " not in (Path("out") / "README.md").read_text()


@pytest.mark.usefixtures("no_backend")
@pytest.mark.parametrize("made", ["peft", "blend"])
def test_a_hub_base_and_its_licence_stay_in_what_is_made_of_an_adapter(made: str) -> None:
    write_adapter(Path("h"), "owner/name", base_model="owner/name", base_kind="hub", metrics={"held_out_loss": 1.5})
    (Path("h") / "README.md").write_text("---\nlicense: mit\n---\n")
    if made == "blend":
        blend_adapters(["h", "h:2"], Path("out"))
    else:
        convert_adapter("h", Path("out"), made)
        assert "* held_out_loss: 1.5000" in (Path("out") / "README.md").read_text()
    assert read_peft(Path("out")).base_model == "owner/name"
    assert read_peft(Path("out")).record["base_kind"] == "hub"
    header = "---\nbase_model: owner/name\nlibrary_name: peft\nlicense: mit\npipeline_tag: text-generation\n"
    assert (Path("out") / "README.md").read_text().startswith(header)


@pytest.mark.usefixtures("no_backend")
def test_a_fused_model_records_every_strength_and_keeps_the_text_of_the_bases_card() -> None:
    (Path("my/secret") / "README.md").write_text("---\nlicense: mit\n---\nMade of songs.\n")
    shutil.copytree("a", "other/a")
    fuse_adapters(["a:2", "other/a:3"], Path("out"))
    assert json.loads((Path("out") / "musiclora.json").read_text())["fused"] == [2.0, 3.0]
    card = (Path("out") / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    assert card.endswith("Made of songs.\n")


def test_blending_adapters_with_different_tokenizers_is_refused() -> None:
    for name, kind in (("a", "REMI"), ("b", "TSD")):
        (Path(name) / "tokenizer.json").write_text(json.dumps({"tokenization": kind}))
    with pytest.raises(ConvertError, match=r"the adapters were trained with different tokenizers \(a; b\)"):
        blend_adapters(["a", "b"], Path("out"))
    assert not Path("out").exists()


def test_a_blend_has_the_tokenizer_of_the_one_adapter_that_has_it() -> None:
    (Path("b") / "tokenizer.json").write_text(json.dumps({"tokenization": "TSD"}))
    blend_adapters(["a", "b"], Path("out"))
    assert (Path("out") / "tokenizer.json").read_bytes() == (Path("b") / "tokenizer.json").read_bytes()


def test_adapters_of_another_architecture_are_not_blended() -> None:
    state = {f"model.layers.0.self_attn.q_proj.lora_{part}.weight": np.ones((2, 2), np.float32) for part in "AB"}
    write_peft(Path("x"), LoraSpec(2, 1.0, 0.0, ("q_proj",)), state, base_model="")
    with pytest.raises(ConvertError, match=r"x: an adapter .* not known here; it adapts model\.layers\.0"):
        blend_adapters(["x", "x"], Path("out"))
    assert not Path("out").exists()


def test_blend_names_its_arguments_and_no_option() -> None:
    Path("file").write_text("")
    for text in ("a:nan", "file", "none/at/all"):
        with pytest.raises(MusicLoraError, match=f"^{text}: ") as error:
            blend_adapters([text], Path("out"))
        assert "--adapter-dir" not in str(error.value)


def test_adapters_of_one_base_that_was_typed_in_two_ways_are_blended() -> None:
    write_adapter(Path("c"), "./my/secret", base_model="secret")
    assert blend_adapters(["a", "c"], Path("out"))[1].rank == 4


@pytest.mark.slow
@pytest.mark.usefixtures("any_backend")
def test_the_outputs_of_an_adapter_of_the_bundled_audio_base_are_compared() -> None:
    from musiclora.convert.models.diffrhythm import read_diffrhythm

    shapes = read_diffrhythm(BUNDLED_MODELS["bundled-audio"]).config.linear_shapes()
    spec = LoraSpec(1, 1.0, 0.0, ("proj_out",))
    state = {name: np.ones(shape, np.float32) for name, shape in state_shapes(spec, shapes).items()}
    write_peft(Path("v"), spec, state, base_model="bundled-audio", task_type=None, fan_in_fan_out=False)
    assert convert_adapter("v", Path("out.safetensors"), "kohya").velocity_difference == 0


@pytest.mark.usefixtures("no_backend")
def test_the_licence_of_the_bundled_base_is_on_the_card_of_a_blend() -> None:
    write_adapter(Path("c"), "bundled")
    blend_adapters(["c", "c"], Path("out"))
    assert "\nlicense: apache-2.0\n" in (Path("out") / "README.md").read_text().lower()


JOBS: dict[str, Callable[[], object]] = {
    "convert": lambda: convert_adapter("a", Path("out"), "peft", "bundled-audio"),
    "fuse": lambda: fuse_adapters(["a"], Path("out"), "bundled-audio"),
    "generate": lambda: find_base_and_adapters("bundled-audio", ["a"]),
}


@pytest.mark.usefixtures("no_backend")
def test_a_card_that_states_other_as_its_licence_is_blended_as_unknown() -> None:
    for name in ("a", "b"):
        (Path(name) / "README.md").write_text("---\nlicense: other\n---\n")
    blend_adapters(["a", "b"], Path("out"))
    assert "The licence of its base: unknown." in (Path("out") / "README.md").read_text()


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_base_of_another_family_is_named_as_it_was_given(job: Callable[[], object]) -> None:
    named = "a: its base is of the symbolic family, and bundled-audio of the audio family; give its own base as --model"
    with pytest.raises(ConvertError, match=named):
        job()


def test_blocks_that_a_base_lacks_are_told_with_those_that_it_has() -> None:
    spec = LoraSpec(2, 4.0, 0.0, ("transformer.h.9.attn.c_attn",))
    state = {
        f"{spec.targets[0]}.lora_{part}.weight": np.ones(shape) for part, shape in (("A", (2, 12)), ("B", (36, 2)))
    }
    write_peft(Path("deep"), spec, state, base_model="")
    has = r"c_attn match nothing in this model; it has transformer.h.0.attn.c_attn, transformer.h.1.attn.c_attn$"
    with pytest.raises(ConfigError, match=has):
        convert_adapter("deep", Path("out"), "peft", "my/secret")
