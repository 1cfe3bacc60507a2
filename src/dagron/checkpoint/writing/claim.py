"""Whether a directory may be taken for a checkpoint, and who holds it. Looks only; changes nothing."""

from __future__ import annotations

import errno
import os
import stat

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.marks import is_marked
from dagron.checkpoint.format.names import JOURNAL, LOCK, META, SUFFIX
from dagron.checkpoint.reading.opening import read_ledger
from dagron.errors import CheckpointDamagedError, CheckpointDirectoryError, ForeignFilesError
from dagron.shown import iso_time

__all__ = ["check_directory", "check_lock_file", "check_trust", "holder_of"]

_LOOK_BYTES = 32
"""Of what stands in the place of the lock: enough to know it by."""


def check_directory(directory: Directory, *, allow_untrusted: bool) -> None:
    """Check that a directory can become a checkpoint or is one that may be trusted.

    Raises:
        CheckpointDirectoryError: It is a file, cannot be looked at or written, belongs to another user, or is writable
            by everyone.
        ForeignFilesError: It holds `.pkl` files and no checkpoint.
    """
    try:
        _check(directory, allow_untrusted=allow_untrusted)
    except OSError as error:
        where = directory.path if error.filename is None else os.fsdecode(error.filename)
        raise CheckpointDirectoryError(
            str(directory.path), f"cannot look at {str(where)!r}: {error.strerror or error}"
        ) from error


def check_trust(directory: Directory, *, allow_untrusted: bool) -> None:
    """Check that what is in a checkpoint may be unpickled, for a reader who need not be allowed to write.

    Raises:
        CheckpointDirectoryError: It belongs to another user, or is writable by everyone.
    """
    if not allow_untrusted:
        _check_owner(directory)


def _check(directory: Directory, *, allow_untrusted: bool) -> None:
    path = existing = str(directory.path)
    while not os.path.lexists(existing) and existing != os.path.dirname(existing):
        existing = os.path.dirname(existing)
    if not stat.S_ISDIR(os.stat(existing).st_mode):
        raise CheckpointDirectoryError(path, f"{existing!r} is a file, not a directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise CheckpointDirectoryError(path, f"{existing!r} is not writable")
    if existing != path:
        return
    if not allow_untrusted:
        _check_owner(directory)
    if not directory.exists(JOURNAL) and not directory.exists(META):
        foreign = sorted(name for name in directory.names() if name.endswith(SUFFIX))
        if foreign:
            raise ForeignFilesError(path, foreign)


def _check_owner(directory: Directory) -> None:
    # The directory may be reached over a link; its journal may not be one.
    for name, look in ((str(directory.path), os.stat), (directory.path_to(JOURNAL), os.lstat)):
        try:
            status = look(name)
        except OSError:
            continue  # there is none
        if status.st_uid not in (os.geteuid(), 0):
            what = f"is owned by user {status.st_uid}"
        elif status.st_mode & stat.S_IWOTH:
            what = "is writable by everyone"
        else:
            continue
        advice = "loading a checkpoint runs code that it contains"
        advice += "; pass allow_untrusted=True, or --allow-untrusted, if you trust it"
        raise CheckpointDirectoryError(str(directory.path), f"{name!r} {what}; {advice}")


def check_lock_file(directory: Directory) -> None:
    """Check that nothing of somebody else has the name of the lock file.

    Raises:
        CheckpointDirectoryError: It is not empty, or no file.
    """
    # Our lock file is empty, and locking another file would make that one empty, too.
    what = ""
    try:
        with directory.open_to_read(LOCK) as file:
            if file.size:
                what = f"holds {file.size} byte(s), beginning with {file.read_at(0, _LOOK_BYTES)!r}"
    except FileNotFoundError:
        return
    except PermissionError:
        return  # that of another user; taking it will say so
    except OSError as error:
        what = "is no regular file" if error.errno in (errno.EINVAL, errno.ELOOP, errno.ENXIO) else f"{error.strerror}"
    if what:
        reason = f"{LOCK!r} is to be the lock, an empty file, and {what}; nothing was changed; move {LOCK!r} away"
        raise CheckpointDirectoryError(str(directory.path), reason)


def holder_of(directory: Directory, key: bytes | None) -> tuple[int | None, str | None, str | None]:
    """Return process id, host and start, as ISO-8601, of the run that goes on; None for each that cannot be known."""
    try:
        ledger = read_ledger(directory, key)
    except (CheckpointDamagedError, CheckpointDirectoryError):
        ledger = None
    if ledger is None or not ledger.n_runs or ledger.ended is not None:
        return None, None, None
    if is_marked(directory.path, LOCK) is False:
        return None, None, None  # that was the run before; the holder is still starting, or is no run
    run = ledger.run
    return run.pid, run.host, iso_time(run.at)
