"""`dagron invalidate`: make results not count, so that the next resume makes them again."""

from __future__ import annotations

import json
from collections.abc import Sequence

from dagron.checkpoint.reading.opening import signing_key
from dagron.cli.command import argument, dag_option, json_option, option, untrusted_option, verb, where_argument
from dagron.cli.ending import put, stop_on_signals
from dagron.cli.exit_codes import ExitCode
from dagron.cli.place import Where
from dagron.cli.reading import dag_for, read_checkpoint
from dagron.shown import shown_name

__all__ = ["invalidate"]

_MAX_NAMES = 20
"""Names that are printed; --json has all."""

_EPILOG = """Exit codes:

\b
    0  done, or there was nothing to do
    2  no node has such a name
    3  there is no checkpoint, it cannot be written, or a run holds it

Examples:

\b
  dagron invalidate job.py parse
  dagron invalidate job.py 'count*' --dry-run
  dagron invalidate job.py parse --if-changed
  dagron run job.py --resume
"""


@verb(_EPILOG)
@where_argument
@argument("nodes", "NODE...", "Names; * and ? match.", type=str, nargs=-1, required=True)
@option(
    "--if-changed",
    is_flag=True,
    help="What is downstream runs again only if a result that it takes has changed.",
)
@option("--dry-run", is_flag=True, help="Only say which nodes these are.")
@dag_option
@untrusted_option
@json_option
def invalidate(
    where: Where,
    nodes: tuple[str, ...],
    if_changed: bool,
    dry_run: bool,
    dag_from: str | None,
    allow_untrusted: bool,
    as_json: bool,
) -> ExitCode:
    """Make the results of nodes and of their descendants not count: the next resume makes them again.

    Runs nothing itself. Nodes that have failed or have never run are run by the next resume anyway. Takes the lock,
    unless it is a dry run.
    """
    from dagron.runs.invalidation import invalidate as invalidate_nodes

    stop_on_signals()
    ledger = read_checkpoint(where)
    names = invalidate_nodes(
        where,
        None if if_changed else dag_for(ledger, dag_from),
        nodes,
        descendants=not if_changed,
        dry_run=dry_run,
        key=signing_key(),
        allow_untrusted=allow_untrusted,
    )
    put(json.dumps({"nodes": names, "dry_run": dry_run}, indent=1) if as_json else _shown(names, dry_run=dry_run))
    return ExitCode.OK


def _shown(names: Sequence[str], *, dry_run: bool) -> str:
    if not names:
        return "nothing to invalidate: none of these nodes has a result"
    verb = "would run" if dry_run else "will run"
    count = f"{len(names)} nodes" if len(names) > 1 else "1 node"
    lines = [f"{count} {verb} again with the next resume:"]
    lines += [f"  {shown_name(name)}" for name in names[:_MAX_NAMES]]
    if len(names) > _MAX_NAMES:
        lines.append(f"  ... and {len(names) - _MAX_NAMES} more; --json lists them all")
    return "\n".join(lines)
