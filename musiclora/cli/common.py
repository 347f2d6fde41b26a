"""Shared parts of the commands: errors to messages and exit codes, greedy options, progress."""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import click

from musiclora.children.interrupts import Terminated, terminations_raise
from musiclora.cli.memory import is_out_of_memory, memory_message
from musiclora.convert.errors import MusicLoraError, printable

EXIT_INTERNAL, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130

BACKEND_CHOICES = click.Choice(["auto", "mlx", "torch"])


class FiniteFloat(click.types.FloatParamType):
    """Number on the command line that is neither NaN nor infinite; the lazy group gives it to every command."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return found


def refuse_non_finite(command: click.Command) -> click.Command:
    """Give every number of a command and of its subcommands the type FiniteFloat."""
    for param in command.params:
        if type(param.type) is click.types.FloatParamType:
            param.type = FiniteFloat()
        elif isinstance(param.type, click.Tuple):
            inner = param.type.types
            param.type.types = [FiniteFloat() if type(t) is click.types.FloatParamType else t for t in inner]
    for child in command.commands.values() if isinstance(command, click.Group) else ():
        refuse_non_finite(child)
    return command


class ManyOption(click.Option):
    """Option that takes all values up to the next option: `--transpose -2 -1 1 2`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "multiple": True})


class ManyCommand(click.Command):
    """Command that rewrites `--transpose -2 -1` to repeated options before parsing; click has no greedy options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        greedy = {name for p in self.params if isinstance(p, ManyOption) for name in p.opts}
        return super().parse_args(ctx, _repeat_greedy(args, greedy))


def _repeat_greedy(args: Sequence[str], greedy: set[str]) -> list[str]:
    out: list[str] = []
    current: str | None = None
    for position, arg in enumerate(args):
        if arg == "--":
            return out + list(args[position:])
        if arg in greedy:
            current = arg
            if position + 1 == len(args) or _is_option(args[position + 1]):
                out.append(arg)  # no value follows: click says so
        elif arg.partition("=")[0] in greedy:  # `--transpose=-2 -1`
            current = arg.partition("=")[0]
            out.append(arg)
        elif current is not None and not _is_option(arg):
            out.append(f"{current}={arg}")
        else:
            current = None
            out.append(arg)
    return out


def _is_option(arg: str) -> bool:
    return arg.startswith("--") or (len(arg) > 1 and arg[0] == "-" and not (arg[1].isdigit() or arg[1] == "."))


class RootGroup(click.Group):
    """Group that turns an exception of a command into one line on stderr and an exit code."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        debug = bool(os.environ.get("MUSICLORA_DEBUG"))
        options = arguments[: arguments.index("--")] if "--" in arguments else arguments
        if "--debug" in options:
            debug = True
            arguments.remove("--debug")
        if not standalone_mode:
            return super().main(arguments, standalone_mode=False, **extra)
        with terminations_raise():
            self._run(arguments, debug, extra)

    def _run(self, arguments: list[str], debug: bool, extra: Mapping[str, Any]) -> NoReturn:
        """Run a command and exit with its code."""
        try:
            code = super().main(arguments, standalone_mode=False, **extra)
        except (KeyboardInterrupt, click.Abort) as error:
            # click turns Ctrl-C into Abort, and an EOFError, which is no wish to stop, too
            cause = error.__cause__ or error
            if isinstance(cause, EOFError):
                _exit_internal(cause, debug)
            if isinstance(cause, Terminated):
                _exit_with(f"stopped by {cause}", 128 + cause.number, debug)
            _exit_with("stopped", EXIT_INTERRUPTED, debug)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(0)
        except click.UsageError as error:
            hint = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
            _exit_with(error.format_message().replace("\n", " ") + hint, EXIT_BAD_INPUT, debug)
        except click.ClickException as error:
            _exit_with(error.format_message(), EXIT_BAD_INPUT, debug)
        except MusicLoraError as error:
            _exit_with(str(error), EXIT_BAD_INPUT, debug)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_INTERNAL)
        except OSError as error:
            _exit_with(_os_error(error), EXIT_BAD_INPUT, debug)
        except Exception as error:  # the one place: whatever is left is a fault of ours
            if is_out_of_memory(error):
                _exit_with(memory_message(error, _command_options(self, arguments)), EXIT_BAD_INPUT, debug)
            _exit_internal(error, debug)
        sys.exit(code if isinstance(code, int) else 0)


def _command_options(group: click.Group, arguments: Sequence[str]) -> list[str]:
    """List the options of the command that the arguments name."""
    command: click.Command = group
    for argument in arguments:
        if isinstance(command, click.Group) and (found := command.get_command(click.Context(command), argument)):
            command = found
    return [name for parameter in command.params for name in parameter.opts]


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _exit_internal(error: BaseException, debug: bool) -> NoReturn:
    text = f"internal failure: {type(error).__name__}: {error}".replace("\n", " ")
    _exit_with(f"{text}; run again with --debug for the traceback", EXIT_INTERNAL, debug)


def _exit_with(message: str, code: int, debug: bool) -> NoReturn:
    with suppress(OSError):  # a terminal that is gone must not change the exit code
        if debug:
            traceback.print_exc()
        click.echo(f"musiclora: {printable(' '.join(message.split()))}", err=True)
    sys.exit(code)


def print_json(value: Any) -> None:
    """Print the one object that `--json` promises on stdout; NaN and infinity become null."""
    plain = _replace_non_finite(value)
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # the bytes of a file's name that are no UTF-8
        text = json.dumps(plain, allow_nan=False)
    click.echo(text)


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {str(k): _replace_non_finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(v) for v in value]
    return str(value) if isinstance(value, os.PathLike) else value


def note(text: str) -> None:
    """Print a line on stderr, so that stdout holds data only."""
    click.echo(printable(text), err=True)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield update(done, total): a rich bar on a terminal, plain lines elsewhere, on stderr."""
    from musiclora.progress import Bar

    with Bar(title) as bar:
        yield bar.update


backend_option = click.option(
    "--backend",
    type=BACKEND_CHOICES,
    default="auto",
    show_default=True,
    help="Framework that computes; auto prints its choice.",
)
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace files that exist; inputs are never replaced."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, the rest on stderr."
)
