"""The engine of this machine: slots, each a `ProcessPoolExecutor` of one worker.

Each slot has an executor of its own, because an executor fails all its futures when a worker dies: so a death costs one
slot, and just the worker of one slot can be killed. The executor has one call for all of the worker's life; that call
serves the slot's channel. Only bytes cross to the workers, and outcomes come back over the slot's board.

What one slot has is in `slot.py`. Here is what they share: the server that forks their workers, and the wait for
whatever happens first.
"""

from __future__ import annotations

import logging
import os
import pickle
import select
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from dagron.engines.attempt import WorkerSetup
from dagron.engines.awake import since as plain_since
from dagron.engines.local.channel import Channel
from dagron.engines.local.context import Server
from dagron.engines.local.features import FEATURES
from dagron.engines.local.first_call import init_error
from dagron.engines.local.processes import pid_namespace
from dagron.engines.local.slot import Slot
from dagron.engines.local.spent import Leaving
from dagron.engines.local.surroundings import check_open_files, check_patches
from dagron.engines.outcomes import Attempt
from dagron.engines.protocol import Happened, Lost, Observed, Spawned, WorkerInit
from dagron.errors import WorkerStartError
from dagron.limits import refusal

__all__ = ["ProcessPool"]

logger = logging.getLogger("dagron")

_MAX_IDLE_DEATHS = 3
"""Workers of a slot that may die one after the other without having run anything, before the run gives up.

One may be an accident, such as the kernel's choice when memory is short, and two may be; three have a cause that stays.
"""


class ProcessPool:
    """Slots on worker processes of this machine.

    Args:
        n_slots: How many.
        setup: What each worker has to know.
        kill_grace_seconds: Between SIGTERM and SIGKILL, where an attempt is killed.
        n_threads: What libraries that use threads of their own may use in each worker; None to leave it to them.
        cpus: The processor of each slot; None to leave it to the system.
        max_tasks: How many attempts a worker makes before another takes its place; None for any number.
        since: Tells how long ago a moment of `time.monotonic` was, as far as timeouts go.

    Raises:
        WorkerStartError: The server of the workers cannot be started.
    """

    features = FEATURES

    def __init__(
        self,
        n_slots: int,
        setup: WorkerSetup,
        *,
        kill_grace_seconds: float = 0.0,
        n_threads: int | None = None,
        cpus: Sequence[int] | None = None,
        max_tasks: int | None = None,
        since: Callable[[float], float] = plain_since,
    ) -> None:
        self.n_slots = n_slots
        self._setup = pickle.dumps(tuple(setup), 5)
        self._n_threads = n_threads
        self._cpus = cpus
        self._grace = kill_grace_seconds
        self._leaving = Leaving()
        self._init: WorkerInit | None = None
        self._owner = os.getpid()
        self._slots: list[Slot] = []
        check_patches()
        if sys.platform == "linux" and not os.path.exists("/proc/self"):
            logger.warning("/proc is not there: what tasks start cannot be found, and may outlive them and the run")
        check_open_files(n_slots, replaces=max_tasks is not None)
        try:
            for i in range(n_slots):
                self._slots.append(Slot(i, max_tasks, since))
            self._wake_read, self._wake_write = os.pipe()
        except OSError as error:
            raise WorkerStartError(f"no shared memory for a slot: {refusal(error)}") from error
        # Slot and generation of workers that have ended; put by the executors' threads, taken by the coordinator's.
        self._ends: deque[tuple[int, int]] = deque()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._poll = select.poll()
        self._poll.register(self._wake_read, select.POLLIN)
        self._by_fd: dict[int, Slot] = {}
        self._server = Server()
        self._gone: list[Server] = []  # killed ones, of which threads may know

    def prepare(self, init: WorkerInit) -> None:
        """Call something in each worker before its first attempt."""
        self._init = init

    def give_copies(self, slot: int, copies: Sequence[tuple[str, bytes, bool]]) -> None:
        """Let the worker of a slot write copies after the batch that the slot is given next."""
        self._slots[slot].copies = copies

    def submit(self, slot: int, attempts: Sequence[Attempt]) -> None:
        """Make attempts one after another in a slot, after what it has already.

        Raises:
            WorkerStartError: Several workers in a row have died without having run anything.
        """
        state = self._slots[slot]
        assert state.has_room, "each batch has a half of the board for itself"
        if state.allowance.is_used_up and state.outstanding:
            state.held = attempts
        else:
            self._send(state, attempts)

    def _send(self, slot: Slot, attempts: Sequence[Attempt]) -> None:
        channel = slot.channel or self._ready(slot)
        if not channel.send(slot.pack(attempts)):
            self._poll.modify(channel.fd, select.POLLIN | select.POLLOUT)

    def _ready(self, slot: Slot) -> Channel:
        """Start the worker of a slot, send it what it is to call first, and return the way to it."""
        channel = self._started(slot)
        if self._init is not None:
            channel.send(slot.pack_init(self._init))
        return channel

    def _started(self, slot: Slot) -> Channel:
        """Start the worker of a slot and the one call of its executor, and return the way to it."""
        try:
            return self._start(slot)
        except WorkerStartError:
            if slot.executor is not None:
                slot.executor.shutdown(wait=False, cancel_futures=True)
            if not self._server.has_ended:
                raise
            # The server was killed; its workers went with it. Another one, once: what ends every server is no accident.
            self._server.stop()
            self._gone.append(self._server)
            self._server = Server()
            return self._start(slot)

    def _start(self, slot: Slot) -> Channel:
        cpu = self._cpus[slot.index] if self._cpus is not None else None
        call = slot.start(self._server, self._setup, self._n_threads, cpu, self._init is not None)
        channel = slot.channel
        assert channel is not None
        self._by_fd[channel.fd] = slot
        self._poll.register(channel.fd, select.POLLIN)
        index, generation = slot.index, slot.generation
        call.add_done_callback(lambda _: self._tell_end(index, generation))
        return channel

    def _tell_end(self, slot: int, generation: int) -> None:
        self._ends.append((slot, generation))
        self.wake()

    def wait(self, timeout_seconds: float | None) -> list[Happened]:
        """Wait until something happened, at most this long, and return what did."""
        if self._leaving:
            self._leaving.see_off()
        if self._server.untold:
            spawned, self._server.untold = self._server.untold, {}
            return [Spawned(spawned, pid_namespace())]
        lost = self._next_lost()
        if lost is None:
            happened: list[Happened] = []
            ready = self._poll.poll(None if timeout_seconds is None else timeout_seconds * 1000)
            self._take_all(ready, happened)
            if happened:
                return happened
            lost = self._next_lost()
        return [] if lost is None else [lost]

    def _next_lost(self) -> Lost | None:
        while self._ends:
            index, generation = self._ends.popleft()
            slot = self._slots[index]
            if generation == slot.generation:  # else that worker is buried
                return self._lost(slot)
        return None

    def _take_all(self, ready: Sequence[tuple[int, int]], happened: list[Happened]) -> None:
        for fd, events in ready:
            if fd == self._wake_read:
                _drain(fd)
                continue
            slot = self._by_fd[fd]
            assert slot.channel is not None
            if events & select.POLLOUT and slot.channel.flush():
                self._poll.modify(fd, select.POLLIN)
            if events & ~select.POLLOUT:
                reports = slot.channel.finished()
                if reports is None:
                    self._poll.unregister(fd)  # its executor tells how it ended
                    self._server.wake()  # or nobody tells, if the worker had stopped the server
                    continue
                for number, copies_refused in reports:
                    self._take(slot, number, copies_refused, happened)

    def _take(self, slot: Slot, number: int, copies_refused: bool, happened: list[Happened]) -> None:
        if slot.kill_requested:
            # Told with the end of the worker, which is what decides: the kill may have made this outcome.
            if slot.returned_while_killed():
                self._tell_end(slot.index, slot.generation)
            return
        happened += slot.returned(number, copies_refused)
        if not slot.outstanding:
            self._make_room(slot)

    def _make_room(self, slot: Slot) -> None:
        """Let a worker go that has nothing more to do and has made all its attempts, and send what waited for that."""
        if slot.allowance.is_used_up:
            self._let_go(slot)
        held, slot.held = slot.held, ()
        if held:
            self._send(slot, held)

    def _let_go(self, slot: Slot) -> None:
        self._close_channel(slot)
        self._leaving.add(*slot.part())

    def _lost(self, slot: Slot) -> Lost:
        """Bury the worker of a slot; the next batch gets a new one."""
        self._close_channel(slot)
        exit_code, peak = slot.bury()
        if slot.board.in_init_since is not None and exit_code is not None and not slot.kill_requested:
            raise init_error(slot.board, slot.said, exit_code)
        lost = slot.lost(exit_code, peak)
        if slot.idle_deaths >= _MAX_IDLE_DEATHS:
            end = "vanished" if exit_code is None else f"ended with exit code {exit_code}"
            if exit_code == -9:
                end += " (the machine may have run out of memory, or this user of processes)"
            said = f": {slot.said}" if slot.said else ""
            raise WorkerStartError(f"{slot.idle_deaths} workers in a row {end} before they ran anything{said}")
        return lost

    def _close_channel(self, slot: Slot) -> None:
        channel, slot.channel = slot.channel, None
        if channel is not None:
            del self._by_fd[channel.fd]
            try:
                self._poll.unregister(channel.fd)
            except KeyError:
                pass  # it was seen to be at its end
            channel.close()

    def wake(self) -> None:
        """End a `wait` that goes on. Safe in a signal handler."""
        try:
            os.write(self._wake_write, b"\0")
        except OSError:
            pass  # there is enough in it to wake anybody, or the pool is closed

    def abandon(self) -> None:
        """End all workers and everything below them without waiting for it. Safe in a signal handler.

        For a `stop` or a `close` that is being cut short, and the `close` that would make up for it, too, by whoever
        keeps pressing Ctrl-C: what they would have ended must not keep the interpreter, which waits for the executors'
        threads at its end, and they wait for their workers.
        """
        if os.getpid() == self._owner:
            self._server.abandon()

    def kill(self, slot: int, *, at_once: bool = False) -> None:
        """Kill the worker of a slot and everything below it. A `Lost` follows in any case."""
        state = self._slots[slot]
        state.kill_begins()
        if state.pid is not None:
            self._server.kill(state.pid, 0.0 if at_once else self._grace)
        if not state.outstanding:
            self._tell_end(slot, state.generation)

    def observe(self, slot: int, memory_limit: int | None = None) -> Observed:
        """Return what a slot runs."""
        return self._slots[slot].observe(memory_limit)

    def output(self) -> Iterator[tuple[int, bytes]]:
        """Yield what workers have written, with the descriptor that it was written to."""
        for slot in self._slots:
            yield from slot.output()

    def stop(self) -> None:
        """End all workers and everything below them; nothing is left when it returns."""
        if os.getpid() != self._owner:
            return  # a fork of the coordinator; they are not its own
        # An idle worker is asked to end, so that what it registered with atexit runs; a busy one is killed.
        for slot in self._slots:
            if slot.is_idle:
                self._let_go(slot)
        self._leaving.wait()
        self._server.stop()
        for slot in self._slots:
            if slot.executor is not None:
                slot.executor.shutdown(wait=True)
                slot.executor = None
            self._close_channel(slot)
            slot.forget()
        self._leaving.join()

    def close(self) -> None:
        """Stop, and let go of everything. Safe to call twice."""
        if os.getpid() != self._owner:
            return
        self.stop()
        for server in (*self._gone, self._server):
            server.close()
        for slot in self._slots:
            slot.close()
        self._slots = []
        fds = self._wake_read, self._wake_write
        self._wake_read = self._wake_write = -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)


def _drain(fd: int) -> None:
    try:
        os.read(fd, 4096)
    except BlockingIOError:
        pass
