"""The report is one file that needs nothing else, says the right verdict and escapes what it is given."""

from __future__ import annotations

import base64
import io
import wave
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from render_helpers import band_song
from symusic import Note, Score, TimeSignature, Track

from musiclora.demo.symbolic_report import ReportData, ReportSample, write_symbolic_report
from musiclora.evaluation.scores import Gain
from musiclora.evaluation.scores import Score as Scored
from musiclora.reporting.inline_audio import AUDIO_BYTES, small_waves
from musiclora.reporting.loss_plot import loss_figure, loss_plot
from musiclora.reporting.run_sections import run_facts
from musiclora.symbolic.reading.health import HealthRow

NASTY = "<script>alert('x')</script> & \"quotes\" $x_1$"
METRICS = [
    {"step": 0, "epoch": 0, "val_loss": 2.3},
    *({"step": i, "loss": 2.5 - i / 40, "seconds": i * 0.5} for i in range(1, 21)),
    {"step": 10, "val_loss": 2.0},
    {"step": 20, "val_loss": 2.1},
]
BEFORE, AFTER = Scored(2.3, 9.97, 6.96, 5000, 1600), Scored(2.0, 7.39, 6.16, 5000, 1600)


class Page(HTMLParser):
    """Texts, attributes and nesting of a page."""

    VOID = frozenset({"meta", "img", "br", "input", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def score_of(*pitches: int) -> Score:
    score = Score(480)
    track = Track()
    for i, pitch in enumerate(pitches):
        track.notes.append(Note(i * 480, 480, pitch, 90))
    score.tracks.append(track)
    return score


def test_report_names_the_instruments_of_a_band_and_counts_bars_by_its_metre(tmp_path):
    band, drums = band_song((73, 33), bars=6), band_song((), bars=6)
    band.time_signatures = [TimeSignature(0, 3, 4)]
    write_symbolic_report(tmp_path / "r.html", ReportData("band", samples=[ReportSample("one", drums, band)]))
    base, adapted = (image["alt"] for image in Page((tmp_path / "r.html").read_text(encoding="utf-8")).all("img"))
    assert base.endswith("one: 48 drum notes, 6 bars")
    assert adapted.endswith("48 notes from C2 to G3, 48 drum notes, 8 bars: Flute, Electric Bass (finger), drums")


def write_tone(path: Path, seconds: float, frequency: float = 440.0) -> Path:
    time = np.arange(int(44100 * seconds)) / 44100
    tone = np.round(20000 * np.sin(2 * np.pi * frequency * time)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes(np.stack([tone, tone], 1).tobytes())
    return path


def full(tmp_path: Path, gain: Gain | None) -> ReportData:
    wav = write_tone(tmp_path / "tone.wav", 1.0)
    other = write_tone(tmp_path / "other.wav", 0.5)
    return ReportData(
        title=NASTY,
        subtitle=NASTY,
        before=BEFORE,
        after=AFTER,
        gain=gain,
        metrics=METRICS,
        steps=20,
        seconds=10.0,
        update={f"h.{NASTY}": 0.03, "zero": 0.0},
        samples=[
            ReportSample(NASTY, score_of(60, 64), score_of(67), wav, other),
            ReportSample("two", score_of(50), score_of(51)),
        ],
        copying={NASTY: NASTY},
        health=[HealthRow("a.mid", 0, "kept"), HealthRow(NASTY, 2, "skipped", NASTY)],
        settings={NASTY: NASTY, "rank": 16},
        commands=[f"musiclora train {NASTY}"],
        notes=[NASTY],
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("report")
    write_symbolic_report(folder / "report.html", full(folder, Gain(0.8, 0.6, 1.0, 40)))
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_report_needs_no_network_and_no_other_file(page, text):
    assert "http:" not in text
    assert "https:" not in text
    assert not page.all("link")
    sources = [a["src"] for tag in ("img", "audio", "script") for a in page.all(tag) if "src" in a]
    assert len(sources) == 1 + 4 + 2  # the loss curve, four piano rolls, two players
    assert all(s.startswith("data:") for s in sources)
    assert "default-src 'none'" in page.all("meta")[2]["content"]


def test_report_escapes_every_text(page, text):
    assert "<script>alert" not in text
    assert len(page.all("script")) == 1
    assert page.text.count("<script>alert('x')</script>") >= 10
    assert page.open == []


def test_report_pictures_and_sounds_can_be_read_and_are_described(page):
    for image in page.all("img"):
        picture = imread(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
        assert picture.shape[1] > 300
        assert len(image["alt"]) > 20
    assert "2 notes from C4 to E4" in page.all("img")[1]["alt"]
    for player, seconds in zip(page.all("audio"), (1.0, 0.5), strict=True):
        with wave.open(io.BytesIO(base64.b64decode(player["src"].split(",")[1]))) as file:
            assert (file.getnchannels(), file.getframerate()) == (1, 22050)
            assert file.getnframes() / 22050 == pytest.approx(seconds, abs=0.01)
        assert player["aria-label"]


def test_report_shows_commands_to_copy_numbers_and_files(page):
    assert f"musiclora train {NASTY}" in page.text
    assert "6.96 → 6.16" in page.text
    assert "1.50%" in page.text  # the mean of 3 % and 0
    assert f"{NASTY}#2" in page.text
    assert "20 steps" in page.text


@pytest.mark.parametrize(
    ("gain", "words", "style"),
    [
        (Gain(0.8, 0.6, 1.0, 40), "learnt the style", "gained"),
        (Gain(0.02, -0.1, 0.1, 40), "Nothing gained", "flat"),
        (Gain(-0.5, -0.7, -0.2, 40), "Worse than the base", "lost"),
        (Gain(0.8, None, None, 3), "too few songs", "flat"),
    ],
    ids=["gained", "nothing", "lost", "few songs"],
)
def test_report_begins_with_the_verdict_in_words(tmp_path, gain, words, style):
    write_symbolic_report(tmp_path / "r.html", ReportData("title", before=BEFORE, after=AFTER, gain=gain))
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert words in page.text
    assert [a["class"] for a in page.all("p") if "verdict" in (a.get("class") or "")] == [f"verdict {style}"]
    assert "already knows" not in page.text
    if gain.low is not None:
        assert f"{gain.low:.2f} to {gain.high:.2f}" in page.text


def test_report_of_almost_nothing_leaves_out_what_it_does_not_know(tmp_path):
    write_symbolic_report(tmp_path / "r.html", ReportData("bare"))
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "no songs were held out" in page.text
    assert page.all("h2") == page.all("img") == page.all("audio") == []


@pytest.mark.slow
def test_small_waves_stay_within_the_budget_and_keep_the_pitch(tmp_path):
    paths = [write_tone(tmp_path / f"{i}.wav", 70.0) for i in range(4)]
    sounds = small_waves(paths)
    assert sum(len(s) for s in sounds) * 4 / 3 < AUDIO_BYTES * 1.01
    with wave.open(io.BytesIO(sounds[0])) as file:
        rate = file.getframerate()
        audio = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
    spectrum = np.abs(np.fft.rfft(audio[rate : 3 * rate] * np.hanning(2 * rate)))
    assert spectrum.argmax() / 2 == pytest.approx(440, abs=1)
    assert abs(audio[-100:]).max() < 1000  # it fades out
    assert np.abs(audio[rate : 2 * rate]).max() == pytest.approx(20000, rel=0.02)


def test_small_waves_leave_no_alias_of_high_tones(tmp_path):
    sound = small_waves([write_tone(tmp_path / "high.wav", 1.0, frequency=15000)])[0]
    with wave.open(io.BytesIO(sound)) as file:
        audio = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
    assert np.abs(audio[500:-500]).max() < 200  # of 20000


def test_loss_figure_has_the_curves_the_base_and_the_best_step():
    axis = loss_figure(METRICS).axes[0]
    lines = {line.get_label(): line for line in axis.lines}
    assert lines["held-out songs"].get_xydata().tolist() == [[0, 2.3], [10, 2.0], [20, 2.1]]
    assert set(lines["held-out songs, base alone"].get_ydata()) == {2.3}
    raw = axis.lines[0].get_xydata()
    assert raw[[0, -1]].tolist() == [[1, 2.475], [20, 2.0]]
    assert axis.texts[0].get_text() == "best 2.000, step 10"
    # a straight line stays straight when smoothed
    assert lines["training, smoothed"].get_ydata() == pytest.approx(raw[:, 1])


def test_loss_figure_draws_the_loss_of_accompaniment_as_its_own_curve():
    rows = [{**row, "val_accompaniment_loss": row["val_loss"] + 3} if "val_loss" in row else row for row in METRICS]
    axis = loss_figure(rows).axes[0]
    lines = {line.get_label(): line for line in axis.lines}
    assert lines["held-out accompaniment"].get_xydata().tolist() == [[0, 5.3], [10, 5.0], [20, 5.1]]
    assert axis.get_ylim()[1] > 5.3
    assert axis.texts[0].get_text() == "best 2.000, step 10"


def test_loss_figure_marks_the_step_that_was_kept_where_the_base_was_better():
    rows = [{"step": 0, "val_loss": 1.5}, {"step": 5, "val_loss": 1.7}, {"step": 10, "val_loss": 1.6}]
    assert loss_figure(rows).axes[0].texts[0].get_text() == "best 1.600, step 10"
    assert loss_figure(rows[:1]).axes[0].texts[0].get_text() == "best 1.500, step 0"


def test_loss_figure_of_recordings_does_not_speak_of_songs():
    figure = loss_figure(METRICS, "squared error a latent value", "recordings")
    labels = [str(line.get_label()) for line in figure.axes[0].lines]
    assert "held-out recordings" in labels
    assert "song" not in f"{labels} {figure.get_supxlabel()}"


@pytest.mark.parametrize("steps", [1, 2, 9, 20, 70, 300])
def test_loss_figure_labels_whole_steps_and_keeps_the_best_one_inside(steps):
    rows = [{"step": 0, "val_loss": 2.2}, {"step": steps, "val_loss": 1.9}]
    rows += [{"step": step, "loss": 2.5 - 0.5 * step / steps} for step in range(1, steps + 1)]
    figure = loss_figure(rows)
    figure.draw_without_rendering()
    axis = figure.axes[0]
    assert len(axis.get_xticks()) > 1
    assert all(tick == int(tick) for tick in axis.get_xticks())
    assert axis.texts[0].get_window_extent().y0 > axis.get_window_extent().y0
    assert "other keys" in figure.get_supxlabel()


@pytest.mark.parametrize(
    "rows", [[], [{"step": 1, "loss": float("nan")}], [{"step": 3, "loss": 1.0}], METRICS[:1]], ids=len
)
def test_loss_plot_of_little_still_writes_a_picture(tmp_path, rows):
    loss_plot(tmp_path / "loss.png", rows)
    assert imread(io.BytesIO((tmp_path / "loss.png").read_bytes())).shape[1] > 800


@pytest.mark.parametrize(("steps", "words"), [(1, "1 step"), (20, "20 steps")])
def test_the_steps_of_a_run_are_counted_in_words(steps, words):
    assert run_facts(steps, 2.0, {}) == [("training", words, "in 2 s")]
