"""Token generation on torch: fused weights, a preallocated KV cache, and no host round trip per token."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from musiclora.backends.base import Grammar, SamplingSpec
from musiclora.backends.token_requests import CHECK_EVERY_TOKENS, GeneratedTokens, check_request
from musiclora.backends.torch.functional import Decoder, Dense, layer_norm
from musiclora.backends.torch.lora import fused_weight
from musiclora.backends.torch.sampler import Automaton, sample


class _Cache:
    """KV cache of all layers, each [B, heads, length, head size], allocated once."""

    def __init__(self, model: Decoder, batch: int, length: int) -> None:
        width = model.wte.shape[1]
        shape = (2, len(model.blocks), batch, model.n_head, length, width // model.n_head)
        self.keys, self.values = (
            part.unbind(0) for part in torch.empty(shape, dtype=model.wte.dtype, device=model.wte.device).unbind(0)
        )
        self.filled = 0


def _merge_adapters(model: Decoder) -> Decoder:
    """Add adapters to copies of the weights; the originals stay as they are."""

    def fused(layer: Dense) -> Dense:
        if layer.lora is None:
            return layer
        return layer._replace(weight=fused_weight(layer.weight, *layer.lora, conv1d=True), lora=None)

    blocks = (
        b._replace(c_attn=fused(b.c_attn), attn_proj=fused(b.attn_proj), c_fc=fused(b.c_fc), mlp_proj=fused(b.mlp_proj))
        for b in model.blocks
    )
    return model._replace(blocks=tuple(blocks))


def _append_tokens(model: Decoder, cache: _Cache, tokens: Tensor) -> Tensor:
    """Append tokens [B, n] to the cache and compute float32 logits [B, V] after the last; n > 1 only for the prompt."""
    batch, count = tokens.shape
    width = model.wte.shape[1]
    start, end = cache.filled, cache.filled + count
    x = (F.embedding(tokens, model.wte) + model.wpe[start:end]).view(batch * count, width)
    for block, keys, values in zip(model.blocks, cache.keys, cache.values, strict=True):
        qkv = torch.addmm(block.c_attn.bias, layer_norm(x, block.ln_1, model.eps), block.c_attn.weight)
        q, k, v = qkv.view(batch, count, 3, model.n_head, width // model.n_head).permute(2, 0, 3, 1, 4).unbind(0)
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        seen = F.scaled_dot_product_attention(q, keys[:, :, :end], values[:, :, :end], is_causal=count > 1)
        seen = seen.transpose(1, 2).reshape(batch * count, width)
        x = x + torch.addmm(block.attn_proj.bias, seen, block.attn_proj.weight)
        hidden = torch.addmm(block.c_fc.bias, layer_norm(x, block.ln_2, model.eps), block.c_fc.weight)
        x = x + torch.addmm(block.mlp_proj.bias, model.activation(hidden), block.mlp_proj.weight)
    cache.filled = end
    last = layer_norm(x.view(batch, count, width)[:, -1], model.ln_f, model.eps)
    return torch.mm(last, model.wte.t()).float()


def generate(
    model: Decoder,
    prompts: np.ndarray,
    spec: SamplingSpec,
    uniforms: np.ndarray,
    grammar: Grammar | None = None,
    on_tokens: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:
    """Continue prompts; see `backends.base.TokenModel.generate`.

    Raises:
        DataError: shapes, lengths or ids that do not fit, or logits that are not finite.
        ConfigError: a grammar that does not fit.
    """
    prompts, uniforms = np.asarray(prompts), np.asarray(uniforms, np.float32)
    sizes = {"vocab_size": model.wte.shape[0], "n_positions": model.wpe.shape[0]}
    check_request(prompts, spec, uniforms, grammar, **sizes)
    with torch.inference_mode():
        return _generate_tokens(model, prompts, spec, uniforms, grammar, on_tokens)


def _generate_tokens(
    model: Decoder,
    prompts: np.ndarray,
    spec: SamplingSpec,
    uniforms: np.ndarray,
    grammar: Grammar | None,
    on_tokens: Callable[[np.ndarray], None] | None,
) -> np.ndarray:
    (batch, length), steps, device = prompts.shape, uniforms.shape[0], model.wte.device
    weights = _merge_adapters(model)
    cache = _Cache(weights, batch, length + steps)
    automaton = Automaton(grammar, batch, device) if grammar else None
    draws = torch.from_numpy(np.array(uniforms)).to(device)
    found = GeneratedTokens(batch, steps, spec.pad_id, on_tokens)
    drawn = torch.empty(CHECK_EVERY_TOKENS, batch, dtype=torch.int64, device=device)
    ended = torch.zeros(batch, dtype=torch.bool, device=device)
    finite = torch.ones(batch, dtype=torch.bool, device=device)
    tokens = torch.from_numpy(np.array(prompts, np.int64)).to(device)
    for step in range(steps):
        logits = _append_tokens(weights, cache, tokens)
        if automaton is not None:
            logits = automaton.forbid(logits)
        finite &= logits.amax(1).isfinite()  # the maximum is NaN where any logit is
        chosen = sample(logits, draws[step], spec)
        if automaton is not None:
            automaton.follow(chosen)
        if spec.eos_id is not None:
            chosen = chosen.masked_fill(ended, spec.pad_id)
            ended |= chosen == spec.eos_id
        drawn[step % CHECK_EVERY_TOKENS] = chosen
        tokens = chosen[:, None]
        count = step % CHECK_EVERY_TOKENS + 1
        if count == CHECK_EVERY_TOKENS or step + 1 == steps:
            block = drawn[:count].t().cpu().numpy()
            if found.add_block(block, finite=bool(finite.all()), ended=bool(ended.all())):
                break
    return found.tokens
