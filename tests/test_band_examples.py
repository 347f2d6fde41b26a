"""The arranger that made the music of the band base: harmony, parts, metres, programs, and the same every time."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from symusic import KeySignature, Note, Score, TimeSignature, Track

from musiclora.bundled import BUNDLED, bundled_songs
from musiclora.symbolic.tokens.tokenizers import band_tokenizer

FOLDER = Path(__file__).parents[1] / "examples" / "bundled_band"
NAMES = ("harmony", "styles", "parts", "arrange", "make_data", "warm_start")
METRES = ((2, 2), (2, 4), (3, 4), (4, 4), (3, 8), (6, 8), (9, 8), (12, 8))


@pytest.fixture(scope="module")
def band():
    """The arranger's modules, which import each other as scripts do."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)


def tune(metre=(4, 4), bars=16, seed=1, pickup=False, scale=(0, 2, 4, 5, 7, 9, 11)):
    """A random walk through a scale on G in eighths, which ends on the tonic; a pickup stands at the end of bar 0."""
    rng = np.random.default_rng(seed)
    bar = 1920 * metre[0] // metre[1]
    steps = np.clip(np.cumsum(rng.integers(-2, 3, bars * bar // 240)) + 7, 0, 13)
    pitches = [67 + 12 * (int(s) // 7) + scale[int(s) % 7] for s in steps]
    score = Score(480)
    score.time_signatures.append(TimeSignature(0, *metre))
    score.key_signatures.append(KeySignature(0, 1, 0))
    track = Track(name="Melody")
    for place, pitch in enumerate(pitches):
        if not pickup or place * 240 >= bar - 240:
            track.notes.append(Note(place * 240, 240, 67 if place == len(pitches) - 1 else pitch, 80))
    score.tracks.append(track)
    return score


def notes_of(score, name):
    return [note for track in score.tracks if track.name == name for note in track.notes]


def every_arrangement(band, **mixture):
    for metre in METRES:
        for seed in range(8):
            song = tune(metre, seed=seed, pickup=seed % 2 == 1)
            yield metre, song, band.arrange.arrange(song, (seed,), band.arrange.Mixture(**mixture))


def test_the_same_seed_gives_the_same_arrangement_and_another_seed_another(band, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        band.arrange.arrange(tune(), (seed,)).dump_midi(str(tmp_path / name))

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_the_melody_stays_note_for_note_and_moves_by_whole_bars_only(band):
    for metre, song, arranged in every_arrangement(band):
        bar = 1920 * metre[0] // metre[1]
        before, after = ([(n.time, n.duration, n.pitch) for n in notes_of(s, "Melody")] for s in (song, arranged))
        late = after[0][0] - before[0][0]
        assert late % bar == 0
        assert [(time + late, duration, pitch) for time, duration, pitch in before] == after


def test_every_part_has_notes_of_its_kind_inside_the_tune_and_a_program_of_its_own(band):
    seen = set()
    for metre, _, arranged in every_arrangement(band):
        (found,) = arranged.time_signatures
        assert (found.numerator, found.denominator) == ((4, 4) if metre == (2, 2) else metre)
        assert 30 <= arranged.tempos[0].qpm <= 220
        programs = [-1 if track.is_drum else track.program for track in arranged.tracks]
        assert len(set(programs)) == len(programs)
        bar = 1920 * metre[0] // metre[1]
        end = -(-max(n.end for n in notes_of(arranged, "Melody")) // bar) * bar
        for track in arranged.tracks:
            seen.add(track.name)
            low, high = (35, 81) if track.is_drum else {"Bass": (21, 60)}.get(track.name, (38, 100))
            assert all(low <= n.pitch <= high and n.duration > 0 and 16 <= n.velocity <= 124 for n in track.notes)
            assert all(0 <= n.time and n.end <= end for n in track.notes)
    assert seen == {"Melody", "Chords", "Bass", "Drums", "Pad", "Second voice"}


def test_mixture_of_one_voice_leaves_the_tune_alone(band):
    assert all(len(arranged.tracks) == 1 for _, _, arranged in every_arrangement(band, alone=1.0))
    assert all(2 <= len(arranged.tracks) <= 3 for _, _, arranged in every_arrangement(band, alone=0.0, small=1.0))


@pytest.mark.parametrize("tonic", [0, 3, 7, 10])
def test_broken_chords_are_harmonised_by_their_own_chords(band, tonic):
    # I IV V I vi ii V7 I, a bar of eighths each
    bars = [(0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7), (9, 12, 16), (2, 5, 9), (7, 11, 17), (0, 4, 7)]
    pitches = np.array([60 + tonic + bar[i % 3] for bar in bars for i in (0, 1, 2, 1, 0, 2, 1, 0)])
    times = np.arange(len(pitches)) * 240
    durations = np.full(len(pitches), 240)

    key = band.harmony.find_key(pitches, durations)
    weights = band.harmony.weigh(times, durations, pitches, 1920, 8, 480)
    found = band.harmony.harmonise(weights, key, 1, 0)

    assert (key.tonic, key.mode) == (tonic, "ionian")
    assert [chord.degree for chord in found] == [0, 3, 4, 0, 5, 1, 4, 0]
    assert all({(tonic + note) % 12 for note in bar} <= set(c.notes) for bar, c in zip(bars, found, strict=True))


def test_the_bass_plays_the_root_where_a_bar_begins_and_chords_play_chord_tones(band):
    chords = band.harmony.chords_of(band.harmony.Key(2, "ionian"))
    line = [chords[i % 5] for i in range(12)]
    frame = band.parts.Frame(4, 4, 12, 0, 0, line, 1)

    for seed in range(8):
        bass = band.parts.write_bass(frame, "1...5...", 0, np.random.default_rng(seed))
        assert [n.pitch % 12 for n in bass if n.time % 1920 == 0] == [chord.root for chord in line]
    for pattern in ("x...x...", "aaaaaaaa", "..X---x-"):
        notes = band.parts.write_chords(frame, pattern, 0, 0.5, 3, power=False)
        assert {n.time // 1920 for n in notes} == set(range(12))
        assert all(n.pitch % 12 in frame.chord_at(n.time).notes for n in notes)


def test_drums_fit_the_metre_and_fill_the_end_of_a_phrase(band):
    for numerator, denominator, beat in ((4, 4, 480), (3, 4, 480), (6, 8, 720), (9, 8, 720)):
        frame = band.parts.Frame(numerator, denominator, 17, 0, 0, [None] * 17, 1)
        bar = frame.bar
        for seed in range(6):
            drums = band.parts.write_drums(frame, {"K": "X.....", "R": "...x.."}, 0, np.random.default_rng(seed))
            downbeats = {n.time for n in drums if n.pitch == band.styles.DRUMS["K"]}
            assert {i * bar for i in range(17) if i % 8 != 7} <= downbeats
            last_beat = [n.pitch for n in drums if 8 * bar - beat <= n.time < 8 * bar]
            assert last_beat
            assert set(last_beat) <= {band.styles.DRUMS[letter] for letter in band.styles.FILL_DRUMS}


def test_every_pattern_names_known_signs_and_lies_on_the_grid_of_the_tokens(band):
    for style in (*band.styles.TRAINING_STYLES, band.styles.TARGET_STYLE):
        lines = [*style.bass, *style.chords, *(line for drums in style.drums for line in drums.values())]
        assert set("".join(style.bass)) <= set("1358-.")
        assert set("".join(style.chords)) <= set("Xxa-.")
        assert {letter for drums in style.drums for letter in drums} <= band.styles.DRUMS.keys()
        for metre in style.metres:
            frame = band.parts.Frame(*map(int, metre.split("/")), 1, 0, 0, [], 1)
            assert all(time % 20 == 0 for line in lines for time, _ in frame.slots(line)), (style.name, metre)


def test_the_target_style_is_none_of_the_training_set(band):
    styles = band.styles

    assert styles.TARGET_STYLE.name not in {style.name for style in styles.TRAINING_STYLES}
    patterns = {tuple(sorted(drums.items())) for style in styles.TRAINING_STYLES for drums in style.drums}
    assert not patterns & {tuple(sorted(drums.items())) for drums in styles.TARGET_STYLE.drums}


@pytest.mark.parametrize(("metre", "simple"), [((6, 8), "4/4"), ((9, 8), "3/4")])
@pytest.mark.parametrize("pickup", [False, True])
def test_a_jig_in_simple_time_keeps_its_beats_on_beats(band, metre, simple, pickup):
    song = tune(metre, bars=8, pickup=pickup)

    found = band.arrange.in_simple_time(song)

    assert band.arrange.metre_of(found) == simple
    before, after = (notes_of(score, "Melody") for score in (song, found))
    assert [n.pitch for n in before] == [n.pitch for n in after]
    first = [n.time % 1920 if simple == "4/4" else n.time % 1440 for n in after]
    assert first[0] == ({"4/4": 1920, "3/4": 1440}[simple] - 160 if pickup else 0)
    assert all((a.time % 480 == 0) == (b.time % 720 == 0) for a, b in zip(after, before, strict=True))
    assert band.arrange.in_simple_time(tune((4, 4))) is not found


def test_the_bundled_songs_are_what_the_arranger_writes(band, tmp_path):
    counts = band.make_data.write_arrangements(BUNDLED / "tunes", tmp_path, band.make_data.TARGET)

    def contents(path):
        score = Score(str(path))
        tracks = [
            (t.name, t.program, t.is_drum, [(n.time, n.duration, n.pitch) for n in t.notes]) for t in score.tracks
        ]
        return tracks, [tempo.qpm for tempo in score.tempos], band.arrange.metre_of(score)

    def loudness(path):
        return np.array([note.velocity for track in Score(str(path)).tracks for note in track.notes])

    assert counts["files"] == len(bundled_songs()) == 30
    for path in bundled_songs():
        assert contents(path) == contents(tmp_path / path.name)
        assert np.abs(loudness(path) - loudness(tmp_path / path.name)).max() <= 1  # another libm may round another way


def test_a_tune_without_a_steady_metre_is_not_arranged(band):
    song = tune()
    song.time_signatures.append(TimeSignature(1920, 3, 4))

    assert band.arrange.arrange(song, (1,)) is None
    assert band.arrange.arrange(tune((5, 4)), (1,)) is None
    assert band.arrange.arrange(Score(480), (1,)) is None


def test_the_band_tokens_hold_every_note_of_the_arrangements(band):
    tokenizer = band_tokenizer()

    def events(score):
        scale = 480 / score.ticks_per_quarter
        tracks = [(-1 if track.is_drum else track.program, track.notes) for track in score.tracks]
        return sorted((round(n.time * scale), n.pitch, program) for program, notes in tracks for n in notes)

    for metre, _, arranged in every_arrangement(band, alone=0.0):
        decoded = tokenizer.decode(tokenizer.encode(arranged))
        found = decoded.time_signatures[0]
        assert sorted(set(events(arranged))) == events(decoded)
        assert (found.numerator, found.denominator) == ((4, 4) if metre == (2, 2) else metre)


def test_a_larger_vocabulary_keeps_the_embeddings_of_known_tokens(band):
    old = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)

    new = band.warm_start.extend_embedding(old, ["PAD", "Bar", "Pitch_60"], ["PAD", "Program_0", "Pitch_60", "Bar"])

    assert new.dtype == np.float32
    assert np.array_equal(new[[0, 3, 2]], old)
    assert np.isfinite(new[1]).all()
    assert not (new[1] == old).all(1).any()


def test_positions_that_short_rows_did_not_train_move_as_the_others_did(band):
    rng = np.random.default_rng(1)
    before = rng.normal(size=(200, 4))
    moved = before @ (np.eye(4) + 0.3 * rng.normal(size=(4, 4))) + 1.0
    short = np.concatenate([moved[:120], before[120:]])

    found = band.warm_start.move_positions(short, before, 120)

    assert np.array_equal(found[:120], moved[:120].astype(np.float32))
    # A ridge of a tenth leaves about a tenth of the way.
    assert np.abs(found[120:] - moved[120:]).mean() < 0.25 * np.abs(before[120:] - moved[120:]).mean()
