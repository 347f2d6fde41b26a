"""Properties of generation, once for every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tolerance import assert_same_draws

from musiclora.backends.base import ClosedKeys, Grammar, OptimSpec, SamplingSpec
from musiclora.convert.errors import MusicLoraError
from musiclora.sampling import OpenKeys, decision_margin, sample_token, uniforms

PROMPT, STEPS = 4, 12
SPECS = {
    "plain": SamplingSpec(),
    "cold": SamplingSpec(temperature=0.5),
    "hot": SamplingSpec(temperature=2.0),
    "top_k": SamplingSpec(top_k=5),
    "top_1": SamplingSpec(top_k=1),
    "top_k_beyond": SamplingSpec(top_k=999),
    "top_p": SamplingSpec(top_p=0.7),
    "top_p_tiny": SamplingSpec(top_p=1e-4),
    "all": SamplingSpec(temperature=1.3, top_k=7, top_p=0.8),
}


def prompts(config, rows=3, seed=0):
    return np.random.default_rng(seed).integers(0, config.vocab_size, (rows, PROMPT), dtype=np.int32)


def logits_before(model, prompt, found):
    """The float32 logits [B, steps, V] from which each new token was drawn, by one pass over everything."""
    everything = np.concatenate([prompt, found], axis=1)
    return model.logits({"tokens": everything})[:, PROMPT - 1 : -1]


def margin_of(scores, draws, spec):
    """The margin of a draw, given the logits from which each was made."""
    return lambda row, step: decision_margin(scores[row, step], float(draws[step, row]), spec)


def check_draws(scores, found, draws, spec, allowed=None):
    """Every token is what the numpy sampler draws; where rounding could decide, nothing is claimed."""
    for row, step in np.ndindex(found.shape):
        permitted = None if allowed is None else allowed[row][step]
        arguments = (scores[row, step], float(draws[step, row]), spec, permitted)
        if decision_margin(*arguments) > 1e-5:
            assert found[row, step] == sample_token(*arguments), (row, step)


def test_greedy_generation_is_the_argmax_step_by_step(toy):
    model, prompt = toy.adapted(), prompts(toy.config)
    spec, draws = SamplingSpec(temperature=0.0), uniforms(0, STEPS, 3)
    found = model.generate(prompt, spec, draws)
    assert found.dtype == np.int32
    assert found.shape == (3, STEPS)
    scores = logits_before(model, prompt, found)
    check_draws(scores, found, draws, spec)
    assert (found == scores.argmax(-1)).mean() > 0.9


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_sampling_equals_the_numpy_reference(toy, spec):
    model, prompt, draws = toy.adapted(), prompts(toy.config), uniforms(3, STEPS, 3)
    found = model.generate(prompt, spec, draws)
    check_draws(logits_before(model, prompt, found), found, draws, spec)


def ends_are_close(scores, u, spec):
    """Tell whether rounding decides which token is first, or which is the last one kept."""
    inner = np.linspace(0, 0.2, 201) if u < 0.5 else np.linspace(0.8, 1 - 2**-24, 201)
    token = sample_token(scores, u, spec)
    margins = [decision_margin(scores, v, spec) for v in inner if sample_token(scores, v, spec) == token]
    return max(margins) < 1e-5


@pytest.mark.parametrize("u", [0.0, 1 - 2**-24], ids=["lowest", "highest"])
def test_sampling_at_the_ends_of_the_draw_equals_the_numpy_reference(square, u):
    model, prompt, draws = square.load(), prompts(square.config), np.full((STEPS, 3), u, np.float32)
    found = model.generate(prompt, SPECS["all"], draws)
    scores = logits_before(model, prompt, found)
    # Zero and one stay the ends whatever the rounding, so that only what is kept can depend on it: the margins of a
    # draw in the middle of the token at that end tell.
    same = [
        found[row, step] == sample_token(scores[row, step], u, SPECS["all"])
        or ends_are_close(scores[row, step], u, SPECS["all"])
        for row, step in np.ndindex(found.shape)
    ]
    assert all(same)


@pytest.mark.parametrize("top_k", [0, 3], ids=["sorted", "top_k"])
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
def test_ties_go_to_the_lower_id(backend, folders, tmp_path, top_k, temperature):
    """A zero embedding makes all logits equal, so the order of tokens is that of their ids."""
    from toys import CONFIGS, Toy, formula_tensors

    from musiclora.convert.models.gpt2 import write_checkpoint

    config = CONFIGS["square"]
    tensors = formula_tensors(config) | {"transformer.wte.weight": np.zeros((16, 16), np.float32)}
    write_checkpoint(tmp_path / "flat", config, tensors, "hf")
    model = Toy(backend, tmp_path / "flat", config).load()
    draws = np.linspace(0.01, 0.95, STEPS, dtype=np.float32)[:, None]
    found = model.generate(prompts(config, 1), SamplingSpec(temperature, top_k), draws)
    expected = np.floor(draws[:, 0] * (top_k or 16)).astype(int) if temperature else np.zeros(STEPS, int)
    np.testing.assert_array_equal(found[0], expected)


def test_generation_uses_the_adapter_and_leaves_it_alone(toy):
    model, prompt, draws = toy.adapted(), prompts(toy.config), uniforms(1, STEPS, 3)
    before = model.logits(toy.batch())
    found = model.generate(prompt, SamplingSpec(), draws)
    np.testing.assert_array_equal(model.logits(toy.batch()), before)
    model.set_adapter(False)
    base = model.generate(prompt, SamplingSpec(), draws)
    np.testing.assert_array_equal(base, toy.load().generate(prompt, SamplingSpec(), draws))
    assert (base != found).any()
    model.set_adapter(True)
    np.testing.assert_array_equal(model.generate(prompt, SamplingSpec(), draws), found)


@pytest.mark.parametrize("trainable", ["adapter", "all"])
def test_generation_after_training_uses_the_new_weights(square, trainable, tmp_path):
    from toys import SPEC, Toy

    from musiclora.convert.models.gpt2 import write_checkpoint

    model = square.adapted() if trainable == "adapter" else square.load()
    prompt, draws = prompts(square.config), uniforms(1, STEPS, 3)
    before = model.generate(prompt, SamplingSpec(), draws)
    training = model.start_training(OptimSpec(), trainable)
    for _ in range(3):
        training.step([square.batch()], 0.1)
    found = model.generate(prompt, SamplingSpec(), draws)
    write_checkpoint(tmp_path / "trained", square.config, model.read_weights(), "hf")
    fresh = Toy(square.backend, tmp_path / "trained", square.config)
    other = fresh.adapted(SPEC, model.read_adapter()) if trainable == "adapter" else fresh.load()
    # The loaded weights may lie in memory another way than the trained ones.
    margin = margin_of(logits_before(model, prompt, found), draws, SamplingSpec())
    assert_same_draws(found, other.generate(prompt, SamplingSpec(), draws), margin)
    assert (found != before).any()


def test_rows_of_a_batch_are_independent(toy):
    model, prompt, draws = toy.adapted(), prompts(toy.config), uniforms(5, STEPS, 3)
    together = model.generate(prompt, SamplingSpec(), draws)
    for row in range(3):
        alone = model.generate(prompt[row : row + 1], SamplingSpec(), draws[:, row : row + 1])
        # One row is multiplied in another order than three.
        scores = logits_before(model, prompt[row : row + 1], together[row : row + 1])
        margin = margin_of(scores, draws[:, row : row + 1], SamplingSpec())
        assert_same_draws(alone, together[row : row + 1], margin)


def test_after_eos_a_row_yields_padding(square):
    model, prompt, draws = square.load(), prompts(square.config, 6), uniforms(2, 20, 6)
    free = model.generate(prompt, SamplingSpec(), draws)
    eos = int(free[0, 3])  # so that the first row ends at or before its fourth token
    found = model.generate(prompt, SamplingSpec(eos_id=eos, pad_id=1), draws)
    assert found.shape == (6, 20)
    for row in range(6):
        ends = np.flatnonzero(free[row] == eos)
        count = ends[0] + 1 if ends.size else 20
        np.testing.assert_array_equal(found[row, :count], free[row, :count])
        assert (found[row, count:] == 1).all()


@pytest.mark.parametrize("eos", [None, 5], ids=["no_end", "end"])
@pytest.mark.parametrize("steps", [1, 16, 20], ids=str)
def test_blocks_of_new_tokens_add_up_to_the_result(square, steps, eos):
    model, blocks = square.load(), []
    spec = SamplingSpec(eos_id=eos, pad_id=2)
    found = model.generate(prompts(square.config), spec, uniforms(2, steps, 3), None, blocks.append)
    assert all(block.dtype == np.int32 and 0 < block.shape[1] <= 32 for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), found)


def counting_grammar(config):
    """Classes by id modulo 4; state s allows class s only, and class 3 returns to state 0."""
    transitions = np.full((4, 4), -1, np.int32)
    transitions[np.arange(4), np.arange(4)] = (np.arange(4) + 1) % 4
    return Grammar((np.arange(config.vocab_size) % 4).astype(np.int32), transitions, np.array([0, 1, 2], np.int32))


@pytest.mark.parametrize("name", ["plain", "top_k", "all"])
def test_grammar_is_never_violated(toy, name):
    model, prompt, draws = toy.adapted(), prompts(toy.config), uniforms(8, STEPS, 3)
    grammar, spec = counting_grammar(toy.config), SPECS[name]
    found = model.generate(prompt, spec, draws, grammar)
    expected = (np.arange(3)[:, None] + np.arange(STEPS)) % 4
    np.testing.assert_array_equal(found % 4, expected)
    allowed = [[np.arange(toy.config.vocab_size) % 4 == state for state in row] for row in expected]
    check_draws(logits_before(model, prompt, found), found, draws, spec, allowed)


def test_grammar_start_may_be_one_number(square):
    model, draws = square.load(), uniforms(8, STEPS, 3)
    found = model.generate(
        prompts(square.config), SamplingSpec(), draws, replace(counting_grammar(square.config), start=2)
    )
    assert (found[:, 0] % 4 == 2).all()


def closed_keys(config, name, rows=3):
    """Rules over ids: 0 and 1 begin an onset, 2 and 3 choose an instrument, the others are notes."""
    ids = np.arange(config.vocab_size, dtype=np.int32)
    notes, none = ids >= 4, np.zeros(len(ids), np.int32)
    keys = np.where(notes, ids - 4, -1)
    first, last = np.where(notes, keys, 0), np.where(notes, keys + 1, 0)
    count, opens = len(ids) - 4, ids < 2
    rule = ClosedKeys(keys, none > 0, opens, none - 1, first, last, count, np.ones(count, bool))
    if name == "order":  # draws of an ordered block never fall
        return replace(rule, opens=none > 0, first=none, last=np.where(notes, keys, 0))
    if name == "instruments":
        chooses = (ids == 2) | (ids == 3)
        offsets = np.where(chooses, count * (ids - 2), -1)
        keys = np.where(chooses, 2 * count, keys)
        return replace(rule, keys=keys, shifted=notes, offsets=offsets, limit=3, open=np.ones(2 * count + 1, bool))
    if name == "prompt":
        start = np.random.default_rng(2).random((rows, count)) < 0.5
        return replace(rule, open=start, limit=count - 1)
    return replace(rule, limit=2 if name == "bounded" else count)


@pytest.mark.parametrize("name", ["once", "bounded", "order", "instruments", "prompt"])
def test_closed_keys_equal_the_numpy_reference(toy, name):
    model, prompt, draws = toy.adapted(), prompts(toy.config), uniforms(4, STEPS, 3)
    rule, vocabulary = closed_keys(toy.config, name), toy.config.vocab_size
    grammar = Grammar(np.zeros(vocabulary, np.int32), np.zeros((1, 1), np.int32), 0, rule)
    spec = SPECS["hot"]
    found = model.generate(prompt, spec, draws, grammar)
    allowed = np.empty((*found.shape, vocabulary), bool)
    for row, tokens in enumerate(found):
        keys = OpenKeys(replace(rule, open=np.broadcast_to(rule.open, (3, rule.open.shape[-1]))[row]))
        for step, token in enumerate(tokens):
            allowed[row, step] = keys.allowed()
            assert allowed[row, step, token]
            keys.follow(token)
    assert not allowed.all()
    check_draws(logits_before(model, prompt, found), found, draws, spec, allowed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"uniforms": np.zeros((21, 2), np.float32)}, "24"),
        ({"uniforms": np.zeros((3, 5), np.float32)}, "uniforms"),
        ({"prompts": np.zeros((2, 0), np.int32)}, "prompts"),
        ({"prompts": np.full((2, 4), 16, np.int32)}, "15"),
    ],
    ids=["too_long", "rows_differ", "no_prompt", "id_too_large"],
)
def test_request_that_does_not_fit_raises_and_says_what_is_allowed(square, change, said):
    request = {"prompts": np.zeros((2, 4), np.int32), "spec": SamplingSpec(), "uniforms": np.zeros((3, 2), np.float32)}
    with pytest.raises(MusicLoraError, match=said):
        square.load().generate(**{**request, **change})
