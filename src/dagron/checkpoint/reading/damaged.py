"""What can be known of a checkpoint whose journal is missing or begins with damage. Reads without the lock."""

from __future__ import annotations

import json

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.journal import MAGIC
from dagron.checkpoint.format.names import JOURNAL, META, plain_file_name
from dagron.checkpoint.reading.ledger import Ledger, checked_file_name
from dagron.checkpoint.reading.opening import read_into
from dagron.errors import CheckpointDamagedError

__all__ = ["files_of_damaged", "is_recognized"]

_META_MAX_BYTES = 2**28
"""A longer `_meta.json` is not read, as a file may claim any size and have no bytes. That of a million nodes has a
tenth of this."""


def is_recognized(directory: Directory) -> bool:
    """Tell whether a checkpoint that cannot be read was one of ours, and not somebody else's files with our names."""
    try:
        with directory.open_to_read(JOURNAL) as file:
            if file.read_at(0, len(MAGIC)) == MAGIC:
                return True
    except OSError:
        pass
    return _meta_of(directory) is not None


def _meta_of(directory: Directory) -> tuple[bytes, set[str]] | None:
    try:
        with directory.open_to_read(META) as file:
            if file.size > _META_MAX_BYTES:
                return None
            meta = json.loads(file.read_at(0, file.size))
        special = {str(name): checked_file_name(file) for name, file in meta["special_files"].items()}
        files = {special.get(name) or plain_file_name(name) for name in meta["completed_nodes"]}
        return bytes.fromhex(meta["checkpoint_id"]), files
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def files_of_damaged(directory: Directory, key: bytes | None) -> set[str]:
    """Return the files of a checkpoint whose journal is missing or begins with damage, as far as they can be known.

    `_meta.json` says which files there were when it was written. It also has the id of the checkpoint, with which the
    records that follow a damaged header are checked.
    """
    meta = _meta_of(directory)
    if meta is None:
        return set()
    checkpoint_id, files = meta
    try:
        with directory.open_to_read(JOURNAL) as file:
            files |= read_into(Ledger(checkpoint_id, size=file.size), directory, file, key).files
    except (OSError, CheckpointDamagedError):
        pass  # then what the snapshot says has to do
    return files
