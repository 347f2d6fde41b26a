"""Decoder with merged adapters and a preallocated key-value cache, for generation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from musiclora.backends.torch.functional import Decoder, Dense, layer_norm
from musiclora.backends.torch.lora import fused_weight

_Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def merge_adapters(model: Decoder) -> Decoder:
    """Add adapters to copies of the weights; the originals stay as they are."""

    def fused(layer: Dense) -> Dense:
        if layer.lora is None:
            return layer
        a, b, scale, magnitude = layer.lora
        lengths = None if magnitude is None else magnitude.weight
        return layer._replace(weight=fused_weight(layer.weight, a, b, scale, lengths, conv1d=True), lora=None)

    blocks = (
        b._replace(c_attn=fused(b.c_attn), attn_proj=fused(b.attn_proj), c_fc=fused(b.c_fc), mlp_proj=fused(b.mlp_proj))
        for b in model.blocks
    )
    return model._replace(blocks=tuple(blocks))


class CachedDecoder:
    """Weights and the keys and values of all layers, each [B, heads, capacity + 1, head size], allocated once.

    The position after the last one takes what belongs to no row. The cache begins with zeros: what a mask hides is
    multiplied by 0, which must not meet NaN.
    """

    def __init__(self, model: Decoder, batch: int, capacity: int) -> None:
        self.model, self.capacity = model, capacity
        width = model.wte.shape[1]
        shape = (2, len(model.blocks), batch, model.n_head, capacity + 1, width // model.n_head)
        self._keys, self._values = (
            part.unbind(0) for part in torch.zeros(shape, dtype=model.wte.dtype, device=model.wte.device).unbind(0)
        )
        self._rows = torch.arange(batch, device=model.wte.device)[:, None]

    def append(self, tokens: Tensor, start: int) -> Tensor:
        """Append tokens int64 [B, n] at one position in all rows.

        Returns:
            States after the last token, [B, d].
        """
        count = tokens.shape[1]
        end, mask = start + count, None
        if count > 1 and start:
            mask = torch.ones(count, end, dtype=torch.bool, device=tokens.device).tril_(start)

        def attend(i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self._keys[i], self._values[i]
            keys[:, :, start:end] = k
            values[:, :, start:end] = v
            return F.scaled_dot_product_attention(
                q,
                keys[:, :, :end],
                values[:, :, :end],
                attn_mask=mask,
                is_causal=count > 1 and mask is None,
                scale=self.model.blocks[i].attention_scale,
            )

        x = F.embedding(tokens, self.model.wte) + self.model.wpe[start:end]
        return self._run_blocks(x, attend)[:, -1]

    def append_rows(self, tokens: Tensor, positions: Tensor, last: Tensor, visible: int) -> Tensor:
        """Append tokens int64 [B, n] at positions int64 [B, n] of their own in each row.

        Args:
            tokens: any ids where the position is the capacity.
            positions: rising in a row; the capacity for what belongs to none.
            last: int64 [B], index of each row's last token.
            visible: largest position that belongs to a row, plus 1.

        Returns:
            States after the last tokens, [B, d].
        """
        mask = torch.arange(visible, device=tokens.device) <= positions[:, None, :, None]

        def attend(i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self._keys[i], self._values[i]
            keys[self._rows, :, positions] = k.transpose(1, 2)
            values[self._rows, :, positions] = v.transpose(1, 2)
            scale = self.model.blocks[i].attention_scale
            return F.scaled_dot_product_attention(
                q, keys[:, :, :visible], values[:, :, :visible], attn_mask=mask, scale=scale
            )

        at = positions.clamp(max=self.model.wpe.shape[0] - 1)
        x = F.embedding(tokens, self.model.wte) + F.embedding(at, self.model.wpe)
        return self._run_blocks(x, attend)[self._rows[:, 0], last]

    def logits(self, states: Tensor, first: int, end: int) -> Tensor:
        """Compute float32 logits [B, end - first] of the ids first <= id < end."""
        last = layer_norm(states, self.model.ln_f, self.model.eps)
        return torch.mm(last, self.model.wte[first:end].t()).float()

    def _run_blocks(self, x: Tensor, attend: _Attend) -> Tensor:
        """Apply all blocks to x [B, n, d]; attend(layer, q, k, v) writes the cache and reads it."""
        model, (batch, count, width) = self.model, x.shape
        x = x.view(batch * count, width)
        for i, block in enumerate(model.blocks):
            qkv = torch.addmm(block.c_attn.bias, layer_norm(x, block.ln_1, model.eps), block.c_attn.weight)
            q, k, v = qkv.view(batch, count, 3, model.n_head, width // model.n_head).permute(2, 0, 3, 1, 4).unbind(0)
            seen = attend(i, q, k, v).transpose(1, 2).reshape(batch * count, width)
            x = x + torch.addmm(block.attn_proj.bias, seen, block.attn_proj.weight)
            hidden = torch.addmm(block.c_fc.bias, layer_norm(x, block.ln_2, model.eps), block.c_fc.weight)
            x = x + torch.addmm(block.mlp_proj.bias, model.activation(hidden), block.mlp_proj.weight)
        return x.view(batch, count, width)
