"""What is said at the end of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dagron.cli.ending import say, tell
from dagron.cli.place import Place
from dagron.cli.program import proposed
from dagron.cli.terminal import NOT_FOR_A_LINE
from dagron.errors import InputNotLoadableError, NodeCancelledError, TaskFailedError
from dagron.results.reasons import shown_error
from dagron.results.results import ExecutionResult, NodeResult
from dagron.results.status import NodeStatus
from dagron.shown import shown_name, shown_seconds, text_of

__all__ = ["json_summary", "print_summary", "resume_command"]

_MAX_FAILURES = 10
"""Failed nodes that get a line at the end of a run; `dagron ls` has all."""


def resume_command(arguments: Sequence[str], *more: str) -> str:
    """Return the command that goes on where the run with these arguments has stopped; with more options."""
    end = arguments.index("--") if "--" in arguments else len(arguments)  # what follows is the job's
    kept = [argument for argument in arguments[:end] if argument != "--fresh"]
    if not {"--resume", "-r"} & set(kept):
        kept.append("--resume")
    return proposed(*kept, *more, *arguments[end:])


def print_summary(result: ExecutionResult, checkpoint_dir: Place, target: str, command: str) -> None:
    """Print how a run ended to standard error.

    Args:
        result: Of the run.
        checkpoint_dir: As the user knows it.
        target: The file or module of the job.
        command: What goes on from there.
    """
    total = len(result.node_results)
    restored = f" ({result.restored} restored)" if result.restored else ""
    parts = [f"{result.succeeded} of {total} nodes completed{restored}"]
    counts = {
        NodeStatus.FAILED: result.failed,
        NodeStatus.TIMED_OUT: result.timed_out,
        NodeStatus.SKIPPED: result.skipped,
        NodeStatus.CANCELLED: result.cancelled,
    }
    parts += [f"{n} {status.label}" for status, n in counts.items() if n]
    if result.retries:
        parts.append("1 retry" if result.retries == 1 else f"{result.retries} retries")
    duration = shown_seconds(result.total_duration_seconds)
    say(f"{', '.join(parts)}; {duration}; checkpoint in {shown_name(checkpoint_dir.shown)}")
    if result.ok:
        return
    if result.failed or result.timed_out:
        _print_failures(result, checkpoint_dir, target)
    if result.cancelled:
        _print_reason(result)
    say(f"to go on from here: {command}")


def json_summary(result: ExecutionResult, checkpoint_dir: Place) -> str:
    """Return how a run ended as JSON."""
    ended = (NodeStatus.FAILED, NodeStatus.TIMED_OUT)
    failures = [
        {"name": node.name, "status": node.status.value, "attempts": node.attempts, "error": _error_line(node)}
        for node in result.node_results.values()
        if node.status in ended
    ]
    fields = {
        "checkpoint_dir": checkpoint_dir.shown,
        "ok": result.ok,
        "total": len(result.node_results),
        "completed": result.succeeded,
        "restored": result.restored,
        "failed": result.failed,
        "timed_out": result.timed_out,
        "skipped": result.skipped,
        "cancelled": result.cancelled,
        "retries": result.retries,
        "seconds": result.total_duration_seconds,
        "failures": failures,
    }
    return json.dumps(fields, indent=1)


def _print_failures(result: ExecutionResult, checkpoint_dir: Place, target: str) -> None:
    ended = (NodeStatus.FAILED, NodeStatus.TIMED_OUT)
    failures = [node for node in result.node_results.values() if node.status in ended]
    for node in failures[:_MAX_FAILURES]:
        attempts = f" (attempt {node.attempts})" if node.attempts > 1 else ""
        say(f"{shown_name(node.name)}{attempts}: {_error_line(node)}")
    if len(failures) > _MAX_FAILURES:
        command = proposed("ls", checkpoint_dir.shown, "--state", "failed")
        say(f"... and {len(failures) - _MAX_FAILURES} more; to list them: {command}")
    if failures:
        first = min(failures, key=lambda node: node.started_unix)
        tell(f"\n{NOT_FOR_A_LINE.sub('', first.explain())}\n")
        if not isinstance(first.error, InputNotLoadableError):  # it would be told the same
            words = [checkpoint_dir.shown, first.name, target]
            # What looks like an option comes after two dashes, and the option before these.
            words = ["--pdb", "--", *words] if first.name.startswith("-") else [*words, "--pdb"]
            command = proposed("debug", *words)
            say(f"to try that node here: {command}")


def _print_reason(result: ExecutionResult) -> None:
    for node in result.node_results.values():
        if isinstance(node.error, NodeCancelledError):
            say(node.error.reason)
            return


def _error_line(node: NodeResult[Any]) -> str:
    error = node.error
    if isinstance(error, InputNotLoadableError):
        return shown_name(str(error))  # not shortened: it ends in a command
    if isinstance(error, TaskFailedError):
        return shown_error(error.type_name, error.message)
    # As the worker has told it: the exception itself may say something else by now, or not return.
    message = text_of(error) if node._failure is None else node._failure.message
    return shown_error(type(error).__qualname__, message)
