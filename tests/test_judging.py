"""The base is judged on all songs before training, and `evaluate` knows the songs that an adapter was trained on."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import pytest
import toy_audio
from click.testing import CliRunner
from session_helpers import RememberingReporter

from musiclora.audio.diffrhythm.learning import load_diffrhythm_task
from musiclora.backends.base import LossSum
from musiclora.cli import main
from musiclora.errors import ConfigError
from musiclora.jobs import evaluate, open_session, train
from musiclora.progress import Reporter
from musiclora.symbolic.dataset.pieces import load_pieces
from musiclora.symbolic.dataset.transpose import transpose_piece
from musiclora.symbolic.tokens.tokenizers import own_tokenizer
from musiclora.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.fixture
def config(tiny_base, tunes, any_backend, tmp_path):
    return TrainConfig(
        data_dir=str(tunes),
        output_dir=str(tmp_path / "run"),
        model=str(tiny_base),
        backend=any_backend,
        max_seq_len=128,
        max_steps=1,
        lora_r=4,
        num_workers=1,
        batch_size=64,
    )


def test_a_base_that_does_not_know_the_songs_is_named_before_training_also_without_held_out_songs(config):
    reporter = RememberingReporter()
    result = train(dataclasses.replace(config, val_split=0.0), reporter)
    said = [text for text in reporter.said if "no better than chance" in text]
    assert len(said) == 1
    assert said[0].startswith("warning: ")
    assert reporter.said.index(said[0]) < reporter.said.index("probing the speed")
    assert result.check.guess == pytest.approx(math.log(own_tokenizer().vocab_size))
    assert "no verdict, the base does not know these songs" in "\n".join(result.lines())


def test_the_base_is_judged_on_the_training_songs_and_the_held_out_ones(config):
    session = open_session(config)
    judged = session.task.judging_batches(session.config)
    assert len(judged) + len(session.task.song_batches(session.config)) == 8
    assert all(count > 0 for count in session.task.count_songs())


def test_held_out_near_duplicates_count_once_in_the_gain_of_training(config):
    task = open_session(config).task
    songs = dataclasses.replace(task.songs, held_out=task.songs.held_out[:1] * 6)
    task = dataclasses.replace(task, songs=songs)
    sums = [LossSum(10.0, 10)] * 6
    assert task.compare_losses(sums, sums).gain.songs == 1


def test_evaluate_on_the_training_songs_says_so_and_never_gained(config, tunes, tmp_path):
    result = train(config)
    record = json.loads((result.run_dir / "adapter-best" / "musiclora.json").read_text())
    assert len(record["trained_on"]) == result_songs(result)[0]
    assert not any(path.stem in json.dumps(record) for path in tunes.iterdir())  # hashes only
    found = evaluate(tunes, adapters=[str(result.run_dir)], backend=result.backend, model=config.model)
    assert (found.songs, found.trained_on) == (8, result_songs(result)[0])
    assert found.gain.songs == result_songs(result)[1]
    assert any("no better than chance" in note for note in found.notes)
    twice = tmp_path / "twice"
    for song in tunes.iterdir():
        for folder in ("one", "other"):
            (twice / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(song, twice / folder / song.name)
    again = evaluate(twice, adapters=[str(result.run_dir)], backend=result.backend, model=config.model)
    assert (again.songs, again.trained_on) == (16, 2 * found.trained_on)
    assert again.gain.songs == found.gain.songs


def result_songs(result):
    meta = json.loads((result.run_dir / "training_meta.json").read_text())
    return meta["songs"], meta["songs_held_out"]


def test_a_song_is_recognised_in_every_key(tunes):
    tokenizer = own_tokenizer()
    pieces = load_pieces(tunes, tokenizer, workers=1).pieces
    assert len({piece.fingerprint for piece in pieces}) == len(pieces)
    for other in transpose_piece(tokenizer, pieces[0], 40, 93):
        assert other.fingerprint == pieces[0].fingerprint


@pytest.mark.parametrize("rank", [100_000, 33])
def test_a_rank_that_is_too_large_is_refused_before_the_songs_are_read(config, rank, tmp_path):
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "broken.mid").write_bytes(b"MThd")  # reading it would be refused
    config = dataclasses.replace(config, lora_r=rank, data_dir=str(tmp_path / "songs"))
    with pytest.raises(ConfigError, match=rf"--lora-r is {rank}; .* at most 32"):
        open_session(config)
    assert not (tmp_path / "run").exists()


def test_blend_refuses_such_a_rank_too(config, tmp_path):
    adapter = train(config).run_dir / "adapter-best"
    command = ["blend", f"{adapter}:0.5", f"{adapter}:0.5", str(tmp_path / "both"), "--rank", "100000"]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 2
    assert "--rank is 100000" in found.stderr
    assert "at most 32" in found.stderr
    assert not (tmp_path / "both").exists()


def test_segments_of_one_recording_count_as_one(tmp_path, any_backend):
    base = toy_audio.write_base(tmp_path / "base")
    toy_audio.write_latents(tmp_path / "latents", base, count=6)
    index = json.loads((tmp_path / "latents" / "index.json").read_text())
    for number, item in enumerate(index["items"]):
        item["source"] = f"song-{number // 3}.wav"
    (tmp_path / "latents" / "index.json").write_text(json.dumps(index))
    config = TrainConfig(
        data_dir=str(tmp_path / "latents"),
        output_dir=str(tmp_path / "run"),
        model=str(base),
        backend=any_backend,
        family="audio",
    )
    task = load_diffrhythm_task(config, Reporter(), any_backend)
    assert task.count_songs() == (1, 1)
    assert task.describe_data()[0] == "1 recording (3 segments) to train on, 1 recording (3 segments) held out"
    assert len(task.judging_batches(config)) == 3
