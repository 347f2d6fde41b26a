"""Properties of generation sessions, once for every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from session_toys import CAPACITY, PROMPT, ROWS, SPEC, STEPS, begin, random_tokens, scores_before
from tolerance import assert_same_draws

from musiclora.backends.base import SamplingSpec
from musiclora.convert.errors import DataError, MusicLoraError
from musiclora.sampling import decision_margin, uniforms


def margin_in(model, rows, starts, draws, spec=SPEC):
    """The margin of a draw of sequences that are given up to `starts`."""

    def margin(row, step):
        u = float(draws[step, row])
        return decision_margin(scores_before(model, rows[row], starts[row] + step), u, spec)

    return margin


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


def test_logits_that_are_not_finite_raise_and_the_rows_stay(square):
    model = square.adapted()
    model.write_adapter({name: np.full_like(array, 1e30) for name, array in model.read_adapter().items()})
    session = begin(model, random_tokens(square.config))
    with pytest.raises(DataError, match="are not finite"):
        session.draw(np.zeros((3, ROWS), np.float32))
    assert session.lengths.tolist() == [PROMPT] * ROWS
