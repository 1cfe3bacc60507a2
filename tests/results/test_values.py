"""Results of several nodes at once: in the shape in which they are asked for, as dicts and as a frame."""

import sys

import cloudpickle
import pytest

import dagron
from dagron import Flow, HandleError, OptionError, UnknownNodeError

# Or every worker would import pytest first.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def square(i):
    if i == 3:
        raise ValueError("three")
    return i * i


@pytest.fixture
def made(ckpt):
    flow = Flow()
    nodes = flow.map("square[{}]", square, range(4))
    nodes.append(flow.add("total", sum, nodes[:3]))
    nodes.append(flow.add("after", abs, nodes[3]))
    return flow.run(ckpt, pool="inline", durability="process"), nodes


class TestValues:
    def test_a_list_of_handles_or_names_gives_a_list_in_its_order(self, made):
        result, nodes = made
        assert result.values(nodes[2::-1]) == [4, 1, 0]
        assert result.values(["total", nodes[1]]) == [5, 1]
        assert result.values(node for node in nodes[:2]) == [0, 1]
        assert result.values([]) == []

    def test_a_pattern_gives_a_dict_by_name_in_the_order_of_the_dag(self, made):
        result, _ = made
        values = result.values("*[?]", default=None)
        assert values == {"square[0]": 0, "square[1]": 1, "square[2]": 4, "square[3]": None}
        assert list(values) == ["square[0]", "square[1]", "square[2]", "square[3]"]
        assert result.values("total") == {"total": 5}
        with pytest.raises(UnknownNodeError, match=r"'totl\*': the run had no such node; did you mean 'total'"):
            result.values("totl*")

    def test_what_is_nested_keeps_its_shape(self, made):
        result, (a, b, c, _, total, _) = made
        assert result.values({"x": a, "y": [b, [c]], "z": (total,)}) == {"x": 0, "y": [1, [4]], "z": [5]}

    def test_the_first_that_has_no_result_raises_why(self, made):
        result, nodes = made
        with pytest.raises(ValueError, match="three"):
            result.values(nodes)
        assert result.values(nodes, default=-1) == [0, 1, 4, -1, 5, -1]

    def test_one_node_and_what_is_none_are_errors(self, made):
        result, nodes = made
        with pytest.raises(HandleError, match=r"is one node; value\(node\)"):
            result.values(nodes[0])
        with pytest.raises(OptionError, match="handles, names"):
            result.values([3])
        with pytest.raises(UnknownNodeError):
            result.values(["none"], default=0)
        with pytest.raises(HandleError, match="another flow"):
            result.values([Flow().add("total", abs, 1)])


class TestRows:
    def test_they_are_those_of_the_checkpoint(self, made, ckpt):
        result, nodes = made
        assert result.to_dicts() == dagron.load(ckpt).to_dicts()
        rows = result.to_dicts([nodes[1], "total"], values=True)
        assert [(row["name"], row["state"], row["value"]) for row in rows] == [
            ("square[1]", "completed", 1),
            ("total", "completed", 5),
        ]
        assert [row["value"] for row in result.to_dicts("square*", values=True)] == [0, 1, 4, None]

    def test_so_are_those_of_a_run_that_goes_on(self, made, ckpt):
        flow = Flow()
        flow.map("square[{}]", square, range(4))
        result = flow.run(ckpt, pool="inline", durability="process", resume=True)
        assert result.restored == 3
        assert result.to_dicts() == dagron.load(ckpt).to_dicts()

    def test_as_a_frame_they_are_by_name(self, made):
        pytest.importorskip("pandas")
        result, nodes = made
        frame = result.to_frame(nodes[:3], values=True)
        assert list(frame.index) == ["square[0]", "square[1]", "square[2]"]
        assert list(frame["value"]) == [0, 1, 4]
        assert frame.to_csv().startswith("name,state,attempts,")

    def test_a_value_that_is_a_list_or_a_dict_is_one_cell(self, ckpt):
        pytest.importorskip("pandas")
        flow = Flow()
        flow.map("v[{index}]", lambda value: value, [[1, 2], {"a": 1}, (3,)])
        frame = flow.run(ckpt, pool="inline", durability="process").to_frame(values=True)
        assert list(frame["value"]) == [[1, 2], {"a": 1}, (3,)]
