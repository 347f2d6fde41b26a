"""ACE-Step's transformer on MLX beside diffusers on torch: window attention, LoRA step, guided sampling, full size.

    python tests/benchmarks/mlx_acestep.py attention
    python tests/benchmarks/mlx_acestep.py step [--side mlx|torch]
    python tests/benchmarks/mlx_acestep.py sampling [--side mlx|torch] [--steps N]
    python tests/benchmarks/mlx_acestep.py full [--bits 8]

Figures are seconds of the process on one thread (the smallest of some repetitions), so that what others do on the
machine counts little; weights are random. `step` and `sampling`: width 512, 6 layers, 750 frames, a condition of 300
rows. `full`: one LoRA step of rank 64 on 30 s of music with the 2B model's sizes, in float32 or with a quantised
transformer, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating

SMALL = AceStepConfig(StackConfig(512, 1536, 8, 4, 64), StackConfig(512, 1536, 8, 4, 64), alternating(6))
FULL = AceStepConfig(StackConfig(2048, 6144, 16, 8, 128), StackConfig(2048, 6144, 16, 8, 128), alternating(24))
FRAMES, CONDITION_ROWS = 750, 300
RANK, SCALE = 64, 1.0
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


def smallest(run: Callable[[], Any], repetitions: int) -> float:
    """Seconds of the process for one run, after one that is not counted."""
    run()
    found = []
    for _ in range(repetitions):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def inputs(config: AceStepConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((1, FRAMES, config.latent_dim), np.float32),
        "target": rng.standard_normal((1, FRAMES, config.latent_dim), np.float32),
        "context": rng.standard_normal((1, FRAMES, 2 * config.latent_dim), np.float32),
        "condition": rng.standard_normal((1, CONDITION_ROWS, config.encoder.hidden), np.float32),
        "null": rng.standard_normal((1, 1, config.encoder.hidden), np.float32),
    }


def shapes(config: AceStepConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the transformer's arrays as MLX reads them."""
    stack, patch = config.decoder, config.patch_size * config.latent_dim
    width, heads, groups = stack.hidden, stack.heads * stack.head_dim, stack.kv_heads * stack.head_dim
    found: dict[str, tuple[int, ...]] = {"proj_in.1.weight": (width, 3 * patch), "proj_in.1.bias": (width,)}
    found |= {"proj_out.1.weight": (patch, width), "proj_out.1.bias": (config.latent_dim,)}
    found |= {"norm_out.weight": (width,), "scale_shift_table": (1, 2, width)}
    found |= {"condition_embedder.weight": (width, config.encoder.hidden), "condition_embedder.bias": (width,)}
    for at in ("time_embed", "time_embed_r"):
        for name, size in (("linear_1", (width, 256)), ("linear_2", (width, width)), ("time_proj", (6 * width, width))):
            found |= {f"{at}.{name}.weight": size, f"{at}.{name}.bias": size[:1]}
    for i in range(len(config.layer_types)):
        at = f"layers.{i}"
        found |= {f"{at}.{name}.weight": (width,) for name in ("self_attn_norm", "cross_attn_norm", "mlp_norm")}
        found[f"{at}.scale_shift_table"] = (1, 6, width)
        for kind in ("self_attn", "cross_attn"):
            found |= {f"{at}.{kind}.q_proj.weight": (heads, width), f"{at}.{kind}.o_proj.weight": (width, heads)}
            found |= {f"{at}.{kind}.{name}.weight": (groups, width) for name in ("k_proj", "v_proj")}
            found |= {f"{at}.{kind}.{name}.weight": (stack.head_dim,) for name in ("q_norm", "k_norm")}
        found |= {f"{at}.mlp.{name}.weight": (stack.intermediate, width) for name in ("gate_proj", "up_proj")}
        found[f"{at}.mlp.down_proj.weight"] = (width, stack.intermediate)
    return found


# --- MLX ---


def mlx_weights(config: AceStepConfig, bits: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Random weights, with quantised matrices in the blocks where bits are given, and an adapter's factors."""
    import mlx.core as mx

    from musiclora.convert.adapters.lora import is_target, state_keys

    weights: dict[str, Any] = {}
    factors: dict[str, Any] = {}
    for name, shape in shapes(config).items():
        value = mx.random.normal(shape) * shape[-1] ** -0.5
        stem = name.removesuffix(".weight")
        if is_target(stem, TARGETS):
            a, b = state_keys(stem)
            factors |= {a: mx.random.normal((RANK, shape[1])) * shape[1] ** -0.5, b: mx.zeros((shape[0], RANK))}
        if bits and name.startswith("layers.") and len(shape) == 2:
            weights[name], weights[f"{stem}.scales"], weights[f"{stem}.biases"] = mx.quantize(value, 64, bits)
        else:
            weights[name] = value
        mx.eval(weights)
    mx.eval(factors)
    return weights, factors


def mlx_step(config: AceStepConfig, bits: int | None, checkpointing: bool) -> Callable[[], Any]:
    """Loss and gradients of the adapter, compiled."""
    import mlx.core as mx

    from musiclora.backends.mlx import acestep
    from musiclora.backends.mlx.decoder import ActiveAdapter

    weights, factors = mlx_weights(config, bits)
    given = {key: mx.array(value) for key, value in inputs(config).items()}

    def loss(factors: Any, weights: Any, given: Any) -> Any:
        adapter = ActiveAdapter(factors, SCALE)
        made = acestep.prepare(given["condition"], None, given["context"], weights, adapter, config)
        time = mx.array([0.4])
        found = acestep.predict(given["x"], time, made, weights, adapter, config, checkpointing=checkpointing)
        return mx.square(found - given["target"]).sum()

    gradient = mx.compile(mx.value_and_grad(loss))
    return lambda: mx.eval(gradient(factors, weights, given))


def mlx_sampling(config: AceStepConfig, steps: int) -> Callable[[], Any]:
    """Euler steps with guidance: keys and values computed once, both passes in one batch."""
    import mlx.core as mx

    from musiclora.backends.mlx import acestep

    weights, _ = mlx_weights(config)
    given = {key: mx.array(value) for key, value in inputs(config).items()}

    def run() -> None:
        made = acestep.prepare(given["condition"], None, given["context"], weights, None, config)
        made = acestep.prepare_keys(made, 1, weights, None, config)
        made = acestep.with_null_condition(made, given["null"], weights, None, config)
        x = given["x"]
        for i in range(steps):
            t = mx.full((2,), 1 - i / steps)
            p, q = mx.split(acestep.predict(mx.concatenate([x, x]), t, made, weights, None, config), 2)
            x = x - (q + 7.0 * (p - q)) / steps
            mx.eval(x)

    return run


# --- torch ---


def torch_model(config: AceStepConfig) -> Any:
    import torch
    from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel

    torch.set_num_threads(1)
    stack = config.decoder
    return AceStepTransformer1DModel(
        hidden_size=stack.hidden,
        intermediate_size=stack.intermediate,
        num_hidden_layers=len(config.layer_types),
        num_attention_heads=stack.heads,
        num_key_value_heads=stack.kv_heads,
        head_dim=stack.head_dim,
    )


def torch_step(config: AceStepConfig) -> Callable[[], Any]:
    import peft
    import torch

    spec = peft.LoraConfig(r=RANK, lora_alpha=RANK * SCALE, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    model = peft.inject_adapter_in_model(spec, torch_model(config))
    given = {key: torch.from_numpy(value) for key, value in inputs(config).items()}
    time = torch.tensor([0.4])

    def run() -> None:
        model.zero_grad()
        found = model(given["x"], time, time, given["condition"], given["context"]).sample
        (found - given["target"]).square().sum().backward()

    return run


def torch_sampling(config: AceStepConfig, steps: int) -> Callable[[], Any]:
    """The pipeline's loop: both passes in one batch, the null condition repeated."""
    import torch

    model = torch_model(config).eval()
    given = {key: torch.from_numpy(value) for key, value in inputs(config).items()}
    condition = torch.cat([given["condition"], given["null"].expand_as(given["condition"])])
    context = torch.cat([given["context"]] * 2)

    @torch.no_grad()
    def run() -> None:
        x = given["x"]
        for i in range(steps):
            t = torch.full((2,), 1 - i / steps)
            p, q = model(torch.cat([x, x]), t, t, condition, context).sample.chunk(2)
            x = x - (q + 7.0 * (p - q)) / steps

    return run


# --- parts ---


def attention() -> None:
    """The forms of window attention at 30 s and 240 s, with the 2B model's heads."""
    import mlx.core as mx

    from musiclora.backends.mlx.kernels import grouped_attention

    def masked_square(q: Any, k: Any, v: Any, window: int) -> Any:
        row = mx.arange(q.shape[2])
        mask = mx.abs(row[:, None] - row[None]) <= window
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)

    forms = {
        "masked square": masked_square,
        "stacked blocks": grouped_attention._attend_in_window_blocks,
        "query blocks (taken on the CPU)": grouped_attention.attend_in_window,
    }
    for rows, repetitions in ((375, 7), (3000, 3)):
        q, g = (mx.random.normal((1, 16, rows, 128)) for _ in range(2))
        k, v = (mx.random.normal((1, 8, rows, 128)) for _ in range(2))
        for name, form in forms.items():
            gradient = mx.grad(lambda q, k, v, form=form, g=g: (form(q, k, v, 128) * g).sum(), argnums=(0, 1, 2))
            forward = smallest(lambda form=form, args=(q, k, v): mx.eval(form(*args, 128)), repetitions)
            both = smallest(lambda f=gradient, args=(q, k, v): mx.eval(f(*args)), repetitions)
            print(f"{rows} rows, {name}: {forward * 1e3:.0f} ms, {both * 1e3:.0f} ms with gradients", flush=True)


def full(bits: int | None) -> None:
    run = mlx_step(FULL, bits, checkpointing=True)
    seconds = smallest(run, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    base = f"{bits} bits" if bits else "float32"
    print(f"LoRA step of rank {RANK} on {FRAMES} frames, {base}: {seconds:.1f} s, peak {peak:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["attention", "step", "sampling", "full"])
    parser.add_argument("--side", choices=["mlx", "torch"], default="mlx")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--bits", type=int, choices=[4, 8])
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # read when the frameworks are imported, which is below
    if args.side == "mlx":
        import musiclora.backends.mlx.device

        musiclora.backends.mlx.device.configure()
    if args.part == "attention":
        attention()
    elif args.part == "full":
        full(args.bits)
    elif args.part == "step":
        run = mlx_step(SMALL, args.bits, checkpointing=False) if args.side == "mlx" else torch_step(SMALL)
        print(f"{args.side}: {smallest(run, 5):.3f} s a step")
    else:
        run = mlx_sampling(SMALL, args.steps) if args.side == "mlx" else torch_sampling(SMALL, args.steps)
        print(f"{args.side}: {smallest(run, 3):.3f} s for {args.steps} guided steps")


if __name__ == "__main__":
    sys.exit(main())
