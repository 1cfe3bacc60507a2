"""The frames of tracebacks that are text, and which of them are the user's."""

from __future__ import annotations

import linecache
import os
import re
from typing import NamedTuple

import dagron

__all__ = ["Frame", "is_library", "is_ours", "parsed", "reported_path", "with_source"]

_FRAME = re.compile(r'  File "(?P<path>.+)", line (?P<line>\d+), in (?P<function>.+)')
_FRAME_AT_ANY_DEPTH = re.compile(r'(?P<margin>[ |]*)File "(?P<path>.+)", line (?P<line>\d+), in .+')  # in groups, too
_REPORTED_FRAME = re.compile(r'  File "(?P<path>.+)", line .+')  # of a fatal error, whose frames have no second comma

# Where Python's own library and what is installed lie: a traceback may be from another machine, whose paths are not
# known here. A folder of the user's may be named `site-packages`, too, but it does not lie in `lib/python3`.
_LIBRARY = re.compile(r"/lib(?:64)?/(?:python|pypy)\d[^/]*/|^<frozen ")

# The package's folder, wherever in it this module lies, and its examples, which are like a user's jobs.
_OURS = os.path.join(os.path.dirname(os.path.abspath(dagron.__file__)), "")
_OUR_EXAMPLES = os.path.join(_OURS, "jobs", "")


def _as_reported(path: str) -> str:
    # How the report of a fatal error writes what is no ASCII.
    return path.encode("ascii", "backslashreplace").decode()


_FOLDERS = ((_OURS, _OUR_EXAMPLES), (_as_reported(_OURS), _as_reported(_OUR_EXAMPLES)))


class Frame(NamedTuple):
    """One frame of a traceback that is text.

    Attributes:
        path: The file.
        line: The number of the line in it.
        function: The function.
        lines: The lines of the text: the frame, and the source under it.
    """

    path: str
    line: int
    function: str
    lines: list[str]

    @property
    def is_library(self) -> bool:
        """Whether the file is none of the user's: see `is_library`."""
        return is_library(self.path)

    @property
    def source(self) -> str:
        """The line of source; empty if it is not known."""
        return self.lines[1].strip() if len(self.lines) > 1 else ""


def is_ours(path: str) -> bool:
    """Tell whether a file is of this package, and none of its examples, which are like a user's job."""
    for folder, examples in _FOLDERS:
        if path.startswith(folder):
            return not path.startswith(examples)
    return False


def is_library(path: str) -> bool:
    """Tell whether a file is of the standard library, of something installed, or of this package."""
    return is_ours(path) or (not path.startswith(_OURS) and _LIBRARY.search(path) is not None)


def reported_path(line: str) -> str:
    """Return the file that a line names in the report of a fatal error; empty if the line is no frame of such."""
    found = _REPORTED_FRAME.fullmatch(line)
    return found["path"] if found else ""


_OF_MANY = ("<string>", "<stdin>")
"""What every text is named that is executed or typed: the lines that Python knows are those of one, such as of `-c`."""


def with_source(text: str) -> str:
    """Return a traceback with the lines of source that it lacks and that this process knows.

    A worker does not have those of cells of a notebook, of `exec` and of doctests, which the process has in which they
    were written.
    """
    lines = text.split("\n")
    shown: list[str] = []
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        shown.append(line)
        found = _FRAME_AT_ANY_DEPTH.fullmatch(line)
        if found is None or found["path"] in _OF_MANY or below.startswith(found["margin"] + "  "):
            continue
        try:
            source = linecache.getline(found["path"], int(found["line"])).strip()
        except Exception:  # what a module says of its source is its own
            continue
        if source:
            shown.append(f"{found['margin']}  {source}")
    return "\n".join(shown)


def parsed(text: str) -> list[str | Frame]:
    """Return a text in parts: each frame with its source, and each line that belongs to none."""
    parts: list[str | Frame] = []
    for line in text.splitlines():
        last = parts[-1] if parts else None
        if (found := _FRAME.fullmatch(line)) is not None:
            parts.append(Frame(found["path"], int(found["line"]), found["function"], [line]))
        elif isinstance(last, Frame) and line.startswith(("    ", "  [Previous line repeated")):
            last.lines.append(line)
        else:
            parts.append(line)
    return parts
