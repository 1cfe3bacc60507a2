"""Find a checkpoint, its DAG, and whether its run goes on. Takes no lock; changes and unpickles nothing."""

from __future__ import annotations

import os
from typing import Literal

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.marks import is_marked
from dagron.checkpoint.files.mounts import is_shared
from dagron.checkpoint.format.names import JOURNAL, LOCK
from dagron.checkpoint.reading.boot import boot_id
from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.reading.opening import checkpoint_path, dag_of, read_ledger, read_on
from dagron.errors import CheckpointDamagedError, CheckpointDirectoryError, CycleError, NoCheckpointError
from dagron.graph.dag import DAG

__all__ = ["State", "directory_of", "found_ledger", "recorded_dag", "state_of_run"]

State = Literal["running", "interrupted", "finished", "running or interrupted"]
"""How a run stands. `interrupted` has ended without saying so; the last is for a run on another machine."""


def directory_of(checkpoint_dir: str | os.PathLike[str]) -> Directory:
    """Return the directory of a checkpoint."""
    return Directory(checkpoint_path(checkpoint_dir))


def found_ledger(checkpoint_dir: str | os.PathLike[str], key: bytes | None) -> Ledger:
    """Read what the journal of a checkpoint says.

    Args:
        checkpoint_dir: The directory; as text it is what the user has given.
        key: The signing key, or None.

    Raises:
        NoCheckpointError: There is none.
        CheckpointError: There is one that cannot be read.
    """
    path = os.fspath(checkpoint_dir)
    try:
        ledger = read_ledger(directory_of(path), key)
    except (OSError, ValueError) as error:  # a path that no system call takes
        raise CheckpointDirectoryError(path, getattr(error, "strerror", None) or str(error)) from error
    if ledger is None or ledger.cleared:
        raise NoCheckpointError(str(checkpoint_path(path)), _checkpoints_near(str(checkpoint_dir)))
    return ledger


def _checkpoints_near(shown: str) -> list[str]:
    found: dict[str, str] = {}
    for base in (shown, os.path.dirname(shown), "checkpoints"):
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
    try:
        found = dag_of(ledger)
        return None if found is None else DAG.from_arrays(*found)
    except (ValueError, CycleError) as error:
        raise CheckpointDamagedError(JOURNAL, 0, f"a valid record makes no sense: {error}") from error


def state_of_run(directory: Directory, ledger: Ledger, key: bytes | None) -> State:
    """Tell whether the last run of a checkpoint goes on. The kernel knows, as the run has marked the directory.

    So it holds from inside and outside of containers, whatever became of its process id, its host name or the clock.

    Args:
        directory: The checkpoint directory.
        ledger: What its journal says; brought up to date, if the run may have ended since it was read.
        key: The signing key, or None.

    Raises:
        CheckpointError: The journal can no longer be read.
    """
    while ledger.ended is None:
        marked = is_marked(directory.path, LOCK)
        if marked:
            return "running"
        known = ledger.sequence
        found = read_on(ledger, directory, key)
        if found is not ledger and found is not None:
            return "running"  # another has taken its place a moment ago
        if ledger.sequence == known:
            # Marks of another machine are not to be seen from here, unless its file system tells of them.
            may_be_elsewhere = ledger.run.boot != boot_id() and is_shared(directory.path)
            return "running or interrupted" if marked is None or may_be_elsewhere else "interrupted"
    return "finished"
