"""Songs of a run: the mixed share, drums in their place, and what is said of held-out, skipped and long songs."""

import json
import shutil
from pathlib import Path

import miditok
import numpy as np
import pytest
from symusic import Note, Score, Track

from musiclora.convert.errors import DataError
from musiclora.progress import Reporter
from musiclora.symbolic.dataset.pieces import Piece, load_pieces, read_token_cache, write_token_cache
from musiclora.symbolic.dataset.songs import describe_windows, mix_pieces, read_songs
from musiclora.symbolic.dataset.transpose import transpose_piece, versions_within
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer
from musiclora.symbolic.tokens.tokenizers import load_tokenizer, own_tokenizer, public_tokenizer
from musiclora.training.config import TrainConfig

FOUND = Path(__file__).parents[2] / "golden" / "found"
OWN, PUBLIC = own_tokenizer(), public_tokenizer()
PROGRAMS = load_tokenizer(FOUND / "remi_programs_no_pitchdrum.json")
BANDS = {
    "programs": PROGRAMS,
    "program changes": MusicTokenizer(
        miditok.REMI(miditok.TokenizerConfig(use_programs=True, program_changes=True, use_pitchdrum_tokens=False))
    ),
    "own drum tokens": MusicTokenizer(miditok.TSD(miditok.TokenizerConfig(use_programs=True))),
    "note on and off": MusicTokenizer(
        miditok.MIDILike(miditok.TokenizerConfig(use_programs=True, use_pitchdrum_tokens=False))
    ),
}


def band():
    """A bass, a kick and a snare."""
    score = Score(480)
    for program, is_drum, pitches in ((33, False, [40, 43, 45, 47]), (0, True, [36, 38, 36, 38])):
        track = Track(program=program, is_drum=is_drum)
        track.notes = [Note(480 * i, 240, pitch, 90) for i, pitch in enumerate(pitches)]
        score.tracks.append(track)
    return score


def pitches(score, is_drum):
    return [n.pitch for t in score.tracks if t.is_drum == is_drum for n in t.notes]


@pytest.mark.parametrize("tokenizer", BANDS.values(), ids=BANDS)
def test_drums_are_never_transposed_whatever_their_tokens(tokenizer):
    piece = Piece("band", "band", tokenizer.encode(band()), 8, pitches=np.array([40, 43, 45, 47], np.int16))
    versions = versions_within(tokenizer, piece, 2)
    assert len(versions) == 5
    for shift, version in zip(range(-2, 3), versions, strict=True):
        decoded = tokenizer.decode(version.tokens)
        assert pitches(decoded, True) == [36, 38, 36, 38]
        assert pitches(decoded, False) == [p + shift for p in (40, 43, 45, 47)]


@pytest.mark.parametrize("tokenizer", BANDS.values(), ids=BANDS)
def test_the_range_of_transpositions_is_that_of_the_pitched_notes(tokenizer):
    piece = Piece("band", "band", tokenizer.encode(band()), 8)
    found = transpose_piece(tokenizer, piece, low=40, high=93)  # the drums lie below
    assert list(found.shifts) == list(range(47))


def test_intervals_count_for_the_range_of_transpositions():
    tokenizer = MusicTokenizer(miditok.REMI(miditok.TokenizerConfig(use_pitch_intervals=True)))
    piece = tune("a", 30, tokenizer=tokenizer)
    found = transpose_piece(tokenizer, piece)
    decoded = [[n.pitch for n in tokenizer.decode(p.tokens).tracks[0].notes] for p in (found[0], piece, found[-1])]
    assert [len(notes) for notes in decoded] == [30, 30, 30]  # the decoder drops what leaves the range
    assert (min(decoded[0]), max(decoded[2])) == (21, 109)


def test_a_tokenizer_of_merged_tokens_is_told_what_to_do_instead(monkeypatch):
    piece = tune("a", 3)
    monkeypatch.setattr(type(OWN.inner), "is_trained", True)
    with pytest.raises(DataError, match="--no-transpose"):
        transpose_piece(OWN, piece)


def test_a_piece_of_drums_alone_keeps_its_key():
    score = band()
    score.tracks = [t for t in score.tracks if t.is_drum]
    piece = Piece("beat", "beat", PROGRAMS.encode(score), 4)
    assert not len(transpose_piece(PROGRAMS, piece))
    assert versions_within(PROGRAMS, piece, 3) == [piece]


def tune(name, notes, seed=0, tokenizer=OWN):
    rng = np.random.default_rng([seed, notes])
    score = Score(24)
    track = Track()
    track.notes = [Note(24 * i, 24, int(p), 90) for i, p in enumerate(rng.integers(50, 80, notes))]
    score.tracks.append(track)
    ids = tokenizer.encode(score)
    return Piece(name, name, ids, tokenizer.note_count(ids))


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("lengths", [[400], [400] * 9, [30] * 60], ids=["one long", "few long", "many short"])
def test_the_mix_holds_the_share_that_was_asked_for(ratio, lengths):
    train = [tune(f"t{i}", 60, i) for i in range(2)]
    mixed = mix_pieces(train, [tune(f"m{i}", n, i) for i, n in enumerate(lengths)], ratio, 42, OWN)
    tokens = [len(p.tokens) for p in mixed]
    assert sum(tokens[2:]) / sum(tokens) == pytest.approx(ratio, abs=0.03)  # within a bar
    assert mixed[:2] == train
    assert all(piece.notes == OWN.note_count(piece.tokens) > 0 for piece in mixed)


def test_tokens_without_bars_bring_the_share_as_near_as_whole_pieces_can():
    tokenizer = BANDS["own drum tokens"]
    piece = Piece("a", "a", np.full(100, 5, np.int32), 10)
    assert len(mix_pieces([piece], [piece] * 9, 0.65, 1, tokenizer)) == 1 + 2  # 0.67 is nearer than 0.5
    assert len(mix_pieces([piece], [piece] * 9, 0.1, 1, tokenizer)) == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tunes):
    out = tmp_path_factory.mktemp("songs") / "songs"
    shutil.copytree(tunes, out)
    (out / "broken.mid").write_bytes(b"no music")
    shutil.copy(FOUND / "nearunison.mid", out)
    return out


def read(folder, **changes):
    config = TrainConfig(data_dir=str(folder), output_dir="x", num_workers=1, val_split=0.2, **changes)
    return read_songs(config, OWN, 1024, Reporter())


def test_held_out_skipped_lost_and_cut_songs_are_named(folder):
    songs = read(folder, max_seq_len=64)
    notes = "\n".join(songs.notes)
    assert all(piece.name in notes for piece in songs.held_out)
    assert "held out: " in notes
    assert "skipped broken.mid: no MIDI file" in notes
    assert "8 near-unisons" in notes
    assert songs.kept.merged == 8
    assert "pieces are longer than 64 tokens" in notes
    assert "up to --max-seq-len 1024 is possible" in notes
    assert all(len(line) < 400 for line in songs.notes)


def test_the_share_of_the_mix_is_said_and_what_lacks_for_it(folder, tmp_path):
    shutil.copy(FOUND / "waltz.mid", tmp_path)
    (tmp_path / "bad.mid").write_bytes(b"-")
    songs = read(folder, mix_dir=str(tmp_path), mix_ratio=0.9)
    (line,) = [text for text in songs.notes if text.startswith("--mix-dir adds")]
    assert line.startswith("--mix-dir adds 1 of 1 pieces, ")
    assert line.endswith("it holds no more")
    assert any(text.startswith("--mix-dir: skipped bad.mid") for text in songs.notes)


@pytest.mark.parametrize(
    ("length", "positions", "words"),
    [(1024, 1024, "the base holds no more"), (1024, 2048, "up to --max-seq-len 2048 is possible"), (8192, 8192, "")],
)
def test_songs_longer_than_a_row_are_counted(length, positions, words):
    pieces = [Piece("a", "a", np.zeros(7700, np.int32), 1), Piece("b", "b", np.zeros(1022, np.int32), 1)]
    said = describe_windows(pieces, OWN, length, positions)
    assert bool(said) == bool(words)
    if words:
        assert said[0].startswith("1 of 2 pieces are longer than 1,024 tokens (the longest 7,702)")
        assert said[0].endswith(words)


def test_a_cache_says_what_its_tokens_keep_and_one_of_before_still_loads(folder, tmp_path):
    for tokenizer in (OWN, PUBLIC):
        pieces = load_pieces(folder, tokenizer, workers=1)
        cache = tmp_path / tokenizer.kind
        write_token_cache(cache, pieces, tokenizer)
        found = read_token_cache(cache, tokenizer)
        assert found.kept == pieces.kept
        assert found.kept.songs == len(pieces.pieces)
        assert found.remarks == ()
        index = json.loads((cache / "tokens.json").read_text())
        assert index["encoding"] == 2
        index.pop("encoding")
        index["health"] = [{k: v for k, v in row.items() if k != "kept"} for row in index["health"]]
        (cache / "tokens.json").write_text(json.dumps(index))
        old = read_token_cache(cache, tokenizer)
        assert old.kept.songs == 0
        assert bool(old.remarks) == (tokenizer is PUBLIC)  # our own tokens are what they were
        np.testing.assert_array_equal(old.pieces[0].tokens, pieces.pieces[0].tokens)
