"""Augmented copies and their provenance, transpositions of pieces, and the token cache."""

import json
import shutil
from pathlib import Path

import mido
import numpy as np
import pytest
from safetensors.numpy import save_file
from symusic import KeySignature, Note, Score, Tempo, Track

from musiclora.convert.errors import ConfigError, DataError, OutputError
from musiclora.symbolic.dataset.pieces import Piece, load_pieces, write_token_cache
from musiclora.symbolic.dataset.splits import split_pieces
from musiclora.symbolic.dataset.transpose import transpose_piece
from musiclora.symbolic.reading.augment import augment_folder
from musiclora.symbolic.reading.read_folder import read_music
from musiclora.symbolic.tokens.tokenizers import own_tokenizer, public_tokenizer

OWN, PUBLIC = own_tokenizer(), public_tokenizer()
HEADER = "M:4/4\nL:1/8\nK:D\n"
ABC = f"X:1\n{HEADER}DEFG ABcd|d2c2B2A2|GFED A4|\n\nX:2\n{HEADER}d2f2 a4|gfed c4|B2A2 G4|\n"


def song(path, seed, low=55, drums=False):
    rng = np.random.default_rng(seed)
    score = Score(480)
    score.tempos.append(Tempo(0, 120.0))
    score.key_signatures.append(KeySignature(0, 2, 0))
    track = Track(program=3)
    for i in range(40):
        track.notes.append(Note(240 * i, 240, int(low + rng.integers(0, 20)), 80))
    score.tracks.append(track)
    if drums:
        beat = Track(is_drum=True)
        beat.notes.append(Note(0, 100, 38, 80))
        score.tracks.append(beat)
    path.parent.mkdir(parents=True, exist_ok=True)
    score.dump_midi(str(path))


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    song(folder / "a.mid", 1, drums=True)
    song(folder / "sub" / "a.mid", 2)
    song(folder / "sub" / "a.kar", 3)
    song(folder / "high.mid", 4, low=108)
    (folder / "tunes.abc").write_text(ABC)
    return folder


@pytest.fixture(scope="module")
def augmented(music, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "aug"
    return augment_folder(music, out, [-2, 2], [0.9, 1.0], workers=1), out


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.mid"))


def test_one_file_is_written_for_each_key_and_tempo_with_the_unchanged_one(augmented):
    summary, out = augmented
    names = [n for n in files(out) if n.startswith("a__")]
    assert names == sorted(f"a__t{t}__x{x}.mid" for t in (-2, 0, 2) for x in ("0.90", "1.00"))
    assert summary.songs == 6
    assert summary.files == len(files(out)) == 6 * 6 - 2


def test_songs_of_the_same_name_and_tunes_of_one_file_do_not_collide(augmented):
    stems = {n.split("__")[0] for n in files(augmented[1])}
    assert stems == {"a", "high", "sub/a_mid", "sub/a_kar", "tunes-001", "tunes-002"}


def test_a_copy_that_would_leave_the_midi_range_is_skipped_and_named(augmented):
    assert augmented[0].skipped == ["high.mid by +2: pitches would leave 0..127"]


def test_transposition_moves_pitches_and_key_but_not_drums_and_tempo_moves_tempo_events_only(music, augmented):
    out = augmented[1]
    original, copy = Score(str(music / "a.mid")), Score(str(out / "a__t-2__x0.90.mid"))
    pitched, drums = ([t for t in copy.tracks if t.is_drum == d] for d in (False, True))
    assert [n.pitch + 2 for n in pitched[0].notes] == [n.pitch for n in original.tracks[0].notes]
    assert [n.time for n in pitched[0].notes] == [n.time for n in original.tracks[0].notes]
    assert [n.pitch for n in drums[0].notes] == [38]
    assert pitched[0].program == 3
    assert copy.tempos[0].qpm == pytest.approx(108, abs=0.01)
    assert copy.key_signatures[0].key == 0  # D major down a tone is C major


def test_every_copy_opens_in_mido(augmented):
    assert all(mido.MidiFile(p).length > 0 for p in augmented[1].rglob("*.mid"))


def test_provenance_ties_every_file_to_its_song(augmented):
    _, out = augmented
    entries = json.loads((out / "provenance.json").read_text())["files"]
    assert sorted(entries) == files(out)
    assert entries["sub/a_kar__t2__x0.90.mid"] == {"song": "sub/a.kar", "transpose": 2, "tempo": 0.9, "original": False}
    assert [n for n, e in entries.items() if e["original"] and e["song"] == "tunes.abc#2"] == [
        "tunes-002__t0__x1.00.mid"
    ]


def test_copies_follow_their_song_in_a_split(augmented):
    pieces = load_pieces(augmented[1], PUBLIC, workers=1).pieces
    found = split_pieces(pieces, 0.3, 1)
    held = {pieces[i].group for i in found.val}
    assert len(found.val) == len(held) == 2
    assert all(pieces[i].name.endswith("__t0__x1.00.mid") for i in found.val)
    assert held.isdisjoint({pieces[i].group for i in found.train})
    assert len(found.dropped) >= 8


@pytest.mark.slow
def test_copies_that_a_tokenizer_cannot_tell_apart_are_counted_once(augmented):
    out = augmented[1]
    assert len(load_pieces(out, PUBLIC, workers=1).pieces) == 34
    blind = load_pieces(out, OWN, workers=1)  # without tempo tokens x0.90 and x1.00 have the same tokens
    assert all("x0.90" not in p.name for p in blind.pieces if "__t0__" in p.name)
    assert len(blind.pieces) == len({p.tokens.tobytes() for p in blind.pieces}) <= 17
    assert len(blind.health) == 34
    (why,) = {r.why for r in blind.health if r.status == "skipped"}
    assert why == "to this tokenizer the same as another copy of its song"


def test_augmenting_again_replaces_the_old_output_and_passes_over_copies(augmented, tmp_path):
    once = tmp_path / "once"
    shutil.copytree(augmented[1], once)
    again = tmp_path / "again"
    assert augment_folder(once, again, [1], workers=1).songs == 6
    origin = json.loads((again / "provenance.json").read_text())["files"]["a__t0__x1.00__t1__x1.00.mid"]
    assert origin["song"] == "a.mid"
    augment_folder(once, again, [], workers=1)
    assert len(files(again)) == 6


def test_an_output_folder_with_other_things_is_left_alone(music, tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        augment_folder(music, tmp_path, [1], workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["diary.txt"]


@pytest.mark.parametrize("output", [".", "sub", "..", "new/inner"], ids=["same", "inside", "around", "new inside"])
def test_input_and_output_inside_one_another_are_refused(music, output):
    before = files(music)
    with pytest.raises(ConfigError, match="inside one another"):
        augment_folder(music, music / output, [1])
    assert files(music) == before


@pytest.mark.parametrize(
    ("transpose", "tempo", "message"),
    [([61], [], "--transpose 61"), ([], [0.0], "--tempo 0.0"), ([], [float("nan")], "--tempo nan")],
)
def test_absurd_changes_are_refused(music, tmp_path, transpose, tempo, message):
    with pytest.raises(ConfigError, match=message):
        augment_folder(music, tmp_path / "x", transpose, tempo)


def test_a_damaged_provenance_is_refused(augmented, tmp_path):
    shutil.copytree(augmented[1], tmp_path / "x")
    (tmp_path / "x" / "provenance.json").write_text('{"files": {"a": 1}}')
    with pytest.raises(DataError, match="run augment again, or delete it"):
        read_music(tmp_path / "x", workers=1)


@pytest.mark.parametrize("tokenizer", [OWN, PUBLIC], ids=["own", "public"])
def test_transposed_tokens_are_those_of_the_transposed_score(tokenizer):
    score = Score(24)
    track = Track()
    for i, pitch in enumerate([60, 64, 67, 72]):
        track.notes.append(Note(24 * i, 24, pitch, 90))
    score.tracks.append(track)
    piece = Piece("p", "p", tokenizer.encode(score), 4, pitches=np.array([60, 64, 67, 72], np.int16))
    found = transpose_piece(tokenizer, piece, low=50, high=75)
    assert list(found.shifts) == list(range(-10, 4))
    for shift, version in zip(found.shifts, found, strict=True):
        moved = score.copy()
        moved.tracks[0].shift_pitch(shift, inplace=True)
        np.testing.assert_array_equal(version.tokens, tokenizer.encode(moved))
        assert version.is_original == (shift == 0)
        assert version.pitches[0] == 60 + shift
    assert not len(transpose_piece(tokenizer, piece, low=60, high=70))


def test_a_cache_gives_back_the_pieces_and_the_table(music, tmp_path):
    pieces = load_pieces(music, OWN, workers=1)
    write_token_cache(tmp_path / "cache", pieces, OWN)
    write_token_cache(tmp_path / "cache", pieces, OWN)  # an older cache is replaced
    found = load_pieces(tmp_path / "cache", OWN)
    assert found.health == pieces.health
    for one, other in zip(found.pieces, pieces.pieces, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_array_equal(one.pitches, other.pitches)
        assert (one.name, one.group, one.notes, one.is_original, one.tune) == (
            (other.name, other.group, other.notes, other.is_original, other.tune)
        )
    with pytest.raises(DataError, match="made with another tokenizer"):
        load_pieces(tmp_path / "cache", PUBLIC)


def damage_tokens(cache: Path) -> None:
    save_file({"tokens": np.zeros(3, np.int32), "pitches": np.zeros(3, np.int16)}, cache / "tokens.safetensors")


@pytest.mark.parametrize(
    "damage",
    [
        damage_tokens,
        lambda c: (c / "tokens.safetensors").write_bytes(b"\0" * 40),
        lambda c: (c / "tokens.json").write_text("{}"),
    ],
    ids=["other arrays", "no safetensors", "no index"],
)
def test_a_damaged_cache_is_refused(music, tmp_path, damage):
    write_token_cache(tmp_path / "cache", load_pieces(music / "tunes.abc", OWN, workers=1), OWN)
    damage(tmp_path / "cache")
    with pytest.raises(DataError, match="run preprocess again"):
        load_pieces(tmp_path / "cache", OWN)


def test_a_cache_is_never_written_over_other_files(music, tmp_path):
    pieces = load_pieces(music / "tunes.abc", OWN, workers=1)
    with pytest.raises(OutputError, match="exists already"):
        write_token_cache(music, pieces, OWN)
    assert (music / "tunes.abc").read_text() == ABC
