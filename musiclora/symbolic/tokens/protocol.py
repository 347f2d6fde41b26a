"""Interface of the symbolic family's tokenizers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from musiclora.symbolic.tokens.holds import Holds

if TYPE_CHECKING:
    from symusic import Score

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class NoteSpans:
    """Tokens of each note in one sequence of ids.

    Attributes:
        start: index of the note's first token, int64 [n].
        stop: index after its last token, int64 [n].
        program: MIDI program, -1 for drums, 0 where the tokens have no programs, int64 [n].
    """

    start: np.ndarray
    stop: np.ndarray
    program: np.ndarray


class SymbolicTokenizer(Protocol):
    """Tokenizer that encodes a score as one sequence of ids and decodes it.

    Attributes:
        kind: name of the tokenization, such as `REMI` or `ArrivalTime`.
        vocab_size: number of ids.
        pad_id: id of the padding token.
        inferred: True where the tokenizer was chosen by facts of the checkpoint, without a tokenizer file.
    """

    kind: str
    vocab_size: int
    pad_id: int
    inferred: bool

    @property
    def holds(self) -> Holds:
        """Return facts of music that the tokens can hold."""

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of vocabulary and settings, in hexadecimal."""

    def hold(self, score: Score) -> Score:
        """Reduce a score in ticks to what the tokens hold of it, without changing it."""

    def encode_held(self, held: Score) -> np.ndarray:
        """Encode what `hold` returned, int32 [n]."""

    def encode(self, score: Score) -> np.ndarray:
        """Encode a score in ticks, int32 [n], without tokens that open, close or pad a row."""

    def decode(self, ids: np.ndarray) -> Score:
        """Decode ids [n] to a score in ticks."""

    def note_count(self, ids: np.ndarray) -> int:
        """Count the notes that ids [n] decode to."""

    def note_spans(self, ids: np.ndarray) -> NoteSpans:
        """Find the tokens of each note in ids [n]."""

    def to_json(self) -> str:
        """Return the content of tokenizer.json."""

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into the folder."""
