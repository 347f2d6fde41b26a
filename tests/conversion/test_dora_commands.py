"""Commands with DoRA adapters: generate, evaluate, fuse and blend, at any strength."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tolerance
from click.testing import CliRunner, Result

from musiclora.adapters import find_base_and_adapters, inject_adapters
from musiclora.backends.base import FAMILIES
from musiclora.backends.registry import get_backend
from musiclora.cli import main
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.models.gpt2 import read_checkpoint

SPEC = LoraSpec(3, 4.5, 0.0, ("c_attn", "mlp.c_proj"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def write(folder: Path, base: Path, seed: int, spec: LoraSpec = SPEC, *, dora: bool = True) -> None:
    rng = np.random.default_rng(seed)
    shapes = read_checkpoint(base).config.linear_shapes()
    state = {n: (0.3 * rng.standard_normal(s)).astype(np.float32) for n, s in state_shapes(spec, shapes).items()}
    modules = [key.removesuffix(".lora_A.weight") for key in state if "lora_A" in key]
    lengths = {m: rng.uniform(0.1, 0.3, shapes[m][0]).astype(np.float32) for m in modules} if dora else {}
    write_peft(folder, spec, state, base_model=str(base), magnitudes=lengths)


@pytest.fixture
def work(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a", tiny_base, 1)
    write(tmp_path / "b", tiny_base, 2, LoraSpec(2, 3.0, 0.0, ("c_fc", "c_attn")))
    write(tmp_path / "plain", tiny_base, 3, dora=False)
    return tiny_base


def logits(backend: str, base: Path, *adapters: str) -> np.ndarray:
    model = get_backend(backend).load(FAMILIES["symbolic"], base)
    if adapters:
        inject_adapters(model, find_base_and_adapters(str(base), adapters)[1])
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (2, 12), dtype=np.int32)
    scored = np.ones(tokens.shape, bool)
    scored[:, 0] = False
    return model.logits({"tokens": tokens, "loss_mask": scored})


@pytest.mark.parametrize(
    "adapters",
    [("a",), ("a:0.5",), ("a:-1",), ("a:0",), ("a:0.5", "b:2"), ("a", "plain:0.7")],
    ids=" ".join,
)
def test_adapters_at_any_strength_compute_what_the_fused_model_does(work: Path, backend_name: str, adapters) -> None:
    done = run("fuse", "--adapter-dir", *adapters, "--output-dir", "out", "--backend", backend_name, "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["backend"] == backend_name  # the command itself compared the two
    expected = logits(backend_name, Path("out"))
    assert (np.abs(expected - logits(backend_name, work)).max() > 0.01) == (adapters != ("a:0",))
    tolerance.assert_near(logits(backend_name, work, *adapters), expected, 10 * tolerance.logits(expected))


def test_generate_and_evaluate_take_it_and_compare_with_the_base(work: Path, tunes: Path, backend_name: str) -> None:
    more = ("--backend", backend_name, "--json")
    done = run("generate", "--adapter-dir", "a:0.5", "--output", "x.mid", "--max-new-tokens", "40", "--compare", *more)
    assert done.exit_code == 0, done.stderr
    assert {"x.mid", "x-base.mid"} <= {path.name for path in Path().glob("*.mid")}
    done = run("evaluate", "--adapter-dir", "a", "--data-dir", str(tunes), *more)
    assert done.exit_code == 0, done.stderr
    adapted = json.loads(done.stdout)["loss"]
    assert run("fuse", "--adapter-dir", "a", "--output-dir", "out").exit_code == 0
    fused = json.loads(run("evaluate", "--model", "out", "--data-dir", str(tunes), *more).stdout)["loss"]
    assert adapted == pytest.approx(fused, rel=1e-5)  # the same sums in another order


@pytest.mark.parametrize("adapters", [("a:0.5", "b:2"), ("a", "plain:0.7"), ("b:0.3",)], ids=" ".join)
def test_blend_writes_one_dora_adapter_that_does_the_same(work: Path, any_backend: str, adapters) -> None:
    assert run("blend", *adapters, "out").exit_code == 0
    blended = read_peft(Path("out"))
    assert blended.spec.dora
    assert blended.config["use_dora"] is True
    expected = logits(any_backend, work, *adapters)
    tolerance.assert_near(logits(any_backend, work, "out"), expected, 10 * tolerance.logits(expected))


def test_a_blend_that_cannot_be_is_refused_in_one_line_and_leaves_nothing(work: Path) -> None:
    write_peft(
        Path("lost"),
        SPEC,
        read_peft(Path("a")).state,
        base_model="nowhere/to/be-found",
        magnitudes=read_peft(Path("a")).magnitudes,
    )
    for arguments, named in (
        (("a", "b", "out", "--rank", "2"), "--rank 2: a is a DoRA adapter"),
        (("lost:0.5", "out"), "lost: a DoRA adapter is blended by means of its base"),
    ):
        done = run("blend", *arguments)
        assert done.exit_code == 2
        assert named in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not Path("out").exists()
