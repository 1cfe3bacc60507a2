"""`dagron graph`: the DAG of a checkpoint or of a job, drawn."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from dagron.cli.command import dag_option, hands_on, option, parameter_option, verb, where_argument
from dagron.cli.drawing import as_dot, as_mermaid, drawing_of
from dagron.cli.ending import write_file
from dagron.cli.exit_codes import ExitCode
from dagron.cli.place import Place, PlaceType, Where
from dagron.cli.reading import dag_for, figures_now, read_checkpoint
from dagron.cli.svg import as_svg
from dagron.errors import NoCheckpointError
from dagron.looking.invocation import Invocation

if TYPE_CHECKING:
    from dagron.graph.dag import DAG
    from dagron.results.status import NodeStatus

__all__ = ["graph"]

_EPILOG = """Examples:

\b
  dagron graph job.py -o job.svg
  dagron graph job.py --around total --depth 2
  dagron graph checkpoints/job --format dot | dot -Tpdf -o job.pdf
"""

_MAX_NODES = 500
"""Nodes that are drawn unless `--max-nodes` says more. Mermaid itself stops at 500 edges."""


_FORMATS = {"mermaid": as_mermaid, "dot": as_dot, "svg": as_svg}
_OF_SUFFIX = {".svg": "svg", ".dot": "dot", ".gv": "dot"}


def _dag_and_states(where: Where, dag_from: str | None, given: Invocation) -> tuple[DAG, dict[str, NodeStatus]]:
    try:
        ledger = read_checkpoint(where)
    except NoCheckpointError:
        target = dag_from or where.given
        if os.path.isdir(target):
            raise
        from dagron.cli.load import load_job

        return load_job(*given._replace(target=target)).dag, {}  # it has not run yet
    if dag_from is not None and given != Invocation(""):
        from dagron.cli.load import load_job

        dag = load_job(*given._replace(target=dag_from)).dag
    else:
        dag = dag_for(ledger, dag_from)
    return dag, {node.name: node.state for node in figures_now(ledger, dag, where)}


@hands_on
@verb(_EPILOG)
@where_argument
@option("--output", "-o", type=PlaceType(), metavar="FILE", help="Default: stdout.")
@option(
    "--format",
    "-f",
    "chosen",
    type=click.Choice(list(_FORMATS)),
    help="Default: that of the name of FILE, else mermaid.",
)
@option("--around", metavar="NODE", multiple=True, help="Only what is near it. May be repeated.")
@option(
    "--depth",
    type=click.IntRange(min=0),
    metavar="N",
    default=1,
    show_default=True,
    help="How many edges away is near.",
)
@option(
    "--max-nodes", type=click.IntRange(min=1), metavar="N", default=_MAX_NODES, show_default=True, help="Draw no more."
)
@dag_option
@parameter_option
def graph(
    where: Where,
    output: Place | None,
    chosen: str | None,
    around: tuple[str, ...],
    depth: int,
    max_nodes: int,
    dag_from: str | None,
    parameters: tuple[tuple[str, str], ...],
    arguments: tuple[str, ...],
) -> ExitCode:
    """Draw the DAG, with its nodes coloured by their states: as Mermaid, DOT or SVG.

    Draws a TARGET that has not run yet, too, and gives it what you say. Reads from outside, also while a run goes on.
    """
    dag, states = _dag_and_states(where, dag_from, Invocation("", arguments, parameters))
    drawing = drawing_of(dag, states, around, depth, max_nodes)
    if chosen is None:
        chosen = _OF_SUFFIX.get(os.path.splitext(output.shown)[1], "mermaid") if output is not None else "mermaid"
    write_file(output, _FORMATS[chosen](drawing))
    return ExitCode.OK
