"""What tasks do to the process that they share with those after them: it costs their own attempt at most.

One run on one worker: each case is followed by a node that looks at what it has been left. What can be put back is put
back; where it cannot, another worker has taken the place.
"""

import errno
import gc
import logging
import os
import resource
import signal
import sys
import textwrap
import time
from types import ModuleType
from typing import NamedTuple

import cloudpickle
import pytest

import dagron
from dagron import DAG, CheckpointExecutor, NodeStatus, ResultNotWrittenError, Task
from dagron.checkpoint.files.directory import Directory
from dagron.engines.local.condition import Budget

# Or every worker would import pytest first.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

ON_LINUX = sys.platform == "linux"
LARGE = 40_000
"""Bytes of a result that the worker writes to a file."""


class Case(NamedTuple):
    """What is done, and what is told of it.

    Attributes:
        code: What the task does; `result` is what it returns.
        replaced: What is told of a process that is replaced; None if it stays.
        restored: What is told of what was put back.
        raises: The error of the node; None if it completes.
    """

    code: str
    replaced: str | None = None
    restored: str = ""
    raises: type | None = None


LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_{0}, ({1}, resource.getrlimit(resource.RLIMIT_{0})[1]))\n"
USE_UP = LIMIT.format("NOFILE", 100) + "try:\n    while True: os.open('/dev/null', os.O_RDONLY)\nexcept OSError: pass\n"

REPLACED = {
    "descriptors used up": Case(USE_UP, "no further file can be opened"),
    "descriptors used up, and a result that needs one": Case(
        USE_UP + "result = bytes(40_000)", "no further file can be opened", raises=ResultNotWrittenError
    ),
    "nearly used up": Case(LIMIT.format("NOFILE", 50), "RLIMIT_NOFILE is 50"),
    "files may not be large": Case(
        LIMIT.format("FSIZE", 1000) + "result = bytes(40_000)", "RLIMIT_FSIZE is 1000", raises=ResultNotWrittenError
    ),
    "files may not be large, and none is": Case(LIMIT.format("FSIZE", 1000), "RLIMIT_FSIZE is 1000"),
    "little time": Case(LIMIT.format("CPU", 10**6), "RLIMIT_CPU is 1000000"),
    "directory removed": Case(
        "import tempfile\npath = tempfile.mkdtemp(); os.chdir(path); os.rmdir(path)", "its working directory is gone"
    ),
    "standard input closed": Case("os.close(0)", "descriptor 0 is closed"),
    "all three closed": Case("for fd in range(3): os.close(fd)", "descriptor 1 is closed"),
    "another file in the place": Case("os.dup2(os.open('/dev/null', os.O_WRONLY), 1)", "descriptor 1 is another file"),
    "all closed": Case("os.closerange(3, 1000)", "the way to the coordinator is closed"),
    "all closed and opened": Case(
        "os.closerange(3, 1000)\nfor _ in range(40): os.open(PLACE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)",
        "the way to the coordinator is another file",
    ),
    "streams closed": Case("sys.stdout.close(); sys.stderr.close()", "sys.stdout is closed"),
    "open": Case("import builtins; builtins.open = None\nresult = bytes(40_000)", "builtins.open was replaced"),
    "len": Case("import builtins; builtins.len = lambda x: 0\nresult = bytes(40_000)", "builtins.len was replaced"),
    "import": Case("import builtins; del builtins.__import__", "builtins.__import__ was replaced"),
    "pickle": Case("import pickle; pickle.dumps = pickle.loads = None\nresult = {1: 2}", "pickle.dumps was replaced"),
    "write lies": Case("os.write = lambda fd, data: len(data)\nresult = bytes(40_000)", "os.write was replaced"),
    "write raises": Case(
        "def write(*_): raise SystemExit(3)\nos.write = write\nresult = bytes(40_000)", "os.write was"
    ),
    "clock": Case("import time\ndef late(): raise SystemExit\ntime.monotonic = time.time = late", "time.monotonic was"),
    "the same, by a task that raises": Case(
        "import builtins; builtins.isinstance = builtins.type = None\nraise ValueError('odd')",
        "builtins.isinstance was replaced",
        raises=ValueError,
    ),
    "exit": Case("os._exit = os.getpid", "os._exit was replaced"),
    "modules": Case("for name in [*sys.modules]: del sys.modules[name]", "sys.modules lacks what dagron needs"),
    "environment": Case("os.environ.clear()", "its environment was cleared"),
    "path": Case("sys.path.clear()", "sys.path lacks what was in it"),
    "nice": Case("os.nice(3)", "its nice level is"),
}
if not os.geteuid():
    REPLACED["another root"] = Case("os.chroot(os.path.dirname(PLACE))", "its root directory is another")
RAISE = "def late(*_): raise TimeoutError('late')\n"
RESTORED = {
    "umask": Case("os.umask(0o777)\nresult = bytes(40_000)", None, "umask 0o777"),
    "timer": Case(
        RAISE + "import signal; signal.signal(signal.SIGALRM, late); signal.setitimer(0, 0.05)", None, "a timer"
    ),
    "alarm": Case("import signal; signal.alarm(1)", None, "a timer"),
    "handlers": Case(
        "import signal\nfor n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT): signal.signal(n, lambda *_: None)",
        None,
        "the handler of SIGTERM",
    ),
    "children ignored": Case("import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)", None, "SIGCHLD"),
    "signals blocked": Case(
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())", None, "blocked signals"
    ),
    "stdout": Case("import io; sys.stdout = sys.stderr = io.StringIO()", None, "sys.stdout"),
    "no stdout": Case("del sys.stdout; sys.stderr = None", None, "sys.stdout"),
    "recursion": Case("sys.setrecursionlimit(60)", None, "the recursion limit"),
    "no collection": Case("import gc; gc.disable(); gc.set_threshold(0)", None, "the collection of garbage"),
    "tracing": Case("def odd(*_): pass\nsys.settrace(odd); sys.setprofile(odd)", None, "a trace or profile function"),
    "a dump later": Case("import faulthandler; faulthandler.dump_traceback_later(0.1, exit=True)"),
}
if ON_LINUX and len(os.sched_getaffinity(0)) > 1:
    RESTORED["affinity"] = Case("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})", None, "the processors that")
LEFT = {
    "thread": Case("import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()"),
    "excepthook": Case("import threading; threading.excepthook = sys.excepthook = None"),
    "frozen": Case("import gc; gc.freeze()"),
    "elsewhere": Case("os.chdir('/')"),
    "files cut off": Case("for fd in range(3, 64):\n    try: os.ftruncate(fd, 0)\n    except OSError: pass"),
    "one more variable": Case("os.environ['ODD'] = '1'; sys.path.append('/odd'); os.environ.pop('ODD')"),
    "recursion, deeper": Case("sys.setrecursionlimit(sys.getrecursionlimit() + 1)"),
}
CASES = {**REPLACED, **RESTORED, **LEFT}


def do(code, place):
    time.sleep(0.02)  # so that a look at the process is worth what it costs
    space = {"__name__": "__main__", "os": os, "sys": sys, "result": os.getpid(), "PLACE": place}
    exec(textwrap.dedent(code), space)
    return space["result"]


def health():
    """Return what a node is left of its process; two are equal if nothing is missing."""
    print("it is heard")
    umask = os.umask(0o77)
    os.umask(umask)
    signals = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM]
    with open(os.devnull) as file:
        opened = file.fileno() < 60
    return {
        "umask": umask,
        "limits": [resource.getrlimit(n) for n in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU)],
        "handlers": [str(signal.getsignal(n)) for n in signals],
        "blocked": [*signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "timers": [signal.getitimer(n)[0] for n in (signal.ITIMER_REAL, signal.ITIMER_PROF)],
        "opened": opened,
        "directory": bool(os.getcwd()),
        "deep enough": sys.getrecursionlimit() >= 1000,
        "collects": (gc.isenabled(), gc.get_threshold()),
        "traced": (sys.gettrace(), sys.getprofile()),
        "environment": "PATH" in os.environ,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cpus": sorted(os.sched_getaffinity(0)) if ON_LINUX else [],
        "is there": len([open, os.write, time.monotonic()]),
        "streams": [os.fstat(fd).st_mode for fd in range(3)],
    }


class Probe(NamedTuple):
    pid: int
    health: dict
    large: bytes


def probe():
    return Probe(os.getpid(), health(), bytes(LARGE))


class Seen(NamedTuple):
    result: dagron.ExecutionResult
    warnings: dict
    path: str
    place: str


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    directory = tmp_path_factory.mktemp("damage")
    place = str(directory / "a file of the user's")
    builder, tasks, last = DAG.builder(), {}, None
    for name, case in CASES.items():
        for node, task in ((f"{name} before", probe), (name, None), (f"{name} after", probe)):
            builder.add_node(node)
            if last is not None:
                builder.add_edge(last, node)
            # Without parameters: a failure is to skip nothing.
            tasks[node] = Task(task or (lambda code=case.code: do(code, place)))
            last = node
    told = {"WARNING": [], "INFO": []}
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: told.setdefault(record.levelname, []).append(record.getMessage())
    logger = logging.getLogger("dagron")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        result = CheckpointExecutor(
            builder.build(),
            directory / "ckpt",
            max_workers=1,
            fail_fast=False,
            durability="process",
            pass_output=False,
            timeout=60,
        ).execute(tasks)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return Seen(result, told, str(directory / "ckpt"), place)


def test_the_run_goes_to_its_end_and_each_node_is_made_once(seen):
    failing = [name for name, case in CASES.items() if case.raises is not None]
    assert [
        name for name, node in seen.result.node_results.items() if node.status is not NodeStatus.COMPLETED
    ] == failing
    assert {node.attempts for node in seen.result.node_results.values()} == {1}


def test_a_node_whose_result_cannot_be_delivered_fails_alone_and_says_why(seen):
    for name, case in CASES.items():
        error = seen.result[name].error
        assert case.raises is None if error is None else type(error) is case.raises, (name, error)
        if case.raises is ResultNotWrittenError:
            assert case.replaced in str(error)
            assert error.errno in (errno.EMFILE, errno.EFBIG)
            assert case.replaced in seen.result[name].explain()
    assert seen.result["write lies"].result == bytes(LARGE)


def test_the_next_node_finds_the_process_as_the_first_one_did(seen):
    expected = seen.result[f"{next(iter(CASES))} before"].result.health
    for name in CASES:
        for node in (f"{name} before", f"{name} after"):
            found = seen.result[node].result
            assert found.health == expected, node
            assert found.large == bytes(LARGE)
    outputs = Directory(seen.path)
    assert outputs.names()


def test_what_is_damaged_is_replaced_and_what_can_be_put_back_stays(seen):
    for name, case in CASES.items():
        before, after = (seen.result[f"{name} {when}"].result.pid for when in ("before", "after"))
        assert (before != after) == (case.replaced is not None), name


def test_what_was_found_is_told_with_the_node_that_did_it(seen):
    for name, case in CASES.items():
        warnings = [text for text in seen.warnings["WARNING"] if f"{name!r} has " in text]
        infos = [text for text in seen.warnings["INFO"] if f"{name!r} has " in text]
        if case.replaced is not None:
            (text,) = warnings
            assert case.replaced in text, name
        else:
            assert warnings == [], name
            assert case.restored in "".join(infos), (name, infos)
            assert bool(infos) == bool(case.restored), (name, infos)


def test_nothing_of_ours_is_written_to_a_file_of_the_users_that_has_got_the_number_of_one_of_ours(seen):
    assert os.path.getsize(seen.place) == 0


def test_an_attempt_that_meets_the_damage_of_an_earlier_one_is_made_again_in_a_clean_process(tmp_path):
    """Short attempts of a known task are not looked at each time; what fails behind them is not blamed for that."""

    def task(i):
        if i == 40:
            os.closerange(0, 3)
        if i > 40:
            os.write(1, b"x")
        return i

    flow = dagron.Flow()
    nodes = flow.map("n[{}]", task, range(60))
    result = flow.run(tmp_path / "ckpt", resume=False, max_workers=1, durability="process", pass_output=False)
    assert (result.succeeded, result.failed) == (60, 0)
    assert [result.value(node) for node in nodes] == [*range(60)]
    assert {node.attempts for node in result.node_results.values()} == {1}


@pytest.mark.parametrize(
    "patch",
    [
        "os.write = lambda fd, data: len(data)",
        "import pickle; pickle.dumps = lambda *_: b'x'",
        "import builtins; builtins.len = lambda _: 0",
        "import time; time.monotonic = time.perf_counter = time.time = None",
        "import struct; struct.pack = struct.unpack = None",
        "os.umask(0o777)",
    ],
)
def test_short_attempts_behind_which_nobody_looks_have_the_right_results_whatever_one_has_replaced(tmp_path, patch):
    def task(i):
        if i == 20:
            exec(patch, {"os": os})
        print(i)
        return bytes(LARGE) if i in (20, 30) else i

    flow = dagron.Flow()
    nodes = flow.map("n[{}]", task, range(40))
    result = flow.run(tmp_path / "ckpt", resume=False, max_workers=1, durability="process", pass_output=False)
    assert [result.value(node) for node in nodes] == [bytes(LARGE) if i in (20, 30) else i for i in range(40)]


EMPTIED = (
    "marshal",
    "types",
    "copyreg",
    "enum",
    "hmac",
    "functools",
    "inspect",
    "dataclasses",
    "errno",
    "math",
    "socket",
)


class Pair(NamedTuple):
    """What is pickled with a class and a function of the script."""

    number: int
    function: object


def test_whatever_module_of_the_library_one_has_emptied_costs_no_other_node_its_attempt(tmp_path):
    def task(i):
        if i % 5 == 4 and i // 5 < len(EMPTIED):
            module = sys.modules.get(EMPTIED[i // 5])
            for name in [name for name in vars(module) if not name.startswith("__")] if module is not None else ():
                setattr(module, name, None)
        return [{i}, Pair(i, lambda x: x + i), {"a": [1.5, None]}]

    def held():
        """What dagron calls in this process, by its own names, and is not its own copy."""
        space = [
            (name, value)
            for name, module in sys.modules.items()
            if name.startswith("dagron.")
            for value in vars(module).values()
        ]
        return {
            f"{name}: {value.__name__}"
            for name, value in space
            if isinstance(value, ModuleType) and sys.modules.get(value.__name__) is value
        }

    flow = dagron.Flow()
    found = flow.add("held", held)
    nodes = flow.map("n[{}]", task, range(5 * len(EMPTIED) + 5))
    result = flow.run(tmp_path / "ckpt", resume=False, max_workers=1, durability="process", pass_output=False)
    assert result.ok, result
    assert {node.attempts for node in result.node_results.values()} == {1}
    assert [result.value(node)[1].function(1) for node in nodes] == [i + 1 for i in range(len(nodes))]
    theirs = {text.partition(": ")[2].partition(".")[0] for text in result.value(found)}
    assert theirs <= {"builtins", "sys", "multiprocessing", "dagron", "psutil", "cloudpickle", "blake3"}, theirs


def test_a_look_is_worth_it_the_first_times_and_after_some_time():
    budget = Budget()
    assert budget.is_new(())
    assert budget.is_new((1, 2))
    budget.looked((1, 2), 0.00001)
    budget.looked((1, 2), 0.00001)
    assert not budget.is_new((1, 2))
    assert budget.skips(7, 0.0005)
    assert not budget.skips(8, 0.0006)
    assert budget.unlooked == [7]
    budget.looked((1, 2), 0.00001)
    assert budget.unlooked == []
    assert budget.skips(9, 0.0006)
    assert budget.unlooked == [9]


def test_tasks_without_parts_are_never_the_same():
    budget = Budget()
    for _ in range(3):
        budget.looked((), 0.00001)
    assert budget.is_new(())


def test_a_look_costs_one_per_cent_at_most():
    budget = Budget()
    for seconds in (0.5, 0.0001, 0.02):
        budget.looked((1,), seconds)
    assert budget.skips(0, 0.0099)
    assert not budget.skips(1, 0.0002)


def test_a_disk_that_refuses_the_coordinator_too_ends_the_run(tmp_path):
    """The directory is gone for every process, so this is no fault of the task's process."""

    def removes(path):
        import shutil

        shutil.rmtree(path)
        return bytes(LARGE)

    path = str(tmp_path / "ckpt")
    flow = dagron.Flow()
    flow.add("removes", removes, path)
    with pytest.raises(dagron.CommitError):
        flow.run(path, resume=False, max_workers=1)


def test_the_death_of_a_worker_that_has_stopped_the_server_is_noticed(tmp_path):
    def leave():
        os.kill(os.getppid(), signal.SIGSTOP)
        os._exit(3)

    flow = dagron.Flow()
    flow.add("stops it and dies", leave)
    flow.add("next", os.getpid)
    result = flow.run(tmp_path / "ckpt", max_workers=1, durability="process", fail_fast=False)
    assert [node.status for node in result.node_results.values()] == [NodeStatus.FAILED, NodeStatus.COMPLETED]
    assert result["stops it and dies"].error.exit_code == 3
