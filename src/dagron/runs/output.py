"""What tasks print, handed on to where this process prints."""

from __future__ import annotations

import io
import logging
import sys

from dagron.results.last_words import last_words

__all__ = ["hand_on", "last_lines", "printed_text"]

logger = logging.getLogger("dagron")

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
    """Return what an error message shows of the end of an output: `last_words` of it."""
    return "\n".join(last_words(_text(data).strip("\n")))


def printed_text(data: bytes) -> str:
    """Return the end of an output for the checkpoint: at most 4,096 characters, of a line written over the last state.

    What is no UTF-8 is escaped. If the end would not have the `last_words`, these are returned instead.
    """
    text = _text(data)
    if len(text) > _MAX_PRINTED and (words := last_words(text)) != last_words(text[-_MAX_PRINTED:]):
        return "\n".join(words)
    return text[-_MAX_PRINTED:]


def _text(data: bytes) -> str:
    text = data.decode(errors="backslashreplace").rstrip("\r\n")
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return text
