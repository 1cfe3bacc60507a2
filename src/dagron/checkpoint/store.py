"""The writer of a checkpoint: take the directory, recover it, commit outcomes, load results, clear.

Decides nothing about nodes: it is told what to commit and what no longer applies. Never unpickles. All access to the
disk goes through `files`, all bytes of the journal through `format`.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dagron.checkpoint.blobs import BlobFile, load_result, read_blob
from dagron.checkpoint.claim import check_directory, holder_of
from dagron.checkpoint.files import AppendFile, Directory, DirectoryLock, is_temporary
from dagron.checkpoint.format import (
    FORMAT_VERSION,
    Commit,
    Kind,
    RecordWriter,
    encode_header,
)
from dagron.checkpoint.names import SUFFIX, FileNames, plain_file_name
from dagron.checkpoint.storage import Storage
from dagron.checkpoint.view import (
    JOURNAL,
    LOCK,
    META,
    View,
    check_journal,
    files_of_damaged,
    is_recognized,
    iso_time,
    read_view,
)
from dagron.errors import (
    CheckpointDamagedError,
    CheckpointDirectoryError,
    CheckpointGoneError,
    CheckpointLockedError,
    CommitError,
    ForeignFilesError,
)

__all__ = ["CheckpointStore", "Durability", "PendingCommit", "boot_id", "load_result"]

logger = logging.getLogger("dagron.checkpoint")

Durability = Literal["power", "process"]

_MEMORY_BUDGET_BYTES = 64 * 2**20
"""Bytes of small results kept in memory, for children and for `NodeResult.result`; the rest is read when asked for."""

_VIEWS_BUDGET_BYTES = 4 * 2**20
"""Bytes of small results whose `.pkl` may lag behind the journal before a commit writes them itself."""


_PAYLOAD_OFFSET = Commit._fields.index("payload_offset")


class PendingCommit(NamedTuple):
    """An outcome that is to become part of the checkpoint.

    Attributes:
        commit: What its record will say.
        data: The pickled result if its storage is INLINE.
        temp_name: The finished temporary file if its storage is FILE.
    """

    commit: Commit
    data: bytes
    temp_name: str


def boot_id() -> str:
    """Return a text that differs after every start of this machine; empty where the platform has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class CheckpointStore:
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
        self.directory = Directory(path)
        self.view: View | None = None
        self.lost: set[str] = set()
        self.worker_lost = False
        self._power = durability == "power"
        self._key = signing_key
        self._allow_untrusted = allow_untrusted
        self._lock = DirectoryLock(path / LOCK)
        self._journal: AppendFile | None = None
        self._writer = RecordWriter(b"", None)
        self._checkpoint_id = b""
        self._names = FileNames(())
        self._commits: dict[str, Commit] = {}
        self._stale: dict[str, Commit] = {}
        self._lost_commits: dict[str, Commit] = {}
        self._failures: dict[str, dict[str, Any]] = {}
        self._memory: dict[str, bytes] = {}
        self._memory_bytes = 0
        self._views: deque[tuple[Commit, bytes | None]] = deque()
        self._views_bytes = 0
        self._present: set[str] = set()
        self._owned: set[str] = set()
        self._twins: dict[str, str] = {}
        self._total = 0
        self._run: dict[str, Any] = {}
        self._meta_due = 0.0
        self._refused = False
        self._run_nodes: frozenset[str] = frozenset()
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
            FormatVersionError: A newer version wrote it.
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
        except CheckpointDamagedError:
            if not accept_damage or not is_recognized(self.directory):
                raise
        self._refuse_foreign_lock()
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
            self._lock.release()
            raise

    def _refuse_foreign_lock(self) -> None:
        # Ours is empty; taking it for a lock would make another one empty.
        try:
            with self.directory.open_to_read(LOCK) as file:
                if not file.size:
                    return
        except OSError:
            return  # there is none, or it cannot be taken for a lock
        raise ForeignFilesError(str(self.directory.path), [LOCK])

    def _read_view(self, accept_damage: bool) -> View | None:
        try:
            return read_view(self.directory, self._key)
        except CheckpointDamagedError:
            if not accept_damage:
                raise
            return None

    # --- beginning and ending a run ---------------------------------------------------------------------------

    def begin(self, *, fresh: bool, nodes: Iterable[str], structure: bytes) -> dict[str, Commit]:
        """Recover the directory and begin a run.

        Args:
            fresh: Supersede what is there, instead of going on from it.
            nodes: The names of the DAG.
            structure: `DAG.structure_digest()`.

        Returns:
            The commits that can be restored: those of `view` whose bytes are there. The others are in `lost`.

        Guarantees:
            A fresh journal replaces the old one in one step; old result files stay until they are written over or
            until `end`. Otherwise the torn tail is cut off, leftover temporary files are deleted, and missing copies
            of INLINE results are scheduled.

        On crash:
            The old checkpoint or the new, empty one.
        """
        nodes = list(nodes)
        self._total = len(nodes)
        old = self.view
        try:
            sizes = self.directory.sizes()
            self._present = {name for name in sizes if name.endswith(SUFFIX)}
            self._refuse_foreign(nodes)
            if fresh or old is None or old.cleared:
                self._names = FileNames(nodes)
                if old is not None:
                    self._own(old.files & self._present)
                self._begin_fresh(structure.hex())
            else:
                known = {**old.stale, **old.commits}
                # A file in lower case that is plain needs no mention.
                recorded = {
                    name: commit.file_name
                    for name, commit in known.items()
                    if commit.special_name or name != name.lower()
                }
                self._names = FileNames({**dict.fromkeys(nodes), **dict.fromkeys(known)}, recorded)
                self._run_nodes = frozenset(nodes)
                absent = [name for name in (*old.commits, *old.failures) if name not in self._run_nodes]
                self._begin_again(old, sizes, absent)
            # Not before: the old checkpoint may need one of them until it is superseded or recovered.
            self.directory.remove_all(filter(is_temporary, sizes))
        except OSError as error:
            raise self._commit_error(error) from error
        return {name: commit for name, commit in self._commits.items() if name not in self.lost}

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
        unknown = self._present - old.files
        if unknown:
            names = FileNames(nodes)
            foreign = unknown.intersection(map(names.file_name, nodes))
            if foreign:
                raise ForeignFilesError(str(self.directory.path), sorted(foreign))

    def _run_fields(self, *, fresh: bool, structure: str) -> dict[str, Any]:
        self._run = {
            "at": time.time(),
            "fresh": fresh,
            "pid": os.getpid(),
            "host": platform.node(),
            "boot": boot_id(),
            "total": self._total,
            "structure": structure,
            "durability": "power" if self._power else "process",
        }
        return self._run

    def _begin_fresh(self, structure: str) -> None:
        checkpoint_id = self._checkpoint_id = secrets.token_bytes(16)
        self._writer = RecordWriter(checkpoint_id, self._key)
        fields = {**self._run_fields(fresh=True, structure=structure), "owns": sorted(self._owned)}
        content = encode_header(checkpoint_id, self._key) + self._writer.event(Kind.RUN_STARTED, fields)
        self.directory.replace(JOURNAL, content, durable=self._power)
        self._journal = AppendFile(self.directory.path_to(JOURNAL), len(content))
        self.write_meta()

    def _begin_again(self, old: View, sizes: dict[str, int], absent: list[str]) -> None:
        for damage in old.damage:
            what = f"{damage.size} bytes at offset {damage.offset} are damaged"
            if not damage.size:
                what = f"records are missing at offset {damage.offset}"
            logger.warning("%s: %s; the nodes recorded there run again", self.directory.path_to(JOURNAL), what)
        self._journal = self._open_journal(old)
        # A run that was killed may have left records without their sync, or ended because that failed. No file may get
        # its name before its record, and nothing may be restored that is not on the disk.
        if self._power and old.ended is None:
            self._journal.renew(old.run_offset)
        self._sync()
        self._checkpoint_id = old.checkpoint_id
        self._writer = RecordWriter(old.checkpoint_id, self._key, old.sequence)
        self._commits, self._stale, self._failures = old.commits, old.stale, old.failures
        self._lost_commits = old.lost
        # After a loss of power a file may have its size and not its bytes: a copy of a small result, which is never
        # synced, also if the run had ended. What the last run left when the machine went on is whole: nothing but a
        # kill interrupted it.
        restarted = old.run.get("boot") != boot_id()
        for commit in self._commits.values():
            verify = restarted and (old.ended is None or commit.storage == Storage.INLINE)
            self._recover(commit, sizes, lagging=commit.name in old.lagging, verify=verify)
        self._own(old.owned & self._present)
        # Both before the record that lets the next look, after a kill in here, be less thorough than this one.
        if self.lost:
            self.invalidate(sorted(self.lost), "the result is lost", lost=True)
        if restarted:
            self.write_views()
        # Still the old structure: the new one counts once `reconcile` has said what it makes of the commits.
        fields = {**self._run_fields(fresh=False, structure=old.structure), "absent": absent}
        self._append(self._writer.event(Kind.RUN_STARTED, fields))
        self._sync()
        if self._power:
            # What a run without syncs, or one that was killed before its sync, has named.
            self.directory.sync()
        self.write_meta()

    def _open_journal(self, view: View) -> AppendFile:
        if self.directory.n_names(JOURNAL) > 1:
            # A backup made of hard links is to stay as it is.
            with self.directory.open_to_read(JOURNAL) as file:
                content = file.read_at(0, view.valid_size)
            self.directory.replace(JOURNAL, content, durable=self._power)
        return AppendFile(self.directory.path_to(JOURNAL), view.valid_size)

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
                load_result(self.directory, commit, self._key)
            except CheckpointDamagedError:
                pass
            else:
                self._views.append((commit, None))
                return
        path = self.directory.path_to(file_name)
        logger.warning("%s is missing or damaged; node %r runs again, and nothing else", path, commit.name)
        self.lost.add(commit.name)

    def _is_damaged(self, commit: Commit, file_name: str) -> bool:
        try:
            read_blob(self.directory.path, BlobFile(file_name, commit.size, commit.digest), self._key)
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
            self.write_views()
            # Before the record of the end: what stands under these names behind it is somebody else's.
            stale = self._owned.union(commit.file_name for commit in self._stale.values())
            if stale:
                self.directory.remove_all(stale.difference(commit.file_name for commit in self._commits.values()))
            if self.worker_lost:
                self.directory.remove_all(filter(is_temporary, self.directory.names()))
            if self._power:
                self.directory.sync()
            self._append(self._writer.event(Kind.RUN_ENDED, {"at": time.time(), **fields}))
            self._sync()
            self.write_meta(ended=True)
        except OSError as error:
            raise self._commit_error(error) from error

    def _clear_the_way(self, file_name: str) -> None:
        # A left-over file whose name differs in case only is the same file where case does not count. Removed now, it
        # can neither keep its old name nor take the new result with it when left-over files are removed at the end.
        twin = self._twins.pop(file_name.lower(), None)
        if twin is not None and twin != file_name:
            self.directory.remove(twin)
            self._present.discard(twin)
            self._owned.discard(twin)

    def interrupt(self) -> None:
        """Do for a run that was interrupted what can be done: write what lags behind. Raises nothing."""
        if self._journal is None or self._refused or self._is_forked:
            return
        try:
            self.write_views()
            self.write_meta()
        except (OSError, CommitError) as error:
            logger.warning("%s: %s", self.directory.path, error)

    def close(self) -> None:
        """Let go of the directory. Safe to call in any state, and twice."""
        if self._is_forked:
            return  # releasing a lock releases it for all that share it
        journal, self._journal = self._journal, None
        try:
            if journal is not None:
                journal.close()
        except OSError as error:
            raise self._commit_error(error) from error
        finally:
            self._lock.release()

    @property
    def _is_forked(self) -> bool:
        # A process that somebody forked in a callback, and that has come back out of it.
        return os.getpid() != self._owner

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
            commits: list[tuple[Commit, bytes]] = []
            for commit, data, temp_name in pending:
                name = commit.name
                file_name = self._names.file_name(name)
                special = file_name if file_name != plain_file_name(name) else ""
                since = self._since(commit, name in doubtful) if self._has_known(name) else 0
                if special or temp_name or since:
                    commit = commit._replace(special_name=special, temp_name=temp_name, since=since)
                frame, size = self._writer.commit(commit, data)
                chunks.append(frame)
                offset += size
                if data:
                    chunks.append(data)
                    # As `_replace` would, at a tenth of its cost.
                    commit = Commit._make((*commit[:_PAYLOAD_OFFSET], offset, *commit[_PAYLOAD_OFFSET + 1 :]))
                    offset += len(data)
                commits.append((commit, data))
            self._append(b"".join(chunks))
            self._sync()
            for commit, data in commits:
                if commit.temp_name:
                    self._clear_the_way(commit.file_name)
                    self.directory.publish(commit.temp_name, commit.file_name)
                    self._present.add(commit.file_name)
                self._committed(commit, data)
            if self._views_bytes > _VIEWS_BUDGET_BYTES:
                self.write_views()
        except OSError as error:
            raise self._commit_error(error) from error

    def _has_known(self, name: str) -> bool:
        return name in self._commits or name in self._stale or name in self._lost_commits

    def _since(self, commit: Commit, in_doubt: bool) -> int:
        if self.differs(commit, in_doubt=in_doubt):
            return self._writer.sequence + 1
        name = commit.name
        old = self._stale.get(name) or self._commits.get(name) or self._lost_commits.get(name)
        return old.since if old is not None else 0

    def _committed(self, commit: Commit, data: bytes) -> None:
        name = commit.name
        if self._has_known(name):
            for old in (self._commits.pop(name, None), self._stale.pop(name, None)):
                if old is not None and old.file_name != commit.file_name:
                    self._owned.add(old.file_name)
            self._lost_commits.pop(name, None)
            self._memory.pop(name, None)
        self._commits[name] = commit
        self.lost.discard(name)
        self._failures.pop(name, None)
        if commit.storage == Storage.INLINE:
            self._views.append((commit, data))
            self._views_bytes += len(data)
            if self._memory_bytes + len(data) <= _MEMORY_BUDGET_BYTES:
                self._memory[name] = data
                self._memory_bytes += len(data) + 100  # about what a dict entry and a bytes object add

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

    def leftovers(self, namespace: str) -> dict[int, float]:
        """Return the processes that the last run may have left on this machine, as it has recorded them."""
        view = self.view
        if view is None or view.ended is not None or view.run.get("boot") != boot_id() or view.namespace != namespace:
            return {}
        return view.processes

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
            if lost and (commit := self._stale.pop(name, None)) is not None:
                self._owned.add(commit.file_name)
                self._lost_commits[name] = commit

    def _make_stale(self, name: str) -> None:
        self._memory.pop(name, None)
        commit = self._commits.pop(name, None)
        if commit is not None:
            self._stale[name] = commit

    def write_views(self) -> None:
        """Write the `.pkl` copies of small results that lag behind the journal."""
        if not self._views:
            return
        views, self._views = self._views, deque()
        self._views_bytes = 0
        try:
            for commit, data in views:
                if self._commits.get(commit.name) is not commit:
                    continue
                if data is None:  # recovered: only the journal has it
                    data = bytes(load_result(self.directory, commit, self._key))
                file_name = commit.file_name
                self._clear_the_way(file_name)
                self.directory.write_view(file_name, data, exists=file_name in self._present)
                self._present.add(file_name)
            self._append(self._writer.event(Kind.VIEWS_WRITTEN, {"at": time.time()}))
        except OSError as error:
            raise self._commit_error(error) from error

    def write_meta(self, *, ended: bool = False) -> None:
        """Replace `_meta.json`."""
        started = time.monotonic()
        meta = {
            "format_version": FORMAT_VERSION,
            "checkpoint_dir": str(self.directory.path),
            "total_nodes": self._total,
            "checkpoint_id": self._checkpoint_id.hex(),
            "completed_nodes": list(self._commits),
            "failed_nodes": list(self._failures),
            "timestamp": iso_time(time.time()),
            "special_files": {c.name: c.special_name for c in self._commits.values() if c.special_name},
            "state": "ended" if ended else "running",
            "run": {
                "pid": self._run["pid"],
                "host": self._run["host"],
                "started": iso_time(self._run["at"]),
                "durability": self._run["durability"],
            },
        }
        text = json.dumps(meta, indent=1, ensure_ascii=True)
        self.directory.replace(META, text.encode(), durable=False)
        # Its cost grows with the number of nodes; this keeps it at 2 % of the run.
        self._meta_due = time.monotonic() + max(1.0, 50 * (time.monotonic() - started))

    def tend(self) -> None:
        """Do what is due and may wait: called by a run when it has nothing better to do."""
        if self._views:
            self.write_views()
        if time.monotonic() >= self._meta_due:
            try:
                self.write_meta()
            except OSError as error:
                raise self._commit_error(error) from error

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
        what = error.strerror or str(error)
        if error.filename is not None:
            what = f"{os.path.basename(os.fsdecode(error.filename))}: {what}"
        return CommitError(str(self.directory.path), what)

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
        if data is not None and self._commits.get(commit.name) is commit:
            return data
        return load_result(self.directory, commit, self._key)

    def source(self, node: str) -> bytes | BlobFile:
        """Return a committed result for a worker: its bytes if it is small, else the file that has them.

        Of a small result that is damaged in all of its places it is the file, too: its reader finds the damage.
        """
        data = self._memory.get(node)
        if data is not None:
            return data
        commit = self._commits[node]
        if commit.storage == Storage.INLINE:
            try:
                return bytes(load_result(self.directory, commit, self._key))
            except CheckpointDamagedError:
                pass
        return BlobFile(commit.file_name, commit.size, commit.digest)

    # --- clearing ---------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Delete the files of the checkpoint, and no others. Call it after `open`, instead of `begin`.

        On crash:
            The checkpoint as it was, or none; what is left of its files is known as ours and goes with the next
            `clear` or `execute`.
        """
        try:
            sizes = self.directory.sizes()
            owned: set[str] = set()
            if self.view is not None:
                owned = self.view.files & sizes.keys()
                writer = RecordWriter(self.view.checkpoint_id, self._key, self.view.sequence)
                journal = self._open_journal(self.view)
                try:
                    journal.append(writer.event(Kind.CLEARED, {"at": time.time(), "owns": sorted(owned)}))
                    if self._power:
                        journal.sync()
                finally:
                    journal.close()
            else:
                owned = files_of_damaged(self.directory, self._key) & sizes.keys()
            owned |= set(filter(is_temporary, sizes))
            # In this order also after a loss of power: what says which files are ours goes after these files, and a
            # journal may not be missed while there is a `_meta.json`.
            for names in (sorted(owned), (META,), (JOURNAL, LOCK)):
                self.directory.remove_all(names)
                if self._power:
                    self.directory.sync()
        except OSError as error:
            raise self._commit_error(error) from error
