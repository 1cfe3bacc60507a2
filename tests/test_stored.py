"""What pickles in a checkpoint name: bytes that an earlier version wrote, which every later one must load."""

from __future__ import annotations

import ast
import base64
import enum
import pickle
import pickletools
import sys
import types

import pytest

from dagron import stored
from dagron.checkpoint.format.digests import Digests
from dagron.cli.preview import preview
from dagron.crossing.results import dump_result

# Written once, by Python 3.11 and cloudpickle 3.1, and never again: a version that cannot load it cannot load the
# results that people have. Its script was
#
#     class Point:
#         unit = "mm"
#         class Corner:
#             pass
#     class Slotted:
#         __slots__ = ("x",)
#     class Level(enum.Enum):
#         LOW = 1
#
# and the result `[point, slotted, Point.Corner(), Level.LOW, Point]`, where `point.x == 3` and `slotted.x == 4`.
# Code is bound to a version of Python, so no class here has any.
GOLDEN = base64.b64decode(
    """
    gAWVqgUAAAAAAABdlCiMDWRhZ3Jvbi5zdG9yZWSUjApmaW5kX2NsYXNzlJOUjAhfX21haW5fX5SMBVBvaW50lEJ8AQAAgAWVcQEAAAAAAACMF2Ns
    b3VkcGlja2xlLmNsb3VkcGlja2xllIwUX21ha2Vfc2tlbGV0b25fY2xhc3OUk5QojAhidWlsdGluc5SMBHR5cGWUk5SMBVBvaW50lGgDjAZvYmpl
    Y3SUk5SFlH2UjApfX21vZHVsZV9flIwIX19tYWluX1+Uc4wgOGU5ZmJiMTAzNGNmNDE3Yjk4NTg4MGRlNTgxN2Q4MWSUTnSUUpRoAIwPX2NsYXNz
    X3NldHN0YXRllJOUaA99lCiMBkNvcm5lcpRoAihoBYwGQ29ybmVylGgIhZR9lGgLaAxzjCA1OTM3MjUwYTk3ZDI0Y2U1ODAxYTk4NTczYjllOTk3
    ZJROdJRSlGgRaBl9lCiMB19fZG9jX1+UTowKX19tb2R1bGVfX5RoDHV9lIaUhlIwjAdfX2RvY19flE6MCl9fbW9kdWxlX1+UaAyMDV9fc2xvdG5h
    bWVzX1+UXZSMBHVuaXSUjAJtbZR1fZSGlIZSMC6Uh5RSlCmBlH2UjAF4lEsDc2JoA2gEjAdTbG90dGVklEIUAQAAgAWVCQEAAAAAAACMF2Nsb3Vk
    cGlja2xlLmNsb3VkcGlja2xllIwUX21ha2Vfc2tlbGV0b25fY2xhc3OUk5QojAhidWlsdGluc5SMBHR5cGWUk5SMB1Nsb3R0ZWSUaAOMBm9iamVj
    dJSTlIWUfZSMCl9fbW9kdWxlX1+UjAhfX21haW5fX5RzjCBmNWY4NzljY2M5ZGM0Y2QxOTgwNDQ2OWM4NTU3MjlmY5ROdJRSlGgAjA9fY2xhc3Nf
    c2V0c3RhdGWUk5RoD32UKIwHX19kb2NfX5ROjApfX21vZHVsZV9flGgMjA1fX3Nsb3RuYW1lc19flF2UjAF4lGGMCV9fc2xvdHNfX5RoF4WUdX2U
    hpSGUjAulIeUUpQpgZRoAYwNcmVzdG9yZV9zdGF0ZZSTlGgQTn2UaAtLBHOGlIZSMGgDaASMDFBvaW50LkNvcm5lcpRD/oAFlfMAAAAAAAAAjBdj
    bG91ZHBpY2tsZS5jbG91ZHBpY2tsZZSMFF9tYWtlX3NrZWxldG9uX2NsYXNzlJOUKIwIYnVpbHRpbnOUjAR0eXBllJOUjAZDb3JuZXKUaAOMBm9i
    amVjdJSTlIWUfZSMCl9fbW9kdWxlX1+UjAhfX21haW5fX5RzjCA1OTM3MjUwYTk3ZDI0Y2U1ODAxYTk4NTczYjllOTk3ZJROdJRSlGgAjA9fY2xh
    c3Nfc2V0c3RhdGWUk5RoD32UKIwHX19kb2NfX5ROjApfX21vZHVsZV9flGgMjA1fX3Nsb3RuYW1lc19flF2UdX2UhpSGUjAulIeUUpQpgZRoA2gE
    jAVMZXZlbJRCVQEAAIAFlUoBAAAAAAAAjBdjbG91ZHBpY2tsZS5jbG91ZHBpY2tsZZSME19tYWtlX3NrZWxldG9uX2VudW2Uk5QojARlbnVtlIwE
    RW51bZSTlIWUjAVMZXZlbJRoB32UjANMT1eUSwFzjAhfX21haW5fX5SMIGFhM2YzYmI5NjA4MjRlZjlhZDE3MDEyM2MzMjBjZmFllE50lFKUaACM
    D19jbGFzc19zZXRzdGF0ZZSTlGgNfZQojAdfX2RvY19flE6MCl9fbW9kdWxlX1+UaAqMB19fbmV3X1+UaAOMDEVudW0uX19uZXdfX5STlIwMX25l
    d19tZW1iZXJflIwIYnVpbHRpbnOUjAdnZXRhdHRylJOUjAhidWlsdGluc5SMBm9iamVjdJSTlIwHX19uZXdfX5SGlFKUjBNfdW5oYXNoYWJsZV92
    YWx1ZXNflF2UdX2UhpSGUjAulIeUUpRLAYWUUpRoCGUu
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
    return module


class TestGolden:
    def test_it_loads_where_the_classes_are_not(self, script):
        point, slotted, corner, level, cls = pickle.loads(GOLDEN)
        assert (point.x, point.unit, slotted.x, level.value) == (3, "mm", 4, 1)
        assert type(point) is cls
        assert [type(v).__qualname__ for v in (point, slotted, corner, level)] == [
            "Point",
            "Slotted",
            "Point.Corner",
            "Level",
        ]

    def test_it_loads_as_instances_of_the_classes_of_the_script(self, script):
        class Point:
            class Corner:
                pass

        class Slotted:
            __slots__ = ("x",)

        class Level(enum.Enum):
            LOW = 1

        script.Point, script.Slotted, script.Level = Point, Slotted, Level
        point, slotted, corner, level, cls = pickle.loads(GOLDEN)
        assert [type(point), type(slotted), type(corner), cls] == [Point, Slotted, Point.Corner, Point]
        assert (point.x, slotted.x, level) == (3, 4, Level.LOW)

    def test_it_is_shown_without_running_any_code(self):
        assert preview(GOLDEN) == "[Point(x=3), Slotted(x=4), Point.Corner(), Level(1), <Point>]"

    def test_it_names_what_is_frozen(self):
        ours = {name for name in names_in(GOLDEN) if name.startswith("dagron")}
        assert ours == {"dagron.stored.find_class", "dagron.stored.restore_state"}


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
            assert ours == {"dagron.stored.find_class", "dagron.stored.restore_state"}

    def test_the_frozen_module_imports_nothing_that_is_not(self):
        with open(stored.__file__, encoding="utf-8") as file:
            nodes = list(ast.walk(ast.parse(file.read())))
        found = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        found |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        assert found == {"__future__", "pickle", "sys", "typing"}
