"""Who may look at what a checkpoint makes."""

from __future__ import annotations

import os
import stat

__all__ = ["PRIVATE_MODE", "current_umask", "mode_for"]

PRIVATE_MODE = 0o600
"""Of a file that is its owner's alone: a result may be private, and whoever can write a pickle decides what its reader
runs."""

_USUAL, _USUAL_WITH_GROUPS = 0o022, 0o002
"""What systems set where nobody has asked for anything; the second where every user has a group of their own."""


def current_umask() -> int:
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
