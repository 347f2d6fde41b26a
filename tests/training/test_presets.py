"""Presets: files of the package that every option may override."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from musiclora.cli import main
from musiclora.training.config import list_presets, resolve_config

FOLDERS = {"data_dir": "d", "output_dir": "o"}


@pytest.mark.parametrize("name", ["artist", "bundled", "capacity", "conservative", "flavor"])
def test_every_preset_gives_a_valid_configuration_that_differs_from_the_defaults(name):
    assert name in list_presets()
    assert resolve_config(FOLDERS, name) != resolve_config(FOLDERS)


def test_an_option_wins_over_a_preset():
    assert resolve_config({**FOLDERS, "lora_r": 3}, "artist").lora_r == 3


def test_presets_are_listed_without_data_and_as_json():
    plain = CliRunner().invoke(main, ["train", "--list-presets"])
    assert plain.exit_code == 0
    assert [line.split()[0] for line in plain.stdout.splitlines()] == list(list_presets())
    found = CliRunner().invoke(main, ["train", "--list-presets", "--json"])
    assert json.loads(found.stdout)["presets"] == list_presets()
