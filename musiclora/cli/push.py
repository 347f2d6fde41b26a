"""`musiclora push`."""

from __future__ import annotations

from pathlib import Path

import click

from musiclora.cli.common import json_option, note, print_json


@click.command()
@click.argument("folder")
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option(
    "--sample", type=click.Path(path_type=Path), help="Piece to show on the card.  [default: the run's last sample]"
)
@click.option("--dry-run", is_flag=True, help="List what would be sent, and send nothing.")
@json_option
def push(folder: str, repository: str, private: bool, sample: Path | None, dry_run: bool, as_json: bool) -> None:
    """Send an adapter, a fused model or a converted base to the Hugging Face Hub.

    FOLDER is that of the adapter or model, or a run folder, whose best adapter is sent. Only files that are known are
    sent, in one commit, with a card that the Hub reads; names of songs and paths of this machine never leave it.
    """
    from musiclora.cli.console import console
    from musiclora.jobs import push as run

    with console() as out:
        result = run(folder, repository, private=private, dry_run=dry_run, sample=sample, reporter=out)
    if as_json:
        print_json(result.record())
        return
    for remark in result.remarks:
        note(remark)
    for name, size in result.files:
        click.echo(f"{size:12,}  {name}")
    if dry_run:
        click.echo("metadata: " + ", ".join(f"{key}: {value}" for key, value in sorted(result.metadata.items())))
        click.echo(f"nothing was sent; without --dry-run these files go to {repository}")
    else:
        click.echo(f"sent: {result.url}")
        click.echo(f"next: musiclora generate --adapter-dir {repository} --output new.mid")
