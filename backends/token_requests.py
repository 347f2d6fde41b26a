"""Requests for generated tokens: validation of the arguments, and collection of the result (numpy)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from musiclora.backends.base import ClosedKeys, Grammar, SamplingSpec
from musiclora.convert.errors import ConfigError, DataError, join_problems

CHECK_EVERY_TOKENS = 16  # between two transfers of tokens and flags from the device
_KEY_TABLES = ("keys", "shifted", "opens", "offsets", "first", "last")  # of `ClosedKeys`, [V] each


def check_request(
    prompts: np.ndarray, spec: SamplingSpec, uniforms: np.ndarray, *, vocab_size: int, n_positions: int
) -> None:
    """Refuse arguments that would fail on the device, where an error may surface late.

    Args:
        prompts: int [B, n].
        spec: sampling settings; its pad_id must be a token.
        uniforms: float [steps, B].
        vocab_size: number of the model's tokens.
        n_positions: longest sequence of the model.

    Raises:
        DataError: shapes, lengths or ids that do not fit the model; all at once.
    """
    if prompts.ndim != 2 or uniforms.ndim != 2 or not prompts.size:
        raise DataError(f"generate needs prompts [B, n] and uniforms [steps, B]; got {prompts.shape}, {uniforms.shape}")
    (batch, length), (steps, draws) = prompts.shape, uniforms.shape
    problems = []
    if draws != batch:
        problems.append(f"uniforms have {draws} columns, prompts {batch} rows")
    if length + steps > n_positions:
        problems.append(f"{length} tokens and {steps} new ones exceed the model's {n_positions} positions")
    if not 0 <= prompts.min() <= prompts.max() < vocab_size:
        problems.append(f"ids go from {prompts.min()} to {prompts.max()}; allowed are 0 to {vocab_size - 1}")
    if not 0 <= spec.pad_id < vocab_size:
        problems.append(f"pad_id is {spec.pad_id}; allowed are 0 to {vocab_size - 1}")
    if problems:
        raise DataError(f"generate: {join_problems(problems)}")


def have_same_tables(left: Grammar, right: Grammar) -> bool:
    """Tell whether two grammars differ in the state of their rows only, by the identity of their tables."""
    same = left.classes is right.classes and left.transitions is right.transitions
    return same and have_same_keys(left.closed_keys, right.closed_keys)


def have_same_keys(left: ClosedKeys | None, right: ClosedKeys | None) -> bool:
    """Tell whether two rules of closed keys differ in the state of their rows only, by the identity of their tables."""
    if left is None or right is None:
        return left is right
    numbers = (left.limit, np.shape(left.open)[-1]) == (right.limit, np.shape(right.open)[-1])
    return numbers and all(getattr(left, name) is getattr(right, name) for name in _KEY_TABLES)


def check_grammar(grammar: Grammar, batch: int, vocab_size: int, known: Grammar | None = None) -> None:
    """Compare an automaton with the vocabulary and the batch.

    Args:
        grammar: the automaton.
        batch: number of rows.
        vocab_size: number of the model's tokens.
        known: a grammar that was checked before; tables that are the same objects are not checked again.

    Raises:
        ConfigError: tables that do not fit, or a state without an allowed token.
    """
    again = known is not None and have_same_tables(grammar, known)
    classes, transitions, start = (np.asarray(t) for t in (grammar.classes, grammar.transitions, grammar.start))
    if classes.shape != (vocab_size,):
        raise ConfigError(f"the grammar knows {classes.size} tokens, the model has {vocab_size}")
    states, columns = transitions.shape
    if not again and (not 0 <= classes.min() <= classes.max() < columns or transitions.max() >= states):
        raise ConfigError(f"the grammar's tables name classes beyond {columns} or states beyond {states}")
    if start.shape not in ((), (batch,)) or not 0 <= start.min() <= start.max() < states:
        raise ConfigError(f"the grammar starts in {start.tolist()}; {batch} rows need states 0 to {states - 1}")
    if not again and (dead := np.flatnonzero((transitions[:, np.unique(classes)] < 0).all(1))).size:
        raise ConfigError(f"the grammar's states {join_problems([str(s) for s in dead])} forbid every token")
    if (rule := grammar.closed_keys) is not None:
        _check_keys(rule, batch, vocab_size)
        if again and known is not None and known.closed_keys is not None:
            again = not (_stays_open(known.closed_keys) & ~_stays_open(rule)).any()
        if not again and (stuck := _find_stuck_states(classes, transitions, rule)):
            names = join_problems([str(s) for s in stuck])
            raise ConfigError(f"the grammar's states {names} forbid every token where keys are closed")


def _check_keys(rule: ClosedKeys, batch: int, vocab_size: int) -> None:
    """Compare the tables of closed keys with the vocabulary and the batch.

    Raises:
        ConfigError: a table of another size, or keys beyond the last.
    """
    sizes = {name: np.shape(getattr(rule, name)) for name in _KEY_TABLES}
    if wrong := [name for name, shape in sizes.items() if shape != (vocab_size,)]:
        raise ConfigError(f"the grammar's closed keys know other tokens than the model's {vocab_size}: {wrong}")
    count, offset = np.shape(rule.open)[-1], np.asarray(rule.offset)
    if np.shape(rule.open) not in ((count,), (batch, count)) or offset.shape not in ((), (batch,)) or rule.limit < 1:
        raise ConfigError(f"the grammar's closed keys do not fit {batch} rows")
    highest = max(offset.max(), rule.offsets.max(), 0)
    own = np.where(rule.shifted, rule.keys + highest, rule.keys)
    if max(own.max(), rule.last.max() + highest - 1) >= count or rule.first.min() < 0 or offset.min() < 0:
        raise ConfigError(f"the grammar's closed keys reach beyond {count}")


_FRESH, _NOT_FULL, _FULL = 0, 1, 2  # of a row's keys: all open, fewer than `limit` closed, all closed


def _find_stuck_states(classes: np.ndarray, transitions: np.ndarray, rule: ClosedKeys) -> list[int]:
    """List the states that allow tokens with keys only and may be reached while all of them are closed."""
    states = len(transitions)
    keyed = rule.keys >= 0
    always = np.unique(classes[~keyed | _stays_open(rule)[rule.keys]])
    tight = ~(transitions[:, always] >= 0).any(1)
    if not tight.any():
        return []
    closes = rule.first < rule.last
    # The fullest that a token leaves the keys; -1: as it finds them. A token with a key is drawn while it is open.
    left = np.select([closes, rule.opens, keyed], [_FULL, _FRESH, _NOT_FULL], -1)
    fullest = np.zeros(states, int)
    pairs = np.unique(np.stack([classes, left], 1), axis=0)
    while True:
        before = fullest.copy()
        for column, level in pairs:
            target = transitions[:, column]
            np.maximum.at(fullest, target[target >= 0], (before if level < 0 else np.full(states, level))[target >= 0])
        if (before == fullest).all():
            break
    choices = np.array([len(np.unique(rule.keys[transitions[state, classes] >= 0])) for state in np.flatnonzero(tight)])
    stuck = (fullest[tight] == _FULL) | ((fullest[tight] == _NOT_FULL) & (choices < rule.limit))
    return [int(state) for state in np.flatnonzero(tight)[stuck]]


def _stays_open(rule: ClosedKeys) -> np.ndarray:
    """Return the keys that are open in every row and that no draw can close, bool [K]."""
    opened: np.ndarray = np.logical_and.reduce(np.atleast_2d(rule.open))
    closes = rule.first < rule.last
    if rule.offsets.max() >= 0 or np.any(rule.offset):
        return np.zeros(len(opened), bool)
    changes = np.zeros(len(opened) + 1, int)
    np.add.at(changes, rule.first[closes], 1)
    np.add.at(changes, rule.last[closes], -1)
    stays: np.ndarray = opened & (np.cumsum(changes[:-1]) == 0)
    return stays if np.count_nonzero(~stays) < rule.limit else np.zeros(len(opened), bool)


class GeneratedTokens:
    """New tokens of a batch, filled block by block as the device yields them.

    Attributes:
        tokens: int32 [B, steps]; pad_id where nothing has been drawn.
    """

    def __init__(
        self, batch: int, steps: int, pad_id: int, on_tokens: Callable[[np.ndarray], None] | None = None
    ) -> None:
        self.tokens = np.full((batch, steps), pad_id, np.int32)
        self._filled, self._on_tokens = 0, on_tokens

    def add_block(self, block: np.ndarray, *, finite: bool, ended: bool) -> bool:
        """Store the next tokens [B, k] and report them.

        Args:
            block: drawn tokens.
            finite: all logits so far were finite.
            ended: all rows have ended, so that padding is all that follows.

        Returns:
            Whether the result is complete.

        Raises:
            DataError: the logits were not finite.
        """
        first, steps = self._filled, self.tokens.shape[1]
        last = first + block.shape[1]
        if not finite:
            raise DataError(
                f"the logits of tokens {first} to {last - 1} are not finite: the model's weights, or those of an "
                "adapter at this strength, are damaged or too large"
            )
        self.tokens[:, first:last] = block
        self._filled = last
        self._report_tokens(first, last)
        if ended:
            self._report_tokens(last, steps)
        return ended or last == steps

    def _report_tokens(self, first: int, last: int) -> None:
        if self._on_tokens is not None and last > first:
            self._on_tokens(self.tokens[:, first:last].copy())
