"""`evaluate --generated-dir --reference-dir`: figures of folders of recordings, and folders it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from refusal import refused
from require import require

from musiclora.audio.files.health import measure_health
from musiclora.cli import main
from musiclora.errors import DataError
from musiclora.evaluation.audio_distances import Distances, Spread
from musiclora.evaluation.compare_folders import Comparison, compare_folders
from musiclora.evaluation.kernel_distance import KernelDistance
from musiclora.evaluation.measure import are_same_pieces, read_excerpt

require("librosa")
soundfile = require("soundfile")
RATE = 22050


def plucked(seed, seconds=2.0, brightness=0.5):
    """Struck tones of random pitches, three a second, with overtones that fall off by brightness."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    beat = (time * 3).astype(int)
    pitch = 220 * 2 ** (rng.integers(0, 24, beat.max() + 1) / 12)
    phase = np.cumsum(pitch[beat]) / RATE
    sound = sum(brightness**k * np.sin(2 * np.pi * (k + 1) * phase) for k in range(6))
    return 0.1 * sound * np.exp(-5 * ((time * 3) % 1)) + 1e-4 * rng.normal(size=len(time))


def noisy(seed, seconds=2.0):
    return 0.1 * np.random.default_rng(seed).normal(size=int(seconds * RATE))


def fill(folder, sounds, suffix=".wav"):
    folder.mkdir()
    for i, sound in enumerate(sounds):
        soundfile.write(folder / f"{i:02d}{suffix}", np.clip(sound, -1, 1), RATE)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sounds")
    return {
        "reference": fill(root / "reference", [plucked(i) for i in range(6)]),
        "alike": fill(root / "alike", [plucked(i) for i in range(10, 16)], ".flac"),
        "brighter": fill(root / "brighter", [plucked(i, brightness=0.95) for i in range(20, 26)]),
        "noise": fill(root / "noise", [noisy(i) for i in range(6)]),
    }


def evaluate(*arguments):
    return CliRunner().invoke(main, ["evaluate", *(str(a) for a in arguments)])


@pytest.mark.slow
def test_a_folder_is_at_no_feature_distance_from_itself(folders):
    found = compare_folders(folders["reference"], folders["reference"]).distances
    assert found.afd.value == pytest.approx(0, abs=1e-12)


def test_what_sounds_more_alike_is_nearer(folders):
    kinds = [compare_folders(folders[name], folders["reference"]).distances for name in ("alike", "brighter", "noise")]
    alike, brighter, noise = kinds
    assert alike.afd.value < brighter.afd.value < noise.afd.value
    assert alike.spectral.value < brighter.spectral.value < noise.spectral.value
    assert noise.afd.low > noise.real_afd.high
    assert noise.spectral.low > noise.real_spectral.high


def test_json_has_the_promised_keys_and_nothing_else_is_on_stdout(folders):
    done = evaluate("--generated-dir", folders["alike"], "--reference-dir", folders["reference"], "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["afd_interval"][0] <= found["afd"] <= found["afd_interval"][1]
    low, high = found["spectral_distance_interval"]
    assert low <= found["spectral_distance"] <= high
    assert found["mmd_interval"][0] <= found["mmd"] <= found["mmd_interval"][1]
    names = ("afd", "spectral_distance", "mmd")
    assert set(found["real_vs_real"]) == {*names, *(f"{name}_interval" for name in names)}
    assert (found["generated"], found["reference"], found["notes"]) == (6, 6, [])
    assert sorted(row["name"] for row in found["files"]) == [f"{i:02d}.flac" for i in range(6)]
    assert "framewise" not in found


def test_the_table_for_people_shows_the_same_figures(folders):
    pair = ("--generated-dir", folders["alike"], "--reference-dir", folders["reference"])
    found, table = json.loads(evaluate(*pair, "--json").stdout), evaluate(*pair).stdout
    assert f"{found['afd']:.3g}" in table
    assert f"{found['spectral_distance']:.2f}" in table
    assert f"{found['mmd']:.3f}" in table


def test_paired_recordings_are_compared_frame_by_frame(folders, tmp_path):
    halved = fill(tmp_path / "halved", [0.5 * plucked(i) for i in range(6)], ".flac")
    pair = ("--generated-dir", halved, "--reference-dir", folders["reference"], "--paired", "--json")
    done = evaluate(*pair)
    # 6.02 dB everywhere but near the floor, which stands still; 16 bits add little.
    assert 5 < json.loads(done.stdout)["framewise"] < 37


def test_paired_folders_whose_names_differ_are_refused(folders, tmp_path):
    other = fill(tmp_path / "other", [plucked(i) for i in range(7)])
    refused(evaluate("--generated-dir", other, "--reference-dir", folders["reference"], "--paired"), "06", "partner")


def test_a_picture_of_the_spectra_is_drawn(folders, tmp_path):
    picture = tmp_path / "spectra.png"
    done = evaluate("--generated-dir", folders["noise"], "--reference-dir", folders["reference"], "--picture", picture)
    assert done.exit_code == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_measured_is_left_out_and_named(folders, tmp_path):
    mixed = fill(tmp_path / "mixed", [plucked(0), np.zeros(RATE), plucked(1, 0.2), plucked(2, 1.0)])
    (mixed / "broken.wav").write_bytes(b"<html>404 Not Found</html>")
    (mixed / "empty.flac").write_bytes(b"")
    soundfile.write(mixed / "nan.wav", np.append(plucked(3), np.nan), RATE, subtype="FLOAT")
    found = compare_folders(mixed, folders["reference"])
    assert found.distances.generated == 2
    assert len(found.notes) == 5
    for name in ("01.wav", "02.wav", "broken.wav", "empty.flac", "nan.wav"):
        assert sum(f"{mixed / name}: " in line for line in found.notes) == 1
    assert np.isfinite([found.distances.afd.value, found.distances.spectral.value]).all()


def test_a_damaged_recording_is_used_up_to_the_break_as_every_command_does(folders, tmp_path):
    made = fill(tmp_path / "made", [plucked(0, 6.0)], ".flac")
    data = bytearray((made / "00.flac").read_bytes())
    data[len(data) * 3 // 4 : len(data) * 3 // 4 + 200] = bytes(200)
    (made / "00.flac").write_bytes(data)
    audio, rate, longer = read_excerpt(made / "00.flac")
    health = measure_health(made / "00.flac")
    assert health.problem == ""
    assert audio.shape[1] / rate == pytest.approx(health.seconds)
    assert 1 < health.seconds < 6
    assert not longer
    assert compare_folders(made, folders["reference"]).distances.generated == 1


def test_sound_that_is_not_read_and_links_that_lead_nowhere_are_named(folders, tmp_path):
    made = fill(tmp_path / "made", [plucked(0)])
    (made / "film.mkv").write_bytes(b"x")
    (made / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    notes = compare_folders(made, folders["reference"]).notes
    assert any("film.mkv" in line and "convert it to WAV or FLAC" in line for line in notes)
    assert any("gone.wav" in line and "leads nowhere" in line for line in notes)


@pytest.mark.parametrize("name", ["spectra.jpg", "spectra.safetensors", "spectra"])
def test_a_picture_of_another_ending_is_refused(folders, tmp_path, name):
    pair = ("--generated-dir", folders["noise"], "--reference-dir", folders["reference"])
    refused(evaluate(*pair, "--picture", tmp_path / name), "--picture", ".png")
    assert not (tmp_path / name).exists()


def test_folders_that_cannot_be_compared_are_refused(folders, tunes, tmp_path):
    silent, single = fill(tmp_path / "silent", [np.zeros(RATE)]), fill(tmp_path / "single", [plucked(1)])
    (tmp_path / "empty").mkdir()
    reference = folders["reference"]
    for generated, real, words in (
        (tmp_path / "empty", reference, ["empty", "no recordings"]),
        (tmp_path / "missing", reference, ["missing", "no such folder"]),
        (reference, reference / "00.wav", ["00.wav", "give the folder"]),
        (tunes, reference, ["--reference-dir", "holds recordings", "no songs", "render"]),
        (reference, tunes, ["no recordings", "render"]),
        (silent, reference, ["00.wav", "silent"]),
        (reference, silent, ["00.wav", "silent"]),
        (reference, single, ["at least two"]),
    ):
        refused(evaluate("--generated-dir", generated, "--reference-dir", real), *words)


def test_one_generated_recording_is_enough(folders, tmp_path):
    single = fill(tmp_path / "single", [plucked(1)])
    found = compare_folders(single, folders["reference"]).distances
    assert found.generated == 1
    assert found.afd.low <= found.afd.value <= found.afd.high


@pytest.mark.parametrize(
    "arguments",
    [
        ["--generated-dir", "a"],
        ["--reference-dir", "a"],
        ["--paired"],
        [],
        ["--generated-dir", "a", "--reference-dir", "b", "--data-dir", "c"],
    ],
)
def test_incomplete_options_are_refused(arguments):
    refused(evaluate(*arguments), "--generated-dir")


def test_only_the_first_five_minutes_are_measured_and_it_is_said(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("musiclora.evaluation.measure.LONGEST_SECONDS", 1.0)
    found = compare_folders(folders["alike"], folders["reference"])
    lines = [line for line in found.notes if "first 1 s" in line]
    assert ["03.flac" in lines[0], "03.wav" in lines[1], len(lines)] == [True, True, 2]


def test_reference_recordings_that_are_one_and_the_same_are_refused(folders, tmp_path):
    copies = fill(tmp_path / "copies", [plucked(1)] * 3)
    with pytest.raises(DataError, match="all alike"):
        compare_folders(folders["alike"], copies)


def test_a_baseline_shows_by_how_much_the_generated_recordings_are_nearer(folders):
    pair = ("--generated-dir", folders["brighter"], "--reference-dir", folders["reference"])
    done = evaluate(*pair, "--baseline-dir", folders["noise"], "--json")
    found = json.loads(done.stdout)
    for key in ("afd", "spectral_distance"):
        low, high = found[f"{key}_reduction_interval"]
        assert 0.5 < low <= found[f"{key}_reduction"] <= high < 1
    assert "smaller than the baseline's" in evaluate(*pair, "--baseline-dir", folders["noise"]).stdout


def test_recordings_that_are_farther_than_the_baseline_are_called_so(folders):
    same = Spread(1.0, 0.5, 1.5)
    distances = Distances(same, same, same, same, 6, 6, 6, 6, ())
    kernel = KernelDistance(same, None)
    found = Comparison(distances, kernel, None, (Spread(-0.27, -0.5, -0.1), Spread(0.16, 0.1, 0.2)), [], ())
    assert "Audio Feature Distance: 27.0% larger than the baseline's" in found.lines()[-2]
    assert "Spectral Distance: 16.0% smaller than the baseline's" in found.lines()[-1]


@pytest.mark.slow
def test_what_generate_compare_wrote_beside_them_is_the_baseline_and_not_generated_music(folders, tmp_path):
    both = fill(tmp_path / "both", [plucked(i, brightness=0.95) for i in range(20, 26)])
    for i in range(6):
        soundfile.write(both / f"{i:02d}-base.wav", noisy(i), RATE)
    soundfile.write(both / "drum-and-base.wav", plucked(1), RATE)  # a name of its own
    found = compare_folders(both, folders["reference"])
    apart = compare_folders(folders["brighter"], folders["reference"], baseline_dir=folders["noise"])
    assert found.distances.generated == 7
    assert any("6 files" in line and "baseline" in line for line in found.notes)
    assert found.reduction[0].value == pytest.approx(apart.reduction[0].value, rel=0.05)
    given = compare_folders(both, folders["reference"], baseline_dir=folders["noise"])
    assert any("6 files" in line and "left out" in line for line in given.notes)


def test_without_the_audio_packages_it_is_said_how_to_install_them(folders, monkeypatch):
    monkeypatch.setattr("musiclora.evaluation.measure.find_spec", lambda name: None if name == "librosa" else name)
    pair = ("--generated-dir", folders["alike"], "--reference-dir", folders["reference"])
    refused(evaluate(*pair), "librosa", "pip install 'musiclora[audio]'")


def test_a_picture_that_would_replace_a_folder_is_refused_before_anything_is_measured(folders):
    pair = ("--generated-dir", folders["alike"], "--reference-dir", folders["reference"])
    refused(evaluate(*pair, "--picture", folders["noise"]), "--picture", "PNG")


@pytest.mark.parametrize(
    ("generated", "bases", "expected"),
    [
        (["a-1.wav", "a-2.wav"], ["a-1-base.wav", "a-2-base.wav"], True),
        (["a.wav", "b.wav"], ["a.flac", "b.flac"], True),
        (["a.wav", "b.wav"], ["b.wav", "a.wav"], False),
        (["a.wav", "b.wav"], ["a.wav"], False),
    ],
)
def test_recordings_correspond_where_their_names_do(generated, bases, expected):
    assert are_same_pieces(generated, bases) is expected


def test_candidates_are_ranked_by_their_own_distance_to_the_reference(folders, tmp_path):
    sounds = [noisy(1), plucked(30), plucked(31, brightness=0.95)]
    candidates = fill(tmp_path / "candidates", sounds)
    done = evaluate("--generated-dir", candidates, "--reference-dir", folders["reference"], "--rank")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["01.wav", "02.wav", "00.wav"]
    found = compare_folders(candidates, folders["reference"])
    alone = compare_folders(fill(tmp_path / "alone", sounds[2:]), folders["reference"]).distances
    assert found.ranking[1][1:] == pytest.approx((alone.afd.value, alone.spectral.value), rel=1e-9)


def test_segments_that_cut_made_are_counted_as_the_recordings_they_come_from(folders, tmp_path):
    source, pieces = fill(tmp_path / "long", [plucked(i, seconds=4.0) for i in range(2)]), tmp_path / "cut"
    assert (
        CliRunner()
        .invoke(main, ["cut", "--input-dir", str(source), "--output-dir", str(pieces), "--seconds", "2"])
        .exit_code
        == 0
    )
    result = evaluate("--generated-dir", folders["alike"], "--reference-dir", pieces)
    assert "6 generated recordings against 4 reference files of 2 recordings; smaller" in result.stdout
    (source / "01.wav").unlink()
    again = tmp_path / "again"
    CliRunner().invoke(main, ["cut", "--input-dir", str(source), "--output-dir", str(again), "--seconds", "2"])
    result = evaluate("--generated-dir", folders["alike"], "--reference-dir", again)
    assert "4 reference" not in result.stdout
    assert "all reference files are of one recording" in result.stderr
