"""A checkpoint made smaller: a resume keeps and repeats what it would have without, and what is dropped is gone.

The code relied on is `Pruning`: which records stay, and the numbers that they get.
"""

import errno
import itertools
import json
import os
import random
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from disk import stand_in
from hypothesis import given, settings
from hypothesis import strategies as st
from written import Life, names, operations

import dagron
from dagron import DAG, CheckpointExecutor, ExecutionCallbacks
from dagron.checkpoint.blobs import load_result
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.scratch import make_scratch
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.names import JOURNAL, META, scratch_name
from dagron.checkpoint.format.records import Failed, Origin, RunStarted
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.reading.history import read_history
from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.reading.opening import printed_by, read_ledger, read_on, retried_of
from dagron.checkpoint.writing.pruning import Pruning
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.cli.verbs.prune import _shown
from dagron.frozen import replaced


def prune(path, nodes=None):
    return with_store(path, lambda store: store.prune(nodes, even_all=True))


def with_store(path, act):
    store = CheckpointStore(path, durability="process")
    try:
        store.open()
        return act(store)
    finally:
        store.close()


# --- what a ledger means ----------------------------------------------------------------------------------------------


def meaning(path, nodes):
    """All that a checkpoint says about these nodes, without the numbers and places of its records."""
    directory = Directory(path)
    ledger = read_ledger(directory)
    recorded = {
        kind: {name: commit for name, commit in getattr(ledger, kind).items() if name in nodes}
        for kind in ("commits", "stale", "lost", "dropped")
    }
    # What is left of a result that was dropped is not said: a pruning takes its bytes out of the journal.
    gone = recorded["dropped"]
    gone.update({name: commit._replace(storage=Storage.FILE, temp_name="") for name, commit in gone.items()})
    every = {(kind, name): commit for kind, found in recorded.items() for name, commit in found.items()}
    plain = {key: commit._replace(since=0, sequence=0, payload_offset=0) for key, commit in every.items()}
    last_run = [record.sequence for record in records(directory) if record.kind == RunStarted.kind][-1]
    present = set(os.listdir(path))
    there = ("commits", "stale")
    return {
        **plain,
        "order": list(recorded["commits"]),
        "values": {name: value_of(directory, commit) for (kind, name), commit in every.items() if kind in there},
        "was another one": {key: bool(commit.since) for key, commit in every.items()},
        "took another one": {
            (parent, child): every[parent].since > every[child].sequence for parent in every for child in every
        },
        "newer than": {(one, other): every[one].sequence > every[other].sequence for one in every for other in every},
        "lagging": {name: ledger.is_lagging(commit) for name, commit in recorded["commits"].items()},
        "failures": {name: failed for name, failed in ledger.failures.items() if name in nodes},
        "run": replaced(ledger.run, structure="", definitions=(), absent=(), owns=()),
        "ended": ledger.ended,
        "runs": ledger.n_runs,
        "processes": ledger.processes and (ledger.processes, ledger.namespace),
        "compared with": (ledger.structure, ledger.definitions, ledger.absent & set(nodes)),
        "dag": ledger.recorded,
        "printed": {
            name: printed_by(ledger, directory, name)
            for name, (_, sequence) in ledger.printed.items()
            if name in nodes and sequence > last_run
        },
        "retried": {
            name: retried_of(ledger, directory, name, Digests())
            for name, attempts in ledger.retried.items()
            if name in nodes and attempts[0][1] > last_run
        },
        "waits for its node": {
            file for name in ledger.stale if name in nodes and (file := ledger.stale.file_of(name)) in ledger.left_over
        }
        & present,
        "damage": ledger.damage,
        "failed in the last run": ledger.failed_in_run & set(nodes),
        "withdrawn since": ledger.withdrawn & set(nodes),
        "job": ledger.origin,
    }


PLACES = {"checkpoint_id", "run_offset", "sequence", "valid_size", "size", "updated_unix"}


def test_nothing_that_a_ledger_says_is_left_out_here():
    """Whoever adds a field says in `Pruning` how it stays, and above how that is seen."""
    seen = {"commits", "stale", "lost", "dropped", "failures", "run", "ended", "n_runs", "processes", "namespace"}
    seen |= {
        "structure",
        "definitions",
        "absent",
        "recorded",
        "printed",
        "retried",
        "damage",
        "failed_in_run",
        "withdrawn",
        "origin",
    }
    seen |= {"lagging_from"}  # as "lagging"
    seen |= {"owned", "removed"}  # as "waits for its node", and by the files that are there
    seen |= {"cleared"}  # there is no checkpoint then
    assert set(vars(Ledger(b""))) == seen | PLACES


def records(directory):
    found = []
    read_ledger(directory, on_record=found.append)
    return found


def value_of(directory, commit):
    try:
        return bytes(load_result(directory, commit, Digests()))
    except dagron.CheckpointDamagedError:
        return None


class TestWhatStays:
    @settings(deadline=None, max_examples=60)
    @given(st.lists(operations, max_size=10), st.sets(names), st.booleans(), st.sets(names))
    def test_all_that_is_said_of_the_nodes_of_the_dag(self, steps, nodes, ends, withdrawn):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "ckpt"
            life = Life(path)
            try:
                for step in steps:
                    life.do(*step)
                if ends:
                    life.store.end()
            finally:
                life.store.close()
            if ends and withdrawn:
                life.store.open()
                life.store.invalidate_between_runs(sorted(withdrawn), "by hand")
                life.store.close()
            # Files of results that nothing says, as a run leaves them that is killed.
            (path / "_dagron-0000000000000000.tmp").write_bytes(b"half a result")
            before, ours = meaning(path, nodes), read_ledger(Directory(path)).files
            size = (path / JOURNAL).stat().st_size
            kept_files = {name: (path / name).read_bytes() for name in os.listdir(path) if name.endswith(".pkl")}
            foreseen = Pruning(Directory(path), None, nodes).report
            report = prune(path, nodes)
            for field in ("nodes", "outputs", "files", "files_bytes"):
                assert getattr(report, field) == getattr(foreseen, field), field
            after = meaning(path, nodes)
            assert after == before
            ledger = read_ledger(Directory(path))
            assert (path / JOURNAL).stat().st_size == report.journal_bytes_left == size - report.journal_bytes
            if report.freed_bytes:
                assert not {*ledger.commits, *ledger.stale, *ledger.lost, *ledger.failures} - nodes
            left = {name for name in os.listdir(path) if name.endswith(".pkl")}
            assert left == kept_files.keys() - set(report.files)
            assert {name: (path / name).read_bytes() for name in left} == {name: kept_files[name] for name in left}
            assert set(report.files) <= ours | {"_dagron-0000000000000000.tmp"}
            assert prune(path, nodes).freed_bytes == 0

    def test_the_runs_with_what_each_has_made(self, tmp_path):
        for _ in range(3):
            CheckpointExecutor(DAG(list("abc")), tmp_path, pool="inline").resume(
                {name: fails if name == "c" else int for name in "abc"}
            )
        before = read_history(Directory(tmp_path))
        assert CheckpointExecutor(DAG(list("abc")), tmp_path).prune_checkpoint().freed_bytes > 0
        after = read_history(Directory(tmp_path))
        assert [run.started.at for run in after.runs] == [run.started.at for run in before.runs]
        assert [run.ended for run in after.runs] == [run.ended for run in before.runs]
        assert [run.started.slots for run in after.runs] == [run.started.slots for run in before.runs]
        assert [[commit.name for commit in run.commits] for run in after.runs] == [["a", "b"], [], []]
        assert [[failed.name for failed in run.failures] for run in after.runs] == [[], [], ["c"]]
        assert after.ledger.updated_unix >= before.ledger.updated_unix


def fails():
    raise ValueError


# --- what a resume makes of it ----------------------------------------------------------------------------------------

LARGE = bytes(range(256)) * 100


class History:
    """Drawn runs on one directory: DAGs that change, nodes that fail or give something else, kills, invalidations."""

    def __init__(self, seed, path):
        self.random = random.Random(seed)
        self.path = path
        self.ran = []
        self.versions = dict.fromkeys("abcdefg", 0)

    def dag(self, among="abcdefg"):
        names = [name for name in among if self.random.random() < 0.8] or [among[0]]
        pairs = itertools.combinations(names, 2)
        builder = DAG.builder().add_nodes(names)
        for pair in pairs:
            if self.random.random() < 0.35:
                builder.add_edge(*pair)
        return builder.build()

    def tasks(self, dag, failing):
        def task(name, version):
            def run(*parents):
                self.ran.append(name)
                if name in failing:
                    raise ValueError(name)
                made = f"{name}{version}({','.join(str(parent)[:9] for parent in parents)})"
                return (made, LARGE) if name in "bdf" else made

            return run

        return {name: task(name, self.versions[name]) for name in dag.nodes}

    def run(self, dag, path, failing=(), callbacks=None, fail_fast=True):
        options = {"pool": "inline", "durability": "process", "callbacks": callbacks, "fail_fast": fail_fast}
        self.ran.clear()
        return CheckpointExecutor(dag, path, **options).resume(self.tasks(dag, failing))

    def live(self, n):
        for _ in range(n):
            dag = self.dag()
            self.some(self.versions, 0.3, lambda name: self.versions.update({name: self.versions[name] + 1}))
            self.step(dag)
        return dag

    def some(self, names, chance, act):
        for name in names:
            if self.random.random() < chance:
                act(name)

    def step(self, dag):
        failing = {name for name in dag.nodes if self.random.random() < 0.2}
        killed_after = self.random.choice([None, None, 1, 3])
        saved = self.path.with_name("killed")
        n = itertools.count(1)

        def on_complete(*_):
            if next(n) == killed_after:
                shutil.copytree(self.path, saved)  # what a kill leaves now

        callbacks = ExecutionCallbacks(on_complete=on_complete) if killed_after else None
        self.run(dag, self.path, failing, callbacks, fail_fast=self.random.random() < 0.5)
        if saved.exists():
            shutil.rmtree(self.path)
            saved.rename(self.path)
        if self.random.random() < 0.4:
            store = CheckpointStore(self.path, durability="process")
            store.open()
            chosen = [name for name in store.ledger.commits if self.random.random() < 0.3]
            store.invalidate_between_runs(chosen, "by hand")
            store.close()


@pytest.mark.parametrize("seed", range(10))
def test_a_resume_does_the_same_with_a_checkpoint_that_was_pruned_and_with_one_that_was_not(seed, tmp_path):
    history = History(seed, tmp_path / "ckpt")
    dag = history.live(5)
    pruned = tmp_path / "pruned"
    seen = []
    for n in range(3):
        shutil.rmtree(pruned, ignore_errors=True)
        shutil.copytree(history.path, pruned)
        report = CheckpointExecutor(dag, pruned, durability="process").prune_checkpoint()
        seen.append(report.freed_bytes)
        if n:
            dag = history.dag("".join(dag.nodes))  # fewer nodes, and other edges
        history.versions["abcdefg"[n]] += 1
        failing = {name for name in dag.nodes if history.random.random() < 0.1}
        ended = []
        for path in (history.path, pruned):
            result = history.run(dag, path, failing)
            figures = [(node.name, node.status, node.restored, node.attempts) for node in result.node_results.values()]
            values = {name: result[name].result for name in dag.nodes}
            ended.append((figures, values, list(history.ran)))
        assert ended[0] == ended[1]
        assert read_ledger(Directory(history.path)).completed == read_ledger(Directory(pruned)).completed
        # It goes on with the pruned one, too: what is pruned twice was not pruned wrongly the first time.
        shutil.rmtree(history.path)
        shutil.copytree(pruned, history.path)
        history.step(dag)
    assert max(seen) > 0


# --- what is refused, and what is left alone --------------------------------------------------------------------------


@pytest.fixture
def used(tmp_path):
    """A checkpoint with a node that has left the DAG, small and large."""
    path = tmp_path / "ckpt"
    options = {"pool": "inline", "durability": "process"}
    first = DAG(["a", "b", "gone", "large and gone"])
    tasks = {"a": lambda: 1, "b": lambda: LARGE, "gone": lambda: 2, "large and gone": lambda: LARGE}
    CheckpointExecutor(first, path, **options).resume(tasks)
    CheckpointExecutor(DAG(["a", "b"]), path, **options).resume({"a": tasks["a"], "b": tasks["b"]})
    return path


def again(path):
    """What a resume has and what it runs."""
    ran = []
    options = {"pool": "inline", "durability": "process"}
    executor = CheckpointExecutor(DAG(["a", "b"]), path, **options)
    result = executor.resume({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")})
    return result["a"].result, result["b"].result, ran


def test_results_of_nodes_that_have_left_the_dag_go_with_their_files(used):
    (used / "theirs.txt").write_text("theirs")
    report = prune(used)
    assert report.nodes == ["gone", "large and gone"]
    assert report.files == ["gone.pkl", "large and gone.pkl"]
    assert report.files_bytes > len(LARGE)
    assert {name for name in os.listdir(used) if name[0] != "_"} == {"a.pkl", "b.pkl", "theirs.txt"}
    assert again(used) == (1, LARGE, [])
    assert json.loads((used / META).read_text())["completed_nodes"] == ["a", "b"]


def test_a_dry_run_says_it_and_changes_nothing_also_beside_a_run(used):
    before = {name: (used / name).read_bytes() for name in os.listdir(used)}
    executor = CheckpointExecutor(DAG(["a", "b"]), used)
    holder = CheckpointStore(used)
    holder.open()
    try:
        foreseen = executor.prune_checkpoint(dry_run=True)
        with pytest.raises(dagron.CheckpointLockedError):
            executor.prune_checkpoint()
    finally:
        holder.close()
    assert {name: (used / name).read_bytes() for name in os.listdir(used)} == before
    assert foreseen.nodes == executor.prune_checkpoint().nodes == ["gone", "large and gone"]
    assert executor.prune_checkpoint().freed_bytes == 0


def test_without_a_checkpoint_there_is_nothing_to_prune_and_nothing_is_made(tmp_path):
    executor = CheckpointExecutor(DAG(["a"]), tmp_path / "none")
    assert executor.prune_checkpoint() is executor.prune_checkpoint(dry_run=True) is None
    assert not (tmp_path / "none").exists()


def test_a_damaged_journal_is_refused_as_a_resume_has_to_know_of_the_damage(used):
    journal = used / JOURNAL
    data = bytearray(journal.read_bytes())
    at = data.index(b"gone")
    data[at] ^= 1
    journal.write_bytes(data)
    with pytest.raises(dagron.CheckpointDamagedError, match="a resume has to know of; nothing was pruned"):
        prune(used, ["a", "b"])
    assert journal.read_bytes() == data


def test_a_small_result_whose_place_in_the_journal_is_damaged_is_taken_from_its_file(used):
    journal = used / JOURNAL
    commit = read_ledger(Directory(used)).commits["a"]
    data = bytearray(journal.read_bytes())
    data[commit.payload_offset] ^= 1
    journal.write_bytes(data)
    prune(used)
    (used / "a.pkl").unlink()
    assert again(used) == (1, LARGE, [])


def test_a_large_result_whose_rename_was_cut_short_stays_under_its_temporary_name(used):
    commit = read_ledger(Directory(used)).commits["b"]
    (used / "b.pkl").rename(used / commit.temp_name)
    (used / "_dagron-0000000000000000.tmp").write_bytes(b"half a result")
    assert prune(used).files == ["_dagron-0000000000000000.tmp", "gone.pkl", "large and gone.pkl"]
    assert again(used) == (1, LARGE, [])


@pytest.mark.parametrize("call", ["write", "replace", "unlink", "fsync of the directory"])
def test_a_disk_that_refuses_is_told_with_how_the_checkpoint_stands(used, monkeypatch, call):
    class Refusing:
        def __getattr__(self, name):
            real = getattr(os, name)
            if name != call.split()[0]:
                return real

            def refusing(*arguments, **keywords):
                if call != "fsync of the directory" or stat.S_ISDIR(os.fstat(arguments[0]).st_mode):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*arguments, **keywords)

            return refusing

    with monkeypatch.context() as patched:
        store = CheckpointStore(used, durability="power")
        store.open()
        stand_in(patched, Refusing())
        with pytest.raises(dagron.PruneError, match="No space left") as caught:
            store.prune()
        store.close()
    renamed = call in ("unlink", "fsync of the directory")
    assert ("its journal is pruned" if renamed else "it is as it was") in str(caught.value)
    assert ("gone" in read_ledger(Directory(used)).commits) is not renamed
    assert again(used) == (1, LARGE, [])
    prune(used)
    assert {name for name in os.listdir(used) if name[0] != "_"} == {"a.pkl", "b.pkl"}


def test_what_is_put_in_the_place_of_a_file_that_was_dropped_stays(used):
    prune(used)
    (used / "gone.pkl").write_bytes(b"somebody's")
    again(used)
    prune(used, ["a"])
    assert (used / "gone.pkl").read_bytes() == b"somebody's"


def scratch_of(path, node):
    made = Path(make_scratch(path, scratch_name(node), "0" * 32))
    (made / "so far").write_bytes(b"x" * 5000)
    return made.parent


def test_what_nodes_have_kept_for_themselves_goes_with_them_and_nobody_elses(used):
    gone, left = scratch_of(used, "gone"), scratch_of(used, "b")
    (left.parent / "theirs").mkdir()
    with_store(used, lambda store: store.invalidate_between_runs(["b"], "by hand"))  # so its next attempt is to go on
    foreseen = CheckpointExecutor(DAG(["a", "b"]), used).prune_checkpoint(dry_run=True)
    assert gone.exists()
    report = prune(used)
    assert foreseen.scratches == report.scratches == 1
    assert report.files_bytes > 5000 + len(LARGE)
    assert sorted(os.listdir(left.parent)) == sorted([left.name, "theirs"])
    assert (left / ("0" * 32) / "so far").exists()
    assert prune(used).freed_bytes == 0


def test_a_scratch_directory_alone_is_worth_a_pruning(used):
    prune(used)
    folder = scratch_of(used, "gone").parent
    assert "1 scratch directories" in _shown(prune(used), "were dropped")
    assert not folder.exists()


def test_the_dag_of_another_job_drops_nothing_unless_that_is_said(used):
    before = {name: (used / name).read_bytes() for name in os.listdir(used)}
    other = CheckpointExecutor(DAG(["x", "y"]), used)
    assert other.prune_checkpoint(dry_run=True).nodes == ["a", "b", "gone", "large and gone"]
    with pytest.raises(dagron.OtherDagError, match=r"none of the 4 node\(s\).*even_all=True") as caught:
        other.prune_checkpoint()
    assert caught.value.nodes == ["a", "b", "gone", "large and gone"]
    assert {name: (used / name).read_bytes() for name in os.listdir(used)} == before
    assert other.prune_checkpoint(even_all=True).nodes == ["a", "b", "gone", "large and gone"]
    assert other.prune_checkpoint() is not None, "it has no nodes any more, and nothing to lose"


def test_whoever_reads_along_begins_anew(used):
    directory = Directory(used)
    reader = read_ledger(directory)
    prune(used)
    again(used)
    # Longer than what was read, so that its size does not give it away.
    while (used / JOURNAL).stat().st_size <= reader.valid_size:
        again(used)
    found, expected = read_on(reader, directory), read_ledger(directory)
    assert list(found.commits) == list(expected.commits) == ["a", "b"]
    assert (found.sequence, found.damage) == (expected.sequence, [])


def test_with_a_signing_key_all_is_signed_again(tmp_path):
    options = {"pool": "inline", "durability": "process", "signing_key": b"a key"}
    CheckpointExecutor(DAG(["a", "b"]), tmp_path, **options).resume({"a": lambda: 1, "b": lambda: LARGE})
    executor = CheckpointExecutor(DAG(["a"]), tmp_path, **options)
    assert executor.prune_checkpoint().nodes == ["b"]
    assert executor.resume({"a": fails})["a"].result == 1
    with pytest.raises(dagron.CheckpointDamagedError, match="no signing key"):
        CheckpointExecutor(DAG(["a"]), tmp_path).checkpoint_info()


def test_the_job_the_definitions_and_what_a_cancelled_run_had_not_reached_stay(tmp_path):
    def run(structure, *, end=None, **said):
        store = CheckpointStore(tmp_path, durability="process")
        store.open()
        store.begin(fresh=False, nodes=["a", "b"], structure=structure, **said)
        if structure[0]:
            store.reconcile([], [], structure, said["definitions"])
        store.fail([Failed("gone", message="m" * 300)])
        if end is not None:
            store.end(**end)
        store.close()
        return read_ledger(Directory(tmp_path))

    job = Origin(file="job.py", path="/home/me/job.py", arguments=("--n", "3"), parameters=(("n", "3"),))
    run(bytes(32), origin=job, definitions=(("A", "1"),), versions=(("python", "3"),), end={})
    before = run(bytes([1]) * 32, definitions=(("A", "2"),), versions=(("python", "4"),), end={"unreached": ["b"]})
    assert prune(tmp_path, ["a", "b"]).nodes == ["gone"]
    after = read_ledger(Directory(tmp_path))
    assert after.origin == before.origin == job
    # With these the commits were compared, and not with those that the record of the run has.
    assert after.definitions == before.definitions == (("A", "2"),)
    assert before.run.definitions == (("A", "1"),)
    assert (after.structure, after.run.dag) == (before.structure, before.run.dag)
    assert after.run.versions == (("python", "4"),)
    assert after.ended == before.ended
    assert after.ended.unreached == ("b",)
