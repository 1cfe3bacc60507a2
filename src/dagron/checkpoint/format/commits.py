"""What a COMMITTED record says: a node is completed. A `Commit`, and the bytes of the body. Opens nothing.

All integers are little-endian. The body::

    offset  size
         0     1  storage: 0 = INLINE, 1 = FILE
         1     1  zero
         2     2  slot, signed; -1 for the coordinator itself
         4     4  attempts
         8     8  size of the pickled result
        16    32  digest of the pickled result
        48    16  value_digest, the canonical digest of the value; zero if it has none, and then the bytes decide
        64    16  fingerprint, `DAG.parents_fingerprint` of the node
        80     8  since, the number of the record with which the result became what it is; 0 if it was never another
        88     8  started_unix, a double
        96     8  duration_seconds, a double
       104     8  cpu_seconds, a double
       112     8  system_seconds, a double
       120     8  peak_rss_bytes
       128     4  name_size
       132        the name in UTF-8, name_size bytes
                  then nothing, or a JSON object with `without`, `file`, `temp`, `outputs` and `zstd`, each left out if
                  there is none; `zstd` is the compressed size; an output is a list of its path, size, mtime_ns and
                  its digest in hexadecimal

The offsets follow from `_LAYOUT`; a test compares this table with it.
"""

from __future__ import annotations

import struct
from operator import index
from typing import Any, NamedTuple

from dagron.checkpoint.format.digests import NO_VALUE_DIGEST
from dagron.checkpoint.format.json_bodies import checked_text, decode_json, encode_json
from dagron.checkpoint.format.names import plain_file_name
from dagron.checkpoint.format.outputs import FileState, OutputFile
from dagron.checkpoint.format.storage import Storage
from dagron.figures import NO_FIGURES, Figures

__all__ = ["Commit", "attempts_of_commit", "commit_layout", "decode_commit", "encode_commit", "glance_at_commit"]

_LAYOUT = {
    "storage": "B",
    "zero": "x",
    "slot": "h",
    "attempts": "I",
    "size": "Q",
    "digest": "32s",
    "value_digest": "16s",
    "fingerprint": "16s",
    "since": "Q",
    "started_unix": "d",
    "duration_seconds": "d",
    "cpu_seconds": "d",
    "system_seconds": "d",
    "peak_rss_bytes": "Q",
    "name_size": "I",
}
"""The fixed fields of COMMITTED in their order, as `struct` names their types."""

_COMMIT = struct.Struct("<" + "".join(_LAYOUT.values()))
_INLINE = int(Storage.INLINE)


def commit_layout(*names: str) -> str:
    """Return the layout of a COMMITTED body for `struct`, without `<`, that passes over all fields but these."""
    return "".join(code if name in names else f"{struct.calcsize('<' + code)}x" for name, code in _LAYOUT.items())


_ATTEMPTS = struct.Struct("<" + commit_layout("attempts"))
_GLANCE = struct.Struct("<" + commit_layout("storage", "started_unix", "duration_seconds", "name_size"))


class Commit(NamedTuple):
    """What a COMMITTED record says: a node is completed.

    Attributes:
        name: The node.
        storage: Where the bytes of its result are.
        slot: The slot that ran it; -1 for the coordinator itself.
        attempts: Attempts made in that run, the last one included.
        size: Bytes of the pickled result.
        digest: Of the pickled result; see `Digests`.
        fingerprint: `DAG.parents_fingerprint` of the node when it ran.
        figures: What the attempt took.
        without: Parents that had failed when the node ran.
        payload_offset: Where the payload begins in the journal; -1 if it has none. Known from the place of the record.
        special_name: The name of the result's file if it is not the plain one; else empty.
        temp_name: For a FILE result, the name that the file had when the record was written.
        since: The number of the record with which the node's result became what it is; 0 if it was never another one.
            A child whose record is older has taken another result. A result that was lost and made again keeps its
            number, so that its children stay as they are.
        sequence: The number of this record. Known from its frame.
        value_digest: The canonical digest of the value; `NO_VALUE_DIGEST` if it has none.
        outputs: The files that the task has written beside the result and that are checked.
        compressed_size: How many bytes the file of the result has, if they are compressed; else 0. Size and digest are
            those of the pickled result all the same.
    """

    name: str
    storage: int
    slot: int
    attempts: int
    size: int
    digest: bytes
    fingerprint: bytes
    figures: Figures = NO_FIGURES
    without: tuple[str, ...] = ()
    payload_offset: int = -1
    special_name: str = ""
    temp_name: str = ""
    since: int = 0
    sequence: int = 0
    value_digest: bytes = NO_VALUE_DIGEST
    outputs: tuple[OutputFile, ...] = ()
    compressed_size: int = 0

    @property
    def is_special(self) -> bool:
        """Whether the result is in a FILE, or the record says more than the fixed fields."""
        return self.storage != _INLINE or bool(
            self.without or self.special_name or self.temp_name or self.outputs or self.compressed_size
        )

    def has_equal_result(self, digest: bytes, value_digest: bytes) -> bool:
        """Tell whether a result with these digests equals this one: the same bytes, or the same value."""
        return digest == self.digest or value_digest == self.value_digest != NO_VALUE_DIGEST

    def has_other_outputs(self, other: Commit) -> bool:
        """Tell whether a file that both have written has other bytes now."""
        if not (self.outputs and other.outputs):
            return False
        known = dict(self.outputs)
        return any(path in known and known[path].digest != state.digest for path, state in other.outputs)

    @property
    def stored_size(self) -> int:
        """How many bytes the result takes where it is stored."""
        return self.compressed_size or self.size

    @property
    def file_name(self) -> str:
        """The name of the file of the result."""
        return self.special_name or plain_file_name(self.name)


def encode_commit(commit: Commit) -> bytes:
    """Return the body of a COMMITTED record."""
    # Taken apart at once, which takes a third of what looking for each field does.
    name, storage, slot, attempts, size, digest, fingerprint, figures, without = commit[:9]
    special, temp, since, _, value, outputs, compressed = commit[10:]
    raw = name.encode("utf-8", "surrogatepass")
    body = _COMMIT.pack(storage, slot, attempts, size, digest, value, fingerprint, since, *figures, len(raw)) + raw
    if without or special or temp or outputs or compressed:
        files = [(path, size, mtime_ns, digest.hex()) for path, (size, mtime_ns, digest) in outputs]
        extra = {"without": without, "file": special, "temp": temp, "outputs": files, "zstd": compressed}
        body += encode_json({name: value for name, value in extra.items() if value})
    return body


def glance_at_commit(body: bytes) -> tuple[str, float, bool]:
    """Return what every reader wants of the body of a COMMITTED record, in a third of the time of `decode_commit`.

    Returns:
        The node, when its attempt ended, and whether the commit is special: its result is in a file, or there is
        something after the name.
    """
    storage, started, duration, length = _GLANCE.unpack_from(body)
    end = _COMMIT.size + length
    if len(body) < end:
        raise ValueError("it ends within the name")
    name = str(body[_COMMIT.size : end], "utf-8", "surrogatepass")
    return name, started + duration, storage != _INLINE or len(body) > end


def attempts_of_commit(body: bytes) -> int:
    """Return how many attempts the body of a COMMITTED record tells of."""
    n: int = _ATTEMPTS.unpack_from(body)[0]
    return n


def decode_commit(body: bytes, payload_offset: int, sequence: int) -> Commit:
    """Read the body of a COMMITTED record with this number, whose payload stands there."""
    storage, slot, attempts, size, digest, value_digest, fingerprint, since, *figures, length = _COMMIT.unpack_from(
        body
    )
    end = _COMMIT.size + length
    without: tuple[str, ...] = ()
    special = temp = ""
    outputs: tuple[OutputFile, ...] = ()
    compressed = 0
    if len(body) > end:
        extra = decode_json(body[end:])
        without, special, temp = tuple(extra.get("without", ())), extra.get("file", ""), extra.get("temp", "")
        compressed = index(extra.get("zstd", 0))
        outputs = tuple(_output_file(*fields) for fields in extra.get("outputs", ()))
    return Commit(
        str(body[_COMMIT.size : end], "utf-8", "surrogatepass"),
        storage,
        slot,
        attempts,
        size,
        digest,
        fingerprint,
        Figures(*figures),
        without,
        payload_offset if storage == _INLINE else -1,
        special,
        temp,
        since,
        sequence,
        value_digest,
        outputs,
        compressed,
    )


def _output_file(path: Any, size: Any, mtime_ns: Any, digest: Any) -> OutputFile:
    return OutputFile(checked_text(path), FileState(index(size), index(mtime_ns), bytes.fromhex(digest)))
