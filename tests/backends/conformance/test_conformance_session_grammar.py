"""Grammars in generation sessions, once for every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from session_toys import PROMPT, ROWS, SPEC, begin, random_tokens, scores_before
from toys import Toy, formula_tensors

from musiclora.backends.base import ClosedKeys, Grammar, SamplingSpec
from musiclora.convert.errors import ConfigError
from musiclora.convert.models.gpt2 import Gpt2Config, write_checkpoint
from musiclora.sampling import OpenKeys, decision_margin, sample_token, uniforms

# More tokens than a backend computes whole: blocks of times, durations and notes, and one id that is never drawn.
WIDE = Gpt2Config(9001, n_positions=40, n_embd=8, n_layer=2, n_head=2, n_inner=16, scale_attn_by_inverse_layer_idx=True)
TIMES, DURATIONS = 4000, 700
GRAMMAR_SPECS = {"plain": SamplingSpec(1.5), "top_p": SamplingSpec(1.0, 0, 0.95), "top_k": SamplingSpec(1.5, 40, 0.98)}


@pytest.fixture(scope="module")
def wide(backend, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide") / "model"
    tensors = formula_tensors(WIDE)  # whose waves would repeat every few tokens
    drawn = np.random.default_rng(0).normal(0, 2, (WIDE.vocab_size, WIDE.n_embd))
    write_checkpoint(folder, WIDE, tensors | {"transformer.wte.weight": drawn.astype(np.float32)}, "hf")
    return Toy(backend, folder, WIDE).load()


class Triples:
    """Times never fall, durations and notes follow; the tables are the same objects for every draw."""

    def __init__(self):
        ids = np.arange(WIDE.vocab_size, dtype=np.int32)
        self.classes = np.digitize(ids, [TIMES, TIMES + DURATIONS, WIDE.vocab_size - 1]).astype(np.int32)
        self.transitions = np.array([[1, -1, -1, -1], [-1, 2, -1, -1], [-1, -1, 0, -1]], np.int32)
        none = np.zeros(len(ids), np.int32)
        keys = np.where(ids < TIMES, ids, -1).astype(np.int32)
        last = np.where(ids < TIMES, keys, 0).astype(np.int32)
        self.rule = ClosedKeys(keys, none > 0, none > 0, none - 1, none, last, TIMES + 1, np.ones(TIMES, bool))

    def at(self, states, earliest):
        opened = np.arange(TIMES) >= np.asarray(earliest)[:, None]
        return Grammar(self.classes, self.transitions, np.array(states, np.int32), replace(self.rule, open=opened))


def reference_draw(model, row, u, spec, grammar_row):
    """The numpy sampler's token, its margin, and the mask that the automaton and the keys allow."""
    state, keys, tables = grammar_row
    allowed = (tables.transitions[state][tables.classes] >= 0) & keys.allowed()
    scores = scores_before(model, row, len(row))
    arguments = (scores, float(u), spec, allowed)
    return sample_token(*arguments), decision_margin(*arguments), allowed


@pytest.mark.parametrize("spec", GRAMMAR_SPECS.values(), ids=GRAMMAR_SPECS)
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
def test_an_ordered_block_across_draws_equals_the_numpy_reference(wide, spec, ragged):
    tables, draws, checked = Triples(), uniforms(11, 14, 2), 0
    session = wide.start_generation(2, 24, spec)
    states, counts = np.array([0, 2 if ragged else 0]), np.array([1, 3 if ragged else 1])
    given = random_tokens(WIDE, 2, 3)
    session.extend(given, counts)
    rows = [given[row, :count].tolist() for row, count in enumerate(counts)]
    latest = np.array([100, 250])
    for first, count in ((0, 5), (5, 1), (6, 8)):
        grammar = tables.at(states, latest)
        found = session.draw(draws[first : first + count], grammar)
        for row in range(2):
            keys = OpenKeys(replace(grammar.closed_keys, open=grammar.closed_keys.open[row]))
            for step, token in enumerate(found[row].tolist()):
                u = draws[first + step, row]
                expected, margin, allowed = reference_draw(wide, rows[row], u, spec, (states[row], keys, tables))
                assert allowed[token]
                if margin > 1e-5:
                    checked += 1
                    assert token == expected, (row, first + step)
                if states[row] == 0:
                    assert token >= latest[row]
                    latest[row] = token
                keys.follow(token)
                states[row] = tables.transitions[states[row], tables.classes[token]]
                rows[row].append(token)
    assert checked > 14  # of 28


@pytest.mark.parametrize("spec", GRAMMAR_SPECS.values(), ids=GRAMMAR_SPECS)
def test_draws_from_a_wide_vocabulary_equal_the_numpy_reference(wide, spec):
    prompt, draws = random_tokens(WIDE, 2, 4), uniforms(1, 10, 2)
    found = wide.generate(prompt, spec, draws)
    scores = wide.logits({"tokens": np.concatenate([prompt, found], axis=1)})[:, 3:-1]
    checked = 0
    for row, step in np.ndindex(found.shape):
        arguments = (scores[row, step], float(draws[step, row]), spec)
        if decision_margin(*arguments) > 1e-5:
            checked += 1
            assert found[row, step] == sample_token(*arguments), (row, step)
    assert checked > 8  # of 20


def test_a_grammar_with_other_tables_replaces_the_last_one(square):
    model, draws = square.load(), uniforms(8, 4, ROWS)
    session, vocabulary = begin(model, random_tokens(square.config)), square.config.vocab_size
    for wanted in (1, 2):
        classes = (np.arange(vocabulary) % 4 == wanted).astype(np.int32)
        found = session.draw(draws, Grammar(classes, np.array([[-1, 0]], np.int32)))
        assert (found % 4 == wanted).all()
    assert (session.draw(draws[:2]) % 4 != 2).any()  # without a grammar everything is allowed again


def test_a_grammar_that_does_not_fit_raises_before_anything_is_drawn(square):
    session = begin(square.load(), random_tokens(square.config))
    grammar = Grammar(np.zeros(3, np.int32), np.zeros((1, 1), np.int32))
    with pytest.raises(ConfigError, match="knows 3 tokens"):
        session.draw(np.zeros((1, ROWS), np.float32), grammar)
    assert session.lengths.tolist() == [PROMPT] * ROWS


def test_open_keys_of_a_later_draw_are_checked_although_the_tables_are_known(wide):
    """The last time of an ordered block stays open, unless a row begins with it closed."""
    tables, session = Triples(), wide.start_generation(2, 20, SPEC)
    session.extend(random_tokens(WIDE, 2, 1))
    session.draw(np.zeros((3, 2), np.float32), tables.at([0, 0], [0, 0]))
    with pytest.raises(ConfigError, match="states 0 forbid every token where keys are closed"):
        session.draw(np.zeros((3, 2), np.float32), tables.at([0, 0], [0, TIMES]))
    assert session.lengths.tolist() == [4, 4]
