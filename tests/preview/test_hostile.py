"""Whatever the bytes are: a preview ends soon, raises nothing, runs nothing and takes no memory that is not there.

The bytes are made by hand, by mutating real pickles, and by hypothesis. Time is counted in what is looked at, not in
seconds, so that a busy machine fails no test; what would take forever meets the timeout of the suite.
"""

from __future__ import annotations

import pickle
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from library_values import golden_pickles

from dagron.preview.machine import read
from dagron.preview.previewing import preview

P = pickle


def text(value):
    data = value.encode()
    return P.BINUNICODE + len(data).to_bytes(4, "little") + data


def name(module, path):
    return text(module) + text(path) + P.STACK_GLOBAL


def nested(opening, closing, n):
    return opening * n + P.NONE + closing * n + P.STOP


def doubled(n, make=P.TUPLE2):
    """What holds itself twice, `n` times over: 2**n values."""
    return b"".join(P.BINGET + bytes([i]) + P.BINGET + bytes([i]) + make + P.BINPUT + bytes([i + 1]) for i in range(n))


def called(module, path, arguments):
    return name(module, path) + arguments + P.REDUCE


BILLION = P.NONE + P.BINPUT + b"\0" + P.POP + doubled(200)
"""On the stack: 200 tuples, the last of which holds 2**200 values."""

HUGE = (1 << 62).to_bytes(8, "little")
DTYPE = called("numpy", "dtype", text("f8") + P.NEWFALSE + P.NEWTRUE + P.TUPLE3)
NOTHING = called("numpy", "dtype", text("V0") + P.NEWFALSE + P.NEWTRUE + P.TUPLE3)
LENGTH = P.LONG1 + b"\x08" + ((1 << 62) - 1).to_bytes(8, "little")


RANGE = called("builtins", "range", LENGTH + P.TUPLE1)
ATTRIBUTE = called("builtins", "getattr", P.BINGET + b"\0" + text("a" * 50) + P.TUPLE2) + P.BINPUT + b"\0"


def array(shape, dtype=DTYPE):
    arguments = P.MARK + P.BYTEARRAY8 + bytes(8) + dtype + shape + text("C") + P.TUPLE
    return called("numpy._core.numeric", "_frombuffer", arguments) + P.STOP


CASES = {
    "nothing": b"",
    "no operation": b"\xff",
    "a stack that is empty": P.APPEND + P.STOP,
    "a mark too many": P.TUPLE + P.STOP,
    "lists, ten thousand deep": nested(P.EMPTY_LIST, P.APPEND, 10_000),
    "tuples, fifty thousand deep": P.NONE + P.TUPLE1 * 50_000 + P.STOP,
    "marks without end": P.MARK * 10_000,
    "a list that holds itself": P.EMPTY_LIST + P.MEMOIZE + P.BINGET + b"\0" + P.APPEND + P.STOP,
    "a dict that is its own key": P.EMPTY_DICT + P.MEMOIZE + P.BINGET + b"\0" + P.NONE + P.SETITEM + P.STOP,
    "an object that is its own state": name("a", "B") + P.EMPTY_TUPLE + P.NEWOBJ + P.DUP + P.BUILD + P.STOP,
    "a billion laughs": BILLION + P.STOP,
    "a billion laughs as a key": P.EMPTY_DICT + BILLION + P.NONE + P.SETITEM + P.STOP,
    "a billion laughs in a set": P.EMPTY_SET + P.MARK + BILLION + P.ADDITEMS + P.STOP,
    "a set of a billion laughs": called("builtins", "set", BILLION + P.TUPLE1) + P.STOP,
    "a memo far away": P.NONE + P.LONG_BINPUT + b"\xff\xff\xff\x7f" + P.STOP,
    "a bytearray of 4 EB": P.BYTEARRAY8 + HUGE + b"x" + P.STOP,
    "bytes of 4 EB": P.BINBYTES8 + HUGE + b"x" + P.STOP,
    "a text of 4 EB": P.BINUNICODE8 + HUGE + b"x" + P.STOP,
    "an integer of 2 GB": P.LONG4 + b"\xff\xff\xff\x7f" + b"x" + P.STOP,
    "a frame of 4 EB": P.FRAME + HUGE + P.NONE + P.STOP,
    "a number as a long text": P.INT + b"9" * 3000 + b"\n" + P.STOP,
    "a range of 2**62": called("collections", "deque", RANGE + P.TUPLE1) + P.STOP,
    "a set of a range": called("builtins", "set", RANGE + P.TUPLE1) + P.STOP,
    "a fraction of a long number": called("fractions", "Fraction", text("1e999999999") + P.TUPLE1) + P.STOP,
    "an array of 2**62 elements": array(LENGTH + P.TUPLE1),
    "an array of 2**124 elements": array(LENGTH + P.DUP + P.TUPLE2),
    "an array of 2**62 elements without bytes": array(LENGTH + P.TUPLE1, NOTHING),
    "an array of 64 axes without bytes": array(P.MARK + (P.BININT1 + b"\2") * 64 + P.TUPLE, NOTHING),
    "an array of four long axes without bytes": array(P.MARK + LENGTH * 4 + P.TUPLE, NOTHING),
    "an array of a negative shape": array(P.BININT + b"\xff\xff\xff\xff" + P.TUPLE1),
    "a name of a megabyte": name("m" * 2**20, "n") + P.STOP,
    "a name that moves the cursor": name("m", "n\x1b[2J\n\u202e") + P.STOP,
    "an attribute of an attribute": name("m", "n") + P.BINPUT + b"\0" + ATTRIBUTE * 2000 + P.STOP,
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_made_to_harm_is_shown(case):
    data = CASES[case]
    shown = preview(data)
    assert 0 < len(shown) < 100_000
    assert shown.isprintable() or set(shown) - {c for c in shown if c.isprintable()} == {"\n"}
    assert 0 < len(preview(data, full=True)) < 100 * len(data) + 100_000


@pytest.mark.parametrize(
    "case", ["a billion laughs as a key", "a bytearray of 4 EB", "a memo far away", "bytes of 4 EB"]
)
def test_memory_is_not_taken_for_what_is_claimed(case):
    data = CASES[case]
    tracemalloc.start()
    try:
        preview(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize(
    "again",
    [
        name("builtins", "set") + P.BINGET + b"\1" + P.TUPLE1 + P.REDUCE,
        name("copyreg", "__newobj__") + P.BINGET + b"\2" + P.REDUCE,
        name("dagron.stored.names", "row") + P.NONE + P.BINGET + b"\2" + P.BINGET + b"\2" + P.TUPLE3 + P.REDUCE,
        name("dagron.stored.names", "member") + P.NONE + P.NONE + P.BINGET + b"\2" + P.TUPLE3 + P.REDUCE,
    ],
    ids=["set", "newobj", "row", "member"],
)
def test_what_is_made_again_and_again_of_one_long_value_copies_it_never(again):
    n = 20_000
    items = P.MARK + P.NONE * n
    data = (
        items + P.LIST + P.BINPUT + b"\1" + items + P.TUPLE + P.BINPUT + b"\2" + P.MARK + again * 500 + P.TUPLE + P.STOP
    )
    tracemalloc.start()
    try:
        shown = preview(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(shown) < 100_000
    assert peak < 20_000_000  # 500 copies of 20,000 references would take 80 MB


def test_a_graph_a_frame_or_a_matrix_that_is_shown_again_and_again_is_not_looked_at_without_end():
    neighbours = P.EMPTY_DICT + P.MARK + (P.NONE + P.EMPTY_DICT) * 60_000 + P.SETITEMS
    state = P.EMPTY_DICT + P.MARK + text("graph") + P.EMPTY_DICT + text("_node") + P.EMPTY_DICT
    state += text("_adj") + P.EMPTY_DICT + P.MARK + P.NONE + neighbours + P.SETITEMS + P.SETITEMS
    graph = name("networkx", "Graph") + P.EMPTY_TUPLE + P.NEWOBJ + state + P.BUILD + P.BINPUT + b"\1"
    row = P.MARK + (P.BINGET + b"\1") * 20 + P.TUPLE + P.BINPUT + b"\2"
    data = P.MARK + graph + row + (P.BINGET + b"\2") * 18 + P.TUPLE + P.STOP
    shown = preview(data)
    assert "Graph of 0 nodes and 30,000 edges" in shown
    assert "networkx.Graph(" in shown  # where it has been looked at often enough


def test_what_holds_itself_is_shown_once():
    assert preview(CASES["a list that holds itself"]) == "[<itself>]"
    assert preview(CASES["a dict that is its own key"]) == "{<itself>: None}"


def test_nothing_is_imported_or_called():
    class Armed:
        def __reduce__(self):
            return eval, ("1/0",)

    data = pickle.dumps([Armed(), {"key": Armed()}])
    assert preview(data) == "[eval('1/0'), {'key': eval('1/0')}]"
    assert preview(name("no.such.module", "thing") + P.STOP) == "<no.such.module.thing>"


# --- drawn ------------------------------------------------------------------------------------------------------------

OPERATIONS = [code for code in range(256) if bytes([code]) in vars(pickle).values()]
PIECES = st.one_of(
    st.sampled_from([bytes([code]) for code in OPERATIONS]),
    st.binary(max_size=9),
    st.sampled_from([name("numpy", "dtype"), name("pandas", "DataFrame"), name("polars", "Series"), DTYPE]),
    st.sampled_from([text("f8"), text("_mgr"), P.BINGET + b"\0", P.BINPUT + b"\0", P.BINGET + b"\1", P.BINPUT + b"\1"]),
)


@given(st.lists(PIECES, max_size=60).map(b"".join))
def test_whatever_the_bytes_are_they_are_shown(data):
    assert preview(data)
    assert preview(data, full=True, width=20)


REAL = [data for _, _, _, data in golden_pickles()]


def test_real_pickles_of_which_bytes_were_changed_are_shown():
    drawn = random.Random(14)
    for data in REAL:
        for _ in range(8):
            mutated = bytearray(data)
            for _ in range(drawn.randint(1, 4)):
                at = drawn.randrange(len(mutated))
                if drawn.random() < 0.3:
                    del mutated[at : at + drawn.randint(1, 30)]
                    mutated += b"."
                else:
                    mutated[at] = drawn.choice([0, 1, 255, drawn.randrange(256)])
            assert preview(bytes(mutated))


def test_a_pickle_that_was_cut_off_is_shown_as_far_as_it_goes():
    data = pickle.dumps({"a": 1, "b": [1, 2, [3, 4]], "c": range(3)})
    texts = {preview(data[:n]) for n in range(len(data))}
    assert all("cannot be read from byte" in shown for shown in texts)
    assert any(shown.startswith("{'a': 1, 'b': [1, 2, [3, 4]]}") for shown in texts)


def test_a_long_pickle_is_shown_as_far_as_reading_goes():
    data = pickle.dumps([*range(20), *[None] * 600_000])
    shown = preview(data)
    assert shown.startswith("[0, 1, 2, 3,")
    assert shown.endswith("\n... only the first 500,000 operations of its pickle were read; --full reads on")
    assert len(read(data, 5_000).value) > 4_000
    assert read(data, 700_000).stopped == ""
