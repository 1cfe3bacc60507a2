"""What every command that looks at a checkpoint needs: which directory is meant, and what its journal says.

Reads without the lock, also while a run writes; changes and unpickles nothing.
"""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Literal

from dagron.cli.exit_codes import NoCheckpointError, UsageError
from dagron.errors import CheckpointDamagedError, CheckpointDirectoryError, CycleError

if TYPE_CHECKING:
    from dagron.checkpoint.files import Directory
    from dagron.checkpoint.format.records import RunStarted
    from dagron.checkpoint.reading.ledger import Ledger
    from dagron.cli.place import Place
    from dagron.graph.dag import DAG

__all__ = [
    "dag_for",
    "directory_of",
    "read_checkpoint",
    "recorded_dag",
    "state_of_run",
]

_CLOCK_SLACK_SECONDS = 60
"""A process that is younger than the run by more than this has only inherited its pid.

The creation time of a process is derived from the clock, which may have been set since, and is good to a second at
best. A minute was never varied.
"""


def directory_of(where: Place) -> Directory:
    """Return the checkpoint directory that is meant."""
    from dagron.checkpoint.files import Directory
    from dagron.checkpoint.reading.opening import checkpoint_path

    return Directory(checkpoint_path(where))


def read_checkpoint(where: Place) -> Ledger:
    """Read what the journal of a checkpoint says.

    Raises:
        NoCheckpointError: There is none.
        CheckpointError: There is one that cannot be read.
    """
    from dagron.checkpoint.reading.opening import read_ledger, signing_key

    try:
        ledger = read_ledger(directory_of(where), signing_key())
    except (OSError, ValueError) as error:  # a path that no system call takes
        raise CheckpointDirectoryError(where.path, getattr(error, "strerror", None) or str(error)) from error
    if ledger is None or ledger.cleared:
        raise NoCheckpointError(where.path, _checkpoints_near(where))
    return ledger


def _checkpoints_near(where: Place) -> list[str]:
    from dagron.checkpoint.format.names import JOURNAL

    found: dict[str, str] = {}
    for base in (where.shown, os.path.dirname(where.shown), "checkpoints"):
        try:
            names = sorted(os.listdir(base))
        except (OSError, ValueError):
            continue
        for name in names:
            path = os.path.join(base, name)
            if os.path.isfile(os.path.join(path, JOURNAL)):
                found.setdefault(os.path.abspath(path), path)
    return [*found.values()]


def recorded_dag(ledger: Ledger) -> DAG | None:
    """Return the DAG of the last run, or None if the checkpoint does not say.

    Raises:
        CheckpointDamagedError: What it says makes no sense.
    """
    from dagron.checkpoint.format.names import JOURNAL
    from dagron.checkpoint.reading.opening import dag_of
    from dagron.graph.dag import DAG

    try:
        found = dag_of(ledger)
        return None if found is None else DAG.from_arrays(*found)
    except (ValueError, CycleError) as error:
        raise CheckpointDamagedError(JOURNAL, 0, f"a valid record makes no sense: {error}") from error


def dag_for(ledger: Ledger, target: str | None) -> DAG:
    """Return the DAG of a target, or else that of the last run.

    Raises:
        UsageError: There is no target, and the checkpoint does not say.
    """
    if target is not None:
        from dagron.cli.load import load_job
        from dagron.cli.origin import given_as_recorded

        return load_job(*given_as_recorded(target, ledger)).dag
    dag = recorded_dag(ledger)
    if dag is None:
        raise UsageError("this checkpoint has no record of its DAG; pass --dag with the file or module of the job")
    return dag


def state_of_run(run: RunStarted) -> Literal["running", "interrupted", "unknown"]:
    """Tell whether the process of a run that has not said that it ended is still there."""
    import psutil

    from dagron.checkpoint.reading.boot import boot_id

    if run.host != platform.node():
        return "unknown"
    if run.boot != boot_id():
        return "interrupted"  # the machine was started again since
    try:
        process = psutil.Process(run.pid)
        if process.status() == psutil.STATUS_ZOMBIE or process.create_time() > run.at + _CLOCK_SLACK_SECONDS:
            return "interrupted"
    except (psutil.NoSuchProcess, ValueError):
        return "interrupted"
    except psutil.AccessDenied:
        pass  # another user's, so it is there
    return "running"
