"""Generation on real backends: parity of both, and the command."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner
from require import REQUIRED
from symusic import Score

from musiclora.backends import registry
from musiclora.backends.base import FAMILIES, SamplingSpec
from musiclora.cli import main
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint
from musiclora.sampling import decision_margin, uniforms
from musiclora.symbolic.decoding.grammar import grammar_for
from musiclora.symbolic.decoding.pieces import generate_pieces
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.tokens.tokenizers import own_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write a small model, with weights large enough for music that differs by seed, and an adapter."""
    os.environ.setdefault("MUSICLORA_COMPILE", "off")
    tokenizer = own_tokenizer()
    config = Gpt2Config(vocab_size=tokenizer.vocab_size, n_positions=96, n_embd=32, n_layer=2, n_head=2, n_inner=64)
    tensors = {k: v * 8 if v.ndim > 1 else v for k, v in fresh_tensors(config, 1).items()}
    root = tmp_path_factory.mktemp("models")
    write_checkpoint(root / "toy", config, tensors, "hf", extra_files={"tokenizer.json": tokenizer.to_json().encode()})
    spec, rng = LoraSpec(2, 8.0, 0.1, ("c_attn",)), np.random.default_rng(1)
    shapes = state_shapes(spec, config.linear_shapes())
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    write_peft(root / "adapter", spec, state, base_model=str(root / "toy"))
    return root


@pytest.fixture(scope="module")
def models(folder):
    """Load the same model on both backends."""
    for name in registry.BACKENDS:
        if reason := registry.why_not(name):
            (pytest.fail if name in REQUIRED else pytest.skip)(f"{name}: {reason}")
    return {name: registry.get_backend(name).load(FAMILIES["symbolic"], folder / "toy") for name in registry.BACKENDS}


@pytest.mark.slow
def test_same_seed_gives_the_same_music_on_both_backends(models):
    tokenizer = own_tokenizer()
    info = grammar_for(tokenizer)
    request = {"max_new_tokens": 80, "top_k": 40, "top_p": 0.95, "count": 100, "seed": 11}
    found = {name: generate_pieces(m, tokenizer, GenerationRequest(**request)) for name, m in models.items()}
    left, right = found.values()
    different = [i for i in range(100) if left[i].score.dumps_midi() != right[i].score.dumps_midi()]
    assert len({tuple(p.ids) for p in left}) == 100
    assert len(different) <= 1
    spec = SamplingSpec(1.0, 40, 0.95, info.eos_id, info.pad_id)
    draws = uniforms(11, 80, 100)
    for i in different:
        at = next(k for k, (a, b) in enumerate(zip(left[i].ids, right[i].ids, strict=False)) if a != b)
        context = np.array([[info.bos_id, *left[i].ids[:at]]], np.int32)
        allowed = info.allowed(info.state_after(left[i].ids[:at]))
        for model in models.values():
            batch = {"tokens": context, "loss_mask": np.zeros(context.shape, bool)}
            assert decision_margin(model.logits(batch)[0, -1], float(draws[at, i]), spec, allowed) < 1e-5


def test_generate_command_writes_numbered_pieces_of_base_and_adapted(folder, tmp_path):
    output = tmp_path / "new" / "F.mid"
    options = ["--max-new-tokens", "60", "--count", "2", "--seed", "1", "--compare", "--json"]
    command = ["generate", "--output", str(output), "--adapter-dir", str(folder / "adapter"), *options]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    names = ["F-001-base.mid", "F-001.mid", "F-002-base.mid", "F-002.mid"]
    assert sorted(p.name for p in output.parent.iterdir()) == names
    assert {(f["kind"], f["path"].endswith("-base.mid")) for f in record["files"]} == {
        ("adapted", False),
        ("base", True),
    }
    assert [Score(f["path"]).note_num() for f in record["files"]] == [f["notes"] for f in record["files"]]
    alone = CliRunner().invoke(
        main,
        ["generate", "--output", str(tmp_path / "B.mid"), "--model", str(folder / "toy"), *options[:6]],
    )
    assert alone.exit_code == 0, alone.stderr
    # The same batch size on both sides, since products of other shapes are summed in another order.
    assert (tmp_path / "B-001.mid").read_bytes() == (output.parent / "F-001-base.mid").read_bytes()
    assert (tmp_path / "B-001.mid").read_bytes() != (output.parent / "F-001.mid").read_bytes()


def test_generate_with_strength_zero_is_the_base(folder, tmp_path):
    for name, option in (("zero", [f"{folder / 'adapter'}:0"]), ("none", [])):
        adapters = ["--adapter-dir", *option] if option else []
        command = ["generate", "--output", str(tmp_path / f"{name}.mid"), "--model", str(folder / "toy"), *adapters]
        assert CliRunner().invoke(main, [*command, "--max-new-tokens", "60"]).exit_code == 0
    assert (tmp_path / "zero.mid").read_bytes() == (tmp_path / "none.mid").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "x.wav"], "ends in .mid"),
        (["--output", "x.mid", "--compare"], "--adapter-dir"),
        (["--output", "x.mid", "--prompt-bars", "2"], "no --prompt"),
        (["--output", "x.mid", "--top-p", "0"], "--top-p is 0.0"),
        (["--output", "x.mid", "--seed", "-1"], "--seed is -1"),
        (["--output", "x.mid", "--prompt", "missing.mid"], "missing.mid"),
    ],
    ids=["not midi", "nothing to compare", "no prompt", "top-p", "seed", "prompt"],
)
def test_generate_with_bad_options_is_one_line_and_exit_code_2(folder, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["generate", "--model", str(folder / "toy"), *options])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())
