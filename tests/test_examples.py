"""The scripts that made the bundled base and measured it."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "bundled_base"


def script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def melody(seed, length=60):
    return np.random.default_rng(seed).integers(60, 80, length)


def song(pitches):
    return SimpleNamespace(pitches=pitches)


def test_without_copies_keeps_the_longest_printing_and_every_other_tune():
    tune = melody(1)
    songs = [song(tune[:50]), song(melody(2)), song(tune + 5)]

    assert script("make_data").without_copies(songs) == {1, 2}


def test_without_copies_keeps_relatives_that_differ_in_half():
    first, second = melody(1), melody(1)
    second[30:] = melody(3)[30:]

    assert script("make_data").without_copies([song(first), song(second)]) == {0, 1}


@pytest.mark.parametrize(
    ("piece", "anywhere", "closest", "copies"),
    [
        (melody(1) + 3, 1.0, 1.0, 1),
        (melody(9), 0.0, 0.0, 0),
        (np.concatenate([melody(1)[:33], melody(2)[:33]]), 0.86, 0.43, 1),
    ],
    ids=["a transposed copy", "a new tune", "half of two tunes"],
)
def test_overlap_counts_runs_of_training_tunes_in_any_key(piece, anywhere, closest, copies):
    measure = script("measure")

    found = measure.overlap([piece], measure.owners_of_runs([melody(1), melody(2)]))

    # 66 notes make 58 runs; the join of the two halves spoils 8 of them, so 25 from each tune are found.
    assert found["runs_found_in_training_median"] == pytest.approx(anywhere, abs=0.005)
    assert found["runs_shared_with_closest_tune_largest"] == pytest.approx(closest, abs=0.005)
    assert found["pieces_over_30_percent"] == copies
