"""Mapping of tensor names between containers: one table, read in both directions, proven complete."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.safetensors_file import Dtype, Layout, Shape, Tensors


@dataclass(frozen=True)
class Rule:
    """One line of a table; `{i}`, `{j}` and so on stand for numbers, the same on both sides.

    Attributes:
        source_pattern: name in the container.
        target_pattern: canonical name; None drops the tensor on import and writes none on export.
        transpose: swap the two axes of a matrix.
        reason: reason to drop a tensor.
        axes: order of the source's axes in the target, for kernels; empty where it is the same.
        expanded: the source keeps a vector [n] as [1, n, 1].
        batched: the source keeps the array with a leading axis of one.
    """

    source_pattern: str
    target_pattern: str | None
    transpose: bool = False
    reason: str = ""
    axes: tuple[int, ...] = ()
    expanded: bool = False
    batched: bool = False

    @property
    def order(self) -> tuple[int, ...]:
        """Order of the axes that turns the source into the target; empty where it stays."""
        return (1, 0) if self.transpose else self.axes


@dataclass(frozen=True)
class TensorMove:
    """Renaming of one tensor, with a permutation of its axes, or axes of one that are added or removed.

    Attributes:
        source, target: names.
        order: of the source's axes in the target, without a leading axis of one; empty where it is the same.
        squeeze, expand: turn [1, n, 1] into [n], and back.
        unbatch, batch: remove or add a leading axis of one.
    """

    source: str
    target: str
    order: tuple[int, ...] = ()
    squeeze: bool = False
    expand: bool = False
    unbatch: bool = False
    batch: bool = False

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Return the array in the target's layout (a view)."""
        if self.squeeze or self.expand:
            return array.reshape(self.shape(array.shape))
        plain = array[0] if self.unbatch else array
        moved = plain.transpose(self.order) if self.order else plain
        return moved[None] if self.batch else moved

    def shape(self, shape: Shape) -> Shape:
        """Compute the target's shape from the source's; unchanged where the number of axes does not fit."""
        if self.squeeze and len(shape) == 3 and shape[0] == shape[2] == 1:
            return shape[1:2]
        if self.expand and len(shape) == 1:
            return (1, *shape, 1)
        plain = shape[1:] if self.unbatch and shape[:1] == (1,) else shape
        moved = tuple(plain[axis] for axis in self.order) if len(self.order) == len(plain) else tuple(plain)
        return (1, *moved) if self.batch else moved

    def reversed(self) -> TensorMove:
        """Return the move that undoes this one."""
        order = tuple(int(axis) for axis in np.argsort(self.order))
        return TensorMove(self.target, self.source, order, self.expand, self.squeeze, self.batch, self.unbatch)


@dataclass(frozen=True)
class NameMapping:
    """Proven mapping: every source is moved or dropped, every target is filled exactly once."""

    moves: tuple[TensorMove, ...]
    dropped: dict[str, str]


def map_names(
    rules: Sequence[Rule], sources: Mapping[str, Shape], targets: Mapping[str, Shape], where: str
) -> NameMapping:
    """Map a container's tensors to canonical names.

    Args:
        rules: the table; the first matching line counts.
        sources: names and shapes in the container.
        targets: names and shapes of the model.
        where: file or folder, for messages.

    Raises:
        ConvertError: surplus, missing, doubled or mis-shaped tensors, all at once.
    """
    moves, dropped, problems = _apply_rules(rules, sources)
    filled: dict[str, str] = {}
    for move in moves:
        wanted = targets.get(move.target)
        found = move.shape(tuple(sources[move.source]))
        if wanted is None:
            problems.append(f"{move.source} is surplus")
        elif move.target in filled:
            problems.append(f"{move.source} is the same tensor as {filled[move.target]}")
        elif found != tuple(wanted):
            expected = list(move.reversed().shape(tuple(wanted)))
            problems.append(f"{move.source} is {list(sources[move.source])}, expected {expected}")
        filled.setdefault(move.target, move.source)
    names = {move.source: move.target for move in _reverse_rules(rules, [t for t in targets if t not in filled])}
    problems += [f"{names.get(target, target)} is missing" for target in targets if target not in filled]
    if problems:
        raise ConvertError(f"{where}: the tensors do not fit the configuration: {join_problems(problems)}")
    return NameMapping(tuple(moves), dropped)


def map_names_for_export(rules: Sequence[Rule], names: Iterable[str]) -> dict[str, TensorMove]:
    """Map canonical names to moves to the container's names.

    Raises:
        ConvertError: a name that no line of the table yields.
    """
    wanted = list(names)
    moves = {move.source: move for move in _reverse_rules(rules, wanted)}
    if missing := [name for name in wanted if name not in moves]:
        raise ConvertError(f"no rule writes {join_problems(missing)}")
    return moves


def rename_for_export(
    rules: Sequence[Rule], shapes: Mapping[str, Shape], dtypes: Mapping[str, Dtype], tensors: Tensors
) -> tuple[Layout, Iterator[tuple[str, np.ndarray]]]:
    """Rename tensors to a container's names as they stream by.

    Args:
        rules: the table.
        shapes: canonical names and shapes of all tensors.
        dtypes: stored dtype of each.
        tensors: (canonical name, array), in any order; unknown names pass through, for the writer to refuse.

    Returns:
        The layout of the container's file, and the renamed tensors.

    Raises:
        ConvertError: a name that no line of the table yields.
    """
    moves = map_names_for_export(rules, shapes)
    layout: Layout = {moves[name].target: (dtypes[name], moves[name].shape(shape)) for name, shape in shapes.items()}
    renamed = (
        (moves[name].target, moves[name].apply(array)) if name in moves else (name, array) for name, array in tensors
    )
    return layout, renamed


def moves_from_names(rules: Sequence[Rule], sources: Iterable[str]) -> list[TensorMove]:
    """List the moves of the names that the table knows; nothing is proven (see `map_names`)."""
    return _apply_rules(rules, sources)[0]


def _apply_rules(rules: Sequence[Rule], sources: Iterable[str]) -> tuple[list[TensorMove], dict[str, str], list[str]]:
    patterns = [(_compile_pattern(rule.source_pattern), rule) for rule in rules]
    moves: list[TensorMove] = []
    dropped: dict[str, str] = {}
    problems: list[str] = []
    for name in sources:
        matches = ((pattern.fullmatch(name), rule) for pattern, rule in patterns)
        match, rule = next(((m, r) for m, r in matches if m), (None, None))
        if match is None or rule is None:
            problems.append(f"{name} is surplus")
        elif rule.target_pattern is None:
            dropped[name] = rule.reason
        else:
            moves.append(_make_move(rule, name, rule.target_pattern.format(**match.groupdict())))
    return moves, dropped, problems


def _make_move(rule: Rule, source: str, target: str) -> TensorMove:
    return TensorMove(source, target, rule.order, squeeze=rule.expanded, unbatch=rule.batched)


def _reverse_rules(rules: Sequence[Rule], targets: Iterable[str]) -> Iterator[TensorMove]:
    """Yield moves from canonical names to the container's; names that no line yields are left out."""
    patterns = [(_compile_pattern(rule.target_pattern), rule) for rule in rules if rule.target_pattern is not None]
    for name in targets:
        for pattern, rule in patterns:
            if match := pattern.fullmatch(name):
                source = rule.source_pattern.format(**match.groupdict())
                yield _make_move(rule, source, name).reversed()
                break


def _compile_pattern(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    # No leading zeros: h.01 and h.1 must not become one layer.
    pieces = [re.escape(part) if k % 2 == 0 else rf"(?P<{part}>0|[1-9]\d*)" for k, part in enumerate(parts)]
    return re.compile("".join(pieces), re.ASCII)
