"""Memory: limits of nodes, enforced before the machine runs out, and what a coordinator takes."""

import os
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from places import SRC
from waiting import wait_for

from dagron import DAG, CheckpointExecutor, MemoryLimitExceededError, NodeStatus, OptionError, Task
from dagron.engines.local.pool import ProcessPool
from dagron.tasks.options import parse_bytes

MIB = 2**20


def run(ckpt, tasks, **options):
    dag = DAG.builder().add_nodes(tasks).build()
    return CheckpointExecutor(dag, ckpt, durability="process", retry_delay=0.0, **options).execute(tasks)


def grow_for_ever():
    """Take memory, 8 MiB at a time, until killed; never more than 800 MiB, so that a broken limit cannot hurt.

    Nor can a slow look be told of more than that.
    """
    taken = []
    for _ in range(100):
        taken.append(b"x" * (8 * MIB))
        time.sleep(0.002)
    time.sleep(60)


class TestLimit:
    """Each fails if `RunState._on_slot_observed` does not compare with `memory_limit`."""

    def test_a_node_above_it_is_killed_and_says_so_and_its_neighbour_runs_once(self, ckpt, log):
        def greedy():
            log.note("greedy")
            grow_for_ever()

        def neighbour():
            log.note("neighbour")
            wait_for(lambda: log.count("greedy") and not psutil.pid_exists(log.pids("greedy")[0]))
            return "done"

        tasks = {"greedy": Task(greedy, memory_limit="200 MiB"), "neighbour": neighbour, "later": lambda: 1}
        result = run(ckpt, tasks, max_workers=2)
        error = result["greedy"].error
        assert isinstance(error, MemoryLimitExceededError)
        assert error.limit_bytes == 200 * MIB
        assert 200 * MIB < error.memory_bytes < 1000 * MIB
        assert "limit of 200 MiB" in str(error)
        assert result["greedy"].status is NodeStatus.FAILED
        assert (result["neighbour"].result, log.count("neighbour"), result["later"].result) == ("done", 1, 1)

    def test_that_of_the_executor_holds_for_every_node_without_one(self, ckpt):
        result = run(
            ckpt, {"greedy": grow_for_ever, "may": Task(lambda: 1, memory_limit=2**40)}, memory_limit=150 * MIB
        )
        assert isinstance(result["greedy"].error, MemoryLimitExceededError)
        assert result["may"].result == 1

    def test_what_a_node_starts_counts_too_and_is_killed_with_it(self, ckpt, log):
        def starts():
            code = "import time; taken = b'x' * (300 * 2**20); time.sleep(600)"
            child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
            with open(os.path.join(log.directory, "child"), "w") as file:
                file.write(str(child.pid))
            child.wait()

        result = run(ckpt, {"a": Task(starts, memory_limit=200 * MIB)})
        assert isinstance(result["a"].error, MemoryLimitExceededError)
        (pid,) = log.pids("child")
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    @pytest.mark.skipif(sys.platform != "linux", reason="needs the proportional set size")
    def test_pages_that_processes_share_count_once(self, ckpt, log, monkeypatch):
        def observe(self, slot, memory_limit=None):
            all_there = log.count("all there")
            seen = original(self, slot, memory_limit)
            if all_there and memory_limit is not None and seen.memory_bytes > 120 * MIB:
                log.note("looked at")
            return seen

        original = ProcessPool.observe
        monkeypatch.setattr(ProcessPool, "observe", observe)

        def forks():
            taken = b"x" * (120 * MIB)
            children = []
            for _ in range(4):
                pid = os.fork()
                if pid == 0:
                    wait_for(lambda: log.count("looked at") >= 2)
                    os._exit(len(taken) % 2)
                children.append(pid)
            log.note("all there")
            return [os.waitpid(pid, 0)[1] for pid in children]

        # Five processes with 120 MiB each, and one copy of it.
        assert run(ckpt, {"a": Task(forks, memory_limit=300 * MIB)})["a"].result == [0] * 4

    def test_it_is_retried_if_asked_and_kills_one_attempt_at_a_time(self, ckpt, log):
        def greedy_once():
            log.note("attempt")
            if log.count("attempt") == 1:
                grow_for_ever()
            return "modest"

        result = run(ckpt, {"a": Task(greedy_once, memory_limit=200 * MIB, retries=1)})
        assert (result["a"].result, result["a"].attempts) == ("modest", 2)

    def test_a_node_is_not_blamed_for_what_earlier_ones_have_left(self, ckpt):
        def leaves():
            import builtins

            builtins.kept = b"x" * (300 * MIB)

            return os.getpid()

        def modest(leaves):
            wait_for(lambda: os.getpid() != leaves)  # in the same worker, until it is stopped
            return os.getpid()

        dag = DAG.builder().add_edge("leaves", "modest").build()
        executor = CheckpointExecutor(dag, ckpt, max_workers=1)
        result = executor.execute({"leaves": leaves, "modest": Task(modest, memory_limit=200 * MIB)})
        assert (result["modest"].status, result["modest"].attempts) == (NodeStatus.COMPLETED, 1)
        assert result["modest"].result != result["leaves"].result  # it was stopped, and began again in a new worker

    def test_one_that_a_bare_worker_exceeds_fails_its_node_instead_of_running_for_ever(self, ckpt):
        result = run(ckpt, {"a": Task(lambda: time.sleep(60), memory_limit=1)})
        assert isinstance(result["a"].error, MemoryLimitExceededError)


class TestOption:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [(1, 1), ("1", 1), ("512 MB", 512_000_000), ("1.5GiB", 3 * 2**29), (" 2 kib ", 2048), ("7b", 7), (None, None)],
    )
    def test_it_is_bytes_or_a_text_with_a_unit(self, value, expected):
        assert parse_bytes("memory_limit", value) == expected

    @pytest.mark.parametrize("value", [0, -1, 1.5, True, "", "MB", "1 XB", "-1MB", "1e9", "0.1", 2**63, b"1", [1]])
    def test_anything_else_is_an_error_before_anything_runs(self, ckpt, value):
        for make in (
            lambda: Task(int, memory_limit=value),
            lambda: CheckpointExecutor(DAG.builder().add_node("a").build(), ckpt, memory_limit=value),
        ):
            with pytest.raises(OptionError, match="memory_limit"):
                make()
        assert not ckpt.exists()


MEASURED = """
    import sys, dagron

    def memory(what):  # not by getrusage: that knows also what this process was before it was Python
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(what))

    directory, case, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    dag = dagron.DAG.builder().add_nodes(f"n{i}" for i in range(n)).build()
    executor = dagron.CheckpointExecutor(dag, directory, max_workers=2, durability="process")
    if case == "large":
        # What one small run takes is not what is asked about.
        small = dagron.DAG.builder().add_node("a").build()
        dagron.CheckpointExecutor(small, directory + "-small", max_workers=2).execute({"a": lambda: 1})
        tasks = dict.fromkeys(dag.nodes, lambda: bytes(50 * 2**20))
    else:
        tasks = dict.fromkeys(dag.nodes, lambda: None)
    before = memory("VmRSS")
    result = executor.execute(tasks)
    assert result.succeeded == n
    print(memory("VmHWM") - before)
    """


def growth_of(tmp_path, case, n):
    path = tmp_path / "measured.py"
    path.write_text(textwrap.dedent(MEASURED))
    command = [sys.executable, str(path), str(tmp_path / "ckpt"), case, str(n)]
    env = {**os.environ, "PYTHONPATH": SRC}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
class TestCoordinator:
    def test_thirty_results_of_50_mib_do_not_pass_through_it(self, tmp_path):
        """Fails if results go through the pool's pipes: if `INLINE_MAX_BYTES` is above their size."""
        assert growth_of(tmp_path, "large", 30) < 64 * MIB

    @pytest.mark.campaign
    def test_200_000_small_nodes_take_less_than_a_kilobyte_and_a_half_each(self, tmp_path, record_property):
        n = 200_000
        bytes_per_node = growth_of(tmp_path, "small", n) / n
        record_property("bytes_per_node", bytes_per_node)
        print(f"{bytes_per_node:.0f} bytes per node")
        assert bytes_per_node < 1500
