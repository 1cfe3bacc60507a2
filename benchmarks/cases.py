"""The cases of the benchmark, one a process: `python benchmarks/cases.py CASE [KEY=VALUE ...]` prints a line of JSON.

A case measures itself, in a fresh interpreter whose imports are done. It writes below the directory given by
`DAGRON_BENCH_DIR` and deletes nothing: on ext4, creating files soon after thousands were deleted costs ten times as
much.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dagron.runs.coordinator
import dagron.runs.plan
import dagron.runs.restore  # noqa: F401 - so that no case pays for imports
from dagron import DAG, CheckpointExecutor
from engines import ENGINES, START_UPS, closing_seconds, fresh_directory, give_space_back, run_warm
from shapes import graph, smallest_granularity
from tasks import wait_with_numpy, work
from traces import Trace, load_trace

Figures = dict[str, Any]

SLOTS = 2


def nothing(*_: object) -> None:
    """Do nothing."""


def independent(n: int) -> DAG:
    return DAG.builder().add_nodes(f"n{i:07d}" for i in range(n)).build()


def timed(executor: CheckpointExecutor, tasks: dict[str, Any], verb: str = "execute") -> float:
    began = time.perf_counter()
    result = getattr(executor, verb)(tasks)
    seconds = time.perf_counter() - began
    assert result.ok
    return seconds


def start_up(durability: str) -> float:
    """Seconds that a run of two nodes takes: what is taken off where workers are to be warm."""
    dag = independent(2)
    tasks = dict.fromkeys(dag.nodes, nothing)
    return statistics.median(
        timed(CheckpointExecutor(dag, fresh_directory() / "ckpt", max_workers=SLOTS, durability=durability), tasks)  # type: ignore[arg-type]
        for _ in range(START_UPS)
    )


# --- no-op nodes -----------------------------------------------------------------------------------------------------


def noop(engine: str, n: int) -> Figures:
    """Independent nodes of no work, workers warm; µs per node."""
    n = int(n)
    with ENGINES[engine](SLOTS) as run:
        return {"us_per_node": run({f"n{i:07d}": [] for i in range(n)}, 0.0) / n * 1e6}


def over_an_old_one(n: int) -> Figures:
    """`execute` over a checkpoint of as many nodes, to the same into an empty directory."""
    dag = independent(int(n))
    tasks = dict.fromkeys(dag.nodes, nothing)
    executor = CheckpointExecutor(dag, fresh_directory() / "ckpt", max_workers=SLOTS, durability="process")
    empty = timed(executor, tasks)
    os.sync()
    return {"ratio": timed(executor, tasks) / empty}


def closures(n: int) -> Figures:
    """Closures over one object of 1 MB, and partials with it, to no-op nodes of one function."""
    n = int(n)
    dag = independent(n)
    big = bytes(1_000_000)

    def closure(i: int) -> Callable[[], None]:
        return lambda: nothing(i, big)

    kinds: dict[str, Callable[[int], Callable[[], None]]] = {
        "plain": lambda i: nothing,
        "closure": closure,
        "partial": lambda i: partial(nothing, i, big),
    }
    off = start_up("process")
    found: Figures = {}
    for kind, make in kinds.items():
        tasks = {name: make(i) for i, name in enumerate(dag.nodes)}
        executor = CheckpointExecutor(dag, fresh_directory() / "ckpt", max_workers=SLOTS, durability="process")
        found[f"{kind}_us"] = (timed(executor, tasks) - off) / n * 1e6
    return {**found, **{f"{kind}_ratio": found[f"{kind}_us"] / found["plain_us"] for kind in ("closure", "partial")}}


# --- efficiency ----------------------------------------------------------------------------------------------------


_SURELY = 0.8
"""Efficiency above which a length is run once: a run that something has disturbed does not bring it down to 50 %."""


def efficiency(engine: str, shape: str, width: int, steps: int, longest: float = 0.008) -> Figures:
    """Efficiency at ever shorter tasks, each the median of three runs where it matters, and METG(50 %) in µs."""
    tasks = graph(shape, int(width), int(steps))
    n, seconds = len(tasks), float(longest)
    points: list[tuple[float, float]] = []
    with ENGINES[engine](SLOTS) as run:
        while True:
            wall = run(tasks, seconds)
            if seconds * n / SLOTS / wall < _SURELY:
                wall = statistics.median([wall, run(tasks, seconds), run(tasks, seconds)])
            points.append((wall * SLOTS / n, seconds * n / SLOTS / wall))
            if points[-1][1] < 0.4 or seconds < 5e-6:
                break
            seconds /= 2**0.5
    found = smallest_granularity(points)
    return {"metg_us": None if found is None else found * 1e6, "points": points, "n_tasks": n}


def _burn(seconds: float) -> float:
    began = time.process_time()
    while (used := time.process_time() - began) < seconds:
        pass
    return used


def cpu(n: int, seconds: float = 0.25) -> Figures:
    """Independent nodes that use CPU, workers warm: wall to the time that was used, divided by the slots."""
    nodes = [f"n{i:07d}" for i in range(int(n))]
    tasks = dict.fromkeys(nodes, partial(_burn, float(seconds)))
    wall, _, result = run_warm({node: [] for node in nodes}, tasks, SLOTS, "process")
    used = sum(result[node].result for node in nodes)
    closing = closing_seconds(SLOTS, "process")
    return {"ratio": (wall - closing) / (used / SLOTS), "cpu_seconds": used, "closing_seconds": closing}


def _category(trace: Trace, node: str) -> Callable[[float], Any]:
    # A function for each kind of task of the workflow, as the script of a person would have.
    namespace: dict[str, Any] = {"work": work}
    name = "".join(letter if letter.isalnum() else "_" for letter in trace.category[node])
    exec(f"def task_{name}(seconds, *parents): work(seconds)", namespace)
    function: Callable[[float], Any] = namespace[f"task_{name}"]
    return function


def trace(path: str, total: float = 20.0) -> Figures:
    """A recorded workflow, its durations scaled to a total of CPU seconds: makespan to the window bound, twice.

    Beside a first run, what a schedule without overhead reaches that knows nothing; beside a rerun, one that knows all.
    """
    scaled = load_trace(Path(path)).scaled(float(total))
    dag = DAG(scaled.parents, scaled.edges)
    functions = {category: _category(scaled, node) for node, category in scaled.category.items()}
    tasks = {node: partial(functions[scaled.category[node]], scaled.seconds[node]) for node in dag.nodes}
    executor = CheckpointExecutor(dag, fresh_directory() / "ckpt", max_workers=SLOTS, durability="power")
    bound = scaled.window_bound(SLOTS)
    ratios = []
    for _ in range(2):
        result = executor.execute(tasks)
        assert result.ok
        nodes = [result[name] for name in dag.nodes]
        makespan = max(x.started_unix + x.duration_seconds for x in nodes) - min(x.started_unix for x in nodes)
        ratios.append(makespan / bound)
    return {
        "nodes": len(dag),
        "bound_seconds": bound,
        "first_ratio": ratios[0],
        "fifo_ratio": scaled.list_schedule(SLOTS, known=False) / bound,
        "rerun_ratio": ratios[1],
        "known_ratio": scaled.list_schedule(SLOTS, known=True) / bound,
    }


# --- large results -------------------------------------------------------------------------------------------------


class _Peak:
    """The growth of this process's resident memory while it is entered, looked at every millisecond."""

    def __enter__(self) -> _Peak:
        import psutil

        process = psutil.Process()
        before = process.memory_info().rss
        self.bytes = 0
        self._over = threading.Event()

        def look() -> None:
            while not self._over.wait(0.001):
                self.bytes = max(self.bytes, process.memory_info().rss - before)

        self._thread = threading.Thread(target=look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def arrays(n: int, mb: float) -> Figures:
    """Arrays, each read by one child: MB per second, to workers with plain files; memory here in both."""
    import numpy as np

    n, size = int(n), int(float(mb) * 1e6 / 8)

    def make(i: int) -> Any:
        return np.full(size, float(i))

    def add(array: Any) -> float:
        return float(array.sum())

    children: dict[str, list[str]] = {}
    tasks: dict[str, Any] = {}
    for i in range(n):
        children[f"make{i:03d}"] = []
        children[f"sum{i:03d}"] = [f"make{i:03d}"]
        tasks[f"make{i:03d}"] = partial(make, i)
        tasks[f"sum{i:03d}"] = eval(f"lambda make{i:03d}, add=add: add(make{i:03d})", {"add": add})

    def plainly(pool: concurrent.futures.Executor, directory: str) -> None:
        list(pool.map(_write_plain, [directory] * n, range(n), [size] * n))
        list(pool.map(_read_plain, [directory] * n, range(n)))

    with _Peak() as peak:
        seconds, plain = _both_ways(3, children, tasks, plainly)
    return {
        "mb_per_second": n * float(mb) / seconds,
        "plain_mb_per_second": n * float(mb) / plain,
        "throughput_ratio": plain / seconds,
        "coordinator_growth_mb": peak.bytes / 1e6,
    }


def _both_ways(
    times: int,
    graph: dict[str, list[str]],
    tasks: dict[str, Any],
    plainly: Callable[[concurrent.futures.Executor, str], None],
) -> tuple[float, float]:
    """Return the seconds of a run of ours and of a pool whose workers use plain files, the best of some, in turns.

    Neither has start-ups in it, nor syncs. What a page of memory costs that nobody has used before is most of it, if
    there is a hypervisor, and differs from one run to the next; so each finds what the other one has used and freed.
    """
    closing = closing_seconds(SLOTS, "process")
    warming = partial(wait_with_numpy, 0.15)  # those of the pool fork from a process that has it
    ours, plain = [], []
    for _ in range(times):
        os.sync()
        ours.append(run_warm(graph, tasks, SLOTS, "process", warming)[0] - closing)
        give_space_back()
        os.sync()
        directory = str(fresh_directory())
        with concurrent.futures.ProcessPoolExecutor(SLOTS) as pool:
            list(pool.map(work, [0.01] * 4))
            began = time.perf_counter()
            plainly(pool, directory)
            plain.append(time.perf_counter() - began)
        give_space_back()
    return min(ours), min(plain)


def _write_plain(directory: str, i: int, size: int) -> None:
    import numpy as np

    np.save(f"{directory}/{i}.npy", np.full(size, float(i)))


def _read_plain(directory: str, i: int) -> float:
    import numpy as np

    return float(np.load(f"{directory}/{i}.npy").sum())


def _bytes_of(size: int) -> bytes:
    return os.urandom(1) * size


def results(engine: str, n: int, mb: float) -> Figures:
    """Nodes that return so many bytes each: what they add to the memory of the coordinating process at its peak."""
    n, size = int(n), int(float(mb) * 1e6)
    if engine == "bare pool":
        with concurrent.futures.ProcessPoolExecutor(SLOTS) as pool:
            list(pool.map(work, [0.01] * 4))
            with _Peak() as peak:
                for future in concurrent.futures.as_completed([pool.submit(_bytes_of, size) for _ in range(n)]):
                    assert len(future.result()) == size
    else:
        dag = independent(n)
        durability: Any = engine.removeprefix("dagron ")
        executor = CheckpointExecutor(dag, fresh_directory() / "ckpt", max_workers=SLOTS, durability=durability)
        with _Peak() as peak:
            timed(executor, dict.fromkeys(dag.nodes, partial(_bytes_of, size)))
    return {"growth_mb": peak.bytes / 1e6}


def broadcast(n: int, mb: float) -> Figures:
    """One array read by many children, to the same with a memory map of a plain file."""
    import numpy as np

    n, size = int(n), int(float(mb) * 1e6 / 8)
    children = [f"c{i:03d}" for i in range(n)]
    graph = {"array": [], **{child: ["array"] for child in children}}
    tasks: dict[str, Any] = {"array": lambda: np.full(size, 1.0)}
    tasks |= {
        child: (lambda array, i=i: float(array[i :: len(array) // 1000].sum())) for i, child in enumerate(children)
    }

    def plainly(pool: concurrent.futures.Executor, directory: str) -> None:
        pool.submit(_write_plain, directory, 1, size).result()
        list(pool.map(_read_mapped, [directory] * n, range(n)))

    seconds, plain = _both_ways(5, graph, tasks, plainly)
    return {"seconds": seconds, "plain_seconds": plain, "ratio": seconds / plain}


def _read_mapped(directory: str, i: int) -> float:
    import numpy as np

    array = np.load(f"{directory}/1.npy", mmap_mode="r")
    return float(array[i :: len(array) // 1000].sum())


# --- resuming, memory, starting ------------------------------------------------------------------------------------


def resume(n: int) -> Figures:
    """`resume` with every node completed: nothing to do. Also the peak memory of the process that resumes."""
    n = int(n)
    dag = independent(n)
    tasks = dict.fromkeys(dag.nodes, nothing)
    directory = fresh_directory() / "ckpt"
    assert CheckpointExecutor(dag, directory, max_workers=SLOTS, durability="process").execute(tasks).ok
    os.sync()  # a resume comes later, in another process; it does not write what the run has left
    done = subprocess.run(
        [sys.executable, __file__, "resumed", f"n={n}", f"directory={directory}"], stdout=subprocess.PIPE, check=True
    )
    found: Figures = json.loads(done.stdout)
    return found


def resumed(n: int, directory: str) -> Figures:
    """The second half of `resume`, in a process of its own."""
    import resource

    n = int(n)
    dag = independent(n)
    tasks = dict.fromkeys(dag.nodes, nothing)
    seconds = timed(CheckpointExecutor(dag, directory, max_workers=SLOTS, durability="process"), tasks, "resume")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"us_per_node": seconds / n * 1e6, "seconds": seconds, "peak_mb": peak / 1e6}


def memory(n: int) -> Figures:
    """Bytes per node that a run of no-op nodes adds to this process, at its peak, beyond the DAG and the tasks."""
    n = int(n)
    dag = independent(n)
    tasks = dict.fromkeys(dag.nodes, nothing)
    executor = CheckpointExecutor(dag, fresh_directory() / "ckpt", max_workers=SLOTS, durability="process")
    with _Peak() as peak:
        seconds = timed(executor, tasks)
    return {"bytes_per_node": peak.bytes / n, "us_per_node": seconds / n * 1e6}


def starting(n: int = 9) -> Figures:
    """Milliseconds of `import dagron`, to the bare interpreter, and to the first result of a run of one node."""

    def python(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - began

    pairs = [(python("import dagron"), python("pass")) for _ in range(int(n))]
    first = []
    dag = independent(1)
    for _ in range(int(n)):
        executor = CheckpointExecutor(dag, fresh_directory() / "ckpt", max_workers=SLOTS)
        began = time.time()
        result = executor.execute(dict.fromkeys(dag.nodes, nothing))
        node = result[dag.nodes[0]]
        first.append(node.started_unix + node.duration_seconds - began)
    return {
        "import_ms": statistics.median(a - b for a, b in pairs) * 1e3,
        "first_result_ms": statistics.median(first) * 1e3,
        "run_of_two_ms": start_up("power") * 1e3,
    }


CASES: dict[str, Callable[..., Figures]] = {
    case.__name__: case
    for case in (
        noop,
        over_an_old_one,
        closures,
        efficiency,
        cpu,
        trace,
        arrays,
        results,
        broadcast,
        resume,
        memory,
        starting,
    )
}


def main() -> None:
    """Run the case named on the command line."""
    name, *options = sys.argv[1:]
    case: Callable[..., Figures] = resumed if name == "resumed" else CASES[name]
    print(json.dumps(case(**dict(option.split("=", 1) for option in options))), flush=True)
    give_space_back()


if __name__ == "__main__":
    main()
