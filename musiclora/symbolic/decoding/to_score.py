"""Decoding of base tokens to a score, and the clean-up before it is saved."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from musiclora.music.bars import bar_lines
from musiclora.music.instruments import MOST_INSTRUMENTS
from musiclora.symbolic.tokens.merge import merge_track_unisons
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer

if TYPE_CHECKING:
    from miditok import MusicTokenizer as MidiTokTokenizer
    from symusic import Score


def decode_tokens(inner: MidiTokTokenizer, tokens: list[str]) -> Score:
    """Decode base tokens by MidiTok.

    The tokens are strings, since MidiTok may take ids of a trained vocabulary for base ids.
    """
    from miditok import TokSequence

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sequence = TokSequence(tokens=tokens)
        score = inner.decode(sequence if inner.one_token_stream else [sequence])
    merge_track_unisons(score)  # which some tokenizers can write
    return score


def count_notes(inner: MidiTokTokenizer, tokens: list[str]) -> int:
    """Count the notes that base tokens decode to."""
    return int(decode_tokens(inner, tokens).note_num()) if tokens else 0


def clean_score(score: Score, prompt: Score | None, cut: bool) -> None:
    """Set names, programs, keys and tempo, and shorten notes that cross the final bar line of a cut piece.

    Args:
        score: decoded score, changed in place.
        prompt: score whose track names, programs, key signatures and tempo are kept, or None.
        cut: True where the piece was cut at a bar line.
    """
    from symusic import Tempo

    line = _bar_line_after_last_onset(score) if cut else 0
    for track in score.tracks:
        track.name = track.name.strip() or "musiclora"
        for note in track.notes:
            note.time = max(0, note.time)  # PerTok's microtiming may place the first note before the beginning
            if cut and note.time + note.duration > line:
                note.duration = max(1, line - note.time)
    if prompt is not None:
        _keep_instruments(score, prompt)
        _keep_keys(score, prompt)
    if prompt is not None and len(prompt.tempos):  # tokens quantise the tempo, or lack it
        first = Tempo(0, float(np.clip(prompt.tempos[0].qpm, 20, 400)))
        score.tempos = [first, *(t for t in score.tempos if t.time > 0)]
    if not len(score.tempos):
        score.tempos.append(Tempo(0, 120.0))


def _keep_instruments(score: Score, prompt: Score) -> None:
    """Name the tracks as those of the prompt with their instrument; drums keep their kit.

    Tokens without programs decode to one track, which gets the instrument of a prompt that has one only.
    """
    played = [track for track in prompt.tracks if len(track.notes)]
    programs = {int(track.program) for track in played if not track.is_drum}
    if len(score.tracks) == 1 and len(programs) == 1 and not score.tracks[0].is_drum:
        score.tracks[0].program = min(programs)
    for track in score.tracks:
        same = [p for p in played if p.is_drum == track.is_drum and (p.is_drum or p.program == track.program)]
        if same:
            track.program = int(same[0].program)
            track.name = " + ".join(dict.fromkeys(p.name.strip() for p in same if p.name.strip())) or "musiclora"


def _keep_keys(score: Score, prompt: Score) -> None:
    """Write the key signatures of a prompt into a score whose tokens lack them; a key says nothing of the sound."""
    from symusic import KeySignature

    scale = score.ticks_per_quarter / prompt.ticks_per_quarter
    if not len(score.key_signatures):
        score.key_signatures = [KeySignature(round(k.time * scale), k.key, k.tonality) for k in prompt.key_signatures]


def describe_channels(score: Score) -> list[str]:
    """Say that a score has more instruments than MIDI has channels; empty where it has not."""
    programs = {int(track.program) for track in score.tracks if not track.is_drum and len(track.notes)}
    if len(programs) <= MOST_INSTRUMENTS:
        return []
    return [
        f"{len(programs)} instruments: MIDI has {MOST_INSTRUMENTS} channels besides that of drums, and players may mix "
        "up those that share one; choose with --instruments"
    ]


def _bar_line_after_last_onset(score: Score) -> int:
    """Find the first bar line after the last onset, in ticks."""
    return bar_lines(score, _last_onset(score) + 1)[-1]


def _last_onset(score: Score) -> int:
    return max(int(note.time) for track in score.tracks for note in track.notes)


def keep_metre_and_tempo(score: Score, prompt: Score, tokenizer: MusicTokenizer) -> None:
    """Write the metres and tempos of a prompt into a score whose tokens lack them."""
    from symusic import Tempo, TimeSignature

    scale = score.ticks_per_quarter / prompt.ticks_per_quarter
    if not tokenizer.metres_in_tokens and len(prompt.time_signatures):
        score.time_signatures = [
            TimeSignature(round(m.time * scale), m.numerator, m.denominator) for m in prompt.time_signatures
        ]
    if not tokenizer.tempos_in_tokens and len(prompt.tempos):
        score.tempos = [Tempo(round(t.time * scale), float(np.clip(t.qpm, 20, 400))) for t in prompt.tempos]


def drop_last_part_of_bar(score: Score, prompt_notes: int) -> None:
    """Drop the notes of a last bar that is not complete, where a piece was cut on a bar of four quarters.

    Args:
        score: decoded score with its metres, changed in place.
        prompt_notes: number of notes of the prompt, which are never dropped.
    """
    if not score.note_num():
        return
    bar = 4 * int(score.ticks_per_quarter)
    line = (_last_onset(score) // bar + 1) * bar
    last = max(tick for tick in bar_lines(score, line) if tick <= line)
    if sum(note.time < last for track in score.tracks for note in track.notes) > prompt_notes:
        for track in score.tracks:
            track.notes = [note for note in track.notes if note.time < last]
