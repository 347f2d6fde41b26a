"""Prompts and sessions that the tests of generation sessions share."""

from __future__ import annotations

import numpy as np

from musiclora.backends.base import SamplingSpec

ROWS, PROMPT, STEPS = 3, 5, 12
CAPACITY = PROMPT + STEPS
SPEC = SamplingSpec(1.2, 9, 0.9)


def random_tokens(config, rows=ROWS, count=PROMPT, seed=0):
    return np.random.default_rng(seed).integers(0, config.vocab_size, (rows, count), dtype=np.int32)


def scores_before(model, row, step):
    """The logits from which token `step` of a sequence was drawn, by one pass over what precedes it."""
    return model.logits({"tokens": np.asarray(row)[None, :step]})[0, -1]


def begin(model, prompt, spec=SPEC, capacity=CAPACITY):
    session = model.start_generation(len(prompt), capacity, spec)
    session.extend(prompt)
    return session
