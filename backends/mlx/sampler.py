"""Sampler of `SamplingSpec` and automaton of `Grammar` as MLX graphs, without a host round trip per token."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from musiclora.backends.base import Grammar, SamplingSpec

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
        mass = mass / (mx.exp(scores - kept[:, :1]) if count < scores.shape[-1] else mass).sum(axis=-1, keepdims=True)
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


@dataclass(frozen=True)
class Automaton:
    """A grammar's tables on the device.

    Attributes:
        classes: int32 [V].
        transitions: int32 [S, C], -1 forbids.
        start: int32 [B].
    """

    classes: mx.array
    transitions: mx.array
    start: mx.array

    @classmethod
    def load(cls, grammar: Grammar, batch: int) -> Automaton:
        start = np.broadcast_to(np.asarray(grammar.start, np.int32), (batch,))
        tables = (grammar.classes, grammar.transitions, start)
        return cls(*(mx.array(np.ascontiguousarray(table, np.int32)) for table in tables))

    def restrict(self, scores: mx.array, state: mx.array) -> mx.array:
        """Set scores [B, V] to -inf where the states [B] forbid the token."""
        allowed = mx.take(self.transitions[state] >= 0, self.classes, axis=1)
        return mx.where(allowed, scores, -mx.inf)

    def follow(self, state: mx.array, token: mx.array) -> mx.array:
        """Return the next states [B] after the tokens [B]."""
        return self.transitions[state, self.classes[token]]
