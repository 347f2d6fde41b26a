"""Torch's own parts of the diffusion transformer: names, constants, plain PEFT, attention, one pass for guidance."""

from __future__ import annotations

import gc
import warnings
import weakref

import numpy as np
import pytest
import tolerance
from audio_toys import (
    CONFIGS,
    SPEC,
    FlowToy,
    conditioning_of,
    loss_tolerance,
    random_tensors,
    velocity_tolerance,
    write_toy,
)
from require import require

torch = require("torch")

from torch import nn  # noqa: E402

from musiclora.backends import dit_tables  # noqa: E402
from musiclora.backends.base import FAMILIES, OptimSpec  # noqa: E402
from musiclora.backends.torch.backend import BACKEND  # noqa: E402
from musiclora.backends.torch.diffrhythm import DiT  # noqa: E402
from musiclora.convert.adapters.peft import write_peft  # noqa: E402
from musiclora.convert.errors import ConvertError  # noqa: E402
from musiclora.convert.models.diffrhythm import HEADS, DiffRhythmConfig, write_diffrhythm  # noqa: E402

FULL = DiffRhythmConfig(2048, 16, 4)
FULL_LONG = DiffRhythmConfig(2048, 16, 4, max_frames=6144, duration_embedding=True)


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def toy(request, tmp_path_factory):
    config = CONFIGS[request.param]
    return FlowToy(BACKEND, write_toy(tmp_path_factory.mktemp("flow") / "model", config), config)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    config = CONFIGS["rectangular"]
    return FlowToy(BACKEND, write_toy(tmp_path_factory.mktemp("one") / "model", config), config)


@pytest.mark.parametrize(
    ("config", "count", "size"), [(FULL, 219, 1_109_315_648), (FULL_LONG, 223, 1_109_709_888)], ids=["2048", "6144"]
)
def test_the_full_size_has_the_originals_parameters(config, count, size):
    shapes = {name: tuple(value.shape) for name, value in DiT.empty(config).named_parameters()}
    assert shapes == config.tensor_shapes()
    assert (len(shapes), sum(np.prod(s) for s in shapes.values())) == (count, size)
    assert not list(DiT.empty(config).buffers())


def test_every_norm_and_convolution_has_the_originals_constants(toy):
    """Fixtures do not tell 1e-5 from 1e-6: both are within their tolerance."""
    module, config = DiT.from_folder(toy.folder), toy.config
    norms = [part for part in module.modules() if isinstance(part, (nn.RMSNorm, nn.LayerNorm))]
    assert [norm.eps for norm in norms] == [1e-6] * (2 * config.depth + config.conv_layers + 1)
    wide = [m for m in module.modules() if isinstance(m, nn.Conv1d) and m.kernel_size == (31,)]
    assert [(m.groups, m.padding) for m in wide] == [(16, (15,))] * 2
    deep = [m for m in module.modules() if isinstance(m, nn.Conv1d) and m.kernel_size == (7,)]
    assert [(m.groups, m.padding) for m in deep] == [(config.text_dim, (3,))] * config.conv_layers
    biased = [n for n, m in module.named_modules() if isinstance(m, nn.Linear) and m.bias is not None]
    assert not [name for name in biased if name.startswith("transformer_blocks.")]
    assert (dit_tables.EPS, dit_tables.SCALE, dit_tables.BASE, HEADS) == (1e-6, 1000.0, 10000.0, 32)


def arguments(batch, x):
    names = {"style": "style_prompt", **{key: key for key in ("cond", "text", "time", "start_time", "duration")}}
    return {"x": torch.from_numpy(x), **{names[k]: torch.from_numpy(v) for k, v in batch.items() if k in names}}


def test_one_pass_of_the_module_equals_conditions_made_ahead(toy):
    """The input layer in parts, as the sampler computes it, and whole, as training and PEFT do."""
    model, batch = toy.load(), toy.batch()
    with torch.no_grad():
        expected = model.module(**arguments(batch, batch["noise"])).numpy()
    found = model.velocity(batch["noise"], batch["time"], model.prepare(conditioning_of(batch)), 0.0)
    tolerance.assert_near(found, expected, velocity_tolerance(toy.config, expected))


def test_values_in_place_are_those_with_a_gradient(one):
    model, batch = one.load(), one.batch()
    given = arguments(batch, batch["noise"])
    with torch.no_grad():
        without = model.module(**given)
    tolerance.assert_near(model.module(**given).detach(), without, velocity_tolerance(one.config, without.numpy()))


def saved(toy, folder, spec=SPEC):
    write_peft(folder, spec, toy.state(spec), base_model=str(toy.folder), task_type=None, fan_in_fan_out=False)
    return folder


def test_plain_peft_loads_an_adapter_without_a_missing_or_unexpected_key(toy, tmp_path):
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT only warns of such keys
        plain = PeftModel.from_pretrained(DiT.from_folder(toy.folder), saved(toy, tmp_path / "adapter"))
    state, expected = plain.state_dict(), toy.state()
    own = {key for key in state if ".lora_" in key}
    assert own == {"base_model.model." + k.replace(".weight", ".default.weight") for k in expected}
    for key, value in expected.items():
        found = state["base_model.model." + key.replace(".weight", ".default.weight")]
        np.testing.assert_array_equal(found.numpy(), value, err_msg=key)
    batch, model = toy.batch(), toy.adapted()
    with torch.no_grad():
        found = plain(**arguments(batch, batch["noise"])).numpy()
        merged = plain.merge_and_unload()(**arguments(batch, batch["noise"])).numpy()
    expected = model.velocity(batch["noise"], batch["time"], model.prepare(conditioning_of(batch)), 0.0)
    tolerance.assert_near(found, expected, velocity_tolerance(toy.config, expected))
    tolerance.assert_near(merged, expected, velocity_tolerance(toy.config, expected))
    assert np.abs(toy.velocity(model) - toy.velocity(toy.load())).max() > 0.01


def test_what_plain_peft_saves_is_read_back_as_the_same_adapter(one, tmp_path):
    from peft import PeftModel

    from musiclora.convert.adapters.peft import read_peft

    plain = PeftModel.from_pretrained(DiT.from_folder(one.folder), saved(one, tmp_path / "adapter"))
    plain.save_pretrained(tmp_path / "again")
    again = read_peft(tmp_path / "again")
    assert (again.spec.rank, again.spec.alpha, set(again.spec.targets)) == (SPEC.rank, SPEC.alpha, set(SPEC.targets))
    assert sorted(again.state) == sorted(one.state())
    for key, value in one.state().items():
        np.testing.assert_array_equal(again.state[key], value, err_msg=key)


def test_an_adapter_of_every_linear_layer_can_be_carried(toy):
    """Text blocks, fusions, the input layer and the MLP, too, which the usual targets leave out."""
    leaves = {name.rpartition(".")[2] if name[-1] not in "0123456789" else name for name in toy.config.linear_shapes()}
    spec = type(SPEC)(2, 4.0, 0.0, tuple(sorted(leaves)))
    model = toy.adapted(spec)
    assert len(model.read_adapter()) == 2 * len(toy.config.linear_shapes())
    before, batch = toy.velocity(model), toy.batch()
    result = model.start_training(OptimSpec()).step([batch], 0.0)
    relative = loss_tolerance(toy.config, batch["text"].shape[1])
    assert result.loss == pytest.approx(toy.adapted(spec).loss(batch).total, rel=relative)
    model.fuse()
    tolerance.assert_near(toy.velocity(model), before, velocity_tolerance(toy.config, before, 2.0))


@pytest.mark.parametrize("layout", ["hf", "mlx"])
def test_read_weights_gives_back_what_the_checkpoint_holds(toy, tmp_path, layout):
    expected = random_tensors(toy.config)
    write_diffrhythm(tmp_path / "model", toy.config, expected.items(), layout, "float32")
    model = BACKEND.load(FAMILIES["audio"], tmp_path / "model")
    found = dict(model.read_weights())
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_from_folder_refuses_another_model_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ConvertError):
        DiT.from_folder(tmp_path)


def test_velocity_joins_both_passes_of_guidance_into_one(one, monkeypatch):
    model, batch = one.adapted(), one.batch()
    given = conditioning_of(batch)
    nothing = {**given, "style": given["negative_style"], "drop_audio": True, "drop_text": True}
    p, q = (model.velocity(batch["noise"], batch["time"], model.prepare(c), 0.0) for c in (given, nothing))
    prepared, passes, real = model.prepare(given), [], DiT.velocity
    monkeypatch.setattr(DiT, "velocity", lambda self, x, *rest: passes.append(len(x)) or real(self, x, *rest))
    for name in ("text_embed", "start_time_embed", "text_fusion_linears"):
        monkeypatch.setattr(prepared.module, name, None)  # nothing that does not depend on the time is computed again
    found = model.velocity(batch["noise"], batch["time"], prepared, 3.0)
    assert passes == [4]
    # Products of twice the rows may add in another order.
    tolerance.assert_near(found, p + 3 * (p - q), velocity_tolerance(one.config, p, 3.0))
    found = model.velocity(batch["noise"], batch["time"], prepared, 1e-6)
    tolerance.assert_near(found, p, velocity_tolerance(one.config, p))
    assert passes == [4, 2]
    assert np.abs(p - q).max() > 0.1


def test_a_prepared_conditioning_keeps_the_adapter_of_its_time(one):
    batch = one.batch()
    given, x = conditioning_of(batch), batch["noise"]
    changes = {
        "switched off": lambda m: m.set_adapter(False),
        "filled again": lambda m: m.write_adapter(one.state(seed=9)),
        "fused": lambda m: m.fuse(),
        "replaced": lambda m: m.inject_adapter(SPEC, one.state(seed=9)),
        "trained": lambda m: m.start_training(OptimSpec()).step([batch], 0.1),
        "another style": lambda m: m.set_style(np.ones(512, np.float32)),
    }
    for name, change in changes.items():
        model = one.adapted()
        prepared = model.prepare(given)
        before = model.velocity(x, 0.5, prepared, 2.0)
        change(model)
        np.testing.assert_array_equal(model.velocity(x, 0.5, prepared, 2.0), before, err_msg=name)
    plain = one.load()
    prepared = plain.prepare(given)
    before = plain.velocity(x, 0.5, prepared, 2.0)
    plain.inject_adapter(SPEC, one.state())
    plain.fuse()
    np.testing.assert_array_equal(plain.velocity(x, 0.5, prepared, 2.0), before)


def test_preparing_shares_the_weights_that_the_adapter_does_not_touch(one):
    model = one.adapted()
    prepared = model.prepare(conditioning_of(one.batch()))
    ours = {name: value.data_ptr() for name, value in model.base_parameters().items()}
    theirs = {name: value.data_ptr() for name, value in prepared.module.named_parameters()}
    assert {name for name in ours if ours[name] != theirs[name]} == {f"{name}.weight" for name in model.names}


def test_a_model_is_let_go_with_its_last_reference(one):
    """Weights of gigabytes must not wait for the garbage collector."""
    model = one.adapted()
    one.velocity(model)
    training = model.start_training(OptimSpec(checkpointing=True))
    training.step([one.batch()], 1e-3)
    seen = [weakref.ref(model), weakref.ref(model.module)]
    gc.disable()
    try:
        del model, training
        assert [ref() for ref in seen] == [None, None]
    finally:
        gc.enable()


def test_half_precision_stays_near_float32(one):
    expected = one.velocity(one.adapted())
    half = BACKEND.load(FAMILIES["audio"], one.folder, dtype="bfloat16")
    half.inject_adapter(SPEC, one.state())
    found = one.velocity(half)
    assert found.dtype == np.float32
    assert np.abs(found - expected).mean() < 0.1 * np.abs(expected).mean()  # 8 bits through three blocks
    assert {p.dtype for p in half.base_parameters().values()} == {torch.bfloat16}
    assert {p.dtype for p in half.adapter_parameters().values()} == {torch.float32}


def test_float32_convolutions_are_not_rounded_on_a_cuda_device(monkeypatch):
    from musiclora.backends.torch import backend

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    backend._keep_float32(torch.device("cpu"))
    assert torch.backends.cudnn.allow_tf32
    backend._keep_float32(torch.device("cuda"))
    assert not torch.backends.cudnn.allow_tf32
