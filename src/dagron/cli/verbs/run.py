"""`dagron run`: run the DAG of a file or module, and go on with it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import click

from dagron.cli.command import Seconds, argument, hands_on, option, parameter_option, untrusted_option, verb
from dagron.cli.exit_codes import ExitCode
from dagron.cli.place import Place, PlaceType
from dagron.cli.running import RunRequest, run_target

if TYPE_CHECKING:
    from dagron.runs.options import ExecutorOptions

__all__ = ["run"]

_EPILOG = """Examples:

\b
  dagron run job.py
  dagron run job.py --resume -w 8
  dagron run job.py --dry-run
  dagron run jobs/nightly.py:flow -d /scratch/nightly
  dagron run job.py -- --n 3
  dagron run job.py:make -p n=3
  dagron run dagron.jobs.stdlib_analysis --show report > report.txt
"""


_CHECKPOINT = "The checkpoint"
_WORKERS = "Workers"
_FAILURES = "Failures"
_LIMITS = "Limits"
_OUTPUT = "Output"


@hands_on
@verb(_EPILOG)
@argument(
    "target",
    "TARGET",
    "A .py file or a module such as dagron.jobs.stdlib_analysis. It defines `flow`, a dagron.Flow; or `tasks`, a "
    "mapping of node names to callables, and `dag`, unless the parameter names of the tasks tell. A flow of another "
    "name follows a colon, or a function that makes one: job.py:nightly. Where the job begins a run by itself, what "
    "that is to run is taken, and where its checkpoint is.",
)
@parameter_option
@option(
    "--checkpoint-dir",
    "-d",
    type=PlaceType(),
    metavar="DIR",
    section=_CHECKPOINT,
    help="Default: where the run is that TARGET begins by itself; else checkpoints/<name of TARGET>, beside a file, or "
    "in the working directory for a module.",
)
@option("--resume", "-r", is_flag=True, section=_CHECKPOINT, help="Go on: run only what has not completed before.")
@option("--fresh", is_flag=True, section=_CHECKPOINT, help="Start again; a checkpoint that is there is superseded.")
@option(
    "--adopt",
    "adopts",
    is_flag=True,
    section=_CHECKPOINT,
    help="Take over a checkpoint that another job has made. Default: refuse it.",
)
@option(
    "--durability",
    type=click.Choice(["power", "process"]),
    default="power",
    show_default=True,
    section=_CHECKPOINT,
    help="What the checkpoint survives: a loss of power, or the end of every process only (faster).",
)
@untrusted_option
@option(
    "--workers",
    "-w",
    "max_workers",
    type=click.IntRange(min=1),
    metavar="N",
    section=_WORKERS,
    help="How many worker processes. Default: one for each processor.",
)
@option(
    "--keep/--no-keep",
    default=True,
    section=_CHECKPOINT,
    help="Keep the results of nodes, or delete each once all nodes that take it are recorded.",
)
@option(
    "--compression",
    type=click.Choice(["zstd"]),
    section=_CHECKPOINT,
    help="Compress large results, where a sample of one shrinks.",
)
@option(
    "--max-tasks-per-worker",
    type=click.IntRange(min=1),
    metavar="N",
    section=_WORKERS,
    help="Replace a worker after so many attempts, for libraries that leak.",
)
@option(
    "--worker-init",
    metavar="NAME",
    section=_WORKERS,
    help="A function of TARGET's file or module that each worker calls once, before its first node.",
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
@option(
    "--retry-delay",
    type=Seconds(zero=True),
    metavar="S",
    default=1.0,
    show_default=True,
    section=_FAILURES,
    help="Seconds before the second attempt of a node; each further one waits twice as long.",
)
@option("--timeout", type=Seconds(), metavar="S", section=_LIMITS, help="Kill an attempt that takes longer.")
@option("--run-timeout", type=Seconds(), metavar="S", section=_LIMITS, help="Stop the run after this many seconds.")
@option(
    "--memory-limit",
    metavar="SIZE",
    section=_LIMITS,
    help="Kill an attempt whose worker, with all that it starts, takes more memory, such as '2 GB'.",
)
@option(
    "--kill-grace-seconds",
    type=Seconds(zero=True),
    metavar="S",
    default=1.0,
    show_default=True,
    section=_LIMITS,
    help="How long after SIGTERM what is killed gets SIGKILL.",
)
@option(
    "--pass-output/--no-pass-output",
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
    type=PlaceType(),
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
def run(
    target: str,
    arguments: tuple[str, ...],
    parameters: tuple[tuple[str, str], ...],
    checkpoint_dir: Place | None,
    resume: bool,
    fresh: bool,
    adopts: bool,
    worker_init: str | None,
    inline: bool,
    run_timeout: float | None,
    show: tuple[str, ...],
    trace: Place | None,
    progress: bool | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> ExitCode:
    """Run the DAG of a file or a module, and checkpoint every node.

    Whatever stops it (Ctrl-C, kill -9, a loss of power), the same command with --resume goes on, and repeats no node
    that has completed. Without --resume and --fresh you are asked about a checkpoint that is there; where there is no
    terminal, that is an error (exit code 2). Messages go to stderr, and so does what tasks print; stdout has only
    what --show or --json asks for.
    """
    from dagron.cli.target import default_checkpoint_dir
    from dagron.looking.invocation import Invocation

    request = RunRequest(
        job=Invocation(target, arguments, parameters),
        checkpoint_dir=checkpoint_dir or Place(default_checkpoint_dir(target)),
        is_default_dir=checkpoint_dir is None,
        resume=resume,
        fresh=fresh,
        adopts=adopts,
        # What is left has the names of the executor's options.
        options=cast(
            "ExecutorOptions",
            {**options, "enable_tracing": trace is not None, "pool": "inline" if inline else "process"},
        ),
        worker_init=worker_init,
        run_timeout=run_timeout,
        show=show,
        trace=trace,
        progress=progress,
        dry_run=dry_run,
        as_json=as_json,
        words=tuple(sys.argv[1:]),
    )
    return run_target(request)
