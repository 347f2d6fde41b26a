"""What the page tells of an adapter is what its files record."""

from __future__ import annotations

import pytest

from musiclora.convert.files.atomic import write_json
from musiclora.errors import ConfigError
from musiclora.ui.adapters_facts import adapter_table, read_card, read_facts
from musiclora.ui.workspace import Workspace

RECORD = {
    "family": "symbolic",
    "base_model": "bundled",
    "songs": 27,
    "held_out": 3,
    "gain": {"mean": 0.25, "low": 0.18, "high": 0.321, "songs": 12, "unit": "bits a note"},
    "copies": {"samples": 8, "copied": 1},
}


def adapter(root, name, record, card=None):
    folder = root / name
    folder.mkdir(parents=True)
    write_json(folder / "adapter_config.json", {"r": 16, "base_model_name_or_path": "someone/base"})
    if record is not None:
        write_json(folder / "musiclora.json", record)
    if card is not None:
        (folder / "README.md").write_text(card)
    return Workspace(root)


def test_the_table_has_what_is_recorded(tmp_path):
    workspace = adapter(tmp_path, "runs/a/adapter-best", RECORD)
    row = ["runs/a/adapter-best", "bundled", "symbolic", "16", "27 + 3 held out"]
    assert adapter_table(workspace) == [[*row, "0.250 bits a note (0.180 to 0.321)", "1 of 8 samples"]]


def test_an_adapter_of_another_tool_is_listed_too(tmp_path):
    facts = read_facts(adapter(tmp_path, "x", None), "x")
    assert (facts.base, facts.rank) == ("someone/base", "16")
    assert {facts.family, facts.songs, facts.gain, facts.copies} == {"not recorded"}


@pytest.mark.parametrize(
    ("gain", "text"),
    [
        ({"mean": 1.4, "low": None, "high": None, "songs": 3}, "1.400 bits a note (3 songs, too few for an interval)"),
        ({"mean": -0.01, "low": -0.02, "high": 0.0, "songs": 9, "unit": "loss"}, "-0.010 lower loss (-0.020 to 0.000)"),
        ({"mean": "x"}, "not recorded"),
        ([], "not recorded"),
    ],
    ids=["few songs", "audio", "damaged", "another type"],
)
def test_a_gain_is_told_with_its_interval(tmp_path, gain, text):
    assert read_facts(adapter(tmp_path, "x", {**RECORD, "gain": gain}), "x").gain == text


def test_a_damaged_record_counts_as_none(tmp_path):
    workspace = adapter(tmp_path, "x", RECORD)
    (tmp_path / "x" / "musiclora.json").write_text("{broken")
    assert read_facts(workspace, "x").songs == "not recorded"


def test_a_card_loads_nothing_from_elsewhere(tmp_path):
    card = "---\nlicense: mit\n---\n# Card\n![picture](https://example.org/x.png) <img src=https://example.org/y.png>\n"
    text = read_card(adapter(tmp_path, "x", RECORD, card), "x")
    assert "license" not in text
    assert text.strip() == "# Card\n[picture](https://example.org/x.png) &lt;img src=https://example.org/y.png>"


def test_an_adapter_without_a_card_says_so(tmp_path):
    assert "no card" in read_card(adapter(tmp_path, "x", RECORD), "x")
    with pytest.raises(ConfigError, match="choose a"):
        read_card(Workspace(tmp_path), "")
