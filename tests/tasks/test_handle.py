"""What a handle does not do, as its result is not known yet: each error says what to write instead."""

import copy
import math
import operator
import pickle

import pytest

from dagron import Flow, HandleError

USES = {
    "a[0]": (lambda a: a[0], "lambda value: value[0], handle"),
    "a['x']": (lambda a: a["x"], "lambda value: value['x'], handle"),
    "a + 1": (lambda a: a + 1, "lambda value: value + 1, handle"),
    "1 - a": (lambda a: 1 - a, "lambda value: 1 - value, handle"),
    "a @ a": (lambda a: a @ a, "lambda value: value @ other, handle"),
    "a ** 2": (lambda a: a**2, "lambda value: value ** 2, handle"),
    "a < 3": (lambda a: a < 3, "lambda value: value < 3, handle"),
    "a.shape": (lambda a: a.shape, "lambda value: value.shape, handle"),
    "a.mean()": (lambda a: a.mean(), "lambda value: value.mean, handle"),
    "len(a)": (len, "lambda value: len(value), handle"),
    "int(a)": (int, "lambda value: int(value), handle"),
    "sqrt(a)": (math.sqrt, "lambda value: float(value), handle"),
    "round(a, 2)": (lambda a: round(a, 2), "lambda value: round(value), handle"),
    "iter(a)": (iter, "cannot be iterated over"),
    "x, y = a": (lambda a: operator.itemgetter(0, 1)([*a]), "cannot be iterated over"),
    "3 in a": (lambda a: 3 in a, "lambda value: 3 in value, handle"),
    "f'{a}'": (lambda a: f"{a}", "cannot be put into a text"),
    "bool(a)": (bool, "has no truth value"),
}


@pytest.mark.parametrize("use", USES)
def test_what_needs_the_result_is_an_error_that_says_what_to_write(use):
    a = Flow().add("a", int)
    call, text = USES[use]
    with pytest.raises(HandleError) as caught:
        call(a)
    assert text in str(caught.value)
    assert str(caught.value).startswith("the handle of node 'a' ")


def test_what_an_error_says_works():
    flow = Flow()
    handle = flow.add("a", lambda: [3, 4])
    flow.add("name", lambda value: value[0], handle)
    assert flow.dag.parents("name") == ["a"]


def test_whoever_asks_what_a_handle_is_gets_an_answer():
    a = Flow().add("a", int)
    assert not hasattr(a, "shape")
    assert getattr(a, "_repr_html_", None) is None
    assert getattr(a, "__wrapped__", None) is None
    assert copy.copy(a) is copy.deepcopy(a) is a
    assert (str(a), f"{a!r}", f"{a.name}") == ("Node('a')", "Node('a')", "a")
    with pytest.raises(HandleError, match="cannot be pickled"):
        pickle.dumps(a)


def test_numpy_leaves_it_to_the_handle():
    numpy = pytest.importorskip("numpy")
    a = Flow().add("a", int)
    with pytest.raises(HandleError, match="takes no part in"):
        numpy.ones(2) + a
