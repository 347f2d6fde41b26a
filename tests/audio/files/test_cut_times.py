"""Times at which recordings are cut: a grid, and files of times."""

from __future__ import annotations

import pytest

from musiclora.audio.files.cut_times import grid_spans, read_cut_times, seconds_of
from musiclora.errors import DataError


@pytest.mark.parametrize(
    ("total", "overlap", "leftover", "expected"),
    [
        (30, 0, "keep", [(0, 10), (10, 20), (20, 30)]),
        (34, 0, "keep", [(0, 10), (10, 20), (20, 30), (30, 34)]),
        (34, 0, "merge", [(0, 10), (10, 20), (20, 34)]),
        (30.5, 0, "keep", [(0, 10), (10, 20), (20, 30.5)]),
        (25, 5, "keep", [(0, 10), (5, 15), (10, 20), (15, 25)]),
        (27, 5, "keep", [(0, 10), (5, 15), (10, 20), (15, 25), (20, 27)]),
        (4, 0, "keep", [(0, 4)]),
        (34, 0, "drop", [(0, 10), (10, 20), (20, 30)]),
        (30.5, 0, "drop", [(0, 10), (10, 20), (20, 30.5)]),
        (4, 0, "drop", []),
    ],
    ids=[
        "whole",
        "rest kept",
        "rest merged",
        "under a second",
        "overlap",
        "overlap and rest",
        "short",
        "rest dropped",
        "under a second is not dropped",
        "short and dropped",
    ],
)
def test_segments_cover_the_recording_to_its_end(total, overlap, leftover, expected):
    found, dropped = grid_spans(0.0, total, 10, overlap, leftover)
    assert found == [pytest.approx(pair) for pair in expected]
    covered = found[-1][1] if found else 0
    assert dropped == ([(covered, total)] if covered < total else [])
    shifted, _ = grid_spans(100.0, 100.0 + total, 10, overlap, leftover)
    assert shifted == [pytest.approx((a + 100, b + 100)) for a, b in expected]


@pytest.mark.parametrize(
    ("text", "seconds"), [("83.5", 83.5), ("1:23.5", 83.5), ("0:01:23.5", 83.5), ("02:00:00", 7200)]
)
def test_times_are_seconds_or_minutes_or_hours(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["0:75", "0:60", "1:00:60", "1:60:00"])
def test_sixty_or_more_after_a_colon_is_no_time(text):
    with pytest.raises(ValueError, match="60 or more"):
        seconds_of(text)


def test_lines_of_a_times_file_that_do_not_fit_are_all_named(tmp_path):
    path = tmp_path / "times.txt"
    path.write_text("# recording, start, end\na, 0:01, 0:03, intro\nb, 0, 1\na.wav, 5, 4\na, x, 4\na, 1\na, 0, 99\n")
    with pytest.raises(DataError) as raised:
        read_cut_times(path, {"a.wav": 10.0})
    text = str(raised.value)
    for words in ("line 3: no recording is called 'b'", "line 4", "'x' is no time", "line 6", "(10.00 s)"):
        assert words in text


def test_a_table_with_headings_and_quoted_names_is_read_as_times(tmp_path):
    path = tmp_path / "times.csv"
    path.write_text('file,start,end,name\r\n"slow, then fast.wav",0:01,3.25,slow\r\nb,2,,\r\n', encoding="utf-8-sig")
    found = read_cut_times(path, {"slow, then fast.wav": 9.0, "b.flac": 4.0})
    assert [(p.source, p.start, p.end, p.name) for p in found] == [
        ("slow, then fast.wav", 1.0, 3.25, "slow"),
        ("b.flac", 2.0, 4.0, ""),
    ]


def test_an_empty_times_file_and_a_missing_one_are_refused(tmp_path):
    (tmp_path / "times.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="holds no line"):
        read_cut_times(tmp_path / "times.txt", {"a.wav": 1.0})
    with pytest.raises(DataError, match="cannot be read"):
        read_cut_times(tmp_path / "gone.txt", {"a.wav": 1.0})
