"""ACE-Step's condition encoder on MLX against diffusers' class with the same weights."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from acestep_reference import CONFIGS, condition_encoder
from require import require

from musiclora.backends.mlx import acestep_encoder, acestep_weights, device
from musiclora.backends.mlx.kernels import grouped_attention
from musiclora.convert.errors import DataError

torch = require("torch")
require("diffusers")

# Relative to the largest value: both sides round in float32 (6e-8) at each of some hundred operations in a row.
RELATIVE = 2e-4


@pytest.fixture(scope="module", params=CONFIGS)
def case(request):
    """A configuration, diffusers' model, our arrays, and inputs."""
    config = CONFIGS[request.param]
    model, tensors = condition_encoder(config)
    return config, model, tensors, inputs(config)


@pytest.fixture(params=["cpu", "gpu"])
def kind(request, monkeypatch):
    """Both forms of attention; the one that a GPU takes runs on a CPU, too."""
    monkeypatch.setattr(device, "is_gpu", lambda: request.param == "gpu")
    monkeypatch.setattr(grouped_attention, "BLOCK_QUERIES", 8)


def inputs(config):
    """Three examples: texts and lyrics of unequal lengths, and four references in mixed order."""
    rng = np.random.default_rng(4)
    return {
        "text": rng.standard_normal((3, 9, config.text_dim), np.float32),
        "text_valid": np.arange(9)[None] < np.array([[9], [4], [9]]),
        "lyrics": rng.standard_normal((3, 21, config.text_dim), np.float32),
        "lyrics_valid": np.arange(21)[None] < np.array([[5], [21], [14]]),
        "references": rng.standard_normal((4, 17, config.latent_dim), np.float32),
        "owners": np.array([2, 0, 1, 0]),
    }


def encode(config, tensors, given, dtype=mx.float32):
    weights = acestep_weights.encoder_weights(tensors, dtype)
    return acestep_encoder.encode_conditions(**given, weights=weights, config=config)


def reference(model, given):
    torches = {key: torch.from_numpy(np.asarray(value)) for key, value in given.items()}
    with torch.no_grad():
        rows, valid = model(
            torches["text"],
            torches["text_valid"].long(),
            torches["lyrics"],
            torches["lyrics_valid"].long(),
            torches["references"],
            torches["owners"],
        )
    return rows.numpy(), valid.numpy()


def assert_agrees(found, expected):
    """Valid rows agree; the reference keeps rows of padding after them, ours has zeros."""
    rows, valid = found
    reference_rows, reference_valid = expected
    longest = int(reference_valid.sum(axis=1).max())
    np.testing.assert_array_equal(valid, reference_valid[:, :longest])
    assert not reference_valid[:, longest:].any()
    assert (rows.dtype, valid.dtype) == (np.float32, np.bool_)
    assert np.isfinite(rows).all()
    assert not rows[~valid].any()
    expected = reference_rows[:, :longest][valid]
    assert np.abs(rows[valid] - expected).max() <= RELATIVE * np.abs(expected).max()


def test_a_batch_of_unequal_conditions_agrees_with_the_reference(case, kind):
    config, model, tensors, given = case
    assert_agrees(encode(config, tensors, given), reference(model, given))


def test_an_example_alone_gives_the_same_as_in_a_batch(case):
    config, _, tensors, given = case
    rows, valid = encode(config, tensors, given)
    for i in range(3):
        alone = {key: value[i : i + 1] for key, value in given.items() if key not in ("references", "owners")}
        own = given["owners"] == i
        alone |= {"references": given["references"][own], "owners": np.zeros(own.sum(), int)}
        found, all_valid = encode(config, tensors, alone)
        assert all_valid.all()
        # Products of fewer rows may add in another order.
        assert np.abs(found[0] - rows[i, valid[i]]).max() <= RELATIVE * np.abs(rows).max()


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_what_lies_in_padding_is_never_read(case, dtype):
    config, _, tensors, given = case
    outputs = []
    for value in (0.0, np.nan):
        dirty = dict(given)
        for name in ("text", "lyrics"):
            dirty[name] = given[name].copy()
            dirty[name][~given[f"{name}_valid"]] = value
        outputs.append(encode(config, tensors, dirty, dtype))
    np.testing.assert_array_equal(outputs[0][0], outputs[1][0])
    assert np.isfinite(outputs[1][0]).all()


def test_an_example_of_padding_only_has_no_rows(case):
    config, _, tensors, given = case
    nothing = {**given, "text_valid": given["text_valid"].copy(), "lyrics_valid": given["lyrics_valid"].copy()}
    nothing["text_valid"][1] = nothing["lyrics_valid"][1] = False
    nothing["owners"] = np.array([2, 0, 0, 0])
    rows, valid = encode(config, tensors, nothing, mx.float16)
    assert valid.sum(axis=1).tolist() == [9 + 5 + 3, 0, 9 + 14 + 1]
    assert np.isfinite(rows).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"owners": np.array([2, 0, 3, 0])}, "do not fit together"),
        ({"owners": np.array([2, 0, 1])}, "do not fit together"),
        ({"text_valid": np.ones((3, 8), bool)}, "text: rows"),
        ({"lyrics": np.full((3, 21, 12), np.nan, np.float32)}, "lyrics: values are not finite"),
    ],
    ids=["unknown owner", "owner missing", "mask of another length", "not finite"],
)
def test_inputs_that_do_not_fit_are_refused(change, message):
    config = CONFIGS["odd"]
    _, tensors = condition_encoder(config)
    with pytest.raises(DataError, match=message):
        encode(config, tensors, {**inputs(config), **change})
