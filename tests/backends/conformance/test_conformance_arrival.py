"""Generation with arrival-time tokens on every backend: the recorded sampling of the original, and properties."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from arrival_recordings import FOLDER
from band_scores import band, notes_of
from toys import formula_tensors

from musiclora.backends.base import FAMILIES, SamplingSpec
from musiclora.convert.models.gpt2 import Gpt2Config, write_checkpoint
from musiclora.music.bars import bar_lines
from musiclora.symbolic.dataset.arrival_rows import pad_rests
from musiclora.symbolic.decoding.arrival.context import ArrivalPiece, Given
from musiclora.symbolic.decoding.arrival.draw import draw_events
from musiclora.symbolic.decoding.arrival.grammar import DURATION, NOTE, TIME, ArrivalGrammar
from musiclora.symbolic.decoding.arrival.parts import program_of
from musiclora.symbolic.decoding.clock import Clock
from musiclora.symbolic.decoding.pieces import generate_pieces
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.tokens.arrival import CONTROL_OFFSET, REST, VOCAB_SIZE, ArrivalTokenizer

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


@pytest.fixture(scope="module")
def small_model(backend, tmp_path_factory):
    """A model with short contexts, to which later times are less probable."""
    config = Gpt2Config(VOCAB_SIZE, n_positions=70, n_embd=8, n_layer=1, n_head=2, n_inner=8)
    tensors = formula_tensors(config)
    head, norm = (next(name for name in tensors if name.endswith(end)) for end in ("wte.weight", "ln_f.weight"))
    tensors[head][:, 0] = 0
    tensors[head][:10_000, 0] = -0.05 * np.arange(10_000)
    tensors[norm][0] = 0
    tensors[norm.replace("weight", "bias")][0] = 1
    folder = tmp_path_factory.mktemp("arrival") / "model"
    write_checkpoint(folder, config, tensors, "hf")
    return backend.load(FAMILIES["symbolic"], folder)


def write(model, **request):
    return generate_pieces(model, ArrivalTokenizer(), GenerationRequest(**request))


@pytest.mark.parametrize("seed", [0, 1])
def test_given_parts_come_back_note_for_note(small_model, seed):
    score = band(seed, 3)
    given = notes_of(score, [0, 3])
    for piece in write(small_model, accompany=score, parts=("melody", "drums"), seed=seed, count=3):
        new = notes_of(piece.score) - given
        assert given <= notes_of(piece.score)
        assert new
        assert max(at for _, at, _, _, _ in new) < max(at + length for _, at, length, _, _ in given)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_filled_gap_leaves_everything_outside_untouched(small_model, seed):
    score = band(seed, 5)
    lines = bar_lines(score, score.end())
    first, last = lines[2], lines[4]
    clock = Clock(score)
    gap = {"from_seconds": float(clock.seconds(first)), "to_seconds": float(clock.seconds(last))}
    outside = Counter({note: n for note, n in notes_of(score).items() if not first <= note[1] < last})
    for piece in write(small_model, infill=score, seed=seed, count=2, **gap):
        new = notes_of(piece.score) - outside
        assert outside <= notes_of(piece.score)
        assert new
        assert all(first <= at and at + length <= last for _, at, length, _, _ in new)


def test_only_the_instruments_asked_for_sound_and_times_never_fall(small_model):
    for piece in write(small_model, max_new_tokens=150, instruments=frozenset({0, 33, -1}), count=3):
        steps = np.array(piece.ids)[::3]
        assert (np.diff(steps) >= 0).all()
        assert len(steps) == 50  # more than a context holds
        assert {program_of(track) for track in piece.score.tracks} <= {0, 33, -1}


def test_the_same_seed_gives_the_same_midi(small_model):
    request = {"accompany": band(1, 2), "parts": ("melody",), "count": 2}
    one, other = (write(small_model, **request) for _ in range(2))
    assert [piece.score.dumps_midi() for piece in one] == [piece.score.dumps_midi() for piece in other]
    assert one[0].score.dumps_midi() != one[1].score.dumps_midi()
