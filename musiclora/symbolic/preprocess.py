"""Symbolic part of `musiclora preprocess`: tokenises a folder of music into a token cache."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from musiclora.convert.files.outputs import check_folder
from musiclora.progress import Reporter
from musiclora.symbolic.dataset.pieces import PieceSet, load_pieces, refuse_foreign_folder, write_token_cache
from musiclora.symbolic.model import tokenizer_for
from musiclora.symbolic.tokens.kept_lines import describe_kept
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer


@dataclasses.dataclass(frozen=True)
class TokensResult:
    """Token cache that `preprocess` wrote, and its pieces."""

    folder: Path
    pieces: PieceSet
    tokenizer: SymbolicTokenizer

    def record(self) -> dict[str, Any]:
        """Build the object for `--json`."""
        from musiclora.symbolic.reading.health import health_json

        p = self.pieces
        tokens = sum(len(piece.tokens) for piece in p.pieces)
        return {
            "pieces": len(p.pieces),
            "songs": p.songs,
            "notes": p.notes,
            "tokens": tokens,
            "tokenizer": self.tokenizer.kind,
            "kept_by_tokens": p.kept.as_json(),
            "health": health_json(p.health),
        }

    def lines(self) -> list[str]:
        """Format the counts and the health table as text."""
        from musiclora.symbolic.reading.health import health_line

        p = self.pieces
        counts = f"{len(p.pieces)} pieces of {p.songs} songs in {self.folder}: {health_line(p.health)}"
        return [counts, *describe_kept(p.kept, self.tokenizer.holds)]

    def notes(self) -> list[str]:
        """List the skipped files and other remarks for the user."""
        from musiclora.symbolic.reading.health import describe_skipped

        return [*self.pieces.remarks, *describe_skipped(self.pieces.health)]


def preprocess_songs(
    data_dir: Path,
    output_dir: Path,
    model: str,
    reporter: Reporter,
    *,
    backend: str = "auto",
    seed: int = 42,
    tokenizer: str | None = None,
    num_workers: int | None = None,
) -> TokensResult:
    """Tokenise a folder of music into a token cache.

    Args:
        data_dir: folder of music, or one file.
        output_dir: token cache; appears whole or not at all.
        model: base whose tokenizer is used.
        reporter: shows progress.
        backend: not used, since nothing is computed; the audio family needs it.
        seed: not used, since nothing is random; the audio family needs it.
        tokenizer: overrides the model's own.
        num_workers: child processes; None: one for each core, at most eight.

    Raises:
        DataError: the folder holds no usable song.
        OutputError: output_dir holds other files than a token cache, or cannot be written.
    """
    check_folder(output_dir)
    refuse_foreign_folder(output_dir)  # before the songs are read, which may take minutes
    chosen = tokenizer_for(model, tokenizer)
    with reporter.task("tokenising") as update:
        pieces = load_pieces(data_dir, chosen, workers=num_workers, on_progress=update)
        write_token_cache(output_dir, pieces, chosen)
    return TokensResult(output_dir, pieces, chosen)
