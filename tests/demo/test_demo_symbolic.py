"""The demo: the whole chain on the bundled band base, shortened."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from session_helpers import RememberingReporter, stop_after
from symusic import Score

from musiclora.backends import lora_init
from musiclora.backends.registry import BACKENDS, why_not
from musiclora.bundled import BUNDLED, bundled_songs
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.demo import corpora
from musiclora.demo.demo_run import train_demo
from musiclora.demo.songs import BAND_BASE, CHOOSING, TEST, choose_songs
from musiclora.demo.symbolic import symbolic_demo, symbolic_next_commands
from musiclora.demo.symbolic_result import SymbolicDemoOptions, SymbolicDemoResult
from musiclora.evaluation.scores import LEAST_SONGS
from musiclora.models import find_model
from musiclora.progress import Reporter
from musiclora.reporting.lanes import list_instruments
from musiclora.reporting.roll import roll_of
from musiclora.symbolic.dataset.splits import near_duplicates
from musiclora.symbolic.decoding.songs_record import programs_in
from musiclora.symbolic.model import find_tokenizer
from musiclora.symbolic.task import load_symbolic_task
from musiclora.training.limits import SessionOptions
from musiclora.training.session import Session


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
    options = SymbolicDemoOptions(steps=6, evaluations=1, pieces=1, tokens=200)
    with pytest.MonkeyPatch.context() as patch:  # most of the time goes into scoring held-out songs
        for name, songs in (("songs.TEST", LEAST_SONGS), ("songs.CHOOSING", 2), ("symbolic.CROSSED", 1)):
            patch.setattr(f"musiclora.demo.{name}", songs)
        result = symbolic_demo(folder, backend_name, options, out)
    return DemoRun(result, folder, out.said)


@pytest.mark.slow
def test_the_demo_leaves_an_adapter_that_predicts_test_songs_better(short_demo):
    result = short_demo.result
    assert read_peft(short_demo.folder / "run" / "adapter-best").spec.rank == 16
    assert result.gain.songs == LEAST_SONGS
    assert result.after.loss < result.before.loss


@pytest.mark.slow
def test_the_demos_adapter_gives_the_same_loss_on_every_backend(short_demo):
    usable = [name for name in BACKENDS if not why_not(name)]
    crossed = short_demo.result.crossed
    assert sorted(crossed) == sorted(usable)
    # The same adapter and songs: float32 sums in another order.
    assert max(crossed.values()) - min(crossed.values()) < 1e-4


@pytest.mark.slow
def test_the_demo_writes_music_sound_pictures_and_a_report_with_the_terms(short_demo):
    music = {p.name for p in (short_demo.folder / "music").iterdir()}
    assert {f"01-{kind}.{end}" for kind in ("base", "adapted") for end in ("mid", "png", "wav")} <= music
    assert any("public domain" in line for line in short_demo.said)
    page = short_demo.page
    assert page.count("data:audio/wav") == 2
    assert f"{short_demo.result.after.bits_per_note:.2f}" in page
    assert "public domain" in page


@pytest.mark.slow
def test_the_demos_report_names_the_instruments_of_each_piece(short_demo):
    for piece in (short_demo.result.samples[0].base, short_demo.result.samples[0].adapted):
        names = list_instruments(roll_of(piece.score))
        assert len(names) < 2 or ", ".join(names) in short_demo.page


@pytest.mark.slow
def test_the_demos_pieces_have_the_instruments_of_the_songs(short_demo):
    songs = [Score(str(path)) for path in (BUNDLED / "songs").glob("*.mid")]
    sample = short_demo.result.samples[0]
    assert set(programs_in([sample.base.score, sample.adapted.score])) <= set(programs_in(songs))
    assert "Does it sound like them?" in short_demo.page
    assert "Does it copy?" in short_demo.page


class _EnoughSeenError(Exception):
    """Ends a demo once what is tested was done."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "said"), [(0.0, "all its matrices B are zero"), (1e-25, "too small to have an effect")]
)
def test_the_demo_says_that_its_adapter_has_no_effect(any_backend, tmp_path, monkeypatch, size, said):
    def stop(*_arguments):
        raise _EnoughSeenError

    def train(config, *_rest):
        folder = Path(config.output_dir)
        spec = config.lora()
        state = lora_init.initial(spec, read_checkpoint(find_model(BAND_BASE).path).config.linear_shapes(), 1)
        state = {key: array + np.float32(size) if "lora_B" in key else array for key, array in state.items()}
        write_peft(folder / "adapter-best", spec, state, base_model=BAND_BASE)
        return SimpleNamespace(run_dir=folder)

    monkeypatch.setattr("musiclora.demo.symbolic.train_demo", train)
    monkeypatch.setattr("musiclora.demo.symbolic._score_both", stop)
    out = RememberingReporter()
    with pytest.raises(_EnoughSeenError):
        symbolic_demo(tmp_path / "demo", any_backend, SymbolicDemoOptions(), out)
    assert len([line for line in out.said if said in line]) == 1


@pytest.mark.slow
def test_the_demo_gives_a_verdict_and_names_commands_for_bands(short_demo):
    result = short_demo.result
    assert result.gain.low is not None
    assert "95 %" in " ".join(result.lines())
    commands = symbolic_next_commands(result)
    assert any("--instruments piano,bass,drums" in command for command in commands)
    assert all(f"--adapter-dir {result.adapter}" in command for command in commands if "generate" in command)


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


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, 8])
def test_the_songs_of_the_demo_have_no_relatives_across_the_three_groups(seed):
    tokenizer = find_tokenizer(find_model(BAND_BASE), 722, None)
    songs, test = choose_songs(tokenizer, seed, Reporter())
    names = [piece.name for piece in [*songs.train, *songs.held_out, *test]]
    assert sorted(names) == [path.name for path in bundled_songs()]
    assert (len(songs.held_out), len(test)) == (CHOOSING, TEST)
    assert not near_duplicates(songs.train, songs.held_out)
    assert not near_duplicates(songs.train + songs.held_out, test)


def test_the_demo_reads_no_music21(monkeypatch):
    monkeypatch.setattr(corpora.importlib.util, "find_spec", lambda name: None)
    songs, test = choose_songs(find_tokenizer(find_model(BAND_BASE), 722, None), 7, Reporter())
    assert len(songs.train) + len(songs.held_out) + len(test) == len(bundled_songs())
