"""The writer of a checkpoint: it takes the directory, begins a run, commits, ends the run, clears.

The writer decides nothing about nodes: it is told what to commit and what no longer applies. It never unpickles. What
it says goes through `JournalWriter` into the journal and the ledger. The lock (`hold`), the beginning of a run with its
recovery (`beginning`), its commits (`committing`), its end (`ending`), the bytes of results (`results`), their files
(`result_files`) and their copies (`copying`) have modules of their own.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dagron.checkpoint.blobs import BlobFile
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.opened import is_temporary
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.records import (
    NO_ORIGIN,
    Failed,
    Invalidated,
    Origin,
    Retried,
    RunEnded,
    RunStarted,
    WorkersStarted,
)
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.format.structure import encode_dag
from dagron.checkpoint.reading.boot import boot_id
from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.reading.opening import read_ledger, retried_of
from dagron.checkpoint.reading.packed import PackedCommits
from dagron.checkpoint.writing.beginning import Beginning
from dagron.checkpoint.writing.claim import check_trust
from dagron.checkpoint.writing.clearing import clear
from dagron.checkpoint.writing.committing import Committing, PendingCommit
from dagron.checkpoint.writing.copying import CopyWriter
from dagron.checkpoint.writing.ending import Ending
from dagron.checkpoint.writing.hold import Hold
from dagron.checkpoint.writing.journal import JournalWriter, Said, refusal
from dagron.checkpoint.writing.result_files import ResultFiles
from dagron.checkpoint.writing.results import Results
from dagron.checkpoint.writing.scratches import Scratches
from dagron.checkpoint.writing.snapshot import NO_SLOTS, write_snapshot
from dagron.errors import CheckpointDirectoryError, CheckpointGoneError, CommitError
from dagron.frozen import replaced

if TYPE_CHECKING:
    from dagron.checkpoint.writing.pruning import PruneReport

__all__ = ["CheckpointStore", "Durability"]

Texts = tuple[tuple[str, str], ...]

Durability = Literal["power", "process"]


class CheckpointStore:
    """One run's hold on a checkpoint directory.

    Args:
        path: The directory, absolute.
        durability: `"power"`: what is committed survives a loss of power. `"process"`: it survives the end of every
            process, also by SIGKILL, and the flushes are saved.
        signing_key: Keys every digest and check; None for none. Never written anywhere.
        allow_untrusted: Accept a checkpoint that another user owns or that everyone may write.

    Attributes:
        ledger: What the journal says; None if there is none. It goes on with the run, but a fresh run has another one.
        directory: The directory.
        digests: How results are digested.
        worker_lost: Whether a worker died in this run; it may have left a temporary file.
        scratches: The directories in which nodes keep what they have done so far.
    """

    def __init__(
        self,
        path: Path,
        *,
        durability: Durability = "power",
        signing_key: bytes | None = None,
        allow_untrusted: bool = False,
    ) -> None:
        self.directory = Directory(path)
        self.digests = Digests(signing_key)
        self.ledger: Ledger | None = None
        self.worker_lost = False
        self.scratches = Scratches(self.directory)
        self._recovered = False
        self._key = signing_key
        self._allow_untrusted = allow_untrusted
        self._power = durability == "power"
        self._durability = durability
        self._hold = Hold(self.directory, signing_key, allow_untrusted=allow_untrusted, durable=self._power)
        self._journal: JournalWriter | None = None
        self._files = ResultFiles(self.directory, ())
        self._snapshot_due = 0.0
        self._nodes: Sequence[str] = ()

    # --- taking the directory ---------------------------------------------------------------------------------

    def open(self, *, accept_damage: bool = False) -> None:
        """Take the directory and read what is in it.

        Args:
            accept_damage: Take a checkpoint whose journal is missing or unreadable as one without commits, so that it
                can be cleared.

        Raises:
            CheckpointDirectoryError: It cannot be a checkpoint directory, or is not to be trusted.
            CheckpointLockedError: Another run holds it.
            ForeignFilesError: It holds `.pkl` files and no checkpoint.
            FormatVersionError: It has another version than ours.
            CheckpointDamagedError: The journal is missing or its header damaged.

        Guarantees:
            This process is the only writer. If an error was raised nothing was changed.

        On crash:
            The kernel releases the lock; an empty directory or an empty lock file may be left.
        """
        self.ledger = self._hold.take(accept_damage=accept_damage)

    def open_to_read(self) -> PackedCommits:
        """Read what is in the directory, for results alone. Takes no lock and changes nothing.

        Returns:
            The commits whose bytes are in place, as far as the sizes of files tell.

        Raises:
            CheckpointDirectoryError: It cannot be read, or is not to be trusted.
            FormatVersionError: It has another version than ours.
            CheckpointDamagedError: The journal is missing or its header damaged.
        """
        check_trust(self.directory, allow_untrusted=self._allow_untrusted)
        ledger = read_ledger(self.directory, self._key)
        if ledger is None or ledger.cleared:
            return PackedCommits()
        self.ledger = ledger
        self._results = Results(self.directory, ledger, self.digests)
        try:
            sizes = self.directory.sizes()
        except OSError as error:
            raise CheckpointDirectoryError(str(self.directory.path), error.strerror or str(error)) from error
        large = (c for name in ledger.commits.special if (c := ledger.commits[name]).storage == Storage.FILE)
        return ledger.commits.without({c.name for c in large if sizes.get(c.file_name) != c.stored_size})

    # --- beginning and ending a run ---------------------------------------------------------------------------

    def begin(
        self,
        *,
        fresh: bool,
        nodes: Iterable[str],
        structure: bytes,
        edges: tuple[array[int], array[int]] | None = None,
        fail_fast: bool = True,
        n_slots: int = 0,
        definitions: Texts = (),
        versions: Texts = (),
        origin: Origin = NO_ORIGIN,
        working_directory: str = "",
    ) -> PackedCommits:
        """Recover the directory and begin a run.

        Args:
            fresh: Supersede what is there, instead of going on from it.
            nodes: The names of the DAG.
            structure: `DAG.structure_digest()`.
            edges: `DAG.parent_arrays`, to be recorded; None records nothing.
            fail_fast: Whether the run skips every descendant of a node that fails.
            n_slots: Slots of the run, for those who ask how well they were used; 0 if it is not known.
            definitions: As of `RunStarted`.
            versions: As of `RunStarted`.
            origin: The job that the run is of.
            working_directory: As `RunStarted.directory`.

        Returns:
            The commits that can be restored: those whose bytes are there. They are the ledger's own, so a commit that
            is invalidated afterwards is no longer among them.

        Guarantees:
            A fresh journal replaces the old one in one step; old result files stay until they are written over or
            until `end`. Otherwise the torn tail is cut off, leftover temporary files are deleted, and missing copies
            of INLINE results are scheduled.

        On crash:
            The old checkpoint or the new, empty one.
        """
        self._nodes = nodes = list(nodes)
        old = self.ledger
        run = self._run(len(nodes), n_slots, structure, fail_fast=fail_fast)
        run = replaced(run, definitions=definitions, versions=versions, origin=origin, directory=working_directory)
        dag = encode_dag(structure, nodes, *edges) if edges is not None else b""
        try:
            sizes = self.directory.sizes()
            self._files = ResultFiles(self.directory, sizes)
            beginning = Beginning(
                self.directory, self.digests, self._files, nodes, run, dag, self._hold.mark, durable=self._power
            )
            beginning.refuse_foreign(old)
            if fresh or old is None or old.cleared:
                self._go_on(beginning.fresh(old))
            else:
                self._go_on(JournalWriter(self.directory, old, self.digests, durable=self._power))
                beginning.again(self._writing, self._copies, sizes)
            self._write_snapshot()
            # Not before: the old checkpoint may need one of them until it is superseded or recovered.
            self.directory.remove_all(filter(is_temporary, sizes))
            self._recovered = True
        except OSError as error:
            raise self._commit_error(error) from error
        is_fresh = fresh or old is None or old.cleared
        commits = self._writing.ledger.commits
        unfinished = (name for name in nodes if name not in commits and name not in self.dropped)
        self.scratches.keep(() if is_fresh else unfinished)
        return commits

    def _run(self, total: int, n_slots: int, structure: bytes, *, fail_fast: bool) -> RunStarted:
        return RunStarted(
            time.time(),
            fresh=True,
            pid=os.getpid(),
            host=os.uname().nodename,
            boot=boot_id(),
            total=total,
            fail_fast=fail_fast,
            slots=n_slots,
            structure=structure.hex(),
            dag=structure.hex(),
            durability=self._durability,
        )

    def _go_on(self, journal: JournalWriter) -> None:
        self._journal = journal
        self.ledger = journal.ledger
        self._results = Results(self.directory, journal.ledger, self.digests)
        self._copies = CopyWriter(self._files, journal, self._results.load_bytes)
        self._committing = Committing(
            self.directory, journal, self._files, self._results, self._copies, durable=self._power
        )

    @property
    def _ledger(self) -> Ledger:
        assert self.ledger is not None, "begin() comes first"
        return self.ledger

    @property
    def _writing(self) -> JournalWriter:
        assert self._journal is not None, "begin() comes first"
        return self._journal

    # --- committing -------------------------------------------------------------------------------------------

    def commit(self, pending: Sequence[PendingCommit], doubtful: Collection[str] = ()) -> None:
        """Make outcomes part of the checkpoint, as one group: see `Committing.commit`.

        Args:
            pending: At least one.
            doubtful: Nodes of these that were made from other inputs than before; see `differs`.

        Raises:
            CommitError: The disk refused. End the run; none of the group may be taken as committed.
        """
        try:
            self._committing.commit(pending, doubtful)
        except OSError as error:
            raise self._commit_error(error) from error
        self.scratches.completed(item.commit.name for item in pending)

    def drop(self, names: Sequence[str]) -> None:
        """Have the results of completed nodes deleted, which stay completed: see `Committing.drop`."""
        self._committing.drop(names)

    def fail(self, failures: Sequence[Failed]) -> None:
        """Record nodes that failed, with the time of now."""
        now = time.time()
        self._say(*(replaced(failed, at=now) for failed in failures))

    def note_retried(self, attempts: Sequence[Retried]) -> None:
        """Record attempts that failed before the last one of their nodes. Nothing relies on their being flushed."""
        self._say(*attempts, sync=False)

    def retried(self, name: str) -> list[Retried]:
        """Return what is recorded of the attempts of a node that failed before its last one.

        Raises:
            CheckpointError: That is no longer there.
        """
        return retried_of(self._ledger, self.directory, name, self.digests)

    def note_processes(self, processes: Mapping[int, float], namespace: str) -> None:
        """Record processes of this run, process id and time of creation, so that the next one can end what is left."""
        self._say(WorkersStarted(time.time(), tuple(processes.items()), namespace), sync=False)

    def reconcile(
        self,
        outdated: Sequence[str],
        absent: Sequence[str],
        structure: bytes,
        definitions: Texts = (),
        reason: str = "its set of parents changed",
    ) -> None:
        """Say that the commits have been compared with a DAG and what its script defines.

        Args:
            outdated: Nodes whose commits do not apply to it.
            absent: Nodes that it does not have.
            structure: `DAG.structure_digest()`.
            definitions: As of `RunStarted`.
            reason: Why commits do not apply.

        On crash:
            Both are recorded or neither, and the next resume compares again.
        """
        absent = (*absent, *(self._ledger.failures.keys() - frozenset(self._nodes)))
        said = Invalidated(
            time.time(), tuple(outdated), reason, structure=structure.hex(), absent=absent, definitions=definitions
        )
        self._say(said)

    def invalidate(self, names: Sequence[str], reason: str, *, lost: bool = False) -> None:
        """Take the commits of nodes away, so that no later run restores them.

        Args:
            names: The nodes.
            reason: For people who read the journal.
            lost: The results are gone, rather than no longer right: what was made from them stays as it is.

        On crash:
            All of them are still committed or none is.
        """
        self._say(Invalidated(time.time(), tuple(names), reason, lost))

    def _say(self, *said: Said, sync: bool = True) -> None:
        try:
            self._writing.say(*said, sync=sync)
        except OSError as error:
            raise self._commit_error(error) from error

    def _commit_error(self, error: OSError) -> CommitError:
        return self.refused(refusal(error))

    def refused(self, reason: str) -> CommitError:
        """Return the error for what the disk has refused: another one if the checkpoint is no longer where it was.

        Args:
            reason: What the system has said.
        """
        path, journal = str(self.directory.path), self._journal
        if journal is None:
            return CommitError(path, reason)
        journal.refused = True
        gone = journal.what_is_gone()
        return CheckpointGoneError(path, gone) if gone else CommitError(path, reason)

    # --- what may lag behind ------------------------------------------------------------------------------------

    def write_copies(self) -> None:
        """Write the `.pkl` copies of all small results that lag behind the journal."""
        try:
            self._copies.write_all()
        except OSError as error:
            raise self._commit_error(error) from error

    def copies_for(self, slot: int, n: int) -> list[tuple[str, bytes, bool]]:
        """Give up to `n` copies to the worker of a slot, each as the arguments of `Directory.write_copy`."""
        try:
            return self._copies.give(slot, n)
        except OSError as error:
            raise self._commit_error(error) from error

    def copied(self, slot: int, n: int) -> None:
        """Note that a worker has written the first `n` copies that its slot was given."""
        try:
            self._copies.written(slot, n)
        except OSError as error:
            raise self._commit_error(error) from error

    def not_copied(self, slot: int) -> None:
        """Note that a worker will not write the copies that its slot was given."""
        self._copies.take_back(slot)

    @property
    def began_unix(self) -> float:
        """When the run began, in seconds since the epoch."""
        return self._ledger.run.at

    @property
    def lags(self) -> bool:
        """Whether there are copies that `tend` would write."""
        return self._copies.n_waiting > 0

    def tend(self, slots: Callable[[], Mapping[str, Any]] = lambda: NO_SLOTS) -> bool:
        """Do some of what is due and may wait, and return whether there is more of it.

        Called by a run when it has nothing better to do.

        Args:
            slots: Returns what the slots do, as `write_snapshot` takes it; called only if that is going to be written.
        """
        try:
            self._committing.drop_now()
            more = self._copies.write_some()
            if time.monotonic() >= self._snapshot_due:
                self._copies.take_back_overdue()
                self._copies.record()
                self._write_snapshot(slots())
        except OSError as error:
            raise self._commit_error(error) from error
        return more

    def _write_snapshot(self, slots: Mapping[str, Any] = NO_SLOTS) -> None:
        began = time.monotonic()
        write_snapshot(self.directory, self._writing.ledger, slots)
        now = time.monotonic()
        # Its cost grows with the number of nodes; this keeps it at 2 % of the run.
        self._snapshot_due = now + max(1.0, 50 * (now - began))

    # --- reading ----------------------------------------------------------------------------------------------

    def file_name(self, node: str) -> str:
        """Return the name of the file of a node."""
        return self._files.names.file_name(node)

    def commit_of(self, node: str) -> Commit | None:
        """Return the commit of a node, or None."""
        return self._ledger.commits.get(node)

    def differs(self, commit: Commit, *, in_doubt: bool = False) -> bool:
        """Tell whether a result that is about to be committed replaces another one: see `Committing.differs`."""
        return self._committing.differs(commit, in_doubt=in_doubt)

    @property
    def dropped(self) -> PackedCommits:
        """The commits of completed nodes whose results were not to be kept, and are deleted."""
        return self._ledger.dropped

    @property
    def stale(self) -> Collection[str]:
        """Nodes whose commits no longer apply and have not been replaced."""
        return self._ledger.stale.keys()

    def load(self, node: str) -> bytes | memoryview:
        """Return the bytes of a committed result.

        Raises:
            CheckpointDamagedError: No place holds the bytes that were committed.
        """
        return self._results.load(self._ledger.commits[node])

    def load_committed(self, commit: Commit) -> bytes | memoryview:
        """Return the bytes of this commit, also after `close` and after the checkpoint has gone on.

        Raises:
            CheckpointDamagedError: No place holds these bytes any more.
        """
        return self._results.load(commit)

    def source(self, node: str) -> bytes | BlobFile:
        """Return a committed result for a worker: its bytes if it is small, else the file that has them."""
        return self._results.source(node)

    # --- the end ------------------------------------------------------------------------------------------------

    @property
    def _ending(self) -> Ending:
        return Ending(self.directory, self._files, self._writing, self._copies)

    def end(
        self,
        *,
        succeeded: int = 0,
        failed: int = 0,
        timed_out: int = 0,
        unreached: Sequence[str] = (),
        out_of_time: Sequence[str] = (),
    ) -> None:
        """Finish the run, once its workers have ended: see `Ending.whole`.

        Args:
            succeeded: As of `RunEnded`, like the others.
            failed: As there.
            timed_out: As there.
            unreached: As there.
            out_of_time: As there.
        """
        ended = RunEnded(time.time(), succeeded, failed, timed_out, tuple(unreached), tuple(out_of_time))
        try:
            self._committing.drop_now()
            self._ending.whole(ended, worker_lost=self.worker_lost, durable=self._power)
        except OSError as error:
            raise self._commit_error(error) from error
        commits, dropped = self._ledger.commits, self._ledger.dropped
        self.scratches.keep(name for name in self._nodes if name not in commits and name not in dropped)

    def interrupt(self) -> None:
        """Do for a run that is cut short what can be done, once its workers have ended: see `Ending.cut_short`."""
        if self._journal is not None and not self.is_forked:
            self._ending.cut_short(self._committing.unpublished, recovered=self._recovered)

    def close(self) -> None:
        """Let go of the directory. Safe to call in any state, and twice."""
        if self.is_forked:
            return  # releasing a lock releases it for all that share it
        journal, self._journal = self._journal, None
        try:
            if journal is not None:
                journal.close()
        except OSError as error:
            raise self._commit_error(error) from error
        finally:
            self._hold.release()

    @property
    def is_forked(self) -> bool:
        """Whether this is a process that somebody forked in a callback, and that has come back out of it."""
        return self._hold.is_forked

    # --- without a run ------------------------------------------------------------------------------------------

    def invalidate_between_runs(self, names: Sequence[str], reason: str) -> None:
        """Take the commits of nodes away. Call it after `open`, instead of `begin`; there must be a checkpoint.

        Args:
            names: Completed nodes.
            reason: For people who read the journal.

        Raises:
            CommitError: The disk refused.

        On crash:
            All of them are still committed or none is.
        """
        assert self.ledger is not None, "open() has found no checkpoint"
        try:
            self._go_on(JournalWriter(self.directory, self.ledger, self.digests, durable=self._power))
            self.invalidate(names, reason)
            self._write_snapshot()
        except OSError as error:
            raise self._commit_error(error) from error

    def leftovers(self, namespace: str) -> dict[int, float]:
        """Return the processes that the last run may have left on this machine, as it has recorded them."""
        ledger = self.ledger
        if ledger is None or ledger.ended is not None or ledger.run.boot != boot_id() or ledger.namespace != namespace:
            return {}
        return ledger.processes

    def prune(self, nodes: Collection[str] | None = None, *, even_all: bool = False) -> PruneReport:
        """Drop what no resume needs, and return what that was: see `pruning`. After `open`, instead of `begin`.

        Args:
            nodes: The names of the DAG. Default: those of the last run.
            even_all: Go on also if the checkpoint knows none of these nodes.

        Raises:
            OtherDagError: It knows none of them.
            CheckpointError: As `Pruning`.
        """
        assert self.ledger is not None, "open() has found no checkpoint"
        from dagron.checkpoint.writing.pruning import Pruning  # no run needs it

        pruning = Pruning(self.directory, self._key, nodes)
        if not even_all:
            pruning.refuse_to_drop_all()
        pruning.carry_out(durable=self._power)
        return pruning.report

    def clear(self) -> None:
        """Delete the files of the checkpoint, and no others: see `clearing`. After `open`, instead of `begin`."""
        clear(self.directory, self.ledger, self._key, durable=self._power)
