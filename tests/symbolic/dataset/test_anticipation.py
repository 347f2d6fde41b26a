"""Rows with anticipated controls: what is drawn, what a row keeps, and what is scored."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from arrival_songs import song_of
from hypothesis import given, settings
from hypothesis import strategies as st

from musiclora.symbolic.dataset.anticipation import (
    INSTRUMENTS,
    KINDS,
    RANDOM,
    SPANS,
    AccompanimentRows,
    AnticipatedRows,
    describe_anticipation,
    draw_controls,
    find_melody,
    has_accompaniment,
    instruments_of,
)
from musiclora.symbolic.dataset.arrival_rows import ArrivalRows, fill_with_controls, pad_rests
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.dataset.transpose import TransposedEpochs, versions_within
from musiclora.symbolic.tokens.arrival import (
    ANTICIPATE,
    AUTOREGRESS,
    CONTROL_OFFSET,
    DRUM_INSTRUMENT,
    NOTE_OFFSET,
    REST,
    SEPARATOR,
    ArrivalTokenizer,
)

LAYOUT = ArrivalRows()
GAP = st.one_of(st.integers(0, 60), st.integers(0, 400), st.integers(9_000, 15_000))
GAPS = st.lists(GAP, min_size=1, max_size=150)
SONGS = [song_of([25] * n, n) for n in (500, 60, 200, 333)]


def pieces_of(songs=SONGS):
    return [Piece(f"s{i}", f"s{i}", song, len(song) // 3) for i, song in enumerate(songs)]


def triples_of(row):
    body = row.tokens[1:].reshape(-1, 3)
    return body[body[:, 2] != SEPARATOR]


@settings(max_examples=60, deadline=None)
@given(GAPS, st.sampled_from([8, 64, 256, 1024]), st.integers(0, 2**32))
def test_a_window_keeps_its_length_and_scores_what_is_no_control(gaps, limit, seed):
    song = song_of(gaps, seed % 7)
    rng = np.random.default_rng(seed)
    chosen = rng.random(len(song) // 3) < rng.choice([0, 0.2, 0.9, 1])
    for number, unit in enumerate(LAYOUT.cut(0, song, limit)):
        plain, row = LAYOUT.fill(song, unit), fill_with_controls(song, unit, chosen)
        assert len(row.tokens) == unit.length
        assert row.tokens[0] == ANTICIPATE
        assert (row.tokens[1:4] == SEPARATOR).all() == (number == 0)
        triples = triples_of(row)
        controls = triples[:, 2] >= CONTROL_OFFSET
        times = triples[:, 0] - CONTROL_OFFSET * controls
        assert times.min() >= 0
        assert times.max() < 10_000
        assert (np.diff(times[~controls]) >= 0).all()
        assert np.diff(times[~controls]).max(initial=0) <= 100  # RESTs fill the gaps that controls leave
        # What stands in the row is of the song, as an event or as a control, at its time.
        base = int(pad_rests(song)[unit.start]) if number else 0
        of_piece = row.source >= 0
        index = row.source[of_piece].reshape(-1, 3)[:, 0] // 3
        notes = triples[triples[:, 2] != REST]
        is_control = notes[:, 2] >= CONTROL_OFFSET
        np.testing.assert_array_equal(chosen[index], is_control)
        expected = song.reshape(-1, 3)[index] - [base, 0, 0] + CONTROL_OFFSET * is_control[:, None]
        np.testing.assert_array_equal(notes, expected)
        # Scored: a part of what the plain row scores, never a control.
        scored = row.source[row.scored & of_piece]
        ahead = np.setdiff1d(scored, plain.source[plain.scored])
        assert not len(ahead) or ahead.min() > plain.source.max()
        assert not chosen[scored // 3].any()
        kept = [i for i in plain.source[plain.scored & (plain.source >= 0)] if not chosen[i // 3]]
        lost = sorted(set(kept) - set(scored.tolist()))
        assert kept[len(kept) - len(lost) :] == lost  # only what falls out at the end
        # RESTs are scored after the context.
        context_end = int(pad_rests(song)[unit.scored - 3]) - base if number else -1
        rests = triples[:, 2] == REST
        scored_triples = row.scored[unit.opening :].reshape(-1, 3).all(axis=1)
        np.testing.assert_array_equal(scored_triples[rests], times[rests] > context_end)


def test_a_row_shows_controls_five_seconds_ahead_of_its_end():
    song = song_of([50] * 900, 1)
    chosen = instruments_of(song) == 0
    unit = LAYOUT.cut(0, song, 256)[1]
    row = triples_of(fill_with_controls(song, unit, chosen))
    controls = row[:, 2] >= CONTROL_OFFSET
    latest = row[~controls, 0].max()
    ahead = row[controls, 0].max() - CONTROL_OFFSET - latest
    assert 300 < ahead <= 500 + 50


# -- what is drawn -----


def test_spans_last_five_seconds_and_begin_twenty_apart():
    song = song_of([10] * 200_000)
    chosen = draw_controls(song, SPANS, np.random.default_rng(1))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(int)))
    lengths = (edges[1::2] - edges[::2]) * 10
    assert set(lengths[:-1].tolist()) <= {*range(490, 1001, 10), 1500}  # two spans may touch
    gaps = (edges[2::2] - edges[1:-1:2]) * 10
    assert gaps.mean() == pytest.approx(2000, rel=5 / np.sqrt(len(gaps)))


def test_random_events_have_one_rate_a_row():
    song = song_of([10] * 20_000)
    rates = [draw_controls(song, RANDOM, np.random.default_rng(seed)).mean() for seed in range(60)]
    tenths = [round(10 * rate) for rate in rates]
    assert set(tenths) == set(range(1, 10))
    assert np.abs(np.array(rates) - np.array(tenths) / 10).max() < 0.02


def test_instruments_are_some_but_not_all_and_drums_and_melody_may_be_among_them():
    song = song_of([10] * 300)
    instruments = instruments_of(song)
    seen: Counter = Counter()
    sizes: Counter = Counter()
    for seed in range(200):
        chosen = draw_controls(song, INSTRUMENTS, np.random.default_rng(seed))
        given_in_advance = np.unique(instruments[chosen])
        np.testing.assert_array_equal(chosen, np.isin(instruments, given_in_advance))
        seen.update(given_in_advance.tolist())
        sizes[len(given_in_advance)] += 1
    assert set(sizes) == {1, 2, 3}
    assert set(seen) == {0, 1, 2, DRUM_INSTRUMENT}


def test_one_instrument_leaves_the_row_plain():
    song = song_of([30] * 200, instruments=1)
    (unit,) = LAYOUT.cut(0, song, 1024)
    flags = Counter()
    for epoch in range(300):
        row = AnticipatedRows(1.0, 4, epoch).fill(song, unit)
        flags[int(row.tokens[0])] += 1
        if row.tokens[0] == AUTOREGRESS:
            np.testing.assert_array_equal(row.tokens, LAYOUT.fill(song, unit).tokens)
    assert flags[AUTOREGRESS] == pytest.approx(300 * KINDS[INSTRUMENTS] / sum(KINDS.values()), abs=5 * 300**0.5 / 2)
    assert flags[ANTICIPATE]


# -- epochs -----


def epochs(share=0.9, seed=3, transpose=0):
    tokenizer = ArrivalTokenizer()
    keys = [versions_within(tokenizer, piece, transpose) if transpose else [piece] for piece in pieces_of()]
    return TransposedEpochs(keys, tokenizer, 256, 2, seed, share)


@pytest.mark.parametrize("transpose", [0, 4])
def test_epochs_keep_their_rows_and_differ_in_what_is_given(transpose):
    plan = epochs(transpose=transpose)
    shapes = [[b["tokens"].shape for b in plan.batches(epoch)] for epoch in range(3)]
    assert Counter(shapes[0]) == Counter(shapes[1]) == Counter(shapes[2])
    first, again, other = (list(plan.batches(epoch)) for epoch in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    assert not all(np.array_equal(a["tokens"], b["tokens"]) for a, b in zip(first, other, strict=True))
    for a, b in zip(first[2:], epochs(transpose=transpose).batches(1)[2:], strict=True):  # from the middle, anew
        np.testing.assert_array_equal(a["tokens"], b["tokens"])
    different = epochs(seed=4, transpose=transpose).batches(1)
    assert not all(np.array_equal(a["tokens"], b["tokens"]) for a, b in zip(first, different, strict=True))


def test_a_share_of_the_rows_has_the_flag():
    plan = epochs()
    tokens = np.concatenate([b["tokens"].ravel() for epoch in range(120) for b in plan.batches(epoch)])
    with_controls, plain = (int((tokens == flag).sum()) for flag in (ANTICIPATE, AUTOREGRESS))
    rows = with_controls + plain
    assert with_controls / rows == pytest.approx(0.9, abs=5 * (0.09 / rows) ** 0.5)


def test_controls_are_transposed_with_the_song_and_drums_are_not():
    song = SONGS[0]
    tokenizer = ArrivalTokenizer()
    piece = pieces_of()[0]
    (up,) = [v for v in versions_within(tokenizer, piece, 4) if v.name.endswith("+4")]
    unit = LAYOUT.cut(0, song, 512)[0]
    layout = AnticipatedRows(1.0, 5, 2)
    before, after = triples_of(layout.fill(song, unit)), triples_of(layout.fill(up.tokens, unit))
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    notes = before[:, 2] - CONTROL_OFFSET * (before[:, 2] >= CONTROL_OFFSET)
    moves = (notes != REST) & ((notes - NOTE_OFFSET) // 128 != DRUM_INSTRUMENT)
    np.testing.assert_array_equal(after[:, 2] - before[:, 2], np.where(moves, 4, 0))


# -- accompaniment -----


def test_the_melody_is_the_highest_on_average_and_never_drums():
    high, low, drum = (NOTE_OFFSET + 128 * i + p for i, p in ((5, 70), (3, 60), (DRUM_INSTRUMENT, 90)))
    song = np.array([[i, 10_010, note] for i, note in enumerate([low, high, drum, low + 25, low - 20])]).ravel()
    assert find_melody(song) == 5
    song[-1] = low + 25
    assert find_melody(song) == 3  # 76.7 on average
    assert has_accompaniment(song)
    drums = song[6:9]
    assert find_melody(drums) is None
    assert not has_accompaniment(drums)
    assert not has_accompaniment(song[:3])
    assert has_accompaniment(song[3:9])  # a melody and drums


def test_accompaniment_gives_the_melody_and_scores_the_rest():
    song = SONGS[2]
    melody = find_melody(song)
    for unit in LAYOUT.cut(0, song, 256):
        row = AccompanimentRows().fill(song, unit)
        triples = triples_of(row)
        controls = triples[:, 2] >= CONTROL_OFFSET
        instruments = (triples[:, 2] - CONTROL_OFFSET * controls - NOTE_OFFSET) // 128
        notes = triples[:, 2] != REST
        np.testing.assert_array_equal(controls[notes], instruments[notes] == melody)
        scored = row.tokens[row.scored]
        assert len(scored)
        assert scored.max() < CONTROL_OFFSET


def test_shares_are_said():
    assert describe_anticipation(0.9) == "anticipated rows: 90 % (spans 10, random events 40, instruments 40)"
    assert describe_anticipation(0.45) == "anticipated rows: 45 % (spans 5, random events 20, instruments 20)"
    assert describe_anticipation(0).startswith("anticipated rows: none")
