"""Training batches in which every song counts the same, whatever its length."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from musiclora.errors import DataError
from musiclora.symbolic.dataset.anticipation import AnticipatedRows
from musiclora.symbolic.dataset.batches import BatchPlan
from musiclora.symbolic.dataset.layout import RowLayout, RowTokens
from musiclora.symbolic.dataset.packing import Unit
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.dataset.row_layouts import layout_of
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer
from musiclora.training.lazy_batches import LazyBatches
from musiclora.training.weighing import keep_some, song_factors


@dataclass(frozen=True)
class Pool:
    """Units of one song with its copies, and the places that they are drawn for in every epoch.

    Attributes:
        units: windows of the song's pieces.
        slots: places in the rows of an epoch.
        share: of the targets in a place that are scored, in (0, 1]; it makes up for the rounding of slots.
        weighed: False for a piece of --mix-dir.
    """

    units: tuple[Unit, ...]
    slots: int
    share: float
    weighed: bool = True

    @property
    def length(self) -> int:
        """Tokens of the longest unit, for which each place has room."""
        return max(unit.length for unit in self.units)

    @property
    def targets(self) -> float:
        """Expected scored targets in an epoch."""
        return self.slots * self.share * sum(unit.targets for unit in self.units) / len(self.units)

    def draw(self, rng: np.random.Generator) -> list[Unit]:
        """Draw a unit for each place: all of them equally often, and a random choice for the rest."""
        whole, rest = divmod(self.slots, len(self.units))
        return [*self.units * whole, *(self.units[i] for i in rng.choice(len(self.units), rest, replace=False))]


def make_pools(units: Sequence[Unit], songs: Sequence[str | None]) -> list[Pool]:
    """Group units by song, and give each song the same expected number of scored targets.

    Args:
        units: of all pieces.
        songs: the song of each piece; None for a piece of --mix-dir, which counts by its tokens.
    """
    own: dict[str, list[Unit]] = {}
    pools = []
    for unit in units:
        song = songs[unit.piece]
        if song is None:
            pools.append(Pool((unit,), 1, 1.0, False))
        else:
            own.setdefault(song, []).append(unit)
    flat = [(song, unit.targets) for song, members in own.items() for unit in members]
    factors = dict(zip([song for song, _ in flat], song_factors(*zip(*flat, strict=True)), strict=True)) if flat else {}
    for song, members in own.items():
        visits = float(factors[song]) * len(members)
        if visits:
            slots = max(1, math.ceil(visits - 1e-9))
            pools.append(Pool(tuple(members), slots, min(1.0, visits / slots)))
    return pools


@dataclass(frozen=True)
class _SlotRows:
    """Layout of places of fixed lengths, which each epoch fills with other units (implements `RowLayout`)."""

    inner: RowLayout
    lengths: Sequence[int]

    @property
    def pad_id(self) -> int:
        return self.inner.pad_id

    def measure(self, tokens: np.ndarray) -> int:
        return self.inner.measure(tokens)

    def cut(self, piece: int, tokens: np.ndarray, limit: int) -> list[Unit]:
        return [Unit(piece, 0, self.lengths[piece], 1)]

    def fill(self, tokens: np.ndarray, unit: Unit) -> RowTokens:
        return self.inner.fill(tokens, unit)


@dataclass(frozen=True)
class _DrawnRows(_SlotRows):
    """Layout of one epoch: the unit and the share of targets that were drawn for each place."""

    units: Sequence[Unit]
    shares: Sequence[float]
    key: tuple[int, int]

    def fill(self, tokens: np.ndarray, unit: Unit) -> RowTokens:
        slot = unit.piece
        # The number of the place keys what the inner layout draws, so that repetitions of a song differ.
        filled = self.inner.fill(tokens, dataclasses.replace(self.units[slot], piece=slot))
        if self.shares[slot] == 1:
            return filled
        rng = np.random.default_rng([*self.key, 17, slot])
        return RowTokens(filled.tokens, keep_some(filled.scored, self.shares[slot], rng), filled.source)


class WeighedEpochs:
    """Training batches with the same expected number of scored tokens for each song.

    A song that is shorter than the mean comes several times in an epoch; of a longer one some windows are drawn. The
    rows of an epoch are places of fixed lengths, so that every epoch has the same number of batches and the same
    shapes. What rounding to whole places gives a song too much is taken off its loss mask at random. Key, controls,
    windows and masks depend on seed and epoch only. The interface is that of `TransposedEpochs`.

    Attributes:
        tokens_per_epoch: expected scored targets in an epoch without controls, as many as without weights.
        longest_row: tokens in the longest row.
    """

    def __init__(
        self,
        keys: Sequence[Sequence[Piece]],
        tokenizer: SymbolicTokenizer,
        length: int,
        rows: int,
        seed: int,
        songs: Sequence[str | None],
        anticipation: float = 0.0,
    ) -> None:
        """Lay out the rows.

        Args:
            keys: for each piece, its versions to draw from; its own key alone to keep it.
            tokenizer: the one that made them.
            length: longest row in tokens.
            rows: rows in a batch.
            seed: key of all draws.
            songs: the song of each piece, see `make_pools`.
            anticipation: share of the rows that get controls.

        Raises:
            DataError: no piece has a target.
        """
        self._keys, self._seed, self._anticipation = keys, seed, anticipation
        self._layout = layout_of(tokenizer)
        pieces = [versions[0] for versions in keys]
        units = [unit for i, piece in enumerate(pieces) for unit in self._layout.cut(i, piece.tokens, length)]
        self.pools = make_pools(units, songs)
        if not self.pools:
            raise DataError(f"none of {len(pieces)} pieces has two tokens; there is nothing to train on or score")
        slots = [pool for pool in self.pools for _ in range(pool.slots)]
        self._lengths, self._shares = [pool.length for pool in slots], [pool.share for pool in slots]
        placeholders = [pieces[pool.units[0].piece] for pool in slots]
        self._plan = BatchPlan(placeholders, length, rows, seed, _SlotRows(self._layout, self._lengths))
        self.tokens_per_epoch: int = sum(unit.targets for unit in units)
        self.longest_row: int = self._plan.longest_row

    def batches(self, epoch: int) -> LazyBatches:
        """Return the batches of one epoch; the same for the same number."""
        rng = np.random.default_rng([self._seed, epoch, 13])
        units = [unit for pool in self.pools for unit in pool.draw(rng)]
        versions = [self._keys[unit.piece] for unit in units]
        keys = [int(rng.integers(len(found))) for found in versions]
        inner = AnticipatedRows(self._anticipation, self._seed, epoch) if self._anticipation else self._layout
        layout = _DrawnRows(inner, self._lengths, units, self._shares, (self._seed, epoch))
        return self._plan.batches(epoch, lambda slot: versions[slot][keys[slot]], layout)

    def describe(self) -> str:
        """Say in one line what each song gets."""
        weighed = [pool for pool in self.pools if pool.weighed]
        targets = max((pool.targets for pool in weighed), default=0.0)
        most = max((math.ceil(pool.slots / len(pool.units)) for pool in weighed), default=1)
        repeated = f"; the shortest comes up to {most} times" if most > 1 else ""
        return f"--weigh songs: each song gives about {targets:,.0f} scored tokens an epoch{repeated}"
