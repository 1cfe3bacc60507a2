"""How failures are told: all of them in one error, a report for each, with the inputs and the user's own frames."""

import dataclasses
import enum
import functools
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import dagron
from dagron import (
    DAG,
    CheckpointExecutor,
    ExecutionResult,
    Flow,
    NodeCancelledError,
    NodeResult,
    NodesFailedError,
    NodeStatus,
    Task,
    TaskFailedError,
)
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.records import Failed
from dagron.checkpoint.reading.opening import read_ledger
from dagron.results.failures import folded, last_own_frame, shown_failure
from dagron.results.frames import is_library
from dagron.tasks.binding import NO_INPUTS, Binding, bind
from dagron.tasks.shown_inputs import named_inputs, shown_inputs, shown_value

TRACEBACK = """\
Traceback (most recent call last):
  File "/home/me/job.py", line 7, in parse
    return check(json.loads(text))
  File "/usr/lib/python3.12/json/__init__.py", line 346, in loads
    return _default_decoder.decode(s)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/usr/lib/python3.12/json/decoder.py", line 337, in decode
    obj, end = self.raw_decode(s)
  File "/home/me/hooks.py", line 3, in hook
    return numpy.dot(a)
  [Previous line repeated 3 more times]
  File "/venv/lib/python3.12/site-packages/numpy/core.py", line 90, in dot
  File "/venv/lib/python3.12/site-packages/numpy/linalg.py", line 12, in check
    raise ValueError(a)
ValueError: shapes
  File "no frame", line 7
"""


class TestFolding:
    def test_frames_of_libraries_are_counted_and_the_one_that_raised_is_kept(self):
        assert folded(TRACEBACK.rstrip()).splitlines() == [
            "Traceback (most recent call last):",
            '  File "/home/me/job.py", line 7, in parse',
            "    return check(json.loads(text))",
            "  ... 2 frames in json/__init__.py, json/decoder.py",
            '  File "/home/me/hooks.py", line 3, in hook',
            "    return numpy.dot(a)",
            "  [Previous line repeated 3 more times]",
            "  ... 1 frame in numpy/core.py",
            '  File "/venv/lib/python3.12/site-packages/numpy/linalg.py", line 12, in check',
            "    raise ValueError(a)",
            "ValueError: shapes",
            '  File "no frame", line 7',
        ]

    def test_the_frame_that_matters_is_the_innermost_of_the_users(self):
        frame = last_own_frame(TRACEBACK)
        assert (frame.path, frame.line, frame.function) == ("/home/me/hooks.py", 3, "hook")
        assert frame.source == "return numpy.dot(a)"

    def test_of_a_chain_it_is_that_of_the_last_exception(self):
        first = TRACEBACK.replace("/home/me/hooks.py", "/home/me/first.py")
        both = f"{first}\nDuring handling of the above exception, another exception occurred:\n\n{TRACEBACK}"
        assert last_own_frame(both).path == "/home/me/hooks.py"
        assert folded(both).count("... 2 frames") == 2

    def test_a_traceback_without_a_frame_of_the_users_stays_whole(self):
        lines = TRACEBACK.splitlines()
        text = "\n".join([lines[0], *lines[3:8], lines[-2]])
        assert folded(text) == text
        assert last_own_frame(text).function == "decode"

    @pytest.mark.parametrize("text", ["", "ValueError: x", "\n\n", '  File "x", line 1, in f'])
    def test_what_is_no_traceback_is_left_as_it_is(self, text):
        assert folded(text) == text.rstrip("\n") or text == "\n\n"

    def test_our_own_frames_are_no_frames_of_the_users_but_those_of_the_jobs_that_we_bring_are(self):
        ours = os.path.dirname(dagron.__file__)
        names = ["jobs/x.py", "flow.py", "task.py"]
        text = "\n".join(f'  File "{ours}/{name}", line 1, in f' for name in names)
        assert last_own_frame(text).path == f"{ours}/jobs/x.py"

    def test_every_module_of_ours_is_a_library_wherever_the_package_lies(self, tmp_path):
        # Not where it is installed: below `site-packages` everything is a library.
        package = Path(dagron.__file__).parent
        shutil.copytree(package, tmp_path / "dagron", ignore=shutil.ignore_patterns("__pycache__", "vendor"))
        code = f"import {is_library.__module__} as f, sys; print(*map(f.is_library, sys.argv[1:]))"
        files = sorted(map(str, (tmp_path / "dagron").rglob("*.py")))
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", code, *files]
        printed = subprocess.run(command, env=env, capture_output=True, check=True, text=True).stdout.split()
        own = [file for file, library in zip(files, printed, strict=True) if library == "False"]
        assert own == [file for file in files if "/dagron/jobs/" in file]

    @pytest.mark.parametrize(
        ("path", "library"),
        [
            ("/usr/lib/python3.12/json/decoder.py", True),
            ("/usr/lib64/python3.13/json/decoder.py", True),
            ("/usr/lib/python3/dist-packages/numpy/core.py", True),
            ("/home/me/.venv/lib/python3.14/site-packages/dagron_of_mine/core.py", True),
            ("<frozen importlib._bootstrap>", True),
            ("/home/me/dagron/job.py", False),
            ("/home/me/site-packages/job.py", False),
            ("/home/me/dist-packages/dagron/job.py", False),
            ("/home/me/Lib/job.py", False),
            ("<string>", False),
        ],
    )
    def test_a_library_is_what_lies_in_the_folder_of_a_python(self, path, library):
        assert is_library(path) is library

    def test_a_record_without_most_fields_is_told(self):
        assert shown_failure(Failed("a", type="E", message="m")) == "node 'a' failed in attempt 0: E: m"


class Hostile:
    def __repr__(self):
        raise SystemExit("no")


class NoText:
    def __repr__(self):
        return 7


class Long:
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __repr__(self):
        return "x" * self.n


class Array:
    shape = (3, 10**9)
    dtype = "float64"

    def __repr__(self):
        raise AssertionError("not asked for its items")


@dataclasses.dataclass
class Point:
    x: int
    y: object


class Colour(enum.Enum):
    RED = 1


def deep(n):
    found = []
    for _ in range(n):
        found = [found]
    return found


class TestShownValues:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (1, "1"),
            ("a\nb", "'a\\nb'"),
            ([1, (2,), {3}, frozenset(), {}], "[1, (2,), {3}, frozenset(), {}]"),
            (list(range(10**6)), "[0, 1, 2, 3, 4, 5, ... 999994 more]"),
            ({"k": range(10**9)}, "{'k': <range of length 1000000000>}"),
            (1 << 10**7, "<int of 10000001 bits>"),
            (Array(), "<Array of shape (3, 1000000000) and type float64>"),
            (Point(1, [Hostile()]), "Point(x=1, y=[<Hostile, whose repr raised SystemExit>])"),
            (Hostile(), "<Hostile, whose repr raised SystemExit>"),
            (NoText(), "<NoText, whose repr raised TypeError>"),
            (Long(2000), "<Long of length 2000>"),
            (object(), "<object object>"),
            (Point, repr(Point)),
            (Colour.RED, "<Colour.RED: 1>"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_they_are_short_and_never_raise(self, value, text):
        assert shown_value(value) == text

    def test_none_is_longer_than_the_limit(self):
        for value in ["x" * 10**7, b"x" * 10**7, Long(999), deep(10_000), [deep(50)] * 6, {"x" * 300: "y" * 300}]:
            assert len(shown_value(value)) <= 200

    def test_what_holds_itself_comes_to_an_end(self):
        value = []
        value.append(value)
        assert shown_value(value) == "[[[[...]]]]"


def task(first, *rest, limit=3, **named):
    """A task with parameters of every kind."""


class TestNamedInputs:
    def test_they_have_the_names_of_the_parameters(self):
        binding = bind("n", task, ["first", "b", "c"], lambda name: True)
        assert named_inputs(binding, task, [1, 2, 3]) == [("first", 1), ("rest[0]", 2), ("rest[1]", 3), ("limit", 3)]

    def test_what_a_partial_or_a_flow_has_fixed_is_among_them(self):
        assert named_inputs(NO_INPUTS, functools.partial(task, 5, limit=9), []) == [("first", 5), ("limit", 9)]
        flow = Flow()
        a = flow.add("a", lambda: 1)
        flow.add("n", task, [a, 7], {"k": a}, limit=a, extra=a)
        fn = flow.tasks["n"]
        fn = fn.fn if isinstance(fn, Task) else fn
        binding = bind("n", fn, ["a"], lambda name: True)
        named = named_inputs(binding, fn, [1])
        assert named == [("first", [1, 7]), ("rest[0]", {"k": 1}), ("limit", 1), ("extra", 1)]

    def test_without_a_signature_they_are_numbered(self):
        assert named_inputs(Binding((0, 1)), min, [5, 6]) == [("0", 5), ("1", 6)]

    def test_there_are_at_most_twenty_and_they_are_short_together(self):
        binding = Binding(tuple(range(500)))
        shown = shown_inputs(binding, lambda *parts: 0, ["x" * 10_000] * 500)
        assert shown[0] == ("parts[0]", shown_value("x" * 10_000))
        assert shown[-1] == ("...", f"{500 - len(shown) + 1} more")
        assert sum(map(len, (text for _, text in shown))) < 5000

    def test_a_signature_that_raises_costs_only_what_comes_after(self):
        class Odd:
            @property
            def __signature__(self):
                raise SystemExit

            def __call__(self):
                pass

        assert shown_inputs(NO_INPUTS, Odd(), []) == []


def load():
    return {"lines": ["1", "two"]}


def parse(load, base=10):
    print("a warning", file=sys.stderr)
    return [int(line, base) for line in load["lines"]]


def leave(load):
    sys.exit(f"no use for {len(load)}")


def die(load):
    print("bye", file=sys.stderr, flush=True)
    os._exit(3)


class Unnoted(Exception):
    def add_note(self, note):
        raise RuntimeError


def unnoted():
    raise Unnoted("text")


TASKS = {"load": load, "parse": parse, "leave": leave, "die": die, "after": lambda parse: 0, "unnoted": unnoted}


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    ckpt = tmp_path_factory.mktemp("failed") / "ckpt"
    dag = DAG.from_tasks(TASKS)
    return ckpt, CheckpointExecutor(dag, ckpt, max_workers=1, durability="process").execute(TASKS)


class TestReports:
    def test_it_says_what_where_with_what_and_by_whom(self, failed):
        report = failed[1]["parse"].explain()
        lines = [line.strip() for line in report.splitlines()]
        assert lines[0].startswith("node 'parse' failed in attempt 1: ValueError: invalid literal for int()")
        place = f"at {__file__}:{parse.__code__.co_firstlineno + 2}, in "
        assert lines[1].startswith(place)
        assert lines[1].endswith('return [int(line, base) for line in load["lines"]]')
        assert lines[2].startswith("ran in slot 0, process ")
        assert " MiB" in lines[2]
        assert lines[3:5] == ["load = {'lines': ['1', 'two']}", "base = 10"]
        assert lines[5:7] == ["", "Traceback (most recent call last):"]
        assert "child.py" not in report
        assert lines[-2:] == ["the last lines that it wrote to stderr:", "a warning"]

    def test_that_of_a_worker_that_died_names_the_process_and_shows_its_last_words_once(self, failed):
        report = failed[1]["die"].explain()
        assert "exited with code 3" in report
        assert "ran in slot 0, process " in report
        assert report.count("bye") == 1
        assert failed[1]["die"].duration_seconds > 0

    def test_other_nodes_have_one_too(self, failed):
        result = failed[1]
        assert result["after"].explain() == "node 'after' was skipped because 'parse' did not complete"
        assert result["load"].explain() == "node 'load' completed in attempt 1"

    def test_the_record_has_what_it_is_made_from(self, failed):
        record = read_ledger(Directory(failed[0])).failures["parse"]
        assert record.inputs == (("load", "{'lines': ['1', 'two']}"), ("base", "10"))
        assert record.pid > 0
        assert record.figures.peak_rss_bytes > 2**20
        assert shown_failure(record) == failed[1]["parse"].explain()

    def test_the_exception_has_a_note_that_names_its_node(self, failed):
        (note,) = failed[1]["parse"].error.__notes__
        assert note.startswith("node 'parse', attempt 1\n  at ")
        assert "\n  load = {'lines': ['1', 'two']}\n" in note
        assert type(failed[1]["unnoted"].error) is Unnoted


class TestRaisingForFailures:
    def test_one_error_has_all_of_them(self, failed):
        with pytest.raises(NodesFailedError) as caught:
            failed[1].raise_for_failures()
        error = caught.value
        assert error.nodes == ["parse", "leave", "die", "unnoted"]
        assert str(error) == "4 of 6 node(s) without a result: 'parse', 'leave', 'die', 'unnoted', 1 skipped"
        assert error.exceptions[0] is failed[1]["parse"].error
        # What would end the program, or pass an `except Exception`, comes as something that does not.
        assert type(error.exceptions[1]) is TaskFailedError
        assert "no use for 1" in str(error.exceptions[1])
        assert "in leave" in error.exceptions[1].__cause__.text

    def test_it_is_a_group(self, failed):
        with pytest.raises(NodesFailedError) as caught:
            failed[1].raise_for_failures()
        values, rest = caught.value.split(ValueError)
        assert (values.nodes, rest.nodes) == (["parse"], ["leave", "die", "unnoted"])
        assert type(rest) is NodesFailedError

    def test_nothing_is_raised_if_every_node_completed(self, ckpt):
        dag = DAG.builder().add_node("a").build()
        CheckpointExecutor(dag, ckpt, pool="inline").execute({"a": int}).raise_for_failures()

    def test_a_run_that_was_cancelled_is_no_success(self):
        error = NodeCancelledError("a", "the run was cancelled")
        nodes = {name: NodeResult(name, NodeStatus.CANCELLED, error) for name in ["a", "b"]}
        with pytest.raises(NodesFailedError, match=r"1 of 2 node.* 2 cancelled") as caught:
            ExecutionResult(nodes, cancelled=2).raise_for_failures()
        assert caught.value.exceptions == (error,)


def test_a_task_of_a_script_knows_its_file_in_the_worker_and_shows_its_source(tmp_path):
    """Code that travels by value loses its file name with cloudpickle since 3.1.2."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import dagron, json
            class Checker:
                def check(self, value):
                    return 1 / value   # in a method
            def task(zero=0):
                return (lambda: Checker().check(zero))()
            dag = dagron.DAG.builder().add_node("a").build()
            result = dagron.CheckpointExecutor(dag, "ckpt", max_workers=1).execute({"a": task})
            print(json.dumps(result["a"].error.__cause__.text))
        """)
    )
    env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(dagron.__file__))}
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stderr == ""
    text = json.loads(done.stdout)
    assert text.count(f'  File "{script}", line ') == 3
    assert "return 1 / value   # in a method" in text
