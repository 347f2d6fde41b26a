"""Chains of layouts for models of the audio family, bit for bit the same at the end."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musiclora.conversion.model import convert_model
from musiclora.convert.files.safetensors_file import dtype_named
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, read_diffrhythm, write_diffrhythm
from musiclora.convert.models.oobleck import OobleckConfig, read_oobleck, write_oobleck

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
sizes = st.integers(1, 9)
dtypes = st.sampled_from(["float32", "float16", "bfloat16"])
routes = st.lists(st.sampled_from(["hf", "mlx"]), min_size=1, max_size=3)


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int, dtype: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(dtype_named(dtype)) for name, shape in shapes.items()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return set(first) == set(second) and all(
        first[n].dtype == second[n].dtype and np.array_equal(first[n], second[n]) for n in first
    )


@pytest.mark.slow
@few
@given(
    st.sampled_from([16, 24, 32]),
    st.integers(1, 3),
    st.sampled_from([1, 2]),
    sizes,
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
    dtypes,
    routes,
    st.integers(0, 2**32 - 1),
)
def test_the_transformer(
    text: int,
    depth: int,
    ff: int,
    mel: int,
    blocks: int,
    duration: bool,
    causal: bool,
    dtype: str,
    route: list[str],
    seed: int,
) -> None:
    config = DiffRhythmConfig(
        32,
        depth,
        ff,
        text,
        blocks,
        mel,
        3,
        max_frames=6144 if duration else 2048,
        causal=causal,
        duration_embedding=duration,
    )
    tensors = random_tensors(config.tensor_shapes(), seed, dtype)
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder) / "0"
        write_diffrhythm(last, config, tensors.items(), "hf", dtype)
        for k, to in enumerate([*route, "hf"], 1):
            convert_model(last, Path(folder) / str(k), to)
            last = Path(folder) / str(k)
        for name in ("model.safetensors", "config.json"):
            assert (last / name).read_bytes() == (Path(folder) / "0" / name).read_bytes()
        assert same(dict(read_diffrhythm(last).tensors()), tensors)


@pytest.mark.slow
@few
@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=3),
    sizes,
    st.sampled_from(["folded", "gain and direction", "zero rows"]),
    dtypes,
    st.lists(st.sampled_from(["hf", "mlx", "diffusers"]), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_the_codec(
    channels: int, stages: list[tuple[int, int]], latent: int, kind: str, dtype: str, route: list[str], seed: int
) -> None:
    mults, strides = zip(*stages, strict=True)
    # One number is both widths in diffusers' configuration.
    width = 2 * latent if "diffusers" in route else channels
    config = OobleckConfig(width, mults, strides, latent, 2 * latent, 2)
    normed = kind == "gain and direction"
    shapes = config.normed_shapes() if normed else config.tensor_shapes()
    tensors = random_tensors(shapes, seed, dtype)
    if kind == "zero rows":
        for name, array in tensors.items():
            if name.endswith("weight"):
                array[0] = 0
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder) / "0"
        write_oobleck(last, config, tensors.items(), "hf", dtype, weight_norm=normed)
        wanted = {name: np.asarray(a, np.float32) for name, a in read_oobleck(last).tensors()}
        for k, to in enumerate(route, 1):
            convert_model(last, Path(folder) / str(k), to)
            last = Path(folder) / str(k)
        back = read_oobleck(last)
        assert back.config == config
        # A gain that `unfold` makes is float32, and so is what is folded with it: wider, of the same values.
        assert same({name: np.asarray(a, np.float32) for name, a in back.tensors()}, wanted)
        if normed and "mlx" not in route:
            assert same(dict(back.tensors(weight_norm=True)), tensors)
        if not normed and "diffusers" not in route:
            assert same(dict(back.tensors()), tensors)
