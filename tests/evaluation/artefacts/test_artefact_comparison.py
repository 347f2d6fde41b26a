"""Artefacts against the reference's own: ranges, marks, sets too small for either, and the command's output."""

from __future__ import annotations

import json

import numpy as np
import pytest
from artefact_files import measured
from click.testing import CliRunner
from clicked_sound import RATE, TIMES, melody, with_clicks
from require import require

from musiclora.cli import main
from musiclora.evaluation.artefacts.compare import compare_artefacts
from musiclora.evaluation.artefacts.expected import MEASURES, expect_range

require("librosa")
soundfile = require("soundfile")
BY_KEY = {measure.key: measure for measure in MEASURES}


def test_a_further_recording_of_one_distribution_is_outside_in_one_of_a_hundred():
    """Check 4,000 draws: a share of 1 % has a standard error of 0.16 %; the range is widened to hold all references."""
    rng = np.random.default_rng(0)
    measure, outside = BY_KEY["noise_floor_db"], 0
    for _ in range(4000):
        values = rng.normal(-50, 6, 9)
        expected = expect_range(measure, list(values[:8]), [str(i) for i in range(8)])
        outside += bool(expected.place(values[8]))
    assert 0.004 < outside / 4000 < 0.015


def test_the_range_holds_the_references_and_no_less_than_a_decibel():
    found = expect_range(BY_KEY["noise_floor_db"], [-50.0] * 5, list("abcde"))
    assert (found.low, found.high, found.outside) == (-51, -49, 0)
    wide = expect_range(BY_KEY["noise_floor_db"], [-50.0, -50.1, -50.0, -49.9, -20.0], list("abcde"))
    assert wide.low < -50.1
    assert wide.high > -20
    assert wide.outside == 1


@pytest.mark.parametrize("count", [1, 3, 4])
def test_nothing_is_marked_with_fewer_than_four_recordings(count):
    found = compare_artefacts({"generated": measured([0.0]), "reference": measured([-60.0] * count)})
    marks = found.marks(found.sets["generated"][0])
    assert marks == ({"noise_floor_db": "above"} if count == 4 else {})
    assert (len(found.notes) == 1) == (count < 4)
    assert (found.as_json()["artefacts"]["noise_floor_db"]["expected"] is None) == (count < 4)


def test_segments_count_as_their_recordings():
    segments = [file for source in "ab" for file in measured([-60.0, -61.0], source=source)]
    found = compare_artefacts({"generated": measured([0.0]), "reference": segments})
    assert found.expected["noise_floor_db"] is None
    one = compare_artefacts({"generated": measured([0.0]), "reference": segments[:2] * 2})
    assert one.expected["noise_floor_db"] is not None


def test_rates_too_low_and_rates_that_differ_are_said():
    reference = measured([-60.0] * 4)
    low = compare_artefacts({"generated": measured([-60.0] * 2, 16000, None), "reference": reference})
    assert low.notes == ("energy above 10 kHz is not measured in 2 of 2 generated recordings: sampled at 16,000 Hz",)
    assert low.as_json()["artefacts"]["energy_above_10khz"]["generated"] is None
    assert "not measured" in "\n".join(low.lines())
    other = compare_artefacts({"generated": measured([-60.0], 22050), "reference": reference})
    assert other.notes[0].endswith("generated 22,050; reference 44,100")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("artefacts")
    rng = np.random.default_rng(0)

    def fill(name, sounds):
        (root / name).mkdir()
        for i, sound in enumerate(sounds):
            soundfile.write(root / name / f"{name}-{i}.wav", np.clip(sound, -1, 1), RATE, subtype="PCM_16")
        return root / name

    return {
        "reference": fill("reference", [melody(3.0, seed=i) for i in range(6)]),
        "base": fill("base", [melody(3.0, seed=i) for i in (30, 31)]),
        "made": fill(
            "made",
            [
                melody(3.0, seed=20),
                with_clicks(melody(3.0, seed=21), TIMES[:4], 0.3),
                melody(3.0, seed=22) + 0.05 * rng.normal(size=3 * RATE),
                np.clip(20 * melody(3.0, seed=23), -1, 1),
                np.zeros(3 * RATE),
            ],
        ),
    }


def evaluate(folders, *more):
    pair = ("--generated-dir", folders["made"], "--reference-dir", folders["reference"])
    done = CliRunner().invoke(main, ["evaluate", *(str(a) for a in (*pair, *more))])
    assert done.exit_code == 0, done.stderr
    return done


def test_evaluate_marks_each_fault_and_nothing_of_a_clean_file(folders):
    found = json.loads(evaluate(folders, "--json").stdout)
    files = {row["name"]: row for row in found["artefacts"]["files"]}
    assert files["made-0.wav"]["outside"] == {}
    # Clicks are bright, too.
    assert files["made-1.wav"]["outside"] == {"clicks_per_minute": "above", "energy_above_10khz": "above"}
    assert files["made-1.wav"]["clicks_per_minute"] == pytest.approx(80)
    assert files["made-2.wav"]["outside"]["noise_floor_db"] == "above"
    assert files["made-2.wav"]["outside"]["energy_above_10khz"] == "above"
    assert files["made-3.wav"]["outside"]["clipped"] == "above"
    # Silence has no features, but it is an artefact.
    assert files["made-4.wav"]["outside"] == {"silence": "above"}
    assert found["generated"] == 4
    clicks = found["artefacts"]["clicks_per_minute"]
    assert (clicks["generated_outside"], clicks["reference_outside"]) == (1, 0)
    assert clicks["reference"] == {"median": 0, "low": 0, "high": 0}
    assert clicks["expected"][0] == 0
    assert {"afd", "spectral_distance", "mmd", "files"} <= set(found)


def test_evaluate_shows_artefacts_to_people_and_the_baseline_beside_them(folders):
    text = evaluate(folders, "--baseline-dir", folders["base"], "--rank").stdout
    assert "clicks a minute" in text
    assert "baseline (range)" in text
    assert "made-1.wav (clicks a minute 80, above; energy" in text
    assert "1 above of 5" in text
