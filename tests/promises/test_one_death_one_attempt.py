"""Worker death, the matrix: where a worker can be hit x how it is hit -> what is reported, and that nothing else is.

Every cell is a node of its own in one of a few runs; the runs are made once, the cells are asserted one by one. Beside
the cells, each run has an innocent that runs all the while in another slot, and behind each cell a node that needs the
slot. What is executed is counted in append-only files, so that it is known whatever dies.

What each kind of cell leans on in the source, in one line to remove:

*   lost cells: `SlotProcess`'s sentinel and status pipe, i.e. `os.write(pipe, status)` in the server's `tell_ends`;
*   the culprit and nobody else: `board.attempt_started` in `run_batch`;
*   raising cells: `except BaseException` in `make_attempt`, and `if not isinstance(..., BaseException)` in
    `dump_exception`;
*   hanging cells: `kill_overdue` in the server;
*   copies: the comparison of process ids in `worker._called`;
*   no temporary file: `self._store.worker_lost = True` in the coordinator;
*   nothing left: `kill_strangers` and `kill_everything` in the server, `pool.close()` in the coordinator.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import cloudpickle
import psutil
import pytest
from places import SRC, SUPPORT
from waiting import wait_for

import dagron
from dagron import DAG, CheckpointExecutor, ExecutionCallbacks, Task

# Or every worker, and each cell has one, would import pytest first.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

ON_LINUX = sys.platform == "linux"

# --- how -----------------------------------------------------------------------------------------------------------
# As text, so that the same can happen wherever `exec` can be called: also while something is unpickled, and in a
# process that knows nothing of this module.

ODD = """
class Odd(Exception):
    def __reduce__(self):
        {0}
raise Odd("what it says")
"""


class Raise(NamedTuple):
    """A way to raise; `shown` is what the node's error must be, by type and text."""

    code: str
    kind: str
    text: str
    exit_code: int = 1  # of a process of its own that does this


class Kill(NamedTuple):
    code: str
    exit_code: int
    text: str


RAISES = {
    "raises": Raise("raise ValueError('what it says')", "ValueError", "what it says"),
    "SystemExit": Raise("raise SystemExit('what it says')", "SystemExit", "what it says"),
    "sys.exit(0)": Raise("import sys; sys.exit(0)", "SystemExit", "0", 0),
    "KeyboardInterrupt": Raise("raise KeyboardInterrupt('what it says')", "KeyboardInterrupt", "what it says", -2),
    "GeneratorExit": Raise("raise GeneratorExit('what it says')", "GeneratorExit", "what it says"),
    "RecursionError": Raise("def f(): f()\nf()", "RecursionError", "maximum recursion depth exceeded"),
    "MemoryError": Raise("bytearray(2**62)", "MemoryError", ""),
    "unpicklable": Raise(ODD.format("raise TypeError('not me')"), "TaskFailedError", "Odd: what it says"),
    "unpickling-raises": Raise(ODD.format("return int, ('no number',)"), "TaskFailedError", "Odd: what it says"),
    "unpickling-exits": Raise(
        ODD.format("import sys; return sys.exit, ('no',)"), "TaskFailedError", "Odd: what it says"
    ),
}
SELF = "import os, signal; os.kill(os.getpid(), signal.{0})"
KILLS = {
    # Success, as far as the kernel knows; not as far as we do.
    "os._exit(0)": Kill("import os; os._exit(0)", 0, "exited with code 0"),
    "os._exit(3)": Kill("import os; os._exit(3)", 3, "exited with code 3"),
    "SIGKILL": Kill(SELF.format("SIGKILL"), -9, "was killed by signal 9 (SIGKILL)"),
    "SIGSEGV": Kill("import ctypes; ctypes.string_at(0)", -11, "was killed by signal 11 (SIGSEGV)"),
    "SIGABRT": Kill("import os; os.abort()", -6, "was killed by signal 6 (SIGABRT)"),
    "SIGTERM": Kill(SELF.format("SIGTERM"), -15, "was killed by signal 15 (SIGTERM)"),
}
# The worker unpickles an exception once before it lets the coordinator do so; here, that is the end of it.
UNPICKLING_KILLS = ODD.format("import os; return os._exit, (5,)")
HANGS = {
    "SIGSTOP": SELF.format("SIGSTOP"),
    "sleeps": "import time; time.sleep(600)",
    "holds-the-GIL": "import ctypes; ctypes.PyDLL(None).sleep(600)",
    "ignores-SIGTERM": "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
}
# What a task can do to the process that it shares with those after it.
MESSES = {
    "closes-descriptors": "import os; os.closerange(3, 1000)",
    "closes-streams": "import sys; sys.stdout.close(); sys.stderr.close()",
    "removes-streams": "import sys; del sys.stdout, sys.stderr",
    "closes-1-and-2": "import os; os.close(1); os.close(2)",
    "flush-raises": """
        import sys
        class Odd:
            def write(self, text): pass
            def flush(self): raise SystemExit(4)
        sys.stdout = Odd()
        """,
    "handles-every-signal": """
        import signal
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
            signal.signal(number, lambda *_: None)
        """,
    "ignores-SIGCHLD": "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "changes-directory": "import os; os.chdir('/')",
    "clears-the-environment": "import os; os.environ.clear()",
    "clears-the-path": "import sys; sys.path.clear()",
    "stops-the-clock": """
        import time
        class Stopped(Exception):
            pass
        def monotonic(): raise Stopped
        time.monotonic = monotonic
        """,
    "leaves-a-thread": "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()",
    "leaves-a-child": "import subprocess; keep = subprocess.Popen(['sleep', '600'])",
    "leaves-a-session": "import subprocess; keep = subprocess.Popen(['sleep', '600'], start_new_session=True)",
    "leaves-a-group": "import subprocess; keep = subprocess.Popen(['sleep', '600'], process_group=0)",
    "double-forks": """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
        """,
    "leaves-a-copy": """
        import os, time
        if os.fork() == 0:
            time.sleep(600)
        """,
}

# --- where ---------------------------------------------------------------------------------------------------------


def do(code):
    exec(code, {"__name__": "__main__"})


class WhenUnpickled:
    def __init__(self, code):
        self.code = code

    def __reduce__(self):
        return exec, (self.code, {"__name__": "__main__"})


class WhenPickled:
    def __init__(self, code):
        self.code = code

    def __reduce__(self):
        do(self.code)
        return int, ("1",)


def unpickling_the_task(code):
    bomb = WhenUnpickled(code)
    return {"cell": lambda: bomb}


def unpickling_an_input(code):
    def cell(parent):
        return parent

    return {"parent": lambda: WhenUnpickled(code), "cell": cell}


def running(code):
    return {"cell": lambda: do(code)}


def pickling_a_small_result(code):
    return {"cell": lambda: WhenPickled(code)}


def pickling_a_large_result(code):
    # By the time that the bomb is reached, the temporary file has four megabytes.
    return {"cell": lambda: [bytes(4 << 20), WhenPickled(code)]}


def in_a_thread(code):
    def cell():
        thread = threading.Thread(target=do, args=(code,), daemon=True)
        thread.start()
        thread.join()

    return {"cell": cell}


def in_a_thread_that_is_left(code):
    def cell():
        threading.Thread(target=do, args=(code,), daemon=True).start()

    return {"cell": cell}


def in_a_child(code):
    # -S and -E, because it need not be like anything, only quick.
    return {"cell": lambda: subprocess.run([sys.executable, "-SE", "-c", code]).returncode}


def in_a_forked_copy(code):
    """The copy comes out of the task, as if it were the worker, unless that is what kills it."""

    def cell():
        pid = os.fork()
        if pid == 0:
            do(code)
            return "the copy's result"
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return {"cell": cell}


def a_copy_that_comes_later(code):
    """The copy comes out of the task when the worker has long gone on."""

    def cell():
        read, write = os.pipe()
        if os.fork() == 0:
            os.close(write)
            os.read(read, 1)  # ends when the worker closes its end, behind the task
            do(code)
            return "the copy's result"
        os.close(read)
        timer = threading.Timer(0.05, os.close, (write,))
        timer.daemon = True
        timer.start()
        return "the worker's result"

    return {"cell": cell}


WHERES = {
    "unpickling-the-task": unpickling_the_task,
    "unpickling-an-input": unpickling_an_input,
    "running": running,
    "pickling-a-small-result": pickling_a_small_result,
    "pickling-a-large-result": pickling_a_large_result,
    "in-a-thread": in_a_thread,
    "in-a-child": in_a_child,
    "in-a-forked-copy": in_a_forked_copy,
}


# --- the table -----------------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """What is done, and what must be seen: a status, an error by type and text, an exit code, a result."""

    id: str
    tasks: dict
    status: str
    kind: str | None = None
    text: str = ""
    exit_code: int | None = None
    result: object = None


def raise_cells():
    for where, tasks in WHERES.items():
        for how, (code, kind, text, exit_code) in RAISES.items():
            name = f"{where}/{how}"
            if where.startswith("pickling") and how != "KeyboardInterrupt":
                # The task was fine; its result is not.
                text = {"TaskFailedError": "Odd", "RecursionError": "recursion"}.get(kind, f"{kind}: {text}")
                yield Cell(name, tasks(code), "failed", "ResultNotPicklableError", text.removesuffix(": "))
            elif where == "unpickling-an-input" and kind not in ("KeyboardInterrupt", "MemoryError"):
                # What it raises is in the error, which names the parent.
                yield Cell(name, tasks(code), "failed", "InputNotLoadableError", text)
            elif where == "in-a-thread":
                yield Cell(name, tasks(code), "completed")
            elif where == "in-a-child":
                yield Cell(name, tasks(code), "completed", result=exit_code)
            elif where != "in-a-forked-copy":
                yield Cell(name, tasks(code), "failed", kind, text)


def copy_cells():
    for how, (code, _, _, exit_code) in RAISES.items():
        # Only the interpreter's own end turns a KeyboardInterrupt into SIGINT.
        yield Cell(f"in-a-forked-copy/{how}", in_a_forked_copy(code), "completed", result=abs(exit_code) and 1)
    yield Cell("in-a-forked-copy/returns", in_a_forked_copy("pass"), "completed", result=0)
    yield Cell("in-a-forked-copy/sys.exit(7)", in_a_forked_copy("import sys; sys.exit(7)"), "completed", result=7)
    yield Cell("in-a-forked-copy/outlives", a_copy_that_comes_later("pass"), "completed", result="the worker's result")


def kill_cells():
    for where, tasks in WHERES.items():
        for how, (code, exit_code, text) in KILLS.items():
            name = f"{where}/{how}"
            if where in ("in-a-child", "in-a-forked-copy"):
                yield Cell(name, tasks(code), "completed", result=exit_code)
            else:
                yield Cell(name, tasks(code), "failed", "WorkerLostError", text, exit_code)
    for where in ("unpickling-the-task", "unpickling-an-input", "running"):
        name = f"{where}/unpickling-kills"
        kind = "InputNotLoadableError" if where == "unpickling-an-input" else "TaskFailedError"
        yield Cell(name, WHERES[where](UNPICKLING_KILLS), "failed", kind, "Odd: what it says")


def hang_cells():
    for where, tasks in WHERES.items():
        for how, code in HANGS.items():
            if where == "in-a-thread" and how == "ignores-SIGTERM":
                continue  # only a main thread may set handlers
            name = f"{where}/{how}"
            text = f"node '{name}' ran longer than {HANG_SECONDS:g} s in attempt 1 and was killed"
            yield Cell(name, tasks(code), "timed_out", "NodeTimeoutError", text)
    yield Cell("in-a-thread-that-is-left/sleeps", in_a_thread_that_is_left(HANGS["sleeps"]), "completed")


def mess_cells():
    for how, code in MESSES.items():
        yield Cell(f"running/{how}", running(textwrap.dedent(code)), "completed")


HANG_SECONDS = 0.3
GROUPS = {
    "raise": list(raise_cells()),
    "copy": list(copy_cells()),
    "kill": list(kill_cells()),
    "hang": list(hang_cells()),
    "mess": list(mess_cells()),
}
N_SLOTS = {"hang": 6}
"""Two where nothing is said: one for the innocent, so that a cell and what follows it share the other."""

# Not most of the messes, which another task can see: of one that ignores SIGCHLD the next cannot wait for a child.
FOR_SCRIPTS = [cell for group, cells in GROUPS.items() if group != "mess" for cell in cells] + [
    cell for cell in GROUPS["mess"] if cell.id.split("/")[1] in ("closes-descriptors", "double-forks", "leaves-a-copy")
]


# --- running it ----------------------------------------------------------------------------------------------------


def note(directory, name):
    fd = os.open(os.path.join(directory, name.replace("/", "|")), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"%d\n" % os.getpid())
    os.close(fd)


def pids(directory, name):
    try:
        return [int(line) for line in (Path(directory) / name.replace("/", "|")).read_text().split()]
    except FileNotFoundError:
        return []


def wait_in_task(fact, seconds=90):
    """In a task: wait for a fact, and fail rather than hang if it never comes true."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.005)


def observe(cells, log, n_slots=2, checkpoint="ckpt"):
    """Run the cells in one run and tell what is seen of each, as JSON can say it; with `innocent` among the names."""
    builder, tasks = DAG.builder(), {}

    def innocent():
        note(log, "innocent")
        wait_in_task(lambda: pids(log, "the rest"))
        note(log, "innocent's end")
        return "unharmed"

    builder.add_node("innocent")
    tasks["innocent"] = Task(innocent, priority=1)
    tasks["the rest"] = lambda: note(log, "the rest")
    for cell in cells:
        parts = dict(cell.tasks)
        work = tasks[cell.id] = Task(parts.pop("cell"), timeout=HANG_SECONDS if cell.status == "timed_out" else None)
        builder.add_node(cell.id)
        if parts:
            builder.add_edge(f"{cell.id} parent", cell.id)
            tasks[f"{cell.id} parent"] = parts["parent"]
            tasks[cell.id] = Task(with_parent(work.fn), timeout=work.timeout)
        after = f"{cell.id} after"
        # Large enough for a file of its own, which the worker writes.
        tasks[after] = lambda name=after: (note(log, name), bytes(50_000))[1]
        builder.add_edge(cell.id, after).add_edge(after, "the rest")
    executor = CheckpointExecutor(
        builder.build(),
        checkpoint,
        max_workers=n_slots,
        fail_fast=False,
        durability="process",
        kill_grace_seconds=0.1,
    )
    result = executor.execute(tasks)
    seen = {}
    for cell in cells:
        node, after = result[cell.id], result[f"{cell.id} after"]
        seen[cell.id] = {
            "status": node.status.value,
            "kind": None if node.error is None else type(node.error).__name__,
            "text": "" if node.error is None else str(node.error),
            "exit_code": getattr(node.error, "exit_code", None),
            "peak_rss_bytes": getattr(node.error, "peak_rss_bytes", None),
            "result": node.result if cell.status == "completed" and node.error is None else None,
            "attempts": node.attempts,
            "after": [after.status.value, after.attempts, len(pids(log, f"{cell.id} after"))],
        }
    innocent = result["innocent"]
    seen["innocent"] = {
        "result": innocent.result if innocent.error is None else str(innocent.error),
        "attempts": innocent.attempts,
        "begun": len(pids(log, "innocent")),
        "ended": len(pids(log, "innocent's end")),
    }
    failed = sum(cell.status == "failed" for cell in cells)
    timed_out = sum(cell.status == "timed_out" for cell in cells)
    seen["counts"] = [result.failed - failed, result.timed_out - timed_out, result.skipped, result.cancelled]
    return seen


def with_parent(fn):
    # Any name will do for an input that is not taken by name.
    return lambda *inputs: fn(*inputs)


def check_cell(cell, seen):
    got = seen[cell.id]
    assert (got["status"], got["kind"], got["exit_code"]) == (cell.status, cell.kind, cell.exit_code), got
    assert cell.text in got["text"], got
    assert got["result"] == cell.result
    assert got["attempts"] == 1
    if cell.kind == "WorkerLostError":
        assert got["peak_rss_bytes"] > 4_000_000
        assert "its peak memory was" in got["text"]
    assert got["after"] == ["completed", 1, 1], "the slot did not work afterwards, or worked twice"


def check_rest(seen):
    assert seen["innocent"] == {"result": "unharmed", "attempts": 1, "begun": 1, "ended": 1}
    assert seen["counts"] == [0, 0, 0, 0]


def marked(mark):
    """Every process that lives and was started with this mark in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and mark in process.environ().values():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


class Ran(NamedTuple):
    seen: dict
    left: dict


OURS = {"_meta.json", "_journal", "_lock"}


def strange_files(directory):
    return [name for name in os.listdir(directory) if name not in OURS and not name.endswith(".pkl")]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    """`matrix(group)`: what was seen of a group of cells in this process, and what was left behind; run once."""
    ran = {}

    def get(group):
        if group not in ran:
            ran[group] = run_group(group)
        return ran[group]

    def run_group(group):
        directory = tmp_path_factory.mktemp(group)
        (directory / "log").mkdir()
        me, mark = psutil.Process(), uuid.uuid4().hex
        here = os.getcwd()
        os.chdir(directory)  # the checkpoint's path is relative, as a user would write it
        os.environ["DAGRON_TEST_MARK"] = mark
        try:
            # What is opened once and for all is open from here on.
            CheckpointExecutor(DAG.builder().add_node("a").build(), "warm-up").execute({"a": int})
            before = me.num_fds(), threading.active_count()
            seen = observe(GROUPS[group], str(directory / "log"), N_SLOTS.get(group, 2))
            left = {
                "descriptors": me.num_fds() - before[0],
                "threads": threading.active_count() - before[1],
                "processes": marked(mark),
                "files": strange_files("ckpt"),
            }
            return Ran(seen, left)
        finally:
            del os.environ["DAGRON_TEST_MARK"]
            os.chdir(here)

    return get


def cells_of(group):
    return [pytest.param(cell, id=cell.id) for cell in GROUPS[group]]


@pytest.mark.parametrize("cell", cells_of("raise"))
def test_whatever_is_raised_fails_that_node_or_nothing_and_the_worker_lives_on(matrix, cell):
    check_cell(cell, matrix("raise").seen)


@pytest.mark.parametrize("cell", cells_of("copy"))
def test_a_copy_of_the_worker_that_a_task_forks_never_answers_for_the_worker(matrix, cell):
    check_cell(cell, matrix("copy").seen)


@pytest.mark.parametrize("cell", cells_of("kill"))
def test_a_death_fails_that_node_and_says_how_it_died(matrix, cell):
    check_cell(cell, matrix("kill").seen)


@pytest.mark.parametrize("cell", cells_of("hang"))
def test_a_hang_is_ended_by_the_timeout_of_its_node(matrix, cell):
    check_cell(cell, matrix("hang").seen)


@pytest.mark.parametrize("cell", cells_of("mess"))
def test_a_mess_that_a_task_leaves_in_its_worker_costs_nobody_anything(matrix, cell):
    check_cell(cell, matrix("mess").seen)


@pytest.mark.parametrize("group", GROUPS)
def test_the_innocent_in_the_other_slot_ran_once_from_beginning_to_end(matrix, group):
    check_rest(matrix(group).seen)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("what", ["descriptors", "threads", "processes", "files"])
def test_nothing_remains(matrix, group, what):
    assert matrix(group).left[what] in (0, [])


# --- what a table of nodes cannot show -------------------------------------------------------------------------------


def nodes(*names):
    return DAG.builder().add_nodes(names).build()


def run(dag, ckpt, tasks, **options):
    options = {"max_workers": 2, "retry_delay": 0.0, "durability": "process", "fail_fast": False, **options}
    return CheckpointExecutor(dag, ckpt, **options).execute(tasks)


def test_in_the_middle_of_a_batch_the_culprit_alone_fails_and_nothing_is_repeated(ckpt, tmp_path):
    """Leans on `board.attempt_started` in `run_batch`, and on `unstarted.remove(running)` in the pool."""
    names = [f"n{i:03}" for i in range(400)]
    hows = {names[i]: how for i, how in zip(range(50, 400, 50), KILLS, strict=False)}
    log = tmp_path / "log"
    log.mkdir()

    def work(name, code):
        note(log, name)
        do(code)
        return name

    sent = []
    tasks = {
        name: (lambda name=name, code=KILLS[hows[name]].code if name in hows else "": work(name, code))
        for name in names
    }
    result = run(nodes(*names), ckpt, tasks, callbacks=ExecutionCallbacks(on_start=sent.append), max_workers=1)
    for name in names:
        assert len(pids(log, name)) == 1, name
        assert result[name].attempts == 1
        if name in hows:
            kill = KILLS[hows[name]]
            assert (type(result[name].error), result[name].error.exit_code) == (dagron.WorkerLostError, kill.exit_code)
            assert kill.text in str(result[name].error)
        else:
            assert result[name].result == name
    assert len(sent) > len(names), "no death was in a batch: nothing had to be sent again"


def test_a_node_that_kills_its_worker_every_time_is_given_up_and_stops_nobody(ckpt, tmp_path):
    """Leans on `attempts <= policy.retries` in the state, which a lost worker is to obey like an exception."""
    log = tmp_path / "log"
    log.mkdir()

    def killer():
        note(log, "killer")
        os.kill(os.getpid(), signal.SIGKILL)

    others = [f"other {i}" for i in range(50)]
    tasks = {name: (lambda name=name: note(log, name)) for name in others}
    result = run(nodes("killer", *others), ckpt, {"killer": Task(killer, retries=3), **tasks})
    assert (result["killer"].attempts, len(pids(log, "killer"))) == (4, 4)
    assert (result["killer"].error.attempt, result["killer"].error.exit_code) == (4, -9)
    assert [len(pids(log, name)) for name in others] == [1] * 50
    assert (result.succeeded, result.failed) == (50, 1)


def test_the_memory_that_a_dead_worker_had_is_told(ckpt):
    """Leans on `usage.ru_maxrss` in the server."""

    def eats():
        eaten = b"x" * (150 << 20)
        os.kill(os.getpid(), signal.SIGKILL)
        return eaten

    error = run(nodes("eats"), ckpt, {"eats": eats})["eats"].error
    assert 150 << 20 < error.peak_rss_bytes < 400 << 20
    assert f"its peak memory was {error.peak_rss_bytes / 2**20:.0f} MiB; the machine may have run out" in str(error)


@pytest.mark.parametrize("how", KILLS)
def test_a_death_between_two_nodes_costs_nothing(ckpt, tmp_path, how):
    """A thread that the first task left kills the worker behind the commit, before the next node is sent.

    Leans on the `except BrokenProcessPool` in `submit`, and on a `Lost` without a running item blaming nobody.
    """
    log = tmp_path / "log"
    log.mkdir()
    code = KILLS[how].code

    def first():
        note(log, "first")

        def later():
            wait_in_task(lambda: pids(log, "committed"))
            do(code)

        threading.Thread(target=later, daemon=True).start()

    def on_complete(name, result):
        if name == "first":
            note(log, "committed")
            (pid,) = pids(log, "first")
            wait_for(lambda: not psutil.pid_exists(pid))

    dag = DAG.builder().add_edge("first", "second").add_edge("second", "third").build()
    tasks = {"first": first, "second": lambda: note(log, "second"), "third": lambda: note(log, "third")}
    result = run(dag, ckpt, tasks, callbacks=ExecutionCallbacks(on_complete=on_complete), max_workers=1)
    assert [(result[name].status.value, result[name].attempts) for name in tasks] == [("completed", 1)] * 3
    assert [len(pids(log, name)) for name in tasks] == [1, 1, 1]


ENDINGS = {
    **{f"hook/{how}": code for how, (code, *_) in {**RAISES, **KILLS}.items() if how != "unpickling-exits"},
    **{f"hook/{how}": code for how, code in HANGS.items()},
    "thread/sleeps": HANGS["sleeps"],
    "thread/raises": RAISES["raises"].code,
}


def test_whatever_the_end_of_a_worker_meets_the_run_ends_and_nothing_is_left(ckpt, tmp_path, monkeypatch):
    """Hooks of `atexit`, and threads that are no daemons, of tasks that had long ended; each in a worker of its own.

    Leans on `_GOODBYE_SECONDS` being an end, and on `kill_everything` in the server.
    """
    log, mark = tmp_path / "log", uuid.uuid4().hex
    log.mkdir()
    monkeypatch.setenv("DAGRON_TEST_MARK", mark)

    def prepare(name, code):
        import atexit

        note(log, "begun")
        # Or a quick worker would take two of them.
        wait_in_task(lambda: len(pids(log, "begun")) == len(ENDINGS))
        if name.startswith("hook"):
            atexit.register(do, code)
            atexit.register(note, log, name)  # called before the other one
        else:
            threading.Thread(target=do, args=(code,)).start()
        return name

    tasks = {name: (lambda name=name, code=code: prepare(name, code)) for name, code in ENDINGS.items()}
    result = run(nodes(*tasks), ckpt, tasks, max_workers=len(tasks))
    assert {name: result[name].result for name in tasks} == {name: name for name in tasks}
    assert len(set(pids(log, "begun"))) == len(tasks)
    assert [name for name in tasks if name.startswith("hook") and len(pids(log, name)) != 1] == []
    assert marked(mark) == []


def test_what_a_task_leaves_to_raise_between_two_attempts_is_never_unpickled_by_the_coordinator(ckpt, tmp_path):
    """Leans on `run_batch` letting no exception out: the executor would pickle it, and its thread unpickle it."""
    log = tmp_path / "log"
    log.mkdir()

    class Spy(BaseException):
        def __reduce__(self):
            note(log, "pickled")
            return exec, (f"import os; open({str(log / 'unpickled')!r}, 'a').write(f'{{os.getpid()}}\\n')", {})

    def leaves_a_thread_that_raises():
        import ctypes

        me = threading.get_ident()

        def later():
            wait_in_task(lambda: pids(log, "committed"))
            # In the thread of the attempts, when that goes on: at the next batch.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(me), ctypes.py_object(Spy))
            note(log, "raised")

        threading.Thread(target=later, daemon=True).start()

    def on_complete(name, result):
        if name == "mess" and not pids(log, "committed"):
            note(log, "committed")
            wait_for(lambda: pids(log, "raised"))

    def breaks_flush():
        class Stream:
            def write(self, text):
                pass

            def flush(self):
                note(log, "raised")
                raise Spy

        sys.stdout = Stream()

    callbacks = ExecutionCallbacks(on_complete=on_complete)
    for i, mess in enumerate((leaves_a_thread_that_raises, breaks_flush)):
        dag = DAG.builder().add_edge("mess", "next").build()
        result = run(dag, ckpt, {"mess": mess, "next": lambda: 1}, max_workers=1, callbacks=callbacks)
        assert (result["mess"].status.value, result["next"].result) == ("completed", 1)
        assert len(pids(log, "raised")) > i, "the mess made no difference"
    assert os.getpid() not in pids(log, "unpickled")


# --- wherever the coordinator runs -----------------------------------------------------------------------------------

CONTEXTS = {
    "fork": ("import multiprocessing; multiprocessing.set_start_method('fork')", "seen = work()"),
    "spawn": ("import multiprocessing; multiprocessing.set_start_method('spawn')", "seen = work()"),
    "forkserver": ("import multiprocessing; multiprocessing.set_start_method('forkserver')", "seen = work()"),
    "in-a-thread": (
        "from concurrent.futures import ThreadPoolExecutor",
        "with ThreadPoolExecutor() as threads: seen = threads.submit(work).result()",
    ),
    "in-an-event-loop": (
        "import asyncio",
        "async def main(): return work()\nseen = asyncio.run(main())",
    ),
    "beside-an-event-loop": ("import asyncio", "seen = asyncio.run(asyncio.to_thread(work))"),
    "with-every-signal-blocked": (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
        "seen = work()",
    ),
    "ignoring-SIGCHLD": ("import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "seen = work()"),
}


def part_of_the_matrix(context):
    """Every eighth cell, so that all eight contexts together meet all of them."""
    return FOR_SCRIPTS[[*CONTEXTS].index(context) :: len(CONTEXTS)]


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_part_of_the_matrix_looks_the_same_in_a_plain_script(tmp_path, context):
    """Without an `if __name__` guard, whatever start method it has chosen, and whichever thread the run is in.

    Leans on `init_main_from_path` being left out of what a worker is told, and on the server being a new process.
    """
    before, work = CONTEXTS[context]
    path, log, mark = tmp_path / "script.py", tmp_path / "log", uuid.uuid4().hex
    log.mkdir()
    path.write_text(
        textwrap.dedent(
            f"""
            import json, sys
            sys.path[:0] = {[os.path.dirname(__file__), SUPPORT]!r}
            import {Path(__file__).stem} as matrix
            matrix.note({str(log)!r}, "script")
            """
        )
        + f"{before}\ncells = matrix.part_of_the_matrix({context!r})\n"
        + f"def work(): return matrix.observe(cells, {str(log)!r}, n_slots=6)\n{work}\n"
        + "print(json.dumps(seen))\n"
    )
    env = {**os.environ, "PYTHONPATH": SRC, "DAGRON_TEST_MARK": mark}
    ended = subprocess.run(
        [sys.executable, str(path)], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=90
    )
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout.splitlines()[-1])
    for cell in part_of_the_matrix(context):
        check_cell(cell, seen)
    check_rest(seen)
    assert len(pids(log, "script")) == 1, "the script was run again by somebody"
    assert marked(mark) == []
    assert strange_files(tmp_path / "ckpt") == []


def test_a_lock_that_a_thread_of_the_coordinator_holds_is_free_in_the_workers(tmp_path):
    """Leans on the server being started by `Popen` instead of `os.fork`."""
    (tmp_path / "held.py").write_text("import threading\nLOCK = threading.Lock()\n")
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import threading, dagron, held

            taken = threading.Event()

            def hold():
                with held.LOCK:
                    taken.set()
                    threading.Event().wait()

            threading.Thread(target=hold, daemon=True).start()
            taken.wait()

            def task():
                with held.LOCK:
                    return "taken"

            dag = dagron.DAG.builder().add_node("a").build()
            result = dagron.CheckpointExecutor(dag, "ckpt", timeout=30).execute({"a": task})
            print(held.LOCK.locked(), result["a"].result)
            """
        )
    )
    env = {**os.environ, "PYTHONPATH": SRC}
    ended = subprocess.run(
        [sys.executable, "script.py"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=90
    )
    assert ended.stdout == "True taken\n", ended.stderr
