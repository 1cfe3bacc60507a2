"""What is asked for the workers of a run as such: what each does first, and how many attempts it makes."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from functools import partial

import psutil
import pytest
from waiting import growing, wait_for

from dagron import (
    DAG,
    CheckpointExecutor,
    DagronError,
    ExecutionCallbacks,
    Flow,
    HandleError,
    NodeStatus,
    OptionError,
    RunObserver,
    Task,
    WorkerInitError,
    WorkerStartError,
)
from dagron.engines.local.spent import Leaving
from dagron.looking.status import checkpoint_status, shown_status

VARIABLE = "DAGRON_TEST_WORKER_INIT"


def independent(n):
    return DAG([f"n{i}" for i in range(n)])


class TestMaxTasksPerWorker:
    @pytest.mark.parametrize("max_tasks", [1, 3, 5])
    @pytest.mark.parametrize("n_workers", [1, 2])
    def test_no_worker_makes_more_and_nobody_is_blamed(self, ckpt, max_tasks, n_workers):
        n = 24
        executor = CheckpointExecutor(
            independent(n), ckpt, max_workers=n_workers, max_tasks_per_worker=max_tasks, enable_tracing=True
        )
        result = executor.execute(dict.fromkeys(independent(n).nodes, os.getpid))
        assert result.succeeded == n
        assert {node.attempts for node in result.node_results.values()} == {1}
        assert max(Counter(node.result for node in result.node_results.values()).values()) <= max_tasks
        assert [span.outcome for span in result.trace.spans] == ["completed"] * n
        assert {f"n{i}.pkl" for i in range(n)} <= set(os.listdir(ckpt)), "no copy is lost with a worker"

    def test_they_are_counted_anew_behind_a_death(self, ckpt, tmp_path):
        def dies_at_first(mark=tmp_path / "mark"):
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return os.getpid()

        tasks = {f"n{i}": os.getpid for i in range(8)} | {"n3": Task(dies_at_first, retries=1, retry_delay=0)}
        result = CheckpointExecutor(independent(8), ckpt, max_workers=1, max_tasks_per_worker=2).execute(tasks)
        attempts = {name: node.attempts for name, node in result.node_results.items()}
        assert attempts == {f"n{i}": 1 for i in range(8)} | {"n3": 2}
        assert max(Counter(node.result for node in result.node_results.values()).values()) <= 2

    def test_a_failed_attempt_is_one_as_well(self, ckpt, tmp_path):
        def fails(directory=tmp_path):
            (directory / str(os.getpid())).touch()
            raise ValueError

        executor = CheckpointExecutor(
            independent(1), ckpt, max_workers=1, max_tasks_per_worker=1, retries=2, retry_delay=0
        )
        result = executor.execute({"n0": fails})
        assert (result["n0"].status, result["n0"].attempts) == (NodeStatus.FAILED, 3)
        assert len([name for name in os.listdir(tmp_path) if name.isdigit()]) == 3

    def test_a_flow_takes_it_and_a_run_in_this_process_says_that_it_is_not_kept(self, ckpt, caplog):
        flow = Flow()
        nodes = flow.map("n[{}]", lambda _: os.getpid(), range(4))
        with caplog.at_level(logging.WARNING, "dagron"):
            result = flow.run(ckpt, pool="inline", max_tasks_per_worker=1)
        assert {result.value(node) for node in nodes} == {os.getpid()}
        assert "max_tasks_per_worker is not kept" in caplog.text


def note(text):
    os.environ[VARIABLE] = os.environ.get(VARIABLE, "") + text


def noted():
    return os.environ.get(VARIABLE), os.getpid()


class TestWorkerInit:
    @pytest.fixture(autouse=True)
    def unset(self, monkeypatch):
        monkeypatch.delenv(VARIABLE, raising=False)

    @pytest.mark.parametrize("pool", ["process", "inline"])
    def test_each_worker_calls_it_once_before_its_first_node(self, ckpt, pool):
        executor = CheckpointExecutor(
            independent(8), ckpt, max_workers=2, pool=pool, worker_init=partial(note, "x"), enable_tracing=True
        )
        result = executor.execute(dict.fromkeys(independent(8).nodes, noted))
        assert {node.result[0] for node in result.node_results.values()} == {"x"}
        assert (VARIABLE in os.environ) == (pool == "inline")
        assert len(result.trace.spans) == 8

    def test_also_those_that_take_the_place_of_others(self, ckpt, tmp_path):
        def dies_at_first(mark=tmp_path / "mark"):
            if not mark.exists():
                mark.touch()
                os._exit(1)
            return noted()

        tasks = dict.fromkeys(independent(8).nodes, noted) | {"n3": Task(dies_at_first, retries=1, retry_delay=0)}
        executor = CheckpointExecutor(
            independent(8), ckpt, max_workers=1, max_tasks_per_worker=2, worker_init=partial(note, "x")
        )
        results = executor.execute(tasks).node_results.values()
        assert {node.result[0] for node in results} == {"x"}
        assert len({node.result[1] for node in results}) >= 4

    def test_a_global_of_the_script_that_it_sets_is_there_for_tasks(self, tmp_path):
        (tmp_path / "job.py").write_text(JOB)
        ended = run_job(tmp_path, "--worker-init", "setup", "--show", "task")
        assert (ended.returncode, ended.stdout) == (0, "the model\n"), ended.stderr
        assert "loading" in ended.stderr

    def test_the_command_line_tells_why_it_failed_once_and_goes_on_without_it(self, tmp_path):
        (tmp_path / "job.py").write_text(JOB)
        ended = run_job(tmp_path, "--worker-init", "fails", "--show", "task")
        assert ended.returncode == 4
        assert ended.stderr.count("ValueError: no model") == 2, "in the traceback, and in the message"
        assert "error: worker_init failed: ValueError: no model" in ended.stderr
        assert "in fails" in ended.stderr
        ended = run_job(tmp_path, "--resume", "--show", "other")
        assert (ended.returncode, ended.stdout) == (1, "other\n"), "the task that needs it fails, and no other"

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("nothing", "not defined"), ("needs", "without arguments"), ("later", "plain function"), ("flow", "callable")],
    )
    def test_the_command_line_refuses_what_cannot_be_called(self, tmp_path, name, expected):
        (tmp_path / "job.py").write_text(JOB)
        ended = run_job(tmp_path, "--worker-init", name)
        assert ended.returncode == 2
        assert f"`{name}` in 'job.py'" in ended.stderr
        assert expected in ended.stderr
        assert not (tmp_path / "checkpoints").exists()

    def test_debug_calls_it_first(self, tmp_path):
        (tmp_path / "job.py").write_text(JOB)
        run_job(tmp_path, "--worker-init", "setup")
        for name, code, text in (("setup", 0, "the result is the recorded one"), ("fails", 1, "no model")):
            command = [sys.executable, "-m", "dagron", "debug", "job.py", "task", "--worker-init", name]
            ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert ended.returncode == code
            assert text in ended.stderr

    @pytest.mark.parametrize("pool", ["process", "inline"])
    def test_that_it_fails_ends_the_run_and_blames_no_node(self, ckpt, pool):
        def fails():
            raise ValueError("no model")

        failed = []
        executor = CheckpointExecutor(
            independent(8),
            ckpt,
            ExecutionCallbacks(on_failure=lambda *args: failed.append(args)),
            max_workers=2,
            pool=pool,
            worker_init=fails,
        )
        tasks = dict.fromkeys(independent(8).nodes, int)
        with pytest.raises(WorkerInitError, match=r"^worker_init failed: ValueError: no model$") as caught:
            executor.execute(tasks)
        assert isinstance(caught.value, WorkerStartError)
        assert "in fails" in str(caught.value.__cause__) or pool == "inline"
        assert failed == []
        info = executor.checkpoint_info()
        assert not info.completed_nodes
        assert not info.failed_nodes
        assert CheckpointExecutor(independent(8), ckpt).resume(tasks).succeeded == 8

    def test_that_it_fails_in_a_later_worker_keeps_what_is_recorded(self, ckpt, tmp_path):
        def fails_from_the_third_on(directory=tmp_path):
            (directory / f"init-{os.getpid()}").touch()
            if len([*directory.glob("init-*")]) > 2:
                raise ValueError

        executor = CheckpointExecutor(
            independent(5), ckpt, max_workers=1, max_tasks_per_worker=2, worker_init=fails_from_the_third_on
        )
        tasks = dict.fromkeys(independent(5).nodes, int)
        with pytest.raises(WorkerInitError):
            executor.execute(tasks)
        ran = []
        executor = CheckpointExecutor(independent(5), ckpt, ExecutionCallbacks(on_start=ran.append))
        assert executor.resume(tasks).succeeded == 5
        assert len(ran) == 1

    def test_it_counts_for_no_timeout(self, ckpt):
        for seconds in growing(0.1):  # an attempt of nothing takes less, on most machines
            executor = CheckpointExecutor(
                independent(1), ckpt, max_workers=1, timeout=seconds, worker_init=partial(time.sleep, 2 * seconds)
            )
            result = executor.execute({"n0": int})
            if result["n0"].status is NodeStatus.COMPLETED:
                break
        assert result["n0"].attempts == 1
        assert result["n0"].duration_seconds < seconds

    def test_who_watches_the_run_or_its_checkpoint_sees_that_it_goes_on(self, ckpt, tmp_path):
        gate, seen = tmp_path / "gate", []

        def waits(gate=str(gate)):
            while not os.path.exists(gate):
                time.sleep(0.005)  # in a worker: until both have been seen

        class Watcher(RunObserver):
            def run_moved(self, snapshot):
                status = checkpoint_status(ckpt)
                if snapshot.preparing and status.preparing:
                    seen.append((snapshot, status))
                    gate.touch()

        executor = CheckpointExecutor(independent(1), ckpt, max_workers=1, worker_init=waits, progress=Watcher())
        assert executor.execute({"n0": int}, run_timeout=60).ok
        snapshot, status = seen[0]
        assert (snapshot.running, status.running) == ((), [])
        assert 0 < snapshot.preparing[0] < snapshot.elapsed_seconds
        (began,) = status.preparing
        assert re.search(
            r"^workers +1 in worker_init, 2\.5 s$", shown_status(status, "utf-8", began + 2.5), re.MULTILINE
        )

    @pytest.mark.parametrize("how", ["run_timeout", "cancel_event"])
    def test_a_run_can_be_stopped_while_it_hangs(self, ckpt, tmp_path, how):
        ready, cancel = tmp_path / "ready", threading.Event()

        def hangs(ready=str(ready)):
            open(ready, "w").close()
            time.sleep(600)

        executor = CheckpointExecutor(independent(2), ckpt, max_workers=1, kill_grace_seconds=0.0, worker_init=hangs)
        if how == "run_timeout":
            for seconds in growing(0.5):
                result = executor.execute({"n0": int, "n1": int}, run_timeout=seconds)
                if ready.exists():
                    break
        else:
            waiter = threading.Thread(target=lambda: (wait_for(ready.exists), cancel.set()))
            waiter.start()
            result = executor.execute({"n0": int, "n1": int}, cancel_event=cancel)
            waiter.join()
        assert {node.status for node in result.node_results.values()} == {NodeStatus.CANCELLED}

    @pytest.mark.parametrize(
        ("init", "expected"),
        [
            (3, "a callable without arguments"),
            (note, "missing a required argument: 'text'.*partial"),
            (partial(print, threading.Lock()), "what can be pickled at .*lock"),
        ],
    )
    def test_what_cannot_be_called_or_sent_is_refused_before_anything_runs(self, ckpt, init, expected):
        with pytest.raises(OptionError, match=f"^worker_init=.*{expected}"):
            CheckpointExecutor(independent(1), ckpt, worker_init=init).execute({"n0": int})
        assert not ckpt.exists()

    def test_so_is_one_that_does_nothing_when_it_is_called(self, ckpt):
        async def later():
            pass

        def yields():
            yield

        for init, kind in ((later, "coroutine"), (yields, "generator"), (partial(yields), "generator")):
            with pytest.raises(OptionError, match=f"^worker_init=.*only returns a {kind}"):
                CheckpointExecutor(independent(1), ckpt, worker_init=init)

    def test_so_is_one_with_a_handle(self, ckpt):
        flow = Flow()
        node = flow.add("a", int)
        with pytest.raises(OptionError, match=r"worker_init=.*holds no handle of a node"):
            flow.run(ckpt, worker_init=partial(print, node))

    def test_a_handle_in_a_task_is_still_what_is_told_of(self, ckpt):
        flow = Flow()
        node = flow.add("a", int)
        held = {"the task of node '' ": node}  # a key that reads like what is said of a worker_init
        flow.add("b", lambda: held)
        with pytest.raises(HandleError) as caught:
            flow.run(ckpt, worker_init=int)
        assert (caught.value.node, caught.value.held_by) == ("a", "b")

    def test_a_task_that_cannot_be_pickled_is_still_what_is_told_of(self, ckpt):
        with pytest.raises(DagronError, match="the task of node 'n0' cannot be pickled"):
            CheckpointExecutor(independent(1), ckpt, worker_init=int).execute({"n0": partial(print, threading.Lock())})

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
    def test_nothing_is_left_if_the_coordinator_is_ended_while_it_goes_on(self, tmp_path, how):
        (tmp_path / "job.py").write_text(JOB)
        # A shell has SIGINT ignored in what it runs in the background, and these tests with it.
        code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import dagron.__main__"
        command = [sys.executable, "-c", code, "run", "job.py", "--worker-init", "hangs", "-w", "2"]
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as run:
            pids = wait_for(lambda: [int(p.suffix[1:]) for p in tmp_path.glob("hangs.*")])
            run.send_signal(how)
        assert run.returncode == (-9 if how == signal.SIGKILL else 130)
        wait_for(lambda: not any(map(psutil.pid_exists, pids)))
        ended = run_job(tmp_path, "--resume", "--worker-init", "setup", "--show", "task")
        assert (ended.returncode, ended.stdout) == (0, "the model\n"), ended.stderr


JOB = """
import os, pathlib, time
from dagron import Flow

model = None

def setup():
    global model
    print("loading")
    model = "the model"

def fails():
    raise ValueError("no model")

def hangs():
    pathlib.Path(f"hangs.{os.getpid()}").touch()
    time.sleep(600)

def needs(argument):
    pass

async def later():
    pass

def task():
    if model is None:
        raise RuntimeError("it was not set up")
    return model

flow = Flow()
flow.add("task", task)
flow.add("other", lambda: "other")
"""


def run_job(directory, *arguments):
    command = [sys.executable, "-m", "dagron", "run", "job.py", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def test_an_executor_is_kept_until_its_worker_has_ended():
    """Letting go of it earlier waits for a lock that its thread holds until then: for ever, if the worker hangs."""

    class Executor:
        def shutdown(self, *, wait):
            assert not wait

    class Process:
        alive = True

        def is_alive(self):
            return self.alive

    executor, process, leaving = Executor(), Process(), Leaving()
    kept = weakref.ref(executor)
    leaving.add(executor, process)
    del executor
    leaving.see_off()
    assert kept() is not None
    process.alive = False
    leaving.see_off()
    assert kept() is None
    assert not leaving
