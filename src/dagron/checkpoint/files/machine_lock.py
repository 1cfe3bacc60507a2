"""The file of this machine that is locked in place of a directory whose file system has no locks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dagron.checkpoint.files.calls import NOFOLLOW, NONBLOCK

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["lock_of_machine", "open_for_all"]

_MACHINE = "/tmp"
"""Not TMPDIR, which may be another directory in each process."""


def lock_of_machine(directory: Path) -> str | None:
    """Return which file of this machine is locked instead of a directory; None if there is no directory."""
    try:
        status = os.stat(directory)
    except OSError:
        return None
    return os.path.join(_MACHINE, f"dagron-lock-{status.st_dev:x}-{status.st_ino:x}")


def open_for_all(path: str) -> int:
    """Open a file that no user of the machine may be without, and make it if it is not there."""
    flags = os.O_RDWR | NOFOLLOW | NONBLOCK
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
