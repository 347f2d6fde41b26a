"""Our forward and backward pass against transformers and PEFT, which hold the same parameters."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tolerance
from require import require
from toys import CONFIGS, SPEC, Toy, assert_close, formula_tensors, gradient_tolerance, path, step_gradient

torch = require("torch")

from musiclora.backends import registry, token_batches  # noqa: E402
from musiclora.backends.base import FAMILIES, OptimSpec  # noqa: E402
from musiclora.backends.torch import attention  # noqa: E402
from musiclora.backends.torch.lora import DropoutPool  # noqa: E402
from musiclora.convert.errors import MusicLoraError  # noqa: E402
from musiclora.convert.models.gpt2 import ACTIVATIONS, Gpt2Config, write_checkpoint  # noqa: E402

# Longer than one block of queries, so that blocks meet.
LONG = Gpt2Config(vocab_size=23, n_positions=160, n_embd=16, n_layer=2, n_head=4, n_inner=24)
LENGTH = 150


@pytest.fixture(scope="module")
def torch_backend():
    return registry.get_backend("torch")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "scaled"])
def long_toy(request, torch_backend, tmp_path_factory):
    """A toy without and with attention logits that are divided by the layer's number."""
    folder = tmp_path_factory.mktemp("long") / "model"
    config = replace(LONG, scale_attn_by_inverse_layer_idx=request.param)
    write_checkpoint(folder, config, formula_tensors(config), "hf")
    return Toy(torch_backend, folder, config)


def visible(segments):
    """Additive mask [B, 1, L, L] as transformers takes it."""
    ids = torch.from_numpy(segments)
    seen = (ids[:, :, None] == ids[:, None, :]).tril()
    return torch.zeros(*ids.shape, ids.shape[1])[:, None].masked_fill(~seen[:, None], -1e30)


def peft_gradients(toy, state, batch):
    """Loss and adapter gradients by transformers, PEFT and autograd."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2LMHeadModel

    base = GPT2LMHeadModel.from_pretrained(toy.folder, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    settings = LoraConfig(r=SPEC.rank, lora_alpha=SPEC.alpha, target_modules=list(SPEC.targets), fan_in_fan_out=True)
    model = get_peft_model(base, settings).train()
    ours = {n.replace("base_model.model.", "").replace(".default", ""): p for n, p in model.named_parameters()}
    with torch.no_grad():
        for name, value in state.items():
            ours[name].copy_(torch.from_numpy(value))
    tokens, scored = torch.from_numpy(batch["tokens"]).long(), torch.from_numpy(batch["loss_mask"])[:, 1:]
    extra = {"attention_mask": visible(batch["segments"])} if "segments" in batch else {}
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    logits = model(tokens, position_ids=positions, **extra).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits[scored], tokens[:, 1:][scored], reduction="sum")
    (loss / scored.sum()).backward()
    return loss.item(), {k: ours[k].grad.numpy() for k in state}


SEGMENTS = {
    "one_segment": None,
    "packed": np.sort(np.random.default_rng(3).integers(0, 4, (2, LENGTH)), axis=1).astype(np.int32),
    "interleaved": np.broadcast_to(np.arange(LENGTH) % 3, (2, LENGTH)).astype(np.int32),
}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("name", SEGMENTS)
def test_loss_and_gradients_equal_those_of_transformers_and_peft(long_toy, name, checkpointing):
    batch, state = long_toy.batch(rows=2, length=LENGTH), long_toy.state()
    if SEGMENTS[name] is not None:
        batch["segments"] = SEGMENTS[name]
    loss, expected = peft_gradients(long_toy, state, batch)
    model = long_toy.adapted(state=state)
    optim = OptimSpec(weight_decay=0.0, eps=1.0, max_grad_norm=0.0, checkpointing=checkpointing)
    result = model.start_training(optim).step([batch], 1.0)
    assert result.loss == pytest.approx(loss, rel=tolerance.rounding(path(LONG, LENGTH)))
    limit = gradient_tolerance(LONG, 2 * LENGTH, LENGTH, expected, state)
    assert limit < 1e-3 * max(np.abs(value).max() for value in expected.values())
    assert_close(step_gradient(state, model.read_adapter()), expected, limit)


@pytest.mark.parametrize("keep", [0, 1 << 30], ids=["recomputed", "kept"])
@pytest.mark.parametrize("segments", SEGMENTS.values(), ids=SEGMENTS)
def test_block_attention_equals_one_masked_softmax(monkeypatch, keep, segments):
    monkeypatch.setattr(attention, "_KEEP_BYTES", keep)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(2 * LENGTH, 48, generator=generator, requires_grad=True)
    outer = torch.randn(2 * LENGTH, 16, generator=generator)
    plan = attention.plan_attention((2, LENGTH), segments, qkv)
    found = attention.attend_causally(qkv, 4, plan, 0.5)
    (gradient,) = torch.autograd.grad(found, qkv, outer)
    q, k, v = qkv.view(2, LENGTH, 3, 4, 4).permute(2, 0, 3, 1, 4).double()
    rows = np.zeros((2, LENGTH), np.int32) if segments is None else segments
    weights = torch.softmax(q @ k.transpose(-1, -2) / 2 + visible(rows), -1)
    expected = (weights @ v).transpose(1, 2).reshape(2 * LENGTH, 16)
    (slope,) = torch.autograd.grad(expected, qkv, outer.double())
    # Scores of 4 products, a softmax and values over the row; back the same way, and over the row once more.
    for value, exact, terms in ((found, expected, 4 + 2 * LENGTH), (gradient, slope, 8 + 5 * LENGTH)):
        limit = tolerance.rounding(terms, max(1.0, float(exact.detach().abs().max())))
        torch.testing.assert_close(value.double(), exact.double(), rtol=0, atol=limit)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_equals_transformers(torch_backend, tmp_path, activation):
    from transformers import GPT2LMHeadModel

    config = Gpt2Config(**{**vars(CONFIGS["square"]), "activation_function": activation})
    write_checkpoint(tmp_path / "m", config, formula_tensors(config), "hf")
    toy = Toy(torch_backend, tmp_path / "m", config)
    batch = toy.batch()
    with torch.no_grad():
        expected = GPT2LMHeadModel.from_pretrained(toy.folder).eval()(torch.from_numpy(batch["tokens"]).long()).logits
    found = toy.load().logits(batch)
    tolerance.assert_near(found, expected, tolerance.logits(expected.numpy()))


def test_the_loss_does_not_depend_on_the_chunk(long_toy, monkeypatch):
    batch, state = long_toy.batch(rows=2, length=LENGTH), long_toy.state()
    whole = long_toy.gradient(state, [batch])
    monkeypatch.setattr(token_batches, "LOGITS_PER_CHUNK", 23 * 7)
    parts = long_toy.gradient(state, [batch])
    assert_close(parts, whole, gradient_tolerance(LONG, 2 * LENGTH, LENGTH, whole, state))


def test_nothing_draws_from_the_global_random_state(long_toy):
    before = torch.random.get_rng_state()
    model = long_toy.adapted()
    model.start_training(OptimSpec()).step([long_toy.batch()], 0.01)
    model.loss(long_toy.batch())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("trainable", ["adapter", "all"])
def test_bfloat16_follows_float32(long_toy, trainable):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        model = long_toy.backend.load(FAMILIES["symbolic"], long_toy.folder, dtype=dtype)
        if trainable == "adapter":
            model.inject_adapter(SPEC, long_toy.state())
        training = model.start_training(OptimSpec(), trainable)
        batch = long_toy.batch(rows=2, length=LENGTH)
        losses[dtype] = [training.step([batch], 0.001).loss / batch["loss_mask"].sum() for _ in range(8)]
    assert losses["float32"][-1] < losses["float32"][0] - 0.3
    # bfloat16 has eight bits of mantissa: logits near 10 are off by 0.04, and their mean over 200 tokens by less.
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0, atol=0.1)


def test_masters_of_a_bfloat16_model_keep_float32_values(long_toy):
    model = long_toy.backend.load(FAMILIES["symbolic"], long_toy.folder, dtype="bfloat16")
    model.start_training(OptimSpec(), "all")
    expected = formula_tensors(LONG)
    for name, value in model.read_weights():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_adapter_parameters_stay_float32_over_a_bfloat16_base(long_toy):
    model = long_toy.backend.load(FAMILIES["symbolic"], long_toy.folder, dtype="bfloat16")
    model.inject_adapter(SPEC, long_toy.state())
    assert {p.dtype for p in model.adapter_parameters().values()} == {torch.float32}
    assert {p.dtype for p in model.base_parameters().values()} == {torch.bfloat16}


def test_dropout_mask_keeps_the_mean_and_does_not_depend_on_earlier_calls():
    pool = DropoutPool(5, 0.05, torch.float32, torch.device("cpu"))
    pool.prefix = "3/0"
    first = pool("some.module", 300, 400).clone()
    again = DropoutPool(5, 0.05, torch.float32, torch.device("cpu"))
    again.prefix = "3/0"
    again("other.module", 2000, 2000)  # a larger pool
    assert torch.equal(again("some.module", 300, 400), first)
    assert not torch.equal(again("other.module", 300, 400), first)
    kept = first != 0
    # 120,000 draws: the standard error of the kept share is 0.0006.
    assert abs(float(kept.float().mean()) - 0.95) < 0.003
    torch.testing.assert_close(first[kept], torch.full_like(first[kept], 1 / 0.95))


def test_describe_is_json_and_names_the_device():
    from musiclora.backends.torch import backend

    found = json.loads(json.dumps(backend.describe()))
    assert found["device"] in ("cuda", "mps", "cpu")
    assert found["torch"] == torch.__version__
    assert isinstance(found["bfloat16"], bool)


def test_load_refuses_a_dtype_it_does_not_offer(long_toy):
    with pytest.raises(MusicLoraError, match="float16"):
        long_toy.backend.load(FAMILIES["symbolic"], long_toy.folder, dtype="float16")
