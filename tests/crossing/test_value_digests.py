"""Equal values have equal digests, in every process; other values have others."""

import collections
import copy
import datetime
import decimal
import json
import math
import os
import pathlib
import pickle
import subprocess
import sys
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dagron
from dagron.checkpoint.blobs import INLINE_MAX_BYTES
from dagron.checkpoint.files import Directory
from dagron.checkpoint.format.digests import NO_VALUE_DIGEST, Digests
from dagron.checkpoint.format.records import Commit
from dagron.checkpoint.reading.opening import read_ledger
from dagron.crossing.results import dump_result

SRC = os.path.dirname(os.path.dirname(dagron.__file__))

SCRIPT = """
import collections, dataclasses, datetime, decimal, enum, fractions, json, pathlib, sys, tempfile, uuid
from dagron.checkpoint.format.digests import Digests
from dagron.crossing.results import dump_result

@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    label: str = "label"

@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: int

class Plain:
    def __init__(self, words):
        self.words = words

class Own:
    def __init__(self, words):
        self.words = words
    def __reduce__(self):
        return Own, (self.words,)

class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"

class Flags(enum.Flag):
    A = 1
    B = 2

Row = collections.namedtuple("Row", "a b")

class Words(set):
    pass

def function():
    pass

words = "alpha beta gamma delta epsilon zeta".split()
VALUES = {
    "set": set(words),
    "frozenset": frozenset(words),
    "set of tuples": {(word, i) for i, word in enumerate(words)},
    "set of sets": {frozenset(words), frozenset(words[:3]), frozenset()},
    "mixed set": {1, 2.5, "x", b"y", None, (1, "x")},
    "in a list": [1, [set(words)], {"key": set(words)}],
    "points": {Point(i, word) for i, word in enumerate(words)},
    "slotted": {Slotted(i) for i in range(5)} | {"x", "y"},
    "plain": Plain(set(words)),
    "own": [Own(set(words)), Own(words)],
    "enums": {Color.RED, Color.BLUE},
    "enum keys": {Color.RED: {Color.BLUE, "x"}, Color.BLUE: Color.BLUE},
    "flags": [Flags.A | Flags.B, {"x", "y"}],
    "row": Row({"x", "y"}, 1),
    "classes": {Point, Slotted, Plain, str, pathlib.Path},
    "functions": {function, len, json.dumps},
    "subclass": Words(words),
    "library": {decimal.Decimal("1.50"), fractions.Fraction(1, 3), uuid.UUID(int=5), datetime.date(2026, 1, 2)},
    "paths": {pathlib.PurePosixPath(word) for word in words},
    "counter": [collections.Counter("abracadabra"), {"x", "y"}, collections.OrderedDict(a=1), collections.deque(words)],
    "shared": [words, words, {"x", "y"}],
    "exception": [ValueError("x"), {"x", "y"}],
}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        blobs = {
            key: dump_result("node", value, directory, Digests(), durable=False) for key, value in VALUES.items()
        }
        print(json.dumps({key: (blob.digest.hex(), blob.value_digest.hex()) for key, blob in blobs.items()}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What processes with several hash seeds say: for each value digests of its bytes and of the value."""
    script = tmp_path_factory.mktemp("script") / "script.py"
    script.write_text(SCRIPT)
    said = []
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": SRC}
        done = subprocess.run(
            [sys.executable, script], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        said.append(json.loads(done.stdout))
    return said


def test_equal_values_have_equal_digests_whatever_the_hash_seed(found):
    differing = {key for key in found[0] if len({said[key][1] for said in found}) > 1}
    assert not differing
    none = {key for key in found[0] if found[0][key][1] == NO_VALUE_DIGEST.hex()}
    assert not none
    assert len({found[0][key][1] for key in found[0]}) == len(found[0])


def test_the_bytes_of_their_pickles_would_not_do(found):
    assert len({said["set"][0] for said in found}) > 1


def digests_of(value, tmp_path="", digests=None):
    blob = dump_result("node", value, tmp_path, Digests() if digests is None else digests, durable=False)
    return blob.digest, blob.value_digest


def equal(one, other):
    commit = Commit("a", 0, 0, 1, 0, digests_of(one)[0], b"", value_digest=digests_of(one)[1])
    return commit.has_equal_result(*digests_of(other))


def a_copy(text):
    return "".join(list(text))


S = "a text of several words"


class Opaque:
    pass


class Refuses:
    def __init__(self):
        self.left = 1

    def __reduce__(self):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("not a second time")
        return Opaque, ()


ALIKE = [
    ([S, S], [S, a_copy(S)]),
    ((S, [S]), (S, [a_copy(S)])),
    ({S: S}, {S: a_copy(S)}),
    ([(1, S)] * 2, [(1, S), (1, a_copy(S))]),
    ([frozenset([1])] * 2, [frozenset([1]), frozenset({1, 2} - {2})]),
    ([decimal.Decimal("1.5")] * 2, [decimal.Decimal("1.5"), decimal.Decimal("1.5")]),
    ([uuid.UUID(int=1)] * 2, [uuid.UUID(int=1), uuid.UUID(int=1)]),
    ([datetime.date(2026, 1, 1)] * 2, [datetime.date(2026, 1, 1), datetime.date(2026, 1, 1)]),
    ({8, 0}, {0, 8}),
]

APART = [
    ({1}, {1.0}),
    ({1}, {True}),
    ({1}, frozenset({1})),
    ([0.0, {1}], [-0.0, {1}]),
    ({"a": 1, "b": {2}}, {"b": {2}, "a": 1}),
    ([["a", {1}], "b"], [["a", {1}, "b"]]),
    ([{1}, {2}], [{2}, {1}]),
    ([collections.Counter("a"), {1}], [{"a": 1}, {1}]),
    ([S, S, {1}], [S, S.encode(), {1}]),
    ({("a", "b")}, {("ab",)}),
    ({frozenset({1}), frozenset({2})}, {frozenset({1, 2}), frozenset()}),
    ([pathlib.PurePosixPath("a")], [pathlib.PureWindowsPath("a")]),
]


JOB = """
import dataclasses
import dagron

@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    label: str

TEXT = "a text of several words"

def words():
    return set("alpha beta gamma delta epsilon zeta eta theta".split())

def twice():
    return [TEXT, TEXT if dagron.__name__ == open("turn").read() else "".join(list(TEXT))]

def points():
    return {Point(i, word) for i, word in enumerate("alpha beta gamma delta".split())}

def after(value):
    return len(value)

flow = dagron.Flow()
for task in (words, twice, points):
    flow.add(f"after_{task.__name__}", after, flow.add(task.__name__, task))
"""


def test_what_depends_on_an_equal_result_keeps_its_own_and_debug_calls_it_the_recorded_one(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "turn").write_text("dagron")

    def command(seed, *arguments):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": SRC}
        done = subprocess.run(
            [sys.executable, "-m", "dagron", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done

    def commits():
        found = read_ledger(Directory(tmp_path / "checkpoints" / "job")).commits
        return {name: found[name] for name in found}

    command(1, "run", "job.py", "--workers", "1")
    before = commits()
    command(1, "invalidate", "job.py", *NODES, "--if-changed")
    (tmp_path / "turn").write_text("other")
    command(2, "run", "job.py", "--workers", "1", "--resume")
    after = commits()
    for node in NODES:
        assert after[node].sequence > before[node].sequence
        assert after[f"after_{node}"].sequence == before[f"after_{node}"].sequence
    assert after["words"].digest != before["words"].digest
    assert after["twice"].digest != before["twice"].digest
    assert "the result is the recorded one; its pickle has other bytes" in command(3, "debug", "job.py", "words").stderr
    for node in NODES:
        assert "the result is the recorded one" in command(4, "debug", "job.py", node).stderr


NODES = ["words", "twice", "points"]


@pytest.mark.parametrize(("one", "other"), ALIKE, ids=repr)
def test_equal_values_are_equal(one, other):
    assert equal(one, other)
    assert equal(other, one)


@pytest.mark.parametrize(("one", "other"), APART, ids=repr)
def test_other_values_differ(one, other):
    assert not equal(one, other)


def test_what_can_change_and_is_there_twice_is_another_value_than_a_copy():
    for shared in ([1], {"a": 1}, {1, 2}, Opaque()):
        assert equal([shared, shared, {1}], copy.deepcopy([shared, shared, {1}]))
        assert not equal([shared, shared, {1}], [shared, copy.copy(shared), {1}])


def test_a_value_that_holds_itself_has_a_digest():
    def cyclic():
        made = [{8, 0}]
        made.append({"self": made})
        return made

    assert digests_of(cyclic())[1] != NO_VALUE_DIGEST
    assert equal(cyclic(), cyclic())


def test_the_bits_of_a_float_count():
    one, other = (memoryview(bytes([n, 0, 0, 0, 0, 0, 0xF8, 0x7F])).cast("d")[0] for n in (1, 2))
    assert math.isnan(one)
    assert not equal([one, {1}], [other, {1}])
    assert equal([one, {1}], [one, {1}])


def test_where_there_is_no_canonical_digest_there_is_none():
    part = Opaque()
    part.x = 1
    for value in (Refuses(), {part}, [{part}, part], lambda: 1):
        assert digests_of(value)[1] == NO_VALUE_DIGEST or value == {part}


def test_what_pickles_canonically_needs_none_and_neither_does_what_is_large(tmp_path):
    for value in (
        1,
        "x",
        None,
        [1, 2, 3],
        {"a": 1},
        ["a", "b"],
        (1.5, b"x"),
        {str(i) for i in range(INLINE_MAX_BYTES)},
    ):
        assert digests_of(value, tmp_path)[1] == NO_VALUE_DIGEST


def test_the_key_counts():
    assert digests_of({1}) != digests_of({1}, digests=Digests(b"key"))
    assert digests_of({1}, digests=Digests(b"key"))[1] != digests_of({1}, digests=Digests(b"other"))[1]


def test_a_part_that_is_there_very_often_ends_the_walk():
    value = ()
    for _ in range(60):
        value = (value, value)
    assert digests_of(value)[1] == NO_VALUE_DIGEST


atoms = st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text("ab", max_size=2) | st.binary(max_size=1)
hashables = st.recursive(
    atoms, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3) | st.tuples(), max_leaves=4
)
nested = st.recursive(
    hashables | st.sets(hashables, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hashables, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)


def told(value):
    """Return a value as text: the same for equal values of equal types, and for no others."""
    kind = type(value)
    if kind in (set, frozenset):
        return f"{kind.__name__}({sorted(map(told, value))})"
    if kind is dict:
        return f"dict({[(told(key), told(held)) for key, held in value.items()]})"
    if kind in (list, tuple):
        return f"{kind.__name__}({list(map(told, value))})"
    return f"{kind.__name__}({memoryview(pickle.dumps(value)).hex() if kind is float else repr(value)})"


@given(nested, nested)
def test_digests_are_equal_for_equal_values_of_equal_types_and_for_no_others(one, other):
    assert equal(one, other) == (told(one) == told(other))


@given(nested)
def test_a_value_equals_what_is_read_back_of_it(value):
    assert equal(value, pickle.loads(pickle.dumps(value)))
