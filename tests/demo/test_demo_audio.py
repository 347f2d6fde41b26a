"""The audio demo: the whole chain on the bundled audio model, shortened."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from refusal import refused
from require import EVERYTHING
from session_helpers import RememberingReporter

from musiclora.audio.split import split_recordings
from musiclora.audio.windows import Recording
from musiclora.cli import main
from musiclora.convert.adapters.peft import read_peft
from musiclora.convert.errors import OutputError
from musiclora.demo import audio as demo
from musiclora.demo.audio import HELD_OUT_SHARE, audio_demo, clear_other_data
from musiclora.demo.audio_result import AudioDemoOptions, AudioDemoResult
from musiclora.demo.renders import (
    PLUCKED,
    clip_recordings,
    demo_soundfont,
    medley,
    portions,
    read_songs,
    render_instruments,
)
from musiclora.errors import DataError
from musiclora.evaluation.audio_distances import Distances, Spread
from musiclora.evaluation.scores import LEAST_SONGS
from musiclora.generation_result import GenerationResult
from musiclora.music.wav import read_wav
from musiclora.progress import Reporter
from musiclora.training.result import TrainResult
from musiclora.training.run_folder import RunProgress

needs_songs = pytest.mark.skipif(
    not EVERYTHING and importlib.util.find_spec("music21") is None, reason="the demo extra is not installed"
)
SHORT = AudioDemoOptions(steps=6, rows=2, takes=3, train_seconds=7, held_seconds=13, pieces=2, grid=4)


@needs_songs
@pytest.mark.slow
def test_the_demo_cuts_encodes_adapts_generates_measures_and_reports(backend_name, tmp_path):
    out, folder = RememberingReporter(), tmp_path / "demo"
    result = audio_demo(folder, backend_name, SHORT, out)
    manifest = json.loads((folder / "cut" / "manifest.json").read_text())
    index = json.loads((folder / "latents" / "index.json").read_text())
    # Pieces of one recording keep its name, so that the split holds them together.
    assert {item["source"] for item in manifest["segments"]} == {item["source"] for item in index["items"]}
    assert {p.name for p in (folder / "music").iterdir()} == {
        "clip-001.wav",
        "clip-001-base.wav",
        "clip-002.wav",
        "clip-002-base.wav",
    }
    assert read_peft(folder / "run" / "adapter-best").spec.rank == 16
    assert (folder / "run" / "adapter-best" / "style.safetensors").is_file()
    assert result.base.reference == len(list((folder / "held-out").iterdir())) >= 2
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("data:audio/wav") >= 4
    assert "non-commercial" in page
    assert "demonstration" in page
    assert any("non-commercial" in line for line in out.said)
    assert json.dumps({**result.record(), "folder": str(folder)})
    assert "Audio Feature Distance" in "\n".join(result.lines())
    assert "Style card" in page
    assert "clicks a minute" in page
    assert "Kernel distance, MMD²" in page
    assert "Does it copy?" in page
    assert [copy["file"] for copy in result.record()["copies"]] == ["clip-001.wav", "clip-002.wav"]
    assert result.copies.summary() in result.lines()
    assert len(result.record()["artefacts"]["files"]) == SHORT.pieces
    assert result.record()["kernel"]["adapted"]["mmd"] == result.kernels[1].mmd.value
    font = demo_soundfont()
    assert result.record()["soundfont"] == str(font)
    assert any(font.name in line for line in out.said)
    assert any(font.name in line for line in result.lines())
    assert font.name in page


@needs_songs
def test_the_demo_says_what_generating_remarks(any_backend, tmp_path, monkeypatch):
    # Remarks on an adapter without effect come from generating; the demo had dropped them.
    def stop(_files):
        raise DataError("enough was seen")

    monkeypatch.setattr(demo, "render_data", lambda *_arguments: [])
    monkeypatch.setattr(demo, "train_on_recordings", lambda folder, *_arguments: SimpleNamespace(run_dir=folder))
    result = GenerationResult(any_backend, "base", [], ("its update is too small to have an effect",))
    monkeypatch.setattr(demo, "generate_recordings", lambda *_arguments, **_options: result)
    monkeypatch.setattr(demo, "split_base_versions", stop)
    out = RememberingReporter()
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "clip.wav").touch()
    with pytest.raises(DataError, match="enough was seen"):
        audio_demo(tmp_path, any_backend, SHORT, out)
    assert "its update is too small to have an effect" in out.said


def test_the_demo_holds_out_as_many_recordings_as_a_verdict_needs():
    takes = [Recording(str(i), str(i), str(i), np.full((9, 2), i, np.float32)) for i in range(AudioDemoOptions().takes)]
    _, held_out, _ = split_recordings(takes, HELD_OUT_SHARE, 7)
    assert len(held_out) >= LEAST_SONGS


@needs_songs
def test_tunes_to_train_on_and_tunes_to_compare_with_are_different_ones(tmp_path):
    from musiclora.demo.corpora import han_folk_songs, order_by_seed

    songs = read_songs(order_by_seed(han_folk_songs(), 3)[:8], Reporter())
    runs = list(portions(songs, 30.0))
    names = [song.name for run in runs for song in run]
    assert len(names) == len(set(names))
    made = render_instruments(songs, PLUCKED, tmp_path / "r", 8.0, Reporter(), "rendering")
    audio, rate = read_wav(made[0].path)
    assert rate == 44100
    assert len(audio) / rate >= 8
    clips = clip_recordings(made, tmp_path / "c", 2.0)
    assert {len(read_wav(path)[0]) for path in clips} == {88200}
    with pytest.raises(DataError, match="songs make"):
        render_instruments(songs[:1], PLUCKED, tmp_path / "x", 1000.0, Reporter(), "rendering")


@needs_songs
def test_a_medley_plays_its_songs_one_after_the_other_on_one_instrument():
    from musiclora.demo.corpora import han_folk_songs, order_by_seed

    songs = read_songs(order_by_seed(han_folk_songs(), 3)[:2], Reporter())
    (track,) = medley(songs, 111).tracks
    assert track.program == 111
    assert len(track.notes) == sum(len(t.notes) for s in songs for t in s.score.tracks if not t.is_drum)
    ends = max(n.end for n in track.notes[: len(track.notes) // 4])
    assert ends < max(n.start for n in track.notes)


def test_without_the_songs_the_audio_demo_names_the_extra(tmp_path, monkeypatch, any_backend):
    import musiclora.demo.corpora as corpora

    monkeypatch.setattr(corpora.importlib.util, "find_spec", lambda name: None)
    arguments = ["demo", "--family", "audio", "--output-dir", str(tmp_path / "d"), "--backend", any_backend]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "demo" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("family", ["symbolic", "audio"])
def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path, any_backend, family):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all of it")
    result = CliRunner().invoke(main, ["demo", "--family", family, "--output-dir", str(mine), "--backend", any_backend])
    refused(result, "--output-dir", "thesis.txt", "choose a new folder")
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


def spread(value, low=None, high=None):
    return Spread(value, value - 0.1 if low is None else low, value + 0.1 if high is None else high)


def result_with(tmp_path, by_feature, by_spectrum):
    distances = Distances(spread(0.03), spread(110.0), spread(0.001), spread(80.0), 32, 30, 32, 30, ())
    nearer = (by_feature, by_spectrum)
    training = TrainResult(tmp_path / "run", "torch", None, None, None, {}, RunProgress())
    return AudioDemoResult(tmp_path, training, 1.0, distances, distances, nearer, [], [], tmp_path / "x.sf2")


@pytest.mark.parametrize(
    ("shares", "style", "first"),
    [
        ((spread(0.43), spread(0.16)), "gained", "the adapted music is nearer to the recordings: "),
        ((spread(0.43), spread(0.02)), "flat", "Spectral Distance 2% nearer (over other clips it may be none: Spec"),
        ((spread(0.05), spread(-0.03)), "flat", "one distance only: Audio Feature Distance 5% nearer and Spectral "),
        ((spread(-0.27), spread(-0.11)), "lost", "did NOT bring the music nearer to the recordings: Audio Feature "),
    ],
    ids=["both", "within chance", "one", "none"],
)
def test_the_first_line_says_in_words_what_was_achieved(tmp_path, shares, style, first):
    result = result_with(tmp_path, *shares)
    assert result.verdict()[0] == style
    assert first in result.lines()[0]
    for share in shares:
        assert f"{abs(share.value):.0%} {'nearer' if share.value > 0 else 'farther'}" in result.lines()[0]
    assert "-" not in result.lines()[0]
    assert result.record()["verdict"] == result.lines()[0]


def test_renders_of_another_making_are_made_again_and_foreign_ones_are_refused(tmp_path):
    font, other = tmp_path / "a.sf2", tmp_path / "b.sf2"
    font.write_bytes(b"a")
    other.write_bytes(b"b")
    demo = tmp_path / "demo"
    clear_other_data(demo, font, SHORT)
    (demo / "recordings").mkdir()
    clear_other_data(demo, font, SHORT)
    assert (demo / "recordings").is_dir()
    clear_other_data(demo, other, SHORT)
    assert not (demo / "recordings").exists()
    (tmp_path / "mine" / "recordings").mkdir(parents=True)
    with pytest.raises(OutputError, match="holds recordings of unknown making"):
        clear_other_data(tmp_path / "mine", font, SHORT)
    assert (tmp_path / "mine" / "recordings").is_dir()


def test_the_demo_takes_the_packaged_soundfont_before_those_of_the_system(tmp_path, monkeypatch):
    from musiclora.symbolic import render

    (tmp_path / "FluidR3_GM.sf2").touch()
    monkeypatch.delenv(render.SOUNDFONT_VARIABLE, raising=False)
    monkeypatch.setattr(render, "_FOLDERS", (str(tmp_path),))
    packaged = list(render._packaged_soundfonts())
    assert demo_soundfont() == (packaged or [tmp_path / "FluidR3_GM.sf2"])[0]
    assert render.find_soundfont() == tmp_path / "FluidR3_GM.sf2"
    monkeypatch.setenv(render.SOUNDFONT_VARIABLE, str(tmp_path / "FluidR3_GM.sf2"))
    assert demo_soundfont() == tmp_path / "FluidR3_GM.sf2"
