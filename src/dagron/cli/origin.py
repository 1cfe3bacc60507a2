"""Which job a run is of, as its record says it, and what the job was given."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from dagron.cli.exit_codes import OtherJobError
from dagron.cli.target import is_file_target, split_target
from dagron.looking.invocation import Invocation, is_file, target_of

if TYPE_CHECKING:
    from dagron.checkpoint.format.records import Origin
    from dagron.checkpoint.reading.ledger import Ledger
    from dagron.cli.load import Job
    from dagron.cli.place import Place

__all__ = ["Identity", "given_as_recorded", "shown_given", "told_if_other"]


class Identity:
    """Which job asks for a checkpoint, and whether that is the one that made it.

    A program that uses the library has no identity: it says itself which directory is whose, and may have several files
    that share one.

    Args:
        invocation: What the user has called.
        job: What was loaded for that.
        where: The directory of the checkpoint; it need not exist.
        adopts: Whether the user has said that the job takes over what another one has made.

    Attributes:
        origin: What the record of a run says about the job.
    """

    def __init__(self, invocation: Invocation, job: Job, where: Place, *, adopts: bool = False) -> None:
        from dagron.checkpoint.format.records import Origin

        source, name = split_target(invocation.target)
        # The real path of the directory: `..` leads out of that, and not to where a link to it is.
        file = os.path.relpath(job.path, os.path.realpath(where)) if job.path else ""
        self.origin = Origin(
            file.replace(os.sep, "/"),
            job.path,
            "" if is_file_target(source) else source,
            "" if name in ("flow", "tasks") else name,
            invocation.arguments,
            invocation.parameters,
        )
        self._target = invocation.target
        self._job = job
        self._where = where
        self._adopts = adopts

    def refuse_other(self, ledger: Ledger) -> None:
        """Refuse what another job has made.

        Raises:
            OtherJobError: There are results in the checkpoint, and they are another job's.
        """
        if ledger.commits and not ledger.cleared and not self._adopts and (reason := self.difference(ledger)):
            theirs = target_of(ledger.origin, self._where.path)
            raise OtherJobError(self._where.shown, theirs, self._target, reason)

    def look_before_going_on(self, ledger: Ledger) -> None:
        """Refuse what another job has made, and say it if the job was given something else in the run before.

        Raises:
            OtherJobError: As of `refuse_other`.
        """
        from dagron.cli.ending import say

        self.refuse_other(ledger)
        if not ledger.cleared and (text := told_if_other(self.origin, ledger)):
            say(text)

    def difference(self, ledger: Ledger) -> str:
        """Return how the job is known to be another one than that which made the checkpoint; empty if it is not.

        Where the other one is still there, these are two. Where it is gone, a job that has the same nodes and edges is
        taken for the same, renamed or moved.
        """
        if not ledger.origin.is_known or self._is_same(ledger):
            return ""
        if self._is_there(ledger):
            return "which is still there"
        return "" if self._has_the_same_dag(ledger) else "which is no longer there and had other nodes or edges"

    def likeness(self, ledger: Ledger) -> tuple[int, str]:
        """Return how much a job, whose checkpoint lies beside that of this one, is like it; and why, in words.

        Nothing is like it that is the same job, or of which nothing is known.
        """
        if not ledger.origin.is_known or self._is_same(ledger):
            return 0, ""
        is_gone, is_equal = not self._is_there(ledger), self._has_the_same_dag(ledger)
        reasons = [*(["is no longer there"] if is_gone else []), *(["has the same nodes"] if is_equal else [])]
        return 2 * is_gone + is_equal, f"which {' and '.join(reasons)}"

    def _places(self, theirs: Origin) -> list[str]:
        return [os.path.join(os.path.realpath(self._where), theirs.file), theirs.path] if theirs.path else []

    def _is_of_the_same_source(self, theirs: Origin) -> bool:
        if theirs.module and theirs.module == self.origin.module:
            return True
        return any(_is_same_file(path, self.origin.path) for path in self._places(theirs))

    def _is_same(self, ledger: Ledger) -> bool:
        return ledger.origin.name == self.origin.name and self._is_of_the_same_source(ledger.origin)

    def _is_there(self, ledger: Ledger) -> bool:
        theirs = ledger.origin
        if self._is_of_the_same_source(theirs):
            return self._job.defines(theirs.name)
        return any(map(is_file, self._places(theirs)))

    def _has_the_same_dag(self, ledger: Ledger) -> bool:
        return ledger.run.dag == self._job.dag.structure_digest().hex()


def _is_same_file(path: str, other: str) -> bool:
    try:
        return path == other or os.path.samefile(path, other)
    except (OSError, ValueError):
        return False


def given_as_recorded(target: str, ledger: Ledger) -> Invocation:
    """Return a target with what the last run of the checkpoint gave its job."""
    return Invocation(target, ledger.origin.arguments, ledger.origin.parameters)


def shown_given(origin: Origin | Invocation) -> str:
    """Return what a job was given, as on a command line; empty if nothing."""
    return shlex.join(Invocation("", origin.arguments, origin.parameters).words()[1:])


def told_if_other(job: Invocation | Origin, ledger: Ledger) -> str:
    """Return what to say about a run that gives its job something else than the run before; empty if it does not."""
    before = ledger.origin
    if not before.is_known or (before.arguments, before.parameters) == (job.arguments, job.parameters):
        return ""
    was, now = (f"`{text}`" if (text := shown_given(given)) else "nothing" for given in (before, job))
    kept = "; results of nodes with the same names are kept" if ledger.commits else ""
    return f"the run before gave the job {was}, this one gives it {now}{kept}"
