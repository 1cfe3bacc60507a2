"""The job that a kill campaign runs and kills, and its coordinator's side of the bargain.

It is the job that ships with the package, on a part of the files, joined by nodes that are nasty to kill::

    scan ─▶ (files, packages) ─▶ weights ─▶ (blocks) ─▶ report ─▶ final
      ├──▶ family:0   gil:0   long:…   short:…          ─────────▶
      │                 weights ─▶ family:1   gil:1      ─────────▶
      │                                       report ─▶ family:2  ▶
      └──▶ made:0   weights ─▶ made:1   report ─▶ made:2   (made) ─▶ same:0   same:1   same:2  ▶

*   `family` starts a child in a session of its own, and a daemon that was forked twice, ignores SIGTERM and has nothing
    of ours in its environment; then it works on. Both live until somebody ends them.
*   `gil` is stuck in C code that holds the interpreter's lock, so no thread of its worker gets a turn.
*   `long` nodes always make a batch of their own: see `evidence` for why. Their results are large, so that there are
    files which a kill can catch between the journal and their names.
*   `short` nodes return at once, so that they are sent and committed by the batch.
*   `made` nodes return classes, members of enums, a singleton, and sets of instances, all of classes that this script
    defines. `same` nodes compare them by identity with what they make themselves, and the coordinator does in the end.
    A kill parts those that made a value from those that look at it: one class taken for two shows in `final`.

`final` takes whatever nobody else takes, so that a wrong result shows wherever it is.

Each start and each end of a task leaves a line in a log outside of the checkpoint. The coordinator's process runs this
module as its script, so that what it defines is the script's in every process of the run; `main` says over a pipe when
it is about to call the executor, and how that ended.
"""

from __future__ import annotations

import ctypes
import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import logging
import os
import signal
import subprocess
import sys
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

_PARENTS = ("scan", "weights", "report")
"""The nodes after which nasty ones stand, so that there are some in every part of a run."""

# So many that each kind is at work in many of the moments at which a kill may come; chosen, never varied.
_N_LONG = 16
_N_SHORT = 100
_N_MADE = 6

_LONG_SECONDS = 0.025
"""Twelve times what a batch of several is filled up to."""

_GIL_MICROSECONDS = 100_000
_FAMILY_SECONDS = 0.05
"""Twice and four times a long node, so that kills hit these, too, though there are only a few."""

_FOR_EVER = "600"
"""Seconds, as a command takes them: longer than any run, and an end for what a broken promise leaves behind."""

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
    differing = "".join(f"{other}\n" for other in others if other.startswith(_DIFFERS))
    return f"{report}{len(others)} more: blake2b {digest}\n{differing}"


# --- values whose identity counts ------------------------------------------------------------------------------------


class Grade(enum.Enum):
    """Members with attributes, and one with two names."""

    LOW = (1, "low")
    HIGH = (2, "high")
    TOP = (2, "high")

    def __init__(self, rank: int, word: str) -> None:
        self.rank, self.word = rank, word


class Access(enum.Flag):
    """Members that are composed of others."""

    READ = enum.auto()
    WRITE = enum.auto()


@dataclasses.dataclass(frozen=True, order=True)
class Point:
    """Equal and hashed by its fields, if its class is the same."""

    x: int
    y: int


class Row(NamedTuple):
    """A row with a member of an enum."""

    number: int
    grade: Grade


class _Nothing:
    def __reduce__(self) -> str:
        return "NOTHING"


NOTHING = _Nothing()
"""A singleton that is pickled by its name."""

_SAME = "same"
_DIFFERS = "differs: "


def make_value(number: int) -> dict[str, Any]:
    """Return values of classes of the script."""
    return {
        "number": number,
        "class": Point,
        "function": make_value,
        "nothing": NOTHING,
        "grade": Grade.HIGH,
        "access": Access.READ | Access.WRITE,
        "point": Point(number, 1),
        "points": {Point(number, i) for i in range(3)},
        "grades": {Grade.LOW: Point(0, number), Grade.HIGH: Point(1, number)},
        "row": Row(number, Grade.LOW),
    }


def differences(made: dict[str, Any]) -> list[str]:
    """Return in what a value differs from what is made here, wherever it was made."""
    own = make_value(made["number"])
    found = [key for key in ("class", "function", "nothing", "grade", "access") if made[key] is not own[key]]
    if len({made["point"], own["point"]}) != 1 or max(made["point"], Point(-1, 0)) is not made["point"]:
        found.append("point")
    if len(made["points"] | own["points"]) != len(own["points"]):
        found.append("points")
    if made["grades"] != own["grades"] or made["grades"].get(Grade.TOP) != own["grades"][Grade.HIGH]:
        found.append("grades")
    if type(made["row"]) is not Row or made["row"].grade is not Grade.LOW:
        found.append("row")
    return [f"{key} of {made['number']}" for key in found]


def compare(*made: dict[str, Any]) -> str:
    """Compare values with one another and with those made here, by identity."""
    found = [difference for value in made for difference in differences(value)]
    if len({type(value["point"]) for value in made}) != 1:
        found.append("classes of points")
    return f"{_DIFFERS}{', '.join(found)}" if found else _SAME


class _Nasty(NamedTuple):
    node: str
    parent: str
    task: Callable[[], str]
    result: str


def _nasty_nodes(log: str, salt: int) -> list[_Nasty]:
    family = functools.partial(start_family, log=log)
    nodes = [_Nasty(f"family:{i}", parent, family, "family") for i, parent in enumerate(_PARENTS)]
    nodes += [_Nasty(f"gil:{i}", parent, hold_the_gil, "gil") for i, parent in enumerate(_PARENTS[:2])]
    long, large = functools.partial(take_long, salt=salt), _large(salt)
    nodes += [_Nasty(f"{LONG}{i}", _PARENTS[i % 2], long, large) for i in range(_N_LONG)]
    for i in range(_N_SHORT):
        short = functools.partial(take_no_time, number=i, salt=salt)
        nodes.append(_Nasty(f"short:{i}", _PARENTS[i % 2], short, f"short {i} {salt}"))
    return nodes


def build_job(share: int, log: str, salt: int) -> tuple[DAG, dict[str, Noted]]:
    """Return the DAG and the tasks."""
    job, tasks = build(FILES[::share], LIBRARY_ROOT)
    builder = DAG.builder().add_nodes(job.nodes).add_edges(job.edges).add_edge("report", "final")
    tasks["final"] = conclude
    for nasty in _nasty_nodes(log, salt):
        builder.add_edge(nasty.parent, nasty.node).add_edge(nasty.node, "final")
        tasks[nasty.node] = nasty.task
    for i in range(_N_MADE):
        builder.add_edge(_PARENTS[i % 3], f"made:{i}")
        tasks[f"made:{i}"] = functools.partial(make_value, i)
    for i in range(3):
        # The later ones take what the earlier ones took, too, which a resume has restored by then.
        for j in range(_N_MADE):
            if j % 3 <= i:
                builder.add_edge(f"made:{j}", f"same:{i}")
        builder.add_edge(f"same:{i}", "final")
        tasks[f"same:{i}"] = compare
    return builder.build(), {node: Noted(task, node, log) for node, task in tasks.items()}


def expected_end(report: str, salt: int) -> str:
    """Return what `final` has to return where `report` returns this."""
    return conclude(report, *(nasty.result for nasty in _nasty_nodes("", salt)), *[_SAME] * 3)


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
    import fcntl  # noqa: F401

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
    if not errors:
        here = compare(*(result[f"made:{i}"].result for i in range(_N_MADE)))
        errors += [f"in the coordinator: {here}"] * (here != _SAME)
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


if __name__ == "__main__":
    main(sys.argv[1])
