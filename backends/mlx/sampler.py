"""Sampler of `SamplingSpec` and automaton of `Grammar` as MLX graphs, without a host round trip per token."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from musiclora.backends.base import ClosedKeys, Grammar, SamplingSpec
from musiclora.backends.mlx.kernels import ops

_LOW_BITS = 0xFFFFFFFF


def ranked(scores: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Rank the count largest scores of each row in falling order, ties to the lower id.

    The sort is by one 64-bit key, the score's bits in an order-preserving form above the id, because no sort here
    promises to be stable on every device.

    Args:
        scores: float32 [B, V].
        count: columns to return.

    Returns:
        Ids, int32 [B, count], and their scores, float32 [B, count].
    """
    bits = (scores + 0.0).view(mx.uint32)  # + 0.0 makes -0.0 and 0.0 one value
    rising = mx.where(bits >> 31, ~bits, bits | 0x80000000)
    ids = mx.arange(scores.shape[-1], dtype=mx.uint64)
    keys = ((~rising).astype(mx.uint64) << 32) | ids
    if count < scores.shape[-1]:
        keys = mx.partition(keys, count - 1, axis=-1)[:, :count]
    found = (mx.sort(keys, axis=-1) & _LOW_BITS).astype(mx.int32)
    return found, mx.take_along_axis(scores, found, axis=-1)


def sample(scores: mx.array, u: mx.array, spec: SamplingSpec) -> mx.array:
    """Draw one token a row as `SamplingSpec` says; its eos_id and pad_id are ignored here.

    Args:
        scores: float32 [B, V]; -inf where a token is not allowed.
        u: float32 [B], uniform draws in [0, 1).
        spec: temperature, top-k and top-p.

    Returns:
        int32 [B].
    """
    if spec.temperature == 0:
        return mx.argmax(scores, axis=-1).astype(mx.int32)  # the first of equal ones
    scores = scores / spec.temperature
    count = min(spec.top_k or scores.shape[-1], scores.shape[-1])
    ids, kept = ranked(scores, count)
    mass = mx.exp(kept - kept[:, :1])
    if spec.top_p < 1:
        mass = mass / ops.row_sums(mx.exp(scores - kept[:, :1]) if count < scores.shape[-1] else mass)
    sums = mx.cumsum(mass, axis=-1)
    # A draw near 1 may round up to the total: it must not pass the last token that has any probability.
    inside = (mass > 0).sum(axis=-1, keepdims=True)
    total = sums[:, -1:]
    if spec.top_p < 1:
        inside = mx.minimum(mx.maximum((sums - mass < spec.top_p).sum(axis=-1, keepdims=True), 1), inside)
        total = mx.take_along_axis(sums, inside - 1, axis=-1)
    # sums never falls, so counting is searching.
    index = mx.minimum((sums <= u[:, None] * total).sum(axis=-1, keepdims=True), inside - 1)
    return mx.take_along_axis(ids, index, axis=-1)[:, 0]


State = dict[str, mx.array]


@dataclass(frozen=True)
class Automaton:
    """A grammar's tables on the device; the rows' states are part of the decoding state.

    Attributes:
        classes: int32 [V].
        transitions: int32 [S, C], -1 forbids.
        keys: tables of the closed keys, or None.
    """

    classes: mx.array
    transitions: mx.array
    keys: _KeyTables | None = None

    @classmethod
    def load(cls, grammar: Grammar) -> Automaton:
        keys = None if grammar.closed_keys is None else _KeyTables.load(grammar.closed_keys)
        return cls(_on_device(grammar.classes), _on_device(grammar.transitions), keys)

    def restrict(self, scores: mx.array, state: State, first: int = 0) -> mx.array:
        """Set scores [B, n] of the ids from first on to -inf where the state forbids the token or its key is closed."""
        ids = slice(first, first + scores.shape[1])
        allowed = mx.take(self.transitions[state["automaton"]] >= 0, self.classes[ids], axis=1)
        if self.keys is not None:
            allowed = allowed & self.keys.allowed(state, ids)
        return mx.where(allowed, scores, -mx.inf)

    def follow(self, state: State, token: mx.array) -> State:
        """Return the next states after the tokens [B]."""
        found = {"automaton": self.transitions[state["automaton"], self.classes[token]]}
        return found if self.keys is None else found | self.keys.follow(state, token)


@dataclass(frozen=True)
class _KeyTables:
    """Tables of `ClosedKeys`; one more column, always open, is the key of tokens without one.

    Attributes:
        keys: int32 [V].
        moves: int32 [V, 4]: opens, first, last, offset.
        ids: int32 [K + 1], number of each column, -1 for the last.
        limit: number of closed keys that closes all.
        shifted: int32 [V], or None where all offsets are 0, so that a draw needs half of the operations.
    """

    keys: mx.array
    moves: mx.array
    ids: mx.array
    limit: int
    shifted: mx.array | None

    @classmethod
    def load(cls, rule: ClosedKeys) -> _KeyTables:
        count = np.shape(rule.open)[-1]
        return cls(
            _on_device(np.where(rule.keys < 0, count, rule.keys)),
            _on_device(np.stack([rule.opens, rule.first, rule.last, rule.offsets], 1)),
            _on_device(np.append(np.arange(count), -1)),
            rule.limit,
            _on_device(rule.shifted) if rule.shifted.any() else None,
        )

    def allowed(self, state: State, ids: slice) -> mx.array:
        """Return which tokens of these ids have an open key, bool [B, n]."""
        keys = self.keys[ids]
        if self.shifted is None:
            return mx.take(state["open_keys"], keys, axis=1)
        return mx.take_along_axis(state["open_keys"], state["key_offset"][:, None] * self.shifted[ids] + keys, axis=1)

    def follow(self, state: State, token: mx.array) -> State:
        """Return the open keys and offsets after the tokens [B]."""
        opens, first, last, offsets = mx.split(self.moves[token], 4, axis=1)
        offset = state["key_offset"]
        if self.shifted is not None:
            offset = mx.where(offsets[:, 0] >= 0, offsets[:, 0], offset)
            first, last = first + offset[:, None], last + offset[:, None]
        held = ((opens > 0) | state["open_keys"]) & ((self.ids < first) | (self.ids >= last))
        left = held.sum(axis=1, keepdims=True)  # the last column included
        return {"open_keys": held & ((left > len(self.ids) - self.limit) | (self.ids < 0)), "key_offset": offset}


def start_state(grammar: Grammar | None, batch: int) -> State:
    """Return the state of the rows that a grammar gives: states and offsets int32 [B], open keys bool [B, K + 1]."""
    if grammar is None:
        return {}
    state, rule = {"automaton": _on_device(np.broadcast_to(grammar.start, (batch,)))}, grammar.closed_keys
    if rule is not None:
        held = np.ones((batch, np.shape(rule.open)[-1] + 1), bool)
        held[:, :-1] = rule.open
        offset = np.broadcast_to(np.asarray(rule.offset), (batch,))
        state |= {"open_keys": mx.array(held), "key_offset": _on_device(offset)}
    return state


def _on_device(table: np.ndarray) -> mx.array:
    return mx.array(np.ascontiguousarray(table, np.int32))
