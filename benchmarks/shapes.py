"""Graphs with the dependence patterns of Task Bench, and its measure of the smallest task that pays.

Written from the definitions in Slaughter et al., "Task Bench", SC 2020. A graph is a dict from a node's name to those
of its parents; node `s012c03` stands in step 12 and column 3, and has parents in the step before only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

Graph = dict[str, list[str]]

RADIX = 3
PERIOD = 3
FRACTION = 0.25


def _near(column: int) -> list[int]:
    return [column + offset for offset in range(-(RADIX // 2), RADIX // 2 + 1)]


def _fft(step: int, column: int, width: int) -> list[int]:
    distance = 1 << (step - 1) % max(1, (width - 1).bit_length())
    return [column - distance, column, column + distance]


def _spread(step: int, column: int, width: int) -> list[int]:
    return [(column + i * width // RADIX + (step % PERIOD if i else 0)) % width for i in range(RADIX)]


def _random_nearest(step: int, column: int, width: int) -> list[int]:
    chance = random.Random(f"{step % PERIOD} {column} {width}")
    return [other for other in _near(column) if chance.random() < FRACTION or other == column]


def _tree(step: int, column: int, width: int) -> list[int]:
    return [column // 2]


PARENTS: dict[str, Callable[[int, int, int], Iterable[int]]] = {
    "independent": lambda step, column, width: (),
    "stencil_1d": lambda step, column, width: _near(column),
    "fft": _fft,
    "tree": _tree,
    "all_to_all": lambda step, column, width: range(width),
    "spread": _spread,
    "random_nearest": _random_nearest,
}


def graph(shape: str, width: int, steps: int) -> Graph:
    """Return a graph of so many columns and steps; a tree begins with one column and doubles up to the width."""

    def columns(step: int) -> range:
        return range(min(width, 1 << step)) if shape == "tree" else range(width)

    found: Graph = {}
    for step in range(steps):
        for column in columns(step):
            before = columns(step - 1) if step else range(0)
            parents = sorted({parent for parent in PARENTS[shape](step, column, width) if parent in before})
            found[f"s{step:03d}c{column:02d}"] = [f"s{step - 1:03d}c{parent:02d}" for parent in parents]
    return found


def smallest_granularity(points: Sequence[tuple[float, float]], efficiency: float = 0.5) -> float | None:
    """Return METG(50 %): the least wall time x slots / tasks at which that efficiency is kept; None if it never is.

    Args:
        points: Granularity in seconds and efficiency, from the longest task to the shortest.
        efficiency: What is to be kept. Between the last point that keeps it and the next one it is interpolated.
    """
    kept = [i for i, (_, found) in enumerate(points) if found >= efficiency]
    if not kept:
        return None
    last = min(kept, key=lambda i: points[i][0])
    granularity, found = points[last]
    if last + 1 < len(points):
        shorter, lower = points[last + 1]
        if shorter < granularity and lower < found:
            granularity = shorter + (efficiency - lower) * (granularity - shorter) / (found - lower)
    return granularity
