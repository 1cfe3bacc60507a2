"""`dagron debug`: run one node in this process, with the inputs that a checkpoint has for it."""

from __future__ import annotations

import os

from dagron.cli.command import argument, node_argument, option, untrusted_option, verb, where_argument
from dagron.cli.ending import say
from dagron.cli.exit_codes import ExitCode, UsageError
from dagron.cli.origin import Identity, given_as_recorded
from dagron.cli.place import Where
from dagron.cli.program import proposed
from dagron.cli.reading import read_checkpoint
from dagron.cli.replay import announce, call_init, prepared_call, run_call
from dagron.looking.invocation import Invocation, target_of

__all__ = ["debug"]

_EPILOG = """Exit codes:

\b
    0  the node completed
    1  it failed: its task raised, or its result cannot be pickled; or the function of --worker-init raised
    2  there is no such node, or the file or module of the job is wrong; nothing was run
    3  there is no checkpoint, it cannot be read, or a result that the node takes is missing or cannot be
       loaded; nothing was run

Examples:

\b
  dagron debug checkpoints/job parse job.py
  dagron debug checkpoints/job parse job.py --pdb
  dagron debug job.py parse --pdb
"""


@verb(_EPILOG)
@where_argument
@node_argument
@argument(
    "target",
    "[TARGET]",
    "The file or module of the job, as `dagron run` takes it. Default: DIR, if that is one.",
    required=False,
)
@option("--pdb", is_flag=True, help="If it fails, open the debugger in the innermost frame of yours.")
@option(
    "--worker-init", metavar="NAME", help="A function of TARGET's file or module to call first, as `dagron run` has it."
)
@untrusted_option
def debug(
    where: Where, node: str, target: str | None, pdb: bool, worker_init: str | None, allow_untrusted: bool
) -> ExitCode:
    """Run a node again in this process, with its recorded inputs; compare the result with a recorded one.

    The code is that of the file as it is now, so an edit can be tried; `breakpoint()` in it works. The job is given
    what the last run gave it. The checkpoint is only read: whatever comes out, the next resume does what it would have
    done. What the task prints goes to where this command prints. The inputs are unpickled, which runs code that they
    name.
    """
    from dagron.cli.load import load_function, load_job

    ledger = read_checkpoint(where)
    source = target
    if source is None:
        if os.path.isdir(where.given):
            recorded = target_of(ledger.origin, where.path) or "FILE.py"
            command = proposed("debug", where.shown, node, recorded)
            raise UsageError(f"pass the file or module of the job, too: {command}")
        source = where.given
    job = load_job(*given_as_recorded(source, ledger))
    if worker_init is not None and not call_init(load_function(source, worker_init), post_mortem=pdb):
        return ExitCode.NODES
    identity = Identity(Invocation(source), job, where)
    if reason := identity.difference(ledger):
        say(f"note: the checkpoint is of the job {target_of(ledger.origin, where.path)}, {reason}")
    call = prepared_call(where, ledger, node, job, allow_untrusted=allow_untrusted)
    announce(call, ledger, where)
    return run_call(call, ledger, post_mortem=pdb)
