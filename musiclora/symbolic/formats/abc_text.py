"""Text of ABC tunes: lines of prose, and loudness marks."""

from __future__ import annotations

import re

_FIELD = re.compile(r"[A-Za-z+]:|%")  # a field, its continuation, a comment or a directive
_TEXT_BLOCK = re.compile(r"(?ms)^%%begintext\b.*?^%%endtext\b[^\n]*\n?")
# Parts of a music line that may hold any letters: chord names, decorations, inline fields, comments.
_FREE_PARTS = re.compile(r'"[^"]*"|![^!\n]*!|\+[a-z().<>]+\+|\[[A-Za-z]:[^\]]*\]|%.*')
_LONG_NUMBER = re.compile(r"\d{6,}")
_WORD = re.compile(r"[^\W\d_]{2,}")
_MARK = re.compile(r"[H-Wh-w](?=[A-Ga-gxz])")  # old files put such letters before a note without defining them
# Letters that mean something in music: notes, rests, spacers, and the decorations defined by the standard.
_MUSIC_LETTERS = frozenset("ABCDEFGabcdefgzxZXyHLMOPSTuv")
_DYNAMICS = re.compile(
    r"(?m)[!+](?:p{1,4}|f{1,4}|m[pf]|sfz|accent|emphasis|marcato|>|\^"
    r"|crescendo[()]|diminuendo[()]|<[()]|>[()])[!+]"
    r"|^%%MIDI[ \t]+(?:beat|beatstring|beatmod|beataccents|nobeataccents|velocity|vol|deltaloudness)\b[^\n]*"
)


def mute_dynamics(tune: str) -> str:
    """Remove loudness marks and directives, so that the velocities show the place in the bar alone."""
    return _DYNAMICS.sub("", tune)


def find_endless_length(tune: str) -> str:
    """Return the first number of more digits than a note's length has, with which abc2midi would not end."""
    for line in tune.splitlines():
        if not _FIELD.match(line) and (found := _LONG_NUMBER.search(_FREE_PARTS.sub(" ", line))):
            return found[0][:20]
    return ""


def drop_prose(tune: str) -> tuple[str, int]:
    """Remove lines of prose from the music of a tune, which abc2midi would play letter by letter.

    Returns:
        The tune, and the number of lines removed.
    """
    known = _MUSIC_LETTERS | set(re.findall(r"(?m)^U:\s*([A-Za-z])", tune))
    kept, dropped, in_music = [], 0, False
    for line in _TEXT_BLOCK.sub("", tune).splitlines(keepends=True):
        if in_music and _is_prose(line, known):
            dropped += 1
        else:
            kept.append(line)
        in_music = in_music or line.startswith("K:")
    return "".join(kept), dropped


def _is_prose(line: str, known: frozenset[str]) -> bool:
    """Tell a line of words from one of music: most of its words hold letters without a meaning in music."""
    if _FIELD.match(line):
        return False
    bare = _FREE_PARTS.sub(" ", line)
    words = _WORD.findall(bare)
    foreign = [word for word in words if len(word) > 2 and not known.issuperset(_MARK.sub("", word))]
    if 2 * len(foreign) <= len(words):
        return False
    # a single word, such as the name of a part, is prose where no music is beside it
    return len(foreign) >= 2 or not re.search(r"[A-Ga-gzx|]", _WORD.sub("", bare))
