"""Key of a listening test: which excerpt is which; and the checksum of a listener's ratings."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.convert.files.json_file import (
    INTEGER,
    NUMBER,
    TEXT,
    Kind,
    integer_between,
    list_of,
    object_with,
    read_json,
)
from musiclora.errors import DataError

KEY_FORMAT, RATINGS_FORMAT = "musiclora-listening-key", "musiclora-listening-ratings"
CONDITIONS = ("base", "adapted", "real")
QUESTIONS = ("musicality", "style_accuracy")
SCALE = (1, 5)
_ITEM = {"id": TEXT, "condition": TEXT, "file": TEXT, "start_seconds": NUMBER, "gain_db": NUMBER}
KEY_KIND: Kind = object_with(
    {"format": TEXT, "version": INTEGER, "test": TEXT, "title": TEXT, "items": list_of(object_with(_ITEM, _ITEM))},
    ["format", "version", "test", "title", "items"],
)
_RATING = {"item": TEXT} | {question: integer_between(*SCALE) for question in QUESTIONS}
RATINGS_KIND: Kind = object_with(
    {
        "format": TEXT,
        "version": INTEGER,
        "test": TEXT,
        "listener": TEXT,
        "ratings": list_of(object_with(_RATING, _RATING)),
        "checksum": TEXT,
    },
    ["format", "version", "test", "listener", "ratings", "checksum"],
)


@dataclass(frozen=True)
class Item:
    """Rated excerpt.

    Attributes:
        id: opaque name on the page.
        condition: one of CONDITIONS.
        file: name of the music it was cut from.
        start_seconds: where.
        gain_db: change of its level.
    """

    id: str
    condition: str
    file: str
    start_seconds: float
    gain_db: float


@dataclass(frozen=True)
class Key:
    """Key of a test.

    Attributes:
        test: fingerprint of the page's contents.
        title: of the page.
        items: every rated excerpt.
    """

    test: str
    title: str
    items: tuple[Item, ...]

    def condition_of(self) -> dict[str, str]:
        """Return the condition of each item by its id."""
        return {item.id: item.condition for item in self.items}


def read_key(path: Path) -> Key:
    """Read the key file that `listen make` wrote.

    Raises:
        ConvertError: unreadable or no such JSON.
        DataError: another file, or a damaged key.
    """
    found = read_json(path, KEY_KIND)
    if found["format"] != KEY_FORMAT or found["version"] != 1:
        raise DataError(f"{path}: is no key of a listening test; give the .key.json file of listen make")
    items = tuple(Item(**{name: entry[name] for name in _ITEM}) for entry in found["items"])
    ids = {item.id for item in items}
    strange = sorted({item.condition for item in items} - set(CONDITIONS))
    if not items or len(ids) < len(items) or strange:
        raise DataError(f"{path}: is a damaged key: {'unknown condition ' + strange[0] if strange else 'its items'}")
    return Key(found["test"], found["title"], items)


def ratings_checksum(test: str, listener: str, ratings: Iterable[Mapping[str, Any]]) -> str:
    """Compute the CRC-32 of a listener's ratings as the page does, eight hexadecimal digits.

    It finds accidents (a lost line, a changed digit). Anybody who wants to forge ratings can compute it again.
    """
    lines = [test, listener, *(f"{row['item']} {row['musicality']} {row['style_accuracy']}" for row in ratings)]
    return f"{zlib.crc32(chr(10).join(lines).encode()):08x}"
