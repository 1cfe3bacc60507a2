"""Items by keyword: the names that they make, what has items and what is the same for all, and handles back by item."""

import itertools
import sys
from decimal import Decimal
from pathlib import Path

import cloudpickle
import pytest

from dagron import (
    ArgumentsError,
    DuplicateNodeError,
    Flow,
    GraphError,
    HandleError,
    Nodes,
    Task,
    UnknownNodeError,
    UnstableNameError,
)

# Or every worker would import pytest first.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def fit(C, gamma, fold=0, *, X=()):
    return C, gamma, fold, X


def give(**kwargs):
    return kwargs


@pytest.fixture
def flow():
    return Flow()


@pytest.fixture
def run(ckpt):
    def run(flow, **options):
        return flow.run(ckpt, **{"pool": "inline", "durability": "process", "resume": True, **options})

    return run


class TestProduct:
    def test_each_combination_is_a_node_and_the_last_keyword_is_innermost(self, flow, run):
        nodes = flow.product(
            "fit[C={C},gamma={gamma},{fold}]", fit, C=[0.1, 1], gamma=[1e-5, 100.0], fold=range(2), X=[7]
        )
        assert [node.name for node in nodes] == [
            "fit[C=0.1,gamma=1e-05,0]",
            "fit[C=0.1,gamma=1e-05,1]",
            "fit[C=0.1,gamma=100.0,0]",
            "fit[C=0.1,gamma=100.0,1]",
            "fit[C=1,gamma=1e-05,0]",
            "fit[C=1,gamma=1e-05,1]",
            "fit[C=1,gamma=100.0,0]",
            "fit[C=1,gamma=100.0,1]",
        ]
        expected = [(C, gamma, fold, [7]) for C, gamma, fold in itertools.product([0.1, 1], [1e-5, 100.0], range(2))]
        assert run(flow).values(nodes) == expected

    def test_in_processes_and_in_a_resume_it_is_the_same(self, flow, run):
        X = flow.add("X", list, "ab")
        nodes = flow.product("fit[{C},{gamma}]", fit, C=[1, 2], gamma=["x"], X=X, retries=1)
        result = run(flow, pool="process", max_workers=1)
        assert result.values(nodes) == [(1, "x", 0, ["a", "b"]), (2, "x", 0, ["a", "b"])]
        assert flow.tasks["fit[1,x]"].retries == 1
        assert run(flow).restored == 3

    def test_what_the_name_does_not_mention_is_the_same_for_all(self, flow, run):
        nodes = flow.product("fit[{C}]", give, C=[1, 2], gamma=[1, 2, 3], rate=range(2), text="abc")
        assert run(flow).values(nodes)[0] == {"C": 1, "gamma": [1, 2, 3], "rate": range(2), "text": "abc"}
        assert len(nodes) == 2

    @pytest.mark.parametrize(
        ("name", "items", "names"),
        [
            ("f[{a:.1f}]", {"a": [0.25, 1]}, ["f[0.2]", "f[1.0]"]),
            ("f[{a!r}]", {"a": ["x", 1]}, ["f['x']", "f[1]"]),
            ("f{index:02}-{a}", {"a": ["", "", ""]}, ["f00-", "f01-", "f02-"]),
            ("{a}{{a}}{a}", {"a": [1]}, ["1{a}1"]),
            ("{b}/{a}", {"a": [1, 2], "b": ["x"]}, ["x/1", "x/2"]),
            (
                "{a}",
                {"a": [None, True, (1, "x"), Path("p/q"), Decimal("0.10")]},
                ["None", "True", "1,x", "p/q", "0.10"],
            ),
            ("f[{a},{b}]", {"a": [[1], [2]], "b": [object()]}, ["f[0,0]", "f[1,0]"]),
            ("f[{a}]", {"a": []}, []),
            (lambda a, b: f"{b}{a}", {"a": [1, 2], "b": ["x"]}, ["x1", "x2"]),
        ],
    )
    def test_names_show_the_items(self, flow, name, items, names):
        assert [node.name for node in flow.product(name, give, **items)] == names

    def test_a_long_text_is_cut(self, flow):
        (node,) = flow.product("f[{a}]", give, a=["y" * 200])
        assert len(node.label) == 100

    def test_an_item_that_is_a_handle_is_shown_by_its_label(self, flow, run):
        models = flow.product("model[C={C}]", give, C=[1, 2])
        scores = flow.product("score[{model},{fold}]", give, model=models, fold=range(2))
        assert [node.name for node in scores[:2]] == ["score[C=1,0]", "score[C=1,1]"]
        assert run(flow).value(scores.at(model=models.at(C=2), fold=1)) == {"model": {"C": 2}, "fold": 1}

    def test_a_stage_is_named_like_the_one_before(self, flow):
        models = flow.product("model[C={C},{seed}]", give, C=[1], seed=[7])
        assert flow.map("eval[{}]", str, models)[0].name == "eval[C=1,7]"
        assert flow.product("run {a}-{b}", give, a=[1], b=[2])[0].label == "1-2"

    def test_the_paths_of_outputs_are_filled_with_the_items(self, flow):
        outputs = ["C={C}/{fold:03}.txt", "{index}"]
        nodes = flow.product("fit[{C},{fold}]", lambda C, fold: C, C=[0.1], fold=range(2), outputs=outputs)
        assert flow.tasks[nodes[1].name].outputs == ("C=0.1/001.txt", "1")
        with pytest.raises(GraphError, match="the items are C, and not 'fold'"):
            flow.product("other[{C}]", lambda C: C, C=[0.1], outputs=["{fold}.txt"])

    def test_a_task_holds_the_options_and_every_keyword_is_an_argument(self, flow, run):
        nodes = flow.product("f[{timeout}]", Task(give, retries=1), timeout=[1, 2])
        assert run(flow).values(nodes) == [{"timeout": 1}, {"timeout": 2}]
        with pytest.raises(ArgumentsError, match="mentions 'timeout', which is an option of the node"):
            flow.product("g[{timeout}]", give, timeout=[1, 2])


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("items", "said"),
        [
            ([100, 100.0, "100"], "a=100 and a='100' are shown alike"),
            ([0.12, 0.1200001], None),
            ([0.1, Decimal("0.1")], r"a=0.1 and a=Decimal\('0.1'\) are shown alike"),
            ([1, 2, 1], "a=1, b=5 is there twice"),
        ],
    )
    def test_two_items_under_one_name_are_both_named(self, flow, items, said):
        if said is None:
            assert len(flow.product("f[{a}]", give, a=items)) == 2
            with pytest.raises(DuplicateNodeError, match=r"a=0\.12 and a=0\.1200001 are shown alike"):
                flow.product("g[{a:.2f}]", give, a=items)
            return
        with pytest.raises(DuplicateNodeError, match=said):
            flow.product("f[{a},{b}]", give, a=items, b=[5])
        assert len(flow) == 0

    def test_a_name_that_another_node_has_is_told_with_the_items(self, flow):
        flow.add("f[1]", give)
        with pytest.raises(DuplicateNodeError, match="a=1 has the name of a node that was added before"):
            flow.product("f[{a}]", give, a=[0, 1])
        assert len(flow) == 1

    @pytest.mark.parametrize(
        ("name", "keywords", "said"),
        [
            ("fit", {"C": [1], "X": 3}, r"mentions no keyword.*put \{C\} or \{X\} where they go"),
            ("fit[{C},{gama}]", {"C": [1], "gamma": [1]}, r"mentions \{gama\}, and the keywords are C, gamma"),
            ("fit[{}]", {"C": [1]}, r"mentions a \{\} without a keyword"),
            ("fit[{C.real}]", {"C": [1]}, r"mentions \{C.real\}"),
            ("fit[{C}]", {"C": 3}, r"is no iterable, but a int; put it in a list, or take \{C\} out of the name"),
            ("fit[{C}]", {"C": "abc"}, "is text; put it in a list"),
            ("fit[{C}]", {"C": itertools.count()}, "has no end"),
            ("fit[{C}]", {"C": [1], "gamma": (i for i in "ab")}, "'gamma' of product is an iterator"),
            ("fit[{index}]", {"index": [1]}, "is the position of a node"),
            ("fit[{C", {"C": [1]}, "no format string"),
        ],
    )
    def test_what_is_not_clear_is_an_error(self, flow, name, keywords, said):
        with pytest.raises(GraphError, match=said):
            flow.product(name, give, **keywords)
        assert len(flow) == 0

    def test_items_are_not_the_results_of_one_node(self, flow):
        one = flow.add("one", list)
        with pytest.raises(HandleError, match="'one' is one result, and the items of 'C'"):
            flow.product("fit[{C}]", give, C=one)

    def test_a_set_has_no_positions(self, flow):
        assert {node.name for node in flow.product("f[{a}]", give, a={1, 2})} == {"f[1]", "f[2]"}
        with pytest.raises(UnstableNameError, match="an item of a cannot be named by its position"):
            flow.product("g[{a}]", give, a={frozenset([1])})

    def test_arguments_are_checked_at_once(self, flow):
        with pytest.raises(ArgumentsError, match="'gamma'"):
            flow.product("fit[{C}]", fit, C=[1])
        with pytest.raises(ArgumentsError, match="item 0 cannot be put into the name"):
            flow.product("fit[{C:d}]", give, C=["x"])


class TestMap:
    def test_items_by_keyword_go_side_by_side(self, flow, run):
        nodes = flow.map("fit[{C},{gamma}]", fit, C=[1, 2], gamma=[3, 4], X="x")
        assert [node.name for node in nodes] == ["fit[1,3]", "fit[2,4]"]
        assert run(flow).values(nodes) == [(1, 3, 0, "x"), (2, 4, 0, "x")]
        assert nodes.at(C=2, gamma=4) is nodes[1]
        with pytest.raises(UnknownNodeError, match="'C=1, gamma=4': no node has all of these items"):
            nodes.at(C=1, gamma=4)

    def test_what_does_not_fit_is_an_error(self, flow):
        with pytest.raises(GraphError, match="different lengths: 1, 2"):
            flow.map("fit[{C},{gamma}]", fit, C=[1], gamma=[3, 4])
        with pytest.raises(GraphError, match="nothing is called 'C'"):
            flow.map("fit[{C}]", fit, [1], C=[3, 4])
        with pytest.raises(GraphError, match="map needs an iterable"):
            flow.map("fit[{}]", fit, C=[3, 4])


class TestNodes:
    @pytest.fixture
    def nodes(self, flow):
        return flow.product("fit[{C},{gamma},{fold}]", fit, C=[0.1, 1, 10], gamma=["a", None], fold=range(2))

    def test_it_is_a_sequence(self, nodes):
        assert len(nodes) == 12
        assert nodes[0].name == "fit[0.1,a,0]"
        assert nodes[-1] is list(nodes)[11]
        assert [node.name for node in nodes[1:3]] == ["fit[0.1,a,1]", "fit[0.1,None,0]"]
        assert nodes[5] in nodes
        assert nodes.index(nodes[5]) == 5
        assert isinstance(nodes, Nodes)
        assert repr(nodes) == "Nodes(12: C=[0.1, 1, 10], gamma=['a', None], fold=[0, 1])"

    def test_all_items_give_a_handle_and_some_give_a_part(self, nodes):
        assert nodes.at(C=1, gamma=None, fold=1).name == "fit[1,None,1]"
        part = nodes.at(C=1)
        assert [node.name for node in part] == ["fit[1,a,0]", "fit[1,a,1]", "fit[1,None,0]", "fit[1,None,1]"]
        assert part.axes == {"gamma": ["a", None], "fold": [0, 1]}
        assert part.at(fold=1, gamma="a") is nodes.at(C=1).at(gamma="a").at(fold=1)
        assert nodes[:2].at(fold=1, C=0.1, gamma="a") is nodes[1]

    def test_an_item_is_found_by_itself_or_by_what_equals_it(self, flow):
        nodes = flow.product("f[{a},{b}]", give, a=[1, True, 2.0], b=[[1], [1], {"x": 1}])
        assert nodes.at(a=1, b={"x": 1}).name == "f[1,2]"
        assert nodes.at(a=True, b={"x": 1}).name == "f[True,2]"
        assert nodes.at(a=2, b={"x": 1}).name == "f[2.0,2]"
        with pytest.raises(UnknownNodeError, match=r"several items of b are equal to it \[\[1\], \[1\]"):
            nodes.at(b=[1])
        with pytest.raises(UnknownNodeError, match="several items of a"):
            nodes.at(a=1.0)

    def test_what_is_not_there_is_told_with_what_is(self, nodes):
        with pytest.raises(UnknownNodeError, match=r"'C=5': C is one of \[0.1, 1, 10\]"):
            nodes.at(C=5)
        with pytest.raises(KeyError, match="there are no items 'c', but C, gamma, fold"):
            nodes.at(c=1)

    def test_numbers_of_numpy_are_shown_as_numbers_unless_they_are_to_be_told_from_others(self, flow):
        number = type(
            "float64", (float,), {"__module__": "numpy", "shape": (), "__repr__": lambda self: "np.float64(0.5)"}
        )
        number.__str__ = float.__repr__
        nodes = flow.product("f[{a}]", give, a=[number(0.5)])
        assert (nodes[0].name, repr(nodes)) == ("f[0.5]", "Nodes(1: a=[0.5])")
        with pytest.raises(DuplicateNodeError, match=r"a=np\.float64\(0\.5\) and a=0\.5 are shown alike"):
            flow.product("g[{a}]", give, a=[number(0.5), 0.5])

    def test_items_go_with_their_nodes(self, nodes):
        pairs = list(nodes.items())
        assert pairs[3] == ({"C": 0.1, "gamma": None, "fold": 1}, nodes[3])
        assert len(pairs) == 12

    def test_all_of_it_is_an_argument_that_becomes_the_list_of_results(self, flow, run):
        nodes = flow.product("f[{a},{b}]", lambda a, b: a * b, a=[1, 2], b=[10, 20])
        total = flow.add("total", sum, nodes)
        rows = flow.add("rows", list, [nodes.at(a=1), nodes.at(a=2)])
        deep = flow.add("deep", dict, {"all": nodes, "one": (nodes[0],)})
        result = run(flow)
        assert result.value(total) == 90
        assert result.value(rows) == [[10, 20], [20, 40]]
        assert result.value(deep) == {"all": [10, 20, 20, 40], "one": (10,)}
        assert flow.dag.parents("total") == [node.name for node in nodes]

    @pytest.mark.parametrize("hide", [lambda nodes: {nodes}, lambda nodes: {nodes: 1}, lambda nodes: [lambda: nodes]])
    def test_it_is_refused_where_a_handle_is(self, flow, nodes, hide):
        with pytest.raises(HandleError, match="where no result can take its place"):
            flow.add("other", give, x=hide(nodes))

    def test_one_of_another_flow_is_refused(self, nodes):
        with pytest.raises(HandleError, match="is of another flow"):
            Flow().add("other", list, nodes)

    def test_rows_have_the_items_in_columns(self, flow, run):
        nodes = flow.product("f[{a},{error}]", lambda a, error: a * error, a=[1, 2], error=[10])
        rows = run(flow).to_dicts(nodes, values=True)
        assert [(row["a"], row["error_"], row["error"], row["value"]) for row in rows] == [
            (1, 10, "", 10),
            (2, 10, "", 20),
        ]
        assert list(rows[0])[:3] == ["a", "error_", "name"]

    def test_a_frame_has_them_in_front(self, flow, run):
        pytest.importorskip("pandas")
        nodes = flow.product("f[{a},{b}]", lambda a, b: a * b, a=[1, 2], b=[10, 20])
        frame = run(flow).to_frame(nodes, values=True)
        assert frame.pivot(index="a", columns="b", values="value").to_numpy().tolist() == [[10, 20], [20, 40]]


def n_calls(function):
    """How many functions it calls, of Python and of C: what it costs, whatever else the machine does."""
    calls = [0]

    def count(frame, event, argument):
        calls[0] += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls[0]


class TestCost:
    def test_ten_thousand_nodes_take_no_more_calls_than_in_map(self):
        axes = {"a": range(100), "b": [i / 7 for i in range(50)], "c": ["x", "y"]}
        columns = [*zip(*itertools.product(*axes.values()), strict=True)]
        made = []
        in_map = n_calls(lambda: Flow().map("f[{},{},{}]", fit, *columns, X=1))
        in_product = n_calls(
            lambda: made.append(
                Flow().product("f[{C},{gamma},{fold}]", fit, C=axes["a"], gamma=axes["b"], fold=axes["c"], X=1)
            )
        )
        (nodes,) = made
        assert len(nodes) == 10_000
        assert in_product <= 1.1 * in_map
        assert n_calls(lambda: nodes.at(C=99, gamma=axes["b"][49], fold="y")) > 10_000
        assert n_calls(lambda: nodes.at(C=0, gamma=0.0, fold="x")) < 100  # once there is an index
        assert nodes.at(C=99, gamma=axes["b"][49], fold="y") is nodes[-1]
