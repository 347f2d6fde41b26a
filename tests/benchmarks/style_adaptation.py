"""What makes few songs count: settings of LoRA compared in bits a note on songs that no run ever saw.

`python tests/benchmarks/style_adaptation.py --output-dir out/adaptation` trains the recipes of every table with three
seeds. `--table rank` takes one table, `--recipe "lr=3e-3 rank=8"` other recipes. A share is the gain over the base
divided by that of full fine-tuning with all songs. Every finished run is a line of OUT/runs.jsonl, so that the same
command goes on where it was stopped. A seed draws the songs, the adapter and the order of training; the songs that are
reported are always the same, and settings were chosen by other songs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))
from adaptation_copies import measure_copies
from adaptation_data import SIZES, load_songs
from adaptation_recipes import FULL, TABLES, Row, table_rows
from adaptation_runs import Bench, Recipe
from adaptation_table import base_key, markdown, run_key

from musiclora.families import checkpoint_fingerprint
from musiclora.models import find_model
from musiclora.symbolic.model import tokenizer_for


class Lines:
    """Finished runs, one JSON line each, under one protocol.

    Attributes:
        found: records by key.
    """

    def __init__(self, folder: Path, protocol: dict[str, Any]) -> None:
        """Read what is there.

        Raises:
            click.UsageError: the folder holds runs of another protocol.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path, stated = folder / "runs.jsonl", folder / "protocol.json"
        if stated.exists() and json.loads(stated.read_text(encoding="utf-8")) != protocol:
            raise click.UsageError(f"{stated} states other songs or another base; take another --output-dir")
        stated.write_text(json.dumps(protocol, indent=1), encoding="utf-8")
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        self.found: dict[str, dict[str, Any]] = {}
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # cut off by a kill; the run is made again
                continue
            self.found[record["key"]] = record

    def add(self, key: str, record: dict[str, Any]) -> None:
        """Append one run."""
        self.found[key] = {"key": key, **record}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.found[key]) + "\n")


def fill(lines: Lines, bench: Bench, recipes: list[Recipe], seeds: list[int]) -> None:
    """Train and score what is missing, seed by seed, and the base in the same numbers."""
    for recipe in recipes:
        if base_key(recipe) not in lines.found:
            lines.add(base_key(recipe), bench.score_base(recipe.backend, recipe.dtype))
    todo = [(r, s) for s in seeds for r in recipes if run_key(r, s) not in lines.found]
    for number, (recipe, seed) in enumerate(todo, 1):
        key = run_key(recipe, seed)
        lines.add(key, {"recipe": recipe.name(), "seed": seed, **bench.run(recipe, seed)})
        record = lines.found[key]
        gain = lines.found[base_key(recipe)]["report"] - record["report"]
        click.echo(f"[{number}/{len(todo)}] {key}: gain {gain:.3f}, {record['seconds']:.0f} s", err=True)


@click.command()
@click.option("--output-dir", type=click.Path(path_type=Path), required=True, help="Songs and finished runs.")
@click.option("--model", default="bundled", show_default=True)
@click.option("--corpus", type=click.Choice(list(SIZES)), default="han", show_default=True)
@click.option("--table", "tables", type=click.Choice(list(TABLES)), multiple=True, help="One or more.  [default: all]")
@click.option("--recipe", "texts", multiple=True, help="Settings such as 'lr=3e-3 rank=8' instead of the tables.")
@click.option("--copies", is_flag=True, help="Also measure how much 50 pieces of each recipe copy.")
@click.option("--seeds", default="0,1,2", show_default=True)
def main(
    output_dir: Path,
    model: str,
    corpus: str,
    tables: tuple[str, ...],
    texts: tuple[str, ...],
    copies: bool,
    seeds: str,
) -> None:
    """Train recipes and print their scores as Markdown."""
    folder = output_dir / f"{model}-{corpus}"
    protocol = {"model": checkpoint_fingerprint(find_model(model).path), "sizes": list(SIZES[corpus])}
    lines = Lines(folder, protocol)
    bench = Bench(model, load_songs(corpus, output_dir / "songs", tokenizer_for(model)), folder)
    numbers = [int(seed) for seed in seeds.split(",")]
    chosen: dict[str, list[Row]] = (
        {"recipes": [(text, Recipe.parse(text)) for text in texts]}
        if texts
        else {name: table_rows(name) for name in tables or TABLES}
    )
    full = Recipe.parse(FULL)
    recipes = list(dict.fromkeys(recipe for rows in chosen.values() for _, recipe in rows))
    fill(lines, bench, recipes, numbers)
    for name, rows in chosen.items():
        click.echo(f"\n{TABLES.get(name, ('Recipes', ()))[0]}\n\n{markdown(lines.found, rows, numbers, full)}")
    if copies:
        for recipe in recipes:
            for seed in numbers:
                key = f"copies {run_key(recipe, seed)}"
                if key not in lines.found:
                    lines.add(key, measure_copies(bench, recipe, seed))
                click.echo(json.dumps(lines.found[key]))


if __name__ == "__main__":
    main()
