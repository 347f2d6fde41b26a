"""Words of a folder of recordings: dataset.json, texts beside the recordings, or one caption for all.

Source: the forms of upstream's and Side-Step's data sets, as their users hold them.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from musiclora.audio.acestep.lyrics import INSTRUMENTAL, read_lyrics, read_text
from musiclora.audio.acestep.song_text import SongText
from musiclora.convert.files.json_file import ANYTHING, BOOLEAN, NULL, NUMBER, TEXT, list_of, object_with, read_json
from musiclora.errors import ConvertError, DataError, list_names

DATA_SET = "dataset.json"
_NUMBER = NUMBER | TEXT | NULL  # files written by forms hold numbers as texts
_TEXT, _FLAG = TEXT | NULL, BOOLEAN | NULL
_SAMPLE = object_with(
    {
        **dict.fromkeys(
            (
                "audio_path",
                "filename",
                "caption",
                "genre",
                "lyrics",
                "keyscale",
                "language",
                "custom_tag",
                "prompt_override",
            ),
            _TEXT,
        ),
        **dict.fromkeys(("bpm", "timesignature", "duration"), _NUMBER),
        "is_instrumental": _FLAG,
    }
)
_METADATA = object_with(
    {"custom_tag": _TEXT, "tag_position": _TEXT, "genre_ratio": _NUMBER, "all_instrumental": _FLAG, "name": ANYTHING}
)
_KIND = object_with({"metadata": _METADATA | NULL, "samples": list_of(_SAMPLE)}, ("samples",))
_MISSING = ("", "n/a", "na", "none", "null", "unknown", "auto")
_POSITIONS = ("prepend", "append", "replace")
_MAX_BPM = 1000


@dataclass(frozen=True)
class DescribedSongs:
    """Words of the recordings of a folder.

    Attributes:
        texts: of each recording, without its length.
        notes: remarks for the user.
    """

    texts: Mapping[Path, SongText]
    notes: Sequence[str]


def describe_songs(folder: Path, files: Sequence[Path], caption: str | None = None) -> DescribedSongs:
    """Collect the words of each recording.

    A caption that is given replaces every other one. Without it comes the entry of dataset.json, then the text beside
    the recording (`song.txt`, `song.lyrics.txt`, `song.lrc`), then the folder's name. Music without lyrics counts as
    instrumental.

    Args:
        folder: of the recordings.
        files: the recordings, in it or in its subfolders.
        caption: of all recordings, or None.

    Raises:
        DataError: a text that cannot be read, or a damaged dataset.json.
    """
    entries, notes = _read_data_set(folder, files) if (folder / DATA_SET).is_file() else ({}, [])
    texts, unnamed = dict[Path, SongText](), list[str]()
    for file in files:
        text = entries.get(file) or _text_beside(file)
        if caption:
            text = dataclasses.replace(text, caption=caption)
        elif not text.caption:
            unnamed.append(file.name)
            text = dataclasses.replace(text, caption=_words_of(folder.resolve().name))
        texts[file] = dataclasses.replace(text, lyrics=text.lyrics or INSTRUMENTAL)
    if unnamed:
        notes.append(
            f"no caption for {list_names(unnamed, 3)}: the folder's name is taken, {texts[files[0]].caption!r}"
            if len(unnamed) == len(files)
            else f"no caption for {list_names(unnamed, 3)}: the folder's name is taken"
        )
    return DescribedSongs(texts, notes)


def _text_beside(file: Path) -> SongText:
    """Read the caption and the lyrics beside a recording; both empty where there are none."""
    caption, stem = file.with_suffix(".txt"), file.with_suffix("")
    words = next(
        (p for p in (stem.with_name(f"{stem.name}{end}") for end in (".lyrics.txt", ".lrc")) if p.is_file()), None
    )
    return SongText(read_text(caption) if caption.is_file() else "", read_lyrics(words) if words else "")


def _words_of(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").split()) or "music"


def _read_data_set(folder: Path, files: Sequence[Path]) -> tuple[dict[Path, SongText], list[str]]:
    """Read dataset.json; return the words of the recordings that it lists, and remarks."""
    try:
        content = read_json(folder / DATA_SET, _KIND)
    except ConvertError as error:
        raise DataError(str(error)) from error
    metadata = content.get("metadata") or {}
    position = (metadata.get("tag_position") or "prepend").lower()
    if position not in _POSITIONS:
        raise DataError(f"{folder / DATA_SET}: tag_position is {position!r}; it must be {', '.join(_POSITIONS)}")
    found, strangers, finder = dict[Path, SongText](), list[str](), _Finder(folder, files)
    for number, sample in enumerate(content["samples"], 1):
        where = f"{folder / DATA_SET}: sample {number}"
        name = sample.get("audio_path") or sample.get("filename")
        if not name:
            raise DataError(f"{where}: names no recording (audio_path or filename)")
        file = finder.find(name)
        if file is None:
            strangers.append(PureWindowsPath(name).name)
        else:
            found[file] = _sample_text(sample, metadata, position, where)
    notes = []
    if strangers:
        notes.append(f"{DATA_SET} lists {len(strangers)} recordings that are not here: {list_names(strangers, 3)}")
    if missing := [file.name for file in files if file not in found]:
        notes.append(f"{DATA_SET} does not list {list_names(missing, 3)}")
    return found, notes


class _Finder:
    """Finds the recordings that entries name: by path, else by file name where only one has it."""

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self._folder = folder
        self._by_path = {file.resolve(): file for file in files}
        self._by_name: dict[str, list[Path]] = {}
        for file in files:
            self._by_name.setdefault(file.name, []).append(file)

    def find(self, name: str) -> Path | None:
        """Find the recording of a path relative to the folder, or of another machine; None where there is none."""
        if found := self._by_path.get((self._folder / name).resolve()):
            return found
        same = self._by_name.get(PureWindowsPath(name).name, [])  # also of paths written on Windows
        return same[0] if len(same) == 1 else None


def _sample_text(sample: Mapping[str, Any], metadata: Mapping[str, Any], position: str, where: str) -> SongText:
    """Turn one entry into words."""
    caption, genre = ((sample.get(key) or "").strip() for key in ("caption", "genre"))
    prompt = genre if genre and _takes_genre(sample, metadata, where) else caption or genre
    tag = (sample.get("custom_tag") or metadata.get("custom_tag") or "").strip()
    if tag:
        prompt = {"prepend": f"{tag}, {prompt}", "append": f"{prompt}, {tag}", "replace": tag}[position].strip(", ")
    instrumental = bool(metadata.get("all_instrumental") or sample.get("is_instrumental"))
    bpm = _number(sample.get("bpm"), f"{where}: bpm")
    if bpm is not None and not 0 < bpm <= _MAX_BPM:
        raise DataError(f"{where}: bpm is {bpm:g}; it must lie between 1 and {_MAX_BPM}")
    return SongText(
        prompt,
        "" if instrumental else (sample.get("lyrics") or "").strip(),
        None if bpm is None else max(1, round(bpm)),
        _given(sample.get("keyscale")),
        _given(sample.get("timesignature")),
        _given(sample.get("language")) or "en",
    )


def _takes_genre(sample: Mapping[str, Any], metadata: Mapping[str, Any], where: str) -> bool:
    """Decide whether the genre stands for the caption: as the entry says, else for genre_ratio percent of the entries.

    The choice depends on the recording's name alone, so that it is the same in every start.
    """
    override = (sample.get("prompt_override") or "").lower()
    if override in ("genre", "caption"):
        return override == "genre"
    ratio = _number(metadata.get("genre_ratio"), f"{where}: genre_ratio") or 0.0
    name = PureWindowsPath(str(sample.get("audio_path") or sample.get("filename"))).name
    return zlib.crc32(name.encode(errors="replace")) / 2**32 * 100 < ratio


def _given(value: object) -> str | None:
    """Return a text, or a number as text, that was filled in; None for the many ways of leaving it out."""
    text = f"{value:g}" if isinstance(value, int | float) else str(value or "")
    return None if text.strip().lower() in _MISSING else text.strip()


def _number(value: object, where: str) -> float | None:
    """Read a number that may be written as text.

    Raises:
        DataError: it is no number.
    """
    text = _given(value)
    try:
        return None if text is None else float(text)
    except ValueError as error:
        raise DataError(f"{where} is {text!r}; expected a number") from error
