"""Report of the audio demo: one HTML file with pictures and sound that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from musiclora.demo.audio_result import AudioDemoOptions, AudioDemoResult
from musiclora.evaluation.artefacts.compare import BASELINE, GENERATED, REFERENCE
from musiclora.evaluation.artefacts.section import artefact_section
from musiclora.evaluation.audio_features import ANALYSIS_RATE, log_mel, resample_mono, stft_magnitudes
from musiclora.music.wav import read_wav
from musiclora.reporting.figure import figure_png
from musiclora.reporting.html import (
    audio_player,
    command_boxes,
    figure_box,
    image_tag,
    number_table,
    paragraphs,
    section,
    side_by_side,
    soft_paragraph,
    text_table,
    verdict_box,
    write_page,
)
from musiclora.reporting.inline_audio import small_waves
from musiclora.reporting.run_sections import loss_section
from musiclora.training.run_folder import Run

_MOST_SIMILAR = 3  # clips whose copy figures are listed
_MOST_PAIRS = 4  # that can be heard in the page
_MEL_RANGE_DB = 70  # of the spectrograms' colours, below the loudest value
_SET_NAMES = {REFERENCE: "recordings", BASELINE: "base", GENERATED: "adapted"}
_DISCLAIMER = (
    "The bundled audio model is a demonstration of three and a half million parameters, trained for minutes: what "
    "it makes has the timbre and the pulse of its recordings, not their music."
)


def write_audio_report(
    result: AudioDemoResult, options: AudioDemoOptions, commands: Sequence[str], notes: Sequence[str]
) -> None:
    """Write `report.html` into the demo's folder; it appears whole or not at all."""
    parts = [
        verdict_box(*_verdict_words(result)),
        _style_section(result),
        _copy_section(result),
        loss_section(Run(result.training.run_dir).read_metrics(), "squared error a latent value", "recordings"),
        _music_section(result),
        section("Settings", text_table(_settings_of(result, options))),
        section("Go on", command_boxes(commands)),
        section("Notes", paragraphs([_DISCLAIMER, *notes])),
    ]
    subtitle = f"The bundled audio model adapted to rendered Han melodies, on {result.training.backend}"
    write_page(result.report, "A steel-string guitar on a model of other instruments", subtitle, parts)


def mel_picture(paths: Sequence[tuple[str, Path]]) -> bytes:
    """Draw log-mel spectrograms side by side as PNG, each down to 70 dB below its loudest value."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(paths), 3.0), layout="constrained")
    axes = figure.subplots(1, len(paths), squeeze=False)[0]
    for axis, (name, path) in zip(axes, paths, strict=True):
        audio, rate = read_wav(path)
        mel = log_mel(stft_magnitudes(resample_mono(np.ascontiguousarray(audio.T), rate)) ** 2)
        extent = (0.0, len(audio) / rate, 0.0, float(len(mel)))
        loudest = mel.max()
        axis.imshow(
            mel,
            origin="lower",
            aspect="auto",
            extent=extent,
            cmap="magma",
            vmin=loudest - _MEL_RANGE_DB,
            vmax=loudest,
        )
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("seconds", fontsize=9)
        axis.set_ylabel(f"mel band, up to {ANALYSIS_RATE // 2000} kHz", fontsize=9)
    return figure_png(figure, dpi=110)


def _verdict_words(result: AudioDemoResult) -> tuple[str, str, str]:
    """Return style, headline and explanation of what the adapter achieved."""
    words = (
        f"Audio Feature Distance {result.base.afd.value:.3g} by the base, {result.adapted.afd.value:.3g} adapted; "
        f"Spectral Distance {result.base.spectral.value:.0f} and {result.adapted.spectral.value:.0f} dB²."
    )
    style, headline = result.verdict()
    return style, headline[0].upper() + headline[1:], words


def _style_section(result: AudioDemoResult) -> str:
    """Return the distances to the recordings, and the artefacts beside the recordings' own."""
    content = _distance_table(result)
    if result.artefacts:
        content += artefact_section(result.artefacts, _SET_NAMES)
    return section("Style card", content)


def _copy_section(result: AudioDemoResult) -> str:
    """Return what the adapted clips copy of the recordings that were trained on, the most similar clips first."""
    if not result.copies:
        return ""
    words = {name: found.line() for name, found in result.copies.ranked()[:_MOST_SIMILAR]}
    if result.training.copies:
        words["samples of the training run, as latents"] = result.training.copies.line()
    return section("Does it copy?", paragraphs([f"{result.copies.summary()}."]) + text_table(words))


def _distance_table(result: AudioDemoResult) -> str:
    rows = [
        (
            r.name,
            [
                f"{r.base.value:{r.form}}",
                f"{r.adapted.value:{r.form}}",
                f"{r.nearer.value:.0%} ({r.nearer.low:.0%} to {r.nearer.high:.0%})",
                f"{r.real.value:{r.form}}",
            ],
        )
        for r in result.distance_rows()
    ]
    rows += _kernel_row(result)
    table = number_table(("", "base", "adapted", "nearer by (95 %)", "real against real"), rows)
    words = (
        f"Distance to recordings it has not heard: {result.base.generated} clips by each model against "
        f"{result.base.reference} clips of tunes that nothing was "
        "trained or chosen by. Smaller is nearer; real against real, the distance between halves of the recordings "
        "themselves, is what cannot be beaten."
    )
    return table + soft_paragraph(words)


def _kernel_row(result: AudioDemoResult) -> list[tuple[str, list[str]]]:
    """Return the row of the kernel distance; empty where it was not measured."""
    if not result.kernels:
        return []
    base, adapted = result.kernels
    if not (base.mmd and adapted.mmd):
        return []
    nearer, real = adapted.reduction, adapted.real
    cells = [
        f"{base.mmd.value:.3f}",
        f"{adapted.mmd.value:.3f}",
        f"{nearer.value:.0%} ({nearer.low:.0%} to {nearer.high:.0%})" if nearer else "–",
        f"{real.value:.3f}" if real else "–",
    ]
    return [(adapted.title, cells)]


def _music_section(result: AudioDemoResult) -> str:
    pairs, real = result.pairs[:_MOST_PAIRS], result.held_out[:_MOST_PAIRS]
    paths = [path for pair in pairs for path in pair] + real
    sounds = dict(zip(paths, small_waves(paths), strict=True))
    parts = paragraphs(["Each pair comes from the same noise: what differs is the adapter."])
    for number, (base, adapted) in enumerate(pairs, 1):
        named = [("base", base), ("adapted", adapted)]
        image = image_tag(mel_picture(named), f"Spectrograms of clip {number}")
        figures = [figure_box(audio_player(sounds[path], f"{name}, clip {number}"), name) for name, path in named]
        parts += side_by_side(f"Clip {number}", figures, image)
    figures = [figure_box(audio_player(sounds[path], path.stem), path.stem) for path in real]
    return section("Listen and look", parts + side_by_side("Recordings compared with", figures))


def _settings_of(result: AudioDemoResult, options: AudioDemoOptions) -> Mapping[str, object]:
    return {
        "steps": result.training.progress.step,
        "rows in a step": options.rows,
        "rank": options.rank,
        "alpha": options.alpha,
        "dropout": options.dropout,
        "learning rate": options.lr,
        "clips by each model": options.pieces,
        "points of time": options.grid,
        "guidance": "the model's own" if options.guidance is None else options.guidance,
        "level of the pieces": f"{options.loudness:g} dB of full scale, root mean square",
        "soundfont": result.soundfont.name,
        "seed": options.seed,
    }
