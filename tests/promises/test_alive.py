"""Whether a run goes on is known from its lock: not guessed from its process id, the host's name or the clock."""

import ctypes
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time

import pytest
from places import SRC
from waiting import wait_for

import dagron
from dagron import DAG, CheckpointExecutor, ExecutionCallbacks
from dagron.checkpoint.files import marks
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.locks import DirectoryLock
from dagron.checkpoint.files.mounts import is_shared
from dagron.checkpoint.format.names import LOCK
from dagron.checkpoint.writing import store
from dagron.cli.place import Place
from dagron.cli.reading import read_checkpoint
from dagron.looking.nodes import running_now
from dagron.looking.opening import state_of_run
from dagron.looking.status import checkpoint_status


def execute(ckpt, *steps):
    """Run a node for each step, which is called when that starts."""
    tasks = {name: lambda: 1 for name, _ in zip("abc", steps, strict=False)}
    callbacks = ExecutionCallbacks(on_start=lambda name: steps["abc".index(name)]())
    options = {"pool": "inline", "durability": "process", "callbacks": callbacks}
    return CheckpointExecutor(DAG(list(tasks)), ckpt, **options).execute(tasks)


def interrupt():
    raise KeyboardInterrupt


def state(ckpt):
    return checkpoint_status(ckpt).state


CLOCKS = {"1970": 0.0, "before 1970": -86_400.0, "2100": 4_102_444_800.0}


class TestByTheLock:
    def test_it_goes_on_until_it_ends_or_is_interrupted_whatever_the_process_does_then(self, ckpt):
        seen = []
        execute(ckpt, lambda: seen.append(state(ckpt)))
        assert seen == ["running"]
        assert state(ckpt) == "finished"
        with pytest.raises(KeyboardInterrupt):
            execute(ckpt, interrupt)
        assert state(ckpt) == "interrupted", "although this process, which made it, is there"

    @pytest.mark.parametrize("clock", CLOCKS)
    def test_neither_host_nor_process_nor_clock_matter(self, ckpt, monkeypatch, clock):
        seen = []
        monkeypatch.setattr(platform, "node", lambda: "another-host")
        monkeypatch.setattr(time, "time", lambda: CLOCKS[clock])
        monkeypatch.setattr(store.os, "getpid", lambda: 4_194_305)  # above what Linux gives
        with pytest.raises(KeyboardInterrupt):
            execute(ckpt, lambda: seen.append(state(ckpt)), interrupt)
        monkeypatch.undo()
        assert seen == ["running"]
        assert state(ckpt) == "interrupted"

    def test_a_ledger_that_was_read_before_the_end_is_no_reason_to_call_it_interrupted(self, ckpt):
        ledgers = []
        execute(ckpt, lambda: ledgers.append(read_checkpoint(Place(str(ckpt)))))
        assert ledgers[0].ended is None
        assert state_of_run(Directory(ckpt), ledgers[0], None) == "finished"
        assert [*ledgers[0].commits] == ["a"]

    def test_whoever_holds_the_directory_for_something_else_is_no_run(self, ckpt):
        with pytest.raises(KeyboardInterrupt):
            execute(ckpt, interrupt)
        holder = store.CheckpointStore(ckpt)
        holder.open()
        try:
            assert state(ckpt) == "interrupted"
            holder.begin(fresh=False, nodes=["a"], structure=bytes(16))
            assert state(ckpt) == "running"
        finally:
            holder.close()
        assert state(ckpt) == "interrupted"

    def test_looking_disturbs_no_writer_that_begins(self, ckpt):
        ckpt.mkdir()
        lock, done = DirectoryLock(ckpt / LOCK), threading.Event()

        def look():
            while not done.is_set():
                marks.is_marked(ckpt, LOCK)

        looker = threading.Thread(target=look)
        looker.start()
        try:
            for _ in range(300):
                assert lock.acquire()
                lock.mark()
                lock.release()
        finally:
            done.set()
            looker.join()

    @pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
    def test_a_child_that_lives_on_does_not_keep_it_going(self, ckpt):
        children = []

        def fork():
            read, write = os.pipe()
            # Behind Python's back, as C code forks: the child does not let go of the lock.
            if not (pid := ctypes.PyDLL(None).fork()):
                os.close(write)
                os.read(read, 1)
                os._exit(0)
            os.close(read)
            children.append((pid, write))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            execute(ckpt, fork)
        try:
            assert state(ckpt) == "interrupted"
        finally:
            for pid, write in children:
                os.close(write)
                os.waitpid(pid, 0)

    def test_of_another_machine_it_is_known_if_the_file_system_hands_its_locks_on(self, ckpt, monkeypatch):
        with pytest.raises(KeyboardInterrupt):
            execute(ckpt, interrupt)
        monkeypatch.setattr("dagron.looking.opening.boot_id", lambda: "another")
        assert state(ckpt) == "interrupted", "on a file system of this machine alone"
        monkeypatch.setattr("dagron.looking.opening.is_shared", lambda directory: True)
        assert state(ckpt) == "running or interrupted"
        if not marks.HAS_MARKS:
            return
        with open(ckpt / LOCK, "w") as file:  # as NFS shows a lock of another client
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, marks._MARK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            assert state(ckpt) == "running"

    @pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "lustre", "ext4", "tmpfs"])
    def test_a_file_system_that_machines_share_is_known_by_its_kind(self, tmp_path, kind):
        device = os.stat(tmp_path).st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        mounts = tmp_path / "mountinfo"
        mounts.write_text(
            f"21 1 0:99 / / rw - nfs4 x rw\n22 1 {number} / /a\\040b rw shared:1 master:2 - {kind} x rw\n"
        )
        assert is_shared(tmp_path, str(mounts)) == (kind not in ("ext4", "tmpfs"))

    def test_what_another_run_with_the_same_process_id_has_said_it_runs_is_not_shown(self, ckpt):
        meta = []

        def keep():
            meta.append((ckpt / "_meta.json").read_text())

        execute(ckpt, keep)
        old = {**json.loads(meta[0]), "running": [{"node": "b", "slot": 0, "started_unix": 1.0, "memory_bytes": 1}]}

        def look():
            ledger = read_checkpoint(Place(str(ckpt)))
            (ckpt / "_meta.json").write_text(json.dumps({**old, "checkpoint_id": ledger.checkpoint_id.hex()}))
            meta.append(running_now(Directory(ckpt), ledger, None))

        execute(ckpt, look, lambda: 1)
        assert meta[1] == []

    def test_what_failed_in_this_run_runs_no_more_whatever_the_clock_says(self, ckpt, monkeypatch):
        seen = []

        def look():
            ledger = read_checkpoint(Place(str(ckpt)))
            run = {"pid": ledger.run.pid, "started": dagron.shown.iso_time(ledger.run.at)}
            running = [{"node": n, "slot": 0, "started_unix": 9e9, "memory_bytes": 1} for n in "ab"]
            said = {"checkpoint_id": ledger.checkpoint_id.hex(), "run": run, "running": running, "preparing": []}
            (ckpt / "_meta.json").write_text(json.dumps(said))
            seen.append([now.name for now in running_now(Directory(ckpt), ledger, None)])

        tasks = {"a": lambda: 1 / 0, "b": lambda: 1}
        callbacks = ExecutionCallbacks(on_start=lambda name: look())
        dag = DAG(list(tasks), [("a", "b")])  # so that the one has failed when the other starts
        executor = CheckpointExecutor(dag, ckpt, pool="inline", callbacks=callbacks, fail_fast=False)
        executor.execute(tasks)
        executor.resume(tasks)
        assert seen == [["a", "b"], ["b"], ["a"]]


class TestClockSteps:
    @pytest.mark.parametrize("second", CLOCKS)
    @pytest.mark.parametrize("first", CLOCKS)
    def test_they_change_no_decision(self, ckpt, monkeypatch, first, second):
        runs, works = [], ckpt.with_name("works")

        def sometimes(a):
            if not works.exists():
                raise ValueError

        tasks = {"a": lambda: 1, "b": sometimes, "c": lambda b: 1, "d": lambda a: 1}
        callbacks = ExecutionCallbacks(on_start=runs.append)
        executor = CheckpointExecutor(
            DAG.from_tasks(tasks), ckpt, pool="inline", retries=1, retry_delay=0, callbacks=callbacks
        )
        monkeypatch.setattr(time, "time", lambda: CLOCKS[first])
        executor.execute(tasks)
        assert sorted(runs) == ["a", "b", "b", "d"]
        monkeypatch.setattr(time, "time", lambda: CLOCKS[second])
        assert state(ckpt) == "finished"
        works.touch()
        assert executor.resume(tasks, run_timeout=60).ok
        assert runs[4:] == ["b", "c"]
        status = checkpoint_status(ckpt)
        assert (status.state, status.completed, status.runs) == ("finished", 4, 2)


JOB = """
import sys, time, dagron

def work():
    open(sys.argv[2], "w").close()
    time.sleep(600)

dagron.CheckpointExecutor(dagron.DAG(["a"]), sys.argv[1], max_workers=1).execute({"a": work})
"""
WATCH = [sys.executable, "-m", "dagron", "status", "--watch", "--interval", "0.1"]
CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
CONTAINER += [] if os.geteuid() == 0 else ["--map-root-user"]


def no_containers():
    if shutil.which("unshare") is None:
        return "there is no unshare"
    probe = subprocess.run([*CONTAINER, "true"], capture_output=True, text=True)
    return probe.stderr.strip()


class TestAcrossContainers:
    """Of the same host name, as with `docker restart`, hostNetwork or `apptainer --pid`; each has pids of its own."""

    @pytest.fixture(autouse=True)
    def container(self):
        if problem := no_containers():
            pytest.skip(f"no namespace of process ids: {problem}")

    def start(self, ckpt, *around):
        began = ckpt.with_name("began")
        env = {**os.environ, "PYTHONPATH": SRC}
        command = [*around, sys.executable, "-c", JOB, str(ckpt), str(began)]
        process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
        wait_for(began.exists)
        return process

    def watch(self, ckpt, *around):
        env = {**os.environ, "PYTHONPATH": SRC}
        return subprocess.Popen([*around, *WATCH, str(ckpt)], env=env, stdout=subprocess.PIPE, text=True)

    @pytest.mark.parametrize("inside", ["the run", "who looks"])
    def test_it_is_right_from_inside_and_from_outside_and_watching_ends_with_the_run(self, ckpt, inside):
        run = self.start(ckpt, *(CONTAINER if inside == "the run" else ()))
        try:
            watcher = self.watch(ckpt, *(CONTAINER if inside == "who looks" else ()))
            said = watcher.stdout.readline()
        finally:
            run.kill()
            run.wait()
        rest, _ = watcher.communicate(timeout=60)
        assert said in [f"0/1 nodes completed, {n} running\n" for n in (0, 1)], "it went on"
        assert rest.splitlines()[-1].endswith("; interrupted")
        assert watcher.returncode == 1
