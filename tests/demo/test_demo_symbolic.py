"""The demo: the whole chain on the bundled base, shortened."""

from __future__ import annotations

import importlib.util
import json

import pytest
from click.testing import CliRunner
from require import EVERYTHING

from musiclora.backends.registry import BACKENDS, why_not
from musiclora.cli import main
from musiclora.convert.adapters.peft import read_peft
from musiclora.demo.symbolic import CHOOSING, SONGS, TEST, choose_songs, symbolic_demo
from musiclora.demo.symbolic_result import SymbolicDemoOptions
from musiclora.models import find_model
from musiclora.progress import Reporter
from musiclora.symbolic.model import find_tokenizer

needs_songs = pytest.mark.skipif(
    not EVERYTHING and importlib.util.find_spec("music21") is None, reason="the demo extra is not installed"
)


class Listening(Reporter):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@needs_songs
@pytest.mark.slow
def test_the_demo_adapts_generates_renders_reports_and_crosses_backends(backend_name, tmp_path):
    out = Listening()
    result = symbolic_demo(tmp_path / "demo", backend_name, SymbolicDemoOptions(steps=12, pieces=1, tokens=90), out)
    folder = tmp_path / "demo"
    music = {p.name for p in (folder / "music").iterdir()}
    assert {f"01-{kind}.{end}" for kind in ("base", "adapted") for end in ("mid", "png", "wav")} <= music
    assert read_peft(folder / "run" / "adapter-best").spec.rank == 16
    assert any("non-commercial" in line for line in out.said)
    first = (folder / "report.html").read_text(encoding="utf-8")
    assert result.gain.songs == TEST
    assert result.after.loss < result.before.loss
    usable = [name for name in BACKENDS if not why_not(name)]
    assert sorted(result.crossed) == sorted(usable)
    # The same adapter and songs: float32 sums in another order.
    assert max(result.crossed.values()) - min(result.crossed.values()) < 1e-4
    again = symbolic_demo(folder, backend_name, SymbolicDemoOptions(steps=2, pieces=1, tokens=40), out)
    assert again.training.progress.step == 2
    assert list(folder.glob("run.backup-*"))
    page = first
    assert page.count("data:audio/wav") == 2
    assert f"{result.after.bits_per_note:.2f}" in page
    assert "non-commercial" in page


@needs_songs
def test_the_songs_of_the_demo_have_no_relatives_across_the_three_groups():
    from musiclora.symbolic.dataset.splits import near_duplicates

    base = find_model("bundled")
    songs, test = choose_songs(find_tokenizer(base, 10_000, None), 7, Reporter())
    assert (len(songs.train), len(songs.held_out), len(test)) == (SONGS, CHOOSING, TEST)
    assert not near_duplicates(songs.train, songs.held_out)
    assert not near_duplicates(songs.train + songs.held_out, test)


def test_a_slow_machine_gets_fewer_steps_and_is_told(tmp_path, any_backend, tunes, tiny_base):
    from musiclora.symbolic.task import load_symbolic_task
    from musiclora.training.config import TrainConfig
    from musiclora.training.limits import SessionOptions
    from musiclora.training.plan import TrainingPlan
    from musiclora.training.session import Session

    config = TrainConfig(
        data_dir=str(tunes),
        output_dir=str(tmp_path / "r"),
        model=str(tiny_base),
        backend=any_backend,
        num_workers=1,
        max_steps=60,
        val_split=0.25,
    )
    task = load_symbolic_task(config, Reporter(), any_backend)
    session = Session(config, task, Reporter(), SessionOptions(longest_seconds=10.0))
    plan = TrainingPlan(4, 1, 20, 3, 60, 6, 5000, seconds=60.0)
    short = session.fit_plan(plan)
    assert (short.steps, short.epochs, session.config.max_steps) == (10, 4, 10)
    assert "10 steps instead of 60" in short.warnings[-1]
    assert session.fit_plan(short) == short


def test_without_the_songs_the_demo_names_the_extra(tmp_path, monkeypatch, any_backend):
    import musiclora.demo.corpora as corpora

    monkeypatch.setattr(corpora.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("musiclora.backends.registry.get_backend", lambda name: pytest.fail("loaded a backend first"))
    result = CliRunner().invoke(main, ["demo", "--output-dir", str(tmp_path / "d"), "--backend", any_backend, "--json"])
    assert result.exit_code == 2
    assert "demo" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "d").exists()
    assert not result.stdout or json.loads(result.stdout)
