"""The command line: `dagron`, or `python -m dagron`. One module per verb; importing it imports typer and no verb."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from dagron import __version__
from dagron.cli.exit_codes import MEANINGS

__all__ = ["build_app", "main"]

_EXAMPLES = """\
  dagron run job.py
  dagron run job.py --resume -w 8
  dagron run dagron.jobs.stdlib_analysis --show report > report.txt
  dagron status job.py --watch
  dagron ls job.py --sort duration --limit 10
  dagron report job.py -o report.html
"""

_EXIT_CODES = "".join(f"  {code.value:>3}  {meaning}\n" for code, meaning in MEANINGS.items())

# \b keeps a paragraph as it is.
_EPILOG = f"Examples:\n\n\b\n{_EXAMPLES}\nExit codes:\n\n\b\n{_EXIT_CODES}"

_VERBS = {
    "run": "Run the DAG of a file or a module, and checkpoint every node.",
    "status": "Show how a checkpoint stands; --watch shows a run live.",
    "ls": "List the nodes of a checkpoint with their figures.",
    "show": "Show a node: figures, result, traceback, what it printed.",
    "debug": "Run a node again in this process, with its recorded inputs.",
    "verify": "Compare every digest of a checkpoint.",
    "rerun": "Make nodes, and what is downstream of them, run again.",
    "clear": "Delete a checkpoint.",
    "graph": "Draw the DAG: Mermaid, DOT, SVG.",
    "trace": "Write a timeline for https://ui.perfetto.dev.",
    "report": "Write a page about a checkpoint for a browser.",
    "export": "Write the figures of every node as CSV or JSON.",
    "doctor": "Find out what this machine offers for a run.",
}
"""Each command, which is a function in a module of that name, and what the list of commands says of it."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dagron {__version__}")
        raise typer.Exit


def dagron(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run a DAG of CPU-bound Python tasks on worker processes; checkpoint every node; survive kill -9."""


def build_app(verbs: Iterable[str] = _VERBS) -> typer.Typer:
    """Return the command line with these commands; with all of them if none are named."""
    app = typer.Typer(
        name="dagron",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback(epilog=_EPILOG)(dagron)
    for verb in verbs:
        module = importlib.import_module(f"dagron.cli.verbs.{verb}")
        epilog = module.EPILOG
        if "Exit codes" not in epilog:
            epilog = f"{epilog}\nExit codes:\n\n\b\n{_EXIT_CODES}"
        app.command(name=verb, short_help=_VERBS[verb], epilog=epilog)(getattr(module, verb))
    return app


def main() -> None:
    """Run the command of `sys.argv` and exit with its code; `exit_codes.MEANINGS` lists them."""
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        # A result with a character that the terminal lacks is shown with an escape, not lost after a long run.
        sys.stdout.reconfigure(errors="backslashreplace")
    # A command that comes first needs no other: loading all of them would take as long again.
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    build_app([verb] if verb in _VERBS else _VERBS)()
