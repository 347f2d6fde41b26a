"""Validation of generation requests and damaged weights, once for every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toys import CONFIGS, Toy

from musiclora.backends.base import ClosedKeys, Grammar, SamplingSpec
from musiclora.convert.errors import ConfigError, DataError

CONFIG = CONFIGS["square"]
OPEN = Grammar(np.zeros(CONFIG.vocab_size, np.int32), np.zeros((1, 1), np.int32))


@pytest.fixture(scope="module")
def model(backend, folders):
    return Toy(backend, folders["square"], CONFIG).load()


def generate(model, spec=None, grammar=None, steps=3):
    return model.generate(np.zeros((2, 4), np.int32), spec or SamplingSpec(), np.zeros((steps, 2), np.float32), grammar)


@pytest.mark.parametrize("pad_id", [-1, CONFIG.vocab_size], ids=["negative", "too_large"])
def test_a_pad_id_outside_the_vocabulary_raises_and_is_named(model, pad_id):
    with pytest.raises(DataError, match=f"pad_id is {pad_id}; allowed are 0 to 15"):
        generate(model, SamplingSpec(pad_id=pad_id))


def test_all_problems_of_a_request_are_named_at_once(model):
    with pytest.raises(DataError, match=r"exceed the model's 24 positions.*pad_id is 99"):
        generate(model, SamplingSpec(pad_id=99), steps=21)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": np.zeros(CONFIG.vocab_size - 1, np.int32)}, "knows 15 tokens, the model has 16"),
        ({"transitions": np.array([[0], [-1]], np.int32)}, "states 1 forbid every token"),
        ({"classes": np.ones(CONFIG.vocab_size, np.int32)}, "classes beyond 1"),
        ({"transitions": np.array([[1]], np.int32)}, "states beyond 1"),
        ({"start": np.array([0, 1], np.int32)}, "starts in"),
        ({"start": np.zeros(3, np.int32)}, "starts in"),
    ],
    ids=["vocabulary", "dead_state", "class", "state", "start", "rows"],
)
def test_a_grammar_that_does_not_fit_raises_and_says_why(model, change, said):
    with pytest.raises(ConfigError, match=said):
        generate(model, grammar=replace(OPEN, **change))


NO_IDS = np.zeros(CONFIG.vocab_size, np.int32)
KEYS = ClosedKeys(NO_IDS, NO_IDS > 0, NO_IDS > 0, NO_IDS - 1, NO_IDS, NO_IDS, 2, np.ones(2, bool))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keys": NO_IDS[1:]}, r"know other tokens than the model's 16: \['keys'\]"),
        ({"open": np.ones((3, 2), bool)}, "do not fit 2 rows"),
        ({"limit": 0}, "do not fit 2 rows"),
        ({"keys": NO_IDS + 2}, "reach beyond 2"),
        ({"first": NO_IDS, "last": NO_IDS + 1}, "states 0 forbid every token where keys are closed"),
        ({"opens": NO_IDS == 0, "last": NO_IDS + 1}, "states 0 forbid every token where keys are closed"),
    ],
    ids=["vocabulary", "rows", "limit", "key", "stuck", "stuck_after_opening"],
)
def test_closed_keys_that_do_not_fit_raise_and_say_why(model, change, said):
    with pytest.raises(ConfigError, match=said):
        generate(model, grammar=replace(OPEN, closed_keys=replace(KEYS, **change)))


@pytest.mark.parametrize("grammar", [None, OPEN], ids=["free", "grammar"])
@pytest.mark.parametrize(
    "spec", [SamplingSpec(0.0), SamplingSpec(), SamplingSpec(1.0, 5, 0.9)], ids=["greedy", "plain", "top_k_and_top_p"]
)
def test_logits_that_are_not_finite_raise_and_name_the_tokens(backend, folders, spec, grammar):
    damaged = Toy(backend, folders["square"], CONFIG).adapted()
    # Finite factors whose product overflows float32; a checkpoint or adapter with NaN would be refused.
    state = {name: np.full_like(array, 1e30) for name, array in damaged.read_adapter().items()}
    damaged.write_adapter(state)
    with pytest.raises(DataError, match="the logits of tokens 0 to 11 are not finite"):
        generate(damaged, spec, grammar, steps=12)


def test_blocks_add_up_to_the_result_when_all_rows_end_early(model):
    blocks, draws = [], np.zeros((20, 2), np.float32)
    prompts = np.zeros((2, 4), np.int32)
    first = int(model.generate(prompts, SamplingSpec(0.0), draws)[0, 0])
    found = model.generate(prompts, SamplingSpec(0.0, eos_id=first, pad_id=3), draws, None, blocks.append)
    assert (found[:, 1:] == 3).all()
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), found)
