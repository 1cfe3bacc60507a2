"""Large buffers in a pickled result: where they stand, so that a reader can map them instead of copying them.

A result file stays a plain pickle. Its large buffers (`MIN_BYTES` or more; in-band, in the words of PEP 574), such as
the elements of a numpy array, are aligned by opcodes without effect. A table of them follows the pickle's STOP, where
no unpickler looks:

    for each buffer:  u64 offset of its opcode, u64 offset of its bytes, u64 number of bytes
    then:             u64 number of buffers, 8 bytes `MAGIC`

All integers are little-endian. A pickle ends with `.`, and `MAGIC` does not: one look at the end tells the two apart.
"""

from __future__ import annotations

import mmap
import pickle
import struct
from collections.abc import Iterator

__all__ = ["MIN_BYTES", "BufferTable", "out_of_band"]

MIN_BYTES = 64 * 1024
"""From this size on the pickler of CPython passes a buffer to its file by itself, right after its opcode."""

MAGIC = b"\x89dagbuf\n"

_ALIGNMENT = 64
"""A cache line, and the widest vector registers."""

_ENTRY = struct.Struct("<QQQ")
_END = struct.Struct("<Q8s")

_POP_NONE = pickle.NONE + pickle.POP
_POP_AN_INT = pickle.BININT1 + b"\0" + pickle.POP
_READONLY = pickle.NEXT_BUFFER + pickle.READONLY_BUFFER


def _padding(n: int) -> bytes:
    """Return opcodes of `n` bytes that push something and pop it again; of 65 bytes for 1, as no opcode does both."""
    if n == 1:
        n += _ALIGNMENT
    odd = n % 2
    return _POP_AN_INT * odd + _POP_NONE * ((n - len(_POP_AN_INT) * odd) // 2)


class BufferTable:
    """Looks at what a pickler writes and notes where its large buffers come to stand."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, int]] = []
        self._expected = 0
        self._opcode_at = -1

    def expect(self, buffer: pickle.PickleBuffer) -> bool:
        """Note that this buffer comes next, and leave it in-band; the pickler's `buffer_callback`."""
        with memoryview(buffer) as view:
            self._expected = view.nbytes if view.nbytes >= MIN_BYTES else 0
        self._opcode_at = -1
        return True

    def place(self, data: bytes | memoryview, offset: int) -> Iterator[bytes | memoryview]:
        """Yield what is to be written at `offset` for `data`: itself, with padding in front of a buffer's opcode."""
        n = self._expected
        if not n:
            yield data
        elif isinstance(data, bytes):
            n_opcode = _opcode_size(data, n)
            if not n_opcode:
                self._expected = 0
                yield data
                return
            padding = _padding(-(offset + len(data)) % _ALIGNMENT)
            self._opcode_at = offset + len(data) - n_opcode + len(padding)
            yield data[:-n_opcode]
            yield padding + data[-n_opcode:]
        else:
            if self._opcode_at >= 0 and data.nbytes == n:
                self._entries.append((self._opcode_at, offset, n))
            self._expected = 0
            yield data

    def encode(self) -> bytes:
        """Return what follows the pickle; nothing if it has no large buffers."""
        if not self._entries:
            return b""
        return b"".join(_ENTRY.pack(*entry) for entry in self._entries) + _END.pack(len(self._entries), MAGIC)


def _opcode_size(data: bytes, n: int) -> int:
    """Return how many bytes at the end of `data` are an opcode that announces a buffer of `n` bytes; 0 if none are."""
    for opcodes, size in ((pickle.BYTEARRAY8 + pickle.BINBYTES8, 8), (pickle.BINBYTES, 4)):
        if data[-1 - size : -size] in opcodes and data[-size:] == n.to_bytes(size, "little"):
            return 1 + size
    return 0


def out_of_band(data: mmap.mmap) -> tuple[bytes | mmap.mmap, list[memoryview]]:
    """Return a pickle and the buffers to unpickle it with, which share the memory of `data`.

    Args:
        data: A result file, mapped privately and verified.

    Returns:
        What `pickle.loads` takes as its first argument and as `buffers`. Writing to a buffer changes neither the file
        nor another process's mapping of it.
    """
    size = len(data)
    entries: list[tuple[int, int, int]] = []
    if size > _END.size and data[-len(MAGIC) :] == MAGIC:
        n, _ = _END.unpack_from(data, size - _END.size)
        entries = list(_ENTRY.iter_unpack(data[size - _END.size - n * _ENTRY.size : size - _END.size]))
    if not entries:
        return data, []
    view = memoryview(data)
    chunks: list[bytes] = []
    buffers = []
    at = 0
    for opcode_at, begin, n in entries:
        chunks.append(data[at:opcode_at])
        chunks.append(pickle.NEXT_BUFFER if data[opcode_at : opcode_at + 1] == pickle.BYTEARRAY8 else _READONLY)
        at = begin + n
        buffers.append(view[begin:at])
    chunks.append(data[at:size])
    return b"".join(chunks), buffers
