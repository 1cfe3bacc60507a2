"""Tasks, results and exceptions as bytes: what survives the trip, as which class, and what is said of the rest."""

from __future__ import annotations

import collections
import dataclasses
import enum
import errno
import functools
import math
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import types

import cloudpickle
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from places import SRC

from dagron.checkpoint.blobs import INLINE_MAX_BYTES, BlobFile, read_blob
from dagron.checkpoint.files.opened import TempFile
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.storage import Storage
from dagron.crossing.exceptions import describe_exception, dump_exception, load_exception
from dagron.crossing.results import dump_result
from dagron.crossing.sharing import pickle_tasks
from dagron.crossing.tasks import TaskPickler
from dagron.engines.local.board import MAX_OUTCOME_BYTES
from dagron.errors import (
    ClassChangedError,
    NodeError,
    RemoteTraceback,
    ResultNotPicklableError,
    ResultNotWrittenError,
    TaskFailedError,
    TaskNotPicklableError,
)
from dagron.script import FILE_MODULE, process


def dumped(value, directory, **options):
    return dump_result("node", value, directory, Digests(), **{"durable": False, **options})


def bytes_of(blob, directory, key=None):
    if blob.storage == Storage.INLINE:
        return blob.data
    return bytes(read_blob(directory, BlobFile(blob.temp_name, blob.size, blob.digest), Digests(key)))


def round_trip(value, directory):
    return pickle.loads(bytes_of(dumped(value, directory), directory))


@dataclasses.dataclass
class Point:
    x: int
    y: object = None


class Colour(enum.Enum):
    RED = 1


class Broken:
    """Cannot be pickled; fails in any way that it is told."""

    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        raise self.how


# --- results -------------------------------------------------------------------------------------------------------


VALUES = [
    None,
    True,
    0,
    -(2**70),
    1.5,
    math.inf,
    2j,
    "",
    "text \ud800 \N{SNOWMAN}",
    b"",
    b"bytes",
    [],
    [1, [2, (3, {4})]],
    {"a": {1: None}, (1, 2): frozenset([3])},
    range(5),
    bytearray(b"x"),
    Point(1, Point(2)),
    Colour.RED,
    Point,
    len,
    math.factorial,
    functools.partial(int, base=2),
    collections.OrderedDict(a=1),
]


class TestResults:
    @pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30].encode("ascii", "replace").decode())
    def test_a_result_comes_back_as_it_was(self, value, tmp_path):
        found = round_trip(value, tmp_path)
        assert type(found) is type(value)
        if isinstance(value, functools.partial):
            assert found("101") == value("101")
        else:
            assert found == value

    def test_not_a_number_comes_back(self, tmp_path):
        assert math.isnan(round_trip(math.nan, tmp_path))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        )
    )
    @settings(deadline=None)
    def test_any_plain_value_comes_back_as_it_was(self, value):
        blob = dump_result("node", value, "/nonexistent", Digests(), durable=False)
        assert pickle.loads(blob.data) == value
        assert blob.size == len(blob.data)
        assert blob.digest == blake3(blob.data).digest()

    def test_an_object_that_stands_in_itself_comes_back(self, tmp_path):
        value = [1]
        value.append(value)
        found = round_trip(value, tmp_path)
        assert found[1] is found

    @pytest.mark.parametrize("value", [1, "x", [1], Point(1)], ids=repr)
    def test_the_digest_is_keyed(self, value, tmp_path):
        plain = dumped(value, tmp_path)
        keyed = dump_result("node", value, tmp_path, Digests(b"key"), durable=False)
        assert keyed.data == plain.data
        assert keyed.digest == Digests(b"key").of(plain.data) != plain.digest
        assert keyed.digest != plain.digest

    @pytest.mark.parametrize(
        "value",
        [bytes(100_000), "x" * 100_000, list(range(50_000)), [bytes(30_000)]],
        ids=["bytes", "str", "list", "in"],
    )
    def test_a_large_result_goes_to_a_file(self, value, tmp_path):
        blob = dumped(value, tmp_path, durable=True)
        assert (blob.storage, blob.data) == (Storage.FILE, b"")
        data = (tmp_path / blob.temp_name).read_bytes()
        assert (len(data), blake3(data).digest()) == (blob.size, blob.digest)
        assert pickle.loads(data) == value

    def test_a_write_that_is_refused_leaves_no_file(self, tmp_path, monkeypatch):
        def write(file, data, real=TempFile.write):
            if len(data) > 1_000_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(file, data)

        monkeypatch.setattr(TempFile, "write", write)
        with pytest.raises(ResultNotWrittenError, match="No space left"):
            dumped(bytes(20_000_000), tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("size", range(INLINE_MAX_BYTES - 40, INLINE_MAX_BYTES + 40, 8))
    def test_whatever_its_size_an_inline_result_fits(self, size, tmp_path):
        blob = dumped([bytes(size)], tmp_path)
        assert (blob.storage == Storage.INLINE) == (blob.size <= INLINE_MAX_BYTES)
        assert len(blob.data) <= INLINE_MAX_BYTES

    @pytest.mark.parametrize(
        "value", [2 ** (8 * 200_000), -(2 ** (8 * 200_000)), bytes(200_000), "\N{SNOWMAN}" * 60_000], ids=type
    )
    def test_a_large_atom_does_not_overflow_what_a_worker_hands_over(self, value, tmp_path):
        # math.factorial(10**6) is a result like any other, of 2.3 MB.
        blob = dumped(value, tmp_path)
        assert len(blob.data) <= INLINE_MAX_BYTES < MAX_OUTCOME_BYTES
        assert pickle.loads(bytes_of(blob, tmp_path)) == value

    @pytest.mark.parametrize("large", [False, True])
    def test_what_cannot_be_pickled_leaves_no_file(self, large, tmp_path):
        value = [bytes(100_000 if large else 1), threading.Lock()]
        with pytest.raises(ResultNotPicklableError):
            dumped(value, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_disk_that_refuses_is_told_with_the_node(self, tmp_path):
        with pytest.raises(ResultNotWrittenError, match="could not write the result: No such file"):
            dumped(bytes(100_000), tmp_path / "missing")

    def test_lambdas_closures_and_local_classes_come_back(self, tmp_path):
        factor = 3

        class Local:
            def __init__(self, value):
                self.value = value

        found = round_trip((lambda x: x * factor, Local(7)), tmp_path)
        assert found[0](4) == 12
        assert found[1].value == 7
        assert isinstance(found[1], Local)

    @pytest.mark.parametrize("size", [1, 100_000])
    def test_a_result_that_needs_by_value_is_whole_whatever_its_size(self, size, tmp_path):
        found = round_trip([bytes(size), lambda: 5, bytes(size)], tmp_path)
        assert (found[0], found[1](), found[2]) == (bytes(size), 5, bytes(size))
        assert len(list(tmp_path.iterdir())) == (size > 1)

    def test_a_keyboard_interrupt_while_pickling_is_let_through(self, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            dumped(Broken(KeyboardInterrupt()), tmp_path)

    @pytest.mark.parametrize(
        "wrap", [lambda x: x, lambda x: [x], lambda x: {"a": (x,)}], ids=["bare", "list", "deeper"]
    )
    @pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), GeneratorExit()], ids=repr)
    def test_whatever_pickling_raises_the_result_is_what_cannot_be_pickled(self, wrap, error, tmp_path):
        with pytest.raises(ResultNotPicklableError) as caught:
            dumped(wrap(Broken(error)), tmp_path)
        assert type(error).__name__ in caught.value.reason


# --- classes of __main__ -------------------------------------------------------------------------------------------


@pytest.fixture
def user_file(monkeypatch):
    """The module under which the command line loads a user's file: its contents travel by value."""
    module = types.ModuleType(FILE_MODULE)
    monkeypatch.setitem(sys.modules, FILE_MODULE, module)
    cloudpickle.register_pickle_by_value(module)
    exec(
        textwrap.dedent("""
            import enum
            from dataclasses import dataclass

            @dataclass
            class Pair:
                a: int
                b: int = 0
                class Inner:
                    pass

            class Level(enum.Enum):
                LOW = 1

            def double(x):
                return 2 * x
        """),
        module.__dict__,
    )
    yield module
    cloudpickle.unregister_pickle_by_value(module)


class TestClassesOfTheUsersFile:
    def test_an_instance_comes_back_as_that_very_class(self, user_file, tmp_path):
        found = round_trip([user_file.Pair(1), user_file.Pair.Inner(), user_file.Pair], tmp_path)
        assert type(found[0]) is user_file.Pair
        assert type(found[1]) is user_file.Pair.Inner
        assert found[2] is user_file.Pair

    def test_a_member_of_an_enum_comes_back_as_that_very_member(self, user_file, tmp_path):
        assert round_trip({"level": user_file.Level.LOW}, tmp_path)["level"] is user_file.Level.LOW

    def test_where_the_class_is_not_what_it_held_is_shown(self, user_file, monkeypatch, tmp_path):
        data = bytes_of(dumped(user_file.Pair(1, 2), tmp_path), tmp_path)
        monkeypatch.delitem(sys.modules, FILE_MODULE)
        monkeypatch.setattr(process, "has_script", False)
        found = pickle.loads(data)
        assert (type(found).__name__, found.a, found.b, repr(found)) == ("Pair", 1, 2, "Pair(a=1, b=2)")

    def test_where_the_script_no_longer_has_the_class_it_is_an_error(self, user_file, monkeypatch, tmp_path):
        data = bytes_of(dumped(user_file.Pair(1, 2), tmp_path), tmp_path)
        monkeypatch.setattr(process, "has_script", True)
        del user_file.Pair
        with pytest.raises(ClassChangedError, match="the script defines no 'Pair'"):
            pickle.loads(data)

    def test_a_function_comes_back_as_that_very_function(self, user_file, tmp_path):
        data = bytes_of(dumped([user_file.double], tmp_path), tmp_path)
        assert pickle.loads(data)[0] is user_file.double

    def test_an_exception_of_such_a_class_comes_back_as_that_very_class(self, user_file):
        class_ = type("Failed", (Exception,), {"__module__": FILE_MODULE, "__qualname__": "Failed"})
        user_file.Failed = class_
        error = load_exception("node", dump_exception(class_("why", 3)), "Failed", "why", "")
        assert type(error) is class_
        assert error.args == ("why", 3)

    def test_what_is_there_under_that_name_but_is_no_class_is_not_taken(self, user_file, monkeypatch, tmp_path):
        data = bytes_of(dumped(user_file.Pair(1), tmp_path), tmp_path)
        user_file.Pair = "something else"
        monkeypatch.setattr(process, "has_script", True)
        with pytest.raises(ClassChangedError, match=r"'Pair'.*of type str"):
            pickle.loads(data)
        monkeypatch.setattr(process, "has_script", False)
        assert pickle.loads(data).a == 1

    def test_in_the_process_of_the_script_a_task_has_the_class_itself(self, user_file):
        pair = user_file.Pair
        assert type(pickle.loads(TaskPickler().dump("node", lambda: pair(1)))()) is pair

    def test_a_class_without_a_name_is_of_the_base_that_the_script_has_now(self, user_file, tmp_path):
        data = bytes_of(dumped([type("Local", (user_file.Pair,), {})(1)], tmp_path), tmp_path)
        assert type(pickle.loads(data)[0]) is type(pickle.loads(data)[0])
        user_file.Pair = type("Pair", (), {"__module__": FILE_MODULE, "__annotations__": {"a": int, "b": int}})
        dataclasses.dataclass(user_file.Pair)
        (found,) = pickle.loads(data)
        assert isinstance(found, user_file.Pair)
        assert type(found) is type(pickle.loads(data)[0])

    def test_a_class_that_changed_since_the_last_run_is_pickled_anew(self, user_file, tmp_path):
        first = pickle_tasks(["node"], [user_file.Pair], [(Exception,)], [1])
        user_file.Pair.added = 5
        second = pickle_tasks(["node"], [user_file.Pair], [(Exception,)], [1])
        assert first.parts[0][-1].data != second.parts[0][-1].data


def python(text, *args, input=None):
    """Run a script as `__main__` in a process of its own; return what it wrote."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *map(str, args)],
        input=input,
        env={**os.environ, "PYTHONPATH": SRC},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


EMIT = """
import pickle, sys, tempfile
from pathlib import Path
from dagron.checkpoint.format.digests import Digests
from dagron.crossing.results import dump_result
from dagron.crossing.parts import ReceivedParts
from dagron.crossing.sharing import pickle_tasks

def emit_task(task):
    tasks = pickle_tasks(["node"], [task], [(Exception,)], [1])
    sys.stdout.buffer.write(pickle.dumps((tasks.own[0], [tuple(part) for part in tasks.parts[0]])))

def emit(value):
    with tempfile.TemporaryDirectory() as directory:
        blob = dump_result("node", value, Path(directory), Digests(), durable=False)
        data = blob.data or (Path(directory) / blob.temp_name).read_bytes()
    sys.stdout.buffer.write(data)
"""

CLASSES = EMIT + textwrap.dedent("""
    import enum
    from collections import namedtuple
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Data:
        x: int
    class Slotted:
        __slots__ = ("x",)
        def __init__(self, x):
            self.x = x
    class Base:
        def name(self):
            return helper(type(self).__name__)
    class Derived(Base):
        def __init__(self):
            self.x = Data(1)
    class Level(enum.IntEnum):
        LOW = 1
    class Failed(Exception):
        pass
    class Outer:
        class Inner:
            x = 5
    Row = namedtuple("Row", "x y")
    def helper(text):
        return text.upper()
    @dataclass(slots=True)
    class SlottedData:
        x: int
    class Mixed(Slotted):
        pass
    def result():
        mixed = Mixed(3)
        mixed.y = 4
        slotted = [Slotted(2), SlottedData(2), mixed]
        values = [Data(1), *slotted, Derived(), Level.LOW, Failed("why"), Outer.Inner(), Row(1, 2)]
        return values, Data, {Data(3): [Level.LOW]}
    CLASSES = [Data, Slotted, SlottedData, Mixed, Derived, Level, Failed, Outer.Inner, Row]
    def check(values, data, level_by_data):
        assert [type(value) for value in values] == CLASSES, values
        assert data is Data
        assert level_by_data == {Data(3): [Level.LOW]}
        assert values[5] is Level.LOW
        assert (values[1].x, values[2].x, values[3].x, values[3].y) == (2, 2, 3, 4)
        assert (values[4].name(), values[4].x) == ("DERIVED", Data(1))
""")

DUMP = CLASSES + "emit(result())"


CHECK = CLASSES + "check(*pickle.load(sys.stdin.buffer))"
DUMP_TASK = CLASSES + "emit_task(result)"
LOAD_TASK = EMIT + textwrap.dedent("""
    from dagron.crossing.script_modules import become_script
    own, parts = pickle.load(sys.stdin.buffer)
    become_script()
    worker = ReceivedParts(binds=True)
    for part in parts:
        worker.add(*part)
    task, _ = worker.load(own, tuple(number for number, *_ in parts))
""")
WORKER = LOAD_TASK + "emit(task())"


class TestClassesOfMain:
    def test_a_process_that_has_the_classes_gets_instances_of_them(self):
        python(CHECK, input=python(DUMP))

    def test_a_process_that_has_none_of_them_can_use_the_values(self):
        check = """
            import pickle, sys
            values, data, _ = pickle.load(sys.stdin.buffer)
            assert [values[i].x for i in (0, 1, 2, 3, 8)] == [1, 2, 2, 3, 1]
            assert values[4].x.x == 1
            assert (values[6].args, values[8]._asdict()) == (("why",), {"x": 1, "y": 2})
            assert repr(values[:6]) == (
                "[Data(x=1), Slotted(x=2), SlottedData(x=2), Mixed(y=4, x=3), Derived(x=Data(x=1)), Level('LOW', 1)]"
            ), values[:6]
            assert type(values[0]) is data is type(values[4].x)
        """
        python(check, input=python(DUMP))

    def test_what_a_worker_makes_with_the_classes_of_its_task_comes_back_as_instances_of_them(self):
        # Three processes: this one has the classes, a worker has what the task brings, and a later one has them again.
        python(CHECK, input=python(WORKER, input=python(DUMP_TASK)))

    @pytest.mark.parametrize("class_name", ["Data", "Slotted", "SlottedData", "Mixed"])
    def test_slots_survive_the_way_through_a_worker(self, class_name):
        # `@dataclass(slots=True)` in a script, returned by a task.
        task = CLASSES + textwrap.dedent(f"""
            emit_task(lambda: {class_name}(5))
        """)
        check = CLASSES + textwrap.dedent(f"""
            value = pickle.load(sys.stdin.buffer)
            assert (type(value), value.x) == ({class_name}, 5)
        """)
        python(check, input=python(WORKER, input=python(task)))

    @pytest.mark.parametrize("class_name", ["Data", "Slotted", "Derived", "Outer.Inner", "Row"])
    def test_in_a_worker_an_older_result_meets_the_class_of_the_task(self, class_name, tmp_path):
        old = tmp_path / "old"
        old.write_bytes(python(DUMP))
        # A later process pickles the task: its classes are others, although they have the same names.
        dump_task = CLASSES + textwrap.dedent(f"""
            wanted = {class_name}
            def task(values):
                return [type(value).__qualname__ for value in values if isinstance(value, wanted)]
            emit_task(task)
        """)
        worker = LOAD_TASK + textwrap.dedent("""
            with open(sys.argv[1], "rb") as file:
                print(*task(pickle.load(file)[0]))
        """)
        found = python(worker, old, input=python(dump_task)).decode().split()
        assert class_name in found

    def test_a_class_that_a_notebook_defines_again_is_the_one_that_results_come_back_as(self, tmp_path):
        # After a run in this very process, which unpickled its tasks here.
        python(
            """
            import sys
            import dagron

            class Data:
                pass

            first = Data
            dag = dagron.DAG(["a"])
            executor = dagron.CheckpointExecutor(dag, sys.argv[1], pool="inline", durability="process")
            assert type(executor.execute({"a": lambda: Data()})["a"].result) is first

            class Data:
                pass

            result = executor.resume({"a": lambda: None})
            assert result.restored == 1
            assert type(result["a"].result) is Data
            """,
            tmp_path / "ckpt",
        )


# --- tasks ---------------------------------------------------------------------------------------------------------


LOCK = threading.Lock()


class Holder:
    def __init__(self, value):
        self.value = value

    def method(self):
        return self.value

    def __call__(self):
        return self.value


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


def culprit(task):
    """The path of the error for a task that cannot be pickled."""
    with pytest.raises(TaskNotPicklableError) as caught:
        TaskPickler().dump("node", task)
    assert caught.value.node == "node"
    assert "lock" in caught.value.reason
    return caught.value.path


def by_value(source, **names):
    """A function that travels by value, like those of a script, with these globals."""
    namespace = {"__name__": "__main__", **names}
    exec(textwrap.dedent(source), namespace)
    return namespace["task"]


class TestTasks:
    def test_functions_come_back(self):
        factor = 3
        assert pickle.loads(TaskPickler().dump("node", lambda x: x * factor))(2) == 6

    def test_the_same_object_is_pickled_once(self):
        n_pickled = 0

        class Counted:
            def __reduce__(self):
                nonlocal n_pickled
                n_pickled += 1
                return int, ()

        pickler, task = TaskPickler(), Counted()
        blobs = [pickler.dump(f"node {i}", task) for i in range(5)]
        assert n_pickled == 1
        assert all(blob is blobs[0] for blob in blobs)

    def test_an_object_at_the_place_of_one_that_is_gone_is_pickled_itself(self):
        pickler = TaskPickler()
        assert [pickle.loads(pickler.dump("node", [i]))[0] for i in range(100)] == list(range(100))

    def test_another_pickler_sees_what_has_changed(self):
        task = [1]
        assert pickle.loads(TaskPickler().dump("node", task)) == [1]
        task.append(2)
        assert pickle.loads(TaskPickler().dump("node", task)) == [1, 2]


class TestCulprits:
    def test_the_task_itself(self):
        assert culprit(threading.Lock()) == ""

    def test_a_closure_variable(self):
        lock = threading.Lock()
        assert culprit(lambda: lock) == "closure variable 'lock'"

    def test_an_attribute_of_a_closure_variable(self):
        holder = Holder({"deep": [1, threading.Lock()]})
        path = "closure variable 'holder' -> attribute 'value' -> key 'deep' -> item 1"
        assert culprit(lambda: holder) == path

    def test_a_global(self):
        assert culprit(by_value("def task(): return LOCK", LOCK=LOCK)) == "global 'LOCK'"

    def test_a_global_of_a_function_that_the_task_calls(self):
        inner = by_value("def task(): return LOCK", LOCK=LOCK)
        assert culprit(by_value("def task(): return inner()", inner=inner)) == "global 'inner' -> global 'LOCK'"

    @pytest.mark.parametrize(
        "source",
        [
            "task = lambda: list(LOCK for _ in range(3))",
            "def task():\n    def inner():\n        return LOCK\n    return inner()",
        ],
        ids=["generator", "inner function"],
    )
    def test_a_global_that_only_code_inside_the_task_uses(self, source):
        assert culprit(by_value(source, LOCK=LOCK)) == "global 'LOCK'"

    def test_defaults(self):
        assert culprit(lambda a=1, lock=LOCK: lock) == "default 1"
        assert culprit(lambda *, lock=LOCK: lock) == "default 'lock'"

    def test_partials(self):
        assert culprit(functools.partial(print, 1, LOCK)) == "argument 1"
        assert culprit(functools.partial(print, file=LOCK)) == "argument 'file'"
        assert culprit(functools.partial(lambda lock=LOCK: lock)) == "function of the partial -> default 0"

    def test_methods_and_objects_with_call(self):
        assert culprit(Holder(LOCK).method) == "object of the method -> attribute 'value'"
        assert culprit(Holder(LOCK)) == "attribute 'value'"

    def test_slots(self):
        assert culprit(Slotted(LOCK)) == "attribute 'value'"

    def test_containers(self):
        assert culprit([0, (1, {"k": LOCK})]) == "item 1 -> item 1 -> key 'k'"
        assert culprit({1: {LOCK}}).startswith("key 1 -> element <unlocked _thread.lock")

    def test_in_the_pair_of_a_task_and_its_retries_the_path_begins_at_the_task(self):
        assert culprit((Holder(LOCK), (Exception,))) == "attribute 'value'"

    def test_cycles_end(self):
        holder = Holder(None)
        holder.value = [holder, LOCK]
        assert culprit(holder).endswith("item 1")

    def test_the_reason_names_the_type_and_says_what_pickle_said(self):
        with pytest.raises(TaskNotPicklableError) as caught:
            TaskPickler().dump("node", [LOCK])
        assert caught.value.reason == "lock object, TypeError: cannot pickle '_thread.lock' object"
        assert str(caught.value) == (
            "the task of node 'node' cannot be pickled at item 0: lock object, "
            "TypeError: cannot pickle '_thread.lock' object; "
            "create that object inside the task, or pass what it is made from"
        )

    def test_results_too(self, tmp_path):
        with pytest.raises(ResultNotPicklableError) as caught:
            dumped({"model": Holder(LOCK)}, tmp_path)
        assert caught.value.path == "key 'model' -> attribute 'value'"

    def test_very_long_labels_and_reasons_are_cut(self, tmp_path):
        with pytest.raises(ResultNotPicklableError) as caught:
            dumped({"k" * 10**6: Broken(ValueError("x" * 10**6))}, tmp_path)
        assert len(str(caught.value)) < 50_000

    def test_a_path_through_many_levels_is_cut(self, tmp_path):
        value = LOCK
        for _ in range(50):
            value = [value]
        with pytest.raises(ResultNotPicklableError) as caught:
            dumped(value, tmp_path)
        assert caught.value.path == " -> ".join(["item 0"] * 20)


class Raises:
    """Raises whatever is asked of it."""

    def __init__(self, **how):
        object.__setattr__(self, "how", how)

    def __repr__(self):
        return self.fail("repr")

    def __hash__(self):
        return 1

    @property
    def __dict__(self):
        return self.fail("dict")

    def __reduce__(self):
        raise self.how["reduce"]

    def fail(self, name):
        if name in self.how:
            raise self.how[name]
        return "" if name == "repr" else {}


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text either")


class TestHostileObjects:
    """What cannot be pickled may raise from anything that the search for the culprit asks it."""

    @pytest.mark.parametrize(
        "value",
        [
            [Raises(reduce=Mute())],
            {Raises(reduce=ValueError(), repr=ValueError()): 1},
            {Raises(reduce=ValueError(), repr=ValueError())},
            [Raises(reduce=ValueError(), dict=ValueError())],
        ],
        ids=["mute error", "key without repr", "element without repr", "without dict"],
    )
    def test_the_error_is_still_that_it_cannot_be_pickled(self, value, tmp_path):
        with pytest.raises(TaskNotPicklableError):
            TaskPickler().dump("node", value)
        with pytest.raises(ResultNotPicklableError):
            dumped(value, tmp_path)


class TestDeepRecursion:
    """In a process of its own, because what could go wrong here is a crash."""

    SHAPES = """
        class Node:
            def __init__(self, next):
                self.next = next
        def lists(n):
            value = 0
            for _ in range(n):
                value = [value]
            return value
        def objects(n):
            value = None
            for _ in range(n):
                value = Node(value)
            return value
        def functions(n):
            value = len
            for _ in range(n):
                value = (lambda value: lambda: value)(value)
            return value
    """

    @pytest.mark.parametrize("shape", ["lists", "objects", "functions"])
    def test_a_result_that_is_too_deep_is_an_error(self, shape, tmp_path):
        script = textwrap.dedent(self.SHAPES) + textwrap.dedent(f"""
            import os, sys
            from pathlib import Path
            from dagron.checkpoint.format.digests import Digests
            from dagron.errors import ResultNotPicklableError
            from dagron.crossing.results import dump_result
            value = [{shape}(100_000)]  # not the object itself, which would have a name in the script
            try:
                dump_result("node", value, Path(sys.argv[1]), Digests(), durable=False)
            except ResultNotPicklableError as error:
                assert "recursion" in str(error).lower(), error
            else:
                raise AssertionError("it was pickled")
            assert os.listdir(sys.argv[1]) == []
            os._exit(0)  # taking a long chain apart is not what is tested
        """)
        python(script, tmp_path)

    def test_a_task_that_is_too_deep_is_an_error(self):
        script = textwrap.dedent(self.SHAPES) + textwrap.dedent("""
            import os
            from dagron.errors import TaskNotPicklableError
            from dagron.crossing.tasks import TaskPickler
            value = [functions(100_000)]
            try:
                TaskPickler().dump("node", value)
            except TaskNotPicklableError as error:
                assert "recursion" in str(error).lower(), error
            else:
                raise AssertionError("it was pickled")
            os._exit(0)
        """)
        python(script)


# --- exceptions ----------------------------------------------------------------------------------------------------


def caught_from(function, *args):
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def travelled(error):
    """An exception as the coordinator gets it."""
    return load_exception("node", dump_exception(error), *describe_exception(error))


class WrongInit(Exception):
    """Does not hand its arguments on, so that pickle itself could not make it again."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


class WithState(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.details = {"tried": 3}


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Allows no attribute to be set, not even its cause."""


class Guarded(Exception):
    def __setattr__(self, name, value):
        raise AttributeError(f"{name} cannot be set")


class LoadsAsSomethingElse(Exception):
    def __reduce__(self):
        return int, ("5",)


class LoadsOnce(Exception):
    """Loads in the worker that tries it out, and raises in the coordinator."""

    n_loaded = 0

    def __reduce__(self):
        return LoadsOnce.load, ()

    @staticmethod
    def load():
        LoadsOnce.n_loaded += 1
        if LoadsOnce.n_loaded > 1:
            raise ValueError("not again")
        return LoadsOnce()


class ExitsInText(Exception):
    def __str__(self):
        raise SystemExit(5)


class Shouting(str):
    """A string that stays what it is when `str` is asked for it."""

    def __str__(self):
        return self


class StrangeText(Exception):
    def __str__(self):
        return Shouting("strange")


class TestExceptions:
    @pytest.mark.parametrize(
        "error",
        [
            ValueError("why", 3),
            KeyError("k"),
            OSError(2, "No such file", "name"),
            UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
            SystemExit(3),
            WithState("text"),
            StopIteration(4),
            AssertionError(),
        ],
        ids=repr,
    )
    def test_an_exception_comes_back_with_type_arguments_and_state(self, error):
        found = travelled(error)
        assert type(found) is type(error)
        assert found.args == error.args
        assert str(found) == str(error)
        assert vars(found) == vars(error)

    def test_its_cause_is_the_remote_traceback(self):
        def task():
            raise ValueError("deep down") from KeyError("the reason")

        found = travelled(caught_from(task))
        assert isinstance(found.__cause__, RemoteTraceback)
        text = str(found.__cause__)
        assert "in task" in text
        assert "ValueError: deep down" in text
        assert "KeyError: 'the reason'" in text
        assert "direct cause" in text

    def test_frames_of_ours_are_left_out(self):
        def ours(function):
            function()

        def task():
            raise ValueError("x")

        text = describe_exception(caught_from(ours, task), {caught_from.__code__, ours.__code__})[2]
        assert "in task" in text
        assert "in ours" not in text
        assert describe_exception(ValueError("never raised"), {ours.__code__})[2] == "ValueError: never raised\n"

    def test_notes_and_groups_come_back(self):
        error = ExceptionGroup("several", [ValueError(1), KeyError(2)])
        error.add_note("a note")
        found = travelled(error)
        assert [type(inner) for inner in found.exceptions] == [ValueError, KeyError]
        assert found.__notes__ == ["a note"]
        assert "a note" in str(found.__cause__)

    def test_a_local_class_comes_back(self):
        class Local(Exception):
            pass

        assert type(travelled(Local("x"))) is Local

    def test_one_that_was_made_from_other_arguments_comes_back(self):
        found = travelled(WrongInit(5, "text"))
        assert (type(found), found.code, str(found)) == (WrongInit, 5, "5: text")

    @pytest.mark.parametrize(
        ("error", "type_name", "message"),
        [
            (ValueError(threading.Lock()), "ValueError", "<unlocked _thread.lock object"),
            (LoadsAsSomethingElse("x"), "LoadsAsSomethingElse", "x"),
            (ValueError("x" * 10**6), "ValueError", "xxx"),
            (ValueError(bytes(10**6)), "ValueError", "b'"),
            (Broken, "TypeError", "reduce"),
        ],
        ids=["unpicklable", "loads as a number", "huge text", "huge", "raises in reduce"],
    )
    def test_one_that_does_not_survive_the_trip_arrives_as_its_text(self, error, type_name, message):
        if error is Broken:
            error = TypeError("reduce", Broken(SystemExit(1)))
        assert dump_exception(error) == b""
        found = travelled(error)
        assert isinstance(found, TaskFailedError)
        assert isinstance(found, NodeError)
        assert found.node == "node"
        assert found.type_name.rpartition(".")[2] == type_name
        assert message in found.message
        assert f"{type_name}: " in str(found)
        assert isinstance(found.__cause__, RemoteTraceback)
        assert pickle.loads(pickle.dumps(found)).args == found.args

    def test_one_that_fails_to_load_in_the_coordinator_arrives_as_its_text(self):
        LoadsOnce.n_loaded = 0
        found = travelled(LoadsOnce("x"))
        assert isinstance(found, TaskFailedError)
        assert found.type_name.endswith("LoadsOnce")

    @pytest.mark.parametrize("data", [b"", b"rubbish", pickle.dumps(5), pickle.dumps(ValueError)], ids=repr)
    def test_whatever_bytes_arrive_there_is_an_exception(self, data):
        found = load_exception("node", data, "ValueError", "why", "the traceback")
        assert isinstance(found, TaskFailedError)
        assert str(found) == "the task of node 'node' raised ValueError: why"
        assert str(found.__cause__) == '\n"""\nthe traceback"""'

    @pytest.mark.parametrize("error", [Frozen(), Guarded("x")], ids=["frozen", "guarded"])
    def test_one_that_lets_no_attribute_be_set_arrives_with_its_traceback(self, error):
        found = travelled(error)
        assert isinstance(found, (TaskFailedError, type(error)))
        assert isinstance(found.__cause__, RemoteTraceback)

    @pytest.mark.parametrize("error", [Mute(), ExitsInText()], ids=["raises", "exits"])
    def test_one_without_text_is_described(self, error):
        type_name, message, text = describe_exception(error)
        assert type_name.endswith(type(error).__name__)
        assert message.startswith("<its __str__ raised ")
        assert type(error).__name__ in text
        travelled(error)

    def test_descriptions_are_plain_strings(self):
        # They are pickled by the worker and unpickled in the coordinator, which has no such class.
        assert [type(part) for part in describe_exception(StrangeText())] == [str, str, str]

    def test_descriptions_are_bounded(self):
        def task(depth):
            if depth:
                task(depth - 1)
            raise type("E" * 10**5, (ValueError,), {})("x" * 10**6)

        type_name, message, text = describe_exception(caught_from(task, 200))
        assert len(type_name) <= 4096
        assert len(message) < 5000
        assert message.startswith("xxx")
        assert message.endswith("xxx")
        assert "characters left out" in message
        assert len(text) < 17_000
        outcome = pickle.dumps((type_name, message, text, dump_exception(caught_from(task, 200))))
        assert len(outcome) < MAX_OUTCOME_BYTES

    def test_the_module_is_named_unless_it_is_built_in_or_the_script(self):
        assert describe_exception(ValueError())[0] == "ValueError"
        assert describe_exception(WithState("x"))[0] == f"{__name__}.WithState"
        assert describe_exception(type("Own", (Exception,), {"__module__": "__main__"})())[0] == "Own"

    def test_a_keyboard_interrupt_comes_back(self):
        assert type(travelled(KeyboardInterrupt())) is KeyboardInterrupt
