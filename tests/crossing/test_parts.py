"""What tasks have in common crosses once, and no task can tell.

Leans on `pickle_tasks` and `ReceivedParts`; each test of a share fails if `_Parts.find` finds nothing.
"""

import enum
import functools
import os
import pickle
import sys
import textwrap
import types
from collections.abc import Mapping
from typing import NamedTuple

import cloudpickle
import pytest

from dagron import DAG, CheckpointExecutor, Task, TaskNotPicklableError
from dagron.crossing.parts import ReceivedParts
from dagron.crossing.script_modules import TABLE
from dagron.crossing.sharing import pickle_tasks
from dagron.runs.options import Options
from dagron.runs.plan import plan_run

# Or every worker would import pytest first.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

BIG = bytes(range(256)) * 4096
N = 50


def shipped(*callables):
    """Pickle tasks as a run does and load them as a worker does; return what arrives and the bytes that crossed."""
    distinct = {id(fn): fn for fn in callables}
    n_nodes = [sum(other is fn for other in callables) for fn in distinct.values()]
    retry_on = [(Exception,)] * len(distinct)
    tasks = pickle_tasks([f"n{i}" for i in range(len(distinct))], list(distinct.values()), retry_on, n_nodes)
    by_id = dict(zip(distinct, zip(tasks.own, tasks.parts, strict=True), strict=True))
    worker, n_bytes, known = ReceivedParts(binds=False), 0, set()
    arrived = []
    for fn in callables:
        own, parts = by_id[id(fn)]
        for part in parts:
            if part.number not in known:
                known.add(part.number)
                worker.add(*part)
                # The table of this module has all of its classes and functions, in every test the same.
                n_bytes += 0 if part.number == TABLE else len(part.data)
        crossed = pickle.dumps((own, tuple(part.number for part in parts)), 5)
        n_bytes += len(crossed)
        fn, retry_on = worker.load(*pickle.loads(crossed))
        assert retry_on == (Exception,)
        arrived.append(fn)
    return arrived, n_bytes


def work(i, data=b""):
    return i, len(data)


class Held:
    def __init__(self, data):
        self.data = data

    def method(self):
        return len(self.data)


def closures_over(obj):
    return [lambda i=i: (i, len(obj)) for i in range(N)]


class TestWhatCrosses:
    @pytest.mark.parametrize("obj", [BIG, BIG.decode("latin-1"), list(range(100_000)), {"data": BIG, "x": 1}], ids=type)
    def test_an_object_that_closures_hold_crosses_once(self, obj):
        arrived, n_bytes = shipped(*closures_over(obj))
        assert [fn() for fn in arrived] == [(i, len(obj)) for i in range(N)]
        assert n_bytes < len(cloudpickle.dumps(obj)) + 400 * N

    def test_so_does_one_that_is_an_argument_of_partials_or_a_default(self):
        arrived, n_bytes = shipped(*[functools.partial(work, i, data=BIG) for i in range(N)])
        assert [fn() for fn in arrived] == [(i, len(BIG)) for i in range(N)]
        assert n_bytes < len(BIG) + 400 * N
        arrived, n_bytes = shipped(*[lambda i=i, data=BIG: (i, len(data)) for i in range(N)])
        assert [fn() for fn in arrived] == [(i, len(BIG)) for i in range(N)]
        assert n_bytes < len(BIG) + 400 * N

    def test_the_object_of_methods_does_once_and_is_a_copy_for_each_of_them(self):
        held = Held(BIG)
        arrived, n_bytes = shipped(*[held.method for _ in range(N)])
        assert {fn() for fn in arrived} == {len(BIG)}
        assert n_bytes < len(BIG) + 2000 * N
        assert len({id(fn.__self__) for fn in arrived}) == N

    def test_what_the_function_of_closures_refers_to_does_once(self):
        def make(i):
            return lambda: (i, len(BIG))  # a global of this module, which travels by value

        arrived, n_bytes = shipped(*map(make, range(N)))
        assert [fn() for fn in arrived] == [(i, len(BIG)) for i in range(N)]
        assert n_bytes < len(BIG) + 400 * N

    def test_a_callable_of_all_nodes_does_once_and_is_kept(self):
        arrived, n_bytes = shipped(*[work] * N)
        assert len({id(fn) for fn in arrived}) == 1
        assert n_bytes < 3000

    def test_small_ones_are_no_parts(self):
        arrived, n_bytes = shipped(*closures_over([1, 2, 3]))
        assert arrived[7]() == (7, 3)
        assert n_bytes < 400 * N

    def test_none_of_it_names_what_only_the_coordinator_has_to_import(self):
        def make(i):
            mine = [i]  # so that what is its own is pickled, with the variable that has no value
            fn = lambda: (mine, later)  # noqa: E731
            if i > 100:
                later = i
            return fn

        callables = [*map(make, range(3)), *[functools.partial(work, i) for i in range(3)]]
        n = len(callables)
        tasks = pickle_tasks([f"n{i}" for i in range(n)], callables, [(Exception,)] * n, [1] * n)
        crossed = pickle.dumps((tasks.own, [[p.data for p in parts if p.number != TABLE] for parts in tasks.parts]))
        assert [name for name in (b"dagron.crossing.parts", b"in_places", b"Form") if name not in crossed] == []
        assert b"dagron.crossing.sharing" not in crossed


class TestWhatATaskSees:
    def test_what_it_changes_is_its_own(self):
        data = list(range(10_000))

        def change():
            data.append(1)
            return len(data)

        def change_too():
            data.append(1)
            return len(data)

        arrived, _ = shipped(change, change_too)
        assert [fn() for fn in arrived] == [10_001, 10_001]
        assert len(data) == 10_000

    def test_one_object_in_two_places_is_one_object(self):
        data = list(range(10_000))
        arrived, _ = shipped(*[lambda i=i, other=data: data is other for i in range(3)])
        assert all(fn() for fn in arrived)

    def test_functions_that_hold_themselves_or_each_other_arrive(self):
        def make(base):
            def factorial(n):
                return base if n == 0 else n * factorial(n - 1)

            return lambda: factorial(5)

        def recursive(base):
            def down(n=3):
                return base if n == 0 else down(n - 1)

            return down

        arrived, _ = shipped(*map(make, range(1, 4)), *map(recursive, range(3)))
        assert [fn() for fn in arrived] == [120, 240, 360, 0, 1, 2]

    def test_names_defaults_and_annotations_are_those_of_the_function(self):
        def make(i):
            def fn(a: int = i, *, b: str = str(i)) -> str:
                """Said."""
                return b * a

            return fn

        for i, fn in enumerate(shipped(*map(make, range(3)))[0]):
            assert fn() == str(i) * i
            assert (fn.__name__, fn.__doc__, fn.__defaults__, fn.__kwdefaults__) == ("fn", "Said.", (i,), {"b": str(i)})
            assert fn.__qualname__ == make(i).__qualname__
            assert fn.__module__ == __name__

    def test_a_variable_without_a_value_yet_stays_without(self):
        def make(i):
            fn = lambda: (i, later)  # noqa: E731
            if i > 100:
                later = i
            return fn

        for fn in shipped(*map(make, range(3)))[0]:
            with pytest.raises(NameError):
                fn()

    def test_attributes_of_a_function_are_kept(self):
        def make(i):
            def fn():
                return fn.tag

            fn.tag = i
            return fn

        assert [fn() for fn in shipped(*map(make, range(3)))[0]] == [0, 1, 2]

    def test_what_can_be_imported_is_imported(self):
        arrived, n_bytes = shipped(*[functools.partial(functools.reduce, max, [i]) for i in range(N)])
        assert all(fn.func is functools.reduce for fn in arrived)
        assert n_bytes < 200 * N

    def test_a_class_and_an_instance_of_it_fit_together(self):
        held = [Held(bytes(5000)) for _ in range(2)]
        arrived, _ = shipped(*[lambda i=i: isinstance(held[i], Held) for i in range(2)])
        assert all(fn() for fn in arrived)


class TestWhatPartsHaveInCommon:
    """Whether a node is alone or one of many, what it holds is one object where it is one in the script."""

    @pytest.mark.parametrize("n", [1, 2, N])
    def test_what_is_inside_of_a_part_and_held_by_itself(self, n):
        inner = [1]
        big = {"inner": inner, "data": BIG}
        arrived, n_bytes = shipped(*[lambda i=i: big["inner"] is inner for i in range(n)])
        assert all(fn() for fn in arrived)
        assert n_bytes < len(BIG) + 1000 * N

    @pytest.mark.parametrize("n", [1, 3])
    def test_what_is_inside_of_a_part_and_of_what_is_the_tasks_own(self, n):
        inner = [1]
        big = {"inner": inner, "data": bytes(5000)}

        def make(i):
            mine = [i, inner]
            return lambda: mine[1] is big["inner"]

        assert all(fn() for fn in shipped(*map(make, range(n)))[0])

    @pytest.mark.parametrize("n", [1, 2, N])
    def test_what_is_inside_of_two_parts(self, n):
        inner = [1]
        first, second = [inner, BIG], [BIG[1:], inner]
        made = [functools.partial(lambda i, a, b: a[0] is b[1], i, first, second) for i in range(n)]
        arrived, n_bytes = shipped(*made)
        assert all(fn() for fn in arrived)
        assert n_bytes < 2 * len(BIG) + 1000 * N

    @pytest.mark.parametrize("n", [1, 3])
    def test_a_variable_that_two_functions_share(self, n):
        def make(i):
            count = 0

            def add():
                nonlocal count
                count += 1

            def task():
                add()
                return count

            return task

        assert [fn() for fn in shipped(*map(make, range(n)))[0]] == [1] * n

    @pytest.mark.parametrize("n", [1, 3])
    def test_a_sentinel_that_is_a_global_variable_and_an_argument(self, n):
        arrived, _ = shipped(*[functools.partial(is_sentinel, i, SENTINEL) for i in range(n)])
        assert all(fn() for fn in arrived)


SENTINEL = object()


def is_sentinel(i, value):
    return value is SENTINEL


class Number(int):
    pass


class Pair(NamedTuple):
    a: int
    b: str


class Colour(enum.IntEnum):
    RED = 1


class Partial(functools.partial):
    pass


class Odd:
    def __eq__(self, other):
        raise ValueError("no truth in it")

    __hash__ = None


PLAIN = [0, -1, 2**80, True, False, None, -0.0, float("inf"), 1j, "", "text", "\ud800", b"", b"bytes", (), (1, ("a",))]
PLAIN += [(1, 2.5, "x", b"y", None, True), tuple(range(100)), "l" * 5000, Number(3), Pair(1, "b"), Colour.RED]
PLAIN += [(Number(3), 1), Ellipsis, int, len, range(3), frozenset({1})]


class TestOwnValues:
    @pytest.mark.parametrize("value", PLAIN, ids=lambda value: f"{value!r}"[:20])
    def test_each_arrives_as_what_it_is(self, value):
        def closure(_):
            return lambda: value

        def default(_):
            return lambda a=value, *, b=value: (a, b)

        made = [functools.partial(work, value, data=value) for _ in range(3)]
        closures, _ = shipped(*map(closure, range(3)))
        defaults, _ = shipped(*map(default, range(3)))
        partials, _ = shipped(*made)
        for fn, other, part in zip(closures, defaults, partials, strict=True):
            for arrived in (fn(), *other(), *part.args, part.keywords["data"]):
                assert repr(arrived) == repr(value)
                assert type(arrived).__name__ == type(value).__name__
            assert part.func(1, b"ab") == (1, 2)

    @pytest.mark.parametrize("make", [lambda i: functools.partial(work, i, BIG), lambda i: lambda: (i, len(BIG))])
    def test_little_crosses_beside_them(self, make):
        arrived, n_bytes = shipped(*map(make, range(1000)))
        assert [fn() for fn in arrived] == [(i, len(BIG)) for i in range(1000)]
        assert n_bytes < len(BIG) + 2000 + 60 * 1000

    def test_one_that_can_change_is_as_it_was_when_the_run_began(self):
        counts = [[i] for i in range(3)]

        def make(i):
            mine = counts[i]
            return lambda: mine

        tasks = pickle_tasks(["a", "b", "c"], list(map(make, range(3))), [(Exception,)] * 3, [1, 1, 1])
        for count in counts:
            count.append(None)
        worker = ReceivedParts(binds=False)
        for own, parts in zip(tasks.own, tasks.parts, strict=True):
            for part in parts:
                worker.add(*part)
            fn, _ = worker.load(own, tuple(part.number for part in parts))
            assert len(fn()) == 1

    def test_one_text_in_two_places_is_one_object_and_so_is_a_tuple(self):
        def make(i):
            text, items = f"text {i}", (i, "x")
            return lambda a=text, b=items: (a is text, b is items)

        assert [fn() for fn in shipped(*map(make, range(3)))[0]] == [(True, True)] * 3

    def test_a_copy_in_two_places_is_one_object_and_of_each_task_another(self):
        held = Held(BIG)

        def make(i):
            return lambda a=held, *, b=held: (i, a, b, held)

        seen = [fn() for fn in shipped(*map(make, range(3)))[0]]
        assert [i for i, *_ in seen] == [0, 1, 2]
        assert all(a is b is c for _, a, b, c in seen)
        assert len({id(a) for _, a, _, _ in seen}) == 3
        part, _ = shipped(*[functools.partial(work, held, held, i) for i in range(3)])
        assert all(fn.args[0] is fn.args[1] for fn in part)
        assert len({id(fn.args[0]) for fn in part}) == 3

    def test_a_long_text_in_a_tuple_crosses_once(self):
        text = "t" * 100_000

        def make(i):
            pair = (i, text)
            return lambda: (pair[0], len(pair[1]), len(text))

        arrived, n_bytes = shipped(*map(make, range(N)))
        assert [fn() for fn in arrived] == [(i, 100_000, 100_000) for i in range(N)]
        assert n_bytes < 100_000 + 400 * N

    def test_no_two_tasks_have_one_form_that_are_put_together_in_different_ways(self):
        def make(i, *values):
            if i % 2:
                return lambda a=values[0], /, b=values[1], *, c=values[2]: (a, b, c, i, values[3])
            return functools.partial(lambda *args, **names: (args, names), *values[:i], **{f"k{i}": values[i]})

        values = [1, BIG, [1, 2], "x", None, BIG.decode("latin-1"), {"data": BIG}]
        made = [make(i, *values[k:], *values[:k]) for i in range(6) for k in range(7) for _ in range(2)]
        for fn, arrived in zip(made, shipped(*made)[0], strict=True):
            assert arrived() == fn()


class TestOneCodeAndDifferentFunctions:
    def test_names_documentation_and_annotations_of_each(self):
        def make(i):
            def fn() -> kinds[i]:
                return i

            fn.__name__ = f"fn{i}"
            fn.__qualname__ = f"made.fn{i}"
            fn.__doc__ = f"No. {i}."
            return fn

        kinds = [int, str, list[int], [Odd()], [Odd()]]
        for change in ("__name__", "__qualname__", "__doc__", "__annotations__"):
            made = [make(i) for i in range(5) for _ in range(3)]
            for fn in made:
                for name in {"__name__", "__qualname__", "__doc__", "__annotations__"} - {change}:
                    setattr(fn, name, getattr(made[0], name) if name != "__annotations__" else {})
            for fn, arrived in zip(made, shipped(*made)[0], strict=True):
                assert arrived() == fn()
                assert repr(getattr(arrived, change)).split(" at 0x")[0] == repr(getattr(fn, change)).split(" at 0x")[0]

    def test_annotations_that_cannot_be_compared_are_kept(self):
        def make(i):
            def fn() -> Odd():
                return i

            return fn

        for i, fn in enumerate(shipped(*map(make, range(3)))[0]):
            assert fn() == i
            assert type(fn.__annotations__["return"]).__name__ == "Odd"

    def test_the_annotations_of_one_are_not_those_of_another(self):
        def make(i):
            def fn(a: int = 1):
                return i

            return fn

        first, second = shipped(*map(make, range(2)))[0]
        first.__annotations__["a"] = str
        assert second.__annotations__ == {"a": int}

    def test_attributes_that_only_some_have(self):
        def make(i):
            def fn():
                return i

            if i % 2:
                fn.tag = i
            return fn

        assert [getattr(fn, "tag", None) for fn in shipped(*map(make, range(6)))[0]] == [None, 1, None, 3, None, 5]

    def test_the_one_that_can_be_imported_is_imported(self):
        copies = [
            types.FunctionType(textwrap.dedent.__code__, textwrap.__dict__, "dedent", textwrap.dedent.__defaults__)
            for _ in range(3)
        ]
        for copy in copies:
            copy.__module__ = "textwrap"
            copy.__qualname__ = "dedent"
        arrived, _ = shipped(copies[0], textwrap.dedent, *copies[1:])
        assert [fn is textwrap.dedent for fn in arrived] == [False, True, False, False]
        assert all(fn("  a") == "a" for fn in arrived)

    def test_defaults_and_variables_that_are_there_and_empty(self):
        def make(i):
            def fn(*, a=1):
                return i, later

            fn.__defaults__ = ()
            fn.__kwdefaults__ = None if i % 2 else {}
            if i > 100:
                later = i
            return fn

        for i, fn in enumerate(shipped(*map(make, range(4)))[0]):
            assert fn.__kwdefaults__ == (None if i % 2 else {})
            assert not fn.__defaults__
            with pytest.raises(NameError):
                fn(a=1)

    def test_one_that_holds_itself_holds_this_very_one(self):
        def make(i):
            def fn():
                return fn, i, len(BIG)

            return fn

        arrived, _ = shipped(*map(make, range(3)))
        assert all(fn()[0] is fn for fn in arrived)
        assert [fn()[1] for fn in arrived] == [0, 1, 2]
        made = list(map(make, range(3)))
        arrived, _ = shipped(*made, *[functools.partial(fn) for fn in made])
        assert all(fn()[0] is fn for fn in arrived[:3])
        assert all(fn.func()[0] is fn.func for fn in arrived[3:])


class TestPartials:
    def test_attributes_and_the_class_of_one_are_kept(self):
        made = [functools.partial(work, i) for i in range(3)] + [Partial(work, i) for i in range(3)]
        made[1].tag = "tag"
        arrived, _ = shipped(*made)
        assert [type(fn).__name__ for fn in arrived] == ["partial"] * 3 + ["Partial"] * 3
        assert [getattr(fn, "tag", None) for fn in arrived] == [None, "tag", *[None] * 4]
        assert [fn() for fn in arrived] == [(0, 0), (1, 0), (2, 0)] * 2

    @pytest.mark.parametrize("fn", [textwrap.dedent, len, os.path.basename, "a-b".join, str.upper, str, Number])
    def test_what_can_be_imported_arrives_as_itself(self, fn):
        arrived, _ = shipped(*[functools.partial(fn, "  1") for _ in range(3)])
        expected = fn("  1")
        assert [part() for part in arrived] == [expected] * 3
        if fn in (textwrap.dedent, len, os.path.basename, str.upper, str):
            assert all(part.func is fn for part in arrived)

    @pytest.mark.parametrize("fn", [textwrap.dedent, len])
    def test_what_can_be_imported_and_many_call_is_named_once(self, fn):
        tasks = pickle_tasks(
            [f"n{i}" for i in range(N)], [functools.partial(fn, f"{i}") for i in range(N)], [(Exception,)] * N, [1] * N
        )
        parts = {part.number: part.data for parts in tasks.parts for part in parts if part.number != TABLE}
        named = [data for data in (*parts.values(), *map(pickle.dumps, tasks.own)) if fn.__name__.encode() in data]
        assert len(named) == 1

    def test_the_object_of_a_builtin_method_is_of_each_task_its_own(self):
        for items in ([], list(range(10_000))):
            n = len(items)
            arrived, _ = shipped(*[functools.partial(items.append, i) for i in range(3)])
            for fn in arrived:
                fn()
            assert [len(fn.func.__self__) for fn in arrived] == [n + 1] * 3

    def test_a_function_that_has_a_default_that_it_changes_is_of_each_task_its_own(self):
        def count(i, seen=[]):  # noqa: B006 - which is the point
            seen.append(i)
            return len(seen)

        assert [fn() for fn in shipped(*[functools.partial(count, i) for i in range(3)])[0]] == [1, 1, 1]


def test_closures_with_exceptions_of_their_own_are_tried_again_for_these(ckpt, log):
    class Busy(Exception):
        pass

    def make(name):
        def task():
            log.note(name)
            if log.count(name) == 1:
                raise Busy
            return name, len(BIG)

        return task

    names = [f"n{i}" for i in range(6)]
    tasks = {name: Task(make(name), retry_on=(Busy,), retries=1, retry_delay=0.0) for name in names}
    result = CheckpointExecutor(DAG.builder().add_nodes(names).build(), ckpt, max_workers=2).execute(tasks)
    assert {name: result[name].result for name in names} == {name: (name, len(BIG)) for name in names}


def test_what_cannot_be_pickled_is_told_with_its_way_also_if_many_hold_it(tmp_path):
    lock = __import__("threading").Lock()
    names = ["a", "b"]
    tasks = {name: (lambda name=name: (name, lock)) for name in names}
    with pytest.raises(TaskNotPicklableError, match=r"'a'.*closure variable 'lock'"):
        CheckpointExecutor(DAG.builder().add_nodes(names).build(), tmp_path / "ckpt").execute(tasks)


@pytest.mark.parametrize("pool", ["process", "inline"])
def test_a_run_of_closures_gives_each_its_own_also_after_a_death(ckpt, log, pool):
    shared = [BIG]

    def make(i):
        def task():
            log.note(str(i))
            if pool == "process" and i == 20 and log.count("20") == 1:
                __import__("os")._exit(1)
            shared.append(i)
            return len(shared), shared[-1], len(shared[0])

        return task

    names = [str(i) for i in range(40)]
    dag = DAG.builder().add_nodes(names).build()
    tasks = {name: make(int(name)) for name in names}
    assert isinstance(tasks["0"], types.FunctionType)
    result = CheckpointExecutor(dag, ckpt, max_workers=2, pool=pool, retries=1, retry_delay=0.0).execute(tasks)
    assert [result[name].result for name in names] == [(2, int(name), len(BIG)) for name in names]


class MadeWhenAsked(Mapping):
    """Tasks that nobody else holds: of one that was let go another could have the id."""

    def __init__(self, names):
        self.names = names

    def __getitem__(self, name):
        i = int(name)
        return Task(lambda: i, priority=i)

    def __iter__(self):
        return iter(self.names)

    def __len__(self):
        return len(self.names)


def test_tasks_that_are_made_when_they_are_asked_for_stay_apart():
    names = [str(i) for i in range(N)]
    plan = plan_run(DAG.builder().add_nodes(names).build(), MadeWhenAsked(names), Options())
    assert [policy.priority for policy in plan.policies] == list(range(N))
    worker = ReceivedParts(binds=False)
    for i, (own, parts) in enumerate(zip(plan.tasks.own, plan.tasks.parts, strict=True)):
        for part in parts:
            worker.add(*part)
        assert worker.load(own, tuple(part.number for part in parts))[0]() == i


def test_equal_exceptions_of_many_tasks_are_one_part():
    names = [str(i) for i in range(N)]
    dag = DAG.builder().add_nodes(names).build()
    # A tuple with something that is looked up is made anew each time.
    tasks = {name: Task(functools.partial(work, name), retry_on=(OSError,)) for name in names}
    plan = plan_run(dag, tasks, Options())
    # Table, form, function, exceptions.
    assert len({part.number for parts in plan.tasks.parts for part in parts}) == 4
