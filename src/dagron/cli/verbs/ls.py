"""`dagron ls`: the nodes of a checkpoint with their figures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Any

import click

from dagron.cli.command import argument, json_option, option, verb, where_argument
from dagron.cli.ending import put, say
from dagron.cli.exit_codes import ExitCode
from dagron.cli.nodes import STATES, NodeFigures, matches, node_figures, running_now
from dagron.cli.reading import directory_of, read_checkpoint, recorded_dag
from dagron.cli.table import Column, shown_bytes, shown_seconds, table, terminal_width
from dagron.shown import shown_name

__all__ = ["EPILOG", "SortKey", "ls", "selected", "shown_nodes"]

_STATE_LINES = "".join(f"  {state:<10} {meaning}\n" for state, meaning in STATES.items())

EPILOG = f"""States:

\b
{_STATE_LINES}
Examples:

\b
  dagron ls checkpoints/job
  dagron ls job.py --state failed --state timed_out
  dagron ls job.py --sort duration --limit 10
  dagron ls job.py 'count*' --json | jq '.[].cpu_seconds'
"""


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
    SortKey.STATE: lambda node: list(STATES).index(node.state),
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
        patterns: See `matches`; empty for all.
        states: The states of those that are wanted; empty for all.
        sort: Figures are sorted with the largest first, what is no figure with the smallest first; ties as in `nodes`.
        reverse: The other way round.
        limit: Return so many at most.
    """
    chosen = [
        node
        for node in nodes
        if (not states or node.state in states)
        and (not patterns or any(matches(node.name, pattern) for pattern in patterns))
    ]
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
            node.state,
            shown_name(node.name),
            str(node.attempts) if node.attempts > 1 else "",
            shown_seconds(node.duration_seconds) if node.started_unix else "",
            shown_seconds(node.cpu_seconds) if node.result_bytes or node.cpu_seconds else "",
            shown_bytes(node.peak_rss_bytes) if node.peak_rss_bytes else "",
            shown_bytes(node.result_bytes) if node.result_bytes else "",
            node.error,
        )
        for node in nodes
    ]
    return table(columns, rows, width)


@verb(EPILOG)
@where_argument
@argument("patterns", "[PATTERN]...", "Only nodes with these names; * and ? match.", type=str, nargs=-1)
@option(
    "--state",
    "-s",
    "states",
    type=click.Choice(list(STATES)),
    metavar="STATE",
    multiple=True,
    help="Only these. May be repeated.",
)
@option(
    "--sort",
    "-S",
    type=click.Choice([key.value for key in SortKey]),
    default=SortKey.DAG.value,
    metavar="KEY",
    show_default=True,
    help=f"Largest first, or by name, state or time: {', '.join(SortKey)}.",
)
@option("--reverse", "-R", is_flag=True, help="The other way round.")
@option("--limit", "-n", type=click.IntRange(min=0), metavar="N", help="So many at most.")
@json_option
def ls(
    where: str,
    patterns: tuple[str, ...],
    states: tuple[str, ...],
    sort: str,
    reverse: bool,
    limit: int | None,
    as_json: bool,
) -> ExitCode:
    """List the nodes of a checkpoint: state, attempts, duration, CPU time, peak memory, size of the result.

    Reads from outside, also while a run goes on. Exit code 0, also if there is nothing to list.
    """
    view = read_checkpoint(where)
    dag = recorded_dag(view)
    nodes = list(node_figures(view, dag, running_now(directory_of(where), view), time.time()))
    chosen = selected(nodes, patterns, states, SortKey(sort), reverse=reverse, limit=limit)
    if as_json:
        put(json.dumps([asdict(node) for node in chosen], indent=1))
    elif chosen:
        put(shown_nodes(chosen, terminal_width()))
    else:
        say(f"none of the {len(nodes)} nodes matches" if nodes else "no node has run yet")
    if dag is None and not as_json:
        say("the nodes that have not run are not known: this checkpoint has no record of its DAG")
    return ExitCode.OK
