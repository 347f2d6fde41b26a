"""Kernel distance of latents: folders of latents, recordings with a codec, and what cannot be compared."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from clicked_sound import melody
from refusal import refused
from require import require

from musiclora.audio.latents.store import put_latents, write_index
from musiclora.cli import main
from musiclora.models import find_model

require("librosa")
soundfile = require("soundfile")
RATE = 44100


def latents_folder(folder, count, seed, shift=0.0, *, codec="c" * 64, channels=4, posterior="mean", suffix=""):
    """Write latents of one frame distribution a file, around the file's own mean."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    items = []
    for number in range(count):
        checksum = f"{seed:032x}{number:032x}"
        latents = rng.normal(shift + 0.3 * rng.normal(size=channels), 1, (60, channels)).astype(np.float32)
        put_latents(folder / f"{checksum}.safetensors", {"latents": latents})
        facts = {"frames": 60, "seconds": 2.8, "codec": codec, "posterior": posterior}
        items.append({"source": f"{number}{suffix}.wav", "sha256": checksum, **facts})
    write_index(folder, items)
    return folder


@pytest.fixture
def reference(tmp_path):
    return latents_folder(tmp_path / "reference", 10, 1)


def evaluate(generated, reference, *more):
    pair = ("--generated-dir", generated, "--reference-dir", reference)
    return CliRunner().invoke(main, ["evaluate", *(str(a) for a in (*pair, *more))])


def test_two_folders_of_latents_have_a_distance_with_interval_and_scale(tmp_path, reference):
    near, far = (latents_folder(tmp_path / f"at{shift}", 8, 2, shift) for shift in (0.0, 1.0))
    found, other = (json.loads(evaluate(folder, reference, "--json").stdout) for folder in (near, far))
    assert found["mmd_latents"] < 0.1 < other["mmd_latents"]
    assert other["mmd_latents_interval"][0] <= other["mmd_latents"] <= other["mmd_latents_interval"][1]
    assert other["mmd_latents_interval"][0] > other["real_vs_real"]["mmd_latents_interval"][1]
    assert (found["generated"], found["reference"], found["notes"]) == (8, 10, [])
    assert "mmd" not in found
    assert f"{other['mmd_latents']:.3f}" in evaluate(far, reference).stdout


def test_a_baseline_of_latents_gives_a_reduction(tmp_path, reference):
    made, base = latents_folder(tmp_path / "made", 8, 2, 0.5), latents_folder(tmp_path / "base", 8, 3, 2.0)
    done = evaluate(made, reference, "--baseline-dir", base, "--json")
    found = json.loads(done.stdout)
    low, high = found["mmd_latents_reduction_interval"]
    # An unbiased distance may be below 0 in a resample, so that the interval may pass 1.
    assert 0 < low <= found["mmd_latents_reduction"] <= high
    assert found["mmd_latents_reduction"] < 1
    assert "MMD² of latents: " in evaluate(made, reference, "--baseline-dir", base).stdout


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"codec": "d" * 64}, ["different codecs", "cccccccc, dddddddd"]),
        ({"channels": 6}, ["4 and 6 channels"]),
        ({"posterior": "sample 42"}, ["mean and sample", "--posterior"]),
    ],
    ids=["codec", "channels", "posterior"],
)
def test_latents_of_another_making_are_refused(tmp_path, reference, other, words):
    refused(evaluate(latents_folder(tmp_path / "other", 4, 2, **other), reference), *words)


@pytest.mark.parametrize("option", [["--rank"], ["--paired"], ["--picture", "p.png"]], ids=lambda o: o[0])
def test_options_that_need_sound_are_refused_for_latents(tmp_path, reference, option, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = latents_folder(tmp_path / "made", 4, 2)
    refused(evaluate(made, reference, *option), option[0], "for recordings only")
    assert not (tmp_path / "p.png").exists()


def test_a_single_file_of_latents_is_no_reference(tmp_path, reference):
    refused(evaluate(reference, latents_folder(tmp_path / "one", 1, 2)), "at least two")


def test_damaged_latents_are_refused(tmp_path, reference):
    made = latents_folder(tmp_path / "made", 4, 2)
    next(made.glob("*.safetensors")).write_bytes(b"no latents")
    refused(evaluate(made, reference), "made")


def recordings_folder(folder, seeds):
    folder.mkdir()
    for seed in seeds:
        soundfile.write(folder / f"{seed}.wav", 0.3 * melody(1.5, seed=seed), RATE)
    return folder


def test_recordings_and_latents_together_need_the_codec(tmp_path, reference):
    made = recordings_folder(tmp_path / "made", range(2))
    refused(evaluate(made, reference), "made", "--vae", "musiclora preprocess")
    refused(evaluate(made, reference, "--vae", tmp_path / "none"), "--vae", "no such file")


def test_a_codec_is_refused_for_songs(tmp_path, tunes):
    done = evaluate(tunes, tunes, "--train-dir", tunes, "--vae", tmp_path)
    refused(done, "--vae", "audio family")


def test_recordings_are_encoded_only_with_a_codec_named(tmp_path, any_backend):
    made, real = (
        recordings_folder(tmp_path / name, seeds) for name, seeds in (("made", (1, 2)), ("real", range(3, 8)))
    )
    codec = ("--vae", find_model("bundled-audio").path / "vae", "--backend", any_backend)
    done = evaluate(made, real, *codec, "--json")
    assert done.exit_code == 0, done.stderr
    found, plain = json.loads(done.stdout), json.loads(evaluate(made, real, "--json").stdout)
    assert found["mmd_latents_interval"][0] <= found["mmd_latents"] <= found["mmd_latents_interval"][1]
    assert {"mmd", "mmd_latents", "afd"} <= set(found["real_vs_real"])
    assert {key for key in found if "latents" not in key} == set(plain)
    cache = tmp_path / "latents"
    arguments = ["preprocess", "--data-dir", real, "--output-dir", cache, "--model", "bundled-audio"]
    encoded = CliRunner().invoke(main, [str(a) for a in (*arguments, "--backend", any_backend)])
    assert encoded.exit_code == 0, encoded.stderr
    mixed = json.loads(evaluate(made, cache, *codec, "--json").stdout)
    # One processor encodes the same sound twice.
    assert mixed["mmd_latents"] == pytest.approx(found["mmd_latents"], abs=1e-6)
    assert "afd" not in mixed
