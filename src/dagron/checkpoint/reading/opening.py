"""Read the journal of a checkpoint: open it, take its records in, go on where a reader was. Never takes the lock."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.opened import ReadFile
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.journal import FORMAT_VERSION, HEADER_SIZE, Damage, Header, Record, decode_header, scan
from dagron.checkpoint.format.json_bodies import decode_event
from dagron.checkpoint.format.names import JOURNAL, META
from dagron.checkpoint.format.records import NO_OUTPUT, Event, Output, Printed, Retried
from dagron.checkpoint.format.structure import RecordedDag, decode_dag, digest_of
from dagron.checkpoint.reading.ledger import Ledger
from dagron.errors import CheckpointDamagedError, CheckpointDirectoryError, FormatVersionError

__all__ = [
    "check_journal",
    "checkpoint_path",
    "dag_of",
    "printed_by",
    "read_into",
    "read_ledger",
    "read_on",
    "retried_of",
    "signing_key",
]

_KEY_VARIABLE = "DAGRON_SIGNING_KEY"


def _open_journal(directory: Directory, key: bytes | None) -> tuple[ReadFile, Header] | None:
    path = str(directory.path)
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise CheckpointDirectoryError(path, "it is a file, not a directory")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # such as a name that is too long
        raise CheckpointDirectoryError(path, error.strerror or str(error)) from error
    file = _found(directory)
    if file is None:
        return None
    try:
        header = decode_header(file.read_at(0, HEADER_SIZE), Digests(key))
    except OSError as error:
        file.close()
        raise _unreadable(directory, error) from error
    except ValueError as error:
        file.close()
        raise CheckpointDamagedError(directory.path_to(JOURNAL), 0, str(error)) from None
    if header.version != FORMAT_VERSION:
        file.close()
        raise FormatVersionError(path, header.version, FORMAT_VERSION)
    return file, header


def _found(directory: Directory) -> ReadFile | None:
    # A writer makes the journal before `_meta.json`, and removes it after. So either may happen between our two looks,
    # but hardly three times in a row.
    for _ in range(3):
        try:
            return directory.open_to_read(JOURNAL)
        except (FileNotFoundError, NotADirectoryError):
            if not directory.exists(META):
                return None
        except OSError as error:
            raise _unreadable(directory, error) from error
    reason = "it is missing, although _meta.json is there; put it back, or call clear_checkpoint()"
    raise CheckpointDamagedError(directory.path_to(JOURNAL), 0, reason)


def _unreadable(directory: Directory, error: OSError) -> CheckpointDirectoryError:
    return CheckpointDirectoryError(str(directory.path), f"cannot read {JOURNAL}: {error.strerror}")


def check_journal(directory: Directory, key: bytes | None = None) -> None:
    """Raise what `read_ledger` would raise because of the directory or of the beginning of its journal."""
    opened = _open_journal(directory, key)
    if opened is not None:
        opened[0].close()


def read_ledger(
    directory: Directory, key: bytes | None = None, on_record: Callable[[Record], object] | None = None
) -> Ledger | None:
    """Read the journal of a checkpoint.

    Args:
        directory: The checkpoint directory; it may be missing.
        key: The signing key, or None.
        on_record: Called with each valid record, in order, for those who want what later records supersede.

    Returns:
        None if there is no checkpoint: no directory, or no journal in it and no `_meta.json` either.

    Raises:
        CheckpointDirectoryError: The path is no directory, or the journal cannot be opened.
        CheckpointDamagedError: The journal is missing although `_meta.json` is there, or its header is damaged.
        FormatVersionError: It has another version than ours.
    """
    return _read(None, directory, key, on_record)


def read_on(ledger: Ledger, directory: Directory, key: bytes | None = None) -> Ledger | None:
    """Read what was appended to a journal since it was read: as `read_ledger` does, at the cost of what is new.

    Returns:
        The same ledger, brought up to date; another one if the journal was replaced meanwhile; None if the checkpoint
        is gone.
    """
    return _read(ledger, directory, key)


def _read(
    ledger: Ledger | None,
    directory: Directory,
    key: bytes | None,
    on_record: Callable[[Record], object] | None = None,
) -> Ledger | None:
    opened = _open_journal(directory, key)
    if opened is None:
        return None
    file, header = opened
    with file:
        try:
            if ledger is None or header.checkpoint_id != ledger.checkpoint_id or file.size < ledger.valid_size:
                ledger = Ledger(header.checkpoint_id)
            ledger.size = file.size
            return read_into(ledger, directory, file, key, on_record)
        except OSError as error:
            raise _unreadable(directory, error) from error


def read_into(
    ledger: Ledger,
    directory: Directory,
    file: ReadFile,
    key: bytes | None,
    on_record: Callable[[Record], object] | None = None,
) -> Ledger:
    """Take in what an open journal has after the last record that was taken in, and return the ledger.

    Raises:
        CheckpointDamagedError: A valid record makes no sense.
    """
    for item in scan(file.read_at, file.size, ledger.checkpoint_id, Digests(key), ledger.valid_size, ledger.sequence):
        if isinstance(item, Damage):
            ledger.damage.append(item)
            continue
        try:
            ledger.apply(item)
            if on_record is not None:
                on_record(item)
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            struct.error,
        ) as error:
            # The check agrees, so these bytes were written so: by a fault of ours or by somebody with the key.
            reason = f"a valid record makes no sense: {error!r}"
            raise CheckpointDamagedError(directory.path_to(JOURNAL), item.offset, reason) from error
    return ledger


def dag_of(ledger: Ledger) -> RecordedDag | None:
    """Return the nodes and edges of the DAG of the last run, or None if they are not recorded.

    Raises:
        ValueError: A valid record makes no sense.
    """
    if not ledger.recorded or digest_of(ledger.recorded).hex() != ledger.run.dag:
        return None
    return decode_dag(ledger.recorded)


def printed_by(ledger: Ledger, directory: Directory, name: str, key: bytes | None = None) -> Output:
    """Return what the last attempt of a node wrote to its standard streams, from its PRINTED or FAILED record.

    Raises:
        CheckpointDamagedError: The record is damaged or cannot be read.
    """
    if name in ledger.failures:
        return ledger.failures[name].output
    if name not in ledger.printed:
        return NO_OUTPUT
    (event,) = _events_at([ledger.printed[name]], ledger, directory, Digests(key))
    if not isinstance(event, Printed):
        raise _not_there(directory, ledger.printed[name][0], "what a node has printed")
    return event.output


def retried_of(ledger: Ledger, directory: Directory, name: str, digests: Digests) -> list[Retried]:
    """Return what is recorded of the attempts of a node that failed before its last one, in order.

    Raises:
        CheckpointDamagedError: A record is damaged or cannot be read.
    """
    places = ledger.retried.get(name, [])
    found: list[Retried] = []
    for (offset, _), event in zip(places, _events_at(places, ledger, directory, digests), strict=True):
        if not isinstance(event, Retried):
            raise _not_there(directory, offset, "an attempt of a node")
        found.append(event)
    return found


def _events_at(
    places: list[tuple[int, int]], ledger: Ledger, directory: Directory, digests: Digests
) -> list[Event | None]:
    """Read the records that stand at these offsets with these numbers; None for one that is not what it was."""
    if not places:
        return []
    events: list[Event | None] = []
    try:
        with directory.open_to_read(JOURNAL) as file:
            for offset, number in places:
                records = scan(file.read_at, file.size, ledger.checkpoint_id, digests, offset, number - 1)
                found = next(records, None)
                events.append(decode_event(found.kind, found.body) if isinstance(found, Record) else None)
    except OSError as error:
        journal = str(directory.path / JOURNAL)
        raise CheckpointDamagedError(journal, places[0][0], f"cannot read it: {error.strerror or error}") from error
    return events


def _not_there(directory: Directory, offset: int, what: str) -> CheckpointDamagedError:
    return CheckpointDamagedError(str(directory.path / JOURNAL), offset, f"{what} is no longer there")


def checkpoint_path(checkpoint_dir: str | os.PathLike[str]) -> Path:
    """Return the directory as an absolute path, so that a later change of the working directory does not move it.

    Raises:
        CheckpointDirectoryError: It is relative, and there is no working directory.
    """
    path = os.fspath(checkpoint_dir)
    try:
        return Path(os.path.abspath(path))
    except OSError as error:
        reason = f"the working directory cannot be found: {error.strerror or error}"
        raise CheckpointDirectoryError(path, reason) from error


def signing_key() -> bytes | None:
    """Return the signing key that the environment gives, or None."""
    return os.fsencode(os.environ.get(_KEY_VARIABLE, "")) or None
