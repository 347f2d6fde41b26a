"""The audio demo: the whole chain on the bundled audio model, shortened."""

from __future__ import annotations

import importlib.util
import json

import pytest
from click.testing import CliRunner
from refusal import refused
from require import EVERYTHING
from session_helpers import RememberingReporter

from musiclora.cli import main
from musiclora.convert.adapters.peft import read_peft
from musiclora.demo.audio import audio_demo
from musiclora.demo.audio_result import AudioDemoOptions
from musiclora.demo.renders import REED, clip_recordings, medley, portions, read_songs, render_instruments
from musiclora.errors import DataError
from musiclora.progress import Reporter
from musiclora.wav import read_wav

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


@needs_songs
def test_tunes_to_train_on_and_tunes_to_compare_with_are_different_ones(tmp_path):
    from musiclora.demo.corpora import han_folk_songs, order_by_seed

    songs = read_songs(order_by_seed(han_folk_songs(), 3)[:8], Reporter())
    runs = list(portions(songs, 30.0))
    names = [song.name for run in runs for song in run]
    assert len(names) == len(set(names))
    made = render_instruments(songs, REED, tmp_path / "r", 8.0, Reporter(), "rendering")
    audio, rate = read_wav(made[0].path)
    assert rate == 44100
    assert len(audio) / rate >= 8
    clips = clip_recordings(made, tmp_path / "c", 2.0)
    assert {len(read_wav(path)[0]) for path in clips} == {88200}
    with pytest.raises(DataError, match="songs make"):
        render_instruments(songs[:1], REED, tmp_path / "x", 1000.0, Reporter(), "rendering")


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
