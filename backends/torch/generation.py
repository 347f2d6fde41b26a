"""Token generation on torch: a session over one KV cache, and no host round trip per token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from musiclora.backends.base import GenerationSession, Grammar, SamplingSpec
from musiclora.backends.generation_rows import GenerationRows, RowSession
from musiclora.backends.token_requests import (
    CHECK_EVERY_TOKENS,
    GeneratedTokens,
    check_grammar,
    check_request,
    have_same_tables,
)
from musiclora.backends.torch.cached_decoder import CachedDecoder, merge_adapters
from musiclora.backends.torch.functional import Decoder
from musiclora.backends.torch.sampler import Automaton, GrammarTables, sample


class TorchSession(RowSession):
    """Rows of tokens over one KV cache (implements `backends.base.GenerationSession`)."""

    def __init__(self, model: Decoder, batch: int, capacity: int, spec: SamplingSpec) -> None:
        """Begin with empty rows.

        Raises:
            DataError: numbers or a pad_id that do not fit the model.
        """
        self._vocab_size, self._device = model.wte.shape[0], model.wte.device
        sizes = {"vocab_size": self._vocab_size, "n_positions": model.wpe.shape[0]}
        super().__init__(GenerationRows(batch, capacity, spec, **sizes))
        self._spec = spec
        self._tables: GrammarTables | None = None
        with torch.inference_mode():
            self._decoder = CachedDecoder(merge_adapters(model), batch, capacity)

    def draw(
        self,
        uniforms: np.ndarray,
        grammar: Grammar | None = None,
        on_tokens: Callable[[np.ndarray], None] | None = None,
    ) -> np.ndarray:
        """Append one drawn token a row for each row of uniforms; see `backends.base.GenerationSession`."""
        rows = self._rows
        draws, going = rows.check_draw(uniforms), ~rows.ended
        if grammar is not None:
            check_grammar(grammar, len(going), self._vocab_size, self._tables.grammar if self._tables else None)
        found = GeneratedTokens(len(going), len(draws), self._spec.pad_id, on_tokens)
        if not len(draws):
            return found.tokens
        if not going.any():
            found.add_block(found.tokens[:, :0], finite=True, ended=True)
            return found.tokens
        with torch.inference_mode():
            automaton = Automaton(self._load_tables(grammar), grammar, going) if grammar else None
            self._draw_tokens(found, torch.from_numpy(draws.copy()).to(self._device), automaton)
        rows.add_drawn(found.tokens)
        return found.tokens

    def _load_tables(self, grammar: Grammar) -> GrammarTables:
        """Return the grammar's tables on the device; those that are the same objects as in the last draw stay there."""
        if self._tables is None or not have_same_tables(grammar, self._tables.grammar):
            self._tables = GrammarTables(grammar, self._device, self._tables)
        return self._tables

    def _draw_tokens(self, found: GeneratedTokens, draws: Tensor, automaton: Automaton | None) -> None:
        """Draw tokens into found, up to the last step or until all rows have ended."""
        spec, (steps, batch) = self._spec, draws.shape
        drawn = torch.empty(CHECK_EVERY_TOKENS, batch, dtype=torch.int64, device=self._device)
        ended = torch.from_numpy(self._rows.ended.copy()).to(self._device)
        finite = torch.ones(batch, dtype=torch.bool, device=self._device)
        states = self._append_given()
        append = self._append_drawn()
        for step in range(steps):
            first, end = automaton.span if automaton else (0, self._vocab_size)
            logits = self._decoder.logits(states, first, end)
            if automaton is not None:
                logits = automaton.forbid(logits)
            finite &= logits.amax(1).isfinite() | ended  # the maximum is NaN where any logit is
            chosen = sample(logits, draws[step], spec) + first
            if automaton is not None:
                automaton.follow(chosen)
            if spec.eos_id is not None:
                chosen = chosen.masked_fill(ended, spec.pad_id)
                ended |= chosen == spec.eos_id
            drawn[step % CHECK_EVERY_TOKENS] = chosen
            count = step % CHECK_EVERY_TOKENS + 1
            if count == CHECK_EVERY_TOKENS or step + 1 == steps:
                block = drawn[:count].t().cpu().numpy()
                if found.add_block(block, finite=bool(finite.all()), ended=bool(ended.all())):
                    break
            states = append(step, chosen[:, None])

    def _append_given(self) -> Tensor:
        """Pass the tokens before the next draw through the model; returns the states after the last, [B, d]."""
        feed = self._rows.next_feed()
        tokens = torch.from_numpy(feed.tokens.astype(np.int64)).to(self._device)
        if feed.together:
            return self._decoder.append(tokens, int(feed.starts[0]))
        order = np.arange(tokens.shape[1])
        positions = np.where(order < feed.counts[:, None], feed.starts[:, None] + order, self._decoder.capacity)
        last = np.maximum(feed.counts - 1, 0)
        visible = int((feed.starts + feed.counts)[feed.counts > 0].max())
        at, ends = (torch.from_numpy(a).to(self._device) for a in (positions, last))
        return self._decoder.append_rows(tokens, at, ends, visible)

    def _append_drawn(self) -> Callable[[int, Tensor], Tensor]:
        """Return what passes the tokens [B, 1] of a step through the model, at the rows' next positions."""
        rows, decoder = self._rows, self._decoder
        longest = int(rows.lengths[~rows.ended].max())
        if rows.in_step():
            return lambda step, tokens: decoder.append(tokens, longest + step)
        at = torch.from_numpy(rows.lengths[:, None].copy()).to(self._device)
        outside = torch.from_numpy(rows.ended[:, None].copy()).to(self._device)
        zero = torch.zeros(len(rows.lengths), dtype=torch.int64, device=self._device)

        def append(step: int, tokens: Tensor) -> Tensor:
            positions = (at + step).masked_fill_(outside, decoder.capacity)
            return decoder.append_rows(tokens, positions, zero, longest + step + 1)

        return append


def generate(
    model: Decoder,
    prompts: np.ndarray,
    spec: SamplingSpec,
    uniforms: np.ndarray,
    grammar: Grammar | None = None,
    on_tokens: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:
    """Continue prompts in one session; see `backends.base.TokenModel.generate`.

    Raises:
        DataError: shapes, lengths or ids that do not fit, or logits that are not finite.
        ConfigError: a grammar that does not fit.
    """
    prompts, uniforms = np.asarray(prompts), np.asarray(uniforms, np.float32)
    sizes = {"vocab_size": model.wte.shape[0], "n_positions": model.wpe.shape[0]}
    check_request(prompts, spec, uniforms, **sizes)
    session = TorchSession(model, len(prompts), prompts.shape[1] + len(uniforms), spec)
    session.extend(prompts)
    return session.draw(uniforms, grammar, on_tokens)


if TYPE_CHECKING:
    _: type[GenerationSession] = TorchSession
