"""The server: the process that forks the workers of a run and lets none of them outlive the coordinator.

A clean, single-threaded process, started once a run: the coordinator may have threads, so forking it would be unsafe,
and a worker must not import the user's script again. The server runs nothing of the user's. It is

*   the parent of every worker, so it knows at once, and exactly, how a worker ended and how much memory it took;
*   their guardian: it waits for the end of the coordinator, then kills all that is left below it and ends itself. As
    the subreaper of everything below (Linux), it finds also what was double-forked or has moved to a session of its
    own: a process whose parent dies becomes its child. So a child of the server that is no worker is left over from a
    dead one.

The end of the coordinator shows as the end of the control socket; in case a fork of the coordinator holds that open,
the server also looks at its parent's process id. In case the server itself is killed, workers ask the kernel for a
SIGKILL at the server's death (Linux).

Protocol, over the control socket, from the coordinator only: fixed-size requests (`REQUEST`). SPAWN carries file
descriptors: the pipe with the pickled process object, the status pipe, what becomes standard output and error, and
those that the object refers to. On the status pipe go the worker's pid and later its `STATUS`; or, if none could be
forked, the negative of the `errno`. KILL asks for the end of
a worker and everything below it.
"""

from __future__ import annotations

import atexit
import errno
import io
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from typing import NoReturn

from dagron.engines.awake import AwakeClock
from dagron.engines.local.processes import alive_below, children_of
from dagron.engines.streams import flush_streams

__all__ = ["KILL", "MAX_FDS", "PID", "REQUEST", "SPAWN", "STATUS", "inherited_fd", "main"]

REQUEST = struct.Struct("<Bxxxqd")  # operation, pid, grace in seconds
SPAWN, KILL = 1, 2  # operations
PID = struct.Struct("<q")
STATUS = struct.Struct("<qQ")  # exit code, negative for a signal; peak resident bytes
MAX_FDS = 64
"""A request passes some ten; Linux takes up to 253 in a message (SCM_MAX_FD)."""

_POLL_SECONDS = 0.5
"""Between two looks at who the parent is: so that nothing is left two seconds after the coordinator's death."""

_LAST_SECONDS = 10.0
"""How long all that is left is killed again and again. Never varied: only what hangs in the kernel takes that long."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # of prctl(2)

_inherited: list[int] = []


def inherited_fd(index: int) -> int:
    """In a worker: return the file descriptor that was passed at this position."""
    return _inherited[index]


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


class _Server:
    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.coordinator = os.getppid()
        self.clock = AwakeClock(2 * _POLL_SECONDS)  # looked at after every wait
        self.workers: dict[int, int] = {}  # pid -> status pipe
        self.dying: dict[int, float] = {}  # pid -> when SIGKILL follows
        self.spare_strangers_until = 0.0
        self.ended: list[tuple[float, int, bytes]] = []  # when to tell at the latest, status pipe, what to tell
        self.wakeup_read, self.wakeup_write = os.pipe()
        os.set_blocking(self.wakeup_read, False)
        os.set_blocking(self.wakeup_write, False)
        # Not `select`, which takes no descriptor above 1023: the coordinator may have had as many files open.
        self.sources = select.poll()
        for fd in (control.fileno(), self.wakeup_read):
            self.sources.register(fd, select.POLLIN)

    def run(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wakeup_write, warn_on_full_buffer=False)
        self.on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            while self.coordinator == os.getppid():
                self.clock.look()
                readable = {fd for fd, _ in self.sources.poll(self.wait_seconds() * 1000)}
                if self.wakeup_read in readable:
                    try:
                        os.read(self.wakeup_read, 4096)
                    except BlockingIOError:
                        pass
                elif not readable and sys.platform != "linux":
                    # Needed for killing only, so it need not delay the start; but it must be here when memory is short.
                    import psutil  # noqa: F401
                self.reap()
                if self.control.fileno() in readable and not self.serve():
                    break
                self.kill_overdue()
        finally:
            self.kill_everything()

    def wait_seconds(self) -> float:
        due = min([*self.dying.values(), *(due for due, _, _ in self.ended)], default=None)
        if due is None:
            return _POLL_SECONDS
        return min(_POLL_SECONDS, max(0.0, due - self.clock.monotonic()))

    # --- requests -------------------------------------------------------------------------------------------------

    def serve(self) -> bool:
        request, fds, _, _ = socket.recv_fds(self.control, REQUEST.size, MAX_FDS)
        if len(request) < REQUEST.size:
            return False  # the coordinator has ended, or ended in the middle of a request
        operation, pid, grace = REQUEST.unpack(request)
        if operation == SPAWN:
            self.spawn(fds)
        elif pid in self.workers:
            self.kill(pid, grace)
        return True

    def spawn(self, fds: list[int]) -> None:
        server = os.getpid()
        # Flushed here, or both processes would write what is buffered.
        flush_streams()
        try:
            pid = os.fork()
        except OSError as error:
            pid = -(error.errno or errno.EAGAIN)
        if pid == 0:
            self.become_worker(server, fds)
        payload, status, *others = fds
        try:
            os.write(status, PID.pack(pid))
        except BrokenPipeError:
            pass  # the coordinator is gone; the loop is about to notice
        if pid > 0:
            self.workers[pid] = status
        else:
            others.append(status)
        for fd in (payload, *others):
            os.close(fd)

    def become_worker(self, server: int, fds: list[int]) -> NoReturn:
        code = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, self.on_interrupt)  # ignored, if the coordinator ignores it
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            # What a task double-forks becomes the worker's child, so that it can be told whose it is.
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
            if os.getppid() != server:
                os._exit(1)
            self.control.close()
            payload, status, stdout, stderr, *passed = fds
            ended = (pipe for _, pipe, _ in self.ended)
            for fd in (self.wakeup_read, self.wakeup_write, status, *self.workers.values(), *ended):
                os.close(fd)
            null = os.open(os.devnull, os.O_RDONLY)
            for fd, number in ((null, 0), (stdout, 1), (stderr, 2)):
                os.dup2(fd, number)
                os.close(fd)
            _open_streams()
            _inherited.extend(passed)
            from multiprocessing import spawn

            code = spawn._main(payload, os.dup(payload))
        except BaseException:
            traceback.print_exc()
        finally:
            atexit._run_exitfuncs()
            flush_streams()
            os._exit(code)

    # --- ends -----------------------------------------------------------------------------------------------------

    def reap(self) -> None:
        ended = []
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            ended.append(pid)
            pipe = self.workers.pop(pid, None)
            if pipe is None:
                continue
            due = self.dying.pop(pid, 0.0)
            # Its own grace stays with what it leaves behind.
            self.spare_strangers_until = max(self.spare_strangers_until, due)
            self.kill_strangers()
            peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            self.ended.append((due, pipe, STATUS.pack(os.waitstatus_to_exitcode(status), peak)))
        if ended:
            self.kill_strangers()  # once more: the kernel's list may pass over one while its neighbour is ending
        self.tell_ends()

    def tell_ends(self) -> None:
        """Tell the coordinator which workers have ended; the end of a killed one waits for what it had started.

        So a further attempt does not meet what the last one left, and the end of a run does not cut a grace short.
        """
        if not self.ended:
            return
        now = self.clock.monotonic()
        strangers = sys.platform == "linux" and any(pid not in self.workers for pid in children_of(os.getpid()))
        waiting = []
        for due, pipe, status in self.ended:
            if due > now and strangers:
                waiting.append((due, pipe, status))
                continue
            try:
                os.write(pipe, status)
            except BrokenPipeError:
                pass
            os.close(pipe)
        self.ended = waiting

    def kill(self, pid: int, grace: float) -> None:
        if grace > 0:
            self.dying[pid] = self.clock.monotonic() + grace
            _signal_tree(pid, signal.SIGTERM)
        else:
            self.dying.pop(pid, None)
            _signal_tree(pid, signal.SIGKILL)

    def kill_overdue(self) -> None:
        now = self.clock.monotonic()
        for pid in [pid for pid, due in self.dying.items() if due <= now]:
            self.kill(pid, 0)
        if self.spare_strangers_until and self.spare_strangers_until <= now:
            self.spare_strangers_until = 0.0
            self.kill_strangers()
        self.tell_ends()

    def kill_strangers(self) -> None:
        """Kill what dead workers have left: our children that are no workers, and what is below them."""
        if sys.platform != "linux" or self.spare_strangers_until > self.clock.monotonic():
            return
        for pid in children_of(os.getpid()):
            if pid not in self.workers:
                _signal_tree(pid, signal.SIGKILL)

    def kill_everything(self) -> None:
        # Again and again, because what is being killed may be forking, and whose parent dies becomes our child; not for
        # ever, because a process of another user, or one that hangs in the kernel, does not go.
        deadline = self.clock.monotonic() + _LAST_SECONDS
        while self.clock.monotonic() < deadline:
            self.clock.look()
            left = alive_below(os.getpid())
            for pid in left:
                _signal(pid, signal.SIGKILL)
            if not _reap_all() and not left:
                return
            time.sleep(0.001)


def _open_streams() -> None:
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # it was closed where the coordinator was started
            stream = io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", "backslashreplace")
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        # So that nothing that a killed worker has written is lost in its buffer.
        stream.reconfigure(line_buffering=True)


def _reap_all() -> bool:
    """Bury every child that has ended, and tell whether there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _signal_tree(pid: int, number: int) -> None:
    # From the top: a parent that saw its child die first would go on as if that had been the child's own end.
    descendants = alive_below(pid)
    _signal(pid, number)
    for descendant in descendants:
        _signal(descendant, number)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # it is gone, or it has become another user's


def main(control_fd: int) -> NoReturn:
    """Serve until the coordinator ends."""
    # What is passed to workers must not land in the place of a standard stream that was closed.
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(null)
    # What the thread that started this has blocked must neither hide the end of a worker nor the SIGTERM of a kill.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with socket.socket(fileno=control_fd) as control:
        _Server(control).run()
    os._exit(0)  # nothing here needs the interpreter's own end, and the coordinator waits for ours
