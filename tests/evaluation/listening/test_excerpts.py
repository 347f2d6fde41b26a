from __future__ import annotations

import io

import numpy as np
import pytest
from listening_music import melody
from require import require

from musiclora.errors import DataError
from musiclora.evaluation.listening import excerpts
from musiclora.evaluation.listening.loudness import integrated_loudness, true_peak

RATE = excerpts.RATE_HZ


def test_trim_silence_removes_both_ends_only():
    audio = np.concatenate([np.zeros(RATE), melody(0, 3), np.zeros(RATE), melody(1, 3), np.zeros(2 * RATE)])
    # a frame of 50 ms at either end, and the tail of the last note below -50 dB
    assert len(excerpts.trim_silence(audio)) / RATE == pytest.approx(7.0, abs=0.11)
    assert len(excerpts.trim_silence(np.zeros(RATE))) == 0


def test_choose_start_avoids_silence_and_the_middle_of_notes():
    loud, gap = melody(0, 10), np.zeros(10 * RATE)
    audio = np.concatenate([loud, gap, loud])
    starts = [excerpts.choose_start(audio, 5.0, np.random.default_rng(seed)) for seed in range(30)]
    assert all(start <= 5.55 or 19.45 <= start <= 25.01 for start in starts)  # at most a tenth is silent
    offsets = np.array([start % 0.5 for start in starts])
    # notes begin at every half second; starts drawn anywhere would be this near in four of ten cases
    assert np.mean(np.minimum(offsets, 0.5 - offsets) < 0.11) > 0.8
    assert len(set(starts)) > 3


def test_choose_start_of_a_short_piece_is_its_beginning():
    assert excerpts.choose_start(melody(0, 2), 5.0, np.random.default_rng(0)) == 0.0


def test_cut_excerpt_fades_and_has_the_length_that_was_asked_for():
    part = excerpts.cut_excerpt(np.ones(3 * RATE) * np.sign(np.sin(np.arange(3 * RATE) * 0.1)), 0.5, 2.0)
    assert len(part) == 2 * RATE
    assert part.dtype == np.float32
    assert part[0] == 0
    assert abs(part[-1]) < 1e-6
    assert np.abs(part[RATE // 2 : RATE]).min() == 1


@pytest.mark.parametrize(("audio", "reason"), [(np.zeros(RATE), "too short"), (np.zeros(3 * RATE), "silent")])
def test_cut_excerpt_refuses_what_cannot_be_rated(audio, reason):
    with pytest.raises(DataError, match=reason):
        excerpts.cut_excerpt(audio, 0, 2)


def test_match_loudness_levels_without_clipping():
    parts = [melody(0, 3, 0.02).astype(np.float32), melody(1, 3, 0.9).astype(np.float32)]
    parts[0][RATE] = 0.4  # a peak that the target would send over full scale
    matched, gains, level = excerpts.match_loudness(parts)
    assert [integrated_loudness(part[None], RATE) for part in matched] == pytest.approx([level] * 2, abs=0.01)
    assert max(map(true_peak, matched)) < 1
    assert gains[0] > gains[1]


def test_encode_mp3_gives_one_size_whatever_the_content():
    soundfile = require("soundfile")
    excerpts.need_mp3()
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE)
    parts = [noise.astype(np.float32), np.zeros(2 * RATE, np.float32), melody(0, 2).astype(np.float32)]
    coded = excerpts.encode_mp3(parts)
    assert len(set(map(len, coded))) == 1
    heard, rate = soundfile.read(io.BytesIO(coded[2]))
    assert rate == RATE
    # an MP3 frame has 1152 samples; 112 kbit/s keep a melody within 1 dB
    assert len(heard) == pytest.approx(2 * RATE, abs=2 * 1152)
    assert heard.std() == pytest.approx(parts[2].std(), rel=0.12)
