"""The directories in which nodes keep what they have done so far: made by workers, removed by the writer."""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import TYPE_CHECKING

from dagron.checkpoint.files.calls import NOFOLLOW
from dagron.checkpoint.files.modes import PRIVATE_MODE
from dagron.checkpoint.files.opened import TEMP_PREFIX

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SCRATCH", "make_scratch", "remove_scratch", "remove_scratch_folder", "scratch_bytes", "scratches"]

SCRATCH = f"{TEMP_PREFIX}scratch"
"""The folder of the directories in which nodes keep what they have done so far; ours by its name."""

_SCRATCH_NAME = re.compile("[0-9a-f]{32}")


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


def scratches(directory: Path) -> set[str] | None:
    """Return the names of the directories in which nodes keep what they have done so far; None without a folder."""
    try:
        if not stat.S_ISDIR(os.lstat(os.path.join(directory, SCRATCH)).st_mode):
            return None
        return set(filter(_SCRATCH_NAME.fullmatch, os.listdir(os.path.join(directory, SCRATCH))))
    except FileNotFoundError:
        return None


def scratch_bytes(directory: Path, name: str) -> int:
    """Return the size of one of `scratches` with all that is in it, as far as that can be looked at."""
    path = os.path.join(directory, SCRATCH, name)
    found = 0
    for folder, _, names in os.walk(path):  # follows no link
        for entry in (folder, *(os.path.join(folder, name) for name in names)):
            try:
                found += os.lstat(entry).st_size
            except OSError:
                pass  # gone meanwhile
    return found


def remove_scratch(directory: Path, name: str) -> None:
    """Delete one of `scratches` with all that is in it, if it is there."""
    try:
        _remove_tree(os.path.join(directory, SCRATCH), name)
    except FileNotFoundError:
        pass


def remove_scratch_folder(directory: Path) -> None:
    """Delete the folder of `scratches`, if it is there and empty."""
    try:
        os.rmdir(os.path.join(directory, SCRATCH))
    except OSError as error:
        # What else is in it, or stands in its place, is not ours.
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise


def _remove_tree(path: str, name: str) -> None:
    """Delete a directory with all that is in it, and follow no link."""
    import shutil  # few runs have need of it

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | NOFOLLOW)
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=fd)
        else:
            os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)
