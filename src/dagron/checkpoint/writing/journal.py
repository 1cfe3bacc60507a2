"""The journal as its writer has it: the ledger takes in what is appended, as that of every reader will."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Self

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.opened import AppendFile
from dagron.checkpoint.format.commits import Commit, encode_commit
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.journal import HEADER_SIZE, Record, RecordWriter, encode_header
from dagron.checkpoint.format.json_bodies import encode_event
from dagron.checkpoint.format.names import JOURNAL
from dagron.checkpoint.format.records import Event, Kind
from dagron.checkpoint.reading.ledger import Ledger
from dagron.errors import CheckpointGoneError

__all__ = ["JournalWriter", "Said", "refusal"]

_COMMITTED = int(Kind.COMMITTED)
"""As a plain number, which packs in half of the time of an enum."""

Said = Event | tuple[Commit, bytes] | bytes
"""What a record is made of: an event, a commit with its payload, or the body of a DAG_RECORDED."""


class JournalWriter:
    """The journal of one run.

    Args:
        directory: The checkpoint directory.
        ledger: What the journal says so far.
        digests: Those of the checkpoint.
        durable: Whether what is synced has to survive a loss of power. If not, nothing is synced.

    Attributes:
        ledger: What the journal says.
        refused: Whether the disk has refused something. It stays so: after a record that is missing, or is not on the
            disk, no other may follow.
    """

    def __init__(self, directory: Directory, ledger: Ledger, digests: Digests, *, durable: bool) -> None:
        self.ledger = ledger
        self.refused = False
        self._directory = directory
        self._identity = directory.identity()
        self._durable = durable
        self._records = RecordWriter(ledger.checkpoint_id, digests, ledger.sequence)
        self._file = _open_journal(directory, ledger, durable=durable)

    @classmethod
    def begin(cls, directory: Directory, digests: Digests, said: Iterable[Said], *, durable: bool) -> Self:
        """Replace the journal by one of a new checkpoint, in one step.

        Args:
            directory: The checkpoint directory.
            digests: Those of the checkpoint.
            said: What it says from the beginning.
            durable: As of this class.
        """
        ledger = Ledger(os.urandom(16))
        header = encode_header(ledger.checkpoint_id, digests)
        chunks, records = _encoded(RecordWriter(ledger.checkpoint_id, digests), said, HEADER_SIZE)
        directory.replace(JOURNAL, b"".join([header, *chunks]), durable=durable)
        for record in records:
            ledger.apply(record)
        return cls(directory, ledger, digests, durable=durable)

    def append(self, said: Iterable[Said]) -> list[Record]:
        """Append records, without a sync and without taking them into the ledger: `apply` has to follow.

        Raises:
            CheckpointGoneError: The file has lost its name.
            OSError: The file system refused.

        Guarantees:
            Every later reader finds them, also if this process is killed next.

        On crash:
            A reader finds a prefix of them.
        """
        if not self.is_in_place():
            self.refused = True
            raise CheckpointGoneError(str(self._directory.path), self.what_is_gone())
        chunks, records = _encoded(self._records, said, self._file.size)
        self._file.append(b"".join(chunks))
        return records

    def what_is_gone(self) -> str:
        """Return what has been deleted or replaced since this journal was opened; empty if nothing has."""
        found = self._directory.identity()
        if found is None:
            return "the directory was deleted or moved away while the run went on"
        if found != self._identity:
            return "another directory has taken the place of this one while the run went on"
        return "" if self.is_in_place() else f"{JOURNAL} was removed or replaced while the run went on"

    def is_in_place(self) -> bool:
        """Tell whether the file still has its name, so that a later reader finds what is appended."""
        return self._file.is_in_place()

    def sync(self) -> None:
        """Make what was appended survive a loss of power, if that is asked for."""
        if self._durable:
            self._file.sync()

    def apply(self, records: Iterable[Record]) -> None:
        """Take into the ledger what was appended."""
        for record in records:
            self.ledger.apply(record)

    def say(self, *said: Said, sync: bool = True) -> None:
        """Append, sync and take in."""
        records = self.append(said)
        if sync:
            self.sync()
        self.apply(records)

    def renew(self, offset: int) -> None:
        """Write the bytes from `offset` once more as they are, so that the next sync is about them, too."""
        self._file.renew(offset)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _encoded(records: RecordWriter, said: Iterable[Said], offset: int) -> tuple[list[bytes], list[Record]]:
    """Return the bytes of records and payloads, which are to stand at `offset`, and the records as they are read."""
    chunks: list[bytes] = []
    made: list[Record] = []
    for item in said:
        payload = b""
        if isinstance(item, tuple):
            commit, payload = item
            kind, body = _COMMITTED, encode_commit(commit)
        elif isinstance(item, bytes):
            kind, body = int(Kind.DAG_RECORDED), item
        else:
            kind, body = int(item.kind), encode_event(item)
        size = len(payload)
        frame = records.frame(kind, body, size)
        chunks.append(frame)
        payload_offset = offset + len(frame)
        # As `Record(...)` would, at half of its cost.
        made.append(tuple.__new__(Record, (kind, records.sequence, offset, body, payload_offset, size)))
        if size:
            chunks.append(payload)
        offset = payload_offset + size
    return chunks, made


def _open_journal(directory: Directory, ledger: Ledger, *, durable: bool) -> AppendFile:
    """Open a journal that was read, for appending to its last valid record; what follows that one is cut off."""
    if directory.n_names(JOURNAL) > 1:
        # A backup made of hard links is to stay as it is.
        with directory.open_to_read(JOURNAL) as file:
            content = file.read_at(0, ledger.valid_size)
        directory.replace(JOURNAL, content, durable=durable)
    return AppendFile(directory.path_to(JOURNAL), ledger.valid_size)


def refusal(error: OSError) -> str:
    """Return what the system said, after the name of the file if it has named one: the new name, of a rename."""
    what = error.strerror or str(error)
    name = error.filename if error.filename2 is None else error.filename2
    if name is not None:
        what = f"{os.path.basename(os.fsdecode(name))}: {what}"
    return what
