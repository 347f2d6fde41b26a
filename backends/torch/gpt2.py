"""GPT-2 on torch: transformers' module holds the parameters, our own forward pass computes with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from musiclora.backends.base import Arrays, Grammar, LossSum, OptimSpec, SamplingSpec
from musiclora.backends.torch import adapter as lora
from musiclora.backends.torch.functional import ACTIVATIONS, Block, Decoder, Dense, Lora, Masks, Norm, decode, head_loss
from musiclora.convert.adapter import LoraSpec, check_state, match_targets, state_keys, state_shapes
from musiclora.convert.errors import BackendError, DataError, listed
from musiclora.convert.gpt2 import Gpt2Config, read_checkpoint

if TYPE_CHECKING:
    from musiclora.backends.torch.training import TorchTraining

_EMBEDDING = "transformer.wte.weight"  # also the output head
_LINEARS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def empty_module(config: Gpt2Config) -> nn.Module:
    """GPT2LMHeadModel without storage, its dropouts set to 0."""
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.n_positions,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_inner=config.n_inner,
        activation_function=config.activation_function,
        layer_norm_epsilon=config.layer_norm_epsilon,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    with torch.device("meta"):
        return GPT2LMHeadModel(settings)


class TorchGpt2:
    """A GPT-2 checkpoint on one device (implements `backends.base.TokenModel`)."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        config = read_checkpoint(folder).config
        self.folder, self.config, self.dtype, self.device = folder, config, dtype, device
        self.vocab_size: int = config.vocab_size
        self.n_positions: int = config.n_positions
        self.module = empty_module(config)
        self._untouched = True  # the parameters are still the checkpoint's values, but for the dtype
        self._spec: LoraSpec | None = None
        self._adapted: list[str] = []
        self._enabled = True
        self._computed: dict[str, Tensor] = {}
        self._decoder: Decoder | None = None
        self.load_parameters(dtype)

    def load_parameters(self, dtype: torch.dtype) -> None:
        """Fill the module from the checkpoint; every name is proven used and filled."""
        for name, value in read_checkpoint(self.folder).tensors():
            parent, _, leaf = name.rpartition(".")
            tensor = torch.from_numpy(np.array(value, np.float32)).to(self.device, dtype)
            layer = lora.base_layer(self.module, parent)
            layer.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        self.module.get_submodule("lm_head").register_parameter("weight", self.module.get_parameter(_EMBEDDING))
        self.refresh()

    # --- structure ---

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of every Conv1D, in model order."""
        return self.config.linear_shapes()

    def base_parameters(self) -> dict[str, nn.Parameter]:
        """The checkpoint's parameters by canonical name, without the adapter's."""
        named = self.module.named_parameters()
        return {k.replace(".base_layer.", "."): p for k, p in named if ".lora_" not in k and k != "lm_head.weight"}

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """The adapter's parameters by state key."""
        found = {}
        for name in self._adapted:
            for key, value in zip(state_keys(name), lora.factors(self.module, name), strict=True):
                found[key] = value
        return found

    def compute_with(self, tensors: dict[str, Tensor]) -> None:
        """Let the forward pass read these tensors in place of the base parameters of the same names."""
        self._computed = tensors
        self.refresh()

    def refresh(self) -> None:
        """Forget what was gathered from the module; needed after parameters were replaced."""
        self._decoder = None

    def decoder(self) -> Decoder:
        """The weights as the forward pass wants them."""
        if self._decoder is None:
            self._decoder = self._gather()
        return self._decoder

    def _gather(self) -> Decoder:
        found: dict[str, Tensor] = {**self.base_parameters(), **self._computed}

        def dense(name: str) -> Dense:
            update = None
            if self._enabled and self._spec is not None and name in self._adapted:
                update = Lora(*lora.factors(self.module, name), self._spec.scale)
            return Dense(name, found[f"{name}.weight"], found[f"{name}.bias"], update)

        def norm(name: str) -> Norm:
            return Norm(found[f"{name}.weight"], found[f"{name}.bias"])

        config, blocks = self.config, []
        for i in range(config.n_layer):
            at = f"transformer.h.{i}"
            c_attn, attn_proj, c_fc, mlp_proj = (dense(f"{at}.{leaf}") for leaf in _LINEARS)
            blocks.append(Block(norm(f"{at}.ln_1"), c_attn, attn_proj, norm(f"{at}.ln_2"), c_fc, mlp_proj))
        return Decoder(
            found[_EMBEDDING],
            found["transformer.wpe.weight"],
            tuple(blocks),
            norm("transformer.ln_f"),
            config.n_head,
            config.layer_norm_epsilon,
            ACTIVATIONS[config.activation_function],
        )

    # --- adapter ---

    def inject_adapter(self, spec: LoraSpec, initial: Arrays) -> None:
        """Add the adapter that spec describes, filled with initial; a second call replaces the first."""
        shapes = self.linear_shapes()
        names = match_targets(shapes, spec.targets)
        check_state(initial, state_shapes(spec, shapes), "adapter")
        self._drop_adapter()
        lora.inject(self.module, spec, names)
        lora.fill(self.module, names, initial, self.device)
        self.module.requires_grad_(False)
        self._spec, self._adapted, self._enabled = spec, names, True
        self.refresh()

    def _drop_adapter(self) -> None:
        lora.remove(self.module, self._adapted)
        self._spec, self._adapted = None, []
        self.refresh()

    def _need_adapter(self, what: str) -> LoraSpec:
        if self._spec is None:
            raise BackendError(f"{what}: this model has no adapter; call inject_adapter first")
        return self._spec

    def set_adapter(self, enabled: bool) -> None:
        """Switch the adapter; off computes bit for bit what the base does."""
        self._need_adapter("set_adapter")
        self._enabled = enabled
        self.refresh()

    def read_adapter(self) -> dict[str, np.ndarray]:
        """Adapter state, float32 copies."""
        self._need_adapter("read_adapter")
        return {k: p.detach().cpu().numpy().copy() for k, p in self.adapter_parameters().items()}

    def write_adapter(self, state: Arrays) -> None:
        """Fill the adapter in place; strict."""
        spec = self._need_adapter("write_adapter")
        check_state(state, state_shapes(spec, self.linear_shapes()), "adapter state")
        lora.fill(self.module, self._adapted, state, self.device)

    def fuse(self) -> None:
        """Add the update to the weights and drop the adapter."""
        spec = self._need_adapter("fuse")
        with torch.no_grad():
            for name in self._adapted:
                weight = lora.base_layer(self.module, name).get_parameter("weight")
                weight.copy_(lora.fused_weight(weight, *lora.factors(self.module, name), spec.scale))
        self._untouched = False
        self._drop_adapter()

    def read_weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """Base weights one by one, float32, under transformers' names and layouts."""
        for name, value in self.base_parameters().items():
            yield name, value.detach().float().cpu().numpy().copy()

    # --- computing ---

    def batch_tensors(self, batch: Arrays) -> dict[str, Tensor]:
        """A token batch on the device, checked: tokens, and positions where they are given.

        Raises:
            DataError: a row longer than n_positions, ids or positions out of range, shapes that differ.
        """
        tokens = np.asarray(batch["tokens"])
        problems = [
            f"{key} has shape {list(np.shape(batch[key]))}, tokens {list(tokens.shape)}"
            for key in ("loss_mask", "positions", "segments")
            if key in batch and np.shape(batch[key]) != tokens.shape
        ]
        if tokens.ndim != 2 or not tokens.size:
            raise DataError(f"a token batch needs tokens [B, L]; it has shape {list(tokens.shape)}")
        if tokens.shape[1] > self.n_positions:
            problems.append(f"rows have {tokens.shape[1]} tokens; this model takes at most {self.n_positions}")
        for key, limit in (("tokens", self.vocab_size), ("positions", self.n_positions)):
            if key in batch and not (0 <= np.min(batch[key]) and np.max(batch[key]) < limit):
                problems.append(
                    f"{key} go from {np.min(batch[key])} to {np.max(batch[key])}; allowed are 0 to {limit - 1}"
                )
        if "loss_mask" in batch and not problems and np.asarray(batch["loss_mask"])[:, 0].any():
            problems.append("loss_mask scores column 0, which nothing predicts")
        if problems:
            raise DataError(f"token batch: {listed(problems)}")
        known = ("tokens", "positions")
        return {k: torch.from_numpy(np.array(batch[k])).to(self.device) for k in known if k in batch}

    def loss_sum(self, batch: Arrays, masks: Masks | None = None, checkpointing: bool = False) -> Tensor:
        """Summed loss over scored targets, a float32 scalar with its gradient."""
        scored = np.flatnonzero(np.asarray(batch["loss_mask"], bool).reshape(-1))
        tensors = self.batch_tensors(batch)
        where = torch.from_numpy(scored).to(self.device)
        model = self.decoder()
        tokens = tensors["tokens"]
        hidden = decode(model, tokens, tensors.get("positions"), batch.get("segments"), masks, checkpointing)
        # The hidden state before a scored token predicts it.
        return head_loss(hidden.index_select(0, where - 1), model.wte, tokens.view(-1).index_select(0, where).long())

    def weight(self, batch: Arrays) -> float:
        """How many tokens of the batch are scored."""
        return float(np.count_nonzero(batch["loss_mask"]))

    def loss(self, batch: Arrays) -> LossSum:
        """Loss without gradient or dropout; repeatable."""
        with torch.inference_mode():
            total = self.loss_sum(batch)
        return LossSum(float(total), float(np.count_nonzero(batch["loss_mask"])))

    def logits(self, batch: Arrays) -> np.ndarray:
        """Next-token logits, float32 [B, L, V]."""
        tensors = self.batch_tensors(batch)
        with torch.inference_mode():
            model = self.decoder()
            hidden = decode(model, tensors["tokens"], tensors.get("positions"), batch.get("segments"))
            found: np.ndarray = torch.mm(hidden, model.wte.t()).float().cpu().numpy()
        return found.reshape(*tensors["tokens"].shape, self.vocab_size)

    def start_training(self, optim: OptimSpec, trainable: Literal["adapter", "all"] = "adapter") -> TorchTraining:
        """A trainer of the adapter or of all base weights."""
        from musiclora.backends.torch.training import TorchTraining

        if trainable == "adapter":
            self._need_adapter("start_training")
        elif self._spec is not None:
            raise BackendError("start_training('all'): this model has an adapter; fuse it or load the model anew")
        return TorchTraining(self, optim, trainable, self._spec)

    def restore_precision(self) -> None:
        """Hold the base parameters in float32: the checkpoint's own values where they have not been changed."""
        if self._untouched:
            self.load_parameters(torch.float32)
        else:
            self.module.float()
        self._untouched = False
        self.refresh()

    def generate(
        self,
        prompts: np.ndarray,
        spec: SamplingSpec,
        uniforms: np.ndarray,
        grammar: Grammar | None = None,
        on_tokens: Callable[[np.ndarray], None] | None = None,
    ) -> np.ndarray:
        """Continue prompts; see `backends.base.TokenModel`."""
        from musiclora.backends.torch.generation import generate

        return generate(self, prompts, spec, uniforms, grammar, on_tokens)
