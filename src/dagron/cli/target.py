"""What a target of `dagron run` names, without loading it: a file or a module, perhaps with a colon and a flow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

__all__ = ["Invocation", "default_checkpoint_dir", "is_file_target", "split_target"]


class Invocation(NamedTuple):
    """A target and what it is given.

    Attributes:
        target: The file or module, perhaps with a colon and a name in it.
        arguments: What the job finds in `sys.argv` behind its own name.
        parameters: What the function that makes the flow is called with: names and texts.
    """

    target: str
    arguments: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()

    def words(self, *options: str) -> list[str]:
        """Return the words of a command that say this, with options of the command at their place."""
        given = [word for name, text in self.parameters for word in ("-p", f"{name}={text}")]
        return [self.target, *given, *options, *(["--", *self.arguments] if self.arguments else [])]


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
