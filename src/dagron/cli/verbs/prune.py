"""`dagron prune`: make a checkpoint smaller."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dagron.cli.command import dag_option, json_option, option, untrusted_option, verb, where_argument
from dagron.cli.ending import put, say, stop_on_signals
from dagron.cli.exit_codes import ExitCode, UsageError
from dagron.cli.question import ask, is_interactive
from dagron.cli.reading import dag_for, read_checkpoint
from dagron.errors import NoCheckpointError
from dagron.looking.opening import directory_of
from dagron.shown import shown_bytes, shown_name

if TYPE_CHECKING:
    from dagron.checkpoint.writing.pruning import PruneReport
    from dagron.cli.place import Where

__all__ = ["prune"]

_MAX_NAMES = 8
"""Nodes that are named; --json has all."""

_EPILOG = """Exit codes:

\b
    0  done, or there was nothing to drop
    2  not confirmed; nothing was dropped
    3  there is none, it is damaged or cannot be written, or a run holds it

Examples:

\b
  dagron prune job.py --dry-run
  dagron prune job.py --yes
  dagron prune checkpoints/job --dag job.py
"""


@verb(_EPILOG)
@where_argument
@option("--dry-run", is_flag=True, help="Only say what would be dropped, and how much that frees.")
@option("--yes", "-y", is_flag=True, help="Do not ask. Needed where nobody can be asked.")
@option("--even-all", is_flag=True, help="Go on also if the DAG has none of the nodes of the checkpoint.")
@dag_option
@untrusted_option
@json_option
def prune(
    where: Where,
    dry_run: bool,
    yes: bool,
    even_all: bool,
    dag_from: str | None,
    allow_untrusted: bool,
    as_json: bool,
) -> ExitCode:
    """Make a checkpoint smaller: drop what no resume needs.

    That is: results, failures and files of nodes that the DAG of the last run (or of --dag) does not have; records of
    the journal that later ones supersede; what tasks printed in runs before the last one; and files and scratch
    directories that older runs have left. The next resume keeps and repeats what it would have kept and repeated. Says
    first what would be dropped, and asks. Takes the lock, unless it is a dry run.
    """
    from dagron.checkpoint.reading.opening import signing_key
    from dagron.checkpoint.writing.pruning import Pruning
    from dagron.checkpoint.writing.store import CheckpointStore
    from dagron.runs.leftovers import end_leftovers

    stop_on_signals()
    ledger = read_checkpoint(where)
    directory, nodes = directory_of(where), dag_for(ledger, dag_from).nodes if dag_from is not None else None
    pruning = Pruning(directory, signing_key(), nodes)
    found = pruning.report
    if dry_run or not found.freed_bytes:
        put(_as_json(found, dry_run=dry_run) if as_json else _shown(found, "would be dropped"))
        return ExitCode.OK
    if not even_all:
        pruning.refuse_to_drop_all()
    if not yes:
        if not is_interactive():
            raise UsageError(
                f"{where.shown!r} would be {shown_bytes(found.freed_bytes)} smaller; pass --yes to prune it"
            )
        say(_shown(found, "would be dropped"))
        if ask(f"drop that from {where.shown!r}?", {"y": "drop it", "n": "keep it"}, "n") == "n":
            say("nothing was dropped")
            return ExitCode.USAGE
    store = CheckpointStore(directory.path, signing_key=signing_key(), allow_untrusted=allow_untrusted)
    try:
        store.open()
        if store.ledger is None or store.ledger.cleared:
            raise NoCheckpointError(where.path)
        end_leftovers(store)
        found = store.prune(nodes, even_all=even_all)
    finally:
        store.close()
    text = _shown(found, "were dropped")
    # Whoever was asked has seen the rest.
    put(_as_json(found, dry_run=False) if as_json else text if yes else text.partition(":")[0])
    return ExitCode.OK


def _as_json(found: PruneReport, *, dry_run: bool) -> str:
    return json.dumps({**dataclasses.asdict(found), "freed_bytes": found.freed_bytes, "dry_run": dry_run}, indent=1)


def _shown(found: PruneReport, verb: str) -> str:
    if not found.freed_bytes:
        return f"nothing to drop: a resume needs all of the {shown_bytes(found.journal_bytes_left)} of the journal"
    lines = [f"{shown_bytes(found.freed_bytes)} {verb}:"]
    if found.nodes:
        lines.append(
            f"  the results or failures of {_counted(found.nodes)} that the DAG does not have: {_named(found.nodes)}"
        )
    if found.outputs:
        lines.append(f"  what {_counted(found.outputs)} printed in runs before the last one: {_named(found.outputs)}")
    if found.files or found.scratches:
        scratches = f" and {found.scratches} scratch directories of nodes" if found.scratches else ""
        lines.append(f"  {len(found.files)} files{scratches}, of {shown_bytes(found.files_bytes)}")
    if found.journal_bytes > 0:
        left = shown_bytes(found.journal_bytes_left)
        lines.append(f"  {shown_bytes(found.journal_bytes)} of records of the journal, of which {left} stay")
    return "\n".join(lines)


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} nodes" if len(names) > 1 else "1 node"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(map(shown_name, names[:_MAX_NAMES])) + more
