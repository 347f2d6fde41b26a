"""Round trips and damaged bytes over random configurations and files."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musiclora.conversion.adapter import convert_adapter
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.adapters.mlx_lm import read_mlx_lm, write_mlx_lm
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.files.safetensors_file import (
    dtype_named,
)
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, read_diffrhythm, write_diffrhythm
from musiclora.convert.models.gpt2 import Gpt2Config, read_checkpoint, rows_of, write_checkpoint
from musiclora.convert.models.oobleck import OobleckConfig, read_oobleck, write_oobleck
from musiclora.convert.models.quantise import dequantise_matrix, group_size, quantise_matrix, round_matrix

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
sizes = st.integers(1, 9)
dtypes = st.sampled_from(["float32", "float16", "bfloat16"])


@st.composite
def gpt2_configs(draw: st.DrawFn) -> Gpt2Config:
    heads = draw(st.integers(1, 3))
    width = heads * draw(st.integers(1, 4))
    # Often as wide inside as outside, or with as many tokens as channels: then every matrix is square.
    inner = draw(st.sampled_from([width, 4 * width, 5]))
    vocabulary = draw(st.sampled_from([width, 7, 1]))
    return Gpt2Config(vocabulary, draw(sizes), width, draw(st.integers(1, 12)), heads, inner)


@st.composite
def lora_specs(draw: st.DrawFn, config: Gpt2Config) -> LoraSpec:
    names = st.sampled_from(["c_attn", "c_proj", "attn.c_proj", "mlp.c_proj", "c_fc", *config.linear_shapes()])
    targets = draw(st.lists(names, min_size=1, max_size=4))
    rank = draw(st.sampled_from([1, 2, 3, config.n_embd, config.n_inner]))
    return LoraSpec(rank, draw(st.floats(0.01, 100)), 0.0, tuple(targets), draw(st.booleans()))


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return set(first) == set(second) and all(
        first[n].dtype == second[n].dtype and np.array_equal(first[n], second[n]) for n in first
    )


@few
@given(gpt2_configs(), dtypes, st.sampled_from([("hf", "mlx"), ("mlx", "hf")]))
def test_gpt2_layouts_are_inverse_to_each_other(config: Gpt2Config, dtype: str, layouts: tuple[str, str]) -> None:
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in config.tensor_shapes().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_checkpoint(path / "a", config, tensors, layouts[0], dtype=dtype)
        write_checkpoint(path / "b", config, read_checkpoint(path / "a").tensors(), layouts[1], dtype=dtype)
        write_checkpoint(path / "c", config, read_checkpoint(path / "b").tensors(), layouts[0], dtype=dtype)
        assert (path / "a/model.safetensors").read_bytes() == (path / "c/model.safetensors").read_bytes()
        assert (path / "a/config.json").read_bytes() == (path / "c/config.json").read_bytes()
        if dtype == "float32":
            assert same(read_checkpoint(path / "b").load(), tensors)


@few
@given(st.data())
def test_adapters_go_to_mlx_lm_and_back_for_any_targets_ranks_and_scales(data: st.DataObject) -> None:
    config = data.draw(gpt2_configs())
    spec = data.draw(lora_specs(config))
    rng = np.random.default_rng(0)
    shapes = state_shapes(spec, config.linear_shapes())
    state = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_mlx_lm(path / "m", LoraAdapter.from_spec(spec, state, "b"))
        found = read_mlx_lm(path / "m")
        write_peft(path / "p", found.spec, found.state, base_model="b")
        back = read_peft(path / "p")
    assert same(back.state, state)
    assert back.spec.scale == pytest.approx(spec.scale, rel=1e-14)  # alpha = scale * rank rounds once
    assert set(state_shapes(back.spec, config.linear_shapes())) == set(state)


@few
@given(
    st.sampled_from([2, 4, 8]),
    st.sampled_from([32, 64, 128]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.floats(-30, 30),
    st.floats(-1, 1),
    st.integers(0, 2**32 - 1),
)
def test_quantising_what_was_quantised_changes_at_most_its_rounding(
    bits: int, group: int, rows: int, groups: int, power: float, shift: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = ((rng.standard_normal((rows, group * groups)) + shift) * 2.0**power).astype(np.float32)
    packed = quantise_matrix(weight, bits, group)
    once = dequantise_matrix(packed)
    steps = np.abs(packed.scales).repeat(group, axis=1)
    # The scale is stretched so that zero is met exactly: then the end farther in is up to half a step out of reach.
    assert (np.abs(once - weight) <= 1.001 * steps + 1e-6 * np.abs(weight)).all()
    again = dequantise_matrix(quantise_matrix(once, bits, group))
    assert (np.abs(again - once) <= 1.001 * steps + 1e-6 * np.abs(weight)).all()


@few
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([32, 64, 96]), st.sampled_from([4, 8]), dtypes)
def test_quantised_folders_of_any_size_read_back_as_their_values(
    heads: int, layers: int, width: int, bits: int, dtype: str
) -> None:
    config = Gpt2Config(width, 5, width, layers, 1, heads * 40)
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in config.tensor_shapes().items()}
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "q", config, tensors, "mlx", dtype=dtype, bits=bits)
        found = read_checkpoint(Path(folder) / "q").load()
    kept = dtype_named(dtype)
    for name, array in tensors.items():
        rows = rows_of(name, array, "mlx")
        wanted = round_matrix(rows, bits, kept) if group_size(rows.shape) else rows.astype(kept)
        assert np.array_equal(rows_of(name, found[name], "mlx"), wanted.astype(np.float32))


@st.composite
def audio_specs(draw: st.DrawFn) -> LoraSpec:
    names = ["q_proj", "down_proj", "time_mlp.0", "proj_out", "pwconv1", "transformer_blocks.0.self_attn.o_proj"]
    targets = draw(st.lists(st.sampled_from(names), min_size=1, max_size=4))
    return LoraSpec(draw(st.sampled_from([1, 3, 32])), draw(st.floats(0.01, 100)), 0.0, tuple(targets))


@few
@given(audio_specs(), st.permutations(["peft", "kohya", "diffusers"]), st.integers(0, 2**32 - 1))
@pytest.mark.slow
def test_audio_adapters_pass_through_every_format_without_changing(spec: LoraSpec, route: list[str], seed: int) -> None:
    config = DiffRhythmConfig(32, 2, 1, text_dim=24, conv_layers=1, mel_dim=8, text_num_embeds=5)
    rng = np.random.default_rng(seed)
    shapes = state_shapes(spec, config.linear_shapes())
    state = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_peft(path / "0", spec, state, base_model="", task_type=None, fan_in_fan_out=False)
        last = path / "0"
        for k, to in enumerate([*route, "peft"], 1):
            new = path / (f"{k}.safetensors" if to == "kohya" else str(k))
            convert_adapter(str(last), new, to)
            last = new
        back = read_peft(last)
    assert same(back.state, state)
    assert back.spec.scale == pytest.approx(spec.scale, rel=1e-14)  # alpha = scale * rank rounds once
    assert set(state_shapes(back.spec, config.linear_shapes())) == set(state)


@few
@given(st.booleans(), st.booleans(), st.permutations(["peft", "kohya", "diffusers"]), st.data())
@pytest.mark.slow
def test_every_module_keeps_a_rank_a_scale_and_a_length_of_its_own(
    square: bool, dora: bool, route: list[str], data: st.DataObject
) -> None:
    config = DiffRhythmConfig(32, 2, 1 if square else 2, text_dim=24, conv_layers=1, mel_dim=8, text_num_embeds=5)
    modules = data.draw(st.lists(st.sampled_from(sorted(config.linear_shapes())), min_size=1, max_size=6, unique=True))
    own = {m: (data.draw(st.sampled_from([1, 2, 7, 32])), data.draw(st.floats(-8, 8, width=16))) for m in modules}
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    state, lengths = {}, {}
    for module, (rank, _) in own.items():
        out, inputs = config.linear_shapes()[module]
        state[f"{module}.lora_A.weight"] = rng.standard_normal((rank, inputs)).astype(np.float32)
        state[f"{module}.lora_B.weight"] = rng.standard_normal((out, rank)).astype(np.float32)
        lengths[module] = rng.standard_normal(out).astype(np.float32)
    spec = LoraSpec(own[modules[0]][0], 1.0, 0.0, tuple(modules))
    kept = lengths if dora else {}
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder) / "0"
        write_peft(
            last, spec, state, base_model="", rank_scales=own, magnitudes=kept, task_type=None, fan_in_fan_out=False
        )
        for k, to in enumerate([*route, "peft"], 1):
            new = Path(folder) / (f"{k}.safetensors" if to == "kohya" else str(k))
            assert convert_adapter(str(last), new, to).update_difference == pytest.approx(0, abs=1e-15)
            last = new
        back = read_peft(last)
    assert same(back.state, state)
    assert same(back.magnitudes, kept)
    assert back.ranks == {module: rank for module, (rank, _) in own.items()}
    assert back.scales == pytest.approx({module: scale for module, (_, scale) in own.items()}, rel=1e-14)


@few
@given(sizes, st.integers(1, 3), sizes, st.integers(0, 2), sizes, st.booleans(), st.sampled_from(["hf", "mlx"]))
@pytest.mark.slow
def test_diffrhythm_of_any_size_reads_back_from_its_tensors_alone(
    text: int, depth: int, mel: int, blocks: int, phonemes: int, duration: bool, layout: str
) -> None:
    frames = 6144 if duration else 2048
    config = DiffRhythmConfig(32, depth, 1, text, blocks, mel, phonemes, max_frames=frames, duration_embedding=duration)
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape).astype(np.float16) for name, shape in config.tensor_shapes().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        write_diffrhythm(path, config, tensors.items(), layout, "float16")
        (path / "config.json").unlink()
        checkpoint = read_diffrhythm(path)
        assert checkpoint.config == config
        assert same(dict(checkpoint.tensors()), tensors)


@few
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=3),
    sizes,
    st.sampled_from(["hf", "mlx"]),
    st.booleans(),
)
@pytest.mark.slow
def test_a_codec_of_any_size_reads_back_from_its_tensors_alone(
    channels: int, stages: list[tuple[int, int]], latent: int, layout: str, normed: bool
) -> None:
    mults, strides = zip(*stages, strict=True)
    config = OobleckConfig(channels, mults, strides, latent, 2 * latent, 2)
    normed = normed and layout == "hf"
    shapes = config.normed_shapes() if normed else config.tensor_shapes()
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v"
        write_oobleck(path, config, tensors.items(), layout, "float32", weight_norm=normed)
        (path / "config.json").unlink()
        checkpoint = read_oobleck(path)
        assert checkpoint.config == config
        assert same(dict(checkpoint.tensors(weight_norm=normed)), tensors)
