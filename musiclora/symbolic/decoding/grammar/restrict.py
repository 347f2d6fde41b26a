"""Restriction of a grammar to some instruments."""

from __future__ import annotations

import dataclasses

import numpy as np

from musiclora.errors import ConfigError, list_names
from musiclora.music.instruments import instrument_name
from musiclora.symbolic.decoding.grammar.automaton import GrammarInfo
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer

_PROGRAM_TYPES = ("Program", "Pedal", "PedalOff")  # of the tokens whose value is a program
_ABLE = "--model bundled-band or stanford-crfm/music-small-800k can choose"


def restrict_programs(info: GrammarInfo, tokenizer: MusicTokenizer, programs: frozenset[int]) -> GrammarInfo:
    """Forbid the programs of all other instruments, so that only these sound in what is drawn.

    A prompt may hold other instruments. Where tokens name a program only when it changes, the first new note names its
    own.

    Args:
        info: grammar of the tokenizer.
        tokenizer: tokenizer of the model.
        programs: MIDI programs, -1 for drums.

    Raises:
        ConfigError: the tokens have no programs, or not all of these.
    """
    held = tokenizer.holds.programs
    if not held:
        raise ConfigError(
            f"--instruments: this model's {tokenizer.kind} tokens hold one piano and no other instrument; {_ABLE}"
        )
    if missing := sorted(programs - held):
        names = list_names([instrument_name(program) for program in missing], 5)
        raise ConfigError(
            f"--instruments: this model's tokens do not hold {names}; they hold {_describe(held)}; {_ABLE} others"
        )
    if not programs:
        raise ConfigError("--instruments: names no instrument; give for example piano,bass,drums")
    others = {f"{kind}_{program}" for kind in _PROGRAM_TYPES for program in held - programs}
    barred = np.array([not others.isdisjoint(sequence) for sequence in info.tokens], bool)
    return dataclasses.replace(info, barred=info.barred | barred, unsounded=info.unprogrammed[info.unsounded])


def _describe(programs: frozenset[int]) -> str:
    if len(programs) == 1:
        return instrument_name(min(programs))
    return list_names([instrument_name(program) for program in sorted(programs)], 6)
