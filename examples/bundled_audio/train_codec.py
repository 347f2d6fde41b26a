"""Make the codec of the bundled audio model: `python train_codec.py DATA OUT [--minutes 12]`.

Trained end to end for so short a time, such a small codec ends in a decoder that ignores what it is given. Here what a
latent means is fixed first: the compressed mel spectrum of 93 ms of sound in 64 principal components. The encoder, a
bank of filters whose Snakes detect energy, is fitted to it by least squares; the decoder, a bank of oscillators at
multiples of 21.5 Hz whose Snakes turn latents into amplitudes, likewise, and then trained on spectra at several
resolutions. The same command goes on after a kill. OUT/encoder.pt marks the encoder as final
(train_base.py may begin); at the end OUT/vae is the codec's folder.
"""

from __future__ import annotations

import argparse
import shutil
from itertools import pairwise
from pathlib import Path

import librosa
import numpy as np
import torch
from common import Clock, load, read_folder, save, say
from torch import Tensor, nn

from musiclora.backends.torch.oobleck import Oobleck, ResidualUnit
from musiclora.convert.models.oobleck import OobleckConfig, write_oobleck

CONFIG = OobleckConfig(channels=1, c_mults=(256,), strides=(2048,))
HOP, SIZE, WIDTH, LATENTS = CONFIG.hop, 2 * CONFIG.hop, 256, CONFIG.latent_dim
BANDS = 160  # of the mel spectrum that the latents are components of
POWER = 0.4  # its compression: amplitude to this power
FRAMES, BATCH = 24, 4  # a step hears 4 excerpts of 1.1 seconds
NOISE = 0.1  # on latents while the decoder trains, so that near latents sound alike
SCALE = -5.0  # of the posterior: softplus gives a standard deviation of 0.007
IDENTITY = 8.0  # beta of a Snake that leaves its input nearly as it is
LOUDEST = 10.0  # an oscillator's amplitude before its kernel, at its loudest
SIZES = (512, 1024, 4096)
MELS = (32, 64, 160)
RATE = 4e-4
GAINS = (0.5, 1.0)  # of the recordings that the encoder is fitted to
SAVE_EVERY = 60.0
FILTERS = [
    torch.from_numpy(librosa.filters.mel(sr=44100, n_fft=n, n_mels=m, norm=1)) for n, m in zip(SIZES, MELS, strict=True)
]


# --- what a latent means ---


def spectrum(audio: np.ndarray) -> np.ndarray:
    """Amplitudes [T, 2049] of mono audio [N], one Hann window of 4096 samples a frame, placed as the codec's."""
    padded = np.pad(audio[: len(audio) // HOP * HOP], HOP // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, SIZE)[::HOP]
    window = np.hanning(SIZE + 1)[:-1].astype(np.float32)
    return np.concatenate(
        [
            np.abs(np.fft.rfft(part * window)).astype(np.float32) / (window.sum() / 2)
            for part in np.array_split(frames, max(1, len(frames) // 500))
        ]
    )


def compressed(amplitudes: np.ndarray) -> np.ndarray:
    """Mel spectrum [T, 160] of amplitudes to a power below 1, so that quiet bands count."""
    filters = librosa.filters.mel(sr=44100, n_fft=SIZE, n_mels=BANDS, norm=None, fmax=16000)
    return np.asarray((amplitudes**2 @ filters.T) ** (POWER / 2), np.float32)


class Components:
    """Principal components of mel spectra, scaled so that the large ones are not all and the small not lost."""

    def __init__(self, spectra: np.ndarray) -> None:
        self.mean = spectra.mean(0)
        values, vectors = np.linalg.eigh(np.cov(spectra - self.mean, rowvar=False))
        values, vectors = values[::-1][:LATENTS], vectors[:, ::-1][:, :LATENTS]
        deviation = values**0.25  # of each latent: between as it is (0.5) and all alike (0)
        deviation /= np.sqrt((deviation**2).mean())
        self.matrix = (vectors * (deviation / np.sqrt(values))).astype(np.float32)

    def __call__(self, spectra: np.ndarray) -> np.ndarray:
        found: np.ndarray = (spectra - self.mean) @ self.matrix
        return found


# --- filters and oscillators ---


def tones(bins: list[list[int]], turn: float, spacing: float) -> np.ndarray:
    """Kernels [len(bins), 4096]: under a Hann window, cosines at multiples of `spacing` Hz, with fixed phases."""
    time = np.arange(SIZE) / CONFIG.sample_rate
    rng = np.random.default_rng(3)
    out = np.zeros((len(bins), SIZE), np.float32)
    for row, members in enumerate(bins):
        for k in members:
            out[row] += np.cos(2 * np.pi * (k * spacing * time + rng.random() + turn)) / np.sqrt(len(members))
    return out * np.hanning(SIZE + 1)[:-1].astype(np.float32)


def grouped(singles: int, bands: int, low: int, high: int) -> list[list[int]]:
    """Bins one by one, then the others in groups of growing width up to `high`."""
    edges = np.unique(np.round(np.geomspace(low + singles, high, bands + 1)).astype(int))
    return [[low + i] for i in range(singles)] + [list(range(a, b)) for a, b in pairwise(edges)]


FILTER_SPACING = OSCILLATOR_SPACING = CONFIG.sample_rate / HOP  # 21.5 Hz: oscillators meet from frame to frame
HEARD = grouped(48, 30, 2, 700)  # filters' bins; the single ones come at two sensitivities
PLAYED = grouped(180, 66, 2, 760)


@torch.no_grad()
def plain(module: nn.Module) -> None:
    """Make Snakes and residual units of one channel do nothing."""
    for unit in (m for m in module.modules() if isinstance(m, ResidualUnit)):
        unit.layers[3].weight.zero_()
        unit.layers[3].bias.zero_()
        unit.requires_grad_(False)
    for name, value in module.named_parameters():
        if name.endswith("beta") and value.numel() == 1:
            value.fill_(IDENTITY)


@torch.no_grad()
def build_encoder(model: Oobleck) -> None:
    """Both channels' mean through pairs of filters a quarter turn apart, each into a Snake that squares it."""
    plain(model.encoder)
    first, block, snake, _ = model.encoder.layers
    first.weight.zero_()
    first.bias.zero_()
    first.weight[:, :, 3] = 0.5
    filters = [tones(HEARD, turn, FILTER_SPACING) for turn in (0.0, 0.25)]
    filters += [f[:48] for f in filters]
    stacked = np.concatenate(filters)
    weight = block.layers[4].weight
    weight.normal_(0, 1e-4)
    weight[: len(stacked), 0] = torch.from_numpy(stacked) / (SIZE / 4)
    block.layers[4].bias.zero_()
    pairs = len(HEARD) * 2
    snake.alpha.fill_(np.log(8.0))
    snake.alpha[pairs:] = np.log(60.0)
    snake.alpha[len(HEARD) - 30 : len(HEARD)] = snake.alpha[pairs - 30 : pairs] = np.log(25.0)
    snake.beta.fill_(-np.log(4.0))


@torch.no_grad()
def build_decoder(model: Oobleck, latents: np.ndarray, amplitudes: np.ndarray) -> None:
    """Least squares from latents to the root of each oscillator's amplitude, which its Snake squares again."""
    plain(model.decoder)
    first, block, _, last = model.decoder.layers
    wanted = np.sqrt(np.stack([band(amplitudes, members) for members in PLAYED], 1))
    top = np.quantile(wanted, 0.999, axis=0) + 1e-4
    weight, offset = least_squares(latents, wanted / top, 1)
    count = len(PLAYED)
    first.weight.zero_()
    first.bias.zero_()
    first.weight[:count, :, 3] = torch.from_numpy(weight[0].T)
    first.bias[:count] = torch.from_numpy(offset)
    block.layers[0].alpha.fill_(np.log(0.1))
    block.layers[0].beta.fill_(-np.log(100 * LOUDEST))
    kernels = tones(PLAYED, 0.0, OSCILLATOR_SPACING) * (top**2 / (1 + LOUDEST))[:, None]
    block.layers[1].weight.zero_()
    block.layers[1].bias.zero_()
    block.layers[1].weight[:count, 0] = torch.from_numpy(kernels.astype(np.float32))
    last.weight.zero_()
    last.weight[:, :, 3] = 1.0


def band(amplitudes: np.ndarray, members: list[int]) -> np.ndarray:
    """Amplitude [T] round multiples of 21.5 Hz; every second bin of the spectrum is one, its neighbours are shared."""
    power = amplitudes**2
    centres = 2 * np.asarray(members)
    total = power[:, centres] + 0.5 * (power[:, centres - 1] + power[:, centres + 1])
    return np.asarray(np.sqrt(total.sum(1) / 1.5), np.float32)


def least_squares(x: np.ndarray, y: np.ndarray, taps: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights [taps, in, out] and offsets [out] of y [T, out] from x [T, in] and its neighbours in time."""
    side = taps // 2
    padded = np.pad(x, ((side, side), (0, 0)))
    wide = np.concatenate([padded[i : i + len(x)] for i in range(taps)] + [np.ones((len(x), 1), x.dtype)], 1)
    wide = wide.astype(np.float64)
    square = wide.T @ wide
    square[np.diag_indices(len(square))] += 1e-6 * np.trace(square) / len(square)
    found = np.linalg.solve(square, wide.T @ y).astype(np.float32)
    return found[:-1].reshape(taps, x.shape[1], y.shape[1]), found[-1]


# --- training ---


def excerpts(recordings: list[np.ndarray], rng: np.random.Generator) -> Tensor:
    """Excerpts [B, 2, N], loudness and side varied."""
    samples, picked = FRAMES * HOP, []
    for i in rng.integers(len(recordings), size=BATCH):
        at = int(rng.integers(recordings[i].shape[1] - samples))
        cut = recordings[i][:: int(rng.choice([1, -1])), at : at + samples]
        picked.append(cut * rng.uniform(0.5, 1.1))
    return torch.from_numpy(np.stack(picked).astype(np.float32))


def magnitudes(audio: Tensor, size: int) -> Tensor:
    """Short-time Fourier magnitudes of [rows, N]."""
    window = torch.hann_window(size)
    found = torch.stft(audio, size, size // 4, window=window, return_complex=True, normalized=True)
    return (found.real.square() + found.imag.square() + 1e-9).sqrt()


def distance(made: Tensor, wanted: Tensor) -> Tensor:
    """Difference of log magnitudes and of log-mel spectra at several resolutions, both channels mixed."""
    a, b = made.mean(1), wanted.mean(1)
    total = torch.zeros(())
    for size, filters in zip(SIZES, FILTERS, strict=True):
        x, y = magnitudes(a, size), magnitudes(b, size)
        total = total + 0.2 * (x - y).norm() / y.norm() + 0.2 * (loudness(x) - loudness(y)).abs().mean()
        total = total + 0.8 * (loudness(filters @ x) - loudness(filters @ y)).abs().mean()
    return total / len(SIZES)


def loudness(magnitude: Tensor) -> Tensor:
    """Logarithm with a floor 40 dB or so below the music."""
    return (magnitude + 2e-3).log()


def measure(model: Oobleck, audio: dict[str, np.ndarray]) -> float:
    """Distance on excerpts of recordings that were not trained on."""
    samples, total = 4 * FRAMES * HOP, 0.0
    with torch.no_grad():
        for sound in audio.values():
            x = torch.from_numpy(np.ascontiguousarray(sound[None, :, 44100 : 44100 + samples]))
            total += float(distance(model.decode(model.encode(x)[0]), x))
    return total / len(audio)


def targets(audio: Tensor, components: Components) -> Tensor:
    """Latents [B, C, T] that audio [B, 2, N] should have."""
    return torch.from_numpy(np.stack([components(compressed(spectrum(x))).T for x in audio.mean(1).numpy()]))


@torch.no_grad()
def fit_encoder(model: Oobleck, recordings: list[np.ndarray], components: Components) -> None:
    """The last layer by least squares, on recordings at several loudnesses (gradient descent did not improve on it)."""
    build_encoder(model)
    last = model.encoder.layers[-1]
    parts = [torch.from_numpy(r[None, :, : 60 * 44100] * gain) for r in recordings for gain in GAINS]
    hidden = np.concatenate([model.encoder.layers[:-1](x)[0].T.numpy() for x in parts])
    wanted = np.concatenate([targets(x, components)[0].T.numpy() for x in parts])
    weight, offset = least_squares(hidden, wanted, 3)
    last.weight.zero_()
    last.weight[:LATENTS] = torch.from_numpy(weight.transpose(2, 1, 0))
    last.bias[:LATENTS] = torch.from_numpy(offset)
    last.bias[LATENTS:] = SCALE
    found = [model.encode(x)[0] - targets(x, components) for x in parts]
    say(f"encoder fitted, error {np.mean([float(x.square().mean()) for x in found]):.4f} of latents of variance 1")


def train_decoder(model: Oobleck, recordings: list[np.ndarray], data: Path, out: Path, minutes: float) -> None:
    """By spectra, from the fitted oscillators or from the checkpoint where there is one."""
    model.encoder.requires_grad_(False)
    first, block, _, _ = model.decoder.layers
    kernels = block.layers[1].weight
    trained = [first.weight, first.bias, block.layers[0].alpha, block.layers[0].beta]
    groups = [{"params": trained, "scale": 1.0}, {"params": [kernels], "scale": 0.01}]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
    step, clock = 0, Clock(minutes)
    if found := load(out / "decoder.pt"):
        model.load_state_dict(found["model"])
        optimiser.load_state_dict(found["optimiser"])
        step, clock = found["step"], Clock(minutes, found["spent"])
    held, saved, losses = read_folder(data / "held"), clock.spent, []
    say(f"decoder step {step} held-out {measure(model, held):.4f}")
    while clock.share < 1:
        x = excerpts(recordings, np.random.default_rng([1, step]))
        torch.manual_seed(step)
        with torch.no_grad():
            z = model.encode(x)[0]
        loss = distance(model.decode(z + NOISE * torch.randn_like(z)), x)
        for group in optimiser.param_groups:
            group["lr"] = group["scale"] * clock.rate(step, RATE)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*trained, kernels], 1.0)
        optimiser.step()
        step += 1
        losses.append(loss.item())
        if step % 100 == 0:
            say(f"decoder step {step} {clock.spent:.0f} s loss {np.mean(losses[-100:]):.4f}")
        if clock.spent - saved > SAVE_EVERY:
            saved = clock.spent
            save(
                out / "decoder.pt",
                {
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step,
                    "spent": clock.spent,
                },
            )
            say(f"decoder step {step} {clock.spent:.0f} s held-out {measure(model, held):.4f}")
    say(f"decoder done, {step} steps, held-out {measure(model, held):.4f}")


def main() -> None:
    """Latents, encoder, decoder, folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=12.0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, recordings = Oobleck(CONFIG), list(read_folder(options.data / "western", options.data / "eastern").values())
    say(f"{sum(p.numel() for p in model.parameters())} parameters")
    if not (options.out / "encoder.pt").is_file():
        amplitudes = np.concatenate([spectrum(sound.mean(0)) for sound in recordings])
        components = Components(compressed(amplitudes))
        fit_encoder(model, recordings, components)
        with torch.no_grad():
            latents = np.concatenate([model.encode(torch.from_numpy(r[None]))[0][0].T.numpy() for r in recordings])
        build_decoder(model, latents, amplitudes)
        save(options.out / "encoder.pt", model.state_dict())
    model.load_state_dict(load(options.out / "encoder.pt") or {})
    train_decoder(model, recordings, options.data, options.out, options.minutes)
    shutil.rmtree(options.out / "vae", ignore_errors=True)
    tensors = ((name, value.numpy()) for name, value in model.state_dict().items())
    write_oobleck(options.out / "vae", CONFIG, tensors, "hf", "float16")


if __name__ == "__main__":
    main()
