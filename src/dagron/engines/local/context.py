"""A multiprocessing context whose processes are forked by a run's own server, for `ProcessPoolExecutor`.

Two things differ from the forkserver of the standard library. The user's `__main__` is not imported again: nothing
that a worker unpickles refers to it, so a script needs no guard. And the locks that the executor's queues ask for do
nothing: a slot has one worker, so each queue has one reader and one writer, and no semaphore can be left locked by a
killed worker or leak.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from io import BytesIO
from multiprocessing import context, process, reduction, spawn, util
from typing import Any

from dagron.engines.local.leftovers import sweep
from dagron.engines.local.processes import created_at
from dagron.engines.local.server import KILL, MAX_FDS, PID, REQUEST, SPAWN, STATUS, inherited_fd
from dagron.errors import WorkerStartError

__all__ = ["Server", "SlotContext", "SlotProcess"]

# Whatever the workers need is imported before the first fork, once. Garbage is not collected meanwhile, as there is
# hardly any; and what was imported is left alone by the collections of the workers, which would copy its memory.
_BOOT = (
    "import gc, sys; gc.disable(); sys.path[:] = {path!r}; "
    "import concurrent.futures.process, multiprocessing.forkserver; "
    "import dagron.engines.local.worker, dagron.engines.local.context; "
    "from dagron.engines.local.server import main; gc.freeze(); gc.enable(); main({fd})"
)


class Server:
    """The coordinator's end of the server process. It starts with the object, with this moment's environment.

    Attributes:
        processes: The server and every worker so far: process id and `created_at`.
        untold: Those of them that nobody has asked for yet.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            path = [entry or os.getcwd() for entry in sys.path]
            # The flags of this interpreter (-O, -W, -X ...) hold for the workers, too.
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
            command = [spawn.get_executable(), *flags, "-c", _BOOT.format(path=path, fd=theirs.fileno())]
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), start_new_session=True
                )
            except OSError as error:
                ours.close()
                raise WorkerStartError(f"{command[0]}: {error.strerror}") from error
        self._control = ours
        self.processes: dict[int, float] = {}
        self.untold: dict[int, float] = {}
        self.started(self._process.pid)

    def started(self, pid: int) -> None:
        """Note a process of the run, the server or a worker."""
        created = created_at(pid)
        if created is not None:
            self.processes[pid] = self.untold[pid] = created

    # No lock: a request is so small that the kernel takes it whole, whichever thread sends it, and a lock that a signal
    # interrupts would stay locked.

    def spawn(self, fds: list[int]) -> None:
        """Ask for a worker."""
        assert len(fds) <= MAX_FDS
        try:
            socket.send_fds(self._control, [REQUEST.pack(SPAWN, 0, 0.0)], fds)
        except OSError as error:
            raise WorkerStartError(f"the server of the workers is gone (exit code {self._process.poll()})") from error

    def kill(self, pid: int, grace_seconds: float) -> None:
        """Ask for the end of a worker and of everything below it: SIGTERM now if there is a grace, SIGKILL after it."""
        try:
            self._control.send(REQUEST.pack(KILL, pid, grace_seconds))
        except OSError:
            pass  # the server is gone, and its workers with it

    def abandon(self) -> None:
        """Let the server end itself, every worker and everything below them. Waits for nothing; `stop` does.

        Safe in a signal handler, whatever that has interrupted.
        """
        try:
            self._control.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed, or the server is gone

    def stop(self) -> None:
        """End the server and wait until it, every worker and everything below them are gone. Safe to call again."""
        self.abandon()
        if self._process.wait() != 0:
            # It was killed, and the kernel killed the workers; what they had started goes with their sessions.
            sweep(self.processes)

    def close(self) -> None:
        """Stop, and close the socket. Only when no thread is left that could `kill`: its number may be another's."""
        self.stop()
        self._control.close()


class _OnePartyLock:
    """A lock or a semaphore that only one process would ever take, so that it can be no lock at all."""

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_: object) -> None:
        pass

    # `Queue.full()` looks inside; a slot never holds more calls than its queue does.
    @property
    def _semlock(self) -> _OnePartyLock:
        return self

    def _is_zero(self) -> bool:
        return False


class _InheritedFd:
    def __init__(self, index: int) -> None:
        self._index = index

    def detach(self) -> int:
        return inherited_fd(self._index)


class _ServedPopen:
    """What `multiprocessing.Process` needs of a running process, for one that the server forked."""

    method = "dagron"
    DupFd = _InheritedFd

    def __init__(self, process_obj: SlotProcess, server: Server, stdio: tuple[int, int]) -> None:
        self._server = server
        self._fds: list[int] = []
        self.returncode: int | None = None
        self.peak_rss_bytes: int | None = None
        self._status_lock = threading.Lock()
        preparation = spawn.get_preparation_data(process_obj.name)
        # The server has the directory, the path and the environment of the start of the run already.
        for key in ("init_main_from_name", "init_main_from_path", "dir", "sys_path"):
            preparation.pop(key, None)
        buffer = BytesIO()
        context.set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            reduction.dump(preparation, buffer)
            reduction.dump(process_obj, buffer)
        finally:
            context.set_spawning_popen(None)
        # The write end of the payload stays open: its end tells the worker that its parent process has ended.
        payload_read, payload_write = os.pipe()
        self.sentinel, status_write = os.pipe()
        self._close_fds = util.Finalize(self, _close_all, (payload_write, self.sentinel))
        try:
            server.spawn([payload_read, status_write, *stdio, *self._fds])
        finally:
            os.close(payload_read)
            os.close(status_write)
        try:
            with open(payload_write, "wb", closefd=False) as file:
                file.write(buffer.getbuffer())
            pid = os.read(self.sentinel, PID.size)
        except BrokenPipeError:
            pid = b""
        if len(pid) < PID.size:
            raise WorkerStartError("the server of the workers ended before it started one")
        (self.pid,) = PID.unpack(pid)
        server.started(self.pid)

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return len(self._fds) - 1

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        return self.wait(0 if flag == os.WNOHANG else None)

    def wait(self, timeout: float | None = None) -> int | None:
        if self.returncode is None:
            waiter = select.poll()
            waiter.register(self.sentinel, select.POLLIN)
            if not waiter.poll(None if timeout is None else timeout * 1000):
                return None
            # The executor's thread and the coordinator's may both be here; the status can be read once.
            with self._status_lock:
                if self.returncode is None:
                    status = os.read(self.sentinel, STATUS.size)
                    if len(status) == STATUS.size:
                        exit_code, self.peak_rss_bytes = STATUS.unpack(status)
                        self.returncode = exit_code
                    else:
                        self.returncode = 255  # the server is gone, and nobody else knows
        return self.returncode

    def _kill(self) -> None:
        if self.poll() is None:
            self._server.kill(self.pid, 0.0)

    terminate = kill = interrupt = _kill

    def close(self) -> None:
        self._close_fds()


def _close_all(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


class SlotProcess(process.BaseProcess):
    """A process that the server forks. Made by a `SlotContext`."""

    _start_method = "forkserver"
    _popen: _ServedPopen | None

    def __init__(self, server: Server, stdio: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._server: Server | None = server
        self._stdio = stdio

    @staticmethod
    def _Popen(process_obj: SlotProcess) -> _ServedPopen:
        assert process_obj._server is not None
        return _ServedPopen(process_obj, process_obj._server, process_obj._stdio)

    def exit_status(self) -> tuple[int | None, int]:
        """Return the exit code and the peak memory of a process that has ended; None and 0 where unknown."""
        popen = self._popen
        assert popen is not None
        code = popen.poll()
        if popen.peak_rss_bytes is None:
            return None, 0
        return code, popen.peak_rss_bytes

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_server": None}


class SlotContext(context.BaseContext):
    """The context of one slot.

    Args:
        server: Forks its processes.
        stdio: What becomes their standard output and error.

    Attributes:
        last: The process that was started last.
    """

    # ProcessPoolExecutor asks only whether this is "fork".
    _name = "forkserver"

    def __init__(self, server: Server, stdio: tuple[int, int]) -> None:
        self._server = server
        self._stdio = stdio
        self.last: SlotProcess | None = None

    def get_context(self, method: str | None = None) -> SlotContext:  # type: ignore[override]
        """Return this context."""
        return self

    def get_start_method(self, allow_none: bool = False) -> str:
        """Return what the standard library calls this way of starting."""
        return self._name

    def Process(self, **kwargs: Any) -> SlotProcess:
        """Return a process that the server will fork."""
        self.last = SlotProcess(self._server, self._stdio, **kwargs)
        return self.last

    def Lock(self) -> _OnePartyLock:  # type: ignore[override]
        """Return a lock for a single reader or writer."""
        return _OnePartyLock()

    def BoundedSemaphore(self, value: int = 1) -> _OnePartyLock:  # type: ignore[override]
        """Return a semaphore that is never exhausted."""
        return _OnePartyLock()
