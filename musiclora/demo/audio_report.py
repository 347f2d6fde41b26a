"""The audio demo's report: one HTML file with pictures and sound, which needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from musiclora.convert.files.atomic import atomic_write
from musiclora.demo.renders import read_wave
from musiclora.evaluation.audio_features import ANALYSIS_RATE, log_mel, resample_mono, stft_magnitudes
from musiclora.reporting.figure import figure_png
from musiclora.reporting.inline_audio import small_waves
from musiclora.reporting.loss_plot import loss_figure
from musiclora.reporting.style import PAGE_SCRIPT, PAGE_STYLE
from musiclora.training.run_folder import Run

if TYPE_CHECKING:
    from musiclora.demo.audio_result import AudioDemoOptions, AudioDemoResult

SHOWN = 4  # pairs that can be heard in the page
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_audio_report(
    result: AudioDemoResult, o: AudioDemoOptions, commands: Sequence[str], notes: Sequence[str]
) -> None:
    """Write `report.html` into the demo's folder; it appears whole or not at all."""
    title = "A reed on a model of other instruments"
    parts = [
        _verdict(result),
        _table(result),
        _training(result),
        _listen(result),
        _settings(result, o),
        _section("Go on", "".join(map(_command, commands))),
        _section("Notes", "".join(f"<p>{escape(note)}</p>" for note in (_honest(), *notes))),
    ]
    atomic_write(
        result.folder / "report.html",
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>{PAGE_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="soft">The bundled audio model adapted to rendered Han melodies, on {escape(result.training.backend)}</p>
{"".join(parts)}
</main>
<script>{PAGE_SCRIPT}</script>
</body>
</html>
""",
    )


def mel_picture(paths: Sequence[tuple[str, Path]]) -> bytes:
    """PNG of log-mel spectrograms side by side, on one scale of 70 dB below the loudest of each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(paths), 3.0), layout="constrained")
    axes = figure.subplots(1, len(paths), squeeze=False)[0]
    for axis, (name, path) in zip(axes, paths, strict=True):
        audio, rate = read_wave(path)
        mel = log_mel(stft_magnitudes(resample_mono(np.ascontiguousarray(audio.T), rate)) ** 2)
        extent = (0.0, len(audio) / rate, 0.0, float(len(mel)))
        axis.imshow(
            mel, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=mel.max() - 70, vmax=mel.max()
        )
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("seconds", fontsize=9)
        axis.set_ylabel(f"mel band, up to {ANALYSIS_RATE // 2000} kHz", fontsize=9)
    return figure_png(figure, dpi=110)


def _verdict(result: AudioDemoResult) -> str:
    shares = [share.value for share in result.nearer]
    words = (
        f"Audio Feature Distance {result.base.afd.value:.3g} by the base, {result.adapted.afd.value:.3g} adapted; "
        f"Spectral Distance {result.base.spectral.value:.0f} and {result.adapted.spectral.value:.0f} dB²."
    )
    if min(shares) > 0:
        style, headline = "gained", "The adapted music is nearer to the recordings by both distances"
    elif max(shares) > 0:
        style, headline = "flat", "Nearer by one distance, not by the other"
    else:
        style, headline = "lost", "Not nearer than the base"
    return f'<p class="verdict {style}" role="status"><strong>{headline}</strong>{escape(words)}</p>'


def _table(result: AudioDemoResult) -> str:
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("", "base", "adapted", "nearer by (95 %)", "real against real")
    )
    rows = ""
    for name, key, share, form in (
        ("Audio Feature Distance", "afd", result.nearer[0], ".3g"),
        ("Spectral Distance, dB²", "spectral", result.nearer[1], ".1f"),
    ):
        base, adapted = getattr(result.base, key), getattr(result.adapted, key)
        real = getattr(result.base, f"real_{key}")
        rows += (
            f'<tr><th scope="row">{name}</th><td>{base.value:{form}}</td><td>{adapted.value:{form}}</td>'
            f"<td>{share.value:.0%} ({share.low:.0%} to {share.high:.0%})</td><td>{real.value:{form}}</td></tr>"
        )
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    words = (
        f"{result.base.generated} clips by each model against {result.base.reference} clips of tunes that nothing was "
        "trained or chosen by. Smaller is nearer; real against real, the distance between halves of the recordings "
        "themselves, is what cannot be beaten."
    )
    return _section("Distance to recordings it has not heard", f"{table}<p class='soft'>{words}</p>")


def _training(result: AudioDemoResult) -> str:
    metrics = Run(result.training.run_dir).read_metrics()
    if not metrics:
        return ""
    figure = loss_figure(metrics, "squared error a latent value")
    image = _image(figure_png(figure), "Loss by optimiser step, on training and on held-out recordings")
    return _section("Training", f"<figure>{image}</figure>")


def _listen(result: AudioDemoResult) -> str:
    pairs = result.pairs[:SHOWN]
    paths = [path for pair in pairs for path in pair] + result.held_out[:SHOWN]
    sounds = dict(zip(paths, small_waves(paths), strict=True))
    parts = ["<p>Each pair comes from the same noise: what differs is the adapter.</p>"]
    for number, (base, adapted) in enumerate(pairs, 1):
        image = _image(mel_picture([("base", base), ("adapted", adapted)]), f"Spectrograms of clip {number}")
        players = "".join(
            f"<figure><h4>{name}</h4>{_player(sounds[path], f'{name}, clip {number}')}</figure>"
            for name, path in (("base", base), ("adapted", adapted))
        )
        parts.append(f'<h3>Clip {number}</h3>{image}<div class="pair">{players}</div>')
    real = "".join(
        f"<figure><h4>{escape(path.stem)}</h4>{_player(sounds[path], path.stem)}</figure>"
        for path in result.held_out[:SHOWN]
    )
    parts.append(f'<h3>Recordings compared with</h3><div class="pair">{real}</div>')
    return _section("Listen and look", "".join(parts))


def _settings(result: AudioDemoResult, o: AudioDemoOptions) -> str:
    values: Mapping[str, Any] = {
        "steps": result.training.progress.step,
        "rows in a step": o.rows,
        "rank": o.rank,
        "alpha": o.alpha,
        "dropout": o.dropout,
        "learning rate": o.lr,
        "clips by each model": o.pieces,
        "points of time": o.grid,
        "guidance": o.guidance,
        "seed": o.seed,
    }
    rows = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in values.items())
    return _section("Settings", f'<div class="scroll"><table class="text"><tbody>{rows}</tbody></table></div>')


def _honest() -> str:
    return (
        "The bundled audio model is a demonstration of three and a half million parameters, trained for minutes: what "
        "it makes has the timbre and the pulse of its recordings, not their music."
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>\n"


def _command(text: str) -> str:
    return (
        f'<div class="command"><code>{escape(text)}</code>'
        '<button type="button" aria-label="Copy this command">Copy</button></div>'
    )


def _image(png: bytes, alt: str) -> str:
    return f'<img src="{_uri("image/png", png)}" alt="{escape(alt, quote=True)}">'


def _player(sound: bytes, label: str) -> str:
    name = escape(label, quote=True)
    return f'<audio controls preload="metadata" aria-label="{name}" src="{_uri("audio/wav", sound)}"></audio>'


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
