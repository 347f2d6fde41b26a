"""Health of songs by the tokenizer that will read them, and the lines that name what is skipped."""

import shutil
from pathlib import Path

import pytest
from symusic import Note, Score, Tempo, Track

from musiclora.symbolic.reading.augment import augment_folder
from musiclora.symbolic.reading.health import SAME_AS_A_COPY, HealthRow, describe_skipped, row_from_json
from musiclora.symbolic.reading.read_folder import read_music
from musiclora.symbolic.tokens.kept import Kept
from musiclora.symbolic.tokens.tokenizers import load_tokenizer, own_tokenizer

DATA = Path(__file__).parents[2]
PROGRAMS = load_tokenizer(DATA / "golden" / "found" / "remi_programs_no_pitchdrum.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("health")
    for name in ("26_only_drums.mid", "76_pitchbend_program_mix.mid"):
        shutil.copy(DATA / "data" / "nasty_midi" / name, out)
    shutil.copy(DATA / "golden" / "found" / "highlow.mid", out)
    return out


def read(folder, tokenizer):
    reading = read_music(folder, tokenizer=tokenizer, workers=1)
    return {row.file: row for row in reading.health}, {song.name: song for song in reading.songs}


def test_a_tokenizer_with_drums_keeps_them_and_a_file_of_drums_alone(folder):
    rows, songs = read(folder, PROGRAMS)
    drums, band = rows["26_only_drums.mid"], rows["76_pitchbend_program_mix.mid"]
    assert (drums.status, drums.drums, drums.why) == ("kept", 0, "")
    assert drums.notes == drums.kept.notes == songs["26_only_drums.mid"].decoded_notes > 0
    assert not len(songs["26_only_drums.mid"].pitches)  # the drums' pitches are no melody
    assert (band.drums, band.kept.drums) == (0, 0)
    assert "drum" not in band.why
    assert band.kept.instruments_kept == band.kept.instruments


def test_our_own_tokenizer_leaves_them_out_and_says_so(folder):
    rows, _ = read(folder, own_tokenizer())
    assert (rows["26_only_drums.mid"].status, rows["26_only_drums.mid"].why) == ("skipped", "only drums")
    assert "4 drum notes" in rows["76_pitchbend_program_mix.mid"].why
    assert rows["highlow.mid"].why == "left out: 20 notes outside 21..109"
    assert rows["highlow.mid"].notes == 4


def test_without_a_tokenizer_nothing_is_left_out(folder):
    rows, songs = read(folder, None)
    assert {row.status for row in rows.values()} == {"kept"}
    assert rows["highlow.mid"].notes == songs["highlow.mid"].notes == 24
    assert all(row.kept == Kept() for row in rows.values())
    assert not any(row.why for row in rows.values())


def test_drums_alone_are_augmented(folder, tmp_path):
    summary = augment_folder(folder, tmp_path / "out", [1], workers=1)
    assert summary.songs == 3
    before, after = (
        Score(str(p)) for p in (folder / "26_only_drums.mid", tmp_path / "out/26_only_drums__t1__x1.00.mid")
    )
    assert [n.pitch for n in after.tracks[0].notes] == [n.pitch for n in before.tracks[0].notes]


def test_a_copy_whose_tempo_no_reader_takes_is_left_out_and_tempo_copies_are_explained(tmp_path):
    score = Score(480)
    track = Track()
    track.notes = [Note(0, 480, 60, 90)]
    score.tracks.append(track)
    score.tempos = [Tempo(0, 300.0)]
    (tmp_path / "in").mkdir()
    score.dump_midi(str(tmp_path / "in" / "fast.mid"))
    summary = augment_folder(tmp_path / "in", tmp_path / "out", [1], [2.0, 4.0], workers=1)
    assert summary.skipped == ["fast.mid at x4.00: tempos would leave 4..1000 quarters a minute"]
    assert summary.files == 4
    assert any("same tokens" in text for text in summary.notes)
    assert {round(Score(str(p)).tempos[0].qpm) for p in (tmp_path / "out").glob("*x2.00.mid")} == {600}
    assert augment_folder(tmp_path / "in", tmp_path / "keys", [1], workers=1).notes == []


def test_skipped_files_are_named_by_reason_in_few_short_lines():
    rows = [HealthRow(f"{'long' * 50}{i}.mid", 0, "skipped", f"reason {i % 7} {'x' * 400}") for i in range(700)]
    lines = describe_skipped([*rows, HealthRow("good.mid", 0, "kept", "fine")])
    assert len(lines) == 6
    assert all(len(line) < 800 for line in lines)
    assert lines[0].startswith("skipped longlong")
    assert "and 95 more: reason 0" in lines[0]
    assert lines[-1] == "skipped 200 more, for other reasons; doctor lists them all"
    copies = [HealthRow(f"{n}__x0.90.mid", 0, "skipped", SAME_AS_A_COPY) for n in range(3)]
    assert describe_skipped([HealthRow("b.mid", 2, "skipped", "broken"), *copies]) == [
        "3 copies by augment are left out: to this tokenizer the same as another copy of its song",
        "skipped b.mid#2: broken",
    ]


def test_rows_come_back_from_json_those_of_before_too():
    row = HealthRow("a.mid", 3, "kept", tracks=2, notes=7, kept=Kept(songs=1, notes=9, kept=7))
    entry = row.as_json()
    assert list(entry)[:6] == ["file", "tune", "status", "why", "tracks", "notes"]
    assert row_from_json(entry) == row
    del entry["kept"]
    assert row_from_json(entry).kept == Kept()
