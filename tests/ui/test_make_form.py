"""The form of a new piece gives the command line's own words."""

from __future__ import annotations

import click
import pytest

from musiclora.bundled import BUNDLED_MODELS
from musiclora.cli import get_command
from musiclora.cli.option_fields import option_fields
from musiclora.errors import ConfigError
from musiclora.families import SPECS
from musiclora.ui.make_form import (
    FRONT,
    HIDDEN,
    OWN,
    PROMPT,
    PieceRequest,
    form_fields,
    generation_arguments,
)
from musiclora.ui.make_models import fields_for, find_architecture
from musiclora.ui.workspace import Workspace

FIELDS = option_fields(get_command("generate"))


@pytest.fixture
def workspace(tmp_path):
    root = tmp_path / "page"
    for name in ("runs/one/adapter-best", "runs/two", "songs", "outside"):
        (root / name).mkdir(parents=True)
    for name in ("songs/a.mid", "songs/r.wav"):
        (root / name).write_bytes(b"x")
    (tmp_path / "secret.mid").write_bytes(b"x")
    return Workspace(root)


def parsed(words):
    """What click reads from the words, without what is not given."""
    command = get_command("generate")
    with command.make_context("x", list(words), resilient_parsing=True) as context:
        given = {n for n in context.params if context.get_parameter_source(n) is click.core.ParameterSource.COMMANDLINE}
        return {name: context.params[name] for name in given}


def words(workspace, **request):
    return parsed(generation_arguments(workspace, FIELDS, PieceRequest(**request), "pieces/x/x"))


def test_every_option_of_generate_has_a_control_once():
    shown = [field.name for field in form_fields(FIELDS)]
    options = {p.name for p in get_command("generate").params if isinstance(p, click.Option)} - {"help", "as_json"}
    assert sorted(shown) == sorted(options - {*OWN, *HIDDEN})
    assert len(shown) == len(set(shown))
    assert {*FRONT, *PROMPT} <= set(shown)


def test_adapters_with_strengths_are_compared_with_the_base(workspace):
    found = words(
        workspace,
        adapters=[("runs/one/adapter-best", 0.75), ("runs/two", 1.0)],
        options={"seed": "7", "count": "2", "temperature": "", "backend": "torch", "allow_base_mismatch": True},
    )
    assert {k: str(v) if k == "output" else v for k, v in found.items()} == {
        "output": "pieces/x/x",
        "adapters": ("runs/one/adapter-best:0.75", "runs/two:1"),
        "compare": True,
        "seed": 7,
        "count": 2,
        "backend": "torch",
        "allow_base_mismatch": True,
    }


def test_a_base_alone_is_not_compared(workspace):
    assert set(words(workspace, base="bundled")) == {"output", "model"}


def test_options_of_another_family_are_left_out_of_the_command(workspace):
    values = {"temperature": "0.9", "seconds": "20", "steps": "8", "caption": "folk", "seed": "1"}
    given = {"prompt": "songs/a.mid", "recording": "songs/r.wav", "repaint": (1.0, 2.5), "options": values}
    symbolic = words(workspace, base="bundled", **given)
    assert set(symbolic) == {"output", "model", "prompt", "temperature", "seed"}
    audio = words(workspace, base="bundled-audio", **given)
    assert set(audio) == {"output", "model", "init_audio", "repaint", "seconds", "steps", "seed"}
    assert audio["repaint"] == ((1.0, 2.5),)
    unknown = words(workspace, base="owner/model", **given)  # the command itself says what does not fit
    assert set(unknown) >= {"prompt", "init_audio", "caption", "temperature"}


@pytest.mark.parametrize("span", [(2.0, 2.0), (3.0, 1.0), (-2.0, 4.0)], ids=["empty", "reversed", "before the start"])
def test_a_span_that_is_none_is_refused(workspace, span):
    with pytest.raises(ConfigError, match="mark a span"):
        words(workspace, base="bundled-audio", recording="songs/r.wav", repaint=span)


def test_a_span_may_reach_to_the_end(workspace):
    found = words(workspace, base="bundled-audio", recording="songs/r.wav", repaint=(4.0, -1.0))
    assert found["repaint"] == ((4.0, -1.0),)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "choose an adapter, or a base"),
        ({"adapters": [("runs/gone", 1.0)]}, "runs/gone: there is no such adapter"),
        ({"adapters": [("../secret.mid", 1.0)]}, "outside the page's folder"),
        ({"base": "../outside"}, "outside the page's folder"),
        ({"base": "/etc"}, "outside the page's folder"),
        ({"base": "bundled", "prompt": "../secret.mid"}, "outside the page's folder"),
        ({"base": "bundled", "options": {"accompany": "../secret.mid"}}, "outside the page's folder"),
        ({"base": "bundled", "options": {"tokenizer": "../secret.mid"}}, "outside the page's folder"),
        ({"base": "bundled-audio", "recording": "../secret.mid"}, "outside the page's folder"),
        ({"base": "bundled-audio", "options": {"style": "../secret.mid"}}, "outside the page's folder"),
    ],
    ids=["nothing", "gone", "adapter", "base", "root", "prompt", "path option", "file or text", "recording", "style"],
)
def test_a_request_that_cannot_be_is_refused(workspace, request_, message):
    with pytest.raises(ConfigError, match=message):
        words(workspace, **request_)


def test_words_that_are_no_file_pass_as_text(workspace):
    assert words(workspace, base="bundled-audio", options={"style": "warm strings"})["style"] == "warm strings"


def test_pieces_are_named_after_the_run_or_the_base():
    assert PieceRequest(adapters=[("runs/my tunes.v2/adapter-best", 1.0)]).stem == "my-tunes-v2"
    assert PieceRequest(adapters=[("adapters/both", 1.0), ("runs/x", 1.0)]).stem == "both"
    assert PieceRequest(base="owner/model.v1").stem == "model-v1"
    assert PieceRequest(base="..").stem == "piece"


@pytest.mark.parametrize("name", BUNDLED_MODELS)
def test_a_bundled_base_has_the_options_of_its_architecture(workspace, name):
    spec = find_architecture(workspace, name, [])
    assert spec is not None
    assert (spec.family == "audio") == (name == "bundled-audio")
    shown = {field.name for field in fields_for(FIELDS, spec)}
    assert ("temperature" in shown) == (spec.family == "symbolic")
    assert "caption" not in shown
    assert {"seed", "count", "backend"} <= shown


def test_an_unknown_base_has_all_options(workspace):
    assert find_architecture(workspace, "owner/name", []) is None
    assert fields_for(FIELDS, None) == list(FIELDS)
    assert {name for spec in SPECS for name in spec.options} & {field.name for field in FIELDS}
