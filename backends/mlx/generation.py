"""Generation sessions on MLX: one fixed-shape step per token, queued ahead of the device, with a preallocated cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx
import numpy as np

from musiclora.backends.base import GenerationSession, Grammar, SamplingSpec
from musiclora.backends.generation_rows import GenerationRows, RowSession
from musiclora.backends.grammar_spans import GrammarSpans
from musiclora.backends.mlx.decoding import CACHE, DecodeMode, Decoding, Span
from musiclora.backends.mlx.kernels.quantised import Weights
from musiclora.backends.mlx.sampler import Automaton, State, start_state
from musiclora.backends.token_requests import (
    CHECK_EVERY_TOKENS,
    GeneratedTokens,
    check_grammar,
    check_request,
    have_same_tables,
)
from musiclora.convert.models.gpt2 import Gpt2Config


class DecodableModel(Protocol):
    """A decoder whose adapter can be merged into a copy of its weights."""

    @property
    def config(self) -> Gpt2Config: ...

    def merged_weights(self) -> Weights: ...


class MlxSession(RowSession):
    """Rows of tokens over one cache (implements `backends.base.GenerationSession`).

    Given tokens wait in `GenerationRows`; the next draw feeds them in one block, and the block draws its first token.
    """

    def __init__(
        self, model: DecodableModel, batch: int, capacity: int, spec: SamplingSpec, mode: DecodeMode | None = None
    ) -> None:
        config, self._mode = model.config, mode or DecodeMode.for_device()
        sizes = {"vocab_size": config.vocab_size, "n_positions": config.n_positions}
        super().__init__(GenerationRows(batch, capacity, spec, **sizes))
        self._vocab_size, self._pad_id = config.vocab_size, spec.pad_id
        self._decoding = Decoding(config, dict(model.merged_weights()), spec, self._mode)
        self._state = self._decoding.empty_caches(batch, capacity)
        self._grammar: Grammar | None = None  # whose tables are on the device
        self._spans: GrammarSpans | None = None

    def draw(
        self,
        uniforms: np.ndarray,
        grammar: Grammar | None = None,
        on_tokens: Callable[[np.ndarray], None] | None = None,
    ) -> np.ndarray:
        """Append one drawn token a row for each row of uniforms; see `backends.base.GenerationSession`."""
        rows, uniforms = self._rows, self._rows.check_draw(uniforms)
        steps, batch = uniforms.shape
        if grammar is not None:
            check_grammar(grammar, batch, self._vocab_size, self._grammar)
        found = GeneratedTokens(batch, steps, self._pad_id, on_tokens)
        if not steps or rows.ended.all():
            if steps:
                found.add_block(found.tokens.copy(), finite=True, ended=True)
            return found.tokens
        self._load_grammar(grammar)
        pending: list[mx.array] = []
        for i, shown in enumerate(self._stream_states(mx.array(uniforms), grammar)):
            pending.append(shown["token"])
            if len(pending) < CHECK_EVERY_TOKENS and i + 1 < steps:
                continue
            block, pending = np.array(mx.stack(pending, axis=1)), []
            ended = bool(mx.all(shown["done"]).item())
            if found.add_block(block, finite=not shown["bad"].item(), ended=ended):
                break
        rows.add_drawn(found.tokens)
        return found.tokens

    def _load_grammar(self, grammar: Grammar | None) -> None:
        """Copy tables to the device, unless they are the ones of the last draw with a grammar."""
        if grammar is None:
            self._decoding.automaton = None
            self._grammar = self._spans = None
        elif self._grammar is None or not have_same_tables(grammar, self._grammar):
            self._decoding.automaton = Automaton.load(grammar)
            # Compiled steps must be few.
            self._spans = None if self._mode.compiled else GrammarSpans(grammar)
            self._grammar = grammar

    def _walk_spans(self, grammar: Grammar | None) -> Iterator[Span]:
        """Yield for each step the ids whose logits it needs."""
        whole = (0, self._vocab_size)
        if grammar is None or self._spans is None:
            while True:
                yield whole
        starts = np.broadcast_to(grammar.start, self._rows.ended.shape)
        states = frozenset(starts[~self._rows.ended].tolist())
        while True:
            first, stop, states = self._spans.follow(states)
            yield first, stop

    def _stream_states(self, draws: mx.array, grammar: Grammar | None) -> Iterator[State]:
        """Yield token, done and bad after each draw; the next step is queued before they are read.

        The session holds the only reference to the newest state.
        """
        rows, spans = self._rows, self._walk_spans(grammar)
        caches = {key: value for key, value in self._state.items() if key.startswith(CACHE)}
        flags = {"done": mx.array(rows.ended), "bad": mx.array(False)}
        self._state = caches | flags | start_state(grammar, len(rows.lengths))
        del caches
        length = int(rows.lengths[~rows.ended].max())
        self._state = self._decoding.block(self._state, rows, next(spans), draws[0])
        mx.async_eval(self._state)  # type: ignore[no-untyped-call]
        for i in range(1, draws.shape[0]):
            shown = {key: self._state[key] for key in ("token", "done", "bad")}
            # Release the old caches before the new ones are evaluated: MLX then writes in place. Caches that are still
            # referenced are copied whole for every token.
            self._state = self._decoding.step(self._state, draws[i], length + i, next(spans))
            mx.async_eval(self._state)  # type: ignore[no-untyped-call]
            yield shown
        yield self._state


def generate(
    model: DecodableModel,
    prompts: np.ndarray,
    spec: SamplingSpec,
    uniforms: np.ndarray,
    grammar: Grammar | None = None,
    on_tokens: Callable[[np.ndarray], None] | None = None,
    mode: DecodeMode | None = None,
) -> np.ndarray:
    """Continue prompts with the adapter, if it is on, added to a copy of the weights; see `TokenModel.generate`.

    Raises:
        DataError: shapes, lengths or ids that do not fit, or logits that are not finite.
        ConfigError: a grammar that does not fit.
    """
    prompts, uniforms, config = np.asarray(prompts), np.asarray(uniforms, np.float32), model.config
    sizes = {"vocab_size": config.vocab_size, "n_positions": config.n_positions}
    check_request(prompts, spec, uniforms, **sizes)
    batch, length = prompts.shape
    session = MlxSession(model, batch, length + len(uniforms), spec, mode)
    session.extend(prompts)
    return session.draw(uniforms, grammar, on_tokens)


if TYPE_CHECKING:
    _: type[GenerationSession] = MlxSession
