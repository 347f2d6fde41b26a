"""What ACE-Step is told about a song in words: caption, lyrics and the facts of its prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SongText:
    """Words and facts of one song.

    Attributes:
        caption: description of the music.
        lyrics: sung words with their section marks; empty for instrumental music.
        bpm: quarter notes a minute, None where unknown.
        key: such as `C major`, None where unknown.
        time_signature: such as `4/4`, None where unknown.
        language: code of the sung language, such as `en`.
        seconds: length of the song.
        repaint: a part of a recording is made again or continued: another instruction stands in the prompt.
    """

    caption: str
    lyrics: str = ""
    bpm: int | None = None
    key: str | None = None
    time_signature: str | None = None
    language: str = "en"
    seconds: float = 0.0
    repaint: bool = False
