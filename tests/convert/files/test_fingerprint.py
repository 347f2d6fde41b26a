"""Fingerprints: independent of the container, changed by every value."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from musiclora.convert.files.fingerprint import (
    compare_fingerprints,
    fingerprint_config,
    fingerprint_file,
    fingerprint_folder,
    fingerprint_tensors,
    matches_by_source,
)
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint
from musiclora.families import checkpoint_fingerprint

CONFIG = Gpt2Config(13, 8, 8, 2, 2, 8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    return fresh_tensors(CONFIG, 1)


def test_both_layouts_and_any_order_have_one_fingerprint(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    for layout in ("hf", "mlx"):
        write_checkpoint(tmp_path / layout, CONFIG, tensors, layout, extra_files={"tokenizer.json": b'{"a": 1}'})
    hf, mlx = (checkpoint_fingerprint(tmp_path / layout) for layout in ("hf", "mlx"))
    assert hf == mlx
    assert hf["weights"] == fingerprint_tensors(reversed(tensors.items()))
    assert hf["tokenizer"] == fingerprint_file('{"a":1}')


@pytest.mark.parametrize("change", ["one value", "a square matrix transposed", "a name"])
def test_any_change_of_the_weights_changes_the_fingerprint(change: str, tensors: dict[str, np.ndarray]) -> None:
    before, name = fingerprint_tensors(tensors.items()), "transformer.h.1.attn.c_proj.weight"
    if change == "one value":
        tensors[name][3, 2] += np.float32(1e-6)
    elif change == "a name":
        tensors["transformer.h.2.attn.c_proj.weight"] = tensors.pop(name)
    else:
        tensors[name] = tensors[name].T
    assert fingerprint_tensors(tensors.items()) != before


def test_the_second_call_reads_the_cache_and_a_changed_file_is_hashed_again(
    tensors: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    write_checkpoint(tmp_path / "m", CONFIG, tensors, "hf")
    first = checkpoint_fingerprint(tmp_path / "m")
    assert len(list(cache.rglob("*.json"))) == 1
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr("musiclora.convert.models.gpt2.read_checkpoint", lambda _: pytest.fail("not cached"))
        assert checkpoint_fingerprint(tmp_path / "m") == first
    tensors["transformer.ln_f.bias"][0] = 1
    write_checkpoint(tmp_path / "m", CONFIG, tensors, "hf", overwrite=True)
    assert checkpoint_fingerprint(tmp_path / "m")["weights"] != first["weights"]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".safetensors"])
def test_other_weights_of_any_suffix_are_hashed_again(suffix: str, tmp_path: Path) -> None:
    class Opened:
        config: ClassVar[dict[str, int]] = {}

        def __init__(self, folder: Path) -> None:
            self.values = np.frombuffer((folder / f"w{suffix}").read_bytes(), np.float32)

        def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
            yield "w", self.values

    found = []
    for count in (4, 5):
        np.ones(count, np.float32).tofile(tmp_path / f"w{suffix}")
        found.append(fingerprint_folder(tmp_path, Opened)["weights"])
    assert found[0] != found[1]
    assert fingerprint_folder(tmp_path, lambda _: pytest.fail("not cached"))["weights"] == found[1]


def test_a_cache_that_cannot_be_written_changes_nothing(
    tensors: dict[str, np.ndarray], tmp_path: Path, cache: Path
) -> None:
    cache.write_text("a file in the way")
    write_checkpoint(tmp_path / "m", CONFIG, tensors, "hf")
    assert checkpoint_fingerprint(tmp_path / "m")["weights"] == fingerprint_tensors(tensors.items())


def test_a_difference_is_named_by_its_part_and_unknown_parts_are_not_compared() -> None:
    actual = {"weights": "a" * 64, "config": "b" * 64, "tokenizer": "c" * 64}
    assert compare_fingerprints(actual, actual) == []
    assert compare_fingerprints({"weights": "a" * 64}, actual) == []
    assert compare_fingerprints(actual | {"tokenizer": ""}, actual) == []
    assert compare_fingerprints(actual | {"tokenizer": "d" * 64}, actual) == [
        "the tokenizer (recorded dddddddd, found cccccccc)"
    ]


def test_a_record_of_the_source_alone_is_compared_too() -> None:
    recorded = {"source_weights": "d" * 64}
    assert compare_fingerprints(recorded, {"weights": "d" * 64}) == []
    assert compare_fingerprints(recorded, {"weights": "a" * 64}) == ["the weights (recorded dddddddd, found aaaaaaaa)"]


def test_a_converted_base_matches_through_its_source(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "full", CONFIG, tensors, "hf")
    full = checkpoint_fingerprint(tmp_path / "full")
    record = json.dumps({"source_fingerprint": full}).encode()
    write_checkpoint(tmp_path / "half", CONFIG, tensors, "mlx", dtype="float16", extra_files={"musiclora.json": record})
    half = checkpoint_fingerprint(tmp_path / "half")
    assert half["weights"] != full["weights"]
    for recorded, actual in [(full, half), (half, full)]:
        assert compare_fingerprints(recorded, actual) == []
        assert matches_by_source(recorded, actual)
    assert not matches_by_source(full, full)


def test_the_configuration_counts_by_its_maths_only() -> None:
    assert fingerprint_config(CONFIG) == fingerprint_config(
        Gpt2Config.from_json(CONFIG.to_json() | {"eos_token_id": 5})
    )
    same = Gpt2Config(13, 8, 8, 2, 2, 8, activation_function="gelu_pytorch_tanh")
    assert fingerprint_config(same) == fingerprint_config(CONFIG)
    assert fingerprint_config(Gpt2Config(13, 8, 8, 2, 1, 8)) != fingerprint_config(CONFIG)
    scaled = dataclasses.replace(CONFIG, scale_attn_by_inverse_layer_idx=True)
    assert fingerprint_config(scaled) != fingerprint_config(CONFIG)


def test_a_configuration_keeps_the_fingerprint_of_before_there_was_a_switch_for_attention() -> None:
    assert fingerprint_config(CONFIG) == "4688b6c7728dc536fd26a3914e13ffa5e812ccbe547f876c7afa09351c3c28cb"


def test_a_tokenizer_counts_by_its_content_and_not_by_library_versions() -> None:
    first = fingerprint_file('{"vocab": {"a": 0}, "miditok_version": "3.0"}')
    assert first == fingerprint_file(b'{ "miditok_version": "3.1",\n "vocab": {"a": 0} }')
    assert first != fingerprint_file('{"vocab": {"a": 1}}')
    assert fingerprint_file(b"\xff") != fingerprint_file(b"\xfe")
