"""Token model in numpy for tests of generation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from musiclora.sampling import OpenKeys, sample_token


class NumpyModel:
    """Token model with random logits keyed by the last two tokens of the context.

    Attributes:
        contexts: the prompts it was shown.
        eos_bias: added to the logit of the end token.
    """

    def __init__(self, tokenizer, n_positions: int = 64, eos_bias: float = -20.0, surplus: int = 0, bar_bias=3) -> None:
        self.vocab_size = tokenizer.vocab_size + surplus
        self.n_positions = n_positions
        self.eos, self.eos_bias = tokenizer.eos_id, eos_bias
        self.bars, self.bar_bias = list(tokenizer.bar_ids), bar_bias
        self.contexts: list[list[int]] = []

    def logits(self, ids) -> np.ndarray:
        found = np.random.default_rng([7, *ids[-2:]]).normal(0, 1.5, self.vocab_size).astype(np.float32)
        found[self.eos] += self.eos_bias
        found[self.bars] += self.bar_bias
        return found

    def generate(self, prompts, spec, draws, grammar=None, on_tokens=None):
        assert prompts.shape[1] + len(draws) <= self.n_positions
        assert prompts.shape[0] == draws.shape[1]
        self.contexts += prompts.tolist()
        out = np.full((len(prompts), len(draws)), spec.pad_id, np.int32)
        for b, context in enumerate(prompts.tolist()):
            state = int(np.broadcast_to(grammar.start, len(prompts))[b])
            rule = grammar.closed_keys
            keys = OpenKeys(replace(rule, open=rule.open[b], offset=rule.offset[b]))
            for step, u in enumerate(draws[:, b]):
                allowed = (grammar.transitions[state, grammar.classes] >= 0) & keys.allowed()
                token = sample_token(self.logits(context), float(u), spec, allowed)
                keys.follow(token)
                state = int(grammar.transitions[state, grammar.classes[token]])
                out[b, step] = token
                context.append(token)
                if token == spec.eos_id:
                    break
        if on_tokens:
            on_tokens(out)
        return out
