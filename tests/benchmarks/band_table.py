"""A band base adapted to whole bands it never saw: Debian's openttd-openmsx, 31 songs with instruments and drums.

`python tests/benchmarks/band_table.py --output-dir out/bands` fetches the songs, trains an adapter on each backend with
a quarter of the songs held out, and prints the gain in bits a note, the scores by instrument, the instruments and drums
of new pieces next to those of the songs, and how the adapter scores on the other backend and in vanilla PEFT. Every
finished cell is kept in OUT/cells.json, so that the same command goes on where it was stopped. The songs are under the
GPL: they stay in the output folder.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from symusic import Score

sys.path.insert(0, str(Path(__file__).parent))
from band_markdown import markdown
from style_table import Cells

from musiclora.adapters import find_adapter, training_songs
from musiclora.evaluation.scores import token_score, total_loss
from musiclora.families import checkpoint_fingerprint
from musiclora.jobs import Reporter, generate, train
from musiclora.models import find_model
from musiclora.music.drums import DRUM_NAMES
from musiclora.music.instruments import instrument_name
from musiclora.symbolic.dataset.batches import batch_plan
from musiclora.symbolic.dataset.pieces import Piece, load_pieces
from musiclora.symbolic.instrument_losses import SongLosses, score_songs
from musiclora.symbolic.model import open_model, tokenizer_for
from musiclora.training.config import TrainConfig

PACKAGE = "openttd-openmsx"
BACKENDS = ("torch", "mlx")
PEFT_ROWS = 4
EXCERPT_NOTES, EXCERPT_DRAWS = 200, 100  # of the songs, as long as new pieces


def fetch_songs(output_dir: Path) -> Path:
    """Download the Debian package with apt-get and unpack it; made once, then found again."""
    folder = output_dir / "songs"
    if folder.exists():
        return folder
    instead = f"give --data-dir, a folder with the MIDI files of the Debian package {PACKAGE}"
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise click.ClickException(f"{tool} is not installed here; {instead}")
    building = output_dir / "building-songs"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    _run(["apt-get", "download", PACKAGE], building, instead)
    (package,) = building.glob("*.deb")
    _run(["dpkg-deb", "-x", package.name, "."], building, instead)
    package.unlink()
    building.rename(folder)
    return folder


def _run(command: list[str], folder: Path, instead: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise click.ClickException(f"{' '.join(command)} failed ({reason}); {instead}")


class Bands:
    """Cells of one table: an adapter of each backend, its scores and its pieces."""

    def __init__(self, data: Path, output_dir: Path, options: dict[str, Any]) -> None:
        self.data, self.output_dir, self.options = data, output_dir, options
        self.model = options["model"]

    def adapter(self, backend: str) -> str:
        """The folder of a backend's adapter."""
        return str(self.output_dir / "runs" / backend / "adapter-best")

    def train(self, backend: str) -> dict[str, Any]:
        """Train, and keep what the run states."""
        o, run = self.options, self.output_dir / "runs" / backend
        config = TrainConfig(
            data_dir=str(self.data),
            output_dir=str(run),
            model=self.model,
            backend=backend,
            seed=o["seed"],
            lr=o["lr"],
            lora_r=o["rank"],
            lora_alpha=2.0 * o["rank"],
            val_split=o["val_split"],
            max_steps=o["steps"],
            batch_size=o["rows"],
            grad_accum_steps=1,
            max_seq_len=o["length"],
            transpose=o["transpose"],
        )
        result = train(config, Reporter())
        if result.gain is None or result.gain.low is None:
            raise click.ClickException("fewer than six songs were held out: no interval; raise --val-split")
        before, after = asdict(result.before), asdict(result.after)
        facts = {"before": before, "after": after, "gain": asdict(result.gain), "verdict": result.verdict.headline}
        return {**facts, "steps": result.progress.step, "train_seconds": round(result.progress.seconds, 1)}

    def held_out(self, backend: str) -> Path:
        """Folder of the songs that a backend's adapter was not trained on; made once, then found again."""
        folder = self.output_dir / f"held-out-{backend}"
        if not folder.exists():
            seen = training_songs([find_adapter(self.adapter(backend))])
            building = self.output_dir / f"building-{folder.name}"
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            for piece in self.pieces(self.data):
                if piece.fingerprint not in seen:
                    shutil.copy(self.data / piece.name, building)
            building.rename(folder)
        return folder

    def pieces(self, folder: Path) -> list[Piece]:
        """Songs of a folder in the base's tokens."""
        return load_pieces(folder, tokenizer_for(self.model)).pieces

    def base(self, backend: str) -> dict[str, Any]:
        """Score of the base on the held-out songs, by instrument too."""
        pieces, opened = self.pieces(self.held_out(backend)), open_model(self.model, backend=backend)
        return _score(score_songs(opened.model, pieces, opened.tokenizer, self.options["length"]), pieces)

    def scores(self, backend: str) -> dict[str, Any]:
        """Scores of one adapter on every backend, and losses of the same rows there and in vanilla PEFT."""
        adapter, pieces, length = self.adapter(backend), self.pieces(self.held_out(backend)), self.options["length"]
        rows = self._single_rows(pieces, length)
        plain = _peft_losses(find_model(self.model).path, adapter, rows)
        losses, scores = {"peft": _join(plain, rows)}, {}
        for name in BACKENDS:
            opened = open_model(self.model, [adapter], name)
            losses[name] = _join([opened.model.token_losses(row) for row in rows], rows)
            scores[name] = _score(score_songs(opened.model, pieces, opened.tokenizer, length), pieces)
        return {
            "rows": len(rows),
            "tokens": len(losses["peft"]),
            "mean": {name: float(values.mean()) for name, values in losses.items()},
            "largest": {b: float(np.abs(losses[b] - losses["peft"]).max()) for b in BACKENDS},
            "held_out": scores,
        }

    def _single_rows(self, pieces: Sequence[Piece], length: int) -> list[dict[str, np.ndarray]]:
        """Rows of one song each, which a model without segments reads alike."""
        plan = batch_plan(pieces, tokenizer_for(self.model), length, 1, 0)
        found = [b for b in plan.batches(0) if len(np.unique(b["segments"])) == 1]
        return found[:: max(1, len(found) // PEFT_ROWS)][:PEFT_ROWS]

    def new_pieces(self, backend: str) -> dict[str, Any]:
        """Instruments and drums of new pieces of the adapter and of the base, by notes."""
        o, output = self.options, self.output_dir / f"pieces-{backend}" / "new.mid"
        result = generate(
            output,
            self.model,
            [self.adapter(backend)],
            backend,
            compare=True,
            overwrite=True,
            count=o["count"],
            max_new_tokens=o["new_tokens"],
            seed=o["seed"],
        )
        kinds = {kind: [f.path for f in result.files if f.kind == kind] for kind in ("adapted", "base")}
        return {kind: describe(paths) for kind, paths in kinds.items()}

    def songs(self) -> dict[str, Any]:
        """Instruments and drums of the songs, by notes, and those of excerpts as many as the new pieces."""
        paths = sorted(p for p in self.data.rglob("*") if p.suffix.lower() in (".mid", ".midi"))
        return {**describe(paths), "excerpts": draw_excerpts(paths, self.options["count"], self.options["seed"])}


def _score(found: SongLosses, pieces: Sequence[Piece]) -> dict[str, Any]:
    by_name = {name: asdict(score) for name, score in found.by_instrument.items()}
    score = token_score(total_loss(found.sums), sum(piece.notes for piece in pieces))
    return {"songs": len(pieces), **asdict(score), "by_instrument": by_name}


def _join(losses: Sequence[np.ndarray], rows: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    """Losses of the scored tokens, float32 [n]."""
    return np.concatenate([part[row["loss_mask"]] for part, row in zip(losses, rows, strict=True)])


def _peft_losses(base: Path, adapter: str, rows: Sequence[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """Loss of every token in nats by transformers and PEFT alone, float32 [1, L] a row; 0 for the first."""
    import torch
    from peft import PeftModel
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(base, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, adapter).eval()
    found = []
    for row in rows:
        ids = torch.from_numpy(row["tokens"]).long()
        with torch.inference_mode():
            logits = adapted(ids).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy()
        found.append(np.concatenate([np.zeros(1, np.float32), losses])[None])
    return found


def describe(paths: Sequence[Path]) -> dict[str, Any]:
    """Count notes by instrument and by drum, and the instruments of each file."""
    notes: Counter[str] = Counter()
    drums: Counter[str] = Counter()
    sets = []
    for path in paths:
        here = set()
        for track in Score(path).tracks:
            if len(track.notes):
                name = instrument_name(-1 if track.is_drum else track.program)
                here.add(name)
                notes[name] += len(track.notes)
                drums.update(DRUM_NAMES.get(n.pitch, f"{n.pitch}") for n in track.notes if track.is_drum)
        sets.append(sorted(here))
    return {"files": len(paths), "notes": dict(notes.most_common()), "drums": dict(drums.most_common()), "sets": sets}


def draw_excerpts(paths: Sequence[Path], count: int, seed: int) -> list[dict[str, dict[str, int]]]:
    """Instruments and drums of excerpts of `count` songs, by notes, many times: how far apart chance leaves them."""
    songs = [
        sorted(
            (note.time, instrument_name(-1 if track.is_drum else track.program), note.pitch)
            for track in Score(path).tracks
            for note in track.notes
        )
        for path in paths
    ]
    rng, found = np.random.default_rng(seed), []
    for _ in range(EXCERPT_DRAWS):
        notes: Counter[str] = Counter()
        drums: Counter[str] = Counter()
        for number in rng.choice(len(songs), min(count, len(songs)), replace=False):
            first = int(rng.integers(max(1, len(songs[number]) - EXCERPT_NOTES)))
            for _, name, pitch in songs[number][first : first + EXCERPT_NOTES]:
                notes[name] += 1
                if name == instrument_name(-1):
                    drums[DRUM_NAMES.get(pitch, f"{pitch}")] += 1
        found.append({"notes": dict(notes), "drums": dict(drums)})
    return found


@click.command()
@click.option("--output-dir", type=click.Path(path_type=Path), required=True, help="Songs, runs and finished cells.")
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), help="Songs in place of the download.")
@click.option("--model", default="bundled-band", show_default=True)
@click.option("--backend", "backends", type=click.Choice(BACKENDS), multiple=True, default=BACKENDS, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--steps", default=200, show_default=True)
@click.option("--rows", default=4, show_default=True, help="Rows in a step.")
@click.option("--length", default=1024, show_default=True, help="Tokens in a row, at most.")
@click.option("--lr", default=3e-3, show_default=True)
@click.option("--rank", default=16, show_default=True)
@click.option("--transpose", default=5, show_default=True, help="Largest transposition while training.")
@click.option("--val-split", default=0.25, show_default=True, help="Share of the songs held out.")
@click.option("--count", default=16, show_default=True, help="New pieces.")
@click.option("--new-tokens", default=1000, show_default=True, help="Tokens of a new piece, at most.")
@click.option("--json", "as_json", is_flag=True, help="Print the cells instead of the tables.")
def main(output_dir: Path, data_dir: Path | None, backends: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Fill the cells and print them as Markdown or JSON."""
    output_dir.mkdir(parents=True, exist_ok=True)
    base = checkpoint_fingerprint(find_model(options["model"]).path)
    bands = Bands(data_dir or fetch_songs(output_dir), output_dir, options)
    cells = Cells(output_dir / "cells.json", {**options, "base": base})
    parts: dict[str, Callable[[], dict[str, Any]]] = {"songs": bands.songs}
    for backend in backends:
        parts[f"{backend}/train"] = partial(bands.train, backend)
        parts[f"{backend}/new_pieces"] = partial(bands.new_pieces, backend)
        parts.setdefault("base", partial(bands.base, backend))
        parts[f"{backend}/scores"] = partial(bands.scores, backend)
    todo = [key for key in parts if key not in cells]
    for done, key in enumerate(todo, 1):
        began = time.monotonic()
        cells.add(key, parts[key]())
        click.echo(f"[{done}/{len(todo)}] {key}: {time.monotonic() - began:.0f} s", err=True)
    click.echo(cells.as_json() if as_json else markdown(cells, list(dict.fromkeys(backends))))


if __name__ == "__main__":
    main()
