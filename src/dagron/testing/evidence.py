"""What is known after a kill, and what must be true of it. Starts nothing, kills nothing, unpickles nothing.

The evidence has two independent sources: the lines that tasks left in a log when they started and ended (`read_notes`),
and the checkpoint, looked at before a run and after its death (`look`). Each check compares the two and returns what
contradicts a promise, with the nodes and the counts.

What one kill may cost follows from how work travels. A slot has at most `MAX_BATCHES` batches, and a batch is
committed when all of it has returned. A slot is given its next batches before those that have returned are committed.
So for each worker

*   at most one attempt has begun and not ended;
*   what is lost is the end of what it ran: results return in order, so nothing before a committed node is lost;
*   at most `2 * MAX_BATCHES` nodes are lost of those that always make a batch of their own, because they are known to
    take longer than a batch should.

As a rule the first of these is all that is lost: the report of a campaign has the median. It is no check, because a
kill between the end of an attempt and the append to the journal costs that attempt, too, and a disk may take its time.
How many short nodes a batch had is not visible from outside, so there is no check of their number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dagron.checkpoint.blobs import blob_file, read_blob
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.opened import is_temporary
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.names import JOURNAL, LOCK, META
from dagron.checkpoint.reading.opening import read_ledger
from dagron.engines.local.board import MAX_BATCHES
from dagron.errors import CheckpointDamagedError, DagronError
from dagron.testing.job import LONG

__all__ = [
    "Clearing",
    "Finding",
    "Look",
    "Lost",
    "Notes",
    "check_cleared",
    "check_finished",
    "check_foreign",
    "check_killed_clear",
    "check_outcome",
    "check_run",
    "look",
    "lost_in",
    "read_notes",
]

_MAX_NAMED = 5
"""Nodes that a finding names; the others are counted."""


class Finding(NamedTuple):
    """Something that contradicts a promise.

    Attributes:
        check: Which promise.
        evidence: What was found, with nodes and counts.
    """

    check: str
    evidence: str


@dataclass(slots=True)
class Notes:
    """What the tasks of one run left in its log.

    Attributes:
        started: For each worker, by process id, the nodes that it started, in order.
        ended: The nodes whose task returned.
        processes: Process id, and time in seconds since the epoch, of processes that were started by tasks.
    """

    started: dict[int, list[str]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    processes: list[tuple[int, float]] = field(default_factory=list)

    def starts(self) -> Counter[str]:
        """Return how often each node was started."""
        return Counter(node for nodes in self.started.values() for node in nodes)


def read_notes(log: Path) -> Notes:
    """Return what the tasks of a run have left in its log; a log that is not there is empty."""
    notes = Notes()
    try:
        lines = log.read_bytes().splitlines()
    except FileNotFoundError:
        return notes
    for line in lines:
        try:
            what, pid, value = json.loads(line)
        except ValueError:
            continue  # empty, or torn by the kill: a task that could not note its start was not called
        if what == "start":
            notes.started.setdefault(pid, []).append(value)
        elif what == "end":
            notes.ended.add(value)
        else:
            notes.processes.append((pid, value))
    return notes


@dataclass(frozen=True, slots=True)
class Look:
    """A checkpoint as a reader finds it.

    Attributes:
        checkpoint_id: Which checkpoint; empty if there is none.
        commits: The completed nodes, in the order of their commits.
        cleared: It is being deleted.
        problem: Why it cannot be read, or what in it is damaged; empty if all is well.
    """

    checkpoint_id: bytes = b""
    commits: Mapping[str, Commit] = field(default_factory=dict)
    cleared: bool = False
    problem: str = ""

    @property
    def is_there(self) -> bool:
        """Whether there is a checkpoint that a resume goes on from."""
        return bool(self.checkpoint_id) and not self.cleared


def look(directory: Path) -> Look:
    """Return what a checkpoint holds now. Raises nothing that is its fault."""
    try:
        ledger = read_ledger(Directory(directory))
    except DagronError as error:
        return Look(problem=repr(error))
    if ledger is None:
        return Look()
    problem = f"damaged: {ledger.damage}" if ledger.damage else ""
    return Look(ledger.checkpoint_id, dict(ledger.commits), ledger.cleared, problem)


# --- a run -----------------------------------------------------------------------------------------------------------


class Lost(NamedTuple):
    """What a kill cost: attempts that had begun and are not committed.

    Attributes:
        running: Those that had not ended.
        ended: Those that had, and whose result had not arrived.
    """

    running: tuple[str, ...]
    ended: tuple[str, ...]


def lost_in(notes: Notes, after: Look) -> Lost:
    """Return which attempts of a run are not in the checkpoint."""
    lost = [node for nodes in notes.started.values() for node in nodes if node not in after.commits]
    running = tuple(node for node in lost if node not in notes.ended)
    return Lost(running, tuple(node for node in lost if node in notes.ended))


def check_run(how: str, before: Look, after: Look, notes: Notes, n_slots: int) -> list[Finding]:
    """Compare a run, killed or not, with the checkpoint before and after it.

    Args:
        how: `"execute"` or `"resume"`.
        before: The checkpoint when it was started.
        after: The checkpoint after it.
        notes: What its tasks noted.
        n_slots: How many workers it had.
    """
    if after.problem:
        return [Finding("the checkpoint can be read", after.problem)]
    findings = []
    # A fresh run supersedes the old checkpoint in one step. Until then it is there in full, and nothing has started.
    same = before.is_there and before.checkpoint_id == after.checkpoint_id
    kept = before.commits if same else {}
    if how == "resume" and before.is_there and not same:
        text = f"{len(before.commits)} nodes were recorded; after a resume there is another checkpoint, or none"
        findings.append(Finding("nothing recorded is lost", text))
    findings += _check_commits(kept, after, notes)
    findings += _check_starts(kept, notes)
    findings += _check_lost(after, notes, n_slots)
    return findings


def _check_commits(kept: Mapping[str, Commit], after: Look, notes: Notes) -> list[Finding]:
    findings = []
    gone = [node for node in kept if node not in after.commits]
    if gone:
        findings.append(Finding("nothing recorded is lost", f"recorded before, and not after: {_named(gone)}"))
    changed = [node for node in kept if node in after.commits and after.commits[node].digest != kept[node].digest]
    if changed:
        findings.append(Finding("nothing recorded is changed", f"another result than before: {_named(changed)}"))
    unfounded = [node for node in after.commits if node not in kept and node not in notes.ended]
    if unfounded:
        text = f"recorded, although the task had not returned: {_named(unfounded)}"
        findings.append(Finding("only what ended is recorded", text))
    return findings


def _check_starts(kept: Mapping[str, Commit], notes: Notes) -> list[Finding]:
    findings = []
    starts = notes.starts()
    again = {node: n for node, n in starts.items() if node in kept}
    if again:
        text = f"recorded before the run, and started in it, so many times: {_counted(again)}"
        findings.append(Finding("nothing recorded is ever redone", text))
    twice = {node: n for node, n in starts.items() if n > 1}
    if twice:
        text = f"started more than once in one run: {_counted(twice)}"
        findings.append(Finding("a run starts a node once", text))
    return findings


def _check_lost(after: Look, notes: Notes, n_slots: int) -> list[Finding]:
    findings = []
    if len(notes.started) > n_slots:
        text = f"{len(notes.started)} workers in {n_slots} slots, although none had died"
        findings.append(Finding("a slot has one worker", text))
    for pid, nodes in notes.started.items():
        lost = [node for node in nodes if node not in after.commits]
        running = [node for node in lost if node not in notes.ended]
        if len(running) > 1:
            text = f"worker {pid} had begun {len(running)} and ended none of them: {_named(running)}"
            findings.append(Finding("a kill costs one attempt a slot", text))
        if lost != nodes[len(nodes) - len(lost) :]:
            text = f"worker {pid} ran {len(nodes)}, and lost, before others that are recorded: {_named(lost)}"
            findings.append(Finding("a kill costs the last attempts only", text))
        long = [node for node in lost if node.startswith(LONG)]
        if len(long) > 2 * MAX_BATCHES:
            text = f"worker {pid} lost {len(long)} attempts that had a batch of their own: {_named(long)}"
            findings.append(Finding("a kill costs what is on its way only", text))
    return findings


def check_outcome(outcome: Mapping[str, Any], expected_end: str, n_restored: int) -> list[Finding]:
    """Check what a run that was not killed says of itself.

    Args:
        outcome: What its coordinator said at the end.
        expected_end: The result of its last node, from the report of an undisturbed run.
        n_restored: How many nodes were recorded when it started.
    """
    if outcome.get("error"):
        return [Finding("it resumes", str(outcome["error"]))]
    findings = []
    if outcome["end"] != expected_end:
        text = f"it ends with {outcome['end'][-120:]!r} instead of {expected_end[-120:]!r}"
        findings.append(Finding("the report is the same", text))
    if outcome["restored"] != n_restored:
        text = f"{n_restored} nodes were recorded, {outcome['restored']} were restored"
        findings.append(Finding("what is recorded is restored", text))
    if outcome["warnings"]:
        findings.append(Finding("a kill leaves nothing to warn of", f"the run warned: {outcome['warnings'][:3]}"))
    return findings


def check_finished(
    directory: Path, after: Look, foreign: Mapping[str, bytes], n_nodes: int, *, temporary: bool = False
) -> list[Finding]:
    """Check the directory of a checkpoint whose run was not killed: everything is in it, and nothing else.

    Args:
        directory: The directory.
        after: What the checkpoint holds.
        foreign: What others have put there.
        n_nodes: How many nodes it has to hold.
        temporary: Whether there may be temporary files. A worker of a coordinator that was killed lives on for a
            moment; if the next run looks for leftovers before that has passed, they are left to the run after that.
    """
    findings = []
    n_recorded = len(after.commits) if after.is_there else 0
    if n_recorded != n_nodes:
        findings.append(Finding("all nodes are recorded", f"{n_recorded} of {n_nodes} are"))
    digests = Digests()
    harmed = [name for name, commit in after.commits.items() if not _is_whole(directory, commit, digests)]
    if harmed:
        text = f"{len(harmed)} are missing or hold something else: {_named(harmed)}"
        findings.append(Finding("each node's file has its result", text))
    ours = {JOURNAL, META, LOCK, *(commit.file_name for commit in after.commits.values())}
    return findings + _check_entries(directory, ours, foreign, temporary=temporary) + check_foreign(directory, foreign)


def _is_whole(directory: Path, commit: Commit, digests: Digests) -> bool:
    try:
        read_blob(directory, blob_file(commit), digests)
    except CheckpointDamagedError:
        return False
    return True


# --- clearing --------------------------------------------------------------------------------------------------------


class Clearing:
    """How far a `clear_checkpoint()` was when it was killed."""

    AS_IT_WAS = "as it was"
    HALF = "half deleted"
    GONE = "gone"


def check_killed_clear(
    directory: Path, before: Look, after: Look, foreign: Mapping[str, bytes]
) -> tuple[str, list[Finding]]:
    """Compare a checkpoint with what a killed `clear_checkpoint()` left; say how far that was, and what is wrong.

    Args:
        directory: The directory.
        before: The checkpoint, finished.
        after: What is left of it.
        foreign: What others have put there.
    """
    findings = []
    if after.problem:
        findings.append(Finding("the checkpoint can be read", after.problem))
    if after.is_there:
        if after.checkpoint_id != before.checkpoint_id or after.commits != before.commits:
            text = f"{len(before.commits)} nodes were recorded, {len(after.commits)} are"
            findings.append(Finding("a killed clear leaves all or nothing", text))
        findings += check_finished(directory, after, foreign, len(before.commits))
        return Clearing.AS_IT_WAS, findings
    if after.cleared or after.problem:
        ours = {JOURNAL, META, LOCK, *(commit.file_name for commit in before.commits.values())}
        findings += _check_entries(directory, ours, foreign) + check_foreign(directory, foreign)
        return Clearing.HALF, findings
    return Clearing.GONE, findings + check_cleared(directory, foreign)


def check_cleared(directory: Path, foreign: Mapping[str, bytes]) -> list[Finding]:
    """Check that a directory holds what others have put there, all of it, and nothing of ours but the lock file."""
    return _check_entries(directory, {LOCK}, foreign) + check_foreign(directory, foreign)


def check_foreign(directory: Path, foreign: Mapping[str, bytes]) -> list[Finding]:
    """Check that what others have put into the directory is there, as it was."""
    harmed = []
    for name, content in foreign.items():
        try:
            whole = (directory / name).read_bytes() == content
        except OSError:
            whole = False
        if not whole:
            harmed.append(name)
    return [Finding("it deletes only what it wrote", f"gone or changed: {_named(harmed)}")] if harmed else []


def _check_entries(
    directory: Path, ours: set[str], foreign: Mapping[str, bytes], *, temporary: bool = False
) -> list[Finding]:
    theirs = {name.partition("/")[0] for name in foreign}
    left = sorted(set(Directory(directory).names()) - ours - theirs)
    if temporary:
        left = [name for name in left if not is_temporary(name)]
    return [Finding("nothing is left over", f"in the directory: {_named(left)}")] if left else []


# --- words -----------------------------------------------------------------------------------------------------------


def _named(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"{', '.join(map(repr, names[:_MAX_NAMED]))}{more}"


def _counted(counts: Mapping[str, int]) -> str:
    return _named(f"{name} x {n}" for name, n in counts.items())
