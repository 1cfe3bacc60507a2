"""The engine of this machine: slots, each a `ProcessPoolExecutor` of one worker.

Each slot has an executor of its own, because an executor fails all its futures when a worker dies: so a death costs one
slot, and just the worker of one slot can be killed. The executor has one call for all of the worker's life; that call
serves the slot's channel. Only bytes cross to the workers, and outcomes come back over the slot's board.
"""

from __future__ import annotations

import os
import pickle
import select
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from dagron.crossing.parts import Part
from dagron.engines.attempt import WorkerSetup
from dagron.engines.local.board import MAX_BATCHES, Board
from dagron.engines.local.capture import Capture
from dagron.engines.local.channel import Channel
from dagron.engines.local.context import Server, SlotContext, exit_status
from dagron.engines.local.features import FEATURES
from dagron.engines.local.processes import pid_namespace, tree_bytes
from dagron.engines.local.worker import serve, start_worker, unpack_outcome
from dagron.engines.protocol import (
    NOTHING_PRINTED,
    Attempt,
    Copied,
    Happened,
    Lost,
    Observed,
    Outcome,
    Printed,
    Returned,
    Spawned,
    WorkerInit,
)
from dagron.errors import RemoteTraceback, WorkerInitError, WorkerStartError
from dagron.figures import NO_FIGURES, Figures

__all__ = ["ProcessPool"]

_MAX_IDLE_DEATHS = 3
"""Workers of a slot that may die one after the other without having run anything, before the run gives up.

One may be an accident, such as the kernel's choice when memory is short, and two may be; three have a cause that stays.
"""


_GOODBYE_SECONDS = 0.5
"""How long idle workers may take to end by themselves when the run is over.

What a task has registered with `atexit` takes milliseconds, if anything; a hook that hangs is not to hold up the end.
"""


class _Batch(NamedTuple):
    """A batch that a worker has.

    Attributes:
        number: Its number in the slot.
        nodes: Its nodes; those behind the first `n_sent` stayed here, as the worker makes no more attempts.
        n_sent: How many of them the worker has.
        n_copies: How many copies came with it.
        is_last: Whether its worker is to make no attempt after it.
    """

    number: int
    nodes: list[int]
    n_sent: int
    n_copies: int
    is_last: bool


class _Leaving(NamedTuple):
    """A worker that has made all its attempts.

    Attributes:
        process: The worker.
        thread: That of its executor.
        due: When it is killed, on `time.monotonic`.
    """

    process: BaseProcess
    thread: threading.Thread | None
    due: float


class _Slot:
    def __init__(self, index: int) -> None:
        self.index = index
        self.board = Board()
        self.stdout = Capture()
        self.stderr = Capture()
        self.stderr_from = 0
        self.executor: ProcessPoolExecutor | None = None
        self.context: SlotContext | None = None
        self.channel: Channel | None = None
        self.outstanding: deque[_Batch] = deque()
        self.held: Sequence[Attempt] = ()  # a batch for the next worker, while this one is busy with its last
        self.n_attempts = 0  # that the worker has made or has been sent
        self.copies: Sequence[tuple[str, bytes, bool]] = ()  # for the next batch
        self.n_copying = 0
        self.known: set[int] = set()
        self.n_batches = 0
        self.generation = 0
        self.idle_deaths = 0
        self.kill_requested = False
        self.ended_before_kill: set[int] = set()
        self.n_returned = 0  # batches that returned after the kill was asked for


class ProcessPool:
    """Slots on worker processes of this machine.

    Args:
        n_slots: How many.
        setup: What each worker has to know.
        kill_grace_seconds: Between SIGTERM and SIGKILL, where an attempt is killed.
        n_threads: What libraries that use threads of their own may use in each worker; None to leave it to them.
        cpus: The processor of each slot; None to leave it to the system.
        max_tasks: How many attempts a worker makes before another takes its place; None for any number.

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
    ) -> None:
        self.n_slots = n_slots
        self._setup = pickle.dumps(tuple(setup), 5)
        self._n_threads = n_threads
        self._cpus = cpus
        self._grace = kill_grace_seconds
        self._max_tasks = max_tasks
        self._leaving: list[_Leaving] = []
        self._init: WorkerInit | None = None
        self._owner = os.getpid()
        self._slots: list[_Slot] = []
        try:
            for i in range(n_slots):
                self._slots.append(_Slot(i))
        except OSError as error:
            raise WorkerStartError(f"no shared memory for a slot: {error.strerror}") from error
        # Slot and generation of workers that have ended; put by the executors' threads, taken by the coordinator's.
        self._ends: deque[tuple[int, int]] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._poll = select.poll()
        self._poll.register(self._wake_read, select.POLLIN)
        self._by_fd: dict[int, _Slot] = {}
        self._server = Server()
        self._gone: list[Server] = []  # killed ones, of which threads may know

    def prepare(self, init: WorkerInit) -> None:
        """Call something in each worker before its first attempt."""
        self._init = init

    def give_copies(self, slot: int, copies: Sequence[tuple[str, bytes, bool]]) -> None:
        """Let the worker of a slot write copies behind the batch that the slot is given next."""
        self._slots[slot].copies = copies

    def submit(self, slot: int, attempts: Sequence[Attempt]) -> None:
        """Make attempts one after another in a slot, behind what it has already.

        Raises:
            WorkerStartError: Several workers in a row have died without having run anything.
        """
        state = self._slots[slot]
        assert len(state.outstanding) + bool(state.held) < MAX_BATCHES, "each batch has a half of the board for itself"
        if state.n_attempts == self._max_tasks and state.outstanding:
            state.held = attempts
        else:
            self._send(state, attempts)

    def _send(self, state: _Slot, attempts: Sequence[Attempt]) -> None:
        channel = state.channel or self._ready(state)
        nodes = [attempt.node for attempt in attempts]
        is_last = False
        if self._max_tasks is not None:
            attempts = attempts[: self._max_tasks - state.n_attempts]
            state.n_attempts += len(attempts)
            is_last = state.n_attempts == self._max_tasks
        copies, state.copies = state.copies, ()
        state.n_batches += 1
        number = state.n_batches
        batch = []
        new: list[Part] = []
        last, numbers = None, ()
        for node, name, task, parts, binding, inputs, limited in attempts:
            if parts is not last:  # tasks that are alike have one tuple
                last = parts
                numbers = tuple([part.number for part in parts])
                for part in parts:
                    if part.number not in state.known:
                        state.known.add(part.number)
                        new.append(part)
            batch.append((node, name, task, numbers, binding, inputs, limited))
        payload = pickle.dumps((number, [tuple(part) for part in new], batch, copies, is_last), 5)
        state.outstanding.append(_Batch(number, nodes, len(batch), len(copies), is_last))
        if not channel.send(payload):
            self._poll.modify(channel.fd, select.POLLIN | select.POLLOUT)

    def _ready(self, slot: _Slot) -> Channel:
        """Start the worker of a slot, send it what it is to call first, and return the way to it."""
        channel = self._started(slot)
        if self._init is not None:
            own, parts = self._init
            slot.known.update(part.number for part in parts)
            channel.send(pickle.dumps((own, [part.number for part in parts], [tuple(part) for part in parts]), 5))
        return channel

    def _started(self, slot: _Slot) -> Channel:
        """Start the worker of a slot and the one call of its executor, and return the way to it."""
        try:
            return self._start(slot)
        except WorkerStartError:
            # The server was killed; its workers went with it. Another one, once: what ends every server is no accident.
            assert slot.executor is not None
            slot.executor.shutdown(wait=False, cancel_futures=True)
            self._server.stop()
            self._gone.append(self._server)
            self._server = Server()
            return self._start(slot)

    def _start(self, slot: _Slot) -> Channel:
        slot.board.clear()
        slot.n_attempts = 0
        slot.stderr_from = slot.stderr.size()
        slot.context = SlotContext(self._server, (slot.stdout.fd, slot.stderr.fd))
        channel = Channel()
        cpu = self._cpus[slot.index] if self._cpus is not None else None
        try:
            slot.executor = ProcessPoolExecutor(
                1,
                mp_context=slot.context,
                initializer=start_worker,
                initargs=(self._setup, self._n_threads, cpu, slot.board, channel, self._init is not None),
            )
            call = slot.executor.submit(serve)
        except BaseException:
            channel.close()
            raise
        channel.passed()
        slot.channel = channel
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
            self._see_off()
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
                    continue
                for number, copies_refused in reports:
                    self._take(slot, number, copies_refused, happened)

    def _take(self, slot: _Slot, number: int, copies_refused: bool, happened: list[Happened]) -> None:
        if slot.kill_requested:
            # Told with the end of the worker, which is what decides: the kill may have made this outcome.
            slot.n_returned += 1
            if slot.n_returned == len(slot.outstanding):
                self._tell_end(slot.index, slot.generation)
            return
        expected, nodes, n_sent, n_copies, is_last = slot.outstanding.popleft()
        assert expected == number, "a slot returns its batches in order"
        slot.idle_deaths = 0
        outcomes = _outcomes(slot, number)
        # Those that came with it are written next; those that came with the one before are written.
        n_copied, slot.n_copying = slot.n_copying, n_copies
        if is_last:  # then those that came with it are written, too
            n_copied, slot.n_copying = n_copied + n_copies, 0
        if copies_refused:
            n_copied = slot.n_copying = 0
        if n_copied or copies_refused:
            happened.append(Copied(slot.index, n_copied, copies_refused))
        happened.append(Returned(slot.index, outcomes, nodes[len(outcomes) :]))
        if self._max_tasks is not None:
            slot.n_attempts -= n_sent - len(outcomes)
            if not slot.outstanding:
                self._make_room(slot)

    def _make_room(self, slot: _Slot) -> None:
        """Retire a worker that has nothing more to do and has made all its attempts, and send what waited for that.

        The next worker starts with the next batch. So none is started for nothing, and none beside an exclusive node.
        """
        if slot.n_attempts == self._max_tasks:
            assert slot.executor is not None
            assert slot.context is not None
            assert slot.context.last is not None
            slot.generation += 1  # its end is no news
            due = time.monotonic() + _GOODBYE_SECONDS
            self._leaving.append(_Leaving(slot.context.last, _manager_thread(slot.executor), due))
            self._close_channel(slot)
            slot.executor.shutdown(wait=False)
            slot.executor = slot.context = None
            slot.known.clear()
            slot.n_attempts = 0
        held, slot.held = slot.held, ()
        if held:
            self._send(slot, held)

    def _see_off(self) -> None:
        """Let go of retired workers that have ended, and kill those that take too long."""
        now = time.monotonic()
        staying = []
        for leaving in self._leaving:
            if leaving.process.is_alive():
                if leaving.due <= now:
                    leaving.process.kill()
                staying.append(leaving)
            elif leaving.thread is not None:
                leaving.thread.join()
        self._leaving = staying

    def _lost(self, slot: _Slot) -> Lost:
        """Bury the worker of a slot; the next batch gets a new one."""
        process = slot.context.last if slot.context is not None else None
        pid = process.pid or 0 if process is not None else 0
        exit_code, peak = self._bury(slot)
        if slot.board.was_in_init and exit_code is not None and not slot.kill_requested:
            raise _init_error(slot, exit_code)
        at_end = slot.board.running()
        running = at_end.node
        outcomes: list[Outcome] = []
        late: list[int] = []
        unstarted: list[int] = []
        for number, nodes, *_ in slot.outstanding:
            done = _outcomes(slot, number)
            if slot.kill_requested:
                late += [outcome.node for outcome in done if outcome.node not in slot.ended_before_kill]
                done = [outcome for outcome in done if outcome.node in slot.ended_before_kill]
            outcomes += done
            unstarted += nodes[len(done) :]
        unstarted += [attempt.node for attempt in slot.held]
        slot.held = ()
        if late:
            # It came out of its task because it was being killed, or because a process that it waited for was.
            running = late[0]
        if running is not None and running in unstarted:
            unstarted.remove(running)
        else:
            running = None  # it had noted the outcome, and not yet what comes next
        slot.outstanding.clear()
        slot.copies = ()
        slot.n_copying = 0
        slot.known.clear()
        slot.idle_deaths = slot.idle_deaths + 1 if running is None and not outcomes and not slot.kill_requested else 0
        slot.kill_requested = False
        if slot.idle_deaths >= _MAX_IDLE_DEATHS:
            end = "vanished" if exit_code is None else f"ended with exit code {exit_code}"
            said = slot.stderr.between(slot.stderr_from).decode(errors="backslashreplace").strip()
            raise WorkerStartError(
                f"{slot.idle_deaths} workers in a row {end} before they ran anything{': ' if said else ''}{said}"
            )
        figures, printed = NO_FIGURES, NOTHING_PRINTED
        if running is not None:
            seconds = time.monotonic() - at_end.began
            figures = Figures(time.time() - seconds, seconds, peak_rss_bytes=peak)
            printed = _printed(slot, at_end.stdout_from, None, at_end.stderr_from, None)
        return Lost(slot.index, outcomes, running, unstarted, exit_code, figures, printed, pid)

    def _bury(self, slot: _Slot) -> tuple[int | None, int]:
        slot.generation += 1
        executor, slot.executor = slot.executor, None
        self._close_channel(slot)
        process = slot.context.last if slot.context is not None else None
        if process is None or process._popen is None:  # type: ignore[attr-defined]
            return None, 0
        process.kill()
        process.join()
        if executor is not None:
            executor.shutdown(wait=True)
        return exit_status(process._popen)  # type: ignore[attr-defined]

    def _close_channel(self, slot: _Slot) -> None:
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

        For a `stop` or a `close` that is being cut short: what it would have ended must not keep the interpreter, which
        waits for the executors' threads at its end, and they wait for their workers.
        """
        if os.getpid() == self._owner:
            self._server.abandon()

    def kill(self, slot: int, *, at_once: bool = False) -> None:
        """Kill the worker of a slot and everything below it. A `Lost` follows in any case."""
        state = self._slots[slot]
        state.kill_requested = True
        state.n_returned = 0
        state.ended_before_kill = {
            outcome.node for number, *_ in state.outstanding for outcome in _outcomes(state, number)
        }
        process = state.context.last if state.context is not None else None
        if process is not None and process.pid is not None:
            self._server.kill(process.pid, 0.0 if at_once else self._grace)
        if not state.outstanding:
            self._tell_end(slot, state.generation)

    def observe(self, slot: int, memory_limit: int | None = None) -> Observed:
        """Return what a slot runs."""
        state = self._slots[slot]
        running = state.board.running()
        if running.node is None:
            return Observed()
        seconds = time.monotonic() - running.began
        process = state.context.last if state.context is not None else None
        if memory_limit is None or process is None or process.pid is None:
            return Observed(running.node, seconds)
        memory = tree_bytes(process.pid, memory_limit)
        if state.board.running().node != running.node:
            return Observed()  # it has ended meanwhile, and this is not its memory
        return Observed(running.node, seconds, memory, running.rss_before_bytes)

    def output(self) -> Iterator[tuple[int, bytes]]:
        """Yield what workers have written, with the descriptor that it was written to."""
        for slot in self._slots:
            ended = not slot.outstanding
            for fd, capture in ((1, slot.stdout), (2, slot.stderr)):
                for data in capture.lines(ended=ended):
                    yield fd, data

    def stop(self) -> None:
        """End all workers and everything below them; nothing is left when it returns."""
        if os.getpid() != self._owner:
            return  # a fork of the coordinator; they are not its own
        # An idle worker is asked to end, so that what it registered with atexit runs; a busy one is killed.
        idle = [slot for slot in self._slots if slot.executor is not None and not slot.outstanding]
        threads = [_manager_thread(slot.executor) for slot in self._slots if slot.executor is not None]
        threads += [leaving.thread for leaving in self._leaving]
        for slot in idle:
            assert slot.executor is not None
            self._close_channel(slot)
            slot.executor.shutdown(wait=False)
        deadline = time.monotonic() + _GOODBYE_SECONDS
        ending = [slot.context.last for slot in idle if slot.context is not None and slot.context.last is not None]
        for process in (*ending, *(leaving.process for leaving in self._leaving)):
            process.join(max(0.0, deadline - time.monotonic()))
        self._server.stop()
        self._leaving = []
        for slot in self._slots:
            slot.generation += 1
            if slot.executor is not None:
                slot.executor.shutdown(wait=True)
                slot.executor = None
            self._close_channel(slot)
            slot.outstanding.clear()
            slot.held = ()
        for thread in threads:
            if thread is not None:
                thread.join()

    def close(self) -> None:
        """Stop, and let go of everything. Safe to call twice."""
        if os.getpid() != self._owner:
            return
        self.stop()
        for server in (*self._gone, self._server):
            server.close()
        for slot in self._slots:
            slot.board.close()
            slot.stdout.close()
            slot.stderr.close()
        self._slots = []
        fds = self._wake_read, self._wake_write
        self._wake_read = self._wake_write = -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)


def _printed(slot: _Slot, stdout_from: int, stdout_to: int | None, stderr_from: int, stderr_to: int | None) -> Printed:
    """Return what was written between two positions of each stream, None for its end, as far as it is still there."""
    stdout_to = slot.stdout.size() if stdout_to is None else stdout_to
    stderr_to = slot.stderr.size() if stderr_to is None else stderr_to
    # A stream that ends before it began was truncated meanwhile.
    n_stdout = stdout_to - stdout_from if stdout_to >= stdout_from else stdout_to
    n_stderr = stderr_to - stderr_from if stderr_to >= stderr_from else stderr_to
    return Printed(
        slot.stdout.between(stdout_from, stdout_to) if n_stdout else b"",
        slot.stderr.between(stderr_from, stderr_to) if n_stderr else b"",
        n_stdout,
        n_stderr,
    )


def _init_error(slot: _Slot, exit_code: int) -> WorkerInitError:
    packed = slot.board.init_fault()
    if packed is None:
        said = slot.stderr.between(slot.stderr_from).decode(errors="backslashreplace").strip()
        return WorkerInitError(said, exit_code)
    error = WorkerInitError(*pickle.loads(packed))
    error.__cause__ = RemoteTraceback(error.traceback_text)
    return error


def _outcomes(slot: _Slot, batch: int) -> list[Outcome]:
    """Return the outcomes of a batch so far, with what the attempts wrote: its memory is given back later."""
    outcomes = []
    for packed in slot.board.outcomes(batch):
        outcome, written = unpack_outcome(packed)
        outcomes.append(outcome if written is None else outcome._replace(printed=_printed(slot, *written)))
    return outcomes


def _manager_thread(executor: ProcessPoolExecutor | None) -> threading.Thread | None:
    # Private, but nothing public tells when an executor that was shut down without waiting is done.
    return getattr(executor, "_executor_manager_thread", None)


def _drain(fd: int) -> None:
    try:
        os.read(fd, 4096)
    except BlockingIOError:
        pass
