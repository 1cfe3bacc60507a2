"""Equal values have equal digests, in every process; other values have others."""

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import io
import json
import math
import os
import pathlib
import pickle
import subprocess
import sys
import uuid

import cloudpickle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dagron
from dagron.checkpoint.blobs import INLINE_MAX_BYTES
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.digests import NO_VALUE_DIGEST, Digests
from dagron.checkpoint.reading.opening import read_ledger
from dagron.crossing.picklers import PROTOCOL, PlainPickler
from dagron.crossing.results import dump_result
from dagron.crossing.values import value_digest

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
    "flat instance": Point(1, "a"),
    "instances": [Point(1, "a"), Point(2, "a"), Plain(["a", "a"])],
    "repeated": ["red", "red", "blue"],
    "table": [{"name": "a", "size": 1.5}, {"name": "b", "size": None}],
    "bits": [0.0, -0.0, float("inf"), 1e300, 2**70, True, 1j, b"", "", (), [], {}, set()],
}

MANY = range(1999)
LARGE = {
    "numbers": [i * 1.5 for i in MANY],
    "texts": [f"text {i}" for i in MANY],
    "table": [{"name": f"row {i}", "size": i, "kind": "one of them"} for i in MANY],
    "points": [Point(i, f"point {i}") for i in MANY],
    "instances": {f"key {i}": Plain([i, f"word {i}"]) for i in MANY},
    "rows": [Row(i, f"row {i}") for i in MANY],
    "members": [(f"a place for member {i}", Color.RED if i % 2 else Color.BLUE) for i in MANY],
    "library": [(datetime.date.fromordinal(1 + i), decimal.Decimal(i)) for i in MANY],
}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        blobs = {
            key: dump_result("node", value, directory, Digests(), durable=False)
            for key, value in [*VALUES.items(), *((f"large {key}", value) for key, value in LARGE.items())]
        }
        print(json.dumps({key: (blob.digest.hex(), blob.value_digest.hex()) for key, blob in blobs.items()}))
"""

GOLD = {
    "set": "236e2642a0246153c67a162f20c9e4f8",
    "frozenset": "d406590d474a5217921ea4757e62f0a1",
    "set of tuples": "1eb3e0aeb615b1d4168b83acfaef3626",
    "set of sets": "74118a38524499affcc9621df5520bc5",
    "mixed set": "837874ec31758d7799daeadb07dabeb8",
    "in a list": "f478e6962dc84cf5e3b4b427f790fd7f",
    "points": "27507d8172b08bf805f5a4d3f22e5a08",
    "slotted": "add82ad3712d3634a0baeeb225fa0b3e",
    "plain": "57ee2302ff3bc32a0d3ab3df805eb630",
    "own": "4e0509e55dbf2b1ac9fd41beb3089b54",
    "enums": "01bbd9102fffa1b11a0dea98be6a0ba5",
    "enum keys": "a525fc323a700f9cb1394d6362c1cc50",
    "flags": "63ffeef9978420f8f1d42b3ed2eb6ac6",
    "row": "2969e3136300683e2509d14462f71c51",
    "classes": "c69961f07aa43f393273de3fb972f36a",
    "functions": "e7526f0bf3d43c1fdefafca36c56d793",
    "subclass": "c267f50a1a9147b4650cf70805be714f",
    "library": "ba83899a4a00cf406adbb785a54fbe0b",
    "paths": "95b98f50167f5d624013d456caa76120",
    "counter": "daa546eab4ff82c5db89476b42241732",
    "shared": "6ffdd9bf3dad8031acaf8c78e764f848",
    "exception": "3602dca1c473df02707bebd55f424655",
    "flat instance": "d28968ef61607cee9c402484c47c18fd",
    "instances": "27202bb99aa43a5ef4b31378d0a31792",
    "repeated": "31d6ff31b7e4b0e5bd7f4094a3e40869",
    "table": "7cd2e26c8d1b72db29bd9e6f5194bb8b",
    "bits": "cfd33b935fe2a748483af5dabdf4f06b",
    "large numbers": "ad4946c7067838d609a4896346305647",
    "large texts": "c00151cbc215859b52945b9fc51cc78b",
    "large table": "5dd864e1514122b40dc5d4016ccdc4eb",
    "large points": "2b530cdaee335e4bf5fffebafa35a5f1",
    "large instances": "e591c0b50bdc389f568fa03100fb2be2",
    "large rows": "4771759c00fe1aa3c4c0b04578e365b4",
    "large members": "d3569a468bf5fb63585d028825ddc87a",
    "large library": "588c588d5d6c5201b9d72b09b8764724",
}

LARGE = [key for key in GOLD if key.startswith("large ")]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What processes with several hash seeds say: for each value digests of its bytes and of the value."""
    script = tmp_path_factory.mktemp("script") / "script.py"
    script.write_text(SCRIPT)
    said: list[dict[str, tuple[str, str]]] = []
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": SRC}
        done = subprocess.run(
            [sys.executable, script], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        said.append({key: tuple(digests) for key, digests in json.loads(done.stdout).items()})
    return said


def test_equal_values_have_equal_digests_whatever_the_hash_seed(found):
    differing = {key for key in found[0] if len({said[key][1] for said in found}) > 1}
    assert not differing
    none = {key for key in found[0] if found[0][key][1] == NO_VALUE_DIGEST.hex()}
    assert none == {key for key in found[0] if key.startswith("large ")}
    assert len({found[0][key] for key in none}) == len(none)
    assert len({found[0][key][1] for key in found[0]}) == len(found[0]) - len(none) + 1


def test_the_bytes_decide_for_large_results_and_are_equal_whatever_the_hash_seed(found):
    differing = {key for key in LARGE if len({said[key][0] for said in found}) > 1}
    assert not differing


def test_digests_are_the_same_on_every_python(found):
    none = NO_VALUE_DIGEST.hex()
    assert {key: digest[:32] if value == none else value for key, (digest, value) in found[0].items()} == GOLD


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

def many():
    return [Point(i, f"point {i}") for i in range(999)]

def after(value):
    return len(value)

flow = dagron.Flow()
for task in (words, twice, points, many):
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


NODES = ["words", "twice", "points", "many"]


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
    one, other = [1], [1]
    assert not equal([one, other, one], [one, other, other])


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


@dataclasses.dataclass(frozen=True)
class Frozen:
    left: object
    right: object


@dataclasses.dataclass
class Held:
    left: object
    right: object


@pytest.fixture
def of_script():
    """Has the classes of this file count as a script's."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.usefixtures("of_script")
def test_instances_of_classes_of_a_script_are_told_by_class_and_attributes():
    assert equal(Held(1, "a"), Held(1, "a"))
    assert equal(Held(S, S), Held(S, a_copy(S)))
    assert equal([Held(S, [S]), Held(S, 1)], [Held(a_copy(S), [S]), Held(S, 1)])
    assert equal([Frozen(1, S)] * 2, [Frozen(1, S), Frozen(1, a_copy(S))])
    for one in ({8, 1}, 1, "a", S):
        for other in (Frozen(1, one), Held(one, 2), Held(1, (one,)), [1, one], {"left": 1, "right": one}):
            assert not equal(Held(1, one), other)
    for one, other in ((1, True), (1, 1.0), (0.0, -0.0), ([1], (1,)), ("a", b"a"), (frozenset({1}), {1})):
        assert not equal(Held(S, [S, one]), Held(S, [S, other]))


def test_a_text_that_is_there_very_often_is_not_digested_as_often():
    text, often = "x" * 8000, range(1000)
    for value in ([text for _ in often], [[text] for _ in often], dict.fromkeys(often, text), [(1, text)] * 1000):
        assert digests_of(value)[1] == NO_VALUE_DIGEST
    few = [[text[:900]] for _ in range(10)]
    assert equal(few, [[a_copy(text[:900])] for _ in range(10)])


def test_many_items_have_a_digest_as_their_pickles_differ_between_pythons():
    for value in (list(range(1001)), dict.fromkeys(range(1000)), [list(range(1001))]):
        assert digests_of(value)[1] != NO_VALUE_DIGEST
        assert equal(value, copy.deepcopy(value))


def test_an_object_that_is_there_very_often_ends_the_walk():
    value = Frozen(1, 2)
    for _ in range(60):
        value = Frozen(value, value)
    try:
        assert digests_of(value)[1] == NO_VALUE_DIGEST
    finally:
        while isinstance(value.left, Frozen):  # its hash would take for ever
            value = value.left


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
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(hashables, inner, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(Held, inner, inner)
        | st.builds(Frozen, inner, inner)
    ),
    max_leaves=6,
)


def told(value):
    """Return a value as text: the same for equal values of equal types, and for no others."""
    kind = type(value)
    if kind in (set, frozenset):
        return f"{kind.__name__}({sorted(map(told, value))})"
    if kind is dict:
        return f"dict({[(told(key), told(held)) for key, held in value.items()]})"
    if kind in (Held, Frozen):
        return f"{kind.__name__}({told(vars(value))})"
    if kind in (list, tuple):
        return f"{kind.__name__}({list(map(told, value))})"
    return f"{kind.__name__}({memoryview(pickle.dumps(value)).hex() if kind is float else repr(value)})"


@given(nested, nested)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("of_script")
def test_digests_are_equal_for_equal_values_of_equal_types_and_for_no_others(one, other):
    assert equal(one, other) == (told(one) == told(other))


class Kind(enum.Enum):
    ONE = 1
    WORDS = ("a", "b")


class Access(enum.Flag):
    READ = 1
    WRITE = 2


Row = collections.namedtuple("Row", "a b")
held_twice = st.lists(st.integers(0, 1), max_size=2)
of_all_kinds = st.recursive(
    nested | st.sampled_from([*Kind, Access.READ, Access.READ | Access.WRITE, Row(1, "x"), Row([1], {2})]) | held_twice,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(hashables, inner, max_size=3)
        | st.builds(Row, inner, inner)
        | st.builds(Held, inner, inner)
        | inner.map(lambda one: [one, one])
    ),
    max_leaves=5,
)


@given(of_all_kinds)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("of_script")
def test_a_value_has_one_digest_whichever_way_it_is_found(value):
    out = io.BytesIO()
    pickler = PlainPickler(out, PROTOCOL)
    pickler.dump(value)
    short, long = (value_digest(value, Digests(), pickler, size) for size in (0, INLINE_MAX_BYTES))
    assert short == long
    assert short == digests_of(value)[1]


@given(nested)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("of_script")
def test_a_value_equals_what_is_read_back_of_it(value):
    assert equal(value, pickle.loads(pickle.dumps(value)))
