"""Work on adapters from the page: the command line's own words, and nothing is replaced."""

from __future__ import annotations

import click
import pytest

from musiclora.cli import get_command
from musiclora.cli.option_fields import option_fields
from musiclora.convert.files.folder_lock import take_lock
from musiclora.errors import ConfigError
from musiclora.ui.adapters_work import (
    blend_arguments,
    describe_result,
    fuse_arguments,
    push_arguments,
    push_list,
    rename_adapter,
    renamed_folder,
)
from musiclora.ui.options import OptionField
from musiclora.ui.workspace import Workspace

BLEND, FUSE = (option_fields(get_command(name)) for name in ("blend", "fuse"))
PRIVATE = (OptionField("private", "--private", "switch", ""), OptionField("dry_run", "--dry-run", "switch", ""))


@pytest.fixture
def workspace(tmp_path):
    for name in ("runs/one/adapter-best", "runs/one/adapter-last", "-odd", "adapters/old"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "adapter_config.json").write_text("{}")
    for name in ("training_meta.json", "config.toml"):
        (tmp_path / "runs" / "one" / name).write_text("")
    (tmp_path / "runs" / "one-latents").mkdir()
    return Workspace(tmp_path)


def parsed(words):
    command = get_command(words[0])
    with command.make_context(words[0], list(words[1:]), resilient_parsing=True) as context:
        given = {n for n in context.params if context.get_parameter_source(n) is click.core.ParameterSource.COMMANDLINE}
        return {name: context.params[name] for name in given}


def test_a_blend_names_each_strength_and_a_new_folder(workspace):
    words = blend_arguments(workspace, BLEND, [("runs/one/adapter-best", 0.5), ("-odd", 1.0)], "both", {"rank": "8"})
    assert {k: str(v) if k == "destination" else v for k, v in parsed(words).items()} == {
        "adapters": ("./runs/one/adapter-best:0.5", "./-odd:1"),
        "destination": "adapters/both",
        "rank": 8,
    }


def test_a_fusion_names_its_adapters_and_its_options(workspace):
    values = {"dtype": "float16", "to": "mlx", "model": ""}
    words = fuse_arguments(workspace, FUSE, [("-odd", 0.75)], "model", values)
    assert {k: str(v) if k == "output_dir" else v for k, v in parsed(words).items()} == {
        "adapters": ("./-odd:0.75",),
        "output_dir": "adapters/model",
        "to": "mlx",
        "dtype": "float16",
    }


@pytest.mark.parametrize("name", ["", None, "..", "a/b", ".hidden", "old"])
def test_a_name_that_is_none_or_taken_is_refused(workspace, name):
    message = "exists already" if name == "old" else "give the"
    two = [("-odd", 1.0), ("runs/one/adapter-best", 1.0)]
    for build, fields in ((blend_arguments, BLEND), (fuse_arguments, FUSE)):
        with pytest.raises(ConfigError, match=message):
            build(workspace, fields, two, name, {})


def test_too_few_or_foreign_adapters_are_refused(workspace):
    with pytest.raises(ConfigError, match="at least two"):
        blend_arguments(workspace, BLEND, [("-odd", 1.0)], "new", {})
    with pytest.raises(ConfigError, match="choose an adapter"):
        fuse_arguments(workspace, FUSE, [], "new", {})
    with pytest.raises(ConfigError, match="outside the page's folder"):
        fuse_arguments(workspace, FUSE, [("..", 1.0)], "new", {})


def test_an_adapter_of_a_run_is_renamed_with_its_run_and_its_latents(workspace):
    label = "runs/one/adapter-best"
    assert renamed_folder(workspace, label) == workspace.runs / "one"
    assert rename_adapter(workspace, label, "two") == "runs/two/adapter-best"
    assert sorted(path.name for path in workspace.runs.iterdir()) == ["two", "two-latents"]
    assert (workspace.runs / "two" / "adapter-last" / "adapter_config.json").is_file()


def test_an_adapter_on_its_own_is_renamed_alone(workspace):
    assert rename_adapter(workspace, "adapters/old", "new one") == "adapters/new one"
    assert [path.name for path in workspace.adapters.iterdir()] == ["new one"]


def test_a_run_that_trains_is_not_renamed(workspace):
    with take_lock(workspace.runs / "one"), pytest.raises(ConfigError, match="runs/one: a process trains there"):
        rename_adapter(workspace, "runs/one/adapter-best", "two")
    assert (workspace.runs / "one" / "adapter-best").is_dir()


@pytest.mark.parametrize("taken", ["two", "two-latents"])
def test_a_rename_replaces_nothing(workspace, taken):
    (workspace.runs / taken).mkdir()
    with pytest.raises(ConfigError, match=f"runs/{taken}: exists already"):
        rename_adapter(workspace, "runs/one/adapter-best", "two")
    assert (workspace.runs / "one" / "adapter-best").is_dir()
    assert (workspace.runs / "one-latents").is_dir()


@pytest.mark.parametrize("name", ["", "../two", "a/b", ".x"])
def test_a_new_name_that_is_none_is_refused(workspace, name):
    with pytest.raises(ConfigError, match="give the folder a name"):
        rename_adapter(workspace, "adapters/old", name)


def test_an_upload_is_listed_first(workspace):
    values = {"private": True}
    words = push_arguments(workspace, PRIVATE, "-odd", "me/tunes", values, dry_run=True)
    assert words == ["push", "--private", "--dry-run", "./-odd", "me/tunes"]
    words = push_arguments(workspace, PRIVATE, "-odd", " me/tunes ", values, dry_run=False)
    assert words == ["push", "--private", "./-odd", "me/tunes"]


@pytest.mark.parametrize("name", ["", None, "tunes", "me/", "/tunes", "a/b/c", "-x/y"])
def test_a_name_that_the_hub_cannot_have_is_refused(workspace, name):
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        push_arguments(workspace, PRIVATE, "-odd", name, {}, dry_run=True)


def test_results_are_told_in_a_line():
    assert describe_result({"path": "adapters/x", "rank": 8, "error": 0.25, "notes": ["a note"]}) == (
        "written: adapters/x; rank 8; compressed, the update changed by 25.00 %; a note"
    )
    assert describe_result({"url": "me/tunes"}) == "me/tunes"
    assert describe_result(None) == "done"
    assert (
        push_list({"files": [{"path": "README.md", "bytes": 1200}, "a.mid"]}) == "* `README.md`, 1,200 bytes\n* `a.mid`"
    )
    assert push_list({}) == ""
