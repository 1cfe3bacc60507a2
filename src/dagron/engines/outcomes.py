"""One attempt as an engine is given it, and how it ended: what crosses between the coordinator and a worker.

Apart from the protocol of engines, as the server from which workers are forked has to load it. Without deferred
annotations: every run begins with making these classes, and `NamedTuple` compiles each annotation that is a text.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from dagron.checkpoint.blobs import Blob, BlobFile
from dagron.figures import Figures

if TYPE_CHECKING:
    from dagron.checkpoint.format.outputs import FileState
    from dagron.crossing.parts import Own
    from dagron.tasks.binding import Binding

__all__ = ["NOTHING_PRINTED", "Attempt", "Fault", "Outcome", "OutcomeKind", "Printed"]


class OutcomeKind:
    """How an attempt ended, as far as the worker can tell.

    DAMAGED_INPUT: bytes that the checkpoint has of a parent's result are not those that were recorded. DISK: the system
    refused to write the result. UNLOADABLE_INPUT: those bytes are the recorded ones, and cannot be unpickled.
    """

    COMPLETED = 0
    RAISED = 1
    UNPICKLABLE = 2
    DAMAGED_INPUT = 3
    DISK = 4
    UNLOADABLE_INPUT = 5


class Attempt(NamedTuple):
    """One attempt of one node, still to be made.

    Attributes:
        node: The node's index.
        name: The node's name.
        task: What is its own of `(callable, retry_on)`, pickled or plain values.
        parts: What the task shares with other tasks; on the way to a worker only their numbers.
        binding: How the callable takes its inputs.
        inputs: For each parent that is taken, its pickled result or the file that has it.
        memory_limited: Whether its memory is watched.
        number: Which attempt of the node, counted from 1.
        run: When the run began, as text.
        outputs: The files that its task has to write, as absolute paths.
    """

    node: int
    name: str
    task: "Own"
    parts: tuple[Any, ...]
    binding: "Binding"
    inputs: tuple[bytes | BlobFile, ...]
    memory_limited: bool = False
    number: int = 1
    run: str = ""
    outputs: tuple[str, ...] = ()


class Printed(NamedTuple):
    """What an attempt wrote to its standard streams: the last 64 KiB of each, and how many bytes it was in all."""

    stdout: bytes = b""
    stderr: bytes = b""
    stdout_bytes: int = 0
    stderr_bytes: int = 0


NOTHING_PRINTED = Printed()
"""The attempt was silent, or the engine does not capture what attempts print."""


class Fault(NamedTuple):
    """Why an attempt gave no result although its worker lives.

    Attributes:
        type_name: The exception's type.
        message: Its text.
        traceback_text: Its traceback.
        exception: The exception, pickled.
        retryable: Whether it is among those worth a further attempt.
        inputs: The names of the task's arguments with short texts of their values.
        pid: The process that made the attempt.
        parent: With UNLOADABLE_INPUT, the position of that input among those of the attempt.
        modules: Then, modules that it names and that may have changed.
    """

    type_name: str
    message: str
    traceback_text: str
    exception: bytes = b""
    retryable: bool = False
    inputs: tuple[tuple[str, str], ...] = ()
    pid: int = 0
    parent: int = 0
    modules: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """How an attempt ended.

    Attributes:
        node: As in `Attempt`.
        kind: One of `OutcomeKind`.
        figures: What the attempt took.
        blob: The pickled result, if it completed.
        fault: Why it did not, if it failed.
        printed: What it wrote.
        has_scratch: Whether its task has asked for the directory of its own.
        outputs: How the files stand that its task has written, in the order of `Attempt.outputs`.
    """

    node: int
    kind: int
    figures: Figures
    blob: Blob | None = None
    fault: Fault | None = None
    printed: Printed = NOTHING_PRINTED
    has_scratch: bool = False
    outputs: tuple["FileState", ...] = ()
