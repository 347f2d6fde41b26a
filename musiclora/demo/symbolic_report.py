"""The report of a run: one HTML file that needs nothing else, no network and no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from musiclora.convert.files.atomic import atomic_write
from musiclora.evaluation.scores import Gain, Score
from musiclora.reporting.figure import figure_png
from musiclora.reporting.html import _image, _section, _text_table, _uri
from musiclora.reporting.inline_audio import small_waves
from musiclora.reporting.loss_plot import loss_figure
from musiclora.reporting.piano_roll import Limits, Roll, pianoroll_figure, roll_of, shared_limits
from musiclora.reporting.style import PAGE_SCRIPT, PAGE_STYLE
from musiclora.symbolic.reading.health import HealthRow, health_line

_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


@dataclass(frozen=True)
class ReportSample:
    """One piece from one seed by both models.

    Attributes:
        title: what to call it, such as `seed 7`.
        base, adapted: symusic Scores in ticks.
        base_wav, adapted_wav: sound, or None where nothing could play it.
    """

    title: str
    base: Any
    adapted: Any
    base_wav: Path | None = None
    adapted_wav: Path | None = None


@dataclass(frozen=True)
class ReportData:
    """What a report tells; parts that are empty are left out.

    Attributes:
        title: heading.
        subtitle: a line below it: what was adapted to what.
        before, after: scores of the base and of the adapted model on songs that were not trained on.
        gain: their difference in bits a note, with its spread.
        metrics: lines of metrics.jsonl.
        update: ||dW|| / ||W|| by module.
        samples: music of both models.
        copying: what the copy meter found, words by name.
        health: what became of the files.
        settings: values by name, in order.
        commands: what to run next.
        notes: remarks, such as terms of the music and losses on the other backend.
    """

    title: str
    subtitle: str = ""
    before: Score | None = None
    after: Score | None = None
    gain: Gain | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    update: Mapping[str, float] = field(default_factory=dict)
    samples: Sequence[ReportSample] = ()
    copying: Mapping[str, str] = field(default_factory=dict)
    health: Sequence[HealthRow] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()
    notes: Sequence[str] = ()


def write_symbolic_report(path: Path, data: ReportData) -> None:
    """Write the report as one HTML file that appears whole or not at all.

    Args:
        path: the .html file.
        data: what to tell; every text is escaped.
    """
    parts = [
        _verdict(data),
        _facts(data),
        _scores(data),
        _loss(data),
        _listen(data),
        _copying(data),
        _update(data),
        _health(data),
        _settings(data),
        _commands(data),
        _notes(data),
    ]
    policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(data.title)}</title>
<style>{PAGE_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(data.title)}</h1>
<p class="soft">{escape(data.subtitle)}</p>
{"".join(parts)}
</main>
<script>{PAGE_SCRIPT}</script>
</body>
</html>
"""
    atomic_write(path, page)


def verdict_words(data: ReportData) -> tuple[str, str, str]:
    """Style, headline and explanation of what the adapter achieved."""
    if data.before is None or data.after is None:
        return (
            "flat",
            "No songs were held out",
            "Whether the adapter predicts new songs of the style better is not known.",
        )
    before, after = data.before.bits_per_note, data.after.bits_per_note
    numbers = f"New songs of the style cost {before:.2f} bits a note before and {after:.2f} after."
    verdict = data.gain.verdict if data.gain else "gained" if before - after > 0.05 else "nothing gained"
    if data.gain:
        g = data.gain
        numbers += f" The gain is {g.mean:.2f} bits a note (95 % over {g.songs} songs: {g.low:.2f} to {g.high:.2f})."
    if verdict == "gained":
        return "gained", "The adapter learnt the style", numbers
    if verdict == "lost":
        return "lost", "Worse than the base", f"{numbers} Train for fewer steps, or lower the learning rate."
    return "flat", "Nothing gained: the base already knows this style", numbers


def _verdict(data: ReportData) -> str:
    style, headline, words = verdict_words(data)
    return f'<p class="verdict {style}" role="status"><strong>{headline}</strong>{escape(words)}</p>'


def _facts(data: ReportData) -> str:
    facts = []
    if data.before and data.after:
        b, a = data.before, data.after
        facts.append(
            ("bits a note", f"{b.bits_per_note:.2f} → {a.bits_per_note:.2f}", f"over {a.notes:,} held-out notes")
        )
        facts.append(("perplexity", f"{b.perplexity:.2f} → {a.perplexity:.2f}", "how many tokens it hesitates between"))
    if data.update:
        mean = sum(data.update.values()) / len(data.update)
        facts.append(("size of the update", f"{mean:.2%}", "of the weights it is added to, on average"))
    steps = [row["step"] for row in data.metrics if row.get("loss") is not None]
    if steps:
        seconds = [row["seconds"] for row in data.metrics if row.get("seconds") is not None]
        facts.append(("training", f"{max(steps)} steps", f"in {max(seconds):,.0f} s" if seconds else ""))
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>"
        for name, value, more in facts
    )
    return f'<dl class="facts">{cells}</dl>' if facts else ""


def _scores(data: ReportData) -> str:
    if not (data.before and data.after):
        return ""
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{s.loss:.4f}</td><td>{s.perplexity:.3f}</td>'
        f"<td>{s.bits_per_note:.3f}</td></tr>"
        for name, s in (("base", data.before), ("with the adapter", data.after))
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", "loss, nats a token", "perplexity", "bits a note"))
    words = f"{data.after.tokens:,} tokens and {data.after.notes:,} notes of songs that the adapter was not trained on."
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return _section("Songs it has not seen", f"{table}<p class='soft'>{words} Lower is better.</p>")


def _loss(data: ReportData) -> str:
    if not data.metrics:
        return ""
    image = _image(figure_png(loss_figure(data.metrics)), "Loss by optimiser step, on training and on held-out songs")
    return _section(
        "Training",
        f"<figure>{image}<figcaption>Dashed: the base alone. Circle: the step that was kept.</figcaption></figure>",
    )


def _listen(data: ReportData) -> str:
    if not data.samples:
        return ""
    paths = [wav for s in data.samples for wav in (s.base_wav, s.adapted_wav) if wav is not None]
    sounds = dict(zip(paths, small_waves(paths), strict=True))
    parts = []
    for sample in data.samples:
        rolls = [roll_of(sample.base), roll_of(sample.adapted)]
        limits = shared_limits(rolls)
        made = (("base", rolls[0], sample.base_wav), ("adapted", rolls[1], sample.adapted_wav))
        figures = "".join(
            _piece(sample.title, name, roll, limits, sounds[wav] if wav else None) for name, roll, wav in made
        )
        parts.append(f'<h3>{escape(sample.title)}</h3><div class="pair">{figures}</div>')
    words = "<p>Each pair comes from the same random draws: what differs is the adapter.</p>"
    return _section("Listen and look", words + "".join(parts))


def _piece(title: str, name: str, roll: Roll, limits: Limits, sound: bytes | None) -> str:
    low, high = (_pitch_name(int(p)) for p in (roll.pitch.min(), roll.pitch.max()))
    words = f"{len(roll.start)} notes from {low} to {high}, {roll.end / 4:.0f} bars"
    figure = pianoroll_figure([("", roll)], limits, line_quarters=16.0, width=4.9)
    image = _image(figure_png(figure, dpi=130), f"Piano roll, {name}, {title}: {words}")
    player = "<p class='soft'>No sound was rendered.</p>"
    if sound is not None:
        label = escape(f"{name}, {title}", quote=True)
        player = f'<audio controls preload="metadata" aria-label="{label}" src="{_uri("audio/wav", sound)}"></audio>'
    return f"<figure><h4>{name}</h4>{image}{player}<figcaption>{words}</figcaption></figure>"


def _pitch_name(pitch: int) -> str:
    return f"{_NAMES[pitch % 12]}{pitch // 12 - 1}"


def _copying(data: ReportData) -> str:
    return _section("Does it copy?", _text_table(data.copying)) if data.copying else ""


def _update(data: ReportData) -> str:
    if not data.update:
        return ""
    largest = max(data.update.values()) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{ratio:.2%}</td>'
        f'<td class="bars"><span class="bar" style="width:{100 * ratio / largest:.0f}%"></span></td></tr>'
        for name, ratio in data.update.items()
    )
    words = "<p>||dW|| / ||W||: how far the adapter moves each matrix. Zero everywhere: nothing was learnt.</p>"
    table = f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'
    summary = f"<summary>{len(data.update)} matrices, the largest update {largest:.2%}</summary>"
    return _section("What moved", f"{words}<details>{summary}{table}</details>")


def _health(data: ReportData) -> str:
    if not data.health:
        return ""
    words = f"<p>{escape(health_line(data.health))}.</p>"
    odd = [row for row in data.health if row.status != "kept"]
    rows = "".join(
        f'<tr><th scope="row">{escape(row.file)}{f"#{row.tune}" if row.tune else ""}</th>'
        f"<td>{row.status}</td><td>{escape(row.why)}</td></tr>"
        for row in odd[:200]
    )
    more = f"<p class='soft'>and {len(odd) - 200} more</p>" if len(odd) > 200 else ""
    table = f'<div class="scroll"><table class="text"><tbody>{rows}</tbody></table></div>{more}'
    summary = f"<summary>{len(odd)} repaired or skipped</summary>"
    return _section("The music it learnt from", words + (f"<details>{summary}{table}</details>" if odd else ""))


def _settings(data: ReportData) -> str:
    return _section("Settings", _text_table(data.settings)) if data.settings else ""


def _commands(data: ReportData) -> str:
    lines = "".join(
        f'<div class="command"><code>{escape(c)}</code>'
        '<button type="button" aria-label="Copy this command">Copy</button></div>'
        for c in data.commands
    )
    return _section("Go on", lines) if lines else ""


def _notes(data: ReportData) -> str:
    return _section("Notes", "".join(f"<p>{escape(note)}</p>" for note in data.notes)) if data.notes else ""
