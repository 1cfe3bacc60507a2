"""Workers: what they are like, how they die, and that nothing of theirs outlives the coordinator."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest
from places import SRC
from waiting import growing, is_dead, wait_for

import dagron
from dagron import DAG, CheckpointExecutor, NodeStatus, Task
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.engines.local.pool import ProcessPool
from dagron.runs.state import RunState


def nodes(*names):
    return DAG.builder().add_nodes(names).build()


def run(dag, ckpt, tasks, **options):
    options = {"max_workers": 2, "retry_delay": 0.0, "durability": "process", **options}
    return CheckpointExecutor(dag, ckpt, **options).execute(tasks)


def script(tmp_path, text, *args, **options):
    """Start a script of its own in a process of its own."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    env = {**os.environ, "PYTHONPATH": SRC, **options.pop("env", {})}
    return subprocess.Popen([sys.executable, str(path), *map(str, args)], env=env, text=True, **options)


class TestLikeTheCoordinator:
    def test_environment_directory_and_path_are_those_of_the_run(self, ckpt, tmp_path, monkeypatch):
        (tmp_path / "made_later.py").write_text("value = 'from made_later'")
        monkeypatch.setenv("DAGRON_TEST_VALUE", "set just now")
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))

        def look():
            import made_later

            return os.environ["DAGRON_TEST_VALUE"], os.getcwd(), made_later.value

        assert run(nodes("a"), ckpt, {"a": look})["a"].result == ("set just now", str(tmp_path), "from made_later")

    def test_stdin_is_at_its_end(self, ckpt):
        assert run(nodes("a"), ckpt, {"a": lambda: (os.read(0, 1), sys.stdin.read())})["a"].result == (b"", "")

    def test_each_worker_has_random_numbers_of_its_own(self, ckpt, log):
        import random

        def draw(mine, other):
            log.note(mine)
            while not log.count(other):
                time.sleep(0.005)  # in a task: so that both workers draw
            return os.getpid(), random.random()

        result = run(nodes("a", "b"), ckpt, {"a": lambda: draw("a", "b"), "b": lambda: draw("b", "a")})
        assert result["a"].result[0] != result["b"].result[0]
        assert result["a"].result[1] != result["b"].result[1]

    def test_a_task_may_start_processes_and_pools(self, ckpt):
        def nested(method):
            context = multiprocessing.get_context(method)
            daemon = context.Process(target=time.sleep, args=(60,), daemon=True)
            daemon.start()
            with context.Pool(2) as pool:
                return sum(pool.map(abs, range(-5, 5)))

        tasks = {method: (lambda method=method: nested(method)) for method in ("fork", "spawn", "forkserver")}
        result = run(nodes(*tasks), ckpt, tasks)
        assert [result[method].result for method in tasks] == [25] * 3

    def test_what_tasks_print_is_seen(self, tmp_path):
        process = script(
            tmp_path,
            """
            import sys, dagron
            dag = dagron.DAG.builder().add_node("a").build()
            dagron.CheckpointExecutor(dag, sys.argv[1]).execute({"a": lambda: print("hello from a task")})
            """,
            tmp_path / "ckpt",
            stdout=subprocess.PIPE,
        )
        assert process.communicate(timeout=60)[0] == "hello from a task\n"


class TestClassesOfMain:
    def test_an_instance_comes_back_as_that_very_class_now_and_after_a_resume(self, tmp_path):
        text = """
            import dataclasses, enum, pickle, sys, dagron

            @dataclasses.dataclass
            class Point:
                x: int
                def moved(self): return Point(self.x + 1)

            class Color(enum.Enum):
                RED = 1

            class Odd(Exception):
                pass

            def make(): return [Point(1), Color.RED]
            def move(make): assert isinstance(make[0], Point), type(make[0]); return make[0].moved()
            def fail(): raise Odd("odd")

            dag = dagron.DAG.builder().add_edge("make", "move").add_node("fail").build()
            executor = dagron.CheckpointExecutor(dag, sys.argv[1], max_workers=2)
            result = getattr(executor, sys.argv[2])({"make": make, "move": move, "fail": fail})
            made = result["make"].result
            assert type(made[0]) is Point and made[1] is Color.RED, made
            assert type(result["move"].result) is Point and result["move"].result == Point(2)
            assert type(result["fail"].error) is Odd
            print(result.restored)
            """
        for how, restored in (("execute", "0\n"), ("resume", "2\n")):
            process = script(tmp_path, text, tmp_path / "ckpt", how, stdout=subprocess.PIPE)
            assert process.communicate(timeout=60)[0] == restored
        # And in a process that has no such class:
        code = "import pickle, sys; p = pickle.load(open(sys.argv[1], 'rb')); print(p.x, type(p).__name__)"
        env = {**os.environ, "PYTHONPATH": SRC}
        out = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "ckpt" / "move.pkl")], env=env, capture_output=True, text=True
        )
        assert out.stdout == "2 Point\n", out.stderr


def _die(how):
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "SIGSEGV":
        import ctypes

        ctypes.string_at(0)
    elif how == "os._exit(0)":
        os._exit(0)
    elif how == "os._exit(3)":
        os._exit(3)


class TestDeath:
    def test_it_fails_that_node_only_and_says_how(self, ckpt, log):
        hows = {
            "SIGKILL": (-9, "SIGKILL"),
            "SIGSEGV": (-11, "SIGSEGV"),
            "os._exit(0)": (0, "exited with code 0"),
            "os._exit(3)": (3, "exited with code 3"),
        }

        def neighbour():
            log.note("neighbour")
            while log.count("dead") < len(hows):
                time.sleep(0.005)  # in a task: waits for the fact
            return "unharmed"

        callbacks = dagron.ExecutionCallbacks(on_failure=lambda name, error: log.note("dead"))
        tasks = {"neighbour": Task(neighbour, priority=1), "later": lambda: 1}
        tasks |= {how: (lambda how=how: _die(how)) for how in hows}
        result = run(nodes(*tasks), ckpt, tasks, callbacks=callbacks)
        for how, (exit_code, text) in hows.items():
            error = result[how].error
            assert isinstance(error, dagron.WorkerLostError)
            assert (error.node, error.exit_code, error.attempt) == (how, exit_code, 1)
            assert error.peak_rss_bytes > 1_000_000
            assert text in str(error)
        assert (result["neighbour"].result, log.count("neighbour")) == ("unharmed", 1)
        assert result["later"].result == 1
        info = CheckpointExecutor(nodes(*tasks), ckpt).checkpoint_info()
        assert sorted(info.failed_nodes) == sorted(hows)

    def test_it_is_retried_if_asked(self, ckpt, log):
        def dies_once():
            log.note("attempt")
            if log.count("attempt") == 1:
                os._exit(1)
            return "second"

        result = run(nodes("a"), ckpt, {"a": Task(dies_once, retries=1)})
        assert (result["a"].result, result["a"].attempts) == ("second", 2)

    def test_in_a_batch_the_culprit_alone_is_blamed_and_what_was_done_is_kept(self, ckpt, log):
        names = [f"n{i:03}" for i in range(300)]

        def work(i):
            log.note(f"n{i:03}")
            if i in (100, 200):
                os._exit(7)
            return i

        tasks = {name: (lambda i=i: work(i)) for i, name in enumerate(names)}
        result = run(nodes(*names), ckpt, tasks)
        assert (result.succeeded, result.failed) == (298, 2)
        assert {name for name in names if result[name].status is NodeStatus.FAILED} == {"n100", "n200"}
        assert set(log.counts().values()) == {1}

    @pytest.mark.parametrize("how", ["completes", "dies", "cannot write"])
    def test_in_a_flood_workers_write_the_copies_and_none_is_missing_however_it_goes(self, ckpt, monkeypatch, how):
        given = []

        def give_copies(self, slot, copies):
            given.extend(copies)
            if how == "cannot write":
                copies = [("no/such/directory.pkl", data, exists) for _, data, exists in copies]
            original(self, slot, copies)

        original = ProcessPool.give_copies
        monkeypatch.setattr(ProcessPool, "give_copies", give_copies)
        # Else the coordinator might find the time to write all of them itself, and take the nodes of a busy machine for
        # long ones, behind which no copies are written.
        monkeypatch.setattr(CheckpointStore, "tend", lambda self, *_: False)
        monkeypatch.setattr(RunState, "expected_seconds", lambda self, slot: 0.0)
        told = []
        copied = CheckpointStore.copied
        monkeypatch.setattr(CheckpointStore, "copied", lambda self, slot, n: told.append(n) or copied(self, slot, n))
        names = [f"n{i:03}" for i in range(500)]

        def work(i):
            if how == "dies" and i % 100 == 99:
                os._exit(7)
            return i

        tasks = {name: (lambda i=i: work(i)) for i, name in enumerate(names)}
        result = run(nodes(*names), ckpt, tasks)
        # How many depends on the sizes of batches, which follow from how fast the nodes are.
        assert given
        assert how != "completes" or sum(told) > 0
        expected = {f"{name}.pkl": result[name].result for name in names if result[name].status is NodeStatus.COMPLETED}
        assert len(expected) == (495 if how == "dies" else 500)
        assert {path.name: pickle.loads(path.read_bytes()) for path in ckpt.glob("*.pkl")} == expected

    def test_a_copy_does_not_wait_for_a_node_that_is_longer_than_its_like(self, ckpt, monkeypatch):
        given = []
        original = ProcessPool.give_copies

        def give_copies(self, slot, copies):
            given.append([name for name, _, _ in copies])
            original(self, slot, copies)

        monkeypatch.setattr(ProcessPool, "give_copies", give_copies)

        def work(i, *parents):
            deadline = time.monotonic() + 20
            while i == 9 and not (ckpt / "n8.pkl").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            return (ckpt / "n8.pkl").exists()

        tasks = {f"n{i}": (lambda *parents, i=i: work(i, *parents)) for i in range(10)}
        dag = DAG.builder().add_edges((f"n{i}", f"n{i + 1}") for i in range(9)).build()
        result = run(dag, ckpt, tasks, max_workers=1)
        assert given[-1] == ["n8.pkl"], "its worker is to write this one behind the node that waits for it"
        assert result["n9"].result

    def test_a_worker_killed_while_idle_costs_nothing(self, ckpt, log):
        def killer():
            for pid in log.pids("first"):
                os.kill(pid, signal.SIGKILL)

        dag = DAG.builder().add_edge("first", "killer").add_edge("killer", "last").build()
        callbacks = dagron.ExecutionCallbacks(on_complete=lambda name, result: killer() if name == "first" else None)
        tasks = {"first": lambda: log.note("first"), "killer": lambda: 1, "last": lambda: 2}
        result = run(dag, ckpt, tasks, callbacks=callbacks, max_workers=1)
        # If the worker had the next node in hand already, that one was lost; nothing else was.
        assert result.succeeded == 3 or isinstance(result["killer"].error, dagron.WorkerLostError)

    def test_pickling_and_unpickling_that_kill_are_the_nodes_own_death(self, ckpt):
        class Bomb:
            def __reduce__(self):
                return os._exit, (9,)

        def make():
            class Bomb:
                def __reduce__(self):
                    os._exit(9)

            return Bomb()

        bomb = Bomb()
        result = run(nodes("a", "b", "c"), ckpt, {"a": lambda: bomb, "b": make, "c": lambda: 1})
        assert isinstance(result["a"].error, dagron.WorkerLostError)
        assert isinstance(result["b"].error, dagron.WorkerLostError)
        assert result["c"].result == 1


ORPHANS = """
    import ctypes, multiprocessing, os, signal, subprocess, sys, time, dagron

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored in the background
    directory = sys.argv[1]

    def note(name):
        fd = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, b"%d\\n" % os.getpid())
        os.close(fd)

    def parent():
        for detach in (False, True):
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=detach)
        if os.fork() == 0:  # a daemon of the old kind: its parent ends at once
            os.setsid()
            if os.fork() == 0:
                note("daemon")
                time.sleep(600)
            os._exit(0)
        os.wait()
        while not os.path.exists(os.path.join(directory, "daemon")):
            time.sleep(0.005)  # in a task: until the daemon is one
        note("parent")
        time.sleep(600)

    def holds_the_gil():
        note("gil")
        ctypes.PyDLL(None).sleep(600)

    dag = dagron.DAG.builder().add_nodes(["parent", "gil"]).build()
    executor = dagron.CheckpointExecutor(dag, os.path.join(directory, "ckpt"), max_workers=2)
    executor.execute({"parent": parent, "gil": holds_the_gil})
    """


class TestOrphans:
    @pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper to find what was double-forked")
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_nothing_is_left_two_seconds_after_the_coordinators_death(self, tmp_path, number, all_dead_in):
        process = script(tmp_path, ORPHANS, tmp_path, stderr=subprocess.DEVNULL)
        wait_for(
            lambda: (tmp_path / "parent").exists() and (tmp_path / "daemon").exists() and (tmp_path / "gil").exists()
        )
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 6  # the server, two workers, two children, the daemon
        process.send_signal(number)
        process.wait(timeout=30)
        assert all_dead_in(2, family)

    @pytest.mark.skipif(sys.platform != "linux", reason="needs the death signal")
    def test_the_death_of_the_server_is_survived(self, ckpt, log):
        def victim():
            log.note("victim")
            if log.count("victim") == 1:
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)  # in a task: the death signal comes first
            return "again"

        result = run(nodes("a"), ckpt, {"a": Task(victim, retries=2)}, max_workers=1)
        assert result["a"].result == "again"

    def test_a_timeout_kills_the_whole_tree_of_its_node(self, ckpt, log):
        def parent():
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            fd = os.open(os.path.join(log.directory, "child"), os.O_WRONLY | os.O_CREAT)
            os.write(fd, b"%d\n" % child.pid)
            os.close(fd)
            time.sleep(600)

        for seconds in growing(0.5):
            result = run(nodes("a"), ckpt, {"a": Task(parent, timeout=seconds)})
            assert result["a"].status is NodeStatus.TIMED_OUT
            if log.count("child"):
                break
        assert all(is_dead(pid) for pid in log.pids("child"))


class TestLeaks:
    def test_many_runs_leave_no_descriptor_thread_or_temporary_file(self, ckpt):
        dag = nodes("a", "b")
        tasks = {"a": lambda: 1, "b": lambda: 1 / 0}
        me = psutil.Process()
        run(dag, ckpt, tasks)
        before = (me.num_fds(), threading.active_count(), sorted(p.name for p in ckpt.iterdir()))
        for _ in range(4):
            run(dag, ckpt, tasks)
        assert (me.num_fds(), threading.active_count(), sorted(p.name for p in ckpt.iterdir())) == before


def test_a_server_that_a_task_has_stopped_goes_on_when_something_is_wanted_of_it(tmp_path):
    flow = dagron.Flow()
    stopped = flow.add("stops it", lambda: os.kill(os.getppid(), signal.SIGSTOP))
    late = flow.add("is to be killed", lambda _: time.sleep(600), stopped, timeout=0.5)
    result = flow.run(tmp_path / "ckpt", max_workers=1, durability="process", kill_grace_seconds=0.0)
    assert (result[stopped].status, result[late].status) == (NodeStatus.COMPLETED, NodeStatus.TIMED_OUT)
