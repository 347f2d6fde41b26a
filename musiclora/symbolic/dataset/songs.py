"""Songs of a training run: split, mixed with others, and described for the user."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from musiclora.errors import list_names
from musiclora.progress import Reporter
from musiclora.symbolic.dataset.pieces import Piece, PieceSet, load_pieces
from musiclora.symbolic.dataset.row_layouts import layout_of
from musiclora.symbolic.dataset.splits import near_duplicates, split_pieces
from musiclora.symbolic.reading.health import HealthRow, describe_skipped
from musiclora.symbolic.tokens.band_bases import name_band_bases
from musiclora.symbolic.tokens.kept import Kept
from musiclora.symbolic.tokens.kept_lines import describe_kept
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer
from musiclora.training.config import TrainConfig
from musiclora.training.fold_summary import note_nothing_held_out
from musiclora.training.subsets import keep_share


@dataclass(frozen=True)
class Songs:
    """Tokenised songs, split; held-out songs have no relative among the training songs.

    Attributes:
        train, held_out: pieces.
        health: one row a file or tune.
        notes: remarks for the user.
        kept: what the tokens keep and lose of the songs, without those of --mix-dir.
        mixed: number of pieces of --mix-dir, the last ones of `train`.
    """

    train: list[Piece]
    held_out: list[Piece]
    health: Sequence[HealthRow]
    notes: list[str]
    kept: Kept = field(default_factory=Kept)
    mixed: int = 0

    @property
    def song_names(self) -> list[str | None]:
        """Name of the song that each training piece is, or is a copy of; None for pieces of --mix-dir."""
        own = len(self.train) - self.mixed
        return [piece.group if i < own else None for i, piece in enumerate(self.train)]

    @property
    def fingerprint(self) -> str:
        """Hash of all names and tokens, so that a resumed run notices a change."""
        digest = hashlib.sha256()
        for part in (self.train, self.held_out):
            for piece in part:
                digest.update(piece.name.encode() + b"\0" + np.ascontiguousarray(piece.tokens, np.int32).tobytes())
            digest.update(b"|")
        return digest.hexdigest()


def read_songs(config: TrainConfig, tokenizer: SymbolicTokenizer, n_positions: int, reporter: Reporter) -> Songs:
    """Read, split and mix the songs of a run, and say what becomes of them.

    Args:
        config: the options.
        tokenizer: of the base.
        n_positions: longest row that the base can hold, in tokens.
        reporter: told how far the reading is.

    Raises:
        DataError: no usable song, or too few to hold one out.
    """
    with reporter.task("reading songs") as update:
        found = load_pieces(Path(config.data_dir), tokenizer, workers=config.num_workers, on_progress=update)
        songs = split_songs(found, config)
        remarks = [*found.remarks, *describe_skipped(found.health), *describe_kept(found.kept, tokenizer.holds)]
        remarks += name_band_bases(found.kept, tokenizer.holds)
        if config.mix_dir:
            extra = load_pieces(Path(config.mix_dir), tokenizer, workers=config.num_workers, on_progress=update)
            songs = mix_in(songs, extra.pieces, config, tokenizer)
            remarks += [f"--mix-dir: {line}" for line in describe_skipped(extra.health)]
    if songs.held_out:
        names = list_names([piece.name for piece in songs.held_out], 8)
        remarks = [f"held out: {names}", *remarks]
    length = min(config.max_seq_len, n_positions)
    remarks += describe_windows([*songs.train, *songs.held_out], tokenizer, length, n_positions)
    return dataclasses.replace(songs, notes=[*songs.notes, *remarks])


def split_songs(pieces: PieceSet, config: TrainConfig) -> Songs:
    """Split pieces by song and near-duplicate cluster; with val_split 0 train on all songs."""
    if config.val_split == 0 and config.held_fold is None:
        return Songs(list(pieces.pieces), [], pieces.health, note_nothing_held_out(config, "songs"), pieces.kept)
    found = pieces.pieces
    parts = split_pieces(found, config.val_split, config.seed, config.held_fold)
    kept = parts.train
    if config.kept_share is not None:
        first = {parts.clusters[i]: found[i].group for i in reversed(kept)}  # names each cluster
        chosen = keep_share(list(first.values()), *config.kept_share)
        kept = [i for i in kept if first[parts.clusters[i]] in chosen]
    train, held_out = ([found[i] for i in part] for part in (kept, parts.val))
    return Songs(train, held_out, pieces.health, list(parts.notes), pieces.kept)


def mix_in(songs: Songs, extra: Sequence[Piece], config: TrainConfig, tokenizer: SymbolicTokenizer) -> Songs:
    """Add music of --mix-dir to the training songs, without near duplicates of held-out songs."""
    related = {i for i, _ in near_duplicates(extra, against=songs.held_out)} if songs.held_out else set()
    unrelated = [piece for i, piece in enumerate(extra) if i not in related]
    notes = list(songs.notes)
    if related:
        notes.append(f"{len(related)} pieces of --mix-dir are left out: near duplicates of held-out songs")
    train = mix_pieces(songs.train, unrelated, config.mix_ratio, config.seed, tokenizer)
    added = len(train) - len(songs.train)
    share = 1 - _count_tokens(songs.train) / max(1, _count_tokens(train))
    rest = "; it holds no more" if added == len(unrelated) and share < config.mix_ratio - 0.005 else ""
    notes.append(f"--mix-dir adds {added} of {len(extra)} pieces, {share:.0%} of the training tokens{rest}")
    return dataclasses.replace(songs, train=train, notes=notes, mixed=added)


def mix_pieces(
    train: Sequence[Piece], extra: Sequence[Piece], ratio: float, seed: int, tokenizer: SymbolicTokenizer
) -> list[Piece]:
    """Add pieces of another folder, in random order, so that they hold `ratio` of all training tokens.

    Pieces that would exceed the share are passed over. The first of them fills what is then missing: it is cut at a
    bar line, or added as a whole where its tokens have no bars and it brings the share nearer.
    """
    missing = _count_tokens(train) * ratio / (1 - ratio)
    taken: list[Piece] = []
    passed: list[Piece] = []
    for index in np.random.default_rng([seed, 1]).permutation(len(extra)):
        piece = extra[index]
        (taken if len(piece.tokens) <= missing else passed).append(piece)
        missing -= len(piece.tokens) if len(piece.tokens) <= missing else 0
    if passed and (filling := _cut_piece(passed[0], int(missing), tokenizer)):
        taken.append(filling)
    return [*train, *taken]


def _cut_piece(piece: Piece, tokens: int, tokenizer: SymbolicTokenizer) -> Piece | None:
    """Cut a piece at the last bar line within a number of tokens; None where nothing sensible is left.

    Arrival-time tokens have no bar lines and are cut after any note.
    """
    if not isinstance(tokenizer, MusicTokenizer):
        ends = tokenizer.note_spans(piece.tokens).stop
        notes = int((ends <= tokens).sum())
        return dataclasses.replace(piece, tokens=piece.tokens[: ends[notes - 1]], notes=notes) if notes else None
    if tokenizer.inner.is_trained or not tokenizer.bar_ids:
        return piece if len(piece.tokens) < 2 * tokens else None
    lines = np.flatnonzero(np.isin(piece.tokens[: tokens + 1], tokenizer.bar_ids))
    if not len(lines) or not lines[-1]:
        return None
    kept = piece.tokens[: lines[-1]]
    notes = tokenizer.note_count(kept)
    return dataclasses.replace(piece, tokens=kept, notes=notes) if notes else None


def _count_tokens(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.tokens) for piece in pieces)


def describe_windows(pieces: Sequence[Piece], tokenizer: SymbolicTokenizer, length: int, n_positions: int) -> list[str]:
    """Say how many pieces are longer than a row, and if longer rows are possible; empty where all fit.

    Args:
        pieces: tokenised songs.
        tokenizer: theirs.
        length: longest row in tokens.
        n_positions: longest row that the base can hold.
    """
    layout = layout_of(tokenizer)
    sizes = [layout.measure(piece.tokens) for piece in pieces]
    long = sum(len(layout.cut(0, piece.tokens, length)) > 1 for piece in pieces)
    if not long:
        return []
    more = f"up to --max-seq-len {n_positions} is possible" if n_positions > length else "the base holds no more"
    limit = f"{length:,} tokens" + ("" if isinstance(tokenizer, MusicTokenizer) else " or 100 s")
    return [
        f"{long} of {len(pieces)} pieces are longer than {limit} (the longest {max(sizes):,}) and are cut "
        f"into overlapping windows, whose first notes lack what came before; {more}"
    ]


def one_of_each_song(pieces: Sequence[Piece]) -> list[Piece]:
    """List one piece a song: of a song and its augmented copies the first original."""
    first: dict[str, Piece] = {}
    for piece in sorted(pieces, key=lambda piece: not piece.is_original):
        first.setdefault(piece.group, piece)
    return list(first.values())
