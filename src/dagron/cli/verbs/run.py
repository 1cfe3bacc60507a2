"""`dagron run`: run the DAG of a file or module, and go on with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from dagron.cli.command import Seconds, argument, option, verb
from dagron.cli.exit_codes import ExitCode
from dagron.cli.running import RunRequest, run_target

__all__ = ["EPILOG", "run"]

EPILOG = """Examples:

\b
  dagron run job.py
  dagron run job.py --resume -w 8
  dagron run job.py --dry-run
  dagron run jobs/nightly.py:flow -d /scratch/nightly
  dagron run dagron.jobs.stdlib_analysis --show report > report.txt
"""


_CHECKPOINT = "The checkpoint"
_WORKERS = "Workers"
_FAILURES = "Failures and limits"
_OUTPUT = "Output"


@verb(EPILOG)
@argument(
    "target",
    "TARGET",
    "A .py file or a module such as dagron.jobs.stdlib_analysis. It defines `flow`, a dagron.Flow; or `tasks`, a "
    "mapping of node names to callables, and `dag`, unless the parameter names of the tasks tell. A flow of another "
    "name stands behind a colon: job.py:nightly.",
)
@option(
    "--checkpoint-dir",
    "-d",
    type=click.Path(),
    metavar="DIR",
    section=_CHECKPOINT,
    help="Default: ./checkpoints/<name of TARGET>",
)
@option("--resume", "-r", is_flag=True, section=_CHECKPOINT, help="Go on: run only what has not completed before.")
@option("--fresh", is_flag=True, section=_CHECKPOINT, help="Start again; a checkpoint that is there is superseded.")
@option(
    "--durability",
    type=click.Choice(["power", "process"]),
    default="power",
    show_default=True,
    section=_CHECKPOINT,
    help="What the checkpoint survives: a loss of power, or the end of every process only (faster).",
)
@option(
    "--workers",
    "-w",
    type=click.IntRange(min=1),
    metavar="N",
    section=_WORKERS,
    help="Default: one for each processor.",
)
@option("--inline", is_flag=True, section=_WORKERS, help="Run the tasks one by one in this process, for debuggers.")
@option(
    "--pin-cpus", is_flag=True, section=_WORKERS, help="Bind each worker to a processor of its own, for measurements."
)
@option(
    "--fail-fast/--no-fail-fast",
    default=True,
    show_default=True,
    section=_FAILURES,
    help="Skip all nodes downstream of a failed one, or only those that take its result.",
)
@option(
    "--retries",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    show_default=True,
    section=_FAILURES,
    help="Further attempts for a node that fails.",
)
@option("--node-timeout", type=Seconds(), metavar="S", section=_FAILURES, help="Kill a node that runs longer.")
@option("--timeout", type=Seconds(), metavar="S", section=_FAILURES, help="Stop the run after this many seconds.")
@option(
    "--output/--no-output",
    default=True,
    show_default=True,
    section=_OUTPUT,
    help="Show what tasks print. `dagron show` has its end in any case.",
)
@option(
    "--show",
    metavar="NODE",
    multiple=True,
    section=_OUTPUT,
    help="Print this node's result to stdout. May be repeated.",
)
@option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE",
    section=_OUTPUT,
    help="Write a timeline for https://ui.perfetto.dev.",
)
@option(
    "--progress/--no-progress",
    default=None,
    section=_OUTPUT,
    help="A bar on a terminal, lines elsewhere. Default: on a terminal only.",
)
@option(
    "--dry-run",
    is_flag=True,
    help="Only say which nodes would run, and why. Goes on unless with --fresh.",
)
@option("--json", "as_json", is_flag=True, help="Print how the run ended, or what it would do, as JSON.")
@click.pass_context
def run(context: click.Context, /, **given: Any) -> ExitCode:
    """Run the DAG of a file or a module, and checkpoint every node.

    Whatever stops it (Ctrl-C, kill -9, a loss of power), the same command with --resume goes on, and repeats no node
    that has completed. Without --resume and --fresh you are asked about a checkpoint that is there; where there is no
    terminal, that is an error (exit code 2). Messages go to stderr, and so does what tasks print; stdout has only
    what --show or --json asks for.
    """
    from dagron.cli.summary import resume_command
    from dagron.cli.target import default_checkpoint_dir

    given["checkpoint_dir"] = given["checkpoint_dir"] or default_checkpoint_dir(given["target"])
    program = context.find_root().info_name or "dagron"
    return run_target(RunRequest(**given, resume_command=resume_command(program, sys.argv[1:])))
