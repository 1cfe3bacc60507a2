"""Which parents a callable takes and how, for every way to declare parameters; and the options of a task."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import operator
import pickle
import types
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagron import CheckpointExecutor, Flow
from dagron.errors import MissingInputError, NotRunByCallError, OptionError, TaskDefinitionError
from dagron.graph.dag import DAG
from dagron.runs.options import Options
from dagron.runs.plan import plan_run
from dagron.tasks.binding import NO_INPUTS, Binding, bind, parameters_of, signature_key
from dagron.tasks.options import Task


def bound(fn, *parents, nodes=()):
    return bind("node", fn, parents, {*parents, *nodes, "node"}.__contains__)


def called(fn, *parents):
    """Call `fn` as a worker would, where the result of each parent is its name in capitals."""
    binding = bound(fn, *parents)
    return binding.call(fn, [parents[position].upper() for position in binding.consumed])


class TestByName:
    def test_a_task_without_parameters_takes_nothing(self):
        assert bound(lambda: 1, "a", "b") is NO_INPUTS
        assert called(lambda: 1, "a") == 1

    def test_a_parameter_takes_the_parent_of_its_name_whatever_the_order(self):
        assert called(lambda b, a: (a, b), "a", "b") == ("A", "B")

    def test_parents_that_no_parameter_names_are_not_taken(self):
        binding = bound(lambda b: b, "a", "b", "c")
        assert binding.consumed == (1,)

    def test_a_default_is_kept_if_no_parent_has_its_name(self):
        assert called(lambda a, factor=10: (a, factor), "a") == ("A", 10)

    def test_a_parent_comes_before_a_default(self):
        assert called(lambda a=1, b=2: (a, b), "b") == (1, "B")

    def test_keyword_only_parameters_take_parents(self):
        def task(*, a, b=2, c=3):
            return a, b, c

        assert called(task, "c", "a") == ("A", 2, "C")

    def test_positional_only_parameters_take_parents(self):
        def task(a, b, /):
            return a, b

        assert called(task, "b", "a") == ("A", "B")

    def test_a_positional_only_default_before_a_taken_one_is_passed(self):
        def task(a=1, b=2, c=3, /):
            return a, b, c

        assert called(task, "b") == (1, "B", 3)

    def test_positional_only_defaults_are_kept_beside_keywords(self):
        def task(a, b=2, /, c=3, *, d=4):
            return a, b, c, d

        assert called(task, "d", "a") == ("A", 2, 3, "D")

    def test_every_kind_at_once(self):
        def task(a, b=2, /, c=3, d=4, *rest, e, f=6, **others):
            return a, b, c, d, rest, e, f, others

        assert called(task, "e", "x", "d", "a") == ("A", 2, 3, "D", ("X",), "E", 6, {})

    def test_any_string_is_a_name_for_kwargs(self):
        assert called(lambda **parents: parents, "a b", "", "é") == {"a b": "A B", "": "", "é": "É"}

    def test_a_parent_named_like_var_args_is_not_taken_by_name(self):
        assert called(lambda *args: args, "args", "b") == ("ARGS", "B")
        assert called(lambda **kwargs: kwargs, "kwargs") == {"kwargs": "KWARGS"}


class TestTheRest:
    def test_args_take_the_rest_in_the_order_of_the_edges(self):
        assert called(lambda *shards: shards, "z", "y", "x") == ("Z", "Y", "X")
        assert called(lambda y, *rest: (y, rest), "z", "y", "x") == ("Y", ("Z", "X"))

    def test_kwargs_take_the_rest_by_name_in_the_order_of_the_edges(self):
        taken = called(lambda y, **rest: (y, list(rest.items())), "z", "y", "x")
        assert taken == ("Y", [("z", "Z"), ("x", "X")])

    def test_with_both_args_take_the_rest(self):
        assert called(lambda *args, **kwargs: (args, kwargs), "a", "b") == (("A", "B"), {})

    def test_a_default_before_args_is_kept(self):
        def task(a, factor=10, *rest):
            return a, factor, rest

        assert called(task, "x", "a", "y") == ("A", 10, ("X", "Y"))
        assert called(task, "a") == ("A", 10, ())

    def test_a_default_before_args_is_the_very_object(self):
        default = object()

        def task(given=default, *rest):
            return given

        assert called(task, "x") is default

    def test_a_parent_may_come_before_and_keyword_only_ones_after_args(self):
        def task(first, *rest, last, factor=1):
            return first, rest, last, factor

        assert called(task, "last", "b", "first", "a") == ("FIRST", ("B", "A"), "LAST", 1)

    def test_without_parents_args_and_kwargs_are_empty(self):
        assert called(lambda *args, **kwargs: (args, kwargs)) == ((), {})

    def test_a_thousand_parents(self):
        names = [f"shard {i}" for i in range(1000)]
        assert called(lambda *shards: len(shards), *names) == 1000


class Greeter:
    greeting = "hello"

    def method(self, a, b=2):
        return self.greeting, a, b

    @classmethod
    def of_class(cls, a):
        return cls.greeting, a

    @staticmethod
    def static(a):
        return a

    def __call__(self, a, *rest):
        return self.greeting, a, rest


@dataclasses.dataclass
class Point:
    x: object
    y: object = 0


def decorated(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return "decorated", fn(*args, **kwargs)

    return wrapper


class TestCallables:
    def test_bound_methods_take_all_but_self(self):
        assert called(Greeter().method, "a") == ("hello", "A", 2)

    def test_class_and_static_methods(self):
        assert called(Greeter.of_class, "a") == ("hello", "A")
        assert called(Greeter.static, "a") == "A"

    def test_objects_with_call(self):
        assert called(Greeter(), "b", "a") == ("hello", "A", ("B",))

    def test_classes_take_what_their_init_takes(self):
        assert called(Point, "y", "x") == Point("X", "Y")
        assert called(Point, "x") == Point("X", 0)

    def test_partial_arguments_are_no_inputs(self):
        def task(bound_before, a, b=2):
            return bound_before, a, b

        assert called(functools.partial(task, 1), "a") == (1, "A", 2)
        assert called(functools.partial(task, 1), "a", "bound_before") == (1, "A", 2)

    def test_what_a_partial_gives_by_keyword_is_a_default(self):
        def task(a, b):
            return a, b

        assert called(functools.partial(task, b=7), "a") == ("A", 7)
        assert called(functools.partial(task, b=7), "a", "b") == ("A", "B")
        assert called(functools.partial(task, a=7), "b") == (7, "B")

    def test_a_partial_in_front_of_args(self):
        assert called(functools.partial(lambda first, *rest: (first, rest), 1), "a", "b") == (1, ("A", "B"))

    def test_partials_of_partials_and_of_methods(self):
        task = functools.partial(functools.partial(Greeter().method), b="set")
        assert called(task, "a") == ("hello", "A", "set")

    def test_a_decorated_function_takes_what_the_wrapped_one_takes(self):
        assert called(decorated(lambda a, b=2: (a, b)), "a") == ("decorated", ("A", 2))
        assert called(decorated(decorated(lambda b, *rest: (b, rest))), "a", "b") == (
            "decorated",
            ("decorated", ("B", ("A",))),
        )

    def test_a_cached_function(self):
        assert called(functools.lru_cache(lambda a: a), "a") == "A"

    def test_a_declared_signature_counts(self):
        def task(**kwargs):
            return kwargs

        task.__signature__ = inspect.signature(lambda a, b=2: None)
        assert called(task, "a", "c") == {"a": "A"}

    def test_a_mock_takes_everything(self):
        task = mock.Mock()
        called(task, "a", "b")
        task.assert_called_once_with("A", "B")

    def test_attributes_on_a_function_change_nothing(self):
        def task(a):
            return a

        task.version = 2
        assert called(task, "a") == "A"

    @pytest.mark.parametrize("fn", [dict, type("Odd", (), {"__call__": operator.itemgetter(0), "__signature__": 3})()])
    def test_a_callable_whose_signature_cannot_be_known_takes_nothing(self, fn):
        with pytest.raises((ValueError, TypeError)):
            inspect.signature(fn)
        assert bound(fn, "a") == NO_INPUTS

    def test_built_ins_with_a_signature_are_bound_by_it(self):
        assert called(len, "obj") == 3
        with pytest.raises(MissingInputError, match="'obj'"):
            bound(len, "a")


class TestMissingInputs:
    def message(self, fn, *parents, nodes=()):
        with pytest.raises(MissingInputError) as caught:
            bound(fn, *parents, nodes=nodes)
        assert isinstance(caught.value, TaskDefinitionError)
        assert isinstance(caught.value, ValueError)
        return str(caught.value)

    def test_without_parents(self):
        assert self.message(lambda size: size) == (
            "the task of node 'node' requires the parameter 'size', but it has no parents; "
            "name the parameter after a parent, or give it a default"
        )

    def test_with_other_parents(self):
        assert self.message(lambda size: size, "a", "b") == (
            "the task of node 'node' requires the parameter 'size', but its parents are 'a', 'b'; "
            "name the parameter after a parent, or give it a default"
        )

    def test_if_a_node_has_that_name_the_edge_is_advised(self):
        assert self.message(lambda size: size, "a", nodes=["size"]) == (
            "the task of node 'node' requires the parameter 'size', but its parents are 'a'; "
            "add the edge 'size' -> 'node'"
        )

    def test_of_many_parents_a_few_are_listed(self):
        text = self.message(lambda size: size, *[f"p{i}" for i in range(1000)])
        assert "'p7' and 992 more; " in text
        assert "'p8'" not in text

    def test_the_first_one_is_named(self):
        assert "'b'" in self.message(lambda a, b, c: 1, "a")

    def test_positional_only_and_keyword_only_ones_are_required_too(self):
        def positional(a, /):
            """Takes a."""

        def keyword(*, a):
            """Takes a."""

        assert "'a'" in self.message(positional)
        assert "'a'" in self.message(keyword)

    def test_args_do_not_provide_a_required_parameter(self):
        assert "'a'" in self.message(lambda a, *rest: 1, "b")


# --- any signature at all ---------------------------------------------------------------------------------------------

NAMES = ["a", "b", "c", "d", "e"]
KINDS = [
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.KEYWORD_ONLY,
    inspect.Parameter.VAR_KEYWORD,
]


@st.composite
def functions(draw):
    """The source of a function with any parameters, which returns all that it was given."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(0, 5))]
    kinds = sorted(draw(st.lists(st.sampled_from(KINDS[:2] + KINDS[3:4]), min_size=len(names), max_size=len(names))))
    parts, defaults, positional = [], {}, True
    spread = draw(st.booleans())
    for i, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        if kind == KINDS[3] and positional:
            positional = False
            parts.append("*rest" if spread else "*")
        needs_default = kind != KINDS[3] and any(other in defaults for other in names[:i])
        if needs_default or draw(st.booleans()):
            defaults[name] = f"default of {name}"
            parts.append(f"{name}={defaults[name]!r}")
        else:
            parts.append(name)
        if kind == KINDS[0] and (i + 1 == len(kinds) or kinds[i + 1] != KINDS[0]):
            parts.append("/")
    if positional and spread:
        parts.append("*rest")
    others = draw(st.booleans())
    if others:
        parts.append("**others")
    values = [*names, *(["rest"] if spread else []), *(["others"] if others else [])]
    source = f"def fn({', '.join(parts)}): return {{{', '.join(f'{name!r}: {name}' for name in values)}}}"
    namespace = {}
    exec(source, namespace)
    return namespace["fn"], names, defaults, spread, others


@given(functions(), st.lists(st.sampled_from([*NAMES, "x", "y", "rest"]), unique=True))
@settings(deadline=None)
def test_every_signature_is_given_what_the_rules_say(function, parents):
    fn, names, defaults, spread, others = function
    missing = [name for name in names if name not in parents and name not in defaults]
    if missing:
        with pytest.raises(MissingInputError) as caught:
            bound(fn, *parents)
        assert caught.value.parameter == missing[0]
        return
    rest = [parent for parent in parents if parent not in names]
    expected = {name: name.upper() if name in parents else defaults[name] for name in names}
    if spread:
        expected["rest"] = tuple(parent.upper() for parent in rest)
    if others:
        expected["others"] = {} if spread else {parent: parent.upper() for parent in rest}
    assert called(fn, *parents) == expected
    taken = {parent for parent in parents if parent in names or spread or others}
    binding = bound(fn, *parents)
    assert sorted(parents[position] for position in binding.consumed) == sorted(taken)
    assert pickle.loads(pickle.dumps(binding)) == binding


def test_bindings_of_equal_signatures_are_equal_and_hashable():
    first, second = bound(lambda a, *rest: 1, "a", "b"), bound(lambda a, *others: 2, "a", "c")
    assert first == second
    assert hash(first) == hash(second)
    assert Binding() == NO_INPUTS


# --- options ----------------------------------------------------------------------------------------------------------


def nothing():
    return None


WRONG = {
    "retries": [-1, 1.0, True, False, "1", math.nan],
    "retry_delay": [-0.1, -1, True, False, "1", math.nan, -math.inf, 1j],
    "timeout": [0, 0.0, -1, True, "1", math.nan, -math.inf],
    "retry_on": [ValueError, [ValueError], (ValueError, "x"), (ValueError(),), (int,), "ValueError", None.__class__],
    "priority": [1.5, True, False, "high", None],
}


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "value"), [(option, value) for option, values in WRONG.items() for value in values], ids=repr
    )
    def test_a_wrong_value_is_an_error_that_names_the_option_and_the_value(self, option, value):
        with pytest.raises(OptionError) as caught:
            Task(nothing, **{option: value})
        assert caught.value.option == option
        assert str(caught.value).startswith(f"{option}={value!r} is not valid: expected ")

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("retries", 0),
            ("retries", 10**9),
            ("retry_delay", 0),
            ("retry_delay", 0.5),
            ("timeout", 1),
            ("timeout", 1e-9),
            ("timeout", math.inf),
            ("retry_on", ()),
            ("retry_on", (OSError, ValueError)),
            ("retry_on", (BaseException,)),
            ("priority", -5),
            ("priority", 10**30),
        ],
    )
    def test_a_right_value_is_kept(self, option, value):
        assert getattr(Task(nothing, **{option: value}), option) == value

    def test_an_endless_delay_is_an_error(self):
        # The run would never end and never say why.
        with pytest.raises(OptionError) as caught:
            Task(nothing, retry_delay=math.inf)
        assert caught.value.option == "retry_delay"

    def test_without_options_the_executor_decides(self):
        task = Task(nothing)
        assert (task.retries, task.retry_delay, task.retry_on, task.timeout, task.priority) == (
            None,
            None,
            None,
            None,
            0,
        )

    def test_a_task_cannot_be_changed(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            Task(nothing).retries = 3

    def test_a_task_pickles_and_compares_by_value(self):
        task = Task(nothing, retries=3, retry_on=(OSError,), timeout=2.5)
        assert pickle.loads(pickle.dumps(task)) == task

    @pytest.mark.parametrize("option", ["retries", "retry_delay", "timeout", "retry_on", "kill_grace_seconds"])
    @pytest.mark.parametrize("value", [-1, True, "x"], ids=repr)
    def test_the_executor_names_the_option_too(self, option, value, tmp_path):
        with pytest.raises(OptionError) as caught:
            CheckpointExecutor(DAG(["a"]), tmp_path, **{option: value})
        assert caught.value.option == option


class TestSignatureKey:
    def test_equal_keys_mean_equal_parameters_and_other_defaults_do_not_matter(self):
        def make(default):
            return lambda a, b=default, *, c=default: (a, b, c)

        def other(a, b, *, c=1):
            return a, b, c

        assert signature_key(make(1)) == signature_key(make(2)) is not None
        assert signature_key(make(1)) != signature_key(other)
        same = types.FunctionType(other.__code__, globals(), "same", (5,))
        same.__kwdefaults__ = {"c": 1}
        assert signature_key(same) != signature_key(other)

    def test_partials_differ_by_what_they_fill_in(self):
        def fn(a, b, c=1):
            return a, b, c

        keys = [functools.partial(fn), functools.partial(fn, 1), functools.partial(fn, b=1), functools.partial(fn, c=1)]
        assert len({signature_key(part) for part in keys}) == 4
        assert signature_key(functools.partial(fn, 1)) == signature_key(functools.partial(fn, 2))
        assert list(parameters_of(functools.partial(fn, 1))) == ["b", "c"]

    def test_what_only_the_signature_can_tell_has_none(self):
        @functools.wraps(len)
        def wrapped(*args):
            return args

        assert signature_key(wrapped) is None
        assert signature_key(functools.partial(wrapped)) is None
        assert signature_key(len) is None
        assert signature_key(type("C", (), {"__call__": lambda self: 1})()) is None


class TestTasksThatACallDoesNotRun:
    @pytest.mark.parametrize(
        ("source", "told"),
        [
            ("async def task(): pass", "an `async def`: a call of it runs nothing, it returns a coroutine"),
            ("def task(): yield 1", "a generator function: a call of it runs nothing, it returns a generator"),
            ("async def task(): yield 1", "an `async def`: a call of it runs nothing, it returns an asynchronous gen"),
        ],
    )
    def test_they_are_refused_when_they_are_added_and_when_a_run_is_planned(self, source, told):
        namespace = {}
        exec(source, namespace)
        task = namespace["task"]
        for fn in (task, functools.partial(task), Task(task)):
            with pytest.raises(NotRunByCallError, match="plain function that returns") as caught:
                Flow().add("a", fn)
            assert told in str(caught.value)
            with pytest.raises(NotRunByCallError):
                plan_run(DAG(["a"]), {"a": fn}, Options())
