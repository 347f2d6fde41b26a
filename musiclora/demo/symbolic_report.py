"""Report of the symbolic demo: one HTML file that needs no network and no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiclora.evaluation.scores import Gain, Score
from musiclora.evaluation.style.card import StyleCard
from musiclora.evaluation.style.section import style_section
from musiclora.evaluation.verdict import BaseCheck, judge_adapter
from musiclora.reporting.figure import figure_png
from musiclora.reporting.html import (
    audio_player,
    command_boxes,
    figure_box,
    folded,
    image_tag,
    number_table,
    paragraphs,
    row_table,
    section,
    sentence,
    side_by_side,
    soft_paragraph,
    table_row,
    text_table,
    verdict_box,
    write_page,
)
from musiclora.reporting.inline_audio import small_waves
from musiclora.reporting.lanes import Limits, list_instruments, shared_limits
from musiclora.reporting.piano_roll import pianoroll_figure
from musiclora.reporting.roll import Roll, roll_of
from musiclora.reporting.run_sections import fact_list, loss_section, run_facts, update_section
from musiclora.reporting.samples import HALF_PAGE, MARKED_WORDS
from musiclora.symbolic.reading.health import HealthRow, health_line

if TYPE_CHECKING:
    from symusic import Score as Music

_PITCH_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
_MOST_HEALTH_ROWS = 200  # shown in the page


@dataclass(frozen=True)
class ReportSample:
    """One piece from one seed by both models.

    Attributes:
        title: its heading, such as `seed 7`.
        base, adapted: symusic Scores in ticks.
        base_wav, adapted_wav: sound, or None where nothing could play it.
        base_copied, adapted_copied: first and last onset in quarter notes of passages that copy training songs.
    """

    title: str
    base: Music
    adapted: Music
    base_wav: Path | None = None
    adapted_wav: Path | None = None
    base_copied: Sequence[tuple[float, float]] = ()
    adapted_copied: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class ReportData:
    """Content of a report; parts that are empty are left out.

    Attributes:
        title: heading.
        subtitle: a line below it: what was adapted to what.
        before, after: scores of the base and of the adapted model on songs that were not trained on.
        gain: their difference in bits a note, with its spread.
        check: loss of the base next to a guess's, None where it is not known.
        metrics: lines of metrics.jsonl.
        steps, seconds: optimiser steps and time of the training.
        update: ||dW|| / ||W|| by module.
        samples: music of both models.
        style: how near samples of both models are to the songs; None where that was not measured.
        copying: findings of the copy meter, words by name.
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
    check: BaseCheck | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    steps: int = 0
    seconds: float = 0.0
    update: Mapping[str, float] = field(default_factory=dict)
    samples: Sequence[ReportSample] = ()
    style: StyleCard | None = None
    copying: Mapping[str, str] = field(default_factory=dict)
    health: Sequence[HealthRow] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    commands: Sequence[str] = ()
    notes: Sequence[str] = ()


def write_symbolic_report(path: Path, data: ReportData) -> None:
    """Write the report as one HTML file that appears whole or not at all.

    Args:
        path: the .html file.
        data: its content; every text is escaped.
    """
    parts = [
        verdict_box(*verdict_words(data)),
        _key_figures(data),
        _score_section(data),
        loss_section(data.metrics),
        _music_section(data),
        style_section(data.style),
        section("Does it copy?", text_table(data.copying) if data.copying else ""),
        update_section(data.update),
        _health_section(data),
        section("Settings", text_table(data.settings) if data.settings else ""),
        section("Go on", command_boxes(data.commands)),
        section("Notes", paragraphs(data.notes)),
    ]
    write_page(path, data.title, data.subtitle, parts)


def verdict_words(data: ReportData) -> tuple[str, str, str]:
    """Return style, headline and explanation of what the adapter achieved."""
    if data.before is None or data.after is None or data.gain is None:
        verdict = judge_adapter(None, None)
        return verdict.style, sentence(verdict.headline), f"{sentence(verdict.words)}."
    before, after = data.before.bits_per_note, data.after.bits_per_note
    numbers = f"New songs of the style cost {before:.2f} bits a note before and {after:.2f} after. "
    verdict = judge_adapter(data.gain, data.check)
    numbers += f"{sentence(data.gain.describe(2))}. {sentence(verdict.words)}."
    headline = "The adapter learnt the style" if verdict.style == "gained" else sentence(verdict.headline)
    return verdict.style, headline, numbers


def _key_figures(data: ReportData) -> str:
    """Return the numbers at the top of the page."""
    facts = []
    if data.before and data.after:
        b, a = data.before, data.after
        facts.append(
            ("bits a note", f"{b.bits_per_note:.2f} → {a.bits_per_note:.2f}", f"over {a.notes:,} held-out notes")
        )
        facts.append(("perplexity", f"{b.perplexity:.2f} → {a.perplexity:.2f}", "how many tokens it hesitates between"))
    return fact_list([*facts, *run_facts(data.steps, data.seconds, data.update)])


def _score_section(data: ReportData) -> str:
    if not (data.before and data.after):
        return ""
    rows = [
        (name, [f"{s.loss:.4f}", f"{s.perplexity:.3f}", f"{s.bits_per_note:.3f}"])
        for name, s in (("base", data.before), ("with the adapter", data.after))
    ]
    table = number_table(("", "loss, nats a token", "perplexity", "bits a note"), rows)
    words = f"{data.after.tokens:,} tokens and {data.after.notes:,} notes of songs that the adapter was not trained on."
    return section("Songs it has not seen", table + soft_paragraph(f"{words} Lower is better."))


def _music_section(data: ReportData) -> str:
    if not data.samples:
        return ""
    paths = [wav for s in data.samples for wav in (s.base_wav, s.adapted_wav) if wav is not None]
    sounds = dict(zip(paths, small_waves(paths), strict=True))
    words = ["Each pair comes from the same random draws: what differs is the adapter."]
    words += [MARKED_WORDS] if any(s.base_copied or s.adapted_copied for s in data.samples) else []
    parts = paragraphs(words)
    for sample in data.samples:
        rolls = [roll_of(sample.base, sample.base_copied), roll_of(sample.adapted, sample.adapted_copied)]
        limits = shared_limits(rolls)
        made = (("base", rolls[0], sample.base_wav), ("adapted", rolls[1], sample.adapted_wav))
        figures = [
            _piece_figure(sample.title, name, roll, limits, sounds[wav] if wav else None) for name, roll, wav in made
        ]
        parts += side_by_side(sample.title, figures)
    return section("Listen and look", parts)


def _piece_figure(title: str, name: str, roll: Roll, limits: Limits, sound: bytes | None) -> str:
    """Return one model's piece: its piano roll and a player."""
    words = _describe_roll(roll)
    figure = pianoroll_figure([("", roll)], limits, **HALF_PAGE)
    image = image_tag(figure_png(figure, dpi=130), f"Piano roll, {name}, {title}: {words}")
    if sound is None:
        return figure_box(image + soft_paragraph("No sound was rendered."), name, words)
    return figure_box(image + audio_player(sound, f"{name}, {title}"), name, words)


def _describe_roll(roll: Roll) -> str:
    """Count notes, drums and bars, and name the instruments where there are several."""
    parts = []
    if len(roll.start):
        low, high = (_pitch_name(int(p)) for p in (roll.pitch.min(), roll.pitch.max()))
        parts.append(f"{len(roll.start)} notes from {low} to {high}")
    if len(roll.hits):
        parts.append(f"{len(roll.hits)} drum notes")
    bars = len(roll.bars) - 1
    parts.append(f"{bars} bar{'' if bars == 1 else 's'}")
    names = list_instruments(roll) if roll.count else []
    return ", ".join(parts) + (f": {', '.join(names)}" if len(names) > 1 else "")


def _pitch_name(pitch: int) -> str:
    return f"{_PITCH_NAMES[pitch % 12]}{pitch // 12 - 1}"


def _health_section(data: ReportData) -> str:
    if not data.health:
        return ""
    words = paragraphs([f"{health_line(data.health)}."])
    odd = [row for row in data.health if row.status != "kept"]
    if not odd:
        return section("The songs", words)
    rows = [
        table_row(
            f"{row.file}{f'#{row.tune}' if row.tune else ''}",
            [f"<td>{row.status}</td>", f"<td>{escape(row.why)}</td>"],
        )
        for row in odd[:_MOST_HEALTH_ROWS]
    ]
    left_out = len(odd) - _MOST_HEALTH_ROWS
    more = soft_paragraph(f"and {left_out} more") if left_out > 0 else ""
    table = row_table(rows, "text") + more
    return section("The songs", words + folded(f"{len(odd)} repaired or skipped", table))
