"""Drawing of arrival-time tokens: blocks against single events, controls, full contexts, instruments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from reference_session import HashModel

from musiclora.backends.base import SamplingSpec
from musiclora.backends.token_requests import check_grammar
from musiclora.sampling import uniforms
from musiclora.symbolic.dataset.arrival_rows import LEAD_STEPS
from musiclora.symbolic.decoding.arrival.context import ArrivalPiece, Given
from musiclora.symbolic.decoding.arrival.draw import UniformDraws, draw_events
from musiclora.symbolic.decoding.arrival.grammar import DURATION, NOTE, TIME, ArrivalGrammar
from musiclora.symbolic.tokens.arrival import (
    ANTICIPATE,
    AUTOREGRESS,
    CONTROL_OFFSET,
    DUR_OFFSET,
    MAX_STEPS,
    NOTE_OFFSET,
    PITCHES,
    REST,
    VOCAB_SIZE,
)

EVERY = frozenset(range(129))
SPEC = SamplingSpec(top_p=0.9)
NONE = np.zeros((0, 3), np.int64)


def some_events(seed, count=40, after=0):
    rng = np.random.default_rng(seed)
    notes = NOTE_OFFSET + PITCHES * rng.integers(0, 3, count) + rng.integers(40, 80, count)
    return np.stack(
        [after + np.cumsum(rng.integers(0, 60, count)), DUR_OFFSET + rng.integers(1, 99, count), notes], axis=1
    )


def write(given, count=1, at_once=None, model=None, seed=0):
    model = model or HashModel(early=0.05)
    pieces = [ArrivalPiece(number, given) for number in range(count)]
    draw_events(model, pieces, SPEC, UniformDraws(seed), ArrivalGrammar(model.vocab_size), at_once=at_once)
    return pieces, model


CASES = {
    "free": Given(NONE, NONE, most_events=20),
    "prompt": Given(some_events(1), NONE, int(some_events(1)[-1, 0]), most_events=12),
    "controls": Given(NONE, some_events(2, 30), 0, 1000, 30),
    "both": Given(some_events(3, 10), some_events(4, 20, after=400), 300, 1000, 20),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_blocks_equal_single_events(name):
    single, _ = write(CASES[name], at_once=1)
    for at_once in (None, 5):
        blocks, _ = write(CASES[name], at_once=at_once)
        assert blocks[0].drawn == single[0].drawn
        assert blocks[0].shown == single[0].shown
    assert single[0].drawn


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_piece_is_the_same_alone_and_among_others(name):
    together, _ = write(CASES[name], count=3)
    assert together[0].drawn != together[1].drawn
    for number in range(3):
        alone = [ArrivalPiece(number, CASES[name])]
        draw_events(HashModel(early=0.05), alone, SPEC, UniformDraws(0), ArrivalGrammar(VOCAB_SIZE))
        assert alone[0].drawn == together[number].drawn


def test_blocks_save_calls():
    _, singly = write(CASES["free"], at_once=1)
    _, model = write(CASES["free"])
    assert model.sessions[0].draws * 3 < singly.sessions[0].draws


@pytest.mark.parametrize("name", ["controls", "both"])
def test_controls_come_five_seconds_ahead(name):
    given = CASES[name]
    piece = write(given)[0][0]
    latest, shown = 0, []
    for index, (step, duration, note) in enumerate(piece.shown):
        if note < CONTROL_OFFSET:
            latest = step
            continue
        assert latest >= step - LEAD_STEPS
        before = [event for event in piece.shown[:index] if event[2] < CONTROL_OFFSET]
        earlier = before[-2][0] if len(before) > 1 else 0  # the control was not yet due before the event in front of it
        if index and piece.shown[index - 1][2] < CONTROL_OFFSET:
            assert not before[:-1] or earlier < step - LEAD_STEPS
        shown.append((step, duration - CONTROL_OFFSET, note - CONTROL_OFFSET))
    assert shown == [tuple(event) for event in given.controls.tolist()][: len(shown)]
    assert len(shown) > 5


def test_times_never_fall_and_stay_before_the_end():
    for name, given in CASES.items():
        piece = write(given)[0][0]
        steps = [event[0] for event in piece.drawn]
        assert steps == sorted(steps), name
        assert all(given.start <= step for step in steps), name
        assert given.stop is None or max(steps) < given.stop


def test_flag_and_first_context():
    _, free = write(CASES["free"])
    _, led = write(CASES["controls"])
    assert free.sessions[0].rows[0][0] == AUTOREGRESS
    assert led.sessions[0].rows[0][0] == ANTICIPATE


@pytest.mark.slow
@pytest.mark.parametrize("most", [10, 11, 40])
def test_a_full_context_goes_on_from_its_last_half(most):
    """Every context that the model sees begins with the flag and has relative times that begin at 0."""
    seen = []

    class Watching(HashModel):
        def last_logits(self, context):
            if len(context) % 3 == 1:
                seen.append(list(context))
            return super().last_logits(context)

    model = Watching(n_positions=1 + 3 * most, early=0.05)
    given = Given(some_events(5, 25), some_events(6, 40, after=600), 500, 4000, 300)
    piece = write(given, model=model, at_once=1)[0][0]
    assert len(piece.drawn) > most
    full = 0
    for context, following in itertools.pairwise(seen):
        triples = np.array(context[1:]).reshape(-1, 3)
        times = triples[:, 0] - np.where(triples[:, 2] > REST, CONTROL_OFFSET, 0)
        assert context[0] == ANTICIPATE
        assert not len(times) or times.min() == 0
        assert len(context) <= 1 + 3 * (most - 1)  # an event fits
        if len(following) < len(context):
            full += 1
            assert len(following) == 1 + 3 * (most // 2)
    assert full > 1
    blocks = write(given, model=HashModel(n_positions=1 + 3 * most, early=0.05))[0][0]
    assert blocks.drawn == piece.drawn


@pytest.mark.slow
def test_a_context_may_not_reach_the_last_time():
    """With a few events in ten seconds each, times run out long before the context is full."""
    model = HashModel(early=0.002)
    piece = write(Given(NONE, NONE, most_events=120), model=model)[0][0]
    assert piece.drawn[-1][0] > 3 * MAX_STEPS
    steps = np.array([event[0] for event in piece.drawn])
    assert (np.diff(steps) >= 0).all()
    assert piece.drawn == write(Given(NONE, NONE, most_events=120), model=HashModel(early=0.002), at_once=1)[0][0].drawn


@pytest.mark.slow
def test_after_fifteen_instruments_no_new_one_comes():
    given = Given(NONE, NONE, most_events=60)
    pieces, _ = write(given, count=2)
    single, _ = write(given, count=2, at_once=1)
    for piece, other in zip(pieces, single, strict=True):
        instruments = [(event[2] - NOTE_OFFSET) // PITCHES for event in piece.drawn if event[2] != REST]
        assert len(set(instruments)) == 15
        first = [i for i, one in enumerate(instruments) if one not in instruments[:i]]
        assert first[-1] < 40
        assert piece.drawn == other.drawn


@pytest.mark.parametrize("chosen", [frozenset({128}), frozenset({0, 33, 128}), frozenset({5})])
def test_only_the_chosen_instruments_are_drawn(chosen):
    given = Given(some_events(1), some_events(2, 40, after=800), 700, None, 40, chosen)
    drawn = write(given)[0][0].drawn
    assert {(event[2] - NOTE_OFFSET) // PITCHES for event in drawn if event[2] != REST} <= chosen
    assert len(drawn) == 40


def test_the_grammar_passes_the_checks_of_the_backends():
    grammar = ArrivalGrammar(VOCAB_SIZE + 12)
    check_grammar(grammar.at([0, MAX_STEPS - 1, 12], [EVERY, frozenset({3}), EVERY]), 3, VOCAB_SIZE + 12)
    one, other = (grammar.at([n], [EVERY]) for n in (1, 2))
    assert one.classes is other.classes
    assert one.transitions is other.transitions  # so that a device keeps its tables


def test_the_grammar_allows_the_blocks_of_an_event():
    grammar = ArrivalGrammar(VOCAB_SIZE + 12)
    found = grammar.at([7], [frozenset({1, 128})])
    start = int(found.start[0])

    def allowed(state):
        return np.flatnonzero(found.transitions[state, found.classes] >= 0)

    def after(state, token):
        return int(found.transitions[state, found.classes[token]])

    np.testing.assert_array_equal(allowed(start + TIME), np.arange(DUR_OFFSET))
    np.testing.assert_array_equal(found.closed_keys.open[0], np.arange(MAX_STEPS) >= 7)
    duration = after(start, 7)
    np.testing.assert_array_equal(allowed(duration), np.arange(DUR_OFFSET, NOTE_OFFSET))
    note = after(duration, DUR_OFFSET)
    blocks = [NOTE_OFFSET + PITCHES * one + np.arange(PITCHES) for one in (1, 128)]
    np.testing.assert_array_equal(allowed(note), [*blocks[0], *blocks[1], REST])
    assert after(note, NOTE_OFFSET + PITCHES) == after(note, REST) == start
    assert start + DURATION == duration
    assert start + NOTE == note


def test_uniform_draws_are_those_of_the_seed():
    draws = UniformDraws(7)
    expected = uniforms(7, 5000, 3)
    for number, first, count in [(0, 0, 3), (2, 1020, 30), (0, 4000, 9), (2, 0, 6)]:
        np.testing.assert_array_equal(draws(number, first, count), expected[first : first + count, number])
