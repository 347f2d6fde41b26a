"""Songs of the symbolic demo: the bundled ska, or a user's own folder with the base that fits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from symusic import Score

from musiclora.bundled import BUNDLED
from musiclora.convert.errors import escape_controls
from musiclora.convert.files.outputs import check_apart
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.errors import DataError, list_names
from musiclora.evaluation.scores import LEAST_SONGS, count_pieces
from musiclora.families import check_data_exists
from musiclora.models import BaseModel, find_model
from musiclora.progress import Reporter
from musiclora.symbolic.dataset.pieces import Piece, PieceSet, from_reading, is_token_cache, load_pieces
from musiclora.symbolic.dataset.songs import Songs
from musiclora.symbolic.dataset.splits import cluster_pieces, split_pieces
from musiclora.symbolic.model import find_tokenizer
from musiclora.symbolic.reading.health import describe_skipped
from musiclora.symbolic.reading.read_folder import music_files, read_music
from musiclora.symbolic.tokens.kept import Kept, add_kept
from musiclora.symbolic.tokens.kept_lines import describe_kept
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer

MELODY_BASE, BAND_BASE = "bundled", "bundled-band"
CHOOSING, TEST = 6, 8  # bundled songs to choose the best step by, and to test with; the others are learnt
HELD_OUT_SHARE = 0.25  # of own songs: six of 24, which a verdict needs
BAND_SONGS = "thirty Northumbrian tunes arranged as ska, bundled with musiclora"
TERMS = "tunes in the public domain, transcribed by Jack Campin; arrangements Apache-2.0"
_MOST_OPENINGS = 12  # held-out songs that are read again, to choose which are continued


@dataclass(frozen=True)
class DemoSongs:
    """Songs of a symbolic demo, split, and the base that learns them.

    Attributes:
        folder: the songs' folder or file.
        base, tokenizer, n_positions: the base, its tokenizer, and the longest row that it can hold, in tokens.
        songs: songs to train on, and songs to choose the best step by.
        test: songs that are scored and continued.
        title: of the report.
        test_words: description of the test songs for the score line.
        notes: statements for the user and the report.
        is_own: True for a user's own songs.
    """

    folder: Path
    base: BaseModel
    tokenizer: SymbolicTokenizer
    n_positions: int
    songs: Songs
    test: list[Piece]
    title: str
    test_words: str
    notes: tuple[str, ...]
    is_own: bool = False

    def openings(self) -> list[tuple[str, Score]]:
        """Read the scores of test songs, by name; parsing runs in a child process.

        At most twelve are read. A file of several tunes is read once.
        """
        root = self.folder if self.folder.is_dir() else self.folder.parent
        files = {escape_controls(file.relative_to(root).as_posix()): file for file in music_files(self.folder)}
        scores: dict[Path, dict[int, Score]] = {}
        found = []
        for piece in sorted(self.test, key=lambda piece: piece.name)[:_MOST_OPENINGS]:
            file = files[piece.name.rsplit("#", 1)[0] if piece.tune else piece.name]
            if file not in scores:
                scores[file] = {song.tune: song.score for song in read_music(file, as_given=True).songs}
            name = Path(piece.name).name
            found.append((name if piece.tune else Path(name).stem, scores[file][piece.tune]))
        return found


def choose_songs(tokenizer: SymbolicTokenizer, seed: int, reporter: Reporter) -> tuple[Songs, list[Piece]]:
    """Draw bundled songs to train on, to choose the best step by, and to test with; no near-duplicates across them.

    Returns:
        The first two as Songs, and the test pieces.
    """
    with reporter.task("reading songs") as update:
        found = load_pieces(BUNDLED / "songs", tokenizer, on_progress=update)
    pieces = found.pieces
    outer = split_pieces(pieces, TEST / len(pieces), seed)
    rest = [pieces[i] for i in outer.train]
    inner = split_pieces(rest, CHOOSING / len(rest), seed)
    songs = Songs([rest[i] for i in inner.train], [rest[i] for i in inner.val], found.health, [])
    return songs, [pieces[i] for i in outer.val]


def bundled_songs_of_demo(seed: int, reporter: Reporter) -> DemoSongs:
    """Load the bundled ska songs and the bundled band base."""
    base, tokenizer, positions = _load_base(BAND_BASE)
    reporter.say(f"songs: {BAND_SONGS}")
    reporter.say(f"terms: {TERMS}")
    songs, test = choose_songs(tokenizer, seed, reporter)
    return DemoSongs(
        *(BUNDLED / "songs", base, tokenizer, positions, songs, test),
        title="A folk band learns ska",
        test_words="neither learnt nor chosen by",
        notes=(f"Songs: {BAND_SONGS}. Terms: {TERMS}.",),
    )


def own_songs(data_dir: Path, output_dir: Path, seed: int, reporter: Reporter) -> DemoSongs:
    """Read a user's songs, choose the base by what they hold, and hold out a fourth in whole clusters.

    Args:
        data_dir: folder of songs, or one file.
        output_dir: the demo's folder.
        seed: of the split.
        reporter: told the base, the reason, the held-out songs and what was skipped.

    Raises:
        ConfigError: no such folder, or one inside the other.
        DataError: no usable song, fewer than two different ones, or a token cache.
    """
    check_data_exists(data_dir)
    check_apart(output_dir, {"DATA_DIR": data_dir})
    if is_token_cache(data_dir):
        raise DataError(f"{data_dir}: a token cache, and the demo plays songs; give the folder of the songs themselves")
    (base, tokenizer, positions), found, reason = _fit_base(data_dir, reporter)
    if found.songs < 2 or len(set(cluster_pieces(found.pieces))) < 2:
        raise DataError(
            f"{data_dir}: {count_pieces(found.songs)}, no two of them different; a demo needs at least two different "
            "songs, of which one is held out to compare with: add songs"
        )
    split = split_pieces(found.pieces, HELD_OUT_SHARE, seed)
    train, test = ([found.pieces[i] for i in part] for part in (split.train, split.val))
    songs = Songs(train, test, found.health, list(split.notes), found.kept)
    notes = (f"Base: {base.name}, since {reason}", *_describe_split(songs, test))
    health = (*found.remarks, *describe_skipped(found.health), *describe_kept(found.kept, tokenizer.holds))
    for line in (*notes, *split.notes, *health):
        reporter.say(line[0].lower() + line[1:])
    return DemoSongs(
        *(data_dir, base, tokenizer, positions, songs, test),
        title=f"{base.name} learns {data_dir.resolve().name}",
        test_words="held out, by which the best step was chosen too",
        notes=notes,
        is_own=True,
    )


def _load_base(name: str) -> tuple[BaseModel, SymbolicTokenizer, int]:
    base = find_model(name)
    shape = read_checkpoint(base.path).config
    return base, find_tokenizer(base, shape.vocab_size, None), shape.n_positions


def _fit_base(data_dir: Path, reporter: Reporter) -> tuple[tuple[BaseModel, SymbolicTokenizer, int], PieceSet, str]:
    """Load the base for melodies or for bands, and the songs in its tokens; also return the reason."""
    melody = _load_base(MELODY_BASE)
    with reporter.task("reading songs") as update:
        reading = read_music(data_dir, tokenizer=melody[1], keep_scores=False, on_progress=update)
    reason = describe_band(add_kept(row.kept for row in reading.health if row.status != "skipped"))
    if not reason:
        return melody, from_reading(reading), "every song has one part, without drums"
    band = _load_base(BAND_BASE)
    with reporter.task("tokenising songs") as update:
        return band, load_pieces(data_dir, band[1], on_progress=update), reason


def describe_band(kept: Kept) -> str:
    """Say what in songs needs a base for bands; empty for single melodies.

    Args:
        kept: counts by tokens that hold neither drums nor instruments.
    """
    parts = []
    if kept.drums:
        parts.append(f"{kept.drums:,} drum notes")
    if kept.tracks > kept.songs:
        parts.append(f"{kept.tracks} parts in {count_pieces(kept.songs)}")
    return f"the songs have {' and '.join(parts)}" if parts else ""


def _describe_split(songs: Songs, test: Sequence[Piece]) -> tuple[str, ...]:
    """State what the split can show."""
    held = count_pieces(len(test))
    them = "it" if len(test) == 1 else "them"
    names = list_names([piece.name for piece in test], 8)
    lines = [
        f"Held out: {len(test)} of {count_pieces(len(songs.train) + len(test))} ({names}); the best step is chosen by "
        f"{them} as well"
    ]
    if len(test) < LEAST_SONGS:
        need = round(LEAST_SONGS / HELD_OUT_SHARE)
        lines.append(f"Too few songs for a verdict: a gain on {held} may be chance; {need} songs or more are needed")
    return tuple(lines)
