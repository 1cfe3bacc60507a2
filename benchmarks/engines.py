"""The engines side by side: each runs a graph of tasks that use a given time of CPU, on a given number of slots.

An engine is entered once, which starts and warms its workers, and then runs graphs; what it returns is the wall time
from the first task that could start to the last result in hand (and in the checkpoint, if the engine has one). Peers
are used as their own documentation shows; one that is not installed is passed over.
"""

from __future__ import annotations

import graphlib
import os
import pickle
import queue
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dagron import DAG, CheckpointExecutor, ExecutionResult
from tasks import wait, work, work_of

START_UPS = int(os.environ.get("DAGRON_BENCH_START_UPS", "5"))
"""How often what is to be taken off is measured; the median counts."""

Graph = dict[str, list[str]]
Run = Callable[[Graph, float], float]


_directories: list[Path] = []

_LARGE_BYTES = 1_000_000


def fresh_directory() -> Path:
    _directories.append(Path(tempfile.mkdtemp(dir=os.environ.get("DAGRON_BENCH_DIR"))))
    return _directories[-1]


def give_space_back() -> None:
    """Empty the large files in all fresh directories: nothing is deleted, and five turns do not fill the disk."""
    while _directories:
        for above, _, names in os.walk(_directories.pop()):
            for name in names:
                if os.path.getsize(path := os.path.join(above, name)) > _LARGE_BYTES:
                    os.truncate(path, 0)


def dag_of(graph: Graph) -> DAG:
    builder = DAG.builder().add_nodes(graph)
    return builder.add_edges((parent, node) for node, parents in graph.items() for parent in parents).build()


# --- dagron --------------------------------------------------------------------------------------------------------


def run_warm(
    graph: Graph,
    tasks: dict[str, Any],
    slots: int,
    durability: str,
    warming: Callable[[], object] | None = None,
) -> tuple[float, float, ExecutionResult]:
    """Run tasks with this library, behind a node for each slot that waits until the others have started, too.

    `warming` is what these nodes do, if not just that: what else workers need once, such as an import, is for them.
    Returned are the wall time from when they have ended, and from the last task's end, to the end of the run.
    """
    warm = [f"warm {i}" for i in range(slots)]
    dag = dag_of({name: [] for name in warm} | {name: parents or warm for name, parents in graph.items()})
    executor = CheckpointExecutor(dag, fresh_directory() / "ckpt", max_workers=slots, durability=durability)  # type: ignore[arg-type]
    result = executor.execute({**tasks, **dict.fromkeys(warm, warming or partial(wait, 0.15))})
    end = time.time()
    assert result.ok
    ends = {name: result[name].started_unix + result[name].duration_seconds for name in dag.nodes}
    return end - max(ends[name] for name in warm), end - max(ends.values()), result


def closing_seconds(slots: int, durability: str) -> float:
    """Return what ends a run of two nodes, workers and all: what is taken off `run_warm`, and reported apart."""
    two: Graph = {"a": [], "b": []}
    tasks = dict.fromkeys(two, partial(work, 0.0))
    return statistics.median(run_warm(two, tasks, slots, durability)[1] for _ in range(START_UPS))


@contextmanager
def dagron(slots: int, durability: str) -> Iterator[Run]:
    """This library."""
    closing = closing_seconds(slots, durability)

    def run(graph: Graph, seconds: float) -> float:
        return run_warm(graph, dict.fromkeys(graph, partial(work, seconds)), slots, durability)[0] - closing

    yield run


# --- the pool of the standard library ------------------------------------------------------------------------------


def _stored(path: str, seconds: float) -> None:
    work(seconds)
    with open(f"{path}.tmp", "wb") as file:
        pickle.dump(None, file)
    os.replace(f"{path}.tmp", path)


@contextmanager
def pool(slots: int, *, files: bool = False) -> Iterator[Run]:
    """A ProcessPoolExecutor fed by graphlib; with `files`, each task pickles its result to a file of its own."""
    with ProcessPoolExecutor(slots) as executor:
        list(executor.map(work, [0.01] * 4 * slots))

        def run(graph: Graph, seconds: float) -> float:
            directory = str(fresh_directory()) if files else ""
            sorter = graphlib.TopologicalSorter(graph)
            finished: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()
            names: dict[Future[None], str] = {}
            began = time.perf_counter()
            sorter.prepare()
            while sorter.is_active():
                for name in sorter.get_ready():
                    call = (_stored, os.path.join(directory, name), seconds) if files else (work, seconds)
                    future = executor.submit(*call)
                    names[future] = name
                    future.add_done_callback(finished.put)
                future = finished.get()
                future.result()
                sorter.done(names.pop(future))
            return time.perf_counter() - began

        yield run


# --- peers ---------------------------------------------------------------------------------------------------------


@contextmanager
def joblib(slots: int) -> Iterator[Run]:
    """joblib.Parallel: independent tasks only, no checkpoint."""
    from joblib import Parallel, delayed

    with Parallel(n_jobs=slots) as parallel:
        parallel(delayed(work)(0.01) for _ in range(4 * slots))

        def run(graph: Graph, seconds: float) -> float:
            if any(graph.values()):
                raise NotImplementedError("joblib knows no dependencies")
            began = time.perf_counter()
            parallel(delayed(work)(seconds) for _ in graph)
            return time.perf_counter() - began

        yield run


@contextmanager
def dask(slots: int) -> Iterator[Run]:
    """dask.distributed with one-threaded workers, no checkpoint."""
    from distributed import Client, LocalCluster, wait

    with (
        LocalCluster(n_workers=slots, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        wait([client.submit(work, 0.01, i, pure=False) for i in range(4 * slots)])

        def run(graph: Graph, seconds: float) -> float:
            began = time.perf_counter()
            futures: dict[str, Any] = {}
            for name, parents in graph.items():
                futures[name] = client.submit(work, seconds, *[futures[parent] for parent in parents], pure=False)
            wait(list(futures.values()))
            return time.perf_counter() - began

        yield run


@contextmanager
def ray(slots: int) -> Iterator[Run]:
    """Ray tasks, no checkpoint."""
    import ray as engine

    engine.init(num_cpus=slots, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    remote = engine.remote(work)
    engine.get([remote.remote(0.01) for _ in range(4 * slots)])

    def run(graph: Graph, seconds: float) -> float:
        began = time.perf_counter()
        references: dict[str, Any] = {}
        for name, parents in graph.items():
            references[name] = remote.remote(seconds, *[references[parent] for parent in parents])
        engine.get(list(references.values()))
        return time.perf_counter() - began

    try:
        yield run
    finally:
        engine.shutdown()


@contextmanager
def parsl(slots: int) -> Iterator[Run]:
    """Parsl's HighThroughputExecutor with a checkpoint at each task's end."""
    import parsl as engine
    from parsl.config import Config
    from parsl.dataflow.memoization import BasicMemoizer
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    # Its workers import what tasks are made of, and know only the path that they are given.
    provider = LocalProvider(max_blocks=1, worker_init=f"export PYTHONPATH={shlex.quote(os.path.dirname(__file__))}")
    executor = HighThroughputExecutor(label="htex", max_workers_per_node=slots, address="127.0.0.1", provider=provider)
    config = Config(
        executors=[executor],
        memoizer=BasicMemoizer(checkpoint_mode="task_exit"),
        run_dir=str(fresh_directory()),
        usage_tracking=0,
        initialize_logging=False,
    )
    engine.load(config)
    app = engine.python_app(work_of, cache=True)
    n_runs = 0

    def run(graph: Graph, seconds: float) -> float:
        nonlocal n_runs
        n_runs += 1
        began = time.perf_counter()
        futures: dict[str, Any] = {}
        for name, parents in graph.items():
            futures[name] = app(f"{n_runs} {name}", seconds, *[futures[parent] for parent in parents])
        for future in futures.values():
            future.result()
        return time.perf_counter() - began

    try:
        run({f"warm {i}": [] for i in range(4 * slots)}, 0.01)
        yield run
    finally:
        engine.dfk().cleanup()
        engine.clear()


def _taking(n: int) -> Callable[..., None]:
    # Its inputs are parameters by name, so each number of parents has a function of its own.
    namespace: dict[str, Any] = {"work": work}
    exec(f"def task(seconds{''.join(f', p{i}' for i in range(n))}): work(seconds)", namespace)
    function: Callable[..., None] = namespace["task"]
    return function


@contextmanager
def pipefunc(slots: int) -> Iterator[Run]:
    """A pipefunc pipeline on a process pool, every result in a file below its run folder.

    Independent tasks are one function mapped over an array, any other graph a function for each node. Building and
    checking the pipeline, some 16 ms a node, is not counted.
    """
    from pipefunc import PipeFunc, Pipeline

    with ProcessPoolExecutor(slots) as executor:
        list(executor.map(work, [0.01] * 4 * slots))

        def run(graph: Graph, seconds: float) -> float:
            inputs: dict[str, Any]
            if any(graph.values()):
                inputs = {"seconds": seconds}
                functions = {n: _taking(n) for n in {len(parents) for parents in graph.values()}}
                pipeline = Pipeline(
                    [
                        PipeFunc(functions[len(parents)], name, renames={f"p{i}": p for i, p in enumerate(parents)})
                        for name, parents in graph.items()
                    ]
                )
            else:
                inputs = {"seconds": [seconds] * len(graph)}
                pipeline = Pipeline([PipeFunc(_taking(0), "done", mapspec="seconds[i] -> done[i]")])
            began = time.perf_counter()
            pipeline.map(
                inputs,
                fresh_directory(),
                executor=executor,
                storage="file_array",
                scheduling_strategy="eager",
                return_results=False,
            )
            return time.perf_counter() - began

        yield run


ENGINES: dict[str, Callable[[int], Any]] = {
    "dagron process": lambda slots: dagron(slots, "process"),
    "dagron power": lambda slots: dagron(slots, "power"),
    "bare pool": pool,
    "pool with pickle files": lambda slots: pool(slots, files=True),
    "joblib": joblib,
    "dask.distributed": dask,
    "ray": ray,
    "parsl": parsl,
    "pipefunc": pipefunc,
}

# Of Parsl, releases since October 2026, which keep their checkpoint in a memoizer.
MODULES = {
    "joblib": "joblib",
    "dask.distributed": "distributed",
    "ray": "ray",
    "parsl": "parsl",
    "pipefunc": "pipefunc",
}


def installed(engine: str) -> bool:
    """Tell whether an engine can be used here."""
    import importlib.util

    return engine not in MODULES or importlib.util.find_spec(MODULES[engine]) is not None
