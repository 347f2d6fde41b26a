"""Latents folders of another architecture or another rate: one line, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import acestep_folder
import pytest
import toy_audio

from musiclora.errors import DataError
from musiclora.jobs import train
from musiclora.training.config import TrainConfig


@pytest.fixture(scope="module")
def ace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return acestep_folder.write_model(tmp_path_factory.mktemp("ace") / "ace", text_encoder=False)


@pytest.fixture(scope="module")
def rhythm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_audio.write_base(tmp_path_factory.mktemp("rhythm") / "rhythm")


def refused(latents: Path, model: Path, run: Path, backend: str, match: str) -> None:
    with pytest.raises(DataError, match=match) as error:
        train(TrainConfig(str(latents), str(run), str(model), backend=backend))
    assert "\n" not in str(error.value)
    assert not run.exists()


def test_conditions_are_refused_by_diffrhythm(ace: Path, rhythm: Path, tmp_path: Path, any_backend: str) -> None:
    latents = acestep_folder.write_latents(tmp_path / "latents", ace)
    refused(latents, rhythm, tmp_path / "run", any_backend, "holds a condition of words, which is ACE-Step's")


def test_latents_of_diffrhythms_codec_are_refused_by_acestep(
    ace: Path, rhythm: Path, tmp_path: Path, any_backend: str
) -> None:
    latents = toy_audio.write_latents(tmp_path / "latents", rhythm)
    refused(latents, ace, tmp_path / "run", any_backend, "was encoded by another codec")


def test_styles_are_refused_by_acestep(ace: Path, rhythm: Path, tmp_path: Path, any_backend: str) -> None:
    import numpy as np

    latents = toy_audio.write_latents(tmp_path / "latents", rhythm, style=lambda i: np.ones(512, np.float32))
    refused(latents, ace, tmp_path / "run", any_backend, "holds a style, which is DiffRhythm's")


def test_another_frame_rate_is_refused(ace: Path, tmp_path: Path, any_backend: str) -> None:
    latents = acestep_folder.write_latents(tmp_path / "latents", ace)
    index = json.loads((latents / "index.json").read_text())
    for number, item in enumerate(index["items"]):
        item |= {"start": 0.0, "seconds": (50 + 7 * number) / (44100 / 2048)}
        item |= {"end": item["seconds"]}
    (latents / "index.json").write_text(json.dumps(index))
    refused(
        latents, ace, tmp_path / "run", any_backend, r"has 21\.5 latent frames a second, .* has 25: these are another"
    )


@pytest.mark.parametrize("part", ["text_encoder", "shard"])
def test_a_model_in_parts_is_refused(part: str, tmp_path: Path, any_backend: str) -> None:
    model = acestep_folder.write_model(tmp_path / "model")
    latents = acestep_folder.write_latents(tmp_path / "latents", model)
    if part == "text_encoder":
        given, match = model / "text_encoder", "a text encoder; expected config.json"
    else:
        given, match = model, r"model-00002-of-00002\.safetensors"
        (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
        shards = {"weight_map": {"decoder.norm_out.weight": "model-00002-of-00002.safetensors"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(Exception, match=match) as error:
        train(TrainConfig(str(latents), str(tmp_path / "run"), str(given), backend=any_backend))
    assert type(error.value).__module__.startswith("musiclora")
    assert "\n" not in str(error.value)
