"""The torch sampler over a wide vocabulary, where a nucleus is ranked without sorting all tokens."""

from __future__ import annotations

import numpy as np
import pytest
from require import require

torch = require("torch")

from musiclora.backends.base import SamplingSpec  # noqa: E402
from musiclora.backends.torch.sampler import sample  # noqa: E402

TOKENS = 6000


@pytest.mark.parametrize("slope", [1e-3, 2e-3, 0.1], ids=["thousands", "a_thousand", "tens"])
@pytest.mark.parametrize("top_p", [0.5, 0.95])
def test_a_nucleus_of_any_width_equals_the_definition(slope, top_p):
    """Probabilities fall evenly, so that the nucleus has about log(1 / (1 - top_p)) / slope tokens."""
    order = np.random.default_rng(0).permutation(TOKENS)
    logits = np.empty(TOKENS, np.float32)
    logits[order] = -slope * np.arange(TOKENS)
    mass = np.exp(logits[order].astype(np.float64))
    mass /= mass.sum()
    kept = mass[np.cumsum(mass) - mass < top_p]
    edges = np.cumsum(kept) / kept.sum()
    # The middle of a token's interval: the float32 sums of thousands of terms stay inside it.
    wanted = np.unique(np.linspace(0, len(kept) - 1, 40).astype(int))
    wanted = wanted[kept[wanted] > 1e-5]
    draws = (edges - kept / kept.sum() / 2)[wanted]
    found = sample(
        torch.from_numpy(np.tile(logits, (len(wanted), 1))),
        torch.from_numpy(draws.astype(np.float32)),
        SamplingSpec(1.0, 0, top_p),
    )
    assert found.tolist() == order[wanted].tolist()
