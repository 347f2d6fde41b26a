"""Texts beside recordings: captions and lyrics in any Unicode encoding, and LRC files without their time stamps."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from musiclora.errors import DataError

INSTRUMENTAL = "[Instrumental]"  # what ACE-Step reads as the lyrics of music without words
_MAX_BYTES = 1_000_000
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_TIME = re.compile(r"\[\d{1,3}:\d{1,2}(?:[.:]\d{1,3})?\]|<\d{1,3}:\d{1,2}(?:[.:]\d{1,3})?>")
_TAG = re.compile(r"\[(?:ar|al|ti|au|by|re|ve|la|id|lr|length|offset|tool|#)\s*:[^\]]*\]", re.IGNORECASE)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte order mark; all line ends become line feeds.

    Raises:
        DataError: it cannot be read, is too large for a text, or is encoded otherwise.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes are too many for a caption or lyrics")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    encoding = next((name for mark, name in _BOMS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is no UTF-8 text (byte {error.start + 1}); save it as UTF-8 in the editor it was written with"
        ) from error
    if "\0" in text:
        raise DataError(f"{path}: holds zero bytes, so it is no text; save it as UTF-8")
    return "\n".join(text.splitlines()).strip()


def read_lyrics(path: Path) -> str:
    """Read lyrics; those of a `.lrc` file lose their time stamps and the tags that name singer and song."""
    text = read_text(path)
    return strip_lrc(text) if path.suffix.lower() == ".lrc" else text


def strip_lrc(text: str) -> str:
    """Remove time stamps and identity tags of the LRC format, and keep section marks such as [Verse].

    Source: the LRC format as players read it: `[mm:ss.xx]` before lines, `<mm:ss.xx>` before words, `[ar:...]` tags.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        if _TAG.fullmatch(line.strip()):
            continue
        words = re.sub(r"[ \t]+", " ", _TIME.sub("", line)).strip()
        if words or (lines and lines[-1]):
            lines.append(words)
    return "\n".join(lines).strip()
