"""What commit 6ef70d8 wrote still loads, resumes and converts; only the command line is used, so that code may move."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from musiclora.cli import main

pytestmark = pytest.mark.slow
FILES = Path(__file__).parent / "golden" / "before_the_move" / "files"
COMMANDS: dict[str, list[str]] = json.loads((FILES / "commands.json").read_text(encoding="utf-8"))
EXPECTED: dict[str, float] = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
BLOCK = 2048  # frames that are encoded at once
FAMILIES = ("symbolic", "audio")
OUTPUT = {"symbolic": "new.mid", "audio": "new.wav"}

# A sum of n products in float32, in any order, is off by about sqrt(n) 2^-24 of its size. The widest here has 1548
# terms (2.4e-6) and some twenty follow each other: 5e-5, were all to add up. Between the backends 2e-7 was measured.
SCORED = 1e-4
# While training, Adam divides a gradient by its own size, so that entries near rounding may take another way; they
# are those that hardly change the loss. Ten times the above; a state without its moments is off by much more.
TRAINED = 1e-3


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files as the working directory, since runs record the paths that were typed."""
    folder = tmp_path / "work"
    shutil.copytree(FILES, folder)
    for path in folder.rglob("*.xz"):
        path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        path.unlink()
    monkeypatch.chdir(folder)
    return folder


def call(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.stderr
    return result


def found(result: Result) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def rows(run: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def meta(run: Path | str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(run) / "training_meta.json").read_text(encoding="utf-8"))
    return content


def arrays_on_disk(folder: Path | str) -> dict[str, tuple[int, int, bytes]]:
    """Which file each .safetensors of a folder is, when it was written and what is in it."""
    paths = sorted(Path(folder).glob("*.safetensors"))
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in paths}


def evaluated(family: str, backend: str, *more: str | Path, model: str | Path = "") -> Result:
    base = model or f"bases/{family}"
    return call(*COMMANDS[f"evaluate {family}"], base, "--backend", backend, "--json", *more)


def assert_no_doubt(result: Result) -> None:
    """The adapter's fingerprints are there, and are those of the base and codec."""
    for words in ("another base", "another codec", "no fingerprint", "conversion of the base"):
        assert words not in result.stderr


def near(value: float, tolerance: float = SCORED) -> Any:
    return pytest.approx(value, rel=tolerance)


def same_course(today: list[dict[str, Any]], before: list[dict[str, Any]]) -> None:
    """The same steps at the same learning rates, with the losses that they had."""
    keys = ("step", "epoch", "lr")
    assert [[row.get(key) for key in keys] for row in today] == [
        [row.get(key) if key != "lr" or key not in row else pytest.approx(row[key], rel=1e-9) for key in keys]
        for row in before
    ]
    for name in ("loss", "val_loss", "train_loss"):
        assert [row.get(name, 0.0) for row in today] == near([row.get(name, 0.0) for row in before], TRAINED), name


# -- run folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_that_was_stopped_goes_on_to_the_end_that_it_had(family, backend_name):
    name = f"{family}-{backend_name}"
    run, latents = f"stopped/{name}", f"stopped/{name}-latents"
    kept, cached = rows(run), arrays_on_disk(latents)
    result = call(*COMMANDS[name], "--output-dir", run, "--json")
    progress = found(result)["progress"]
    assert f"going on after step {kept[-1]['step']}" in result.stderr
    assert rows(run)[: len(kept)] == kept
    assert (progress["step"], progress["ended"]) == (meta(f"finished/{name}")["steps"], "epochs")
    same_course(rows(run), rows(f"finished/{name}"))
    assert found(result)["after"]["loss"] == near(meta(f"finished/{name}")["after"]["loss"], TRAINED)
    assert arrays_on_disk(latents) == cached  # recordings are not encoded again
    assert bool(cached) == (family == "audio")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_finished_run_says_so_and_scores_what_it_recorded(family, backend_name):
    name = f"{family}-{backend_name}"
    run = f"finished/{name}"
    recorded, metrics = meta(run), rows(run)
    result = call(*COMMANDS[name], "--output-dir", run, "--json")
    assert found(result)["already_finished"]
    assert "this run is finished (epochs); more --epochs continue it" in result.stderr
    for part in ("before", "after"):
        assert found(result)[part]["loss"] == near(recorded[part]["loss"])
    assert found(result)["after"]["loss"] == near(recorded["best_val_loss"])
    assert found(result)["update"] == near(recorded["update_size"], 1e-3)  # recorded with six decimals
    assert rows(run) == metrics


@pytest.mark.parametrize("family", FAMILIES)
def test_more_epochs_continue_a_finished_run(family, backend_name):
    name = f"{family}-{backend_name}"
    run = f"finished/{name}"
    recorded, metrics = meta(run), rows(run)
    steps, epochs = recorded["steps"], recorded["epochs"]
    result = call(*COMMANDS[name], "--output-dir", run, "--epochs", epochs + 1, "--json")
    assert f"going on after step {steps}" in result.stderr
    assert found(result)["progress"]["step"] == steps // epochs * (epochs + 1)
    assert rows(run)[: len(metrics)] == metrics
    assert meta(run)["epochs"] == epochs + 1


@pytest.mark.parametrize("family", FAMILIES)
def test_another_run_is_not_taken_for_the_one_in_the_folder(family, any_backend):
    name = f"{family}-{any_backend}"
    result = call(*COMMANDS[name], "--output-dir", f"stopped/{name}", "--lr", "1e-3", code=2)
    assert "holds another run (--lr was 0.005, is 0.001)" in result.stderr


# -- caches -----------------------------------------------------------------------------------------------------------


def test_the_copies_of_augment_still_belong_to_their_songs(work):
    found_pieces = found(call(*COMMANDS["tokens"], "--json"))
    assert (found_pieces["pieces"], found_pieces["songs"]) == (12, 6)
    before = json.loads((FILES / "augmented/provenance.json").read_text(encoding="utf-8"))
    call(*COMMANDS["augmented"])  # it replaces nothing but an output of its own
    assert json.loads((work / "augmented/provenance.json").read_text(encoding="utf-8")) == before


def test_a_token_cache_is_scored_as_the_songs_are(backend_name):
    cached = arrays_on_disk("tokens")
    result = evaluated("symbolic", backend_name, "--data-dir", "tokens", "--adapter-dir", "finished/symbolic-torch")
    assert found(result)["loss"] == near(EXPECTED["adapter symbolic-torch"])
    assert found(result)["songs"] == 6  # copies are scored too, and counted with their songs
    assert arrays_on_disk("tokens") == cached


def test_a_token_cache_holds_the_tokens_of_today():
    call(*COMMANDS["tokens"], "--output-dir", "again")
    today, before = (load_file(f"{folder}/tokens.safetensors") for folder in ("again", "tokens"))
    assert sorted(today) == sorted(before)
    assert all(np.array_equal(today[name], before[name]) for name in before)


def test_training_takes_the_token_cache(any_backend):
    result = call(
        *COMMANDS[f"symbolic-{any_backend}"], "--data-dir", "tokens", "--output-dir", "new", "--max-steps", 1, "--json"
    )
    assert found(result)["before"]["loss"] == near(meta(f"finished/symbolic-{any_backend}")["before"]["loss"])


def test_latents_are_not_encoded_again(backend_name):
    cached, before = arrays_on_disk("latents"), json.loads(Path("latents/index.json").read_text(encoding="utf-8"))
    result = found(call(*COMMANDS["latents"], "--backend", backend_name, "--json"))
    assert (result["recordings"], result["encoded"], result["left_out"]) == (5, 0, [])
    assert arrays_on_disk("latents") == cached
    # Earlier versions did not say that a folder is complete.
    assert json.loads(Path("latents/index.json").read_text(encoding="utf-8")) == before | {"complete": True}


def test_an_encoding_that_was_interrupted_goes_on_in_the_middle_of_a_recording(backend_name):
    pytest.importorskip("soundfile")
    (part,) = Path("half-latents").glob(".*.part")
    marked = -np.fromfile(part, np.float32).reshape(BLOCK, -1)  # as this codec would not make it, at a usual size
    part.write_bytes(marked.tobytes())
    cached = arrays_on_disk("half-latents")
    result = found(call(*COMMANDS["half-latents"], "--backend", backend_name, "--json"))
    assert (result["recordings"], result["encoded"]) == (2, 1)
    now = arrays_on_disk("half-latents")
    assert all(now[name] == content for name, content in cached.items())
    (new,) = set(now) - set(cached)
    latents = load_file(Path("half-latents", new))["latents"]
    assert np.array_equal(latents[:BLOCK], marked)
    assert len(latents) > BLOCK
    assert np.abs(latents[BLOCK:]).max() < 50
    assert not list(Path("half-latents").glob(".*.part"))


# -- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", ["torch", "mlx"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_of_either_backend_has_the_loss_that_it_had(family, maker, backend_name):
    result = evaluated(family, backend_name, "--adapter-dir", f"finished/{family}-{maker}/adapter-best")
    score = found(result)
    assert score["base"]["loss"] == near(EXPECTED[f"base {family}-{maker}"])
    assert score["loss"] == near(EXPECTED[f"adapter {family}-{maker}"])
    assert_no_doubt(result)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fingerprint_still_tells_another_base(family, any_backend):
    path = Path(f"bases/{family}/model.safetensors")
    arrays = load_file(path)
    name = max(arrays, key=lambda key: arrays[key].size)
    arrays[name].flat[0] += 1
    save_file(arrays, path)
    command = [*COMMANDS[f"evaluate {family}"], f"bases/{family}", "--backend", any_backend]
    result = call(*command, "--adapter-dir", f"finished/{family}-torch", code=2)
    assert "trained on another base than" in result.stderr
    assert "the weights (recorded" in result.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_makes_music(family, backend_name, work):
    if family == "audio":
        pytest.importorskip("soundfile")
    length = {"symbolic": ["--max-new-tokens", 60], "audio": ["--seconds", 1, "--steps", 2]}[family]
    adapter = f"finished/{family}-{backend_name}/adapter-best"
    result = call(
        "generate",
        "--model",
        f"bases/{family}",
        "--adapter-dir",
        adapter,
        "--output",
        OUTPUT[family],
        "--backend",
        backend_name,
        *length,
        "--compare",
        "--json",
    )
    assert len(found(result)["files"]) == 2
    assert (work / OUTPUT[family]).stat().st_size > 0
    assert_no_doubt(result)


@pytest.mark.parametrize("maker", ["torch", "mlx"])
def test_vanilla_peft_loads_an_adapter_whole(maker):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from transformers import GPT2LMHeadModel

    folder = Path(f"finished/symbolic-{maker}/adapter-best")
    model = peft.PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained("bases/symbolic"), str(folder))
    loaded, stored = peft.get_peft_model_state_dict(model), load_file(folder / "adapter_model.safetensors")
    assert sorted(loaded) == sorted(stored)
    assert all(torch.equal(loaded[name], torch.from_numpy(stored[name])) for name in stored)


@pytest.mark.parametrize(
    ("source", "family"),
    [("converted/mlx-lm", "symbolic"), ("converted/kohya.safetensors", "audio"), ("converted/diffusers", "audio")],
    ids=["mlx-lm", "kohya", "diffusers"],
)
def test_a_converted_adapter_converts_back(source, family, any_backend):
    base = f"bases/{family}"
    call("convert", "adapter", source, "back", "--to", "peft", "--model", base, "--backend", any_backend)
    original = Path(f"finished/{family}-torch/adapter-best")
    back, before = (updates(folder) for folder in ("back", original))
    assert sorted(back) == sorted(before)
    for module, update in before.items():
        # Formats put the scale into different factors: a few roundings of float32.
        np.testing.assert_allclose(back[module], update, rtol=1e-5, atol=1e-6 * np.abs(update).max(), err_msg=module)
    if "kohya" in source:  # has no place for the style
        shutil.copy(original / "style.safetensors", "back")
    result = evaluated(family, any_backend, "--adapter-dir", "back")
    assert found(result)["loss"] == near(EXPECTED[f"adapter {family}-torch"])


def updates(folder: Path | str) -> dict[str, np.ndarray]:
    """What a PEFT adapter adds to each module, in float64."""
    config = json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8"))
    arrays = load_file(Path(folder, "adapter_model.safetensors"))
    made = {}
    for key, a in arrays.items():
        if key.endswith(".lora_A.weight"):
            module = key.removesuffix(".lora_A.weight")
            b = arrays[f"{module}.lora_B.weight"]
            made[module] = config["lora_alpha"] / config["r"] * (b.astype(np.float64) @ a.astype(np.float64))
    return made


# -- model folders ----------------------------------------------------------------------------------------------------


def test_a_converted_model_converts_back_bit_for_bit():
    call("convert", "model", "converted/base-mlx", "back", "--to", "hf")
    today, before = (load_file(f"{folder}/model.safetensors") for folder in ("back", "bases/symbolic"))
    assert sorted(today) == sorted(before)
    assert all(np.array_equal(today[name], before[name]) for name in before)


def test_an_adapter_fits_the_conversion_of_its_base_by_the_record(backend_name):
    adapter = ["--adapter-dir", "finished/symbolic-torch"]
    result = evaluated("symbolic", backend_name, *adapter, model="converted/base-mlx")
    assert found(result)["loss"] == near(EXPECTED["adapter symbolic-torch"])
    quantised = evaluated("symbolic", backend_name, *adapter, model="converted/base-4bit")
    assert found(quantised)["base"]["loss"] == near(EXPECTED["base-4bit"])
    assert found(quantised)["loss"] == near(EXPECTED["adapter on base-4bit"])
    assert "is a conversion of the base that it was trained on" in quantised.stderr
