"""MLX's generation against the numpy sampler fed with logits of whole sequences."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
import tolerance
from tolerance import assert_same_draws

from musiclora.backends import lora_init
from musiclora.backends.base import FAMILIES, Grammar, SamplingSpec
from musiclora.backends.mlx.backend import BACKEND
from musiclora.backends.mlx.decoding import DecodeMode
from musiclora.backends.mlx.generation import MlxSession, generate
from musiclora.backends.mlx.sampler import ranked, sample
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.errors import DataError
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint
from musiclora.sampling import decision_margin, sample_token

CONFIG = Gpt2Config(vocab_size=61, n_positions=48, n_embd=24, n_layer=2, n_head=3, n_inner=40)
GRAMMAR = Grammar(
    np.arange(61, dtype=np.int32) % 3,
    np.array([[1, -1, 2], [-1, 2, 0], [0, 1, -1]], np.int32),
    np.array([0, 1, 2], np.int32),
)
MODES = {"exact": DecodeMode(1, False), "buckets": DecodeMode(16, True)}  # of the CPU build, and of a GPU


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "model"
    rng = np.random.default_rng(1)
    tensors = {k: v + rng.normal(0, 0.2, v.shape).astype(np.float32) for k, v in fresh_tensors(CONFIG, 3).items()}
    write_checkpoint(path, CONFIG, tensors, "hf")
    loaded = BACKEND.load(FAMILIES["symbolic"], path)
    spec = LoraSpec(3, 6.0, 0.0, ("c_attn", "c_proj", "c_fc"))
    state = lora_init.initial(spec, loaded.linear_shapes(), 5)
    loaded.inject_adapter(spec, {k: v + rng.normal(0, 0.1, v.shape).astype(np.float32) for k, v in state.items()})
    return loaded


def reference_token(logits, u, spec, allowed):
    """One draw, written down from SamplingSpec's docstring in float64."""
    scaled = np.where(allowed, logits.astype(np.float64) / (spec.temperature or 1), -np.inf)
    order = np.argsort(-scaled, kind="stable")
    if spec.temperature == 0:
        return order[0]
    mass = np.exp(scaled[order] - scaled[order[0]])
    mass /= mass.sum()
    kept = mass[: spec.top_k or None]
    kept = kept[np.cumsum(kept) - kept < spec.top_p]
    return order[: len(kept)][np.searchsorted(np.cumsum(kept) / kept.sum(), u, side="right")]


def reference(model, prompts, spec, draws, grammar):
    """Tokens [rows, steps], and the margins of their draws."""
    rows, out, margins = np.array(prompts), [], []
    state = np.array(grammar.start) if grammar else None
    done = np.zeros(len(prompts), bool)
    for u in draws:
        logits, new = model.logits({"tokens": rows})[:, -1], []
        for i in range(len(rows)):
            allowed = grammar.transitions[state[i]][grammar.classes] >= 0 if grammar else True
            token = spec.pad_id if done[i] else reference_token(logits[i], u[i], spec, allowed)
            permitted = None if allowed is True else allowed
            margins.append(1.0 if done[i] else decision_margin(logits[i], float(u[i]), spec, permitted))
            if grammar and not done[i]:
                state[i] = grammar.transitions[state[i], grammar.classes[token]]
            done[i] |= token == spec.eos_id
            new.append(token)
        out.append(new)
        rows = np.concatenate([rows, np.array(new, np.int32)[:, None]], axis=1)
    return np.array(out, np.int32).T, np.reshape(margins, np.shape(out)).T


def assert_reference(found, model, prompts, spec, draws, grammar):
    """Single tokens with kept keys are computed in another order than whole sequences."""
    expected, margins = reference(model, prompts, spec, draws, grammar)
    assert_same_draws(found, expected, lambda row, step: margins[row, step])


@pytest.fixture(scope="module")
def prompts():
    return np.random.default_rng(2).integers(0, 61, (3, 5)).astype(np.int32)


@pytest.fixture(scope="module")
def draws():
    return np.random.default_rng(3).random((40, 3), np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("grammar", [None, GRAMMAR], ids=["free", "grammar"])
@pytest.mark.parametrize(
    "spec",
    [
        SamplingSpec(0),
        SamplingSpec(),
        SamplingSpec(0.8, 0, 0.7),
        SamplingSpec(1, 5),
        SamplingSpec(1.3, 20, 0.9, eos_id=7, pad_id=1),
    ],
    ids=["greedy", "plain", "top-p", "top-k", "all with an end"],
)
def test_generate_equals_the_reference_sampler_on_whole_sequences(model, prompts, draws, spec, grammar, mode):
    found = generate(model, prompts, spec, draws, grammar, mode=MODES[mode])
    assert_reference(found, model, prompts, spec, draws, grammar)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_generate_compiled_equals_the_reference_sampler(model, prompts, draws):
    spec = SamplingSpec(0.9, 30, 0.95)
    found = generate(model, prompts, spec, draws, GRAMMAR, mode=MODES["buckets"])
    assert_reference(found, model, prompts, spec, draws, GRAMMAR)


def test_generate_leaves_weights_and_adapter_bit_for_bit(model, prompts, draws):
    before = {**dict(model.read_weights()), **model.read_adapter()}
    model.generate(prompts, SamplingSpec(), draws)
    after = {**dict(model.read_weights()), **model.read_adapter()}
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_generate_reports_blocks_that_make_up_the_result(model, prompts, draws):
    blocks = []
    found = model.generate(prompts, SamplingSpec(), draws, None, blocks.append)
    assert [block.shape for block in blocks] == [(3, 16), (3, 16), (3, 8)]
    assert np.array_equal(np.concatenate(blocks, axis=1), found)


def test_generate_stops_when_every_row_has_ended(model, prompts, draws):
    first = int(model.generate(prompts[:1], SamplingSpec(0), draws[:1, :1])[0, 0])
    blocks = []
    spec = SamplingSpec(0, eos_id=first, pad_id=60)
    found = model.generate(prompts[:1], spec, draws[:, :1], None, blocks.append)
    assert found[0].tolist() == [first] + [60] * 39
    assert [block.shape[1] for block in blocks] == [16, 24]  # the end is seen after 16 tokens; padding follows


def test_generate_with_the_adapter_off_is_the_base(model, prompts, draws):
    on = model.generate(prompts, SamplingSpec(0), draws)
    model.set_adapter(False)
    try:
        off = model.generate(prompts, SamplingSpec(0), draws)
        assert_reference(off, model, prompts, SamplingSpec(0), draws, None)
    finally:
        model.set_adapter(True)
    assert on.tolist() != off.tolist()


def test_generate_with_damaged_weights_raises(model, prompts, draws, monkeypatch):
    name = "transformer.ln_f.bias"
    monkeypatch.setitem(model.weights, name, model.weights[name] * mx.nan)
    with pytest.raises(DataError, match="not finite"):
        model.generate(prompts, SamplingSpec(), draws)


@pytest.mark.parametrize(
    ("prompt", "steps", "columns", "message"),
    [([[1, 2]], 47, 1, "48 positions"), ([[1, 61]], 2, 1, "0 to 60"), ([[1, 2]], 2, 3, "3 columns")],
    ids=["too long", "unknown id", "draws of another batch"],
)
def test_generate_refuses_what_does_not_fit(model, prompt, steps, columns, message):
    with pytest.raises(DataError, match=message):
        model.generate(np.array(prompt, np.int32), SamplingSpec(), np.zeros((steps, columns), np.float32))


# --- sessions, in the modes of both kinds of device ---


def assert_drawn(model, rows, starts, draws, found, spec):
    """Every token that a session drew is the numpy sampler's, given whole sequences."""
    for row, start in enumerate(starts):
        tokens = [*rows[row][:start], *found[row]]
        for step, token in enumerate(found[row]):
            scores = model.logits({"tokens": np.array([tokens[: start + step]], np.int32)})[0, -1]
            if decision_margin(scores, float(draws[step, row]), spec) > tolerance.LOGITS:
                assert token == sample_token(scores, float(draws[step, row]), spec), (row, step)


@pytest.mark.parametrize("name", MODES)
def test_a_session_of_uneven_rows_draws_from_whole_sequences(model, name):
    rng, spec = np.random.default_rng(4), SamplingSpec(0.9, 0, 0.95)
    session, rows = MlxSession(model, 3, 45, spec, MODES[name]), [[], [], []]  # 45: no multiple of the bucket
    uneven = 0
    for turn in range(7):
        counts = rng.integers(turn == 0, 5, 3)
        given = rng.integers(0, 61, (3, 4)).astype(np.int32)
        session.extend(given, counts)
        rows = [row + given[b, : counts[b]].tolist() for b, row in enumerate(rows)]
        steps = min(int(rng.integers(1, 5)), 45 - max(map(len, rows)))
        draws, starts = rng.random((steps, 3), np.float32), [len(row) for row in rows]
        found = session.draw(draws)
        assert_drawn(model, rows, starts, draws, found, spec)
        uneven += len(set(starts)) > 1
        rows = [row + found[b].tolist() for b, row in enumerate(rows)]
        assert session.lengths.tolist() == [len(row) for row in rows]
        if turn % 2:
            rows = [row[: len(row) - int(rng.integers(0, 6))] for row in rows]
            session.rewind(np.array([len(row) for row in rows]))
    assert uneven > 4


@pytest.mark.parametrize("name", MODES)
def test_a_full_row_and_one_that_ended_do_not_disturb_a_third(model, name):
    """A long row that feeds one token beside a short one that feeds many, up to the end of the cache."""
    rng, spec = np.random.default_rng(6), SamplingSpec(eos_id=7, pad_id=60)
    given = rng.integers(0, 61, (3, 30)).astype(np.int32)
    session = MlxSession(model, 3, 32, spec, MODES[name])
    session.extend(given, np.array([30, 4, 29]))
    draws = rng.random((2, 3), np.float32)
    rows, starts = [list(given[0]), list(given[1, :4]), list(given[2, :29])], [30, 4, 29]
    found = session.draw(draws)
    assert 7 not in found
    assert_drawn(model, rows, starts, draws, found, spec)
    rows = [row + found[b].tolist() for b, row in enumerate(rows)]
    more = rng.integers(0, 61, (3, 16)).astype(np.int32)
    session.rewind(np.array([31, 6, 31]))
    session.extend(more, np.array([0, 16, 0]))
    rows = [rows[0][:31], rows[1] + more[1].tolist(), rows[2]]
    draws = rng.random((1, 3), np.float32)
    found = session.draw(draws)
    assert_drawn(model, rows, [31, 22, 31], draws, found, spec)
    assert session.lengths.tolist() == [32, 23, 32]


@pytest.mark.parametrize("counts", [[3, 3], [3, 1]], ids=["even", "uneven"])
def test_a_session_writes_its_cache_in_place(tmp_path, counts):
    """Where anything else holds the old cache, every one of 12 tokens copies it whole, 24 times for two layers."""
    config = replace(CONFIG, n_positions=2048)
    write_checkpoint(tmp_path / "long", config, fresh_tensors(config, 3), "hf")
    session = MlxSession(BACKEND.load(FAMILIES["symbolic"], tmp_path / "long"), 2, 2048, SamplingSpec())
    session.extend(np.ones((2, 3), np.int32), np.array(counts))
    session.draw(np.full((1, 2), 0.5, np.float32))
    mx.reset_peak_memory()
    before, layer = mx.get_active_memory(), 2 * 2 * config.n_embd * 2048 * 4
    session.draw(np.full((12, 2), 0.5, np.float32))
    assert mx.get_peak_memory() - before < 4 * layer  # reads of the last step may not have ended when the next writes


@pytest.mark.parametrize("count", [4, 9], ids=["some", "all"])
def test_ranked_orders_by_falling_score_and_breaks_ties_by_the_lower_id(count):
    scores = np.array([[0.0, 3, -2, 3, -0.0, -np.inf, 0, 5e-40, -2], [1, 1, 1, 1, 1, 1, 1, 1, 1]], np.float32)
    ids, found = ranked(mx.array(scores), count)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    assert np.array(ids).tolist() == expected.tolist()
    assert np.array_equal(np.array(found), np.take_along_axis(scores, expected, axis=1))


def test_sample_at_the_largest_draw_never_takes_what_is_not_kept():
    scores = mx.array(np.log(np.array([[0.5, 0.3, 0.2, 0]], np.float32) + np.float32(1e-45)))
    u = mx.array(np.array([1 - 2**-24], np.float32))
    assert [sample(scores, u, SamplingSpec(1, k, p)).item() for k, p in ((0, 1.0), (2, 1.0), (0, 0.4))] == [2, 1, 0]
