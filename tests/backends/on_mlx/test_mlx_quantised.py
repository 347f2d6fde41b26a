"""Quantised bases on MLX: the same numbers as their de-quantised form, and LoRA on top."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tolerance
from toys import Toy, assert_close, formula_tensors, gradient_tolerance, token_batch

from musiclora.backends.base import OptimSpec, SamplingSpec
from musiclora.backends.mlx.decoding import DecodeMode
from musiclora.backends.mlx.generation import generate
from musiclora.backends.mlx.kernels import quantised
from musiclora.backends.registry import get_backend
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.errors import BackendError
from musiclora.convert.models.gpt2 import Gpt2Config, read_checkpoint, write_checkpoint
from musiclora.convert.models.quantise import dequantise_matrix, quantise_matrix
from musiclora.sampling import decision_margin

CONFIG = Gpt2Config(vocab_size=29, n_positions=20, n_embd=32, n_layer=2, n_head=2, n_inner=128)
SPEC = LoraSpec(rank=3, alpha=6.0, dropout=0.0, targets=("c_attn", "c_proj", "c_fc"))
DORA = replace(SPEC, dora=True)


@pytest.fixture(scope="module", params=[(4, False), (8, True)], ids=["4 bits", "8 bits, scaled attention"])
def pair(request, tmp_path_factory) -> tuple[Toy, Toy]:
    """A quantised folder, and the float folder of its very values."""
    root: Path = tmp_path_factory.mktemp("quantised")
    bits, scaled = request.param
    config = replace(CONFIG, scale_attn_by_inverse_layer_idx=scaled)
    tensors = {name: 0.3 * array if array.ndim == 2 else array for name, array in formula_tensors(CONFIG).items()}
    write_checkpoint(root / "q", config, tensors, "mlx", bits=bits)
    write_checkpoint(root / "f", config, read_checkpoint(root / "q").tensors(), "mlx")
    return Toy(get_backend("mlx"), root / "q", config), Toy(get_backend("mlx"), root / "f", config)


def logits_of(toy: Toy, spec: LoraSpec | None = SPEC) -> np.ndarray:
    return (toy.adapted(spec) if spec else toy.load()).logits(toy.batch())


@pytest.mark.parametrize("spec", [None, SPEC, DORA], ids=["base", "adapted", "DoRA"])
def test_logits_are_those_of_the_dequantised_base(pair, spec):
    quantised_logits, float_logits = (logits_of(toy, spec) for toy in pair)
    tolerance.assert_near(quantised_logits, float_logits, tolerance.logits(float_logits))


def test_the_matrices_stay_quantised_in_memory(pair):
    packed, plain = (sum(a.nbytes for a in toy.load().weights.values()) for toy in pair)
    assert packed < 0.5 * plain


@pytest.mark.parametrize("rows", [1, quantised.KERNEL_MAX_ROWS, quantised.KERNEL_MAX_ROWS + 1, 50], ids=str)
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_product_and_its_gradient_are_those_of_the_dequantised_matrix(rows, kind, rng, monkeypatch):
    monkeypatch.setattr(quantised.device, "is_gpu", lambda: kind == "gpu")
    packed = quantise_matrix(rng.standard_normal((24, 64)).astype(np.float32), 4, 32)
    matrix = dequantise_matrix(packed)
    arrays = quantised.load("m.weight", packed, mx.float32)
    x, out = rng.standard_normal((rows, 64)).astype(np.float32), rng.standard_normal((rows, 24)).astype(np.float32)

    def total(x: mx.array) -> mx.array:
        return (quantised.packed_product(x, quantised.find(arrays, "m")) * mx.array(out)).sum()

    # The scale and the offset of a group are two roundings more.
    limits = (
        tolerance.rounding(n + 2, tolerance.absolute_product(*f)) for n, f in ((64, (x, matrix.T)), (24, (out, matrix)))
    )
    found = quantised.packed_product(mx.array(x), quantised.find(arrays, "m")), mx.grad(total)(mx.array(x))
    for value, expected, limit in zip(found, (x @ matrix.T, out @ matrix), limits, strict=True):
        tolerance.assert_near(value, expected, limit)


@pytest.mark.parametrize("spec", [SPEC, DORA], ids=["LoRA", "DoRA"])
def test_gradients_are_those_of_the_dequantised_base(pair, spec):
    found = []
    for toy in pair:
        training = toy.adapted(spec).start_training(OptimSpec(max_grad_norm=0.0))
        training.step([toy.batch()], 1e-4)
        moments = training.read_state()  # the first moment of a first step is a tenth of the gradient
        found.append({k: 10 * v for k, v in moments.items() if k.startswith("exp_avg.")})
    tokens = pair[0].batch()["tokens"]
    limit = gradient_tolerance(CONFIG, tokens.size, tokens.shape[1], *found)
    assert min(np.abs(value).max() for value in found[1].values()) > 100 * limit
    assert_close(found[0], found[1], limit)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_training_falls_as_on_the_dequantised_base_and_moves_no_base_array(pair, checkpointing):
    runs = []
    for toy in pair:
        model = toy.adapted()
        before = dict(model.read_weights())
        training = model.start_training(OptimSpec(checkpointing=checkpointing, weight_decay=0.0))
        runs.append([training.step([toy.batch()], 1e-2).loss for _ in range(8)])
        after = dict(model.read_weights())
        assert all(np.array_equal(after[name], value) for name, value in before.items())
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-4)  # eight steps of AdamW enlarge the rounding of one
    assert runs[0][-1] < 0.9 * runs[0][0]


def test_switched_off_it_is_the_base_bit_for_bit(pair):
    model = pair[0].adapted()
    model.set_adapter(False)
    assert np.array_equal(model.logits(pair[0].batch()), logits_of(pair[0], None))


def test_fusing_dequantises_adds_in_float32_and_keeps_the_rest_packed(pair):
    toy, plain = pair
    spec = LoraSpec(2, 4.0, 0.0, ("attn.c_proj",))
    fused, expected = toy.adapted(spec), plain.adapted(spec)
    before = fused.logits(toy.batch())
    fused.fuse()
    expected.fuse()
    tolerance.assert_near(fused.logits(toy.batch()), before, tolerance.logits(before))
    # A sum of two products, the scale and the base's weight, of which none is above 2.
    assert_close(dict(fused.read_weights()), dict(expected.read_weights()), tolerance.rounding(4, 2.0))
    assert quantised.find(fused.weights, "transformer.h.0.attn.c_proj") is None
    assert quantised.find(fused.weights, "transformer.h.0.attn.c_attn") is not None


@pytest.mark.parametrize("spec", [None, SPEC, DORA], ids=["base", "adapted", "DoRA"])
@pytest.mark.parametrize("mode", [DecodeMode(1, False), DecodeMode(8, True)], ids=["cpu", "gpu"])
@pytest.mark.parametrize("rows", [1, 6], ids=str)
def test_generation_draws_the_tokens_of_the_dequantised_base(pair, spec, mode, rows):
    uniforms = np.random.default_rng(3).random((12, rows), np.float32)
    prompts = token_batch(CONFIG, rows, 4)["tokens"]
    drawn = []
    for toy in pair:
        model = toy.adapted(spec) if spec else toy.load()
        drawn.append(generate(model, prompts, SamplingSpec(), uniforms, mode=mode))
    plain = pair[1].adapted(spec) if spec else pair[1].load()
    scores = plain.logits({"tokens": np.concatenate([prompts, drawn[1]], axis=1)})[:, prompts.shape[1] - 1 : -1]
    tolerance.assert_same_draws(
        drawn[0],
        drawn[1],
        lambda row, step: decision_margin(scores[row, step], float(uniforms[step, row]), SamplingSpec()),
    )
    assert len(np.unique(drawn[0])) > 3


def test_training_all_weights_of_a_quantised_base_is_refused(pair):
    with pytest.raises(BackendError, match="quantised"):
        pair[0].load().start_training(OptimSpec(), "all")


def test_half_precision_keeps_the_adapter_in_float32_and_the_logits_near(pair):
    model = get_backend("mlx").load(_family(), pair[0].folder, dtype="bfloat16")
    model.inject_adapter(SPEC, pair[0].state(SPEC))
    assert {a.dtype for a in model.factors.values()} == {mx.float32}
    expected = logits_of(pair[1])
    assert np.abs(model.logits(pair[0].batch()) - expected).max() < 0.1 * np.abs(expected).max()


def _family():
    from musiclora.backends.base import FAMILIES

    return FAMILIES["symbolic"]
