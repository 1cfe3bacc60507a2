"""`dagron run`: run the DAG of a file or module, and go on with it."""

from __future__ import annotations

import pprint
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dagron.cli.command import Seconds, argument, option, verb
from dagron.cli.ending import exit_code_of_stop, put, say, stop_on_signals
from dagron.cli.exit_codes import ExitCode, OutputError, UsageError

if TYPE_CHECKING:
    from dagron.callbacks import RunObserver
    from dagron.checkpoint.store import Durability
    from dagron.cli.load import Job
    from dagron.results.results import ExecutionResult

__all__ = ["EPILOG", "RunRequest", "run", "run_target"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the command line asks for; `resume_command` is what to tell the user."""

    target: str
    checkpoint_dir: str
    resume: bool
    fresh: bool
    workers: int | None
    durability: Durability
    fail_fast: bool
    timeout: float | None
    node_timeout: float | None
    retries: int
    inline: bool
    pin_cpus: bool
    output: bool
    show: tuple[str, ...]
    trace: Path | None
    progress: bool | None
    dry_run: bool
    as_json: bool
    resume_command: str


# --- what it does --------------------------------------------------------------------------------------------------


def run_target(request: RunRequest) -> ExitCode:
    """Run what is asked for, print the summary, and then the results that are to be shown.

    Raises:
        DagronError: As `exit_code_of` has it.
    """
    from dagron.cli.load import load_job
    from dagron.cli.output import stdout_kept_for_results

    stop_on_signals()
    _check(request)
    with stdout_kept_for_results():
        try:
            job = load_job(request.target)
        except KeyboardInterrupt as error:
            say("interrupted; nothing was run")
            return exit_code_of_stop(error)
        texts, code = ([_forecast(job, request)], ExitCode.OK) if request.dry_run else _run(job, request)
    for text in texts:
        put(text)
    return code


def _run(job: Job, request: RunRequest) -> tuple[list[str], ExitCode]:
    """Run, and return what is to come to standard output, and the exit code."""
    from dagron.cli.summary import json_summary, print_summary

    for name in request.show:
        job.dag.index_of(name)  # rather now than at the end of a long run
    try:
        result = _execute(job, request)
    except KeyboardInterrupt as error:
        _say_what_is_kept(request)
        return [], exit_code_of_stop(error)
    print_summary(result, request.checkpoint_dir, request.target, request.resume_command)
    if request.trace is not None and result.trace is not None:
        try:
            result.trace.save(request.trace)
        except OSError as error:
            raise OutputError(f"'{request.trace}'", error.strerror or str(error)) from error
    texts = [json_summary(result, request.checkpoint_dir)] if request.as_json else []
    texts += [text for text in (_shown_result(result, name) for name in request.show) if text is not None]
    return texts, ExitCode.OK if result.ok else ExitCode.NODES


def _forecast(job: Job, request: RunRequest) -> str:
    from dagron.cli.dry_run import forecast, shown_forecast
    from dagron.engines.local.cores import available_cpus

    found = forecast(job, request.checkpoint_dir, fresh=request.fresh)
    n_slots = 1 if request.inline else request.workers or len(available_cpus())
    return found.as_json() if request.as_json else shown_forecast(found, job.dag, n_slots)


def _execute(job: Job, request: RunRequest) -> ExecutionResult:
    from dagron.cli.going_on import goes_on
    from dagron.cli.output import TaskOutput
    from dagron.display.progress import ProgressBar
    from dagron.executor import CheckpointExecutor

    resume = goes_on(request.checkpoint_dir, resume=request.resume, fresh=request.fresh)

    def begin(observer: RunObserver | bool) -> ExecutionResult:
        executor = CheckpointExecutor(
            job.dag,
            request.checkpoint_dir,
            fail_fast=request.fail_fast,
            enable_tracing=request.trace is not None,
            max_workers=request.workers,
            durability=request.durability,
            pool="inline" if request.inline else "process",
            retries=request.retries,
            timeout=request.node_timeout,
            pin_cpus=request.pin_cpus,
            progress=observer,
            pass_output=request.output,
        )

        start = executor.resume if resume else executor.execute
        return start(job.tasks, run_timeout=request.timeout)

    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    # A debugger wants the terminal for itself.
    wanted = on_terminal and not request.inline if request.progress is None else request.progress
    if not wanted:
        return begin(False)
    if not on_terminal or request.inline:
        bar = ProgressBar()
        try:
            return begin(bar)
        finally:
            bar.close()
    with TaskOutput() as output:
        return begin(output.bar)


def _check(request: RunRequest) -> None:
    if request.resume and request.fresh:
        raise UsageError("--resume and --fresh contradict each other")
    if request.as_json and request.show:
        raise UsageError("--json and --show both want standard output")
    if request.inline and request.node_timeout is not None:
        raise UsageError("--node-timeout kills worker processes, and --inline has none")
    # Rather now than at the end of a long run.
    trace = request.trace
    if trace is not None and (trace.is_dir() or not trace.absolute().parent.is_dir()):
        reason = "it is a directory" if trace.is_dir() else "its directory does not exist"
        raise UsageError(f"cannot write the trace to '{trace}': {reason}")


def _say_what_is_kept(request: RunRequest) -> None:
    from dagron.cli.verbs.status import checkpoint_status
    from dagron.errors import CheckpointError

    try:
        found = checkpoint_status(request.checkpoint_dir)
    except CheckpointError:
        found = None
    if found is None:
        say("interrupted; nothing was run")
        return
    kept = f"{found.completed}/{found.total} nodes are kept in {request.checkpoint_dir}"
    say(f"interrupted; {kept}; to go on: {request.resume_command}")


def _shown_result(result: ExecutionResult, name: str) -> str | None:
    from dagron.results.results import NodeStatus

    node = result.node_results[name]
    if node.status is not NodeStatus.COMPLETED:
        say(f"node {name!r} has no result to show: it is {node.status.value}")
        return None
    value = node.result
    return value if isinstance(value, str) else pprint.pformat(value)


# --- the command -----------------------------------------------------------------------------------------------------


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
