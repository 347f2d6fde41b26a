"""Fusing and blending of audio adapters, and the check by velocity."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tolerance
from click.testing import CliRunner
from refusal import refused

from musiclora.audio.style_files import read_style
from musiclora.cli import main
from musiclora.conversion.compare import compare_outputs
from musiclora.conversion.fuse_diffrhythm import FUSING
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, read_diffrhythm, write_diffrhythm

# 32 heads of two values each: the least that rotary positions can turn.
CONFIG = DiffRhythmConfig(64, 2, 2, conv_layers=1, mel_dim=8, text_num_embeds=5, max_frames=64)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "time_mlp.0", "time_mlp.2", "norm_out.linear", "proj_out")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def report(*arguments):
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def make_base(folder, config=CONFIG, layout="hf", codec=True):
    rng = np.random.default_rng(1)
    tensors = {
        name: (0.1 * rng.standard_normal(shape)).astype(np.float32) for name, shape in config.tensor_shapes().items()
    }
    for name, array in tensors.items():
        if "layernorm" in name:
            array += 1  # as trained ones are; far smaller, attention would be uniform and a wrong query unseen
    write_diffrhythm(folder, config, tensors.items(), layout, "float32")
    if codec:
        (folder / "vae").mkdir()
        write_safetensors(folder / "vae" / "model.safetensors", {"w": np.ones(3, np.float32)})
        (folder / "vae" / "config.json").write_text("{}")
    return folder


def make_adapter(folder, seed, rank=3, style=None, config=CONFIG):
    spec = LoraSpec(rank, 2.0 * rank, 0.0, TARGETS)
    rng = np.random.default_rng(seed)
    state = {
        name: (0.05 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in state_shapes(spec, config.linear_shapes()).items()
    }
    record = {"family": "audio"}
    write_peft(folder, spec, state, base_model="base", task_type=None, fan_in_fan_out=False, record=record)
    if style is not None:
        write_safetensors(folder / "style.safetensors", {"style": np.full(512, style, np.float32)})
    return folder


def compare_alone(first, second, backend):
    """Compare the velocities of two models without adapters."""
    run = partial(FUSING.run_velocity, adapter=None)
    return compare_outputs(partial(run, folder=first), partial(run, folder=second), backend, "velocity")


@pytest.fixture
def base(tmp_path):
    return make_base(tmp_path / "base")


@pytest.fixture
def adapters(tmp_path):
    return make_adapter(tmp_path / "a", 1, style=1.0), make_adapter(tmp_path / "b", 2, rank=2, style=2.0)


def expected_update(module, parts):
    """Sum strength * scale * B @ A in float64."""
    total = 0
    for folder, strength in parts:
        adapter = read_peft(folder)
        a, b = (adapter.state[f"{module}.lora_{part}.weight"].astype(np.float64) for part in "AB")
        total = total + strength * adapter.spec.scale * (b @ a)
    return total


@pytest.mark.parametrize("layout", ["hf", "mlx"])
@pytest.mark.slow
def test_fusing_computes_what_base_and_adapters_compute(layout, base, adapters, backend_name, tmp_path):
    done = report(
        "fuse",
        "--adapter-dir",
        f"{adapters[0]}:0.5",
        f"{adapters[1]}:-1",
        "--model",
        base,
        "--to",
        layout,
        "--output-dir",
        "fused",
        "--backend",
        backend_name,
    )
    assert done["backend"] == backend_name
    assert done["velocity_difference"] <= 1e-4 * max(1, done["largest_velocity"])
    before, after = (dict(read_diffrhythm(folder).tensors()) for folder in (base, tmp_path / "fused"))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    modules = {key.removesuffix(".lora_A.weight") for key in read_peft(adapters[0]).state if "lora_A" in key}
    assert changed == {f"{module}.weight" for module in modules}
    for module in modules:
        update = expected_update(module, [(adapters[0], 0.5), (adapters[1], -1)])
        # Two sums over a rank of a few, their scales, and the base's weight.
        expected = before[f"{module}.weight"] + update
        tolerance.assert_near(after[f"{module}.weight"], expected, tolerance.rounding(2 * 8, 2 * expected), module)
    alone = compare_alone(base, tmp_path / "fused", backend_name)
    assert alone.difference > 100 * done["velocity_difference"]


@pytest.mark.slow
def test_the_fused_folder_has_the_codec_the_configuration_and_the_style_beside_it(tmp_path, any_backend):
    config = replace(CONFIG, causal=True, duration_embedding=True)
    adapters = [make_adapter(tmp_path / name, k, style=k, config=config) for k, name in ((1, "c"), (2, "d"))]
    base = make_base(tmp_path / "long", config)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    done = report(
        "fuse",
        "--adapter-dir",
        f"{adapters[0]}:0.5",
        adapters[1],
        "--model",
        base,
        "--output-dir",
        "fused",
        "--backend",
        any_backend,
    )
    fused = tmp_path / "fused"
    assert read_diffrhythm(fused).config == config
    assert (fused / "vae" / "model.safetensors").read_bytes() == (base / "vae" / "model.safetensors").read_bytes()
    assert (fused / "README.md").is_file()
    np.testing.assert_array_equal(read_style(fused / "style" / "style.safetensors"), np.full(512, 2.5, np.float32))
    assert any("--style" in note for note in done["notes"])


def test_a_base_in_half_precision_stays_so_and_it_is_said(tmp_path, adapters, any_backend):
    base = make_base(tmp_path / "base", codec=False)
    done = report("convert", "model", base, "half", "--to", "hf", "--dtype", "float16")
    done = report(
        "fuse",
        "--adapter-dir",
        adapters[0],
        "--model",
        "half",
        "--output-dir",
        "fused",
        "--backend",
        any_backend,
    )
    kinds = {str(kind) for kind in read_diffrhythm(tmp_path / "fused").dtypes.values()}
    assert kinds == {"float16"}
    assert any(re.search(r"rounded to float16, which changes them by .+ % of the", note) for note in done["notes"])
    assert any("--vae" in note for note in done["notes"])


@pytest.mark.slow
def test_a_fused_model_that_computes_something_else_is_withdrawn(base, adapters, any_backend, tmp_path, monkeypatch):
    real = write_diffrhythm

    def damaged(folder, config, tensors, *rest):
        wrong = "transformer_blocks.1.self_attn.q_proj.weight"
        real(folder, config, ((n, a.T.copy() if n == wrong else a) for n, a in tensors), *rest)

    monkeypatch.setattr("musiclora.conversion.fuse_diffrhythm.write_diffrhythm", damaged)
    result = call(
        "fuse", "--adapter-dir", adapters[0], "--model", base, "--output-dir", "fused", "--backend", any_backend
    )
    refused(result, "velocity differs", "withdrawn")
    assert not (tmp_path / "f").exists()


def test_adapters_that_do_not_fit_are_refused_and_nothing_is_left(base, adapters, tiny_base, tmp_path):
    wide = make_adapter(tmp_path / "wide", 3, config=replace(CONFIG, dim=128))
    symbolic = {f"transformer.h.0.attn.c_attn.lora_{p}.weight": np.ones((2, 2), np.float32) for p in "AB"}
    write_peft(tmp_path / "gpt2", LoraSpec(2, 1.0, 0.0, ("c_attn",)), symbolic, base_model="")
    for model, chosen, words in (
        (base, [wide], "do not fit"),
        (base, [adapters[0], tmp_path / "gpt2"], "different families"),
        (tiny_base, [adapters[0]], "of the symbolic family"),
    ):
        refused(call("fuse", "--adapter-dir", *chosen, "--model", model, "--output-dir", "fused"), words)
        assert not (tmp_path / "fused").exists()


def test_a_style_file_that_holds_something_else_is_refused(base, adapters, tmp_path, any_backend):
    (adapters[1] / "style.safetensors").unlink()
    write_safetensors(adapters[1] / "style.safetensors", {"style": np.ones(256, np.float32)})
    refused(call("fuse", "--adapter-dir", *adapters, "--model", base, "--output-dir", "out"), "style", "512")
    refused(call("blend", *adapters, "out"), "style", "512")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rank", [None, 4])
def test_a_blend_is_one_peft_adapter_of_the_audio_family_with_the_styles_added_up(rank, adapters, tmp_path):
    done = report("blend", f"{adapters[0]}:0.5", f"{adapters[1]}:0.25", "out", *(["--rank", rank] if rank else []))
    found = read_peft(tmp_path / "out")
    assert (found.config["task_type"], found.config["fan_in_fan_out"]) == (None, False)
    assert found.record["family"] == "audio"
    assert found.spec.rank == (rank or 5)
    np.testing.assert_array_equal(read_style(tmp_path / "out" / "style.safetensors"), np.full(512, 1.0, np.float32))
    assert any("style" in note for note in done["notes"])
    if rank is None:
        module = "transformer_blocks.0.self_attn.q_proj"
        update = expected_update(module, [(adapters[0], 0.5), (adapters[1], 0.25)])
        np.testing.assert_allclose(expected_update(module, [(tmp_path / "out", 1.0)]), update, atol=1e-6)
    else:
        assert 0 < done["error"] < 1


def test_a_blend_of_adapters_without_a_style_has_none(tmp_path):
    make_adapter(tmp_path / "a", 1)
    report("blend", "a", "a:0.5", "out")
    assert not (tmp_path / "out" / "style.safetensors").exists()


@pytest.mark.parametrize("to", ["peft", "diffusers"])
@pytest.mark.slow
def test_a_converted_adapter_is_checked_by_velocity_and_keeps_its_style(to, base, adapters, backend_name, tmp_path):
    done = report("convert", "adapter", adapters[0], "out", "--to", to, "--model", base, "--backend", backend_name)
    assert done["backend"] == backend_name
    assert done["velocity_difference"] <= 1e-5
    assert done["largest_velocity"] > 0.01
    assert read_safetensors(tmp_path / "out" / "style.safetensors")["style"][0] == 1.0


def test_a_single_file_cannot_hold_the_style_and_it_is_said(adapters):
    done = report("convert", "adapter", adapters[0], "out.safetensors", "--to", "kohya")
    assert any("style vector" in note for note in done["notes"])


@pytest.mark.slow
def test_a_wrongly_converted_adapter_is_withdrawn(base, adapters, any_backend, tmp_path, monkeypatch):
    import musiclora.conversion.adapter as conversion

    def wrong(source):
        adapter = read_peft(source)
        key = "transformer_blocks.0.self_attn.q_proj.lora_A.weight"
        return replace(adapter, state={**adapter.state, key: 2 * adapter.state[key]})

    monkeypatch.setitem(conversion.READERS, "peft", wrong)
    monkeypatch.setattr(conversion, "check_update", lambda *parts: 0.0)  # only the model's output is to tell
    monkeypatch.setattr(conversion, "read_adapter", lambda source: (adapters[0], read_peft(adapters[0])))
    result = call("convert", "adapter", adapters[0], "out", "--to", "peft", "--model", base, "--backend", any_backend)
    refused(result, "velocity differs", "withdrawn")
    assert not (tmp_path / "out").exists()


def test_people_are_told_the_difference(base, adapters, any_backend):
    done = call("fuse", "--adapter-dir", adapters[0], "--model", base, "--output-dir", "x", "--backend", any_backend)
    assert "largest difference of the velocity on" in done.stdout


def test_the_first_model_is_let_go_before_the_second_is_loaded(base, any_backend, monkeypatch):
    """Free the first model: those of full size are gigabytes each."""
    import weakref

    from musiclora.backends import registry

    real, alive, seen = registry.get_backend(any_backend), [], []

    class Watched:
        name = any_backend

        def load(self, *arguments):
            seen.append(sum(ref() is not None for ref in alive))
            model = real.load(*arguments)
            alive.append(weakref.ref(model))
            return model

    monkeypatch.setattr(registry, "get_backend", lambda name: Watched())
    compare_alone(base, base, any_backend)
    assert seen == [0, 0]
