"""A multiprocessing context whose processes are forked by a run's own server, for `ProcessPoolExecutor`.

Two things differ from the forkserver of the standard library. The user's `__main__` is not imported again: nothing
that a worker unpickles refers to it, so a script needs no guard. And the locks that the executor's queues ask for do
nothing: a slot has one worker, so each queue has one reader and one writer, and no semaphore can be left locked by a
killed worker or leak.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import socket
import subprocess
import threading
from array import array
from functools import partial
from io import BytesIO
from multiprocessing import context, reduction, util
from typing import Any

from dagron.engines.local.capture import memory_file
from dagron.engines.local.leftovers import sweep
from dagron.engines.local.processes import created_at
from dagron.engines.local.server import KILL, MAX_FDS, PID, REQUEST, SPAWN, STATUS
from dagron.engines.local.slot_process import InheritedFd, OnePartyLock, SlotProcess
from dagron.engines.local.surroundings import (
    NO_SIGPIPE,
    Socket,
    blocking_pair,
    has_directory,
    import_path,
    interpreter,
    preparation,
)
from dagron.errors import WorkerStartError
from dagron.limits import refusal

__all__ = ["Server", "SlotContext"]

# Whatever the workers need is imported before the first fork, once. Garbage is not collected meanwhile, as there is
# hardly any; and what was imported is left alone by the collections of the workers, which would copy its memory.
# The path comes in a file, as an argument of a program has at most 128 KiB (MAX_ARG_STRLEN).
_BOOT = """\
import gc, marshal, sys; gc.disable()
with open({path_fd}, "rb") as file: sys.path[:] = marshal.load(file)
import concurrent.futures.process, multiprocessing.forkserver
import dagron.engines.local.worker, dagron.engines.local.slot_process
from dagron.engines.local.server import main
from dagron.engines.local.condition import hold_on; hold_on(); gc.freeze(); gc.enable(); main({control_fd})
"""


_END_SECONDS = 1.0
"""How long to wait for the exit code of a server that has closed its sockets, which it does at its very end."""


class Server:
    """The coordinator's end of the server process. It starts with the object, with this moment's environment.

    Attributes:
        processes: The server and every worker so far: process id and `created_at`.
        untold: Those of them that nobody has asked for yet.
        has_ended: Whether it was seen to be gone, and its workers with it.

    Raises:
        WorkerStartError: The system refused.
    """

    def __init__(self) -> None:
        self._program = program = interpreter()
        try:
            self._control, self._process = _start(program)
        except (OSError, MemoryError) as error:
            raise WorkerStartError(f"{program}: {refusal(error)}") from error
        self.has_ended = False
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
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))]
            self._control.sendmsg([REQUEST.pack(SPAWN, 0, 0.0)], passed, NO_SIGPIPE)
            self.wake()
        except ConnectionError as error:
            raise self.gone() from error

    def gone(self) -> WorkerStartError:
        """Return what to raise if the server has closed its end of anything."""
        self.has_ended = True
        try:
            end = f"ended with exit code {self._process.wait(_END_SECONDS)}"
        except subprocess.TimeoutExpired:
            end = "is no longer to be reached"
        return WorkerStartError(f"their server {end}; it was started as {self._program!r}")

    def kill(self, pid: int, grace_seconds: float) -> None:
        """Ask for the end of a worker and of everything below it: SIGTERM now if there is a grace, SIGKILL after it."""
        try:
            self._control.send(REQUEST.pack(KILL, pid, grace_seconds), NO_SIGPIPE)
            self.wake()
        except OSError:
            pass  # the server is gone, and its workers with it

    def abandon(self) -> None:
        """Let the server end itself, every worker and everything below them. Waits for nothing; `stop` does.

        Safe in a signal handler, whatever that has interrupted.
        """
        try:
            self._control.shutdown(socket.SHUT_RDWR)
            self.wake()
        except OSError:
            pass  # it is closed, or the server is gone

    def wake(self) -> None:
        """Let the server go on, if somebody, such as a task, has stopped it alone: nobody else ends what runs."""
        self._process.send_signal(signal.SIGCONT)

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


def _start(program: str) -> tuple[Socket, subprocess.Popen[bytes]]:
    ours, theirs = blocking_pair()
    path_fd = -1
    try:
        path_fd = memory_file("dagron-path")
        with open(path_fd, "wb", closefd=False) as file:
            marshal.dump(import_path(), file)
        os.lseek(path_fd, 0, os.SEEK_SET)
        # The flags of this interpreter (-O, -W, -X ...) hold for the workers, too.
        flags = [*subprocess._args_from_interpreter_flags()]  # type: ignore[attr-defined]
        if not has_directory():
            flags.append("-P")  # Python 3.13 looks for shadowed modules there, and fails with a bare SystemError
        passed = theirs.fileno(), path_fd
        command = [program, *flags, "-c", _BOOT.format(control_fd=passed[0], path_fd=path_fd)]
        return ours, subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=passed, start_new_session=True)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        if path_fd >= 0:
            os.close(path_fd)


class _ServedPopen:
    """What `multiprocessing.Process` needs of a running process, for one that the server forked."""

    method = "dagron"
    DupFd = InheritedFd

    def __init__(self, process_obj: SlotProcess, server: Server, stdio: tuple[int, int]) -> None:
        self._server = server
        self._fds: list[int] = []
        self.returncode: int | None = None
        self.peak_rss_bytes: int | None = None
        self._status_lock = threading.Lock()
        buffer = BytesIO()
        context.set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            reduction.dump(preparation(process_obj.name), buffer)
            reduction.dump(process_obj, buffer)
        finally:
            context.set_spawning_popen(None)
        # Our end of the payload stays open: its end tells the worker that its parent process has ended.
        ours, payload = blocking_pair()
        try:
            self.sentinel, status_write = os.pipe()
            self._close_fds = util.Finalize(self, _close_all, (ours, self.sentinel))
            try:
                server.spawn([payload.fileno(), status_write, *stdio, *self._fds])
            finally:
                os.close(status_write)
        except BaseException:
            ours.close()
            raise
        finally:
            payload.close()
        try:
            ours.sendall(buffer.getbuffer(), NO_SIGPIPE)
            pid = os.read(self.sentinel, PID.size)
        except ConnectionError:
            pid = b""
        if len(pid) < PID.size:
            raise server.gone()
        (self.pid,) = PID.unpack(pid)
        if self.pid < 0:
            error = OSError(-self.pid, os.strerror(-self.pid))
            raise WorkerStartError(refusal(error))
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


def _close_all(payload: Socket, sentinel: int) -> None:
    payload.close()
    os.close(sentinel)


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
        # Not a method of this context, which has the process: it is to be let go as soon as nobody has it.
        self.last = SlotProcess(partial(_ServedPopen, server=self._server, stdio=self._stdio), **kwargs)
        return self.last

    def Lock(self) -> OnePartyLock:  # type: ignore[override]
        """Return a lock for a single reader or writer."""
        return OnePartyLock()

    def BoundedSemaphore(self, value: int = 1) -> OnePartyLock:  # type: ignore[override]
        """Return a semaphore that is never exhausted."""
        return OnePartyLock()
