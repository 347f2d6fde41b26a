"""Our torch generation against `generate()` on the PEFT model: tokens per second at batch 1 and 8.

    python tests/benchmarks/torch_generation.py [--quick] [--json FILE] [--cpu-time]

The model is a 512-wide, 6-layer, 8-head GPT-2 with 1024 positions and 292 tokens, and a LoRA adapter of rank 16 on
c_attn, c_proj and c_fc; 256 new tokens after a prompt of 16, temperature 0.9, top-k 50, top-p 0.95. `peft` is
`PeftModel.generate`, `merged` the same after `merge_and_unload`. Every measurement is a process of its own and the
contenders take turns; `--cpu-time` gives one thread to each and counts its own seconds only, for a machine in use.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

CONTENDERS = ("peft", "merged", "ours")
PROMPT, VOCABULARY = 16, 292
TARGETS = ("c_attn", "c_proj", "c_fc")


def write_model(folder: Path) -> None:
    from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint

    config = Gpt2Config(VOCABULARY, n_positions=1024, n_embd=512, n_layer=6, n_head=8, n_inner=2048)
    write_checkpoint(folder, config, fresh_tensors(config, 0), "hf")


def peft_generation(folder, prompts, merged):
    """A closure that generates so many tokens with transformers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2LMHeadModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = LoraConfig(r=16, lora_alpha=32, target_modules=list(TARGETS), fan_in_fan_out=True)
    model = get_peft_model(GPT2LMHeadModel.from_pretrained(folder), settings).to(device).eval()
    if merged:
        model = model.merge_and_unload()
    ids = torch.from_numpy(prompts).long().to(device)
    sampling = {"do_sample": True, "temperature": 0.9, "top_k": 50, "top_p": 0.95}

    def generate(count: int) -> int:
        with torch.inference_mode():
            found = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                pad_token_id=0,
                **sampling,
            )
        return int(found.shape[1]) - PROMPT

    return generate


def our_generation(folder, prompts):
    from musiclora.backends import lora_init
    from musiclora.backends.base import FAMILIES, SamplingSpec
    from musiclora.backends.registry import get_backend
    from musiclora.sampling import uniforms

    family = FAMILIES["symbolic"]
    model = get_backend("torch").load(family, folder)
    model.inject_adapter(family.lora, lora_init.initial(family.lora, model.linear_shapes(), 0))

    def generate(count: int) -> int:
        draws = uniforms(0, count, len(prompts))
        return int(model.generate(prompts, SamplingSpec(0.9, 50, 0.95), draws).shape[1])

    return generate


def measure(contender: str, folder: str, batch: int, tokens: int, cpu_time: int) -> float:
    """Tokens per second over the whole batch, the best of two calls after a short one."""
    import torch
    import transformers

    clock = time.process_time if cpu_time else time.perf_counter
    if cpu_time:
        torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    prompts = np.random.default_rng(0).integers(0, VOCABULARY, (batch, PROMPT), dtype=np.int32)
    generate = our_generation(folder, prompts) if contender == "ours" else None
    generate = generate or peft_generation(folder, prompts, contender == "merged")
    generate(8)
    speeds = []
    for _ in range(2):
        start = clock()
        count = generate(tokens)
        speeds.append(batch * count / (clock() - start))
    return max(speeds)


def run(settings: list[str]) -> float:
    command = [sys.executable, __file__, "--measure", *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat, 64 tokens")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--cpu-time", action="store_true", help="one thread each, and count its seconds only")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        contender, folder, *numbers = options.measure
        print(measure(contender, folder, *map(int, numbers)))
        return
    repeats, tokens = (1, 64) if options.quick else (3, 256)
    rows = []
    with tempfile.TemporaryDirectory() as root:
        write_model(Path(root) / "model")
        runs: dict[tuple[int, str], list[float]] = {(b, c): [] for b in (1, 8) for c in CONTENDERS}
        for _ in range(repeats):
            for (batch, name), speeds in runs.items():
                settings = [str(batch), str(tokens), str(int(options.cpu_time))]
                speeds.append(run([name, str(Path(root) / "model"), *settings]))
        print("| batch | contender | tokens/s | x peft |\n|---|---|---|---|")
        for (batch, name), speeds in runs.items():
            speed, base = statistics.median(speeds), statistics.median(runs[batch, "peft"])
            print(f"| {batch} | {name:<6} | {speed:>6.0f} | {speed / base:.2f} |")
            rows.append({"batch": batch, "contender": name, "tokens_per_second": speed, "ratio": speed / base})
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
