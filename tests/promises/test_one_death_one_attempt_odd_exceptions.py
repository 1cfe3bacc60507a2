"""Exceptions that misbehave when they are looked at: what is looked at x what it does -> the node's error, and no more.

Each case is a node of one run; whoever can be told of a failure is told of all of them in this process, which is the
one that must not be ended or held up.
"""

import os
import pickle
import sys
from typing import NamedTuple

import cloudpickle
import pytest
from click.testing import CliRunner

import dagron
from dagron import ExecutionCallbacks
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.reading.opening import read_ledger
from dagron.cli import app
from dagron.crossing.exceptions import describe_exception, dump_exception, load_exception
from dagron.engines.attempt import WorkerSetup
from dagron.engines.local.pool import ProcessPool
from dagron.engines.outcomes import Attempt, OutcomeKind
from dagron.engines.protocol import Lost, Returned
from dagron.tasks.binding import NO_INPUTS

# Or every worker would import pytest first.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

TIMEOUT_SECONDS = 0.3

# --- what is looked at ------------------------------------------------------------------------------------------------
# As text: what `do` does must not be in this process's globals, and each class is to be one of its own.

CLASSES = {
    "str": "def __str__(self): return do()",
    "repr": "def __repr__(self): return do()",
    "reduce": "def __reduce__(self): return do()",
    "getstate": "def __getstate__(self): return do()",
    "unpickling": "def __reduce__(self): return do, ()",
    "init-again": "def __init__(self, *args): do() if made else made.append(1)",
    "setstate": "x = 1\n def __setstate__(self, state): do()\n def __getstate__(self): return {'x': 1}",
    "traceback": "__traceback__ = property(lambda self: do())",
    "cause": "__cause__ = property(lambda self: do())",
    "context": "__context__ = property(lambda self: do())",
    "suppress-context": "__suppress_context__ = property(lambda self: do())",
    "notes": "__notes__ = property(lambda self: do())",
    "class": "__class__ = property(lambda self: do())",
    "args": "args = property(lambda self: do())",
    "every-attribute": "def __getattribute__(self, name): return do()",
    "setting": "def __setattr__(self, name, value): do()",
    "hash": "def __hash__(self): return do()\n def __eq__(self, other): return do()",
    "metaclass": "",
    "attribute": "",
    "argument": "",
    "caused-by": "",
    "in-a-group": "",
    "note": "",
}

WAYS = {
    "SystemExit": "raise SystemExit(3)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "os._exit": "import os; os._exit(5)",
    "recursion": "return do(_)",
    "no-text": "return 5",
    "hang": "import time; time.sleep(600)",
}

SOURCE = """
made = []
def do(_=None):
    {do}
class Meta(type):
    def __getattribute__(self, name):
        return do() if name in ("__name__", "__qualname__", "__module__") else type.__getattribute__(self, name)
class Bad:
    __repr__ = __str__ = __reduce__ = lambda self: do()
    __hash__ = None
class Odd(Exception{meta}):
 {body}
"""


def odd(what, way):
    """Return the exception of a case; made where it is raised."""
    body, do = CLASSES[what], WAYS[way]
    space = {"__name__": "__main__"}
    meta = ", metaclass=Meta" if what == "metaclass" else ""
    exec(SOURCE.format(do=do, what=what, meta=meta, body=body or "pass"), space)
    error = space["Odd"]("what it says")
    if what == "attribute":
        error.bad = space["Bad"]()
    elif what == "argument":
        error = space["Odd"](space["Bad"]())
    elif what == "note":
        error.__notes__ = [space["Bad"]()]
    elif what in ("caused-by", "in-a-group"):
        inner = type("Inner", (Exception,), {"__str__": lambda self: space["do"](), "__module__": "__main__"})()
        if what == "caused-by":
            error.__cause__ = inner
        else:
            error = ExceptionGroup("what it says", [error, inner])
    return error


class Case(NamedTuple):
    what: str
    way: str

    @property
    def name(self):
        return f"{self.what}/{self.way}"

    @property
    def type_name(self):
        return "ExceptionGroup" if self.what == "in-a-group" else "Odd"


# Each end of a worker costs the start of another one, so that not all of these are made with everything.
_ENDING = {"str", "repr", "reduce", "unpickling", "notes", "every-attribute", "metaclass", "argument", "in-a-group"}
_HANGING = {"str", "unpickling", "caused-by"}
CASES = [
    Case(what, way)
    for what in CLASSES
    for way in WAYS
    if (way != "os._exit" or what in _ENDING) and (way != "hang" or what in _HANGING)
]


class Seen(NamedTuple):
    result: dagron.ExecutionResult
    failed: dict
    retried: dict
    path: str


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    path = tmp_path_factory.mktemp("odd") / "ckpt"
    failed, retried = {}, {}

    def raises(case):
        raise odd(*case)

    flow = dagron.Flow()
    for case in CASES:
        # A hang is this node's timeout; the others have time, and are not told of as taking too long.
        timeout = TIMEOUT_SECONDS if case.way == "hang" else None
        flow.add(case.name, raises, case, timeout=timeout, retries=int(case.what == "str"), retry_delay=0.0)
    flow.add("innocent", lambda: "unharmed")
    result = flow.run(
        path,
        resume=False,
        max_workers=2,
        durability="process",
        enable_tracing=True,
        pass_output=False,
        kill_grace_seconds=0.0,
        callbacks=ExecutionCallbacks(
            on_failure=failed.__setitem__, on_retry=lambda name, *more: retried.update({name: more})
        ),
    )
    return Seen(result, failed, retried, str(path))


def test_every_node_failed_by_itself_and_the_run_went_to_its_end(seen):
    assert seen.result.value("innocent") == "unharmed"
    assert seen.result.succeeded == 1
    hanging = sum(case.way == "hang" for case in CASES)
    assert (seen.result.failed, seen.result.timed_out) == (len(CASES) - hanging, hanging)


def misfit(seen, case):
    """Return what is wrong with what is told of a case; None for nothing."""
    node = seen.result[case.name]
    error, told = node.error, node.explain()
    record = read_ledger(Directory(seen.path)).failures[case.name]
    n_attempts = 2 if case.what == "str" else 1
    if seen.failed[case.name] is not error or f"node {case.name!r}" not in told or node.attempts != n_attempts:
        return node, told, "it is not told of to all, or not with its attempts"
    if case.way == "hang":
        return None if type(error) is dagron.NodeTimeoutError else (error, told, "it timed out")
    # The exception itself, if it can be looked at; else one that says what it was.
    stands_in = type(error) is dagron.TaskFailedError
    try:
        _ = f"{error} {error!r}"
    except Exception:
        if stands_in:
            return record, "that of ours has no text"
    kind = error.type_name if stands_in else type.__dict__["__name__"].__get__(type(error))
    if (kind, record.type) != (case.type_name, case.type_name):
        return kind, record.type, told, "it is another type"
    if case.what in ("str", "argument"):
        if not record.message.startswith("<its __str__ "):
            return record.message, "nobody knows what it says"
    elif "what it says" not in record.message or "in raises" not in record.traceback:
        return record.message, record.traceback, "its text or its traceback are missing"
    return None


def test_the_errors_are_there_with_type_and_text_for_whoever_asks(seen):
    misfits = {case.name: found for case in CASES if (found := misfit(seen, case)) is not None}
    assert misfits == {}
    assert {name for name in seen.retried if seen.retried[name][0] == 1} == {
        case.name for case in CASES if case.what == "str"
    }


def test_the_end_of_a_worker_is_told_with_the_exception_that_ended_it(seen):
    text = seen.result["unpickling/os._exit"].explain()
    assert "Odd: what it says" in text
    assert "the worker exited with code 5 while this exception told what it is, or was pickled" in text
    assert "its arguments were ('what it says')" in seen.result["str/os._exit"].explain()


def test_all_of_them_can_be_raised_together(seen):
    with pytest.raises(dagron.NodesFailedError) as caught:
        seen.result.raise_for_failures()
    assert len(caught.value.nodes) == len(CASES)


def test_the_command_line_and_the_report_tell_of_them(seen, tmp_path):
    def told(*args):
        done = CliRunner().invoke(app, args)
        return done.exit_code, done.output

    for case in CASES:
        if case.way != "hang" and case.what in ("unpickling", "traceback"):
            code, text = told("show", seen.path, case.name)
            assert code == 0
            assert "Odd: what it says" in text
    assert told("report", seen.path, "-o", str(tmp_path / "report.html"))[0] == 0
    assert "Odd" in (tmp_path / "report.html").read_text()
    assert {span.outcome for span in seen.result.trace.spans} >= {"raised", "timed_out", "completed"}


def test_what_hangs_without_a_timeout_ends_its_worker_and_no_more(tmp_path):
    """The watch is a thread in C, so that a hang that holds the interpreter is ended, too."""
    setup = WorkerSetup(str(tmp_path), Digests(), durable=False, telling_seconds=0.2)
    pool = ProcessPool(1, setup)

    def hangs():
        class Odd(Exception):
            def __reduce__(self):
                import ctypes

                return ctypes.PyDLL(None).sleep(600)

        raise Odd("what it says")

    try:
        pool.submit(0, [Attempt(7, "n", cloudpickle.dumps((hangs, (Exception,))), (), NO_INPUTS, ())])
        ends = []
        while not ends:
            ends = [item for item in pool.wait(60) if isinstance(item, Lost | Returned)]
        (lost,) = ends
        (outcome,) = lost.outcomes
        assert (lost.running, lost.unstarted, lost.exit_code) == (None, [], 1)
        assert (outcome.node, outcome.kind, outcome.fault.retryable) == (7, OutcomeKind.RAISED, True)
        assert outcome.fault.type_name.endswith(".Odd")
        assert outcome.fault.message == "what it says"
        assert b"in __reduce__" in outcome.printed.stderr, "where it hung"
    finally:
        pool.close()


@pytest.mark.parametrize("way", ["os._exit(5)", "time.sleep(600)"])
def test_a_result_that_its_child_does_not_survive_is_named_by_the_error_of_the_child(tmp_path, way):
    class Bomb:
        def __reduce__(self):
            return exec, (f"import os, time; {way}", {})

    flow = dagron.Flow()
    first = flow.add("first", int)
    made = flow.add("made", Bomb)
    timeout = TIMEOUT_SECONDS if "sleep" in way else None
    flow.add("child", lambda first, made: made, first, made, timeout=timeout)
    result = flow.run(tmp_path / "ckpt", resume=False, max_workers=1, kill_grace_seconds=0.0)
    assert (result["made"].status, result["made"].attempts) == (dagron.NodeStatus.COMPLETED, 1)
    assert "in attempt 1" in str(result["child"].error)
    assert "while it unpickled the result of 'made'" in str(result["child"].error)
    assert result["child"].error.loading == "made"


def test_a_result_that_would_end_the_program_where_it_is_loaded_is_an_error_of_ours(tmp_path):
    class Leaves:
        def __reduce__(self):
            return sys.exit, (3,)

    completed = []
    flow = dagron.Flow()
    flow.add("leaves", Leaves)
    callbacks = ExecutionCallbacks(on_complete=lambda name, value: completed.append(name))
    result = flow.run(tmp_path / "ckpt", resume=False, max_workers=1, callbacks=callbacks)
    with pytest.raises(dagron.ResultNotLoadableError, match="SystemExit"):
        result["leaves"].result  # noqa: B018
    assert (result.succeeded, completed) == (1, [])


class TestTexts:
    def test_gigabytes_are_not_pickled_for_an_exception_that_is_not_taken_along(self):
        class Huge(Exception):
            def __reduce__(self):
                return Huge, (), {str(i): bytes(2**16) for i in range(50)}

        assert dump_exception(Huge()) == b""

    def test_what_is_known_is_told_before_each_step_that_runs_code_of_the_exception(self):
        told = []

        class Odd(Exception):
            def __str__(self):
                assert told[-1][1] == "<its __str__ did not return; its arguments were (1, 'x')>"
                return "text"

        describe_exception(Odd(1, [], "x"), (), lambda *texts: told.append(texts))
        assert [message for _, message, _ in told][1:] == ["text", "text"]

    def test_only_plain_text_crosses(self):
        class Text(str):
            def __reduce__(self):
                return os._exit, (5,)

        class Odd(Exception):
            __module__ = Text("odd")

            def __str__(self):
                return Text("text")

        Odd.__qualname__ = Text("Odd")
        assert [type(text) for text in describe_exception(Odd())] == [str, str, str]
        assert pickle.loads(pickle.dumps(describe_exception(Odd())))[:2] == ("Odd", "text")

    def test_ctrl_c_while_an_exception_is_loaded_is_the_users(self):
        with pytest.raises(KeyboardInterrupt):
            load_exception("node", pickle.dumps(Interrupts()), "Odd", "text", "")


class Interrupts(Exception):
    def __reduce__(self):
        return _interrupt, ()


def _interrupt():
    raise KeyboardInterrupt


def test_a_forked_copy_ends_whatever_its_exception_says(tmp_path):
    def task(way):
        class Odd(SystemExit if way == "exit" else Exception):
            def __str__(self):
                raise SystemExit

        if os.fork() == 0:
            if way == "exit":
                sys.stderr = None
            raise Odd(Odd()) if way == "exit" else Odd()
        return os.waitstatus_to_exitcode(os.wait()[1])

    flow = dagron.Flow()
    nodes = [flow.add(way, task, way) for way in ("exit", "exception")]
    result = flow.run(tmp_path / "ckpt", resume=False, max_workers=1)
    assert [result.value(node) for node in nodes] == [1, 1]
