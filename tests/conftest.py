"""Shared fixtures: counters that outlive processes, runs under strace, a check that no test leaves a process behind."""

import ctypes
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from hypothesis import HealthCheck, settings

import dagron

# The tests are the same in every run: the examples come from the test's own source, none from what an earlier run has
# found, and how long an example takes is the machine's matter.
_ALWAYS = {"database": None, "deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("the same", derandomize=True, **_ALWAYS)
settings.register_profile("search", derandomize=False, print_blob=True, **_ALWAYS)
settings.load_profile("the same")


def pytest_configure(config):
    # A campaign searches, unless `--hypothesis-profile` says otherwise.
    if config.option.markexpr == "campaign" and not config.getoption("--hypothesis-profile"):
        settings.load_profile("search")


class RunLog:
    """Counts what tasks did, in append-only files outside of any checkpoint, so that it survives every death."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = str(directory)

    def note(self, name: str) -> None:
        """Called by a task: one line more for `name`."""
        fd = os.open(os.path.join(self.directory, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, b"%d\n" % os.getpid())
        os.close(fd)

    def pids(self, name: str) -> list[int]:
        """The processes that noted `name`, in order."""
        try:
            return [int(line) for line in (Path(self.directory) / name).read_text().split()]
        except FileNotFoundError:
            return []

    def count(self, name: str) -> int:
        return len(self.pids(name))

    def counts(self) -> dict[str, int]:
        return {name: self.count(name) for name in sorted(os.listdir(self.directory))}


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path / "run-log")


@pytest.fixture
def ckpt(tmp_path):
    return tmp_path / "ckpt"


def _is_dead(process: psutil.Process) -> bool:
    try:
        # A zombie runs no more; how soon it is buried is up to the init of the machine.
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="session")
def all_dead_in():
    """`all_dead_in(seconds, processes)`: wait until none of them runs; False if one still does after that long."""

    def wait(seconds, processes):
        deadline = time.monotonic() + seconds
        while not all(map(_is_dead, processes)):
            if time.monotonic() > deadline:
                return False
            threading.Event().wait(0.005)
        return True

    return wait


_HARMLESS = {"access", "close", "faccessat2", "fcntl", "flock", "fstat", "getdents64", "lseek", "mmap", "munmap"}
_HARMLESS |= {"newfstatat", "pread64", "read", "statx"}


def attach_strace(pid: int, options: list[str], log: str) -> subprocess.Popen[str]:
    """Attach strace to a process; it counts every call that the process makes from now on, in its main thread."""
    command = ["strace", "-y", "-s", "0", *options, "-o", log, "-p", str(pid)]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    line = tracer.stderr.readline()
    if "attached" not in line:
        raise OSError(f"strace: {line}")
    return tracer


def trace_this_process(options: list[str], log: str) -> None:
    """For a task: attach strace to the worker that it runs in."""
    allow_tracing()
    tracer = attach_strace(os.getpid(), options, log)
    tracer.stderr.close()


def allow_tracing() -> None:
    """Let any process of this user trace this one, also where the kernel lets only ancestors do that."""
    pr_set_ptracer = 0x59616D61
    ctypes.CDLL(None).prctl(pr_set_ptracer, ctypes.c_ulong(-1), 0, 0, 0)


class Call(NamedTuple):
    """A system call in strace's log: its name and the whole line, in which descriptors stand with their paths."""

    name: str
    line: str

    def changes(self, root: Path) -> str:
        """Which entry of a directory, `.` for itself, the call may change or make durable; empty if none."""
        if self.name in _HARMLESS or "O_RDONLY" in self.line:
            return ""
        found = re.search(rf'["<]{re.escape(str(root))}(?:/([^">]+))?[">]', self.line)
        return "" if found is None else found[1] or "."


class Ended(NamedTuple):
    """How a process of `Traced` ended: its exit code, what it returned, its calls, what strace says of its end."""

    code: int
    result: object
    calls: list[Call]
    end: str


class Traced:
    """Runs functions of a test file in processes of their own under strace; see `traced.py`."""

    LEFT_SECONDS = 10
    """What a run starts has to end within 2 s after it, says the design; this is for machines that are busy."""

    def __init__(self, path: Path, log: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("traced.py")), str(path)]
        env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(dagron.__file__))}
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._log = log

    def run(self, function: str, options: list[str] | None = None, **arguments: object) -> Ended:
        """Run a function with arguments that JSON knows, under strace with these options; None: without it."""
        request = {"function": function, "arguments": arguments, "options": options}
        request |= {"log": str(self._log), "seconds": self.LEFT_SECONDS}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert not answer["left"], "something outlived the process that had started it"
        lines = self._log.read_text().splitlines() if options is not None else [""]
        found = [re.match(r"(\w+)\(", line) for line in lines]
        calls = [Call(match[1], match.string) for match in found if match]
        return Ended(answer["code"], answer["result"], calls, lines[-1])

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=30)


@functools.cache
def _strace_problem() -> str:
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    return "" if probe.returncode == 0 else f"strace may not trace here: {probe.stderr.strip()}"


@pytest.fixture
def strace():
    """`strace(options, log)`, for a task: attach strace to its worker. Skips the test where strace may not trace."""
    if _strace_problem():
        pytest.skip(_strace_problem())
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
