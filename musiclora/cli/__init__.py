"""Command line: one group whose commands are imported when they are called."""

from __future__ import annotations

import importlib

import click

from musiclora import __version__
from musiclora.cli.common import RootGroup, refuse_non_finite

COMMANDS = {
    "demo": "demo",
    "doctor": "doctor",
    "augment": "augment",
    "cut": "cut",
    "preprocess": "preprocess",
    "pretrain": "pretrain",
    "train": "train",
    "learning-curve": "learning_curve",
    "generate": "generate",
    "evaluate": "evaluate",
    "convert": "convert",
    "fuse": "fuse",
    "blend": "blend",
    "render": "render",
    "listen": "listen",
    "push": "push",
    "ui": "ui",
}


def get_command(name: str) -> click.Command | None:
    """Import a command; None for an unknown name."""
    if name not in COMMANDS:
        return None
    module = importlib.import_module(f"musiclora.cli.{COMMANDS[name]}")
    command: click.Command = getattr(module, COMMANDS[name])
    return refuse_non_finite(command)


class _Commands(RootGroup):
    """Lazy group. Command modules import click and the standard library only, so that --help stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if ctx.resilient_parsing and command is not None:  # a shell asks for completion
            from musiclora.cli.completion import add_completion

            add_completion(command)
        return name, command, rest

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return get_command(cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="musiclora")
@click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error (anywhere on the line)."
)
def main() -> None:
    """Teach a music model your style: LoRA fine-tuning on MLX and PyTorch.

    \b
    musiclora demo                                   the whole job, offline, in three minutes
    musiclora doctor ~/my_midi                       health of the folder, facts about this machine
    musiclora train --data-dir ~/my_midi --output-dir runs/mine
    musiclora generate --adapter-dir runs/mine/adapter-best --output mine.mid
    musiclora ui                                     all of it as a page in the browser
    """  # noqa: D301 - click looks for the character itself, which a raw string would not hold
