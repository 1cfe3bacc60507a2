"""The end of a checkpoint: its files are deleted, and no others."""

from __future__ import annotations

import time
from collections.abc import Collection

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.opened import AppendFile, is_temporary
from dagron.checkpoint.files.scratch import remove_scratch, remove_scratch_folder, scratches
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.names import JOURNAL, LOCK, META
from dagron.checkpoint.format.records import Cleared
from dagron.checkpoint.reading.damaged import files_of_damaged
from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.reading.opening import read_ledger
from dagron.checkpoint.writing.journal import JournalWriter, refusal
from dagron.errors import CheckpointError, ClearError

__all__ = ["clear"]

_AS_IT_WAS = "it is as it was, and resume() goes on from it"
_CLEARED = "it counts as cleared; what is left of its files goes with the next clear_checkpoint() or run"
_UNREADABLE = "what is left of it cannot be read; call clear_checkpoint() again"
_NOT_FLUSHED = ", unless a loss of power comes first, after which it may count as cleared"


def clear(directory: Directory, ledger: Ledger | None, key: bytes | None, *, durable: bool) -> None:
    """Delete the files of a checkpoint that is held.

    Args:
        directory: The directory; this process is its only writer.
        ledger: What its journal says; None if it is missing or begins with damage.
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
        if ledger is not None:
            owned = ledger.files & sizes.keys()
            try:
                _record(directory, ledger, key, owned, durable=durable)
            except OSError:
                if not _take_back(directory, ledger, durable=durable):
                    doubt = _NOT_FLUSHED
                raise
        else:
            owned = files_of_damaged(directory, key) & sizes.keys()
        owned |= set(filter(is_temporary, sizes))
        # In this order also after a loss of power: what says which files are ours goes after these files, and a
        # journal may not be missed while there is a `_meta.json`.
        for name in scratches(directory.path) or ():
            remove_scratch(directory.path, name)
        remove_scratch_folder(directory.path)
        for names in (sorted(owned), (META,), (JOURNAL, LOCK)):
            directory.remove_all(names)
            if durable:
                directory.sync()
    except OSError as error:
        left = _what_is_left(directory, key)
        if left == _AS_IT_WAS:
            left += doubt
        raise ClearError(str(directory.path), refusal(error), left) from error


def _record(directory: Directory, ledger: Ledger, key: bytes | None, owned: Collection[str], *, durable: bool) -> None:
    journal = JournalWriter(directory, ledger, Digests(key), durable=durable)
    try:
        journal.append([Cleared(time.time(), tuple(sorted(owned)))])
        journal.sync()
    finally:
        journal.close()


def _take_back(directory: Directory, ledger: Ledger, *, durable: bool) -> bool:
    """Cut off what was appended to the journal, and tell whether it is gone for good."""
    try:
        journal = AppendFile(directory.path / JOURNAL, ledger.valid_size)
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
        ledger = read_ledger(directory, key)
    except CheckpointError:
        return _UNREADABLE
    return _CLEARED if ledger is None or ledger.cleared else _AS_IT_WAS
