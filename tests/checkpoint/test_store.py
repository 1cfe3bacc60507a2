"""The checkpoint directory: what was committed is there again, whatever happened, and nothing else was touched."""

import errno
import json
import logging
import os
import pickle
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from blake3 import blake3
from disk import stand_in
from places import SRC

import dagron
from dagron import DAG, CheckpointExecutor
from dagron.checkpoint.blobs import BlobFile
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.opened import AppendFile, TempFile
from dagron.checkpoint.format.commits import Commit, encode_commit
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.journal import HEADER_SIZE, RecordWriter
from dagron.checkpoint.format.names import JOURNAL, LOCK, META
from dagron.checkpoint.format.records import Failed, Kind
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.reading.opening import read_ledger
from dagron.checkpoint.writing import copying, results, store
from dagron.checkpoint.writing.committing import PendingCommit
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.figures import Figures

OUR_OWN = {JOURNAL, LOCK, META}
FINGERPRINT = bytes(16)
STRUCTURE = bytes(range(16))
LARGE = bytes(range(256)) * 100


# --- doing what a run does ---------------------------------------------------------------------------------------


@pytest.fixture
def opened(ckpt):
    """Opens stores of one directory, one after another, and closes what is left open."""
    stores = []

    def open_store(path=ckpt, **options):
        made = CheckpointStore(path, **{"durability": "process", **options})
        stores.append(made)
        made.open()
        return made

    yield open_store
    for made in stores:
        made.close()


def digest(data, key=None):
    return Digests(key).of(data)


def commit_fields(name, data, storage, without=(), key=None):
    digested = digest(data, key)
    return Commit(name, storage, 0, 1, len(data), digested, FINGERPRINT, Figures(1.0, 0.5, 0.25, 0.0, 4096), without)


def small(name, value, **options):
    data = pickle.dumps(value, 5)
    return PendingCommit(commit_fields(name, data, Storage.INLINE, **options), data, "")


def large(path, name, data=LARGE, *, durable=False, **options):
    temp = TempFile(path)
    temp.write(data)
    return PendingCommit(commit_fields(name, data, Storage.FILE, **options), b"", temp.finish(durable=durable))


def begin(opened, nodes=("a", "b", "c"), *, fresh=False, **options):
    made = opened(**options)
    made.begin(fresh=fresh, nodes=nodes, structure=STRUCTURE)
    return made


def run(opened, *pending, nodes=("a", "b", "c"), fresh=False, end=True, **options):
    """One run that commits `pending`, one by one; left without an end, as by a kill, if `end` is false."""
    made = begin(opened, nodes, fresh=fresh, **options)
    for item in pending:
        made.commit([item(made.directory.path) if callable(item) else item])
    if end:
        made.end()
    made.close()


def big(name, data=LARGE, **options):
    return lambda path: large(path, name, data, **options)


def contents(path):
    """Everything about a directory that a change would change."""
    found = {}
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        status = entry.stat(follow_symlinks=False)
        data = Path(entry.path).read_bytes() if entry.is_file() else b""
        found[entry.name] = (status.st_ino, status.st_mode, status.st_mtime_ns, data)
    return found


def names_in(path):
    return set(os.listdir(path)) if path.exists() else set()


def values(made):
    return {name: pickle.loads(made.load(name)) for name in made.ledger.commits}


def info(ckpt, **options):
    return executor(ckpt, **options).checkpoint_info()


def executor(ckpt, *names, **options):
    dag = DAG.builder().add_nodes(names or ("a", "b")).build()
    return CheckpointExecutor(dag, ckpt, pool="inline", **{"durability": "process", **options})


def execute(ckpt, how="execute", **options):
    result = getattr(executor(ckpt, **options), how)({"a": lambda: 1, "b": lambda: LARGE})
    assert [r.result for r in result.node_results.values()] == [1, LARGE]
    return result


# --- committing --------------------------------------------------------------------------------------------------


class TestCommitting:
    def test_a_commit_is_there_for_every_reader_at_once(self, opened, ckpt):
        made = begin(opened)
        assert info(ckpt).completed_nodes == []
        made.commit([small("b", 1), large(ckpt, "a")])
        assert info(ckpt).completed_nodes == ["b", "a"]
        assert (ckpt / "a.pkl").read_bytes() == LARGE
        made.commit([small("c", 3)])
        assert info(ckpt).completed_nodes == ["b", "a", "c"]
        assert info(ckpt).total_nodes == 3

    def test_every_field_of_a_commit_comes_back(self, opened, ckpt):
        made = begin(opened)
        pending = [small("a", 1), small("b", "x", without=("a", "c")), large(ckpt, "c")]
        made.commit(pending)
        made.close()
        found = read_ledger(Directory(ckpt)).commits
        expected = [item.commit._replace(temp_name=item.temp_name) for item in pending]
        assert [c._replace(payload_offset=-1, sequence=0) for c in found.values()] == expected

    def test_the_file_of_a_small_result_is_there_after_write_copies_tend_or_end(self, opened, ckpt):
        made = begin(opened)
        for name, write in (("a", made.write_copies), ("b", made.tend), ("c", lambda: made.end())):
            made.commit([small(name, name * 3)])
            write()
            assert pickle.loads((ckpt / f"{name}.pkl").read_bytes()) == name * 3

    def test_files_of_small_results_do_not_lag_behind_without_limit(self, opened, ckpt, monkeypatch):
        monkeypatch.setattr(copying, "_BUDGET_BYTES", 1000)
        made = begin(opened, [f"n{i}" for i in range(50)])
        for i in range(50):
            made.commit([small(f"n{i}", bytes(100))])
            lagging = {f"n{j}.pkl" for j in range(i + 1)} - names_in(ckpt)
            assert len(lagging) <= 10

    def test_what_lags_behind_is_known_also_where_workers_write_the_rest(self, opened, ckpt, monkeypatch):
        monkeypatch.setattr(copying, "_TO_RECORD", 1)

        def lagging():
            view = read_ledger(Directory(ckpt))
            return {name for name, commit in view.commits.items() if view.is_lagging(commit)}

        names = [f"n{i}" for i in range(6)]
        made = begin(opened, names)
        for name in names:
            made.commit([small(name, name)])
        first, second = made.copies_for(0, 2), made.copies_for(1, 2)
        assert [file for file, _, _ in first + second] == ["n0.pkl", "n1.pkl", "n2.pkl", "n3.pkl"]
        made.copied(1, 2)
        assert lagging() == set(names), "what comes first in the journal is not written yet"
        made.copied(0, 1)
        assert lagging() == set(names[1:])
        made.not_copied(0)  # its worker has died
        assert [file for file, _, _ in made.copies_for(1, 9)] == ["n1.pkl", "n4.pkl", "n5.pkl"]
        made.copied(1, 3)
        assert lagging() == set()

    def test_a_copy_that_a_worker_had_in_hand_at_a_kill_is_written_by_the_next_run(self, opened, ckpt):
        made = begin(opened)
        made.commit([small("a", 1), small("b", 2)])
        made.copies_for(0, 2)
        (ckpt / "a.pkl").write_bytes(pickle.dumps(9, 5))  # as long as the right one, and of an older result
        made.close()
        run(opened, fresh=False)
        assert {path.name: pickle.loads(path.read_bytes()) for path in ckpt.glob("*.pkl")} == {"a.pkl": 1, "b.pkl": 2}

    def test_small_results_are_kept_in_memory_up_to_a_budget_and_all_can_be_loaded(self, opened, monkeypatch):
        monkeypatch.setattr(results, "_BUDGET_BYTES", 2000)
        names = [f"n{i}" for i in range(50)]
        made = begin(opened, names)
        for name in names:
            made.commit([small(name, (name, bytes(100)))])
        assert 0 < made._results._recent_bytes <= 2000
        assert values(made) == {name: (name, bytes(100)) for name in names}
        assert [pickle.loads(made.source(name)) for name in names] == [(name, bytes(100)) for name in names]

    def test_a_large_result_is_never_in_memory_and_its_source_is_its_file(self, opened, ckpt):
        made = begin(opened)
        made.commit([large(ckpt, "a")])
        assert made._results._recent == {}
        assert made.source("a") == BlobFile("a.pkl", len(LARGE), digest(LARGE))

    def test_a_large_result_is_what_it_was_when_its_worker_had_written_it(self, opened):
        made = begin(opened)
        for i in (1, 2):
            made.commit([large(made.directory.path, "a")._replace(identity=(i,))])
            assert made.source("a").identity == (i,)
            made.invalidate(["a"], "for a test")
        made.commit([small("a", 1)])
        made.invalidate(["a"], "for a test")
        made.commit([large(made.directory.path, "a")])
        assert made.source("a").identity == ()
        made.end()
        made.close()
        again = opened()
        again.begin(fresh=False, nodes=["a"], structure=STRUCTURE)
        assert again.source("a").identity == ()
        assert bytes(made.load("a")) == LARGE

    def test_a_later_commit_of_a_node_replaces_the_earlier_one_and_counts_as_the_last(self, opened, ckpt):
        run(opened, small("a", "old"), small("b", 1), small("a", "new"), big("c"), small("c", "small now"))
        assert info(ckpt).completed_nodes == ["b", "a", "c"]
        assert values(begin(opened)) == {"b": 1, "a": "new", "c": "small now"}
        assert pickle.loads((ckpt / "c.pkl").read_bytes()) == "small now"

    def test_a_failed_node_is_not_completed_until_it_is_committed_again(self, opened, ckpt):
        made = begin(opened)
        made.commit([small("a", 1), small("b", 2)])
        made.fail([Failed("a", type="E"), Failed("c", type="E")])
        assert (info(ckpt).completed_nodes, info(ckpt).failed_nodes) == (["b"], ["a", "c"])
        made.commit([small("a", 3)])
        assert (info(ckpt).completed_nodes, info(ckpt).failed_nodes) == (["b", "a"], ["c"])

    def test_an_invalidated_commit_is_remembered_as_stale_and_a_lost_one_is_forgotten(self, opened):
        made = begin(opened)
        made.commit([small("a", 1), small("b", 2), small("c", 3)])
        made.invalidate(["a"], "no longer right")
        made.invalidate(["b"], "gone", lost=True)
        for found in (made, opened_again(made, opened)):
            assert set(found.stale) == {"a"}
            assert found.differs(small("a", "other").commit)
            assert not found.differs(small("a", 1).commit)
            assert not found.differs(small("b", "other").commit)
            assert found.commit_of("c") is not None
            assert found.commit_of("a") is found.commit_of("b") is None

    def test_a_stale_commit_is_forgotten_when_the_node_is_committed_again(self, opened):
        made = begin(opened)
        made.commit([small("a", 1)])
        made.invalidate(["a"], "no longer right")
        made.commit([small("a", 2)])
        assert set(made.stale) == set(opened_again(made, opened).stale) == set()

    def test_results_of_a_closed_store_can_be_loaded_as_long_as_they_are_there(self, opened, ckpt, monkeypatch):
        monkeypatch.setattr(results, "_BUDGET_BYTES", 0)
        made = begin(opened)
        made.commit([small("a", 1), large(ckpt, "b")])
        committed = [made.commit_of("a"), made.commit_of("b")]
        made.end()
        made.close()
        assert pickle.loads(made.load_committed(committed[0])) == 1
        assert bytes(made.load_committed(committed[1])) == LARGE
        run(opened, small("a", 2), big("b", LARGE[::-1]), fresh=True)
        for commit in committed:
            with pytest.raises(dagron.CheckpointDamagedError, match=rf"{commit.name}\.pkl"):
                made.load_committed(commit)

    @pytest.mark.skipif(sys.platform != "linux", reason="the calls of Linux")
    def test_a_group_is_synced_then_appended_then_synced_then_named_each_once(self, opened, ckpt, monkeypatch):
        made = begin(opened, durability="power")
        pending = [small("a", 1), large(ckpt, "b"), large(ckpt, "c")]
        calls = Syscalls()
        stand_in(monkeypatch, calls)
        made.commit(pending)
        assert calls.made == ["open", "fsync", "write", "fdatasync", "replace", "replace"]
        calls.made.clear()
        made.commit([small("a", 2)])
        assert calls.made == ["write", "fdatasync"]

    def test_without_power_durability_nothing_is_synced(self, opened, ckpt, monkeypatch):
        calls = Syscalls()
        stand_in(monkeypatch, calls)
        run(opened, small("a", 1), big("b"), small("a", 2))
        assert not {"fsync", "fdatasync"} & set(calls.made)

    @pytest.mark.parametrize("durability", ["power", "process"])
    def test_a_full_disk_ends_the_run_and_costs_what_was_not_committed(self, opened, ckpt, monkeypatch, durability):
        made = begin(opened, durability=durability)
        made.commit([small("a", 1)])

        class Full(Syscalls):
            def write(self, fd, data):
                os.write(fd, bytes(data)[:100])  # not even the first record of the group
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        pending = large(ckpt, "c")
        with monkeypatch.context() as patched:
            stand_in(patched, Full())
            with pytest.raises(dagron.CommitError, match="No space left") as caught:
                made.commit([small("b", 2), pending])
        assert str(ckpt) in str(caught.value)
        made.close()
        again = begin(opened)
        assert values(again) == {"a": 1}
        again.commit([small("b", 3)])
        assert values(again) == {"a": 1, "b": 3}

    def test_a_file_that_cannot_be_written_is_named(self, opened, ckpt):
        made = begin(opened)
        (ckpt / "a.pkl").mkdir()
        made.commit([small("a", 1)])
        with pytest.raises(dagron.CommitError, match=r"a\.pkl"):
            made.write_copies()


def opened_again(made, opened):
    made.close()
    return begin(opened)


# --- reopening ---------------------------------------------------------------------------------------------------


class TestReopening:
    def test_cut_at_any_byte_the_journal_gives_a_prefix_of_the_commits(self, opened, ckpt):
        made = begin(opened, ["a", "b", "c", "d"], fresh=True)
        begun = os.path.getsize(ckpt / JOURNAL)
        history = [(begun, {})]
        for group in (["a"], ["b", "c"], ["d"], ["a"]):
            for name in group:
                history.append((0, {**history[-1][1], name: (name, len(history))}))
            made.commit([small(name, history[i - len(group)][1][name]) for i, name in enumerate(group)])
        made.close()
        journal = (ckpt / JOURNAL).read_bytes()
        ends = [record.payload_offset + record.payload_size for record in records_of(ckpt)]
        states = [{}, *(state for _, state in history)]  # before and after RUN_STARTED, and after every commit
        for length in range(HEADER_SIZE, len(journal) + 1):
            (ckpt / JOURNAL).write_bytes(journal[:length])
            found = opened()
            assert found.ledger.damage == []
            commits = found.begin(fresh=False, nodes=["a", "b", "c", "d"], structure=STRUCTURE)
            n = sum(end <= length for end in ends)
            assert {name: pickle.loads(found.load(name)) for name in commits} == states[n], f"cut at {length}"
            assert set(found.ledger.lost if found.ledger else ()) == set()
            found.close()

    def test_after_a_cut_the_next_run_goes_on_and_nothing_of_the_torn_tail_comes_back(self, opened, ckpt):
        run(opened, small("a", 1), small("b", 2), end=False)
        journal = (ckpt / JOURNAL).read_bytes()
        for length in range(records_of(ckpt)[-1].offset, len(journal)):
            (ckpt / JOURNAL).write_bytes(journal[:length])
            run(opened, small("c", 3))
            found = read_ledger(Directory(ckpt))
            assert list(found.commits) == ["a", "c"]
            assert (found.damage, found.valid_size) == ([], found.size)

    @pytest.mark.parametrize("left", [None, b"", b"x", b"x" * 1000])
    def test_the_file_of_a_small_result_is_made_again_from_the_journal(self, opened, ckpt, left, caplog):
        run(opened, small("a", "value"))
        (ckpt / "a.pkl").unlink()
        if left is not None:
            (ckpt / "a.pkl").write_bytes(left)
        made = begin(opened)
        assert set(made.ledger.lost) == set()
        made.write_copies()
        assert pickle.loads((ckpt / "a.pkl").read_bytes()) == "value"
        assert caplog.records == []

    @pytest.mark.parametrize("left", [None, b"", LARGE[:-1], LARGE + b"x"])
    def test_a_large_result_that_is_gone_costs_its_node_and_is_warned_of(self, opened, ckpt, left, caplog):
        run(opened, big("a"), small("b", 1))
        (ckpt / "a.pkl").unlink()
        if left is not None:
            (ckpt / "a.pkl").write_bytes(left)
        made = opened()
        commits = made.begin(fresh=False, nodes=["a", "b"], structure=STRUCTURE)
        assert (set(commits), set(made.ledger.lost)) == ({"b"}, {"a"})
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert str(ckpt / "a.pkl") in record.getMessage()
        assert not made.differs(large(ckpt, "a", b"other" * 10_000).commit), "its children are as good as they were"
        made.commit([large(ckpt, "a")])
        assert set(made.ledger.lost) == set()

    def test_a_small_result_is_loaded_from_its_file_if_its_place_in_the_journal_is_damaged(self, opened, ckpt):
        run(opened, small("a", "value"), small("b", 2))
        scribble(ckpt / JOURNAL, read_ledger(Directory(ckpt)).commits["a"].payload_offset)
        assert values(begin(opened)) == {"a": "value", "b": 2}

    def test_a_small_result_that_is_damaged_in_both_places_runs_again(self, opened, ckpt, caplog):
        run(opened, small("a", "value"), small("b", 2))
        scribble(ckpt / JOURNAL, read_ledger(Directory(ckpt)).commits["a"].payload_offset)
        (ckpt / "a.pkl").unlink()
        made = begin(opened)
        made.end()
        made.close()
        assert "a.pkl" in caplog.text, "it is warned of"
        # At the latest now: "node 'a' runs again on the next resume" is what the warning says.
        made = opened()
        assert set(made.begin(fresh=False, nodes=["a", "b"], structure=STRUCTURE)) == {"b"}

    def test_the_file_of_a_small_result_is_never_that_of_an_older_checkpoint(self, opened, ckpt):
        run(opened, small("a", 1))
        run(opened, small("a", 2), fresh=True, end=False)  # killed after the commit and before the file was written
        assert pickle.loads((ckpt / "a.pkl").read_bytes()) == 1, "it lags behind, which is what this test is about"
        run(opened)
        assert pickle.loads((ckpt / "a.pkl").read_bytes()) == 2

    def test_the_file_of_a_small_result_is_never_that_of_an_older_commit(self, opened, ckpt):
        run(opened, small("a", 1))
        run(opened, small("a", 2), end=False)
        run(opened)
        assert pickle.loads((ckpt / "a.pkl").read_bytes()) == 2

    def test_leftover_temporary_files_go_and_nothing_else(self, opened, ckpt):
        run(opened, small("a", 1))
        for name in ("_dagron-0123456789abcdef.tmp", "_dagron-x.tmp"):
            (ckpt / name).write_bytes(b"left by a crash")
        theirs = ["_dagron-notes.txt", "x.tmp", "dagron-1.tmp", "notes", "_other.json", "theirs.pkl"]
        for name in theirs:
            (ckpt / name).write_bytes(b"theirs")
        (ckpt / "_dagron-dir.tmp").mkdir()
        before = contents(ckpt)
        for fresh in (False, True):
            run(opened, fresh=fresh)
            after = contents(ckpt)
            assert {name: after[name] for name in [*theirs, "_dagron-dir.tmp"]} == {
                name: before[name] for name in [*theirs, "_dagron-dir.tmp"]
            }
            assert set(after) == {*theirs, "_dagron-dir.tmp", *OUR_OWN} | (set() if fresh else {"a.pkl"})

    def test_damage_in_the_journal_is_warned_of_with_its_place_and_costs_what_stood_there(self, opened, ckpt, caplog):
        run(opened, small("a", 1), small("b", 2), small("c", 3))
        place = records_of(ckpt)[2].offset
        scribble(ckpt / JOURNAL, place)
        made = opened()
        commits = made.begin(fresh=False, nodes=["a", "b", "c"], structure=STRUCTURE)
        assert set(commits) == {"a", "c"}
        [record] = caplog.records
        assert str(ckpt / JOURNAL) in record.getMessage()
        assert str(place) in record.getMessage()

    @pytest.mark.parametrize("body", [b'{"at": 1.0}', b"{}", b"[]", b"3", b"\xff not text", b""])
    def test_kinds_that_this_version_does_not_know_are_passed_over(self, opened, ckpt, body):
        run(opened, small("a", 1))
        found = read_ledger(Directory(ckpt))
        with (ckpt / JOURNAL).open("ab") as file:
            file.write(RecordWriter(found.checkpoint_id, Digests(), found.sequence).frame(77, body))
        run(opened, small("b", 2))
        assert info(ckpt).completed_nodes == ["a", "b"]

    @pytest.mark.parametrize("fields", [{}, {"at": "soon"}, {"at": 1.0, "names": 3, "lost": True}, []])
    def test_a_valid_record_that_makes_no_sense_is_an_error_with_its_place(self, opened, ckpt, fields):
        run(opened, small("a", 1))
        found = read_ledger(Directory(ckpt))
        with (ckpt / JOURNAL).open("ab") as file:
            writer = RecordWriter(found.checkpoint_id, Digests(), found.sequence)
            file.write(writer.frame(Kind.INVALIDATED, json.dumps(fields).encode()))
        for use in (opened, lambda: info(ckpt)):
            with pytest.raises(dagron.CheckpointDamagedError, match=JOURNAL) as caught:
                use()
            assert caught.value.offset == found.size

    @pytest.mark.parametrize(
        "name", ["../victim.pkl", "/tmp/victim.pkl", "sub/victim.pkl", "victim", "_journal", "\0.pkl"]
    )
    @pytest.mark.parametrize("field", ["file", "temp", "owns"])
    def test_a_record_that_names_a_file_that_cannot_be_ours_is_refused(self, opened, ckpt, tmp_path, name, field):
        (tmp_path / "victim.pkl").write_bytes(b"precious")
        run(opened, small("a", 1))
        found = read_ledger(Directory(ckpt))
        writer = RecordWriter(found.checkpoint_id, Digests(), found.sequence)
        if field == "owns":
            record = writer.frame(Kind.CLEARED, json.dumps({"at": 1.0, "owns": [name]}).encode())
        else:
            fields = {"special_name": name} if field == "file" else {"temp_name": name}
            record = writer.frame(
                Kind.COMMITTED, encode_commit(commit_fields("b", LARGE, Storage.FILE)._replace(**fields))
            )
        (ckpt / JOURNAL).write_bytes((ckpt / JOURNAL).read_bytes() + record)
        for use in ("execute", "resume", "checkpoint_info"):
            with pytest.raises(dagron.CheckpointDamagedError, match=JOURNAL):
                every_use(ckpt)[use]()
        executor(ckpt).clear_checkpoint()
        assert (tmp_path / "victim.pkl").read_bytes() == b"precious"

    def test_a_large_result_that_was_recorded_and_not_yet_renamed_is_renamed(self, opened, ckpt, monkeypatch):
        run(opened, big("a", LARGE), small("b", 1))
        made = begin(opened)
        made.invalidate(["a"], "changed")
        pending = large(ckpt, "a", LARGE[::-1])
        with monkeypatch.context() as patched:
            patched.setattr(Directory, "publish", lambda self, temp_name, name: raise_(Killed()))
            with pytest.raises(Killed):
                made.commit([pending])
        made.close()
        assert (ckpt / "a.pkl").read_bytes() == LARGE, "it has the name no longer, which is what this test is about"
        made = begin(opened)
        assert set(made.ledger.lost) == set()
        assert bytes(made.load("a")) == (ckpt / "a.pkl").read_bytes() == LARGE[::-1]
        assert names_in(ckpt) == {"a.pkl", "b.pkl", *OUR_OWN}

    def test_a_missing_or_broken_meta_file_is_made_again(self, opened, ckpt):
        run(opened, small("a", 1))
        for left in (None, b"", b"{", b"[]", b"\xff"):
            (ckpt / META).unlink()
            if left is not None:
                (ckpt / META).write_bytes(left)
            assert info(ckpt).completed_nodes == ["a"]
            run(opened)
            assert json.loads((ckpt / META).read_bytes())["completed_nodes"] == ["a"]

    def test_the_meta_file_tells_people_what_there_is(self, opened, ckpt):
        made = begin(opened)
        assert json.loads((ckpt / META).read_text())["state"] == "running"
        made.commit([small("a", 1), small("b\ud800", 1)])
        made.fail([Failed("c")])
        made.end()
        found = json.loads((ckpt / META).read_text(encoding="ascii"))
        assert (found["completed_nodes"], found["failed_nodes"], found["total_nodes"]) == (["a", "b\ud800"], ["c"], 3)
        assert (found["state"], found["run"]["pid"]) == ("ended", os.getpid())
        assert found["format_version"] == 1
        assert datetime.fromisoformat(found["timestamp"]).tzinfo is not None

    def test_files_and_directory_are_ours_alone(self, opened, ckpt):
        old = os.umask(0)
        try:
            run(opened, small("a", 1), big("b"))
        finally:
            os.umask(old)
        assert stat.S_IMODE(ckpt.stat().st_mode) == 0o700
        assert {name: stat.S_IMODE((ckpt / name).stat().st_mode) for name in names_in(ckpt)} == dict.fromkeys(
            ["a.pkl", "b.pkl", *OUR_OWN], 0o600
        )


class TestPowerLoss:
    """After a loss of power a file may have its size and not its bytes; another boot id tells that there was one."""

    @pytest.fixture
    def boot(self, monkeypatch):
        return lambda text: monkeypatch.setattr(store, "boot_id", lambda: text)

    def test_results_of_a_run_that_the_power_ended_are_checked(self, opened, ckpt, boot, caplog):
        boot("first")
        run(opened, big("a"), big("b"), small("c", 3), end=False)
        (ckpt / "a.pkl").write_bytes(bytes(len(LARGE)))
        boot("second")
        made = opened()
        assert set(made.begin(fresh=False, nodes=["a", "b", "c"], structure=STRUCTURE)) == {"b", "c"}
        assert "a.pkl" in caplog.text

    def test_what_was_found_lost_stays_lost_if_the_next_run_is_killed_too(self, opened, ckpt, boot):
        boot("first")
        run(opened, big("a"), end=False)
        (ckpt / "a.pkl").write_bytes(bytes(len(LARGE)))
        boot("second")
        for _ in range(3):
            made = opened()
            assert made.begin(fresh=False, nodes=["a"], structure=STRUCTURE) == {}
            made.close()  # killed before it ran `a` again

    @pytest.mark.parametrize("left", [None, b"", "zeros"])
    def test_a_small_result_whose_bytes_are_nowhere_is_lost(self, opened, ckpt, boot, left):
        boot("first")
        run(opened, small("a", "value"), small("b", 2), end=False)
        commit = read_ledger(Directory(ckpt)).commits["a"]
        scribble(ckpt / JOURNAL, commit.payload_offset, bytes(commit.size))
        if left is not None:
            (ckpt / "a.pkl").write_bytes(bytes(commit.size) if left == "zeros" else left)
        boot("second")
        made = opened()
        assert set(made.begin(fresh=False, nodes=["a", "b"], structure=STRUCTURE)) == {"b"}

    def test_a_file_whose_bytes_did_not_arrive_is_made_again_from_the_journal(self, opened, ckpt, boot):
        boot("first")
        run(opened, small("a", "value"), end=False)
        (ckpt / "a.pkl").write_bytes(bytes(len(pickle.dumps("value", 5))))
        boot("second")
        made = begin(opened)
        made.write_copies()
        assert pickle.loads((ckpt / "a.pkl").read_bytes()) == "value"


def records_of(ckpt):
    from dagron.checkpoint.format.journal import Record, decode_header, scan

    journal = (ckpt / JOURNAL).read_bytes()
    header = decode_header(journal, Digests())
    items = scan(lambda offset, n: journal[offset : offset + n], len(journal), header.checkpoint_id, Digests())
    return [item for item in items if isinstance(item, Record)]


def scribble(path, offset, data=b"\xff"):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


# --- dying at every system call ------------------------------------------------------------------------------------


class Killed(BaseException):
    """What stands in for SIGKILL: no handler of ours catches it, and nothing happens on the disk afterwards."""


class Syscalls:
    """Stands in for `os` in `files`: notes the calls that change the disk, and dies at one of them for good.

    With `half`, the call at which it dies is a write, and half of it still happens.
    """

    CHANGING = ("open", "write", "fdatasync", "fsync", "ftruncate", "replace", "unlink")

    def __init__(self, die_at=None, half=False):
        self.made = []
        self.n = 0
        self.dead = False
        self._die_at, self._half = die_at, half

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in self.CHANGING:
            return real

        def call(*args, **kwargs):
            if self.dead:
                raise Killed
            if self.n == self._die_at:
                self.dead = True
                if self._half and name == "write":
                    os.write(args[0], bytes(args[1])[: len(args[1]) // 2])
                raise Killed
            self.n += 1
            self.made.append(name)
            if name in ("fsync", "fdatasync"):
                return None  # the machine of these tests stays on
            return real(*args, **kwargs)

        return call


NODES = ("a", "b", "big", "c", "x")
SAME_SIZE = (1, 2)  # pickled they have the same size, so that only a look at the bytes tells them apart


def lives(path):
    """Runs, prunings and a clear, step by step: each yields the states that the step may leave if it is interrupted."""
    a_old, a_new = SAME_SIZE

    def taken(fresh):
        made = CheckpointStore(path, durability="power")
        made.open()
        try:
            made.begin(fresh=fresh, nodes=NODES, structure=STRUCTURE)
        except BaseException:
            made.close()
            raise
        return made

    holder = []

    def start(fresh):
        holder.append(taken(fresh))

    def stop():
        holder.pop().close()

    def clear():
        made = CheckpointStore(path, durability="power")
        try:
            made.open()
            made.clear()
        finally:
            made.close()

    def prune(*nodes):
        made = CheckpointStore(path, durability="power")
        try:
            made.open()
            made.prune(nodes, even_all=True)
        finally:
            made.close()

    def do(method, *args):
        return lambda: getattr(holder[-1], method)(*args)

    def group(*makers):
        return lambda: holder[-1].commit([make(path) if callable(make) else make for make in makers])

    first = {"a": a_old, "big": LARGE, "b": "b"}
    second = {"a": a_old, "b": "another b", "c": "c", "big": LARGE[::-1]}
    begun = {"a": a_old}
    pruned = {"a": a_old, "b": "another b"}
    third = {"a": a_new, "x": LARGE}
    steps = [
        (lambda: start(False), [None, {}]),
        (group(small("a", a_old), big("big", durable=True)), [{}, {"a": a_old}, {"a": a_old, "big": LARGE}]),
        (do("write_copies"), [{"a": a_old, "big": LARGE}]),
        (group(small("b", "b")), [{"a": a_old, "big": LARGE}, first]),
        (do("fail", [Failed("c")]), [first]),
        (do("end"), [first]),
        (stop, [first]),
        (lambda: start(False), [first]),
        (do("invalidate", ["b", "big"], "changed"), [first, begun]),
        (
            group(small("b", "another b"), small("c", "c")),
            [begun, {**begun, "b": "another b"}, {**begun, "b": "another b", "c": "c"}],
        ),
        (group(big("big", LARGE[::-1], durable=True)), [{**begun, "b": "another b", "c": "c"}, second]),
        (do("end"), [second]),
        (stop, [second]),
        (lambda: prune("a", "b", "x"), [second, pruned]),  # "big" has a file that is deleted
        (lambda: start(True), [pruned, {}]),
        (group(small("a", a_new), small("c", "c" * 300)), [{}, {"a": a_new}, {"a": a_new, "c": "c" * 300}]),
        (stop, [{"a": a_new, "c": "c" * 300}]),  # as a kill does
        (lambda: prune("a", "b", "x"), [{"a": a_new, "c": "c" * 300}, {"a": a_new}]),
        (lambda: start(False), [{"a": a_new}]),
        (group(big("x", durable=True)), [{"a": a_new}, third]),
        (do("drop", ["x"]), [third]),
        (group(small("c", "c")), [third, {**third, "c": "c"}, {"a": a_new, "c": "c"}]),
        (group(big("x", durable=True)), [{"a": a_new, "c": "c"}, {**third, "c": "c"}]),
        (do("write_copies"), [{**third, "c": "c"}]),
        (do("drop", ["a"]), [{**third, "c": "c"}]),
        (do("tend"), [{**third, "c": "c"}, {"x": LARGE, "c": "c"}]),
        (do("drop", ["x"]), [{"x": LARGE, "c": "c"}]),
        (do("end"), [{"x": LARGE, "c": "c"}, {"c": "c"}]),
        (stop, [{"c": "c"}]),
        (clear, [{"c": "c"}, None]),
    ]
    try:
        yield from steps
    finally:
        for made in holder:
            made.close()


def live(path, monkeypatch, calls):
    """Live until death; return the states that may be found, and whether it died."""
    steps = lives(path)

    def discard(self, real=TempFile.discard):
        if not calls.dead:
            real(self)

    with monkeypatch.context() as patched:
        stand_in(patched, calls)
        patched.setattr(TempFile, "discard", discard)
        for act, states in steps:
            try:
                act()
            except Killed:
                steps.close()
                return states, True
    return [None], False


@pytest.fixture(scope="module")
def all_deaths(tmp_path_factory):
    """Every death there is: when, the directory that it leaves, and the states that are legal there."""
    tmp_path = tmp_path_factory.mktemp("deaths")
    whole = Syscalls()
    found = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert live(tmp_path / "whole", monkeypatch, whole) == ([None], False)
        assert names_in(tmp_path / "whole") == set()
        for die_at, name in enumerate(whole.made):
            for half in (False, True) if name == "write" else (False,):
                path = tmp_path / f"died-{die_at}-{half}"
                states, died = live(path, monkeypatch, Syscalls(die_at, half))
                assert died
                found.append((f"{name}, call {die_at}" + (", half done" if half else ""), path, states))
    return found


@pytest.fixture
def deaths(all_deaths, tmp_path):
    """All of them, each with a copy of the directory, if there is one."""
    for _, path, _ in all_deaths:
        if path.exists():
            shutil.copytree(path, tmp_path / path.name)
    return [(when, tmp_path / path.name, states) for when, path, states in all_deaths]


def state_of(path):
    found = read_ledger(Directory(path))
    if found is None or found.cleared:
        return None
    return {name: commit.digest for name, commit in found.commits.items()}


def digests(state):
    return state and {
        name: digest(value if isinstance(value, bytes) else pickle.dumps(value, 5)) for name, value in state.items()
    }


class TestDyingAtEverySystemCall:
    def test_the_state_is_the_one_before_or_after_the_step_or_a_prefix_of_its_group(self, deaths):
        n = 0
        for when, path, states in deaths:
            found = state_of(path)
            assert found in list(map(digests, states)), when
            n += 1
        assert n > 60

    def test_the_next_run_has_every_result_and_every_file_and_repeats_nothing(self, deaths):
        for when, path, _ in deaths:
            before = state_of(path)
            made = CheckpointStore(path, durability="process")
            made.open()
            commits = made.begin(fresh=False, nodes=NODES, structure=STRUCTURE)
            assert {name: commit.digest for name, commit in commits.items()} == (before or {}), when
            assert set(made.ledger.lost) == set(), when
            assert {name: digest(made.load(name)) for name in commits} == (before or {}), when
            made.end()
            made.close()
            assert not [name for name in names_in(path) if name.endswith(".tmp")], when
            found = {name: digest((path / f"{name}.pkl").read_bytes()) for name in commits}
            assert found == (before or {}), f"the files of small results, {when}"

    def test_cleared_afterwards_nothing_of_ours_is_left(self, deaths):
        left = {}
        for when, path, _ in deaths:
            path.mkdir(exist_ok=True)
            (path / "theirs.txt").write_bytes(b"theirs")
            had_any = state_of(path) is not None
            executor(path).clear_checkpoint()
            # Where there was none yet, a lock file and the temporary file of the first journal may stay.
            ours = {name for name in names_in(path) if not had_any and (name == LOCK or name.startswith("_dagron-"))}
            if names_in(path) - ours != {"theirs.txt"}:
                left[when] = names_in(path)
        assert left == {}

    def test_a_new_execute_removes_what_the_dead_left(self, deaths):
        left = {}
        for when, path, _ in deaths:
            execute(path)
            if names_in(path) != {"a.pkl", "b.pkl", *OUR_OWN}:
                left[when] = names_in(path)
        assert left == {}


# --- a fresh start -----------------------------------------------------------------------------------------------


class TestFreshStart:
    def test_it_supersedes_the_old_checkpoint_and_leaves_its_files_until_the_end(self, opened, ckpt):
        run(opened, small("a", 1), big("b"), small("c", 3))
        (ckpt / "theirs.pkl").write_bytes(b"theirs")
        made = begin(opened, ["a", "x"], fresh=True)
        assert info(ckpt).completed_nodes == []
        assert names_in(ckpt) >= {"a.pkl", "b.pkl", "c.pkl"}
        made.commit([small("x", 1)])
        made.write_copies()
        assert names_in(ckpt) >= {"a.pkl", "b.pkl", "c.pkl"}
        made.end()
        assert names_in(ckpt) == {"x.pkl", "theirs.pkl", *OUR_OWN}
        assert (ckpt / "theirs.pkl").read_bytes() == b"theirs"

    def test_the_journal_is_replaced_in_one_step(self, opened, ckpt, monkeypatch):
        run(opened, small("a", 1), small("b", 2))
        seen = []

        class Watched(Syscalls):
            def __getattr__(self, name):
                real = super().__getattr__(name)
                if name not in self.CHANGING:
                    return real

                def call(*args, **kwargs):
                    seen.append(list(read_ledger(Directory(ckpt)).commits))
                    result = real(*args, **kwargs)
                    seen.append(list(read_ledger(Directory(ckpt)).commits))
                    return result

                return call

        real_view = Directory(ckpt)
        assert list(read_ledger(real_view).commits) == ["a", "b"]
        made = opened()
        watched = Watched()
        stand_in(monkeypatch, WithoutRecursion(watched))
        made.begin(fresh=True, nodes=["a"], structure=STRUCTURE)
        changed = seen.index([])
        assert all(commits == ["a", "b"] for commits in seen[:changed])
        assert all(commits == [] for commits in seen[changed:])

    def test_a_kill_before_the_end_leaves_files_that_the_next_end_removes(self, opened, ckpt):
        run(opened, small("a", 1), big("b"), small("c", 3))
        run(opened, small("a", 2), nodes=["a", "x"], fresh=True, end=False)
        run(opened, nodes=["a", "x"], end=False)
        assert names_in(ckpt) >= {"b.pkl", "c.pkl"}
        run(opened, small("x", 1), nodes=["a", "x"])
        assert names_in(ckpt) == {"a.pkl", "x.pkl", *OUR_OWN}

    def test_two_fresh_starts_in_a_row_forget_no_file(self, opened, ckpt):
        run(opened, small("a", 1), big("b"))
        run(opened, nodes=["x"], fresh=True, end=False)
        run(opened, nodes=["y"], fresh=True, end=False)
        run(opened, small("y", 1), nodes=["y"], fresh=True)
        assert names_in(ckpt) == {"y.pkl", *OUR_OWN}

    @pytest.mark.parametrize("lost", [False, True])
    def test_files_of_commits_that_no_longer_apply_are_removed_too(self, opened, ckpt, lost):
        made = begin(opened)
        made.commit([small("a", 1), large(ckpt, "b")])
        made.write_copies()
        made.invalidate(["a", "b"], "no longer right", lost=lost)
        made.end()
        made.close()
        run(opened, small("x", 1), nodes=["x"], fresh=True)
        assert names_in(ckpt) == {"x.pkl", *OUR_OWN}

    def test_it_does_not_follow_a_link_that_stands_where_a_file_goes(self, opened, ckpt, tmp_path):
        (tmp_path / "victim").write_bytes(b"precious")
        run(opened, small("a", 1), big("b"))
        for name in ("a.pkl", "b.pkl", META):
            (ckpt / name).unlink()
            (ckpt / name).symlink_to(tmp_path / "victim")
        run(opened, small("a", 2), big("b"), fresh=True)
        assert (tmp_path / "victim").read_bytes() == b"precious"
        assert pickle.loads((ckpt / "a.pkl").read_bytes()) == 2
        assert not any((ckpt / name).is_symlink() for name in names_in(ckpt))


class WithoutRecursion:
    """Passes calls on to a stand-in for `os`, unless that one is at work itself."""

    def __init__(self, inner):
        self._inner, self._busy = inner, False

    def __getattr__(self, name):
        if self._busy:
            return getattr(os, name)

        found = getattr(self._inner, name)
        if name not in Syscalls.CHANGING:
            return found

        def call(*args, **kwargs):
            if self._busy:
                return getattr(os, name)(*args, **kwargs)
            self._busy = True
            try:
                return found(*args, **kwargs)
            finally:
                self._busy = False

        return call


# --- names that differ in case only --------------------------------------------------------------------------------


class TestNamesThatDifferInCaseOnly:
    """Their files are told apart by more than the name itself, so a later run must find what an earlier one wrote."""

    def test_both_results_are_there_again(self, opened, ckpt):
        nodes = ["A", "a"]
        run(opened, big("A", LARGE + b"A"), big("a", LARGE + b"a"), nodes=nodes)
        assert len({name.lower() for name in names_in(ckpt)}) == 5
        made = begin(opened, nodes)
        assert set(made.ledger.lost) == set()
        assert (bytes(made.load("A"))[-1:], bytes(made.load("a"))[-1:]) == (b"A", b"a")

    def test_a_result_is_not_lost_when_a_rival_joins_the_dag(self, opened):
        run(opened, big("A"), nodes=["A"])
        made = begin(opened, ["A", "a"])
        assert set(made.ledger.lost) == set()
        assert bytes(made.load("A")) == LARGE

    def test_a_result_is_not_lost_when_its_rival_leaves_the_dag_unfinished(self, opened):
        run(opened, big("A"), nodes=["A", "a"])
        made = begin(opened, ["A"])
        assert set(made.ledger.lost) == set()
        assert bytes(made.load("A")) == LARGE

    def test_a_result_is_not_lost_because_an_older_checkpoint_had_a_rival(self, opened):
        run(opened, big("A"), small("a", 1), nodes=["A", "a"])
        run(opened, big("A"), nodes=["A"], fresh=True)
        made = begin(opened, ["A"])
        assert set(made.ledger.lost) == set()
        assert bytes(made.load("A")) == LARGE

    def test_clearing_removes_the_file_of_one_whose_rival_never_completed(self, opened, ckpt):
        run(opened, big("A"), nodes=["A", "a"])
        executor(ckpt).clear_checkpoint()
        assert names_in(ckpt) - {LOCK} == set()

    def test_clearing_a_checkpoint_without_its_journal_removes_both(self, opened, ckpt):
        run(opened, big("A"), big("a"), nodes=["A", "a"])
        (ckpt / JOURNAL).unlink()
        executor(ckpt).clear_checkpoint()
        assert names_in(ckpt) - {LOCK} == set()


class CaseInsensitive:
    """Stands in for `os` in `files`: entries are found whatever their case, and keep the case they were made with."""

    def __getattr__(self, name):
        return getattr(os, name)

    @staticmethod
    def _entry(path):
        directory, wanted = os.path.split(path)
        for entry in os.listdir(directory):
            if entry.lower() == wanted.lower():
                return os.path.join(directory, entry)
        return path

    def open(self, path, *args):
        return os.open(self._entry(path), *args)

    def unlink(self, path):
        os.unlink(self._entry(path))

    def replace(self, old, new):
        if os.path.lexists(there := self._entry(new)):
            os.unlink(there)
        os.replace(old, new)


class TestOnAFileSystemThatIgnoresCase:
    @pytest.fixture(autouse=True)
    def ignore_case(self, monkeypatch):
        stand_in(monkeypatch, CaseInsensitive())

    @pytest.mark.parametrize("new", [small("load", "new"), big("load", LARGE[::-1])], ids=["to small", "to large"])
    @pytest.mark.parametrize("old", [small("Load", "old"), big("Load")], ids=["small", "large"])
    def test_a_fresh_start_keeps_the_result_of_a_node_that_changed_its_case(self, opened, ckpt, old, new):
        run(opened, old, nodes=["Load"])
        run(opened, new, nodes=["load"], fresh=True)
        assert names_in(ckpt) == {"load.pkl", *OUR_OWN}
        made = begin(opened, ["load"])
        assert set(made.ledger.lost) == set()
        made.write_copies()
        expected = pickle.dumps("new", 5) if not callable(new) else LARGE[::-1]
        assert bytes(made.load("load")) == (ckpt / "load.pkl").read_bytes() == expected

    @pytest.mark.parametrize("value", [small("load", "new"), big("load", LARGE[::-1])], ids=["small", "large"])
    def test_a_resume_keeps_the_result_of_a_node_whose_rival_no_longer_applies(self, opened, value):
        made = begin(opened, ["Load"])
        made.commit([small("Load", "old")])
        made.write_copies()
        made.invalidate(["Load"], "changed")
        made.close()
        run(opened, value, nodes=["Load", "load"])
        made = begin(opened, ["Load", "load"])
        assert set(made.ledger.lost) == set()
        assert digest(made.load("load")) == made.commit_of("load").digest

    def test_rivals_that_come_one_after_the_other_never_share_a_file(self, opened):
        nodes = ["load", "Load", "LOAD", "lOAD"]
        for n in range(1, 5):
            run(opened, big(nodes[n - 1], nodes[n - 1].encode() * 5000), nodes=nodes[:n])
        made = begin(opened, nodes)
        assert set(made.ledger.lost) == set()
        assert {name: bytes(made.load(name))[:4].decode() for name in nodes} == {name: name for name in nodes}

    def test_clearing_removes_everything(self, opened, ckpt):
        run(opened, big("Load"), small("a", 1), nodes=["Load", "a"])
        run(opened, big("load"), big("A"), nodes=["Load", "load", "a", "A"])
        executor(ckpt).clear_checkpoint()
        assert names_in(ckpt) - {LOCK} == set()


# --- clearing ----------------------------------------------------------------------------------------------------


class TestClearing:
    def test_it_removes_what_is_ours_and_leaves_everything_else(self, opened, ckpt):
        run(opened, small("a", 1), big("b"), small("c/d", 1), nodes=["a", "b", "c/d"])
        (ckpt / "_dagron-1.tmp").write_bytes(b"left by a crash")
        (ckpt / "sub").mkdir()
        theirs = {"theirs.pkl", "notes.txt", "_journal.bak", "x_meta.json"}
        for name in theirs:
            (ckpt / name).write_bytes(b"theirs")
        before = contents(ckpt)
        executor(ckpt).clear_checkpoint()
        after = contents(ckpt)
        assert set(after) == theirs | {"sub"}
        assert all(after[name] == before[name] for name in theirs)
        assert info(ckpt) is None

    def test_without_a_checkpoint_it_does_nothing(self, ckpt):
        executor(ckpt).clear_checkpoint()
        assert not ckpt.exists()
        ckpt.mkdir()
        (ckpt / "theirs.pkl").write_bytes(b"theirs")
        before = contents(ckpt)
        executor(ckpt).clear_checkpoint()
        assert contents(ckpt) == before

    def test_files_of_an_older_checkpoint_that_a_killed_run_superseded_go_too(self, opened, ckpt):
        run(opened, small("a", 1), big("b"))
        run(opened, nodes=["x"], fresh=True, end=False)
        executor(ckpt).clear_checkpoint()
        assert names_in(ckpt) == set()

    @pytest.mark.parametrize("lost", [False, True])
    def test_files_of_commits_that_no_longer_apply_go_too(self, opened, ckpt, lost):
        made = begin(opened)
        made.commit([small("a", 1), large(ckpt, "b")])
        made.write_copies()
        made.invalidate(["a", "b"], "no longer right", lost=lost)
        made.close()
        executor(ckpt).clear_checkpoint()
        assert names_in(ckpt) == set()

    def test_the_file_of_a_node_that_failed_after_it_had_completed_goes_too(self, opened, ckpt):
        made = begin(opened)
        made.commit([large(ckpt, "b")])
        made.fail([Failed("b")])
        made.close()
        executor(ckpt).clear_checkpoint()
        assert names_in(ckpt) == set()

    def test_a_large_result_whose_record_was_not_written_goes_too(self, opened, ckpt, monkeypatch):
        made = begin(opened)
        pending = large(ckpt, "b")
        with monkeypatch.context() as patched:
            patched.setattr(AppendFile, "append", lambda self, data: raise_(Killed()))
            with pytest.raises(Killed):
                made.commit([pending])
        made.close()
        executor(ckpt).clear_checkpoint()
        assert names_in(ckpt) == set()

    def interrupted(self, opened, ckpt, monkeypatch, after, prepare=lambda: None):
        """A checkpoint whose clearing dies after some removals; whether it did."""
        run(opened, small("a", 1), big("b"), small("c", 1))
        (ckpt / "_dagron-1.tmp").write_bytes(b"left by a crash")
        (ckpt / "theirs.txt").write_bytes(b"theirs")
        prepare()
        left = after

        def remove(self, name, real=Directory.remove):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            real(self, name)

        with monkeypatch.context() as patched:
            patched.setattr(Directory, "remove", remove)
            try:
                executor(ckpt).clear_checkpoint()
            except Killed:
                return True
        return False

    @pytest.mark.parametrize("how", ["intact", "header damaged", "journal missing", "cleared before"])
    @pytest.mark.parametrize("then", ["clear", "execute", "resume"])
    def test_interrupted_after_any_removal_every_way_on_works(self, opened, ckpt, monkeypatch, how, then):
        def prepare():
            if how == "header damaged":
                scribble(ckpt / JOURNAL, 20)
            elif how == "journal missing":
                (ckpt / JOURNAL).unlink()
            elif how == "cleared before":
                with monkeypatch.context() as patched:
                    patched.setattr(Directory, "remove", lambda self, name: raise_(Killed()))
                    with pytest.raises(Killed):
                        executor(ckpt).clear_checkpoint()

        after = 0
        while self.interrupted(opened, ckpt, monkeypatch, after, prepare):
            damaged = how in ("header damaged", "journal missing")
            if not damaged:
                assert info(ckpt) is None, "from its first removal on there is no checkpoint"
            if then == "clear" or damaged:
                executor(ckpt).clear_checkpoint()
                assert info(ckpt) is None
                assert names_in(ckpt) - {LOCK} == {"theirs.txt"}, f"after {after} removals"
            if then != "clear":
                assert execute(ckpt, then).restored == 0
                assert names_in(ckpt) == {"a.pkl", "b.pkl", "theirs.txt", *OUR_OWN}, f"after {after} removals"
            assert (ckpt / "theirs.txt").read_bytes() == b"theirs"
            shutil.rmtree(ckpt)
            after += 1
        assert after >= 6

    def test_a_damaged_header_is_an_error_and_clearing_works_by_the_meta_file(self, opened, ckpt):
        execute(ckpt)
        (ckpt / "theirs.txt").write_bytes(b"theirs")
        scribble(ckpt / JOURNAL, 20)
        before = contents(ckpt)
        for use in (lambda: execute(ckpt), lambda: execute(ckpt, "resume"), lambda: info(ckpt)):
            with pytest.raises(dagron.CheckpointDamagedError, match=JOURNAL) as caught:
                use()
            assert caught.value.offset == 0
            assert contents(ckpt) == before
        executor(ckpt).clear_checkpoint()
        assert names_in(ckpt) == {"theirs.txt"}
        execute(ckpt)

    def test_a_missing_journal_is_an_error_that_says_what_to_do(self, ckpt):
        execute(ckpt)
        (ckpt / JOURNAL).unlink()
        before = contents(ckpt)
        for how in ("execute", "resume"):
            with pytest.raises(dagron.CheckpointDamagedError, match=r"missing.*clear_checkpoint"):
                execute(ckpt, how)
        assert contents(ckpt) == before
        executor(ckpt).clear_checkpoint()
        assert names_in(ckpt) == set()
        execute(ckpt)

    def test_a_damaged_header_of_a_run_that_was_killed_is_cleared_too(self, opened, ckpt):
        # The meta file is written now and then, so it lags behind in a run that was killed.
        run(opened, small("a", 1), big("b"), end=False)
        scribble(ckpt / JOURNAL, 40)
        executor(ckpt).clear_checkpoint()
        assert names_in(ckpt) - {LOCK} == set()
        execute(ckpt)

    def test_it_never_removes_what_the_meta_file_only_pretends_to_be_ours(self, opened, ckpt, tmp_path):
        run(opened, small("a", 1))
        (tmp_path / "victim.pkl").write_bytes(b"precious")
        (ckpt / JOURNAL).unlink()
        names = ["../victim", str(tmp_path / "victim"), "", ".."]
        meta = {"completed_nodes": names, "special_files": {}, "checkpoint_id": "00" * 16}
        for wrong in ({"completed_nodes": [3]}, {"special_files": {"a": "../victim.pkl"}}, {"checkpoint_id": 1}):
            (ckpt / META).write_text(json.dumps({**meta, **wrong}))
            with pytest.raises(dagron.CheckpointDamagedError):
                executor(ckpt).clear_checkpoint()
        (ckpt / META).write_text(json.dumps(meta))
        executor(ckpt).clear_checkpoint()
        assert (tmp_path / "victim.pkl").read_bytes() == b"precious"


def raise_(error):
    raise error


# --- refusals ----------------------------------------------------------------------------------------------------


def every_use(ckpt, **options):
    return {
        "execute": lambda: execute(ckpt, **options),
        "resume": lambda: execute(ckpt, "resume", **options),
        "checkpoint_info": lambda: info(ckpt, **options),
        "clear_checkpoint": lambda: executor(ckpt, **options).clear_checkpoint(),
    }


class TestRefusals:
    @pytest.mark.parametrize("how", ["execute", "resume"])
    def test_a_directory_with_files_of_other_people_and_no_checkpoint(self, ckpt, how):
        ckpt.mkdir()
        for i in range(20):
            (ckpt / f"model-{i}.pkl").write_bytes(b"theirs")
        (ckpt / "notes.txt").write_bytes(b"theirs")
        before = contents(ckpt)
        with pytest.raises(dagron.ForeignFilesError, match=r"20 .*model-0\.pkl"):
            execute(ckpt, how)
        assert contents(ckpt) == before
        assert info(ckpt) is None

    def test_other_files_alone_are_no_obstacle_and_stay(self, ckpt):
        ckpt.mkdir()
        (ckpt / "notes.txt").write_bytes(b"theirs")
        execute(ckpt)
        executor(ckpt).clear_checkpoint()
        assert contents(ckpt)["notes.txt"][-1] == b"theirs"
        assert names_in(ckpt) == {"notes.txt"}

    @pytest.mark.parametrize("use", ["execute", "resume", "checkpoint_info", "clear_checkpoint"])
    @pytest.mark.parametrize(
        ("at", "header", "told"),
        [
            (
                8,
                struct.pack("<I", 7),
                "format 7, .*reads format 1 only; nothing was changed; upgrade dagron, or use an",
            ),
            (0, b"dagronJ\n", "format 0, .*reads format 1 only; nothing was changed; go on with the older dagron that"),
        ],
        ids=["newer", "older"],
    )
    def test_a_checkpoint_of_another_version(self, ckpt, use, at, header, told, monkeypatch):
        execute(ckpt)
        scribble(ckpt / JOURNAL, at, header)
        (ckpt / LOCK).unlink()
        before = contents(ckpt)
        monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("something was unpickled"))
        with pytest.raises(dagron.FormatVersionError, match=told):
            every_use(ckpt)[use]()
        assert contents(ckpt) == before

    def test_a_file_that_has_the_escaped_name_of_a_node_is_somebody_elses_whatever_a_node_is_called(self, opened, ckpt):
        # A node may be called like the escaped name of another, and is not in that file itself.
        run(opened, small("a%2fb", 1), nodes=["a%2fb"])
        assert "a%252fb.pkl" in names_in(ckpt)
        (ckpt / "a%2fb.pkl").write_bytes(b"theirs")
        with pytest.raises(dagron.ForeignFilesError, match="a%2fb"):
            begin(opened, ["a%2fb", "a/b"])
        assert (ckpt / "a%2fb.pkl").read_bytes() == b"theirs"

    @pytest.mark.parametrize("use", ["execute", "resume", "checkpoint_info", "clear_checkpoint"])
    def test_a_file_in_the_place_of_the_directory(self, ckpt, use):
        ckpt.write_bytes(b"theirs")
        with pytest.raises(dagron.CheckpointDirectoryError, match="file, not a directory"):
            every_use(ckpt)[use]()
        assert ckpt.read_bytes() == b"theirs"

    @pytest.mark.parametrize("use", ["execute", "resume"])
    def test_a_file_above_the_directory(self, tmp_path, use):
        (tmp_path / "file").write_bytes(b"theirs")
        with pytest.raises(dagron.CheckpointDirectoryError, match=r"'.*/file' is a file"):
            every_use(tmp_path / "file" / "deep" / "ckpt")[use]()

    def test_a_file_above_the_directory_holds_no_checkpoint(self, tmp_path):
        (tmp_path / "file").write_bytes(b"theirs")
        assert info(tmp_path / "file" / "ckpt") is None

    @pytest.mark.parametrize("use", ["execute", "resume", "checkpoint_info", "clear_checkpoint"])
    @pytest.mark.parametrize("kind", ["directory", "fifo", "link"])
    def test_something_else_in_the_place_of_the_journal(self, ckpt, tmp_path, use, kind):
        execute(ckpt)
        (ckpt / JOURNAL).rename(tmp_path / "moved")
        if kind == "directory":
            (ckpt / JOURNAL).mkdir()
        elif kind == "fifo":
            os.mkfifo(ckpt / JOURNAL)
        else:
            (ckpt / JOURNAL).symlink_to(tmp_path / "moved")
        before, journal = contents(ckpt), (tmp_path / "moved").read_bytes()
        with pytest.raises(dagron.CheckpointDirectoryError, match=JOURNAL):
            every_use(ckpt)[use]()
        assert (contents(ckpt), (tmp_path / "moved").read_bytes()) == (before, journal)

    @pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
    @pytest.mark.parametrize("name", [".", JOURNAL])
    @pytest.mark.parametrize("use", ["execute", "resume"])
    def test_one_that_everyone_may_write_unless_it_is_allowed(self, ckpt, name, use):
        execute(ckpt)
        mode = (ckpt / name).stat().st_mode
        (ckpt / name).chmod(mode | stat.S_IWOTH)
        before = contents(ckpt)
        with pytest.raises(dagron.CheckpointDirectoryError, match=r"writable by everyone.*allow_untrusted=True"):
            every_use(ckpt)[use]()
        assert contents(ckpt) == before
        every_use(ckpt, allow_untrusted=True)[use]()

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
    @pytest.mark.parametrize("name", [".", JOURNAL])
    @pytest.mark.parametrize("use", ["execute", "resume"])
    def test_one_of_another_user_unless_it_is_allowed(self, ckpt, name, use):
        execute(ckpt)
        os.chown(ckpt / name, 12345, -1)
        before = contents(ckpt)
        with pytest.raises(dagron.CheckpointDirectoryError, match=r"user 12345.*allow_untrusted=True"):
            every_use(ckpt)[use]()
        assert contents(ckpt) == before
        every_use(ckpt, allow_untrusted=True)[use]()

    def test_a_link_to_the_directory_is_the_directory(self, ckpt, tmp_path):
        execute(ckpt)
        (tmp_path / "link").symlink_to(ckpt)
        assert execute(tmp_path / "link", "resume").restored == 2


# --- one writer, many readers --------------------------------------------------------------------------------------


def script(text, *args):
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, args)],
        env={**os.environ, "PYTHONPATH": SRC},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


WRITER = """
import pickle, sys
from pathlib import Path
from blake3 import blake3
from dagron.checkpoint.format.commits import Commit
from dagron.figures import Figures
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.writing.committing import PendingCommit
from dagron.checkpoint.writing.store import CheckpointStore

def small(name, value):
    data = pickle.dumps(value)
    digest = blake3(data).digest()
    commit = Commit(name, 0, 0, 1, len(data), digest, bytes(16), Figures(1.0, 0.5, 0.25, 0.0, 4096))
    return PendingCommit(commit, data, "")

def opened():
    store = CheckpointStore(Path(sys.argv[1]), durability="process")
    store.open()
    return store
"""

HOLDER = (
    WRITER
    + """
store = opened()
store.begin(fresh=False, nodes=["a"], structure=bytes(16))
store.commit([small("a", 1)])
print("held", flush=True)
sys.stdin.read()
"""
)

BUSY_WRITER = (
    WRITER
    + """
nodes = [f"n{i}" for i in range(400)]
store = opened()
store.begin(fresh=False, nodes=nodes, structure=bytes(16))
print("begun", flush=True)
at = 0
while at < len(nodes):
    group = nodes[at : at + 1 + at % 7]
    store.commit([small(name, name * 50) for name in group])
    store.tend()
    at += len(group)
store.end()
store.close()
"""
)

RESTLESS_WRITER = (
    WRITER
    + """
print("begun", flush=True)
for i in range(60):
    store = opened()
    if i % 3 == 2:
        store.clear()
    else:
        store.begin(fresh=True, nodes=["n0", "n1"], structure=bytes(16))
        store.commit([small("n0", i)])
        store.commit([small("n1", i)])
        store.end()
    store.close()
"""
)


class TestOneWriter:
    def test_a_second_one_is_told_who_holds_it_and_gets_it_when_the_holder_dies(self, opened, ckpt):
        process = script(HOLDER, ckpt)
        try:
            assert process.stdout.readline() == "held\n"
            before = contents(ckpt)
            for use in ("execute", "resume", "clear_checkpoint"):
                with pytest.raises(dagron.CheckpointLockedError) as caught:
                    every_use(ckpt)[use]()
                error = caught.value
                assert (error.path, error.pid, error.host) == (str(ckpt), process.pid, socket.gethostname())
                assert datetime.fromisoformat(error.since).tzinfo is not None
                assert f"process {process.pid} on {error.host}, since {error.since}" in str(error)
            assert contents(ckpt) == before
            assert info(ckpt).completed_nodes == ["a"], "readers need no lock"
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert values(begin(opened)) == {"a": 1}
        finally:
            process.kill()
            process.communicate()

    def test_a_holder_that_has_not_begun_is_not_confused_with_the_run_before(self, opened, ckpt):
        run(opened, small("a", 1))
        made = opened()
        with pytest.raises(dagron.CheckpointLockedError, match="another run") as caught:
            execute(ckpt)
        assert caught.value.pid is None
        made.close()
        execute(ckpt)

    def test_a_refusal_or_a_failure_to_open_leaves_the_lock_free(self, ckpt):
        execute(ckpt)
        journal = (ckpt / JOURNAL).read_bytes()
        found = read_ledger(Directory(ckpt))
        nonsense = RecordWriter(found.checkpoint_id, Digests(), found.sequence).frame(
            Kind.INVALIDATED, b'{"at": "soon"}'
        )
        (ckpt / JOURNAL).write_bytes(journal + nonsense)
        for use in ("execute", "resume"):
            with pytest.raises(dagron.CheckpointDamagedError):
                every_use(ckpt)[use]()
        (ckpt / JOURNAL).write_bytes(journal)
        assert execute(ckpt, "resume").restored == 2

    def test_close_is_safe_in_any_state_and_twice(self, opened, ckpt):
        made = CheckpointStore(ckpt)
        made.close()
        made.open()
        made.close()
        made.close()
        again = begin(opened)
        again.close()
        again.close()
        run(opened, small("a", 1))


class TestReaders:
    def test_beside_a_busy_writer_they_see_a_growing_prefix_and_never_an_error(self, ckpt):
        process = script(BUSY_WRITER, ckpt)
        try:
            assert process.stdout.readline() == "begun\n"
            expected = [f"n{i}" for i in range(400)]
            n, seen = 0, set()
            while n < 400:
                running = process.poll() is None
                found = info(ckpt)
                assert found.completed_nodes == expected[: len(found.completed_nodes)]
                assert len(found.completed_nodes) >= n
                assert (found.total_nodes, found.failed_nodes) == (400, [])
                n = len(found.completed_nodes)
                seen.add(n)
                assert running or n == 400, "the writer ended early"
            assert len(seen) > 1
        finally:
            process.communicate()
        assert process.returncode == 0

    def test_beside_a_writer_that_starts_afresh_and_clears_they_see_one_or_none_and_never_an_error(self, ckpt):
        process = script(RESTLESS_WRITER, ckpt)
        try:
            assert process.stdout.readline() == "begun\n"
            while process.poll() is None:
                found = info(ckpt)
                assert found is None or found.completed_nodes == ["n0", "n1"][: len(found.completed_nodes)]
        finally:
            process.communicate()
        assert process.returncode == 0

    def test_a_checkpoint_that_appears_while_they_look_is_not_a_damaged_one(self, opened, ckpt, monkeypatch):
        ckpt.mkdir()

        def open_to_read(self, name, real=Directory.open_to_read):
            try:
                return real(self, name)
            except FileNotFoundError:
                monkeypatch.undo()
                run(opened, small("a", 1))  # just now another process begins, and writes journal and meta file
                raise

        monkeypatch.setattr(Directory, "open_to_read", open_to_read)
        found = info(ckpt)
        assert found is None or found.completed_nodes == ["a"]

    def test_they_change_nothing_and_make_no_directory(self, ckpt, opened):
        assert info(ckpt) is None
        assert not ckpt.exists()
        run(opened, small("a", 1), end=False)
        with (ckpt / JOURNAL).open("ab") as file:
            file.write(b"\xb7DG\xc3 torn")
        before = contents(ckpt)
        assert info(ckpt).completed_nodes == ["a"]
        assert contents(ckpt) == before

    def test_what_they_tell_is_what_was_asked_for(self, opened, ckpt):
        made = begin(opened)
        made.commit([small("a", 1)])
        made.fail([Failed("b")])
        found = info(ckpt)
        assert found.checkpoint_dir == str(ckpt)
        assert (found.completed_nodes, found.failed_nodes, found.total_nodes) == (["a"], ["b"], 3)
        assert datetime.fromisoformat(found.timestamp).tzinfo is not None


# --- signing -----------------------------------------------------------------------------------------------------


class Canary:
    """Unpickled it leaves a file behind."""

    def __init__(self, path, size=0):
        self.path, self.size = str(path), size

    def __reduce__(self):
        return _sing, (self.path, bytes(self.size))


def _sing(path, padding):
    with open(path, "a") as file:
        file.write("unpickled\n")


class TestSigning:
    KEY, WRONG = b"a key", b"another key"

    @pytest.fixture
    def canary(self, tmp_path):
        path = tmp_path / "canary"
        yield path
        assert not path.exists(), "something was unpickled"

    def sign(self, ckpt, canary, key=KEY):
        tasks = {"a": lambda: Canary(canary), "b": lambda: Canary(canary, 50_000)}
        assert executor(ckpt, signing_key=key).execute(tasks).succeeded == 2
        return tasks

    def test_its_checkpoint_resumes_with_the_key_from_either_place(self, ckpt, canary, monkeypatch):
        tasks = self.sign(ckpt, canary)
        assert executor(ckpt, signing_key=self.KEY).resume(tasks).restored == 2
        monkeypatch.setenv("DAGRON_SIGNING_KEY", self.KEY.decode())
        assert executor(ckpt).resume(tasks).restored == 2
        assert executor(ckpt).checkpoint_info().completed_nodes == ["a", "b"]

    @pytest.mark.parametrize("key", [WRONG, None])
    def test_with_another_key_or_none_it_is_refused_before_anything_is_unpickled(self, ckpt, canary, key):
        tasks = self.sign(ckpt, canary)
        before = contents(ckpt)
        for use in ("execute", "resume"):
            with pytest.raises(dagron.CheckpointDamagedError, match="signing key"):
                getattr(executor(ckpt, signing_key=key), use)(tasks)
        with pytest.raises(dagron.CheckpointDamagedError, match="signing key"):
            executor(ckpt, signing_key=key).checkpoint_info()
        assert contents(ckpt) == before

    def test_an_unsigned_one_is_refused_if_a_key_is_given(self, ckpt, canary):
        tasks = self.sign(ckpt, canary, None)
        with pytest.raises(dagron.CheckpointDamagedError, match="not signed"):
            executor(ckpt, signing_key=self.KEY).resume(tasks)

    def test_a_result_that_somebody_exchanged_is_not_unpickled(self, ckpt, canary):
        dag = DAG.builder().add_edge("a", "b").build()

        def resumed(b):
            tasks = {"a": lambda: LARGE, "b": b}
            return CheckpointExecutor(dag, ckpt, pool="inline", durability="process", signing_key=self.KEY).resume(
                tasks
            )

        resumed(lambda a: 1 / 0)
        size = (ckpt / "a.pkl").stat().st_size
        forged = pickle.dumps(Canary(canary, size - 500), 5)
        (ckpt / "a.pkl").write_bytes(forged + bytes(size - len(forged)))
        result = resumed(lambda a: len(a))
        assert isinstance(result["b"].error, dagron.CheckpointDamagedError)
        with pytest.raises(dagron.ResultUnavailableError, match=r"a\.pkl"):
            _ = result["a"].result
        assert resumed(lambda a: len(a))["b"].result == len(LARGE)

    def test_the_digest_without_the_key_is_worth_nothing(self, opened, ckpt, canary):
        forged = pickle.dumps(Canary(canary), 5)
        made = begin(opened, signing_key=self.KEY)
        made.commit([PendingCommit(commit_fields("a", forged, Storage.INLINE), forged, "")])
        made.end()
        made.close()
        with pytest.raises(dagron.CheckpointDamagedError, match="digest"):
            begin(opened, signing_key=self.KEY).load("a")

    def test_the_key_is_written_nowhere(self, ckpt, canary):
        key = b"0123456789abcdef" * 4
        self.sign(ckpt, canary, key)
        for name, (*_, data) in contents(ckpt).items():
            assert key not in data, name
            assert blake3(key).digest() not in data, name

    def test_a_long_key_counts_to_its_last_byte(self, ckpt, canary):
        tasks = self.sign(ckpt, canary, b"k" * 1000)
        with pytest.raises(dagron.CheckpointDamagedError, match="signing key"):
            executor(ckpt, signing_key=b"k" * 999 + b"l").resume(tasks)
        assert executor(ckpt, signing_key=b"k" * 1000).resume(tasks).restored == 2

    def test_its_clearing_needs_the_key_no_more_than_rm_does(self, ckpt, canary):
        self.sign(ckpt, canary)
        executor(ckpt).clear_checkpoint()
        assert names_in(ckpt) == set()
