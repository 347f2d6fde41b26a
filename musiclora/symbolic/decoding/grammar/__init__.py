"""Grammars of MidiTok's tokens, so that every sampled piece decodes."""

from musiclora.symbolic.decoding.grammar.automaton import GrammarInfo, expand_ids, grammar_for

__all__ = ["GrammarInfo", "expand_ids", "grammar_for"]
