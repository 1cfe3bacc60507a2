"""Two runs and many readers on one directory: the second run is refused by whatever way it comes, readers never err.

`test_store` proves this for bare stores and `test_files` for the bare lock. Here are whole runs, with everything that
they start. What holds it up: the lock of the kernel on an inode in `locks.DirectoryLock`, so that no spelling of the
path gets around it; that no child of a holder keeps it; `claim.holder_of`; and for readers the order of `store`: a
journal that is replaced in one step, CLEARED before anything is deleted, one append for a group.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from places import SRC

import dagron
from dagron import DAG, CheckpointExecutor, ExecutionCallbacks
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.opened import AppendFile
from dagron.checkpoint.format.names import LOCK, META
from dagron.checkpoint.reading.history import read_history
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.cli import app

LARGE = bytes(range(256)) * 100


def executor(ckpt, *names, **options):
    options = {"pool": "inline", "durability": "process", **options}
    return CheckpointExecutor(DAG.builder().add_nodes(names or ("a",)).build(), ckpt, **options)


def uses(ckpt):
    return {
        "execute": lambda: executor(ckpt).execute({"a": lambda: 2}),
        "resume": lambda: executor(ckpt).resume({"a": lambda: 2}),
        "clear_checkpoint": lambda: executor(ckpt).clear_checkpoint(),
    }


def script(text, *args):
    """Start a program that says something once it is where the test wants it."""
    process = subprocess.Popen(
        [sys.executable, "-c", text, *map(str, args)],
        env={**os.environ, "PYTHONPATH": SRC},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    said = process.stdout.readline()
    assert said, f"it ended with {process.wait()}"
    return process, said.split()


# --- file systems without locks ---------------------------------------------------------------------------------------


@pytest.fixture(params=[errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK], ids=errno.errorcode.get)
def lockless(tmp_path, monkeypatch, request):
    """Locks are refused for all files and directories below `tmp_path`, as on Lustre without `-o flock`."""
    flock, device = fcntl.flock, tmp_path.stat().st_dev

    def refusing(fd, operation):
        status = os.fstat(fd if isinstance(fd, int) else fd.fileno())
        below = {path.stat().st_ino for path in tmp_path.rglob("*")}
        if status.st_dev == device and status.st_ino in below and operation != fcntl.LOCK_UN:
            raise OSError(request.param, os.strerror(request.param))
        return flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", refusing)
    monkeypatch.delenv("DAGRON_LOCK", raising=False)
    yield tmp_path / "ckpt"
    for path in Path("/tmp").glob("dagron-lock-*"):
        if any(path.name.endswith(f"-{place.stat().st_ino:x}") for place in tmp_path.rglob("*") if place.is_dir()):
            path.unlink()


class TestAFileSystemWithoutLocks:
    def test_it_is_told_with_a_way_to_run_on_one_machine(self, lockless):
        with pytest.raises(dagron.CheckpointDirectoryError, match=r"no locks.*another file sys.*DAGRON_LOCK=machine"):
            executor(lockless).execute({"a": lambda: 1})

    def test_there_one_machine_keeps_its_runs_apart(self, lockless, monkeypatch):
        monkeypatch.setenv("DAGRON_LOCK", "machine")
        refused = []

        def on_start(_):
            for use in uses(lockless).values():
                with pytest.raises(dagron.CheckpointLockedError):
                    use()
                refused.append(use)

        result = executor(lockless, callbacks=ExecutionCallbacks(on_start=on_start)).execute({"a": lambda: 1})
        assert (result["a"].result, len(refused)) == (1, 3)
        assert executor(lockless).resume({"a": lambda: 2})["a"].result == 1
        executor(lockless).clear_checkpoint()

    def test_where_there_are_locks_they_are_taken_all_the_same(self, tmp_path, monkeypatch):
        refused = []

        def on_start(_):
            monkeypatch.delenv("DAGRON_LOCK")
            with pytest.raises(dagron.CheckpointLockedError):
                uses(tmp_path / "ckpt")["resume"]()
            refused.append(1)

        monkeypatch.setenv("DAGRON_LOCK", "machine")
        callbacks = ExecutionCallbacks(on_start=on_start)
        assert executor(tmp_path / "ckpt", callbacks=callbacks).execute({"a": lambda: 1}).ok
        assert refused

    def test_another_word_for_it_is_an_error(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DAGRON_LOCK", "none")
        with pytest.raises(dagron.OptionError, match="DAGRON_LOCK='none' is not valid: expected 'machine'"):
            executor(tmp_path / "ckpt").execute({"a": lambda: 1})


# --- one writer -----------------------------------------------------------------------------------------------------

WAYS = {
    "the same path": lambda tmp_path: tmp_path / "ckpt",
    "a link to the directory": lambda tmp_path: tmp_path / "link",
    "a link above the directory": lambda tmp_path: tmp_path / "above" / "ckpt",
    "a relative path": lambda tmp_path: "ckpt",
    "a path with detours": lambda tmp_path: f"{tmp_path}/./ckpt/..//ckpt/",
}


class TestASecondRun:
    @pytest.fixture(autouse=True)
    def links(self, tmp_path, monkeypatch):
        (tmp_path / "link").symlink_to("ckpt")
        (tmp_path / "above").symlink_to(tmp_path)
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize("thread", ["the same thread", "another thread"])
    @pytest.mark.parametrize("way", WAYS)
    def test_is_refused_by_whatever_way_it_comes_and_told_who_holds_it(self, tmp_path, ckpt, way, thread):
        path = WAYS[way](tmp_path)
        refusals = []

        def attempt():
            for use in uses(path).values():
                with pytest.raises(dagron.CheckpointLockedError) as caught:
                    use()
                refusals.append(caught.value)

        def second(name):
            if thread == "the same thread":
                attempt()
            else:
                other = threading.Thread(target=attempt)
                other.start()
                other.join(30)

        began = datetime.now(UTC)
        result = executor(ckpt, callbacks=ExecutionCallbacks(on_start=second)).execute({"a": lambda: 1})
        ended = datetime.now(UTC)
        assert len(refusals) == 3
        for error in refusals:
            assert (error.pid, error.host) == (os.getpid(), socket.gethostname())
            assert began <= datetime.fromisoformat(error.since) <= ended
            assert f"process {error.pid} on {error.host}, since {error.since}" in str(error)
        assert result["a"].result == 1
        assert executor(path).resume({"a": lambda: 2})["a"].result == 1, "the refused ones changed nothing"

    def test_of_the_working_directory_that_changed_meanwhile_finds_the_same_lock(self, tmp_path, ckpt, monkeypatch):
        relative = executor("ckpt")
        refused = []

        def second(name):
            os.chdir("/")
            with pytest.raises(dagron.CheckpointLockedError):
                relative.resume({"a": lambda: 2})
            refused.append(name)

        executor(ckpt, callbacks=ExecutionCallbacks(on_start=second)).execute({"a": lambda: 1})
        assert refused == ["a"]

    def test_is_refused_although_somebody_removed_the_lock_file(self, ckpt):
        # What people do who take it for a leftover.
        refused = []

        def second(name):
            (ckpt / LOCK).unlink()
            for use in uses(ckpt).values():
                with pytest.raises(dagron.CheckpointLockedError):
                    use()
            refused.append(name)

        result = executor(ckpt, callbacks=ExecutionCallbacks(on_start=second)).execute({"a": lambda: 1})
        assert (refused, result["a"].result) == (["a"], 1)

    def test_in_other_directories_does_not_matter(self, ckpt, tmp_path):
        results = []
        second = ExecutionCallbacks(
            on_start=lambda name: results.append(executor(tmp_path / "other").execute({"a": lambda: 2}))
        )
        assert executor(ckpt, callbacks=second).execute({"a": lambda: 1})["a"].result == 1
        assert results[0]["a"].result == 2


DIES_IN_A_TASK = """
import dagron, os, signal, sys
dag = dagron.DAG(["a"])
executor = dagron.CheckpointExecutor(dag, sys.argv[1], pool="inline", durability="process")
print(os.getpid(), flush=True)
executor.execute({"a": lambda: os.kill(os.getpid(), signal.SIGKILL)})
"""


class TestTheHolderIsStillStarting:
    """It has the lock, and the journal still speaks of the run before."""

    def test_a_dead_process_is_not_named_as_the_holder(self, ckpt):
        process, [pid] = script(DIES_IN_A_TASK, ckpt)
        process.communicate()
        holder = CheckpointStore(ckpt)
        holder.open()
        try:
            for use in uses(ckpt).values():
                with pytest.raises(dagron.CheckpointLockedError) as caught:
                    use()
                assert caught.value.pid in (None, os.getpid())
                assert f"process {pid} on" not in str(caught.value)
            holder.begin(fresh=False, nodes=["a"], structure=bytes(16))
            with pytest.raises(dagron.CheckpointLockedError, match=f"process {os.getpid()} on "):
                uses(ckpt)["resume"]()
        finally:
            holder.close()


HOLDS_WITH_WORKERS = """
import dagron, os, signal, sys, time

def stubborn(noted=sys.argv[2] + "/stubborn"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(noted, "w").close()
    time.sleep(600)

class Slow:
    def __init__(self, noted):
        self.noted = noted
    def __reduce__(self):
        open(self.noted, "w").close()
        time.sleep(600)

def writes(noted=sys.argv[2] + "/writes"):
    return [bytes(100_000), Slow(noted)]

print("started", flush=True)
executor = dagron.CheckpointExecutor(dagron.DAG(["a", "b"]), sys.argv[1], max_workers=2, durability="process")
executor.execute({"a": stubborn, "b": writes})
"""

HOLDS_WITH_CHILDREN = """
import dagron, multiprocessing, os, subprocess, sys, time

ready, is_ready = os.pipe()

def wait_for_end():
    os.write(is_ready, b".")
    os.read(0, 1)

def on_start(name):
    pid = os.fork()
    if pid == 0:
        wait_for_end()
        os._exit(0)
    forked = multiprocessing.get_context("fork").Process(target=wait_for_end)
    forked.start()
    program = subprocess.Popen([sys.executable, "-c", "import os; os.read(0, 1)"], close_fds=False)
    short = os.fork()
    if short == 0:
        os._exit(0)
    os.waitpid(short, 0)
    os.read(ready, 1), os.read(ready, 1)  # both are out of the fork, behind which they let go of the lock
    print(pid, forked.pid, program.pid, flush=True)
    time.sleep(600)

callbacks = dagron.ExecutionCallbacks(on_start=on_start)
executor = dagron.CheckpointExecutor(dagron.DAG(["a"]), sys.argv[1], callbacks, pool="inline", durability="process")
executor.execute({"a": lambda: 1})
"""


COMES_BACK_OUT = """
import dagron, os, sys

def on_start(name):
    if name == "b":  # the outcome of "a" is there and not yet in the journal
        child = os.fork()
        if child == 0:
            sys.exit("out of the run")
        os.waitpid(child, 0)

callbacks = dagron.ExecutionCallbacks(on_start=on_start)
executor = dagron.CheckpointExecutor(dagron.DAG(["a", "b"]), sys.argv[1], callbacks, max_workers=1)
try:
    print(executor.execute({"a": lambda: 1, "b": lambda: 2}).succeeded, flush=True)
except SystemExit:
    os._exit(0)
"""


def test_a_fork_that_comes_back_out_of_a_callback_writes_nothing(ckpt):
    process, said = script(COMES_BACK_OUT, ckpt)
    process.communicate()
    assert (process.returncode, said) == (0, ["2"])
    history = read_history(Directory(ckpt))
    assert [commit.name for run in history.runs for commit in run.commits] == ["a", "b"]
    assert not history.ledger.damage


def wait_until(fact, what):
    deadline = time.monotonic() + 30
    while not fact():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.005)


class TestTheHolderDies:
    def test_its_lock_is_free_at_once_although_its_workers_are_still_busy(self, ckpt, tmp_path, all_dead_in):
        process, _ = script(HOLDS_WITH_WORKERS, ckpt, tmp_path)
        try:
            wait_until(lambda: (tmp_path / "stubborn").exists() and (tmp_path / "writes").exists(), "no task started")
            family = psutil.Process(process.pid).children(recursive=True)
            assert len(family) >= 3
            with pytest.raises(dagron.CheckpointLockedError, match=f"process {process.pid} on "):
                uses(ckpt)["clear_checkpoint"]()
            process.send_signal(signal.SIGKILL)
            process.wait()
            result = executor(ckpt, "a", "b").resume({"a": lambda: 1, "b": lambda: LARGE})
            assert (result["a"].result, result["b"].result) == (1, LARGE)
            assert all_dead_in(2, family)
        finally:
            process.kill()
            process.communicate()

    def test_its_lock_is_free_although_children_of_its_callbacks_go_on(self, ckpt, all_dead_in):
        process, children = script(HOLDS_WITH_CHILDREN, ckpt)
        children = [psutil.Process(int(pid)) for pid in children]
        try:
            # One of its forks has ended already, and took nothing with it.
            with pytest.raises(dagron.CheckpointLockedError, match=f"process {process.pid} on "):
                uses(ckpt)["resume"]()
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert all(child.is_running() for child in children)
            assert uses(ckpt)["resume"]()["a"].result == 2
        finally:
            process.kill()
            process.communicate()  # ends their stdin
            assert all_dead_in(10, children)


FORKS_IN_A_CALLBACK = """
import dagron, os, sys

directory, how, pool = sys.argv[1:]
me = os.getpid()

def leave_in_child():
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    elif how == "exits":
        sys.exit()
    elif how == "raises":
        raise KeyboardInterrupt

def on_start(name):
    if name == "c" and os.getpid() == me:
        leave_in_child()

dag = dagron.DAG.builder().add_edges([("a", "b"), ("b", "c"), ("c", "d")]).build()
tasks = {name: (lambda *_, name=name: name) for name in "abcd"}
callbacks = dagron.ExecutionCallbacks(on_start=on_start)
executor = dagron.CheckpointExecutor(dag, directory, callbacks, pool=pool, max_workers=1, durability="process")
result = executor.execute(tasks)
if os.getpid() == me:
    print(result.succeeded)
"""


class TestAForkOfTheCoordinator:
    """People who fork in a callback forget `os._exit`. The child has the open journal, and must not write to it."""

    @pytest.mark.parametrize("pool", ["inline", "process"])
    @pytest.mark.parametrize("how", ["exits", "raises"])
    def test_leaves_the_checkpoint_to_its_parent(self, ckpt, caplog, how, pool):
        command = [sys.executable, "-c", FORKS_IN_A_CALLBACK, str(ckpt), how, pool]
        env = {**os.environ, "PYTHONPATH": SRC}
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stdout) == (0, "4\n")
        dag = DAG.builder().add_edges([("a", "b"), ("b", "c"), ("c", "d")]).build()
        tasks = {name: (lambda *_, name=name: name) for name in "abcd"}
        result = CheckpointExecutor(dag, ckpt, pool="inline", durability="process").resume(tasks)
        assert (result.restored, caplog.text) == (4, "")

    def test_changes_nothing_when_it_is_interrupted(self, ckpt, monkeypatch):
        executor(ckpt).execute({"a": lambda: 1})
        holder = CheckpointStore(ckpt, durability="process")
        holder.open()
        holder.begin(fresh=False, nodes=["a"], structure=bytes(16))
        before = {name: (ckpt / name).lstat() for name in os.listdir(ckpt)}
        with monkeypatch.context() as in_child:
            in_child.setattr(os, "getpid", lambda: 1)
            holder.interrupt()
        assert {name: (ckpt / name).lstat() for name in os.listdir(ckpt)} == before
        holder.close()


# --- readers --------------------------------------------------------------------------------------------------------

CYCLES = """
import os, random, signal, sys
import dagron
import dagron.runs.coordinator, dagron.engines.local.pool, fcntl  # once, and not in every fork

directory, n_cycles = sys.argv[1], int(sys.argv[2])
rng = random.Random(20261124)

def run(cycle, how, fails, dies):
    nodes = [f"{cycle}-{i}" for i in range(100 + cycle)]
    tasks = {name: (lambda i=i: i) for i, name in enumerate(nodes)}
    if fails:
        tasks[nodes[70]] = lambda: 1 / 0
    dag = dagron.DAG.builder().add_edges(zip(nodes, nodes[1:])).build()
    executor = dagron.CheckpointExecutor(dag, directory, pool="inline", durability="process")
    if dies:  # at any instant: nothing of ours handles this signal
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.002, 0.03))
    getattr(executor, how)(*([tasks] if how != "clear_checkpoint" else []))

print("started", flush=True)
n_killed = 0
for cycle in range(n_cycles):
    rng.seed(cycle)
    # An `execute` that dies early leaves the checkpoint of the cycle before, if that was not cleared.
    cleared = cycle == 0 or (cycle - 1) % 3
    steps = [("execute", True, bool(cleared)), ("resume", True, True)]
    steps += [("resume", False, True), ("resume", False, False)]
    if cycle % 3:
        steps += [("clear_checkpoint", False, True), ("clear_checkpoint", False, False)]
    for step in steps:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            run(cycle, *step)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == 0 or step[2] and status == -signal.SIGALRM, (cycle, step, status)
        n_killed += status != 0
print(n_killed)
"""


class Picture:
    """What a reader has seen so far; refuses what contradicts it."""

    def __init__(self):
        self.cycle, self.n, self.seen = -1, 0, set()

    def add(self, total, completed, failed, names=None):
        cycle = total - 100
        assert cycle >= self.cycle, "an old checkpoint is back"
        if cycle > self.cycle:
            self.cycle, self.n = cycle, 0
        assert completed >= self.n, "what was completed is so no longer"
        assert completed + len(failed) <= total
        if names is not None:
            assert names == [f"{cycle}-{i}" for i in range(completed)]
        assert set(failed) <= {f"{cycle}-70"}
        assert not failed or completed == 70, "a node is both completed and failed"
        self.n = completed
        self.seen.add((cycle, completed))


class TestReaders:
    def test_beside_runs_that_execute_die_resume_and_clear_they_see_a_growing_prefix_and_never_err(self, ckpt):
        n_cycles = 8
        process, _ = script(CYCLES, ckpt, n_cycles)
        told, shown, runner = Picture(), Picture(), CliRunner()
        none = 0
        try:
            while process.poll() is None:
                for _ in range(20):  # a look of the command line takes as long as so many
                    info = executor(ckpt).checkpoint_info()
                    if info is None:
                        none += 1
                    else:
                        told.add(info.total_nodes, len(info.completed_nodes), info.failed_nodes, info.completed_nodes)
                try:
                    json.loads((ckpt / META).read_text(encoding="ascii"))
                except FileNotFoundError:
                    pass
                status = runner.invoke(app, ["status", str(ckpt), "--json"])
                if status.exit_code == 3:
                    assert re.fullmatch("dagron: error: there is no checkpoint in '.*'\n", status.output)
                else:
                    assert status.exit_code == 0, status.output
                    found = json.loads(status.stdout)
                    assert (found["n_damaged"], found["durability"]) == (0, "process")
                    assert found["state"] in ("running", "interrupted", "finished")
                    shown.add(found["total"], found["completed"], [failed["name"] for failed in found["failed"]])
        finally:
            process.kill()
            n_killed, _ = process.communicate()
        assert process.returncode == 0
        assert int(n_killed) > n_cycles, "the runs were too fast to die"
        assert none > 0
        assert len(told.seen) > 2 * n_cycles, "the readers were too slow to see anything"
        assert len({cycle for cycle, _ in shown.seen}) > n_cycles // 2

    @pytest.mark.parametrize("how", ["resume", "execute"])
    def test_at_every_step_of_a_run_with_other_nodes_the_counts_fit_together(self, ckpt, monkeypatch, how):
        nodes = [f"n{i}" for i in range(10)]
        executor(ckpt, *nodes).execute({name: (lambda i=i: 1 // (i - 4)) for i, name in enumerate(nodes)})
        seen = []

        def append(self, data, real=AppendFile.append):
            look()
            real(self, data)
            look()

        def look():
            info = executor(ckpt).checkpoint_info()
            seen.append((len(info.completed_nodes), len(info.failed_nodes), info.total_nodes))

        monkeypatch.setattr(AppendFile, "append", append)
        getattr(executor(ckpt, "n0", "new"), how)({"n0": lambda: 1, "new": lambda: 2})
        look()
        assert seen[-1] == (2, 0, 2)
        assert [counts for counts in seen if counts[0] + counts[1] > counts[2]] == []

    def test_reading_takes_no_lock_and_makes_no_file(self, ckpt, tmp_path):
        executor(ckpt).execute({"a": lambda: 1})
        (ckpt / LOCK).unlink()
        before = sorted(os.listdir(ckpt))
        copy = Path(shutil.copytree(ckpt, tmp_path / "copy"))
        for mode in (0o500, 0o700):
            copy.chmod(mode)
            assert executor(copy).checkpoint_info().completed_nodes == ["a"]
            assert CliRunner().invoke(app, ["status", str(copy), "--json"]).exit_code == 0
            assert sorted(os.listdir(copy)) == before
