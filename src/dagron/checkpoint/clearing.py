"""The end of a checkpoint: its files are deleted, and no others."""

from __future__ import annotations

import time

from dagron.checkpoint.commits import commit_error, open_journal
from dagron.checkpoint.files import Directory, is_temporary
from dagron.checkpoint.format import Kind, RecordWriter
from dagron.checkpoint.view import JOURNAL, LOCK, META, View, files_of_damaged

__all__ = ["clear"]


def clear(directory: Directory, view: View | None, key: bytes | None, *, durable: bool) -> None:
    """Delete the files of a checkpoint that is held.

    Args:
        directory: The directory; this process is its only writer.
        view: What its journal says; None if it is missing or begins with damage.
        key: The signing key, or None.
        durable: Whether the order of the steps is to survive a loss of power, too.

    Raises:
        CommitError: The disk refused.

    On crash:
        The checkpoint as it was, or none; what is left of its files is known as ours and goes with the next `clear` or
        `execute`.
    """
    try:
        sizes = directory.sizes()
        owned: set[str] = set()
        if view is not None:
            owned = view.files & sizes.keys()
            writer = RecordWriter(view.checkpoint_id, key, view.sequence)
            journal = open_journal(directory, view, durable=durable)
            try:
                journal.append(writer.event(Kind.CLEARED, {"at": time.time(), "owns": sorted(owned)}))
                if durable:
                    journal.sync()
            finally:
                journal.close()
        else:
            owned = files_of_damaged(directory, key) & sizes.keys()
        owned |= set(filter(is_temporary, sizes))
        # In this order also after a loss of power: what says which files are ours goes after these files, and a
        # journal may not be missed while there is a `_meta.json`.
        for names in (sorted(owned), (META,), (JOURNAL, LOCK)):
            directory.remove_all(names)
            if durable:
                directory.sync()
    except OSError as error:
        raise commit_error(directory, error) from error
