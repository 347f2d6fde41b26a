"""The click detector: inserted clicks are found, drums, bright and periodic sounds are none."""

from __future__ import annotations

import numpy as np
import pytest
from clicked_sound import RATE, TIMES, melody, with_clicks

from musiclora.evaluation.artefacts.clicks import count_clicks


def drums(seconds=6.0, seed=1):
    """Snare on two and four, hi-hat on every eighth: bursts of noise that start at once and die in 20 to 120 ms."""
    rng = np.random.default_rng(seed)
    sound = np.zeros(int(seconds * RATE))
    for number, start in enumerate(np.arange(0.1, seconds - 0.5, 0.25)):
        time = np.arange(int(0.4 * RATE)) / RATE
        noise = rng.normal(size=len(time))
        hat = 0.2 * np.diff(noise, prepend=0) * np.exp(-time / 0.02)
        body = 0.3 * np.sin(2 * np.pi * 180 * time) * np.exp(-time / 0.08)
        snare = (0.25 * noise * np.exp(-time / 0.12) + body) * (number % 4 == 2)
        at = int(start * RATE)
        sound[at : at + len(time)] += hat + snare
    return sound


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 96000])
def test_inserted_clicks_are_counted_at_every_rate(rate):
    sound = melody(rate=rate)
    assert count_clicks(sound[None], rate) == 0
    assert count_clicks(with_clicks(sound, TIMES, 0.2, rate)[None], rate) == len(TIMES)


def test_inserted_clicks_are_counted_between_drums():
    sound = 0.5 * drums() + melody()
    found = count_clicks(with_clicks(sound, TIMES, 1.0)[None], RATE)
    assert 4 <= found <= len(TIMES)  # one may hide in the snare's noise


def test_snare_and_hi_hat_are_no_clicks():
    assert count_clicks(drums()[None], RATE) == 0
    assert count_clicks((drums() + melody())[None], RATE) == 0


@pytest.mark.parametrize("hertz", [41.2, 55.0, 110.0, 440.0])
def test_a_sawtooth_is_no_row_of_clicks(hertz):
    time = np.arange(4 * RATE) / RATE
    assert count_clicks(0.3 * (2 * ((hertz * time) % 1) - 1)[None], RATE) == 0


def test_noise_and_bright_tones_are_no_clicks():
    rng = np.random.default_rng(3)
    time = np.arange(20 * RATE) / RATE
    assert count_clicks(0.1 * rng.normal(size=(2, len(time))), RATE) == 0
    assert count_clicks(0.3 * np.sin(2 * np.pi * 9000 * time)[None], RATE) == 0


def test_a_splice_and_a_dropout_are_clicks():
    time = np.arange(3 * RATE) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 330 * time)
    spliced = np.concatenate([tone[: RATE + 33], tone[RATE + 100 :]])
    assert count_clicks(spliced[None], RATE) == 1
    dropped = tone.copy()
    dropped[RATE + 30 : RATE + 30 + RATE // 5] = 0
    assert count_clicks(dropped[None], RATE) == 2


def test_clicks_of_both_channels_at_one_time_count_once():
    both = np.stack([with_clicks(melody(), TIMES, 0.2), with_clicks(melody(seed=5), (*TIMES, 4.5), 0.2)])
    assert count_clicks(both, RATE) == len(TIMES) + 1


def test_steps_of_sixteen_bits_and_the_file_s_own_ends_are_no_clicks():
    time = np.arange(3 * RATE) / RATE
    fading = 2e-4 * np.exp(-2 * time) * np.sin(2 * np.pi * 100 * time)
    assert count_clicks((np.round(fading * 32768) / 32768)[None], RATE) == 0
    cut = with_clicks(0.1 * np.sin(2 * np.pi * 100 * time), (0.004, 2.996), 0.5)
    assert count_clicks(cut[None], RATE) == 0


def test_the_count_does_not_depend_on_the_level():
    sound = with_clicks(melody(), TIMES, 0.2)
    assert count_clicks(0.03 * sound[None], RATE) == count_clicks(sound[None], RATE) == len(TIMES)
