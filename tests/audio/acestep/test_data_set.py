"""Words of a folder of recordings: dataset.json in both forms, texts beside recordings, captions, encodings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from musiclora.audio.acestep.data_set import describe_songs
from musiclora.audio.acestep.lyrics import INSTRUMENTAL, read_text, strip_lrc
from musiclora.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "my_ska-band"
    (home / "live").mkdir(parents=True)
    for name in ("one.wav", "two.mp3", "live/three.flac"):
        (home / name).write_bytes(b"sound")
    return home


def files(folder: Path) -> list[Path]:
    return [folder / "live" / "three.flac", folder / "one.wav", folder / "two.mp3"]


def write(folder: Path, samples: list[dict[str, Any]], **metadata: Any) -> None:
    (folder / "dataset.json").write_text(json.dumps({"metadata": metadata, "samples": samples}))


def test_entries_give_caption_lyrics_and_facts(folder: Path) -> None:
    full = {
        "audio_path": "one.wav",
        "caption": "brass over an offbeat guitar",
        "lyrics": "[Verse]\nhey",
        "bpm": "132",
        "keyscale": "G minor",
        "timesignature": 4,
        "duration": 12,
        "language": "de",
        "is_instrumental": False,
    }
    write(folder, [full, {"filename": "two.mp3", "caption": "c", "bpm": "", "keyscale": "N/A", "lyrics": None}])
    found = describe_songs(folder, files(folder))
    one, two = found.texts[folder / "one.wav"], found.texts[folder / "two.mp3"]
    assert (one.caption, one.lyrics, one.bpm) == ("brass over an offbeat guitar", "[Verse]\nhey", 132)
    assert (one.key, one.time_signature, one.language) == ("G minor", "4", "de")
    assert (two.bpm, two.key, two.time_signature, two.lyrics, two.language) == (None, None, None, INSTRUMENTAL, "en")
    assert "dataset.json does not list three.flac" in found.notes
    assert found.texts[folder / "live" / "three.flac"].caption == "my ska band"


@pytest.mark.parametrize(
    ("position", "expected"),
    [("prepend", "SKA, horns"), ("append", "horns, SKA"), ("replace", "SKA"), (None, "SKA, horns")],
)
def test_a_tag_goes_where_the_metadata_says(folder: Path, position: str | None, expected: str) -> None:
    own = {"filename": "two.mp3", "caption": "horns", "custom_tag": "own"}
    write(folder, [{"filename": "one.wav", "caption": "horns"}, own], custom_tag="SKA", tag_position=position)
    found = describe_songs(folder, files(folder)).texts
    assert found[folder / "one.wav"].caption == expected
    assert found[folder / "two.mp3"].caption == expected.replace("SKA", "own")


def test_genres_stand_for_captions_in_the_share_that_is_asked_for_the_same_every_time(folder: Path) -> None:
    names = [f"{i}.wav" for i in range(400)]
    for name in names:
        (folder / name).write_bytes(b"")
    write(folder, [{"filename": n, "caption": "c", "genre": "g"} for n in names], genre_ratio=30)
    paths = [folder / n for n in names]
    first = [t.caption for t in describe_songs(folder, paths).texts.values()]
    assert first == [t.caption for t in describe_songs(folder, paths).texts.values()]
    assert 80 < first.count("g") < 160  # 120 expected; four standard deviations
    write(
        folder,
        [
            {"filename": "one.wav", "caption": "c", "genre": "g", "prompt_override": "genre"},
            {"filename": "two.mp3", "caption": "c", "genre": "g", "prompt_override": "caption"},
        ],
        genre_ratio=100,
    )
    found = describe_songs(folder, files(folder)[1:]).texts
    assert [t.caption for t in found.values()] == ["g", "c"]


def test_instrumental_music_loses_its_lyrics(folder: Path) -> None:
    sung = {"caption": "c", "lyrics": "la"}
    write(folder, [{"filename": "one.wav", **sung, "is_instrumental": True}, {"filename": "two.mp3", **sung}])
    found = describe_songs(folder, files(folder)).texts
    assert [found[folder / n].lyrics for n in ("one.wav", "two.mp3")] == [INSTRUMENTAL, "la"]
    write(folder, [{"filename": "two.mp3", **sung}], all_instrumental=True)
    assert describe_songs(folder, files(folder)).texts[folder / "two.mp3"].lyrics == INSTRUMENTAL


def test_paths_of_another_machine_are_found_by_name_and_strangers_are_told(folder: Path) -> None:
    write(
        folder,
        [{"audio_path": r"C:\music\one.wav", "caption": "a"}, {"audio_path": "/home/x/three.flac", "caption": "b"}]
        + [{"filename": f"gone{i}.wav", "caption": "c"} for i in range(5)],
    )
    found = describe_songs(folder, files(folder))
    assert found.texts[folder / "one.wav"].caption == "a"
    assert found.texts[folder / "live" / "three.flac"].caption == "b"
    assert any(note.startswith("dataset.json lists 5 recordings that are not here: gone0.wav") for note in found.notes)


def test_texts_beside_recordings(folder: Path) -> None:
    (folder / "one.txt").write_bytes("\ufeffein Lied für Bläser".encode())
    (folder / "one.lyrics.txt").write_text("[Chorus]\nhoi")
    (folder / "two.lrc").write_bytes(
        "[ar:Someone]\r\n[00:01.50]first line\r\n[00:03.00]\r\n[00:04.1][00:09.1]again".encode("utf-16")
    )
    found = describe_songs(folder, files(folder)).texts
    one, two = found[folder / "one.wav"], found[folder / "two.mp3"]
    assert (one.caption, one.lyrics) == ("ein Lied für Bläser", "[Chorus]\nhoi")
    assert (two.caption, two.lyrics) == ("my ska band", "first line\n\nagain")


def test_a_caption_that_is_given_replaces_every_other(folder: Path) -> None:
    (folder / "one.txt").write_text("own")
    (folder / "one.lyrics.txt").write_text("la")
    found = describe_songs(folder, files(folder), "ska of the eighties")
    assert {t.caption for t in found.texts.values()} == {"ska of the eighties"}
    assert found.texts[folder / "one.wav"].lyrics == "la"
    assert not found.notes


def test_without_any_words_the_folder_names_the_music(folder: Path) -> None:
    found = describe_songs(folder, files(folder))
    assert {(t.caption, t.lyrics) for t in found.texts.values()} == {("my ska band", INSTRUMENTAL)}
    assert "'my ska band'" in found.notes[0]


def test_section_marks_survive_and_time_stamps_do_not() -> None:
    text = "[ti: Song]\n[length: 02:10]\n[00:00.00][Verse 1]\n[00:12.34] <00:12.34>Some <00:13.00>words\n[offset:+500]"
    assert strip_lrc(text) == "[Verse 1]\nSome words"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("grün".encode("latin-1"), r"words\.txt: is no UTF-8 text \(byte 3\); save it as UTF-8"),
        ("hi".encode("utf-16-le"), r"words\.txt: holds zero bytes"),
        (b"x" * 1_000_001, r"words\.txt: 1,000,001 bytes are too many"),
    ],
    ids=["latin-1", "utf-16 without a mark", "too large"],
)
def test_other_encodings_are_refused_by_file(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(DataError, match=match):
        read_text(tmp_path / "words.txt")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"samples": [{"caption": "c"}]}', "sample 1: names no recording"),
        ('{"samples": [{"filename": "one.wav", "bpm": "fast"}]}', "sample 1: bpm is 'fast'; expected a number"),
        ('{"samples": [{"filename": "one.wav", "bpm": -3}]}', "sample 1: bpm is -3; it must lie between 1 and 1000"),
        ('{"samples": [{"filename": "one.wav", "caption": 7}]}', r"dataset\.json.*caption"),
        ('{"metadata": {"tag_position": "middle"}, "samples": []}', "tag_position is 'middle'"),
        ('{"songs": []}', r"dataset\.json.*samples"),
        ("{", r"dataset\.json"),
    ],
)
def test_a_damaged_data_set_is_one_line(folder: Path, content: str, match: str) -> None:
    (folder / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=match) as error:
        describe_songs(folder, files(folder))
    assert "\n" not in str(error.value)
