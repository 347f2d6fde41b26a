"""Recordings and their words to a latents folder: computed once, recomputed where something changed, resumed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import acestep_folder
import numpy as np
import pytest
from require import require

from musiclora.audio.acestep import preprocess as module
from musiclora.audio.acestep.song_text import SongText
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.errors import DataError
from musiclora.jobs import preprocess, train
from musiclora.training.config import TrainConfig

WIDTH = acestep_folder.TURBO.encoder.hidden


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return acestep_folder.write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    require("soundfile")
    return acestep_folder.write_recordings(tmp_path / "songs", 3, 1.2)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[SongText]:
    """Words that were encoded."""
    made, encode = list[SongText](), module.encode_songs

    def spy(texts: list[SongText], *rest: Any) -> list[np.ndarray]:
        made.extend(texts)
        return encode(texts, *rest)

    monkeypatch.setattr(module, "encode_songs", spy)
    return made


def items(folder: Path) -> dict[str, dict[str, Any]]:
    content = json.loads((folder / "index.json").read_text())
    assert content["complete"]
    return {item["source"]: item for item in content["items"]}


def test_latents_conditions_and_what_they_were_made_of(
    model: Path, songs: Path, tmp_path: Path, backend_name: str, asked: list[SongText]
) -> None:
    result = preprocess(songs, tmp_path / "latents", str(model), backend_name, estimates=False)
    found = items(tmp_path / "latents")
    assert [item["caption"] for item in found.values()] == [f"a tone with harmonics, number {i}" for i in range(3)]
    for item in found.values():
        arrays = read_safetensors(tmp_path / "latents" / f"{item['sha256']}.safetensors")
        assert arrays["latents"].shape == (int(item["seconds"] * 25), 6)
        assert arrays["condition"].shape[1] == WIDTH
        assert np.isfinite(arrays["condition"]).all()
    assert (asked[0].lyrics, asked[1].lyrics) == ("[Verse]\nla la la", "[Instrumental]")
    assert asked[0].seconds == pytest.approx(1.2, abs=0.01)
    assert (asked[0].bpm, asked[0].key) == (None, None)
    assert not result.notes()


def test_only_what_changed_is_computed_again(
    model: Path, songs: Path, tmp_path: Path, any_backend: str, asked: list[SongText]
) -> None:
    def run(**more: Any) -> list[str]:
        asked.clear()
        result = preprocess(songs, tmp_path / "latents", str(model), any_backend, estimates=False, **more)
        return [text.caption for text in asked] + [f"{result.record()['encoded']} sounds"]

    assert len(run()) == 4
    assert run() == ["0 sounds"]
    (songs / "tone-1.txt").write_text("another caption")
    assert run() == ["another caption", "0 sounds"]
    assert run(caption="one for all") == ["one for all"] * 3 + ["0 sounds"]
    assert {item["caption"] for item in items(tmp_path / "latents").values()} == {"one for all"}


def test_another_encoder_makes_other_conditions(
    model: Path, songs: Path, tmp_path: Path, any_backend: str, asked: list[SongText]
) -> None:
    preprocess(songs, tmp_path / "latents", str(model), any_backend, estimates=False)
    other = shutil.copytree(model, tmp_path / "other")
    path = other / "text_encoder" / "model.safetensors"
    arrays = read_safetensors(path)
    path.unlink()
    write_safetensors(path, arrays | {"norm.weight": arrays["norm.weight"] + 1}, {"format": "pt"})
    asked.clear()
    preprocess(songs, tmp_path / "latents", str(other), any_backend, estimates=False)
    assert len(asked) == 3


def test_conditions_of_another_models_encoder_are_not_trained_on(
    model: Path, songs: Path, tmp_path: Path, any_backend: str
) -> None:
    preprocess(songs, tmp_path / "latents", str(model), any_backend, estimates=False)
    other = shutil.copytree(model, tmp_path / "other")
    path = other / "model.safetensors"
    arrays = read_safetensors(path)
    name = "encoder.text_projector.weight"
    path.unlink()
    write_safetensors(path, arrays | {name: arrays[name] + 1}, {"format": "pt"})
    config = TrainConfig(str(tmp_path / "latents"), str(tmp_path / "run"), str(other), backend=any_backend)
    with pytest.raises(DataError, match="its conditions were computed by another model's encoder"):
        train(config)
    bare = shutil.copytree(model, tmp_path / "bare")
    shutil.rmtree(bare / "text_encoder")  # training needs it no more
    train(dataclasses.replace(config, model=str(bare), epochs=1, val_split=0.3, lora_r=2))


def test_an_interrupted_start_keeps_what_was_computed(
    model: Path,
    songs: Path,
    tmp_path: Path,
    any_backend: str,
    asked: list[SongText],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_GROUP", 1)
    put = module.put_condition

    def break_off(path: Path, key: str, condition: np.ndarray) -> None:
        if len(asked) == 2:
            raise KeyboardInterrupt
        put(path, key, condition)

    monkeypatch.setattr(module, "put_condition", break_off)
    with pytest.raises(KeyboardInterrupt):
        preprocess(songs, tmp_path / "latents", str(model), any_backend, estimates=False)
    assert not json.loads((tmp_path / "latents" / "index.json").read_text())["complete"]
    monkeypatch.setattr(module, "put_condition", put)
    asked.clear()
    preprocess(songs, tmp_path / "latents", str(model), any_backend, estimates=False)
    assert len(asked) == 2
    assert len(items(tmp_path / "latents")) == 3


def test_estimates_are_shown_and_kept_as_such(
    model: Path, songs: Path, tmp_path: Path, any_backend: str, asked: list[SongText], monkeypatch: pytest.MonkeyPatch
) -> None:
    require("librosa")
    heard: list[Path] = []

    def estimate(path: Path) -> module.MusicEstimate:
        heard.append(path)
        return module.MusicEstimate(96, None)

    monkeypatch.setattr(module, "estimate_music", estimate)
    (songs / "dataset.json").write_text(
        json.dumps({"samples": [{"filename": "tone-0.wav", "caption": "c", "bpm": 120, "keyscale": "C major"}]})
    )
    result = preprocess(songs, tmp_path / "latents", str(model), any_backend)
    assert [path.name for path in heard] == ["tone-1.wav", "tone-2.wav"]
    assert [(text.bpm, text.key) for text in asked] == [(120, "C major"), (96, None), (96, None)]
    (note,) = [text for text in result.notes() if "estimates" in text]
    assert "tempo and key of 2 recordings are estimates" in note
    assert "tone-1.wav: about 96 bpm, no clear key" in note
    assert items(tmp_path / "latents")["tone-1.wav"]["estimates"] == {"bpm": 96, "key": None}
    preprocess(songs, tmp_path / "latents", str(model), any_backend)
    assert len(heard) == 2


def test_words_that_cannot_be_read_are_said_before_anything_is_encoded(
    model: Path, songs: Path, tmp_path: Path, any_backend: str
) -> None:
    (songs / "tone-2.txt").write_bytes("grün".encode("latin-1"))
    with pytest.raises(DataError, match=r"tone-2\.txt: is no UTF-8 text"):
        preprocess(songs, tmp_path / "latents", str(model), any_backend, estimates=False)
    assert not (tmp_path / "latents").exists()


def test_without_a_text_encoder_latents_are_written_and_it_is_said(
    songs: Path, tmp_path: Path, any_backend: str
) -> None:
    bare = acestep_folder.write_model(tmp_path / "bare", text_encoder=False)
    result = preprocess(songs, tmp_path / "latents", str(bare), any_backend)
    assert "has no text encoder beside it" in result.notes()[-1]
    for item in items(tmp_path / "latents").values():
        assert set(read_safetensors(tmp_path / "latents" / f"{item['sha256']}.safetensors")) == {"latents"}


def test_train_takes_the_folder_of_recordings_itself(
    model: Path, songs: Path, tmp_path: Path, any_backend: str, asked: list[SongText]
) -> None:
    settings = {"epochs": 1, "val_split": 0.3, "lora_r": 2, "caption": "a waltz"}
    train(TrainConfig(str(songs), str(tmp_path / "run"), str(model), backend=any_backend, **settings))  # type: ignore[arg-type]
    assert {text.caption for text in asked} == {"a waltz"}
    record = json.loads((tmp_path / "run" / "adapter-best" / "musiclora.json").read_text())
    assert (record["style"], record["caption"]) == ("recordings", "a waltz")
