"""Which job the record of a run means, and what that was given, as it would be typed here and now."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dagron.checkpoint.format.records import Origin

__all__ = ["Invocation", "is_file", "target_of"]


class Invocation(NamedTuple):
    """A target and what it is given.

    Attributes:
        target: The file or module, perhaps with a colon and a name in it.
        arguments: What the job finds in `sys.argv` after its own name.
        parameters: What the function that makes the flow is called with: names and texts.
    """

    target: str
    arguments: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()

    def words(self, *options: str) -> list[str]:
        """Return the words of a command that say this, with options of the command at their place."""
        given = [word for name, text in self.parameters for word in ("-p", f"{name}={text}")]
        return [self.target, *given, *options, *(["--", *self.arguments] if self.arguments else [])]


def target_of(origin: Origin, checkpoint_dir: str) -> str:
    """Return the target that a record means, as it would be given here and now; empty if it is not known.

    Args:
        origin: What was recorded.
        checkpoint_dir: The directory of the checkpoint, absolute.
    """
    source = origin.module
    if origin.path and not source:
        beside = os.path.normpath(os.path.join(os.path.realpath(checkpoint_dir), origin.file))
        source = _shown_path(beside if is_file(beside) else origin.path)
    return f"{source}:{origin.name}" if source and origin.name else source


def _shown_path(path: str) -> str:
    try:
        here = os.getcwd()
    except OSError:
        return path
    return os.path.relpath(path, here) if path.startswith(os.path.join(here, "")) else path


def is_file(path: str) -> bool:
    """Tell whether there is such a file."""
    try:
        return os.path.isfile(path)
    except ValueError:
        return False  # no path that a system call takes
