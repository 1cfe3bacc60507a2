"""`dagron debug`: a node again, here, with its recorded inputs, and without a trace in the checkpoint."""

import os
import shutil
import sys

import pytest

from dagron import CheckpointExecutor
from dagron.cli import app
from dagron.cli.load import load_job

JOB = """
import json, os, sys, threading
from dataclasses import dataclass

@dataclass
class Point:
    x: int

def load():
    return [Point(1), Point(2)]

def parse(load, limit=3):
    secret = load[0].x + limit
    assert type(load[0]) is Point
    print("printed by parse")
    return json.loads("{nope")

def after(parse):
    return 1

def total(load):
    return sum(point.x for point in load) + int(os.environ.get("MORE", 0))

def big(load):
    return bytes(100_000)

def lock(load):
    return threading.Lock()

def leave(load):
    sys.exit("gone")

def stop(load):
    breakpoint()

tasks = {"load": load, "parse": parse, "after": after, "total": total, "big": big, "lock": lock, "leave": leave}
tasks["stop"] = stop
only = {"load": load, "parse": load}
"""


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "argv", sys.argv[:])
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    yield
    sys.modules.pop("__dagron_file__", None)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The directory with `job.py` and its checkpoint."""
    root = tmp_path_factory.mktemp("job")
    (root / "job.py").write_text(JOB)
    path, argv = sys.path[:], sys.argv[:]
    breakpoints, os.environ["PYTHONBREAKPOINT"] = os.environ.get("PYTHONBREAKPOINT"), "0"
    try:
        found = load_job(str(root / "job.py"))
        result = CheckpointExecutor(found.dag, root / "checkpoints" / "job", pool="inline").execute(found.tasks)
    finally:
        sys.path[:], sys.argv[:] = path, argv
        if breakpoints is None:
            del os.environ["PYTHONBREAKPOINT"]
    assert (result.succeeded, result.failed, result.skipped) == (4, 3, 1)
    return root


@pytest.fixture
def debug(job, monkeypatch, capsys):
    """`debug(argument, ...)`: the exit code, and what came to stdout and to stderr. Checks that nothing was written."""
    monkeypatch.chdir(job)

    def files():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(job.rglob("*"))}

    def run(*arguments):
        before = files()
        code = app(["debug", *arguments], standalone_mode=False)
        assert files() == before
        return code, *capsys.readouterr()

    return run


def test_a_node_that_failed_fails_again_before_ones_eyes(debug):
    code, out, err = debug("checkpoints/job", "parse", "job.py")
    assert code == 1
    assert out == "printed by parse\n"
    lines = err.splitlines()
    assert lines[0].startswith(f"dagron: running node parse in this process ({os.getpid()}), with the inputs recorded")
    assert lines[1:3] == ["dagron:   load = [Point(x=1), Point(x=2)]", "dagron:   limit = 3"]
    assert lines[3].startswith("dagron: recorded: it failed with json.decoder.JSONDecodeError: ")
    assert lines[4] == "Traceback (most recent call last):"
    assert lines[5].startswith('  File "')
    assert "job.py" in lines[5]
    assert "... 2 frames in json/__init__.py, json/decoder.py" in err
    assert lines[-1].startswith("dagron: failed after ")


def test_the_target_of_a_run_stands_for_its_checkpoint_and_its_code(debug):
    assert debug("job.py", "parse")[0] == 1


def test_the_debugger_opens_in_the_innermost_frame_of_the_users(debug, monkeypatch, tmp_path):
    commands = tmp_path / "commands"
    commands.write_text("p secret\nq\n")
    with commands.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        code, out, _ = debug("job.py", "parse", "--pdb")
    assert code == 1
    assert "job.py" in out
    assert "(Pdb) 4\n" in out


@pytest.mark.parametrize("name", ["total", "big"])
def test_of_a_node_that_completed_the_result_is_compared(debug, name):
    code, _, err = debug("job.py", name, "--pdb")
    assert code == 0
    assert "recorded: it completed in " in err
    assert "the result is the recorded one, byte for byte" in err


def test_a_result_that_no_longer_applies_is_never_called_the_recorded_one(job, monkeypatch, tmp_path, capsys):
    copied = tmp_path / "job"
    shutil.copytree(job, copied)
    monkeypatch.chdir(copied)
    app(["invalidate", "job.py", "load"], standalone_mode=False)
    for more, compared in (("0", "it equals the one that no longer applies"), ("1", "it differs from the one that no")):
        monkeypatch.setenv("MORE", more)
        capsys.readouterr()
        assert app(["debug", "job.py", "total"], standalone_mode=False) == 0
        err = capsys.readouterr().err
        assert "note: the result of load no longer applies" in err
        assert "recorded: a result that no longer applies, made in " in err
        assert f"a resume would record this result; {compared}" in err
        assert "recorded one" not in err


def test_another_result_is_said_to_be_one(debug, monkeypatch):
    monkeypatch.setenv("MORE", "1")
    code, _, err = debug("job.py", "total")
    assert (code, "s: 4\n" in err) == (0, True)
    assert "the result differs from the recorded one" in err


def test_the_code_is_that_of_the_target_as_it_is_now(debug):
    code, _, err = debug("checkpoints/job", "parse", "job.py:only")
    assert (code, "a resume would record this result" in err) == (0, True)


def test_a_result_that_cannot_be_pickled_is_the_failure_that_it_was(debug):
    code, _, err = debug("job.py", "lock")
    assert code == 1
    assert "error: the result of node 'lock' cannot be pickled" in err


def test_a_task_that_would_end_the_process_does_not(debug):
    code, _, err = debug("job.py", "leave")
    assert (code, "SystemExit: gone" in err) == (1, True)


def test_whoever_leaves_by_the_debugger_sees_no_traceback_of_it(debug, monkeypatch):
    import bdb

    def quit_at_once(*_, **__):
        raise bdb.BdbQuit

    monkeypatch.setattr(sys, "breakpointhook", quit_at_once)
    code, _, err = debug("job.py", "stop")
    assert (code, err.endswith("dagron: left by the debugger\n"), "Traceback" in err) == (1, True, False)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("job.py", "after"), 3, "the result of node 'parse' is not available: it failed in this checkpoint"),
        (("job.py", "totl"), 2, "the job has no node 'totl'; did you mean 'total'?"),
        (("checkpoints/job", "total"), 2, "pass the file or module of the job, too"),
        (("checkpoints/job", "total", "no.py"), 2, "cannot read 'no.py'"),
        (("checkpoints", "total", "job.py"), 3, "there is no checkpoint"),
    ],
)
def test_what_cannot_be_done_is_an_error_before_anything_runs(debug, arguments, code, text):
    ended, _, err = debug(*arguments)
    assert (ended, text in err) == (code, True), err
    assert "running node" not in err


def test_a_checkpoint_that_others_may_write_is_not_loaded(debug, job):
    directory = job / "checkpoints" / "job"
    mode = directory.stat().st_mode
    directory.chmod(0o777)
    try:
        code, _, err = debug("job.py", "total")
    finally:
        directory.chmod(mode & 0o7777)
    assert (code, "writable" in err) == (3, True)
