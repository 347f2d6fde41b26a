"""Layers of the diffusion transformer on torch against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import tolerance
from require import require

torch = require("torch")

from musiclora.backends.torch import dit_layers  # noqa: E402


def test_response_norm_is_over_time_with_the_originals_eps():
    y = np.random.default_rng(1).standard_normal((2, 9, 4)).astype(np.float32) * np.float32(1e-6)
    gamma, beta = np.float32([[[1, 2, 3, 4]]]), np.float32([[[0.5, 0, 0, 0]]])
    norm = dit_layers.ResponseNorm(4)
    norm.gamma.data, norm.beta.data = torch.from_numpy(gamma), torch.from_numpy(beta)
    size = np.sqrt((y.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    expected = gamma * y * size / (size.mean(axis=-1, keepdims=True) + 1e-6) + beta + y
    rtol = tolerance.rounding(9 + 4 + 6)  # a sum over time, a mean over channels, six operations on each value
    np.testing.assert_allclose(norm(torch.from_numpy(y)).detach().numpy(), expected, rtol=rtol)


def test_a_channel_that_is_silent_throughout_has_a_gradient():
    norm = dit_layers.ResponseNorm(2)
    norm.gamma.data.fill_(1)
    y = torch.tensor([[[0.0, 1.0], [0.0, 2.0]]], requires_grad=True)
    norm(y).sum().backward()
    assert torch.isfinite(y.grad).all()


def test_rotation_turns_the_halves_by_the_frames_number():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 5, 8)).astype(np.float32))
    found = dit_layers.rotated(x, dit_layers.rotation_of(5, 8, x.device)).numpy()
    angle = np.arange(5)[:, None] * 10000.0 ** (-2 * np.arange(4) / 8)
    # Two products of values up to 4; an angle up to 4 is rounded once, its sine and cosine once more.
    limit = tolerance.rounding(2 + 4 + 1, 4.0)
    turned = (x[..., :4].numpy() + 1j * x[..., 4:].numpy()) * np.exp(1j * angle)
    np.testing.assert_allclose(found, np.concatenate([turned.real, turned.imag], axis=-1), rtol=0, atol=limit)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 5, 70])
def test_attention_and_its_gradients_equal_the_definition(causal, length):
    layer = dit_layers.Attention(64, causal)
    x = torch.randn(2, length, 64, generator=torch.Generator().manual_seed(length), requires_grad=True)
    rotation = dit_layers.rotation_of(length, 2, x.device)

    def definition(x):
        q, k, v = (p(x).view(2, length, 32, 2).transpose(1, 2) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
        q, k = dit_layers.rotated(q, rotation), dit_layers.rotated(k, rotation)
        scores = q @ k.mT / 2**0.5
        if causal:
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
        return layer.o_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, length, 64))

    outer = torch.randn(2, length, 64, generator=torch.Generator().manual_seed(1))
    values = layer(x, rotation), definition(x)
    # Products of 64 inputs twice, scores, a softmax and values over the row; back the same way, over rows and batch.
    limit = tolerance.rounding(2 * 64 + 2 + 2 * length, max(1.0, float(values[1].detach().abs().max())))
    torch.testing.assert_close(*values, rtol=0, atol=limit)
    slopes = (torch.autograd.grad(value, [x, *layer.parameters()], outer) for value in values)
    for found, expected in zip(*slopes, strict=True):
        limit = tolerance.rounding(4 * 64 + 4 + 6 * length, max(1.0, float(expected.abs().max())))
        torch.testing.assert_close(found, expected, rtol=0, atol=limit)
