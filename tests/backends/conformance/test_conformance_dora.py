"""Properties of DoRA adapters (weight-decomposed LoRA), once for every backend and family."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import audio_toys
import numpy as np
import pytest
import tolerance
import toys
from toys import assert_same

from musiclora.backends import lora_init
from musiclora.backends.base import FAMILIES, OptimSpec, SamplingSpec
from musiclora.convert.adapters.lora import module_of_weight, split_magnitudes
from musiclora.convert.adapters.lora_math import Dora, fuse_tensors
from musiclora.convert.errors import ConvertError
from musiclora.convert.models.gpt2 import write_checkpoint


@dataclass
class Case:
    """A toy of one family, its DoRA settings, and what the properties need of it."""

    toy: Any
    spec: Any
    tensors: dict[str, np.ndarray]
    conv1d: bool

    def adapted(self, **changes: Any) -> Any:
        spec = replace(self.spec, **changes)
        return self.toy.adapted(spec, self.toy.state(spec))

    def output(self, model: Any) -> np.ndarray:
        """Logits, or the loss of a flow model: `velocity` computes with fused weights."""
        if self.conv1d:
            return model.logits(self.toy.batch())
        return np.array(model.loss(self.toy.batch()).mean)

    def near(self, found: np.ndarray, expected: np.ndarray) -> None:
        if self.conv1d:
            limit = tolerance.logits(expected)
        else:
            limit = self.toy.loss_tolerance() * float(expected)
        tolerance.assert_near(found, expected, limit)

    def write(self, folder: Any, tensors: dict[str, np.ndarray]) -> Any:
        if not self.conv1d:
            return self.toy.written(folder, tensors).folder
        write_checkpoint(folder, self.toy.config, tensors, "hf")
        return folder

    def weight_of(self, module: str) -> str:
        """Name a module's weight."""
        return next(name for name in self.tensors if module_of_weight(name) == module)

    def load(self, folder: Any) -> Any:
        return self.toy.backend.load(FAMILIES["symbolic" if self.conv1d else "audio"], folder)


@pytest.fixture(params=["rectangular", "square", "audio", "audio, every layer", "acestep"])
def case(request, backend, folders, flow_folders):
    """Each layout of a weight: Conv1D with and without equal sides, Linear with and without a bias."""
    if request.param == "acestep":
        toy = request.getfixturevalue("acestep_one")
        return Case(toy, replace(toy.spec, dora=True), toy.tensors(), False)
    if not request.param.startswith("audio"):
        toy = toys.Toy(backend, folders[request.param], toys.CONFIGS[request.param])
        return Case(toy, replace(toys.SPEC, dora=True), toys.formula_tensors(toy.config), True)
    request.getfixturevalue("flow_backend")
    toy = audio_toys.FlowToy(backend, flow_folders["rectangular"], audio_toys.CONFIGS["rectangular"])
    more = {"targets": tuple(toy.config.linear_shapes())} if "every" in request.param else {}
    spec = replace(audio_toys.SPEC, dora=True, **more)  # the input layer, too, which MLX computes in parts
    return Case(toy, spec, audio_toys.random_tensors(toy.config), False)


def test_injection_of_initial_arrays_changes_nothing(case):
    model = case.toy.load()
    before = case.output(model)
    state = lora_init.initial(case.spec, model.linear_shapes(), 3)
    state = lora_init.with_magnitudes(state, model.read_weights(), conv1d=case.conv1d)
    for module, vector in split_magnitudes(state)[1].items():
        weight = case.tensors[case.weight_of(module)]
        expected = np.linalg.norm(weight.astype(np.float64), axis=0 if case.conv1d else 1)
        tolerance.assert_near(vector, expected, tolerance.rounding(1, expected), module)
    model.inject_adapter(case.spec, state)
    case.near(case.output(model), before)  # products of another form


def test_it_computes_what_the_paper_says(case, tmp_path):
    """The reference is the same backend with weights that numpy rescaled in float64."""
    model = case.adapted()
    state, magnitudes = split_magnitudes(model.read_adapter())
    dora = Dora(case.spec, state, magnitudes)
    fused = fuse_tensors(case.tensors.items(), None, {}, conv1d=case.conv1d, dora=[dora])
    expected = case.output(case.load(case.write(tmp_path / "fused", dict(fused))))
    assert np.abs(expected - case.output(case.toy.load())).max() > 1e-3  # the adapter does something
    case.near(case.output(model), expected)


def test_disabled_adapter_is_the_base_bit_for_bit(case):
    model = case.adapted()
    on, base = case.output(model), case.output(case.toy.load())
    model.set_adapter(False)
    np.testing.assert_array_equal(case.output(model), base)
    model.set_adapter(True)
    np.testing.assert_array_equal(case.output(model), on)


def test_fuse_equals_the_adapter(case):
    model = case.adapted()
    before = case.output(model)
    model.fuse()
    case.near(case.output(model), before)


def test_a_row_of_zeros_stays_zero(case, tmp_path):
    """Such a row has no direction; PEFT divides by zero there."""
    state = case.toy.state(case.spec)
    module = next(iter(split_magnitudes(state)[1]))
    weight = case.tensors[case.weight_of(module)]
    (weight.T if case.conv1d else weight)[1] = 0
    state[f"{module}.lora_B.weight"][1] = 0
    model = case.load(case.write(tmp_path / "zeros", case.tensors))
    model.inject_adapter(case.spec, state)
    assert np.isfinite(case.output(model)).all()
    before = case.output(model)
    model.fuse()
    case.near(case.output(model), before)
    found = dict(model.read_weights())[case.weight_of(module)]
    assert not np.any((found.T if case.conv1d else found)[1])


def test_read_write_read_is_exact_and_a_missing_magnitude_is_named(case):
    model, state = case.adapted(), case.toy.state(case.spec, seed=5)
    model.write_adapter(state)
    assert_same(model.read_adapter(), state)
    key = sorted(k for k in state if "magnitude" in k)[0]
    rest = {k: v for k, v in state.items() if k != key}
    for call in (model.write_adapter, lambda arrays: model.inject_adapter(case.spec, arrays)):
        with pytest.raises(ConvertError, match=key):
            call(rest)
    assert_same(model.read_adapter(), state)
    with pytest.raises(ConvertError, match="magnitude_vector is surplus"):  # plain LoRA has none
        model.inject_adapter(replace(case.spec, dora=False), state)


def test_a_plain_adapter_after_it_is_plain(case):
    model = case.adapted()
    plain = replace(case.spec, dora=False)
    model.inject_adapter(plain, case.toy.state(plain))
    np.testing.assert_array_equal(case.output(model), case.output(case.toy.adapted(plain, case.toy.state(plain))))


def test_only_adapter_arrays_move_and_each_does(case):
    model = case.adapted()
    before = model.read_adapter()
    model.start_training(OptimSpec()).step([case.toy.batch()], 0.01)
    for name, value in model.read_adapter().items():
        assert np.abs(value - before[name]).max() > 1e-4, name
    assert_same(dict(model.read_weights()), case.tensors)


@pytest.mark.parametrize("dropout", [0.0, 0.3], ids=["plain", "dropout"])
def test_checkpointing_changes_nothing(case, dropout):
    adapters = []
    for checkpointing in (False, True):
        model = case.adapted(dropout=dropout)
        optim = replace(toys.PROPORTIONAL, seed=3, checkpointing=checkpointing)
        model.start_training(optim).step([case.toy.batch()], 1.0)
        adapters.append(model.read_adapter())
    for name, value in adapters[0].items():
        # Two evaluations of the same graph, which may be fused differently: at most the sum over all tokens.
        limit = tolerance.rounding(5000, max(1.0, float(np.abs(value).max())))
        tolerance.assert_near(adapters[1][name], value, limit, name)


@pytest.mark.parametrize("ratio", [1.0, 4.0], ids=["one rate", "LoRA+"])
def test_training_resumed_from_read_state_equals_unbroken(case, ratio):
    batches = [case.toy.batch(seed=n) for n in range(4)]

    def begin():
        model = case.adapted(dropout=0.3)
        return model, model.start_training(OptimSpec(seed=4, lora_plus_ratio=ratio))

    whole, training = begin()
    for batch in batches:
        training.step([batch], 0.01)
    half, training = begin()
    for batch in batches[:2]:
        training.step([batch], 0.01)
    resumed, again = begin()
    resumed.write_adapter(half.read_adapter())
    again.write_state(training.read_state())
    for batch in batches[2:]:
        again.step([batch], 0.01)
    assert_same(resumed.read_adapter(), whole.read_adapter())


def test_lora_plus_raises_the_rate_of_b_and_the_magnitudes_only(case):
    """With eps = 1 a first step is the rate times g / (|g| + 1), g being the same for every ratio."""
    steps = {}
    for ratio in (1.0, 4.0):
        model = case.adapted()
        before = model.read_adapter()
        optim = OptimSpec(weight_decay=0.0, eps=1.0, max_grad_norm=0.0, lora_plus_ratio=ratio)
        model.start_training(optim).step([case.toy.batch()], 0.5)
        steps[ratio] = {k: v - before[k] for k, v in model.read_adapter().items()}
    for name, step in steps[1.0].items():
        factor = 1.0 if "lora_A" in name else 4.0
        # One rounding each of the step, its sum with the array, and their difference.
        limit = tolerance.rounding(3, 4 * np.abs(step).max() + np.abs(before[name]).max())
        tolerance.assert_near(steps[4.0][name], factor * step, limit, name)


def test_generation_with_it_is_that_of_the_fused_model(toy):
    spec = replace(toys.SPEC, dora=True)
    model = toy.adapted(spec, toy.state(spec))
    prompts = toy.batch(rows=2, length=4)["tokens"]
    uniforms = np.random.default_rng(0).random((8, 2), np.float32)
    sampling = SamplingSpec(1.0, 0, 1.0, None, 0)
    found = model.generate(prompts, sampling, uniforms)
    model.fuse()
    np.testing.assert_array_equal(found, model.generate(prompts, sampling, uniforms))


def test_velocity_with_it_is_that_of_the_fused_model(any_one):
    spec = replace(any_one.spec, dora=True)
    model = any_one.adapted(spec, any_one.state(spec))
    found = any_one.velocity(model)
    assert np.abs(found - any_one.velocity(any_one.load())).max() > 1e-3
    model.fuse()
    np.testing.assert_array_equal(found, any_one.velocity(model))
