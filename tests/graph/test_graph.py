from __future__ import annotations

import copy
import enum
import functools
import pickle
import random
import tracemalloc
from array import array
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagron.errors import (
    CycleError,
    DuplicateNodeError,
    GraphError,
    InvalidNameError,
    NotCallableError,
    UnknownNodeError,
)
from dagron.graph.dag import DAG
from dagron.tasks.options import Task

DIAMOND = DAG(["a", "b", "c", "d"], [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])


# --- a model that is too simple to be wrong --------------------------------------------------------------------------


class Model:
    """Nodes and edges as plain lists; every answer is found by looking at all of them."""

    def __init__(self, nodes, edges):
        self.nodes = nodes
        self.edges = list(dict.fromkeys(edges))

    def parents(self, name):
        return [parent for parent, child in self.edges if child == name]

    def children(self, name):
        return [child for parent, child in self.edges if parent == name]

    def reached(self, name, step):
        found = set()
        new = set(step(name))
        while new:
            found |= new
            new = {further for one in new for further in step(one)} - found
        return found

    def order(self):
        order = []
        while len(order) < len(self.nodes):
            order.append(next(n for n in self.nodes if n not in order and set(self.parents(n)) <= set(order)))
        return order

    def meaning(self):
        return {name: frozenset(self.parents(name)) for name in self.nodes}


@st.composite
def models(draw, max_nodes=9):
    """A random acyclic graph whose nodes and edges come in random order, some edges more than once."""
    names = draw(st.lists(st.text(max_size=3), unique=True, max_size=max_nodes))
    pairs = [(p, c) for i, p in enumerate(names) for c in names[i + 1 :]]
    edges = draw(st.lists(st.sampled_from(pairs), max_size=20)) if pairs else []
    return Model(draw(st.permutations(names)), edges)


def built(model):
    return DAG(model.nodes, model.edges)


without_deadline = settings(deadline=None)


# --- building --------------------------------------------------------------------------------------------------------


def test_every_builder_method_chains():
    dag = DAG.builder().add_node("a").add_nodes(["b", "c"]).add_edge("a", "b").add_edges([("b", "c")]).build()
    assert dag.nodes == ("a", "b", "c")
    assert dag.edges == [("a", "b"), ("b", "c")]


def test_an_edge_creates_the_nodes_that_are_missing_parent_first():
    assert DAG.builder().add_edge("b", "a").add_edge("a", "c").build().nodes == ("b", "a", "c")


def test_a_node_that_an_edge_created_may_be_declared_once_and_keeps_its_position():
    builder = DAG.builder().add_edge("a", "b").add_node("b").add_node("a")
    assert builder.build().nodes == ("a", "b")
    with pytest.raises(DuplicateNodeError):
        builder.add_node("a")


@pytest.mark.parametrize("first", ["add_node", "add_nodes"])
@pytest.mark.parametrize("edge_between", [False, True])
def test_a_node_that_was_declared_cannot_be_declared_again(first, edge_between):
    builder = DAG.builder()
    if first == "add_node":
        builder.add_node("a")
    else:
        builder.add_nodes(["a"])
    if edge_between:
        builder.add_edge("a", "b")
    with pytest.raises(DuplicateNodeError) as caught:
        builder.add_node("a")
    assert caught.value.name == "a"


def test_the_builder_goes_on_after_build_and_the_built_dag_stays_as_it_was():
    builder = DAG.builder().add_edge("a", "b")
    before = builder.build()
    digest = before.structure_digest()
    after = builder.add_edges([("b", "c"), ("a", "c"), ("a", "b")]).add_node("d").build()
    assert (before.nodes, before.edges) == (("a", "b"), [("a", "b")])
    assert before.structure_digest() == digest == DAG(["a", "b"], [("a", "b")]).structure_digest()
    assert "c" not in before
    assert after.nodes == ("a", "b", "c", "d")
    assert after.edges == [("a", "b"), ("b", "c"), ("a", "c")]


def test_the_builder_goes_on_after_a_cycle_was_found():
    builder = DAG.builder().add_edges([("a", "b"), ("b", "a")])
    for _ in range(2):
        with pytest.raises(CycleError):
            builder.build()


def test_an_iterator_of_edges_keeps_what_came_before_the_pair_that_was_rejected():
    builder = DAG.builder()
    with pytest.raises(GraphError):
        builder.add_edges(iter([("a", "b"), ("c",), ("d", "e")]))
    assert builder.build().nodes == ("a", "b")


def test_a_rejected_edge_leaves_no_half_of_it():
    builder = DAG.builder()
    with pytest.raises(InvalidNameError):
        builder.add_edge("a", 1)
    assert builder.build().nodes == ()


def test_a_repeated_edge_counts_once_where_it_came_first():
    dag = DAG(["d", "a", "b", "c", "x"], [("b", "d"), ("a", "d"), ("a", "x"), ("b", "d"), ("c", "d"), ("a", "d")])
    assert dag.parents("d") == ["b", "a", "c"]
    assert dag.edges == [("b", "d"), ("a", "d"), ("a", "x"), ("c", "d")]
    assert dag.edge_count == 4
    assert list(dag.indegrees()) == [3, 0, 0, 0, 1]


def test_the_constructor_and_the_builder_build_the_same():
    assert DAG.builder().add_nodes(DIAMOND.nodes).add_edges(DIAMOND.edges).build() == DIAMOND


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [1, None, b"a", ("a",), ["unhashable"], 1.5])
def test_a_name_that_is_no_string_is_rejected_wherever_it_stands(name):
    for attempt in (
        lambda: DAG.builder().add_node(name),
        lambda: DAG.builder().add_nodes(["a", name]),
        lambda: DAG.builder().add_edge(name, "a"),
        lambda: DAG.builder().add_edge("a", name),
        lambda: DAG([name]),
        lambda: DAG(["a"], [("a", name)]),
        lambda: DIAMOND.parents(name),
        lambda: DIAMOND.index_of(name),
    ):
        with pytest.raises(InvalidNameError, match=type(name).__name__):
            attempt()


def test_no_unhashable_thing_is_in_a_dag():
    assert ["a"] not in DIAMOND
    assert 1 not in DIAMOND
    assert "a" in DIAMOND
    assert "e" not in DIAMOND


@pytest.mark.parametrize("name", ["", " ", "..", "a/b", "\0", "é", "🙂", "\udcff", "_meta", "x" * 10_000])
def test_any_string_is_a_name(name):
    dag = DAG.builder().add_edge(name, "child").build()
    assert dag.parents("child") == [name]
    assert name in dag
    assert len(dag.structure_digest()) == 32
    assert pickle.loads(pickle.dumps(dag)) == dag


def test_a_name_of_a_subclass_of_str_becomes_a_plain_string():
    class Stage(enum.StrEnum):
        LOAD = "load"

    dag = DAG.builder().add_edge(Stage.LOAD, "parse").add_node(Stage.LOAD).build()
    assert dag.nodes == ("load", "parse")
    assert type(dag.nodes[0]) is str
    assert dag.children(Stage.LOAD) == ["parse"]


@pytest.mark.parametrize(
    "pair", [("a",), ("a", "b", "c"), (), "ab", b"ab", {1, 2}, {"a": 1, "b": 2}, None, 7], ids=repr
)
def test_an_edge_that_is_no_pair_is_rejected_with_its_text(pair):
    for attempt in (lambda: DAG.builder().add_edges([pair]), lambda: DAG(["a", "b"], [pair])):
        with pytest.raises(GraphError, match="must be a pair"):
            attempt()


def test_a_pair_may_be_a_list():
    assert DAG(["a", "b"], [["a", "b"]]).edges == [("a", "b")]


def test_a_single_string_is_not_taken_for_a_list_of_names():
    for attempt in (lambda: DAG("load"), lambda: DAG.builder().add_nodes("load")):
        with pytest.raises(GraphError, match="'load' is one name"):
            attempt()


def test_the_constructor_rejects_an_edge_to_an_unknown_node_and_says_which():
    with pytest.raises(UnknownNodeError) as caught:
        DAG(["download", "parse"], [("download", "parse"), ("dwnload", "parse")])
    assert caught.value.name == "dwnload"
    assert "'dwnload' -> 'parse'" in caught.value.context
    assert "did you mean 'download'?" in caught.value.context


def test_the_constructor_rejects_a_repeated_node():
    with pytest.raises(DuplicateNodeError, match="'a'"):
        DAG(["a", "b", "a"])


@pytest.mark.parametrize("query", ["parents", "children", "ancestors", "descendants", "index_of"])
def test_a_query_for_an_unknown_node_says_so_and_hints_at_a_close_name(query):
    dag = DAG(["download", "parse"])
    with pytest.raises(UnknownNodeError, match="did you mean 'parse'") as caught:
        getattr(dag, query)("prase")
    assert caught.value.name == "prase"
    with pytest.raises(UnknownNodeError) as caught:
        getattr(dag, query)("zzz")
    assert "did you mean" not in str(caught.value)


# --- cycles ----------------------------------------------------------------------------------------------------------


def assert_is_cycle(path, edges):
    assert path[0] == path[-1]
    assert len(path) == len(set(path)) + 1 >= 2
    assert set(pairwise(path)) <= set(edges)


def test_a_cycle_is_reported_with_its_path_in_edge_direction():
    edges = [("before", "a"), ("a", "b"), ("b", "c"), ("c", "a"), ("c", "after"), ("after", "end")]
    with pytest.raises(CycleError) as caught:
        DAG.builder().add_edges(edges).build()
    assert_is_cycle(caught.value.path, edges)
    assert set(caught.value.path) == {"a", "b", "c"}


def test_an_edge_from_a_node_to_itself_is_a_cycle():
    with pytest.raises(CycleError) as caught:
        DAG(["a", "b"], [("a", "b"), ("b", "b")])
    assert caught.value.path == ["b", "b"]


@without_deadline
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=12))
def test_any_graph_either_has_an_order_or_a_reported_cycle(edges):
    try:
        dag = DAG(list("abcdef"), edges)
    except CycleError as error:
        assert_is_cycle(error.path, edges)
    else:
        position = {name: i for i, name in enumerate(dag.topological_order())}
        assert len(position) == 6
        assert all(position[parent] < position[child] for parent, child in edges)


# --- queries ---------------------------------------------------------------------------------------------------------


@without_deadline
@given(models())
def test_every_query_agrees_with_the_model(model):
    dag = built(model)
    assert dag.nodes == tuple(model.nodes) == tuple(dag)
    assert dag.edges == model.edges
    assert (dag.node_count, dag.edge_count, len(dag)) == (len(model.nodes), len(model.edges), len(model.nodes))
    assert dag.topological_order() == model.order()
    assert dag.roots() == [name for name in model.nodes if not model.parents(name)]
    assert dag.leaves() == [name for name in model.nodes if not model.children(name)]
    for name in model.nodes:
        assert dag.parents(name) == model.parents(name)
        assert dag.children(name) == model.children(name)
        assert dag.ancestors(name) == model.reached(name, model.parents)
        assert dag.descendants(name) == model.reached(name, model.children)


@without_deadline
@given(models(), st.data())
def test_every_query_by_index_agrees_with_the_one_by_name(model, data):
    dag = built(model)
    assert [dag.name_of(i) for i in dag.order] == dag.topological_order()
    assert list(dag.indegrees()) == [len(dag.parents(name)) for name in dag]
    for i, name in enumerate(dag.nodes):
        assert dag.index_of(name) == i
        assert dag.name_of(i) == name
        assert [dag.name_of(p) for p in dag.parent_indices(i)] == dag.parents(name)
        assert [dag.name_of(c) for c in dag.child_indices(i)] == dag.children(name)
    seeds = data.draw(st.lists(st.sampled_from(range(len(dag))), max_size=3)) if len(dag) else []
    found = [dag.name_of(i) for i in dag.descendant_indices(iter(seeds))]
    assert len(found) == len(set(found))
    assert set(found) == set().union(*(dag.descendants(dag.name_of(seed)) for seed in seeds))


def test_a_seed_is_a_descendant_only_if_another_seed_reaches_it():
    index = DIAMOND.index_of
    assert DIAMOND.descendant_indices([index("b"), index("c")]) == [index("d")]
    assert set(DIAMOND.descendant_indices([index("a"), index("b")])) == {index("b"), index("c"), index("d")}
    assert DIAMOND.descendant_indices([index("d")]) == []


def test_indegrees_are_the_callers_to_change():
    degrees = DIAMOND.indegrees()
    assert degrees == array("I", [0, 1, 1, 2])
    degrees[0] = 7
    assert DIAMOND.indegrees()[0] == 0


def test_among_ready_nodes_the_first_added_comes_first():
    dag = DAG(["late", "x", "y", "root"], [("root", "late"), ("x", "y")])
    assert dag.topological_order() == ["x", "y", "root", "late"]


def test_the_empty_dag_answers_everything():
    dag = DAG([])
    assert dag == DAG.builder().build()
    assert (dag.nodes, dag.edges, dag.roots(), dag.leaves(), dag.topological_order()) == ((), [], [], [], [])
    assert len(dag.structure_digest()) == 32
    assert repr(dag) == "DAG(0 nodes, 0 edges)"


def test_the_repr_counts_nodes_and_edges():
    assert repr(DIAMOND) == "DAG(4 nodes, 4 edges)"


# --- identity --------------------------------------------------------------------------------------------------------


def test_a_dag_cannot_be_changed():
    for attribute in ("nodes", "edges", "order", "anything"):
        with pytest.raises(AttributeError):
            setattr(DIAMOND, attribute, ())
    DIAMOND.edges.clear()
    DIAMOND.parents("d").clear()
    DIAMOND.ancestors("d").clear()
    assert DIAMOND.edge_count == len(DIAMOND.edges) == 4
    assert DIAMOND.parents("d") == ["b", "c"]


def test_dags_are_equal_if_their_nodes_and_each_nodes_parents_stand_in_the_same_order():
    nodes, edges = list(DIAMOND.nodes), DIAMOND.edges
    same = DAG(nodes, [edges[2], edges[0], edges[3], edges[1]])
    assert same == DIAMOND
    assert hash(same) == hash(DIAMOND)
    for other in (
        DAG(nodes, [*edges[:2], edges[3], edges[2]]),
        DAG(nodes, edges[:3]),
        DAG(nodes[::-1], edges),
        DAG([*nodes, "e"], edges),
        "a graph",
    ):
        assert other != DIAMOND


@without_deadline
@given(models(), st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_a_dag_survives_pickling_with_the_order_of_its_edges(model, protocol):
    dag = built(model)
    for same in (pickle.loads(pickle.dumps(dag, protocol)), copy.deepcopy(dag)):
        assert same == dag
        assert hash(same) == hash(dag)
        assert same.edges == dag.edges
        assert same.topological_order() == dag.topological_order()
        assert same.structure_digest() == dag.structure_digest()
        assert all(same.index_of(name) == i for i, name in enumerate(dag))


# --- digests ---------------------------------------------------------------------------------------------------------


@without_deadline
@given(models(), st.data())
def test_digests_do_not_depend_on_insertion_order(model, data):
    dag = built(model)
    other = DAG(data.draw(st.permutations(model.nodes)), data.draw(st.permutations(model.edges)))
    assert other.structure_digest() == dag.structure_digest()
    for name in dag:
        theirs = other.parents_fingerprint(other.index_of(name))
        assert theirs == dag.parents_fingerprint(dag.index_of(name))


@without_deadline
@given(models(max_nodes=4), models(max_nodes=4))
def test_digests_are_equal_only_if_the_names_and_parent_sets_are(one, other):
    digests = built(one).structure_digest(), built(other).structure_digest()
    assert (digests[0] == digests[1]) == (one.meaning() == other.meaning())


@without_deadline
@given(models(), st.data())
def test_any_change_of_a_name_or_an_edge_changes_the_digests_concerned(model, data):
    dag = built(model)
    changed = {built(Model([*model.nodes, "a new name"], model.edges)).structure_digest()}
    if model.edges:
        dropped = data.draw(st.sampled_from(model.edges))
        other = DAG(model.nodes, [edge for edge in model.edges if edge != dropped])
        changed.add(other.structure_digest())
        for i, name in enumerate(model.nodes):
            same = other.parents_fingerprint(i) == dag.parents_fingerprint(i)
            assert same == (name != dropped[1])
    if model.nodes:
        old = data.draw(st.sampled_from(model.nodes))
        renamed = {name: name for name in model.nodes} | {old: "a new name"}
        other = DAG(renamed.values(), [(renamed[p], renamed[c]) for p, c in model.edges])
        changed.add(other.structure_digest())
        for i, name in enumerate(model.nodes):
            same = other.parents_fingerprint(i) == dag.parents_fingerprint(i)
            assert same == (old not in model.parents(name))
    assert dag.structure_digest() not in changed


def test_names_that_read_alike_when_joined_have_different_digests():
    assert DAG(["ab", "c"]).structure_digest() != DAG(["a", "bc"]).structure_digest()
    one = DAG(["ab", "c", "x"], [("ab", "x"), ("c", "x")])
    other = DAG(["a", "bc", "x"], [("a", "x"), ("bc", "x")])
    assert one.parents_fingerprint(2) != other.parents_fingerprint(2)


def test_the_fingerprint_of_no_parents_is_constant():
    assert {DIAMOND.parents_fingerprint(0), DAG(["z"]).parents_fingerprint(0)} == {DIAMOND.parents_fingerprint(0)}
    assert len(DIAMOND.parents_fingerprint(0)) == 16


def test_the_digests_are_those_of_the_format():
    # They stand in checkpoints: a change of these bytes makes every checkpoint look like one of another graph.
    assert DIAMOND.structure_digest().hex() == "f40748968260ca4bf97206970ecd593f30b17ef32a8807d179b6dbbb23c6af1a"
    assert DIAMOND.parents_fingerprint(3).hex() == "9a84c7b0ecd2d813e52b9955ede00a20"
    assert DIAMOND.parents_fingerprint(0).hex() == "af1349b9f5f9a1a6a0404dea36dcc949"


# --- from tasks ------------------------------------------------------------------------------------------------------


def test_a_parameter_named_like_another_node_makes_it_a_parent_in_parameter_order():
    dag = DAG.from_tasks(
        {
            "join": lambda users, orders, *, rates, limit=3: None,
            "orders": lambda: None,
            "users": lambda: None,
            "rates": lambda users=None: None,
        }
    )
    assert dag.nodes == ("join", "orders", "users", "rates")
    assert dag.parents("join") == ["users", "orders", "rates"]
    assert dag.parents("rates") == ["users"]
    assert dag.roots() == ["orders", "users"]


def test_star_parameters_infer_nothing():
    dag = DAG.from_tasks({"args": lambda: None, "kwargs": lambda: None, "all": lambda *args, **kwargs: None})
    assert dag.edges == []


def test_every_kind_of_callable_is_inspected():
    class Method:
        def bound(self, a):
            return a

        def __call__(self, a, self_=None):
            return a

    class Made:
        def __init__(self, a):
            self.a = a

    def positional(a, /):
        return a

    tasks = {
        "a": lambda: None,
        "self": lambda: None,
        "bound": Method().bound,
        "instance": Method(),
        "class": Made,
        "partial": functools.partial(lambda b, a: None, 1),
        "positional": positional,
        "wrapped": Task(positional, retries=2),
    }
    dag = DAG.from_tasks(tasks)
    assert dag.children("a") == ["bound", "instance", "class", "partial", "positional", "wrapped"]
    assert dag.children("self") == []


def test_a_callable_without_a_signature_has_no_parents():
    def hidden(a):
        return a

    hidden.__signature__ = "none that inspect accepts"
    assert DAG.from_tasks({"a": lambda: None, "b": hidden}).edges == []


def test_a_parameter_named_like_its_own_node_is_a_cycle():
    with pytest.raises(CycleError) as caught:
        DAG.from_tasks({"a": lambda: None, "b": lambda a, b: None})
    assert caught.value.path == ["b", "b"]


def test_a_parameter_named_like_its_own_node_keeps_its_default():
    assert DAG.from_tasks({"a": lambda: None, "b": lambda a, b=1: None}).edges == [("a", "b")]


def test_tasks_that_need_each_other_are_a_cycle():
    with pytest.raises(CycleError):
        DAG.from_tasks({"a": lambda b: None, "b": lambda a: None})


def test_a_task_that_cannot_be_called_is_rejected_with_its_node():
    for task in (3, Task(3)):
        with pytest.raises(NotCallableError) as caught:
            DAG.from_tasks({"a": task})
        assert (caught.value.node, caught.value.type_name) == ("a", "int")


def test_a_task_with_an_attribute_fn_is_no_wrapper():
    def task(a):
        return a

    task.fn = lambda: None
    assert DAG.from_tasks({"a": lambda: None, "b": task}).edges == [("a", "b")]


# --- size ------------------------------------------------------------------------------------------------------------

LARGE = 100_000


@pytest.fixture(scope="module")
def large():
    """Names, and three edges a node between random neighbours, parents first in insertion order."""
    draw = random.Random(7)
    names = [f"node-{i:06d}" for i in range(LARGE)]
    edges = [(names[draw.randrange(child)], names[child]) for child in range(1, LARGE) for _ in range(3)]
    return names, edges


def test_memory_is_linear_and_small(large):
    names, edges = large[0][: LARGE // 4], large[1][: 3 * (LARGE // 4 - 1)]  # under tracemalloc all is slow
    tracemalloc.start()
    try:
        builder = DAG.builder().add_nodes(names).add_edges(edges)
        tracemalloc.reset_peak()
        dag = builder.build()
        _, peak_bytes = tracemalloc.get_traced_memory()
        del builder
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    n_items = dag.node_count + dag.edge_count
    # One Python object an edge would be 56 bytes at least; a set of edges over 100.
    assert kept_bytes / n_items < 50
    assert peak_bytes / n_items < 100


def test_a_large_graph_has_an_order_whatever_its_insertion_order(large):
    names, edges = large
    dag = DAG(names, edges)
    assert dag.topological_order() == names
    shuffled = DAG(random.Random(8).sample(names, LARGE), edges)
    position = {name: i for i, name in enumerate(shuffled.topological_order())}
    assert len(position) == LARGE
    assert all(position[parent] < position[child] for parent, child in edges)
    assert shuffled.structure_digest() == dag.structure_digest()


@pytest.mark.parametrize("backwards", [False, True])
def test_a_long_chain_meets_no_recursion_limit(backwards):
    names = [str(i) for i in range(LARGE)]
    dag = DAG(names[::-1] if backwards else names, pairwise(names))
    assert dag.topological_order() == names
    assert len(dag.ancestors(names[-1])) == len(dag.descendants(names[0])) == LARGE - 1
    assert pickle.loads(pickle.dumps(dag)) == dag


def test_a_long_cycle_is_reported_whole():
    names = [str(i) for i in range(LARGE)]
    edges = list(zip(names, [*names[1:], names[0]], strict=True))
    with pytest.raises(CycleError) as caught:
        DAG(names, edges)
    assert len(caught.value.path) == LARGE + 1
    assert_is_cycle(caught.value.path, edges)
