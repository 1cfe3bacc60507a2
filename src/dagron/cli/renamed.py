"""A job whose file was renamed begins a checkpoint of its own; what it made under its old name may lie beside that."""

from __future__ import annotations

import os
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from dagron.cli.place import Place
from dagron.errors import DagronError

if TYPE_CHECKING:
    from dagron.cli.origin import Identity

__all__ = ["Earlier", "earlier_checkpoint"]

_MAX_CHECKPOINTS = 32
"""Checkpoints that are looked at. To read one of 100,000 nodes takes a third of a second."""


class Earlier(NamedTuple):
    """A checkpoint that a job may have made under another name.

    Attributes:
        where: Its directory.
        told: What it is, in words.
        needs_adoption: Whether the job is refused there unless it says that it takes over.
    """

    where: Place
    told: str
    needs_adoption: bool


def earlier_checkpoint(directory: Place, identity: Identity) -> Earlier | None:
    """Return the checkpoint beside a new one that the same job may have made under another name; None if there is none.

    That is one of a job that is gone, or that has the same nodes and edges; at best both, and then the last one.

    Args:
        directory: Where the new one is going to be.
        identity: The job that is to be run.
    """
    from dagron.checkpoint.format.names import JOURNAL
    from dagron.cli.reading import read_checkpoint
    from dagron.looking.invocation import target_of

    if os.path.lexists(os.path.join(directory, JOURNAL)):
        return None
    found: list[tuple[int, float, Earlier]] = []
    try:
        names = sorted(os.listdir(os.path.dirname(directory.path)))
    except OSError:
        return None
    for name in names[:_MAX_CHECKPOINTS]:
        other = Place(os.path.join(os.path.dirname(directory.shown), name))
        other.path = os.path.join(os.path.dirname(directory.path), name)
        if not os.path.isfile(os.path.join(other, JOURNAL)):
            continue
        try:
            ledger = read_checkpoint(other)
        except (DagronError, OSError):
            continue  # whatever is wrong with it is no business of this run
        likeness, how = identity.likeness(ledger)
        if likeness and ledger.commits:
            text = f"{other.shown!r} is of the job {target_of(ledger.origin, other.path)!r}, {how}"
            found.append((likeness, ledger.updated_unix, Earlier(other, text, bool(identity.difference(ledger)))))
    return max(found, key=itemgetter(0, 1))[2] if found else None
