"""The examples of the guide for data science give their answers after a kill and a resume, too."""

import re
import signal
import subprocess
import sys

import pytest
from places import ROOT

import dagron

BLOCKS = re.findall(
    r"```python needs=([\w,]+)\n(.*?)```", (ROOT / "docs/data-science.md").read_text(encoding="utf-8"), re.DOTALL
)

KILLED = """
import os, signal
import dagron

as_it_is, left = dagron.Flow.run, 2


def with_kill(flow, *arguments, **options):
    def count(name, result):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    return as_it_is(flow, *arguments, callbacks=dagron.ExecutionCallbacks(on_complete=count), **options)


dagron.Flow.run = with_kill
"""
"""Has the process that follows killed once two nodes are recorded."""


@pytest.mark.parametrize(("packages", "block"), BLOCKS, ids=[needed for needed, _ in BLOCKS])
def test_an_example_gives_its_answer_after_a_kill(packages, block, tmp_path):
    for needed in packages.split(","):
        pytest.importorskip(needed)

    def run(script):
        (tmp_path / "block.py").write_text(script)
        return subprocess.run([sys.executable, "block.py"], cwd=tmp_path, capture_output=True, text=True, timeout=200)

    killed = run(KILLED + block)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (directory,) = tmp_path.glob("ckpt-*")
    recorded = len(dagron.load(directory))
    assert recorded >= 2

    resumed = run(block + "\nprint(result.restored)")
    assert resumed.returncode == 0, resumed.stderr
    *answers, last = resumed.stdout.splitlines()
    assert answers == re.findall(r"^print\(.*\)\s+# (.*)$", block, re.MULTILINE)
    assert int(last) == recorded < len(dagron.load(directory))
