"""Betweenness of a small-world network: how many shortest paths lead over each node. Map and reduce, even parts.

The sources are cut into chunks, and the partial sums are added in a tree, eight at a time, in a fixed order: so a run
gives the same bits as a plain loop over the same tree on the same Python, `serial_report`::

    build -> chunk[<n>] -> sums1[<n>] -> sums2[<n>] -> total -> top
               (120)         (15)          (2)

140 nodes, 258 edges; bootstraps and permutation tests have the same form. The node `build` returns the network, which
all chunks read. Run it with `dagron run dagron.jobs.betweenness --show top`.

The network is that of `networkx.watts_strogatz_graph(3000, 10, 0.1, seed=1)`, and the method the one of U. Brandes, A
faster algorithm for betweenness centrality, J. Math. Sociol. 25 (2001), 163-177.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from dagron.flow import Flow

__all__ = [
    "SMALL_WORLD",
    "Shape",
    "add_up",
    "build",
    "flow",
    "partial_betweenness",
    "serial_report",
    "small_world",
    "write_top",
]

FAN_IN = 8
"""Sums that are added at a time: so the 120 chunks are added in three levels."""

N_SHOWN = 20
"""Nodes in the report: a screen."""

Network = list[list[int]]
"""For each node its neighbours, in rising order."""


class Shape(NamedTuple):
    """A small-world network of Watts and Strogatz, and how many sources make a chunk."""

    n_nodes: int = 3_000
    n_neighbours: int = 10
    rewired: float = 0.1
    seed: int = 1
    n_chunk_sources: int = 25

    @property
    def n_chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.n_nodes // self.n_chunk_sources)


SMALL_WORLD = Shape()


def small_world(shape: Shape) -> Network:
    """Return a ring in which each node is tied to its nearest, with some of the edges rewired at random.

    Draws random numbers in the order in which networkx does, so that the network is the same.
    """
    n, draw = shape.n_nodes, random.Random(shape.seed)
    network: list[set[int]] = [set() for _ in range(n)]
    pairs = [(node, (node + step) % n) for step in range(1, shape.n_neighbours // 2 + 1) for node in range(n)]
    for first, second in pairs:
        network[first].add(second)
        network[second].add(first)
    for first, second in pairs:
        if draw.random() >= shape.rewired:
            continue
        new = draw.choice(range(n))
        while new == first or new in network[first]:
            new = draw.choice(range(n))
        network[first].remove(second)
        network[second].remove(first)
        network[first].add(new)
        network[new].add(first)
    return [sorted(neighbours) for neighbours in network]


def partial_betweenness(chunk: int, network: Network, n_chunk_sources: int) -> array[float]:
    """Return for each node what the paths from the sources of a chunk add to its betweenness, each pair both ways."""
    n = len(network)
    sums = array("d", bytes(8 * n))
    for source in range(chunk * n_chunk_sources, min((chunk + 1) * n_chunk_sources, n)):
        distances = [-1] * n
        n_paths = [0] * n
        distances[source], n_paths[source] = 0, 1
        order = [source]
        for node in order:  # which grows: breadth first
            further, ways = distances[node] + 1, n_paths[node]
            for neighbour in network[node]:
                if distances[neighbour] < 0:
                    distances[neighbour] = further
                    order.append(neighbour)
                if distances[neighbour] == further:
                    n_paths[neighbour] += ways
        shares = [0.0] * n
        for node in order[:0:-1]:
            nearer, share = distances[node] - 1, (1.0 + shares[node]) / n_paths[node]
            for neighbour in network[node]:
                if distances[neighbour] == nearer:
                    shares[neighbour] += n_paths[neighbour] * share
            sums[node] += shares[node]
    return sums


def add_up(parts: Sequence[array[float]]) -> array[float]:
    """Return the sums of the parts, which are added in their order."""
    return array("d", map(sum, zip(*parts, strict=True)))


def write_top(sums: array[float]) -> str:
    """Return the nodes with the highest betweenness, as a share of all pairs, and a digest of all sums."""
    n = len(sums)
    n_pairs = max((n - 1) * (n - 2), 1)
    highest = sorted(range(n), key=lambda node: (-sums[node], node))[:N_SHOWN]
    lines = [f"Betweenness of {n:,} nodes", ""]
    lines += [f"  {node:>6}  {sums[node] / n_pairs:.12f}" for node in highest]
    digest = hashlib.blake2b(",".join(map(float.hex, sums)).encode(), digest_size=16).hexdigest()
    return "\n".join([*lines, "", f"blake2b {digest}", ""])


# --- the flow --------------------------------------------------------------------------------------------------------


def build(shape: Shape = SMALL_WORLD) -> Flow:
    """Return the flow for a network; its node `top` has the report."""
    flow = Flow()
    network = flow.add("build", small_world, shape)
    chunks = range(shape.n_chunks)
    level = flow.map(
        "chunk[{:03}]", partial_betweenness, chunks, network=network, n_chunk_sources=shape.n_chunk_sources
    )
    n_levels = 0
    while len(level) > FAN_IN:
        n_levels += 1
        level = flow.map(f"sums{n_levels}" + "[{index:02}]", add_up, _groups(level))
    flow.add("top", write_top, flow.add("total", add_up, level))
    return flow


def _groups(items: list[Any]) -> list[list[Any]]:
    return [items[start : start + FAN_IN] for start in range(0, len(items), FAN_IN)]


flow = build()


# --- the same without dagron -----------------------------------------------------------------------------------------


def serial_report(shape: Shape = SMALL_WORLD) -> str:
    """Return the report that the flow gives, computed by a plain loop in this process: some 20 s for the default."""
    network = small_world(shape)
    level = [partial_betweenness(chunk, network, shape.n_chunk_sources) for chunk in range(shape.n_chunks)]
    while len(level) > FAN_IN:
        level = [add_up(group) for group in _groups(level)]
    return write_top(add_up(level))
