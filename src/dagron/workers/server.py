"""The server: the process that forks the workers of a run and lets none of them outlive the coordinator.

A clean, single-threaded process, started once a run: the coordinator may have threads, so forking it would be unsafe,
and a worker must not import the user's script again. The server runs nothing of the user's. It is

*   the parent of every worker, so it knows at once, and exactly, how a worker ended and how much memory it took;
*   their guardian: it waits for the end of the coordinator, then kills all that is left below it and ends itself. As
    the subreaper of everything below (Linux), it finds also what was double-forked or has moved to a session of its
    own: whose parent dies becomes its child. So a child of the server that is no worker is left over from a dead one.

The end of the coordinator shows as the end of the control socket; in case a fork of the coordinator holds that open,
the server also looks at its parent's process id. Workers ask the kernel for SIGKILL at the server's death (Linux),
which stands behind all this in case the server itself is killed.

Protocol, over the control socket, from the coordinator only: fixed-size requests (`REQUEST`). SPAWN carries file
descriptors: the pipe with the pickled process object, the status pipe, and those that the object refers to. On the
status pipe go the worker's pid and later its `STATUS`. KILL asks for the end of a worker and everything below it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import psutil

__all__ = ["KILL", "MAX_FDS", "PID", "REQUEST", "SPAWN", "STATUS", "inherited_fd", "kill_sessions", "main"]

REQUEST = struct.Struct("<Bxxxqd")  # operation, pid, grace in seconds
SPAWN, KILL = 1, 2
PID = struct.Struct("<q")
STATUS = struct.Struct("<qQ")  # exit code, negative for a signal; peak resident bytes
MAX_FDS = 64

_POLL_SECONDS = 0.5
_LAST_SECONDS = 10.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

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
        self.workers: dict[int, int] = {}  # pid -> status pipe
        self.dying: dict[int, float] = {}  # pid -> when SIGKILL follows
        self.spare_strangers_until = 0.0
        self.wakeup_read, self.wakeup_write = os.pipe()
        os.set_blocking(self.wakeup_read, False)
        os.set_blocking(self.wakeup_write, False)

    def run(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            while self.coordinator == os.getppid():
                sources: list[socket.socket | int] = [self.control, self.wakeup_read]
                readable, _, _ = select.select(sources, [], [], self.wait_seconds())
                if self.wakeup_read in readable:
                    try:
                        os.read(self.wakeup_read, 4096)
                    except BlockingIOError:
                        pass
                elif not readable:
                    # Needed for killing only, so it need not delay the start; but it must be here when memory is short.
                    import psutil  # noqa: F401
                self.reap()
                if self.control in readable and not self.serve():
                    break
                self.kill_overdue()
        finally:
            self.kill_everything()

    def wait_seconds(self) -> float:
        due = min(self.dying.values(), default=None)
        if due is None:
            return _POLL_SECONDS
        return min(_POLL_SECONDS, max(0.0, due - time.monotonic()))

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
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self.become_worker(server, fds)
        payload, status, *passed = fds
        self.workers[pid] = status
        try:
            os.write(status, PID.pack(pid))
        except BrokenPipeError:
            pass  # the coordinator is gone; the loop is about to notice
        for fd in (payload, *passed):
            os.close(fd)

    def become_worker(self, server: int, fds: list[int]) -> NoReturn:
        code = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            # What a task double-forks becomes the worker's child, so that it can be told whose it is.
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
            if os.getppid() != server:
                os._exit(1)
            self.control.close()
            payload, status, *passed = fds
            for fd in (self.wakeup_read, self.wakeup_write, status, *self.workers.values()):
                os.close(fd)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
            _inherited.extend(passed)
            from multiprocessing import spawn

            code = spawn._main(payload, os.dup(payload))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    # --- ends -----------------------------------------------------------------------------------------------------

    def reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            pipe = self.workers.pop(pid, None)
            if pipe is None:
                continue
            if pid in self.dying:
                # Its own grace stays with what it leaves behind.
                self.spare_strangers_until = max(self.spare_strangers_until, self.dying.pop(pid))
            self.kill_strangers()
            peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            try:
                os.write(pipe, STATUS.pack(os.waitstatus_to_exitcode(status), peak))
            except BrokenPipeError:
                pass
            os.close(pipe)

    def kill(self, pid: int, grace: float) -> None:
        import psutil

        if grace > 0:
            self.dying[pid] = time.monotonic() + grace
            for process in _below(psutil.Process(pid)):
                _signal(process.pid, signal.SIGTERM)
            _signal(pid, signal.SIGTERM)
        else:
            self.dying.pop(pid, None)
            _kill_tree(psutil.Process(pid))

    def kill_overdue(self) -> None:
        now = time.monotonic()
        for pid in [pid for pid, due in self.dying.items() if due <= now]:
            self.kill(pid, 0)
        if self.spare_strangers_until and self.spare_strangers_until <= now:
            self.spare_strangers_until = 0.0
            self.kill_strangers()

    def kill_strangers(self) -> None:
        """Kill what dead workers have left: our children that are no workers, and what is below them."""
        if sys.platform != "linux" or self.spare_strangers_until > time.monotonic():
            return
        for pid in _child_pids():
            if pid not in self.workers:
                import psutil

                try:
                    _kill_tree(psutil.Process(pid))
                except psutil.NoSuchProcess:
                    pass

    def kill_everything(self) -> None:
        import psutil

        me = psutil.Process()
        # Again and again, because what is being killed may be forking; not for ever, because a process of another
        # user, or one that hangs in the kernel, does not go.
        deadline = time.monotonic() + _LAST_SECONDS
        while (left := _below(me)) and time.monotonic() < deadline:
            for process in left:
                _signal(process.pid, signal.SIGKILL)
            while _reaped_one():
                pass
            time.sleep(0.001)


def _reaped_one() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _child_pids() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        import psutil

        return [child.pid for child in psutil.Process().children()]


def _below(process: psutil.Process) -> list[psutil.Process]:
    """Return what is alive below a process."""
    import psutil

    try:
        descendants = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    alive = []
    for descendant in descendants:
        try:
            if descendant.status() != psutil.STATUS_ZOMBIE:
                alive.append(descendant)
        except psutil.NoSuchProcess:
            continue
    return alive


def _kill_tree(process: psutil.Process) -> None:
    for descendant in _below(process):
        _signal(descendant.pid, signal.SIGKILL)
    _signal(process.pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # it is gone, or it has become another user's


def kill_sessions(sessions: set[int]) -> None:
    """Kill every process of these sessions. For the coordinator, when a server was killed itself."""
    import psutil

    for pid in psutil.pids():
        try:
            if os.getsid(pid) in sessions:
                os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def main(control_fd: int) -> NoReturn:
    """Serve until the coordinator ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with socket.socket(fileno=control_fd) as control:
        _Server(control).run()
    os._exit(0)  # nothing here needs the interpreter's own end, and the coordinator waits for ours
