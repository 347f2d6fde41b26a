"""Proof of the copy meter: ROC on known spans of songs inserted in other songs, against songs that nobody copied.

`python tests/benchmarks/copying.py --output-dir OUT` prints the tables as Markdown and writes OUT/copying.json with
every cell and the area under each ROC curve. A piece has 16 bars of an unseen song, of which 1, 2, 4 or 8 are replaced
by bars of a training song under one change. Two settings: `pairs`, each piece against the one song that the span came
from, beside SSIMuse; `songs`, each piece against all training songs, as in use. The negatives are unseen songs as they
are, against the same songs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import ssimuse
from copy_songs import CHANGES, Excerpt, insert_span, read_corpus

from musiclora.evaluation.copies.hashed import hash_songs
from musiclora.evaluation.copies.index import CopyIndex
from musiclora.evaluation.copies.measure import measure_piece
from musiclora.evaluation.copies.meter import CopyMeter

LENGTHS = (1, 2, 4, 8)
CORPORA = {"han, 2/4": ("han", 2.0), "ryan, 4/4": ("ryan", 4.0)}
FALSE_ALARM = 0.01
PAIRS_A_SONG = 2  # negative pairs of each unseen song
_METHODS = {  # of each setting
    "pairs": ("meter", "tokens", "SSIMuse, mean bar", "SSIMuse, best two bars"),
    "songs": ("meter", "file alone", "tokens"),
}
Scores = tuple[float, ...]


@dataclass(frozen=True)
class Cell:
    """Outcome of one method on pieces of one kind.

    Attributes:
        corpus, setting, method, change, bars: the kind.
        pieces: number of pieces.
        found: share above the limit that at most 1 % of the negatives exceed.
        area: area under the ROC curve.
        own: share above the meter's own threshold, None for other methods and in pairs.
    """

    corpus: str
    setting: str
    method: str
    change: str
    bars: int
    pieces: int
    found: float
    area: float
    own: float | None = None


def token_run(piece: Excerpt, songs: Sequence[Excerpt]) -> float:
    """Return the longest run of equal tokens (pitch, duration on a grid of sixteenths) with any song, in notes."""
    rows = np.concatenate([np.concatenate((_tokens(song), [-1])) for song in songs])
    run, longest = np.zeros(len(rows) + 1, np.int64), 0
    for token in _tokens(piece):
        run[1:] = np.where(rows == token, run[:-1] + 1, 0)
        longest = max(longest, int(run.max()))
    return float(longest)


def _tokens(piece: Excerpt) -> np.ndarray:
    return (piece.rows[:, 1] * 256 + np.clip(np.round(piece.rows[:, 3] * 4), 0, 255)).astype(np.int64)


def limit_of(negatives: np.ndarray) -> float:
    """Return the least score that at most FALSE_ALARM of the negatives exceed."""
    ordered = np.sort(negatives)
    return float(ordered[len(ordered) - 1 - int(FALSE_ALARM * len(ordered))])


def area_under(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Compute the area under the ROC curve: the probability that a positive scores higher, ties counted half."""
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left") + np.searchsorted(ordered, positives, side="right")
    return float(below.mean() / 2 / len(ordered))


class Trial:
    """Training songs of one corpus, their indexes, and the scores of unseen songs."""

    def __init__(self, corpus: str, seed: int, train: int, pieces: int, slow_pieces: int) -> None:
        """Draw the songs and measure the negatives."""
        songs = read_corpus(*CORPORA[corpus])
        order = np.random.default_rng(seed).permutation(len(songs))
        self.corpus, self.seed, self.slow_pieces = corpus, seed, slow_pieces
        self.train = [songs[i] for i in order[:train]]
        self.unseen = [songs[i] for i in order[train:]]
        self.hosts = self.unseen[:pieces]
        notes = [song.note_list() for song in self.train]
        self.threshold = CopyMeter.from_songs(notes).threshold
        self._index, self._hashed = CopyIndex(notes), hash_songs(notes)
        self._alone = [CopyIndex([song]) for song in notes]
        rng = np.random.default_rng([seed, 1])
        self.negatives = {
            "songs": np.array([self._against_songs(song) for song in self.unseen]),
            "pairs": np.array(
                [self._against_one(song, int(rng.integers(train))) for song in self.unseen for _ in range(PAIRS_A_SONG)]
            ),
        }

    def _against_songs(self, piece: Excerpt) -> Scores:
        notes = piece.note_list()
        return (
            measure_piece(notes, self._index).content,
            self._hashed.measure(notes).content,
            token_run(piece, self.train),
        )

    def _against_one(self, piece: Excerpt, song: int, slow: bool = True) -> Scores:
        fast = (
            measure_piece(piece.note_list(), self._alone[song]).content,
            token_run(piece, self.train[song : song + 1]),
        )
        return (*fast, *(ssimuse.score(piece, self.train[song]) if slow else (np.nan, np.nan)))

    def cells(self, change: str, bars: int) -> list[Cell]:
        """Measure pieces with spans of a length under a change."""
        rng = np.random.default_rng([self.seed, CHANGES.index(change), bars])
        rows: dict[str, list[Scores]] = {"pairs": [], "songs": []}
        for number, host in enumerate(self.hosts):
            song = int(rng.integers(len(self.train)))
            piece = insert_span(host, self.train[song], bars, change, rng)
            rows["pairs"].append(self._against_one(piece, song, number < self.slow_pieces))
            rows["songs"].append(self._against_songs(piece))
        found = []
        for setting, scores in rows.items():
            for column, method in enumerate(_METHODS[setting]):
                positives, negatives = np.array(scores)[:, column], self.negatives[setting][:, column]
                positives = positives[~np.isnan(positives)]
                own = float((positives > self.threshold).mean()) if (setting, method) == ("songs", "meter") else None
                share = float((positives > limit_of(negatives)).mean())
                area = area_under(positives, negatives)
                found.append(Cell(self.corpus, setting, method, change, bars, len(positives), share, area, own))
        return found

    def summary(self) -> str:
        """Format the sizes, limits and the false alarms of the meter's own threshold."""
        own = float((self.negatives["songs"][:, 0] > self.threshold).mean())
        limits = {
            setting: ", ".join(
                f"{method} {limit_of(self.negatives[setting][:, column]):.3g}" for column, method in enumerate(methods)
            )
            for setting, methods in _METHODS.items()
        }
        notes = float(np.mean([len(song.rows) for song in self.unseen])) / 16
        return (
            f"{self.corpus}: {len(self.train)} training songs, {len(self.unseen)} unseen, {notes:.1f} notes a bar. "
            f"Limits at 1 % false alarms: {limits['pairs']} in pairs; {limits['songs']} against all songs. "
            f"The meter's own threshold is {self.threshold} notes and has {100 * own:.1f} % false alarms."
        )


def markdown(cells: Sequence[Cell], setting: str) -> str:
    """Format the shares found in per cent, 1, 2, 4 and 8 bars; of the stretched ones the lowest of the six ratios."""
    chosen = [cell for cell in cells if cell.setting == setting]
    columns: list[tuple[str, str, Callable[[Cell], float]]] = [(m, m, lambda c: c.found) for m in _METHODS[setting]]
    if setting == "songs":
        columns.insert(1, ("meter, own threshold", "meter", lambda c: c.own or 0.0))
    lines = [
        "| change | " + " | ".join(title for title, _, _ in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for change in dict.fromkeys(change.split()[0] for change in CHANGES):
        texts = []
        for _, method, share in columns:
            own = [cell for cell in chosen if cell.method == method and cell.change.split()[0] == change]
            shares = [min(share(cell) for cell in own if cell.bars == bars) for bars in LENGTHS]
            texts.append(" / ".join(f"{100 * value:.0f}" for value in shares))
        lines.append(f"| {change} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


@click.command()
@click.option("--output-dir", type=click.Path(path_type=Path), required=True)
@click.option("--seed", default=0, show_default=True, help="draws songs, spans and changes")
@click.option("--train", default=20, show_default=True, help="training songs")
@click.option("--pieces", default=100, show_default=True, help="pieces of each kind")
@click.option("--slow-pieces", default=30, show_default=True, help="of them measured with SSIMuse")
def main(output_dir: Path, seed: int, train: int, pieces: int, slow_pieces: int) -> None:
    """Measure how many copies of each kind are found at 1 % false alarms."""
    output_dir.mkdir(parents=True, exist_ok=True)
    every: list[Cell] = []
    for corpus in CORPORA:
        trial = Trial(corpus, seed, train, pieces, slow_pieces)
        cells = [cell for change in CHANGES for bars in LENGTHS for cell in trial.cells(change, bars)]
        every += cells
        click.echo(trial.summary() + "\n")
        for setting in _METHODS:
            click.echo(f"{corpus}, {setting}: per cent found of pieces with 1 / 2 / 4 / 8 bars copied\n")
            click.echo(markdown(cells, setting) + "\n")
    (output_dir / "copying.json").write_text(json.dumps([asdict(cell) for cell in every], indent=1) + "\n")


if __name__ == "__main__":
    main()
