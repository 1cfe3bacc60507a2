"""The only module that opens, writes, syncs, renames, locks or deletes files of a checkpoint. Knows no format.

Assumptions about the file system, which everything above leans on: a rename within a directory is atomic; `fsync` of a
file makes its bytes durable and `fsync` of a directory its entries; an append that returned is seen by every later
reader, also after the writer was killed; `flock` is released by the kernel when its holder
dies.

Symbolic links are never followed at the names that we write. Paths are joined as text: a pathlib operation costs as
much as a system call, and there are some for every node.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
import struct
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "PRIVATE_MODE",
    "SCRATCH",
    "TEMP_PREFIX",
    "TEMP_SUFFIX",
    "AppendFile",
    "Directory",
    "DirectoryLock",
    "ReadFile",
    "TempFile",
    "has_no_locks",
    "is_temporary",
    "make_scratch",
    "mode_for",
    "write_copy",
]

TEMP_PREFIX = "_dagron-"
TEMP_SUFFIX = ".tmp"

SCRATCH = f"{TEMP_PREFIX}scratch"
"""The folder of the directories in which nodes keep what they have done so far; ours by its name."""

_SCRATCH_NAME = re.compile("[0-9a-f]{32}")
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # a FIFO in the place of a file must not hold us up
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW
_RENEW_BYTES = 1024 * 1024
"""Bytes that are read and written again at once. Never varied: it happens once, after a run that was killed."""


# --- who may look -----------------------------------------------------------------------------------------------------

PRIVATE_MODE = 0o600
"""Of a file that is its owner's alone: a result may be private, and whoever can write a pickle decides what its reader
runs."""

_USUAL, _USUAL_WITH_GROUPS = 0o022, 0o002
"""What systems set where nobody has asked for anything; the second where every user has a group of their own."""


def _umask() -> int:
    """Return the umask of this process."""
    try:
        with open("/proc/self/status", "rb") as file:
            return next(int(line.split()[1], 8) for line in file if line.startswith(b"Umask:"))
    except (OSError, StopIteration):
        pass
    # Elsewhere it can only be read by setting it; what another thread makes meanwhile is its owner's alone.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def mode_for(umask: int, *, in_setgid: bool) -> int:
    """Return the mode of a directory that is made where this umask holds; a file has it without the execute bits.

    The group gets what the umask leaves to it, and others may read if the umask has been set so. The umask that systems
    set by themselves is no wish to share, nor is one that lets everyone write. In a setgid directory, which is made for
    a group, that group may look all the same.
    """
    left = 0o777 & ~umask
    if umask == _USUAL_WITH_GROUPS:
        left &= 0o770
    elif umask == _USUAL or left & stat.S_IWOTH:
        left &= 0o770 if in_setgid else 0o700
    return left | 0o700


def _write_all(fd: int, data: bytes | memoryview) -> None:
    # A regular file takes everything at once unless the disk is full or a limit is met; then the next call says why.
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def _open_to_overwrite(path: str, size: int) -> int:
    """Open a regular file that is to have `size` bytes, and cut it to one at most.

    One that has a second name, such as a backup made of hard links, is refused.
    """
    fd = os.open(path, os.O_WRONLY | _NOFOLLOW | _NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise OSError(errno.EINVAL, "not a file of its own", path)
        # Not to nothing: after that ext4 would flush the new bytes when the file is closed (`auto_da_alloc`).
        os.ftruncate(fd, min(1, status.st_size, size))
    except OSError:
        os.close(fd)
        raise
    return fd


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _sync_data(fd: int) -> None:
    if sys.platform == "darwin":
        import fcntl

        # fsync leaves the bytes in the drive's cache on macOS; its manual names F_FULLFSYNC for more.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def _sync_entries(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_name(directory: Path) -> None:
    try:
        _sync_entries(directory.parent)
    except PermissionError:
        pass  # whoever may not list it cannot open it, and so cannot sync it


class AppendFile:
    """A file that only grows, open for appending.

    Args:
        path: The file; it must exist.
        size: Where its valid bytes end; what stands behind is cut off.
    """

    def __init__(self, path: str | Path, size: int) -> None:
        self._fd = os.open(path, os.O_RDWR | _NOFOLLOW)
        self._path = str(path)
        self.size = size
        try:
            status = os.fstat(self._fd)
            self._identity = (status.st_dev, status.st_ino)
            if status.st_size != size:
                os.ftruncate(self._fd, size)
            os.lseek(self._fd, size, os.SEEK_SET)
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, data: bytes) -> None:
        """Write `data` behind the last byte.

        Raises:
            OSError: The file system refused. The end of the file is unspecified: use this object no more.

        Guarantees:
            Every later reader sees the bytes, also if this process is killed next.

        On crash:
            A reader finds a prefix of `data`.
        """
        _write_all(self._fd, data)
        self.size += len(data)

    def is_in_place(self) -> bool:
        """Tell whether the file still has its name, so that a later reader finds what is appended."""
        try:
            status = os.lstat(self._path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def sync(self) -> None:
        """Make everything appended so far survive a loss of power.

        Raises:
            OSError: It failed. A later one that succeeds says nothing about these bytes, unless they are renewed: the
                kernel may have given them up and taken them for clean (LWN 752063, "PostgreSQL's fsync() surprise").
        """
        _sync_data(self._fd)

    def renew(self, offset: int) -> None:
        """Write the bytes from `offset` once more as they are, so that the next `sync` is about them, too.

        On crash:
            The same bytes.
        """
        while offset < self.size:
            data = os.pread(self._fd, min(_RENEW_BYTES, self.size - offset), offset)
            if not data:
                return
            os.pwrite(self._fd, data, offset)
            offset += len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class ReadFile:
    """A file open for reading; close it, or use it as a context manager.

    Attributes:
        size: Its size in bytes when it was opened.
        identity: Equal as long as it is the same file and nothing was written to it: device, inode, size, and the time
            of the last change of its bytes.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | _NOFOLLOW | _NONBLOCK)
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file", path)
        except OSError:
            self.close()
            raise
        self.size = status.st_size
        self.identity = _identity(status)

    def read_at(self, offset: int, n: int) -> bytes:
        """Return up to `n` bytes from `offset`; fewer only at the end of the file."""
        data = os.pread(self._fd, n, offset)
        while 0 < len(data) < n:
            more = os.pread(self._fd, n - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def map(self) -> mmap.mmap:
        """Map the file, which must not be empty, so that its bytes are not copied; what is written stays private."""
        return mmap.mmap(self._fd, self.size, access=mmap.ACCESS_COPY)

    def close(self) -> None:
        """Close the file."""
        try:
            os.close(self._fd)
        except OSError:
            pass  # what was read was read, and there is nothing that could not be written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TempFile:
    """A file that gets its name only when it is whole. Used by workers for large results.

    Its name tells that it is ours, so that what a crash leaves can be deleted.

    Args:
        directory: Where it is created.
        mode: Who may look at it, whatever the umask of a process in which tasks have run.

    Attributes:
        identity: Once it is finished, as in `ReadFile`.
    """

    identity: tuple[int, ...] = ()

    def __init__(self, directory: str | Path, mode: int = PRIVATE_MODE) -> None:
        self.name = f"{TEMP_PREFIX}{os.urandom(8).hex()}{TEMP_SUFFIX}"
        self.path = os.path.join(directory, self.name)
        self._fd = os.open(self.path, _CREATE, mode)
        self._open = True
        try:
            os.fchmod(self._fd, mode)
        except OSError:
            self.discard()
            raise

    def write(self, data: bytes | memoryview) -> None:
        """Write `data` behind what was written before."""
        _write_all(self._fd, data)

    def stretch(self, size: int) -> None:
        """Write the last of `size` bytes; the others take no space."""
        os.pwrite(self._fd, b"\0", max(0, size - 1))

    def _close(self) -> None:
        if self._open:
            self._open = False  # also if it fails: the descriptor is gone then, and its number may be another file's
            os.close(self._fd)

    def finish(self, *, durable: bool) -> str:
        """Close the file and return its name; if `durable`, only after its bytes would survive a loss of power."""
        try:
            if durable:
                _sync_data(self._fd)
            self.identity = _identity(os.fstat(self._fd))
        finally:
            self._close()
        return self.name

    def discard(self) -> None:
        """Close and delete the file."""
        self._close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass


def is_temporary(name: str) -> bool:
    """Tell whether an entry is, by its name, a `TempFile`."""
    return name.startswith(TEMP_PREFIX) and name.endswith(TEMP_SUFFIX) and os.path.basename(name) == name


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        if os.path.lexists(path) and not os.path.isdir(path):
            raise


def write_copy(path: str, data: bytes, *, exists: bool, mode: int = PRIVATE_MODE) -> None:
    """Write a small file that can be rebuilt, so that it needs neither a rename nor a sync. Used by workers, too.

    Args:
        path: The file.
        data: All of its bytes.
        exists: Whether it is expected to be there. It is then written over, because on ext4 a file created soon after
            others were deleted costs ten times as much.
        mode: Who may look at it if it is made; the umask takes away from that.

    On crash:
        The file is missing, empty, a byte long or whole; its size tells which.
    """
    try:
        fd = _open_to_overwrite(path, len(data)) if exists else os.open(path, _CREATE, mode)
    except OSError:
        # The other way round than expected, or something in our place that is not to be written to: make it free.
        _remove(path)
        fd = os.open(path, _CREATE, mode)
    try:
        _write_all(fd, data)
    finally:
        os.close(fd)


def make_scratch(directory: str | Path, node: str, inputs: str, mode: int = PRIVATE_MODE) -> str:
    """Make the directory in which a node keeps what it has done so far, unless it is there, and return its path.

    Args:
        directory: That of the checkpoint.
        node: The node, as `scratch_name` names it.
        inputs: What the node is called with, as hexadecimal digits. What was made from other inputs is removed.
        mode: That of a file in the checkpoint: who may look at it may look into these directories, too.

    On crash:
        Some of the directories, empty.
    """
    path = os.path.join(directory, SCRATCH)
    for name in ("", node, inputs):
        path = os.path.join(path, name) if name else path
        try:
            os.mkdir(path, mode | 0o100 | (mode & 0o044) >> 2)  # what may be read may be entered
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise
        if name == node:
            for other in os.listdir(path):
                if other != inputs:
                    _remove_tree(path, other)
    return path


def _remove_tree(path: str, name: str) -> None:
    """Delete a directory with all that is in it, and follow no link."""
    import shutil  # few runs have need of it

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NOFOLLOW)
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=fd)
        else:
            os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)


class Directory:
    """A checkpoint directory: whole-file operations on its entries, named without a path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._prefix = str(path) + os.sep

    def identity(self) -> tuple[int, int] | None:
        """Return what tells this directory from any other that has its path later; None if there is none."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None

    def can_only_be_read(self) -> bool:
        """Tell whether the directory is there and cannot be written, by its mode or by its medium."""
        return os.path.isdir(self.path) and not os.access(self.path, os.W_OK | os.X_OK)

    @cached_property
    def mode(self) -> int:
        """The mode of the directory if it is made, by the umask of when this is first asked for."""
        existing = self.path
        while True:
            try:
                found = os.stat(existing).st_mode
                break
            except OSError:
                if existing == existing.parent:
                    found = 0
                    break
                existing = existing.parent
        return mode_for(_umask(), in_setgid=bool(found & stat.S_ISGID))

    @property
    def file_mode(self) -> int:
        """The mode of a file that is made in it."""
        return self.mode & 0o666

    def path_to(self, name: str) -> str:
        """Return the path to an entry, whether it exists or not."""
        return self._prefix + name

    def create(self, *, durable: bool = False) -> None:
        """Create the directory and its parents where they are missing; with `mode`, if we create it.

        Guarantees:
            If `durable`, its own name and those of the parents made here survive a loss of power, also if an earlier
            process was killed while it made them.

        On crash:
            Some of the parents, empty.
        """
        mode = self.mode
        missing = []
        path = self.path
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        if durable:
            # A process that was killed before this sync may have made it. For a name made long ago it costs nothing.
            _sync_name(path)
        for path in reversed(missing):
            try:
                os.mkdir(path, mode if path == self.path else 0o777)
            except FileExistsError:
                if not path.is_dir():
                    raise
            if durable:
                _sync_name(path)

    def try_file(self, size: int) -> OSError | None:
        """Make a file of this size and delete it again; return what the system refused, None for nothing."""
        try:
            temp = TempFile(self.path)
            try:
                temp.stretch(size)
            finally:
                temp.discard()
        except OSError as error:
            return error
        return None

    def scratches(self) -> set[str] | None:
        """Return the names of the directories in which nodes keep what they have done so far; None without a folder."""
        try:
            if not stat.S_ISDIR(os.lstat(self._prefix + SCRATCH).st_mode):
                return None
            return set(filter(_SCRATCH_NAME.fullmatch, os.listdir(self._prefix + SCRATCH)))
        except FileNotFoundError:
            return None

    def remove_scratch(self, name: str) -> None:
        """Delete one of `scratches` with all that is in it, if it is there."""
        try:
            _remove_tree(self._prefix + SCRATCH, name)
        except FileNotFoundError:
            pass

    def remove_scratch_folder(self) -> None:
        """Delete the folder of `scratches`, if it is there and empty."""
        try:
            os.rmdir(self._prefix + SCRATCH)
        except OSError as error:
            # What else is in it, or stands in its place, is not ours.
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise

    def names(self) -> list[str]:
        """Return the names of all entries, of whatever kind."""
        return os.listdir(self.path)

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every regular file in the directory. Cost: one system call per entry."""
        found = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    found[entry.name] = status.st_size
        return found

    def n_names(self, name: str) -> int:
        """Return how many names the file `name` has, here and elsewhere."""
        return os.lstat(self._prefix + name).st_nlink

    def exists(self, name: str) -> bool:
        """Tell whether there is an entry of this name, of whatever kind."""
        return os.path.lexists(self._prefix + name)

    def write_copy(self, name: str, data: bytes, *, exists: bool) -> None:
        """Write a copy of a small result: `write_copy` for the entry `name`."""
        write_copy(self._prefix + name, data, exists=exists, mode=self.file_mode)

    def replace(self, name: str, data: bytes | Iterable[bytes], *, durable: bool) -> None:
        """Give `name` the content `data`, which may come in pieces, atomically.

        Guarantees:
            A reader sees the old content or the new one, never a mixture; if `durable`, also after a loss of power the
            content is one of the two.

        On crash:
            The old content, and perhaps a temporary file.
        """
        temp = TempFile(self.path, self.file_mode)
        try:
            for piece in (data,) if isinstance(data, bytes) else data:
                temp.write(piece)
            temp.finish(durable=durable)
            os.replace(temp.path, self._prefix + name)
        except BaseException:
            temp.discard()
            raise
        if durable:
            self.sync()

    def publish(self, temp_name: str, name: str) -> None:
        """Give a finished `TempFile` its name. Durable only after `sync`."""
        os.replace(self._prefix + temp_name, self._prefix + name)

    def sync(self) -> None:
        """Make the entries created, renamed and removed so far survive a loss of power."""
        _sync_entries(self.path)

    def read(self, name: str) -> bytes:
        """Return the content of `name`.

        Raises:
            OSError: There is no such regular file.
        """
        with self.open_to_read(name) as file:
            return file.read_at(0, file.size)

    def open_to_read(self, name: str) -> ReadFile:
        """Open `name` for reading.

        Raises:
            OSError: There is no such regular file.
        """
        return ReadFile(self._prefix + name)

    def is_marked(self, lock: str) -> bool | None:
        """Tell whether a run goes on that has marked the directory: see `DirectoryLock.mark`. Takes no lock.

        Args:
            lock: The entry that is locked. NFS has its locks from other machines, too, where marks stay on their own.

        Returns:
            None if nobody can know.
        """
        # The directory may be reached over a link.
        marked = _is_marked(os.path.join(self.path, "."))
        if not marked and (of_machine := _lock_of_machine(self.path)) is not None and os.path.exists(of_machine):
            marked = _is_marked(of_machine)
        return marked or (_is_marked(self._prefix + lock) if _HAS_MARKS else None) or marked

    def is_shared(self, mounts: str = "/proc/self/mountinfo") -> bool:
        """Tell whether other machines may have this file system, too.

        Args:
            mounts: Where the kernel lists what is mounted, as in proc_pid_mountinfo(5).
        """
        try:
            device = os.stat(self.path).st_dev
            with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
                mounted = [line.split() for line in file]
        except OSError:
            return False
        here = f"{os.major(device)}:{os.minor(device)}"
        # Behind the fields of which some are optional: a hyphen, and what kind of file system it is.
        return any(mount[mount.index("-") + 1].startswith(_SHARED_KINDS) for mount in mounted if mount[2] == here)

    def remove(self, name: str) -> None:
        """Delete the entry `name` if it is there and no directory."""
        _remove(self._prefix + name)

    def remove_all(self, names: Iterable[str]) -> None:
        """Delete several entries."""
        for name in names:
            self.remove(name)


_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""What `flock` says on Lustre without `-o flock`, on file systems in user space, and on NFS without its lock daemon."""

_MACHINE = "/tmp"
"""Not TMPDIR, which may be another directory in each process."""


def _lock_of_machine(directory: Path) -> str | None:
    """Return which file of this machine is locked instead of a directory; None if there is no directory."""
    try:
        status = os.stat(directory)
    except OSError:
        return None
    return os.path.join(_MACHINE, f"dagron-lock-{status.st_dev:x}-{status.st_ino:x}")


def _open_for_all(path: str) -> int:
    """Open a file that no user of the machine may be without, and make it if it is not there."""
    flags = os.O_RDWR | _NOFOLLOW | _NONBLOCK
    try:
        # Without O_CREAT: Linux refuses that for the files of others in such a directory (`fs.protected_regular`).
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return os.open(path, flags)
    os.fchmod(fd, 0o666)  # whatever the umask says
    return fd


# --- who holds it -----------------------------------------------------------------------------------------------------

_HAS_MARKS = sys.platform == "linux"
"""Locks of open file descriptions (fcntl_locking(2)) can be asked for without being taken, so whoever looks disturbs
nobody; and the kernel knows them in all containers, whatever these call its processes."""

_MARK = struct.Struct("hhqqi4x")
"""`struct flock`: type, whence, start, length, process."""

_LOOKS, _LOOK_SECONDS = 10, 0.01
"""Where a look at the lock has to take it, for microseconds, a writer tries again so often before it believes that it
is held by another one."""

_SHARED_KINDS = (
    "nfs",
    "cifs",
    "smb",
    "fuse",
    "lustre",
    "gpfs",
    "9p",
    "ceph",
    "afs",
    "beegfs",
    "gfs2",
    "ocfs2",
    "virtiofs",
)
"""How the names of file systems begin that several machines may have mounted."""


def _take_directory(fd: int) -> None:
    import fcntl

    for more in reversed(range(1 if _HAS_MARKS else _LOOKS)):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not more:
                raise
            time.sleep(_LOOK_SECONDS)


def _locked(fd: int) -> int | None:
    """Lock an open file and return it; close it and return None if somebody else has locked it."""
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _unlock(fd: int) -> None:
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_UN)  # also for what has inherited the descriptor
    finally:
        os.close(fd)


def _set_mark(fd: int, kind: int) -> None:
    import fcntl

    if _HAS_MARKS:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _MARK.pack(kind, os.SEEK_SET, 0, 0, 0))
        except OSError:
            pass  # this file system has no such locks, and whoever asks is told that nobody knows


def _unlock_directory(fd: int) -> None:
    import fcntl

    _set_mark(fd, fcntl.F_UNLCK)  # also for a fork that has not come to let go of it yet
    try:
        _unlock(fd)
    except OSError:
        pass  # this file system has no locks on directories


def _is_marked(path: str) -> bool | None:
    """Tell whether somebody has marked a directory or locked a file as `fcntl` does; None if nobody knows."""
    import fcntl

    try:
        fd = os.open(path, os.O_RDONLY | _NOFOLLOW | _NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        if _HAS_MARKS:
            asked = _MARK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            found, *_ = _MARK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
            return bool(found != fcntl.F_UNLCK)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(fd)


_locks: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


def _forget_locks() -> None:
    for lock in list(_locks):
        lock.forget()


if hasattr(os, "register_at_fork"):
    # Else a child that lives on would hold the lock of a parent that has died.
    os.register_at_fork(after_in_child=_forget_locks)


def has_no_locks(error: OSError) -> bool:
    """Tell whether a lock was refused because the file system has none."""
    return error.errno in _WITHOUT_LOCKS


class DirectoryLock:
    """The right to write a checkpoint: an exclusive lock of the kernel on one file of the directory.

    Args:
        path: The file.
        of_machine: Where the file system of the directory has no locks, take a file of `/tmp` instead, whose name is
            that of the directory's device and inode. It keeps apart the processes that have this `/tmp`, so those of
            other machines and of other containers not.
        mode: Returns who may look at the file if it is made.
    """

    def __init__(self, path: Path, *, of_machine: bool = False, mode: Callable[[], int] = lambda: PRIVATE_MODE) -> None:
        self._of_machine = of_machine
        self._mode = mode
        self._path = path
        self._file_fd = -1
        self._directory_fd = -1

    def acquire(self) -> bool:
        """Take the lock if it is free and say whether it was; never waits.

        Guarantees:
            No other process, and no other object of this process, holds it until `release` or the end of this process.

        On crash:
            The kernel releases it.
        """
        try:
            fd = _locked(os.open(self._path, os.O_RDWR | os.O_CREAT | _NOFOLLOW | _NONBLOCK, self._mode()))
        except OSError as error:
            if self._of_machine and has_no_locks(error):
                return self._take_lock_of_machine()
            raise
        if fd is None:
            return False
        taken = False
        try:
            taken = self._lock_directory()
        finally:
            if not taken:
                _unlock(fd)
        if taken:
            self._file_fd = fd
        return taken

    def _lock_directory(self) -> bool:
        # The directory itself, too: people take the file for a leftover, and once it is deleted another can be locked.
        fd = os.open(self._path.parent, os.O_RDONLY)
        try:
            _take_directory(fd)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError:
            pass  # a file system without locks on directories: the file has to do
        self._directory_fd = fd
        _locks.add(self)
        return True

    def _take_lock_of_machine(self) -> bool:
        path = _lock_of_machine(self._path.parent)
        if path is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path.parent))
        fd = _locked(_open_for_all(path))
        if fd is None:
            return False
        self._directory_fd = fd
        _locks.add(self)
        return True

    def mark(self) -> None:
        """Say to those who ask `Directory.is_marked` that the holder's run goes on, until `release` or its end.

        On crash:
            The kernel takes it back.
        """
        if self._directory_fd >= 0:
            import fcntl

            _set_mark(self._directory_fd, fcntl.F_RDLCK)  # for reading, as a directory cannot be opened for writing

    def forget(self) -> None:
        """In a fork of this process: let go of what is the parent's, without releasing it."""
        file_fd, self._file_fd = self._file_fd, -1
        directory_fd, self._directory_fd = self._directory_fd, -1
        for fd in (file_fd, directory_fd):
            if fd >= 0:
                os.close(fd)

    def release(self) -> None:
        """Give the lock back. The file stays: another process may be waiting on it."""
        file_fd, self._file_fd = self._file_fd, -1
        directory_fd, self._directory_fd = self._directory_fd, -1
        try:
            if file_fd >= 0:
                _unlock(file_fd)
        finally:
            if directory_fd >= 0:
                _unlock_directory(directory_fd)
