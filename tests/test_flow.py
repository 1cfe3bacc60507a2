"""Flows: the handles of nodes in arguments, names that fan out, options beside arguments, and runs that are killed."""

import collections
import copy
import dataclasses
import datetime
import enum
import functools
import itertools
import operator
import os
import pickle
import random
import re
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import pytest
from places import SRC

import dagron
from dagron import (
    ArgumentsError,
    CheckpointExecutor,
    CheckpointExistsError,
    DuplicateNodeError,
    Flow,
    GraphError,
    HandleError,
    InvalidNameError,
    MissingInputError,
    NodeStatus,
    NotCallableError,
    OptionError,
    Task,
    TaskDefinitionError,
    TaskNotPicklableError,
    UnknownNodeError,
    UnstableNameError,
)
from dagron.crossing.script_modules import TABLE
from dagron.runs.options import Options
from dagron.runs.plan import plan_run
from dagron.tasks.calls import OPTIONS
from dagron.tasks.names import MAX_LABEL_CHARS

# Or every worker would import pytest first.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def give(value=None):
    return value


def pair(*args, **kwargs):
    return args, kwargs


def total(parts):
    return sum(parts)


@pytest.fixture
def flow():
    return Flow()


@pytest.fixture(params=["inline", "process"])
def run(request, ckpt):
    """Run a flow in each kind of pool; the flow's own errors are raised."""

    def run(flow, **options):
        options = {"pool": request.param, "max_workers": 2, "durability": "process", **options}
        return flow.run(ckpt, **options)

    return run


def value_of(flow, node):
    """What a node gives, computed as a run does, but here."""
    tasks, dag, results = flow.tasks, flow.dag, {}
    for name in dag.topological_order():
        task = tasks[name]
        fn = task.fn if isinstance(task, Task) else task
        results[name] = fn(*[results[parent] for parent in dag.parents(name)])
    return results[node.name]


class Point(NamedTuple):
    x: Any
    y: Any = 0


@dataclasses.dataclass
class Settings:
    weights: Any
    depth: int = 3
    also: Any = None

    def __post_init__(self):
        self.n_made = getattr(self, "n_made", 0) + 1


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    weights: Any


class TestArguments:
    def test_a_name_a_callable_and_its_arguments_are_a_node(self, flow, run):
        part = flow.add("count_a", len, "four")
        merged = flow.add("total", operator.add, part, 1)
        result = run(flow)
        assert (result.value(part), result.value(merged), result[merged].result, result["total"].result) == (4, 5, 5, 5)

    def test_dag_and_tasks_are_those_of_the_executor(self, flow, ckpt):
        a = flow.add("a", give, 1)
        b = flow.add("b", give, 2)
        flow.add("c", pair, [b], x=a)
        assert flow.dag == dagron.DAG(["a", "b", "c"], [("b", "c"), ("a", "c")])
        assert list(flow.tasks) == ["a", "b", "c"]
        result = CheckpointExecutor(flow.dag, ckpt, pool="inline").execute(flow.tasks)
        assert result["c"].result == (([2],), {"x": 1})
        assert result.value(a) == 1

    def test_handles_are_found_at_any_depth(self, flow, run):
        a, b = flow.add("a", give, "A"), flow.add("b", give, "B")
        c = flow.add("c", pair, a, [b, (a, {"k": [a, 1], "l": {2}})], Point(b), deep={"x": {"y": ([[b]],)}}, plain=[1])
        expected = (("A", ["B", ("A", {"k": ["A", 1], "l": {2}})], Point("B", 0)), {"deep": {"x": {"y": ([["B"]],)}}})
        expected[1]["plain"] = [1]
        result = run(flow).value(c)
        assert result == expected
        assert type(result[0][2]) is Point
        assert flow.dag.parents("c") == ["a", "b"]

    def test_fields_of_dataclasses_are_looked_into_and_init_is_not_called_again(self, flow, run):
        a = flow.add("a", give, "A")
        settings = Settings([a, 1], also=Frozen(a))
        b = flow.add("b", lambda s: (s.weights, s.depth, s.also.weights, s.n_made), settings)
        assert run(flow).value(b) == (["A", 1], 3, "A", 1)
        assert settings.weights == [a, 1]

    def test_the_same_handle_twice_is_one_edge_and_one_object(self, flow, run):
        a = flow.add("a", give, [1])
        b = flow.add("b", lambda x, y, *, z: (x, x is y, x is z[0]), a, a, z=[a])
        assert run(flow).value(b) == ([1], True, True)
        assert flow.dag.edges == [("a", "b")]

    def test_none_and_everything_false_arrive_as_they_are(self, flow, run):
        nodes = [flow.add(f"n{i}", give, value) for i, value in enumerate([None, 0, "", [], ()])]
        both = flow.add("all", pair, *nodes, nodes)
        values = (None, 0, "", [], ())
        assert run(flow).value(both) == ((*values, list(values)), {})

    def test_parameters_keep_their_defaults_also_if_nodes_have_their_names(self, flow, run):
        def scaled(x, factor=10, *, offset=1):
            return x * factor + offset

        flow.add("factor", give, 1000)
        flow.add("offset", give, 1000)
        node = flow.add("y", scaled, flow.add("x", give, 2))
        assert run(flow).value(node) == 21

    def test_nodes_are_not_taken_by_parameters_of_their_names(self, flow):
        flow.add("x", give, 1)
        with pytest.raises(ArgumentsError, match=r"'y'.*missing a required argument: 'x'"):
            flow.add("y", lambda x: x)

    def test_thousands_of_arguments(self, flow, run):
        nodes = flow.map("n[{}]", give, range(2_000))
        many = flow.add("many", pair, *nodes)
        assert run(flow).value(many) == (tuple(range(2_000)), {})

    def test_a_result_that_looks_like_a_hole_is_left_alone(self, flow):
        from dagron.tasks.holes import Hole

        a = flow.add("a", give, [Hole(0), 3])
        b = flow.add("b", give, [a, Hole(0)])
        assert value_of(flow, b)[0] == [Hole(0), 3]

    def test_lists_that_hold_themselves(self, flow):
        loop: list[Any] = [1]
        loop.append(loop)
        node = flow.add("a", lambda x: x[1][0], loop)
        assert value_of(flow, node) == 1

    def test_a_callable_of_any_kind(self, flow, run):
        class Counter:
            def __init__(self, start):
                self.start = start

            def plus(self, x):
                return self.start + x

            def __call__(self, x):
                return self.start * x

            @classmethod
            def named(cls, x):
                return cls.__name__, x

            @staticmethod
            def alone(x):
                return x

        bound = 7
        one = flow.add("one", give, 1)
        expected = {
            flow.add("lambda", lambda x: x + 1, one): 2,
            flow.add("closure", lambda x: x + bound, one): 8,
            flow.add("method", Counter(5).plus, one): 6,
            flow.add("object", Counter(5), one): 5,
            flow.add("classmethod", Counter.named, one): ("Counter", 1),
            flow.add("staticmethod", Counter.alone, one): 1,
            flow.add("partial", functools.partial(pair, 3, k=4), one, m=one): ((3, 1), {"k": 4, "m": 1}),
            flow.add("class", collections.Counter, [one, one]): collections.Counter({1: 2}),
            flow.add("builtin", max, one, 0): 1,
            flow.add("bound builtin", ", ".join, [flow.add("text", str, one)]): "1",
            flow.add("nothing", give): None,
        }
        result = run(flow)
        assert {node: result.value(node) for node in expected} == expected

    def test_many_nodes_of_one_function_and_of_many(self, flow):
        by_loop = [flow.add(f"n{i}", lambda x, i=i: x + i, i) for i in range(50)]
        methods = [flow.add(f"m{i}", str(i).rjust, 3) for i in range(50)]
        assert [value_of(flow, node) for node in by_loop] == [2 * i for i in range(50)]
        assert value_of(flow, methods[7]) == "  7"

    def test_a_traceback_begins_with_the_users_code(self, flow, run):
        def fail(x):
            raise ValueError(x)

        node = flow.add("bad", fail, [flow.add("a", give, 1)])
        result = run(flow)
        cause = str(result[node].error.__cause__)
        assert "in fail" in cause
        assert re.findall(r'File "(.+)", line \d+, in (\w+)', cause)[0] == (__file__, "fail")
        with pytest.raises(ValueError, match="1"):
            result.value(node)


class TestWhatIsTakenAtAdd:
    def test_containers_as_they_are_then(self, flow, run):
        config, parts, ids = {"lr": 1, "layers": [8]}, [], {1}
        nodes = []
        for i in range(3):
            config["lr"] = i
            config["layers"].append(i)
            parts.append(flow.add(f"p{i}", give, i))
            ids.add(i)
            nodes.append(flow.add(f"n{i}", lambda c, p, s: (c, sum(p), sorted(s)), config, parts, ids))
        parts.clear()
        config.clear()
        result = run(flow)
        assert [result.value(node) for node in nodes] == [
            ({"lr": 0, "layers": [8, 0]}, 0, [0, 1]),
            ({"lr": 1, "layers": [8, 0, 1]}, 1, [0, 1]),
            ({"lr": 2, "layers": [8, 0, 1, 2]}, 3, [0, 1, 2]),
        ]

    def test_what_the_same_container_is_for_many_nodes_is_one_object(self, flow):
        table = {"big": list(range(10_000)), "name": "x"}
        nodes = [flow.add(f"n{i}", lambda t, i: t["big"][i], table, i) for i in range(100)]
        held = {id(flow.tasks[node.name].args[0]) for node in nodes}
        assert len(held) == 1
        plan = plan_run(flow.dag, flow.tasks, Options())
        assert max(len(pickle.dumps(own)) for own in plan.tasks.own) < 1000
        parts = {part.number: part for parts in plan.tasks.parts for part in parts if part.number != TABLE}
        assert sum(len(part.data) for part in parts.values()) < 2 * len(pickle.dumps(table))

    def test_other_objects_are_those_of_the_caller(self, flow):
        array = bytearray(b"abc")
        node = flow.add("a", bytes, array)
        array[:] = b"xyz"
        assert value_of(flow, node) == b"xyz"

    def test_a_call_that_raises_leaves_the_flow_as_it_was(self, flow):
        flow.add("a", give, 1)
        before = flow.dag, dict(flow.tasks)
        foreign = Flow().add("a", give, 1)
        for wrong in (
            lambda: flow.add("b", give, 1, 2),
            lambda: flow.add("a", give, 2),
            lambda: flow.map("{}", give, ["b", "c", "a"]),
            lambda: flow.map("{}", give, ["b", "c"], retries=-1),
            lambda: flow.add("b", give, [foreign]),
            lambda: flow.map("{}", give, ["b", foreign]),
        ):
            with pytest.raises(dagron.DagronError):
                wrong()
        assert (flow.dag, dict(flow.tasks)) == before
        assert len(flow) == 1

    def test_tasks_cannot_be_changed_past_the_flow(self, flow):
        with pytest.raises(TypeError):
            flow.tasks["a"] = give

    def test_dag_is_that_of_the_nodes_so_far(self, flow):
        flow.add("a", give)
        first = flow.dag
        flow.add("b", give)
        assert (first.nodes, flow.dag.nodes) == (("a",), ("a", "b"))
        assert flow.dag is flow.dag


class TestHandles:
    def test_a_handle_is_equal_to_itself_only_and_hashable(self, flow):
        a, b = flow.add("a", give), flow.add("b", give)
        other = Flow().add("a", give)
        assert a == a
        assert len({a, b, other, a}) == 3
        assert a != "a"
        assert (a.name, a.label, repr(a)) == ("a", "a", "Node('a')")

    def test_it_has_no_truth_value(self, flow):
        a = flow.add("a", give)
        with pytest.raises(HandleError, match="the handle of node 'a' has no truth value"):
            _ = 1 if a else 2
        assert a is not None

    def test_copies_are_the_handle_itself(self, flow):
        a = flow.add("a", give, 5)
        config = copy.deepcopy({"x": [a, copy.copy(a)]})
        assert config == {"x": [a, a]}
        assert value_of(flow, flow.add("b", give, config)) == {"x": [5, 5]}

    def test_an_argument_that_holds_itself_stays_as_it_is(self, flow):
        table = {"rows": []}
        table["self"] = table
        table["rows"].append((table["rows"], table))
        found = value_of(flow, flow.add("a", lambda x: x, table))
        assert found["self"] is found
        assert found["rows"][0] == (found["rows"], found)
        assert found["rows"][0][0] is found["rows"]
        assert found["rows"][0][1] is found

    def test_none_stands_in_what_holds_itself(self, flow):
        inside = [flow.add("a", give, 5)]
        inside.append(inside)
        with pytest.raises(HandleError, match="'a' stands in what holds itself, where no result can take its place"):
            flow.add("b", give, inside)

    @pytest.mark.parametrize("how", [pickle.dumps, cloudpickle.dumps])
    def test_neither_it_nor_a_flow_leaves_the_process(self, flow, how):
        with pytest.raises(HandleError, match="'a' cannot be pickled"):
            how([flow.add("a", give)])
        with pytest.raises(TaskDefinitionError, match="a flow does not leave its process"):
            how({"flow": flow})

    def test_one_of_another_flow_is_refused(self, flow):
        foreign = Flow().add("a", give, 1)
        flow.add("a", give, 2)
        for use in (lambda: flow.add("b", give, foreign), lambda: flow.map("{}", give, [[foreign]])):
            with pytest.raises(HandleError, match="'a' is of another flow"):
                use()

    def test_a_result_takes_its_own_handles_and_names_only(self, flow, ckpt):
        a = flow.add("a", give, 1)
        foreign = Flow().add("a", give, 1)
        unknown = flow.add("later", give, 1)
        result = flow.run(ckpt, pool="inline")
        assert a in result
        assert "a" in result
        assert foreign not in result
        assert None not in result
        for use in (result.__getitem__, result.value):
            with pytest.raises(HandleError, match="'a' is of another flow than this result"):
                use(foreign)
            with pytest.raises(UnknownNodeError):
                use("b")
        assert result.value(unknown) == 1
        assert flow.add("b", give) not in result

    @pytest.mark.parametrize(
        ("hide", "where"),
        [
            (lambda a: {a}, "in a set"),
            (lambda a: frozenset([a]), "in a set"),
            (lambda a: [{1, (2, a)}], "in a set"),
            (lambda a: {a: 1}, "as a key"),
            (lambda a: {(1, a): 1}, "as a key"),
            (lambda a: types.SimpleNamespace(x=a), "attribute 'x'"),
            (lambda a: [types.SimpleNamespace(x=a)], "attribute 'x'"),
            (lambda a: lambda: a, "at closure variable 'a'"),
            (lambda a: lambda x=a: x, "at default 0"),
            (lambda a: lambda *, x=a: x, "at default 'x'"),
            (lambda a: functools.partial(give, a), "at argument 0"),
            (lambda a: functools.partial(give, value=a), "at argument 'value'"),
            (lambda a: functools.partial(lambda x: (x, a), 1), "at closure variable 'a'"),
            (lambda a: types.MethodType(pair, types.SimpleNamespace(x=a)), "attribute 'x'"),
            (lambda a: collections.deque([a]), "class 'deque'"),
            (lambda a: collections.OrderedDict(x=a), "class 'OrderedDict'"),
        ],
    )
    def test_it_is_refused_where_no_result_can_take_its_place(self, flow, hide, where):
        hidden = hide(flow.add("a", give, 1))
        with pytest.raises(HandleError, match=f"the handle of node 'a' stands .*{where}"):
            flow.add("b", give, hidden)
        with pytest.raises(HandleError, match=f"the handle of node 'a' stands .*{where}"):
            flow.map("b[{}]", pair, [1], x=hidden)
        if callable(hidden):
            with pytest.raises(HandleError, match=f"the handle of node 'a' stands .*{where}"):
                flow.add("b", hidden)
        assert len(flow) == 1

    def test_deeper_inside_it_is_found_before_anything_runs(self, flow, ckpt):
        a = flow.add("a", give, 1)
        hidden = types.SimpleNamespace(x=types.SimpleNamespace(y=[a]))
        flow.add("b", give, hidden)
        for pool in ("inline", "process"):
            with pytest.raises(
                HandleError, match=r"'a' stands in the task of node 'b' at argument 0 -> .*'x' -> .*'y'"
            ):
                flow.run(ckpt, pool=pool)
        assert CheckpointExecutor(flow.dag, ckpt).checkpoint_info() is None

    def test_a_global_handle_in_a_task_is_found_before_anything_runs(self, ckpt):
        script = """
            import dagron
            flow = dagron.Flow()
            first = flow.add("first", lambda: 1)
            def second():
                return first
            flow.add("second", second)
            try:
                flow.run("ckpt")
            except dagron.HandleError as error:
                print(error)
        """
        assert "'first' stands in the task of node 'second' at global 'first'" in as_script(script, ckpt.parent)

    def test_a_flow_that_a_task_holds_is_told(self, flow, ckpt):
        flow.add("a", lambda: len(flow))
        with pytest.raises(TaskNotPicklableError, match=r"'a'.*closure variable 'flow'.*a flow does not leave"):
            flow.run(ckpt)

    def test_the_name_of_a_handle_can_be_part_of_another(self, flow):
        a = flow.add("a", give)
        assert flow.add(f"{a.name}.sorted", sorted, a).name == "a.sorted"


class Color(enum.Enum):
    RED = 1


class TestNamesOfMaps:
    @pytest.mark.parametrize(
        ("name", "iterables", "names"),
        [
            ("c[{}]", [["a", "b"]], ["c[a]", "c[b]"]),
            ("c[{}]", [range(2)], ["c[0]", "c[1]"]),
            ("c[{}]", [[Path("x/y"), Path("z")]], ["c[x/y]", "c[z]"]),
            ("c[{:03}]", [[5]], ["c[005]"]),
            ("{:.1f}!", [[0.25]], ["0.2!"]),
            ("c[{}]", [[0.1, True, None, 1j]], ["c[0.1]", "c[True]", "c[None]", "c[1j]"]),
            ("c[{}]", [[Color.RED, datetime.date(2020, 1, 2)]], ["c[Color.RED]", "c[2020-01-02]"]),
            ("c[{}]", [[("a", 1), ("b", (2, "x"))]], ["c[a,1]", "c[b,2,x]"]),
            ("c[{}]", [[[1], {"a": 2}, object()]], ["c[0]", "c[1]", "c[2]"]),
            ("c[{}]", [["a", "b"], [1, 2]], ["c[a,1]", "c[b,2]"]),
            ("{}-{:02}", [["a", "b"], [1, 2]], ["a-01", "b-02"]),
            ("{1}/{0}", [["a"], [1]], ["1/a"]),
            ("{0}", [["a"], [1]], ["a"]),
            ("c{index}", [["a", "a"]], ["c0", "c1"]),
            ("{}#{index:02}", [["a"]], ["a#00"]),
            ("{{{}}}", [["a"]], ["{a}"]),
            ("a{{}}{}", [["x"]], ["a{}x"]),
            ("{}", [["", "{}", "{x}", "ü\n\0", "\ud800"]], ["", "{}", "{x}", "ü\n\0", "\ud800"]),
            ("{}", [{"k": 1, "l": 2}], ["k", "l"]),
            ("{}", [(c for c in "xy")], ["x", "y"]),
            ("{}", [[]], []),
            (lambda item: f"<{item['id']}>", [[{"id": 7}]], ["<7>"]),
            (lambda a, b: a * b, [["x"], [3]], ["xxx"]),
        ],
    )
    def test_they_show_the_items(self, flow, name, iterables, names):
        nodes = flow.map(name, pair, *iterables)
        assert [node.name for node in nodes] == names == list(flow.dag.nodes)

    def test_a_stage_is_named_like_the_one_before(self, flow):
        counted = flow.map("count[{:02}-{}]", pair, [1, 2], ["x", "y"])
        sorted_ = flow.map("sorted[{}]", give, counted)
        both = flow.map("both[{}]", pair, counted, sorted_)
        assert [node.name for node in sorted_] == ["sorted[01-x]", "sorted[02-y]"]
        assert both[0].name == "both[01-x,01-x]"
        assert flow.map("again[{}]", give, [flow.add("alone", give)])[0].name == "again[alone]"

    def test_a_long_text_is_cut_and_told_apart_by_its_digest(self, flow):
        texts = ["x" * 10_000 + end for end in "ab"]
        nodes = flow.map("parse[{}]", give, texts)
        again = Flow().map("parse[{}]", give, texts)
        assert nodes[0].name != nodes[1].name
        assert [node.name for node in nodes] == [node.name for node in again]
        assert all(len(node.label) == MAX_LABEL_CHARS for node in nodes)
        just = flow.map("{}", give, ["y" * MAX_LABEL_CHARS])
        assert just[0].name == "y" * MAX_LABEL_CHARS

    def test_items_that_give_one_name_are_told(self, flow):
        with pytest.raises(DuplicateNodeError, match=r"'c\[a\]' was added twice") as caught:
            flow.map("c[{}]", give, ["a", "b", "a"])
        assert caught.value.__notes__ == [
            "item 2 of map has the same name as item 0; {index} in the name would tell them apart"
        ]
        with pytest.raises(DuplicateNodeError):
            flow.map("c[{}]", give, [1, "1"])
        flow.add("c[a]", give)
        with pytest.raises(DuplicateNodeError) as caught:
            flow.map("c[{}]", give, ["b", "a"])
        assert "a node that was added before" in caught.value.__notes__[0]
        assert len(flow) == 1

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("count", r"would be that of every node; put \{\} where"),
            ("{path}", "nothing is called 'path'"),
            ("{1}", "nothing is called '1'"),
            ("{0.x}", "nothing is called"),
            ("{}{}", "there are 1 item"),
            ("{}{0}", "there are 1 item"),
            ("{", "no format string"),
            ("{:{}}", "no format string: a field within a field"),
        ],
    )
    def test_a_name_that_cannot_be_filled_is_told(self, flow, name, said):
        with pytest.raises(GraphError, match=said):
            flow.map(name, give, ["a"])

    def test_a_specification_that_does_not_fit_an_item_is_told(self, flow):
        with pytest.raises(ArgumentsError, match="item 1 cannot be put into the name"):
            flow.map("{:03d}", give, [1, "x"])

    def test_names_that_show_addresses_are_refused(self, flow):
        for name in (
            f"use {give}",
            repr(object()),
            f"{functools.partial(give)}",
            f"{TestHandles().test_copies_are_the_handle_itself}",
        ):
            with pytest.raises(UnstableNameError, match="would not be the same in the next run"):
                flow.add(name, give)
        with pytest.raises(UnstableNameError):
            flow.map(str, give, [object()])
        flow.add("dump at 0x7fff1234.bin", give)

    def test_a_set_has_no_positions(self, flow):
        assert {node.name for node in flow.map("{}", give, {"a", "b"})} == {"a", "b"}
        for name, items in (("{}", {Frozen(1)}), ("x{index}", {"c"})):
            with pytest.raises(UnstableNameError, match="a set has no order"):
                flow.map(name, give, items)

    def test_a_name_is_text_and_of_a_plain_type(self, flow):
        class Text(str):
            def __format__(self, spec):
                return "other"

        assert type(flow.add(Text("a"), give).name) is str
        for wrong in (3, None, b"x", give):
            with pytest.raises(InvalidNameError):
                flow.add(wrong, give)
        with pytest.raises(InvalidNameError):
            flow.map(lambda x: 3, give, [1])

    def test_what_is_no_iterable_of_items_is_told(self, flow):
        a = flow.add("a", give, [1, 2])
        with pytest.raises(HandleError, match="'a' is one result, and how many"):
            flow.map("{}", give, a)
        for iterables, said in (
            ([], "needs an iterable"),
            (["abc"], "is text"),
            ([b"abc"], "is text"),
            ([3], "is none, but a int"),
            ([[1], [1, 2]], "different lengths: 1, 2"),
            ([[1], itertools.repeat(1)], "has no end"),
            ([itertools.count()], "has no end"),
        ):
            with pytest.raises(GraphError, match=said):
                flow.map("{}", pair, *iterables)
        assert len(flow.map("{}", pair, [1, 2], itertools.repeat(0, 2))) == 2

    def test_names_of_any_kind_run_and_are_restored(self, flow, run):
        names = ["", "a/b", "..", "ä", "A", "a", "\n", "_meta", "x" * 300, "\ud800", "con", "🦆", "{}", "a\0b"]
        nodes = [flow.add(name, give, i) for i, name in enumerate(names)]
        last = flow.add("last", total, nodes)
        assert run(flow).value(last) == sum(range(len(names)))
        result = run(flow, resume=True)
        assert (result.restored, result.value(last)) == (len(names) + 1, sum(range(len(names))))


class TestMap:
    def test_items_side_by_side_with_what_is_the_same_for_all(self, flow, run):
        base = flow.add("base", give, 100)
        nodes = flow.map("{}", lambda x, y, *, base, scale=1: x * y * scale + base, [1, 2], (3, 4), base=base, scale=10)
        result = run(flow)
        assert [result.value(node) for node in nodes] == [130, 180]
        assert flow.dag.parents(nodes[0].name) == ["base"]

    def test_handles_and_nested_handles_as_items(self, flow, run):
        first = flow.map("a[{}]", give, range(4))
        second = flow.map("b[{}]", lambda x, y: x + sum(y), first, [first[:i] for i in range(4)])
        summed = flow.add("sum", total, second)
        assert run(flow).value(summed) == 0 + (1 + 0) + (2 + 1) + (3 + 3)
        assert flow.dag.parents(second[2].name) == ["a[2]", "a[0]", "a[1]"]

    def test_a_generator_that_raises_raises_its_own_error(self, flow):
        def items():
            yield 1
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            flow.map("{}", give, items())
        assert len(flow) == 0

    def test_arguments_are_checked_also_if_there_are_no_items(self, flow):
        with pytest.raises(ArgumentsError, match="missing a required argument: 'b'"):
            flow.map("{}", lambda a, b: 1, [])


class TestOptions:
    def test_keywords_named_like_options_are_options(self, flow):
        flow.add("a", give, 1, retries=2, retry_delay=0.5, timeout=3, priority=4, memory_limit="1 GB")
        flow.add("b", give, value=1)
        flow.map("c[{}]", give, [1], retry_on=(OSError,))
        a, b, c = flow.tasks["a"], flow.tasks["b"], flow.tasks["c[1]"]
        assert (a.retries, a.retry_delay, a.timeout, a.priority, a.memory_limit) == (2, 0.5, 3, 4, "1 GB")
        assert not isinstance(b, Task)
        assert c.retry_on == (OSError,)

    def test_every_option_of_a_task_is_one(self, flow):
        assert {field.name for field in dataclasses.fields(Task)} == OPTIONS | {"fn"}

    def test_wrong_values_are_told_at_once(self, flow):
        for options in ({"retries": -1}, {"timeout": 0}, {"memory_limit": "much"}, {"priority": 1.5}):
            with pytest.raises(OptionError, match=next(iter(options))):
                flow.add("a", give, 1, **options)
        assert len(flow) == 0

    @pytest.mark.parametrize(
        "fn",
        [
            lambda url, timeout=3: (url, timeout),
            lambda url, *, timeout=3: (url, timeout),
            lambda url, **kwargs: (url, kwargs.get("timeout", 3)),
        ],
    )
    def test_a_parameter_of_the_same_name_needs_a_task(self, flow, fn):
        with pytest.raises(ArgumentsError, match=r"'timeout' is an option of the node, and may be a parameter.*Task\("):
            flow.add("a", fn, "url", timeout=5)
        flow.add("options elsewhere", Task(fn, timeout=60), "url", timeout=5)
        task = flow.tasks["options elsewhere"]
        assert (task.timeout, task.fn()) == (60, ("url", 5))

    def test_one_that_is_given_by_position_is_no_question(self, flow):
        node = flow.add("a", lambda url, timeout=3: timeout, "url", 5, priority=1)
        assert value_of(flow, node) == 5
        positional = flow.add("b", lambda timeout, /: timeout, 5, timeout=60)
        assert (value_of(flow, positional), flow.tasks["b"].timeout) == (5, 60)

    def test_a_task_takes_handles_too_and_keeps_its_options(self, flow, run):
        one = flow.add("one", give, 1)
        node = flow.add("a", Task(pair, retries=3), [one], retries=one)
        nodes = flow.map("m[{}]", Task(pair, priority=2), [one], priority=5)
        result = run(flow)
        assert result.value(node) == (([1],), {"retries": 1})
        assert result.value(nodes[0]) == ((1,), {"priority": 5})
        assert (flow.tasks["a"].retries, flow.tasks["m[one]"].priority) == (3, 2)

    def test_an_option_beside_a_task_is_told(self, flow):
        with pytest.raises(ArgumentsError, match=r"unexpected keyword argument 'retries'; beside a Task, which has"):
            flow.add("a", Task(give), 1, retries=1)

    def test_callables_may_have_parameters_named_like_ours(self, flow):
        node = flow.add("a", lambda name, fn, self: (name, fn, self), name=1, fn=2, self=3)
        assert value_of(flow, node) == (1, 2, 3)
        nodes = flow.map("{}", lambda x, *, name, iterables: (x, name, iterables), [0], name=1, iterables=2)
        assert value_of(flow, nodes[0]) == (0, 1, 2)

    def test_a_node_is_tried_again_as_its_options_say(self, flow, run, log):
        def flaky():
            log.note("flaky")
            if log.count("flaky") < 3:
                raise OSError("not yet")
            return "done"

        node = flow.add("flaky", flaky, retries=2, retry_delay=0.0)
        result = run(flow)
        assert (result.value(node), result[node].attempts) == ("done", 3)


class TestArgumentsThatDoNotFit:
    @pytest.mark.parametrize(
        ("args", "kwargs", "said"),
        [
            ((), {}, r"work\(path, language='en', \*, deep=False\): missing a required argument: 'path'"),
            ((1, 2, 3), {}, "too many positional arguments"),
            ((1,), {"path": 2}, "multiple values for argument 'path'"),
            ((1,), {"retires": 2}, "unexpected keyword argument 'retires'; did you mean the option 'retries'"),
            ((1,), {"colour": 2}, "unexpected keyword argument 'colour'$"),
        ],
    )
    def test_it_is_told_at_add(self, flow, args, kwargs, said):
        def work(path, language="en", *, deep=False):
            return path

        with pytest.raises(ArgumentsError, match=f"the arguments of node 'a' do not fit its callable: .*{said}"):
            flow.add("a", work, *args, **kwargs)
        assert isinstance(ArgumentsError("a", "b"), TypeError)

    def test_a_call_that_fits_says_nothing_about_one_that_does_not(self, flow):
        flow.add("a", give, 1)
        flow.add("b", give, value=1)
        for call in (lambda: flow.add("c", give, 1, value=1), lambda: flow.add("c", give, other=1)):
            with pytest.raises(ArgumentsError):
                call()

    def test_a_signature_with_a_default_that_cannot_be_shown(self, flow):
        class Bad:
            def __repr__(self):
                raise RuntimeError("no")

        def work(x=Bad(), y=1):  # noqa: B008
            return y

        with pytest.raises(ArgumentsError, match=r"work\(\.\.\.\): too many"):
            flow.add("a", work, 1, 2, 3)

    def test_what_is_no_callable_is_told(self, flow):
        for wrong in (3, None, flow.add("x", give), Task(3)):
            with pytest.raises(NotCallableError, match="'a' is not callable"):
                flow.add("a", wrong)

    def test_a_callable_without_a_signature_is_believed(self, flow):
        assert value_of(flow, flow.add("a", max, 1, 2, retries=1)) == 2


class TestRun:
    def test_options_reach_the_executor(self, flow, ckpt):
        flow.add("a", lambda: 1 / 0)
        result = flow.run(ckpt, max_workers=1, enable_tracing=True, retries=1, retry_delay=0.0, durability="process")
        assert (result["a"].attempts, result.trace is not None) == (2, True)
        with pytest.raises(TypeError, match="worker"):
            flow.run(ckpt, worker=1)
        with pytest.raises(OptionError):
            flow.run(ckpt, durability="fast")

    def test_without_a_word_a_checkpoint_is_neither_taken_nor_given_up(self, flow, ckpt):
        a = flow.add("a", lambda: random.random())
        first = flow.run(ckpt, pool="inline").value(a)
        with pytest.raises(CheckpointExistsError, match=r"1 completed node.*resume=True.*resume=False"):
            flow.run(ckpt, pool="inline")
        assert flow.run(ckpt, pool="inline", resume=True).value(a) == first
        assert flow.run(ckpt, pool="inline", resume=False).value(a) != first

    def test_one_in_which_nothing_has_completed_is_nothing_to_keep(self, flow, ckpt):
        flow.add("a", lambda: 1 / 0)
        assert flow.run(ckpt, pool="inline").failed == 1
        assert flow.run(ckpt, pool="inline").failed == 1

    def test_a_value_that_there_is_not_raises_why(self, flow, run):
        a = flow.add("a", operator.truediv, 1, 0)
        b = flow.add("b", give, [a])
        result = run(flow)
        with pytest.raises(ZeroDivisionError):
            result.value(a)
        with pytest.raises(dagron.NodeSkippedError, match="'b' was skipped because 'a'"):
            result.value("b")
        assert (result[b].status, result[b].result) == (NodeStatus.SKIPPED, None)

    def test_a_run_can_be_ended(self, flow, ckpt):
        wait = flow.add("wait", time.sleep, 600)
        result = flow.run(ckpt, run_timeout=0.5, kill_grace_seconds=0.0)
        with pytest.raises(dagron.NodeCancelledError, match=r"'wait' was cancelled: the run took longer than 0\.5 s"):
            result.value(wait)

    def test_an_empty_flow_runs(self, flow, ckpt):
        assert flow.run(ckpt).ok

    def test_what_was_added_later_runs_in_a_resume(self, flow, run, log):
        def noted(name, *parents):
            log.note(name)
            return name

        a = flow.add("a", noted, "a")
        run(flow)
        b = flow.add("b", noted, "b", a)
        result = run(flow, resume=True)
        assert (result.value(b), result.restored, log.counts()) == ("b", 1, {"a": 1, "b": 1})

    def test_the_spec_interface_still_says_what_is_missing(self, ckpt):
        with pytest.raises(MissingInputError):
            CheckpointExecutor(dagron.DAG(["a"]), ckpt).execute({"a": lambda x: x})


NAMES = {
    "ExecutionCallbacks": dagron.ExecutionCallbacks,
    "RunObserver": dagron.RunObserver,
    "Durability": str,
}


def as_script(text, directory, *, stdin=False, **options):
    """Run a script, from a file or from standard input; return what it prints."""
    text = textwrap.dedent(text)
    (directory / "script.py").write_text(text)
    command = [sys.executable, "-W", "error", "-" if stdin else "script.py"]
    env = {**os.environ, "PYTHONPATH": SRC}
    done = subprocess.run(
        command, input=text if stdin else None, cwd=directory, env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


SCRIPT = """
import dagron
from dataclasses import dataclass

@dataclass
class Count:
    word: str
    n: int

def count(word, *, text):
    return Count(word, text.count(word))

def most(counts):
    return max(counts, key=lambda c: c.n)

flow = dagron.Flow()
text = flow.add("text", lambda: "a b a c a b")
counts = flow.map("count[{}]", count, ["a", "b", "c"], text=text)
best = flow.add("best", most, counts, retries=1)
result = flow.run("ckpt", resume=True, max_workers=2)
print(result.value(best), isinstance(result.value(best), Count), result.restored)
"""


class TestWhereFlowsAreWritten:
    @pytest.mark.parametrize("stdin", [False, True])
    def test_in_a_script_without_a_guard_and_from_standard_input(self, tmp_path, stdin):
        assert as_script(SCRIPT, tmp_path, stdin=stdin) == "Count(word='a', n=3) True 0\n"
        assert as_script(SCRIPT, tmp_path, stdin=stdin) == "Count(word='a', n=3) True 5\n"

    def test_a_killed_flow_goes_on_and_repeats_nothing(self, tmp_path, log):
        script = f"""
            import os, sys, time
            import dagron

            def note(name):
                fd = os.open(os.path.join({log.directory!r}, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.write(fd, b"%d\\n" % os.getpid())
                os.close(fd)

            def work(i, *, before):
                note(f"w{{i}}")
                while i == 7 and not os.path.exists("gate"):
                    time.sleep(0.01)
                return i + before

            def merge(parts, *, base):
                note("merge")
                return sum(parts) + base

            flow = dagron.Flow()
            one = flow.add("one", lambda: 1)
            parts = flow.map("work[{{}}]", work, range(10), before=one)
            total = flow.add("total", merge, parts, base=one)
            print(flow.run("ckpt", resume=True, max_workers=1).value(total))
        """
        (tmp_path / "job.py").write_text(textwrap.dedent(script))
        env = {**os.environ, "PYTHONPATH": SRC}
        process = subprocess.Popen([sys.executable, "job.py"], cwd=tmp_path, env=env, stdout=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 30
            while not log.count("w7"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            # What stands in one batch with it is recorded with it; the first ones are sent one by one.
            info = CheckpointExecutor(dagron.DAG([]), tmp_path / "ckpt").checkpoint_info()
        finally:
            process.kill()
            process.wait(30)
            process.stdout.close()
        completed = [name for name in info.completed_nodes if name.startswith("work")]
        before = log.counts()
        (tmp_path / "gate").touch()
        assert as_script((tmp_path / "job.py").read_text(), tmp_path) == f"{sum(range(10)) + 10 + 1}\n"
        after = log.counts()
        assert all(after[f"w{name[5:-1]}"] == before[f"w{name[5:-1]}"] == 1 for name in completed)
        assert completed
        assert after["w7"] == 2

    @pytest.mark.parametrize(
        ("target", "code", "shown", "directory"),
        [
            ("job.py", 0, "3\n", "job"),
            ("job:nightly", 0, "5\n", "job.nightly"),
            ("job.py:other", 2, "is of type int", None),
            pytest.param("job", 0, "3\n", "job", marks=pytest.mark.campaign),
            pytest.param("job.py:nightly", 0, "5\n", "job.nightly", marks=pytest.mark.campaign),
            ("job:absent", 2, "is not defined", None),
        ],
    )
    def test_the_command_line_runs_it(self, tmp_path, target, code, shown, directory):
        (tmp_path / "job.py").write_text(
            "import dagron\n"
            "tasks = [1, 2]\n"
            "flow = dagron.Flow()\n"
            "flow.add('x', sum, tasks)\n"
            "nightly = dagron.Flow()\n"
            "nightly.add('x', sum, [nightly.add('y', int, '5')])\n"
            "other = 3\n"
        )
        env = {**os.environ, "PYTHONPATH": SRC}
        command = [sys.executable, "-m", "dagron", "run", target, "--show", "x", "--durability", "process"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        if directory is None:
            assert shown in done.stderr
        else:
            assert done.stdout == shown
            assert (tmp_path / "checkpoints" / directory / "_meta.json").exists()


class TestSize:
    N = 50_000

    def test_a_hundred_thousand_nodes_are_built_in_no_time_and_small_when_pickled(self):
        began = time.process_time()
        flow = Flow()
        parts = flow.map("part[{}]", give, range(self.N), retries=1)
        stage = flow.map("stage[{}]", give, parts)
        merged = flow.add("merged", total, stage)
        assert flow.dag.edge_count == 2 * self.N
        # A machine of two busy processors takes 3 s for all of it.
        assert time.process_time() - began < 15
        assert len(flow) == 2 * self.N + 1
        assert flow.dag.parents(merged.name)[-1] == stage[-1].name

    def test_what_nodes_have_in_common_is_pickled_once(self, flow):
        table = {i: str(i) for i in range(10_000)}
        nodes = flow.map("n[{}]", lambda i, *, table, also: table[i], range(1_000), table=table, also=[1])
        stage = flow.map("s[{}]", lambda x, *, table: x, nodes, table=table)
        flow.add("all", total, stage)
        plan = plan_run(flow.dag, flow.tasks, Options())
        assert sum(len(pickle.dumps(own)) for own in plan.tasks.own[:-1]) < 300 * 2_000
        assert len(plan.tasks.own[-1]) < 20 * 1_000
        parts = {part.number: len(part.data) for parts in plan.tasks.parts for part in parts if part.number != TABLE}
        assert sum(parts.values()) < 2 * len(pickle.dumps(table))
        # They are expected to take the time of what they call.
        assert len(set(plan.kinds)) == 3

    @pytest.mark.campaign
    @pytest.mark.timeout(600)
    def test_a_hundred_thousand_nodes_run(self, ckpt):
        flow = Flow()
        merged = flow.add("sum", total, flow.map("n[{}]", give, range(2 * self.N)))
        assert flow.run(ckpt, durability="process", max_workers=2).value(merged) == sum(range(2 * self.N))
