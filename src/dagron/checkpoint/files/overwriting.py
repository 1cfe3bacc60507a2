"""A small file that can be rebuilt, and so is written over in its place."""

from __future__ import annotations

import errno
import os
import stat

from dagron.checkpoint.files.calls import CREATE, NOFOLLOW, NONBLOCK, remove, write_all
from dagron.checkpoint.files.modes import PRIVATE_MODE

__all__ = ["write_copy"]


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
        fd = _open_to_overwrite(path, len(data)) if exists else os.open(path, CREATE, mode)
    except OSError:
        # The other way round than expected, or something in our place that is not to be written to: make it free.
        remove(path)
        fd = os.open(path, CREATE, mode)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)


def _open_to_overwrite(path: str, size: int) -> int:
    """Open a regular file that is to have `size` bytes, and cut it to one at most.

    One that has a second name, such as a backup made of hard links, is refused.
    """
    fd = os.open(path, os.O_WRONLY | NOFOLLOW | NONBLOCK)
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
