"""The first ten minutes of a new user, from the README alone, with the real command line.

The README's job is run, killed, resumed, broken, looked into, mended and reported on: each line of its block is carried
out, and what the line says about it is checked.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import chromium
import psutil
from places import ROOT, SRC

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.reading.opening import read_ledger

README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK_START = (ROOT / "docs" / "quick-start.md").read_text(encoding="utf-8")

WALK = re.search(r"<!-- walk -->\n```sh\n(.*?)```", README, re.DOTALL)[1]
JOB = re.search(r"<!-- file job.py -->\n```python\n(.*?)```", README, re.DOTALL)[1]


class Walk:
    """A directory with `job.py` in it, and what is done there, one line of the README after another."""

    def __init__(self, directory):
        self.directory = directory
        self.lines = [line for line in WALK.splitlines() if line]
        self.gate = directory / "gate"
        # One part waits to be let through, so that the kill is certainly in the middle of the run.
        assert "time.sleep(0.1)" in JOB
        wait = f"while i == 47 and not __import__('os').path.exists({str(self.gate)!r}): time.sleep(0.01)"
        (directory / "job.py").write_text(JOB.replace("time.sleep(0.1)", wait))

    def line(self, begin):
        """The next line, which has to begin so: its command, and its comment."""
        line = self.lines.pop(0)
        assert line.startswith(begin)
        command, _, comment = line.partition("#")
        return command.strip(), comment

    def start(self, command):
        program, *arguments = shlex.split(command)
        assert program == "dagron"
        return subprocess.Popen(
            [sys.executable, "-m", "dagron", *arguments],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": SRC},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def do(self, begin):
        """Carry the next line out, and return what it wrote to stdout, and to stderr."""
        command, comment = self.line(begin)
        process = self.start(command)
        out, err = process.communicate(timeout=100)
        expected = re.search(r"exit code (\d+)", comment)
        assert process.returncode == (int(expected[1]) if expected else 0), f"{command}\n{out}\n{err}"
        for printed in re.findall(r": (the sum is \d+)", comment):
            assert out == f"{printed}\n"
        return out, err

    def edit(self, begin):
        """Do with an editor what the next line says."""
        _, comment = self.line(begin)
        written = re.search(r"`(.*)`", comment)[1]
        path = self.directory / "job.py"
        text, n = re.subn(r"return i \* i.*", written, path.read_text())
        assert n == 1
        path.write_text(text)

    @property
    def completed(self):
        view = read_ledger(Directory(self.directory / "checkpoints" / "job"), None)
        return [] if view is None else view.completed


def test_a_new_user_gets_through_the_first_ten_minutes(tmp_path, all_dead_in):
    walk = Walk(tmp_path)

    command, _ = walk.line("dagron run")
    command, _, rest = command.partition(" & ")
    assert rest == "sleep 2; kill -9 $!"
    process = walk.start(command)
    deadline = time.monotonic() + 100
    while len(walk.completed) < 10:
        assert process.poll() is None
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    n_recorded = len(walk.completed)
    assert 10 <= n_recorded < 48

    out, _ = walk.do("dagron status")
    assert f"{n_recorded}/50" in out
    walk.gate.touch()
    _, err = walk.do("dagron run")
    assert f"50 of 50 nodes completed ({n_recorded} restored)" in err

    walk.edit("# Break")
    out, _ = walk.do("dagron invalidate")
    assert "50 nodes" in out
    broken = "return i * i // (i != 7)"
    number = 1 + [line.strip() for line in (tmp_path / "job.py").read_text().splitlines()].index(broken)
    ran, shown, debugged = (walk.do(f"dagron {verb}") for verb in ("run", "show", "debug"))
    assert "digest" not in shown[0]  # of the result that was taken away
    assert "recorded: it failed with ZeroDivisionError" in debugged[1]
    for said in map("".join, (ran, shown, debugged)):
        assert "part[07]" in said
        assert "ZeroDivisionError" in said
        assert re.search(rf"job\.py\W+(line )?{number}\b", said)
        assert broken in said
        assert "i = 7\n" in said
    assert len(walk.completed) == 47

    walk.edit("# Mend")
    _, err = walk.do("dagron run")
    assert "50 of 50 nodes completed (47 restored)" in err

    walk.do("dagron report")
    assert not walk.lines
    page = (tmp_path / "job.html").read_text(encoding="utf-8")
    assert not re.search(r"""<[^>]+\s(src|href)=["']?(?!data:|#)[\w./]""", page)
    if chromium.PATH is not None:
        with chromium.Chromium() as browser:
            processes = psutil.Process(browser.pid).children(recursive=True)
            opened = browser.open((tmp_path / "job.html").as_uri())
            assert (opened.messages, opened.requests) == ([], [])
        assert all_dead_in(10, processes)


def test_the_quick_start_takes_the_same_steps():
    assert f"```python\n{JOB}```" in QUICK_START
    steps = [line for block in re.findall(r"```sh\n(.*?)```", QUICK_START, re.DOTALL) for line in block.splitlines()]
    assert steps == [line.partition("   #")[0].rstrip() for line in WALK.splitlines() if line.startswith("dagron")]
    edits = re.findall(r"^\+ +(.*)$", QUICK_START, re.MULTILINE)
    assert edits == re.findall(r"write `(.*?)`", WALK)
