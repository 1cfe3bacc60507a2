"""Drawn scripts: what classes of all kinds and values of them are stays the same in every process of two runs.

Each example is a script with a class or more of every kind, whose options are drawn, and values of them, nested. A
plain call says what each value is, compared with one that is made again: its class, equality, hash, order, text, and
what its method returns. Then the script runs twice, each time in a fresh process: the values are made and looked at in
workers, stored, restored, and looked at again in workers that have made none of them, and in the script's own process.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from places import SRC

WITHOUT_SHRINKING = [Phase.generate]
"""An example takes a second, and shrinking one hundreds of them; what a failure shows is one expression."""

HEAD = """
import collections, dataclasses, enum, functools, json, sys, typing
import dagron

T = typing.TypeVar("T")
"""

# What is told of a value in comparison with one that the same expression makes here.
TAIL = """
def attempt(f):
    try:
        found = f()
    except Exception as error:
        return type(error).__name__
    return found if isinstance(found, (bool, int, str)) else repr(found)

def of_set(value):
    # There is no telling which member is which of another set.
    if type(value) in (tuple, frozenset):
        inner = map(of_set, value)
        return type(value).__name__ + str(list(inner) if type(value) is tuple else sorted(inner))
    return str([name for name, cls in CLASSES.items() if type(value) is cls]) + shown(value)

def shown(value):
    return "" if " at 0x" in repr(value) else repr(value)

def tell(value, own):
    kind = type(value)
    if kind is not type(own):
        return f"a {type(own)!r} is {id(type(own)) == id(kind)} a {kind!r}"
    if kind in (list, tuple):
        twice = [i for i, x in enumerate(value) if type(x) in CLASSES.values() and any(x is y for y in value[:i])]
        return [kind.__name__, twice, len(value) == len(own), *map(tell, value, own)]
    if kind is dict:
        items = [tell(list(value), list(own)), tell(list(value.values()), list(own.values()))]
        return ["dict", value == own, len(value | own), *items]
    if kind in (set, frozenset):
        return [kind.__name__, value == own, len(value), len(value | own), sorted(map(of_set, value))]
    return [
        [name for name, cls in CLASSES.items() if kind is cls],
        [name for name, cls in CLASSES.items() if isinstance(value, cls)],
        [name for name, found in NAMED.items() if value is found],
        kind.__module__ != "builtins" and value is own, value == own, value != own,
        attempt(lambda: hash(value) == hash(own)), attempt(lambda: len({value, own})),
        attempt(lambda: value < own), attempt(lambda: value <= own), attempt(lambda: max(value, own) is value),
        shown(value), shown(value) and attempt(lambda: str(value)), attempt(lambda: value.act()),
    ]

def look(i, value):
    return tell(value, MAKERS[i]())

CLASSES = {name: found for name, found in list(globals().items()) if isinstance(found, type) and name.startswith("C")}
NAMED = {name: globals()[name] for name in NAMES}

if __name__ == "__main__":
    which = sys.argv[1]
    flow = dagron.Flow()
    made = [flow.add(f"value[{i}]", make) for i, make in enumerate(MAKERS)]
    for other in ["first", "second"][: 1 + (which == "second")]:
        for i, value in enumerate(made):
            flow.add(f"{other}[{i}]", look, i, value)
    plain = [look(i, make()) for i, make in enumerate(MAKERS)]
    result = flow.run("ckpt", resume=True, max_workers=2)
    errors = [f"{name}: {node.error!r}" for name, node in result.node_results.items() if node.error]
    told = {} if errors else {
        "in a worker": [result[f"{which}[{i}]"].result for i in range(len(made))],
        "in the script": [look(i, result.value(value)) for i, value in enumerate(made)],
    }
    print(json.dumps({"plain": plain, "told": told, "errors": errors, "restored": result.restored}))
"""


# --- classes ---------------------------------------------------------------------------------------------------------
# Each kind draws the text that defines `C<n>`, and returns expressions of values of it: some that can be in a set, and
# some that cannot.

ACT = "def act(self):\n        return [str(self.a), str(self.b), type(self) is {0}, isinstance(self, {0})]"
BY_FIELDS = """
    def __eq__(self, other):
        return type(self) is type(other) and (self.a, self.b) == (other.a, other.b)
    def __hash__(self):
        return hash((self.a, self.b))"""
INIT = "def __init__(self, a, b=0):\n        self.a, self.b = a, b"
REPR = 'def __repr__(self):\n        return f"{type(self).__qualname__}<{self.a!r}, {self.b!r}>"'

scalars = st.sampled_from(["0", "1", "-7", "'a'", "'é'", "2.5", "None", "b'x'"])


def body(name, *parts):
    return "".join(f"\n    {part}" for part in (*parts, REPR, ACT.format(name)))


@st.composite
def plain(draw, name):
    by_fields = BY_FIELDS if draw(st.booleans()) else ""
    base = draw(st.sampled_from(["", "dict", "list", "int"])) if not by_fields else ""
    if base == "int":
        text = f"class {name}(int):\n    a = b = 1" + body(name)
        return text, [f"{name}({draw(st.integers(-3, 3))})"], []
    if base:
        text = f"class {name}({base}):\n    a = b = 1" + body(name)
        return text, [], [f"{name}()"]
    return f"class {name}:{by_fields}{body(name, INIT)}", made(draw, name), []


@st.composite
def slotted(draw, name):
    by_fields = BY_FIELDS if draw(st.booleans()) else ""
    text = f"class {name}:\n    __slots__ = ('a', 'b'){by_fields}{body(name, INIT)}"
    if draw(st.booleans()):
        more = draw(st.sampled_from(["()", "('c',)", "('c', '__dict__')"]))
        text += f"\nclass {name}Sub({name}):\n    __slots__ = {more}"
        return text, [*made(draw, name), *made(draw, f"{name}Sub")], []
    return text, made(draw, name), []


@st.composite
def data(draw, name):
    flags = ["frozen", "order", "slots", "kw_only", "unsafe_hash"]
    options = {flag: draw(st.booleans()) for flag in flags}
    words = ", ".join(f"{flag}={value}" for flag, value in options.items())
    fields = "a: object\n    b: object = 0\n    c: list = dataclasses.field(default_factory=list, compare=False)"
    if draw(st.booleans()):
        text = f"@dataclasses.dataclass({words})\nclass {name}:\n    {fields}\n    {ACT.format(name)}"
    else:
        given_name = draw(st.sampled_from([name, "Made"]))
        text = (
            f"{name} = dataclasses.make_dataclass({given_name!r}, ['a', ('b', object, 0)], {words},"
            f" namespace={{'act': lambda self: [str(self.a), type(self) is {name}]}})"
        )
    a, b = draw(scalars), draw(scalars)
    values = [f"{name}(a={a}, b={b})"]
    hashable = options["frozen"] or options["unsafe_hash"]
    return text, values if hashable else [], [] if hashable else values


@st.composite
def row(draw, name):
    if draw(st.booleans()):
        text = f"class {name}(typing.NamedTuple):\n    a: object\n    b: object = 0\n    {ACT.format(name)}"
    else:
        fields = draw(st.sampled_from(["a b", "b a"]))
        text = f"{name} = collections.namedtuple({draw(st.sampled_from([name, 'Row']))!r}, {fields!r}, defaults=[0])"
    return text, made(draw, name), []


@st.composite
def enumeration(draw, name):
    kind = draw(st.sampled_from(["Enum", "IntEnum", "StrEnum", "functional"]))
    if kind == "functional":
        given_name = draw(st.sampled_from([name, "Status"]))
        words = draw(st.permutations(["OK", "BAD", "ODD"]))
        return f"{name} = enum.Enum({given_name!r}, {' '.join(words)!r})", [f"{name}.{word}" for word in words], []
    values = ["'x'", "'y'", "'x'"] if kind == "StrEnum" else ["1", "2", "1"]
    init = ""
    if kind == "Enum" and draw(st.booleans()):
        values = ["(1, 'p')", "(2, [])", "(1, 'p')"]
        init = "\n    def __init__(self, a, b):\n        self.a, self.b = a, b"
    act = f"\n    def act(self):\n        return [self.name, getattr(self, 'a', 0), self is {name}.ONE, len({name})]"
    members = "".join(f"\n    {word} = {value}" for word, value in zip(["ONE", "TWO", "UNO"], values, strict=True))
    text = f"class {name}(enum.{kind}):{members}{init}{act}"
    return text, [f"{name}.ONE", f"{name}.TWO", f"{name}.UNO"], []


@st.composite
def flag(draw, name):
    kind = draw(st.sampled_from(["Flag", "IntFlag"]))
    both = "\n    BOTH = RED | BLUE" if draw(st.booleans()) else ""
    text = f"class {name}(enum.{kind}):\n    RED = 1\n    BLUE = 2\n    GREEN = 4{both}\n    def act(self):"
    text += f"\n        return [self.value, self in {name}(7), (~self).value, [m.name for m in self]]"
    return text, [f"{name}.RED", f"{name}.RED | {name}.BLUE", f"{name}(0)", f"{name}(7)"], []


@st.composite
def exception(draw, name):
    base = draw(st.sampled_from(["Exception", "ValueError", "KeyError", "OSError"]))
    init = "def __init__(self, a, b=0):\n        super().__init__(a, b)\n        self.a, self.b = a, b"
    if draw(st.booleans()):
        text = f"class {name}({base}):{body(name, init)}"
        return text, made(draw, name), []
    return f"class {name}({base}):\n    pass", [f"{name}({draw(scalars)})"], []


@st.composite
def generic(draw, name):
    by_fields = BY_FIELDS if draw(st.booleans()) else ""
    text = f"class {name}(typing.Generic[T]):{by_fields}{body(name, INIT)}"
    return text, [*made(draw, name), f"{name}[int](3)", f"{name}[int]"], []


@st.composite
def by_type(draw, name):
    parts = "'x': %d, 'act': lambda self: [self.x, type(self) is %s]"
    first, second = parts % (draw(st.integers(0, 9)), name), parts % (draw(st.integers(0, 9)), f"{name}Other")
    text = f"{name} = type('Same', (), {{{first}}})\n{name}Other = type('Same', (), {{{second}}})"
    return text, [f"{name}()", f"{name}Other()", name, f"{name}Other"], []


@st.composite
def bound_again(draw, name):
    fields = draw(st.permutations(["a", "b"]))
    text = "".join(
        f"@dataclasses.dataclass(frozen=True)\nclass Again:\n    {' = 0; '.join(order)} = 0\n".replace(
            " = 0", ": int = 0"
        )
        + f"    def act(self):\n        return [self.a, self.b, type(self) is {bound}]\n{bound} = Again\n"
        for order, bound in [(fields, name), (fields[::-1], f"{name}Other")]
    )
    return text, [f"{name}(1, 2)", f"{name}Other(1, 2)", f"{name}Other"], []


@st.composite
def sentinel(draw, name):
    how = draw(st.sampled_from(["name", "slots", "object"]))
    if how == "object":
        return f"{name} = object()", [name], []
    inside = f"def __reduce__(self):\n        return 'N{name}'" if how == "name" else "__slots__ = ()"
    return f"class {name}:\n    {inside}\nN{name} = {name}()", [f"N{name}"], []


@st.composite
def new_type(draw, name):
    return f"{name} = typing.NewType('{name}', {draw(st.sampled_from(['int', 'str']))})", [name, f"{name}(3)"], []


@st.composite
def cached(draw, name):
    decorator = draw(st.sampled_from(["@functools.cache", "@functools.lru_cache(maxsize=2)", ""]))
    text = f"{decorator}\ndef {name}(a):\n    return (a, 1)"
    return text, [name, f"{name}({draw(scalars)})"], []


def made(draw, name):
    return [f"{name}({draw(scalars)}, {draw(scalars)})", f"{name}({draw(scalars)})", name]


KINDS = [
    *(plain, slotted, data, data, row, row, enumeration, enumeration, flag, exception, generic),
    *(by_type, bound_again, sentinel, new_type, cached),
]


# --- scripts ---------------------------------------------------------------------------------------------------------


def nested(hashable, others):
    """Draw an expression of values in lists, tuples, dicts and sets."""
    keys = st.recursive(
        st.sampled_from(hashable),
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda xs: f"({''.join(f'{x}, ' for x in xs)})")
            | st.lists(inner, max_size=3).map(lambda xs: f"frozenset([{', '.join(xs)}])")
        ),
        max_leaves=4,
    )
    leaves = keys | st.sampled_from(others) if others else keys
    return st.recursive(
        leaves | st.lists(keys, max_size=4).map(lambda xs: f"set([{', '.join(xs)}])"),
        lambda inner: (
            st.lists(inner, max_size=4).map(lambda xs: f"[{', '.join(xs)}]")
            | inner.map(lambda x: f"(lambda x: [x, 1, x])({x})")
            | st.lists(st.tuples(keys, inner), max_size=3).map(
                lambda pairs: f"{{{', '.join(f'{k}: {v}' for k, v in pairs)}}}"
            )
        ),
        max_leaves=6,
    )


@st.composite
def scripts(draw):
    """Draw a script, and the expressions of its values."""
    texts, hashable, others = [HEAD], [], []
    for i, kind in enumerate(draw(st.permutations(KINDS))):
        text, some, more = draw(kind(f"C{i}"))
        texts.append(text)
        hashable += some
        others += more
    expressions = [*hashable, *others, *draw(st.lists(nested(hashable, others), min_size=15, max_size=25))]
    texts += [f"def make_{i}():\n    return {expression}" for i, expression in enumerate(expressions)]
    texts.append(f"MAKERS = [{', '.join(f'make_{i}' for i in range(len(expressions)))}]")
    texts.append(f"NAMES = {[word for word in hashable if word.isidentifier()]!r}")
    return "\n".join([*texts, TAIL]), expressions


def check(script, expressions):
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "job.py").write_text(script)
        for which in ("first", "second"):
            done = subprocess.run(
                [sys.executable, "job.py", which],
                cwd=directory,
                env={**os.environ, "PYTHONPATH": SRC},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{done.stderr}\n{script}"
            found = json.loads(done.stdout)
            assert found["errors"] == [], script
            for where, told in found["told"].items():
                for expression, wanted, got in zip(expressions, found["plain"], told, strict=True):
                    assert got == wanted, f"{expression} {where} of the {which} run\n{script}"
            assert found["restored"] == (2 * len(expressions) if which == "second" else 0)


@settings(max_examples=4, phases=WITHOUT_SHRINKING)
@given(scripts())
def test_values_of_drawn_classes_are_the_same_in_every_process(drawn):
    check(*drawn)


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@settings(max_examples=200, phases=WITHOUT_SHRINKING)
@given(scripts())
def test_many_values_of_drawn_classes_are_the_same_in_every_process(drawn):
    check(*drawn)
