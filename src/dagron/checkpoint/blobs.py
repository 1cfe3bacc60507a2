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
    from dagron.checkpoint.format.compression import Compressor

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

SAMPLE_BYTES = 64 * 1024
"""Results up to this size are not compressed: a file of 64 KiB that shrinks by half frees eight blocks of a disk. So
many bytes of a larger one are tried, in 0.2 ms."""

_CHUNK_BYTES = 1 << 20
"""Bytes that are compressed at once. Never varied: more would take memory."""

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
        compressed_size: How many bytes the file has, if they are compressed; else 0.
    """

    storage: int
    size: int
    digest: bytes
    data: bytes
    temp_name: str
    identity: tuple[int, ...] = ()
    value_digest: bytes = NO_VALUE_DIGEST
    compressed_size: int = 0


class BlobFile(NamedTuple):
    """Where the bytes of a committed result stand, for a process that is to read them.

    Attributes:
        file_name: The file.
        size: How many there are.
        digest: Their digest.
        identity: What the file was, as in `ReadFile`, when a worker of this run had written and digested it; empty if
            none has.
        compressed_size: How many bytes the file has, if they are compressed; else 0.
    """

    file_name: str
    size: int
    digest: bytes
    identity: tuple[int, ...] = ()
    compressed_size: int = 0


def blob_file(commit: Commit, file_name: str | None = None) -> BlobFile:
    """Return the file of a commit, or another one that is to have the same bytes."""
    name = commit.file_name if file_name is None else file_name
    return BlobFile(name, commit.size, commit.digest, (), commit.compressed_size)


class ResultSink:
    """A write-only file for a pickler: keeps what passes in memory, and moves to a file when it grows.

    Args:
        directory: The checkpoint directory.
        digests: How results are digested.
        durable: Whether a file has to survive a loss of power when `finish` returns.
        mode: That of a file.
        compresses: Whether a file is compressed if it is large and a sample shrinks.

    Attributes:
        size: How many bytes have come.
        refusal: What the disk said when it refused; None if it did not. Tells it from errors of what is pickled.
    """

    def __init__(
        self,
        directory: str | Path,
        digests: Digests,
        *,
        durable: bool,
        mode: int = PRIVATE_MODE,
        compresses: bool = False,
    ) -> None:
        self._directory = directory
        # Small results are in the journal, which is not compressed.
        self._held_bytes = SAMPLE_BYTES if compresses else INLINE_MAX_BYTES
        self._compresses = compresses
        self._compressor: Compressor | None = None
        self._file_size = 0
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
        if self._file is None and self.size <= self._held_bytes:
            self._parts.append(bytes(data))
            return
        if self._file is None:
            if self._compresses:
                self._compressor = self._compressor_if_worth_it(data)
            self._begin_file()
        self._put_in_file(data)

    def _compressor_if_worth_it(self, data: bytes | memoryview) -> Compressor | None:
        from dagron.checkpoint.format.compression import new_compressor, worth_it

        # What comes first may be unlike the rest, as a table of names in front of numbers.
        middle = len(data) // 2
        samples = [b"".join(self._parts), *(data[at : at + SAMPLE_BYTES] for at in (0, middle) if len(data) > middle)]
        return new_compressor() if worth_it(samples) else None

    def _begin_file(self) -> None:
        try:
            self._file = TempFile(self._directory, self._mode)
        except OSError as error:
            self.refusal = error
            raise
        self._digest = self._digests.new()
        self._put_in_file(b"".join(self._parts))
        self._parts.clear()

    def _put_in_file(self, data: bytes | memoryview) -> None:
        assert self._digest is not None
        if self._compressor is None:
            self._write(data)
        else:
            for at in range(0, len(data), _CHUNK_BYTES):
                self._write(self._compressor.compress(data[at : at + _CHUNK_BYTES]))
        self._digest.update(data)

    def _write(self, data: bytes | memoryview) -> None:
        assert self._file is not None
        self._file_size += len(data)
        try:
            if data:
                self._file.write(data)
        except OSError as error:
            self._file.discard()  # at once: while it fills the disk, nobody else can write
            self.refusal = error
            raise

    def finish(self) -> Blob:
        """Return what was written.

        Guarantees:
            If it went to a file, that is closed, and durable if asked for.

        On crash:
            A temporary file that the next run deletes.
        """
        if table := self._buffers.encode():
            self._put(table)
        if self._file is None and self.size > INLINE_MAX_BYTES:
            self._begin_file()
        if self._file is None or self._digest is None:
            data = b"".join(self._parts)
            return Blob(Storage.INLINE, self.size, self._digests.of(data), data, "")
        digest = self._digest.digest()
        if self._compressor is not None:
            self._write(self._compressor.flush())
        compressed_size = 0 if self._compressor is None else self._file_size
        try:
            name = self._file.finish(durable=self._durable)
        except OSError as error:
            self.refusal = error
            raise
        identity = self._file.identity
        return Blob(Storage.FILE, self.size, digest, b"", name, identity, compressed_size=compressed_size)

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

    A large file is mapped privately, unless it is compressed, so that its buffers need not be copied (`out_of_band`).
    With a key it is read, because a mapping can still change after the check.

    Raises:
        CheckpointDamagedError: The file is missing or its bytes are not those that were committed.
    """
    path = os.path.join(directory, blob.file_name)
    try:
        with ReadFile(path) as file:
            expected = blob.compressed_size or blob.size
            if file.size != expected:
                reason = f"it has {file.size} bytes instead of {expected}"
                raise CheckpointDamagedError(path, min(file.size, expected), reason)
            maps = file.size > INLINE_MAX_BYTES and not digests.is_keyed and not blob.compressed_size
            data = file.map() if maps else file.read_at(0, file.size)
    except OSError as error:
        raise CheckpointDamagedError(path, 0, f"cannot read it: {error.strerror}") from error
    if blob.compressed_size:
        data = _decompressed(path, bytes(data), blob.size)
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


def _decompressed(path: str, data: bytes, size: int) -> bytes:
    from dagron.checkpoint.format.compression import decompressed

    try:
        found = decompressed(data, size)
    except ValueError as error:
        raise CheckpointDamagedError(path, 0, str(error)) from error
    if len(found) != size:
        raise CheckpointDamagedError(path, 0, f"it holds other than {size} bytes")
    return found


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
