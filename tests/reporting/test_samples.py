"""Samples of a run in its report: bands with lanes, and a player where there is sound."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from render_helpers import band_song, chord_song
from symusic import Score

from musiclora.music.wav import write_wav
from musiclora.reporting import samples
from musiclora.reporting.roll import roll_of
from musiclora.reporting.samples import sample_section
from musiclora.training.report import _shown_samples


@pytest.fixture
def drawn(monkeypatch) -> list:
    """Return the limits of each picture that is drawn."""
    found: list = []
    draw = samples.pianoroll_figure

    def record(rolls, limits, **size):
        found.append(limits)
        return draw(rolls, limits, **size)

    monkeypatch.setattr(samples, "pianoroll_figure", record)
    return found


def write_tone(path: Path) -> Path:
    with path.open("wb") as file:
        write_wav(file, np.sin(np.arange(4410)[:, None] / 10).astype(np.float32), 22050)
    return path


def tags_of(page: str) -> list[str]:
    """Return the figures, pictures and players of a page, in order."""
    return re.findall(r"<(figure|img|audio)\b", page)


def write_samples(folder: Path, **scores: Score) -> list[Path]:
    paths = []
    for name, score in scores.items():
        paths.append(folder / f"{name.replace('_', '-')}.mid")
        score.dump_midi(paths[-1])
    return paths


def test_a_band_is_shown_with_lanes_and_its_sound_below_each_picture(tmp_path, drawn):
    paths = write_samples(tmp_path, base=chord_song(), epoch_003=band_song((73, 33)))
    sounds = [write_tone(path.with_suffix(".wav")) for path in paths]
    text = sample_section([paths[0], sounds[0], sounds[1], paths[1]])
    assert tags_of(text) == ["figure", "img", "audio"] * 2
    assert text.count("<h4>the base</h4>") == text.count("<h4>after epoch 3</h4>") == 1
    assert drawn[0] is drawn[1]
    assert [lane.label for lane in drawn[0].lanes] == ["Flute", "Electric Bass (finger)"]
    assert 'after epoch 3: Flute, Electric Bass (finger), drums"' in text


def test_sound_without_notes_and_notes_without_sound_are_shown_alone(tmp_path):
    (path,) = write_samples(tmp_path, base=band_song(()))
    page = sample_section([path, write_tone(tmp_path / "epoch-001.wav")])
    assert tags_of(page) == ["figure", "img", "figure", "audio"]
    assert 'alt="Piano roll of the sample the base: drums"' in page
    empty = tmp_path / "epoch-002.mid"
    Score(480).dump_midi(empty)
    assert sample_section([empty]) == ""
    assert roll_of(Score(str(path))).count > 0


def test_the_last_samples_are_shown_with_all_their_files(tmp_path):
    for stem in ("base", *(f"epoch-{number:03d}" for number in range(1, 8))):
        for suffix in (".mid", ".wav", ".txt"):
            (tmp_path / f"{stem}{suffix}").touch()
    assert [path.name for path in _shown_samples(tmp_path)] == [
        *("base.mid", "base.wav", "epoch-005.mid", "epoch-005.wav"),
        *("epoch-006.mid", "epoch-006.wav", "epoch-007.mid", "epoch-007.wav"),
    ]
