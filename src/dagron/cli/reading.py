"""What every command that looks at a checkpoint needs: which directory is meant, and what its journal says.

Reads without the lock, also while a run writes; changes and unpickles nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from dagron.cli.exit_codes import NoCheckpointError, UsageError
from dagron.cli.place import Place, Where
from dagron.errors import CheckpointDamagedError, CheckpointDirectoryError, CycleError

if TYPE_CHECKING:
    from dagron.checkpoint.files.directory import Directory
    from dagron.checkpoint.reading.ledger import Ledger
    from dagron.graph.dag import DAG

__all__ = [
    "State",
    "dag_for",
    "directory_of",
    "read_checkpoint",
    "recorded_dag",
    "state_of_run",
]

State = Literal["running", "interrupted", "finished", "unknown"]
"""How a run stands: `interrupted` has ended without saying so, `unknown` is or was on another machine."""


def directory_of(where: Place) -> Directory:
    """Return the checkpoint directory that is meant."""
    from dagron.checkpoint.files.directory import Directory
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
        missing = NoCheckpointError(where.path, _checkpoints_near(where))
        if isinstance(where, Where) and where.is_up_to_the_job:
            missing.add_note(f"{where.given!r} says itself where its checkpoint is, so give that directory")
        raise missing
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


def state_of_run(directory: Directory, ledger: Ledger) -> State:
    """Tell whether the last run of a checkpoint goes on. The kernel knows, as the run has marked the directory.

    So it holds from inside and outside of containers, whatever became of its process id, its host name or the clock.

    Args:
        directory: The checkpoint directory.
        ledger: What its journal says; brought up to date, if the run may have ended since it was read.

    Raises:
        CheckpointError: The journal can no longer be read.
    """
    from dagron.checkpoint.files.marks import is_marked
    from dagron.checkpoint.files.mounts import is_shared
    from dagron.checkpoint.format.names import LOCK
    from dagron.checkpoint.reading.boot import boot_id
    from dagron.checkpoint.reading.opening import read_on, signing_key

    while ledger.ended is None:
        marked = is_marked(directory.path, LOCK)
        if marked:
            return "running"
        known = ledger.sequence
        found = read_on(ledger, directory, signing_key())
        if found is not ledger and found is not None:
            return "running"  # another has taken its place a moment ago
        if ledger.sequence == known:
            # Marks of another machine are not to be seen from here, unless its file system tells of them.
            may_be_elsewhere = ledger.run.boot != boot_id() and is_shared(directory.path)
            return "unknown" if marked is None or may_be_elsewhere else "interrupted"
    return "finished"
