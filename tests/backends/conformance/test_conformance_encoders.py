"""Text encoder and condition encoder of every backend against transformers and diffusers with the same weights."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from acestep_folder import VOCABULARY, write_text_encoder
from acestep_reference import CONFIGS, condition_encoder
from acestep_toys import SMALL, reader, write_random
from require import require

from musiclora.convert.errors import BackendError, DataError
from musiclora.convert.models.acestep import tensor_shapes
from musiclora.convert.models.acestep_config import alternating
from musiclora.convert.models.acestep_write import write_acestep

# Relative to the largest value: both sides round in float32 (6e-8) at each of some hundred operations in a row.
RELATIVE = 2e-4
HALF = 0.1  # likewise in bfloat16, 8 bits of mantissa
WIDTH = 20  # other than heads * head_dim
PACKAGES = {"text": {"mlx": "mlx_lm", "torch": "transformers"}, "condition": {"torch": "diffusers"}}


def need(backend, part):
    """Skip where the backend's package for a part is not installed."""
    if package := PACKAGES[part].get(backend.name):
        require(package)


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    return write_text_encoder(tmp_path_factory.mktemp("text") / "qwen3", WIDTH)


@pytest.fixture
def text_encoder(backend, text_folder):
    need(backend, "text")
    return backend.load_text_encoder(text_folder)


@pytest.fixture
def words():
    """Ids of unequal lengths; the third row is padding only, and padding holds no token."""
    rng = np.random.default_rng(3)
    ids = rng.integers(0, VOCABULARY, (4, 11)).astype(np.int32)
    valid = np.arange(11)[None] < np.array([[11], [4], [0], [4]])
    ids[~valid] = -7
    return ids, valid


def test_hidden_states_agree_with_transformers(text_encoder, text_folder, words):
    torch, transformers = require("torch"), require("transformers")
    reference = transformers.Qwen3Model.from_pretrained(text_folder).eval()
    ids, valid = words
    found = text_encoder.encode(ids, valid)
    assert (found.dtype, found.shape, text_encoder.width) == (np.float32, (4, 11, WIDTH), WIDTH)
    assert not found[~valid].any()
    for row, own, mask in zip(found, ids, valid, strict=True):
        if not mask.any():
            continue
        with torch.no_grad():
            expected = reference(torch.from_numpy(own[mask][None]).long()).last_hidden_state[0].numpy()
        assert np.abs(row[mask] - expected).max() <= RELATIVE * np.abs(expected).max()


def test_embeddings_are_the_table_of_the_checkpoint(text_encoder, text_folder):
    from musiclora.convert.models.qwen3 import read_qwen3

    table = dict(read_qwen3(text_folder).tensors())["embed_tokens.weight"]
    ids = np.array([[0, VOCABULARY - 1, 5]], np.int64)
    np.testing.assert_array_equal(text_encoder.embed(ids), table[ids])


def test_half_precision_gives_finite_float32(backend, text_folder, text_encoder, words):
    half = backend.load_text_encoder(text_folder, dtype="bfloat16")
    exact, found = text_encoder.encode(*words), half.encode(*words)
    assert found.dtype == np.float32
    assert np.abs(found - exact).max() <= HALF * np.abs(exact).max()


@pytest.mark.parametrize("bad", [-1, VOCABULARY])
def test_ids_of_another_tokenizer_are_refused(text_encoder, bad):
    ids = np.array([[1, bad]], np.int32)
    for call in (lambda: text_encoder.embed(ids), lambda: text_encoder.encode(ids, np.ones((1, 2), bool))):
        with pytest.raises(DataError, match="another model's"):
            call()


def test_ids_that_are_no_whole_numbers_are_refused(text_encoder):
    with pytest.raises(DataError, match="expected integer ids"):
        text_encoder.encode(np.ones((1, 2), np.float32), np.ones((1, 2), bool))


# --- condition encoder ---


@pytest.fixture(scope="module", params=CONFIGS)
def condition_case(request, tmp_path_factory):
    """A configuration, its folder, and diffusers' model with the same weights."""
    require("torch")
    require("diffusers")
    # What the original's config.json can hold; the transformer's blocks do not matter here.
    config = dataclasses.replace(CONFIGS[request.param], layer_types=alternating(3))
    model, tensors = condition_encoder(config)
    rng = np.random.default_rng(0)
    rest = {n: rng.standard_normal(s, np.float32) for n, s in tensor_shapes(config).items() if n not in tensors}
    folder = tmp_path_factory.mktemp("condition") / request.param
    write_acestep(folder, config, reader({**tensors, **rest}), "hf", "float32", other_settings={})
    return config, folder, model


def condition_inputs(config):
    """Four examples of unequal lengths; the last has timbre only, and padding holds NaN."""
    rng = np.random.default_rng(4)
    given = {
        "text": rng.standard_normal((4, 9, config.text_dim), np.float32),
        "text_valid": np.arange(9)[None] < np.array([[9], [4], [9], [0]]),
        "lyrics": rng.standard_normal((4, 21, config.text_dim), np.float32),
        "lyrics_valid": np.arange(21)[None] < np.array([[5], [21], [14], [0]]),
        "references": rng.standard_normal((5, 17, config.latent_dim), np.float32),
        "owners": np.array([2, 0, 1, 0, 3]),
    }
    for name in ("text", "lyrics"):
        given[name][~given[f"{name}_valid"]] = np.nan
    return given


def test_conditions_agree_with_diffusers_one_by_one(backend, condition_case):
    torch = require("torch")
    need(backend, "condition")
    config, folder, model = condition_case
    given, encoder = condition_inputs(config), backend.load_condition_encoder(folder)
    rows, valid = encoder.encode(**given)
    assert (rows.dtype, encoder.width) == (np.float32, config.encoder.hidden)
    assert np.isfinite(rows).all()
    assert not rows[~valid].any()
    for i in range(3):
        parts = [torch.from_numpy(given[name][i][given[f"{name}_valid"][i]][None]) for name in ("text", "lyrics")]
        masks = [torch.ones(part.shape[:2], dtype=torch.long) for part in parts]
        own = torch.from_numpy(given["references"][given["owners"] == i])
        with torch.no_grad():
            expected, _ = model(parts[0], masks[0], parts[1], masks[1], own, torch.zeros(len(own), dtype=torch.long))
        difference = np.abs(rows[i][valid[i]] - expected[0].numpy()).max()
        assert difference <= RELATIVE * float(expected.abs().max())
    assert valid[3].sum() == 1


def test_conditions_in_half_precision_are_finite_float32(backend, condition_case):
    need(backend, "condition")
    config, folder, _ = condition_case
    given = condition_inputs(config)
    exact, valid = backend.load_condition_encoder(folder).encode(**given)
    found, _ = backend.load_condition_encoder(folder, dtype="bfloat16").encode(**given)
    assert found.dtype == np.float32
    assert np.abs(found - exact)[valid].max() <= HALF * np.abs(exact).max()


def hide(package, monkeypatch):
    """Make a package impossible to import."""
    for name in [package, *(n for n in sys.modules if n.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("backend", ["mlx"], indirect=True)  # torch itself needs all that its text encoder does
def test_a_missing_mlx_lm_is_named_with_its_extra(backend, text_folder, monkeypatch):
    hide("mlx_lm", monkeypatch)
    with pytest.raises(BackendError, match=r"needs mlx_lm; try: pip install 'musiclora\[acestep-mlx\]'"):
        backend.load_text_encoder(text_folder)


@pytest.mark.parametrize("backend", ["torch"], indirect=True)  # MLX does without
def test_a_missing_diffusers_is_named_with_its_extra(backend, tmp_path, monkeypatch):
    write_random(tmp_path / "model", SMALL, "hf")
    hide("diffusers", monkeypatch)
    with pytest.raises(BackendError, match=r"needs diffusers; try: pip install 'musiclora\[acestep\]'"):
        backend.load_condition_encoder(tmp_path / "model")
