"""The nodes and edges of a DAG as a journal has them: the body of a DAG_RECORDED record. Opens nothing.

All integers are little-endian::

    offset  size
         0    32  `DAG.structure_digest()`
        32     8  size of the rest before it was compressed
        40        zlib: n, the size of the names (4); the names as a JSON list, in the order of the DAG, n bytes;
                  the number of parents of each node (4 each); then the parents of each node, one node after the
                  other, in the order of their edges, as positions in the list of names (4 each)

A DAG for which that would be more than `MAX_BYTES` is not recorded: what wants to know its edges has to be told.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

__all__ = ["MAX_BYTES", "RecordedDag", "decode_dag", "digest_of", "encode_dag"]

MAX_BYTES = 32 * 2**20
"""About a million nodes. 100,000 nodes with 300,000 edges take 0.1 s, and half a megabyte of the journal."""

_HEAD = struct.Struct("<32sQ")
_SIZE = struct.Struct("<I")


class RecordedDag(NamedTuple):
    """A DAG as it was recorded.

    Attributes:
        names: The names of its nodes.
        offsets: The parents of node i are `parents[offsets[i] : offsets[i + 1]]`, in the order of their edges.
        parents: Positions in `names`.
    """

    names: list[str]
    offsets: array[int]
    parents: array[int]


def encode_dag(structure: bytes, names: Sequence[str], offsets: array[int], parents: array[int]) -> bytes:
    """Return the body of a DAG_RECORDED record; empty if the DAG is too large for one.

    Args:
        structure: `DAG.structure_digest()`.
        names: The names of the nodes.
        offsets: `parents[offsets[i] : offsets[i + 1]]` are the parents of node i.
        parents: See `offsets`.
    """
    if 4 * (len(names) + len(parents)) > MAX_BYTES:
        return b""
    text = json.dumps(names, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    degrees = array("I", [end - start for start, end in pairwise(offsets)])
    data = b"".join([_SIZE.pack(len(text)), text, _little_endian(degrees), _little_endian(parents)])
    if len(data) > MAX_BYTES:
        return b""
    return _HEAD.pack(structure, len(data)) + zlib.compress(data, 1)


def digest_of(body: bytes) -> bytes:
    """Return the structure digest of a recorded DAG, without decoding it."""
    return body[:32]


def decode_dag(body: bytes) -> RecordedDag:
    """Read the body of a DAG_RECORDED record.

    Raises:
        ValueError: It is none.
    """
    try:
        _, size = _HEAD.unpack_from(body)
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(body[_HEAD.size :], min(size, MAX_BYTES) + 1)
        (n,) = _SIZE.unpack_from(data)
        names = json.loads(data[_SIZE.size : _SIZE.size + n].decode("utf-8", "surrogatepass"))
    except (struct.error, zlib.error) as error:
        raise ValueError(f"it is no recorded DAG: {error}") from error
    numbers = array("I")
    numbers.frombytes(data[_SIZE.size + n :])
    if sys.byteorder == "big":
        numbers.byteswap()
    if (
        not unpacker.eof
        or len(data) != size
        or len(set(names)) != len(names)
        or not all(type(name) is str for name in names)
    ):
        raise ValueError("its names are not those of a DAG")
    parents = numbers[len(names) :]
    if sum(numbers[: len(names)]) != len(parents) or max(parents, default=-1) >= len(names):
        raise ValueError("its edges are not those of a DAG")
    return RecordedDag(names, array("I", accumulate(numbers[: len(names)], initial=0)), parents)


def _little_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()
