"""Program in force where a context begins, for tokens that name a program only when it changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musiclora.symbolic.decoding.grammar.automaton import GrammarInfo
from musiclora.symbolic.decoding.grammar.rules import NOTE_TYPES


def resume(info: GrammarInfo, ids: Sequence[int], start: int) -> list[int]:
    """Return the ids from a place on, with the program in force there before the first note.

    Without it, a model could not know who plays up to the next program. Tokens that name the program of each note, and
    tokens without programs, stay as they are.

    Args:
        info: grammar of the tokens.
        ids: tokens of a piece from its beginning.
        start: index of the first token that is returned.
    """
    rest = [int(i) for i in ids[start:]]
    if not start or np.array_equal(info.unprogrammed, np.arange(len(info.unprogrammed))):
        return rest
    for place, token in enumerate(rest):
        for base in info.tokens[token]:
            if base.startswith("Program_"):
                return rest
            if base.partition("_")[0] in NOTE_TYPES:
                program = _latest_program(info, ids[:start])
                return rest if program is None else [*rest[:place], program, *rest[place:]]
    return rest


def _latest_program(info: GrammarInfo, ids: Sequence[int]) -> int | None:
    """Return the id of the last program that tokens name."""
    for token in reversed(ids):
        for base in reversed(info.tokens[int(token)]):
            if base.startswith("Program_"):
                return info.tokens.index((base,))
    return None
