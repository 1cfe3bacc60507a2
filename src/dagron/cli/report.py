"""`dagron report`: a checkpoint as a page for a browser."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from dagron.cli.ending import carry_out, put, say
from dagron.cli.exit_codes import ExitCode, OutputError, UsageError
from dagron.cli.status import checkpoint_status, signing_key

__all__ = ["made_report", "report"]


def made_report(checkpoint_dir: str | os.PathLike[str], target: str | None = None) -> str | None:
    """Return the page about a checkpoint; None if there is none. Reads without its lock, and unpickles nothing.

    Args:
        checkpoint_dir: The directory.
        target: The file or module that defines the DAG, or None. It is imported.

    Raises:
        UsageError: Jinja is not installed, or the target is wrong.
        CheckpointError: There is a checkpoint that cannot be read.
    """
    try:
        from dagron.report.render import render
    except ImportError as error:
        raise UsageError(f"a report needs {error.name}: pip install 'dagron[report]'") from error
    from dagron import __version__
    from dagron.checkpoint.files import Directory
    from dagron.checkpoint.history import read_history
    from dagron.checkpoint.view import checkpoint_path
    from dagron.report.build import build_report

    status = checkpoint_status(checkpoint_dir)
    if status is None:
        return None
    history = read_history(Directory(checkpoint_path(checkpoint_dir)), signing_key())
    if history is None:
        return None  # cleared between the two looks
    dag = None
    if target is not None:
        from dagron.cli.load import load_job

        dag = load_job(target).dag
    built = build_report(
        history,
        dag,
        directory=os.fspath(checkpoint_dir),
        version=__version__,
        generated_unix=time.time(),
        how="running or interrupted" if status.state == "unknown" else status.state,
    )
    return render(built)


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The checkpoint directory.", show_default=False)],
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]",
            help="The job that was run, a file or a module: tells the edges of the DAG. It is imported.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; - for standard output.")] = Path(
        "report.html"
    ),
) -> None:
    """Write a page about a checkpoint: what ran when and where, the graph, what took long, what failed.

    One file, which opens in a browser without a network. Reads the checkpoint from outside, also while a run is
    writing it; changes nothing, and loads no result. Needs `pip install 'dagron[report]'`.
    """

    def work() -> ExitCode:
        page = made_report(directory, target)
        if page is None:
            say(f"error: there is no checkpoint in '{directory}'")
            return ExitCode.CHECKPOINT
        if str(output) == "-":
            put(page)
            return ExitCode.OK
        try:
            output.write_text(page, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"'{output}'", error.strerror or str(error)) from error
        say(f"wrote {output} ({len(page.encode()) / 2**20:.1f} MiB)")
        return ExitCode.OK

    carry_out(work)
