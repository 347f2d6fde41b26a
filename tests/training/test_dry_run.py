"""`train --dry-run`: the plan of a training that is not begun."""

from __future__ import annotations

import dataclasses
import json

import pytest
from click.testing import CliRunner
from session_helpers import RememberingReporter

from musiclora.cli import main
from musiclora.errors import ConfigError
from musiclora.jobs import plan, train


def test_it_plans_what_the_training_then_does_and_writes_nothing(config, tmp_path):
    asked = config(epochs=1)
    before = sorted(tmp_path.rglob("*"))
    found = plan(asked)
    assert sorted(tmp_path.rglob("*")) == before
    assert found.seconds is not None
    assert found.seconds > 0
    assert found.memory is not None
    result = train(asked)
    assert result.progress.step == found.steps


def test_its_lines_are_those_of_a_training(config):
    planned, trained = RememberingReporter(), RememberingReporter()
    plan(config(epochs=1), planned)
    train(config(epochs=1), trained)
    lines = [line for line in planned.said if "by a probe" not in line]
    assert any(line.startswith("plan: ") for line in lines)
    assert [line for line in trained.said if line in lines] == lines


def test_folds_are_several_trainings(config):
    with pytest.raises(ConfigError, match="--dry-run plans one training"):
        plan(dataclasses.replace(config(), folds=2))


def test_the_command_prints_the_plan_as_one_object(config, tmp_path):
    asked = config()
    words = [f"--data-dir={asked.data_dir}", f"--output-dir={asked.output_dir}", f"--model={asked.model}"]
    ran = CliRunner().invoke(main, ["train", *words, f"--backend={asked.backend}", "--dry-run", "--json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert found["steps"] == found["epochs"] * found["steps_per_epoch"]
    assert found["lines"][0].startswith("plan: ")
    assert not (tmp_path / "run").exists()
