"""`dagron rerun`: take results away, so that the next resume makes them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from dagron.checkpoint.view import View, signing_key
from dagron.cli.ending import carry_out, put, stop_on_signals
from dagron.cli.exit_codes import ExitCode, UsageError
from dagron.cli.nodes import matches
from dagron.cli.reading import AsJson, DagFrom, Where, dag_for, directory_of, read_checkpoint
from dagron.shown import shown_name

if TYPE_CHECKING:
    from dagron.graph import DAG

__all__ = ["EPILOG", "rerun", "to_run_again"]

_MAX_NAMES = 20

EPILOG = """Exit codes:

\b
    0  done, or there was nothing to do
    2  no node has such a name
    3  there is no checkpoint, it cannot be written, or a run holds it

Examples:

\b
  dagron rerun job.py parse
  dagron rerun job.py 'count*' --dry-run
  dagron rerun job.py parse --if-changed
  dagron run job.py --resume
"""


def to_run_again(view: View, dag: DAG | None, patterns: Sequence[str], *, descendants: bool) -> list[str]:
    """Return the completed nodes that match, with their completed descendants, in the order of the DAG.

    Args:
        view: What the journal says.
        dag: The DAG; needed for descendants only.
        patterns: See `matches`.
        descendants: Whether to take what is downstream of them, too.

    Raises:
        UsageError: A pattern matches no node.
    """
    names = list(dag.nodes) if dag is not None else [*view.commits, *view.failures, *view.stale]
    chosen: set[str] = set()
    for pattern in patterns:
        found = [name for name in names if matches(name, pattern)]
        if not found:
            from dagron.cli.verbs.show import no_such_node

            raise UsageError(no_such_node(pattern, names))
        chosen.update(found)
    if descendants and dag is not None:
        chosen.update(dag.name_of(i) for i in dag.descendant_indices([dag.index_of(name) for name in chosen]))
    return [name for name in names if name in chosen and name in view.commits]


def rerun(
    where: Where,
    nodes: Annotated[list[str], typer.Argument(metavar="NODE...", show_default=False, help="Names; * and ? match.")],
    if_changed: Annotated[
        bool,
        typer.Option("--if-changed", help="What is downstream runs again only if a result that it takes has changed."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which nodes these are.")] = False,
    dag_from: DagFrom = None,
    as_json: AsJson = False,
) -> None:
    """Take the results of nodes, and of all nodes downstream of them, away, so that the next resume makes them again.

    Nodes that have failed or have never run are run by the next resume anyway. Takes the lock, unless it is a dry run.
    """

    def work() -> ExitCode:
        from dagron.checkpoint.store import CheckpointStore

        stop_on_signals()
        view = read_checkpoint(where)
        dag = None if if_changed else dag_for(view, dag_from)
        if dry_run:
            names = to_run_again(view, dag, nodes, descendants=not if_changed)
        else:
            store = CheckpointStore(directory_of(where).path, signing_key=signing_key())
            try:
                store.open()
                if store.view is None or store.view.cleared:
                    raise UsageError("the checkpoint was cleared meanwhile")
                names = to_run_again(store.view, dag, nodes, descendants=not if_changed)
                if names:
                    store.invalidate_between_runs(names, "asked for by hand")
            finally:
                store.close()
        put(json.dumps({"nodes": names, "dry_run": dry_run}, indent=1) if as_json else _shown(names, dry_run=dry_run))
        return ExitCode.OK

    carry_out(work)


def _shown(names: Sequence[str], *, dry_run: bool) -> str:
    if not names:
        return "nothing to take away: none of these nodes has a result"
    verb = "would run" if dry_run else "will run"
    count = f"{len(names)} nodes" if len(names) > 1 else "1 node"
    lines = [f"{count} {verb} again with the next resume:"]
    lines += [f"  {shown_name(name)}" for name in names[:_MAX_NAMES]]
    if len(names) > _MAX_NAMES:
        lines.append(f"  ... and {len(names) - _MAX_NAMES} more; --json lists them all")
    return "\n".join(lines)
