"""Train the transformer of the bundled audio model: `python train_base.py DATA CODEC OUT [--minutes 17]`.

CODEC is the folder of train_codec.py, whose encoder must be final. Flow matching on the western recordings, as in
DiffRhythm: logit-normal times, the condition zero in most rows and the surroundings of a gap in
the others, a vector of its own for every instrument, left out in a third of the rows. The same command goes on after a
kill. At the end OUT/base holds the averaged weights in float16.
"""

from __future__ import annotations

import argparse
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
from common import Clock, load, read_folder, save, say
from torch import Tensor, nn
from train_codec import CONFIG as CODEC_CONFIG

from musiclora.backends.torch.dit import DiT
from musiclora.backends.torch.oobleck import Oobleck
from musiclora.convert.models.diffrhythm import CONDITION, DiffRhythmConfig, write_diffrhythm

CONFIG = DiffRhythmConfig(dim=192, depth=5, ff_mult=2, conv_layers=0, text_num_embeds=1, max_frames=128)
BATCH, RATE, AVERAGE = 8, 1.5e-3, 0.995
NO_STYLE, GAPS = 0.35, 0.3  # shares of rows
SAVE_EVERY = 60.0


def style_of(instrument: str) -> np.ndarray:
    """A fixed unit vector for a name, float32 [512]."""
    drawn = np.random.default_rng(zlib.crc32(instrument.encode())).standard_normal(CONDITION)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def encoded(codec: Path, audio: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Latents [T, C] of every recording, kept in a file beside the codec."""
    cache = codec / f"latents-{zlib.crc32(' '.join(audio).encode()):08x}.pt"
    if kept := load(cache):
        return {name: value.numpy() for name, value in kept.items()}
    model = Oobleck(CODEC_CONFIG)
    model.load_state_dict(load(codec / "encoder.pt") or {})
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, sound in audio.items():
            pieces = torch.from_numpy(sound[None]).split(CODEC_CONFIG.hop * 512, dim=2)
            whole = [piece for piece in pieces if piece.shape[2] >= CODEC_CONFIG.hop]
            found[name] = torch.cat([model.encode(piece)[0][0] for piece in whole], 1).T.contiguous()
    save(cache, found)
    return {name: value.numpy() for name, value in found.items()}


def draw(latents: dict[str, np.ndarray], rng: np.random.Generator, rows: int) -> dict[str, Tensor]:
    """A batch: excerpts, noise, times, conditions, and which frames are scored."""
    names, frames = list(latents), CONFIG.max_frames
    out: dict[str, list[np.ndarray]] = {key: [] for key in ("latents", "cond", "valid", "style", "start")}
    for i in rng.integers(len(names), size=rows):
        whole = latents[names[i]]
        at = int(rng.integers(len(whole) - frames + 1))
        x, valid = whole[at : at + frames], np.ones(frames, bool)
        if rng.random() < GAPS:
            length = int(rng.integers(frames // 4, frames))
            gap = int(rng.integers(frames - length + 1))
            valid = (np.arange(frames) >= gap) & (np.arange(frames) < gap + length)
            cond = np.where(valid[:, None], 0, x)
        else:
            cond = np.zeros_like(x)
        style = style_of(names[i].split("/")[1]) * (rng.random() >= NO_STYLE)
        for key, value in zip(out, (x, cond, valid, style, at / len(whole)), strict=True):
            out[key].append(np.asarray(value))
    made = {key: torch.from_numpy(np.stack(values)) for key, values in out.items()}
    made["time"] = torch.from_numpy(1 / (1 + np.exp(-rng.standard_normal(rows))))
    made["noise"] = torch.from_numpy(rng.standard_normal(made["latents"].shape))
    return {key: value if key == "valid" else value.float() for key, value in made.items()}


def fresh() -> DiT:
    """Torch's initial weights, but what is added to the stream by the text, and the output, begin at zero."""
    model = DiT(CONFIG)
    for zero in (*(layer[0] for layer in model.text_fusion_linears), model.proj_out, model.norm_out.linear):
        nn.init.zeros_(zero.weight)
        nn.init.zeros_(zero.bias)
    return model


def loss_of(model: DiT, batch: dict[str, Tensor]) -> Tensor:
    """Mean squared error of the velocity over scored frames."""
    t = batch["time"][:, None, None]
    x = (1 - t) * batch["noise"] + t * batch["latents"]
    text = torch.zeros(x.shape[:2], dtype=torch.long)  # no lyrics
    made = model(x, batch["cond"], text, batch["time"], batch["style"], batch["start"])
    return (made - (batch["latents"] - batch["noise"])).square()[batch["valid"]].mean()


def held_out_loss(model: DiT, latents: dict[str, np.ndarray]) -> float:
    """Loss on recordings of tunes that were not trained on, the draws always the same."""
    with torch.no_grad():
        return float(np.mean([loss_of(model, draw(latents, np.random.default_rng([9, i]), 16)) for i in range(6)]))


def train(data: Path, codec: Path, out: Path, minutes: float) -> DiT:
    """The averaged model after so many minutes, from the checkpoint where there is one."""
    heard = encoded(codec, read_folder(data / "western", data / "more"))
    kept = {f"held/{name.split('/')[1]}" for name in heard}
    held = encoded(codec, {name: sound for name, sound in read_folder(data / "held").items() if name in kept})
    values = np.concatenate(list(heard.values()))
    say(f"{len(values)} frames, mean {values.mean():.3f}, deviation {values.std():.3f}")
    model, averaged = fresh(), fresh()
    averaged.load_state_dict(model.state_dict())
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    step, clock = 0, Clock(minutes)
    if found := load(out / "base.pt"):
        model.load_state_dict(found["model"])
        averaged.load_state_dict(found["averaged"])
        optimiser.load_state_dict(found["optimiser"])
        step, clock = found["step"], Clock(minutes, found["spent"])
    saved, losses = clock.spent, []
    while clock.share < 1:
        for group in optimiser.param_groups:
            group["lr"] = clock.rate(step, RATE)
        loss = loss_of(model, draw(heard, np.random.default_rng([1, step]), BATCH))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        share = min(AVERAGE, step / (step + 10))
        with torch.no_grad():
            for mine, theirs in zip(averaged.parameters(), model.parameters(), strict=True):
                mine.lerp_(theirs, 1 - share)
        losses.append(loss.item())
        if step % 100 == 0:
            say(f"step {step} {clock.spent:.0f} s loss {np.mean(losses[-100:]):.4f}")
        if clock.spent - saved > SAVE_EVERY or clock.share >= 1:
            saved = clock.spent
            save(
                out / "base.pt",
                {
                    "model": model.state_dict(),
                    "averaged": averaged.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step,
                    "spent": clock.spent,
                },
            )
            say(f"step {step} {clock.spent:.0f} s held-out {held_out_loss(averaged, held):.4f}")
    return averaged


def main() -> None:
    """Train, then write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("codec", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=17.0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = train(options.data, options.codec, options.out, options.minutes)
    shutil.rmtree(options.out / "base", ignore_errors=True)
    tensors = ((name, value.numpy()) for name, value in model.state_dict().items())
    write_diffrhythm(options.out / "base", CONFIG, tensors, "hf", "float16")


if __name__ == "__main__":
    main()
