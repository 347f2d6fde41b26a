"""Regular expressions of adapter files, matched in time linear in pattern and path.

Python's own matcher backtracks: `.*.*.*.*y` against a path of 3,000 letters takes hours. Here a pattern becomes a
nondeterministic automaton, whose states are all followed at once.

Source: Thompson 1968, Regular Expression Search Algorithm (Communications of the ACM 11:6).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

LONGEST_PATTERN = 500  # characters
_MOST_STATES = 2000  # counted repeats multiply states
_MOST_REPEATS = 100
_DEEPEST_GROUP = 20
_PLAIN = re.compile(r"[^*+?{(|]*")  # no choice to come back to: Python's matcher is linear, and faster

_CLASSES: dict[str, Callable[[str], bool]] = {
    "d": str.isdigit,
    "D": lambda c: not c.isdigit(),
    "w": lambda c: c.isalnum() or c == "_",
    "W": lambda c: not (c.isalnum() or c == "_"),
    "s": str.isspace,
    "S": lambda c: not c.isspace(),
}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}


class PatternError(ValueError):
    """A pattern that is no regular expression, or uses more of the language than paths need."""


@dataclass
class _State:
    """State of the automaton: it consumes a letter, or goes on at once where the position allows it.

    Attributes:
        takes: test of the letter to consume; None goes on without one.
        targets: numbers of the states that follow.
        anchor: `^` or `$` for a state that only the first or last position passes; else empty.
    """

    takes: Callable[[str], bool] | None
    targets: list[int]
    anchor: str = ""


_Fragment = tuple[int, list[int]]  # first state, and the states whose targets are still open


@functools.lru_cache(maxsize=4096)
def compile_pattern(pattern: str) -> tuple[_State, ...]:
    """Compile a pattern: letters, escapes, classes, groups, alternatives, repeats and anchors.

    Raises:
        PatternError: longer than 500 characters, malformed, or with look-around, back references or flags.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise PatternError(f"{len(pattern)} characters are too many for a pattern of paths")
    parser = _Parser(pattern)
    first, ends = parser.alternatives(0)
    if parser.position < len(pattern):
        raise PatternError("it has an unmatched ')'")
    accept = parser.add(_State(None, []))
    for end in ends:
        parser.states[end].targets.append(accept)
    start = parser.add(_State(None, [first]))
    return (*parser.states, _State(None, [accept, start]))


def matches_path(pattern: str, path: str, *, whole: bool = False) -> bool:
    """Match as PEFT's patterns of module names do: the whole path, or its end after a dot.

    Args:
        pattern: regular expression.
        path: of a module.
        whole: match the whole path alone, as PEFT does with target_modules and exclude_modules.

    Raises:
        PatternError: see `compile_pattern`.
    """
    if _PLAIN.fullmatch(pattern) and len(pattern) <= LONGEST_PATTERN:
        try:
            before = "" if whole else r"(?:.*\.)?"
            return re.match(rf"{before}(?:{pattern})$", path) is not None
        except re.error as error:
            raise PatternError(str(error)) from error
    states = compile_pattern(pattern)
    accept, start = states[-1].targets
    active: set[int] = set()
    for position, letter in enumerate(path):
        if position == 0 or (path[position - 1] == "." and not whole):
            active.add(start)
        reached = _close(states, active, position, len(path))
        active = {t for s in reached if (test := states[s].takes) and test(letter) for t in states[s].targets}
    if (path.endswith(".") and not whole) or not path:
        active.add(start)
    return accept in _close(states, active, len(path), len(path))


def _close(states: tuple[_State, ...], active: set[int], position: int, length: int) -> set[int]:
    """Add the states that are reached without consuming a letter."""
    reached, pending = set(active), list(active)
    while pending:
        state = states[pending.pop()]
        blocked = (state.anchor == "^" and position > 0) or (state.anchor == "$" and position < length)
        if state.takes is None and not blocked:
            fresh = [target for target in state.targets if target not in reached]
            reached.update(fresh)
            pending += fresh
    return reached


def _between(low: str, high: str) -> Callable[[str], bool]:
    return lambda c: low <= c <= high


class _Parser:
    """Recursive descent over a pattern; each method returns a fragment of the automaton."""

    def __init__(self, pattern: str) -> None:
        self.position = 0
        self.states: list[_State] = []
        self._pattern = pattern

    def add(self, state: _State) -> int:
        if len(self.states) >= _MOST_STATES:
            raise PatternError("its repeats make it too large")
        self.states.append(state)
        return len(self.states) - 1

    def alternatives(self, depth: int) -> _Fragment:
        if depth > _DEEPEST_GROUP:
            raise PatternError("its groups are nested too deep")
        branches = [self._sequence(depth)]
        while self._peek() == "|":
            self.position += 1
            branches.append(self._sequence(depth))
        if len(branches) == 1:
            return branches[0]
        fork = self.add(_State(None, [first for first, _ in branches]))
        return fork, [end for _, ends in branches for end in ends]

    def _sequence(self, depth: int) -> _Fragment:
        first = self.add(_State(None, []))
        ends = [first]
        while self._peek() not in ("", "|", ")"):
            start = self.position
            fragment = self._atom(depth)
            least, most = self._repeat()
            once = (least, most) == (1, 1)
            head, tails = fragment if once else self._repeated(fragment, least, most, start, depth)
            self._join(ends, head)
            ends = tails
        return first, ends

    def _repeated(self, once: _Fragment, least: int, most: int | None, start: int, depth: int) -> _Fragment:
        """Chain copies of an atom, which are parsed again from its text: `least` that must be there, then the rest."""
        first = self.add(_State(None, []))
        ends, skipped, after = [first], [], self.position
        copies = least + 1 if most is None else most
        for number in range(copies):
            head, tails = once
            if number:
                self.position = start
                head, tails = self._atom(depth)
            if number < least:
                self._join(ends, head)
                ends = tails
                continue
            fork = self.add(_State(None, [head]))
            self._join(ends, fork)
            if most is None:
                self._join(tails, fork)
                ends = [fork]
            else:
                skipped.append(fork)
                ends = tails
        self.position = after
        return first, ends + skipped

    def _repeat(self) -> tuple[int, int | None]:
        """Read a quantifier; lazy ones accept the same paths."""
        counts: tuple[int, int | None] = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self._peek(), (1, 1))
        if self._peek() in ("*", "+", "?"):
            self.position += 1
        elif self._peek() == "{":
            counts = self._counts()
        else:
            return counts
        if self._peek() == "?":
            self.position += 1
        if self._peek() in ("*", "+", "?", "{"):
            raise PatternError("it repeats a repeat")
        return counts

    def _counts(self) -> tuple[int, int | None]:
        end = self._pattern.find("}", self.position)
        low, comma, high = self._pattern[self.position + 1 : max(end, 0)].partition(",")
        numbers = [int(text) for text in (low or "0", high or low or "0") if text.isdecimal() and len(text) < 4]
        if end < 0 or len(numbers) != 2 or not (low or high) or max(numbers) > _MOST_REPEATS:
            raise PatternError("its counted repeat cannot be used")
        self.position = end + 1
        most = None if comma and not high else numbers[1]
        if most is not None and most < numbers[0]:
            raise PatternError("its counted repeat ends before it begins")
        return numbers[0], most

    def _atom(self, depth: int) -> _Fragment:
        letter = self._next()
        if letter == "(":
            return self._group(depth)
        if letter in "*+?{":
            raise PatternError("it repeats nothing")
        if letter in "^$":
            return self._single(None, letter)
        if letter == ".":
            return self._single(lambda c: c != "\n")
        if letter == "[":
            return self._single(self._bracket())
        if letter == "\\":
            return self._single(self._escape())
        return self._single(letter.__eq__)

    def _group(self, depth: int) -> _Fragment:
        if self._peek() == "?":
            self.position += 1
            if self._next() != ":":
                raise PatternError("it uses look-around, flags or named groups")
        fragment = self.alternatives(depth + 1)
        if self._next() != ")":
            raise PatternError("it has an unmatched '('")
        return fragment

    def _escape(self) -> Callable[[str], bool]:
        letter = self._next()
        if letter in _CLASSES:
            return _CLASSES[letter]
        if letter.isalnum() and letter not in _CONTROLS:
            raise PatternError(f"the escape '\\{letter}' is not used in patterns of paths")
        return _CONTROLS.get(letter, letter).__eq__

    def _bracket(self) -> Callable[[str], bool]:
        negated = self._peek() == "^"
        self.position += negated
        tests: list[Callable[[str], bool]] = []
        while not (self._peek() == "]" and tests):
            letter = self._next()
            if letter == "\\":
                tests.append(self._escape())
            elif self._peek() == "-" and self._pattern[self.position + 1 : self.position + 2] not in ("", "]"):
                self.position += 1
                last = self._next()
                if last == "\\" or last < letter:
                    raise PatternError("a range in brackets cannot be used")
                tests.append(_between(letter, last))
            else:
                tests.append(letter.__eq__)
        self.position += 1
        return lambda c: any(test(c) for test in tests) != negated

    def _single(self, takes: Callable[[str], bool] | None, anchor: str = "") -> _Fragment:
        state = self.add(_State(takes, [], anchor))
        return state, [state]

    def _join(self, ends: list[int], head: int) -> None:
        for end in ends:
            self.states[end].targets.append(head)

    def _peek(self) -> str:
        return self._pattern[self.position : self.position + 1]

    def _next(self) -> str:
        letter = self._peek()
        if not letter:
            raise PatternError("it ends too early")
        self.position += 1
        return letter
