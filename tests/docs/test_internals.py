"""What docs/internals.md names is there: files, and the functions on the way of a node."""

import ast
import re
from pathlib import Path

import pytest
from places import ROOT

import dagron

PACKAGE = Path(dagron.__file__).parent
PAGE = (ROOT / "docs" / "internals.md").read_text(encoding="utf-8")
WAY = PAGE.split("<!-- way -->\n```\n")[1].split("```")[0]
STEPS = re.findall(r"(\S+\.py) +(\S+)", WAY)


def defined(path):
    """The functions and classes of a file, and the methods of its classes."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef))


def test_every_file_that_the_page_names_is_there():
    named = set(re.findall(r"`((?:\w+/)*[a-z_]+\.py)`", PAGE))
    places = [PACKAGE, ROOT]
    assert named
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


@pytest.mark.parametrize(("file", "function"), STEPS)
def test_every_step_of_the_way_of_a_node_is_there(file, function):
    assert function in defined(PACKAGE / file)


def test_the_way_has_every_step():
    assert len(STEPS) == sum(".py" in line for line in WAY.splitlines()) > 10
