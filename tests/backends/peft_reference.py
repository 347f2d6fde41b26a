"""Vanilla PEFT on transformers' GPT-2 and on our DiT: losses, gradients and steps to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def gpt2(folder: Path) -> Any:
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def load_peft(base: Path, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(gpt2(base), adapter).eval()


def lora_config(spec: Any, *, conv1d: bool) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules=list(spec.targets),
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        fan_in_fan_out=conv1d,
    )


def state_key(name: str) -> str:
    """Shorten a parameter's name in a PEFT model to the state key."""
    name = name.replace("base_model.model.", "").replace(".default", "")
    return name.removesuffix(".weight") if "magnitude" in name else name


def fill(model: Any, state: dict[str, np.ndarray]) -> dict[str, Any]:
    """Write a state into a PEFT model; returns its adapter's parameters by state key."""
    import torch

    found = {state_key(n): p for n, p in model.named_parameters() if ".lora_" in n}
    assert sorted(found) == sorted(state)
    with torch.no_grad():
        for name, value in state.items():
            found[name].copy_(torch.from_numpy(value))
    return found


def adapted_gpt2(toy: Any, spec: Any, state: dict[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
    from peft import get_peft_model

    model = get_peft_model(gpt2(toy.folder), lora_config(spec, conv1d=True)).train()
    return model, fill(model, state)


def logits(model: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return model(torch.from_numpy(batch["tokens"]).long()).logits.numpy()


def loss(model: Any, batch: dict[str, np.ndarray]) -> Any:
    """Sum the cross-entropy of the scored tokens, as a tensor."""
    import torch

    tokens, scored = torch.from_numpy(batch["tokens"]).long(), torch.from_numpy(batch["loss_mask"])[:, 1:]
    found = model(tokens).logits[:, :-1]
    return torch.nn.functional.cross_entropy(found[scored], tokens[:, 1:][scored], reduction="sum")


def masks_of(toy: Any, spec: Any, batch: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Read the dropout masks of a backend's first step, float32 [tokens, in] by module."""
    shapes, rows = toy.config.linear_shapes(), batch["tokens"].size
    if toy.backend.name == "torch":
        import torch

        from musiclora.backends.torch.lora import DropoutPool

        pool = DropoutPool(seed, spec.dropout, torch.float32, torch.device("cpu"))
        pool.prefix = "0/0"
        return {name: pool(name, rows, size).numpy() for name, (_, size) in shapes.items()}
    from musiclora.backends.mlx.decoder import Dropout
    from musiclora.backends.mlx.lora import DropoutPool as MlxPool

    names = tuple(shapes)
    mlx_pool = MlxPool.draw(seed, spec.dropout, rows * max(size for _, size in shapes.values()))
    dropout = Dropout(mlx_pool, names, MlxPool.offsets(names, 0, 0))
    return {name: np.array(dropout.mask(name, (rows, size))) for name, (_, size) in shapes.items()}


def put_masks(model: Any, masks: dict[str, np.ndarray]) -> None:
    """Replace the dropouts of PEFT's layers by products with given masks."""
    import torch

    class Fixed(torch.nn.Module):
        def __init__(self, mask: np.ndarray) -> None:
            super().__init__()
            self.mask = torch.from_numpy(np.array(mask))

        def forward(self, x: Any) -> Any:
            return x * self.mask.view(x.shape)

    for name, mask in masks.items():
        model.get_submodule(f"base_model.model.{name}.lora_dropout").add_module("default", Fixed(mask))


def gpt2_gradients(
    toy: Any,
    spec: Any,
    state: dict[str, np.ndarray],
    batch: dict[str, np.ndarray],
    masks: dict[str, np.ndarray] | None = None,
) -> tuple[float, dict[str, np.ndarray]]:
    """Compute the mean loss of the scored tokens and its gradients by state key."""
    model, parameters = adapted_gpt2(toy, spec, state)
    if masks:
        put_masks(model, masks)
    mean = loss(model, batch) / int(batch["loss_mask"].sum())
    mean.backward()
    return mean.item(), {name: p.grad.numpy() for name, p in parameters.items()}


def lora_plus_steps(
    toy: Any,
    spec: Any,
    state: dict[str, np.ndarray],
    batches: list[dict[str, np.ndarray]],
    *,
    ratio: float,
    lr: float,
    weight_decay: float,
    eps: float,
) -> dict[str, np.ndarray]:
    """Make a step of PEFT's LoRA+ optimiser for each batch; returns the adapter by state key."""
    import torch
    from peft.optimizers import create_loraplus_optimizer

    model, parameters = adapted_gpt2(toy, spec, state)
    settings = {"loraplus_lr_ratio": ratio, "loraplus_weight_decay": weight_decay, "eps": eps}
    optimiser = create_loraplus_optimizer(model, torch.optim.AdamW, lr=lr, **settings)
    for batch in batches:
        optimiser.zero_grad()
        (loss(model, batch) / int(batch["loss_mask"].sum())).backward()
        optimiser.step()
    return {name: p.detach().numpy() for name, p in parameters.items()}


def save_random_adapter(toy: Any, spec: Any, folder: Path, batch: dict[str, np.ndarray]) -> np.ndarray:
    """Save an adapter that PEFT made, with other values than its initial ones; returns its logits."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(0)  # PEFT draws A from the global state
    model = get_peft_model(gpt2(toy.folder), lora_config(spec, conv1d=True)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:  # the magnitudes keep near the lengths that PEFT began with
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder, save_embedding_layers=False)
    return logits(model, batch)


def flow_gradients(
    toy: Any, spec: Any, state: dict[str, np.ndarray], batch: dict[str, np.ndarray]
) -> tuple[float, dict[str, np.ndarray]]:
    """Compute the mean loss of our DiT with PEFT's own layers in it, and its gradients by state key."""
    from peft import inject_adapter_in_model

    base = _torch_flow(toy)
    inject_adapter_in_model(lora_config(spec, conv1d=False), base.module)
    parameters = fill(base.module, state)
    mean = base.loss_sum(batch) / base.weight(batch)
    mean.backward()
    return mean.item(), {name: p.grad.numpy() for name, p in parameters.items()}


def flow_loss(toy: Any, adapter: Path, batch: dict[str, np.ndarray]) -> float:
    """Compute the mean loss of our DiT with an adapter that PEFT loaded."""
    from peft import PeftModel

    base = _torch_flow(toy)
    PeftModel.from_pretrained(base.module, adapter).eval()  # puts its layers into the module
    return base.loss(batch).mean


def _torch_flow(toy: Any) -> Any:
    from musiclora.backends import registry
    from musiclora.backends.base import FAMILIES

    return registry.get_backend("torch").load(FAMILIES["audio"], toy.folder)
