"""`dagron report`: a checkpoint as a page for a browser."""

from __future__ import annotations

import time

from dagron.checkpoint.reading.opening import signing_key
from dagron.cli.command import dag_option, option, verb, where_argument
from dagron.cli.ending import say, write_file
from dagron.cli.exit_codes import ExitCode
from dagron.cli.place import Place, PlaceType, Where
from dagron.cli.reading import dag_for, read_checkpoint
from dagron.errors import NoCheckpointError
from dagron.looking.nodes import running_now
from dagron.looking.opening import directory_of, recorded_dag, state_of_run
from dagron.shown import shown_bytes

__all__ = ["report"]

_EPILOG = """Examples:

\b
  dagron report job.py
  dagron report checkpoints/job -o job.html
  dagron report checkpoints/old --dag job.py
"""


def _report_page(where: Where, dag_from: str | None = None) -> str:
    """Return the page about a checkpoint, whose DAG is that of a file or module, else the one that it recorded.

    Raises:
        UsageError: There is something wrong with `dag_from`.
        NoCheckpointError: There is no checkpoint.
        CheckpointError: There is one that cannot be read.
    """
    from dagron import __version__
    from dagron.checkpoint.reading.history import read_history
    from dagron.report.build import build_report
    from dagron.report.render import render

    read_checkpoint(where)  # says best what is wrong, if something is
    history = read_history(directory_of(where), signing_key())
    if history is None or history.ledger.cleared:
        raise NoCheckpointError(where.path, [])
    dag = recorded_dag(history.ledger) if dag_from is None else dag_for(history.ledger, dag_from)
    directory = directory_of(where)
    state = state_of_run(directory, history.ledger, signing_key())
    built = build_report(
        history,
        dag,
        directory=where.shown,
        version=__version__,
        generated_unix=time.time(),
        how=state,
        running=[now.name for now in running_now(directory, history.ledger, signing_key(), state) or []],
    )
    return render(built)


@verb(_EPILOG)
@where_argument
@option(
    "--output",
    "-o",
    type=PlaceType(),
    metavar="FILE",
    default="report.html",
    show_default=True,
    help="The file to write.",
)
@dag_option
def report(where: Where, output: Place, dag_from: str | None) -> ExitCode:
    """Write a page about a checkpoint: what ran when and where, the graph, what took long, what failed.

    One file, which opens in a browser without a network. Reads from outside, also while a run goes on; changes
    nothing, and loads no result.
    """
    page = _report_page(where, dag_from)
    write_file(output, page)
    say(f"wrote '{output}', {shown_bytes(len(page.encode()))}; open it in a browser")
    return ExitCode.OK
