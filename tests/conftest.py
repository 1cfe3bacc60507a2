"""Shared fixtures: counters that outlive processes, runs under strace, a check that no test leaves a process behind."""

import os
import subprocess
import sys
import tempfile
import threading
import time

import psutil
import pytest
from hypothesis import HealthCheck, settings
from run_log import RunLog
from tracing import Traced, strace_problem, trace_this_process
from waiting import is_dead

import dagron
from dagron.results import ignored

# The tests are the same in every run: the examples come from the test's own source, none from what an earlier run has
# found, and how long an example takes is the machine's matter.
_ALWAYS = {"database": None, "deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("the same", derandomize=True, **_ALWAYS)
settings.register_profile("search", derandomize=False, print_blob=True, **_ALWAYS)
settings.load_profile("the same")


def _share_compiled_modules(config):
    """Have the processes that tests start find the modules compiled, as a user's do, also where Python is told not to
    write them beside the source: to compile everything anew is half of what such a process takes."""
    directory = tempfile.TemporaryDirectory(prefix="compiled-")
    config.add_cleanup(directory.cleanup)
    os.environ |= {"PYTHONPYCACHEPREFIX": directory.name, "PYTHONDONTWRITEBYTECODE": ""}
    subprocess.run([sys.executable, "-m", "compileall", "-q", os.path.dirname(dagron.__file__)], check=True)


def pytest_configure(config):
    config.add_cleanup(ignored._all.clear)  # tests look at what they want to see, and need not be told of the rest
    if sys.dont_write_bytecode:
        _share_compiled_modules(config)
    # A campaign searches, unless `--hypothesis-profile` says otherwise.
    if config.option.markexpr == "campaign" and not config.getoption("--hypothesis-profile"):
        settings.load_profile("search")


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path / "run-log")


@pytest.fixture
def ckpt(tmp_path):
    return tmp_path / "ckpt"


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """`call(argument, ..., expect=0)`: what a command in this process prints, begun in the test's directory."""
    from dagron.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "argv", sys.argv[:])

    def call(*arguments, expect=0):
        monkeypatch.setattr(sys, "argv", ["dagron", *arguments])
        with pytest.raises(SystemExit) as end:
            app(list(arguments))
        out, err = capfd.readouterr()
        assert end.value.code == expect, f"exit code {end.value.code}\n{out}\n{err}"
        return out, err

    return call


@pytest.fixture(scope="session")
def all_dead_in():
    """`all_dead_in(seconds, processes)`: wait until none of them runs; False if one still does after that long."""

    def wait(seconds, processes):
        deadline = time.monotonic() + seconds
        while not all(map(is_dead, processes)):
            if time.monotonic() > deadline:
                return False
            threading.Event().wait(0.005)
        return True

    return wait


@pytest.fixture
def strace():
    """`strace(options, log)`, for a task: attach strace to its worker. Skips the test where strace may not trace."""
    if strace_problem():
        pytest.skip(strace_problem())
    return trace_this_process


@pytest.fixture
def traced(strace, request, tmp_path):
    made = Traced(request.path, tmp_path / "strace.log")
    yield made
    made.close()


def _is_a_tracker(process: psutil.Process) -> bool:
    try:
        return "resource_tracker" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # also if it has ended and nobody has asked how
        return False


@pytest.fixture(autouse=True)
def no_module_of_a_test_is_left(tmp_path_factory):
    """A module that a test has written and imported would be found, under its name, by the tests that follow."""
    before = set(sys.modules)
    yield
    written = os.path.join(tmp_path_factory.getbasetemp(), "")
    for name in sys.modules.keys() - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(written):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    left = [process for process in psutil.Process().children(recursive=True) if not _is_a_tracker(process)]
    told = str(left)
    for process in left:  # or the tests that follow would be blamed, too
        process.kill()
        process.wait(10)
    assert not left, f"the test left processes behind: {told}"
