"""Our torch training step against a plain transformers + PEFT loop: tokens per second and peak memory.

    python tests/benchmarks/torch_training.py [--preset band] [--use-dora] [--quick] [--json FILE] [--cpu-time]

The model is a 512-wide, 6-layer, 8-head GPT-2 with 1024 positions and with 292 and 30,000 tokens; sequences of 1024,
LoRA of rank 16 on c_attn, c_proj and c_fc. `--preset band` takes the size of music-small-800k in its place: 768 wide,
12 layers, 12 heads, 55,028 tokens, attention logits divided by the layer's number, batch 1. `plain` is what a user
writes by hand: transformers' dropouts of 0.1, LoRA dropout 0.05, AdamW, clipping; `plain-bfloat16` is the same under
torch.autocast. Every measurement is a process of its own and the contenders take turns, so that a noisy machine
disturbs all of them alike: read the ratios. `--use-dora` gives PEFT and us DoRA in place of LoRA. On a machine that
others use at the same time, `--cpu-time` gives one thread to each and counts its own seconds only. Memory is the growth
of the process's peak resident size (ru_maxrss) from before the model is loaded; on CUDA it is
torch.cuda.max_memory_allocated.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

CONTENDERS = ("plain", "plain-bfloat16", "ours-float32", "ours-bfloat16")
LENGTH, RANK, ALPHA, DROPOUT, RATE = 1024, 16, 32, 0.05, 2e-4
TARGETS = ("c_attn", "c_proj", "c_fc")


# Width, layers, heads, division of the attention logits by the layer's number; cases (tokens, batch).
PRESETS = {
    "default": ((512, 6, 8, False), [(v, b) for v in (292, 30_000) for b in (1, 4)]),
    "band": ((768, 12, 12, True), [(55_028, 1)]),
}


def write_model(folder: Path, vocabulary: int, shape: tuple[int, int, int, bool]) -> None:
    from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint

    width, layers, heads, scaled = shape
    config = Gpt2Config(
        vocabulary, LENGTH, width, layers, heads, n_inner=4 * width, scale_attn_by_inverse_layer_idx=scaled
    )
    write_checkpoint(folder, config, fresh_tensors(config, 0), "hf")


def plain_steps(folder, tokens, autocast, dora):
    """A closure that makes one step of the loop in the guide."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2LMHeadModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=DROPOUT,
        target_modules=list(TARGETS),
        fan_in_fan_out=True,
        use_dora=dora,
    )
    model = get_peft_model(GPT2LMHeadModel.from_pretrained(folder), settings).to(device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.01)
    ids = torch.from_numpy(tokens).long().to(device)

    def step() -> float:
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return float(loss)

    return step


def our_steps(folder, tokens, dtype, dora):
    from musiclora.backends import lora_init
    from musiclora.backends.base import FAMILIES, OptimSpec
    from musiclora.backends.registry import get_backend
    from musiclora.convert.adapters.lora import LoraSpec

    model = get_backend("torch").load(FAMILIES["symbolic"], folder, dtype=dtype)
    spec = LoraSpec(RANK, ALPHA, DROPOUT, TARGETS, dora=dora)
    state = lora_init.initial(spec, model.linear_shapes(), 0)
    if dora:
        state = lora_init.with_magnitudes(state, model.read_weights(), conv1d=True)
    model.inject_adapter(spec, state)
    training = model.start_training(OptimSpec())
    scored = np.ones(tokens.shape, bool)
    scored[:, 0] = False
    batch = {"tokens": tokens, "loss_mask": scored}

    def step() -> float:
        result = training.step([batch], RATE)
        return result.loss / result.weight

    return step


def measure(
    contender: str, folder: str, vocabulary: int, batch: int, steps: int, cpu_time: int, dora: int
) -> dict[str, float]:
    """What one process measures; the first step is not timed."""
    import torch
    import transformers

    clock = time.process_time if cpu_time else time.perf_counter
    if cpu_time:
        torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    transformers.set_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tokens = np.random.default_rng(0).integers(0, vocabulary, (batch, LENGTH), dtype=np.int32)
    kind, _, dtype = contender.partition("-")
    make = our_steps if kind == "ours" else plain_steps
    step = make(folder, tokens, dtype if kind == "ours" else bool(dtype), bool(dora))
    loss = step()
    times = []
    for _ in range(steps):
        start = clock()
        step()
        times.append(clock() - start)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    return {"tokens_per_second": batch * LENGTH / statistics.median(times), "peak_bytes": peak, "first_loss": loss}


def run(settings: list[str]) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(
    folder: str, case: tuple[int, int], contenders: list[str], repeats: int, steps: int, flags: list[str]
) -> list[dict]:
    vocabulary, batch = case
    runs = {name: [] for name in contenders}
    for _ in range(repeats):
        for name in contenders:
            runs[name].append(run([name, folder, str(vocabulary), str(batch), str(steps), *flags]))
    medians = {n: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for n, rs in runs.items()}
    base = medians["plain"]
    rows = []
    for name, found in medians.items():
        ratios = {f"{k}_ratio": found[f"{k}"] / base[f"{k}"] for k in ("tokens_per_second", "peak_bytes")}
        rows.append({"vocabulary": vocabulary, "batch": batch, "contender": name, "flags": flags, **found, **ratios})
    return rows


def show(row: dict) -> None:
    print(
        f"| {row['vocabulary']:>6} | {row['batch']} | {row['contender']:<14} | {row['tokens_per_second']:>7.0f} "
        f"| {row['tokens_per_second_ratio']:.2f} | {row['peak_bytes'] / 1e9:.2f} | {row['peak_bytes_ratio']:.2f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat, one timed step")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--cpu-time", action="store_true", help="one thread each, and count its seconds only")
    parser.add_argument("--use-dora", action="store_true", help="train DoRA in place of LoRA")
    parser.add_argument("--preset", choices=PRESETS, default="default", help="size of the model")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="names, separated by commas; plain is one")
    parser.add_argument("--only", help="VOCABULARY,BATCH of one case")
    parser.add_argument("--measure", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        contender, folder, *numbers = options.measure
        print(json.dumps(measure(contender, folder, *map(int, numbers))))
        return
    shape, cases = PRESETS[options.preset]
    if options.only:
        cases = [tuple(int(n) for n in options.only.split(","))]
    flags = [str(int(options.cpu_time)), str(int(options.use_dora))]  # of `measure`
    print("| tokens | batch | contender | tokens/s | x plain | peak GB | x plain |\n|---|---|---|---|---|---|---|")
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for vocabulary in sorted({v for v, _ in cases}):
            write_model(Path(root) / str(vocabulary), vocabulary, shape)
        for case in cases:
            folder, contenders = str(Path(root) / str(case[0])), options.contenders.split(",")
            found = compare(folder, case, contenders, *((1, 1) if options.quick else (3, 3)), flags)
            for row in found:
                show(row)
            rows += found
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
