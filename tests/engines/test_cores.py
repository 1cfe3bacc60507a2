"""Nodes that run alone, workers on processors of their own, and the threads that libraries may use in them."""

from __future__ import annotations

import logging
import os
import time
from functools import partial

import pytest

import dagron
from dagron import DAG, CheckpointExecutor, Task
from dagron.engines.local import cores

ALL = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

needs_affinity = pytest.mark.skipif(not cores.can_pin(), reason="this system does not bind processes to processors")


def independent(n):
    return DAG.builder().add_nodes(f"n{i}" for i in range(n)).build()


def test_an_exclusive_node_runs_beside_no_other(tmp_path):
    met = tmp_path / "met"
    met.mkdir()

    def work(name):
        began = time.monotonic()
        (met / name).touch()
        while name in ("n0", "n1") and not (met / "n0").exists() & (met / "n1").exists():
            time.sleep(0.001)  # these two wait for each other: the others run at once
        time.sleep(0.005)
        return began, time.monotonic()

    dag = independent(12)
    tasks = {
        name: Task(lambda name=name: work(name), exclusive=name in ("n3", "n4", "n9"), timeout=60) for name in dag.nodes
    }
    result = CheckpointExecutor(dag, tmp_path / "ckpt", max_workers=3).execute(tasks)
    spans = {name: result[name].result for name in dag.nodes}
    for alone in ("n3", "n4", "n9"):
        for other in spans.keys() - {alone}:
            assert spans[other][1] <= spans[alone][0] or spans[alone][1] <= spans[other][0], (alone, other)


@needs_affinity
def test_each_worker_has_a_processor_of_its_own_and_so_has_what_it_starts(tmp_path):
    cpus = cores.available_cpus()
    if len(cpus) < 2:
        pytest.skip("one processor only")

    def work(name):
        (tmp_path / name).touch()
        while name in ("n0", "n1") and not all((tmp_path / other).exists() for other in ("n0", "n1")):
            time.sleep(0.005)  # in a task: until both workers are there
        mine = os.sched_getaffinity(0)
        if not (pid := os.fork()):
            os._exit(0 if os.sched_getaffinity(0) == mine else 1)
        return sorted(mine), os.waitpid(pid, 0)[1], os.getpid()

    dag = independent(8)
    executor = CheckpointExecutor(dag, tmp_path / "ckpt", max_workers=2, pin_cpus=True)
    result = executor.execute({name: partial(work, name) for name in dag.nodes})
    found = [result[name].result for name in dag.nodes]
    by_worker = {pid: cpu for cpu, _, pid in found}
    assert all(len(cpu) == 1 and child == 0 for cpu, child, _ in found)
    assert len(by_worker) == 2
    assert len({tuple(cpu) for cpu in by_worker.values()}) == 2
    assert cores.available_cpus() == cpus, "the coordinator stays free"


@needs_affinity
def test_more_workers_than_processors_cannot_be_pinned(tmp_path):
    n = len(cores.available_cpus())
    with pytest.raises(dagron.OptionError, match=f"pin_cpus.*here {n}"):
        CheckpointExecutor(independent(1), tmp_path, max_workers=n + 1, pin_cpus=True)


def test_where_the_system_cannot_pin_it_says_so_and_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dagron.runs.options.can_pin", lambda: False)
    with caplog.at_level(logging.WARNING, "dagron"):
        executor = CheckpointExecutor(independent(1), tmp_path / "ckpt", max_workers=1, pin_cpus=True)
    assert "pin_cpus is ignored" in caplog.text
    assert executor.execute({"n0": lambda: 1})["n0"].result == 1


def test_cores_come_before_their_second_threads(tmp_path, monkeypatch):
    for cpu, siblings in enumerate(["0-1", "0-1", "2-3", "2-3"]):
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr(cores, "available_cpus", lambda: [0, 1, 2, 3, 7])
    assert cores.spread_cpus(tmp_path) == [0, 2, 7, 1, 3]


@pytest.mark.parametrize(("given", "expected"), [({}, "n"), ({"OMP_NUM_THREADS": "7"}, "7")])
def test_libraries_share_the_processors_unless_the_environment_says_how_many(tmp_path, monkeypatch, given, expected):
    for name in cores.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    workers = 2
    share = str(max(1, len(cores.available_cpus()) // workers))
    executor = CheckpointExecutor(independent(1), tmp_path / "ckpt", max_workers=workers)
    found = executor.execute({"n0": lambda: {name: os.environ.get(name) for name in ALL}})["n0"].result
    assert found["OMP_NUM_THREADS"] == (share if expected == "n" else expected)
    assert found["MKL_NUM_THREADS"] == (share if expected == "n" else None)
    assert "MKL_NUM_THREADS" not in os.environ


def test_the_figures_of_a_node_tell_user_from_system_time(tmp_path):
    def in_user_mode():
        end = time.process_time() + 0.1
        while time.process_time() < end:
            sum(range(1000))

    def in_the_system():
        begin = os.times().system
        while os.times().system < begin + 0.1:
            os.listdir("/proc")

    def run(how):
        executor = CheckpointExecutor(dag, tmp_path / "ckpt", max_workers=1)
        return getattr(executor, how)({"n0": in_user_mode, "n1": in_the_system})

    dag = independent(2)
    for how in ("execute", "resume"):  # measured, then as recorded
        result = run(how)
        user, system = result["n0"], result["n1"]
        assert user.cpu_seconds > 0.08
        assert user.system_seconds < user.user_seconds  # how much less, is the machine's matter
        assert system.system_seconds > 0.08
        assert system.cpu_seconds == pytest.approx(system.user_seconds + system.system_seconds)
        assert system.ended_unix == system.started_unix + system.duration_seconds
