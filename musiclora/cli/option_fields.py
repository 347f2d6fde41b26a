"""A command's options as fields for the page."""

from __future__ import annotations

import re

import click

from musiclora.cli.common import ManyOption
from musiclora.ui.options import Kind, OptionField

_DEFAULT = re.compile(r"\s*\[default: ?(.*?)\]\s*$", re.DOTALL)


def option_fields(command: click.Command) -> tuple[OptionField, ...]:
    """Return the options of a command in its order, without --help and --json."""
    fields = []
    for param in command.params:
        if isinstance(param, click.Option) and param.name not in ("help", "as_json"):
            fields.append(_field(param))
    return tuple(fields)


def _field(param: click.Option) -> OptionField:
    text = param.help or ""
    found = _DEFAULT.search(text)
    default = found.group(1).strip() if found else _shown_default(param)
    flag = max(param.opts, key=len)
    off = max(param.secondary_opts, key=len, default="")
    choices = tuple(map(str, param.type.choices)) if isinstance(param.type, click.Choice) else ()
    many = isinstance(param, ManyOption)
    return OptionField(param.name or "", flag, _kind(param), _DEFAULT.sub("", text), default, choices, off, many)


def _kind(param: click.Option) -> Kind:
    if param.is_flag:
        return "switch"
    if isinstance(param.type, click.Choice):
        return "choice"
    if isinstance(param.type, click.Tuple):
        return "pair"
    if isinstance(param.type, click.types.IntParamType):
        return "integer"
    return "number" if isinstance(param.type, click.types.FloatParamType) else "text"


def _shown_default(param: click.Option) -> str:
    return str(param.default) if param.show_default and param.default is not None else ""
