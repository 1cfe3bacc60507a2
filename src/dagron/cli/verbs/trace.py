"""`dagron trace`: what ran when and where, from a checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dagron.cli.command import option, verb, where_argument
from dagron.cli.ending import say, write_file
from dagron.cli.exit_codes import ExitCode
from dagron.cli.place import Place, PlaceType, Where
from dagron.cli.reading import read_checkpoint

if TYPE_CHECKING:
    from dagron.checkpoint.reading.ledger import Ledger
    from dagron.results.trace import ExecutionTrace

__all__ = ["trace", "trace_of"]

_EPILOG = """Examples:

\b
  dagron trace job.py -o trace.json
  dagron trace checkpoints/job -o /dev/stdout | gzip > trace.json.gz
"""


def trace_of(ledger: Ledger) -> ExecutionTrace:
    """Return a trace of the last attempts of all nodes that have ended, whichever run made them."""
    from dagron.results.trace import ExecutionTrace, Span

    spans = [
        Span(commit.name, max(0, commit.slot), commit.attempts, "completed", commit.figures, commit.size)
        for commit in (*ledger.commits.values(), *ledger.dropped.values())
    ]
    spans += [
        Span(failed.name, max(0, failed.slot), failed.attempts, failed.outcome, failed.figures, error=failed.error)
        for failed in ledger.failures.values()
        if failed.figures.started_unix
    ]
    start = min((span.started_unix for span in spans), default=ledger.run.at)
    n_slots = max((span.slot for span in spans), default=0) + 1
    return ExecutionTrace(n_slots, start, spans)


@verb(_EPILOG)
@where_argument
@option("--output", "-o", type=PlaceType(), metavar="FILE", required=True, help="Where to.")
def trace(where: Where, output: Place) -> ExitCode:
    """Write a timeline of a checkpoint, which https://ui.perfetto.dev opens: which slot ran what, and when.

    It has the last attempt of every node, also if runs and resumes made them days apart. `dagron run --trace` writes
    all attempts of one run. Reads from outside, also while a run goes on.
    """
    found = trace_of(read_checkpoint(where))
    write_file(output, json.dumps(found.to_chrome_trace()) + "\n")
    say(f"{len(found.spans)} attempts written to '{output}'; open it in https://ui.perfetto.dev")
    return ExitCode.OK
