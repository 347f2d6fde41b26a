"""Generation with arrival-time tokens, once for every backend: the recorded sampling of the original."""

from __future__ import annotations

import json

import numpy as np
import pytest
from arrival_recordings import FOLDER

from musiclora.backends.base import FAMILIES, SamplingSpec
from musiclora.symbolic.dataset.arrival_rows import pad_rests
from musiclora.symbolic.decoding.arrival_context import ArrivalPiece, Given
from musiclora.symbolic.decoding.arrival_draw import draw_events
from musiclora.symbolic.decoding.arrival_grammar import DURATION, NOTE, TIME, ArrivalGrammar
from musiclora.symbolic.tokens.arrival import CONTROL_OFFSET, REST

RECORDED = json.loads((FOLDER / "sampling.json").read_text())
CLIPPED_STEPS = 5  # the original leaves out controls before this time


@pytest.fixture(scope="module")
def recorded_model(backend):
    return backend.load(FAMILIES["symbolic"], FOLDER / "model")


def by_time(*events):
    everything = np.concatenate(events)
    return everything[np.argsort(everything[:, 0], kind="stable")]


def given_of(case):
    """What the original makes of a recorded case: prompt, controls, start and stop; and the future it puts back."""
    name, start, stop = case["name"], int(100 * case["start_time"]), int(100 * case["end_time"])
    inputs = np.array(RECORDED["inputs"].get(name, []), np.int64).reshape(-1, 3)
    controls = np.array(RECORDED["controls"].get(name, []), np.int64).reshape(-1, 3) - CONTROL_OFFSET
    past, future = inputs[inputs[:, 0] <= start], inputs[inputs[:, 0] > start]
    shown = by_time(controls[controls[:, 0] >= CLIPPED_STEPS], future)
    prompt = pad_rests(past.ravel(), start).reshape(-1, 3)
    return Given(prompt, shown, start, stop, 10_000), past, future


@pytest.mark.parametrize("number", range(len(RECORDED["cases"])), ids=lambda i: f"{i}-{RECORDED['cases'][i]['name']}")
@pytest.mark.parametrize("at_once", [1, None], ids=["single", "blocks"])
def test_sampling_agrees_with_the_original(recorded_model, number, at_once):
    case = RECORDED["cases"][number]
    given, past, future = given_of(case)
    uniforms = np.array(case["uniforms"], np.float32)

    def draws(_, first, count):
        """The recorded draws; events behind the last one are taken back whatever they are."""
        return np.resize(np.append(uniforms[first : first + count], np.zeros(count, np.float32)), count)

    piece = ArrivalPiece(0, given)
    grammar = ArrivalGrammar(recorded_model.vocab_size, rests=(TIME, DURATION, NOTE))  # which the original leaves open
    draw_events(recorded_model, [piece], SamplingSpec(top_p=case["top_p"]), draws, grammar, at_once=at_once)
    drawn = np.array(piece.drawn, np.int64).reshape(-1, 3)
    found = by_time(past, drawn[drawn[:, 2] != REST], future)
    np.testing.assert_array_equal(found, np.array(case["events"]).reshape(-1, 3))
    assert 3 * (len(piece.drawn) + 1) == len(uniforms)  # the last event lies past the end
