"""How a failure is told: the text for people, from its FAILED record.

A record has the whole traceback, because the last line of a library is sometimes what one needs. What is folded is
decided when it is shown, by the paths in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from dagron.checkpoint.format.records import Failed
from dagron.results.frames import Frame, parsed
from dagron.results.last_words import last_words
from dagron.results.status import status_of_failure
from dagron.shown import shown_bytes, shown_seconds

__all__ = ["folded", "last_frame", "last_own_frame", "shown_failure", "shown_origin"]


def _told(frames: list[Frame]) -> list[str]:
    """Return the lines of frames that call one another; a library has only its last frame, which raised."""
    if all(frame.is_library for frame in frames):
        return [line for frame in frames for line in frame.lines]
    lines: list[str] = []
    left_out: list[Frame] = []
    for i, frame in enumerate(frames):
        if frame.is_library and i < len(frames) - 1:
            left_out.append(frame)
            continue
        lines += [*_folded(left_out), *frame.lines]
        left_out = []
    return lines


def _folded(frames: list[Frame]) -> list[str]:
    if not frames:
        return []
    files = list(dict.fromkeys("/".join(frame.path.split("/")[-2:]) for frame in frames))
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    what = f"{len(frames)} frames" if len(frames) > 1 else "1 frame"
    return [f"  ... {what} in {', '.join(files[:3])}{more}"]


def folded(text: str) -> str:
    """Return a traceback whose frames of libraries are folded, but for the one that raised.

    A traceback without a frame of the user's stays as it is, and so do messages and notes.
    """
    lines: list[str] = []
    frames: list[Frame] = []
    for part in [*parsed(text), ""]:
        if isinstance(part, Frame):
            frames.append(part)
        else:
            lines += [*_told(frames), part]
            frames = []
    return "\n".join(lines[:-1])


def last_frame(text: str) -> Frame | None:
    """Return the frame that raised, of the last traceback of a text."""
    # Only the last one is looked for: ten thousand nodes may have failed.
    start = text.rfind('\n  File "') + 1
    return next((part for part in parsed(text[start:]) if isinstance(part, Frame)), None)


def last_own_frame(text: str) -> Frame | None:
    """Return the user's innermost frame in the last traceback of a text, or the innermost if none is theirs."""
    frames: list[Frame] = []
    for part in parsed(text):
        if isinstance(part, Frame):
            frames.append(part)
        elif part.startswith("Traceback "):
            frames = []
    own = [frame for frame in frames if not frame.is_library] or frames
    return own[-1] if own else None


def shown_origin(failure: Failed) -> list[str]:
    """Return where an attempt failed, what ran it, and what its task was called with; a line for each.

    Args:
        failure: As in `shown_failure`.
    """
    lines = []
    frame = last_own_frame(failure.traceback)
    if frame is not None:
        source = f": {frame.source}" if frame.source else ""
        lines.append(f"at {frame.path}:{frame.line}, in {frame.function}{source}")
    ran = _shown_run(failure)
    if ran:
        lines.append(ran)
    lines += [f"{name} = {text}" if name != "..." else f"... and {text}" for name, text in failure.inputs]
    return lines


def _shown_run(failure: Failed) -> str:
    parts = []
    slot, pid = failure.slot, failure.pid
    if slot >= 0:
        parts.append(f"in slot {slot}" + (f", process {pid}" if pid else ""))
    if seconds := failure.figures.duration_seconds:
        cpu = failure.figures.cpu_seconds
        parts.append(f"for {shown_seconds(seconds)}" + (f" ({shown_seconds(cpu)} of CPU)" if cpu else ""))
    if memory := failure.figures.peak_rss_bytes:
        parts.append(f"with a peak memory of {shown_bytes(memory)}")
    return f"ran {' '.join(parts)}" if parts else ""


def shown_failure(failure: Failed) -> str:
    """Return the report of a failure: what, where, with which inputs, the traceback, and what it wrote last.

    Args:
        failure: Its FAILED record; what it does not say is left out.
    """
    name, status = failure.name, failure.status
    attempt = failure.attempts
    message = failure.error
    lines = [f"node {name!r} {status_of_failure(status).label} in attempt {attempt}: {message}"]
    lines += [f"  {line}" for line in shown_origin(failure)]
    text = failure.traceback
    if text:
        lines += ["", folded(text.rstrip())]
    for stream in ("stdout", "stderr"):
        written = getattr(failure.output, stream).rstrip().strip("\n")
        last = last_words(written) if written else []
        # The error of a worker that died has the end of its standard error.
        if last and not (stream == "stderr" and _indented(last) == message.splitlines()[-len(last) :]):
            lines += ["", f"the last lines that it wrote to {stream}:", *_indented(last)]
    return "\n".join(lines)


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}".rstrip() for line in lines]
