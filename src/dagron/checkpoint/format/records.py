"""What a record of the journal says: a number for each kind, and a class for each whose body is JSON.

Their bytes are made in `json_bodies`. The body of COMMITTED: see `commits`. That of DAG_RECORDED: see `structure`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, NamedTuple

from dagron.figures import NO_FIGURES, Figures
from dagron.frozen import frozen

__all__ = [
    "NO_ORIGIN",
    "NO_OUTPUT",
    "NO_RUN",
    "Cleared",
    "CopiesWritten",
    "Dropped",
    "Event",
    "Failed",
    "Invalidated",
    "Kind",
    "Origin",
    "Output",
    "Printed",
    "Pruned",
    "Retried",
    "RunEnded",
    "RunStarted",
    "WorkersStarted",
]


class Kind(IntEnum):
    """What a record is about."""

    RUN_STARTED = 1
    COMMITTED = 2
    FAILED = 3
    INVALIDATED = 4
    RUN_ENDED = 5
    CLEARED = 6
    COPIES_WRITTEN = 7
    WORKERS_STARTED = 8
    DAG_RECORDED = 9
    PRINTED = 10
    PRUNED = 11
    RETRIED = 12
    DROPPED = 13


class Output(NamedTuple):
    """What an attempt wrote to its standard streams: the end of each as text, and how many bytes it was in all."""

    stdout: str = ""
    stderr: str = ""
    stdout_bytes: int = 0
    stderr_bytes: int = 0


NO_OUTPUT = Output()
"""That of an attempt that wrote nothing."""


class Origin(NamedTuple):
    """The job that a run is of, as far as that is known: all is empty where a program has begun the run by itself.

    Attributes:
        file: The file of the job, relative to the directory of the checkpoint, with `/`; empty if it has none.
        path: The same as an absolute path.
        module: The name of the module, where the job was named by it.
        name: What in it makes the DAG, where that was named: a flow, or a function.
        arguments: What the job found in `sys.argv` after its own name.
        parameters: What the function was called with: names and texts.
    """

    file: str = ""
    path: str = ""
    module: str = ""
    name: str = ""
    arguments: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether the run is known to be of a job."""
        return bool(self.path or self.module)


NO_ORIGIN = Origin()
"""That of a run of a program."""


@frozen
class RunStarted:
    """A run begins.

    Attributes:
        at: When, in seconds since the epoch.
        fresh: Whether it takes everything away that was before; else it goes on from that.
        pid: The process of the run.
        host: The machine.
        boot: Differs after every start of that machine; empty where it has no such text.
        total: Nodes of the DAG.
        fail_fast: Whether the run skips every descendant of a node that fails, not only those that take its result.
        slots: Slots of the run; 0 if it is not known.
        structure: `DAG.structure_digest()`, in hexadecimal, of the DAG that the commits were last compared with. A
            resume records that of the run before; INVALIDATED then says what became of the commits.
        dag: `DAG.structure_digest()`, in hexadecimal, of the DAG of this run.
        durability: What survives, `"power"` or `"process"`.
        owns: If fresh, the files in the directory that are ours and belong to no commit.
        absent: If not fresh, the completed and failed nodes that the DAG of this run does not have.
        definitions: What the script defines, each name with a digest, and for a class the attributes that its methods
            set later; of that script which the commits were last compared with, as `structure`.
        versions: Of Python and of what pickles, each with its name.
        origin: The job that it is of.
        directory: The working directory, where relative paths of outputs begin; empty if no node has outputs.
    """

    kind: ClassVar[Kind] = Kind.RUN_STARTED
    at: float
    fresh: bool
    pid: int = 0
    host: str = ""
    boot: str = ""
    total: int = 0
    fail_fast: bool = True
    slots: int = 0
    structure: str = ""
    dag: str = ""
    durability: str = ""
    owns: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    definitions: tuple[tuple[str, str], ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    origin: Origin = NO_ORIGIN
    directory: str = ""


NO_RUN = RunStarted(0.0, fresh=False)
"""What is known of the run of a checkpoint whose RUN_STARTED is damaged."""


@frozen
class Failed:
    """A node has failed for good.

    Attributes:
        name: The node.
        at: When that was recorded, in seconds since the epoch.
        status: `failed` or `timed_out`.
        outcome: How the last attempt ended, `raised`, `lost`, `timed_out` or `out_of_memory`.
        type: The type of the error.
        message: Its text.
        traceback: Its traceback; empty if there is none, as when a worker died.
        attempts: Attempts made, the last one included.
        slot: The slot that made the last one; -1 if it is not known.
        pid: The process that made it; 0 if it is not known.
        figures: What it took.
        inputs: The names of the task's arguments with short texts of their values, if it raised.
        output: What it wrote.
    """

    kind: ClassVar[Kind] = Kind.FAILED
    name: str
    at: float = 0.0
    status: str = "failed"
    outcome: str = "raised"
    type: str = ""
    message: str = ""
    traceback: str = ""
    attempts: int = 0
    slot: int = -1
    pid: int = 0
    figures: Figures = NO_FIGURES
    inputs: tuple[tuple[str, str], ...] = ()
    output: Output = NO_OUTPUT

    @property
    def error(self) -> str:
        """The type and the text of the error."""
        return f"{self.type}: {self.message}".removesuffix(": ")


@frozen
class Invalidated:
    """Commits no longer apply: their nodes run again, and whether their results differ decides about their children.

    Attributes:
        at: When, in seconds since the epoch.
        names: The nodes; those without a commit count for nothing.
        reason: Why, for people.
        lost: The results are gone, rather than no longer right: their children stay as they are.
        structure: If this says how the commits compare with another DAG, its `DAG.structure_digest()`, in hexadecimal.
        absent: Then, the completed and failed nodes that it does not have.
        definitions: Then, those of the script of that run; as of `RunStarted`.
    """

    kind: ClassVar[Kind] = Kind.INVALIDATED
    at: float
    names: tuple[str, ...]
    reason: str = ""
    lost: bool = False
    structure: str = ""
    absent: tuple[str, ...] = ()
    definitions: tuple[tuple[str, str], ...] = ()


@frozen
class RunEnded:
    """The run has ended by itself, and what it left over is deleted.

    Attributes:
        at: When, in seconds since the epoch.
        succeeded: How many nodes are completed.
        failed: How many have failed.
        timed_out: How many have run out of time.
        unreached: The nodes that a run without `fail_fast` had not reached when it was cancelled. What is downstream of
            a node that failed, and not among these, was skipped.
        out_of_time: The nodes that were killed because the time of the run was over, and that count as timed out
            although no attempt of theirs has failed.
    """

    kind: ClassVar[Kind] = Kind.RUN_ENDED
    at: float
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    unreached: tuple[str, ...] = ()
    out_of_time: tuple[str, ...] = ()


@frozen
class Cleared:
    """The checkpoint is being deleted: there is none any more. A writer that cannot flush this cuts it off again.

    Attributes:
        at: When, in seconds since the epoch.
        owns: The files that are ours.
    """

    kind: ClassVar[Kind] = Kind.CLEARED
    at: float
    owns: tuple[str, ...] = ()


@frozen
class CopiesWritten:
    """The `.pkl` copies of INLINE results are written.

    Attributes:
        at: When, in seconds since the epoch.
        before: Those of all in records with a lower number than this; 0 means those of all recorded before. Later
            copies may be missing, or be those of older results.
    """

    kind: ClassVar[Kind] = Kind.COPIES_WRITTEN
    at: float
    before: int = 0


@frozen
class WorkersStarted:
    """Processes of the run, so that what a killed run could not end is found.

    Attributes:
        at: When that was recorded, in seconds since the epoch.
        processes: Process id, and when it was created as the machine counts, of each.
        namespace: The namespace of these process ids.
    """

    kind: ClassVar[Kind] = Kind.WORKERS_STARTED
    at: float
    processes: tuple[tuple[int, float], ...]
    namespace: str = ""


@frozen
class Printed:
    """What the attempt of the last COMMITTED record of its node wrote, if it wrote anything.

    Attributes:
        name: The node.
        output: What it wrote.
    """

    kind: ClassVar[Kind] = Kind.PRINTED
    name: str
    output: Output = NO_OUTPUT


@frozen
class Pruned:
    """The records before this one were written anew, without those that nothing needs any more; see `pruning`.

    Attributes:
        at: When, in seconds since the epoch.
        owns: The files that are ours and belong to no commit. No other file is, whatever was said before.
    """

    kind: ClassVar[Kind] = Kind.PRUNED
    at: float
    owns: tuple[str, ...] = ()


@frozen
class Retried:
    """An attempt of a node has failed, and another one follows. Of many, only the first and the last are recorded.

    Attributes:
        name: The node.
        at: When that was recorded, in seconds since the epoch.
        attempt: Which attempt, from 1. The first of a run takes the place of those that earlier runs have made.
        outcome: How it ended, as of `Failed`.
        type: The type of the error.
        message: Its text, or the beginning and the end of that.
        traceback: Its traceback, or the beginning and the end of that; empty if there is none, or if the attempt that
            is recorded before it has the same.
        slot: The slot that made it.
        pid: The process that made it; 0 if it is not known.
        figures: What it took.
        stderr: The end of what it wrote to standard error.
    """

    kind: ClassVar[Kind] = Kind.RETRIED
    name: str
    at: float = 0.0
    attempt: int = 1
    outcome: str = "raised"
    type: str = ""
    message: str = ""
    traceback: str = ""
    slot: int = -1
    pid: int = 0
    figures: Figures = NO_FIGURES
    stderr: str = ""


@frozen
class Dropped:
    """Results are deleted: they were not to be kept, and all that take them are recorded. Their nodes stay completed.

    Attributes:
        at: When that was recorded, in seconds since the epoch.
        names: The nodes; those without a commit count for nothing.
    """

    kind: ClassVar[Kind] = Kind.DROPPED
    at: float
    names: tuple[str, ...]


Event = (
    RunStarted
    | Failed
    | Invalidated
    | RunEnded
    | Cleared
    | CopiesWritten
    | WorkersStarted
    | Printed
    | Pruned
    | Retried
    | Dropped
)
"""What a record of one of the kinds says whose bodies are JSON."""
