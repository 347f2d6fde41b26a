"""Groups of items that share a key, such as segments of one recording."""

from __future__ import annotations

from collections.abc import Sequence


def group_related(keys: Sequence[Sequence[str]]) -> list[list[int]]:
    """Group items that share a key with each other, directly or through other items (union-find).

    Args:
        keys: of each item, at least one.

    Returns:
        Numbers of the items of each group, in the order of their first items.
    """
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for own in keys:
        roots = sorted({find(key) for key in own})
        for root in roots[1:]:
            parent[root] = roots[0]
    groups: dict[str, list[int]] = {}
    for number, own in enumerate(keys):
        groups.setdefault(find(own[0]), []).append(number)
    return list(groups.values())
