"""The page with the tabs Make and Adapters is built from what lies in its folder."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from require import require

from musiclora.convert.files.atomic import write_json
from musiclora.ui.make_player import player_value

# Gradio leaves sockets and event loops open, which are errors in this process.
CODE = """
import json, sys
from pathlib import Path
from musiclora.cli import get_command
from musiclora.cli.option_fields import option_fields
from musiclora.ui.options import OptionField
from musiclora.ui.page import build_page
from musiclora.ui.state import Page
from musiclora.ui.workspace import Workspace

FACTS = ("value", "visible", "interactive", "label")
fields = {name: option_fields(get_command(name)) for name in ("train", "generate", "render", "blend", "fuse")}
push = [OptionField(name, "--" + name, "switch", "") for name in ("private", "dry_run")]
pages = []
for root, more in zip(map(Path, sys.argv[1:]), ({}, {"push": push})):
    blocks = build_page(Page(Workspace(root), {**fields, **more}, root / "cache"))
    named = [block for block in blocks.blocks.values() if getattr(block, "elem_id", None)]
    events = [
        [event._id, str(event.concurrency_id), event.concurrency_limit, event.cancels, event.api_visibility]
        for event in blocks.fns.values()
    ]
    pages.append({
        "blocks": {b.elem_id: [type(b).__name__, *(getattr(b, fact, None) for fact in FACTS)] for b in named},
        "events": events,
    })
print(json.dumps(pages, default=str))
"""
WITH_LABEL = ("Textbox", "Dropdown", "Slider", "Checkbox", "Radio", "File", "Audio", "Image", "Dataframe")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Components and events of a page over an empty folder, and of one with an adapter and `musiclora push`."""
    require("gradio")
    empty, filled = (tmp_path_factory.mktemp(name) for name in ("empty", "filled"))
    folder = filled / "runs" / "one" / "adapter-best"
    folder.mkdir(parents=True)
    write_json(folder / "adapter_config.json", {"r": 4})
    command = [sys.executable, "-c", CODE, str(empty), str(filled)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def facts(page, name):
    """Class, value, visibility, if it can be used, and label of a component."""
    return page["blocks"][name]


def test_an_empty_folder_begins_with_a_bundled_base(pages):
    page = pages[0]
    assert facts(page, "adapters")[1] == []
    assert facts(page, "make-base")[1] == "bundled"
    assert facts(page, "piece")[2] is False
    assert "push" not in page["blocks"]


def test_the_latest_adapter_is_chosen_with_a_strength(pages):
    page = pages[1]
    assert facts(page, "adapters")[1] == ["runs/one/adapter-best"]
    assert facts(page, "adapters-strength-1")[1:] == [1, True, None, "Strength of runs/one/adapter-best"]
    assert facts(page, "adapters-strength-2")[2] is False
    assert facts(page, "make-base")[1] == ""


def test_an_upload_begins_with_the_list_of_files(pages):
    page = pages[1]
    assert facts(page, "push")[3] is False
    assert facts(page, "push-list")[0] == "Button"
    assert "push-option-private" in page["blocks"]
    assert "push-option-dry-run" not in page["blocks"]


def test_every_control_has_a_label_and_no_event_is_an_interface_for_others(pages):
    for page in pages:
        assert [name for name, (kind, *_, label) in page["blocks"].items() if kind in WITH_LABEL and not label] == []
        assert {event[4] for event in page["events"]} == {"private"}


def test_pieces_are_made_one_at_a_time_and_cancel_ends_that(pages):
    for page in pages:
        [making] = [event for event in page["events"] if event[1] == "make"]
        assert making[2] == 1
        assert [event[3] for event in page["events"] if event[3]] == [[making[0]]]


def test_addresses_of_a_pair_are_escaped(tmp_path):
    value = player_value(tmp_path / "a #1.wav", tmp_path / "b?.wav")
    assert value["base"].endswith("/a%20%231.wav")
    assert value["adapted"].endswith("/b%3F.wav")
