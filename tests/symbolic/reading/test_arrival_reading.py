"""Folders of bands read as arrival-time tokens: by child processes, into a token cache and back."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from arrival_recordings import MIDI, NAMES, recorded
from click.testing import CliRunner
from symusic import Note, Score, Tempo, Track

from musiclora.cli import main
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint
from musiclora.symbolic.dataset.pieces import load_pieces, read_token_cache
from musiclora.symbolic.reading.read_folder import read_music
from musiclora.symbolic.tokens.arrival import ArrivalTokenizer
from musiclora.symbolic.tokens.band_bases import BAND_BASES

ARRIVAL = ArrivalTokenizer()
pytestmark = pytest.mark.slow


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.stderr
    return result


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base as the public ones are: no tokenizer file, known by vocabulary and attention."""
    shape = Gpt2Config(ARRIVAL.vocab_size, 64, 8, 1, 1, 16, scale_attn_by_inverse_layer_idx=True)
    folder = tmp_path_factory.mktemp("base") / "arrival"
    write_checkpoint(folder, shape, fresh_tensors(shape, 1), "hf")
    return folder


def test_a_folder_becomes_the_recorded_events_and_no_file_is_left_out(base, tmp_path):
    data = json.loads(
        run("preprocess", "--model", base, "--data-dir", MIDI, "--output-dir", tmp_path / "cache", "--json").stdout
    )
    assert (data["pieces"], data["tokenizer"]) == (9, "ArrivalTime")
    pieces = read_token_cache(tmp_path / "cache", ARRIVAL).pieces
    assert sorted(piece.name for piece in pieces) == [f"{name}.mid" for name in NAMES]
    for piece in pieces:
        events = recorded(piece.name.removesuffix(".mid"), "events")
        assert np.array_equal(piece.tokens.reshape(-1, 3), events)
        assert piece.notes == len(events)
    assert max(piece.tokens[::3].max() for piece in pieces) > 9_999
    assert load_pieces(tmp_path / "cache", ARRIVAL).pieces[0].name == pieces[0].name


def test_doctor_counts_and_measures_and_names_bases_that_hold_bands(base):
    played = json.loads(run("doctor", MIDI, "--model", base, "--json").stdout)["data"]
    trip = played["round_trip"]
    assert (trip["kept"], trip["unit"]) == (trip["notes"], "ms")
    assert trip["instruments_kept"] == trip["instruments"]
    assert trip["onset_error"]["p95"] <= 5.0
    assert not any(name in text for text in played["notes"] for name in BAND_BASES)
    text = run("doctor", MIDI, "--model", "bundled").stdout
    assert all(name in text for name in BAND_BASES)
    assert "round trip through the tokens: " in text


def test_long_songs_few_notes_and_many_instruments_have_clear_rows(tmp_path):
    songs = {"hour": Score(480), "short": Score(480), "crowd": Score(480), "weeks": Score(480)}
    for score in songs.values():
        score.tempos.append(Tempo(0, 60.0))
    songs["hour"].tracks.append(Track(program=4))
    songs["hour"].tracks[0].notes = [Note(480 * i, 480, 60 + i % 12, 80) for i in range(0, 4000, 10)]
    songs["short"].tracks.append(Track(program=5))
    songs["short"].tracks[0].notes = [Note(0, 480, 60, 80)]
    for program in range(40):
        songs["crowd"].tracks.append(Track(program=program))
        songs["crowd"].tracks[program].notes = [Note(480 * i, 240, 60, 80) for i in range(40 - program)]
    songs["weeks"].tracks.append(Track(program=6))
    songs["weeks"].tracks[0].notes = [Note(480 * i, 480, 60 + i % 12, 80) for i in range(0, 30_000, 10)]
    for name, score in songs.items():
        score.dump_midi(tmp_path / f"{name}.mid")
    reading = read_music(tmp_path, tokenizer=ARRIVAL, workers=1, keep_scores=False)
    rows = {row.file.removesuffix(".mid"): row for row in reading.health}
    assert (rows["hour"].status, rows["hour"].notes, rows["hour"].why) == ("kept", 400, "")
    assert rows["hour"].seconds > 3600
    assert (rows["short"].status, rows["short"].notes) == ("kept", 1)
    assert rows["crowd"].why == (
        "40 tracks merged into 15; left out: 325 notes of instruments past the 15 that a song may have"
    )
    assert (rows["weeks"].status, rows["weeks"].why) == ("skipped", "longer than 24000 quarters")


def test_drums_alone_are_kept_and_have_no_melody(tmp_path):
    shutil.copy(MIDI / "trio.mid", tmp_path)
    score = Score(480)
    score.tracks.append(Track(is_drum=True))
    score.tracks[0].notes = [Note(480 * i, 60, 36 + i % 3, 80) for i in range(30)]
    score.dump_midi(tmp_path / "drums.mid")
    songs = {song.name: song for song in read_music(tmp_path, tokenizer=ARRIVAL, workers=1).songs}
    assert len(songs["drums.mid"].pitches) == 0
    assert songs["drums.mid"].decoded_notes == 30
    trio = songs["trio.mid"]
    pitched = {note.pitch for track in trio.score.tracks if not track.is_drum for note in track.notes}
    assert set(trio.pitches.tolist()) <= pitched
