"""Quantised bases, chains of conversions and notes of `fuse`, from the command line down."""

import json
from pathlib import Path

import numpy as np
import pytest
import tolerance
from click.testing import CliRunner, Result
from require import require

from musiclora.adapters import check_base, find_adapter
from musiclora.cli import main
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, read_checkpoint, write_checkpoint
from musiclora.families import checkpoint_fingerprint
from musiclora.models import BaseModel

CONFIG = Gpt2Config(vocab_size=40, n_positions=24, n_embd=32, n_layer=2, n_head=2, n_inner=128)
SPEC = LoraSpec(4, 6.5, 0.0, ("c_attn", "c_proj", "c_fc"))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "base", CONFIG, fresh_tensors(CONFIG, 1), "hf")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def done(*arguments: str) -> str:
    """Run a command that must succeed, and return its notes."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stderr


def adapter(name: str, base: str, seed: int = 0, **options: object) -> None:
    """Write an adapter whose record names a base."""
    rng = np.random.default_rng(seed)
    shapes = state_shapes(SPEC, CONFIG.linear_shapes())
    state = {n: rng.standard_normal(s).astype(np.float32) * 0.2 for n, s in shapes.items()}
    record = {"family": "symbolic", "fingerprints": checkpoint_fingerprint(Path(base))}
    write_peft(Path(name), SPEC, state, base_model=base, record=record, **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.slow
def test_quantise_states_what_it_costs_and_eight_bits_cost_less_than_four(bits: int, any_backend: str) -> None:
    report = json.loads(run("convert", "model", "base", "q", "--to", "mlx", "--quantize", str(bits), "--json").stdout)
    assert report["bits"] == read_checkpoint(Path("q")).bits == bits
    assert report["backend"]
    assert 0 < abs(report["loss"] - report["float_loss"]) < {4: 0.2, 8: 0.01}[bits]
    assert any("loss" in note and "nats a token" in note for note in report["notes"])
    assert any("largest change of a weight" in note for note in report["notes"])


@pytest.mark.usefixtures("work", "no_backend")
def test_quantise_works_without_any_backend_and_says_that_no_loss_was_measured() -> None:
    text = done("convert", "model", "base", "q", "--to", "mlx", "--quantize", "4")
    assert "no backend is at hand" in text
    assert "left in float32: layer norms and biases" in text


@pytest.mark.usefixtures("work", "no_backend")
def test_matrices_whose_rows_no_group_divides_are_named() -> None:
    config = Gpt2Config(29, 8, 32, 1, 2, 40)  # mlp.c_proj has rows of 40
    write_checkpoint(Path("odd"), config, fresh_tensors(config, 0), "hf")
    text = done("convert", "model", "odd", "q", "--to", "mlx", "--quantize", "4")
    assert "rows of no multiple of 32 values: transformer.h.0.mlp.c_proj.weight" in text
    assert read_checkpoint(Path("q")).bits == 4


@pytest.mark.usefixtures("work", "no_backend")
def test_quantising_where_it_cannot_be_is_one_line_and_leaves_nothing() -> None:
    done("convert", "model", "base", "q", "--to", "mlx", "--quantize", "4")
    narrow = Gpt2Config(29, 8, 12, 1, 2, 48)
    write_checkpoint(Path("narrow"), narrow, fresh_tensors(narrow, 0), "hf")
    Path("audio").mkdir()
    Path("audio/config.json").write_text('{"model_type": "diffrhythm"}')
    for source, to, named in (
        ("base", "hf", "goes with --to mlx"),
        ("q", "mlx", "quantised already"),
        ("narrow", "mlx", "multiple of 32"),
        ("audio", "mlx", "not for DiffRhythm"),
    ):
        result = run("convert", "model", source, "out", "--to", to, "--quantize", "4")
        assert result.exit_code == 2
        assert named in result.stderr.splitlines()[-1]
        assert not Path("out").exists()
        assert not list(Path().glob(".out*"))


@pytest.mark.usefixtures("work", "no_backend")
def test_a_copy_that_reads_back_otherwise_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def transposing(folder: Path, config: Gpt2Config, tensors: object, *rest: object, **options: object) -> None:
        square = "transformer.h.1.attn.c_proj.weight"
        swapped = ((n, a.T if n == square else a) for n, a in tensors)  # type: ignore[attr-defined]
        write_checkpoint(folder, config, swapped, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("musiclora.conversion.gpt2.write_checkpoint", transposing)
    for options in (("--to", "mlx", "--quantize", "8"), ("--to", "hf", "--dtype", "float16")):
        result = run("convert", "model", "base", "out", *options)
        assert result.exit_code == 2
        assert "h.1.attn.c_proj.weight); it was withdrawn" in result.stderr
        assert not Path("out").exists()


@pytest.mark.usefixtures("work", "no_backend")
def test_adapters_of_the_quantised_base_and_of_the_float_base_fit_both_with_a_note() -> None:
    done("convert", "model", "base", "q", "--to", "mlx", "--quantize", "4")
    for trained in ("base", "q"):
        adapter(f"on-{trained}", trained)
        for used in ("base", "q"):
            notes = check_base(find_adapter(f"on-{trained}"), BaseModel(used, Path(used), ""))
            assert ["conversion of the base" in note for note in notes] == [True] * (trained != used)


@pytest.mark.usefixtures("work", "no_backend")
def test_a_chain_of_conversions_keeps_the_first_sources_fingerprint() -> None:
    done("convert", "model", "base", "half", "--to", "mlx", "--dtype", "float16")
    done("convert", "model", "half", "rounder", "--to", "hf", "--dtype", "bfloat16")
    done("convert", "model", "rounder", "q", "--to", "mlx", "--quantize", "8")
    done("convert", "model", "q", "last", "--to", "hf")
    first = checkpoint_fingerprint(Path("base"))["weights"]
    adapter("a", "base")
    for name in ("half", "rounder", "q", "last"):
        assert checkpoint_fingerprint(Path(name))["source_weights"] == first
        assert check_base(find_adapter("a"), BaseModel(name, Path(name), ""))


@pytest.mark.usefixtures("work")
def test_fusing_into_a_quantised_base_dequantises_and_says_what_quantising_again_would_cost(any_backend: str) -> None:
    done("convert", "model", "base", "q", "--to", "mlx", "--quantize", "4")
    adapter("a", "q")
    result = run("fuse", "--adapter-dir", "a", "--output-dir", "out", "--backend", any_backend, "--json")
    report = json.loads(result.stdout)
    assert any("4-bit base was de-quantised" in note and "would change an adapted" in note for note in report["notes"])
    fused, base, found = read_checkpoint(Path("out")), read_checkpoint(Path("q")).load(), find_adapter("a")
    assert (fused.bits, fused.dtype) == (None, "float32")
    for name, array in fused.load().items():
        module, expected = name.removesuffix(".weight"), base[name]
        if f"{module}.lora_A.weight" in found.state:
            update = found.state[f"{module}.lora_B.weight"] @ found.state[f"{module}.lora_A.weight"]
            expected = expected + SPEC.scale * update.T
        tolerance.assert_near(array, expected, tolerance.rounding(8, 3 * max(1.0, np.abs(expected).max())), name)


@pytest.mark.usefixtures("work", "no_backend")
@pytest.mark.parametrize(("dtype", "lost"), [("float32", False), ("bfloat16", True), ("float16", True)])
def test_fusing_in_half_precision_says_how_much_of_the_update_is_rounded(dtype: str, lost: bool) -> None:
    adapter("a", "base")
    text = done("fuse", "--adapter-dir", "a:0.001", "--output-dir", "out", "--dtype", dtype)
    assert ("% of the update" in text) == lost


@pytest.mark.usefixtures("work", "no_backend")
def test_fuse_takes_the_tokenizer_that_the_adapter_was_trained_with() -> None:
    (Path("base") / "tokenizer.json").write_text('{"of": "base"}')
    (Path("base") / "vocab.json").write_text("{}")
    (Path("base") / "README.md").write_text("card")
    adapter("same", "base", extra_files={"tokenizer.json": b'{"of":  "base"}'})
    assert "tokenizer" not in done("fuse", "--adapter-dir", "same", "--output-dir", "x")
    assert (Path("x") / "vocab.json").is_file()
    adapter("own", "base", extra_files={"tokenizer.json": b'{"of": "adapter"}'})
    assert "took the tokenizer of the adapter" in done("fuse", "--adapter-dir", "own", "--output-dir", "y")
    assert json.loads((Path("y") / "tokenizer.json").read_text()) == {"of": "adapter"}
    assert not (Path("y") / "vocab.json").exists()
    assert (Path("y") / "README.md").read_text().endswith("card\n")
    result = run("fuse", "--adapter-dir", "same", "own", "--output-dir", "z")
    assert (result.exit_code, Path("z").exists()) == (2, False)
    assert "different tokenizers" in result.stderr


@pytest.mark.usefixtures("work", "no_backend")
@pytest.mark.parametrize(
    "change",
    [{"activation_function": "relu"}, {"n_inner": 64}, {"scale_attn_by_inverse_layer_idx": True}],
    ids=["activation", "width of the MLP", "scaled attention"],
)
@pytest.mark.parametrize("bits", [(), ("--quantize", "4")], ids=["float", "quantised"])
def test_what_mlx_lm_would_compute_otherwise_is_said_and_makes_mlx_lm_stop(
    change: dict[str, object], bits: tuple[str, ...]
) -> None:
    utils = require("mlx_lm.utils")
    config = Gpt2Config(**{**CONFIG.__dict__, **change})  # type: ignore[arg-type]
    write_checkpoint(Path("other"), config, fresh_tensors(config, 1), "hf")
    said = done("convert", "model", "other", "out", "--to", "mlx", *bits)
    assert "mlx-lm refuses it" in said
    assert next(iter(change)) in said
    with pytest.raises(TypeError, match="n_ctx"):
        utils.load_model(Path("out"), strict=True)
    assert read_checkpoint(Path("out")).config == config
    assert "mlx-lm" not in done("convert", "model", "out", "back", "--to", "hf")
    assert read_checkpoint(Path("back")).config == config
    assert "mlx-lm" not in done("convert", "model", "base", "fine", "--to", "mlx")


@pytest.mark.usefixtures("work", "no_backend")
@pytest.mark.parametrize("after", [0, 5, 20], ids=str)
def test_ctrl_c_while_writing_leaves_nothing_behind(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path, config: Gpt2Config, tensors: object, *rest: object, **options: object) -> None:
        def until(pairs: object) -> object:
            for count, pair in enumerate(pairs):  # type: ignore[arg-type, var-annotated]
                if count == after:
                    raise KeyboardInterrupt
                yield pair

        write_checkpoint(folder, config, until(tensors), *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("musiclora.conversion.gpt2.write_checkpoint", interrupted)
    before = sorted(Path().iterdir())
    result = run("convert", "model", "base", "parent/out", "--to", "mlx")
    assert result.exit_code == 130
    assert sorted(path for path in Path().iterdir() if path.name != "cache") == [p for p in before if p.name != "cache"]
