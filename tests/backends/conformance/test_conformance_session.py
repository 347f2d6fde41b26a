"""Properties of generation sessions, once for every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tolerance import assert_same_draws
from toys import Toy, formula_tensors

from musiclora.backends.base import ClosedKeys, Grammar, SamplingSpec
from musiclora.convert.errors import ConfigError, DataError, MusicLoraError
from musiclora.convert.models.gpt2 import Gpt2Config, write_checkpoint
from musiclora.sampling import OpenKeys, decision_margin, sample_token, uniforms

ROWS, PROMPT, STEPS = 3, 5, 12
CAPACITY = PROMPT + STEPS
SPEC = SamplingSpec(1.2, 9, 0.9)


def random_tokens(config, rows=ROWS, count=PROMPT, seed=0):
    return np.random.default_rng(seed).integers(0, config.vocab_size, (rows, count), dtype=np.int32)


def scores_before(model, row, step):
    """The logits from which token `step` of a sequence was drawn, by one pass over what precedes it."""
    return model.logits({"tokens": np.asarray(row)[None, :step]})[0, -1]


def margin_in(model, rows, starts, draws, spec=SPEC):
    """The margin of a draw of sequences that are given up to `starts`."""

    def margin(row, step):
        u = float(draws[step, row])
        return decision_margin(scores_before(model, rows[row], starts[row] + step), u, spec)

    return margin


def begin(model, prompt, spec=SPEC, capacity=CAPACITY):
    session = model.start_generation(len(prompt), capacity, spec)
    session.extend(prompt)
    return session


@pytest.fixture
def one_shot(toy):
    """A model, its prompts and draws, and what one call of generate makes of them."""
    model, prompt, draws = toy.adapted(), random_tokens(toy.config), uniforms(3, STEPS, ROWS)
    return model, prompt, draws, model.generate(prompt, SPEC, draws)


def assert_continues(model, rows, starts, draws, found, expected, spec=SPEC):
    """Compare draws that continue sequences; other shapes of products may round otherwise."""
    assert_same_draws(found, expected, margin_in(model, rows, starts, draws, spec))


@pytest.mark.parametrize("pieces", [(12,), (1,) * 12, (5, 0, 4, 3)], ids=["one", "single", "several"])
def test_draws_in_pieces_equal_one_generation(one_shot, pieces):
    model, prompt, draws, expected = one_shot
    session, found, first = begin(model, prompt), [], 0
    for count in pieces:
        found.append(session.draw(draws[first : first + count]))
        assert found[-1].dtype == np.int32
        assert found[-1].shape == (ROWS, count)
        first += count
        assert session.lengths.tolist() == [PROMPT + first] * ROWS
    rows = np.concatenate([prompt, expected], axis=1)
    assert_continues(model, rows, [PROMPT] * ROWS, draws, np.concatenate(found, axis=1), expected)


@pytest.mark.parametrize("widths", [(1, 4), (1, 1, 1, 1, 1), (3, 0, 2)], ids=str)
def test_extensions_in_pieces_equal_one(one_shot, widths):
    model, prompt, draws, expected = one_shot
    session, first = model.start_generation(ROWS, CAPACITY, SPEC), 0
    for width in widths:
        session.extend(prompt[:, first : first + width])
        first += width
    rows = np.concatenate([prompt, expected], axis=1)
    assert_continues(model, rows, [PROMPT] * ROWS, draws, session.draw(draws), expected)


def test_given_tokens_between_drawn_ones_count_as_drawn_ones(one_shot):
    """Tokens that are given after some draws lead to the same draws as if they had been drawn."""
    model, prompt, draws, expected = one_shot
    session = begin(model, prompt)
    session.draw(draws[:3])
    session.extend(expected[:, 3:7])
    found = session.draw(draws[7:])
    rows = np.concatenate([prompt, expected], axis=1)
    assert_continues(model, rows, [PROMPT + 7] * ROWS, draws[7:], found, expected[:, 7:])


@pytest.mark.parametrize("length", range(1, CAPACITY + 1))
def test_draws_after_a_rewind_are_repeated(one_shot, length):
    model, prompt, draws, expected = one_shot
    session, rows = begin(model, prompt), np.concatenate([prompt, expected], axis=1)
    session.draw(draws)
    session.rewind(np.full(ROWS, length))
    assert session.lengths.tolist() == [length] * ROWS
    session.extend(rows[:, length:PROMPT])
    start = max(length, PROMPT)
    found = session.draw(draws[start - PROMPT :])
    assert_continues(model, rows, [start] * ROWS, draws[start - PROMPT :], found, rows[:, start:])


def test_a_row_may_begin_anew(one_shot):
    model, prompt, draws, expected = one_shot
    session = begin(model, random_tokens(model, ROWS, PROMPT, seed=9))
    session.draw(draws[:4])
    session.rewind(np.zeros(ROWS, int))
    session.extend(prompt)
    rows = np.concatenate([prompt, expected], axis=1)
    assert_continues(model, rows, [PROMPT] * ROWS, draws, session.draw(draws), expected)


def test_rows_of_different_lengths_equal_each_row_alone(toy):
    """Three rounds: extended, drawn and cut back by row, then the same for each row in a session of its own."""
    model, draws, rng = toy.adapted(), uniforms(7, 9, ROWS), np.random.default_rng(4)
    together = model.start_generation(ROWS, CAPACITY, SPEC)
    alone = [model.start_generation(1, CAPACITY, SPEC) for _ in range(ROWS)]
    rows: list[list[int]] = [[] for _ in range(ROWS)]
    for turn in range(3):
        given = random_tokens(toy.config, ROWS, 4, seed=turn)
        counts = np.array([1, 2, 4]) if turn == 0 else rng.integers(0, 3, ROWS)
        together.extend(given, counts)
        for session, new, count, row in zip(alone, given, counts, rows, strict=True):
            session.extend(new[None, :count])
            row.extend(new[:count].tolist())
        starts, u = [len(row) for row in rows], draws[3 * turn : 3 * turn + 3]
        assert together.lengths.tolist() == starts
        found = together.draw(u)
        expected = np.concatenate([session.draw(u[:, [i]]) for i, session in enumerate(alone)])
        whole = [[*row, *new] for row, new in zip(rows, expected.tolist(), strict=True)]
        assert_continues(model, whole, starts, u, found, expected)
        if (found != expected).any():
            return  # rounding decided a draw: the rows go on from different tokens
        kept = [len(row) - int(cut) for row, cut in zip(whole, rng.integers(0, 4, ROWS), strict=True)]
        together.rewind(np.array(kept))
        for session, length in zip(alone, kept, strict=True):
            session.rewind(np.array([length]))
        rows = [row[:length] for row, length in zip(whole, kept, strict=True)]


def test_an_ended_row_keeps_its_length_and_yields_padding_until_it_changes(square):
    model, prompt, draws = square.load(), random_tokens(square.config), uniforms(2, STEPS, ROWS)
    free = begin(model, prompt, SamplingSpec()).draw(draws)
    eos = int(free[0, 2])
    ends = [int(np.flatnonzero(row == eos)[0]) + 1 if (row == eos).any() else STEPS for row in free]
    session = begin(model, prompt, SamplingSpec(eos_id=eos, pad_id=1), CAPACITY + 1)
    blocks: list[np.ndarray] = []
    found = np.concatenate([session.draw(draws[:4], None, blocks.append), session.draw(draws[4:])], axis=1)
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), found[:, :4])
    for row, end in enumerate(ends):
        np.testing.assert_array_equal(found[row, :end], free[row, :end])
        assert (found[row, end:] == 1).all()
    assert session.lengths.tolist() == [PROMPT + end for end in ends]
    lengths = session.lengths
    lengths[0] -= 1  # cut off eos_id: the row goes on, the others stay as they are
    session.rewind(lengths)
    again = session.draw(draws[ends[0] - 1 : ends[0]])
    assert again[0, 0] == eos
    assert (again[1:, 0][np.array(ends[1:]) < STEPS] == 1).all()


def test_a_session_whose_rows_have_all_ended_reports_padding(square):
    model, prompt, blocks = square.load(), random_tokens(square.config, 1), []
    eos = int(begin(model, prompt, SamplingSpec(0.0)).draw(np.zeros((1, 1)))[0, 0])
    session = begin(model, prompt, SamplingSpec(0.0, eos_id=eos, pad_id=3))
    assert session.draw(np.zeros((1, 1))).tolist() == [[eos]]
    assert session.draw(np.zeros((4, 1)), None, blocks.append).tolist() == [[3] * 4]
    assert np.concatenate(blocks, axis=1).tolist() == [[3] * 4]
    assert session.lengths.tolist() == [PROMPT + 1]


def test_a_session_keeps_the_adapter_it_started_with(square):
    model, prompt, draws = square.adapted(), random_tokens(square.config), uniforms(5, STEPS, ROWS)
    expected = model.generate(prompt, SPEC, draws)
    session = begin(model, prompt)
    model.set_adapter(False)
    assert (model.generate(prompt, SPEC, draws) != expected).any()
    np.testing.assert_array_equal(session.draw(draws), expected)


# --- grammars ---

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


# --- refusals ---


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.start_generation(0, 9, SPEC), "0 rows"),
        (lambda m: m.start_generation(2, 25, SPEC), "1 to 24"),
        (lambda m: m.start_generation(2, 0, SPEC), "1 to 24"),
        (lambda m: m.start_generation(2, 9, replace(SPEC, pad_id=16)), "pad_id is 16; allowed are 0 to 15"),
    ],
    ids=["no_rows", "capacity", "no_capacity", "pad_id"],
)
def test_a_session_that_does_not_fit_raises_and_says_what_is_allowed(square, call, said):
    with pytest.raises(DataError, match=said):
        call(square.load())


REFUSED = {
    "rows": (lambda s: s.extend(np.zeros((3, 1), np.int32)), r"tokens \[2, n\]"),
    "fractions": (lambda s: s.extend(np.zeros((2, 1))), "integer"),
    "ids": (lambda s: s.extend(np.array([[3], [16]])), "allowed are 0 to 15"),
    "capacity": (lambda s: s.extend(np.zeros((2, 7), np.int32), np.array([7, 0])), "would have 11 tokens; .* holds 10"),
    "all_at_once": (lambda s: s.extend(np.full((2, 7), -1)), "ids go from -1 to -1.*would have 11"),
    "counts": (lambda s: s.extend(np.zeros((2, 1), np.int32), np.array([0, 2])), "counts go from 0 to 2"),
    "counts_of_others": (lambda s: s.extend(np.zeros((2, 1), np.int32), np.array([1])), "counts"),
    "rewind_forward": (lambda s: s.rewind(np.array([4, 5])), "row 1 to 5 tokens; allowed are 0 to 4"),
    "rewind_negative": (lambda s: s.rewind(np.array([-1, 4])), "row 0 to -1"),
    "rewind_rows": (lambda s: s.rewind(np.array([1])), "lengths"),
    "rewind_fractions": (lambda s: s.rewind(np.array([1.0, 2.0])), "lengths"),
    "uniforms": (lambda s: s.draw(np.zeros((2, 3), np.float32)), "uniforms"),
    "no_matrix": (lambda s: s.draw(np.zeros(2, np.float32)), "uniforms"),
    "steps": (lambda s: s.draw(np.zeros((7, 2), np.float32)), "would have 11 tokens"),
}


@pytest.mark.parametrize(("call", "said"), REFUSED.values(), ids=REFUSED)
def test_a_call_that_does_not_fit_raises_and_changes_nothing(square, call, said):
    model, prompt, draws = square.load(), random_tokens(square.config, 2, 4), uniforms(1, 6, 2)
    session = begin(model, prompt, SPEC, 10)
    with pytest.raises(MusicLoraError, match=said):
        call(session)
    assert session.lengths.tolist() == [4, 4]
    np.testing.assert_array_equal(session.draw(draws), begin(model, prompt, SPEC, 10).draw(draws))


def test_a_draw_on_an_empty_row_raises_and_names_it(square):
    session = square.load().start_generation(2, 10, SPEC)
    session.extend(np.zeros((2, 1), np.int32), np.array([1, 0]))
    with pytest.raises(DataError, match="row 1 has no token"):
        session.draw(np.zeros((1, 2), np.float32))


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


def test_logits_that_are_not_finite_raise_and_the_rows_stay(square):
    model = square.adapted()
    model.write_adapter({name: np.full_like(array, 1e30) for name, array in model.read_adapter().items()})
    session = begin(model, random_tokens(square.config))
    with pytest.raises(DataError, match="are not finite"):
        session.draw(np.zeros((3, ROWS), np.float32))
    assert session.lengths.tolist() == [PROMPT] * ROWS
