"""Lines of source that a worker does not have, as those of cells of a notebook: the process of the run knows them."""

import linecache
import subprocess
import sys
import textwrap

import pytest

from dagron.results.frames import with_source

CELL = "<ipython-input-7-0a1b2c>"


@pytest.fixture(autouse=True)
def cell(monkeypatch):
    lines = ["def f(x):\n", "    return x / 0\n"]
    for name in (CELL, "<string>"):
        monkeypatch.setitem(linecache.cache, name, (30, None, lines, name))


def test_a_frame_without_its_line_gets_it():
    text = f'Traceback (most recent call last):\n  File "{CELL}", line 2, in f\nZeroDivisionError: division by zero\n'
    assert with_source(text) == text.replace("in f\n", "in f\n    return x / 0\n")


def test_in_a_group_too():
    text = f'  | Traceback (most recent call last):\n  |   File "{CELL}", line 2, in f\n  | ValueError: x\n'
    assert with_source(text) == text.replace("in f\n", "in f\n  |     return x / 0\n")


@pytest.mark.parametrize(
    "text",
    [
        f'  File "{CELL}", line 2, in f\n    return x / 0\n           ~~^~~\nZeroDivisionError: x',
        f'  File "{CELL}", line 99, in f\nValueError: x',
        '  File "<string>", line 1, in f\nValueError: x',
        '  File "\0", line 1, in f\nValueError: x',
        "",
    ],
)
def test_other_texts_stay_as_they_are(text):
    assert with_source(text) == text


NOTEBOOK = """
import linecache
import dagron

def run_cell(number, text):
    name = f"<ipython-input-{number}-0a1b2c>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)  # as IPython does
    exec(compile(text, name, "exec"), globals())

run_cell(1, "def divide(x):\\n    half = x / 2\\n    return half / 0\\n")
flow = dagron.Flow()
node = flow.add("divide", divide, 3, retries=1, retry_delay=0)
result = flow.run("ckpt", resume=True, max_workers=1, durability="process")
print(result[node].explain())
print(repr(str(result[node].error.__cause__)))
"""


def test_tracebacks_and_explanations_of_cells_have_them(tmp_path):
    (tmp_path / "notebook.py").write_text(textwrap.dedent(NOTEBOOK))
    command = [sys.executable, "notebook.py"]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, text=True).stdout
    report, cause = out.rsplit("\n'", 1)
    assert "at <ipython-input-1-0a1b2c>:3, in divide: return half / 0\n" in report
    assert '  File "<ipython-input-1-0a1b2c>", line 3, in divide\n    return half / 0\n' in report
    assert "attempts before the last one:" in report
    assert r"in divide\n    return half / 0" in cause or r"in divide\n    return half / 0" in out
