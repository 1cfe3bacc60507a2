"""Run the DAG of a file or module as the command line asks for it, and say how that ended."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dagron.cli.ending import exit_code_of_stop, put, say, stop_on_signals
from dagron.cli.exit_codes import ExitCode, OutputError, UsageError
from dagron.cli.place import Place

if TYPE_CHECKING:
    from dagron.callbacks import RunObserver
    from dagron.cli.load import Job
    from dagron.cli.origin import Identity
    from dagron.looking.invocation import Invocation
    from dagron.results.results import ExecutionResult
    from dagron.runs.options import ExecutorOptions

__all__ = ["RunRequest", "run_target"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the command line asks for, with its `words`."""

    job: Invocation
    checkpoint_dir: Place
    is_default_dir: bool
    resume: bool
    fresh: bool
    adopts: bool
    options: ExecutorOptions
    worker_init: str | None
    run_timeout: float | None
    show: tuple[str, ...]
    trace: Place | None
    progress: bool | None
    dry_run: bool
    as_json: bool
    words: tuple[str, ...]

    def resume_command(self, *more: str) -> str:
        """Return the command that goes on, with more options."""
        from dagron.cli.summary import resume_command

        return resume_command(self.words, *more)

    @property
    def inline(self) -> bool:
        """Whether the tasks run in this process."""
        return self.options.get("pool") == "inline"


def run_target(request: RunRequest) -> ExitCode:
    """Run what is asked for, print the summary, and then the results that are to be shown.

    Raises:
        DagronError: As `exit_code_of` has it.
    """
    from dagron.cli.load import load_function, load_job
    from dagron.cli.output import stdout_kept_for_results

    stop_on_signals()
    _check(request)
    here = Place(".").path
    with stdout_kept_for_results():
        try:
            job = load_job(*request.job)
            if request.is_default_dir and job.checkpoint_dir:
                request = replace(request, checkpoint_dir=Place.found(job.checkpoint_dir, here))
            if request.worker_init is not None:
                init = load_function(request.job.target, request.worker_init)
                request = replace(request, options={**request.options, "worker_init": init})
        except KeyboardInterrupt as error:
            say("interrupted; nothing was run")
            return exit_code_of_stop(error)
        if request.is_default_dir and not job.checkpoint_dir and not request.fresh:
            _say_if_renamed(job, request)
        texts, code = ([_forecast(job, request)], ExitCode.OK) if request.dry_run else _run(job, request)
    for text in texts:
        put(text)
    return code


def _say_if_renamed(job: Job, request: RunRequest) -> None:
    from dagron.cli.renamed import earlier_checkpoint

    earlier = earlier_checkpoint(request.checkpoint_dir, _identity(job, request))
    if earlier is not None:
        more = ["-d", earlier.where.shown, *(["--adopt"] if earlier.needs_adoption else [])]
        say(f"{earlier.told}; to go on with that: {request.resume_command(*more)}")


def _run(job: Job, request: RunRequest) -> tuple[list[str], ExitCode]:
    """Run, and return what is to come to standard output, and the exit code."""
    from dagron.cli.summary import json_summary, print_summary
    from dagron.errors import CheckpointDirectoryError, ResultUnavailableError

    for name in request.show:
        job.dag.index_of(name)  # rather now than at the end of a long run
    try:
        result = _execute(job, request)
    except CheckpointDirectoryError as error:
        if request.is_default_dir and not os.path.isdir(request.checkpoint_dir):
            error.add_note("-d says where else the checkpoint is to be")
        raise
    except KeyboardInterrupt as error:
        _say_what_is_kept(request)
        return [], exit_code_of_stop(error)
    print_summary(result, request.checkpoint_dir, request.job.target, request.resume_command())
    if request.trace is not None and result.trace is not None:
        try:
            result.trace.save(request.trace)
        except OSError as error:
            raise OutputError(f"'{request.trace}'", error.strerror or str(error)) from error
    texts = [json_summary(result, request.checkpoint_dir)] if request.as_json else []
    code = ExitCode.OK if result.ok else ExitCode.NODES
    for name in request.show:
        try:
            texts += _shown_result(result, name)
        except ResultUnavailableError as error:
            say(f"error: {error}")
            code = ExitCode.CHECKPOINT
    return texts, code


def _forecast(job: Job, request: RunRequest) -> str:
    from dagron.runs.forecast import forecast
    from dagron.runs.options import Options

    identity = _identity(job, request)
    look = identity.refuse_other if request.fresh else identity.look_before_going_on
    options = Options(**request.options)
    found = forecast(job.dag, job.tasks, request.checkpoint_dir, options, look, fresh=request.fresh)
    return found.as_json() if request.as_json else str(found)


def _identity(job: Job, request: RunRequest) -> Identity:
    from dagron.cli.origin import Identity

    return Identity(request.job, job, request.checkpoint_dir, adopts=request.adopts)


def _execute(job: Job, request: RunRequest) -> ExecutionResult:
    from dagron.cli.going_on import goes_on
    from dagron.cli.output import TaskOutput, retries_told
    from dagron.display.progress import ProgressBar
    from dagron.executor import CheckpointExecutor

    identity = _identity(job, request)
    resume = goes_on(
        request.checkpoint_dir,
        identity,
        resume=request.resume,
        fresh=request.fresh,
        allow_untrusted=request.options.get("allow_untrusted", False),
    )

    def begin(observer: RunObserver | bool) -> ExecutionResult:
        options: ExecutorOptions = {**request.options, "progress": observer}
        look = identity.look_before_going_on if resume else identity.refuse_other
        executor = CheckpointExecutor._of_job(identity.origin, look, job.dag, request.checkpoint_dir, **options)
        start = executor.resume if resume else executor.execute
        with retries_told():
            return start(job.tasks, run_timeout=request.run_timeout)

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
    from dagron.runs.options import Options

    Options(**request.options)  # rather now than after the question whether the run goes on
    if request.resume and request.fresh:
        raise UsageError("--resume and --fresh contradict each other")
    if request.as_json and request.show:
        raise UsageError("--json and --show both want standard output")
    if request.inline and {request.options.get("timeout"), request.options.get("memory_limit")} != {None}:
        raise UsageError("--timeout and --memory-limit kill worker processes, and --inline has none")
    if request.inline and request.options.get("max_tasks_per_worker") is not None:
        raise UsageError("--max-tasks-per-worker replaces worker processes, and --inline has none")
    # Rather now than at the end of a long run.
    trace = request.trace
    if trace is not None and (os.path.isdir(trace) or not os.path.isdir(os.path.dirname(trace.path))):
        reason = "it is a directory" if os.path.isdir(trace) else "its directory does not exist"
        raise UsageError(f"cannot write the trace to '{trace}': {reason}")


def _say_what_is_kept(request: RunRequest) -> None:
    from dagron.errors import CheckpointError
    from dagron.looking.status import checkpoint_status

    try:
        found = checkpoint_status(request.checkpoint_dir)
    except CheckpointError:
        found = None
    if found is None:
        say(f"interrupted; nothing is kept, as there is no checkpoint in {os.path.abspath(request.checkpoint_dir)}")
        return
    kept = f"{found.completed}/{found.total} nodes are kept in {request.checkpoint_dir}"
    say(f"interrupted; {kept}; to go on: {request.resume_command()}")


def _shown_result(result: ExecutionResult, name: str) -> list[str]:
    from dagron.cli.details import shown_result
    from dagron.results.status import NodeStatus

    node = result.node_results[name]
    if node.status is not NodeStatus.COMPLETED:
        say(f"node {name!r} has no result to show: it is {node.status.label}")
        return []
    return [shown_result(node.result)]
