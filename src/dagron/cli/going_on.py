"""Whether a run goes on from a checkpoint or starts again: as asked for, or else by asking."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

from dagron.cli.exit_codes import UsageError
from dagron.errors import NoCheckpointError

if TYPE_CHECKING:
    from dagron.cli.origin import Identity
    from dagron.cli.place import Place
    from dagron.looking.status import CheckpointStatus

__all__ = ["goes_on"]


def goes_on(directory: Place, identity: Identity, *, resume: bool, fresh: bool, allow_untrusted: bool = False) -> bool:
    """Decide whether a run resumes, and make way for it if it does not.

    Without a word about it, a checkpoint in which no node has completed is superseded. If one has, the user is
    asked where there is a terminal; elsewhere that is an error, as neither answer is right in every case.

    Args:
        directory: The checkpoint directory.
        identity: The job that is to be run.
        resume: The user wants to go on.
        fresh: The user wants to start again.
        allow_untrusted: Accept a checkpoint that another user owns or that everyone may write.

    Raises:
        UsageError: There is a checkpoint, no word about it, and nobody to ask; or the answer was to leave it.
        CheckpointError: There is one that is being written, or cannot be read.
        OtherJobError: There is one of another job.
    """
    from dagron.cli.reading import read_checkpoint, status_now
    from dagron.errors import CheckpointDamagedError
    from dagron.executor import CheckpointExecutor
    from dagron.graph.dag import DAG

    if resume:
        return True
    try:
        ledger = read_checkpoint(directory)
    except NoCheckpointError:
        return False
    except CheckpointDamagedError:
        if not fresh:
            raise
        # `execute` supersedes only what it can read.
        CheckpointExecutor(DAG([]), directory, allow_untrusted=allow_untrusted).clear_checkpoint()
        return False
    if fresh:
        return False
    identity.refuse_other(ledger)
    found = status_now(ledger, directory)
    if not found.completed:
        return False
    if found.state == "running":
        _check_that_nobody_holds(directory, allow_untrusted=allow_untrusted)
    return _asked(found)


def _check_that_nobody_holds(directory: Place, *, allow_untrusted: bool) -> None:
    from dagron.checkpoint.reading.opening import checkpoint_path, signing_key
    from dagron.checkpoint.writing.store import CheckpointStore

    # The lock knows better: the process may have ended that run and live on, as a notebook does.
    store = CheckpointStore(checkpoint_path(directory), signing_key=signing_key(), allow_untrusted=allow_untrusted)
    try:
        store.open()
    finally:
        store.close()


def _asked(found: CheckpointStatus) -> bool:
    from dagron.cli.question import ask, is_interactive
    from dagron.shown import shown_seconds

    failed = f", {len(found.failed)} failed" if found.failed else ""
    done = f"{found.completed}/{found.total} nodes completed{failed}"
    if not is_interactive():
        what = f"{found.checkpoint_dir!r} holds a checkpoint with {done}"
        raise UsageError(f"{what}; pass --resume to go on or --fresh to start again")
    seconds = max(0.0, time.time() - datetime.fromisoformat(found.updated).timestamp())
    answers = {"r": "go on from there", "f": "start again", "q": "leave it"}
    answer = ask(f"{found.checkpoint_dir} has {done}, {shown_seconds(seconds)} ago", answers, "r")
    if answer == "q":
        raise UsageError("nothing was run")
    return answer == "r"
