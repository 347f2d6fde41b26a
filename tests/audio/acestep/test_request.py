"""Options of ACE-Step's generation: keys, metres, languages, lyrics from files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from musiclora.audio.acestep.request import AceStepRequest, words_of
from musiclora.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("C major", "C major"),
        ("f# minor", "F# minor"),
        ("Am", "A minor"),
        ("Bb", "Bb major"),
        ("bb min", "Bb minor"),
        ("G♯m", "G# minor"),
        ("CM", "C major"),
    ],
)
def test_keys_are_written_as_the_model_reads_them(given: str, expected: str) -> None:
    assert AceStepRequest(key=given).key == expected


@pytest.mark.parametrize(("given", "expected"), [("4/4", "4/4"), ("3", "3/4"), ("6", "6/8"), ("12/8", "12/8")])
def test_time_signatures_are_written_as_fractions(given: str, expected: str) -> None:
    assert AceStepRequest(time_signature=given).time_signature == expected


def test_a_language_is_a_code() -> None:
    assert AceStepRequest(language="DE").language == "de"
    assert AceStepRequest().word_options == []
    assert AceStepRequest(caption="", time_signature="3/4").word_options == ["--caption", "--time-signature"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bpm": 0}, "--bpm is 0; it must be at least 1"),
        ({"bpm": 5000}, "--bpm is 5000; it must be at most 1000"),
        ({"seconds": 0.0}, "--seconds is 0.0; it must be above 0"),
        ({"seconds": float("nan")}, "--seconds is nan"),
        ({"guidance": 0.5}, "--guidance is 0.5; for ACE-Step it is the usual scale, where 1 is none"),
        ({"guidance": float("nan")}, "--guidance is nan"),
        ({"guidance": -2.0}, "--guidance is -2.0; it must be at least 1"),
        ({"shift": 0.0}, "--shift is 0.0"),
        ({"steps": 0}, "--steps is 0"),
        ({"key": "H major"}, "--key H major: expected a key such as 'C major'"),
        ({"time_signature": "4/5"}, "--time-signature 4/5: expected a time signature such as 4/4"),
        ({"language": "Klingon tongue"}, "--language Klingon tongue: expected a code such as en"),
        ({"repaint": ((0.0, 1.0),)}, "--repaint: there is no recording to repaint; give --init-audio"),
        ({"count": 0, "seed": -1}, "--count is 0; it must be at least 1; --seed is -1"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AceStepRequest(**options)
    assert words in str(caught.value)


def test_lyrics_are_a_files_text_or_the_words_themselves(tmp_path: Path) -> None:
    (tmp_path / "song.txt").write_bytes("\ufeff[Verse]\r\nLa là\r\n".encode())
    (tmp_path / "wide.txt").write_bytes("là là".encode("utf-16"))
    (tmp_path / "song.lrc").write_text("[ar:Somebody]\n[00:01.50]first line\n[00:04.00]second line\n")
    assert words_of(str(tmp_path / "song.txt")) == "[Verse]\nLa là"
    assert words_of(str(tmp_path / "wide.txt")) == "là là"
    assert words_of(str(tmp_path / "song.lrc")) == "first line\nsecond line"
    assert words_of("[Verse]\nla la\n") == "[Verse]\nla la"
    assert words_of("la la la") == "la la la"
    assert words_of("word " * 200) == ("word " * 200).strip()
    assert words_of("月" * 100) == "月" * 100  # few characters, and more bytes than a file name may have
    assert words_of("  ") == ""
    assert words_of("a\0b") == "a\0b"


def test_lyrics_in_no_unicode_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("là".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.txt: is no UTF-8 text \(byte 2\)"):
        words_of(str(tmp_path / "latin.txt"))
    with pytest.raises(ConfigError, match="is a folder; give a text file, or the words themselves"):
        words_of(str(tmp_path))
    with pytest.raises(ConfigError, match=r"missing.txt: there is no such file"):
        words_of(str(tmp_path / "missing.txt"))
