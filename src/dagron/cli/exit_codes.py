"""What the exit codes of the command line mean, and which error leads to which."""

from __future__ import annotations

from enum import IntEnum

from dagron.errors import CheckpointError, DagronError, GraphError, OptionError, TaskDefinitionError

__all__ = ["MEANINGS", "ExitCode", "OtherJobError", "OutputError", "UsageError", "exit_code_of"]


class ExitCode(IntEnum):
    """The exit codes; `MEANINGS` says what they mean."""

    OK = 0
    NODES = 1
    USAGE = 2
    CHECKPOINT = 3
    INTERNAL = 4
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done; run, status --watch: every node completed",
    ExitCode.NODES: "a node failed, timed out, was skipped or cancelled; verify, doctor: something is wrong",
    ExitCode.USAGE: "the command, the target, its graph or its tasks are wrong; nothing was run",
    ExitCode.CHECKPOINT: "there is no checkpoint, or none that can be used, read or written",
    ExitCode.INTERNAL: "no worker could be started, output could not be written, or dagron itself failed",
    ExitCode.HUNG_UP: "stopped by SIGHUP, as when its terminal was closed",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C",
    ExitCode.TERMINATED: "stopped by SIGTERM",
}


class UsageError(DagronError):
    """The command cannot be carried out as it was given. Nothing was run.

    Attributes:
        reason: What is wrong, and what to do.
        traceback_text: The traceback of the user's file, if it is that which failed; else empty.
    """

    def __init__(self, reason: str, traceback_text: str = "") -> None:
        super().__init__(reason, traceback_text)
        self.reason = reason
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        return self.reason


class OutputError(DagronError):
    """What was asked for could not be written. The checkpoint has all results."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot write to {self.where}: {self.reason}; all results are in the checkpoint"


class OtherJobError(DagronError):
    """The checkpoint is of another job, whose results are not this one's. Nothing was run or changed.

    Attributes:
        checkpoint_dir: The directory.
        theirs: The job that made it.
        ours: The job that was to be run.
        reason: How the two were told apart.
    """

    def __init__(self, checkpoint_dir: str, theirs: str, ours: str, reason: str) -> None:
        super().__init__(checkpoint_dir, theirs, ours, reason)
        self.checkpoint_dir = checkpoint_dir
        self.theirs = theirs
        self.ours = ours
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the checkpoint in {self.checkpoint_dir!r} is of another job, {self.theirs!r}, {self.reason}, and not of "
            f"{self.ours!r}; give that a directory of its own with -d, or pass --adopt to take over what is there"
        )


def exit_code_of(error: DagronError) -> ExitCode:
    """Return the exit code that an error leads to."""
    if isinstance(error, (UsageError, GraphError, TaskDefinitionError, OptionError)):
        return ExitCode.USAGE
    if isinstance(error, (CheckpointError, OtherJobError)):
        return ExitCode.CHECKPOINT
    return ExitCode.INTERNAL
