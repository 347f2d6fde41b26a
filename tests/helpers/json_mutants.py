"""Mutated JSON texts, as damaged or hostile files hold them."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

NASTY = (
    *(None, True, False, 0, -1, 1, 2, 3.5, 1e308, -1e-308, 10**18, 10**40, 2**31, "", "x", "8", "false", "../../x"),
    *("\0", "\ud800", "\x1b[31m", "a" * 3000, [], {}, [[]], [1, "a"], {"a": 1}, {"": None}, [None], ".*.*.*.*y"),
)


RAW = ('"\\ud800"', "1e999", "NaN", "-Infinity", "[" * 5000, "1" * 5000, '{"a":' * 300, "\xff", '"\\u0000"')


def mutate_value(draw: random.Random, value: Any) -> Any:
    """Replace, remove or double one entry at a random depth."""
    value = copy.deepcopy(value)
    node = value
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.7:
            node = node[key]
            continue
        action = draw.random()
        if action < 0.75:
            node[key] = draw.choice(NASTY)
        elif action < 0.9:
            del node[key]
        elif isinstance(node, dict):
            node[draw.choice(["x", "\ud800", "a" * 2000, "9_1", "0_99999"])] = node[key]
        else:
            node.append(node[key])
        return value


def mutate_text(draw: random.Random, text: str) -> bytes:
    """Overwrite, cut or insert a few characters."""
    start = draw.randrange(len(text))
    end = min(len(text), start + draw.choice([0, 1, 1, 8]))
    inserted = draw.choice(["", "0", "-", "9", '"', "}", ",", *RAW])
    data = (text[:start] + inserted + text[end:]).encode("latin-1", "replace")
    return data[: draw.randrange(len(data))] if draw.random() < 0.1 else data


def mutants(seed: int, text: str, count: int) -> list[bytes]:
    draw = random.Random(seed)
    value = json.loads(text)
    return [
        json.dumps(mutate_value(draw, value)).encode() if draw.random() < 0.7 else mutate_text(draw, text)
        for _ in range(count)
    ]
