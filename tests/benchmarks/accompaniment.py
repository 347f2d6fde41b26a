"""Our accompaniment on torch against a loop that computes the whole context anew for each token: seconds a token.

    python tests/benchmarks/accompaniment.py [--quick] [--json FILE] [--cpu-time]

The model is the smallest Anticipatory Music Transformer in shape (768 wide, 12 layers, 12 heads, 1,024 positions and
55,028 tokens, 128 M parameters) with random weights, to which later times are less probable. A melody of two notes a
second is given. `ours` draws events in blocks on one session and takes back what follows a due control. `anew` is what
the original code does: transformers' GPT-2 computes the logits of the whole context, of which the last are used, for
each token; it is timed on a few of the contexts that ours has passed, evenly spaced. Both compute in float32 on the
same device, in turns in one process; `--cpu-time` gives one thread and counts the process's own seconds, for a machine
in use.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

WIDTH, LAYERS, HEADS, POSITIONS, VOCABULARY = 768, 12, 12, 1024, 55_028


def write_model(folder: Path) -> None:
    from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint

    config = Gpt2Config(
        VOCABULARY,
        n_positions=POSITIONS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=4 * WIDTH,
        scale_attn_by_inverse_layer_idx=True,
    )
    tensors = dict(fresh_tensors(config, 0))
    head, norm = (next(name for name in tensors if name.endswith(end)) for end in ("wte.weight", "ln_f.weight"))
    bias = norm.replace("weight", "bias")
    for name in (head, norm, bias):
        tensors[name] = np.array(tensors[name])
    tensors[head][:, 0] = 0
    tensors[head][:10_000, 0] = -0.05 * np.arange(10_000)
    tensors[norm][0], tensors[bias][0] = 0, 1
    write_checkpoint(folder, config, tensors, "hf")


def melody() -> np.ndarray:
    """Notes of a flute, two a second, for 100 s: step, id of the duration, id of the note, int64 [200, 3]."""
    rng = np.random.default_rng(0)
    steps = 50 * np.arange(200)
    return np.stack([steps, np.full(200, 10_045), 11_000 + 128 * 73 + rng.integers(60, 84, 200)], axis=1)


def our_accompaniment(folder: Path, events: int):
    """A function that draws so many events and returns the piece."""
    from musiclora.backends.base import FAMILIES, SamplingSpec
    from musiclora.backends.registry import get_backend
    from musiclora.symbolic.decoding.arrival.context import ArrivalPiece, Given
    from musiclora.symbolic.decoding.arrival.draw import UniformDraws, draw_events
    from musiclora.symbolic.decoding.arrival.grammar import ArrivalGrammar

    model = get_backend("torch").load(FAMILIES["symbolic"], folder)
    given = Given(np.zeros((0, 3), np.int64), melody(), 0, None, events)

    def accompany() -> ArrivalPiece:
        piece = ArrivalPiece(0, given)
        draw_events(model, [piece], SamplingSpec(top_p=0.98), UniformDraws(0), ArrivalGrammar(VOCABULARY))
        return piece

    return accompany


def computed_anew(folder: Path):
    """A function that draws one token from a context as the original does."""
    import torch
    from transformers import GPT2LMHeadModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPT2LMHeadModel.from_pretrained(folder).to(device).eval()

    def draw(context: list[int]) -> int:
        with torch.inference_mode():
            logits = model(torch.tensor([context], device=device)).logits[0, -1]
            ordered, ids = torch.sort(logits, descending=True)
            mass = torch.softmax(ordered, -1)
            kept = mass.cumsum(-1) - mass <= 0.98
            return int(ids[torch.multinomial(mass * kept, 1)])

    return draw


def context_of(piece, count: int) -> list[int]:
    """The first tokens of a piece as the model saw them."""
    tokens = [piece.flag]
    for step, duration, note in piece.shown:
        tokens += [step - piece.shown[0][0] + (27_513 if note > 27_512 else 0), duration, note]
    return tokens[:count]


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn instead of three")
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, and count its seconds only")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    if options.cpu_time:
        torch.set_num_threads(1)
    events, turns = 220, 1 if options.quick else 3
    with tempfile.TemporaryDirectory() as root:
        write_model(Path(root) / "model")
        accompany, draw = our_accompaniment(Path(root) / "model", events), computed_anew(Path(root) / "model")
        draw([0] * 16)
        ours, anew = [], []
        for _ in range(turns):
            start = clock()
            piece = accompany()
            ours.append((clock() - start) / (3 * len(piece.drawn)))
            longest = len(context_of(piece, POSITIONS))
            for share in (0.1, 0.3, 0.5, 0.7, 0.9):
                context = context_of(piece, max(4, int(share * longest)))
                start = clock()
                draw(context)
                anew.append(clock() - start)
    found = {
        "events": len(piece.drawn),
        "controls": sum(note > 27_512 for _, _, note in piece.shown),
        "longest_context": longest,
        "ours_seconds_a_token": statistics.median(ours),
        "anew_seconds_a_token": statistics.mean(anew),
    }
    found["ratio"] = found["anew_seconds_a_token"] / found["ours_seconds_a_token"]
    print("| contender | ms a token | times ours |\n|---|---|---|")
    print(f"| ours | {1e3 * found['ours_seconds_a_token']:.0f} | 1 |")
    print(f"| anew | {1e3 * found['anew_seconds_a_token']:.0f} | {found['ratio']:.1f} |")
    print(f"{found['events']} events drawn around {found['controls']} given ones, contexts up to {longest} tokens")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
