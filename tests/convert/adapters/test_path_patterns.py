"""Patterns of module names: the same verdicts as Python's matcher, in linear time."""

from __future__ import annotations

import random
import re
import time

import pytest

from musiclora.convert.adapters.path_patterns import PatternError, matches_path

PATHS = ["a", "a.b", "h.0.attn.c_attn", "transformer.h.10.attn.c_attn", "xh.1.attn", "", "a.", "aab", "q_proj"]


def by_backtracking(pattern: str, path: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", path) is not None


@pytest.mark.parametrize(
    "pattern",
    [
        r"h\.0\.attn\.c_attn",
        r"^transformer\.h\.(1|10)\.attn\..*",
        r".*attn",
        r"h\.\d+\.attn\.c_(attn|proj)",
        r"[a-c]{2,3}",
        r"(?:a|aa)+b?",
        r"(a|ab)(c|bcd)?",
        r"[^.]+",
        r"h\.[0-9]{1,2}\..*?attn$",
        r"^a$",
        r"a{2}b",
        r"()*",
        r"a{,2}b{1,}",
        r"\w+\.\d",
        r"[]a]+",
        r"[a\-z]b|q_proj",
    ],
)
def test_patterns_match_what_pythons_matcher_matches(pattern):
    assert [matches_path(pattern, path) for path in PATHS] == [by_backtracking(pattern, path) for path in PATHS]


def test_random_patterns_match_what_pythons_matcher_matches():
    draw = random.Random(5)
    parts = ["a", "b", ".", r"\.", "(", ")", "|", "*", "+", "?", "{1,2}", "^", "$", "[ab]", "(a|b)", r"\d"]
    compared = 0
    for _ in range(1500):
        pattern = "".join(draw.choices(parts, k=draw.randint(1, 7)))
        path = "".join(draw.choices("ab.0", k=draw.randint(0, 8)))
        try:
            expected = by_backtracking(pattern, path)
            found = matches_path(pattern, path)
        except (re.error, PatternError):
            continue
        compared += 1
        assert found == expected, (pattern, path)
    assert compared > 300


@pytest.mark.parametrize("pattern", [".*.*.*.*y", "(a|a)*b", "(t|tr)+(t|tr)+x", "(x+x+)+y", "((a*)*)*b"])
def test_pattern_that_hangs_a_backtracking_matcher_ends(pattern):
    start = time.process_time()
    assert not matches_path(pattern, "a" * 3000)
    assert not matches_path(pattern, "x" * 3000)
    assert time.process_time() - start < 120  # an hour and more by backtracking


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("a" * 501, "501 characters"),
        ("((a{100}){100}){100}", "too large"),
        ("(?=a)a", "look-around"),
        (r"(a)\1", "escape"),
        ("(a", "ends too early"),
        ("*a", "repeats nothing"),
        ("[a*", "ends too early"),
        ("a[", "unterminated"),
        ("(" * 60 + ")" * 60, "nested too deep"),
        ("a{3,2}", "before it begins"),
    ],
)
def test_pattern_outside_the_language_is_refused(pattern, reason):
    with pytest.raises(PatternError, match=reason):
        matches_path(pattern, "a")
