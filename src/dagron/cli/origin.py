"""Which job a run is of, as its record says it, and what the job was given."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from dagron.cli.target import Invocation, is_file_target, split_target

if TYPE_CHECKING:
    from dagron.checkpoint.format.records import Origin
    from dagron.checkpoint.reading.ledger import Ledger
    from dagron.cli.load import Job

__all__ = ["given_as_recorded", "origin_of", "shown_given", "target_of", "told_if_other"]


def origin_of(invocation: Invocation, job: Job, checkpoint_dir: str) -> Origin:
    """Return what the record of a run says about its job.

    Args:
        invocation: What the user has called.
        job: What was loaded for that.
        checkpoint_dir: The directory of the checkpoint, absolute; it need not exist.
    """
    from dagron.checkpoint.format.records import Origin

    source, name = split_target(invocation.target)
    # The real path of the directory: `..` leads out of that, and not to where a link to it is.
    file = os.path.relpath(job.path, os.path.realpath(checkpoint_dir)) if job.path else ""
    return Origin(
        file.replace(os.sep, "/"),
        job.path,
        "" if is_file_target(source) else source,
        "" if name == "flow" else name,
        invocation.arguments,
        invocation.parameters,
    )


def target_of(origin: Origin, checkpoint_dir: str) -> str:
    """Return the target that a record means, as it would be given here and now; empty if it is not known.

    Args:
        origin: What was recorded.
        checkpoint_dir: The directory of the checkpoint, absolute.
    """
    source = origin.module
    if origin.path and not source:
        beside = os.path.normpath(os.path.join(os.path.realpath(checkpoint_dir), origin.file))
        source = _shown_path(beside if _is_file(beside) else origin.path)
    return f"{source}:{origin.name}" if source and origin.name else source


def _shown_path(path: str) -> str:
    try:
        here = os.getcwd()
    except OSError:
        return path
    return os.path.relpath(path, here) if path.startswith(os.path.join(here, "")) else path


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:
        return False  # no path that a system call takes


def given_as_recorded(target: str, ledger: Ledger) -> Invocation:
    """Return a target with what the last run of the checkpoint gave its job."""
    return Invocation(target, ledger.origin.arguments, ledger.origin.parameters)


def shown_given(origin: Origin | Invocation) -> str:
    """Return what a job was given, as on a command line; empty if nothing."""
    return shlex.join(Invocation("", origin.arguments, origin.parameters).words()[1:])


def told_if_other(job: Invocation, ledger: Ledger) -> str:
    """Return what to say about a run that gives its job something else than the run before; empty if it does not."""
    before = ledger.origin
    if not before.is_known or (before.arguments, before.parameters) == (job.arguments, job.parameters):
        return ""
    was, now = (f"`{text}`" if (text := shown_given(given)) else "nothing" for given in (before, job))
    kept = "; results of nodes with the same names are kept" if ledger.commits else ""
    return f"the run before gave the job {was}, this one gives it {now}{kept}"
