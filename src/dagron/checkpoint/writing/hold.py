"""The hold of a process on a checkpoint directory: it checks the directory, takes the lock, and reads what is there."""

from __future__ import annotations

import logging
import os

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.locks import DirectoryLock, has_no_locks
from dagron.checkpoint.format.names import JOURNAL, LOCK, META
from dagron.checkpoint.reading.damaged import is_recognized
from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.reading.opening import check_journal, read_ledger
from dagron.checkpoint.writing.claim import check_directory, check_lock_file, holder_of
from dagron.checkpoint.writing.journal import refusal
from dagron.errors import CheckpointDamagedError, CheckpointDirectoryError, CheckpointLockedError, OptionError

__all__ = ["Hold"]

logger = logging.getLogger("dagron.checkpoint")


_VARIABLE = "DAGRON_LOCK"
_WITHOUT_LOCKS = (
    f"use a directory on another file system, or set {_VARIABLE}=machine if no other machine writes it, which keeps "
    "apart the runs of this machine only"
)


def _of_machine() -> bool:
    """Return what the user says of file systems without locks.

    Raises:
        OptionError: It makes no sense.
    """
    said = os.environ.get(_VARIABLE, "")
    if said not in ("", "machine"):
        raise OptionError(_VARIABLE, repr(said), "'machine', or nothing")
    return said == "machine"


class Hold:
    """The right of one process to write a checkpoint.

    Args:
        directory: The checkpoint directory.
        key: The signing key, or None.
        allow_untrusted: Accept a checkpoint that another user owns or that everyone may write.
        durable: Whether the name of a new directory has to survive a loss of power.
    """

    def __init__(self, directory: Directory, key: bytes | None, *, allow_untrusted: bool, durable: bool) -> None:
        self._directory = directory
        self._key = key
        self._allow_untrusted = allow_untrusted
        self._durable = durable
        self._lock = DirectoryLock(directory.path / LOCK, of_machine=_of_machine(), mode=lambda: directory.file_mode)
        self._owner = os.getpid()

    def take(self, *, accept_damage: bool) -> Ledger | None:
        """Take the directory and return what its journal says: see `CheckpointStore.open`."""
        path = self._directory.path
        check_directory(self._directory, allow_untrusted=self._allow_untrusted)
        try:
            check_journal(self._directory, self._key)  # before the lock file is made
        except CheckpointDamagedError as error:
            if not accept_damage:
                raise
            if not is_recognized(self._directory):
                reason = f"nothing says which files are those of a checkpoint; delete {JOURNAL} and {META} by hand"
                raise CheckpointDamagedError(error.path, error.offset, reason) from error
        check_lock_file(self._directory)
        try:
            self._directory.create(durable=self._durable)
            taken = self._lock.acquire()
        except OSError as error:
            reason = error.strerror or str(error)
            if has_no_locks(error):
                reason = f"its file system has no locks ({reason}), which keep two runs apart; {_WITHOUT_LOCKS}"
            raise CheckpointDirectoryError(str(path), reason) from error
        if not taken:
            raise CheckpointLockedError(str(path), *holder_of(self._directory, self._key))
        try:
            return self._read(accept_damage=accept_damage)
        except BaseException:
            self.release()
            raise

    def _read(self, *, accept_damage: bool) -> Ledger | None:
        try:
            return read_ledger(self._directory, self._key)
        except CheckpointDamagedError:
            if not accept_damage:
                raise
            return None

    def mark(self) -> None:
        """Say to whoever looks that a run goes on here, from now on until `release`."""
        self._lock.mark()

    def release(self) -> None:
        """Let go of the directory. Safe to call in any state, and twice."""
        try:
            self._lock.release()
        except OSError as error:
            path = self._directory.path / LOCK
            logger.warning("%s: %s; it is free at the latest when this process ends", path, refusal(error))

    @property
    def is_forked(self) -> bool:
        """Whether this is a process that somebody forked in a callback, and that has come back out of it."""
        return os.getpid() != self._owner
