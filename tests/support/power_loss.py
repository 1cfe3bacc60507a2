"""A disk that can lose its power: a recording double of the file operations, and what each crash may leave.

`Recorder` stands in for `os` in `dagron.checkpoint.files` (`disk.stand_in`). It does every call for real, except the
syncs, and writes down what changed the disk. `Disk` replays such a log up to any operation and gives the states that
are legal after a loss of power there. The model is the abstract persistence model of Pillai et al., "All File Systems
Are Not Created Equal: On the Complexity of Crafting Crash-Consistent Applications" (OSDI 2014), sections 3.1 and 4.1,
with the weakest choice wherever file systems differ:

1.  A file's bytes and size are what they were at its last `fsync` or `fdatasync`, and perhaps more. Each later write
    may be there, absent, or torn at any byte. Blocks of what was written (of 512 and of 4,096 bytes) become durable in
    any order, each for itself; in the place of a missing one stand the old bytes, zeros, or bytes of whatever the block
    held before, for which the file's own older bytes stand in because a reader might take these for valid. The size may
    have become durable without the bytes, and the bytes without a truncation before them.
2.  Files are independent of each other: what was written to one after another may be durable before it.
3.  An entry of a directory that was created, renamed or removed since the last `fsync` of that directory may be so or
    not. Ordered file systems (ext4, XFS) keep a prefix of these operations; here any subset is kept, prefixes always
    among them. A rename is one operation: the old name and the new one, never both or neither.
4.  `fsync` of a file makes its bytes durable and not its entry; `fsync` of a directory its entries and neither their
    bytes nor its own entry in its parent. So a file may be there under its new name with no bytes: the delayed
    allocation of ext4.
5.  What was synced is there for sure, and what was never written never is. The disk does not lie about its cache.

`Effort` bounds the search: exhaustive where a choice is small, from there on by the extremes, each deviation alone,
and a sample drawn with a fixed seed.

A kill alone loses nothing: `Recorder.die_at` stops a process at an operation, and after `revive` the same recorder
serves the next process, so that power may be lost in a run that found another one's unsynced operations.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

State = dict[str, bytes] | None
"""What a directory holds, by name; None if there is no directory."""


class Killed(BaseException):
    """Stands in for SIGKILL: nothing of ours catches it, and nothing happens on the disk afterwards."""


@dataclass(frozen=True)
class Effort:
    """How far to search at one point of a run; each is a number of variants: all of them where there are no more."""

    cuts: int
    """Of the places at which a write is torn."""
    blocks: int
    """Of the sets of blocks that are durable, for each size of blocks."""
    contents: int
    """Of the contents of one file, all in all."""
    entries: int
    """Of the sets of entry operations that are durable."""
    together: int
    """Of the contents of all files together."""


# --- recording -------------------------------------------------------------------------------------------------------


class Recorder:
    """Stands in for `os` in `checkpoint/files`: does what is called, and notes what changes the disk.

    Args:
        root: The directory above everything that happens; itself and what is above it are durable.
        die_at: The number of the operation at which the process is killed; None for never.
        half: If it is a write, half of it still happens.

    Attributes:
        log: The operations: tuples of a name and what it applies to. Files are numbered as they are created.
    """

    PASSED = frozenset(
        {"path", "sep", "fspath", "fsdecode", "close", "fstat", "lseek", "lstat", "stat", "pread", "listdir", "scandir"}
        | {"urandom"}
        | {"fchmod"}  # who may look is no matter here: a file has its owner's rights from its beginning
    )

    def __init__(self, root: Path, die_at: int | None = None, *, half: bool = False) -> None:
        self.log: list[tuple] = []
        self.dead = False
        self.die_at, self._half = die_at, half
        self.root = str(root)
        self._directories = {self.root}
        self._entries: dict[str, int] = {}
        self._by_descriptor: dict[int, int | str] = {}
        self._n_files = 0
        for path in sorted(Path(root).rglob("*")):
            if path.is_dir():
                self._note("mkdir", *os.path.split(path))
                self._directories.add(str(path))
            else:
                self._note("create", *os.path.split(path), self._new(str(path)))
                self._note("write", self._entries[str(path)], 0, path.read_bytes())
                self._note("sync", self._entries[str(path)])
        for directory in sorted(self._directories):
            self._note("sync_directory", directory)
        self.n_before = len(self.log)

    def __getattr__(self, name: str) -> object:
        if name in self.PASSED or name.startswith(("O_", "SEEK_")):
            return getattr(os, name)
        raise AssertionError(f"the model does not know os.{name}")

    def _new(self, path: str) -> int:
        self._n_files += 1
        self._entries[path] = self._n_files
        return self._n_files

    def _note(self, *operation: object) -> None:
        self.log.append(operation)

    def revive(self) -> None:
        """Serve the next process, on the same machine."""
        self.dead, self.die_at = False, None

    def _live(self) -> None:
        if self.dead or len(self.log) == self.die_at:
            self.dead = True
            raise Killed

    def _seen(self, directory: str) -> None:
        if directory not in self._directories and directory.startswith(self.root):
            self._seen(os.path.dirname(directory))
            self._note("mkdir", *os.path.split(directory))
            self._directories.add(directory)

    def mkdir(self, path: str | Path, mode: int = 0o777) -> None:
        self._live()
        os.mkdir(path, mode)
        self._seen(str(path))

    def rmdir(self, path: str | Path) -> None:
        self._live()
        os.rmdir(path)
        raise AssertionError("the model knows no directory that goes")

    def open(self, path: str | Path, flags: int, mode: int = 0o777) -> int:
        changes = flags & (os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_RDWR)
        assert not flags & (os.O_TRUNC | os.O_APPEND), "the model does not know these"
        if changes:
            self._live()
        path = str(path)
        missing = not os.path.lexists(path)
        descriptor = os.open(path, flags, mode)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self._seen(path)
            self._by_descriptor[descriptor] = path
            return descriptor
        self._seen(os.path.dirname(path))
        if missing:
            self._note("create", *os.path.split(path), self._new(path))
        self._by_descriptor[descriptor] = self._entries[path]
        return descriptor

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        dies = self._half and len(self.log) == self.die_at
        if not dies:
            self._live()
        offset = os.lseek(descriptor, 0, os.SEEK_CUR)
        n = os.write(descriptor, data[: len(data) // 2] if dies else data)
        self._note("write", self._by_descriptor[descriptor], offset, bytes(data[:n]))
        if dies:
            self.dead = True
            raise Killed
        return n

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        self._live()
        n = os.pwrite(descriptor, data, offset)
        self._note("write", self._by_descriptor[descriptor], offset, data[:n])
        return n

    def ftruncate(self, descriptor: int, size: int) -> None:
        self._live()
        os.ftruncate(descriptor, size)
        self._note("truncate", self._by_descriptor[descriptor], size)

    def replace(self, old: str | Path, new: str | Path) -> None:
        self._live()
        os.replace(old, new)
        old, new = str(old), str(new)
        assert os.path.dirname(old) == os.path.dirname(new), "the model knows renames within a directory only"
        self._entries[new] = self._entries.pop(old)
        self._note("rename", *os.path.split(old), os.path.basename(new))

    def unlink(self, path: str | Path) -> None:
        self._live()
        os.unlink(path)
        del self._entries[str(path)]
        self._note("unlink", *os.path.split(path))

    def fsync(self, descriptor: int) -> None:
        self._live()
        on = self._by_descriptor[descriptor]
        if on in self._directories:
            self._note("sync_directory", on)
        elif not isinstance(on, str):  # else a directory above our root
            self._note("sync", on)

    fdatasync = fsync


# --- what a loss of power leaves -------------------------------------------------------------------------------------


def _done(image: bytes, operation: tuple) -> bytes:
    """The bytes of a file after a write (offset, data) or a truncation (size, None)."""
    offset, data = operation
    image = image[:offset] + bytes(max(0, offset - len(image))) if data is None else image
    if data is None:
        return image
    return image[:offset].ljust(offset, b"\0") + data + image[offset + len(data) :]


def _bounded(found: list, most: int, chance: random.Random) -> list:
    """At most so many of these, the first and the last among them."""
    if len(found) <= most:
        return found
    return [found[0], *chance.sample(found[1:-1], most - 2), found[-1]]


def _subsets(n: int, most: int, chance: random.Random) -> list[tuple[int, ...]]:
    """Sets of the numbers below `n`, none of them first and all of them last: every set, or the telling ones."""
    if 2**n <= most:
        return [tuple(i for i in range(n) if bits >> i & 1) for bits in range(2**n)]
    found = [()]
    for i in range(n):
        found += [tuple(range(i)), tuple(range(i, n)), (i,), tuple(j for j in range(n) if j != i)]
        found.append(tuple(j for j in range(n) if chance.random() < 0.5))
    return _bounded([*found, tuple(range(n))], most, chance)


@dataclass
class _File:
    durable: bytes = b""
    pending: list[tuple] = field(default_factory=list)

    def latest(self) -> bytes:
        image = self.durable
        for operation in self.pending:
            image = _done(image, operation)
        return image

    def contents(self, effort: Effort, chance: random.Random) -> list[bytes]:
        """What the file may hold: first what is durable, last what was written."""
        if not self.pending:
            return [self.durable]
        found = {self.durable: None}
        image = self.durable
        for operation in self.pending:
            offset, data = operation
            if data is not None:
                for cut in self._cuts(offset, len(data), effort, chance):
                    found[_done(image, (offset, data[:cut]))] = None
            image = _done(image, operation)
            found[image] = None
        for content in self._reordered(image, effort, chance):
            found[content] = None
        found.pop(image, None)
        return _bounded([*found, image], effort.contents, chance)

    @staticmethod
    def _cuts(offset: int, size: int, effort: Effort, chance: random.Random) -> list[int]:
        if size <= effort.cuts:
            return list(range(1, size))
        return [1, *chance.sample(range(2, size - 1), effort.cuts - 2), size - 1]

    def _reordered(self, image: bytes, effort: Effort, chance: random.Random) -> Iterator[bytes]:
        old = self.durable
        tail = old[len(image) :]
        fills = [bytes(len(image)), (old * (len(image) // max(1, len(old)) + 1))[: len(image)]]
        for unit in (512, 4096):
            starts = range(0, len(image), unit)
            changed = [i for i in starts if old[i : i + unit] != image[i : i + unit]]
            for kept in _subsets(len(changed), effort.blocks, chance):
                for fill in fills:
                    content = bytearray(old[: len(image)] + fill[len(old) :])
                    for i in kept:
                        start = changed[i]
                        content[start : start + unit] = image[start : start + unit]
                    yield bytes(content)
                    if tail:
                        yield bytes(content) + tail
                    if kept:
                        yield bytes(content[: max(len(old), changed[kept[-1]] + unit)])


class Disk:
    """What of a log is durable and what is not, and which states a loss of power may leave.

    Args:
        root: The directory that is there whatever happens.
        seed: Of the samples.
    """

    def __init__(self, root: str, seed: int = 0) -> None:
        self._root = root
        self._files: dict[int, _File] = {}
        self._durable: dict[str, dict[str, int | str]] = {}
        self._pending: dict[str, list[tuple]] = {}
        self._chance = random.Random(seed)

    def apply(self, operation: tuple) -> None:
        """Do the next operation of a log."""
        match operation:
            case ("mkdir", directory, name):
                path = os.path.join(directory, name)
                self._durable.setdefault(path, {})
                self._pending.setdefault(path, [])
                self._durable.setdefault(directory, {})
                self._pending.setdefault(directory, []).append(("link", name, path))
            case ("create", directory, name, file):
                self._files[file] = _File()
                self._pending[directory].append(("link", name, file))
            case ("write", file, offset, data):
                self._files[file].pending.append((offset, data))
            case ("truncate", file, size):
                self._files[file].pending.append((size, None))
            case ("sync", file):
                self._files[file] = _File(self._files[file].latest())
            case ("rename", directory, old, new):
                file = self._latest(directory)[old]
                self._pending[directory].append(("rename", old, new, file))
            case ("unlink", directory, name):
                self._pending[directory].append(("unlink", name))
            case ("sync_directory", directory):
                self._durable[directory] = self._latest(directory)
                self._pending[directory] = []
            case _:
                raise AssertionError(f"the model does not know {operation[0]}")

    @staticmethod
    def _after(entries: dict[str, int | str], operations: list[tuple]) -> dict[str, int | str]:
        entries = dict(entries)
        for operation in operations:
            match operation:
                case ("link", name, target):
                    entries[name] = target
                case ("rename", old, new, target):
                    if entries.get(old) == target:
                        del entries[old]
                    entries[new] = target
                case ("unlink", name):
                    entries.pop(name, None)
        return entries

    def _latest(self, directory: str) -> dict[str, int | str]:
        return self._after(self._durable.get(directory, {}), self._pending.get(directory, []))

    def _entries(self, directory: str, effort: Effort) -> list[dict[str, int | str]]:
        """What the directory may hold: first what is durable, then each longer prefix, then other subsets."""
        durable, pending = self._durable[directory], self._pending[directory]
        kept = [pending[:n] for n in range(len(pending) + 1)]
        kept += [[pending[i] for i in one] for one in _subsets(len(pending), effort.entries, self._chance)]
        found = {}
        for operations in kept:
            entries = self._after(durable, operations)
            found.setdefault(frozenset(entries.items()), entries)
        return list(found.values())

    def latest(self, directory: str) -> State:
        """What the directory holds if everything became durable: what a kill alone leaves."""
        if not self._exists(directory):
            return None
        return {name: self._files[file].latest() for name, file in self._latest(directory).items()}

    def states(self, directory: str, effort: Effort) -> Iterator[State]:
        """What a loss of power may leave of a directory without subdirectories. The same state may come twice."""
        if not self._exists(directory, durably=True):
            yield None
        if not self._exists(directory):
            return
        contents = {file: one.contents(effort, self._chance) for file, one in self._files.items()}
        variants = self._entries(directory, effort)
        for entries in variants:
            names = list(entries)
            choices = [contents[entries[name]] for name in names]
            # The two ends of the order of entries deserve every content; what is between, less.
            is_end = entries is variants[0] or entries == self._latest(directory)
            for combination in self._together(choices, effort, is_end):
                yield dict(zip(names, combination, strict=True))

    def _exists(self, directory: str, *, durably: bool = False) -> bool:
        if directory == self._root:
            return True
        parent, name = os.path.split(directory)
        if parent not in self._durable:
            return False
        entries = self._durable[parent] if durably else self._latest(parent)
        return name in entries and self._exists(parent, durably=durably)

    def _together(self, choices: list[list[bytes]], effort: Effort, is_end: bool) -> Iterator[tuple[bytes, ...]]:
        n = 1
        for choice in choices:
            n *= len(choice)
        if n <= effort.together:
            yield from product(*choices)
            return
        durable = tuple(choice[0] for choice in choices)
        latest = tuple(choice[-1] for choice in choices)
        yield durable
        yield latest
        if is_end:
            for i, choice in enumerate(choices):
                for content in choice[1:-1]:
                    for others in (durable, latest):
                        yield (*others[:i], content, *others[i + 1 :])
        for _ in range(effort.together):
            yield tuple(map(self._chance.choice, choices))
