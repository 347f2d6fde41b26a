"""The style table of the README: bits a note of a base, of adapters and of full fine-tuning on songs of a new style.

`python tests/benchmarks/style_table.py --output-dir out/style` fills the table cell by cell. Every finished cell is
kept in OUT/cells.json, so that the same command goes on where it was stopped. Twenty songs are trained on with none
held back, so nothing is chosen by the forty songs that are scored.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))
from style_data import draw

from musiclora.families import checkpoint_fingerprint
from musiclora.jobs import Reporter, train
from musiclora.models import find_model
from musiclora.symbolic.evaluate import evaluate_songs
from musiclora.training.config import TrainConfig

TRAIN, HELD_OUT = 20, 40
COLUMNS = {
    "base": "base",
    "lora-torch": "LoRA (torch)",
    "lora-mlx": "LoRA (MLX)",
    "full-torch": "full fine-tuning (torch)",
}
CORPORA = {"han": "Chinese (Essen han1, han2)", "bach": "Bach chorales", "northumbrian": "Northumbrian tunes"}


@dataclass(frozen=True)
class Settings:
    """What every cell of one table shares."""

    model: str
    steps: int
    lr: float
    full_lr: float
    rank: int
    alpha: float
    dropout: float
    rows: int
    length: int
    transpose: int

    def config(self, column: str, seed: int, data: Path, run: Path) -> TrainConfig:
        """Training options of one cell."""
        whole = column.startswith("full-")
        return TrainConfig(
            data_dir=str(data),
            output_dir=str(run),
            model=self.model,
            backend=column.split("-")[1],
            seed=seed,
            trainable="all" if whole else "adapter",
            lr=self.full_lr if whole else self.lr,
            lora_r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            val_split=0.0,
            max_steps=self.steps,
            batch_size=self.rows,
            grad_accum_steps=1,
            max_seq_len=self.length,
            transpose=self.transpose,
        )


class Cells:
    """Finished cells on disk, records by key; those of the style table are by corpus, seed and column."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"settings": settings, "cells": {}}
        if kept["settings"] != settings:
            raise click.UsageError(f"{path} holds a table of other settings: {kept['settings']}; take another folder")
        self._kept = kept

    def __contains__(self, key: str) -> bool:
        return key in self._kept["cells"]

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._kept["cells"][key]

    def bits(self, corpus: str, seed: int, column: str) -> float | None:
        """Bits a note of a finished cell."""
        cell = self._kept["cells"].get(f"{corpus}/{seed}/{column}")
        return None if cell is None else float(cell["bits_per_note"])

    def add(self, key: str, cell: dict[str, Any]) -> None:
        """Keep a cell; the file is replaced whole."""
        self._kept["cells"][key] = cell
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self._kept, indent=1), encoding="utf-8")
        new.replace(self._path)

    def as_json(self) -> str:
        """Everything kept."""
        return json.dumps(self._kept)


def run_cell(settings: Settings, corpus: str, seed: int, column: str, output_dir: Path) -> dict[str, Any]:
    """Train where there is something to train, then score the held-out songs."""
    songs, held_out = draw(corpus, seed, output_dir / "songs", TRAIN, HELD_OUT)
    started = time.monotonic()
    if column == "base":
        found = evaluate_songs(held_out, settings.model, max_seq_len=settings.length)
        return {"bits_per_note": found.score.bits_per_note, "notes": found.score.notes, "backend": found.backend}
    run = output_dir / "runs" / f"{corpus}-{seed}-{column}"
    result = train(settings.config(column, seed, songs, run), Reporter())
    seconds = time.monotonic() - started
    if column.startswith("full-"):
        model, adapters = str(run / "model-last"), ()
    else:
        model, adapters = settings.model, (str(run / "adapter-last"),)
    found = evaluate_songs(held_out, model, adapters, result.backend, max_seq_len=settings.length)
    shutil.rmtree(run)
    return {
        "bits_per_note": found.score.bits_per_note,
        "notes": found.score.notes,
        "backend": result.backend,
        "steps": result.progress.step,
        "seconds": round(seconds, 1),
    }


def markdown(cells: Cells, corpora: list[str], seeds: list[int], columns: list[str]) -> str:
    """The table: mean and standard deviation over the seeds that are finished."""
    rows = ["| bits a note | " + " | ".join(COLUMNS[c] for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for corpus in corpora:
        texts = [_mean_and_spread([cells.bits(corpus, s, c) for s in seeds]) for c in columns]
        rows.append(f"| {CORPORA[corpus]} | " + " | ".join(texts) + " |")
    return "\n".join(rows)


def _mean_and_spread(found: list[float | None]) -> str:
    values = [v for v in found if v is not None]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


@click.command()
@click.option("--output-dir", type=click.Path(path_type=Path), required=True, help="Songs, runs and finished cells.")
@click.option("--model", default="bundled", show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--corpora", default="han,bach", show_default=True, help=f"Of {', '.join(CORPORA)}.")
@click.option("--columns", default=",".join(COLUMNS), show_default=True)
@click.option("--steps", default=60, show_default=True)
@click.option("--rows", default=2, show_default=True, help="Rows in a step.")
@click.option("--length", default=1024, show_default=True, help="Tokens in a row, at most.")
@click.option("--transpose", default=5, show_default=True, help="Largest transposition while training.")
@click.option("--lr", default=1e-3, show_default=True, help="Of the adapters.")
@click.option("--full-lr", default=1e-4, show_default=True, help="Of full fine-tuning.")
@click.option("--rank", default=16, show_default=True)
@click.option("--alpha", default=32.0, show_default=True)
@click.option("--dropout", default=0.05, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the cells instead of the table.")
def main(output_dir: Path, seeds: str, corpora: str, columns: str, as_json: bool, **options: Any) -> None:
    """Fill the table and print it as Markdown or JSON."""
    settings = Settings(**options)
    names, wanted = _known(corpora, CORPORA), _known(columns, COLUMNS)
    numbers = [int(s) for s in seeds.split(",")]
    output_dir.mkdir(parents=True, exist_ok=True)
    base = checkpoint_fingerprint(find_model(settings.model).path)
    cells = Cells(output_dir / "cells.json", {**options, "base": base})
    todo = [(c, s, k) for s in numbers for c in names for k in wanted if f"{c}/{s}/{k}" not in cells]
    for done, (corpus, seed, column) in enumerate(todo, 1):
        cell = run_cell(settings, corpus, seed, column, output_dir)
        cells.add(f"{corpus}/{seed}/{column}", cell)
        text = f"{cell['bits_per_note']:.3f} bits a note, {cell.get('seconds', 0):.0f} s"
        click.echo(f"[{done}/{len(todo)}] {corpus}, seed {seed}, {COLUMNS[column]}: {text}", err=True)
    click.echo(cells.as_json() if as_json else markdown(cells, names, numbers, wanted))


def _known(text: str, table: dict[str, str]) -> list[str]:
    names = text.split(",")
    if unknown := [n for n in names if n not in table]:
        raise click.UsageError(f"unknown {', '.join(unknown)}; known: {', '.join(table)}")
    return names


if __name__ == "__main__":
    main()
