"""Which nodes are listed, in which order, and as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from dagron.cli.table import Column, table
from dagron.looking.groups import GroupBytes, bytes_by_group
from dagron.results.patterns import matching
from dagron.results.status import NodeStatus
from dagron.results.tables import NodeFigures
from dagron.shown import shown_bytes, shown_name, shown_seconds

__all__ = ["SortKey", "groups_of", "selected", "shown_groups", "shown_nodes"]


class SortKey(StrEnum):
    """The values of `--sort`."""

    DAG = "dag"
    NAME = "name"
    STATE = "state"
    ATTEMPTS = "attempts"
    STARTED = "started"
    DURATION = "duration"
    CPU = "cpu"
    MEMORY = "memory"
    SIZE = "size"


_LARGEST_FIRST: dict[SortKey, Callable[[NodeFigures], Any]] = {
    SortKey.ATTEMPTS: lambda node: node.attempts,
    SortKey.DURATION: lambda node: node.duration_seconds,
    SortKey.CPU: lambda node: node.cpu_seconds,
    SortKey.MEMORY: lambda node: node.peak_rss_bytes,
    SortKey.SIZE: lambda node: node.result_bytes,
}
_SMALLEST_FIRST: dict[SortKey, Callable[[NodeFigures], Any]] = {
    SortKey.NAME: lambda node: node.name,
    SortKey.STATE: lambda node: list(NodeStatus).index(node.state),
    SortKey.STARTED: lambda node: node.started_unix or float("inf"),
}


def selected(
    nodes: Sequence[NodeFigures],
    patterns: Sequence[str] = (),
    states: Sequence[str] = (),
    sort: SortKey = SortKey.DAG,
    *,
    reverse: bool = False,
    limit: int | None = None,
) -> list[NodeFigures]:
    """Return the nodes that match, in the order asked for.

    Args:
        nodes: In the order of the DAG.
        patterns: See `matching`; empty for all.
        states: The states of those that are wanted; empty for all.
        sort: Figures are sorted with the largest first, what is no figure with the smallest first; ties as in `nodes`.
        reverse: The other way round.
        limit: Return so many at most.
    """
    names = {name for pattern in patterns for name in matching([node.name for node in nodes], pattern)}
    chosen = [node for node in nodes if (not states or node.state in states) and (not patterns or node.name in names)]
    if sort in _LARGEST_FIRST:
        chosen.sort(key=_LARGEST_FIRST[sort], reverse=not reverse)
    elif sort in _SMALLEST_FIRST:
        chosen.sort(key=_SMALLEST_FIRST[sort], reverse=reverse)
    elif reverse:
        chosen.reverse()
    return chosen if limit is None else chosen[:limit]


def shown_nodes(nodes: Sequence[NodeFigures], width: int | None) -> str:
    """Return a table of nodes; as wide as it needs to be if `width` is None."""
    columns = [
        Column("state"),
        Column("node", shrinks=True),
        Column("attempts", right=True),
        Column("time", right=True),
        Column("CPU", right=True),
        Column("memory", right=True),
        Column("result", right=True),
        Column("error", shrinks=True, is_prose=True),
    ]
    rows = [
        (
            node.state.label,
            shown_name(node.name),
            str(node.attempts) if node.attempts > 1 else "",
            shown_seconds(node.duration_seconds) if node.started_unix else "",
            shown_seconds(node.cpu_seconds) if node.result_bytes or node.cpu_seconds else "",
            shown_bytes(node.peak_rss_bytes) if node.peak_rss_bytes else "",
            _shown_stored(node.result_bytes, node.stored_bytes, is_dropped=node.is_dropped),
            node.error,
        )
        for node in nodes
    ]
    return table(columns, rows, width)


def _shown_stored(result_bytes: int, stored_bytes: int, *, is_dropped: bool) -> str:
    if not result_bytes:
        return ""
    if is_dropped:
        return "not kept"
    of = f" of {shown_bytes(result_bytes)}" if 0 < stored_bytes < result_bytes else ""
    return f"{shown_bytes(stored_bytes or result_bytes)}{of}"


def groups_of(nodes: Sequence[NodeFigures]) -> list[GroupBytes]:
    """Return what the results of nodes with like names take, the largest first."""
    return bytes_by_group((node.name, node.result_bytes, node.stored_bytes) for node in nodes)


def shown_groups(groups: Sequence[GroupBytes], width: int | None) -> str:
    """Return a table of groups; as wide as it needs to be if `width` is None."""
    columns = [Column("group", shrinks=True), Column("nodes", right=True), Column("result", right=True)]
    rows = [
        (
            shown_name(group.group),
            str(group.nodes),
            _shown_stored(group.result_bytes, group.stored_bytes, is_dropped=not group.stored_bytes),
        )
        for group in groups
    ]
    return table(columns, rows, width)
