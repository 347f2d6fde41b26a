"""`musiclora ui`."""

from __future__ import annotations

from pathlib import Path

import click

# Commands whose options the page offers.
_COMMANDS = ("train", "generate", "blend", "fuse", "push")


@click.command()
@click.option(
    "--dir",
    "root",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Folder that the page works in: songs, runs and new pieces lie below it.  [default: the current folder]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need a password.")
@click.option("--port", type=int, help="Port to listen on.  [default: 7860, or the next one that is free]")
@click.option("--no-browser", is_flag=True, help="Do not open the page in a browser.")
def ui(root: Path, host: str, port: int | None, no_browser: bool) -> None:
    """Open the local page: look at songs, train, make new pieces, manage adapters.

    Training is a command of its own and goes on when the page or its tab is closed. An address other than this
    machine's own needs the password of $MUSICLORA_UI_PASSWORD, or asks for one.
    """
    from musiclora.cli import get_command
    from musiclora.cli.option_fields import option_fields
    from musiclora.ui.serve import is_loopback, serve_page

    password = None if is_loopback(host) else _ask_password(host)
    fields = {name: option_fields(command) for name in _COMMANDS if (command := get_command(name))}
    serve_page(root, fields, host, port, password, browser=not no_browser, say=click.echo)


def _ask_password(host: str) -> str:
    import os

    click.echo(f"warning: --host {host}: other machines can open this page, train, and read its folder", err=True)
    if password := os.environ.get("MUSICLORA_UI_PASSWORD"):
        return password
    found: str = click.prompt("password for the page (user name: musiclora)", hide_input=True, confirmation_prompt=True)
    return found
