"""What a preview says of values of the standard library and of classes of the script, and how it is laid out."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import ipaddress
import pathlib
import pickle
import re
import sys
import types
import uuid
import zoneinfo

import pytest

from dagron.checkpoint.format.digests import Digests
from dagron.crossing.results import dump_result
from dagron.preview.previewing import preview


@dataclasses.dataclass
class Point:
    x: int
    y: tuple


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: int
    y: str


class Slotted:
    __slots__ = ("x",)

    def __init__(self):
        self.x = 3


class Level(enum.Enum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Hurt(Exception):
    def __init__(self, code, *, why):
        super().__init__(f"{code}: {why}")
        self.code = code


Pair = collections.namedtuple("Pair", "left right")
OF_SCRIPT = (Point, Frozen, Slotted, Level, Access, Hurt, Pair)


@pytest.fixture
def script(monkeypatch):
    """Lets the classes of this module be those of a script."""
    module = types.ModuleType("__main__")
    for cls in OF_SCRIPT:
        setattr(module, cls.__name__, cls)
        monkeypatch.setattr(cls, "__module__", "__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)


def stored(value, directory):
    return dump_result("n", value, directory, Digests(None), durable=False).data


ZONE = zoneinfo.ZoneInfo("Etc/GMT+2")

STANDARD = [
    *[None, True, 3, -1.5, 1 + 2j, "a\nb", b"\x00a", bytearray(b"abc"), [1, [2]], (1,), (), {}, {"a": {1: None}}],
    *[{1, 2}, set(), frozenset({1}), slice(1, 2, None), range(0, 3)],
    *[datetime.datetime(2020, 1, 2, 3, 4, 5, 6), datetime.date(2020, 1, 2), datetime.time(1, 2, fold=1)],
    *[datetime.timedelta(1, 2, 3), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), datetime.time(1, tzinfo=ZONE)],
    *[datetime.timezone(datetime.timedelta(hours=1)), datetime.timezone(datetime.timedelta(hours=1), "here")],
    *[decimal.Decimal("1.50"), fractions.Fraction(1, 3), uuid.UUID(int=5), ipaddress.ip_address("10.0.0.1")],
    *[ipaddress.ip_address("::1"), re.compile("a.*"), array.array("d", [1.0, 2.5]), array.array("B", b"ab")],
    *[pathlib.PurePosixPath(path) for path in ("/a/b", "c", ".", "/", "//a")],
    *[collections.OrderedDict({"a": 1}), collections.deque([1, 2], 3), collections.deque()],
    *[ValueError("no", 1), KeyError("k")],
]


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_value_of_the_standard_library_is_shown_as_python_shows_it(protocol):
    otherwise = {"range(0, 3)": "range(0, 3, 1)", "OrderedDict([('a', 1)])": "OrderedDict({'a': 1})"}
    expected = [otherwise.get(repr(value), repr(value)) for value in STANDARD]
    assert [preview(pickle.dumps(value, protocol)) for value in STANDARD] == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (pathlib.Path("/a/b"), f"{type(pathlib.Path()).__name__}('/a/b')"),
        (collections.Counter("abb"), "Counter({'a': 1, 'b': 2})"),
        (collections.defaultdict(list, {1: [2]}), "defaultdict(<list>, {1: [2]})"),
        (types.SimpleNamespace(a=1), "SimpleNamespace(a=1)"),
        (functools.partial(print, 1, end=""), "functools.partial(<print>, 1, end='')"),
        (re.compile("a", re.IGNORECASE), "re.compile('a', 34)"),
        (1 << 2000, "<int of 2001 bits>"),
        (1 << 70_000, "<int of 8751 bytes>"),
        (len, "<len>"),
        (datetime.datetime, "<datetime.datetime>"),
        (..., "<Ellipsis>"),
    ],
    ids=lambda found: type(found).__name__,
)
def test_what_python_shows_otherwise(value, text):
    assert preview(pickle.dumps(value)) == text


def test_what_the_script_defines_is_shown_with_its_names(script, tmp_path):
    value = {
        "point": Point(1, (2, 3)),
        "frozen": Frozen(1, "a"),
        "slots": Slotted(),
        "level": Level.LOW,
        "access": Access.READ | Access.WRITE,
        "pair": Pair(1, (2, 3)),
        "class": Point,
        "error": Hurt(5, why="so"),
    }
    assert preview(stored(value, tmp_path)).split("\n") == [
        "{",
        "    'point': Point(x=1, y=(2, 3)),",
        "    'frozen': Frozen(x=1, y='a'),",
        "    'slots': Slotted(x=3),",
        "    'level': Level.LOW,",
        "    'access': Access.READ|Access.WRITE,",
        "    'pair': Pair(left=1, right=(2, 3)),",
        "    'class': <Point>,",
        "    'error': Hurt('5: so', code=5)",
        "}",
    ]


def test_a_narrow_terminal_gets_narrow_lines():
    value = {"numbers": list(range(30)), "name": ["a text", {"deep": (1, 2)}], "more": {"x": 1}}
    assert preview(pickle.dumps(value), width=30).split("\n") == [
        "{",
        "    'numbers': [",
        "        0, 1, 2, 3, 4, 5, 6,",
        "        7, 8, 9, 10, 11, 12,",
        "        13, 14, 15, 16, 17,",
        "        18, 19, ... +10",
        "    ],",
        "    'name': [",
        "        'a text',",
        "        {'deep': (1, 2)}",
        "    ],",
        "    'more': {'x': 1}",
        "}",
    ]


def test_in_full_nothing_is_left_out(tmp_path):
    value = [list(range(1000)), "x" * 10_000, dict.fromkeys(range(50))]
    assert eval(preview(pickle.dumps(value), full=True)) == value
    deep = [1]
    for _ in range(30):
        deep = [deep]
    assert preview(pickle.dumps(deep), full=True) == repr(deep)
    assert "..." in preview(pickle.dumps(deep))


def test_a_text_is_given_as_it_is_where_that_is_asked_for():
    for value in ("a\ntext", "x" * 100_000):
        assert preview(pickle.dumps(value), plain=True) == value
    assert preview(pickle.dumps(["a"]), plain=True) == "['a']"


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_read(protocol):
    value = [1, -1, 300, 70_000, 2**40, -(2**40), 1.5, True, None, "täxt", (1, 2, 3, 4), {"a": 1}, Point(1, (2, 3))]
    shown = preview(pickle.dumps(value, protocol), width=1000)
    assert shown == repr(value).replace("Point(", f"{__name__}.Point(")
