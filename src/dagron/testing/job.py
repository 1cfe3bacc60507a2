"""The job that a kill campaign runs and kills, and its coordinator's side of the bargain.

It is the job that ships with the package, on a part of the files, joined by nodes that are nasty to kill::

    scan ─▶ (files, packages) ─▶ weights ─▶ (blocks) ─▶ report ─▶ final
      ├──▶ family:0   gil:0   long:…   short:…          ─────────▶
      │                 weights ─▶ family:1   gil:1      ─────────▶
      │                                       report ─▶ family:2  ▶

*   `family` starts a child in a session of its own, and a daemon that was forked twice, ignores SIGTERM and has nothing
    of ours in its environment; then it works on. Both live until somebody ends them.
*   `gil` is stuck in C code that holds the interpreter's lock, so no thread of its worker gets a turn.
*   `long` nodes always make a batch of their own: see `evidence` for why. Their results are large, so that there are
    files which a kill can catch between the journal and their names.
*   `short` nodes return at once, so that they are sent and committed by the batch.

`final` takes whatever nobody else takes, so that a wrong result shows wherever it is.

Each start and each end of a task leaves a line in a log outside of the checkpoint. `main` is what the coordinator's
process runs; it says over a pipe when it is about to call the executor, and how that ended.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import inspect
import json
import logging
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from dagron.checkpoint.blobs import INLINE_MAX_BYTES
from dagron.checkpoint.writing.store import Durability
from dagron.executor import CheckpointExecutor
from dagron.graph.dag import DAG
from dagron.jobs.stdlib_analysis import FILES, LIBRARY_ROOT, build

__all__ = ["LONG", "Noted", "Order", "build_job", "expected_end", "main", "note"]

LONG = "long:"
"""How the names of the nodes begin that always make a batch of their own."""

_N_LONG = 16
_N_SHORT = 100
_LONG_SECONDS = 0.025
_GIL_MICROSECONDS = 100_000
_FAMILY_SECONDS = 0.05
_FOR_EVER = "600"

# A child that nobody waits for says so when it is collected; these are meant to be left behind.
_children: list[subprocess.Popen[bytes]] = []


class Order(NamedTuple):
    """What a coordinator of the campaign has to do.

    Attributes:
        how: `"execute"`, `"resume"` or `"clear"`.
        directory: The checkpoint.
        log: Where the tasks of this run leave their lines.
        share: Every how many-th file is analysed.
        workers: Slots.
        durability: As for the executor.
        salt: Goes into results, so that those of one checkpoint cannot pass for those of another.
        pipe: The descriptor on which it says how it goes.
    """

    how: str
    directory: str
    log: str
    share: int
    workers: int
    durability: Durability
    salt: int
    pipe: int


# --- what tasks leave behind -----------------------------------------------------------------------------------------


def note(log: str, *fields: object) -> None:
    """Append a line to the log, in one write, so that a kill cannot part it from what it tells."""
    # The line end comes first: what the end of a machine or a full disk has torn does not spoil the next line.
    line = b"\n" + json.dumps(fields).encode()
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


class Noted:
    """A task that notes its start and its end.

    Attributes:
        func: The task itself; called as in a partial object, so that nodes with the same task count as of one kind.
    """

    def __init__(self, func: Callable[..., Any], node: str, log: str) -> None:
        self.func = func
        self.node, self.log = node, log

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.func)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task."""
        note(self.log, "start", os.getpid(), self.node)
        value = self.func(*args, **kwargs)
        note(self.log, "end", os.getpid(), self.node)
        return value


# --- the nasty nodes -------------------------------------------------------------------------------------------------


def _work(cpu_seconds: float) -> None:
    # By CPU time, so that a busy machine does not make the work less.
    end = time.process_time() + cpu_seconds
    while time.process_time() < end:
        pass


def start_family(*, log: str) -> str:
    """Start a child and a daemon that outlive this, and work on."""
    _children.append(subprocess.Popen(["sleep", _FOR_EVER], start_new_session=True, stdin=subprocess.DEVNULL))
    middle = os.fork()
    if middle == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                # Noted, because neither its environment nor its parent will tell whose it was.
                note(log, "process", os.getpid(), time.time())
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.execvpe("sleep", ["sleep", _FOR_EVER], {})
        finally:
            os._exit(0)
    os.waitpid(middle, 0)
    _work(_FAMILY_SECONDS)
    return "family"


def hold_the_gil() -> str:
    """Stay in C code without letting go of the interpreter's lock."""
    ctypes.PyDLL(None).usleep(_GIL_MICROSECONDS)
    return "gil"


def take_long(*, salt: int) -> str:
    """Work for long, compared with what a batch may take; return what is too large for the journal."""
    _work(_LONG_SECONDS)
    return _large(salt)


def _large(salt: int) -> str:
    return f"long {salt} " * (INLINE_MAX_BYTES // 4)


def take_no_time(*, number: int, salt: int) -> str:
    """Return at once."""
    return f"short {number} {salt}"


def conclude(report: str, *others: str) -> str:
    """Return the report and a digest of all else; takes every result that nobody else takes."""
    digest = hashlib.blake2b(repr(others).encode(), digest_size=16).hexdigest()
    return f"{report}{len(others)} more: blake2b {digest}\n"


class _Nasty(NamedTuple):
    node: str
    parent: str
    task: Callable[[], str]
    result: str


def _nasty_nodes(log: str, salt: int) -> list[_Nasty]:
    parents = ("scan", "weights", "report")
    family = functools.partial(start_family, log=log)
    nodes = [_Nasty(f"family:{i}", parent, family, "family") for i, parent in enumerate(parents)]
    nodes += [_Nasty(f"gil:{i}", parent, hold_the_gil, "gil") for i, parent in enumerate(parents[:2])]
    long, large = functools.partial(take_long, salt=salt), _large(salt)
    nodes += [_Nasty(f"{LONG}{i}", parents[i % 2], long, large) for i in range(_N_LONG)]
    for i in range(_N_SHORT):
        short = functools.partial(take_no_time, number=i, salt=salt)
        nodes.append(_Nasty(f"short:{i}", parents[i % 2], short, f"short {i} {salt}"))
    return nodes


def build_job(share: int, log: str, salt: int) -> tuple[DAG, dict[str, Noted]]:
    """Return the DAG and the tasks."""
    job, tasks = build(FILES[::share], LIBRARY_ROOT)
    builder = DAG.builder().add_nodes(job.nodes).add_edges(job.edges).add_edge("report", "final")
    tasks["final"] = conclude
    for nasty in _nasty_nodes(log, salt):
        builder.add_edge(nasty.parent, nasty.node).add_edge(nasty.node, "final")
        tasks[nasty.node] = nasty.task
    return builder.build(), {node: Noted(task, node, log) for node, task in tasks.items()}


def expected_end(report: str, salt: int) -> str:
    """Return what `final` has to return where `report` returns this."""
    return conclude(report, *(nasty.result for nasty in _nasty_nodes("", salt)))


# --- the coordinator -------------------------------------------------------------------------------------------------


class _Warnings(logging.Handler):
    """Keeps what dagron warns of: a resume that finds something missing says so, and runs it again."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.messages.append(record.getMessage())


def _load_what_is_needed() -> None:
    # What would be imported on first use, so that random moments fall on the work and not on this.
    import filelock  # noqa: F401

    import dagron.runs.coordinator
    import dagron.runs.plan  # noqa: F401


def _run(order: Order) -> dict[str, Any]:
    dag, tasks = build_job(order.share, order.log, order.salt)
    executor = CheckpointExecutor(dag, order.directory, max_workers=order.workers, durability=order.durability)
    call = executor.execute if order.how == "execute" else executor.resume
    _say(order, "begin")
    began = time.monotonic()
    result = call(tasks)
    seconds = time.monotonic() - began
    errors = [f"{name}: {node.error!r}" for name, node in result.node_results.items() if node.error is not None]
    return {
        "seconds": seconds,
        "error": "; ".join(errors[:3]),
        "restored": result.restored,
        "report": "" if errors else result["report"].result,
        "end": "" if errors else result["final"].result,
    }


def _clear(order: Order) -> dict[str, Any]:
    executor = CheckpointExecutor(DAG(["any"]), order.directory, durability=order.durability)
    _say(order, "begin")
    began = time.monotonic()
    executor.clear_checkpoint()
    return {"seconds": time.monotonic() - began}


def _say(order: Order, what: str, **fields: Any) -> None:
    os.write(order.pipe, json.dumps({"what": what, **fields}).encode() + b"\n")


def main(argument: str) -> None:
    """Carry out an order, given as JSON."""
    order = Order(*json.loads(argument))
    os.set_inheritable(order.pipe, False)
    warned = _Warnings()
    logging.getLogger("dagron").addHandler(warned)
    _load_what_is_needed()
    try:
        fields = _clear(order) if order.how == "clear" else _run(order)
    except Exception:
        fields = {"error": traceback.format_exc()}
    _say(order, "end", warnings=warned.messages, **fields)
