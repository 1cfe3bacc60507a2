r"""The bytes of the journal: the specification, and the code that writes and reads them. Opens nothing.

The journal, `_journal`, is the truth about a checkpoint; every other file is a copy of what it says or holds a large
result that it names. It is append-only: a header, then records. All integers are little-endian.

Header (48 bytes)::

    offset  size
         0     8  magic, b"dagron\x1a\n"
         8     4  format version: 1
        12     4  flags: bit 0 = keyed (a signing key is needed), rest zero
        16    16  checkpoint id, random
        32    16  check over bytes 0..31

Record::

         0     4  marker, b"\xb7DG\xc3"
         4     1  kind, see `records.Kind`
         5     3  zero
         8     4  size of the body
        12     4  size of the payload
        16     8  sequence number: 1 for the first record, then one more for each
        24    16  check over the checkpoint id, bytes 0..23 and the body
        40        body
                  payload: the pickled result, for a COMMITTED record whose storage is INLINE; else empty

Valid if and only if the marker and the zeros are there, the sizes stay within the file, the check agrees, and the
sequence number is above that of the last valid record. The payload is not under the check: the body holds the digest of
the result, which is compared when the result is loaded.

The digest of a result is its BLAKE3, 32 bytes; a check is the first 16 bytes of the BLAKE3 of what it is over. Both are
keyed if bit 0 of the flags is set, see `digests`.

What the bodies say is specified in `records`.

Reader. Start after the header. At each offset: if a valid record stands there, take it and go on after its payload.
If not, look for the next marker after it at which a valid record begins. If there is one, the bytes between are
damage: they are reported with their offset, and cost what stood there. If there is none, the rest is a torn tail: what
a kill in the middle of an append leaves. It is dropped, and cut off by the next writer. Where a number is passed over
between two records that adjoin, records are missing, which is reported as damage of size 0. (A result may contain a
copy of older records; the rule on sequence numbers keeps a reader that searches from taking them for records.)

A FILE result is finished under its temporary name, then recorded, then renamed: whoever finds both the record and the
temporary name renames it, and the final name is never that of an older result. Behind the pickle a table of its large
buffers may follow, see `buffers`.

Version rule: a reader refuses every version but its own, and flags that it does not know; it passes over kinds that it
does not know. The magic b"dagronJ\n" was that of journals made before version 1, which are called version 0.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dagron.checkpoint.format.digests import CHECK_SIZE, Digests
from dagron.frozen import frozen

__all__ = [
    "FORMAT_VERSION",
    "HEADER_SIZE",
    "MAGIC",
    "RECORD_SIZE",
    "Damage",
    "Header",
    "Record",
    "RecordWriter",
    "decode_header",
    "encode_header",
    "scan",
]

FORMAT_VERSION = 1
"""The only one that is read."""
MAGIC = b"dagron\x1a\n"
"""The byte 0x1a ends a text file of DOS, so that nobody's terminal shows the rest."""
_MAGIC_OF_VERSION_0 = b"dagronJ\n"
MARKER = b"\xb7DG\xc3"

_HEADER = struct.Struct("<8sII16s")
_RECORD = struct.Struct("<4sB3sIIQ")
HEADER_SIZE = _HEADER.size + CHECK_SIZE
RECORD_SIZE = _RECORD.size + CHECK_SIZE
"""Bytes of a record besides its body and its payload."""
_KEYED = 1
"""The one flag of a header: the checks are keyed."""

_WINDOW = 1 << 20
"""Bytes that a reader asks for at once. Never varied: more would take memory, less more system calls."""


class Header(NamedTuple):
    """What the header of a journal says."""

    version: int
    keyed: bool
    checkpoint_id: bytes


class Record(NamedTuple):
    """A valid record, as it stands in the file."""

    kind: int
    sequence: int
    offset: int
    body: bytes
    payload_offset: int
    payload_size: int


@frozen
class Damage:
    """A stretch of the journal without a valid record although one follows it; of size 0 if records are missing."""

    offset: int
    size: int

    @property
    def what(self) -> str:
        """What there is to say of it, in half a sentence."""
        if not self.size:
            return f"records are missing at offset {self.offset}"
        return f"{self.size} bytes at offset {self.offset} are damaged"


def encode_header(checkpoint_id: bytes, digests: Digests) -> bytes:
    """Return the header of a new journal."""
    head = _HEADER.pack(MAGIC, FORMAT_VERSION, _KEYED if digests.is_keyed else 0, checkpoint_id)
    return head + digests.check(head)


def decode_header(data: bytes, digests: Digests) -> Header:
    """Read the header of a journal.

    Raises:
        ValueError: It is no header, or its check fails. In a header of another version only the version is read,
            because what follows it is not ours to judge.
    """
    if data[:8] == _MAGIC_OF_VERSION_0:
        return Header(0, False, b"")
    if len(data) < 12 or data[:8] != MAGIC:
        raise ValueError("it does not begin like a journal")
    version = int.from_bytes(data[8:12], "little")
    if version != FORMAT_VERSION:
        return Header(version, False, b"")
    if len(data) < HEADER_SIZE:
        raise ValueError("its header is cut short")
    _, _, flags, checkpoint_id = _HEADER.unpack_from(data)
    keyed = bool(flags & _KEYED)
    if keyed and not digests.is_keyed:
        raise ValueError("it is signed, and no signing key was given")
    if digests.is_keyed and not keyed:
        raise ValueError("a signing key was given, but it is not signed")
    if not digests.equal(digests.check(data[: _HEADER.size]), data[_HEADER.size : HEADER_SIZE]):
        raise ValueError("the check of its header fails" + (" (or this is another signing key)" if keyed else ""))
    if flags & ~_KEYED:
        raise ValueError(f"its header has flags that version {version} does not have: {flags:#x}")
    return Header(version, keyed, checkpoint_id)


class RecordWriter:
    """Turns bodies into records. Holds the sequence number; writes nothing.

    Args:
        checkpoint_id: From the header of the journal.
        digests: Those of the checkpoint.
        sequence: The sequence number of the last record in the journal; 0 if there is none.

    Attributes:
        sequence: That of the last record, with those that were framed here.
    """

    def __init__(self, checkpoint_id: bytes, digests: Digests, sequence: int = 0) -> None:
        self._seed = digests.new(checkpoint_id)
        self.sequence = sequence

    def frame(self, kind: int, body: bytes, payload_size: int = 0) -> bytes:
        """Return the next record, without its payload."""
        self.sequence += 1
        head = _RECORD.pack(MARKER, kind, b"\0\0\0", len(body), payload_size, self.sequence)
        check = self._seed.copy()
        check.update(head + body)
        return head + check.digest(CHECK_SIZE) + body


def scan(
    read_at: Callable[[int, int], bytes],
    size: int,
    checkpoint_id: bytes,
    digests: Digests,
    offset: int = HEADER_SIZE,
    sequence: int = 0,
) -> Iterator[Record | Damage]:
    """Yield the valid records of a journal in order, and each damaged stretch where it stands.

    Args:
        read_at: `read_at(offset, n)` returns up to `n` bytes of the journal; fewer only at its end.
        size: Size of the journal. What is appended meanwhile is not looked at.
        checkpoint_id: From the header.
        digests: Those of the checkpoint.
        offset: Where to begin: at the end of the header, or of a record that was found before.
        sequence: The number of that record; 0 if there is none.

    A torn tail, if there is one, begins where the last record ends.
    """
    seed = digests.new(checkpoint_id)
    base, window = offset, b""

    def at(offset: int, n: int) -> bytes:
        nonlocal base, window
        if not base <= offset or offset + n > base + len(window):
            base, window = offset, read_at(offset, max(n, _WINDOW))
        start = offset - base
        return window[start : start + n]

    def valid_at(offset: int, sequence: int) -> Record | None:
        nonlocal base, window
        at_window = offset - base
        if at_window < 0 or at_window + RECORD_SIZE > len(window):
            base, window, at_window = offset, read_at(offset, max(RECORD_SIZE, _WINDOW)), 0
            if len(window) < RECORD_SIZE:
                return None
        marker, kind, zeros, body_size, payload_size, found = _RECORD.unpack_from(window, at_window)
        if marker != MARKER or zeros != b"\0\0\0":
            return None
        start = offset + RECORD_SIZE
        if found <= sequence or start + body_size + payload_size > size:
            return None
        body_at = at_window + RECORD_SIZE
        if body_at + body_size > len(window):
            if body_size > _WINDOW and not whole_at(offset, body_size):
                return None
            base, window, at_window = offset, read_at(offset, max(RECORD_SIZE + body_size, _WINDOW)), 0
            body_at = RECORD_SIZE
        body = window[body_at : body_at + body_size]
        check = seed.copy()
        check.update(window[at_window : at_window + _RECORD.size])
        check.update(body)
        if not digests.equal(check.digest(CHECK_SIZE), window[at_window + _RECORD.size : body_at]):
            return None
        # As `Record(...)` would, at half of its cost.
        return tuple.__new__(Record, (kind, found, offset, body, start + body_size, payload_size))

    def whole_at(offset: int, body_size: int) -> bool:
        # A size is believed only once the check agrees: a damaged one may not take the memory of whoever reads it.
        head = read_at(offset, RECORD_SIZE)
        check = seed.copy()
        check.update(head[: _RECORD.size])
        start, end = offset + RECORD_SIZE, offset + RECORD_SIZE + body_size
        while start < end:
            chunk = read_at(start, min(_WINDOW, end - start))
            if not chunk:
                return False
            check.update(chunk)
            start += len(chunk)
        return digests.equal(check.digest(CHECK_SIZE), head[_RECORD.size :])

    while offset < size:
        record = valid_at(offset, sequence)
        if record is None:
            damaged_from, probe = offset, offset
            while record is None:
                probe = _next_marker(at, probe + 1, size)
                if probe < 0:
                    return
                record = valid_at(probe, sequence)
            yield Damage(damaged_from, probe - damaged_from)
        elif record.sequence != sequence + 1:
            yield Damage(offset, 0)  # nothing is damaged, but something is missing
        yield record
        sequence = record.sequence
        offset = record.payload_offset + record.payload_size


def _next_marker(at: Callable[[int, int], bytes], offset: int, size: int) -> int:
    while offset < size:
        chunk = at(offset, min(_WINDOW, size - offset))
        found = chunk.find(MARKER)
        if found >= 0:
            return offset + found
        offset += max(1, len(chunk) - len(MARKER) + 1)
        if len(chunk) < len(MARKER):
            return -1
    return -1
