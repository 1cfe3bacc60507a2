"""`dagron status`: what a checkpoint says about itself, read from outside."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dagron.cli.ending import carry_out, put
from dagron.cli.exit_codes import ExitCode

__all__ = ["CheckpointStatus", "FailedNode", "checkpoint_status", "shown_status", "signing_key", "status"]

State = Literal["running", "interrupted", "finished", "unknown"]

_MAX_FAILURES = 20
_BAR_WIDTH = 40

_CLOCK_SLACK_SECONDS = 60
"""A process that is younger than the run by more than this has only inherited its pid. The creation time of a process
is derived from the clock, which may have been set since, and is good to a second at best."""


@dataclass(frozen=True, slots=True)
class FailedNode:
    """A node whose last attempt failed."""

    name: str
    status: str
    type: str
    message: str
    attempts: int


@dataclass(frozen=True, slots=True)
class CheckpointStatus:
    """How a checkpoint stands; the fields of `dagron status --json`.

    Attributes:
        checkpoint_dir: As it was given.
        state: `running`; `interrupted`: its run has ended without saying so; `finished`: its run came to its end, also
            if nodes failed; `unknown`: its run is or was on another machine.
        pid: The process of the last run.
        host: Its machine.
        since: When it began, as ISO-8601 in UTC.
        total: Nodes of the DAG.
        completed: Nodes that completed.
        failed: Those that failed or timed out.
        runs: How many runs there were.
        updated: When it was last written, as ISO-8601 in UTC.
        durability: `power` or `process`.
        cpu_seconds: User and system time that the completed nodes took.
        wall_seconds: Time that they took, one after the other.
        result_bytes: Size of their pickled results.
        n_damaged: Stretches of the journal that cannot be read.
    """

    checkpoint_dir: str
    state: State
    pid: int
    host: str
    since: str
    total: int
    completed: int
    failed: list[FailedNode]
    runs: int
    updated: str
    durability: str
    cpu_seconds: float
    wall_seconds: float
    result_bytes: int
    n_damaged: int


def signing_key() -> bytes | None:
    """Return the key that the environment gives, as `CheckpointExecutor` takes it."""
    from dagron.executor import SIGNING_KEY_VARIABLE

    return os.fsencode(os.environ.get(SIGNING_KEY_VARIABLE, "")) or None


def checkpoint_status(checkpoint_dir: str | os.PathLike[str]) -> CheckpointStatus | None:
    """Read how a checkpoint stands; without its lock, also while it is written. Changes and unpickles nothing.

    Returns:
        None if there is no checkpoint.

    Raises:
        CheckpointError: There is one that cannot be read.
    """
    from dagron.checkpoint.files import Directory
    from dagron.checkpoint.view import checkpoint_path, iso_time, read_view
    from dagron.errors import CheckpointDirectoryError

    shown = os.fspath(checkpoint_dir)
    try:
        view = read_view(Directory(checkpoint_path(checkpoint_dir)), signing_key())
    except (OSError, ValueError) as error:  # a path that no system call takes
        raise CheckpointDirectoryError(shown, getattr(error, "strerror", None) or str(error)) from error
    if view is None or view.cleared:
        return None
    run, commits = view.run, view.commits.values()
    return CheckpointStatus(
        checkpoint_dir=shown,
        state="finished" if view.ended is not None else _state_of_run(run),
        pid=int(run.get("pid", 0)),
        host=str(run.get("host", "")),
        since=iso_time(float(run.get("at", 0.0))),
        total=int(run.get("total", 0)),
        completed=len(view.completed),
        failed=[_failed_node(view.failures[name]) for name in view.failed],
        runs=view.n_runs,
        updated=iso_time(view.updated_unix),
        durability=str(run.get("durability", "")),
        cpu_seconds=sum(commit.cpu_seconds for commit in commits),
        wall_seconds=sum(commit.duration_seconds for commit in commits),
        result_bytes=sum(commit.size for commit in commits),
        n_damaged=len(view.damage),
    )


def _failed_node(fields: dict[str, Any]) -> FailedNode:
    name, ended, kind, message = (str(fields.get(key, "")) for key in ("name", "status", "type", "message"))
    return FailedNode(name, ended, kind, message, int(fields.get("attempts", 0)))


def _state_of_run(run: dict[str, Any]) -> State:
    """Tell whether the process of a run that has not said that it ended is still there."""
    import psutil

    from dagron.checkpoint.store import boot_id

    if run.get("host") != platform.node():
        return "unknown"
    if run.get("boot") != boot_id():
        return "interrupted"  # the machine was started again since
    try:
        process = psutil.Process(int(run["pid"]))
        if process.status() == psutil.STATUS_ZOMBIE or process.create_time() > run["at"] + _CLOCK_SLACK_SECONDS:
            return "interrupted"
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return "interrupted"
    except psutil.AccessDenied:
        pass  # another user's, so it is there
    return "running"


# --- as text -------------------------------------------------------------------------------------------------------


def shown_status(status: CheckpointStatus, encoding: str | None, now_unix: float) -> str:
    """Return a status as text of several lines."""
    from dagron.progress import bar_cells, glyphs_for, shown_name

    glyphs = glyphs_for(encoding)
    (full,) = bar_cells([status.completed], status.total, _BAR_WIDTH)
    percent = 100 * min(status.completed, status.total) // status.total if status.total else 100
    bar = glyphs.full * full + glyphs.rest * (_BAR_WIDTH - full)
    n_failed = len(status.failed)
    rows = [
        ("state", _shown_state(status)),
        ("run", f"{status.runs}, process {status.pid} on {status.host}"),
        ("since", _shown_time(status.since, now_unix)),
        ("updated", _shown_time(status.updated, now_unix)),
        ("results", f"{_shown_bytes(status.result_bytes)}, durability {status.durability}"),
        ("time", f"{_shown_seconds(status.cpu_seconds)} of CPU, {_shown_seconds(status.wall_seconds)} in tasks"),
    ]
    if status.n_damaged:
        rows.append(("damage", f"{status.n_damaged} stretches of the journal; nodes recorded there run again"))
    if n_failed:
        rows.append(("failed", str(n_failed)))
    lines = [
        shown_name(status.checkpoint_dir),
        f"{bar} {status.completed}/{status.total} {percent}%",
        *(f"{label:<8} {text}" for label, text in rows),
        *(f"  {_shown_failure(failed)}" for failed in status.failed[:_MAX_FAILURES]),
    ]
    if n_failed > _MAX_FAILURES:
        lines.append(f"  ... and {n_failed - _MAX_FAILURES} more; --json lists them all")
    return "\n".join(lines)


def _shown_state(status: CheckpointStatus) -> str:
    if status.state == "finished" and status.completed < status.total:
        return f"finished, {status.total - status.completed} nodes without a result"
    if status.state == "unknown":
        return f"running or interrupted: only {status.host} can tell"
    return status.state


def _shown_failure(failed: FailedNode) -> str:
    from dagron.cli.summary import shown_error
    from dagron.progress import shown_name

    attempts = f" (attempt {failed.attempts})" if failed.attempts > 1 else ""
    return f"{shown_name(failed.name)}{attempts}: {shown_error(failed.type, failed.message)}"


def _shown_time(iso: str, now_unix: float) -> str:
    at = datetime.fromisoformat(iso)
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S} ({_shown_seconds(max(0.0, now_unix - at.timestamp()))} ago)"


def _shown_seconds(seconds: float) -> str:
    from dagron.progress import shown_duration

    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return shown_duration(seconds)


def _shown_bytes(n: int) -> str:
    if n < 1024:
        return f"{n} bytes"
    size = float(n)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


# --- the command -----------------------------------------------------------------------------------------------------


def status(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The checkpoint directory.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Show how a checkpoint stands.

    Reads it from outside, also while a run is writing it; changes nothing, and loads no result.
    """

    def work() -> ExitCode:
        found = checkpoint_status(directory)
        if found is None:
            from dagron.cli.ending import say

            say(f"error: there is no checkpoint in '{directory}'")
            return ExitCode.CHECKPOINT
        if as_json:
            put(json.dumps(asdict(found), indent=1))
        else:
            put(shown_status(found, sys.stdout.encoding, time.time()))
        return ExitCode.OK

    carry_out(work)
