"""How a run begins in a checkpoint that is held: it replaces what is there, or recovers it and goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.names import JOURNAL, SUFFIX, FileNames
from dagron.checkpoint.format.records import Invalidated, RunStarted
from dagron.checkpoint.format.structure import digest_of
from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.writing.copying import CopyWriter
from dagron.checkpoint.writing.journal import JournalWriter, Said
from dagron.checkpoint.writing.recovery import Recovery
from dagron.checkpoint.writing.result_files import ResultFiles
from dagron.errors import ForeignFilesError
from dagron.frozen import replaced

__all__ = ["Beginning"]

logger = logging.getLogger("dagron.checkpoint")


class Beginning:
    """One run's beginning. Call `refuse_foreign`, then either `fresh` or `again`.

    Args:
        directory: The checkpoint directory.
        digests: Those of the checkpoint.
        files: The files of results in it; gets the names of the files of this run.
        nodes: The names of the DAG.
        run: The record of the run, as that of a fresh one.
        dag: The body of a DAG_RECORDED; empty to record none.
        mark: Says to whoever looks that a run goes on. Called just before the journal tells of this one.
        durable: Whether what is recorded has to survive a loss of power.
    """

    def __init__(
        self,
        directory: Directory,
        digests: Digests,
        files: ResultFiles,
        nodes: Sequence[str],
        run: RunStarted,
        dag: bytes,
        mark: Callable[[], None],
        *,
        durable: bool,
    ) -> None:
        self._directory = directory
        self._digests = digests
        self._files = files
        self._nodes = nodes
        self._run = run
        self._dag = dag
        self._mark = mark
        self._durable = durable

    def refuse_foreign(self, old: Ledger | None) -> None:
        """Refuse to write over files that the journal does not know.

        Only a journal is asked that is whole up to the end of a run, on a machine that was not started again since: any
        other may have forgotten what it knew.

        Raises:
            ForeignFilesError: A node would write over one.
        """
        if old is None or old.ended is None or old.damage or old.valid_size != old.size:
            return
        if old.run.boot != self._run.boot:
            return
        # Nearly all are the plain files of commits. (What has a % may be the plain file of another name.)
        known, special, end = old.commits.names, old.commits.special, -len(SUFFIX)
        unknown = {
            file for file in self._files.present if (name := file[:end]) not in known or name in special or "%" in name
        }
        if unknown and (unknown := unknown - old.files):
            names = FileNames(self._nodes)
            foreign = unknown.intersection(map(names.file_name, self._nodes))
            if foreign:
                raise ForeignFilesError(str(self._directory.path), sorted(foreign))

    def fresh(self, old: Ledger | None) -> JournalWriter:
        """Replace the journal by that of a new checkpoint, and return it.

        On crash:
            The old checkpoint or the new, empty one.
        """
        owned = old.files & self._files.present if old is not None else set()
        said: list[Said] = [replaced(self._run, owns=tuple(sorted(owned)))]
        if self._dag:
            said.append(self._dag)
        self._mark()
        journal = JournalWriter.begin(self._directory, self._digests, said, durable=self._durable)
        self._files.names = FileNames(self._nodes)
        self._files.note_left_over(owned)
        return journal

    def again(self, journal: JournalWriter, copies: CopyWriter, sizes: Mapping[str, int]) -> None:
        """Recover the checkpoint and begin a run that goes on from it.

        Args:
            journal: That of the checkpoint, opened and not written to.
            copies: Takes the copies that are missing.
            sizes: What the directory has, by name.

        On crash:
            The old checkpoint, which the next run recovers as this one did.
        """
        old = journal.ledger
        _warn_of_damage(old, self._directory)
        self._files.names = _file_names(self._nodes, old)
        here = frozenset(self._nodes)
        absent = tuple(name for name in (*old.commits, *old.dropped, *old.failures) if name not in here)
        # A run that was killed may have left records without their sync, or ended because that failed. No file may get
        # its name before its record, and nothing may be restored that is not on the disk.
        if self._durable and old.ended is None:
            journal.renew(old.run_offset)
        journal.sync()
        restarted = old.run.boot != self._run.boot
        recovery = Recovery(self._directory, self._files, self._digests, sizes, restarted=restarted)
        recovery.look(old)
        for copy in recovery.missing:
            copies.add(copy)
        self._files.note_left_over(old.owned & self._files.present)
        # Both before the record that lets the next look, after a kill in here, be less thorough than this one.
        if recovery.lost:
            journal.say(Invalidated(time.time(), tuple(sorted(recovery.lost)), "the result is lost", lost=True))
        if restarted:
            copies.write_all()
        said: list[Said] = []
        if self._dag and digest_of(old.recorded).hex() != self._run.dag:
            said.append(self._dag)
        # Still the old structure and definitions: the new ones count once `reconcile` has said what becomes of commits.
        run = replaced(self._run, fresh=False, structure=old.structure, definitions=old.definitions, absent=absent)
        self._mark()
        journal.say(*said, run)
        if self._durable:
            # What a run without syncs, or one that was killed before its sync, has named.
            self._directory.sync()


def _warn_of_damage(ledger: Ledger, directory: Directory) -> None:
    for damage in ledger.damage:
        logger.warning("%s: %s; the nodes recorded there run again", directory.path_to(JOURNAL), damage.what)


def _file_names(nodes: Sequence[str], old: Ledger) -> FileNames:
    # A file in lower case that is plain needs no mention.
    recorded = {
        name: known.file_of(name)
        for known in (old.stale, old.dropped, old.commits)
        for name in known
        if name in known.special or name != name.lower()
    }
    return FileNames(dict.fromkeys(chain(nodes, old.stale, old.dropped, old.commits)), recorded)
