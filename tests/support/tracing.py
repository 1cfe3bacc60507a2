"""Processes under strace: attached to one that runs, or of a program that runs functions one after the other."""

import ctypes
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from places import SRC

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
        env = {**os.environ, "PYTHONPATH": SRC}
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
def strace_problem() -> str:
    """Why strace cannot be used here; empty if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    return "" if probe.returncode == 0 else f"strace may not trace here: {probe.stderr.strip()}"
