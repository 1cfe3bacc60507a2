"""Nodes whose names are alike, and what their results take. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["GroupBytes", "bytes_by_group", "pattern_of"]

_VARIABLE = re.compile(r"\[.*\]|\(.*\)|\d+(?:[.,:x/_-]\d+)*")


def pattern_of(name: str) -> str:
    """Return a name with `*` for what is in brackets and for numbers."""
    return _VARIABLE.sub(lambda match: {"[": "[*]", "(": "(*)"}.get(match[0][0], "*"), name)


@dataclass(frozen=True, slots=True)
class GroupBytes:
    """What the results of completed nodes with like names take.

    Attributes:
        group: The pattern of their names; the name of a node that is alone.
        nodes: How many they are.
        result_bytes: The size of their pickled results.
        stored_bytes: What these take in the checkpoint: less if they are compressed, nothing if they were not kept.
    """

    group: str
    nodes: int
    result_bytes: int
    stored_bytes: int


def bytes_by_group(nodes: Iterable[tuple[str, int, int]]) -> list[GroupBytes]:
    """Return what results take, by group, the largest first.

    Args:
        nodes: The name of each node, the size of its pickled result, and what that takes in the checkpoint.
    """
    groups: dict[str, list[int]] = {}
    first: dict[str, str] = {}
    for name, size, stored in nodes:
        pattern = pattern_of(name)
        found = groups.setdefault(pattern, [0, 0, 0])
        first.setdefault(pattern, name)
        found[0] += 1
        found[1] += size
        found[2] += stored
    made = [GroupBytes(first[pattern] if group[0] == 1 else pattern, *group) for pattern, group in groups.items()]
    return sorted(made, key=lambda group: (-group.stored_bytes, -group.result_bytes))
