"""`dagron clear`: delete a checkpoint."""

from __future__ import annotations

from dagron.cli.command import option, untrusted_option, verb, where_argument
from dagron.cli.ending import say, stop_on_signals
from dagron.cli.exit_codes import ExitCode, UsageError
from dagron.cli.place import Where
from dagron.cli.question import ask, is_interactive
from dagron.cli.reading import read_checkpoint

__all__ = ["clear"]

_EPILOG = """Exit codes:

\b
    0  it is deleted
    2  not confirmed; nothing was deleted
    3  there is none, it cannot be written, or a run holds it

Examples:

\b
  dagron clear checkpoints/job
  dagron clear job.py --yes
"""


@verb(_EPILOG)
@where_argument
@option("--yes", "-y", is_flag=True, help="Do not ask. Needed where nobody can be asked.")
@untrusted_option
def clear(where: Where, yes: bool, allow_untrusted: bool) -> ExitCode:
    """Delete the files of a checkpoint, and no others. Also one that is damaged. Takes the lock."""
    from dagron.errors import CheckpointDamagedError
    from dagron.executor import CheckpointExecutor
    from dagron.graph.dag import DAG

    stop_on_signals()
    directory = where.shown
    try:
        what = f"the results of {len(read_checkpoint(where).commits)} nodes"
    except CheckpointDamagedError:
        what = "a checkpoint that is damaged"
    if not yes:
        if not is_interactive():
            raise UsageError(f"{directory!r} holds {what}; pass --yes to delete it")
        if ask(f"delete {what} in {directory!r}?", {"y": "delete", "n": "keep"}, "n") == "n":
            say("nothing was deleted")
            return ExitCode.USAGE
    CheckpointExecutor(DAG([]), directory, allow_untrusted=allow_untrusted).clear_checkpoint()
    say(f"deleted {what} in {directory!r}")
    return ExitCode.OK
