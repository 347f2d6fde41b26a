"""The bundled band base and the songs to adapt it to: size, tokens, card, both backends, bands in what it writes."""

import json
import math
import re
import tomllib

import numpy as np
import pytest
from click.testing import CliRunner
from require import REQUIRED
from symusic import Score

from musiclora.backends import registry
from musiclora.backends.base import FAMILIES
from musiclora.bundled import BUNDLED, bundled_songs, bundled_tunes
from musiclora.cli import main
from musiclora.convert.adapters.peft import read_peft
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.models import find_model
from musiclora.symbolic.dataset.batches import song_batches
from musiclora.symbolic.dataset.pieces import load_pieces
from musiclora.symbolic.decoding.pieces import generate_pieces
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.model import open_model
from musiclora.symbolic.tokens.tokenizers import band_tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def folder():
    return find_model("bundled-band").path


def card_of(folder):
    return re.sub(r"\s+", " ", (folder / "README.md").read_text(encoding="utf-8"))


def test_the_band_base_has_the_promised_size_and_the_tokenizer_it_was_trained_with(folder):
    base = read_checkpoint(folder)

    assert (folder / "model.safetensors").stat().st_size <= 12e6
    assert load_tokenizer(folder).to_json() == band_tokenizer().to_json()
    assert base.config.vocab_size == band_tokenizer().vocab_size
    assert find_model("bundled-band").kind == "bundled"


def test_card_and_record_of_the_band_base_agree_with_the_model(folder):
    config = read_checkpoint(folder).config
    record = json.loads((folder / "musiclora.json").read_text(encoding="utf-8"))
    parameters = sum(math.prod(shape) for shape in config.tensor_shapes().values())
    card = card_of(folder)

    shape = f"{config.n_layer} layers, {config.n_embd} wide, {config.n_head} heads, {config.n_positions:,} positions"
    assert f"{shape}, {config.vocab_size} tokens, {parameters / 1e6:.2f} million parameters, float16" in card
    assert f"at most {record['notes_at_once']} notes begin at once" in card
    assert record["source_fingerprint"]["tokenizer"]
    for said in ("license: apache-2.0", "public domain", "Northumbrian", "bits a note", "How much it copies", "drums"):
        assert said in card


def test_the_bundled_songs_are_the_tunes_for_a_band_and_small():
    songs = bundled_songs()

    assert [path.stem for path in songs] == [path.stem for path in bundled_tunes()]
    assert sum(path.stat().st_size for path in songs) < 300_000
    card = (BUNDLED / "songs" / "README.md").read_text(encoding="utf-8")
    assert "Jack Campin" in card
    assert "Apache-2.0" in card


@pytest.mark.slow
def test_the_band_base_knows_bands_on_every_backend_alike(folder):
    tokenizer = band_tokenizer()
    pieces = load_pieces(BUNDLED / "songs", tokenizer, workers=1).pieces[:2]
    means = []
    for name in registry.BACKENDS:
        if name in REQUIRED or not registry.why_not(name):
            model = registry.get_backend(name).load(FAMILIES["symbolic"], folder)
            sums = [model.loss(batch) for batches in song_batches(pieces, tokenizer, 256) for batch in batches]
            means.append(sum(s.total for s in sums) / sum(s.weight for s in sums))

    assert max(means) < 0.5 * math.log(tokenizer.vocab_size)
    assert np.ptp(means) < 1e-3 * max(means)


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.BACKENDS)
def test_the_band_base_writes_pieces_with_drums_and_several_instruments(name):
    if name not in REQUIRED and registry.why_not(name):
        pytest.skip(f"{name} is not installed")
    opened = open_model("bundled-band", backend=name)

    pieces = generate_pieces(opened.model, opened.tokenizer, GenerationRequest(max_new_tokens=500, count=8, seed=1))

    tracks = [piece.score.tracks for piece in pieces]
    assert sum(len(found) >= 3 for found in tracks) >= 3
    assert any(track.is_drum and len(track.notes) > 8 for found in tracks for track in found)


@pytest.mark.slow
def test_the_preset_for_the_bundled_bases_trains_the_band_base(any_backend, tmp_path):
    for path in bundled_songs()[:4]:
        song = Score(path)
        tune = song.clip(0, 8 * song.ticks_per_quarter, clip_end=True)
        (tmp_path / "songs").mkdir(exist_ok=True)
        tune.dump_midi(tmp_path / "songs" / path.name)
    run = tmp_path / "run"
    options = ["--data-dir", tmp_path / "songs", "--output-dir", run, "--model", "bundled-band", "--preset", "bundled"]
    short = ["--max-steps", 2, "--batch-size", 2, "--grad-accum-steps", 1, "--val-split", 0.25, "--num-workers", 1]

    result = CliRunner().invoke(main, ["train", *map(str, [*options, *short, "--backend", any_backend])])

    assert result.exit_code == 0, result.output
    settings = tomllib.loads((run / "config.toml").read_text())["train"]
    assert (settings["model"], settings["lr"], settings["transpose"]) == ("bundled-band", 1e-3, 5)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    meta = json.loads((run / "training_meta.json").read_text())
    assert meta["base_model"] == "bundled-band"
    assert meta["best_val_loss"] < 0.5 * math.log(band_tokenizer().vocab_size)
    assert read_peft(run / "adapter-best").state
