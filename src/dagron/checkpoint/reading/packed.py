"""The commits of a checkpoint in memory: each as the bytes of its record, decoded when it is looked at. Opens nothing.

As a tuple a commit takes some 600 bytes in a dozen objects, and the garbage collector visits it again and again; as
bytes it takes 200 in one object, which is never visited. Nearly all of a million commits are only passed over.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from dagron.checkpoint.format.commits import Commit, commit_layout, decode_commit, encode_commit
from dagron.checkpoint.format.names import plain_file_name

__all__ = ["PackedCommits"]

# What stands in front of the body: where the payload begins, and the sequence number of the record.
_PLACE = struct.Struct("<qQ")
_SEQUENCE = struct.Struct("<8xQ")
_SEQUENCE_AND_SIZE = struct.Struct("<8xQ" + commit_layout("size"))
_SECONDS = struct.Struct(f"<{_PLACE.size}x" + commit_layout("duration_seconds"))


class PackedCommits(Mapping[str, Commit]):
    """Commits by the names of their nodes, in the order in which they were added.

    Attributes:
        names: The nodes, for those who ask about very many.
        special: The nodes whose result is a FILE, or whose record says more than the fixed fields: the name of the
            file if it is not the plain one, parents that had failed. All others are INLINE.
    """

    __slots__ = ("_packed", "names", "special")

    def __init__(self, commits: Iterable[Commit] = ()) -> None:
        self._packed: dict[str, bytes] = {}
        self.names = self._packed.keys()
        self.special: set[str] = set()
        for commit in commits:
            body = encode_commit(commit)
            self.add(commit.name, body, commit.payload_offset, commit.sequence, special=commit.is_special)

    def add(self, name: str, body: bytes, payload_offset: int, sequence: int, *, special: bool) -> None:
        """Add the commit of a node that has none: the body of its record, and what its place in the journal says."""
        self._packed[name] = _PLACE.pack(payload_offset, sequence) + body
        if special:
            self.special.add(name)

    def pop(self, name: str) -> Commit | None:
        """Remove the commit of a node, if it has one, and return it."""
        packed = self._packed.pop(name, None)
        if packed is None:
            return None
        self.special.discard(name)
        return _unpack(packed)

    def move(self, name: str, to: PackedCommits) -> None:
        """Move the commit of a node, if it has one."""
        packed = self._packed.pop(name, None)
        if packed is None:
            return
        to._packed[name] = packed
        if name in self.special:
            self.special.remove(name)
            to.special.add(name)

    def clear(self) -> None:
        """Remove all."""
        self._packed.clear()
        self.special.clear()

    def without(self, names: Collection[str]) -> PackedCommits:
        """Return those of other nodes than these."""
        left = PackedCommits()
        left._packed.update((name, packed) for name, packed in self._packed.items() if name not in names)
        left.special = self.special.difference(names)
        return left

    # --- as a mapping ---------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Commit:
        return _unpack(self._packed[name])

    def get(self, name: str, default: Any = None) -> Commit | Any:
        """Return the commit of a node, or `default`."""
        packed = self._packed.get(name)
        return default if packed is None else _unpack(packed)

    def __contains__(self, name: object) -> bool:
        return name in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def __repr__(self) -> str:
        return f"PackedCommits({len(self)} nodes)"

    # --- one field of many ----------------------------------------------------------------------------------------

    def sequence_of(self, name: str) -> int:
        """Return the number of the record of a node; 0 if it has none."""
        packed = self._packed.get(name)
        return 0 if packed is None else int(_SEQUENCE.unpack_from(packed)[0])

    def inline(self) -> Iterator[tuple[str, int, int]]:
        """Yield the node, the number of the record and the size of the result of each commit that is not special."""
        special, unpack = self.special, _SEQUENCE_AND_SIZE.unpack_from
        for name, packed in self._packed.items():
            if name not in special:
                yield name, *unpack(packed)

    def seconds(self, names: Iterable[str]) -> array[float]:
        """Return how long the attempts of nodes took, NaN for those without a commit."""
        get, unpack = self._packed.get, _SECONDS.unpack_from
        return array("d", [math.nan if (packed := get(name)) is None else unpack(packed)[0] for name in names])

    def ran_without_some(self) -> bool:
        """Tell whether a node ran although a parent of it had failed."""
        return any(self[name].without for name in self.special)

    def file_of(self, name: str) -> str:
        """Return the name of the file of a node that has a commit."""
        return self[name].file_name if name in self.special else plain_file_name(name)

    def files(self) -> set[str]:
        """Return the names of all files."""
        special = self.special
        files = {plain_file_name(name) for name in self._packed if name not in special}
        files.update([self[name].file_name for name in special])
        return files


def _unpack(packed: bytes) -> Commit:
    return decode_commit(packed[_PLACE.size :], *_PLACE.unpack_from(packed))
