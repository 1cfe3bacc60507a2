"""A value is in every process what it is in the script: one script of all kinds, run in workers and compared."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys

import pytest

import dagron
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.reading.opening import read_ledger
from dagron.crossing.changed import changed_results

SRC = os.path.dirname(os.path.dirname(dagron.__file__))

# Each function returns something that a plain call gives as well; what a run gives has to be equal to it.
KINDS = """
import abc, collections, concurrent.futures, contextvars, copyreg, dataclasses, enum, functools, json, os, pickle
import numbers, sys, tempfile, typing
import dagron
import kinds_library

FUTURE = sys.version_info >= (3, 12)


@functools.cache
def table(n):
    return [i * i for i in range(n)]

def cached():
    return table(10)[3], table.cache_parameters(), table.__name__, table(2) is table(2)

def cached_locally():
    @functools.lru_cache(maxsize=3)
    def local(n):
        return n if n < 2 else local(n - 1) + local(n - 2)
    return local

FIB = cached_locally()
def cached_and_recursive():
    return FIB(20), FIB.cache_parameters()["maxsize"]

class Holder:
    limit = object()

    def __init__(self, n):
        self.n = n

    @functools.lru_cache(maxsize=None)
    def method(self, x):
        return self.n + x

    @functools.cached_property
    def double(self):
        return 2 * self.n

def cached_members():
    holder = Holder(3)
    return holder.method(4), holder.double, holder.double, Holder.double.attrname

@functools.singledispatch
def describe(x):
    return "something"

@describe.register
def _(x: int):
    return "int"

@describe.register(Holder)
def _(x):
    return "holder"

def dispatching():
    return describe(3), describe(Holder(1)), describe("x"), describe.__name__

class Dispatcher:
    @functools.singledispatchmethod
    def kind(self, x):
        return "other"
    @kind.register
    def _(self, x: int):
        return "int"
    def three(self, a, b, *, c):
        return a, b, c
    two = functools.partialmethod(three, 1, c=3)

def dispatching_method():
    return Dispatcher().kind(3), Dispatcher().kind("x"), Dispatcher().two(2)

UserId = typing.NewType("UserId", int)
T = typing.TypeVar("T")
P = typing.ParamSpec("P")
Ts = typing.TypeVarTuple("Ts")
if FUTURE:
    exec("type Alias = list[int]")
    exec("type Json = dict[str, Json] | list[Json] | int")
    exec("type Tree_[K: (int, str), *Us, **Q] = list[Tree_[K, *Us, Q]]")
    exec("type Rose = list[Thorn]; type Thorn = tuple[Rose, int]")
    exec("type ForCheckers = list[NotImported]")

def aliases():
    if not FUTURE:
        return None
    try:
        ForCheckers.__value__
        error = ""
    except NameError as found:
        error = str(found)
    of_tree = Tree_.__value__.__args__[0]
    return (
        Json.__value__.__args__[1].__args__[0] is Json, Json.__name__, Json.__module__ == __name__, str(Json.__value__),
        of_tree.__origin__ is Tree_, of_tree.__args__[0] is Tree_.__type_params__[0], str(Tree_.__value__),
        Tree_.__type_params__[0].__constraints__, str(Tree_[int, str, [int]]),
        Rose.__value__.__args__[0].__value__.__args__[0] is Rose, error, typing.get_type_hints(of_json)["x"] is Json,
    )

def of_json(x: "Json"):
    return x

VAR_OF_LIBRARY, MISSING_OF_LIBRARY = kinds_library.VAR, kinds_library.MISSING

def of_a_library(var=kinds_library.Held(kinds_library.VAR), missing=kinds_library.Held(kinds_library.OTHER)):
    kinds_library.VAR.set(5)
    return (
        VAR_OF_LIBRARY is kinds_library.VAR, var.value is kinds_library.VAR, var.value.get(), kinds_library.get(),
        MISSING_OF_LIBRARY is kinds_library.MISSING, missing.value is kinds_library.OTHER,
    )

class Box(typing.Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item

class Stack(Box[int], typing.Generic[T]):
    pass

def typing_kinds(x: UserId = UserId(3), *, t=T, p=P, ts=Ts) -> UserId:
    alias = Alias.__value__ == list[int] if FUTURE else True
    hints = typing.get_type_hints(typing_kinds)
    return x, t is T, p is P, ts is Ts, alias, hints["x"] is UserId, Box[int](3).item, Stack.__parameters__ == (T,)

class _Missing:
    def __reduce__(self):
        return "MISSING"
MISSING = _Missing()
class Unset:
    __slots__ = ()
UNSET = Unset()
PLAIN = object()

def sentinels(a=MISSING, b=UNSET, c=PLAIN, d=Holder.limit):
    return a is MISSING, b is UNSET, c is PLAIN, d is Holder.limit, type(a) is _Missing

User = collections.namedtuple("Row", "id name")
Item = collections.namedtuple("Row", "name id")
Old, New = enum.Enum("Status", "OK BAD"), enum.Enum("Status", "BAD OK")
Left, Right = type("Same", (), {"x": 1}), type("Same", (), {"x": 2})
Made = dataclasses.make_dataclass("Made", ["x", "y"])

def names_of_several():
    return User(1, "a").id, Item("b", 2).id, Old.OK.value, New.OK.value, Left.x, Right.x, Left is Right, Made(1, 2).y

class Planet(enum.Enum):
    EARTH = (5.976e24, 6.37814e6)
    MARS = (6.421e23, 3.3972e6)
    MAVORS = (6.421e23, 3.3972e6)
    def __init__(self, mass, radius):
        self.mass, self.radius = mass, radius
    def gravity(self):
        return round(6.673e-11 * self.mass / self.radius**2, 1)

class Coordinate(bytes, enum.Enum):
    def __new__(cls, value, label, unit):
        obj = bytes.__new__(cls, [value])
        obj._value_ = value
        obj.label, obj.unit = label, unit
        return obj
    PX = (0, "P.X", "km")
    PY = (1, "P.Y", "km")

class Colour(enum.Flag):
    RED = enum.auto()
    GREEN = enum.auto()
    BLUE = enum.auto()
    WHITE = RED | GREEN | BLUE

class Mode(enum.IntFlag):
    R = 4
    W = 2

class Word(enum.StrEnum):
    A = "a"
    B = enum.auto()

class Number(enum.IntEnum):
    ONE = 1
    UNO = 1
    def twice(self):
        return 2 * self

class Shape(enum.Enum):
    SQUARE = [1, 2]
    def __str__(self):
        return "shape"
    @property
    def sides(self):
        return 4
    @classmethod
    def default(cls):
        return cls.SQUARE

class Operation(enum.Enum):
    INC = enum.member(functools.partial(max, 5))
    OTHER = object()
    def __call__(self, x):
        return self.value(x)

def enums(planet=Planet.MARS, inc=Operation.INC, other=[Operation.OTHER]):
    return (
        inc is Operation.INC, inc(3), other[0] is Operation.OTHER,
        planet.gravity(), planet is Planet.MARS, Planet.MAVORS is Planet.MARS, list(Planet.__members__),
        Coordinate.PY.label, bytes(Coordinate.PY), Coordinate(1) is Coordinate.PY,
        str(Colour.RED | Colour.BLUE), Colour.WHITE in [Colour(7)], (Colour.RED | Colour.GREEN).value,
        int(Mode.R | Mode.W | 8), repr(Mode.R | Mode.W), len(Colour), Colour.RED in Colour.WHITE, (~Colour.RED).value,
        Word.B, Word.A + "x", Word("b") is Word.B, Number.UNO is Number.ONE, Number.ONE.twice(), Number["UNO"].name,
        str(Shape.SQUARE), Shape.SQUARE.sides, Shape.default() is Shape.SQUARE, Shape([1, 2]) is Shape.SQUARE,
        repr(Number.ONE), f"{Number.ONE}", isinstance(Number.ONE, int), hash(Word.A) == hash("a"),
        pickle.loads(pickle.dumps(Planet.EARTH)) is Planet.EARTH,
    )

@dataclasses.dataclass(order=True, frozen=True)
class Point:
    x: int
    tags: tuple = dataclasses.field(default_factory=tuple, compare=False)
    kind: Planet = dataclasses.field(default=Planet.EARTH, kw_only=True)

@dataclasses.dataclass(slots=True)
class Slotted:
    x: int
    y: int = 0

class SlotsAndMore(Slotted):
    __slots__ = ("z", "__dict__")
    @property
    def both(self):
        return self.x + self.z

def dataclass_kinds():
    required = [f.name for f in dataclasses.fields(Point) if f.default is dataclasses.MISSING]
    sub = dataclasses.make_dataclass("Sub", [("b", int)], bases=(Slotted,)) if False else Slotted
    child = dataclasses.make_dataclass("Child", [("b", int, 3)], bases=(Base,))
    more = SlotsAndMore(1)
    more.z, more.other = 5, 6
    try:
        Slotted(1).nothing = 1
        closed = False
    except AttributeError:
        closed = True
    return (
        required, repr(child(1)), repr(Point(1)), max(Point(2), Point(1)), len({Point(1), Point(1)}), closed,
        more.both, more.other, dataclasses.replace(Point(1), x=4), dataclasses.asdict(Slotted(1, 2)),
        dataclasses.fields(Point)[2].kw_only,
    )

@dataclasses.dataclass
class Base:
    a: int

class Registered:
    kinds = {}
    def __init_subclass__(cls, /, *, kind, **more):
        super().__init_subclass__(**more)
        Registered.kinds[kind] = cls
        cls.kind = kind

class First(Registered, kind="first"):
    pass

class Meta(type):
    def __new__(mcs, name, bases, namespace, *, word="none"):
        cls = super().__new__(mcs, name, bases, namespace)
        cls.word = word
        return cls
    def __init__(cls, name, bases, namespace, *, word="none"):
        super().__init__(name, bases, namespace)
    def __len__(cls):
        return 5

class WithMeta(metaclass=Meta, word="said"):
    def me(self):
        return __class__, super().__repr__() is not None

class Abstract(abc.ABC):
    @abc.abstractmethod
    def f(self): ...

class Concrete(Abstract):
    def f(self):
        return 1

@Abstract.register
class Virtual:
    pass

@typing.runtime_checkable
class HasF(typing.Protocol):
    def f(self) -> int: ...

# What abstract classes of libraries were told of.
@numbers.Number.register
class Registered_:
    class Inner:
        pass

@collections.abc.Sized.register
class RegisteredForResults:
    pass

collections.abc.Iterable.register(Registered_.Inner)

def registered_elsewhere():
    found = isinstance(Registered_(), numbers.Number), isinstance(Registered_.Inner(), collections.abc.Iterable)
    return *found, isinstance(getattr(sys.modules[__name__], "Registered" + "ForResults")(), collections.abc.Sized)

# A metaclass that calls classes of one name equal.
class ByName(type):
    def __eq__(cls, other):
        return isinstance(other, type) and cls.__name__ == other.__name__
    def __hash__(cls):
        return hash(cls.__name__)

def alike(base):
    class Alike(base, metaclass=ByName):
        def kind(self):
            return base.__name__
    return Alike

ListAlike, DictAlike = alike(list), alike(dict)

def classes_called_equal(one=ListAlike([1]), other=DictAlike(a=1)):
    return one.kind(), other.kind(), type(one) is ListAlike, type(other) is DictAlike, list(one), dict(other)

class Movie(typing.TypedDict, total=False):
    title: str

class Pair(typing.NamedTuple):
    a: int
    b: str = "b"
    def both(self):
        return f"{self.a}{self.b}"

class Descriptor:
    def __set_name__(self, owner, name):
        self.name = name
    def __get__(self, obj, owner=None):
        return self.name

class Described:
    __slots__ = ("a", "_b")
    field = Descriptor()
    @classmethod
    def make(cls):
        return cls()
    @staticmethod
    def fixed():
        return 7
    class Inner:
        x = 5

def class_kinds():
    try:
        Abstract()
        abstract = False
    except TypeError:
        abstract = True
    class Second(Registered, kind="second"):
        pass
    return (
        Registered.kinds["first"] is First, First.kind, Second.kind, WithMeta.word, len(WithMeta),
        WithMeta().me() == (WithMeta, True), abstract, isinstance(Concrete(), Abstract), issubclass(Virtual, Abstract),
        isinstance(Concrete(), HasF), isinstance(3, HasF), Movie(title="x"), Movie.__total__,
        Pair(1).both(), Pair._fields,
        Described.field, Described.make().fixed(), Described.Inner.x, Described.__slots__, hasattr(Described(), "a"),
        type(Described()).__name__, Described.Inner.__qualname__, Point.__module__ == __name__,
    )

class Tree(dict):
    def __reduce__(self):
        return rebuilt, (sorted(self.items()),)
def rebuilt(items):
    return Tree(items)

def made_by_extensions(f=kinds_library.FUNCTION):
    return f is kinds_library.FUNCTION, f()

class Foreign:
    def __init__(self, x):
        self.x = x
        self.f = lambda: x
copyreg.pickle(Foreign, lambda obj: (Foreign, (obj.x,)))

VAR = contextvars.ContextVar("VAR", default=3)
COUNT = 0
CONFIG = {"a": [1]}
ALIAS = CONFIG["a"]

def counter():
    global COUNT
    COUNT += 1
    return COUNT > 0

def globals_of_a_script(var=VAR):
    CONFIG["a"].append(2)
    found = VAR.get(), var is VAR, ALIAS is CONFIG["a"], ALIAS[:2], counter(), concurrent.futures.Future.__name__
    return *found, __name__, pickle.loads(pickle.dumps(Tree(a=1))), pickle.loads(pickle.dumps(Foreign(2))).x

def make_shared_variable():
    n = 0
    def inc():
        nonlocal n
        n += 1
    def use():
        inc()
        return n
    return use
shared_variable = make_shared_variable()

class Model(kinds_library.BaseModel):
    pass

class OneNumber(Pair):
    __slots__ = ()
    def __new__(cls, n):
        return super().__new__(cls, n, str(n))

class Proxy:
    # Hands all questions on, also those that pickle asks before it has any attribute.
    def __init__(self, target):
        self._target = target
    def __getattr__(self, name):
        return getattr(self._target, name)
    def __eq__(self, other):
        return self._target == other._target
    def __repr__(self):
        return f"Proxy({self._target!r})"

class SlottedProxy:
    __slots__ = ("_target",)
    __init__, __getattr__, __eq__, __repr__ = Proxy.__init__, Proxy.__getattr__, Proxy.__eq__, Proxy.__repr__

class NamedItems(dict):
    def __getattr__(self, name):
        return self[name] if name in self else getattr(self._more, name)

class Failed(Exception):
    def __init__(self, step, *, why):
        super().__init__(f"{step}: {why}")
        self.step, self.why = step, why
    def __eq__(self, other):
        return (self.args, vars(self)) == (other.args, vars(other))

class FailedInSlots(Failed):
    __slots__ = ("place",)
    def __init__(self, place):
        super().__init__(1, why="slots")
        self.place = place
    def __eq__(self, other):
        return super().__eq__(other) and self.place == other.place

def instances(
    number=OneNumber(1), proxy=Proxy([1, 2]), slotted=SlottedProxy("text"), items=NamedItems(a=1),
    failed=Failed(1, why="x"), in_slots=FailedInSlots(4), far=kinds_library.Far(1, 2), model=Model[str](),
):
    object.__setattr__(items, "_more", "abc")
    again = pickle.loads(pickle.dumps(number.both()))
    return (
        number, again, proxy.count(1), slotted.upper(), items.a, items.upper(), str(failed), failed.why,
        in_slots.place, in_slots.step, str(far), far.b, isinstance(far, kinds_library.Far), type(model) is Model[str],
    )

class Oops(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code

def exceptions():
    try:
        raise pickle.loads(pickle.dumps(Oops(3)))
    except Oops as error:
        return error.code

TASKS = {
    f.__name__: f
    for f in (cached, cached_and_recursive, cached_members, dispatching, dispatching_method, typing_kinds, sentinels,
              names_of_several, enums, dataclass_kinds, class_kinds, globals_of_a_script, exceptions, aliases,
              of_a_library, instances, registered_elsewhere, classes_called_equal, made_by_extensions)
}

# Of each kind a value that a first node returns, that a second compares by identity and equality where it runs.
VALUES = [
    Point(1), Planet.MARS, Colour.RED | Colour.BLUE, Mode.R, Word.A, Number.ONE, Shape.SQUARE, Coordinate.PX,
    User(1, "a"), Item("b", 2), Old.OK, New.OK, Pair(1), Point, Planet, User, Left, describe, table, UserId, T, P, Ts,
    MISSING, UNSET, PLAIN, Concrete, HasF, class_kinds, Described.Inner, Described.make, Box[int], First, Movie,
    Slotted(1, 2), SlotsAndMore, Made(1, 2), Tree(a=1), frozenset({Point(1), Point(2)}), WithMeta,
    OneNumber(1), Proxy([1, 2]), SlottedProxy("text"), NamedItems(a=1), Failed(1, why="x"), FailedInSlots(4),
    kinds_library.Far(1, 2), Model[int], Model[str](),
    sys.modules[__name__], kinds_library, kinds_library.FUNCTION, ListAlike([1]), DictAlike(a=1), ListAlike, DictAlike,
    Operation.INC,
] + ([Alias, Json, Rose] if FUTURE else [])
IDENTICAL = (type, enum.Enum, typing.NewType, typing.TypeVar, typing.ParamSpec, typing.TypeVarTuple, Unset, _Missing,
             type(sys), type(kinds_library.FUNCTION))

def same(i, value):
    wanted = VALUES[i]
    if isinstance(wanted, IDENTICAL) or type(wanted) is object or type(wanted) in (type(same), type(table)):
        return value is wanted
    if isinstance(wanted, enum.Flag):
        return value is wanted
    return type(value) is type(wanted) and value == wanted and repr(value) == repr(wanted)

def value(i):
    return VALUES[i]

def build():
    flow = dagron.Flow()
    for name, f in TASKS.items():
        flow.add(name, f)
    flow.map("shared[{}]", lambda i: make_shared_variable()(), range(3))
    made = flow.map("value[{}]", value, range(len(VALUES)))
    for i, node in enumerate(made):
        flow.add(f"same[{i}]", same, i, node)
        flow.add(f"given[{i}]", same, i, VALUES[i])
    return flow
"""

# Installed, as it were: workers import it.
LIBRARY = """
import contextvars, functools, sys, threading, types

# As the functions that Cython makes: their type is in a module that nobody can import, they themselves are in this one.
_RUNTIME = sys.modules["_runtime_of_extensions"] = types.ModuleType("_runtime_of_extensions")
_RUNTIME.function = type(
    "function",
    (),
    {
        "__module__": _RUNTIME.__name__,
        "__call__": staticmethod(functools.partial(dict, made=1)),
        "__reduce__": staticmethod(functools.partial(str, "FUNCTION")),
    },
)
FUNCTION = _RUNTIME.function()
FUNCTION.__module__ = __name__

VAR = contextvars.ContextVar("VAR", default=threading.Lock())
MISSING = object()
OTHER = object()

class Held:
    def __init__(self, value):
        self.value = value

def get():
    return VAR.get()

# As pydantic makes classes of a generic model.
MADE = {}

class BaseModel:
    def __class_getitem__(cls, args):
        args = args if isinstance(args, tuple) else (args,)
        if (cls, args) not in MADE:
            made = MADE[cls, args] = type(f"{cls.__name__}{args}", (cls,), {"__module__": cls.__module__})
            made.__pydantic_generic_metadata__ = {"origin": cls, "args": args}
        return MADE[cls, args]
    def __eq__(self, other):
        return type(self) is type(other)
    def __repr__(self):
        return "Model()"

class Far(ValueError):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b
    def __eq__(self, other):
        return vars(self) == vars(other)
"""

MAIN = """
if __name__ == "__main__":
    import json, sys, tempfile
    pool, directory = sys.argv[1:]
    plain = {name: f() for name, f in TASKS.items()}
    result = build().run(directory, resume=True, max_workers=2, pool=pool)
    told = {}
    for name, wanted in plain.items():
        node = result[name]
        told[name] = repr(node.error or node.result) if node.error or node.result != wanted else ""
    for i in range(len(VALUES)):
        node = result[f"same[{i}]"]
        made = result[f"value[{i}]"]
        told[f"value {i}"] = "" if node.result is True else f"{type(VALUES[i])}: {node.error!r} {made.error!r}"
        given = result[f"given[{i}]"]
        told[f"given {i}"] = "" if given.result is True else f"{type(VALUES[i])}: {given.error!r}"
        told[f"result {i}"] = "" if not made.error and same(i, made.result) else f"{type(VALUES[i])}: {made.error!r}"
    told["shared"] = "" if [result[f"shared[{i}]"].result for i in range(3)] == [1, 1, 1] else "not"
    print(json.dumps({"told": told, "restored": result.restored}))
"""


def run(script, *args):
    done = subprocess.run(
        [sys.executable, script, *map(str, args)], env={**os.environ, "PYTHONPATH": SRC}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "job.py"
    path.write_text(KINDS + MAIN)
    path.with_name("kinds_library.py").write_text(LIBRARY)
    return path


@pytest.mark.parametrize("pool", ["process", "inline"])
def test_all_kinds_are_the_same_in_a_worker_and_when_they_are_restored(script, tmp_path, pool):
    told = run(script, pool, tmp_path / "ckpt")
    assert {name: text for name, text in told["told"].items() if text} == {}
    assert told["restored"] == 0
    # In a fresh process, which makes its classes anew.
    told = run(script, pool, tmp_path / "ckpt")
    assert {name: text for name, text in told["told"].items() if text} == {}
    assert told["restored"] > 50


# --- a script that has changed ---------------------------------------------------------------------------------------

JOB = """
import dataclasses, enum, json, sys
import dagron

class Kind(enum.Enum):
    {members}

@dataclasses.dataclass
class Point:
    {fields}

def make(i):
    return Point(*range(len(dataclasses.fields(Point))))

def kind():
    return list(Kind)

def use(point, kind):
    return repr(point)

def big():
    return [Point(*range(len(dataclasses.fields(Point)))), bytes(100_000)]

flow = dagron.Flow()
made = flow.map("make[{{}}]", make, range(2))
flow.add("plain", lambda: [1, {{2: "x"}}])
flow.add("big", big)
flow.add("use", use, made[0], flow.add("kind", kind))
if __name__ == "__main__":
    result = flow.run("ckpt", resume=True, max_workers=1)
    print(json.dumps({{"restored": result.restored, "use": result["use"].result}}))
"""


class TestAScriptThatHasChanged:
    @pytest.fixture
    def run_with(self, tmp_path):
        def run_with(fields="x: int", members="A = 1"):
            (tmp_path / "job.py").write_text(JOB.format(fields=fields, members=members))
            done = subprocess.run(
                [sys.executable, "job.py"],
                env={**os.environ, "PYTHONPATH": SRC},
                cwd=tmp_path,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout.splitlines()[-1]), done.stderr

        return run_with

    def test_what_made_instances_of_a_changed_class_runs_again_and_says_why(self, run_with, tmp_path):
        assert run_with() == ({"restored": 0, "use": "Point(x=0)"}, "")
        told, warned = run_with(fields="x: int\n    y: int")
        assert told == {"restored": 2, "use": "Point(x=0, y=1)"}  # kind and plain
        assert "'Point' of the script is not what it was" in warned
        assert "the field 'y' is new; made again: 'make[0]', 'make[1]', 'big', and what was made of it" in warned
        assert run_with(fields="x: int\n    y: int") == ({"restored": 6, "use": "Point(x=0, y=1)"}, "")

    def test_a_dry_run_says_the_same(self, run_with, tmp_path):
        run_with()
        (tmp_path / "job.py").write_text(JOB.format(fields="y: int", members="A = 1"))
        done = subprocess.run(
            [sys.executable, "-m", "dagron", "run", "job.py", "-d", "ckpt", "--resume", "--dry-run", "--json"],
            env={**os.environ, "PYTHONPATH": SRC},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "the field 'x' is gone; the field 'y' is new" in done.stdout
        assert run_with(fields="y: int")[0]["restored"] == 2

    def test_what_is_only_added_is_no_change(self, run_with):
        run_with()
        assert run_with(members="A = 1\n    B = 2") == ({"restored": 6, "use": "Point(x=0)"}, "")
        told, warned = run_with(members="A = 2\n    B = 1")
        assert told["restored"] == 4
        assert "'Kind' of the script is not what it was" in warned
        assert "the member 'A' was 1, and is 2" in warned

    def test_members_that_hold_functions_or_classes_are_what_they_were(self, run_with):
        members = "A = 1\n    F = enum.member(len)\n    G = (2, [len, dict])"
        run_with(members=members)
        assert run_with(members=members + "\n    B = 2") == ({"restored": 6, "use": "Point(x=0)"}, "")
        _, warned = run_with(members="A = 1\n    G = (2, [len, dict])")
        assert "the member 'F' is gone" in warned

    def test_a_resume_that_is_killed_before_it_has_compared_does_not_forget_to(self, run_with, tmp_path):
        run_with()
        (tmp_path / "job.py").write_text(JOB.format(fields="y: int", members="A = 1"))
        died = subprocess.run(
            [
                sys.executable,
                "-c",
                "import os, runpy, dagron.runs.prepare as p; p.changed_results = lambda *a: os._exit(9); "
                "runpy.run_path('job.py', run_name='__main__')",
            ],
            env={**os.environ, "PYTHONPATH": SRC},
            cwd=tmp_path,
            check=False,
        )
        assert died.returncode == 9
        assert run_with(fields="y: int")[0] == {"restored": 2, "use": "Point(y=0)"}

    def test_a_name_that_is_new_is_looked_for_in_no_result_and_is_recorded(self, run_with, tmp_path):
        def resumed(source):
            (tmp_path / "job.py").write_text(source)
            code = (
                "import os, runpy, dagron.runs.prepare as p; p.changed_results = lambda *a: os._exit(9); "
                "runpy.run_path('job.py', run_name='__main__')"
            )
            env = {**os.environ, "PYTHONPATH": SRC}
            return subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, check=False).returncode

        run_with()
        source = JOB.format(fields="x: int", members="A = 1")
        added = source.replace("def use(", "class Added:\n    pass\n\ndef use(")
        assert resumed(added) == 0
        assert "__main__:Added" in dict(read_ledger(Directory(tmp_path / "ckpt")).definitions)
        assert resumed(source) == 9  # which results may hold

    def test_nothing_that_a_result_names_is_run_to_find_out(self, tmp_path):
        class Boom:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "ran"),)

        data = pickle.dumps([Boom(), {1: Boom()}, (Boom(), b"x")], 5)
        assert changed_results(["a"], lambda _: data, {}, {}) == {}
        assert not (tmp_path / "ran").exists()

    def test_a_run_says_with_what_it_was_made(self, run_with, tmp_path):
        run_with()
        run = read_ledger(Directory(tmp_path / "ckpt")).run
        assert dict(run.versions)["python"] == ".".join(map(str, sys.version_info[:3]))
        assert {"dagron", "cloudpickle"} < dict(run.versions).keys()
        assert {"__main__:Point", "__main__:Kind", "__main__:make"} <= dict(run.definitions).keys()


# --- what tasks start ------------------------------------------------------------------------------------------------

NESTED = """
import concurrent.futures, dataclasses, enum, json, multiprocessing
import dagron

OFFSET = 5

class Kind(enum.Enum):
    A = 1

@dataclasses.dataclass(frozen=True)
class P:
    x: int
    kind: Kind = Kind.A

def helper(p):
    return P(p.x * p.x + OFFSET, p.kind)

def square(p):
    assert p.kind is Kind.A
    return helper(p)

def inner(method):
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        found = list(pool.map(square, [P(1), P(2)]))
    return {P(6), P(9)} == set(found), [one.kind is Kind.A for one in found]

def with_joblib():
    import joblib
    return [one.x for one in joblib.Parallel(2)(joblib.delayed(square)(P(i)) for i in (1, 2))]

flow = dagron.Flow()
for method in multiprocessing.get_all_start_methods():
    flow.add(method, inner, method)
if JOBLIB:
    flow.add("joblib", with_joblib)
if __name__ == "__main__":
    result = flow.run("ckpt", max_workers=1)
    print(json.dumps({name: repr(node.error or node.result) for name, node in result.node_results.items()}))
"""


@pytest.mark.parametrize("joblib", [False, True])
@pytest.mark.parametrize("how", ["python", "dagron run"])
def test_pools_inside_of_tasks_find_what_the_script_defines(tmp_path, how, joblib):
    if joblib:
        pytest.importorskip("joblib")
    (tmp_path / "job.py").write_text(NESTED.replace("JOBLIB", str(joblib)))
    command = ["job.py"] if how == "python" else ["-m", "dagron", "run", "job.py", "-d", "ckpt"]
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, "PYTHONPATH": SRC}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if how == "python":
        # The last line: above it a process of loky may tell that it was still starting when the worker ended.
        told = json.loads(done.stdout.splitlines()[-1])
        assert told.pop("joblib", "[6, 9]") == "[6, 9]"
        assert set(told.values()) == {"(True, [True, True])"}
        assert set(told) == set(multiprocessing.get_all_start_methods())


# --- classes without a name ------------------------------------------------------------------------------------------

UNNAMED = """
import dataclasses, json
import dagron

@dataclasses.dataclass
class Data:
    x: int
Old = Data
make_old = lambda c=Data: c(1)

@dataclasses.dataclass
class Data:
    y: int
make_new = lambda c=Data: c(2)

in_a_loop = []
for i in range(3):
    class Loop:
        k = i
    in_a_loop.append(Loop)

def build():
    class Local:
        def __init__(self, v):
            self.v = v
        def __eq__(self, other):
            return type(self) is type(other) and self.v == other.v
        def __hash__(self):
            return self.v
    return Local, lambda: Local(1), lambda xs: [len(set(xs)), all(isinstance(x, Local) for x in xs)]

Local, make, check = build()
flow = dagron.Flow()
old, new = flow.add("old", make_old), flow.add("new", make_new)
told = flow.add("told", lambda a, b: [type(a) is Old, type(b) is Data, a.x, b.y], old, new)
loops = flow.map("loop[{}]", lambda i: in_a_loop[i](), range(3))
ks = flow.add("ks", lambda found: [one.k for one in found], loops)
made = [flow.add(f"made[{i}]", make) for i in range(3)]
checked = flow.add("checked", check, made)
if __name__ == "__main__":
    result = flow.run("ckpt", resume=True, max_workers=2)
    print(json.dumps([
        result.restored, result.value(told), type(result.value(old)) is Old, type(result.value(new)) is Data,
        result.value(ks), [type(result.value(node)) is cls for node, cls in zip(loops, in_a_loop)],
        result.value(checked), [type(result.value(node)) is Local for node in made],
    ]))
"""


def test_classes_without_a_name_or_with_one_name_stay_apart_and_themselves(tmp_path):
    (tmp_path / "job.py").write_text(UNNAMED)
    for restored in (0, 11):
        done = subprocess.run(
            [sys.executable, "job.py"],
            env={**os.environ, "PYTHONPATH": SRC},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        expected = [[True, True, 1, 2], True, True, [0, 1, 2], [True] * 3, [1, True], [True] * 3]
        assert found == [restored, *expected]
