"""Reading folders: no crash or hang, a health row for every file, and valid songs."""

import csv
import json
import os
import shutil
import sys
import threading
from pathlib import Path

import mido
import numpy as np
import pytest

from musiclora.children import process
from musiclora.convert.errors import DataError
from musiclora.symbolic.reading.health import SONG_COLUMNS, HealthRow, health_json, health_line, health_table
from musiclora.symbolic.reading.read_folder import music_files, read_music
from musiclora.symbolic.tokens.tokenizers import own_tokenizer, public_tokenizer

NASTY = Path(__file__).parents[2] / "data" / "nasty_midi"
GOOD = NASTY / "00_good_reference.mid"
TUNE = 'X:{n}\nT:Tune {n}\nM:6/8\nL:1/8\nK:G\n"Am"GAB cde|f2g agf|{body}|\n'


@pytest.fixture(scope="module")
def nasty():
    return read_music(NASTY, tokenizer=own_tokenizer(), workers=2)


@pytest.fixture
def folder(tmp_path):
    shutil.copy(GOOD, tmp_path / "good.mid")
    return tmp_path


def status(reading):
    return {(r.file, r.tune): r.status for r in reading.health}


def test_every_broken_file_is_accounted_for(nasty):
    with (NASTY / "manifest.csv").open(newline="") as file:
        names = {row["file"] for row in csv.DictReader(file)} - {"94_unreadable.mid"}
    assert {r.file for r in nasty.health} == names
    assert all(r.why for r in nasty.health if r.status != "kept")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("06_header_says0_has1.mid", ("repaired", 16)),
        ("08_track_len_too_long.mid", ("repaired", 16)),
        ("10_track_len_too_short.mid", ("repaired", 16)),
        ("14_alien_chunk.mid", ("kept", 16)),
        ("16_header_len_ffffffff.mid", ("repaired", 16)),
        ("20_smpte_25x40.mid", ("repaired", 16)),
        ("24_format7.mid", ("repaired", 16)),
        ("28_tempo_zero.mid", ("repaired", 16)),
        ("34_zero_duration.mid", ("repaired", 16)),
        ("53_two_hour_note.mid", ("repaired", 1)),
        ("55_delta_max_tpq1.mid", ("repaired", 2)),
        ("61_macbinary_prefix.mid", ("repaired", 16)),
        ("63_crlf_mangled.mid", ("repaired", 15)),
        ("67_zip.mid", ("repaired", 16)),
        ("69_ts_zero_denominator.mid", ("repaired", 8)),
        ("71_keysig_invalid.mid", ("kept", 16)),
        ("79_pitch_extremes.mid", ("kept", 3)),
        ("83_upper.MID", ("kept", 16)),
        ("02_only_magic4.mid", ("skipped", 0)),
        ("26_only_drums.mid", ("skipped", 0)),
        ("32_note_off_without_on.mid", ("skipped", 0)),
        ("65_html_404.mid", ("skipped", 0)),
        ("98_fuzz_track_1.mid", ("skipped", 0)),
        ("zz_remihang_0.mid", ("skipped", 0)),
    ],
)
def test_a_broken_file_is_kept_repaired_or_skipped_as_it_deserves(nasty, file, expected):
    (row,) = [r for r in nasty.health if r.file == file]
    assert (row.status, row.notes) == expected


def test_patterns_of_format_two_become_tunes(nasty):
    songs = [s for s in nasty.songs if s.name.startswith("22_format2.mid")]
    assert [s.name for s in songs] == [f"22_format2.mid#{n}" for n in (1, 2, 3)]
    assert {s.notes for s in songs} == {8}


def test_what_is_left_out_is_counted(nasty):
    rows = {r.file: r for r in nasty.health}
    assert rows["76_pitchbend_program_mix.mid"].drums == 4
    assert "16 tracks merged" in rows["76_pitchbend_program_mix.mid"].why
    assert rows["79_pitch_extremes.mid"].outside == 6


def test_kept_songs_have_sound_times_and_open_in_mido(nasty, tmp_path):
    for song in nasty.songs:
        for track in song.score.tracks:
            notes = track.notes.numpy()
            assert (notes["time"] >= 0).all()
            assert (notes["duration"] > 0).all()
        assert all(0 < t.qpm <= 1000 for t in song.score.tempos)
        assert 0 < song.seconds < 3600
        song.score.dump_midi(str(tmp_path / "x.mid"))
        assert len(mido.MidiFile(tmp_path / "x.mid").tracks) >= 1


def test_tokens_of_kept_songs_stay_in_proportion_to_their_notes(nasty):
    for song in nasty.songs:
        assert len(song.tokens) <= 4 * song.decoded_notes + 40
        assert own_tokenizer().decode(song.tokens).note_num() == song.decoded_notes > 0


def test_the_public_tokenizer_takes_every_kept_file():
    reading = read_music(NASTY, tokenizer=public_tokenizer(), workers=2, keep_scores=False)
    assert len(reading.songs) == 40
    assert all(len(s.tokens) for s in reading.songs)


def test_abc_tunes_are_split_and_chord_names_are_not_played(tmp_path, capfd):
    (tmp_path / "a.ABC").write_text(
        "%%pagewidth 1\n" + TUNE.format(n=1, body="!!~^&z4") + "\n" + TUNE.format(n=7, body="G6")
    )
    (tmp_path / "crlf.abc").write_bytes(TUNE.format(n=2, body="G3").replace("\n", "\r\n").encode("utf-8-sig"))
    reading = read_music(tmp_path, workers=1)
    assert [s.name for s in reading.songs] == ["a.ABC#1", "a.ABC#2", "crlf.abc"]
    assert [s.notes for s in reading.songs[1:]] == [12, 12]
    assert capfd.readouterr() == ("", "")


def test_files_are_found_in_subfolders_in_a_stable_order_whatever_their_case(folder):
    (folder / "b" / "c").mkdir(parents=True)
    for name in ("b/z.MIDI", "b/c/a.Kar", "a.mid", ".hidden.mid", "b/notes.txt"):
        shutil.copy(GOOD, folder / name)
    found = [p.relative_to(folder).as_posix() for p in music_files(folder)]
    assert found == ["a.mid", "b/c/a.Kar", "b/z.MIDI", "good.mid"]


@pytest.mark.skipif(os.name != "posix", reason="pipes and links of this kind are POSIX")
def test_pipes_dangling_links_and_folders_with_music_names_do_no_harm(folder):
    os.mkfifo(folder / "pipe.mid")
    (folder / "dangling.mid").symlink_to(folder / "nowhere.mid")
    (folder / "folder.mid").mkdir()
    (folder / "loop").symlink_to(folder)
    reading = read_music(folder, workers=1)
    assert status(reading) == {("dangling.mid", 0): "skipped", ("pipe.mid", 0): "skipped", ("good.mid", 0): "kept"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_skipped_with_the_systems_words(folder):
    shutil.copy(GOOD, folder / "locked.mid")
    (folder / "locked.mid").chmod(0)
    reading = read_music(folder, workers=1)
    assert [r.why for r in reading.health if r.status == "skipped"] == ["cannot be read: Permission denied"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such names")
def test_names_that_are_no_text_are_escaped(folder):
    shutil.copy(GOOD, os.fsencode(folder) + b"/\xff\n.mid")
    reading = read_music(folder, workers=1)
    assert sorted(r.file for r in reading.health) == ["\\udcff\\n.mid", "good.mid"]
    assert {r.status for r in reading.health} == {"kept"}
    json.dumps(health_json(reading.health)).encode("utf-8")


def test_random_damage_never_stops_the_reading(tmp_path):
    rng = np.random.default_rng(5)
    source = [f.read_bytes() for f in sorted(NASTY.glob("*.mid")) if f.stat().st_size < 1000]
    for i in range(120):
        data = bytearray(source[rng.integers(len(source))])
        for at in rng.integers(0, len(data), 1 + i % 9):
            data[at] = rng.integers(256)
        (tmp_path / f"{i:03d}.mid").write_bytes(bytes(data[: rng.integers(10, len(data) + 1)] if i % 3 == 0 else data))
    reading = read_music(tmp_path, tokenizer=own_tokenizer(), workers=2, need_songs=False)
    assert len({r.file for r in reading.health}) == 120
    for song in reading.songs:
        assert len(song.tokens) <= 4 * song.decoded_notes + 40


@pytest.mark.slow
def test_a_file_that_crashes_or_hangs_the_reader_costs_only_itself(folder, tmp_path_factory, monkeypatch):
    for name in ("crash.mid", "hang.mid", "last.mid"):
        shutil.copy(GOOD, folder / name)
    hanging = tmp_path_factory.mktemp("clock") / "hanging"
    spoiled = f"""
import json, sys; sys.path[:] = json.loads(sys.argv[1])
import os, time, musiclora.symbolic.reading.worker as w
real = w.examine_file
def run(task, *rest):
    name = os.path.basename(task.path)
    if "crash" in name: os.abort()
    if "hang" in name:
        open({str(hanging)!r}, "w").close()
        time.sleep(3600)
    return real(task, *rest)
w.examine_file = run
from musiclora.children.serve import serve
serve(sys.argv[2])
"""

    class Clock(threading.Timer):
        """Timer that runs out as soon as the reader hangs, however slow the machine is."""

        def run(self):
            before = hanging.exists()
            while not self.finished.wait(0.02):
                if hanging.exists() and not before:
                    self.function()
                    return

    monkeypatch.setattr(process.threading, "Timer", Clock)
    monkeypatch.setattr(process, "_CHILD_CODE", spoiled)
    reading = read_music(folder, workers=1, timeout=3000)
    assert {r.file: (r.status, r.why) for r in reading.health} == {
        "good.mid": ("kept", ""),
        "last.mid": ("kept", ""),
        "crash.mid": ("skipped", "crashed the reader"),
        "hang.mid": ("skipped", "took longer than 3000 s"),
    }


def test_a_worker_that_cannot_start_is_one_clear_error(folder, monkeypatch):
    monkeypatch.setattr(process, "_CHILD_CODE", "raise SystemExit(3)")
    with pytest.raises(DataError, match=r"cannot start \(exit code 3\)"):
        read_music(folder, workers=1)


def test_progress_counts_up_to_the_number_of_tunes(folder):
    shutil.copy(GOOD, folder / "two.mid")
    calls = []
    read_music(folder, workers=2, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nothing", "no such file or folder"),
        (lambda p: p, "no music in this folder; put .mid, .midi, .kar, .rmi, .abc"),
        (lambda p: (p / "x.txt").write_text("x") and p / "x.txt", "not a music file"),
        (lambda p: (p / "x.mid").write_text("x") and p, "none of 1 music file can be used: x.mid: no MIDI file"),
        (lambda p: (p / "x.abc").write_text("hello") and p, "neither an X: nor a K: line"),
    ],
    ids=["missing", "empty folder", "other ending", "nothing readable", "abc without a tune"],
)
def test_a_source_without_music_is_one_clear_error(tmp_path, make, message):
    with pytest.raises(DataError, match=message):
        read_music(make(tmp_path), workers=1)


def test_a_mere_look_at_an_unusable_folder_yields_its_table(tmp_path):
    (tmp_path / "x.mid").write_text("x")
    reading = read_music(tmp_path, workers=1, need_songs=False)
    assert [r.status for r in reading.health] == ["skipped"]


def test_the_health_table_puts_what_was_skipped_first():
    rows = [HealthRow("a", 0, "kept", notes=5, seconds=30), HealthRow("b", 2, "skipped", "why")]
    assert [cells[0] for cells in health_table(rows)] == ["b", "a"]
    assert all(len(cells) == len(SONG_COLUMNS) for cells in health_table(rows))
    assert health_json(rows)["notes"] == 5
    assert health_line(rows) == "1 kept, 0 repaired, 1 skipped; 5 notes, 0.5 minutes"
