"""Make results not count, between runs: `dagron invalidate` and `Flow.invalidate`."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from itertools import chain

from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.errors import NoCheckpointError, UnknownNodeError
from dagron.graph.dag import DAG
from dagron.looking.opening import directory_of, found_ledger
from dagron.results.patterns import hint_at, matching

__all__ = ["invalidate"]


def invalidate(
    checkpoint_dir: str | os.PathLike[str],
    dag: DAG | None,
    patterns: Sequence[str],
    nodes: Collection[str] = (),
    *,
    descendants: bool,
    dry_run: bool,
    key: bytes | None,
    allow_untrusted: bool,
) -> list[str]:
    """Take the results of nodes away, so that the next resume makes them again, and return which nodes those are.

    Args:
        checkpoint_dir: The checkpoint.
        dag: The DAG. None if it is not known: then there are no descendants, and only the nodes that the journal has
            something to say about.
        patterns: As of `matching`.
        nodes: Names.
        descendants: Whether the descendants of these nodes are taken, too.
        dry_run: Only look; then the checkpoint need not be free.
        key: The signing key, or None.
        allow_untrusted: Accept a checkpoint that another user owns or that everyone may write.

    Raises:
        UnknownNodeError: A pattern or a name is that of no node.
        NoCheckpointError: There is none.
        CheckpointLockedError: A run is writing it.
        CheckpointError: It cannot be used, and nothing in it was changed; or, as `CommitError`, the disk refused.

    On crash:
        All of the results count still, or none does.
    """
    ledger = found_ledger(checkpoint_dir, key)
    if dry_run:
        return _chosen(ledger, dag, patterns, nodes, descendants=descendants)
    store = CheckpointStore(directory_of(checkpoint_dir).path, signing_key=key, allow_untrusted=allow_untrusted)
    try:
        store.open()
        if store.ledger is None or store.ledger.cleared:
            raise NoCheckpointError(str(store.directory.path))
        names = _chosen(store.ledger, dag, patterns, nodes, descendants=descendants)
        if names:
            store.invalidate_between_runs(names, "asked for by hand")
    finally:
        store.close()
    return names


def _chosen(
    ledger: Ledger, dag: DAG | None, patterns: Sequence[str], nodes: Collection[str], *, descendants: bool
) -> list[str]:
    """Return the nodes that are meant, with their descendants, of which a result is recorded, in the order of the DAG.

    Also a result that is gone: what was made from it is in doubt then, as with any other.
    """
    recorded = (ledger.completed, ledger.failures, ledger.stale, ledger.lost)
    names = list(dag.nodes if dag is not None else dict.fromkeys(chain.from_iterable(recorded)))
    chosen = set(names).intersection(nodes)
    unknown = [name for name in nodes if name not in chosen]
    for pattern in patterns:
        found = matching(names, pattern)
        chosen.update(found)
        if not found:
            unknown.append(pattern)
    if unknown:
        raise UnknownNodeError(unknown[0], f"the checkpoint has no such node{hint_at(unknown[0], names)}")
    if descendants and dag is not None:
        chosen.update(dag.name_of(i) for i in dag.descendant_indices([dag.index_of(name) for name in chosen]))
    return [name for name in names if name in chosen and (ledger.completed_commit(name) or name in ledger.lost)]
