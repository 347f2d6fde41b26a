"""The demo: the whole chain on the bundled base, shortened."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from require import EVERYTHING
from session_helpers import RememberingReporter, stop_after

from musiclora.backends.registry import BACKENDS, why_not
from musiclora.cli import main
from musiclora.convert.adapters.peft import read_peft
from musiclora.demo.demo_run import train_demo
from musiclora.demo.symbolic import CHOOSING, SONGS, TEST, choose_songs, symbolic_demo
from musiclora.demo.symbolic_result import SymbolicDemoOptions, SymbolicDemoResult
from musiclora.models import find_model
from musiclora.progress import Reporter
from musiclora.symbolic.model import find_tokenizer
from musiclora.symbolic.task import load_symbolic_task
from musiclora.training.limits import SessionOptions
from musiclora.training.session import Session

needs_songs = pytest.mark.skipif(
    not EVERYTHING and importlib.util.find_spec("music21") is None, reason="the demo extra is not installed"
)


@dataclass(frozen=True)
class DemoRun:
    """A short demo: its result, its folder and the lines that it reported."""

    result: SymbolicDemoResult
    folder: Path
    said: list[str]

    @property
    def page(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def short_demo(backend_name, tmp_path_factory):
    out, folder = RememberingReporter(), tmp_path_factory.mktemp("demo") / "demo"
    result = symbolic_demo(folder, backend_name, SymbolicDemoOptions(steps=6, pieces=1, tokens=90), out)
    return DemoRun(result, folder, out.said)


@needs_songs
@pytest.mark.slow
def test_the_demo_leaves_an_adapter_that_predicts_test_songs_better(short_demo):
    result = short_demo.result
    assert read_peft(short_demo.folder / "run" / "adapter-best").spec.rank == 16
    assert result.gain.songs == TEST
    assert result.after.loss < result.before.loss


@needs_songs
@pytest.mark.slow
def test_the_demos_adapter_gives_the_same_loss_on_every_backend(short_demo):
    usable = [name for name in BACKENDS if not why_not(name)]
    crossed = short_demo.result.crossed
    assert sorted(crossed) == sorted(usable)
    # The same adapter and songs: float32 sums in another order.
    assert max(crossed.values()) - min(crossed.values()) < 1e-4


@needs_songs
@pytest.mark.slow
def test_the_demo_writes_music_sound_pictures_and_a_report_with_the_terms(short_demo):
    music = {p.name for p in (short_demo.folder / "music").iterdir()}
    assert {f"01-{kind}.{end}" for kind in ("base", "adapted") for end in ("mid", "png", "wav")} <= music
    assert any("non-commercial" in line for line in short_demo.said)
    page = short_demo.page
    assert page.count("data:audio/wav") == 2
    assert f"{short_demo.result.after.bits_per_note:.2f}" in page
    assert "non-commercial" in page


@pytest.mark.slow
def test_a_finished_demo_is_set_aside_and_begun_again(backend_name, tunes, tiny_base, tmp_path):
    def train(steps):
        options = SymbolicDemoOptions(steps=steps)
        config = options.train_config(str(tunes), tmp_path / "run", str(tiny_base), backend_name)
        config = dataclasses.replace(config, max_seq_len=128, num_workers=1, val_split=0.25)
        return train_demo(config, load_symbolic_task(config, Reporter(), backend_name), options, Reporter())

    train(3)
    again = train(2)
    assert again.progress.step == 2
    assert list(tmp_path.glob("run.backup-*"))


@pytest.mark.slow
def test_an_unfinished_demo_is_resumed(any_backend, tunes, tiny_base, tmp_path):
    options = SymbolicDemoOptions(steps=4)
    config = options.train_config(str(tunes), tmp_path / "run", str(tiny_base), any_backend)
    config = dataclasses.replace(config, max_seq_len=128, num_workers=1, val_split=0.25)
    task = load_symbolic_task(config, Reporter(), any_backend)
    stop_after(Session(config, task, Reporter()), 2)
    assert train_demo(config, task, options, Reporter()).progress.step == 4
    assert not list(tmp_path.glob("run.backup-*"))


@pytest.mark.slow
def test_an_unfinished_demo_of_other_songs_is_set_aside(any_backend, tunes, tiny_base, tmp_path):
    # A start that was stopped after the audio demo had rendered anew met another run and had no way out.
    options = SymbolicDemoOptions(steps=3)
    config = options.train_config(str(tunes), tmp_path / "run", str(tiny_base), any_backend)
    config = dataclasses.replace(config, max_seq_len=128, num_workers=1, val_split=0.25)
    task = load_symbolic_task(config, Reporter(), any_backend)
    stop_after(Session(config, task, Reporter()), 2)
    fewer = dataclasses.replace(task, songs=dataclasses.replace(task.songs, train=task.songs.train[1:]))
    assert train_demo(config, fewer, options, Reporter()).progress.step == 3
    assert list(tmp_path.glob("run.backup-*"))


@pytest.mark.slow
def test_an_unfinished_demo_on_a_slow_machine_is_resumed_with_the_steps_it_was_begun_with(
    any_backend, tunes, tiny_base, tmp_path, monkeypatch
):
    monkeypatch.setattr("musiclora.training.limits.LEAST_STEPS", 4)
    monkeypatch.setattr("musiclora.training.session.probe_seconds", lambda *a: 1000.0)
    options = SymbolicDemoOptions(steps=60)
    config = options.train_config(str(tunes), tmp_path / "run", str(tiny_base), any_backend)
    config = dataclasses.replace(config, max_seq_len=128, num_workers=1, val_split=0.25)
    task = load_symbolic_task(config, Reporter(), any_backend)
    stop_after(Session(config, task, Reporter(), SessionOptions(longest_seconds=1.0)), 2)
    monkeypatch.setattr("musiclora.training.session.probe_seconds", lambda *a: 500.0)  # now less busy
    resumed = train_demo(config, task, options, Reporter())
    assert (resumed.progress.step, resumed.progress.ended) == (4, "steps")
    assert not list(tmp_path.glob("run.backup-*"))
    assert train_demo(config, task, dataclasses.replace(options, seconds=1.0), Reporter()).progress.step == 4
    assert len(list(tmp_path.glob("run.backup-*"))) == 1  # a finished one is set aside


@needs_songs
@pytest.mark.slow
def test_the_songs_of_the_demo_have_no_relatives_across_the_three_groups():
    from musiclora.symbolic.dataset.splits import near_duplicates

    base = find_model("bundled")
    songs, test = choose_songs(find_tokenizer(base, 10_000, None), 7, Reporter())
    assert (len(songs.train), len(songs.held_out), len(test)) == (SONGS, CHOOSING, TEST)
    assert not near_duplicates(songs.train, songs.held_out)
    assert not near_duplicates(songs.train + songs.held_out, test)


def test_without_the_songs_the_demo_names_the_extra(tmp_path, monkeypatch, any_backend):
    import musiclora.demo.corpora as corpora

    monkeypatch.setattr(corpora.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("musiclora.backends.registry.get_backend", lambda name: pytest.fail("loaded a backend first"))
    result = CliRunner().invoke(main, ["demo", "--output-dir", str(tmp_path / "d"), "--backend", any_backend, "--json"])
    assert result.exit_code == 2
    assert "demo" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "d").exists()
    assert not result.stdout or json.loads(result.stdout)
