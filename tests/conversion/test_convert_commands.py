"""`musiclora convert`, `fuse` and `blend`, from the command line down, on GPT-2."""

import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from require import require

from musiclora.cli import main
from musiclora.cli.convert import adapter as adapter_command
from musiclora.conversion import merged as merging
from musiclora.convert.adapters.formats import READERS, SINGLE_FILES, WRITERS
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.adapters.lora_math import fuse_tensors, update_difference
from musiclora.convert.adapters.mlx_lm import read_mlx_lm, write_mlx_lm
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.files.fingerprint import compare_fingerprints
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.gpt2 import Gpt2Config, read_checkpoint, write_checkpoint
from musiclora.families import SPECS, checkpoint_fingerprint

CONFIG = Gpt2Config(vocab_size=40, n_positions=16, n_embd=12, n_layer=2, n_head=3, n_inner=48)
LORA_SPECS = (LoraSpec(4, 6.5, 0.0, ("c_attn", "c_proj", "c_fc")), LoraSpec(2, 3.0, 0.0, ("attn.c_proj",)))
Run = Callable[..., Result]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with a base and two adapters the working directory."""
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    tensors = {n: rng.standard_normal(s).astype(np.float32) * 0.3 for n, s in CONFIG.tensor_shapes().items()}
    write_checkpoint(tmp_path / "base", CONFIG, tensors, "hf", extra_files={"tokenizer.json": b"{}"})
    for k, spec in enumerate(LORA_SPECS):
        shapes = state_shapes(spec, CONFIG.linear_shapes())
        state = {n: rng.standard_normal(s).astype(np.float32) * 0.3 for n, s in shapes.items()}
        record = {"family": "symbolic", "fingerprints": checkpoint_fingerprint(tmp_path / "base")}
        write_peft(tmp_path / f"a{k}", spec, state, base_model="base", record=record)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def fails(named: str, *arguments: str) -> None:
    """Expect exit code 2, one line that names the problem, and no destination."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.output
    assert not Path("out").exists()
    assert not list(Path().glob(".out*"))


@pytest.mark.usefixtures("work")
def test_convert_model_there_and_back_is_bit_for_bit_the_same_and_says_so() -> None:
    there = run("convert", "model", "base", "out", "--to", "mlx")
    assert (there.exit_code, "bit for bit" in there.stderr) == (0, True)
    assert run("convert", "model", "out", "back", "--to", "hf").exit_code == 0
    assert Path("back/model.safetensors").read_bytes() == Path("base/model.safetensors").read_bytes()
    assert Path("back/tokenizer.json").read_bytes() == b"{}"


@pytest.mark.usefixtures("work")
def test_a_rounded_copy_states_its_rounding_and_is_still_accepted_for_the_adapters_of_its_source() -> None:
    result = run("convert", "model", "base", "out", "--to", "hf", "--dtype", "float16", "--json")
    assert "rounded from float32 to float16" in json.loads(result.stdout)["notes"][0]
    source, copy = checkpoint_fingerprint(Path("base")), checkpoint_fingerprint(Path("out"))
    assert source["weights"] != copy["weights"]
    assert compare_fingerprints(source, copy) == []


@pytest.mark.usefixtures("work", "no_backend")
def test_a_copy_whose_fingerprint_differs_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def transposing(folder: Path, config: Any, tensors: Any, *rest: Any, **options: Any) -> None:
        square = "transformer.h.1.attn.c_proj.weight"
        write_checkpoint(folder, config, ((n, a.T if n == square else a) for n, a in tensors), *rest, **options)

    monkeypatch.setattr("musiclora.conversion.gpt2.write_checkpoint", transposing)
    fails("fingerprint differs", "convert", "model", "base", "out", "--to", "mlx")


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_convert_adapter_there_and_back_is_exact_and_compares_logits(backend: str) -> None:
    require({"torch": "torch", "mlx": "mlx.core"}[backend])
    there = run("convert", "adapter", "a0", "out", "--to", "mlx-lm", "--backend", backend, "--json")
    assert there.exit_code == 0
    report = json.loads(there.stdout)
    assert (report["backend"], report["update_difference"], report["logit_difference"]) == (backend, 0, 0)
    assert report["largest_logit"] > 0.1
    assert run("convert", "adapter", "out", "back", "--to", "peft", "--backend", backend).exit_code == 0
    first, second = read_peft(Path("a0")), read_peft(Path("back"))
    assert second.record == first.record
    assert all(np.array_equal(second.state[n], a) for n, a in first.state.items())


@pytest.mark.usefixtures("work", "no_backend")
def test_without_any_backend_the_update_is_still_compared() -> None:
    result = run("convert", "adapter", "a1", "out", "--to", "mlx-lm", "--json")
    report = json.loads(result.stdout)
    assert (report["update_difference"], report["logit_difference"]) == (0, None)
    assert read_mlx_lm(Path("out")).spec.scale == LORA_SPECS[1].scale


@pytest.mark.usefixtures("work", "no_backend")
def test_an_adapter_that_would_compute_something_else_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(folder: Path, adapter: LoraAdapter) -> None:
        # The trap: on a square target the swapped and transposed pair has the same shapes.
        name = "transformer.h.0.attn.c_proj.lora_"
        a, b = adapter.state[f"{name}A.weight"], adapter.state[f"{name}B.weight"]
        swapped = adapter.state | {f"{name}A.weight": b.T, f"{name}B.weight": a.T}
        write_mlx_lm(folder, dataclasses.replace(adapter, state=swapped))

    monkeypatch.setitem(WRITERS, "mlx-lm", wrong)
    fails("differs from the original", "convert", "adapter", "a1", "out", "--to", "mlx-lm")


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_fuse_adds_every_adapter_at_its_strength_and_compares_logits(backend: str) -> None:
    require({"torch": "torch", "mlx": "mlx.core"}[backend])
    arguments = ("--adapter-dir", "a0:0.5", "a1:-2", "--output-dir", "out", "--backend", backend, "--json")
    result = run("fuse", *arguments)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["logit_difference"] <= 1e-5 * max(1, report["largest_logit"])
    expected = read_checkpoint(Path("base")).load()
    for folder, strength in (("a0", 0.5), ("a1", -2.0)):
        adapter = read_peft(Path(folder))
        for module, scale in adapter.scales.items():
            update = adapter.state[f"{module}.lora_B.weight"] @ adapter.state[f"{module}.lora_A.weight"]
            expected[f"{module}.weight"] = expected[f"{module}.weight"] + strength * scale * update.T
    for name, array in read_checkpoint(Path("out")).load().items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5)
    assert "source_weights" not in checkpoint_fingerprint(Path("out"))


@pytest.mark.usefixtures("work", "no_backend")
def test_folders_above_a_withdrawn_output_go_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from musiclora.conversion import verify as verification

    monkeypatch.setattr(verification, "update_difference", lambda *parts: 1.0)
    Path("kept").mkdir()
    for to, path in (("mlx-lm", "new/deep/out"), ("peft", "kept/new/out")):
        assert run("convert", "adapter", "a0", path, "--to", to).exit_code == 2
    assert not Path("new").exists()
    assert list(Path("kept").iterdir()) == []


@pytest.mark.usefixtures("work")
def test_a_fused_model_with_a_missing_update_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(tensors: Any, spec: LoraSpec, state: Any, **options: Any) -> Any:
        return fuse_tensors(tensors, spec, {n: a for n, a in state.items() if "c_attn" not in n}, **options)

    monkeypatch.setattr(merging, "fuse_tensors", forgetful)
    fails("the logits differ", "fuse", "--adapter-dir", "a0", "--output-dir", "out")


@pytest.mark.usefixtures("work")
def test_blend_is_exact_and_a_rank_states_its_error() -> None:
    assert "exact" in run("blend", "a0:0.5", "a1:-1", "out").stdout
    adapters = [read_peft(Path(name)) for name in ("a0", "a1", "out")]
    parts = [(adapter.spec, adapter.state, strength) for adapter, strength in zip(adapters, (0.5, -1, 1), strict=True)]
    assert update_difference(parts[:2], parts[2:]) < 1e-6  # B is rounded once, to float32
    assert adapters[2].record["fingerprints"] == adapters[0].record["fingerprints"]
    small = json.loads(run("blend", "a0:0.5", "a1:-1", "small", "--rank", "3", "--json").stdout)
    assert small["rank"] == 3
    assert 0.05 < small["error"] < 0.8
    compressed = read_peft(Path("small"))
    assert 0.05 < update_difference(parts[:2], [(compressed.spec, compressed.state, 1.0)]) < 1


@pytest.mark.usefixtures("work", "no_backend")
@pytest.mark.parametrize(
    ("check", "arguments"),
    [
        ("gpt2.fingerprint_tensors", ("convert", "model", "base", "out", "--to", "mlx")),
        ("adapter.check_update", ("convert", "adapter", "a0", "out", "--to", "mlx-lm")),
        ("fuse_gpt2.compare_fused", ("fuse", "--adapter-dir", "a0", "--output-dir", "out")),
        ("blend.check_update", ("blend", "a0", "a1", "out")),
    ],
    ids=["convert model", "convert adapter", "fuse", "blend"],
)
def test_an_output_appears_after_its_checks(
    check: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = check.partition(".")
    found = importlib.import_module(f"musiclora.conversion.{module}")
    real, seen = getattr(found, name), []

    def watching(*args: Any) -> Any:
        seen.append(Path("out").exists())
        return real(*args)

    monkeypatch.setattr(found, name, watching)
    assert run(*arguments).exit_code == 0
    assert seen == [False]
    assert Path("out").is_dir()


@pytest.mark.usefixtures("work", "no_backend")
@pytest.mark.parametrize(
    "options",
    [("--to", "mlx", "--causal"), ("--to", "mlx", "--vae", "x"), ("--to", "diffusers")],
    ids=["causal", "vae", "to"],
)
def test_options_of_the_audio_family_are_refused_for_a_gpt2(options: tuple[str, ...]) -> None:
    fails("--causal, --vae and --to diffusers are for the audio family", "convert", "model", "base", "out", *options)


def test_every_adapter_format_of_an_architecture_can_be_read_and_written() -> None:
    offered = {name for spec in SPECS for name in spec.adapter_formats}
    assert offered == set(READERS) == {*WRITERS, "peft"}
    assert set(SINGLE_FILES) <= offered
    choice = next(option for option in adapter_command.params if option.name == "to").type
    assert isinstance(choice, click.Choice)
    assert set(choice.choices) == offered


@pytest.mark.usefixtures("work", "no_backend")
def test_a_destination_that_exists_is_left_as_it_is() -> None:
    Path("keep").mkdir()
    Path("keep/precious").write_text("x")
    for arguments in (
        ("convert", "model", "base", "keep", "--to", "mlx"),
        ("convert", "adapter", "a0", "keep", "--to", "mlx-lm"),
        ("fuse", "--adapter-dir", "a0", "--output-dir", "keep"),
        ("blend", "a0", "keep"),
    ):
        fails("exists already", *arguments)
    assert [path.name for path in Path("keep").iterdir()] == ["precious"]


def _change(
    folder: str, change: Callable[[dict[str, np.ndarray]], object], file: str = "adapter_model.safetensors"
) -> None:
    path = Path(folder) / file
    arrays = read_safetensors(path)
    change(arrays)
    path.unlink()
    write_safetensors(path, arrays)


@pytest.mark.usefixtures("work", "no_backend")
class TestBadInput:
    @pytest.mark.parametrize("kind", [("model", "mlx"), ("adapter", "peft")], ids=lambda kind: kind[0])
    @pytest.mark.parametrize("name", ["weights/cfm_model.pt", "none.safetensors", "./none"])
    def test_a_missing_file_is_not_looked_for_on_the_hub(self, kind: tuple[str, str], name: str) -> None:
        fails(f"musiclora: {name}: there is no such file", "convert", kind[0], name, "out", "--to", kind[1])

    def test_a_missing_source(self) -> None:
        fails("nowhere", "convert", "model", "nowhere", "out", "--to", "mlx")
        fails("nowhere", "convert", "adapter", "nowhere", "out", "--to", "mlx-lm")

    def test_a_truncated_model(self) -> None:
        path = Path("base/model.safetensors")
        path.write_bytes(path.read_bytes()[:-100])
        fails("claims bytes", "convert", "model", "base", "out", "--to", "mlx")

    def test_a_non_finite_weight_is_found_while_writing_and_nothing_is_left(self) -> None:
        _change("base", lambda arrays: arrays["transformer.ln_f.bias"].fill(np.inf), "model.safetensors")
        fails("ln_f.bias has 12 non-finite", "convert", "model", "base", "out", "--to", "mlx")

    def test_a_model_of_another_family(self) -> None:
        Path("base/config.json").write_text('{"model_type": "llama"}')
        fails("not GPT-2", "convert", "model", "base", "out", "--to", "mlx")

    def test_a_weight_too_large_for_float16(self) -> None:
        _change("base", lambda arrays: arrays["transformer.ln_f.bias"].fill(1e5), "model.safetensors")
        fails("does not fit float16", "convert", "model", "base", "out", "--to", "mlx", "--dtype", "float16")

    def test_an_adapter_for_another_base(self) -> None:
        _change("base", lambda arrays: arrays["transformer.ln_f.bias"].fill(1), "model.safetensors")
        fails("the weights", "convert", "adapter", "a0", "out", "--to", "mlx-lm")
        fails("the weights", "fuse", "--adapter-dir", "a0", "--output-dir", "out")

    def test_a_loha_adapter(self) -> None:
        _change("a0", lambda arrays: arrays.update({"base_model.model.x.hada_w1_a": np.ones((2, 2))}))
        fails("LoHa", "convert", "adapter", "a0", "out", "--to", "mlx-lm")

    def test_a_single_file(self) -> None:
        fails("give its folder", "convert", "adapter", "a0/adapter_model.safetensors", "out", "--to", "peft")

    def test_a_rank_of_nothing(self) -> None:
        fails("--rank is 0", "blend", "a0", "a1", "out", "--rank", "0")
