"""Layers of ACE-Step's transformer: LoRA projections, norms, rotary embedding and SwiGLU with short backward passes."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from musiclora.backends.torch.lora import ADAPTER, PooledDropout

Rotation = tuple[Tensor, Tensor]


class _LoraProjection(torch.autograd.Function):
    """The map x W' + b + scale * drop(x) A' B' with a frozen W; keeps x and the low-rank product.

    The low-rank products and the sum are float32, and the sum is cast once to the dtype of x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: float,
        mask: Tensor | None,
    ) -> Tensor:
        low = torch.mm((x if mask is None else x * mask).float(), a.t())
        out = torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())
        out = out.float().addmm_(low, b.t(), alpha=scale).to(x.dtype)
        ctx.save_for_backward(x, a, b, weight, low)
        ctx.scale, ctx.mask = scale, mask
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, weight, low = ctx.saved_tensors
        mask, wide = ctx.mask, grad.float()
        grad_low = torch.mm(wide, b).mul_(ctx.scale)
        grad_b = torch.mm(low.t(), wide).mul_(ctx.scale).t()
        grad_a = torch.mm(grad_low.t(), (x if mask is None else x * mask).float())
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.mm(grad, weight).float()
            if mask is None:
                grad_x.addmm_(grad_low, a)
            else:
                grad_x.addcmul_(torch.mm(grad_low, a), mask)
            grad_x = grad_x.to(x.dtype)
        return grad_x, grad_a, grad_b, None, None, None, None


def project(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a linear layer [..., in] -> [..., out] with its adapter, where PEFT's injection gave it one.

    PEFT's own forward pass is taken for DoRA and for a dropout that is not pooled.
    """
    if isinstance(layer, nn.Linear):
        return layer(x)
    lora = cast(Any, layer)
    base = lora.base_layer
    if lora.disable_adapters:
        return base(x)
    dropout = lora.lora_dropout[ADAPTER]
    if (
        ADAPTER in lora.lora_variant
        or base.weight.requires_grad
        or not isinstance(dropout, PooledDropout | nn.Identity)
    ):
        return layer(x)
    flat = x.reshape(-1, x.shape[-1])
    mask = dropout.mask(*flat.shape) if isinstance(dropout, PooledDropout) else None
    a, b, scale = lora.lora_A[ADAPTER].weight, lora.lora_B[ADAPTER].weight, lora.scaling[ADAPTER]
    out: Tensor = _LoraProjection.apply(flat, a, b, base.weight, base.bias, scale, mask)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], -1)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """Compute 1 / sqrt(mean(x^2) + eps) over the last axis, float32 [..., 1]."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _norm_gradient(grad: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    """Turn the gradient of x * inverse rms, float32 and overwritten, into that of x."""
    along = (grad * x).sum(dim=-1, keepdim=True).mul_(inverse**3).div_(-x.shape[-1])
    return grad.mul_(inverse).addcmul_(along, x.float()).to(x.dtype)


class _Norm(torch.autograd.Function):
    """The map x * inverse rms * weight + shift with constant weight and shift; keeps x and a number for each row.

    torch's own norm is a chain of elementwise products in training, each of which writes an array.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shift: Tensor | None, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        out = x * inverse
        out = out.mul_(weight) if shift is None else torch.addcmul(shift.float(), out, weight.float(), out=out)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        return _norm_gradient(grad * weight.float(), x, inverse), None, None, None


def norm(x: Tensor, layer: Any) -> Tensor:
    """Apply a root-mean-square norm over the last axis; the mean is float32.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467), eq. 4.
    """
    if layer.weight.requires_grad:
        return F.rms_norm(x, (x.shape[-1],), layer.weight, layer.eps)
    out: Tensor = _Norm.apply(x, layer.weight, None, layer.eps)  # type: ignore[no-untyped-call]
    return out


def modulated_norm(x: Tensor, layer: Any, scale: Tensor, shift: Tensor) -> Tensor:
    """Compute norm(x) (1 + scale) + shift for x [B, L, width], scale and shift [B or 1, 1, width]."""
    if scale.requires_grad or layer.weight.requires_grad:
        return torch.addcmul(shift, norm(x, layer), 1 + scale)
    out: Tensor = _Norm.apply(x, layer.weight * (1 + scale), shift, layer.eps)  # type: ignore[no-untyped-call]
    return out


def rotation_of(length: int, width: int, theta: float, like: Tensor) -> Rotation:
    """Compute cosines and sines of the rotary embedding, float32 [length, 1, width / 2], on the device of `like`.

    Source: Su et al. 2021 (arXiv 2104.09864), section 3.2.2.
    """
    frequency = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32)[: width // 2] / width)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), frequency)[:, None]
    return angle.cos().to(like.device), angle.sin().to(like.device)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [B, L, H, width], float32: coordinate i of the left half and i of the right one make a plane."""
    left, right = x.chunk(2, dim=-1)
    out = torch.empty_like(x)
    first, second = out.chunk(2, dim=-1)
    torch.mul(left, cos, out=first).addcmul_(right, sin, value=-1)
    torch.mul(right, cos, out=second).addcmul_(left, sin)
    return out


class _RotatedNorm(torch.autograd.Function):
    """Norm with a constant weight, then rotary embedding; keeps x and a number for each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        ctx.rotation = cos, sin
        return _rotate((x * inverse).mul_(weight), cos, sin).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        cos, sin = ctx.rotation
        back = _rotate(grad.float(), cos, -sin).mul_(weight)
        return _norm_gradient(back, x, inverse), None, None, None, None


def rotated_norm(x: Tensor, layer: Any, rotation: Rotation) -> Tensor:
    """Normalise heads x [B, L, H, width] and rotate them by their row's number."""
    if layer.weight.requires_grad:
        cos, sin = (torch.cat([part, part], dim=-1) for part in rotation)
        wide = norm(x, layer).float()
        left, right = wide.chunk(2, dim=-1)
        return (wide * cos + torch.cat([-right, left], dim=-1) * sin).to(x.dtype)
    out: Tensor = _RotatedNorm.apply(x, layer.weight, *rotation, layer.eps)  # type: ignore[no-untyped-call]
    return out


class _SwiGlu(torch.autograd.Function):
    """Product silu(gate) * up; keeps its two inputs only."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


def swiglu(layer: Any, x: Tensor) -> Tensor:
    """Apply the MLP to x [B, L, width] (Shazeer 2020, arXiv 2002.05202)."""
    gate, up = project(layer.gate_proj, x), project(layer.up_proj, x)
    if torch.is_grad_enabled():
        inner: Tensor = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    else:
        # In place: on a CPU the pages of new arrays this wide cost time.
        inner = F.silu(gate, inplace=True).mul_(up)
    return project(layer.down_proj, inner)


def time_embedding(layer: Any, time: Tensor, waves: np.ndarray, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Embed times float32 [B]: the state [B, width] and the modulation [B, 6, width] of the blocks.

    The sinusoids are float32 whatever the dtype: bfloat16 has no time between 0.996 and 1.
    """
    angle = (layer.scale * time.float())[:, None] * torch.from_numpy(waves).to(time.device)
    features = torch.cat([angle.cos(), angle.sin()], dim=1).to(dtype)
    state = project(layer.linear_2, F.silu(project(layer.linear_1, features)))
    return state, project(layer.time_proj, F.silu(state)).view(len(time), 6, -1)
