"""Songs of the adaptation benchmark: a fixed report set, a fixed choosing set, and a pool that runs draw from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from style_data import distinct_songs

from musiclora.bundled import BUNDLED
from musiclora.demo.corpora import BASE_CORPORA
from musiclora.symbolic.dataset.pieces import Piece, load_pieces
from musiclora.symbolic.dataset.splits import near_duplicates
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer

SPLIT_SEED = 2026  # of the fixed sets, apart from the seeds of the runs
# Songs to report on and songs to choose settings by; the bundled band songs are thirty in all.
SIZES = {"han": (120, 60), "bach": (60, 30), "northumbrian": (20, 10), "band": (12, 0)}


@dataclass(frozen=True)
class AdaptationSongs:
    """Songs of one corpus without near-duplicates of one another.

    Attributes:
        report: songs whose score is reported; nothing is chosen by them.
        choosing: songs that settings are compared on.
        pool: songs that training draws from.
    """

    report: list[Piece]
    choosing: list[Piece]
    pool: list[Piece]

    def draw(self, count: int, seed: int) -> list[Piece]:
        """Draw songs of the pool by seed; smaller draws are the first of larger ones. 0 is the whole pool."""
        order = np.random.default_rng([seed, len(self.pool)]).permutation(len(self.pool))
        return [self.pool[i] for i in order[: count or len(order)]]


def load_songs(corpus: str, cache: Path, tokenizer: SymbolicTokenizer) -> AdaptationSongs:
    """Read one corpus and split it.

    Args:
        corpus: a key of SIZES.
        cache: folder for the songs of the music21 wheel.
        tokenizer: of the base.
    """
    folder = BUNDLED / "songs" if corpus == "band" else distinct_songs(corpus, cache)
    pieces = sorted(load_pieces(folder, tokenizer, workers=1).pieces, key=lambda piece: piece.name)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(pieces)).tolist()
    report, choosing = SIZES[corpus]
    parts = order[:report], order[report : report + choosing], order[report + choosing :]
    found = AdaptationSongs(*([pieces[i] for i in part] for part in parts))
    unseen = [*found.report, *found.choosing]
    related = {i for i, _ in near_duplicates(found.pool, against=unseen)}
    pool = [piece for i, piece in enumerate(found.pool) if i not in related]
    return AdaptationSongs(found.report, found.choosing, pool)


def load_base_songs(cache: Path, tokenizer: SymbolicTokenizer, unseen: Sequence[Piece]) -> list[Piece]:
    """Read the tunes that the bundled base was trained on, without near-duplicates of songs that are scored."""
    pieces = [p for name in BASE_CORPORA for p in load_pieces(distinct_songs(name, cache), tokenizer, workers=1).pieces]
    related = {i for i, _ in near_duplicates(pieces, against=list(unseen))}
    return [piece for i, piece in enumerate(pieces) if i not in related]
