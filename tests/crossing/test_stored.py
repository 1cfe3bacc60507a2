"""What pickles in a checkpoint name: bytes that an earlier version wrote, which every later one must load."""

from __future__ import annotations

import ast
import base64
import enum
import pickle
import pickletools
import sys
import textwrap
import types
from pathlib import Path

import pytest

from dagron import shapes, stored
from dagron.checkpoint.format.digests import Digests
from dagron.crossing.results import dump_result
from dagron.errors import ClassChangedError, OtherPythonError
from dagron.preview.previewing import preview
from dagron.script import process
from dagron.stored import code as stored_code

# Written once and never again: a version that cannot load it cannot load the results that people have. Its script was
#
#     class Point:
#         unit = "mm"
#         def __init__(self, x):
#             self.x = x
#         class Corner:
#             pass
#     class Slotted:
#         __slots__ = ("x",)
#     class Level(enum.Enum):
#         LOW = 1
#
# and the result `[Point(3), slotted, Point.Corner(), Level.LOW, Point]`, where `slotted.x == 4`.
GOLDEN = base64.b64decode(
    """
    gAWVDAEAAAAAAABdlCiME2RhZ3Jvbi5zdG9yZWQubmFtZXOUjAlvZl9zY3JpcHSUk5SMCF9fbWFpbl9flIwFUG9pbnSUjAVwbGFpbpSMAXiUhZSMBm9i
    amVjdJSFlIeUh5RSlCmBlH2UaAdLA3NiaANoBIwHU2xvdHRlZJRoBmgHhZSMBm9iamVjdJSFlIeUh5RSlCmBlE59lGgHSwRzhpRiaANoBIwMUG9pbnQu
    Q29ybmVylGgGKYwGb2JqZWN0lIWUh5SHlFKUKYGUaAGMBm1lbWJlcpSTlGgDaASMBUxldmVslIwEZW51bZQpjAllbnVtLkVudW2UhZSHlIeUUpRLAYwD
    TE9XlEsBhpSFlIeUUpRoDWUu
    """
)


def names_in(data):
    """The names that a pickle refers to, also in the pickles that stand in it."""
    found, texts, memo, pushed = set(), [], [], None
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "MEMOIZE":
            memo.append(pushed)
            continue
        pushed = memo[argument] if opcode.name in ("BINGET", "LONG_BINGET") else argument
        if opcode.name == "STACK_GLOBAL":
            found.add(".".join(texts[-2:]))
        elif isinstance(pushed, str):
            texts.append(pushed)
        elif isinstance(argument, bytes) and argument.startswith(b"\x80\x05\x95"):
            found |= names_in(argument)
    return found


@pytest.fixture
def script(monkeypatch):
    """An empty script, whatever runs the tests."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.setattr(process, "has_script", False)
    return module


class TestGolden:
    def test_where_the_classes_are_not_it_shows_what_they_held(self, script):
        point, slotted, corner, level, cls = pickle.loads(GOLDEN)
        assert (point.x, slotted.x, level.args) == (3, 4, ("LOW", 1))
        assert type(point) is cls
        assert [type(v).__qualname__ for v in (point, slotted, corner, level)] == [
            "Point",
            "Slotted",
            "Point.Corner",
            "Level",
        ]

    def test_it_loads_as_instances_of_the_classes_of_the_script(self, script):
        class Point:
            def __init__(self, x, y):
                self.x = x

            class Corner:
                pass

        class Slotted:
            __slots__ = ("x",)

        class Level(enum.Enum):
            LOW = 1
            HIGH = 2

        script.Point, script.Slotted, script.Level = Point, Slotted, Level
        for cls in (Point, Slotted, Point.Corner, Level):
            cls.__module__ = "__main__"
        point, slotted, corner, level, cls = pickle.loads(GOLDEN)
        assert [type(point), type(slotted), type(corner), cls] == [Point, Slotted, Point.Corner, Point]
        assert (point.x, slotted.x) == (3, 4)
        assert level is Level.LOW

    def test_it_is_shown_without_running_any_code(self):
        assert preview(GOLDEN) == "[Point(x=3), Slotted(x=4), Point.Corner(), Level.LOW, <Point>]"

    def test_it_names_what_is_frozen(self):
        ours = {name for name in names_in(GOLDEN) if name.startswith("dagron")}
        assert ours == {"dagron.stored.names.of_script", "dagron.stored.names.member"}


CHANGES = {
    "a field is gone": ("x: int\n    y: int", "x: int", "the field 'y' is gone"),
    "a field is new": ("x: int", "x: int\n    y: int = 2", "the field 'y' is new"),
}


def script_with(script, source):
    for name in [name for name in vars(script) if not name.startswith("__")]:
        delattr(script, name)
    exec(textwrap.dedent(source), vars(script))


class TestChanges:
    """A class that is no longer the one that made a value is never given its state."""

    @pytest.fixture(autouse=True)
    def in_the_process_of_the_script(self, script, monkeypatch):
        monkeypatch.setattr(process, "has_script", True)

    def changed(self, script, tmp_path, old, new):
        script_with(script, old)
        blob = dump_result("node", script.value, tmp_path, Digests(None), durable=False)
        script_with(script, new)
        with pytest.raises(ClassChangedError) as caught:
            pickle.loads(blob.data)
        return str(caught.value)

    @pytest.mark.parametrize(("old", "new", "told"), CHANGES.values(), ids=CHANGES)
    def test_fields_of_a_dataclass(self, script, tmp_path, old, new, told):
        source = "from dataclasses import dataclass\n@dataclass\nclass P:\n    {}\n{}"
        value = f"value = P({', '.join('12'[: old.count('int')])})"
        text = self.changed(script, tmp_path, source.format(old, value), source.format(new, ""))
        assert "'P' of the script is not what it was when this value was stored" in text
        assert told in text

    @pytest.mark.parametrize("fields", ["x", "x y z"])
    def test_fields_of_a_named_tuple(self, script, tmp_path, fields):
        source = "from collections import namedtuple\nP = namedtuple('P', '{}')\n{}"
        self.changed(script, tmp_path, source.format("x y", "value = P(1, 2)"), source.format(fields, ""))

    @pytest.mark.parametrize("made", ["named tuple", "dataclass", "frozen with slots"])
    def test_fields_in_another_order_keep_their_values_or_the_value_is_refused(self, script, tmp_path, made):
        def source(*fields):
            if made == "named tuple":
                return f"from collections import namedtuple\nP = namedtuple('P', {fields})\n"
            how = "" if made == "dataclass" else "(slots=True, frozen=True)"
            lines = "".join(f"    {field}: int\n" for field in fields)
            return f"from dataclasses import dataclass\n@dataclass{how}\nclass P:\n{lines}"

        script_with(script, source("x", "y") + "value = P(1, 2)")
        blob = dump_result("node", script.value, tmp_path, Digests(None), durable=False)
        script_with(script, source("y", "x"))
        if made == "frozen with slots":
            with pytest.raises(ClassChangedError, match="its fields were in the order x, y"):
                pickle.loads(blob.data)
        else:
            found = pickle.loads(blob.data)
            assert (found.x, found.y, type(found)) == (1, 2, script.P)

    def test_attributes_that_are_set_when_an_instance_is_made(self, script, tmp_path):
        source = """
            class P:
                def __init__(self): self.x = 1; self.more()
                def more(self): self.{} = 2
            value = P()
        """
        assert "'z' is new" in self.changed(script, tmp_path, source.format("y"), source.format("z"))

    @pytest.mark.parametrize(
        ("new", "told"),
        [("B = 2", "the member 'A' is gone"), ("A = 3\n    B = 1", "'A' was 1, and is 3")],
    )
    def test_members_of_an_enum(self, script, tmp_path, new, told):
        source = "import enum\nclass P(enum.Enum):\n    {}\n{}"
        text = self.changed(script, tmp_path, source.format("A = 1", "value = [P.A]"), source.format(new, ""))
        assert told in text

    def test_a_flag_that_is_composed_of_others(self, script, tmp_path):
        source = "import enum\nclass P(enum.Flag):\n    A = {}\n    B = 2\n    C = 4\n{}"
        self.changed(script, tmp_path, source.format(1, "value = P.A | P.B"), source.format(8, ""))

    def test_bases_and_what_they_consist_of(self, script, tmp_path):
        source = "class Base:\n    def __init__(self): self.{} = 1\nclass P({}): pass\n{}"
        old = source.format("a", "Base", "value = P()")
        assert "of its base 'Base'" in self.changed(script, tmp_path, old, source.format("b", "Base", ""))
        assert "its bases were Base" in self.changed(script, tmp_path, old, source.format("a", "list", ""))

    def test_what_is_gone(self, script, tmp_path):
        for value in ("P()", "P", "f"):
            source = f"class P: pass\ndef f(): pass\nvalue = [{value}]"
            assert "the script defines no" in self.changed(script, tmp_path, source, "")

    def test_a_method_that_was_mended_is_used(self, script, tmp_path):
        source = "class P:\n    def __init__(self): self.x = 3\n    def half(self): return self.x {} 2\n{}"
        script_with(script, source.format("//", "value = P()"))
        blob = dump_result("node", script.value, tmp_path, Digests(None), durable=False)
        script_with(script, source.format("/", ""))
        assert pickle.loads(blob.data).half() == 1.5

    def test_code_of_another_python_is_not_run(self, script, tmp_path, monkeypatch):
        script_with(script, "value = [lambda: 1]")
        blob = dump_result("node", script.value, tmp_path, Digests(None), durable=False)
        monkeypatch.setattr(stored_code, "python_version", lambda: "cpython 3.99")
        with pytest.raises(OtherPythonError, match=r"code of cpython 3\.\d+, which cpython 3\.99 cannot run"):
            pickle.loads(blob.data)


class TestNames:
    def test_a_result_names_nothing_of_ours_but_what_is_frozen(self, script, tmp_path):
        namespace = vars(script)
        exec(
            """if True:
            import enum
            from dataclasses import dataclass

            @dataclass(slots=True)
            class Row:
                x: int

            class Level(enum.Enum):
                LOW = 1

            class Failed(Exception):
                pass

            def task(y):
                return Row(y)

            value = [Row(1), Level.LOW, Failed("why"), Row, lambda: task(1)]
            """,
            namespace,
        )
        for value in (namespace["value"], namespace["value"][:-1]):  # with cloudpickle, and without it
            blob = dump_result("node", value, tmp_path, Digests(None), durable=False)
            data = blob.data or (tmp_path / blob.temp_name).read_bytes()
            ours = {name for name in names_in(data) if name.startswith("dagron.")}
            assert {name.rsplit(".", 2)[0] for name in ours} == {"dagron.stored"}

    def test_the_frozen_modules_import_nothing_that_is_not(self):
        found = set()
        frozen = sorted(Path(stored.__file__).parent.glob("*.py"))
        assert len(frozen) == 5
        for path in (*frozen, Path(shapes.__file__)):
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            found |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
            found |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        ours = {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names}
        assert ours == {"dagron.shapes", "dagron.script", "dagron.errors"}
