"""Version of the tokens inside a token cache, and a remark on caches of an earlier one."""

from __future__ import annotations

from pathlib import Path

from musiclora.symbolic.tokens.protocol import SymbolicTokenizer
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer

# The first kept near-unisons twice, where MidiTok does not merge them, and wrote notes of one onset in the order of
# their unrounded times.
ENCODING = 2


def remark_on_encoding(folder: Path, encoding: int, tokenizer: SymbolicTokenizer | None) -> tuple[str, ...]:
    """Tell of tokens that this version would write otherwise; training and scoring can use them as they are."""
    if encoding >= ENCODING or not isinstance(tokenizer, MusicTokenizer):
        return ()
    if tokenizer.inner.config.remove_duplicated_notes:
        return ()
    return (
        f"{folder}: a token cache by an earlier version, in which near-unisons are written twice; "
        "preprocess writes it anew without them",
    )
