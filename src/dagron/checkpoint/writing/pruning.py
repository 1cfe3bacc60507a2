"""A checkpoint made smaller: what no resume needs is dropped, and the journal is written anew without it.

What is dropped: results, failures and files of nodes that the DAG does not have; records that later ones supersede;
what tasks printed in runs before the last one; temporary files, and files of results that belong to no commit any more;
the scratch directories of nodes that the DAG does not have.
What stays: all that a resume goes by, which is what the ledger says, and a short record of each run, for the report.

The records that stay keep their order and get new numbers. What refers to the number of a record, `Commit.since` and
where copies lag, gets the number that stands in the same place between the records that stay: so whatever was older
than a record is so still.
"""

from __future__ import annotations

import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from dagron.checkpoint.blobs import blob_file, read_blob
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.opened import ReadFile, is_temporary
from dagron.checkpoint.files.scratch import remove_scratch, remove_scratch_folder, scratch_bytes, scratches
from dagron.checkpoint.format.commits import Commit, decode_commit, encode_commit
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.journal import HEADER_SIZE, RECORD_SIZE, Record, RecordWriter, encode_header, scan
from dagron.checkpoint.format.json_bodies import decode_event, encode_event
from dagron.checkpoint.format.names import JOURNAL, scratch_name
from dagron.checkpoint.format.records import (
    CopiesWritten,
    Dropped,
    Event,
    Failed,
    Invalidated,
    Kind,
    Pruned,
    RunEnded,
    RunStarted,
    WorkersStarted,
)
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.reading.opening import dag_of, read_ledger
from dagron.checkpoint.writing.journal import JournalWriter, refusal
from dagron.checkpoint.writing.snapshot import write_snapshot
from dagron.errors import CheckpointDamagedError, CheckpointError, OtherDagError, PruneError
from dagron.frozen import replaced

__all__ = ["PruneReport", "Pruning"]

_AS_IT_WAS = "it is as it was, and resume() goes on from it"
_UNREADABLE = "what is left of it cannot be read now"
_PRUNED = "its journal is pruned, and resume() goes on from it; files that are left over go with the next prune or run"

_WORTH_BYTES = 256
"""What frees less is not worth it: by so much the records of a pruning itself may differ, which have the time."""

_CHUNK_BYTES = 1 << 20
"""Bytes that are written at once. Never varied: more would take memory, less more system calls."""


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a pruning drops from a checkpoint, or would drop.

    Attributes:
        checkpoint_dir: The directory, absolute.
        nodes: The completed and failed nodes that have left the DAG, whose results and failures are dropped.
        outputs: Nodes of which the output, and attempts before the last one, are dropped because an earlier run than
            the last one made them.
        files: Files that are deleted, by name: those of these nodes, and what older runs have left.
        scratches: How many scratch directories are deleted: those of nodes that have left the DAG.
        files_bytes: The size of both.
        journal_bytes: How many bytes shorter the journal is; below 0 if it is longer, by the record of the pruning.
        journal_bytes_left: How many bytes the journal has afterwards.
    """

    checkpoint_dir: str
    nodes: list[str]
    outputs: list[str]
    files: list[str]
    scratches: int
    files_bytes: int
    journal_bytes: int
    journal_bytes_left: int

    @property
    def freed_bytes(self) -> int:
        """What it frees in all; 0 if there is nothing to drop, and nothing is done then."""
        return self.files_bytes + self.journal_bytes


class _Places:
    """Where the records stand of which the ledger keeps only what they say: by their numbers."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.ends: list[int] = []
        self.failed: dict[str, int] = {}
        self.dag = 0

    def __call__(self, record: Record) -> None:
        match record.kind:
            case Kind.RUN_STARTED:
                self.runs.append(record.sequence)
            case Kind.RUN_ENDED:
                self.ends.append(record.sequence)
            case Kind.DAG_RECORDED:
                self.dag = record.sequence
            case Kind.FAILED:
                event = decode_event(record.kind, record.body)
                assert isinstance(event, Failed)
                self.failed[event.name] = record.sequence


class Pruning:
    """What of a checkpoint no resume needs. Looking changes nothing and needs no lock; `carry_out` needs it.

    Args:
        directory: The checkpoint directory; there is a checkpoint in it.
        key: The signing key, or None.
        nodes: The names of the DAG. Default: those of the last run.

    Raises:
        CheckpointError: As `read_ledger`, or the journal has damage, of which a resume has to know.

    Attributes:
        report: What is dropped.
    """

    def __init__(self, directory: Directory, key: bytes | None, nodes: Collection[str] | None = None) -> None:
        self._directory = directory
        self._digests = Digests(key)
        self._key = key
        self._at = time.time()  # one for all that is said, so that the report has the size to the byte
        self._places = _Places()
        ledger = read_ledger(directory, key, self._places)
        assert ledger is not None, "there is no checkpoint"
        self._ledger = ledger
        if ledger.damage:
            # A resume takes nothing for granted then, and would not know of it afterwards.
            reason = f"{ledger.damage[0].what}, which a resume has to know of; nothing was pruned"
            raise CheckpointDamagedError(directory.path_to(JOURNAL), ledger.damage[0].offset, reason)
        self._nodes = self._nodes_of_dag() if nodes is None else nodes
        self._gone = self._nodes_gone()
        self._results_dropped = {ledger.dropped.sequence_of(name) for name in ledger.dropped}
        self._kept = self._records_kept()
        self._sizes = directory.sizes()
        self._waiting, self._dropped = self._files_dropped()
        self._scratches = self._scratches_dropped()
        self.report = self._report()

    # --- what is dropped ------------------------------------------------------------------------------------------

    def _nodes_of_dag(self) -> Collection[str] | None:
        """Return the nodes of the last run; None if that is not known."""
        dag = dag_of(self._ledger)
        return None if dag is None else dag[0]

    def _known(self) -> set[str]:
        ledger = self._ledger
        return {*ledger.commits, *ledger.stale, *ledger.lost, *ledger.dropped, *ledger.failures}

    def _nodes_gone(self) -> set[str]:
        known = self._known()
        return known & self._ledger.absent if self._nodes is None else known.difference(self._nodes)

    def _scratches_dropped(self) -> list[str]:
        found = scratches(self._directory.path)
        if not found or self._nodes is None:
            return []
        unfinished = (name for name in self._nodes if not self._ledger.completed_commit(name))
        return sorted(found.difference(map(scratch_name, unfinished)))

    def refuse_to_drop_all(self) -> None:
        """Refuse if the DAG has none of the nodes that the checkpoint knows.

        Raises:
            OtherDagError: It has none.
        """
        known = self._known()
        if known and known == self._gone:
            raise OtherDagError(str(self._directory.path), sorted(known))

    def _records_kept(self) -> array[int]:
        """Return the numbers of the records that stay, in order."""
        ledger, places, gone = self._ledger, self._places, self._gone
        numbers = {*places.runs, *places.ends, places.dag} - {0}
        for commits in (ledger.commits, ledger.stale, ledger.lost, ledger.dropped):
            numbers.update(commits.sequence_of(name) for name in commits if name not in gone)
        numbers.update(places.failed[name] for name in ledger.failures if name not in gone)
        last_run = places.runs[-1] if places.runs else 0
        numbers.update(number for name, (_, number) in ledger.printed.items() if number > last_run and name not in gone)
        for name, attempts in ledger.retried.items():
            numbers.update(number for _, number in attempts if number > last_run and name not in gone)
        return array("Q", sorted(numbers))

    def _files_dropped(self) -> tuple[set[str], set[str]]:
        """Return the files of results that no longer apply and wait for their nodes, and those that are dropped."""
        ledger, gone = self._ledger, self._gone
        commits, stale, present = ledger.commits.without(gone), ledger.stale.without(gone), self._sizes.keys()
        kept = commits.files()
        waiting = (stale.files() - ledger.removed - kept) & present
        of_gone = {known.file_of(name) for known in (ledger.commits, ledger.stale) for name in known if name in gone}
        # A name that a record has is that of a result whose rename was cut short.
        named = {known[name].temp_name for known in (commits, stale) for name in known.special}
        temporary = {name for name in present if is_temporary(name)} - named
        return waiting, ((ledger.owned | (of_gone - ledger.removed)) - kept - waiting | temporary) & present

    def _report(self) -> PruneReport:
        ledger, files = self._ledger, sorted(self._dropped)
        left = HEADER_SIZE
        for _, body, record in self._records():
            left += RECORD_SIZE + len(body) + (record.payload_size if record is not None else 0)
        # What is left of files is said once before they are deleted, and once after that.
        left += RECORD_SIZE + len(encode_event(self._said(())))
        spared, where = ledger.size - left, str(self._directory.path)
        n_bytes = sum(map(self._sizes.__getitem__, files))
        n_bytes += sum(scratch_bytes(self._directory.path, name) for name in self._scratches)
        if n_bytes + spared < _WORTH_BYTES:
            return PruneReport(where, [], [], [], 0, 0, 0, ledger.size)
        last_run = self._places.runs[-1] if self._places.runs else 0
        outputs = [name for name, (_, n) in ledger.printed.items() if n <= last_run and name not in self._gone]
        earlier = (name for name, attempts in ledger.retried.items() if attempts[0][1] <= last_run)
        outputs += [name for name in earlier if name not in self._gone and name not in ledger.printed]
        nodes = [name for name in (*ledger.commits, *ledger.dropped, *ledger.failures) if name in self._gone]
        return PruneReport(where, nodes, outputs, files, len(self._scratches), n_bytes, spared, left)

    # --- what stays -----------------------------------------------------------------------------------------------

    def _number(self, old: int) -> int:
        """Return the new number for an old one; for that of a dropped record, the number of what comes next."""
        return bisect_left(self._kept, old) + 1

    def _said(self, owns: Collection[str]) -> Pruned:
        named = {name for name in owns if not is_temporary(name)}  # whose names tell that they are ours
        return Pruned(self._at, tuple(sorted(named | self._waiting)))

    def _records(self) -> Iterator[tuple[int, bytes, Record | None]]:
        """Yield what the new journal says: kind, body, and the old record whose payload stays; None for no payload."""
        ledger, kept, size = self._ledger, iter(self._kept), self._ledger.valid_size
        wanted = next(kept, 0)
        with self._directory.open_to_read(JOURNAL) as file:
            for record in scan(file.read_at, size, ledger.checkpoint_id, self._digests):
                if isinstance(record, Record) and record.sequence == wanted:
                    if ledger.ended is not None and wanted == self._places.ends[-1]:
                        yield from self._encoded(self._outdated())  # before the end, as what follows it has a meaning
                    is_dropped = wanted in self._results_dropped
                    yield record.kind, self._body(record), record if record.payload_size and not is_dropped else None
                    wanted = next(kept, 0)
        yield from self._encoded(self._state())

    def _encoded(self, events: Iterator[Event]) -> Iterator[tuple[int, bytes, None]]:
        for event in events:
            yield int(event.kind), encode_event(event), None

    def _body(self, record: Record) -> bytes:
        if record.kind == Kind.COMMITTED:
            commit = decode_commit(record.body, record.payload_offset, record.sequence)
            changed = commit
            if commit.since:
                changed = commit._replace(since=self._number(commit.since))
            if record.sequence in self._results_dropped:
                # The payload goes, too: without it, it is as with a large result whose file is gone.
                changed = changed._replace(storage=Storage.FILE, temp_name="")
            return record.body if changed is commit else encode_commit(changed)
        elif record.kind in (Kind.RUN_STARTED, Kind.RUN_ENDED):
            event, is_last = decode_event(record.kind, record.body), record.sequence >= self._places.runs[-1]
            if isinstance(event, RunStarted):
                return encode_event(self._run(event, is_last=is_last))
            if isinstance(event, RunEnded) and not is_last:
                return encode_event(replaced(event, unreached=(), out_of_time=()))
        return record.body

    def _run(self, run: RunStarted, *, is_last: bool) -> RunStarted:
        """Return what stays of a run: of the last one, what has become of its commits meanwhile, too."""
        if not is_last:
            return replaced(run, boot="", dag="", structure="", owns=(), absent=(), definitions=())
        ledger = self._ledger
        absent = tuple(sorted(ledger.absent - self._gone))
        return replaced(
            run,
            structure=ledger.structure,
            owns=(),
            absent=absent,
            definitions=ledger.definitions,
            origin=ledger.origin,
        )

    def _outdated(self) -> Iterator[Event]:
        """Yield which of the commits that stay do not apply."""
        for commits, lost in ((self._ledger.lost, True), (self._ledger.stale, False)):
            yield from self._invalidated(commits, lost=lost)
        dropped = tuple(name for name in self._ledger.dropped if name not in self._gone)
        if dropped:
            yield Dropped(self._ledger.updated_unix, dropped)

    def _invalidated(self, names: Iterable[str], *, lost: bool = False) -> Iterator[Event]:
        left = tuple(name for name in names if name not in self._gone)
        if left:
            yield Invalidated(self._ledger.updated_unix, left, "it was so when the checkpoint was pruned", lost)

    def _state(self) -> Iterator[Event]:
        """Yield what else the ledger says that no single record does."""
        ledger, at = self._ledger, self._ledger.updated_unix
        if ledger.ended is not None:
            yield from self._invalidated(sorted(ledger.withdrawn))
        else:
            yield from self._outdated()
            yield CopiesWritten(at, self._number(ledger.lagging_from))
            if ledger.processes:
                yield WorkersStarted(at, tuple(ledger.processes.items()), ledger.namespace)
        yield self._said(self._dropped)

    # --- doing it -------------------------------------------------------------------------------------------------

    def carry_out(self, *, durable: bool) -> None:
        """Drop it. The directory is held, and nothing was written since this looked.

        Args:
            durable: Whether the order of the steps is to survive a loss of power, too.

        Raises:
            PruneError: The disk refused. The error says how the checkpoint stands.

        Guarantees:
            A resume does what it would have done: it keeps the same results and makes the same ones again.

        On crash:
            The old journal or the new one, which a rename replaces in one step. The new one knows the files that are to
            be deleted as ours, until they are; what is left of them goes with the next pruning or run.
        """
        if not self.report.freed_bytes:
            return
        directory = self._directory
        checkpoint_id = os.urandom(16)  # another one, so that whoever reads along begins anew
        try:
            directory.replace(JOURNAL, self._journal(checkpoint_id), durable=durable)
            directory.remove_all(sorted(self._dropped))
            for name in self._scratches:
                remove_scratch(directory.path, name)
            if self._scratches:
                remove_scratch_folder(directory.path)
            if durable:
                directory.sync()
            ledger = read_ledger(directory, self._key)
            assert ledger is not None
            journal = JournalWriter(directory, ledger, self._digests, durable=durable)
            try:
                # From here on, what stands under their names is somebody else's.
                journal.say(self._said(()))
            finally:
                journal.close()
            write_snapshot(directory, ledger)
        except OSError as error:
            raise PruneError(str(directory.path), refusal(error), self._how_it_stands(checkpoint_id)) from error

    def _how_it_stands(self, checkpoint_id: bytes) -> str:
        # Asked rather than concluded, as after a call that failed.
        try:
            found = read_ledger(self._directory, self._key)
        except CheckpointError:
            return _UNREADABLE
        return _PRUNED if found is not None and found.checkpoint_id == checkpoint_id else _AS_IT_WAS

    def _journal(self, checkpoint_id: bytes) -> Iterator[bytes]:
        writer = RecordWriter(checkpoint_id, self._digests)
        chunks, n = [encode_header(checkpoint_id, self._digests)], 0
        with self._directory.open_to_read(JOURNAL) as file:
            for kind, body, record in self._records():
                payload = b"" if record is None else self._payload(file, record)
                chunks += (writer.frame(kind, body, len(payload)), payload)
                n += len(body) + len(payload)
                if n > _CHUNK_BYTES:
                    yield b"".join(chunks)
                    chunks, n = [], 0
        yield b"".join(chunks)

    def _payload(self, file: ReadFile, record: Record) -> bytes:
        data = file.read_at(record.payload_offset, record.payload_size)
        commit = decode_commit(record.body, record.payload_offset, record.sequence)
        if self._digests.equal(self._digests.of(data), commit.digest):
            return data
        return self._from_copy(commit) or data

    def _from_copy(self, commit: Commit) -> bytes:
        """Return the bytes of a small result whose place in the journal is damaged; empty if its copy is, too."""
        try:
            return bytes(read_blob(self._directory.path, blob_file(commit), self._digests))
        except CheckpointDamagedError:
            return b""
