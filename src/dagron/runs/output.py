"""What tasks print: handed on to where this process prints, and cut to what a record keeps."""

from __future__ import annotations

import io
import logging
import sys
from typing import Any

from dagron.checkpoint.format.records import Output
from dagron.engines.outcomes import Printed
from dagron.results.last_words import last_words

__all__ = ["RecordedOutput", "hand_on", "last_lines", "printed_text", "recorded_output"]

logger = logging.getLogger("dagron")

_MAX_CHARACTERS = 4096
"""What a record keeps of one stream of an attempt: more than `last_words` gives."""

_BUDGET_CHARACTERS = 64 * 2**20
"""How much of what completed nodes print is recorded in a run; a resume has to read all of the journal."""

_lost = False


def hand_on(fd: int, data: bytes) -> None:
    """Write what a worker wrote to its descriptor 1 or 2 to `sys.stdout` or `sys.stderr` of this process.

    The text goes to these objects and not to the descriptors, so that it comes to the cell of a notebook, above a
    progress bar, and into what a test captures. Raises nothing: an output that is gone must not end a run.
    """
    global _lost
    stream = sys.stdout if fd == 1 else sys.stderr
    try:
        if type(stream) is io.TextIOWrapper:
            # The bytes as they are, whatever the encoding of the stream.
            stream.flush()
            stream.buffer.write(data)
        elif stream is not None:
            _write(stream, data)
        else:
            return
        stream.flush()
    except Exception as error:  # the object may be anything that a program has put there
        if not _lost:
            _lost = True
            logger.warning("what tasks print can no longer be shown: %s", error)


def _write(stream: Any, data: bytes) -> None:
    try:
        stream.write(data.decode(errors="backslashreplace"))
    except TypeError:
        stream.write(data)  # a stream of bytes


def last_lines(data: bytes) -> str:
    """Return what an error message shows of the end of an output: `last_words` of it."""
    return "\n".join(last_words(_text(data).strip("\n")))


def printed_text(data: bytes) -> str:
    """Return the end of an output for the checkpoint: at most 4,096 characters; a line written over has its last state.

    What is no UTF-8 is escaped. If the end would not have the `last_words`, these are returned instead.
    """
    text = _text(data)
    if len(text) > _MAX_CHARACTERS and (words := last_words(text)) != last_words(text[-_MAX_CHARACTERS:]):
        return "\n".join(words)
    return text[-_MAX_CHARACTERS:]


def recorded_output(printed: Printed) -> Output:
    """Return what an attempt wrote, as a record has it."""
    return Output(
        printed_text(printed.stdout), printed_text(printed.stderr), printed.stdout_bytes, printed.stderr_bytes
    )


class RecordedOutput:
    """What completed nodes have printed, from the end of the attempt to the commit, up to a budget for the run."""

    def __init__(self) -> None:
        self._outputs: dict[int, Output] = {}
        self._characters = 0

    def take(self, node: int, printed: Printed) -> None:
        """Keep what a node printed, unless the budget of the run is spent."""
        if self._characters < _BUDGET_CHARACTERS:
            output = self._outputs[node] = recorded_output(printed)
            self._characters += len(output.stdout) + len(output.stderr)

    def pop(self, node: int) -> Output | None:
        """Hand over what a node printed; None if nothing is kept."""
        return self._outputs.pop(node, None) if self._outputs else None


def _text(data: bytes) -> str:
    text = data.decode(errors="backslashreplace").rstrip("\r\n")
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return text
