"""What stops a node or a run: its time, an event, Ctrl-C, SIGTERM. The whole tree goes, and the checkpoint resumes.

What the tests lean on in the source is said in each class.
"""

import asyncio
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from functools import partial
from typing import NamedTuple

import cloudpickle
import psutil
import pytest
from places import SRC
from run_log import RunLog
from waiting import growing, is_dead, wait_for

import dagron
import dagron.engines.awake as awake
from dagron import DAG, CheckpointExecutor, ExecutionCallbacks, NodeStatus, Task

# Or every worker would import pytest first.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

LONG = 600
"""Seconds that stand for ever: no test waits for their end."""


def nodes(*names):
    return DAG.builder().add_nodes(names).build()


def executor(dag, ckpt, **options):
    options = {"max_workers": 2, "retry_delay": 0.0, "durability": "process", "kill_grace_seconds": LONG, **options}
    return CheckpointExecutor(dag, ckpt, **options)


def marked(mark):
    """Every process that lives and was started with this mark in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            # The tracker is the standard library's, started by a multiprocessing.Event, and stays as long as we do.
            if mark in process.environ().values() and "resource_tracker" not in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path / "log")


class Stopped(NamedTuple):
    how: str
    result: dagron.ExecutionResult
    logs: dict
    kept: list
    left: list


@pytest.fixture
def mark(monkeypatch):
    """A mark in the environment of everything that the test starts; nothing of it is left when the test is over."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("DAGRON_TEST_MARK", mark)
    yield mark
    wait_for(lambda: not marked(mark), 2)


# A child of a task. It notes that it runs; that it was asked to end; and, if it obeys, that it has cleaned up, for
# which it takes a moment.
CHILD = """
import os, signal, sys, time
directory, obeys = sys.argv[1], sys.argv[2] == "obeys"

def note(name):
    fd = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"%d\\n" % os.getpid())
    os.close(fd)

def end(*_):
    note("asked")
    if obeys:
        time.sleep(0.1)
        note("cleaned up")
        os._exit(0)

signal.signal(signal.SIGTERM, end)
note("child")
while True:
    time.sleep(1)
"""


def start_child(log, how, **options):
    """In a task: start a child and return when it is ready for its SIGTERM."""
    before = log.count("child")
    child = subprocess.Popen([sys.executable, "-SE", "-c", CHILD, log.directory, how], **options)
    wait_for(lambda: log.count("child") > before)
    return child


# --- how a tree is killed ---------------------------------------------------------------------------------------------

STOPS = {
    # How it is stopped -> what its nodes are then.
    "its own timeout": NodeStatus.TIMED_OUT,
    "the timeout of the run": NodeStatus.TIMED_OUT,
    "a cancel event": NodeStatus.CANCELLED,
}
GRACE_SECONDS = 1.5
LIKE_IT = 4


def cleans(log):
    start_child(log, "obeys")
    time.sleep(LONG)


def cleans_in_a_session_of_its_own(log):
    start_child(log, "obeys", start_new_session=True)
    time.sleep(LONG)


def ignores(log):
    start_child(log, "ignores")
    signal.signal(signal.SIGTERM, lambda *_: log.note("worker asked"))
    while True:
        time.sleep(1)


def returns(log):
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    log.note("child")
    wait_for(lambda: asked)
    log.note("asked")
    return "half a result"


def exits(log):
    def end(*_):
        log.note("asked")
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    log.note("child")
    time.sleep(LONG)


def waits_for_its_child(log):
    # If the child died first, the task would go on as if that had been its own end. Several, as it would be a race.
    child = subprocess.Popen(["sleep", str(LONG)])
    log.note("child")
    return child.wait()


def waits_for_a_shell(log):
    command = f"sleep {LONG}; echo 1 >> {log.directory}/after"
    child = subprocess.Popen(["sh", "-c", command])
    log.note("child")
    return child.wait()


TREES = {task.__name__: task for task in (cleans, cleans_in_a_session_of_its_own, ignores, returns, exits)} | {
    f"{task.__name__}_{i}": task for i in range(LIKE_IT) for task in (waits_for_its_child, waits_for_a_shell)
}


@pytest.fixture(scope="module", params=STOPS)
def stopped(request, tmp_path_factory):
    """All trees, each in a slot of its own, stopped at the same time: how, the result, a log for each, what is kept."""
    # For most machines two seconds are long enough for so many children to start.
    for seconds in growing(2.0):
        run, result, logs, left = stopped_after(seconds, request.param, tmp_path_factory.mktemp("trees"))
        if all(log.count("child") for log in logs.values()):
            break
    return Stopped(request.param, result, logs, run.checkpoint_info().completed_nodes, left)


def stopped_after(seconds, how, directory):
    logs = {name: RunLog(directory / name) for name in TREES}

    class AllReady:
        def is_set(self):
            return all(log.count("child") for log in logs.values())

    own = seconds if how == "its own timeout" else None
    tasks = {name: Task(lambda task=task, log=logs[name]: task(log), timeout=own) for name, task in TREES.items()}
    run = executor(nodes(*TREES), directory / "ckpt", max_workers=len(TREES), kill_grace_seconds=GRACE_SECONDS)
    os.environ["DAGRON_TEST_MARK"] = mark = uuid.uuid4().hex
    try:
        result = run.execute(
            tasks,
            run_timeout=seconds if how == "the timeout of the run" else None,
            cancel_event=AllReady() if how == "a cancel event" else None,
        )
    finally:
        del os.environ["DAGRON_TEST_MARK"]
    return run, result, logs, marked(mark)


class TestTrees:
    """SIGTERM first, SIGKILL after the grace, for everything below the worker.

    Leans on `_signal_tree` with SIGTERM, and on its beginning at the top; on `tell_ends` waiting for what a killed
    worker has left; on `kill_overdue`; and on `ended_before_kill` in the pool.
    """

    @pytest.mark.parametrize("name", TREES)
    def test_whatever_the_task_makes_of_its_end_its_node_is_what_stopped_it(self, stopped, name):
        node = stopped.result[name]
        assert node.status is STOPS[stopped.how], node.error
        kind = dagron.NodeTimeoutError if stopped.how == "its own timeout" else dagron.NodeCancelledError
        assert type(node.error) is kind
        assert node.attempts == 1

    @pytest.mark.parametrize("name", ["cleans", "cleans_in_a_session_of_its_own"])
    def test_what_handles_sigterm_gets_to_clean_up_before_the_run_ends(self, stopped, name):
        assert (stopped.logs[name].count("asked"), stopped.logs[name].count("cleaned up")) == (1, 1)

    def test_what_ignores_sigterm_was_asked_before_it_was_killed(self, stopped):
        log = stopped.logs["ignores"]
        assert (log.count("asked"), log.count("worker asked")) == (1, 1)

    @pytest.mark.parametrize("name", ["returns", "exits"])
    def test_a_task_that_handles_sigterm_gets_to_clean_up(self, stopped, name):
        assert stopped.logs[name].count("asked") == 1

    def test_nothing_between_the_task_and_a_killed_process_goes_on(self, stopped):
        assert [name for name, log in stopped.logs.items() if log.count("after")] == []

    def test_no_process_is_left_and_nothing_is_recorded_as_completed(self, stopped):
        assert (stopped.left, stopped.kept) == ([], [])


class TestGrace:
    """Leans on `tell_ends` in the server: a killed worker has ended when all that it had started has."""

    @pytest.mark.parametrize("session", [False, True])
    def test_it_is_not_cut_short_by_the_end_of_the_run_and_not_waited_for_without_need(self, ckpt, log, mark, session):
        def task():
            start_child(log, "obeys", start_new_session=session)
            time.sleep(LONG)

        class Ready:
            def is_set(self):
                return log.count("child") > 0

        result = executor(nodes("a"), ckpt, kill_grace_seconds=LONG).execute({"a": task}, cancel_event=Ready())
        assert result.cancelled == 1
        assert (log.count("asked"), log.count("cleaned up")) == (1, 1)

    def test_a_further_attempt_begins_when_nothing_of_the_last_one_is_left(self, ckpt, tmp_path, mark):
        def task(log):
            attempt = log.count("attempt")
            log.note("attempt")
            if not all(map(is_dead, log.pids("child"))):
                log.note("met a child of an earlier attempt")
            if attempt < 2:
                start_child(log, "obeys")
                time.sleep(LONG)
            return attempt

        for seconds in growing(0.5):
            log = RunLog(tmp_path / f"log-{seconds}")
            result = executor(nodes("a"), ckpt).execute({"a": Task(partial(task, log), timeout=seconds, retries=2)})
            if log.count("child") == 2:
                break
        assert (result["a"].result, result["a"].attempts) == (2, 3)
        assert log.counts() == {"attempt": 3, "child": 2, "asked": 2, "cleaned up": 2}


class TestNeighbours:
    """Leans on a slot being an executor of its own, and on `kill` naming one worker."""

    def test_one_that_times_out_again_and_again_disturbs_nobody(self, ckpt, log, mark):
        def slow():
            log.note("slow")
            time.sleep(LONG)

        def neighbour():
            log.note("neighbour")
            wait_for(lambda: log.count("failed"))
            return os.getpid()

        others = [f"n{i}" for i in range(20)]
        tasks = {name: (lambda name=name: log.note(name)) for name in others}
        result = executor(
            nodes("neighbour", "slow", *others),
            ckpt,
            callbacks=ExecutionCallbacks(on_failure=lambda name, error: log.note("failed")),
        ).execute({"neighbour": Task(neighbour, priority=1), "slow": Task(slow, timeout=0.2, retries=2), **tasks})
        assert (result["slow"].status, result["slow"].attempts) == (NodeStatus.TIMED_OUT, 3)
        assert isinstance(result["slow"].error, dagron.NodeTimeoutError)
        assert log.counts() == {"neighbour": 1, "slow": 3, "failed": 1, **dict.fromkeys(others, 1)}
        assert log.pids("neighbour") == [result["neighbour"].result]
        assert result["neighbour"].attempts == 1


# --- how a run is stopped ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["threading.Event", "multiprocessing.Event", "a file"])
def event(request, tmp_path):
    """Whatever can be asked whether it is set."""
    if request.param == "threading.Event":
        return threading.Event()
    if request.param == "multiprocessing.Event":
        return multiprocessing.get_context("spawn").Event()

    class File:
        def is_set(self):
            return (tmp_path / "set").exists()

        def set(self):
            (tmp_path / "set").touch()

    return File()


def fails():
    raise ValueError


class TestCancel:
    """Leans on `_cancelled` in the coordinator, and on `_on_cancel` in the state."""

    DAG = DAG.builder().add_edge("first", "second").add_edge("beside", "second").add_edge("second", "third").build()

    def tasks(self, log, **others):
        return {name: (lambda name=name: log.note(name)) for name in self.DAG.nodes} | others

    def resumed(self, ckpt, log, kept):
        """Resume; what was kept is not repeated, and the rest is done."""
        before = log.counts()
        assert sorted(executor(self.DAG, ckpt).checkpoint_info().completed_nodes) == sorted(kept)
        result = executor(self.DAG, ckpt, pool="inline").resume(self.tasks(log))
        assert (result.succeeded, result.restored) == (4, len(kept))
        assert {name: log.count(name) - before.get(name, 0) for name in self.DAG.nodes} == {
            name: int(name not in kept) for name in self.DAG.nodes
        }

    def test_while_a_task_runs(self, ckpt, log, mark, event):
        def second():
            log.note("second")
            time.sleep(LONG)

        def cancel():
            wait_for(lambda: log.count("second"))
            event.set()

        thread = threading.Thread(target=cancel)
        thread.start()
        tasks = self.tasks(log, second=second)
        result = executor(self.DAG, ckpt).execute(tasks, cancel_event=event)
        thread.join()
        assert {name: result[name].status.value for name in tasks} == {
            "first": "completed",
            "beside": "completed",
            "second": "cancelled",
            "third": "cancelled",
        }
        assert isinstance(result["second"].error, dagron.NodeCancelledError)
        assert "the run was cancelled" in str(result["second"].error)
        self.resumed(ckpt, log, ["first", "beside"])

    def test_while_a_node_waits_for_its_next_attempt(self, ckpt, log, mark, event):
        def second():
            log.note("second")
            raise ValueError

        tasks = self.tasks(log, second=Task(second, retries=5, retry_delay=LONG))
        callbacks = ExecutionCallbacks(on_retry=lambda *_: event.set())
        result = executor(self.DAG, ckpt, callbacks=callbacks).execute(tasks, cancel_event=event)
        assert (result["second"].status, result["second"].attempts) == (NodeStatus.CANCELLED, 1)
        assert (result.failed, result.cancelled) == (0, 2)
        self.resumed(ckpt, log, ["first", "beside"])

    @pytest.mark.parametrize("pool", ["inline", "process"])  # in processes an attempt that is killed may not have begun
    def test_before_anything_has_begun(self, ckpt, log, mark, event, pool):
        event.set()
        result = executor(self.DAG, ckpt, pool=pool).execute(self.tasks(log), cancel_event=event)
        assert (result.cancelled, log.counts()) == (4, {})
        assert "the run was cancelled" in str(result["first"].error)
        # What was recorded before is kept, and nothing is added to it.
        executor(self.DAG, ckpt, pool="inline").resume(self.tasks(log, second=fails))
        kept = ["first", "beside"]
        before = log.counts()
        again = executor(self.DAG, ckpt, pool=pool).resume(self.tasks(log), cancel_event=event)
        assert (again.restored, again.cancelled, log.counts()) == (2, 2, before)
        self.resumed(ckpt, log, kept)

    def test_while_nodes_are_committed_each_is_either_kept_or_cancelled(self, ckpt, log, mark):
        names = [f"n{i:03}" for i in range(200)]
        tasks = {name: (lambda name=name: log.note(name)) for name in names}
        for n in (1, 25, 100):

            class After:
                def is_set(self, n=n):
                    return len(os.listdir(log.directory)) >= n

            result = executor(nodes(*names), ckpt).execute(tasks, cancel_event=After())
            kept = executor(nodes(*names), ckpt).checkpoint_info().completed_nodes
            assert sorted(kept) == [name for name in names if result[name].status is NodeStatus.COMPLETED]
            assert (len(kept), result.cancelled) == (result.succeeded, 200 - len(kept))
            assert all(log.count(name) == 1 for name in kept)
            before = log.counts()
            result = executor(nodes(*names), ckpt, pool="inline").resume(tasks)
            assert (result.succeeded, result.restored) == (200, len(kept))
            assert all(log.count(name) == before.get(name, 0) + (name not in kept) for name in names)
            for name in names:
                os.remove(os.path.join(log.directory, name))

    @pytest.mark.parametrize("phase", ["running", "waiting for its next attempt", "stopped while idle"])
    def test_the_time_of_a_run_ends_it_in_every_phase(self, ckpt, tmp_path, mark, phase):
        def first(log):
            log.note("first")
            if phase == "stopped while idle":
                # Nothing tells of a stopped worker; the next node never begins, so its own timeout does not, either.
                threading.Thread(
                    target=lambda: (wait_for(lambda: log.count("committed")), os.kill(os.getpid(), signal.SIGSTOP))
                ).start()

        def second(log):
            log.note("second")
            if phase == "running":
                time.sleep(LONG)
            raise ValueError

        def on_complete(log, name, result):
            log.note("committed")
            if phase == "stopped while idle":
                wait_for(lambda: psutil.Process(log.pids("first")[0]).status() == psutil.STATUS_STOPPED)

        dag = DAG.builder().add_edge("first", "second").build()
        reached = {"running": "second", "waiting for its next attempt": "retried", "stopped while idle": "committed"}
        for seconds in growing(0.5):
            log = RunLog(tmp_path / f"log-{seconds}")
            callbacks = ExecutionCallbacks(
                on_complete=partial(on_complete, log), on_retry=lambda *_, log=log: log.note("retried")
            )
            result = executor(dag, ckpt, max_workers=1, kill_grace_seconds=0.2, callbacks=callbacks).execute(
                {"first": partial(first, log), "second": Task(partial(second, log), retries=1, retry_delay=LONG)},
                run_timeout=seconds,
            )
            if log.count(reached[phase]):
                break
        assert result["first"].status is NodeStatus.COMPLETED
        ended = {"running": "timed_out", "waiting for its next attempt": "cancelled", "stopped while idle": "cancelled"}
        assert result["second"].status.value == ended[phase]
        assert f"the run took longer than {seconds:g} s" in str(result["second"].error)
        assert log.count("second") == (0 if phase == "stopped while idle" else 1)
        result = executor(dag, ckpt, pool="inline").resume({"first": partial(first, log), "second": lambda: 2})
        assert (result.succeeded, result.restored, log.count("first")) == (2, 1, 1)


# --- signals to a process that runs the library -----------------------------------------------------------------------

JOB = """
import atexit, os, signal, sys, time, dagron

HERE, PHASE = os.environ["DAGRON_TEST_HERE"], os.environ["DAGRON_TEST_PHASE"]

def note(name):
    fd = os.open(os.path.join(HERE, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"%d\\n" % os.getpid())
    os.close(fd)

def long():
    note("long")
    if PHASE == "running":
        time.sleep(600)
    if PHASE == "ignoring":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note("ignores")
        time.sleep(600)

def slow_to_end():
    note("end")
    time.sleep(600)

def last():
    note("last")
    if PHASE == "closing":
        atexit.register(slow_to_end)

SHORT = [f"short{i:03}" for i in range(300)]
tasks = {name: (lambda name=name: note(name)) for name in SHORT}
tasks |= {"long": long, "last": last}
builder = dagron.DAG.builder()
for name in SHORT:
    builder.add_edge(name, "last")
    builder.add_edge("short000", name) if name != "short000" else None
dag = builder.add_edge("long", "last").build()

def on_complete(name, result):
    if PHASE == "callback" and name == "short010":
        note("callback")
        while True:  # Python may miss a signal that comes just as a sleep begins until the sleep is over
            time.sleep(0.05)

class CancelEvent:
    def is_set(self):
        return os.path.exists(os.path.join(HERE, "ignores"))

if __name__ == "__main__":
    callbacks = dagron.ExecutionCallbacks(on_complete=on_complete) if PHASE == "callback" else None
    executor = dagron.CheckpointExecutor(
        dag, "checkpoints/job", callbacks, max_workers=2, durability="process", kill_grace_seconds=600.0
    )
    cancel_event = CancelEvent() if PHASE == "ignoring" else None
    note("ready")  # what is imported is imported: Python may drop a signal that comes during an import
    executor.execute(tasks, cancel_event=cancel_event)
    note("over")
"""


PRESS_AT_A_LINE = """
import os, signal, sys

def press(frame, event, argument, seen=[]):
    if event == "line":
        seen.append(frame.f_lineno)
        if len(seen) == int(os.environ["DAGRON_TEST_LINE"]) + 1:
            sys.settrace(None)
            with open(os.path.join(os.environ["DAGRON_TEST_HERE"], "pressed"), "w") as file:
                file.write("1\\n")
            signal.raise_signal(signal.SIGINT)  # held back
            signal.raise_signal(signal.SIGINT)
    return press

def trace(frame, event, argument):
    code = frame.f_code
    if code.co_qualname in ("ProcessPool.close", "ProcessPool.stop", "Server.stop", "Server.close"):
        return press

sys.settrace(trace)
"""
"""In every process of the job: two Ctrl-C at one of the lines that close the pool, of which only the second raises.

No more follow, as Python ends the tracing with what the second raises.
"""


PRESS_AT_EVERY_CLOSE = """
import os, signal, time
from dagron.engines.local.context import Server

def stop(self):
    while not os.path.exists(os.path.join(os.environ["DAGRON_TEST_HERE"], "end")):
        time.sleep(0.005)
    with open(os.path.join(os.environ["DAGRON_TEST_HERE"], "pressed"), "a") as file:
        file.write("1\\n")
    signal.raise_signal(signal.SIGINT)  # held back
    signal.raise_signal(signal.SIGINT)

Server.stop = stop
"""
"""Before the job: two Ctrl-C whenever the pool is closed, once the last worker hangs and before its server is ended."""


def _as_in_a_terminal():
    # A test run in the background ignores SIGINT, and what it starts would inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Job:
    """The job as a script or on the command line, in a process group of its own, as a shell gives one to a command."""

    def __init__(self, directory, how):
        directory.mkdir()
        self.directory, self.how = directory, how
        self.mark = uuid.uuid4().hex
        self.log = RunLog(directory / "log")
        self.checkpoint = directory / "checkpoints" / "job"
        (directory / "job.py").write_text(JOB)

    def start(self, phase, env=None):
        command = ["job.py"]
        if self.how == "cli":
            command = ["-m", "dagron", "run", "job.py", "--workers", "2", "--durability", "process"]
        env = {
            **os.environ,
            "PYTHONPATH": SRC,
            "DAGRON_TEST_HERE": self.log.directory,
            "DAGRON_TEST_PHASE": phase,
            "DAGRON_TEST_MARK": self.mark,
            **(env or {}),
        }
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.directory,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            preexec_fn=_as_in_a_terminal,
        )

    def kept(self):
        info = CheckpointExecutor(nodes("any"), self.checkpoint).checkpoint_info()
        return set(info.completed_nodes) if info is not None else set()

    def check_the_end(self, process, number):
        """It ends, quietly, leaves nothing, and goes on where it was."""
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        code = {"cli": 128 + number, "library": -number}[self.how]
        over = self.log.count("over") or (self.how == "cli" and process.returncode == 0)
        assert process.returncode == (0 if over else code), err
        wait_for(lambda: not marked(self.mark), 2)
        if not over:
            self.check_what_it_says(number, err)
        self.check_the_resume()
        return err

    def check_what_it_says(self, number, err):
        if self.how == "cli":
            assert "Traceback" not in err
            assert err.startswith("dagron: interrupted; ")
            assert err.count("\n") == 1, err
        elif number == signal.SIGINT:
            assert err.count("Traceback (most recent call last)") == 1, err
            assert err.endswith("\nKeyboardInterrupt\n"), err
        else:
            assert err == ""

    def check_the_resume(self):
        """In this process, which is quick; that a stopped command goes on as it says is a test of the command line."""
        kept, before = self.kept(), self.log.counts()
        job = {"__name__": "job"}
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("DAGRON_TEST_HERE", self.log.directory)
            patched.setenv("DAGRON_TEST_PHASE", "none")
            exec(JOB, job)
        result = executor(job["dag"], self.checkpoint, pool="inline").resume(job["tasks"])
        assert (result.succeeded, result.restored) == (302, len(kept))
        assert len(self.kept()) == 302
        after = self.log.counts()
        assert {name: after[name] - before.get(name, 0) for name in self.kept()} == {
            name: int(name not in kept) for name in self.kept()
        }


@pytest.fixture
def job(request, tmp_path):
    """A job that runs as the parameter says, which the test gives."""
    return Job(tmp_path / "job", request.param)


def to_the_process(process, number):
    process.send_signal(number)


def to_the_group(process, number):
    """As a terminal does."""
    os.killpg(process.pid, number)


# Phase -> the fact that shows it.
PHASES = {
    "running": lambda log: log.count("long") and log.count("short299"),
    "committing": lambda log: log.count("short100"),
    "callback": lambda log: log.count("callback"),
    "closing": lambda log: log.count("end"),
}
HOWS = ("library", "cli")
SIGNALS = {
    "ctrl-c-to-the-process": (to_the_process, signal.SIGINT),
    "ctrl-c-to-the-group": (to_the_group, signal.SIGINT),
    "sigterm": (to_the_process, signal.SIGTERM),
}
MOMENTS_MS = range(0, 400, 40)


def cases(*axes, chosen):
    """Every combination of the values of these axes; those whose positions are not chosen are for the campaign."""
    made = []
    for positions in itertools.product(*map(range, map(len, axes))):
        values = [axis[position] for axis, position in zip(axes, positions, strict=True)]
        marks = () if chosen(*positions) else pytest.mark.campaign
        made.append(pytest.param(*values, id="-".join(map(str, values)), marks=marks))
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found by their environment")
class TestSignals:
    """Leans on `Interrupts` holding the signal back, on `pool.close()`, and for the command line on `Stopped`."""

    # Every signal in every phase, and either of them in both ways to run. The command line has no callbacks.
    @pytest.mark.parametrize(
        ("job", "sent", "phase"),
        [
            case
            for case in cases(
                HOWS, [*SIGNALS], [*PHASES], chosen=lambda i, j, k: [*PHASES][k] == "callback" or (i + j + k) % 2 == 0
            )
            if not {"cli", "callback"} <= set(case.values)
        ],
        indirect=["job"],
    )
    def test_a_signal_ends_it_in_every_phase(self, job, sent, phase):
        send, number = SIGNALS[sent]
        process = job.start(phase)
        wait_for(lambda: PHASES[phase](job.log) or process.poll() is not None)
        send(process, number)
        job.check_the_end(process, number)

    # Phases that nothing outside shows, such as the start of the workers, are met by trying one moment after the other.
    @pytest.mark.parametrize(
        ("job", "ms"), cases(HOWS, MOMENTS_MS, chosen=lambda i, j: j % 4 == 2 * i), indirect=["job"]
    )
    def test_ctrl_c_ends_it_at_every_moment_of_its_start(self, job, ms):
        process = job.start("running")
        if job.how == "library":
            wait_for(lambda: job.log.count("ready"))
        else:
            # The job is loaded once dagron has handlers of its own; before, the interpreter and its imports start.
            wait_for(lambda: os.path.exists(job.directory / "checkpoints") or process.poll() is not None)
        try:
            process.wait(ms / 1000)
        except subprocess.TimeoutExpired:
            pass
        to_the_group(process, signal.SIGINT)
        job.check_the_end(process, signal.SIGINT)

    @pytest.mark.parametrize(
        ("job", "phase"),
        cases(HOWS, ["running", "committing", "closing"], chosen=lambda i, j: j == 2 or i != j),
        indirect=["job"],
    )
    def test_a_burst_of_ctrl_c_ends_it_and_the_checkpoint_goes_on(self, job, phase):
        process = job.start(phase)
        wait_for(lambda: PHASES[phase](job.log))
        for _ in range(20):
            to_the_group(process, signal.SIGINT)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == {"cli": 130, "library": -signal.SIGINT}[job.how], err
        wait_for(lambda: not marked(job.mark), 2)
        if job.how == "cli":
            assert "Traceback" not in err
        else:
            assert 1 <= err.count("Traceback") <= 3, err
        job.check_the_resume()

    @pytest.mark.parametrize("line", [pytest.param(i, marks=[pytest.mark.campaign] * (i % 30 > 0)) for i in range(70)])
    def test_a_second_ctrl_c_at_any_line_that_closes_the_pool_ends_the_process(self, tmp_path, line):
        job = Job(tmp_path / "job", "library")  # the command line lets the second one end the process at once
        # The last worker hangs in what its task registered with atexit, so only the end of the server ends it.
        (job.directory / "sitecustomize.py").write_text(PRESS_AT_A_LINE)
        process = job.start("closing", env={"DAGRON_TEST_LINE": str(line), "PYTHONPATH": f"{job.directory}:{SRC}"})
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        assert process.returncode in (-signal.SIGINT, 0), err
        assert (process.returncode == 0) == (job.log.count("pressed") == 0), "there are no more lines"
        wait_for(lambda: not marked(job.mark), 2)
        (job.directory / "sitecustomize.py").unlink()
        job.check_the_resume()

    def test_ctrl_c_that_cuts_every_close_of_the_pool_short_ends_the_process(self, tmp_path):
        job = Job(tmp_path / "job", "library")
        (job.directory / "job.py").write_text(PRESS_AT_EVERY_CLOSE + JOB)
        process = job.start("closing")
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGINT, err
        # The coordinator's close and the executor's after it: nothing else would end the pool.
        assert (job.log.count("end"), job.log.count("pressed")) == (1, 2)
        wait_for(lambda: not marked(job.mark), 2)
        job.check_the_resume()

    def test_ctrl_c_ends_a_run_that_waits_for_what_ignores_its_cancelling(self, tmp_path):
        job = Job(tmp_path / "job", "library")  # the command line has no cancel event
        process = job.start("ignoring")
        wait_for(lambda: job.log.count("ignores"))
        wait_for(lambda: job.log.count("short299") or True)
        to_the_group(process, signal.SIGINT)
        job.check_the_end(process, signal.SIGINT)


# --- handlers ---------------------------------------------------------------------------------------------------------


def all_handlers():
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


@pytest.fixture
def interruptible():
    """Ctrl-C as Python has it, however the tests were started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


class TestHandlers:
    """Leans on `Interrupts.__exit__`, and on the check for the main thread in its `__enter__`."""

    TASKS = {"a": lambda: 1, "b": lambda: 1 / 0}

    def runs(self, ckpt):
        def interrupts(name):
            signal.raise_signal(signal.SIGINT)

        dag = nodes("a", "b")
        yield lambda: executor(dag, ckpt).execute(self.TASKS), None
        yield lambda: executor(dag, ckpt).resume(self.TASKS), None
        yield lambda: executor(dag, ckpt, pool="inline").execute(self.TASKS), None
        yield lambda: executor(dag, ckpt).execute({}), dagron.MissingTaskError
        yield lambda: executor(dag, "/dev/null/nowhere").execute(self.TASKS), dagron.CheckpointError
        callbacks = ExecutionCallbacks(on_start=interrupts)
        yield lambda: executor(dag, ckpt, callbacks=callbacks).execute(self.TASKS), KeyboardInterrupt

    def test_all_are_as_before_however_the_run_ended(self, ckpt, mark, interruptible):
        before = all_handlers()
        for run, error in self.runs(ckpt):
            if error is None:
                run()
            else:
                with pytest.raises(error):
                    run()
            assert all_handlers() == before
            assert signal.set_wakeup_fd(-1) == -1

    def test_outside_of_the_main_thread_none_is_touched(self, ckpt, mark, interruptible, monkeypatch):
        touched, ended = [], []

        def run():
            for run, error in self.runs(ckpt):
                if error is not KeyboardInterrupt:  # that goes to the main thread
                    try:
                        run()
                    except Exception as raised:
                        assert isinstance(raised, error)  # noqa: PT017 - some raise nothing
                    ended.append(error)

        with monkeypatch.context() as patch:
            for name in ("signal", "set_wakeup_fd", "siginterrupt", "pthread_sigmask"):
                patch.setattr(signal, name, lambda *args, name=name: touched.append((name, args)))
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        assert len(ended) == 5
        assert touched == []

    def test_none_is_lost_that_comes_while_dagron_loads_a_module(self, ckpt, log, mark, interruptible, monkeypatch):
        class Loads:
            """As where the callback of a weak reference is interrupted: Python prints that and drops it."""

            def find_spec(self, name, path, target=None):
                if name == "dagron.engines.awake":
                    log.note("loads")
                    try:
                        signal.raise_signal(signal.SIGINT)
                    except KeyboardInterrupt:
                        log.note("lost")

        monkeypatch.setattr(dagron.engines, "awake", awake)  # to have both back afterwards
        monkeypatch.delitem(sys.modules, "dagron.engines.awake")
        monkeypatch.setattr(sys, "meta_path", [Loads(), *sys.meta_path])
        with pytest.raises(KeyboardInterrupt):
            executor(nodes("a"), ckpt, pool="inline").execute({"a": partial(log.note, "ran")})
        assert (log.count("loads"), log.count("lost"), log.count("ran")) == (1, 0, 0)

    def test_a_handler_of_the_callers_that_raises_nothing_is_called_each_time_and_the_run_goes_on(
        self, ckpt, log, mark, interruptible
    ):
        seen = []
        signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
        try:

            def press(name):
                for _ in range(3):
                    os.kill(os.getpid(), signal.SIGINT)

            def task():
                log.note("task")
                for _ in range(2):
                    before = log.count("pressed")
                    os.kill(coordinator, signal.SIGINT)
                    log.note("pressed")
                    assert log.count("pressed") == before + 1

            coordinator = os.getpid()
            callbacks = ExecutionCallbacks(on_start=press)
            result = executor(nodes("a"), ckpt, callbacks=callbacks).execute({"a": task})
            assert result.succeeded == 1
            # Two in quick succession may be one to the kernel.
            assert 4 <= len(seen) <= 5
            assert set(seen) == {signal.SIGINT}
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def test_an_event_loop_that_runs_the_run_in_a_thread_keeps_its_own_handling(self, ckpt, log, mark, interruptible):
        def task():
            log.note("task")
            time.sleep(LONG)

        async def main():
            event = threading.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, event.set)
            run = asyncio.create_task(
                asyncio.to_thread(
                    executor(nodes("a"), ckpt, kill_grace_seconds=0.0).execute, {"a": task}, cancel_event=event
                )
            )
            while not log.count("task"):
                await asyncio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            return await run

        assert asyncio.run(main()).cancelled == 1

    @pytest.mark.skipif(sys.platform != "linux", reason="processes are found by their environment")
    def test_where_ctrl_c_is_ignored_it_is_ignored_by_everything_that_runs(self, tmp_path, mark):
        """As under `nohup` or in a background job of a script. Leans on `on_interrupt` in the server."""
        text = """
            import os, signal, subprocess, sys, time, dagron

            def task():
                os.kill(os.getpid(), signal.SIGINT)
                code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
                child = subprocess.run([sys.executable, "-SE", "-c", code], capture_output=True, text=True)
                print("running", flush=True)
                while not os.path.exists("gate"):
                    time.sleep(0.005)
                return signal.getsignal(signal.SIGINT) is signal.SIG_IGN, child.stdout

            dag = dagron.DAG.builder().add_node("a").build()
            print(dagron.CheckpointExecutor(dag, "ckpt").execute({"a": task})["a"].result)
            """
        (tmp_path / "script.py").write_text(textwrap.dedent(text))
        process = subprocess.Popen(
            [sys.executable, "script.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": SRC},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
        try:
            assert process.stdout.readline() == "running\n", process.stderr.read()
            for victim in marked(mark):
                if victim.pid != os.getpid():
                    victim.send_signal(signal.SIGINT)
            to_the_group(process, signal.SIGINT)
            (tmp_path / "gate").touch()
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert (out, err) == ("(True, 'True\\n')\n", "")
