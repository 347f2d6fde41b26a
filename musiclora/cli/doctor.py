"""`musiclora doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from musiclora.cli.common import json_option, print_json
from musiclora.convert.errors import printable


@click.command()
@click.argument("data_dir", required=False, type=click.Path(path_type=Path))
@click.option("--model", help="Base model to describe.  [default: bundled, for recordings bundled-audio]")
@click.option("--num-workers", type=int, help="Processes that read music.")
@json_option
def doctor(data_dir: Path | None, model: str | None, num_workers: int | None, as_json: bool) -> None:
    """Describe this machine and, with DATA_DIR, the health of a folder of music: kept, repaired, skipped, and why.

    A folder may hold notes (MIDI, MusicXML, ABC), recordings, or both, or be what preprocess or train wrote. For notes
    it counts what the model's tokens keep and lose. For recordings the table shows seconds, rate, channels, peak,
    clipped samples and problems.
    """
    from musiclora import doctor as jobs

    model = model or jobs.bundled_model_for(data_dir)
    report: dict[str, Any] = {"machine": jobs.machine_facts(), "model": jobs.model_facts(model)}
    if data_dir:
        report |= _health_tables(data_dir, model, num_workers)
    if as_json:
        print_json(report)
        return
    facts = report["machine"]
    memory = f"{facts['memory'] / 2**30:.0f} GiB" if facts["memory"] else "unknown"
    click.echo(
        f"musiclora {facts['musiclora']}, Python {facts['python']}, {facts['system']}, "
        f"{facts['cores']} cores, memory {memory}"
    )
    for name, found in facts["backends"].items():
        click.echo(jobs.backend_line(name, found))
    click.echo(f"auto takes: {facts['auto'] or 'none, install one of them'}")
    click.echo(
        f"soundfont: {facts['soundfont'] or 'none (install the audio extra)'}; "
        f"fluidsynth: {facts['fluidsynth'] or 'none'}"
    )
    click.echo(printable("model: " + ", ".join(f"{k} {v}" for k, v in report["model"].items())))
    for kind in ("latents", "folder"):
        if kind in report:
            click.echo(printable(report[kind]["line"]))
    for kind in ("data", "recordings"):
        if kind in report:
            _print_table(report[kind], kind)


def _health_tables(data_dir: Path, model: str, workers: int | None) -> dict[str, Any]:
    """Build table `data` for notes and `recordings` for sound; an empty folder raises as the reader of notes does."""
    from musiclora.audio.files.sound import audio_files
    from musiclora.audio.latents.store import is_latents
    from musiclora.doctor import latents_report, run_report
    from musiclora.formats import MUSIC_SUFFIXES, foreign_score

    if is_latents(data_dir):
        return {"latents": latents_report(data_dir)}
    if found_run := run_report(data_dir):
        return {"folder": found_run}
    files, foreign = audio_files(data_dir) if data_dir.is_dir() else ([], [])
    has_notes = data_dir.is_dir() and any(
        p.suffix.lower() in MUSIC_SUFFIXES or foreign_score(p) for p in data_dir.rglob("*")
    )
    found = {"recordings": _recordings_table(data_dir)} if files or foreign else {}
    return {**({"data": _songs_table(data_dir, model, workers)} if has_notes or not found else {}), **found}


def _recordings_table(data_dir: Path) -> dict[str, Any]:
    from musiclora.audio.files.health import (
        audio_health_json,
        audio_health_line,
        audio_health_table,
        examine_folder,
    )
    from musiclora.cli.common import progress

    with progress("reading recordings") as update:
        rows = examine_folder(data_dir, update)
    return {**audio_health_json(rows), "line": audio_health_line(rows), "table": audio_health_table(rows)}


def _songs_table(data_dir: Path, model: str, workers: int | None) -> dict[str, Any]:
    from musiclora.cli.common import progress
    from musiclora.doctor import songs_report

    with progress("reading songs") as update:
        return songs_report(data_dir, model, workers, update)


def _print_table(data: dict[str, Any], kind: str) -> None:
    from musiclora.audio.files import health as audio_health
    from musiclora.symbolic.reading import health

    columns = health.SONG_COLUMNS if kind == "data" else audio_health.RECORDING_COLUMNS
    rows = [columns, *data["table"]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo(printable("  ".join([*cells, row[-1]]).rstrip()))
    click.echo(printable(data["line"]))
    for text in data.get("notes", ()):
        click.echo(printable(text))
