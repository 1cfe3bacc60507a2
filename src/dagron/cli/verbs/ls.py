"""`dagron ls`: the nodes of a checkpoint with their figures."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from dagron.cli.command import argument, json_option, option, verb, where_argument
from dagron.cli.ending import put, say
from dagron.cli.exit_codes import ExitCode
from dagron.cli.listing import SortKey, groups_of, selected, shown_groups, shown_nodes
from dagron.cli.place import Where
from dagron.cli.reading import figures_now, read_checkpoint
from dagron.cli.terminal import terminal_width
from dagron.looking.opening import recorded_dag
from dagron.results.status import NodeStatus

__all__ = ["ls"]

_STATE_LINES = "".join(f"  {status.label:<10} {status.meaning}\n" for status in NodeStatus)


class _StateType(click.Choice[str]):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take the word as it is listed, too: with a blank."""
        return str(super().convert(str(value).replace(" ", "_"), param, ctx))


_EPILOG = f"""States:

\b
{_STATE_LINES}
Examples:

\b
  dagron ls checkpoints/job
  dagron ls job.py --state failed --state 'timed out'
  dagron ls job.py --sort duration --limit 10
  dagron ls job.py 'count*' --json | jq '.[].cpu_seconds'
"""


@verb(_EPILOG)
@where_argument
@argument("patterns", "[PATTERN]...", "Only nodes with these names; * and ? match.", type=str, nargs=-1)
@option(
    "--state",
    "-s",
    "states",
    type=_StateType([status.value for status in NodeStatus]),
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
@option("--groups", "-g", "by_group", is_flag=True, help="Nodes with like names together: what their results take.")
@option("--limit", "-n", type=click.IntRange(min=0), metavar="N", help="So many at most.")
@json_option
def ls(
    where: Where,
    patterns: tuple[str, ...],
    states: tuple[str, ...],
    sort: str,
    reverse: bool,
    by_group: bool,
    limit: int | None,
    as_json: bool,
) -> ExitCode:
    """List the nodes of a checkpoint: state, attempts, duration, CPU time, peak memory, size of the result.

    Reads from outside, also while a run goes on. Exit code 0, also if there is nothing to list.
    """
    ledger = read_checkpoint(where)
    dag = recorded_dag(ledger)
    nodes = figures_now(ledger, dag, where)
    if by_group:
        groups = groups_of(selected(nodes, patterns, states))[:limit]
        put(
            json.dumps([asdict(group) for group in groups], indent=1)
            if as_json
            else shown_groups(groups, terminal_width())
        )
        return ExitCode.OK
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
