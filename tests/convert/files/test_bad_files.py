"""Bad inputs: each ends in one line that names the problem, exit code 2 and no output."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from musiclora.cli import main
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.gpt2 import Gpt2Config, write_checkpoint
from musiclora.families import checkpoint_fingerprint

CONFIG = Gpt2Config(vocab_size=12, n_positions=12, n_embd=12, n_layer=2, n_head=3, n_inner=12)  # mostly square
SPEC = LoraSpec(2, 3.0, 0.0, ("c_attn", "c_proj", "c_fc"))


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from musiclora.backends import registry

    monkeypatch.setattr(registry, "probe", lambda name: {"error": "not installed"})
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    tensors = {n: rng.standard_normal(s).astype(np.float32) for n, s in CONFIG.tensor_shapes().items()}
    write_checkpoint(tmp_path / "base", CONFIG, tensors, "hf")
    state = {
        n: rng.standard_normal(s).astype(np.float32) for n, s in state_shapes(SPEC, CONFIG.linear_shapes()).items()
    }
    record = {"family": "symbolic", "fingerprints": checkpoint_fingerprint(tmp_path / "base")}
    write_peft(tmp_path / "a", SPEC, state, base_model="base", record=record)
    return tmp_path


def fails(*named: str, command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, list(command))
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    for words in named:
        assert words in result.stderr
    assert "Traceback" not in result.output
    assert not Path("out").exists()
    assert not list(Path().glob(".out*"))


MODEL = ("convert", "model", "base", "out", "--to", "mlx")
ADAPTER = ("convert", "adapter", "a", "out", "--to", "mlx-lm")
FUSE = ("fuse", "--adapter-dir", "a", "--output-dir", "out")


def rewrite(path: str, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    file = Path(path)
    arrays = read_safetensors(file)
    change(arrays)
    file.unlink()
    write_safetensors(file, arrays)


def transposed(name: str) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda arrays: arrays.update({name: np.ascontiguousarray(arrays[name].T)})


@pytest.mark.parametrize("module", ["h.0.attn.c_proj", "h.1.mlp.c_fc", "wte"])
@pytest.mark.parametrize("command", [ADAPTER, FUSE], ids=lambda c: c[0])
def test_a_square_matrix_stored_transposed_is_found_by_the_fingerprint(module: str, command: tuple[str, ...]) -> None:
    rewrite("base/model.safetensors", transposed(f"transformer.{module}.weight"))
    fails("the weights", "--allow-base-mismatch", command=command)


@pytest.mark.parametrize("to", ["hf", "mlx"])
@pytest.mark.parametrize("command", [ADAPTER, FUSE], ids=lambda c: c[0])
def test_a_square_matrix_transposed_after_a_conversion_does_not_pass_for_the_source(
    to: str, command: tuple[str, ...]
) -> None:
    assert CliRunner().invoke(main, ["convert", "model", "base", "copy", "--to", to]).exit_code == 0
    prefix = "transformer" if to == "hf" else "model"
    rewrite("copy/model.safetensors", transposed(f"{prefix}.h.0.attn.c_proj.weight"))
    fails("the weights", "--allow-base-mismatch", command=(*command, "--model", "copy"))
    # Nor does what is made of it, whose source is the changed folder.
    assert CliRunner().invoke(main, ["convert", "model", "copy", "again", "--to", "hf"]).exit_code == 0
    fails("the weights", "--allow-base-mismatch", command=(*command, "--model", "again"))


def test_one_name_twice_in_a_header() -> None:
    path = Path("base/model.safetensors")
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b'"transformer.h.1.ln_1.bias"', b'"transformer.h.0.ln_1.bias"')
    path.write_bytes(data[:8] + header + data[8 + length :])
    fails("duplicate names", "transformer.h.0.ln_1.bias", command=MODEL)


@pytest.mark.parametrize(
    ("shape", "end"), [([2**20, 2**21], 2**43), ([3], 2**47), ([2**47, 2**47], 12)], ids=["both", "bytes", "shape"]
)
@pytest.mark.parametrize("target", ["base/model.safetensors", "a/adapter_model.safetensors"], ids=["model", "adapter"])
def test_a_header_that_claims_terabytes_is_refused_before_anything_is_allocated(
    shape: list[int], end: int, target: str
) -> None:
    header = json.dumps({"huge": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    Path(target).write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    fails("huge", command=MODEL if target.startswith("base") else ADAPTER)


def test_a_header_longer_than_the_file() -> None:
    Path("base/model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}" + bytes(20))
    fails("not a safetensors file", command=MODEL)


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("kind", ["base", "adapter", "audio model", "audio adapter"])
def test_a_pickle_that_imports_os_is_refused_and_never_runs(kind: str) -> None:
    content = pickle.dumps({"transformer.wte.weight": _Runs(), "lora_state_dict": {}, "model_state_dict": {}})
    target, command = {
        "base": ("base/pytorch_model.bin", MODEL),
        "adapter": ("a/adapter_model.bin", ADAPTER),
        "audio model": ("x.pt", ("convert", "model", "x.pt", "out", "--to", "hf")),
        "audio adapter": ("x.pt", ("convert", "adapter", "x.pt", "out", "--to", "peft")),
    }[kind]
    for name in ("base/model.safetensors", "a/adapter_model.safetensors"):
        Path(name).unlink()
    Path(target).write_bytes(content)
    fails("mkdir", command=command)
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("key", "named"), [("lokr_w1", "LoKr"), ("hada_w1_a", "LoHa"), ("oft_r.weight", "OFT")], ids=["LoKr", "LoHa", "OFT"]
)
@pytest.mark.parametrize("command", [ADAPTER, FUSE, ("blend", "a", "out")], ids=lambda c: c[0])
def test_adapters_of_other_kinds_are_refused_by_name(key: str, named: str, command: tuple[str, ...]) -> None:
    name = f"base_model.model.transformer.h.0.attn.c_attn.{key}"
    rewrite("a/adapter_model.safetensors", lambda arrays: arrays.update({name: np.ones((2, 2), np.float32)}))
    fails(named, name, command=command)
    config = Path("a/adapter_config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": named.upper()}))
    fails(named.upper(), command=command)


def test_a_shard_that_is_missing_is_named() -> None:
    path = Path("base/model.safetensors")
    arrays = read_safetensors(path)
    path.unlink()
    names = sorted(arrays)
    shards = {f"model-{k}.safetensors": names[k::3] for k in range(3)}
    for file, part in shards.items():
        write_safetensors(Path("base") / file, {name: arrays[name] for name in part})
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    Path("base/model.safetensors.index.json").write_text(json.dumps(index))
    assert CliRunner().invoke(main, ["convert", "model", "base", "whole", "--to", "mlx"]).exit_code == 0
    Path("base/model-1.safetensors").unlink()
    fails("model-1.safetensors", command=MODEL)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda a: a.pop("base_model.model.transformer.h.0.attn.c_proj.lora_B.weight"),
            "c_proj.lora_B.weight is missing",
        ),
        (lambda a: a.update({"base_model.model.transformer.h.7.attn.c_proj.lora_A.weight": np.ones((2, 12))}), "h.7."),
        (lambda a: a["base_model.model.transformer.h.0.attn.c_proj.lora_A.weight"].fill(np.nan), "24 non-finite"),
        (transposed("base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"), "is [2, 36], expected"),
    ],
    ids=["missing", "surplus", "non-finite", "wrong shape"],
)
@pytest.mark.parametrize("command", [ADAPTER, FUSE, ("blend", "a", "out")], ids=lambda c: c[0])
def test_arrays_of_an_adapter_that_do_not_fit_are_named(
    change: Callable[[dict[str, np.ndarray]], object], named: str, command: tuple[str, ...]
) -> None:
    rewrite("a/adapter_model.safetensors", change)
    fails(named, command=command)


def test_a_truncated_adapter() -> None:
    path = Path("a/adapter_model.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    for command in (ADAPTER, FUSE, ("blend", "a", "out")):
        fails("adapter_model.safetensors", command=command)
    with pytest.raises(ConvertError, match="claims bytes"):
        read_peft(Path("a"))
