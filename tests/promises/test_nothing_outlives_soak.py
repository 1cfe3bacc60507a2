"""Many runs in one process, and many deaths in one run: nothing grows, and every count is exact.

What they lean on: of the runs, `pool.close()` in the coordinator, `slot.board.close()` and the joining of the
executors' threads in the pool, and the descriptors that `_ServedPopen` closes. Of the deaths, `board.item_started` and
`_outcomes`.
"""

import gc
import os
import signal
import sys
import tempfile
import threading
import time

import cloudpickle
import psutil
import pytest

from dagron import DAG, CheckpointExecutor, ExecutionCallbacks, NodeStatus, Task, WorkerLostError

# Or every worker would import pytest first.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def one_run(i, directory, **options):
    """A run in which something different goes wrong each time, beside nodes that complete."""
    dag = DAG.builder().add_edge("large", "after").add_node("wrong").build()
    event = threading.Event()

    def interrupts(name):
        if name == "wrong":
            signal.raise_signal(signal.SIGINT)

    def stop(name):
        if name == "wrong":
            event.set()

    wrong, callbacks = [
        (lambda: os._exit(3), None),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), None),
        (lambda: 1 / 0, None),
        (Task(lambda: time.sleep(600), timeout=0.02), None),
        (lambda: time.sleep(600), ExecutionCallbacks(on_start=stop)),
        (lambda: 1, ExecutionCallbacks(on_start=interrupts)),
    ][i % 6]
    options = {"max_workers": 2, "kill_grace_seconds": 0.0, **options}
    executor = CheckpointExecutor(dag, directory, durability="process", callbacks=callbacks, **options)
    tasks = {"large": lambda: bytes(100_000), "after": lambda large: len(large), "wrong": wrong}
    try:
        result = executor.execute(tasks, cancel_event=event)
    except KeyboardInterrupt:
        assert i % 6 == 5
    else:
        assert i % 6 != 5
        assert result["wrong"].status is not NodeStatus.COMPLETED
        assert result["wrong"].error is not None
        assert i % 6 == 4 or result["after"].result == 100_000


def footprint(temporary):
    me = psutil.Process()
    gc.collect()
    with open("/proc/self/maps") as file:
        maps = file.read()
    return {
        "descriptors": me.num_fds(),
        "threads": threading.active_count(),
        "processes": len(me.children(recursive=True)),
        "temporary files": len(os.listdir(temporary)),
        "shared memory": sum(maps.count(word) for word in ("memfd:", "/dev/shm", "sem.")),
        # Some objects come and go, with caches; one for each run would show.
        "objects": len(gc.get_objects()) // 100,
    }, me.memory_info().rss


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", None)  # what was looked up before
    return directory


@pytest.fixture
def interruptible():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def runs(n, directory):
    """So many runs with workers, and two; and ten times as many inline, where a failure and an interrupt are cheap."""
    for i in range(n + 1):
        one_run(i, directory)
        for _ in range(5):
            one_run(2, directory, pool="inline")
            one_run(5, directory, pool="inline")
    one_run(0, directory)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("n", [12, pytest.param(300, marks=[pytest.mark.campaign, pytest.mark.timeout(600)])])
def test_however_many_runs_a_process_makes_and_however_they_end_nothing_grows(ckpt, temporary, interruptible, n):
    # Both times the last one is not interrupted: what that leaves in the directory, the next one deletes.
    runs(6, ckpt)
    before, memory_before = footprint(temporary)
    files = sorted(os.listdir(ckpt))
    runs(n, ckpt)
    after, memory_after = footprint(temporary)
    allowed = before["objects"] + n // 100 + 2
    assert after.pop("objects") <= allowed
    del before["objects"]
    assert after == before
    assert memory_after - memory_before < 4 << 20
    assert sorted(os.listdir(ckpt)) == files


@pytest.mark.parametrize("n", [2_000, pytest.param(100_000, marks=[pytest.mark.campaign, pytest.mark.timeout(1200)])])
def test_of_many_short_nodes_one_in_a_hundred_kills_its_worker_and_every_count_is_exact(ckpt, tmp_path, n):
    log = str(tmp_path / "log")
    names = [f"n{i:06}" for i in range(n)]
    deaths = set(names[50::100])

    def work(name, dies):
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, f"{name}\n".encode())  # appended as a whole
        os.close(fd)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return name

    tasks = {name: (lambda name=name, dies=name in deaths: work(name, dies)) for name in names}
    dag = DAG.builder().add_nodes(names).build()
    result = CheckpointExecutor(dag, ckpt, max_workers=2, durability="process").execute(tasks)
    with open(log) as file:
        ran = file.read().split()
    assert sorted(ran) == names, "a node ran twice, or not at all"
    assert (result.succeeded, result.failed) == (n - len(deaths), len(deaths))
    for name in names:
        node = result[name]
        assert node.attempts == 1
        if name in deaths:
            assert isinstance(node.error, WorkerLostError)
            assert (node.error.node, node.error.exit_code) == (name, -9)
        else:
            assert node.result == name
    result = CheckpointExecutor(dag, ckpt, max_workers=2).resume({name: lambda: "again" for name in names})
    assert {name for name in names if result[name].result == "again"} == deaths
