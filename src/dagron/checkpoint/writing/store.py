"""The writer of a checkpoint: take the directory, recover it, begin a run, end it, clear.

What a run commits in between is the part in `commits`. Decides nothing about nodes; never unpickles. All access to the
disk goes through `files`, all bytes of the journal through `format`.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import time
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from dagron.checkpoint.blobs import blob_file, load_result, read_blob
from dagron.checkpoint.files import AppendFile, DirectoryLock, is_temporary
from dagron.checkpoint.format.journal import Commit, Kind, RecordWriter, encode_header
from dagron.checkpoint.format.names import SUFFIX, FileNames, plain_file_name
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.format.structure import digest_of, encode_dag
from dagron.checkpoint.reading.packed import PackedCommits
from dagron.checkpoint.reading.view import JOURNAL, LOCK, META, View, check_journal, is_recognized, read_view
from dagron.checkpoint.writing.claim import check_directory, check_lock_file, holder_of
from dagron.checkpoint.writing.clearing import clear
from dagron.checkpoint.writing.commits import Commits, PendingCommit, open_journal, refusal
from dagron.checkpoint.writing.copies import Copy
from dagron.errors import (
    CheckpointDamagedError,
    CheckpointDirectoryError,
    CheckpointLockedError,
    CommitError,
    ForeignFilesError,
)

__all__ = ["CheckpointStore", "Durability", "PendingCommit", "boot_id", "load_result"]

logger = logging.getLogger("dagron.checkpoint")

Durability = Literal["power", "process"]


def boot_id() -> str:
    """Return a text that differs after every start of this machine; empty where the platform has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class CheckpointStore(Commits):
    """One run's hold on a checkpoint directory.

    Args:
        path: The directory, absolute.
        durability: `"power"`: what is committed survives a loss of power. `"process"`: it survives the end of every
            process, also by SIGKILL, and the flushes are saved.
        signing_key: Keys every digest and check; None for none. Never written anywhere.
        allow_untrusted: Accept a checkpoint that another user owns or that everyone may write.

    Attributes:
        view: What the journal said when the directory was taken, or None if there was none.
        lost: Completed nodes whose result is gone or damaged, found by `begin`.
        worker_lost: Whether a worker died in this run; it may have left a temporary file.
    """

    def __init__(
        self,
        path: Path,
        *,
        durability: Durability = "power",
        signing_key: bytes | None = None,
        allow_untrusted: bool = False,
    ) -> None:
        super().__init__(path, power=durability == "power", key=signing_key)
        self.view: View | None = None
        self.worker_lost = False
        self._recovered = False
        self._n_slots = 0
        self._allow_untrusted = allow_untrusted
        self._lock = DirectoryLock(path / LOCK)
        self._owner = os.getpid()

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
        path = self.directory.path
        check_directory(self.directory, allow_untrusted=self._allow_untrusted)
        try:
            check_journal(self.directory, self._key)  # before the lock file is made
        except CheckpointDamagedError as error:
            if not accept_damage:
                raise
            if not is_recognized(self.directory):
                reason = f"nothing says which files are those of a checkpoint; delete {JOURNAL} and {META} by hand"
                raise CheckpointDamagedError(error.path, error.offset, reason) from error
        check_lock_file(self.directory)
        try:
            self.directory.create(durable=self._power)
            taken = self._lock.acquire()
        except OSError as error:
            raise CheckpointDirectoryError(str(path), error.strerror or str(error)) from error
        if not taken:
            raise CheckpointLockedError(str(path), *holder_of(self.directory, self._key))
        try:
            self.view = self._read_view(accept_damage)
        except BaseException:
            self._let_go()
            raise

    def _read_view(self, accept_damage: bool) -> View | None:
        try:
            return read_view(self.directory, self._key)
        except CheckpointDamagedError:
            if not accept_damage:
                raise
            return None

    # --- beginning and ending a run ---------------------------------------------------------------------------

    def begin(
        self,
        *,
        fresh: bool,
        nodes: Iterable[str],
        structure: bytes,
        edges: tuple[array[int], array[int]] | None = None,
        n_slots: int = 0,
    ) -> PackedCommits:
        """Recover the directory and begin a run.

        Args:
            fresh: Supersede what is there, instead of going on from it.
            nodes: The names of the DAG.
            structure: `DAG.structure_digest()`.
            edges: `DAG.parent_arrays`, to be recorded; None records nothing.
            n_slots: Slots of the run, for those who ask how well they were used; 0 if it is not known.

        Returns:
            The commits that can be restored: those of `view` whose bytes are there. The others are in `lost`. They are
            what this object goes on with, so what is invalidated is in them no more.

        Guarantees:
            A fresh journal replaces the old one in one step; old result files stay until they are written over or
            until `end`. Otherwise the torn tail is cut off, leftover temporary files are deleted, and missing copies
            of INLINE results are scheduled.

        On crash:
            The old checkpoint or the new, empty one.
        """
        nodes = list(nodes)
        self._total, self._n_slots = len(nodes), n_slots
        old = self.view
        record = encode_dag(structure, nodes, *edges) if edges is not None else b""
        try:
            sizes = self.directory.sizes()
            self._present = {name for name in sizes if name.endswith(SUFFIX)}
            self._refuse_foreign(nodes)
            if fresh or old is None or old.cleared:
                self._names = FileNames(nodes)
                if old is not None:
                    self._own(old.files & self._present)
                self._begin_fresh(structure, record)
            else:
                # A file in lower case that is plain needs no mention.
                recorded = {
                    name: known.file_of(name)
                    for known in (old.stale, old.commits)
                    for name in known
                    if name in known.special or name != name.lower()
                }
                self._names = FileNames(dict.fromkeys(chain(nodes, old.stale, old.commits)), recorded)
                self._run_nodes = frozenset(nodes)
                absent = [name for name in (*old.commits, *old.failures) if name not in self._run_nodes]
                if digest_of(old.recorded) == structure:
                    record = b""  # as it was
                self._begin_again(old, sizes, absent, structure, record)
            # Not before: the old checkpoint may need one of them until it is superseded or recovered.
            self.directory.remove_all(filter(is_temporary, sizes))
            self._recovered = True
        except OSError as error:
            raise self._commit_error(error) from error
        return self._commits

    def _refuse_foreign(self, nodes: Sequence[str]) -> None:
        """Refuse to write over files that the journal does not know.

        Only if it is whole up to the end of a run, and no loss of power can have made it so: else it may have forgotten
        what it knew.
        """
        old = self.view
        if old is None or old.ended is None or old.damage or old.valid_size != old.size:
            return
        if old.run.get("boot") != boot_id():
            return
        # Nearly all are the plain files of commits. (What has a % may be the plain file of another name.)
        known, special, end = old.commits.names, old.commits.special, -len(SUFFIX)
        unknown = {
            file for file in self._present if (name := file[:end]) not in known or name in special or "%" in name
        }
        if unknown and (unknown := unknown - old.files):
            names = FileNames(nodes)
            foreign = unknown.intersection(map(names.file_name, nodes))
            if foreign:
                raise ForeignFilesError(str(self.directory.path), sorted(foreign))

    def _run_fields(self, *, fresh: bool, structure: str, dag: bytes) -> dict[str, Any]:
        self._run = {
            "at": time.time(),
            "fresh": fresh,
            "pid": os.getpid(),
            "host": platform.node(),
            "boot": boot_id(),
            "total": self._total,
            "slots": self._n_slots,
            "structure": structure,
            "dag": dag.hex(),
            "durability": "power" if self._power else "process",
        }
        return self._run

    def _begin_fresh(self, structure: bytes, record: bytes) -> None:
        checkpoint_id = self._checkpoint_id = secrets.token_bytes(16)
        self._writer = RecordWriter(checkpoint_id, self.digests)
        run = self._run_fields(fresh=True, structure=structure.hex(), dag=structure)
        fields = {**run, "owns": sorted(self._owned)}
        content = encode_header(checkpoint_id, self.digests) + self._writer.event(Kind.RUN_STARTED, fields)
        if record:
            content += self._writer.dag(record)
        self.directory.replace(JOURNAL, content, durable=self._power)
        self._journal = AppendFile(self.directory.path_to(JOURNAL), len(content))
        self.write_meta()

    def _begin_again(
        self, old: View, sizes: dict[str, int], absent: list[str], structure: bytes, record: bytes
    ) -> None:
        for damage in old.damage:
            what = f"{damage.size} bytes at offset {damage.offset} are damaged"
            if not damage.size:
                what = f"records are missing at offset {damage.offset}"
            logger.warning("%s: %s; the nodes recorded there run again", self.directory.path_to(JOURNAL), what)
        self._journal = open_journal(self.directory, old, durable=self._power)
        # A run that was killed may have left records without their sync, or ended because that failed. No file may get
        # its name before its record, and nothing may be restored that is not on the disk.
        if self._power and old.ended is None:
            self._journal.renew(old.run_offset)
        self._sync()
        self._checkpoint_id = old.checkpoint_id
        self._writer = RecordWriter(old.checkpoint_id, self.digests, old.sequence)
        self._commits, self._stale, self._failures = old.commits, old.stale, old.failures
        self._lost_commits = old.lost
        # After a loss of power a file may have its size and not its bytes: a copy of a small result, which is never
        # synced, also if the run had ended. What the last run left when the machine went on is whole: nothing but a
        # kill interrupted it.
        restarted = old.run.get("boot") != boot_id()
        # Nearly all have a plain file of the right size; only the others are decoded.
        suspects = list(self._commits.special)
        for name, sequence, size in self._commits.inline():
            if restarted or sequence >= old.lagging_from or sizes.get(plain_file_name(name)) != size:
                suspects.append(name)
        for commit in sorted(map(self._commits.__getitem__, suspects), key=lambda commit: commit.sequence):
            verify = restarted and (old.ended is None or commit.storage == Storage.INLINE)
            self._recover(commit, sizes, lagging=old.is_lagging(commit), verify=verify)
        self._own(old.owned & self._present)
        # Both before the record that lets the next look, after a kill in here, be less thorough than this one.
        if self.lost:
            self.invalidate(sorted(self.lost), "the result is lost", lost=True)
        if restarted:
            self.write_copies()
        # Still the old structure: the new one counts once `reconcile` has said what it makes of the commits.
        run = self._run_fields(fresh=False, structure=old.structure, dag=structure)
        if record:
            self._append(self._writer.dag(record))
        self._append(self._writer.event(Kind.RUN_STARTED, {**run, "absent": absent}))
        self._sync()
        if self._power:
            # What a run without syncs, or one that was killed before its sync, has named.
            self.directory.sync()
        self.write_meta()

    def _recover(self, commit: Commit, sizes: dict[str, int], *, lagging: bool, verify: bool) -> None:
        file_name = commit.file_name
        if commit.temp_name in sizes and not self._is_damaged(commit, commit.temp_name):
            # Recorded and not yet renamed; what has the final name is an older result.
            self.directory.publish(commit.temp_name, file_name)
            sizes[file_name] = sizes.pop(commit.temp_name)
            self._present.add(file_name)
        if sizes.get(file_name) == commit.size and not lagging and not (verify and self._is_damaged(commit, file_name)):
            return
        if commit.storage == Storage.INLINE:
            try:
                load_result(self.directory, commit, self.digests)
            except CheckpointDamagedError:
                pass
            else:
                self._copies.add(Copy(commit.sequence, commit, None))
                return
        path = self.directory.path_to(file_name)
        logger.warning("%s is missing or damaged; node %r runs again, and nothing else", path, commit.name)
        self.lost.add(commit.name)

    def _is_damaged(self, commit: Commit, file_name: str) -> bool:
        try:
            read_blob(self.directory.path, blob_file(commit, file_name), self.digests)
        except CheckpointDamagedError:
            return True
        return False

    def _own(self, files: set[str]) -> None:
        self._owned = files
        self._twins = {name.lower(): name for name in files}

    def end(self, fields: dict[str, Any]) -> None:
        """Finish the run: write what lags behind, say that it ended, delete what an older checkpoint left.

        No worker may be left: what it had not finished writing is deleted, too.

        On crash:
            A checkpoint whose last run was interrupted; nothing is lost.
        """
        try:
            self.write_copies()
            # Before the record of the end: what stands under these names behind it is somebody else's.
            stale = self._owned | self._stale.files()
            if stale:
                self.directory.remove_all(stale - self._commits.files())
            if self.worker_lost:
                self.directory.remove_all(filter(is_temporary, self.directory.names()))
            if self._power:
                self.directory.sync()
            self._append(self._writer.event(Kind.RUN_ENDED, {"at": time.time(), **fields}))
            self._sync()
            self.write_meta(ended=True)
        except OSError as error:
            raise self._commit_error(error) from error

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
        view = self.view
        assert view is not None, "open() has found no checkpoint"
        try:
            self._journal = open_journal(self.directory, view, durable=self._power)
            self._checkpoint_id, self._total = view.checkpoint_id, int(view.run.get("total", 0))
            self._writer = RecordWriter(view.checkpoint_id, self.digests, view.sequence)
            self._commits, self._stale, self._failures, self._run = view.commits, view.stale, view.failures, view.run
            self.invalidate(names, reason)
            self.write_meta(ended=view.ended is not None)
        except OSError as error:
            raise self._commit_error(error) from error

    def leftovers(self, namespace: str) -> dict[int, float]:
        """Return the processes that the last run may have left on this machine, as it has recorded them."""
        view = self.view
        if view is None or view.ended is not None or view.run.get("boot") != boot_id() or view.namespace != namespace:
            return {}
        return view.processes

    def interrupt(self) -> None:
        """Do for a run that was interrupted what can be done, once its workers have ended. Raises nothing.

        Guarantees:
            The results that workers had begun to write take no space, unless the disk refuses to delete them. What
            lags behind is written, unless the disk has refused before.
        """
        if self._journal is None or self.is_forked:
            return
        try:
            # A journal that was replaced may be another run's. Until ours is recovered it may need what is there.
            if self._recovered and self._journal.is_in_place():
                unfinished = set(filter(is_temporary, self.directory.names())) - self._unpublished
                self.directory.remove_all(unfinished)
            if not self._refused:
                self.write_copies()
                self.write_meta()
        except (OSError, CommitError) as error:
            if not self._refused:  # or the run ends with what the disk has said
                logger.warning("%s: %s", self.directory.path, error)

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
            self._let_go()

    def _let_go(self) -> None:
        try:
            self._lock.release()
        except OSError as error:
            path = self.directory.path / LOCK
            logger.warning("%s: %s; it is free at the latest when this process ends", path, refusal(error))

    @property
    def is_forked(self) -> bool:
        """Whether this is a process that somebody forked in a callback, and that has come back out of it."""
        return os.getpid() != self._owner

    def clear(self) -> None:
        """Delete the files of the checkpoint, and no others: see `clearing`. After `open`, instead of `begin`."""
        clear(self.directory, self.view, self._key, durable=self._power)
