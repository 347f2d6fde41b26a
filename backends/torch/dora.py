"""DoRA on torch: magnitudes in PEFT's layers, row lengths, and the layer's forward and backward pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Magnitude(nn.Module):
    """Magnitudes of one module where PEFT keeps its own: `lora_magnitude_vector.default`.

    PEFT's module computes the lengths from the dense product of B and A, which costs about as much as the layer itself.

    Attributes:
        weight: float32 [out].
        squares: squared lengths of the rows of the frozen weight, float32 [out].
    """

    def __init__(self, weight: Tensor, squares: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.squares = squares


def row_squares(weight: Tensor, *, conv1d: bool) -> Tensor:
    """Compute the squared length of each output's weights, float32 [out]; conv1d: the weight lies as [in, out]."""
    with torch.no_grad():
        return weight.float().square().sum(0 if conv1d else 1)


def row_lengths(weight: Tensor, squares: Tensor, a: Tensor, b: Tensor, scale: float, *, conv1d: bool) -> Tensor:
    """Compute the lengths of the rows of W + scale * B A, float32 [out], without forming the sum; no gradient.

    ||w + s b A||^2 = ||w||^2 + 2 s (A w) . b + s^2 b (A A') b' for each row w of W and b of B. The lengths count as
    constants in the gradient (Liu et al. 2024, arXiv 2402.09353, section 4.3).

    Args:
        weight: [in, out] where conv1d, else [out, in].
        squares: of `row_squares`.
        a: [rank, in].
        b: [out, rank].
        scale: of the update.
        conv1d: layout of the weight.

    Returns:
        The lengths; 1 for a row of zeros, which has no direction.
    """
    with torch.no_grad():
        wide = weight.float()
        along = torch.mm(a, wide).t() if conv1d else torch.mm(wide, a.t())
        own = torch.mm(b, torch.mm(a, a.t()))
        squared = squares + scale * ((2 * along + scale * own) * b).sum(1)
        return torch.where(squared > 0, squared.clamp(min=0).sqrt(), torch.ones_like(squared))


def scale_rows(weight: Tensor, magnitude: Tensor, *, conv1d: bool) -> Tensor:
    """Scale the rows of a float32 sum of weights to their magnitudes; a row of zeros stays."""
    axis = 0 if conv1d else 1
    lengths = torch.linalg.vector_norm(weight, dim=axis)
    gain = magnitude / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    return weight * (gain[None] if conv1d else gain[:, None])


class _DoraLinear(torch.autograd.Function):
    """The map x W + b + (gain - 1) * (x' W) + gain * scale * x' A' B' with x' = drop(x) and a frozen W.

    The gain is magnitude / row length. As in PEFT, dropout also acts on the part of the base that the gain changes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        magnitude: Tensor,
        weight: Tensor,
        bias: Tensor,
        squares: Tensor,
        scale: float,
        mask: Tensor | None,
    ) -> Tensor:
        lengths = row_lengths(weight, squares, a, b, scale, conv1d=True)
        gain = magnitude / lengths
        dropped = x if mask is None else x * mask
        low = torch.mm(dropped, a.t().to(x.dtype))
        moved = torch.mm(dropped, weight)
        rest = bias if mask is None else torch.addmm(bias, x - dropped, weight)
        moved.addmm_(low, (b.t() * scale).to(x.dtype))
        # In float32 also for a half-precision base: bfloat16 has no gain between 1 and 1.008.
        out = torch.addcmul(rest.float(), moved.float(), gain).to(x.dtype)
        ctx.save_for_backward(x, a, b, weight, low, moved, gain, lengths)
        ctx.scale, ctx.mask = scale, mask
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, weight, low, moved, gain, lengths = ctx.saved_tensors
        mask = ctx.mask
        grad_magnitude = (grad * moved).float().sum(0) / lengths
        grad_moved = (grad * gain).to(grad.dtype)
        grad_low = torch.mm(grad_moved, (b * ctx.scale).to(grad.dtype))
        grad_b = torch.mm(grad_moved.t(), low).to(b.dtype) * ctx.scale
        grad_a = torch.mm(grad_low.t(), x if mask is None else x * mask).to(a.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.mm(grad_moved, weight.t()).addmm_(grad_low, a.to(grad.dtype))
            if mask is not None:
                rest = torch.mm(grad, weight.t())
                grad_x = rest.addcmul_(grad_x - rest, mask)
        return grad_x, grad_a, grad_b, grad_magnitude, None, None, None, None, None


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    factors: tuple[Tensor, Tensor, Tensor],
    squares: Tensor,
    scale: float,
    mask: Tensor | None,
) -> Tensor:
    """Apply one Conv1D with its DoRA adapter to x [N, in].

    Args:
        x: input.
        weight: [in, out], frozen.
        bias: [out].
        factors: A [rank, in], B [out, rank] and the magnitudes [out], float32.
        squares: of `row_squares`.
        scale: of the update.
        mask: dropout multipliers [N, in], or None.
    """
    out: Tensor = _DoraLinear.apply(x, *factors, weight, bias, squares, scale, mask)  # type: ignore[no-untyped-call]
    return out


class LinearVariant:
    """Forward pass of PEFT's `Linear` with a DoRA adapter, in place of PEFT's own variant."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """Compute the layer's output [..., out], float32, from the base's result; x is float32 [..., in].

        With dropout the base is multiplied by the dropped input again, as in PEFT.
        """
        a, b = (part[active_adapter].weight for part in (module.lora_A, module.lora_B))
        scale, holder = module.scaling[active_adapter], module.lora_magnitude_vector[active_adapter]
        base = module.get_base_layer()
        gain = holder.weight / row_lengths(base.weight, holder.squares, a, b, scale, conv1d=False)
        dropped = module.lora_dropout[active_adapter](x)
        if dropped is x:
            product = result if base.bias is None else result - base.bias
        else:
            product = F.linear(dropped.to(base.weight.dtype), base.weight)
        moved = product + F.linear(F.linear(dropped, a), b * scale)
        changed: Tensor = result + (gain * moved - product)
        return changed


def add_magnitude(layer: nn.Module, adapter: str, magnitude: Tensor, *, conv1d: bool) -> None:
    """Turn a LoRA layer of PEFT into a DoRA layer with these magnitudes, float32 [out]."""
    weight = layer.get_parameter("base_layer.weight")
    layer.get_submodule("lora_magnitude_vector").add_module(
        adapter, Magnitude(magnitude, row_squares(weight, conv1d=conv1d))
    )
    variants: dict[str, Any] = layer.lora_variant  # type: ignore[assignment]
    variants[adapter] = LinearVariant()
