"""What a run makes part of its checkpoint: outcomes appended to the journal, copies written, results read back.

Decides nothing about nodes: it is told what to commit and what no longer applies. Never unpickles. All access to the
disk goes through `files`, all bytes of the journal through `format`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dagron.checkpoint.blobs import BlobFile, blob_file, load_result
from dagron.checkpoint.files import AppendFile, Directory
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.journal import FORMAT_VERSION, Commit, Kind, RecordWriter
from dagron.checkpoint.format.names import FileNames, plain_file_name
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.reading.packed import PackedCommits
from dagron.checkpoint.reading.view import JOURNAL, META, View, iso_time
from dagron.checkpoint.writing.copies import Copies, Copy
from dagron.errors import CheckpointDamagedError, CheckpointGoneError, CommitError

__all__ = ["Commits", "PendingCommit", "open_journal", "refusal"]

_MEMORY_BUDGET_BYTES = 64 * 2**20
"""Bytes of small results kept in memory, for children and for `NodeResult.result`; the rest is read when asked for."""

_COPIES_BUDGET_BYTES = 4 * 2**20
"""Bytes of small results whose `.pkl` may lag behind the journal before a commit writes them itself."""

_COPIES_AT_ONCE = 8
"""Copies that are written before it is asked whether something else is to be done."""

_COPIES_TO_RECORD = 1000
"""Copies that are written, or a second passes, before it is recorded which are left: a resume writes them again."""


class PendingCommit(NamedTuple):
    """An outcome that is to become part of the checkpoint.

    Attributes:
        commit: What its record will say.
        data: The pickled result if its storage is INLINE.
        temp_name: The finished temporary file if its storage is FILE.
        printed: What it wrote to its standard streams, as a PRINTED record has it; None if nothing.
        identity: That of the temporary file when its bytes had been written and digested; empty if nobody says so.
    """

    commit: Commit
    data: bytes
    temp_name: str
    printed: dict[str, Any] | None = None
    identity: tuple[int, ...] = ()


def refusal(error: OSError) -> str:
    """Return what the system said, behind the name of the file if it has named one; of a rename, the name to be."""
    what = error.strerror or str(error)
    name = error.filename if error.filename2 is None else error.filename2
    if name is not None:
        what = f"{os.path.basename(os.fsdecode(name))}: {what}"
    return what


def open_journal(directory: Directory, view: View, *, durable: bool) -> AppendFile:
    """Open a journal that was read, to go on behind its last valid record; what stands there is cut off."""
    if directory.n_names(JOURNAL) > 1:
        # A backup made of hard links is to stay as it is.
        with directory.open_to_read(JOURNAL) as file:
            content = file.read_at(0, view.valid_size)
        directory.replace(JOURNAL, content, durable=durable)
    return AppendFile(directory.path_to(JOURNAL), view.valid_size)


class Commits:
    """What is committed in a checkpoint while a run goes on. `CheckpointStore` is one, and adds how it begins and ends.

    Args:
        path: The directory, absolute.
        power: Whether what is committed is to survive a loss of power.
        key: The signing key, or None.

    Attributes:
        directory: The directory.
        digests: How results are digested.
        lost: Completed nodes whose result is gone or damaged.
    """

    def __init__(self, path: Path, *, power: bool, key: bytes | None) -> None:
        self.directory = Directory(path)
        self.digests = Digests(key)
        self.lost: set[str] = set()
        self._power = power
        self._key = key
        self._journal: AppendFile | None = None
        self._writer = RecordWriter(b"", self.digests)
        self._checkpoint_id = b""
        self._names = FileNames(())
        self._commits = PackedCommits()
        self._stale = PackedCommits()
        self._lost_commits = PackedCommits()
        self._failures: dict[str, dict[str, Any]] = {}
        self._memory: dict[str, bytes] = {}
        self._memory_bytes = 0
        self._identities: dict[str, tuple[int, ...]] = {}
        self._copies = Copies()
        self._n_unrecorded = 0
        self._present: set[str] = set()
        self._owned: set[str] = set()
        self._twins: dict[str, str] = {}
        self._total = 0
        self._run: dict[str, Any] = {}
        self._meta_due = 0.0
        self._refused = False
        self._unpublished: set[str] = set()  # temporary files that the journal may name
        self._run_nodes: frozenset[str] = frozenset()

    # --- committing -------------------------------------------------------------------------------------------

    def commit(self, pending: Sequence[PendingCommit], doubtful: Collection[str] = ()) -> None:
        """Make outcomes part of the checkpoint, as one group.

        Args:
            pending: At least one.
            doubtful: Nodes of these that were made from other inputs than before; see `differs`.

        Raises:
            CommitError: The disk refused. End the run; none of the group may be taken as committed.

        Guarantees:
            Each node of the group is completed for every later reader; with `durability="power"` also after a loss of
            power. Order: large results are finished under temporary names (by their workers), the directory is synced,
            one append holds all records, the journal is synced, large results get their names. So a file with its final
            name is never without a record, and recovery finishes a rename that is missing.

        On crash:
            A prefix of the group is committed.
        """
        try:
            if self._power and any(item.temp_name for item in pending):
                self.directory.sync()
            assert self._journal is not None
            chunks: list[bytes] = []
            offset = self._journal.size
            committed: list[tuple[Copy, bytes, int]] = []
            for commit, data, temp_name, _, _ in pending:
                name = commit.name
                file_name = self._names.file_name(name)
                special = file_name if file_name != plain_file_name(name) else ""
                since = self._since(commit, name in doubtful) if self._has_known(name) else 0
                if special or temp_name or since:
                    commit = commit._replace(special_name=special, temp_name=temp_name, since=since)
                frame, body = self._writer.commit(commit, data)
                chunks.append(frame)
                offset += len(frame)
                committed.append((Copy(self._writer.sequence, commit, data), body, offset))
                if data:
                    chunks.append(data)
                    offset += len(data)
            chunks += [
                self._writer.event(Kind.PRINTED, {"name": item.commit.name, **item.printed})
                for item in pending
                if item.printed is not None
            ]
            self._unpublished.update(item.temp_name for item in pending if item.temp_name)
            self._append(b"".join(chunks))
            self._sync()
            for item, (copy, body, payload_offset) in zip(pending, committed, strict=True):
                commit = copy.commit
                if commit.temp_name:
                    self._clear_the_way(commit.file_name)
                    self.directory.publish(commit.temp_name, commit.file_name)
                    self._unpublished.discard(commit.temp_name)
                    self._present.add(commit.file_name)
                self._committed(copy, body, payload_offset)
                if item.identity:
                    self._identities[commit.name] = item.identity
            if self._copies.n_bytes > _COPIES_BUDGET_BYTES:
                self.write_copies()
        except OSError as error:
            raise self._commit_error(error) from error

    def _has_known(self, name: str) -> bool:
        return name in self._commits.names or name in self._stale.names or name in self._lost_commits.names

    def _since(self, commit: Commit, in_doubt: bool) -> int:
        if self.differs(commit, in_doubt=in_doubt):
            return self._writer.sequence + 1
        name = commit.name
        old = self._stale.get(name) or self._commits.get(name) or self._lost_commits.get(name)
        return old.since if old is not None else 0

    def _committed(self, copy: Copy, body: bytes, payload_offset: int) -> None:
        sequence, commit, data = copy
        name = commit.name
        if self._has_known(name):
            for old in (self._commits.pop(name), self._stale.pop(name)):
                if old is not None and old.file_name != commit.file_name:
                    self._owned.add(old.file_name)
            self._lost_commits.pop(name)
            self._memory.pop(name, None)
            self._identities.pop(name, None)
        self._commits.add(name, body, payload_offset, sequence, special=commit.is_special)
        self.lost.discard(name)
        self._failures.pop(name, None)
        if commit.storage == Storage.INLINE:
            assert data is not None
            self._copies.add(copy)
            if self._memory_bytes + len(data) <= _MEMORY_BUDGET_BYTES:
                self._memory[name] = data
                self._memory_bytes += len(data) + 100  # about what a dict entry and a bytes object add

    def _clear_the_way(self, file_name: str) -> None:
        # A left-over file whose name differs in case only is the same file where case does not count. Removed now, it
        # can neither keep its old name nor take the new result with it when left-over files are removed at the end.
        twin = self._twins.pop(file_name.lower(), None)
        if twin is not None and twin != file_name:
            self.directory.remove(twin)
            self._present.discard(twin)
            self._owned.discard(twin)

    def fail(self, failures: Sequence[dict[str, Any]]) -> None:
        """Record nodes that failed: `name`, `status`, `type`, `message`, `traceback`, `attempts` and so on."""
        try:
            at = time.time()
            self._append(b"".join(self._writer.event(Kind.FAILED, {"at": at, **fields}) for fields in failures))
            self._sync()
        except OSError as error:
            raise self._commit_error(error) from error
        for fields in failures:
            self._failures[fields["name"]] = fields
            self._make_stale(fields["name"])

    def note_processes(self, processes: Mapping[int, float], namespace: str) -> None:
        """Record processes of this run, process id and time of creation, so that the next one can end what is left."""
        try:
            fields = {"at": time.time(), "processes": list(processes.items()), "namespace": namespace}
            self._append(self._writer.event(Kind.WORKERS_STARTED, fields))
        except OSError as error:
            raise self._commit_error(error) from error

    def reconcile(self, outdated: Sequence[str], absent: Sequence[str], structure: bytes) -> None:
        """Say that the commits have been compared with a DAG.

        Args:
            outdated: Nodes whose commits do not apply to it.
            absent: Nodes that it does not have.
            structure: `DAG.structure_digest()`.

        On crash:
            Both are recorded or neither, and the next resume compares again.
        """
        absent = [*absent, *self._failures.keys() - self._run_nodes]
        fields = {"reason": "its set of parents changed", "lost": False, "absent": absent}
        self._invalidate(outdated, {**fields, "structure": structure.hex()})

    def invalidate(self, names: Sequence[str], reason: str, *, lost: bool = False) -> None:
        """Take the commits of nodes away, so that no later run restores them.

        Args:
            names: The nodes.
            reason: For people who read the journal.
            lost: The results are gone, rather than no longer right: what was made from them stays as it is.

        On crash:
            All of them are still committed or none is.
        """
        self._invalidate(names, {"reason": reason, "lost": lost})

    def _invalidate(self, names: Sequence[str], fields: dict[str, Any]) -> None:
        lost = fields["lost"]
        try:
            fields = {"at": time.time(), "names": list(names), **fields}
            self._append(self._writer.event(Kind.INVALIDATED, fields))
            self._sync()
        except OSError as error:
            raise self._commit_error(error) from error
        for name in names:
            self._make_stale(name)
            if lost and name in self._stale:
                self._owned.add(self._stale.file_of(name))
                self._stale.move(name, self._lost_commits)

    def _make_stale(self, name: str) -> None:
        self._memory.pop(name, None)
        self._commits.move(name, self._stale)

    # --- copies -----------------------------------------------------------------------------------------------

    def write_copies(self) -> None:
        """Write the `.pkl` copies of all small results that lag behind the journal."""
        if self._copies:
            self._write(self._copies.take_all())
        if self._n_unrecorded:
            self._record_copies()

    def copies_for(self, slot: int, n: int) -> list[tuple[str, bytes, bool]]:
        """Give copies to the worker of a slot: up to `n` of what `Directory.write_view` takes."""
        given = []
        for _, commit, data in self._copies.give(slot, n):
            assert data is not None
            file_name = commit.file_name
            self._clear_the_way(file_name)
            given.append((file_name, data, file_name in self._present))
            self._present.add(file_name)
        return given

    def copied(self, slot: int, n: int) -> None:
        """Note that a worker has written the first `n` copies of what its slot was given."""
        self._copies.written(slot, n)
        self._note_copies(n)

    def not_copied(self, slot: int) -> None:
        """Note that a worker will not write the copies that its slot was given."""
        self._copies.take_back(slot)

    def _write(self, copies: Sequence[Copy]) -> None:
        try:
            for sequence, commit, data in copies:
                if self._commits.sequence_of(commit.name) != sequence:
                    continue
                if data is None:
                    data = bytes(load_result(self.directory, commit, self.digests))
                file_name = commit.file_name
                self._clear_the_way(file_name)
                self.directory.write_view(file_name, data, exists=file_name in self._present)
                self._present.add(file_name)
        except OSError as error:
            raise self._commit_error(error) from error
        self._note_copies(len(copies))

    def _note_copies(self, n: int) -> None:
        self._n_unrecorded += n
        if self._n_unrecorded >= _COPIES_TO_RECORD:
            self._record_copies()

    def _record_copies(self) -> None:
        fields: dict[str, Any] = {"at": time.time()}
        if (first := self._copies.first_sequence) is not None:
            fields["before"] = first
        self._n_unrecorded = 0
        try:
            self._append(self._writer.event(Kind.VIEWS_WRITTEN, fields))
        except OSError as error:
            raise self._commit_error(error) from error

    def write_meta(self, running: Sequence[dict[str, Any]] = (), *, ended: bool = False) -> None:
        """Replace `_meta.json`; `running` says what the slots run, for those who look from outside."""
        started = time.monotonic()
        meta = {
            "format_version": FORMAT_VERSION,
            "checkpoint_dir": str(self.directory.path),
            "total_nodes": self._total,
            "checkpoint_id": self._checkpoint_id.hex(),
            "completed_nodes": list(self._commits),
            "failed_nodes": list(self._failures),
            "timestamp": iso_time(time.time()),
            "special_files": {
                name: special for name in self._commits.special if (special := self._commits[name].special_name)
            },
            "state": "ended" if ended else "running",
            "run": {
                "pid": self._run["pid"],
                "host": self._run["host"],
                "started": iso_time(self._run["at"]),
                "durability": self._run["durability"],
            },
            "running": list(running),
        }
        # A line for each field. With `indent` json would be ten times as slow, and there is a name for each node.
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in meta.items()]
        text = "{\n " + ",\n ".join(lines) + "\n}\n"
        self.directory.replace(META, text.encode(), durable=False)
        # Its cost grows with the number of nodes; this keeps it at 2 % of the run.
        self._meta_due = time.monotonic() + max(1.0, 50 * (time.monotonic() - started))

    @property
    def lags(self) -> bool:
        """Whether there are copies that `tend` would write."""
        return self._copies.n_waiting > 0

    def tend(self, running: Callable[[], Sequence[dict[str, Any]]] = tuple) -> bool:
        """Do some of what is due and may wait, and return whether there is more of it.

        Called by a run when it has nothing better to do.

        Args:
            running: Returns what the slots run; called only if that is going to be written.
        """
        copies = self._copies.take(_COPIES_AT_ONCE)
        if copies:
            self._write(copies)
        if time.monotonic() >= self._meta_due:
            self._copies.take_back_overdue()
            if self._n_unrecorded:
                self._record_copies()
            try:
                self.write_meta(running())
            except OSError as error:
                raise self._commit_error(error) from error
        return len(copies) == _COPIES_AT_ONCE

    def _append(self, data: bytes) -> None:
        assert self._journal is not None, "begin() comes first"
        if not self._journal.is_in_place():
            self._refused = True
            raise CheckpointGoneError(str(self.directory.path), f"{JOURNAL} was removed or replaced")
        self._journal.append(data)

    def _sync(self) -> None:
        if self._power:
            assert self._journal is not None
            self._journal.sync()

    def _commit_error(self, error: OSError) -> CommitError:
        # For good: what comes after a record that is not there, or not on the disk, must not be there either.
        self._refused = True
        return CommitError(str(self.directory.path), refusal(error))

    # --- reading ----------------------------------------------------------------------------------------------

    def file_name(self, node: str) -> str:
        """Return the name of the file of a node."""
        return self._names.file_name(node)

    def commit_of(self, node: str) -> Commit | None:
        """Return the commit of a node, or None."""
        return self._commits.get(node)

    def differs(self, commit: Commit, *, in_doubt: bool = False) -> bool:
        """Tell whether a result that is about to be committed replaces another one, which children may have used.

        A result that was lost and made again from the same inputs is not replaced: its children are as good as they
        were. With `in_doubt`, what it is made from has changed, and then it is compared with what was lost.
        """
        old = self._stale.get(commit.name) or self._commits.get(commit.name)
        if old is None and in_doubt:
            old = self._lost_commits.get(commit.name)
        return old is not None and old.digest != commit.digest

    @property
    def stale(self) -> Collection[str]:
        """Nodes whose commits no longer apply and have not been replaced."""
        return self._stale.keys()

    def load(self, node: str) -> bytes | memoryview:
        """Return the bytes of a committed result.

        Raises:
            CheckpointDamagedError: No place holds the bytes that were committed.
        """
        return self.load_committed(self._commits[node])

    def load_committed(self, commit: Commit) -> bytes | memoryview:
        """Return the bytes of this commit, also after `close` and after the checkpoint has gone on.

        Raises:
            CheckpointDamagedError: No place holds these bytes any more.
        """
        data = self._memory.get(commit.name)
        if data is not None and self._commits.sequence_of(commit.name) == commit.sequence:
            return data
        return load_result(self.directory, commit, self.digests)

    def source(self, node: str) -> bytes | BlobFile:
        """Return a committed result for a worker: its bytes if it is small, else the file that has them.

        Of a small result that is damaged in all of its places, and of any that this run has found damaged, it is the
        file, too: its reader finds the damage.
        """
        data = self._memory.get(node)
        if data is not None:
            return data
        commit = self._commits.get(node) or self._lost_commits[node]
        if commit.storage == Storage.INLINE:
            try:
                return bytes(load_result(self.directory, commit, self.digests))
            except CheckpointDamagedError:
                pass
        return blob_file(commit)._replace(identity=self._identities.get(node, ()))
