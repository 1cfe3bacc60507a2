"""How the files stand that nodes have written beside their results, looked at from outside of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dagron.shown import shown_bytes, shown_name

if TYPE_CHECKING:
    from dagron.checkpoint.format.commits import Commit
    from dagron.checkpoint.reading.ledger import Ledger

__all__ = ["ChangedOutput", "changed_outputs", "shown_outputs"]


@dataclass(frozen=True, slots=True)
class ChangedOutput:
    """An output that does not stand as its node left it.

    Attributes:
        name: The node.
        path: The file, as the job has its path.
        difference: What has become of it.
    """

    name: str
    path: str
    difference: str


def changed_outputs(ledger: Ledger, key: bytes | None) -> list[ChangedOutput]:
    """Return the outputs of completed nodes that do not stand as the nodes left them.

    Args:
        ledger: What the journal says; relative paths begin where they did for its last run.
        key: The signing key, or None.
    """
    kept = (ledger.commits, ledger.dropped)
    return list(_changed(ledger, (commits[name] for commits in kept for name in commits.special), key))


def _changed(ledger: Ledger, commits: Iterable[Commit], key: bytes | None) -> Iterator[ChangedOutput]:
    from dagron.checkpoint.format.digests import Digests
    from dagron.outputs import difference

    digests = Digests(key)
    for commit in commits:
        for path, state in commit.outputs:
            if what := difference(os.path.join(ledger.run.directory, path), state, digests):
                yield ChangedOutput(commit.name, path, what)


def shown_outputs(ledger: Ledger, commit: Commit, key: bytes | None) -> list[str]:
    """Return a line for each output of a node."""
    changed = {output.path: output.difference for output in _changed(ledger, [commit], key)}
    return [
        f"{shown_name(path)} {changed[path]}" if path in changed else f"{shown_bytes(state.size)} in {shown_name(path)}"
        for path, state in commit.outputs
    ]
