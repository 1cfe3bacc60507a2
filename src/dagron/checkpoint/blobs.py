"""The bytes of one result: collected while they are pickled, read back with their digest checked.

Used on both sides, in the worker and in the coordinator. Never unpickles.
"""

from __future__ import annotations

import mmap
import os
import pickle
from typing import TYPE_CHECKING, NamedTuple

from dagron.checkpoint.files.modes import PRIVATE_MODE
from dagron.checkpoint.files.opened import ReadFile, TempFile
from dagron.checkpoint.format.buffers import BufferTable
from dagron.checkpoint.format.digests import NO_VALUE_DIGEST, Digests
from dagron.checkpoint.format.names import JOURNAL
from dagron.checkpoint.format.storage import Storage
from dagron.errors import CheckpointDamagedError

if TYPE_CHECKING:
    # A worker has no use for these, and would import them at each of its server's starts.
    from pathlib import Path

    from blake3 import blake3

    from dagron.checkpoint.files.directory import Directory
    from dagron.checkpoint.format.commits import Commit

__all__ = [
    "INLINE_MAX_BYTES",
    "Blob",
    "BlobFile",
    "ResultSink",
    "VerifiedFiles",
    "blob_file",
    "load_result",
    "read_blob",
]

INLINE_MAX_BYTES = 16 * 1024
"""Results up to this size are in the journal; a larger one gets a file, which the worker writes.

Never varied. It trades files and system calls, of which a smaller limit makes more, for bytes that are copied through
the coordinator, of which a larger limit makes more.
"""

_MAX_VERIFIED = 256
"""Files whose digest is remembered. Never varied: an entry takes some 300 bytes, and a file that was forgotten is
digested once more."""


class Blob(NamedTuple):
    """A pickled result.

    Attributes:
        storage: Where its bytes are.
        size: How many there are.
        digest: Their digest.
        data: The bytes, if the storage is INLINE; else empty.
        temp_name: The name of the file that has them, if the storage is FILE; else empty.
        identity: That of the file, as in `ReadFile`.
        value_digest: The canonical digest of the value; `NO_VALUE_DIGEST` if it has none.
    """

    storage: int
    size: int
    digest: bytes
    data: bytes
    temp_name: str
    identity: tuple[int, ...] = ()
    value_digest: bytes = NO_VALUE_DIGEST


class BlobFile(NamedTuple):
    """Where the bytes of a committed result stand, for a process that is to read them.

    Attributes:
        file_name: The file.
        size: Its bytes.
        digest: Their digest.
        identity: What the file was, as in `ReadFile`, when a worker of this run had written and digested it; empty if
            none has.
    """

    file_name: str
    size: int
    digest: bytes
    identity: tuple[int, ...] = ()


def blob_file(commit: Commit, file_name: str | None = None) -> BlobFile:
    """Return the file of a commit, or another one that is to have the same bytes."""
    return BlobFile(commit.file_name if file_name is None else file_name, commit.size, commit.digest)


class ResultSink:
    """A write-only file for a pickler: keeps what passes in memory, and moves to a file when it grows.

    Args:
        directory: The checkpoint directory.
        digests: How results are digested.
        durable: Whether a file has to survive a loss of power when `finish` returns.
        mode: That of a file.

    Attributes:
        size: How many bytes have come.
        refusal: What the disk said when it refused; None if it did not. Tells it from errors of what is pickled.
    """

    def __init__(self, directory: str | Path, digests: Digests, *, durable: bool, mode: int = PRIVATE_MODE) -> None:
        self._directory = directory
        self._mode = mode
        self._durable = durable
        self._digests = digests
        self._parts: list[bytes] = []
        self.size = 0
        self._file: TempFile | None = None
        self._digest: blake3 | None = None
        self._buffers = BufferTable()
        self.refusal: OSError | None = None

    def expect(self, buffer: pickle.PickleBuffer) -> bool:
        """Note that this buffer comes next; the pickler's `buffer_callback`."""
        return self._buffers.expect(buffer)

    def write(self, data: bytes | memoryview) -> int:
        """Take the next bytes."""
        if not isinstance(data, bytes):
            data = memoryview(data).cast("B")
        for piece in self._buffers.place(data, self.size):
            self._put(piece)
        return len(data)

    def _put(self, data: bytes | memoryview) -> None:
        self.size += len(data)
        if self.size <= INLINE_MAX_BYTES:
            self._parts.append(bytes(data))
            return
        try:
            if self._file is None:
                self._file = TempFile(self._directory, self._mode)
                self._digest = self._digests.new()
                self._put_in_file(b"".join(self._parts))
                self._parts.clear()
            self._put_in_file(data)
        except OSError as error:
            self.refusal = error
            raise

    def _put_in_file(self, data: bytes | memoryview) -> None:
        assert self._file is not None
        assert self._digest is not None
        try:
            self._file.write(data)
        except OSError:
            self._file.discard()  # at once: while it fills the disk, nobody else can write
            raise
        self._digest.update(data)

    def finish(self) -> Blob:
        """Return what was written.

        Guarantees:
            If it went to a file, that is closed, and durable if asked for.

        On crash:
            A temporary file that the next run deletes.
        """
        if table := self._buffers.encode():
            self._put(table)
        if self._file is None or self._digest is None:
            data = b"".join(self._parts)
            return Blob(Storage.INLINE, self.size, self._digests.of(data), data, "")
        digest = self._digest.digest()
        try:
            name = self._file.finish(durable=self._durable)
        except OSError as error:
            self.refusal = error
            raise
        return Blob(Storage.FILE, self.size, digest, b"", name, self._file.identity)

    def discard(self) -> None:
        """Forget what was written and delete the file, if there is one."""
        if self._file is not None:
            self._file.discard()
            self._file = None


class VerifiedFiles:
    """Files whose digest this process has found, so that many children of a result of an earlier run pay for it once.

    A file counts as the same only while its inode, its size and the time of its last change are the same.
    """

    def __init__(self) -> None:
        self._digests: dict[tuple[int, ...], bytes] = {}

    def has(self, identity: tuple[int, ...], digest: bytes) -> bool:
        """Tell whether these bytes were found to have this digest, and have not been written to since."""
        return self._digests.get(identity) == digest

    def add(self, identity: tuple[int, ...], digest: bytes) -> None:
        """Note what was found, and forget the first file where there would be more than `_MAX_VERIFIED`."""
        if len(self._digests) >= _MAX_VERIFIED:
            del self._digests[next(iter(self._digests))]
        self._digests[identity] = digest


def read_blob(
    directory: str | Path, blob: BlobFile, digests: Digests, verified: VerifiedFiles | None = None
) -> bytes | mmap.mmap:
    """Return the bytes of a result file after comparing their size and digest.

    With a key the digest is always compared. Without one it is not compared if the file is as a worker of this run has
    left it, nor a second time if `verified` has the file.

    A large file is mapped privately, so that its buffers need not be copied (`out_of_band`). With a key it is read,
    because a mapping can still change after the check.

    Raises:
        CheckpointDamagedError: The file is missing or its bytes are not those that were committed.
    """
    path = os.path.join(directory, blob.file_name)
    try:
        with ReadFile(path) as file:
            if file.size != blob.size:
                reason = f"it has {file.size} bytes instead of {blob.size}"
                raise CheckpointDamagedError(path, min(file.size, blob.size), reason)
            data = file.map() if file.size > INLINE_MAX_BYTES and not digests.is_keyed else file.read_at(0, file.size)
    except OSError as error:
        raise CheckpointDamagedError(path, 0, f"cannot read it: {error.strerror}") from error
    if not digests.is_keyed:
        if blob.identity == file.identity:
            return data
        if verified is not None and verified.has(file.identity, blob.digest):
            return data
    if not digests.equal(digests.of(data), blob.digest):
        raise CheckpointDamagedError(path, 0, "its digest is not the one that was committed")
    if verified is not None:
        verified.add(file.identity, blob.digest)
    return data


def load_result(directory: Directory, commit: Commit, digests: Digests) -> bytes | memoryview:
    """Return the bytes of a committed result after checking their digest.

    An INLINE result whose place in the journal is damaged is taken from its `.pkl`. A FILE may still have its temporary
    name, because its record comes first.

    Raises:
        CheckpointDamagedError: No place holds the bytes that were committed.
    """
    if commit.storage == Storage.INLINE:
        try:
            with directory.open_to_read(JOURNAL) as journal:
                data = journal.read_at(commit.payload_offset, commit.size)
        except OSError:
            data = b""
        if digests.equal(digests.of(data), commit.digest):
            return data
    try:
        blob = read_blob(directory.path, blob_file(commit), digests)
    except CheckpointDamagedError as error:
        blob = _renamed_late(directory, commit, digests, error)
    return blob if isinstance(blob, bytes) else memoryview(blob)


def _renamed_late(
    directory: Directory, commit: Commit, digests: Digests, error: CheckpointDamagedError
) -> bytes | mmap.mmap:
    # It may get its name between two looks, so there is a third one.
    for name in (commit.temp_name, commit.file_name) if commit.temp_name else ():
        try:
            return read_blob(directory.path, blob_file(commit, name), digests)
        except CheckpointDamagedError:
            continue
    raise error
