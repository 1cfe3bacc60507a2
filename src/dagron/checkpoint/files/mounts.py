"""Which file systems several machines may have."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["is_shared"]

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


def is_shared(directory: Path, mounts: str = "/proc/self/mountinfo") -> bool:
    """Tell whether other machines may have the file system of a directory, too.

    Args:
        directory: The directory.
        mounts: Where the kernel lists what is mounted, as in proc_pid_mountinfo(5).
    """
    try:
        device = os.stat(directory).st_dev
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            mounted = [line.split() for line in file]
    except OSError:
        return False
    here = f"{os.major(device)}:{os.minor(device)}"
    # Behind the fields of which some are optional: a hyphen, and what kind of file system it is.
    return any(mount[mount.index("-") + 1].startswith(_SHARED_KINDS) for mount in mounted if mount[2] == here)
