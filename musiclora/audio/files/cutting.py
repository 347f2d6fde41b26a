"""Cutting of recordings into segments of one length or at given times, with a manifest of their sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.audio.files.cut_times import LEFTOVERS, LONGEST_SECONDS, CutSpan, grid_spans, read_cut_times
from musiclora.audio.files.disk import check_free_space
from musiclora.audio.files.health import SILENT_PEAK, AudioHealth, group_notes, measure_health, to_decibels
from musiclora.audio.files.segments import CHANNELS, RATE, SegmentNames, fade_ends, normalise_loudness, save_segment
from musiclora.audio.files.sound import Sound, audio_libraries, recordings_of
from musiclora.convert.errors import printable
from musiclora.convert.files.atomic import atomic_folder, refuse_existing, write_json
from musiclora.convert.files.outputs import check_apart, check_folder
from musiclora.errors import ConfigError, DataError, join_problems
from musiclora.formats import MANIFEST
from musiclora.progress import Reporter

DEFAULT_SECONDS = 95.0  # 2048 frames of DiffRhythm's codec


@dataclass(frozen=True)
class CutOptions:
    """Options of cutting, named as in the command.

    Attributes:
        seconds: length of a segment; None is DEFAULT_SECONDS, and with times the spans as given.
        overlap: seconds that a segment shares with the one before.
        leftover: treatment of the rest at the end of a recording. `keep` makes it a segment, `merge` adds it to the
            last one, `drop` leaves it out. A rest under a second is always merged. A recording shorter than a segment
            is one segment, except with `drop`.
        fade: milliseconds of a raised-cosine fade at each cut inside a recording; 0 for none.
        loudness: root mean square of each segment in dB of full scale; None keeps the level.
        flac: write FLAC instead of WAV, both with 16 bits.
    """

    seconds: float | None = None
    overlap: float = 0.0
    leftover: str = "keep"
    fade: float = 10.0
    loudness: float | None = None
    flac: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.seconds is not None and not 1 <= self.seconds <= LONGEST_SECONDS:
            problems.append(f"--seconds is {self.seconds:g}; it must be 1 to {LONGEST_SECONDS:g}")
        elif not 0 <= self.overlap <= (self.seconds or DEFAULT_SECONDS) / 2:
            problems.append(f"--overlap is {self.overlap:g}; it must be 0 to half of --seconds")
        if not 0 <= self.fade <= 500:
            problems.append(f"--fade is {self.fade:g}; it must be 0 to 500 milliseconds")
        if self.loudness is not None and not -60 <= self.loudness <= 0:
            problems.append(f"--loudness is {self.loudness:g}; it must be -60 to 0 dB of full scale")
        if self.leftover not in LEFTOVERS:
            problems.append(f"--leftover is {self.leftover}; it must be one of {', '.join(LEFTOVERS)}")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass
class CutResult:
    """Result of cutting a folder.

    Attributes:
        segments: `file`, `source`, `start`, `end` (seconds in the source) and `sha256` of each.
        left_out: `source`, `start`, `end` and `reason` of each span that was not written.
        remarks: (source, text) of remarks on the recordings.
    """

    segments: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)

    def drop(self, source: str, start: float, end: float, reason: str) -> None:
        """Record a span that is not written."""
        span = {"start": round(start, 4), "end": round(end, 4)}
        # printable: the name may hold bytes that are no UTF-8 text, which the manifest cannot
        self.left_out.append({"source": printable(source), **span, "reason": printable(reason)})

    @property
    def notes(self) -> list[str]:
        """Spans left out, or files without any sound, and remarks, a line each."""
        spans = [f", {i['start']:g} to {i['end']:g} s" if i["end"] else "" for i in self.left_out]
        gone = [f"left out: {i['source']}{span}: {i['reason']}" for i, span in zip(self.left_out, spans, strict=True)]
        return [*gone, *group_notes(self.remarks)]


def cut_folder(
    folder: Path, output: Path, options: CutOptions, times: Path | None = None, reporter: Reporter | None = None
) -> CutResult:
    """Cut every recording of a folder into stereo segments of 44.1 kHz with 16 bits.

    Recordings are streamed, so that memory holds the open segments only. The output folder is written atomically.

    Args:
        folder: searched with its subfolders; only read.
        output: new folder of segments and `manifest.json`.
        options: lengths, fades and level.
        times: file of times to cut at; see `cut_times.read_cut_times`. With a length in the options each of its spans
            is cut into segments.
        reporter: receives the progress.

    Raises:
        ConfigError, DataError: no usable recording, or times that do not fit.
        OutputError: the output folder exists, or cannot be written.
    """
    out = reporter or Reporter()
    check_apart(output, {"--input-dir": folder})
    check_folder(output)
    refuse_existing(output)
    result = CutResult()
    healths = _survey_folder(folder, result, out)
    plan = _plan_segments(healths, options, times, result)
    _check_disk(output, plan)
    total, done = max(1, int(sum(h.seconds for h in healths if h.file in plan))), 0.0
    with atomic_folder(output) as temporary, out.task("cutting (seconds)") as update:
        names = SegmentNames([h.file for h in healths], "flac" if options.flac else "wav")
        for health in healths:
            if pieces := plan.get(health.file):
                with Sound(folder / health.file) as sound:
                    for piece, audio in stream_segments(sound, pieces):
                        _write_segment(piece, audio, health, options, temporary, names, result)
                        update(min(total, int(done + piece.end)), total)
                done += health.seconds
        if not result.segments:
            raise DataError(f"{folder}: no segment is left: {join_problems(_list_reasons(result))}")
        order = {h.file: number for number, h in enumerate(healths)}
        result.segments.sort(key=lambda s: (order[s["source"]], s["start"], s["end"]))
        settings = {**asdict(options), "times": times is not None, "sample_rate": RATE}
        write_json(
            temporary / MANIFEST,
            {
                "format": 1,
                "settings": settings,
                "segments": result.segments,
                "left_out": result.left_out,
            },
        )
    return result


def _list_reasons(result: CutResult) -> list[str]:
    return [f"{item['source']} {item['reason']}" for item in result.left_out]


def _survey_folder(folder: Path, result: CutResult, out: Reporter) -> list[AudioHealth]:
    """Measure every recording; unusable ones are recorded as left out."""
    audio_libraries()
    paths, foreign = recordings_of(folder)
    usable = []
    with out.task("reading recordings") as update:
        for number, path in enumerate([*paths, *foreign], 1):
            health = measure_health(path, path.relative_to(folder).as_posix())
            if health.problem:
                result.drop(health.file, 0.0, health.seconds, health.problem)
            else:
                usable.append(health)
                result.remarks += [(health.file, text) for text in health.notes]
            update(number, len(paths) + len(foreign))
    if not usable:
        raise DataError(f"{folder}: no recording can be used: {join_problems(_list_reasons(result))}")
    return usable


def _plan_segments(
    healths: Sequence[AudioHealth], options: CutOptions, times: Path | None, result: CutResult
) -> dict[str, list[CutSpan]]:
    """Compute the segments of each recording; dropped rests are recorded as left out."""
    lengths = {h.file: h.seconds for h in healths}
    spans = read_cut_times(times, lengths) if times else [CutSpan(source, 0.0, end) for source, end in lengths.items()]
    plan: dict[str, list[CutSpan]] = {}
    for span in spans:
        if times and options.seconds is None:
            found, dropped = [(span.start, span.end)], list[tuple[float, float]]()
        else:
            found, dropped = grid_spans(
                span.start, span.end, options.seconds or DEFAULT_SECONDS, options.overlap, options.leftover
            )
        plan.setdefault(span.source, []).extend(CutSpan(span.source, a, b, span.name) for a, b in found)
        for start, end in dropped:
            result.drop(span.source, start, end, "is a leftover shorter than a segment (--leftover drop)")
    return plan


def _check_disk(output: Path, plan: dict[str, list[CutSpan]]) -> None:
    """Raise OutputError where the disk cannot hold the segments."""
    samples = sum(int((p.end - p.start) * RATE) for pieces in plan.values() for p in pieces)
    advice = "free some space, choose another folder, or --flac and a part of the recordings"
    check_free_space(output, samples * CHANNELS * 2, "segments", advice)


def stream_segments(sound: Sound, pieces: Sequence[CutSpan]) -> Iterator[tuple[CutSpan, np.ndarray]]:
    """Yield each piece with its sound, float32 [2, samples] at 44.1 kHz, in one pass, in the order of their ends.

    A piece at the end of a recording may be shorter than its span.
    """
    waiting = sorted(pieces, key=lambda p: p.start, reverse=True)
    open_: list[tuple[CutSpan, list[np.ndarray]]] = []
    at = 0
    for block in sound.stream(RATE, CHANNELS):
        until = at + len(block)
        while waiting and round(waiting[-1].start * RATE) < until:
            open_.append((waiting.pop(), []))
        for piece, parts in open_:
            first, last = (round(t * RATE) - at for t in (piece.start, piece.end))
            parts.append(block[max(0, first) : max(0, last)])
        for item in [item for item in open_ if round(item[0].end * RATE) <= until]:
            open_.remove(item)
            yield item[0], np.ascontiguousarray(np.concatenate(item[1]).T)
        at = until
    for piece, parts in open_:
        yield piece, np.ascontiguousarray(np.concatenate(parts).T)


def _write_segment(
    piece: CutSpan,
    audio: np.ndarray,
    health: AudioHealth,
    options: CutOptions,
    folder: Path,
    names: SegmentNames,
    result: CutResult,
) -> None:
    """Write one segment, or record that it is silent."""
    end = piece.start + audio.shape[1] / RATE
    peak = float(np.abs(audio).max(initial=0.0))
    if peak < SILENT_PEAK:
        result.drop(piece.source, piece.start, end, f"is silent (peak {to_decibels(peak):.0f} dB)")
        return
    if health.peak > 1.001 and options.loudness is None:
        audio = audio / np.float32(health.peak)  # one factor for the whole recording keeps its segments alike
        result.remarks += _new_remarks(
            result.remarks, (piece.source, "goes beyond full scale and is turned down to it")
        )
    if options.loudness is not None:
        audio, limited = normalise_loudness(audio, options.loudness)
        if limited:
            text = f"peaks keep some of its segments below {options.loudness:g} dB"
            result.remarks += _new_remarks(result.remarks, (piece.source, text))
    audio = fade_ends(audio, options.fade, piece.start > 0, piece.end < health.seconds - 1e-6)
    name = names.name_segment(piece)
    where = {"source": piece.source, "start": round(piece.start, 4), "end": round(end, 4)}
    result.segments.append({"file": name, **where, "sha256": save_segment(folder / name, audio)})


def _new_remarks(known: list[tuple[str, str]], remark: tuple[str, str]) -> list[tuple[str, str]]:
    return [] if remark in known else [remark]
