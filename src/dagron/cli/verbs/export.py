"""`dagron export`: the figures of every node as CSV or JSON, for scripts and benchmarks."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields

import click

from dagron.cli.command import option, verb, where_argument
from dagron.cli.ending import write_file
from dagron.cli.exit_codes import ExitCode
from dagron.cli.place import Place, PlaceType, Where
from dagron.cli.reading import figures_now, read_checkpoint
from dagron.looking.opening import recorded_dag
from dagron.results.tables import NodeFigures

__all__ = ["export"]

_EPILOG = """Columns:

\b
  name, state, attempts, slot, started_unix, duration_seconds, cpu_seconds,
  peak_rss_bytes, result_bytes, error, system_seconds, ended_unix, stored_bytes

Examples:

\b
  dagron export job.py > nodes.csv
  dagron export job.py -o nodes.json
  dagron export job.py --format json | jq 'map(.cpu_seconds) | add'
"""


_FORMATS = ("csv", "json")


def _as_csv(nodes: Sequence[NodeFigures]) -> str:
    """Return figures as CSV with a line of titles."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([field.name for field in fields(NodeFigures)])
    writer.writerows(asdict(node).values() for node in nodes)
    return file.getvalue()


@verb(_EPILOG)
@where_argument
@option("--output", "-o", type=PlaceType(), metavar="FILE", help="Default: stdout.")
@option("--format", "-f", "chosen", type=click.Choice(_FORMATS), help="Default: that of the name of FILE, else csv.")
def export(where: Where, output: Place | None, chosen: str | None) -> ExitCode:
    """Write the figures of every node: state, attempts, slot, start, duration, CPU time, peak memory, result size.

    Reads from outside, also while a run goes on. Seconds and bytes throughout.
    """
    ledger = read_checkpoint(where)
    nodes = figures_now(ledger, recorded_dag(ledger), where)
    chosen = chosen or ("json" if output is not None and os.path.splitext(output.shown)[1] == ".json" else "csv")
    text = _as_csv(nodes) if chosen == "csv" else json.dumps([asdict(node) for node in nodes], indent=1) + "\n"
    write_file(output, text)
    return ExitCode.OK
