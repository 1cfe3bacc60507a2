"""The right to write a checkpoint, which the kernel gives to one process and takes back when it ends."""

from __future__ import annotations

import errno
import os
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from dagron.checkpoint.files.calls import NOFOLLOW, NONBLOCK
from dagron.checkpoint.files.machine_lock import lock_of_machine, open_for_all
from dagron.checkpoint.files.marks import HAS_MARKS, set_mark
from dagron.checkpoint.files.modes import PRIVATE_MODE

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DirectoryLock", "has_no_locks"]

_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""What `flock` says on Lustre without `-o flock`, on file systems in user space, and on NFS without its lock daemon."""

_LOOKS, _LOOK_SECONDS = 10, 0.01
"""Where a look at the lock has to take it, for microseconds, a writer tries again so often before it believes that it
is held by another one."""


def has_no_locks(error: OSError) -> bool:
    """Tell whether a lock was refused because the file system has none."""
    return error.errno in _WITHOUT_LOCKS


def _take_directory(fd: int) -> None:
    import fcntl

    for more in reversed(range(1 if HAS_MARKS else _LOOKS)):
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


def _unlock_directory(fd: int) -> None:
    import fcntl

    set_mark(fd, fcntl.F_UNLCK)  # also for a fork that has not come to let go of it yet
    try:
        _unlock(fd)
    except OSError:
        pass  # this file system has no locks on directories


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
            fd = _locked(os.open(self._path, os.O_RDWR | os.O_CREAT | NOFOLLOW | NONBLOCK, self._mode()))
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
        path = lock_of_machine(self._path.parent)
        if path is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path.parent))
        fd = _locked(open_for_all(path))
        if fd is None:
            return False
        self._directory_fd = fd
        _locks.add(self)
        return True

    def mark(self) -> None:
        """Say to those who ask `is_marked` that the holder's run goes on, until `release` or its end.

        On crash:
            The kernel takes it back.
        """
        if self._directory_fd >= 0:
            import fcntl

            set_mark(self._directory_fd, fcntl.F_RDLCK)  # for reading, as a directory cannot be opened for writing

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


_locks: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


def _forget_locks() -> None:
    for lock in list(_locks):
        lock.forget()


if hasattr(os, "register_at_fork"):
    # Else a child that lives on would hold the lock of a parent that has died.
    os.register_at_fork(after_in_child=_forget_locks)
