"""What commands say of songs: what the tokens keep, which files are skipped, which songs are held out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from musiclora.cli import main
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint
from musiclora.doctor import songs_report
from musiclora.symbolic.tokens.band_bases import BAND_BASES
from musiclora.symbolic.tokens.tokenizers import load_tokenizer

pytestmark = pytest.mark.usefixtures("plain_pictures")

FOUND = Path(__file__).parents[1] / "golden" / "found"
PROGRAMS = FOUND / "remi_programs_no_pitchdrum.json"


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.stderr
    return result


@pytest.fixture(scope="module")
def music(tmp_path_factory, tunes):
    out = tmp_path_factory.mktemp("said") / "music"
    shutil.copytree(tunes, out)
    for name in ("nearunison.mid", "highlow.mid"):
        shutil.copy(FOUND / name, out)
    (out / "broken.mid").write_bytes(b"no music")
    return out


@pytest.fixture(scope="module")
def band_base(tmp_path_factory):
    """A base of tokens with programs and drums."""
    tokenizer = load_tokenizer(PROGRAMS)
    shape = Gpt2Config(tokenizer.vocab_size, 64, 16, 1, 1, 32, bos_token_id=1, eos_token_id=2)
    folder = tmp_path_factory.mktemp("base") / "band"
    extra = {"tokenizer.json": tokenizer.to_json().encode()}
    write_checkpoint(folder, shape, fresh_tensors(shape, 1), "hf", extra_files=extra)
    return folder


@pytest.mark.slow
def test_doctor_counts_by_the_tokens_of_its_model(band_base, tmp_path):
    nasty = Path(__file__).parents[1] / "data" / "nasty_midi"
    for name in ("26_only_drums.mid", "76_pitchbend_program_mix.mid"):
        shutil.copy(nasty / name, tmp_path)
    models = ("bundled", str(band_base), "bundled-audio")
    own, band, audio = (songs_report(tmp_path, model, 1, lambda done, total: None) for model in models)
    assert (own["skipped"], band["skipped"], audio["skipped"]) == (1, 0, 0)
    assert own["kept_by_tokens"]["drums"] == 4
    assert band["kept_by_tokens"]["drums"] == 0
    assert any(BAND_BASES[0] in text for text in own["notes"])
    assert not any(BAND_BASES[0] in text for text in band["notes"])
    assert (own["round_trip"]["kept"], own["round_trip"]["unit"]) == (own["kept_by_tokens"]["kept"], "quarters")
    assert band["round_trip"]["instruments_kept"] == band["round_trip"]["instruments"]
    assert audio["round_trip"] is None
    assert band["kept_by_tokens"]["notes"] == band["kept_by_tokens"]["kept"] + band["kept_by_tokens"]["unisons"]
    assert audio["kept_by_tokens"] is None
    assert "learns recordings" in audio["notes"][0]


@pytest.mark.slow
def test_doctor_says_what_is_kept_and_lost_as_text_and_as_json(music):
    text = run("doctor", music).stdout
    assert "bundled (REMI): the tokens keep " in text
    assert "20 notes outside 21..109, 8 near-unisons" in text
    kept = json.loads(run("doctor", music, "--json").stdout)["data"]["kept_by_tokens"]
    assert (kept["outside"], kept["merged"]) == (20, 8)


def test_doctor_of_a_model_without_a_tokenizer_counts_the_notes_as_they_are(band_base, tmp_path):
    shutil.copytree(band_base, tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    found = songs_report(FOUND / "highlow.mid", str(tmp_path / "bare"), 1, lambda done, total: None)
    assert found["tokenizer"] is None
    assert "no usable tokenizer.json: the notes are counted as they are" in found["notes"][0]
    assert found["rows"][0]["notes"] == 24


@pytest.mark.slow
def test_preprocess_names_skipped_files_and_counts_what_is_kept(music, tmp_path):
    options = ("preprocess", "--data-dir", music, "--tokenizer", "own", "--output-dir", tmp_path / "cache")
    result = run(*options)
    assert "skipped broken.mid: no MIDI file" in result.stderr
    assert "the tokens keep " in result.stdout
    kept = json.loads(run(*options, "--json").stdout)["kept_by_tokens"]
    assert (kept["outside"], kept["merged"]) == (20, 8)
    cached = songs_report(tmp_path / "cache", "bundled-audio", 1, lambda done, total: None)
    assert cached["kept_by_tokens"] == kept
    assert cached["skipped"] == 1


@pytest.mark.slow
def test_train_and_evaluate_name_what_is_held_out_and_skipped(music, tiny_base, any_backend, tmp_path):
    common = ("--data-dir", music, "--model", tiny_base, "--backend", any_backend, "--num-workers", 1)
    small = ("--max-steps", 1, "--max-seq-len", 128, "--lora-r", 2, "--batch-size", 2)
    result = run("train", *common, *small, "--output-dir", tmp_path / "run", "--val-split", 0.2)
    record = json.loads((tmp_path / "run" / "training_meta.json").read_text())
    assert len(record["held_out_songs"]) == record["songs_held_out"] == 2
    assert all(name in result.stderr for name in record["held_out_songs"])
    assert record["skipped_files"][0].startswith("broken.mid: no MIDI file")
    assert record["kept_by_tokens"]["outside"] == 20
    for words in ("skipped broken.mid: no MIDI", "8 near-unisons", "pieces are longer than 128 tokens"):
        assert words in result.stderr
    adapter = tmp_path / "run" / "adapter-best"
    card = (adapter / "README.md").read_text()
    assert "\n* of its songs, the tokens keep " in card
    assert "20 notes outside 21..109, 8 near-unisons" in card
    for path in adapter.iterdir():
        content = path.read_bytes()
        assert not any(name.encode() in content for name in record["held_out_songs"]), path.name
    scored = run("evaluate", *common, "--max-seq-len", 64)
    assert "skipped broken.mid: no MIDI file" in scored.stderr
    assert "are longer than 64 tokens" in scored.stderr
    assert "up to --max-seq-len 160 is possible" in scored.stderr
