"""What commit 6ef70d8 wrote still loads, resumes and converts; only the command line is used, so that code may move."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from old_files import (
    BLOCK,
    COMMANDS,
    EXPECTED,
    FAMILIES,
    FILES,
    TRAINED,
    arrays_on_disk,
    assert_no_doubt,
    call,
    evaluated,
    found,
    meta,
    near,
    rows,
    same_course,
)
from safetensors.numpy import load_file, save_file

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain_pictures")]


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
