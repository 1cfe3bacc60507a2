"""The cases of the benchmark, one a process: `python benchmarks/cases.py CASE [N]` prints one line of JSON.

A case measures itself, from the call to its end, in a fresh interpreter whose imports are done: start-up of the workers
is part of it, start-up of Python is not. It writes below the directory given by `DAGRON_BENCH_DIR` and deletes nothing:
on ext4, creating files soon after thousands were deleted costs ten times as much.
"""

from __future__ import annotations

import graphlib
import json
import os
import queue
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from dagron import DAG, CheckpointExecutor

Figures = dict[str, float]

WORKERS = 2


def noop(name: str = "") -> str:
    """Do nothing."""
    return name


def burn() -> float:
    """Use a quarter of a second of CPU and return what was used."""
    began = time.process_time()
    while (used := time.process_time() - began) < 0.25:
        pass
    return used


def fresh_directory() -> Path:
    return Path(tempfile.mkdtemp(dir=os.environ.get("DAGRON_BENCH_DIR")))


def independent(n: int) -> DAG:
    return DAG.builder().add_nodes(f"n{i:06d}" for i in range(n)).build()


def bare_pool(n: int) -> Figures:
    """No-op nodes on a ProcessPoolExecutor fed by graphlib; no checkpoint. What the others are compared with."""
    sorter = graphlib.TopologicalSorter({f"n{i:06d}": () for i in range(n)})
    began = time.perf_counter()
    finished: queue.SimpleQueue[Future[str]] = queue.SimpleQueue()
    with ProcessPoolExecutor(WORKERS) as pool:
        sorter.prepare()
        while sorter.is_active():
            for name in sorter.get_ready():
                pool.submit(noop, name).add_done_callback(finished.put)
            sorter.done(finished.get().result())
    return {"seconds": time.perf_counter() - began, "nodes": n}


def _noop(n: int, durability: str) -> Figures:
    dag = independent(n)
    tasks = dict.fromkeys(dag.nodes, noop)
    executor = CheckpointExecutor(dag, fresh_directory() / "ckpt", max_workers=WORKERS, durability=durability)  # type: ignore[arg-type]
    began = time.perf_counter()
    result = executor.execute(tasks)
    seconds = time.perf_counter() - began
    assert result.ok
    return {"seconds": seconds, "nodes": n}


def noop_process(n: int) -> Figures:
    """No-op nodes, checkpointed, `durability="process"`."""
    return _noop(n, "process")


def noop_power(n: int) -> Figures:
    """No-op nodes, checkpointed, `durability="power"`."""
    return _noop(n, "power")


def resume(n: int) -> Figures:
    """`resume` with every node completed: nothing to do."""
    dag = independent(n)
    tasks = dict.fromkeys(dag.nodes, noop)
    executor = CheckpointExecutor(dag, fresh_directory() / "ckpt", max_workers=WORKERS, durability="process")
    assert executor.execute(tasks).ok
    os.sync()  # a resume comes later, in another process; it does not write what the run has left
    began = time.perf_counter()
    result = executor.resume(tasks)
    seconds = time.perf_counter() - began
    assert result.restored == n
    return {"seconds": seconds, "nodes": n}


def cpu(n: int) -> Figures:
    """Independent nodes of 0.25 s of CPU each, checkpointed with `durability="power"`."""
    dag = independent(n)
    executor = CheckpointExecutor(dag, fresh_directory() / "ckpt", max_workers=WORKERS)
    began = time.perf_counter()
    result = executor.execute(dict.fromkeys(dag.nodes, burn))
    seconds = time.perf_counter() - began
    used = sum(node.result for node in result.node_results.values())
    return {"seconds": seconds, "nodes": n, "cpu_seconds": used, "ideal_seconds": used / WORKERS}


CASES: dict[str, Callable[[int], Figures]] = {
    case.__name__: case for case in (bare_pool, noop_process, noop_power, resume, cpu)
}


def main() -> None:
    """Run the case named on the command line."""
    name, n = sys.argv[1], int(sys.argv[2])
    import dagron.coordinator
    import dagron.plan
    import dagron.restore  # noqa: F401 - so that no case pays for imports

    print(json.dumps(CASES[name](n)))


if __name__ == "__main__":
    main()
