"""The condition of a worker's process: what a task has done to it, put back or told before the next node is in it.

What a task changes in its process is its own business until it ends. Then dagron has to deliver the result, and another
node may come. What can be put back exactly is put back. What cannot, such as a closed descriptor or a limit that was
lowered, is damage: the worker makes no further attempt. The environment, the working directory, `sys.path` and what
modules hold stay as they are, unless nothing is left of them.

A look takes 15 to 50 us, half of what a node without work costs. So an attempt is looked at when it failed, when it
took long enough, and the first times that a worker runs a task: `Budget`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import builtins
import faulthandler
import gc
import io
import math
import mmap
import os
import pickle
import resource
import signal
import stat
import struct
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable
from operator import itemgetter
from types import ModuleType
from typing import Any

__all__ = ["Budget", "Condition", "hold_on"]

_SPARE_DESCRIPTORS = 32
"""With fewer left a worker is replaced: what dagron does for an attempt takes three, and tasks open files, too."""

_NAMES = {
    builtins: " ".join([*(name for name in vars(builtins) if not name.startswith("_")), "__import__ __build_class__"]),
    os: (
        "_exit close dup dup2 environ fork fsdecode fsencode fspath fstat fsync ftruncate getenv getpid getppid kill "
        "listdir lseek lstat mkdir open path pread read replace scandir stat unlink urandom waitpid write"
    ),
    os.path: "abspath basename dirname exists isdir join lexists",
    time: "monotonic perf_counter sleep time",
    pickle: "Pickler PicklingError Unpickler dump dumps load loads",
    io: "BytesIO FileIO TextIOWrapper open",
    struct: "Struct pack unpack",
    sys: "_getframe exc_info exit modules setprofile settrace",
    threading: "Condition Event Lock RLock Thread",
    traceback: "format_exception format_tb print_exc print_exception",
    signal: "pthread_sigmask setitimer signal",
    faulthandler: "cancel_dump_traceback_later dump_traceback_later",
    resource: "getrlimit getrusage setrlimit",
    mmap: "ACCESS_COPY mmap",
    stat: "S_ISREG ST_MODE",
    weakref: "WeakKeyDictionary WeakValueDictionary ref",
}
"""What every task takes for granted, by the module that has it; and in built-ins what dagron calls."""

_LIMITS = {
    getattr(resource, f"RLIMIT_{name}"): f"RLIMIT_{name}"
    for name in ("NOFILE", "FSIZE", "AS", "DATA", "STACK", "CPU", "NPROC")
    if hasattr(resource, f"RLIMIT_{name}")
}

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

_SIGNAL_NAMES = "ABRT ALRM CHLD CONT HUP INT PIPE PROF QUIT TERM TSTP USR1 USR2 VTALRM WINCH XCPU XFSZ"
_SIGNALS = tuple(getattr(signal, f"SIG{name}") for name in _SIGNAL_NAMES.split())

_MODULES = ("builtins", "dagron", "os", "pickle", "sys")
"""What the next task cannot be loaded without."""

_builtins = vars(builtins)
_always = itemgetter("bool", "bytes", "getattr", "int", "isinstance", "len", "list", "max", "min", "tuple", "type")
"""What every attempt needs of the built-ins to be told of at all."""


def hold_on() -> None:
    """Have dagron's modules in this process go on calling what they call now, whatever tasks put in its place.

    Each module of the standard library that they hold is exchanged for a copy, which has the same functions and shares
    what these keep. Built-ins are not among that: a module looks them up where everybody does.

    Takes 3 ms, so the server does it before it forks. Each worker does it again, for what was loaded since.
    """
    for name, module in [*sys.modules.items()]:
        if name not in _holding and name.startswith(_HOLDERS):
            _holding.add(name)
            space = vars(module)
            for key, value in [*space.items()]:
                if type(value) is ModuleType and _is_held(value.__name__):
                    space[key] = _copies.get(value.__name__) or _copied(value, _copies)


_copies: dict[str, ModuleType] = {}
_holding: set[str] = set()
"""The modules that have copies already."""


def _is_held(name: str) -> bool:
    top = name.partition(".")[0]
    return top in sys.stdlib_module_names and top not in _LIVE


def _copied(module: ModuleType, copies: dict[str, ModuleType]) -> ModuleType:
    copy = copies[module.__name__] = ModuleType(module.__name__)
    vars(copy).update(vars(module))
    if module is os:
        vars(copy)["path"] = _copied(os.path, copies)
    return copy


_HOLDERS = ("dagron.", "cloudpickle.")
"""Whose code makes an attempt, beside that of the standard library."""

_LIVE = ("builtins", "sys", "multiprocessing")
"""What is looked at for what it is now, and is no collection of functions."""

# Held here, because a task may put something else in their places.
_cancel_dump = faulthandler.cancel_dump_traceback_later
_close, _dup, _fstat, _getcwd, _getpriority, _umask = os.close, os.dup, os.fstat, os.getcwd, os.getpriority, os.umask
_stat = os.stat
_getitimer, _setitimer = signal.getitimer, signal.setitimer
_getrlimit = resource.getrlimit
# Those in C: the functions of `signal` make members of enums of every number, which takes ten times as long.
_getsignal, _set_signal, _sigmask = _signal.getsignal, _signal.signal, _signal.pthread_sigmask
_getaffinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
_setaffinity: Callable[[int, set[int]], None] | None = getattr(os, "sched_setaffinity", None)
_ids: tuple[Callable[[], int], ...] = (os.geteuid, os.getegid)


def _file_of(fd: int) -> tuple[int, int] | None:
    try:
        status = _fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _root() -> tuple[int, int] | None:
    try:
        status = _stat("/")
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _affinity() -> set[int] | None:
    try:
        return _getaffinity(0) if _getaffinity is not None else None
    except OSError:
        return None  # a sandbox forbids to ask


class _Names:
    """The names of a module that are to mean what they meant."""

    def __init__(self, module: Any, names: str) -> None:
        self._space: dict[str, Any] = vars(module)
        self._module = module.__name__
        self._meant = {name: self._space[name] for name in names.split() if name in self._space}
        self._get: Callable[[dict[str, Any]], tuple[Any, ...]] = itemgetter(*self._meant)
        self._values = self._get(self._space)

    def put_back(self) -> list[str]:
        """Give names their meanings back, and return which had lost them."""
        try:
            if self._get(self._space) == self._values:
                return []
        except BaseException:
            pass  # one is gone, or says itself what it is equal to
        changed = [name for name, value in self._meant.items() if self._space.get(name) is not value]
        self._space.update(self._meant)
        return [f"{self._module}.{name}" for name in changed]


class Condition:
    """What this process is like now, which is before it has run a task; and later, what has become of that.

    Args:
        own: Descriptors of dagron's that are to stay what they are, each with a name for people.
    """

    def __init__(self, own: dict[int, str]) -> None:
        files = {0: "descriptor 0", 1: "descriptor 1", 2: "descriptor 2", **own}
        self._files = {fd: (_file_of(fd), text) for fd, text in files.items()}
        self._names = [_Names(module, names) for module, names in _NAMES.items()]
        self._always = _always(_builtins)
        self._mask = _umask(0o077)
        _umask(self._mask)
        self._limits = {number: _getrlimit(number)[0] for number in _LIMITS}
        self._blocked = _sigmask(signal.SIG_BLOCK, ())
        self._handlers = tuple(map(_getsignal, _SIGNALS))
        self._streams = {name: getattr(sys, name, None) for name in ("stdin", "stdout", "stderr")}
        self._tracing = sys.gettrace(), sys.getprofile()
        self._depth = sys.getrecursionlimit()
        self._collects = gc.isenabled(), gc.get_threshold()
        self._ids = tuple(ids() for ids in _ids)
        self._nice = _getpriority(os.PRIO_PROCESS, 0)
        self._cpus = _affinity()
        self._path = tuple(entry for entry in sys.path if isinstance(entry, str))
        self._has_directory = self._directory_is_there()
        self._root = _root()
        self._had_path = "PATH" in os.environ
        self._environ = os.environ
        self._modules = {name: sys.modules.get(name) for name in _MODULES}
        self._patched: list[str] = []
        self._lost: list[str] = []
        self._restored: list[str] = []

    # --- at once, when a task has come to its end -------------------------------------------------------------------

    def settle(self) -> None:
        """Put back what dagron cannot do without in any attempt. Takes 0.4 us."""
        mask = _umask(self._mask)
        if mask != self._mask:
            self._restored.append(f"umask {mask:#o}")
        if _always(_builtins) != self._always:
            self.settle_names()

    def settle_names(self) -> None:
        """Put back what dagron calls, before it does anything else for the attempt."""
        for names in self._names:
            self._patched += names.put_back()
        tracing = sys.gettrace(), sys.getprofile()
        if tracing != self._tracing:
            sys.settrace(self._tracing[0])
            sys.setprofile(self._tracing[1])
            self._restored.append("a trace or profile function")
        if any(self._handlers_changed()) or any(_getitimer(timer)[0] for timer in _TIMERS):
            self._settle_signals()

    def _handlers_changed(self) -> Iterable[bool]:
        return (
            _getsignal(number) is not handler and _getsignal(number) != handler
            for number, handler in zip(_SIGNALS, self._handlers, strict=True)
        )

    def _settle_signals(self) -> None:
        for timer in _TIMERS:
            if _getitimer(timer)[0]:
                _setitimer(timer, 0.0)
                self._restored.append("a timer")
        for number, handler in zip(_SIGNALS, self._handlers, strict=True):
            now = _getsignal(number)
            if now is not None and handler is not None and now != handler:
                _set_signal(number, handler)
                self._restored.append(f"the handler of {signal.Signals(number).name}")

    # --- before the next node ---------------------------------------------------------------------------------------

    def look(self) -> tuple[list[str], list[str]]:
        """Return what is damaged, and what was put back since the last look; each in words."""
        self.settle()
        self.settle_names()
        self._put_back()
        found = [*(f"{name} was replaced" for name in self._patched), *self._lost]
        found += self._damaged_files()
        found += self._damaged_limits()
        if self._has_directory and not self._directory_is_there():
            found.append("its working directory is gone")
        if _root() != self._root:
            found.append("its root directory is another")
        if tuple(ids() for ids in _ids) != self._ids:
            found.append("it runs as another user or group")
        if (nice := _getpriority(os.PRIO_PROCESS, 0)) > self._nice:
            found.append(f"its nice level is {nice}")
        if os.environ is not self._environ or (self._had_path and "PATH" not in os.environ):
            found.append("its environment was cleared")
        path = sys.path
        if type(path) is not list or not all(entry in path for entry in self._path):
            found.append("sys.path lacks what was in it")
        if any(sys.modules.get(name) is not module for name, module in self._modules.items()):
            found.append("sys.modules lacks what dagron needs")
        restored, self._restored, self._patched, self._lost = self._restored, [], [], []
        return found, restored

    def is_intact(self, fd: int) -> bool:
        """Tell whether one of the descriptors is what it was."""
        return _file_of(fd) == self._files[fd][0]

    def _directory_is_there(self) -> bool:
        try:
            _getcwd()
        except OSError:
            return False
        return True

    def _damaged_files(self) -> list[str]:
        found = []
        for fd, (file, text) in self._files.items():
            now = _file_of(fd)
            if now != file:
                found.append(f"{text} {'is closed' if now is None else 'is another file'}")
        try:
            highest = _dup(self._any_fd())
        except OSError:
            return [*found, "no further file can be opened"]
        _close(highest)
        limit = _getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit != resource.RLIM_INFINITY and highest >= limit - _SPARE_DESCRIPTORS:
            found.append(f"{highest} of the {limit} files that it may open are open")
        return found

    def _any_fd(self) -> int:
        # One that was open at the beginning and still is.
        return next((fd for fd, (file, _) in self._files.items() if file is not None and _file_of(fd) is not None), 0)

    def _damaged_limits(self) -> list[str]:
        found = []
        for number, before in self._limits.items():
            now = _getrlimit(number)[0]
            if now != before and now != resource.RLIM_INFINITY and (before == resource.RLIM_INFINITY or now < before):
                found.append(f"{_LIMITS[number]} is {now}")
        return found

    def _put_back(self) -> None:
        _cancel_dump()
        if _sigmask(signal.SIG_BLOCK, ()) != self._blocked:
            _sigmask(signal.SIG_SETMASK, self._blocked)
            self._restored.append("blocked signals")
        for name, stream in self._streams.items():
            if getattr(sys, name, None) is not stream:
                setattr(sys, name, stream)
                self._restored.append(f"sys.{name}")
            if getattr(stream, "closed", False):
                self._lost.append(f"sys.{name} is closed")
        if sys.getrecursionlimit() < self._depth:
            sys.setrecursionlimit(self._depth)
            self._restored.append("the recursion limit")
        if (gc.isenabled(), gc.get_threshold()) != self._collects:
            gc.set_threshold(*self._collects[1])
            if self._collects[0]:
                gc.enable()
            self._restored.append("the collection of garbage")
        if self._cpus is not None and _affinity() != self._cpus and _setaffinity is not None:
            try:
                _setaffinity(0, self._cpus)
            except OSError:
                self._lost.append("it may run on fewer processors")
            else:
                self._restored.append("the processors that it may run on")


_SHARE = 100
"""A look is due when attempts have taken so many times what it takes: it is to cost one per cent at most."""

_LOOK_AFTER_SECONDS = 0.001
"""Until it is known what a look takes, and where it takes less than a hundredth of that."""

_FIRST_TIMES = 2
"""How often a task is looked at whatever it takes: once may be an accident of its argument."""


class Budget:
    """When a look is worth what it costs.

    Attributes:
        due_seconds: How long attempts take together before the next look.
        unlooked: The nodes after whose attempts nobody has looked.
    """

    def __init__(self) -> None:
        self.due_seconds = _LOOK_AFTER_SECONDS
        self.unlooked: list[int] = []
        self._least = math.inf
        self._times: dict[tuple[int, ...], int] = {}
        self._known: set[tuple[int, ...]] = set()  # those that were looked at often enough
        self._seconds = 0.0

    def is_new(self, task: tuple[int, ...]) -> bool:
        """Tell whether a task has not been looked at often enough.

        Args:
            task: The numbers of its parts; those without any are never the same.
        """
        return task not in self._known

    def skips(self, node: int, seconds: float) -> bool:
        """Tell whether no look is due, with so much time more that an attempt has taken, and note its node then."""
        self._seconds += seconds
        if self._seconds >= self.due_seconds:
            return False
        self.unlooked.append(node)
        return True

    def looked(self, task: tuple[int, ...], seconds: float) -> None:
        """Note a look after an attempt of a task, and how long it took."""
        self._times[task] = times = self._times.get(task, 0) + 1
        if task and times >= _FIRST_TIMES:
            self._known.add(task)
        self._seconds = 0.0
        self.unlooked.clear()
        self._least = min(self._least, seconds)  # what is more is noise
        self.due_seconds = max(_LOOK_AFTER_SECONDS, _SHARE * self._least)
