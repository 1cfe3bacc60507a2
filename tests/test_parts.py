"""What tasks have in common crosses once, and no task can tell.

Leans on `pickle_tasks` and `SharedParts`; each test of a share fails if `_find_parts` finds nothing.
"""

import functools
import sys
import types

import cloudpickle
import pytest

from dagron import DAG, CheckpointExecutor, TaskNotPicklableError
from dagron.parts import SharedParts, pickle_tasks

# Or every worker would import pytest first.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

BIG = bytes(range(256)) * 4096
N = 50


def shipped(*callables):
    """Pickle tasks as a run does and load them as a worker does; return what arrives and the bytes that crossed."""
    pairs = {id(fn): (fn, (Exception,)) for fn in callables}
    tasks = [(f"n{i}", pairs[id(fn)]) for i, fn in enumerate(callables)]
    counts = {}
    for _, pair in tasks:
        counts[id(pair)] = counts.get(id(pair), 0) + 1
    pickled = pickle_tasks(tasks, counts)
    worker, n_bytes, known = SharedParts(), 0, set()
    arrived = []
    for task in pickled:
        for part in task.parts:
            if part.number not in known:
                known.add(part.number)
                worker.add(*part)
                n_bytes += len(part.data)
        n_bytes += len(task.data)
        fn, retry_on = worker.load(task.data, tuple(part.number for part in task.parts))
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
