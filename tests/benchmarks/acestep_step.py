"""Our ACE-Step on torch against diffusers + PEFT written plainly: a training step and guided sampling.

    python tests/benchmarks/acestep_step.py [--quick] [--json FILE] [--cpu-time] [--frames 750] [--only train]

The model is 512 wide with 6 layers, 8 query and 4 key heads, a window of 128 rows, random weights; 750 latent frames
(375 rows), a condition of 300 rows, batch 1. The adapter has rank 64 on q, k, v and o of self and cross attention, and
dropout 0.1. `plain` is the loop that Side-Step and diffusers' pipeline write: PEFT's layers in diffusers' transformer,
AdamW and clipping; for sampling both passes of ACE-Step's adaptive projected guidance in one batch, the condition given
to every step, with the adapter in PEFT's layers (`plain`) or merged (`plain-merged`). For time both take turns in one
process, and the results are compared: the loss of one step without dropout, and the latents. For memory each runs in a
process of its own: the growth of the peak resident size over that with the built model (on Linux only).

On a machine that others use at the same time, `--cpu-time` gives one thread to each and counts its own seconds only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "backends"))

from acestep_flow_toys import adapter_state, flow_batch, random_tensors

from musiclora.audio.acestep.sampling import PieceConditions, Schedule, sample_latents
from musiclora.audio.flow_sampling import solve_pieces
from musiclora.backends.base import OptimSpec
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating

STACK = StackConfig(512, 1536, 8, 4, 64)
CONFIG = AceStepConfig(STACK, STACK, alternating(6))
SPEC = LoraSpec(64, 64.0, 0.1, ("q_proj", "k_proj", "v_proj", "o_proj"))
RATE, GUIDANCE, SEED = 1e-4, 7.0, 0
REPEATS = {"train": 15, "sample-8": 3, "sample-50": 1}  # timed runs after the first


class Contest:
    """Both contenders on one set of weights.

    Args:
        frames: T.
        condition: S.
    """

    def __init__(self, frames: int, condition: int) -> None:
        import acestep_diffusers as reference

        from musiclora.backends.torch.acestep import TorchAceStep

        self.reference, self.tensors = reference, random_tensors(reference.tensor_shapes(CONFIG))
        self.batch = flow_batch(CONFIG, rows=1, frames=frames, condition=condition)
        self.state = adapter_state(TorchAceStep(CONFIG, self.tensors), SPEC)

    def our_model(self) -> Any:
        from musiclora.backends.torch.acestep import TorchAceStep

        model = TorchAceStep(CONFIG, self.tensors)
        model.inject_adapter(SPEC, self.state)
        return model

    def plain_model(self, dropout: float) -> Any:
        import torch

        model, _ = self.reference.adapted(CONFIG, self.tensors, SPEC, self.state)
        for name, part in list(model.named_modules()):
            if name.endswith("lora_dropout"):
                part["default"] = torch.nn.Dropout(dropout)
        return model

    def our_step(self) -> Callable[[], float]:
        training = self.our_model().start_training(OptimSpec())
        return lambda: training.step([self.batch], RATE).loss

    def plain_step(self) -> Callable[[], float]:
        import torch

        model = self.plain_model(SPEC.dropout).train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.01)
        given = {key: torch.from_numpy(value) for key, value in self.batch.items()}

        def step() -> float:
            t = 1 - given["time"]
            mix = t[:, None, None]
            x = mix * given["noise"] + (1 - mix) * given["latents"]
            found = model(x, t, t, given["condition"], given["context"], return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(found, given["noise"] - given["latents"])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            return float(loss)

        return step

    def our_sampling(self, steps: int) -> Callable[[], np.ndarray]:
        model, schedule = self.our_model(), Schedule(steps, 1.0, GUIDANCE)
        conditions = PieceConditions(self.batch["condition"][0], self.batch["context"][0])
        return lambda: sample_latents(model, schedule, conditions, SEED, 1)[0][None]

    def plain_sampling(self, steps: int, merged: bool = False) -> Callable[[], np.ndarray]:
        import torch
        from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

        if merged:
            ours = self.our_model()
            ours.fuse()
            model = self.reference.transformer(CONFIG, dict(ours.read_weights()))
        else:
            model = self.plain_model(0.0).eval()
        condition, context = (torch.from_numpy(self.batch[key]) for key in ("condition", "context"))
        shape = self.batch["noise"].shape[1:]
        noise = torch.from_numpy(solve_pieces(lambda noise, _: noise, 0, SEED, 1, shape, lambda *_: None)[0][None])
        null = torch.from_numpy(self.tensors["null_condition_emb"]).expand_as(condition)

        @torch.no_grad()
        def run() -> np.ndarray:
            x, momentum = noise, MomentumBuffer(-0.75)
            for now in range(steps):
                t = torch.full((2,), 1 - now / steps)
                both = torch.cat([condition, null]), torch.cat([context, context])
                out = model(torch.cat([x, x]), t, t, *both, return_dict=False)[0]
                p, q = out.chunk(2)
                x = x - normalized_guidance(p, q, GUIDANCE - 1, momentum, 0.0, 2.5, True, (1,)) / steps
            return x.numpy()

        return run

    def contenders(self, task: str) -> dict[str, Callable[[], Any]]:
        if task == "train":
            return {"plain": self.plain_step(), "ours": self.our_step()}
        steps = int(task.removeprefix("sample-"))
        return {
            "plain": self.plain_sampling(steps),
            "plain-merged": self.plain_sampling(steps, merged=True),
            "ours": self.our_sampling(steps),
        }


def differences(contest: Contest, task: str, ends: dict[str, Any]) -> dict[str, float]:
    """Compare the results: relative loss without dropout, or latents against the largest of them."""
    if task == "train":
        import torch

        with torch.no_grad():
            plain = float(contest.reference.loss(contest.plain_model(0.0), contest.batch))
        return {"ours": abs(contest.our_model().loss(contest.batch).total / plain - 1)}
    largest = float(np.abs(ends["plain"]).max())
    return {name: float(np.abs(end - ends["plain"]).max()) / largest for name, end in ends.items() if name != "plain"}


def timed(contest: Contest, task: str, repeats: int, cpu_time: bool) -> dict[str, Any]:
    clock = time.process_time if cpu_time else time.perf_counter
    runs = contest.contenders(task)
    ends = {name: run() for name, run in runs.items()}  # also warms up
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "task": task,
        "seconds": medians,
        "times_as_fast": {name: value / medians["ours"] for name, value in medians.items() if name != "ours"},
        "difference": differences(contest, task, ends),
    }


def peak_bytes() -> int:
    """Read the peak resident size; getrusage's is the parent's at first."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def grown_bytes(contest: Contest, task: str, contender: str) -> int:
    """Measure how far this process grows in a run (three steps of training); the model is built before."""
    run = contest.contenders(task)[contender]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory would hide growth
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = peak_bytes()
    for _ in range(3 if task == "train" else 1):
        run()
    return peak_bytes() - before


def memory(options: argparse.Namespace, task: str) -> dict[str, int]:
    found = {}
    for contender in ("plain", "ours"):
        sizes = ["--frames", str(options.frames), "--condition", str(options.condition)]
        command = [sys.executable, __file__, "--grown", task, contender, *sizes]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[contender] = int(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat, 100 frames")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, and count its seconds only")
    parser.add_argument("--frames", type=int, default=750, help="latent frames, 25 a second")
    parser.add_argument("--condition", type=int, default=300, help="rows of the condition")
    parser.add_argument("--only", choices=REPEATS, help="one task")
    parser.add_argument("--grown", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.quick:
        options.frames, options.condition = 100, 30
    import torch

    if options.cpu_time:
        torch.set_num_threads(1)
    contest = Contest(options.frames, options.condition)
    if options.grown:
        print(grown_bytes(contest, *options.grown))
        return
    rows = []
    for task in [options.only] if options.only else REPEATS:
        row = timed(contest, task, 1 if options.quick else REPEATS[task], options.cpu_time)
        if sys.platform == "linux" and task != "sample-50":  # as much as 8 steps
            grown = memory(options, task)
            row |= {"grown_bytes": grown, "memory_ratio": grown["ours"] / max(1, grown["plain"])}
        rows.append(row)
        print(json.dumps(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
