"""Options of a command as fields of a form; the command line builds them from its own options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "integer", "number", "choice", "switch", "pair"]


@dataclass(frozen=True)
class OptionField:
    """One option of a command.

    Attributes:
        name: name of the parameter, such as `lora_r`.
        flag: its long option, such as `--lora-r`.
        kind: `pair` takes two numbers, `switch` takes no value.
        help: the help text, without the default.
        default: the default in words; empty where the text names none.
        choices: values of a `choice`.
        off_flag: option that turns a switch off, such as `--no-grad-checkpointing`; empty without one.
        many: values are separated by spaces or commas, and each is given on its own.
    """

    name: str
    flag: str
    kind: Kind
    help: str
    default: str = ""
    choices: tuple[str, ...] = ()
    off_flag: str = ""
    many: bool = False

    @property
    def label(self) -> str:
        """The flag as words: `--lora-r` is `lora r`."""
        return self.flag.removeprefix("--").replace("-", " ")

    def arguments(self, value: Any) -> list[str]:
        """Return the words of the command line for a value of the form; none for an empty one."""
        if self.kind == "switch":
            return self._switch_arguments(value)
        text = "" if value is None else str(value).strip()
        if not text:
            return []
        if self.many or self.kind == "pair":
            values = [part for part in re.split(r"[,\s]+", text) if part]
            return [self.flag, *values] if self.many or len(values) == 2 else [f"{self.flag}={text}"]
        if isinstance(value, float) and value.is_integer():  # number fields of a page give floats
            text = str(int(value))
        return [f"{self.flag}={text}"]  # one word, so that a value may begin with a dash

    def _switch_arguments(self, value: Any) -> list[str]:
        if value in (None, "", "default"):
            return []
        on = value is True or value == "on"
        if on:
            return [self.flag]
        return [self.off_flag] if self.off_flag else []


def command_arguments(fields: Iterable[OptionField], values: Mapping[str, Any]) -> list[str]:
    """Return the words of a command line for the values of a form, in the order of its fields."""
    words: list[str] = []
    for field in fields:
        words += field.arguments(values.get(field.name))
    return words


def choose_fields(fields: Sequence[OptionField], names: Sequence[str]) -> list[OptionField]:
    """Return the named fields in the order of the names.

    Raises:
        KeyError: the command has no such option.
    """
    by_name = {field.name: field for field in fields}
    return [by_name[name] for name in names]
