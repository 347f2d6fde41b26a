"""Bands through the whole chain: training, generation, evaluation, cache and copies keep instruments and drums."""

from __future__ import annotations

import io
import json

import mido
import numpy as np
import pytest
from bands import CHANGES, FULL, PERTOK, band, instruments
from click.testing import CliRunner
from miditok import REMI, TSD, PerTok, TokenizerConfig
from require import require
from symusic import Score

from musiclora.cli import main
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint
from musiclora.jobs import evaluate, generate, train
from musiclora.symbolic.dataset.pieces import load_pieces, read_token_cache
from musiclora.symbolic.dataset.transpose import transpose_piece
from musiclora.symbolic.tokens.kept import encode_and_count
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer
from musiclora.training.config import TrainConfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain_pictures")]
FEW = {"programs": [-1, 0, 25, 33, 48]}
TOKENIZERS = {
    "remi": lambda: MusicTokenizer(REMI(TokenizerConfig(**FULL, **FEW))),
    "remi changes": lambda: MusicTokenizer(REMI(TokenizerConfig(**FULL, **FEW, **CHANGES))),
    "tsd": lambda: MusicTokenizer(TSD(TokenizerConfig(**FULL, **FEW))),
    "pertok changes": lambda: MusicTokenizer(PerTok(TokenizerConfig(**PERTOK, **FEW, **CHANGES))),
}
GIVEN = {-1, 0, 25, 33, 48}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Write six short songs of one band that differ in melody and length."""
    folder = tmp_path_factory.mktemp("songs")
    for number in range(6):
        rng, score = np.random.default_rng(number), band(3 + number % 3)
        shifts = rng.integers(-5, 6, 4 * 5)  # one for each beat, so that no two parts meet
        for note in [note for track in score.tracks if not track.is_drum for note in track.notes]:
            note.pitch += int(shifts[note.time // 480])
        score.dump_midi(folder / f"song{number}.mid")
    return folder


@pytest.fixture(scope="module")
def base(tokenizer, tmp_path_factory):
    """Write a random GPT-2 whose weights are large enough for music that differs by seed."""
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    shape = Gpt2Config(tokenizer.vocab_size, 160, 32, 2, 2, 64, **ends)
    tensors = {name: value * 4 if value.ndim > 1 else value for name, value in fresh_tensors(shape, 3).items()}
    folder = tmp_path_factory.mktemp("base") / "band"
    write_checkpoint(folder, shape, tensors, "hf", extra_files={"tokenizer.json": tokenizer.to_json().encode()})
    return folder


@pytest.fixture(scope="module")
def run(base, songs, backend_name, tmp_path_factory):
    """Train an adapter for two steps."""
    settings = {"max_seq_len": 160, "batch_size": 2, "grad_accum_steps": 1, "max_steps": 2, "lora_r": 2, "lr": 5e-3}
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = TrainConfig(
        data_dir=str(songs),
        output_dir=str(folder),
        model=str(base),
        backend=backend_name,
        val_split=0.25,
        num_workers=1,
        transpose=2,
        **settings,
    )
    return train(config).run_dir


def channels(data: bytes) -> dict[int, set[int]]:
    """Return the programs of each channel that sounds in a MIDI file."""
    found: dict[int, set[int]] = {}
    for track in mido.MidiFile(file=io.BytesIO(data)).tracks:
        sounding = {m.channel for m in track if m.type == "note_on"}
        for message in track:
            if message.type == "program_change" and message.channel in sounding:
                found.setdefault(message.channel, set()).add(message.program)
    return found


def test_a_run_keeps_all_instruments_and_says_so(run):
    kept = json.loads((run / "training_meta.json").read_text())["kept_by_tokens"]
    assert kept["kept"] == kept["notes"] > 0
    assert (kept["instruments"], kept["instruments_kept"]) == (6 * 5, 6 * 5)
    assert (kept["tracks"], kept["tracks_kept"], kept["drums"]) == (6 * 6, 6 * 5, 0)


def test_new_pieces_have_instruments_and_drums_on_channel_10(run, tokenizer, base, backend_name, tmp_path):
    options = {"model": str(base), "backend": backend_name, "max_new_tokens": 200, "seed": 2, "count": 8}
    flat = {"temperature": 2.0, "top_k": 0, "top_p": 1.0}  # so that each program is drawn
    files = generate(tmp_path / "new.mid", adapters=[str(run / "adapter-best")], **options, **flat).files
    played: set[int] = set()
    for file in files:
        score = Score(file.path)
        programs = {-1 if track.is_drum else track.program for track in score.tracks if len(track.notes)}
        assert programs <= GIVEN
        assert (9 in channels(file.path.read_bytes())) == (-1 in programs)
        played |= programs
    assert len(played) > 2
    if not tokenizer.inner.config.program_changes:  # an untrained model seldom changes the program
        assert -1 in played


def test_a_continued_band_keeps_every_note_name_and_program(run, base, songs, backend_name, tmp_path):
    prompt = songs / "song0.mid"
    options = {"model": str(base), "backend": backend_name, "max_new_tokens": 250, "seed": 1}
    result = generate(tmp_path / "on.mid", adapters=[str(run / "adapter-best")], prompt=prompt, **options)
    score = Score(tmp_path / "on.mid")
    assert 9 in channels((tmp_path / "on.mid").read_bytes())
    given, found = instruments(Score(prompt)), instruments(score)
    assert set(given) <= set(found)
    assert len(found) > len(given)
    names = {-1 if track.is_drum else track.program: track.name for track in score.tracks}
    expected = {-1: "Kit", 0: "Keys", 25: "Guitar L + Guitar R", 33: "Bass", 48: "Strings"}
    assert {program: names[program] for program in expected} == expected
    assert "--prompt: 6 tracks merged into 5" in result.notes
    assert any("positions hold" in note for note in result.notes)  # the band is longer than the context


def test_evaluation_scores_every_song_and_counts_all_notes(run, base, songs, backend_name):
    found = evaluate(songs, str(base), [str(run / "adapter-best")], backend_name, workers=1)
    assert found.songs == 6
    assert found.score.loss > 0
    assert found.score.bits_per_note > 0
    assert found.base is not None
    assert found.base.loss != found.score.loss


def test_the_adapter_loads_in_vanilla_peft(run, base):
    peft, transformers, torch = (require(name) for name in ("peft", "transformers", "torch"))
    model = transformers.GPT2LMHeadModel.from_pretrained(base)
    plain = model(torch.arange(20)[None]).logits
    adapted = peft.PeftModel.from_pretrained(model, str(run / "adapter-best")).eval()
    changed = adapted(torch.arange(20)[None]).logits
    assert bool((changed != plain).any())


def test_a_token_cache_holds_what_reading_gives(base, songs, tokenizer, tmp_path):
    command = ["preprocess", "--data-dir", str(songs), "--output-dir", str(tmp_path / "cache"), "--model", str(base)]
    result = CliRunner().invoke(main, [*command, "--num-workers", "1"])
    assert result.exit_code == 0, result.output
    cached = read_token_cache(tmp_path / "cache", tokenizer)
    read = load_pieces(songs, tokenizer, workers=1)
    for one, other in zip(cached.pieces, read.pieces, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        assert instruments(tokenizer.decode(one.tokens)) == instruments(Score(songs / one.name))
    assert cached.kept == read.kept
    assert cached.kept.instruments_kept == cached.kept.instruments == 30


def test_transposition_moves_every_instrument_and_no_drum(tokenizer, songs):
    piece = load_pieces(songs, tokenizer, workers=1).pieces[0]
    before = instruments(tokenizer.decode(piece.tokens))
    versions = transpose_piece(tokenizer, piece)
    assert len(versions) > 5
    for shift in (versions.shifts[0], 1, versions.shifts[-1]):
        after = instruments(tokenizer.decode(versions[versions.shifts.index(shift)].tokens))
        moved = sorted((program, at, pitch if program < 0 else pitch + shift) for program, at, pitch in before)
        assert after == moved


def test_copies_by_augment_keep_programs_and_drums(songs, tokenizer, tmp_path):
    command = ["augment", "--input-dir", str(songs), "--output-dir", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*command, "--transpose", "2", "--tempo", "0.9"])
    assert result.exit_code == 0, result.output
    before, after = Score(songs / "song1.mid"), Score(tmp_path / "out" / "song1__t2__x0.90.mid")
    moved = [(program, at, pitch if program < 0 else pitch + 2) for program, at, pitch in instruments(before)]
    assert instruments(after) == moved
    assert [track.name for track in after.tracks] == [track.name for track in before.tracks]
    kept = encode_and_count(tokenizer, after)[1]
    assert (kept.kept, kept.instruments_kept) == (kept.notes, 5)
