"""Choice of a tokenizer's row layout."""

from __future__ import annotations

from musiclora.symbolic.dataset.arrival_rows import ArrivalRows
from musiclora.symbolic.dataset.layout import RowLayout
from musiclora.symbolic.dataset.wrapped_rows import WrappedRows
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer


def layout_of(tokenizer: SymbolicTokenizer) -> RowLayout:
    """Return the layout of the rows that a tokenizer's models are trained on."""
    if isinstance(tokenizer, MusicTokenizer):
        return WrappedRows(tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    return ArrivalRows()
