"""Which nodes are drawn as one, so that never more than a screenful is drawn. Pure; linear for each level of groups.

What a graph of many nodes is made of is in their names as a rule: `count[0]`, `count[1]`, … or `file:a.py`, `file:b`.
So nodes are grouped by the pattern of their names; where there are too many patterns, by what the names begin with;
where all are alike, by level; and where even that tells nothing apart, into stretches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from dagron.looking.groups import pattern_of
from dagron.report.model import Group

__all__ = ["MAX_SHOWN", "group_nodes"]

MAX_SHOWN = 40
"""Boxes that a person can take in, and that are laid out in well under a second in a browser."""

_HEAD = re.compile(r"[^:/\[(#@|=\s]+")
_WORD = re.compile(r"[^\W\d_]+")

Key = TypeVar("Key", str, int)
Split = list[tuple[str, list[int]]]


def group_nodes(names: Sequence[str], levels: Sequence[int] | None = None) -> tuple[list[int], Group]:
    """Group nodes.

    Args:
        names: Their names, in the order of the DAG.
        levels: Their levels, if they are known.

    Returns:
        An order of the nodes in which each group is a stretch, and the group of all.
    """
    order: list[int] = []

    def grouped(label: str, members: list[int]) -> Group:
        group = Group(label, len(order), len(order) + len(members))
        if len(members) <= MAX_SHOWN:
            order.extend(members)
        else:
            group.parts = [
                grouped(names[part[0]] if len(part) == 1 else part_label, part)
                for part_label, part in _split(members, names, levels)
            ]
        return group

    root = grouped("all nodes", list(range(len(names))))
    return order, root


def _split(members: list[int], names: Sequence[str], levels: Sequence[int] | None) -> Split:
    for label_of in (pattern_of, _head_of, _word_of):
        parts = _by(members, [label_of(names[i]) for i in members])
        if 1 < len(parts) <= MAX_SHOWN:
            return list(parts.items())
    if levels is not None:
        by_level = _by(members, [levels[i] for i in members])
        if len(by_level) > 1:
            return _merged(sorted(by_level.items()))
    return _stretches(members, names)


def _by(members: list[int], keys: Iterable[Key]) -> dict[Key, list[int]]:
    parts: dict[Key, list[int]] = {}
    for i, key in zip(members, keys, strict=True):
        parts.setdefault(key, []).append(i)
    return parts


def _head_of(name: str) -> str:
    head = _HEAD.match(name)
    if head is None:
        return "…"
    return head[0] if head.end() == len(name) else f"{head[0]}{name[head.end()]}…"


def _word_of(name: str) -> str:
    word = _WORD.match(name)
    return f"{word[0]}…" if word is not None else "…"


def _merged(by_level: list[tuple[int, list[int]]]) -> Split:
    """Join neighbouring levels until few enough are left, of about the same number of nodes."""
    if len(by_level) <= MAX_SHOWN:
        return [(f"level {level}", part) for level, part in by_level]
    # Half of what may be shown, as each level that is large enough alone may end a part before it is full.
    target = 2 * sum(len(part) for _, part in by_level) / MAX_SHOWN
    parts: Split = []
    span: list[int] = []
    joined: list[int] = []

    def end_part() -> None:
        nonlocal joined
        if joined:
            label = f"level {span[0]}" if len(span) == 1 else f"levels {span[0]} to {span[-1]}"
            parts.append((label, joined))
            span.clear()
            joined = []

    for level, part in by_level:
        if len(part) >= target:
            end_part()
        span.append(level)
        joined.extend(part)
        if len(joined) >= target:
            end_part()
    end_part()
    return parts


def _stretches(members: list[int], names: Sequence[str]) -> Split:
    n_parts = min(MAX_SHOWN, -(-len(members) // MAX_SHOWN))
    size = -(-len(members) // n_parts)
    parts = [members[start : start + size] for start in range(0, len(members), size)]
    return [(f"{names[part[0]]} … {names[part[-1]]}", part) for part in parts]
