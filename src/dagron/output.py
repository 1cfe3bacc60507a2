"""What tasks print, handed on to where this process prints."""

from __future__ import annotations

import io
import logging
import sys

__all__ = ["hand_on", "last_lines", "printed_text"]

logger = logging.getLogger("dagron")

_MAX_LINES = 20
_MAX_CHARACTERS = 4000
_MAX_PRINTED = 4096

_lost = False


def hand_on(fd: int, data: bytes) -> None:
    """Write what a worker wrote to its descriptor 1 or 2 to `sys.stdout` or `sys.stderr` of this process.

    To these objects and not to the descriptors, so that it comes to the cell of a notebook, above a progress bar, into
    what a test captures. Raises nothing: an output that is gone must not end a run.
    """
    global _lost
    stream = sys.stdout if fd == 1 else sys.stderr
    try:
        if type(stream) is io.TextIOWrapper:
            # As it is, whatever its encoding.
            stream.flush()
            stream.buffer.write(data)
        elif stream is not None:
            stream.write(data.decode(errors="backslashreplace"))
        else:
            return
        stream.flush()
    except (OSError, ValueError) as error:
        if not _lost:
            _lost = True
            logger.warning("what tasks print can no longer be shown: %s", error)


def last_lines(data: bytes) -> str:
    """Return the last lines of an output, for an error message."""
    text = data.decode(errors="backslashreplace").strip("\n")
    lines = [line.rpartition("\r")[2] for line in text[-_MAX_CHARACTERS:].split("\n")]
    if len(text) > _MAX_CHARACTERS and len(lines) > 1:
        del lines[0]  # cut somewhere
    return "\n".join(lines[-_MAX_LINES:])


def printed_text(data: bytes) -> str:
    """Return the end of an output for the checkpoint: at most 4,096 characters, of a line written over the last state.

    What is no UTF-8 is escaped.
    """
    text = data.decode(errors="backslashreplace").rstrip("\r\n")
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return text[-_MAX_PRINTED:]
