"""What a target of `dagron run` names, without loading it: a file or a module, perhaps with a colon and a flow."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["default_checkpoint_dir", "is_file_target", "split_target"]


def split_target(target: str) -> tuple[str, str]:
    """Return the file or module of a target, and the name of the flow after a colon; empty if there is none."""
    source, colon, attribute = target.rpartition(":")
    if colon and source and attribute.isidentifier() and not os.path.isfile(target):
        return source, attribute
    return target, ""


def is_file_target(target: str) -> bool:
    """Tell whether a target, without a colon, is the path of a file rather than the name of a module."""
    return target.endswith(".py") or "/" in target or os.sep in target or os.path.isfile(target)


def default_checkpoint_dir(target: str) -> str:
    """Return where the checkpoint of a target is unless the user says otherwise.

    For a file that is beside it, so that two of one name have two. A module may be where nobody can write: for it that
    is the working directory, which it is found from, and its full name tells it from others.
    """
    source, name = split_target(target)
    own = name and f".{name}"
    if is_file_target(source):
        return os.path.join(os.path.dirname(source), "checkpoints", f"{Path(source).stem}{own}")
    return os.path.join("checkpoints", f"{source}{own}")
