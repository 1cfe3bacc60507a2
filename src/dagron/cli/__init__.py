"""The command line: `dagron`, or `python -m dagron`. One module per verb; importing it imports typer and no engine."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dagron import __version__
from dagron.cli import clear, debug, doctor, export, graph, ls, rerun, run, show, status, trace, verify
from dagron.cli.exit_codes import MEANINGS

__all__ = ["app", "main"]

_EXAMPLES = """\
  dagron run job.py
  dagron run job.py --resume -w 8
  dagron run dagron.jobs.stdlib_analysis --show report > report.txt
  dagron status job.py --watch
  dagron ls job.py --sort duration --limit 10
"""

_EXIT_CODES = "".join(f"  {code.value:>3}  {meaning}\n" for code, meaning in MEANINGS.items())

# \b keeps a paragraph as it is.
_EPILOG = f"Examples:\n\n\b\n{_EXAMPLES}\nExit codes:\n\n\b\n{_EXIT_CODES}"

app = typer.Typer(
    name="dagron",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command(epilog=f"{run.EPILOG}\nExit codes:\n\n\b\n{_EXIT_CODES}")(run.run)
for _verb in (status, ls, show, debug, verify, rerun, clear, graph, trace, export, doctor):
    app.command(epilog=_verb.EPILOG)(getattr(_verb, _verb.__name__.rpartition(".")[2]))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dagron {__version__}")
        raise typer.Exit


@app.callback(epilog=_EPILOG)
def dagron(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run a DAG of CPU-bound Python tasks on worker processes; checkpoint every node; survive kill -9."""


def main() -> None:
    """Run the command of `sys.argv` and exit with its code; `exit_codes.MEANINGS` lists them."""
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        # A result with a character that the terminal lacks is shown with an escape, not lost after a long run.
        sys.stdout.reconfigure(errors="backslashreplace")
    app()
