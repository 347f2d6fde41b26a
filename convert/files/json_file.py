"""JSON of ours and of others: bounded in size, depth and numbers, and typed by a schema."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.convert.errors import ConvertError, join_problems, show_value

MAX_JSON_BYTES = 50_000_000
MAX_DEPTH = 64  # lists and objects within each other
_MAX_DIGITS = 19  # of an integer; larger ones are no sizes, ids or seeds
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Kind:
    """Type of a JSON value.

    Attributes:
        name: its name in messages, such as `a whole number`.
        problems: lists what is wrong with a value, given its place such as `model.dim`; empty where it fits.
    """

    name: str
    problems: Callable[[object, str], list[str]]

    def __or__(self, other: Kind) -> Kind:
        """Return the kind of the values that fit either; with NULL a problem is told of this kind alone."""
        if other is NULL:
            return Kind(self.name, lambda value, place: [] if value is None else self.problems(value, place))
        name = f"{self.name} or {other.name}"

        def problems(value: object, place: str) -> list[str]:
            return _unless(not self.problems(value, place) or not other.problems(value, place), value, place, name)

        return Kind(name, problems)


def _simple(name: str, fits: Callable[[object], bool]) -> Kind:
    return Kind(name, lambda value, place: _unless(fits(value), value, place, name))


def _unless(fits: bool, value: object, place: str, name: str) -> list[str]:
    return [] if fits else [f"{place or 'the JSON'} is {show_value(value)}, expected {name}"]


ANYTHING = _simple("anything", lambda value: True)
NULL = _simple("null", lambda value: value is None)
TEXT = _simple("text in quotes", lambda value: isinstance(value, str) and "\0" not in value)
BOOLEAN = _simple("true or false", lambda value: isinstance(value, bool))
INTEGER = _simple("a whole number", lambda value: type(value) is int)
COUNT = _simple("a whole number of at least 0", lambda value: type(value) is int and value >= 0)
NUMBER = _simple("a number", lambda value: type(value) in (int, float))


def integer_between(low: int, high: int) -> Kind:
    """Return the kind of the integers from low to high."""
    name = f"a whole number from {low} to {high}"
    return _simple(name, lambda value: type(value) is int and low <= value <= high)


def list_of(item: Kind) -> Kind:
    """Return the kind of a list whose items are all of one kind."""
    name = f"a list, each item {item.name}"

    def problems(value: object, place: str) -> list[str]:
        if not isinstance(value, list):
            return _unless(False, value, place, name)
        return [text for i, entry in enumerate(value) for text in item.problems(entry, f"{place}[{i}]")]

    return Kind(name, problems)


def map_of(item: Kind) -> Kind:
    """Return the kind of an object with any keys, whose values are all of one kind."""
    name = f"an object, each value {item.name}"

    def problems(value: object, place: str) -> list[str]:
        if not isinstance(value, dict):
            return _unless(False, value, place, name)
        return [text for key, entry in value.items() for text in item.problems(entry, _join_place(place, key))]

    return Kind(name, problems)


def object_with(fields: Mapping[str, Kind], required: Collection[str] = ()) -> Kind:
    """Return the kind of an object with known keys; other keys may hold anything.

    Args:
        fields: kind of the value of each key that may be there.
        required: keys that must be there.
    """

    def problems(value: object, place: str) -> list[str]:
        if not isinstance(value, dict):
            return _unless(False, value, place, "an object")
        found = [f"{_join_place(place, key)} is missing" for key in required if key not in value]
        for key, kind in fields.items():
            if key in value:
                found += kind.problems(value[key], _join_place(place, key))
        return found

    return Kind("an object", problems)


OBJECT = object_with({})
_ANNOTATIONS = {
    "int": INTEGER,
    "float": NUMBER,
    "str": TEXT,
    "bool": BOOLEAN,
    "None": NULL,
    "tuple[str, ...]": list_of(TEXT),
}


def field_kinds(record: type) -> dict[str, Kind]:
    """Return the kind of every field of a dataclass, by its annotation, such as `int | None`.

    Fields with other annotations may hold anything.
    """
    kinds: dict[str, Kind] = {}
    for field in dataclasses.fields(record):
        parts = [_ANNOTATIONS.get(part, ANYTHING) for part in str(field.type).split(" | ")]
        kinds[field.name] = functools.reduce(Kind.__or__, parts)
    return kinds


def parse_json(
    text: str | bytes,
    where: str,
    kind: Kind = ANYTHING,
    *,
    unique: bool = False,
    most_bytes: int = MAX_JSON_BYTES,
) -> Any:
    """Parse JSON text from outside.

    Args:
        text: the content; bytes are UTF-8.
        where: its file, for messages.
        kind: type of the value.
        unique: refuse an object with two keys of one name, of which the last counts otherwise.
        most_bytes: largest size.

    Raises:
        ConvertError: no JSON, too large, nested too deep, a number or text that cannot be stored (an integer of more
            than 19 digits, an infinite or undefined number, half a surrogate pair), or a value of another type.
    """
    if len(text) > most_bytes:
        raise ConvertError(f"{where}: {len(text)} bytes are too many for JSON")
    try:
        plain = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(
            plain,
            parse_int=_to_int,
            parse_float=_to_float,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_pairs if unique else None,
        )
        _check_nesting(value, has_surrogates=bool(_SURROGATE_ESCAPE.search(plain)))
    except RecursionError as error:
        raise ConvertError(f"{where} is not usable JSON: nested more than {MAX_DEPTH} levels deep") from error
    except ValueError as error:
        raise ConvertError(f"{where} is not usable JSON: {error}") from error
    if problems := kind.problems(value, ""):
        raise ConvertError(f"{where}: {join_problems(problems)}")
    return value


def read_bounded(path: Path) -> bytes:
    """Read a file that is to be JSON.

    Raises:
        ConvertError: missing, unreadable or too large.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ConvertError(f"{path}: {size} bytes are too many for JSON")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ConvertError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def read_json_value(path: Path, kind: Kind = ANYTHING) -> Any:
    """Read a JSON file whose value need not be an object; see `parse_json`.

    Raises:
        ConvertError: missing or unreadable, and what `parse_json` raises.
    """
    return parse_json(read_bounded(path), str(path), kind)


def read_json(path: Path, kind: Kind = OBJECT) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        kind: type of the object, such as `object_with({"r": INTEGER})`.

    Raises:
        ConvertError: missing, unreadable, or not such an object; see `parse_json`.
    """
    value: dict[str, Any] = read_json_value(path, kind)
    return value


def read_optional_json(path: Path, kind: Kind = OBJECT) -> dict[str, Any]:
    """Read a JSON object; return an empty one where there is no such file.

    Raises:
        ConvertError: unreadable, or not such an object; see `parse_json`.
    """
    return read_json(path, kind) if path.is_file() else {}


def _join_place(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError("duplicate names " + join_problems(sorted(name for name, n in counts.items() if n > 1)))
    return dict(pairs)


def _to_int(text: str) -> int:
    if len(text.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _to_float(text: str) -> float:
    if len(text) > 400:
        raise ValueError(f"a number of {len(text)} digits")
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _check_nesting(value: object, *, has_surrogates: bool) -> None:
    """Refuse values nested too deep, and text that UTF-8 cannot hold where the file may have some."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        if has_surrogates:
            for item in level:
                _check_text(item)
        level = [
            entry
            for item in level
            if isinstance(item, dict | list)
            for entry in (item.values() if isinstance(item, dict) else item)
            if has_surrogates or isinstance(entry, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_DEPTH} levels deep")


def _check_text(item: object) -> None:
    for text in item if isinstance(item, dict) else (item,):
        if isinstance(text, str):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError("a text holds half a surrogate pair, which is no character") from error
