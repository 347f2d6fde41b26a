"""Reference of a generation session in numpy: the logits of the whole context anew for each token."""

from __future__ import annotations

import numpy as np

from musiclora.backends.base import SamplingSpec
from musiclora.sampling import OpenKeys, sample_token


class ReferenceSession:
    """Rows of tokens that grow and are cut back; see `backends.base.GenerationSession`.

    Attributes:
        rows: tokens of each row.
        draws: number of calls of `draw`.
    """

    def __init__(self, model, batch: int, capacity: int, spec: SamplingSpec) -> None:
        self.model, self.capacity, self.spec = model, capacity, spec
        self.rows = [[] for _ in range(batch)]
        self.draws = 0

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(row) for row in self.rows])

    def extend(self, tokens, counts=None) -> None:
        for number, (row, new) in enumerate(zip(self.rows, np.asarray(tokens).tolist(), strict=True)):
            row += new if counts is None else new[: int(counts[number])]
            assert len(row) <= self.capacity
            assert all(0 <= token < self.model.vocab_size for token in row)

    def rewind(self, lengths) -> None:
        for row, length in zip(self.rows, np.asarray(lengths).tolist(), strict=True):
            assert 0 <= length <= len(row)
            del row[length:]

    def draw(self, uniforms, grammar=None, on_tokens=None) -> np.ndarray:
        self.draws += 1
        found = np.zeros((len(self.rows), len(uniforms)), np.int32)
        for number, row in enumerate(self.rows):
            keys, state = None, 0
            if grammar is not None:
                state = int(np.broadcast_to(grammar.start, len(self.rows))[number])
                keys = OpenKeys(grammar.closed_keys)
                keys.open = np.broadcast_to(grammar.closed_keys.open, (len(self.rows), len(keys.open.T)))[number].copy()
            for step, u in enumerate(uniforms[:, number].tolist()):
                allowed = None
                if grammar is not None:
                    allowed = (grammar.transitions[state, grammar.classes] >= 0) & keys.allowed()
                logits = self.model.last_logits(row)
                chosen = np.arange(len(logits)) if allowed is None else np.flatnonzero(allowed)  # sorted much faster
                token = int(chosen[sample_token(logits[chosen], u, self.spec)])
                if grammar is not None:
                    state = int(grammar.transitions[state, grammar.classes[token]])
                    keys.follow(token)
                row.append(token)
                found[number, step] = token
            assert len(row) <= self.capacity
        return found


_TABLES = 64


class HashModel:
    """Token model whose logits depend on the last tokens of the context and on the number of tokens, without weights.

    Later times are less probable, by `early` a step.

    Attributes:
        sessions: those it has started.
    """

    def __init__(self, vocab_size: int = 55_028, n_positions: int = 1024, seed: int = 0, early: float = 0.0) -> None:
        self.vocab_size, self.n_positions = vocab_size, n_positions
        self.seed, self.early = seed, early
        self.sessions: list[ReferenceSession] = []
        rng = np.random.default_rng(seed)
        self._logits = rng.normal(0, 2, (_TABLES, vocab_size)).astype(np.float32)
        self._bias = -early * np.arange(10_000, dtype=np.float32)

    def last_logits(self, context) -> np.ndarray:
        latest = max((token for token in context[1::3] if token < 10_000), default=0)
        table = int(np.random.default_rng([self.seed, len(context), *context[-5:]]).integers(_TABLES))
        logits = self._logits[table].copy()
        logits[latest:10_000] += self._bias[: 10_000 - latest]
        return logits

    def start_generation(self, batch, capacity, spec) -> ReferenceSession:
        self.sessions.append(ReferenceSession(self, batch, capacity, spec))
        return self.sessions[-1]
