"""`musiclora push` and pulling by `--adapter-dir OWNER/NAME`, through huggingface_hub and a Hub on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner
from hub_server import READ_ONLY, TOKEN, local_hub
from refusal import refused

from musiclora.cli import main
from musiclora.conversion.push import push_folder
from musiclora.conversion.push_files import collect_folder, find_secrets
from musiclora.errors import ConfigError
from musiclora.jobs import train
from musiclora.training.config import TrainConfig


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_base, tunes):
    """A finished run with a sample."""
    folder = tmp_path_factory.mktemp("push") / "run"
    settings = {"data_dir": str(tunes), "output_dir": str(folder), "model": str(tiny_base), "backend": "torch"}
    train(TrainConfig(**settings, epochs=1, max_seq_len=128, sample_every=1, lora_r=4))
    return folder


def command(hub, home, *words, token=TOKEN):
    """Run a command in a process that takes the local server for the Hub."""
    line = [sys.executable, "-m", "musiclora", *map(str, words)]
    return subprocess.run(line, env=hub.environment(home, token), capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_what_was_pushed_is_pulled_byte_for_byte_and_plays_the_same(run, tiny_base, tmp_path):
    with local_hub() as hub:
        pushed = command(hub, tmp_path / "home", "push", run, "me/tunes", "--private", "--json")
        assert pushed.returncode == 0, pushed.stderr
        found = json.loads(pushed.stdout)
        files = hub.repositories["me/tunes"]
        assert {item["path"]: item["bytes"] for item in found["files"]} == {
            name: len(content) for name, content in files.items() if name != ".gitattributes"
        }
        assert hub.private == {"me/tunes"}
        best = run / "adapter-best"
        for name in ("adapter_model.safetensors", "adapter_config.json", "musiclora.json", "tokenizer.json"):
            assert files[name] == (best / name).read_bytes(), name
        assert files["sample.mid"][:4] == b"MThd"
        assert files["sample.png"][:4] == b"\x89PNG"

        common = ["--model", tiny_base, "--max-new-tokens", 40, "--backend", "torch"]
        pulled = command(
            hub, tmp_path / "home", "generate", "--adapter-dir", "me/tunes:0.5", *common, "--output", tmp_path / "a.mid"
        )
        assert pulled.returncode == 0, pulled.stderr
        assert ("GET", f"/me/tunes/resolve/{hub.sha('me/tunes')}/adapter_model.safetensors") in hub.requests
        own = CliRunner().invoke(
            main,
            list(map(str, ["generate", "--adapter-dir", f"{best}:0.5", *common, "--output", tmp_path / "b.mid"])),
        )
        assert own.exit_code == 0, own.output
        assert (tmp_path / "a.mid").read_bytes() == (tmp_path / "b.mid").read_bytes()

        again = command(hub, tmp_path / "home", "push", run, "me/tunes")
        assert again.returncode == 0, again.stderr
        assert hub.commits["me/tunes"] == 2


REFUSALS = """
import json, os, sys
from click.testing import CliRunner
from musiclora.cli import main

answers = []
for token, repository in json.loads(sys.argv[2]):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    found = CliRunner().invoke(main, ["push", sys.argv[1], repository])
    answers.append([found.exit_code, found.stderr.strip().splitlines()[-1], "Traceback" in found.output])
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_what_the_hub_refuses_is_one_line_and_nothing_is_lost(run, tmp_path):
    cases = [
        (None, "me/a", "no token for the Hub"),
        ("hf_" + "x" * 34, "me/a", "the Hub does not know this token"),
        (READ_ONLY, "me/a", "this token may not write there"),
        (TOKEN, "somebody/a", "this token may not write there"),
        (TOKEN, "me/other", "holds something else than an adapter; take another name"),
        (TOKEN, "me/broken", "no file of it was changed; the same command tries again"),
    ]
    with local_hub() as hub:
        hub.repositories["me/other"] = {"data.csv": b"1"}
        hub.faults["/me/broken/commit/"] = 0
        asked = json.dumps([case[:2] for case in cases])
        ran = subprocess.run(
            [sys.executable, "-c", REFUSALS, str(run), asked],
            env=hub.environment(tmp_path / "home", None),
            capture_output=True,
            text=True,
            check=True,
        )
        for (_, _, message), (code, line, traceback) in zip(cases, json.loads(ran.stdout), strict=True):
            assert (code, traceback) == (2, False), line
            assert message in line
        assert hub.repositories["me/other"] == {"data.csv": b"1"}
        assert hub.repositories["me/broken"] == {".gitattributes": b""}
        assert hub.commits == {}
        hub.faults.clear()
        again = command(hub, tmp_path / "home", "push", run, "me/broken")
        assert again.returncode == 0, again.stderr
        assert "adapter_model.safetensors" in hub.repositories["me/broken"]


def test_a_dry_run_lists_files_and_metadata_and_needs_no_token(run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    found = push_folder(str(run), "me/tunes", dry_run=True)
    names = [name for name, _ in found.files]
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "sample.png"} <= set(names)
    assert not {"training_meta.json", "metrics.jsonl", "config.toml", "state"} & set(names)
    data = found.metadata
    assert (data["library_name"], data["license"]) == ("peft", "other")
    assert "base_model" not in data  # the base is a folder of this machine
    assert {"musiclora", "lora", "midi"} <= set(data["tags"])
    metrics = data["model-index"][0]["results"][0]["metrics"]
    assert {m["name"] for m in metrics} >= {"loss", "loss of the base"}
    result = CliRunner().invoke(main, ["push", str(run), "me/tunes", "--dry-run"])
    assert result.exit_code == 0
    assert "nothing was sent" in result.stdout


def test_a_base_of_the_hub_is_named_and_its_licence_linked(run, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(run / "adapter-best", folder)
    record = json.loads((folder / "musiclora.json").read_text())
    (folder / "musiclora.json").write_text(json.dumps({**record, "base_kind": "hub", "base_model": "owner/base@main"}))
    found = push_folder(str(folder), "me/tunes", dry_run=True)
    assert found.metadata["base_model"] == "owner/base"
    assert found.metadata["license_link"] == "https://huggingface.co/owner/base"
    assert any("no sample" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("trained on /home/ann/songs/x", "a.md holds the path /home/ann/songs/x"),
        ("see C:\\Users\\ann\\x", "a.md holds the path C:\\Users\\ann\\x"),
        ("~/secret/place", "a.md holds the path ~/secret/place"),
        ("held out: my song.mid", "a.md names the song my song.mid"),
        ("https://huggingface.co/data/x and a/b and 3/4", None),
        ("samples/home/x", None),
    ],
    ids=["unix", "windows", "home", "song", "address", "relative"],
)
def test_paths_and_songs_are_found_in_texts(text, found):
    assert find_secrets({"a.md": text}, ("my song.mid",)) == ([found] if found else [])


def test_a_card_that_names_a_song_is_not_sent(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    song = json.loads((copy / "training_meta.json").read_text())["held_out_songs"][0]
    with (copy / "adapter-best" / "README.md").open("a") as card:
        card.write(f"\nMy favourite is {song}.\n")
    with pytest.raises(ConfigError, match=r"nothing was sent: README\.md names the song"):
        push_folder(str(copy), "me/tunes", dry_run=True)


def test_the_path_of_a_local_base_is_taken_out_of_another_tool_s_adapter(run, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(run / "adapter-best", folder)
    (folder / "musiclora.json").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    (tmp_path / "base").mkdir()
    config["base_model_name_or_path"] = str(tmp_path / "base")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    sent = json.loads(collect_folder(str(folder)).files["adapter_config.json"])
    assert sent == {**config, "base_model_name_or_path": ""}


def test_a_model_folder_is_sent_with_its_weights_and_nothing_else(tiny_base, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_base, folder)
    for name in ("training_meta.json", ".hidden.json", "notes.pdf"):
        (folder / name).write_text("{}")
    found = push_folder(str(folder), "me/base", dry_run=True)
    assert [name for name, _ in found.files] == sorted(
        ["README.md", "config.json", "model.safetensors", "tokenizer.json", "musiclora.json"]
        if (folder / "musiclora.json").is_file()
        else ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    )
    assert found.metadata["pipeline_tag"] == "text-generation"


@pytest.mark.parametrize(
    ("make", "repository", "message"),
    [
        (lambda path: None, "me/x", "there is no such folder"),
        (lambda path: path.mkdir(), "me/x", "neither the folder of an adapter nor that of a model"),
        (lambda path: path.mkdir(), "me", "OWNER/NAME"),
        (lambda path: path.mkdir(), "me/x/y", "OWNER/NAME"),
    ],
    ids=["gone", "empty", "no owner", "too many"],
)
def test_bad_arguments_are_one_line(tmp_path, make, repository, message):
    make(tmp_path / "x")
    refused(CliRunner().invoke(main, ["push", str(tmp_path / "x"), repository]), message)
