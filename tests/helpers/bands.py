"""A small band, and MidiTok tokenizers with programs in one stream."""

from __future__ import annotations

from miditok import REMI, TSD, PerTok, TokenizerConfig
from symusic import Note, Score, Tempo, TimeSignature, Track

from musiclora.symbolic.tokens.tokenizer import MusicTokenizer

PLAIN = {"use_programs": True, "one_token_stream_for_programs": True, "special_tokens": ["PAD", "BOS", "EOS"]}
FULL = PLAIN | {
    "use_velocities": True,
    "num_velocities": 8,
    "use_tempos": True,
    "use_time_signatures": True,
    "time_signature_range": {4: [2, 3, 4], 8: [6]},
}
CHANGES = {"program_changes": True}
STRUCK = {"use_note_duration_programs": list(range(128))}  # drums without durations
NO_DRUM_PITCHES = {"use_pitchdrum_tokens": False}
PERTOK = FULL | {
    "use_time_signatures": False,
    "ticks_per_quarter": 320,
    "use_microtiming": False,
    "max_microtiming_shift": 0.125,
}
BANDS = {
    "remi": lambda: MusicTokenizer(REMI(TokenizerConfig(**FULL))),
    "remi plain": lambda: MusicTokenizer(REMI(TokenizerConfig(**PLAIN, use_velocities=False))),
    "remi without drum pitches": lambda: MusicTokenizer(REMI(TokenizerConfig(**FULL, **NO_DRUM_PITCHES))),
    "remi changes": lambda: MusicTokenizer(REMI(TokenizerConfig(**FULL, **CHANGES))),
    "tsd": lambda: MusicTokenizer(TSD(TokenizerConfig(**FULL))),
    "tsd changes": lambda: MusicTokenizer(TSD(TokenizerConfig(**FULL, **CHANGES))),
    "pertok": lambda: MusicTokenizer(PerTok(TokenizerConfig(**PERTOK))),
    "pertok changes": lambda: MusicTokenizer(PerTok(TokenizerConfig(**PERTOK, **CHANGES))),
    "remi struck drums": lambda: MusicTokenizer(REMI(TokenizerConfig(**FULL, **STRUCK))),
    "pertok struck drums": lambda: MusicTokenizer(PerTok(TokenizerConfig(**PERTOK, **STRUCK))),
    "remi few programs": lambda: MusicTokenizer(
        REMI(TokenizerConfig(**FULL, programs=[-1, 0, 25, 33, 48])),
    ),
}
SIX = (
    *((0, "Keys", [60, 64, 67]), (25, "Guitar L", [64]), (25, "Guitar R", [67]), (33, "Bass", [36])),
    *((48, "Strings", [72]), (-1, "Kit", [36, 42])),
)


def band(bars: int = 4, parts=SIX) -> Score:
    """Build a piece of quarter notes: six tracks of five instruments, drums among them."""
    score = Score(480)
    for program, name, pitches in parts:
        track = Track(program=max(0, program), is_drum=program < 0, name=name)
        for beat in range(4 * bars):
            track.notes.extend([Note(480 * beat, 240, pitch, 90) for pitch in pitches])
        score.tracks.append(track)
    score.tempos = [Tempo(0, 100.0)]
    score.time_signatures = [TimeSignature(0, 4, 4)]
    return score


def instruments(score: Score) -> list[tuple[int, float, int]]:
    """List program (-1 for drums), onset in quarters and pitch of each note."""
    quarter = score.ticks_per_quarter
    return sorted(
        (-1 if track.is_drum else track.program, note.time / quarter, note.pitch)
        for track in score.tracks
        for note in track.notes
    )
