"""The end of a checkpoint: its files are deleted, and no others."""

from __future__ import annotations

import time
from collections.abc import Collection

from dagron.checkpoint.files import AppendFile, Directory, is_temporary
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.journal import Kind, RecordWriter
from dagron.checkpoint.reading.view import JOURNAL, LOCK, META, View, files_of_damaged, read_view
from dagron.checkpoint.writing.commits import open_journal, refusal
from dagron.errors import CheckpointError, ClearError

__all__ = ["clear"]

_AS_IT_WAS = "it is as it was, and resume() goes on from it"
_CLEARED = "it counts as cleared; what is left of its files goes with the next clear_checkpoint() or run"
_UNREADABLE = "what is left of it cannot be read; call clear_checkpoint() again"
_NOT_FLUSHED = ", unless a loss of power comes first, after which it may count as cleared"


def clear(directory: Directory, view: View | None, key: bytes | None, *, durable: bool) -> None:
    """Delete the files of a checkpoint that is held.

    Args:
        directory: The directory; this process is its only writer.
        view: What its journal says; None if it is missing or begins with damage.
        key: The signing key, or None.
        durable: Whether the order of the steps is to survive a loss of power, too.

    Raises:
        ClearError: The disk refused. What was said in the journal before anything was deleted is taken back then. The
            error says what a reader finds.

    On crash:
        The checkpoint as it was, or none; what is left of its files is known as ours and goes with the next `clear` or
        `execute`.
    """
    doubt = ""
    try:
        sizes = directory.sizes()
        if view is not None:
            owned = view.files & sizes.keys()
            try:
                _record(directory, view, key, owned, durable=durable)
            except OSError:
                if not _take_back(directory, view, durable=durable):
                    doubt = _NOT_FLUSHED
                raise
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
        left = _what_is_left(directory, key)
        if left == _AS_IT_WAS:
            left += doubt
        raise ClearError(str(directory.path), refusal(error), left) from error


def _record(directory: Directory, view: View, key: bytes | None, owned: Collection[str], *, durable: bool) -> None:
    writer = RecordWriter(view.checkpoint_id, Digests(key), view.sequence)
    journal = open_journal(directory, view, durable=durable)
    try:
        journal.append(writer.event(Kind.CLEARED, {"at": time.time(), "owns": sorted(owned)}))
        if durable:
            journal.sync()
    finally:
        journal.close()


def _take_back(directory: Directory, view: View, *, durable: bool) -> bool:
    """Cut off what was appended to the journal, and tell whether it is gone for good."""
    try:
        journal = AppendFile(directory.path / JOURNAL, view.valid_size)
        try:
            # No second try of the flush that failed: this one is for the size.
            if durable:
                journal.sync()
        finally:
            journal.close()
    except OSError:
        return False
    return True


def _what_is_left(directory: Directory, key: bytes | None) -> str:
    # Asked rather than concluded: what stands in a file after a call that failed is unspecified.
    try:
        view = read_view(directory, key)
    except CheckpointError:
        return _UNREADABLE
    return _CLEARED if view is None or view.cleared else _AS_IT_WAS
