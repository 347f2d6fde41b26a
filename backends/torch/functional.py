"""GPT-2's forward pass over plain tensors, with two autograd functions that save memory in training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from musiclora.backends import token_batches
from musiclora.backends.torch import dora
from musiclora.backends.torch.attention import AttentionPlan, attend_causally, plan_attention
from musiclora.backends.torch.dora import Magnitude
from musiclora.backends.torch.lora import Masks

ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


class Lora(NamedTuple):
    """Factors of one module's update, A [rank, in] and B [out, rank], float32; with magnitudes it is DoRA."""

    a: Tensor
    b: Tensor
    scale: float
    magnitude: Magnitude | None = None


class Dense(NamedTuple):
    """One Conv1D: weight [in, out], bias [out], and its adapter where it has one."""

    name: str
    weight: Tensor
    bias: Tensor
    lora: Lora | None


class Norm(NamedTuple):
    weight: Tensor
    bias: Tensor


class DecoderBlock(NamedTuple):
    ln_1: Norm
    c_attn: Dense
    attn_proj: Dense
    ln_2: Norm
    c_fc: Dense
    mlp_proj: Dense
    attention_scale: float  # of the products of queries and keys


class Decoder(NamedTuple):
    """All weights of a forward pass, in the dtype it computes in."""

    wte: Tensor  # also the output head
    wpe: Tensor
    blocks: tuple[DecoderBlock, ...]
    ln_f: Norm
    n_head: int
    eps: float
    activation: Callable[[Tensor], Tensor]


class _LoraLinear(torch.autograd.Function):
    """The map x W + b + scale * drop(x) A' B' with a frozen W: no gradient of W; keeps x and the low-rank product."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, weight: Tensor, bias: Tensor, scale: float, mask: Tensor | None
    ) -> Tensor:
        low = torch.mm(x if mask is None else x * mask, a.t().to(x.dtype))
        out = torch.addmm(bias, x, weight)
        out.addmm_(low, (b.t() * scale).to(x.dtype))
        ctx.save_for_backward(x, a, b, weight, low)
        ctx.scale, ctx.mask = scale, mask
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, weight, low = ctx.saved_tensors
        mask = ctx.mask
        grad_low = torch.mm(grad, (b * ctx.scale).to(grad.dtype))
        grad_b = torch.mm(grad.t(), low).to(b.dtype) * ctx.scale
        grad_a = torch.mm(grad_low.t(), x if mask is None else x * mask).to(a.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.mm(grad, weight.t())
            if mask is None:
                grad_x.addmm_(grad_low, a.to(grad.dtype))
            else:
                grad_x.addcmul_(torch.mm(grad_low, a.to(grad.dtype)), mask)
        return grad_x, grad_a, grad_b, None, None, None, None


def conv1d(x: Tensor, layer: Dense, masks: Masks | None) -> Tensor:
    """Apply one Conv1D with its adapter to x [N, in]."""
    if layer.lora is None:
        return torch.addmm(layer.bias, x, layer.weight)
    mask = masks(layer.name, x.shape[0], x.shape[1]) if masks else None
    a, b, scale, magnitude = layer.lora
    if magnitude is not None:
        return dora.conv1d(x, layer.weight, layer.bias, (a, b, magnitude.weight), magnitude.squares, scale, mask)
    out: Tensor = _LoraLinear.apply(x, a, b, layer.weight, layer.bias, scale, mask)  # type: ignore[no-untyped-call]
    return out


def layer_norm(x: Tensor, layer: Norm, eps: float) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), layer.weight, layer.bias, eps)


def run_block(x: Tensor, block: DecoderBlock, model: Decoder, plan: AttentionPlan, masks: Masks | None) -> Tensor:
    """Apply one transformer block to x [B*L, d]."""
    qkv = conv1d(layer_norm(x, block.ln_1, model.eps), block.c_attn, masks)
    x = x + conv1d(attend_causally(qkv, model.n_head, plan, block.attention_scale), block.attn_proj, masks)
    hidden = model.activation(conv1d(layer_norm(x, block.ln_2, model.eps), block.c_fc, masks))
    return x + conv1d(hidden, block.mlp_proj, masks)


def hidden_states(
    model: Decoder,
    tokens: Tensor,
    positions: Tensor | None,
    segments: np.ndarray | None,
    masks: Masks | None = None,
    checkpointing: bool = False,
) -> Tensor:
    """Compute the states after the last layer norm, [B*L, d].

    Args:
        model: the weights.
        tokens: int [B, L].
        positions: int [B, L]; None counts from 0 in each row.
        segments: int [B, L]; None lets a token see its whole past.
        masks: LoRA dropout; None for none.
        checkpointing: keep only block inputs and recompute the rest in the backward pass.
    """
    batch, length = tokens.shape
    at = model.wpe[:length] if positions is None else F.embedding(positions, model.wpe)
    x = (F.embedding(tokens, model.wte) + at).view(batch * length, -1)
    plan = plan_attention((batch, length), segments, x)
    for block in model.blocks:
        if checkpointing:
            # The masks are functions of their names, so that no random state needs to be kept for the second pass.
            x = checkpoint(run_block, x, block, model, plan, masks, use_reentrant=False, preserve_rng_state=False)
        else:
            x = run_block(x, block, model, plan, masks)
    return layer_norm(x, model.ln_f, model.eps)


class _HeadLoss(torch.autograd.Function):
    """Summed cross-entropy of hidden @ head.T in chunks of rows; the gradient is formed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        need_hidden, need_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_head = torch.zeros_like(head, dtype=torch.float32) if need_head else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = max(1, token_batches.LOGITS_PER_CHUNK // head.shape[0])
        for start in range(0, hidden.shape[0], rows):
            part, target = hidden[start : start + rows], targets[start : start + rows]
            logs = torch.log_softmax(torch.mm(part, head.t()), dim=1, dtype=torch.float32)
            total -= logs.gather(1, target[:, None]).sum()
            if not (need_hidden or need_head):
                continue
            grad = logs.exp_().scatter_add_(1, target[:, None], torch.full_like(target[:, None], -1, dtype=logs.dtype))
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, head, out=grad_hidden[start : start + rows])
            if grad_head is not None:
                grad_head += torch.mm(grad.t(), part)
        ctx.grads = grad_hidden, grad_head if grad_head is None else grad_head.to(head.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, None
        return (*(None if g is None else g.mul_(scale.to(g.dtype)) for g in grads), None)


def head_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Sum the cross-entropy in nats over rows, float32: hidden [M, d], head [V, d], targets int64 [M]."""
    total: Tensor = _HeadLoss.apply(hidden, head, targets)  # type: ignore[no-untyped-call]
    return total


def head_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Compute the cross-entropy in nats of each row, float32 [M], without gradient; the logits exist in chunks."""
    rows = max(1, token_batches.LOGITS_PER_CHUNK // head.shape[0])
    found = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(targets), rows):
        logits = torch.mm(hidden[start : start + rows], head.t()).float()
        at = targets[start : start + rows, None]
        found[start : start + rows] = logits.logsumexp(1) - logits.gather(1, at)[:, 0]
    return found
