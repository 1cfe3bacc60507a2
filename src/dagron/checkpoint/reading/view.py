"""What a journal says about its checkpoint. Reads without the lock, changes nothing, unpickles nothing."""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import index
from pathlib import Path
from typing import Any

from dagron.checkpoint.files import Directory, ReadFile, is_temporary
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.journal import (
    FORMAT_VERSION,
    HEADER_SIZE,
    MAGIC,
    Commit,
    Damage,
    Header,
    Kind,
    Record,
    decode_header,
    decode_json,
    glance_at_commit,
    scan,
)
from dagron.checkpoint.format.names import JOURNAL, LOCK, META, SUFFIX, plain_file_name
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.format.structure import RecordedDag, decode_dag, digest_of
from dagron.checkpoint.reading.packed import PackedCommits
from dagron.errors import CheckpointDamagedError, CheckpointDirectoryError, FormatVersionError

__all__ = [
    "JOURNAL",
    "LOCK",
    "META",
    "SIGNING_KEY_VARIABLE",
    "View",
    "check_journal",
    "checkpoint_path",
    "dag_of",
    "files_of_damaged",
    "is_recognized",
    "iso_time",
    "printed_by",
    "read_on",
    "read_view",
    "signing_key",
]

SIGNING_KEY_VARIABLE = "DAGRON_SIGNING_KEY"

_KINDS = frozenset(Kind)
_COMMITTED = int(Kind.COMMITTED)
"""As a plain number, because the kind of each record is compared with it."""

_FIRST_TIME, _LAST_TIME = -62_135_596_800.0, 253_402_300_800.0
"""The years 1 to 9999 in seconds since the epoch: those that can be shown."""

_META_MAX_BYTES = 2**28
"""More than `_meta.json` of some million nodes has. A file may claim any size and have no bytes."""


def iso_time(unix_seconds: float) -> str:
    """Return a time as ISO-8601 text in UTC."""
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat()


@dataclass(slots=True)
class View:
    """The state of a checkpoint after the last valid record.

    Attributes:
        checkpoint_id: Tells checkpoints apart; new with every fresh `execute`.
        commits: The completed nodes, in the order of their commits.
        failures: The failed nodes with the fields of their FAILED records.
        run: The fields of the last RUN_STARTED.
        ended: The fields of the RUN_ENDED that belongs to it, if there is one.
        n_runs: Runs on this checkpoint.
        run_offset: Where the record of the last RUN_STARTED begins in the journal.
        processes: The workers and servers of the last run, if it has not ended: process id and when it was created, as
            the machine `run["boot"]` counts.
        namespace: The namespace of these process ids.
        owned: Files that we have written and that belong to no commit any more; they may be reused or deleted.
        removed: Files of stale commits that a run deleted at its end.
        lagging_from: Of INLINE results in records with this number or a higher one, the `.pkl` copy may be missing or
            that of an older result; see `is_lagging`.
        stale: Commits that no longer apply although nothing has replaced them yet.
        cleared: The checkpoint is being deleted.
        structure: `DAG.structure_digest()`, in hexadecimal, of the DAG that the commits were last compared with.
        absent: Completed and failed nodes that the DAG of the last run does not have.
        recorded: The body of the last DAG_RECORDED; empty if there is none. See `dag_of`.
        lost: The commits of nodes whose result was lost and has not been made again.
        printed: Where the PRINTED record of a completed node stands: its offset, and its sequence number. See
            `printed_by`.
        damage: Stretches of the journal that hold no valid record.
        sequence: The sequence number of the last record.
        valid_size: Where the torn tail begins; the size of the journal if there is none.
        size: The size of the journal.
        updated_unix: When the last record was written, in seconds since the epoch.
    """

    checkpoint_id: bytes
    commits: PackedCommits = field(default_factory=PackedCommits)
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    ended: dict[str, Any] | None = None
    n_runs: int = 0
    run_offset: int = HEADER_SIZE
    processes: dict[int, float] = field(default_factory=dict)
    namespace: str = ""
    owned: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    lagging_from: int = 0
    stale: PackedCommits = field(default_factory=PackedCommits)
    cleared: bool = False
    structure: str = ""
    absent: set[str] = field(default_factory=set)
    recorded: bytes = b""
    lost: PackedCommits = field(default_factory=PackedCommits)
    printed: dict[str, tuple[int, int]] = field(default_factory=dict)
    damage: list[Damage] = field(default_factory=list)
    sequence: int = 0
    valid_size: int = HEADER_SIZE
    size: int = 0
    updated_unix: float = 0.0

    def _apply(self, record: Record) -> None:
        sequence = record.sequence
        if record.kind == _COMMITTED:
            name, at, special = glance_at_commit(record.body)
            commits = self.commits
            if name in commits.names or name in self.stale.names:
                # Taken out first, so that the order is that of the last commits.
                for old in (commits.pop(name), self.stale.pop(name)):
                    if old is not None:
                        self.owned.add(old.file_name)
            commits.add(name, record.body, record.payload_offset, sequence, special=special)
            if special:
                _check_names(commits[name])
            if self.removed:
                self.removed.discard(commits.file_of(name))
            if self.failures:
                self.failures.pop(name, None)
            if self.lost.names:
                self.lost.pop(name)
            if self.printed:
                self.printed.pop(name, None)
        elif record.kind == Kind.DAG_RECORDED:
            self.recorded = record.body
            at = 0.0
        elif record.kind in _KINDS:
            fields = decode_json(record)
            at = float(fields.get("at", 0.0))
            if record.kind == Kind.FAILED:
                index(fields.get("attempts", 0))
                self._invalidate(fields["name"])
                self.failures[fields["name"]] = fields
                self.printed.pop(fields["name"], None)
            elif record.kind == Kind.PRINTED:
                # Only where it stands: what tasks print may be much, and nearly nobody asks for it.
                self.printed[fields["name"]] = record.offset, record.sequence
            elif record.kind == Kind.INVALIDATED:
                for name in fields["names"]:
                    self._invalidate(name)
                    if fields["lost"] and name in self.stale:
                        self.owned.add(self.stale.file_of(name))
                        self.stale.move(name, self.lost)
                if "structure" in fields:
                    self.structure, self.absent = fields["structure"], set(fields["absent"])
            elif record.kind == Kind.RUN_STARTED:
                index(fields.get("total", 0))
                if not 0 <= index(fields.get("pid", 0)) < 2**31:
                    raise ValueError(f"{fields['pid']} is no process")
                self.run, self.ended = fields, None
                self.run_offset = record.offset
                self.processes = {}
                self.n_runs += 1
                self.structure = fields.get("structure", "")
                self.absent = set(fields.get("absent", ()))
                if fields["fresh"]:
                    self._forget(fields["owns"])
            elif record.kind == Kind.WORKERS_STARTED:
                self.processes.update((int(pid), float(created)) for pid, created in fields["processes"])
                self.namespace = str(fields["namespace"])
            elif record.kind == Kind.RUN_ENDED:
                self.ended = fields
                self.processes = {}
                self.lagging_from = sequence
                # The files of these were deleted before this was written.
                self.owned.clear()
                self.removed = self.stale.files()
            elif record.kind == Kind.VIEWS_WRITTEN:
                self.lagging_from = max(self.lagging_from, min(index(fields.get("before", sequence)), sequence))
            elif record.kind == Kind.CLEARED:
                self._forget(fields["owns"])
                self.cleared = True
        else:
            at = 0.0
        if not _FIRST_TIME <= at < _LAST_TIME:
            raise ValueError(f"{at!r} is no time")
        if at > self.updated_unix:
            self.updated_unix = at
        self.sequence = sequence
        self.valid_size = record.payload_offset + record.payload_size

    def _invalidate(self, name: str) -> None:
        self.commits.move(name, self.stale)

    def _forget(self, owns: list[str]) -> None:
        self.commits.clear()
        self.failures.clear()
        self.stale.clear()
        self.lost.clear()
        self.printed.clear()
        self.owned = {checked_file_name(name) for name in owns}

    @property
    def completed(self) -> list[str]:
        """The completed nodes of the DAG, in the order of their commits."""
        return [name for name in self.commits if name not in self.absent]

    @property
    def failed(self) -> list[str]:
        """The failed nodes of the DAG."""
        return [name for name in self.failures if name not in self.absent]

    @property
    def files(self) -> set[str]:
        """Every file that is ours, whether it exists or not."""
        return self.commits.files() | (self.stale.files() - self.removed) | self.owned

    def is_lagging(self, commit: Commit) -> bool:
        """Tell whether the `.pkl` copy of a completed node may be missing or that of an older result."""
        return commit.storage == Storage.INLINE and commit.sequence >= self.lagging_from


def _open_journal(directory: Directory, key: bytes | None) -> tuple[ReadFile, Header] | None:
    path = str(directory.path)
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise CheckpointDirectoryError(path, "it is a file, not a directory")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # such as a name that is too long
        raise CheckpointDirectoryError(path, error.strerror or str(error)) from error
    file = _found(directory)
    if file is None:
        return None
    try:
        header = decode_header(file.read_at(0, HEADER_SIZE), Digests(key))
    except OSError as error:
        file.close()
        raise _unreadable(directory, error) from error
    except ValueError as error:
        file.close()
        raise CheckpointDamagedError(directory.path_to(JOURNAL), 0, str(error)) from None
    if header.version != FORMAT_VERSION:
        file.close()
        raise FormatVersionError(path, header.version, FORMAT_VERSION)
    return file, header


def _found(directory: Directory) -> ReadFile | None:
    # A writer makes the journal before `_meta.json`, and removes it after. So both may come between our two looks;
    # several times in a row they do not.
    for _ in range(3):
        try:
            return directory.open_to_read(JOURNAL)
        except (FileNotFoundError, NotADirectoryError):
            if not directory.exists(META):
                return None
        except OSError as error:
            raise _unreadable(directory, error) from error
    reason = "it is missing, although _meta.json is there; put it back, or call clear_checkpoint()"
    raise CheckpointDamagedError(directory.path_to(JOURNAL), 0, reason)


def _unreadable(directory: Directory, error: OSError) -> CheckpointDirectoryError:
    return CheckpointDirectoryError(str(directory.path), f"cannot read {JOURNAL}: {error.strerror}")


def check_journal(directory: Directory, key: bytes | None = None) -> None:
    """Raise what `read_view` would raise because of the directory or of the beginning of its journal."""
    opened = _open_journal(directory, key)
    if opened is not None:
        opened[0].close()


def read_view(
    directory: Directory, key: bytes | None = None, on_record: Callable[[Record], object] | None = None
) -> View | None:
    """Read the journal of a checkpoint.

    Args:
        directory: The checkpoint directory; it may be missing.
        key: The signing key, or None.
        on_record: Called with each valid record, in order, for those who want what later records supersede.

    Returns:
        None if there is no checkpoint: no directory, or no journal in it and no `_meta.json` either.

    Raises:
        CheckpointDirectoryError: The path is no directory, or the journal cannot be opened.
        CheckpointDamagedError: The journal is missing although `_meta.json` is there, or its header is damaged.
        FormatVersionError: It has another version than ours.
    """
    opened = _open_journal(directory, key)
    if opened is None:
        return None
    file, header = opened
    with file:
        try:
            return _read(directory, file, header, key, on_record)
        except OSError as error:
            raise _unreadable(directory, error) from error


def read_on(view: View, directory: Directory, key: bytes | None = None) -> View | None:
    """Read what was appended to a journal since it was read; as `read_view`, but at the cost of what is new.

    Returns:
        The same view, brought up to date; another one if the journal was replaced meanwhile; None if it is gone.
    """
    opened = _open_journal(directory, key)
    if opened is None:
        return None
    file, header = opened
    with file:
        try:
            if header.checkpoint_id != view.checkpoint_id or file.size < view.valid_size:
                return _read(directory, file, header, key)
            view.size = file.size
            return _read_into(view, directory, file, key)
        except OSError as error:
            raise _unreadable(directory, error) from error


def _read(
    directory: Directory,
    file: ReadFile,
    header: Header,
    key: bytes | None,
    on_record: Callable[[Record], object] | None = None,
) -> View:
    view = View(header.checkpoint_id, size=file.size)
    return _read_into(view, directory, file, key, on_record)


def _read_into(
    view: View,
    directory: Directory,
    file: ReadFile,
    key: bytes | None,
    on_record: Callable[[Record], object] | None = None,
) -> View:
    for item in scan(file.read_at, file.size, view.checkpoint_id, Digests(key), view.valid_size, view.sequence):
        if isinstance(item, Damage):
            view.damage.append(item)
            continue
        try:
            view._apply(item)
            if on_record is not None:
                on_record(item)
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            struct.error,
        ) as error:
            # Its check agrees, so these bytes were written so: by a fault of ours or by someone with the key.
            reason = f"a valid record makes no sense: {error!r}"
            raise CheckpointDamagedError(directory.path_to(JOURNAL), item.offset, reason) from error
    return view


def dag_of(view: View) -> RecordedDag | None:
    """Return the nodes and edges of the DAG of the last run, or None if they are not recorded.

    Raises:
        ValueError: A valid record makes no sense.
    """
    if not view.recorded or digest_of(view.recorded).hex() != view.run.get("dag"):
        return None
    return decode_dag(view.recorded)


def printed_by(view: View, directory: Directory, name: str, key: bytes | None = None) -> dict[str, Any]:
    """Return what the last attempt of a node wrote to its standard streams: the fields of its PRINTED or FAILED record.

    Raises:
        CheckpointDamagedError: The record is damaged or cannot be read.
    """
    if name in view.failures:
        return view.failures[name]
    if name not in view.printed:
        return {}
    offset, sequence = view.printed[name]
    journal = str(directory.path / JOURNAL)
    try:
        with directory.open_to_read(JOURNAL) as file:
            found = next(scan(file.read_at, file.size, view.checkpoint_id, Digests(key), offset, sequence - 1), None)
    except OSError as error:
        raise CheckpointDamagedError(journal, offset, f"cannot read it: {error.strerror or error}") from error
    if not isinstance(found, Record):
        raise CheckpointDamagedError(journal, offset, "what a node has printed is no longer there")
    return decode_json(found)


def is_recognized(directory: Directory) -> bool:
    """Tell whether a checkpoint that cannot be read was one of ours, and not somebody else's files with our names."""
    try:
        with directory.open_to_read(JOURNAL) as file:
            if file.read_at(0, len(MAGIC)) == MAGIC:
                return True
    except OSError:
        pass
    return _meta_of(directory) is not None


def _meta_of(directory: Directory) -> tuple[bytes, set[str]] | None:
    try:
        with directory.open_to_read(META) as file:
            if file.size > _META_MAX_BYTES:
                return None
            meta = json.loads(file.read_at(0, file.size))
        special = {str(name): checked_file_name(file) for name, file in meta["special_files"].items()}
        files = {special.get(name) or plain_file_name(name) for name in meta["completed_nodes"]}
        return bytes.fromhex(meta["checkpoint_id"]), files
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def files_of_damaged(directory: Directory, key: bytes | None) -> set[str]:
    """Return the files of a checkpoint whose journal is missing or begins with damage, as far as they can be known.

    `_meta.json` says which files there were when it was written, and what the records behind a damaged header are
    checked with.
    """
    meta = _meta_of(directory)
    if meta is None:
        return set()
    checkpoint_id, files = meta
    try:
        with directory.open_to_read(JOURNAL) as file:
            files |= _read_into(View(checkpoint_id, size=file.size), directory, file, key).files
    except (OSError, CheckpointDamagedError):
        pass  # then what the snapshot says has to do
    return files


def _check_names(commit: Commit) -> None:
    if commit.special_name:  # a plain one is safe by its making
        checked_file_name(commit.special_name)
    if commit.temp_name and not is_temporary(commit.temp_name):
        raise ValueError(f"{commit.temp_name!r} is no name of a temporary file")


def checked_file_name(name: str) -> str:
    """Return a recorded file name if it is one that we could have made.

    Raises:
        ValueError: It is not: whoever planted it may not make us touch anything outside of the directory.
    """
    if not name.endswith(SUFFIX) or os.path.basename(name) != name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a result file")
    return name


def checkpoint_path(checkpoint_dir: str | os.PathLike[str]) -> Path:
    """Return the directory as an absolute path, so that a later change of the working directory does not move it.

    Raises:
        CheckpointDirectoryError: It is relative, and there is no working directory.
    """
    path = os.fspath(checkpoint_dir)
    try:
        return Path(os.path.abspath(path))
    except OSError as error:
        reason = f"the working directory cannot be found: {error.strerror or error}"
        raise CheckpointDirectoryError(path, reason) from error


def signing_key() -> bytes | None:
    """Return the signing key that the environment gives, or None."""
    return os.fsencode(os.environ.get(SIGNING_KEY_VARIABLE, "")) or None
