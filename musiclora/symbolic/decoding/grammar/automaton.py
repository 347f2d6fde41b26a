"""Grammars of token sequences: finite automata over MidiTok vocabularies, so that every sampled piece decodes.

A state is (kind of the last token, bar length, position in the bar, whether a note has sounded). For REMI and PerTok
the states count positions, so that time never runs backwards. Any other tokenizer with one vocabulary gets MidiTok's
graph of token types.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from musiclora.backends.base import ClosedKeys, Grammar
from musiclora.errors import DataError
from musiclora.sampling import OpenKeys
from musiclora.symbolic.decoding.grammar.onset_keys import onset_keys, pad_tokens
from musiclora.symbolic.decoding.grammar.programs import drop_drum_durations, follow_programs
from musiclora.symbolic.decoding.grammar.rules import NOTE_TYPES, STAY, PositionMove, Rules, is_special, rules_for
from musiclora.symbolic.tokens.holds import DRUMS
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer

if TYPE_CHECKING:
    from miditok import MusicTokenizer as MidiTokTokenizer


@dataclass(frozen=True)
class GrammarInfo:
    """Automaton of one tokenizer, and the base tokens of its ids.

    Attributes:
        classes: int32 [V], class of each token.
        transitions: int32 [S, C], next state or -1.
        start: state before the first token.
        whole: bool [S], True where no note is half written, so that a piece may be cut there.
        unsounded: int32 [S], the state with the same position before any note has sounded; EOS is forbidden there.
        unprogrammed: int32 [S], the state with the same position before any program was chosen; the same state where
            every note names its program, or there are none.
        tokens: base tokens of each id (one, or several after BPE training).
        opens_bar: bool [V], True for ids whose first base token begins a bar.
        pad_id: padding token, or 0 where the vocabulary has none.
        bos_id, eos_id: None where the vocabulary has none.
        note: remark on what the automaton cannot guarantee, or an empty text.
        repair: correction of base tokens that the automaton cannot express.
        line_counter: counts the bar lines that base tokens pass; None where each has a Bar token.
        keys: notes of an onset, of which none may sound twice.
        barred: bool [V], ids that are never drawn, though a prompt may hold them.
    """

    classes: np.ndarray
    transitions: np.ndarray
    start: int
    whole: np.ndarray
    unsounded: np.ndarray
    unprogrammed: np.ndarray
    tokens: list[tuple[str, ...]]
    opens_bar: np.ndarray
    pad_id: int
    bos_id: int | None
    eos_id: int | None
    keys: ClosedKeys
    barred: np.ndarray
    note: str = ""
    repair: Callable[[list[str]], list[str]] = list
    line_counter: Callable[[list[str]], int] | None = None

    def at(
        self, states: Sequence[int] | np.ndarray, vocab_size: int, onsets: Sequence[OpenKeys] | None = None
    ) -> Grammar:
        """Build the backends' Grammar, with one state for each row; surplus ids of the model are forbidden.

        Args:
            states: state of each row.
            vocab_size: ids of the model.
            onsets: notes that already sound in each row; None stands for none.
        """
        surplus = max(0, vocab_size - len(self.classes))
        (classes, transitions), keys = self._tables(surplus), self.keys
        if surplus:
            keys = pad_tokens(keys, surplus)
        if onsets is not None:
            offset = np.array([onset.offset for onset in onsets], np.int32)
            keys = dataclasses.replace(keys, open=np.stack([onset.open for onset in onsets]), offset=offset)
        return Grammar(classes, transitions, np.asarray(states, np.int32), keys)

    def _tables(self, surplus: int) -> tuple[np.ndarray, np.ndarray]:
        """Return classes and transitions in which surplus and barred ids are forbidden; the same objects every time."""
        if not surplus and not self.barred.any():
            return self.classes, self.transitions
        if surplus not in self._made_tables:
            classes = np.append(self.classes, np.zeros(surplus, np.int32))
            classes[np.append(self.barred, np.ones(surplus, bool))] = self.transitions.shape[1]
            transitions = np.pad(self.transitions, ((0, 0), (0, 1)), constant_values=-1)
            self._made_tables[surplus] = classes, transitions
        return self._made_tables[surplus]

    @functools.cached_property
    def _made_tables(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {}

    def step(self, state: int, token: int) -> int:
        """Return the state after one token, barred or not.

        Special tokens change nothing. A token that the state forbids leads to the first state it reaches elsewhere.
        """
        column = self.transitions[:, self.classes[token]]
        if column[state] >= 0:
            return int(column[state])
        reached = column[column >= 0]
        return int(reached[0]) if len(reached) and token != self.eos_id else state

    def state_after(self, ids: Iterable[int]) -> int:
        """Return the state after a sequence that begins a piece, or begins on a bar line."""
        state = self.start
        for token in ids:
            state = self.step(state, int(token))
        return state

    def allowed(self, state: int) -> np.ndarray:
        """Return the tokens that may come next, bool [V]."""
        return np.asarray((self.transitions[state, self.classes] >= 0) & ~self.barred)

    def opens_with_bar(self) -> bool:
        """Return True where the first bar has a token, unless a piece begins with a rest."""
        rests = np.array([bool(sequence) and sequence[0].startswith("Rest_") for sequence in self.tokens])
        return bool(self.opens_bar[self.allowed(self.start) & ~rests].all())

    def count_lines(self, ids: Iterable[int]) -> int:
        """Count the bar lines that a piece passes after its beginning."""
        base = [token for i in ids for token in self.tokens[int(i)] if not is_special(token)]
        if self.line_counter is not None:
            return self.line_counter(base)
        opened = sum(token.startswith("Bar_") and token != "Bar_End" for token in base)
        return opened - self.opens_with_bar()

    def base_tokens(self, ids: Iterable[int]) -> list[str]:
        """Expand ids to base tokens ready to decode, without special tokens and with repaired times."""
        return self.repair([token for i in ids for token in self.tokens[int(i)] if not is_special(token)])


def grammar_for(tokenizer: MusicTokenizer | MidiTokTokenizer) -> GrammarInfo:
    """Build the automaton of a tokenizer.

    Raises:
        DataError: the tokenizer has several vocabularies, which a GPT-2 cannot read.
    """
    inner = tokenizer.inner if isinstance(tokenizer, MusicTokenizer) else tokenizer
    if inner.is_multi_voc:
        raise DataError(f"tokenizer {type(inner).__name__} has several vocabularies; use one with a single vocabulary")
    names = {i: token for token, i in inner.vocab.items()}
    rules = rules_for(inner, list(names.values()))
    if inner.one_token_stream:
        if inner.config.using_note_duration_tokens and DRUMS not in inner.config.use_note_duration_programs:
            rules = drop_drum_durations(rules)
        rules = follow_programs(rules, list(names.values()))
    tokens = expand_ids(inner)
    base_classes, transitions, whole, twins, start = _build_automaton(rules, list(names.values()))
    classes, transitions = _compose_classes(tokens, base_classes, transitions)
    ids = {token: i for i, token in names.items()}
    return GrammarInfo(
        classes=classes,
        transitions=transitions,
        start=start,
        whole=whole,
        unsounded=twins[0],
        unprogrammed=twins[1],
        tokens=tokens,
        opens_bar=np.array([bool(t) and t[0].startswith("Bar_") and t[0] != "Bar_End" for t in tokens]),
        pad_id=ids.get("PAD_None", 0),
        bos_id=ids.get("BOS_None"),
        eos_id=ids.get("EOS_None"),
        keys=onset_keys(tokens),
        barred=np.zeros(len(tokens), bool),
        note=rules.note,
        repair=rules.repair,
        line_counter=rules.count_lines,
    )


def expand_ids(tokenizer: MidiTokTokenizer) -> list[tuple[str, ...]]:
    """List the base tokens of each id, in the order of ids; unused ids get an empty tuple."""
    names = {i: token for token, i in tokenizer.vocab.items()}
    if not tokenizer.is_trained:
        return [(names[i],) if i in names else () for i in range(max(names) + 1)]
    learned = tokenizer._vocab_learned_bytes_to_tokens
    by_id = {i: tuple(learned[key]) for key, i in tokenizer.vocab_model.items()}
    return [by_id.get(i, ()) for i in range(max(by_id) + 1)]


def _build_automaton(rules: Rules, tokens: list[str]) -> tuple[dict[str, int], np.ndarray, np.ndarray, np.ndarray, int]:
    """Compile rules into a minimal automaton.

    Returns:
        class of each base token, transitions int32 [S, C], whole bool [S], unsounded and unprogrammed int32 [2, S],
        start state.
    """
    kinds = ["start", *sorted(rules.successors.keys() - {"start"})]
    number = {kind: i for i, kind in enumerate(kinds)}
    shape = (len(kinds), len(rules.limits), max(rules.limits) - rules.origin, 2)
    kind, limit, position, sounded = (axis.ravel() for axis in np.indices(shape))
    limits = np.array(rules.limits)[limit]
    position = position + rules.origin
    end = len(kind)
    class_of: dict[str, int] = {}
    classes: dict[tuple[str, PositionMove], int] = {}
    columns: list[np.ndarray] = []
    for token in tokens:
        name = rules.types.get(token) or token.split("_")[0]
        move = rules.moves.get(token, STAY)
        if (name, move) not in classes:
            classes[name, move] = len(columns)
            follow = np.array([number.get(rules.successors[k].get(name, ""), -1) for k in kinds])[kind]
            place, size, fits = _move_positions(move, position, limit, limits, rules.origin)
            sounds = np.maximum(sounded, name in NOTE_TYPES)
            flat = ((follow * shape[1] + size) * shape[2] + (place - rules.origin)) * 2 + sounds
            columns.append(np.append(np.where(fits & (follow >= 0), flat, -1), -1))
        class_of[token] = classes[name, move]
    whole = np.append(np.isin(kind, [number[k] for k in rules.ends if k in number]), True)
    if "EOS_None" in class_of:
        columns[class_of["EOS_None"]] = np.append(np.where(whole[:-1] & (sounded == 1), end, -1), end)
    plain = np.array([number[rules.unprogrammed.get(k, k)] for k in kinds])[kind]
    unprogrammed = np.ravel_multi_index((plain, limit, position - rules.origin, sounded), shape)
    twins = np.append([np.arange(end) - sounded, unprogrammed], [[end], [end]], axis=1)
    start = int(np.ravel_multi_index((0, rules.start_limit, 0, 0), shape))
    table = np.stack(columns, 1)
    labels, kept = _merge_states(table, whole, _find_reachable(table, twins, start))
    table = np.where(table[kept] >= 0, labels[table[kept]], -1)
    return class_of, table.astype(np.int32), whole[kept], labels[twins[:, kept]].astype(np.int32), int(labels[start])


def _find_reachable(table: np.ndarray, twins: np.ndarray, start: int) -> np.ndarray:
    """List the states that can be reached from start, and their twins (int [2, S])."""
    reached = np.zeros(len(table), bool)
    front = np.array([start])
    while len(front):
        reached[front] = True
        following = np.unique(np.append(table[front], twins[:, front].T, axis=1))
        front = following[(following >= 0) & ~reached[following]]
    return np.flatnonzero(reached)


def _move_positions(
    move: PositionMove, position: np.ndarray, limit: np.ndarray, limits: np.ndarray, origin: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Apply a move to every state: position, limit index, and True where the move fits."""
    op, value = move
    if op == "bar":
        return np.full_like(position, origin), limit, np.ones(len(limit), bool)
    if op == "limit":
        return position, np.full_like(limit, value), np.ones(len(limit), bool)
    if op == "to":
        return np.full_like(position, value), limit, (position < value) & (value < limits)
    if op == "by":
        return position + value, limit, (value > 0) & (position + value < limits)
    return position, limit, position < limits


def _merge_states(table: np.ndarray, whole: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge states that no continuation distinguishes (Moore 1956).

    Returns:
        label of each state (-1 where it is unreachable), and one state of each label.
    """
    labels = np.full(len(table), -1, np.int32)
    following = table[states]
    rows = np.append(following >= 0, whole[states, None], axis=1)
    count = 0
    while True:
        labels[states], kept = _number_rows(rows)
        if len(kept) == count:
            return labels, states[kept]
        count = len(kept)
        rows = np.append(np.where(following >= 0, labels[following], -1), labels[states, None], axis=1)


def _number_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give equal rows of a table [N, C] the same number.

    `np.unique` with an axis would sort whole rows, which takes several times as long for a band's tokenizer.

    Returns:
        the number of each row, int64 [N], and the first row of each number, int64 [K].
    """
    numbers: dict[bytes, int] = {}
    numbered = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in np.ascontiguousarray(rows)])
    return numbered, np.unique(numbered, return_index=True)[1]


def _compose_classes(
    tokens: list[tuple[str, ...]], class_of: Mapping[str, int], table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compose the transitions of each id's base tokens; ids with equal transitions share a class."""
    forbidden = np.full(len(table), -1, np.int32)
    found: dict[bytes, int] = {}
    columns: list[np.ndarray] = []
    classes = np.empty(len(tokens), np.int32)
    for i, sequence in enumerate(tokens):
        column = np.arange(len(table), dtype=np.int32) if sequence else forbidden
        for token in sequence:
            column = np.where(column >= 0, table[column, class_of[token]], np.int32(-1))
        key = column.tobytes()
        if key not in found:
            found[key] = len(columns)
            columns.append(column)
        classes[i] = found[key]
    return classes, np.stack(columns, axis=1)
