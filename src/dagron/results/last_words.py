"""What a process wrote to standard error before it ended, cut to what tells why it ended.

That is the last lines; and if Python reported a fatal error, the head of the report, too, which says which error and
where in the task. Python appends more to the report in each version (the stacks of other threads, since 3.14 the stack
in C, extension modules), and other libraries write below it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dagron.results.frames import is_library, is_ours, reported_path

__all__ = ["last_line", "last_words"]

_MAX_LINES = 20
_MAX_CHARACTERS = 4000
"""For one screen; and less than what a record keeps of a stream, so that a record has all of it."""

_REPORT_FRAMES = 16
"""Half of them innermost, where the error is, half outermost, where the task begins; Python writes up to 100."""
_REPORT_CHARACTERS, _BEFORE_CHARACTERS, _BEHIND_CHARACTERS = 2000, 700, 1000
"""Together less than `_MAX_CHARACTERS`; 2,000 are 16 frames of 125."""
_BEFORE_LINES = 5
"""A library that aborts has said why just before."""
_LINE_CHARACTERS = 300
"""A longer line of a report is cut in its middle; frames of Python seldom are, as few paths have so many."""

_FATAL = "Fatal Python error: "
_STACK = re.compile(r"(Current thread 0x.*|Stack) \(most recent call first\):")
_IN_REPORT = re.compile(
    r"|  .*|(Current thread|Thread) 0x.* \(most recent call first\):|Stack \(most recent call first\):"
    r"|Current thread's C stack trace \(most recent call first\):|Extension modules: .*|Python runtime state: .*"
)


def last_words(text: str) -> list[str]:
    """Return the lines of `text` that tell why its writer ended: at most 4,000 characters in some 40 lines.

    What is left out of a report of a fatal error, and between it and the last lines, is marked by dots. A text
    that this function has returned comes back whole.
    """
    lines = text.split("\n")
    found = _report(lines)
    if found is None:
        return _last(text, _MAX_LINES, _MAX_CHARACTERS)
    before, behind = "\n".join(lines[: found.start]), "\n".join(lines[found.end :]).strip("\n")
    told = _last(behind, _MAX_LINES, _BEHIND_CHARACTERS) if behind else []
    if behind != "\n".join(told):
        told = ["...", *told]
    shown = _shown(lines[found.start : found.end])
    n_before = max(_BEFORE_LINES, _MAX_LINES - len(shown) - len(told))
    return [*(_last(before, n_before, _BEFORE_CHARACTERS) if before else []), *shown, *told]


def last_line(text: str) -> str:
    """Return the line of `text` that tells why its writer ended; empty if there is none.

    That is the last one; or if Python has reported a fatal error last, which one, and where in the user's code.
    """
    lines = text.split("\n")
    found = _report(lines)
    if found is None or any(map(str.strip, lines[found.end :])):
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    frames = [line for line in lines[found.start : found.end] if reported_path(line)]
    own = next((line for line in frames if not is_library(reported_path(line))), "")
    return f"{lines[found.start]}{f' at {own.strip()}' if own else ''}"


def _last(text: str, n_lines: int, n_characters: int) -> list[str]:
    lines = text[-n_characters:].split("\n")
    if len(text) > n_characters and len(lines) > 1:
        del lines[0]  # cut somewhere
    return lines[-n_lines:]


class _Report(NamedTuple):
    start: int
    end: int


def _report(lines: list[str]) -> _Report | None:
    """Return which lines are the last report of a fatal error."""
    start = next((i for i in reversed(range(len(lines))) if lines[i].startswith(_FATAL)), None)
    if start is None:
        return None
    end = start + 1
    while end < len(lines) and _IN_REPORT.fullmatch(lines[end]):
        end += 1
    return _Report(start, end)


def _shown(report: list[str]) -> list[str]:
    stack = next((i for i, line in enumerate(report) if _STACK.fullmatch(line)), len(report))
    head = [report[0], *(line for line in report[1:stack] if line.startswith("Python runtime state: "))][:2]
    if stack < len(report):
        head.append(report[stack])
    frames: list[str] = []
    for line in report[stack + 1 :]:
        if not line.startswith("  "):
            break
        frames.append(line)
    head, frames = _shortened(head), _shortened(_of_the_task(frames))
    n_frames = _REPORT_FRAMES
    while True:
        kept = frames
        if len(frames) > n_frames:
            kept = [*frames[: n_frames // 2], "  ...", *frames[len(frames) - n_frames // 2 :]]
        if len("\n".join(head + kept)) <= _REPORT_CHARACTERS:
            return head + kept
        n_frames -= 2


def _of_the_task(frames: list[str]) -> list[str]:
    """Leave out the frames that every task has below it, those of its worker."""
    for i, line in enumerate(frames):
        if is_ours(reported_path(line)):
            return frames[:i] or frames
    return frames


def _shortened(lines: list[str]) -> list[str]:
    # Frames end with the line and the function.
    return [
        line if len(line) <= _LINE_CHARACTERS else f"{line[:40]}...{line[43 - _LINE_CHARACTERS :]}" for line in lines
    ]
