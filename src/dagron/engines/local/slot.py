"""One slot: the worker that it has, the batches that the worker was sent, and what came back of them."""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import NamedTuple

from dagron.crossing.parts import Part
from dagron.engines.local.board import MAX_BATCHES, Board, Running
from dagron.engines.local.capture import Capture
from dagron.engines.local.channel import Channel
from dagron.engines.local.context import Server, SlotContext
from dagron.engines.local.processes import tree_bytes
from dagron.engines.local.slot_process import SlotProcess
from dagron.engines.local.spent import Allowance
from dagron.engines.local.worker import serve, start_worker, unpack_outcome
from dagron.engines.outcomes import NOTHING_PRINTED, Attempt, Outcome, Printed
from dagron.engines.protocol import Copied, Damage, Lost, Observed, Returned, WorkerInit
from dagron.errors import WorkerStartError, exit_text
from dagron.figures import NO_FIGURES, Figures
from dagron.limits import refusal

__all__ = ["Slot"]


class _Batch(NamedTuple):
    """A batch that a worker has.

    Attributes:
        number: Its number in the slot.
        nodes: Its nodes; those after the first `n_sent` stayed here, as the worker makes no more attempts.
        n_sent: How many of them the worker has.
        n_copies: How many copies came with it.
        is_last: Whether its worker is to make no attempt after it.
    """

    number: int
    nodes: list[int]
    n_sent: int
    n_copies: int
    is_last: bool


class Slot:
    """One slot.

    Args:
        index: Which.
        max_tasks: How many attempts a worker of it makes; None for any number.
        since: Tells how long ago a moment of `time.monotonic` was, as far as timeouts go.

    Attributes:
        index: Which.
        generation: How many workers it has had before.
        board: Where its worker puts outcomes.
        executor: That of its worker; None if it has none.
        channel: The way to its worker; None if it has none.
        allowance: How many attempts its worker may make.
        outstanding: The batches that its worker has.
        held: A batch for the next worker, while this one is busy with its last.
        copies: For its worker to write after the next batch.
        kill_requested: Whether its worker is being killed.
        idle_deaths: How many workers have died one after the other without having run anything.
    """

    def __init__(self, index: int, max_tasks: int | None, since: Callable[[float], float]) -> None:
        self.index = index
        self._since = since
        self.generation = 0
        self.board = Board()
        self._stdout = Capture()
        self._stderr = Capture()
        self._stderr_from = 0
        self.executor: ProcessPoolExecutor | None = None
        self._context: SlotContext | None = None
        self.channel: Channel | None = None
        self._known: set[int] = set()
        self.allowance = Allowance(max_tasks)
        self.outstanding: deque[_Batch] = deque()
        self.held: Sequence[Attempt] = ()
        self._n_batches = 0
        self.copies: Sequence[tuple[str, bytes, bool]] = ()
        self._n_copying = 0
        self.kill_requested = False
        self.idle_deaths = 0
        self._ended_before_kill: set[int] = set()
        self._n_returned = 0  # batches that returned after the kill was asked for

    @property
    def has_room(self) -> bool:
        """Whether it can take a batch."""
        return len(self.outstanding) + bool(self.held) < MAX_BATCHES

    @property
    def is_idle(self) -> bool:
        """Whether it has a worker that was started, and that worker nothing to do."""
        return self.executor is not None and self.pid is not None and not self.outstanding

    # --- its worker -------------------------------------------------------------------------------------------------

    def start(
        self, server: Server, setup: bytes, n_threads: int | None, cpu: int | None, has_init: bool
    ) -> Future[None]:
        """Start a worker and the one call of its executor, and return that call.

        Args:
            server: Forks the worker.
            setup: As for `start_worker`.
            n_threads: As there.
            cpu: As there.
            has_init: As there.

        Raises:
            WorkerStartError: The server is gone, or the system refused.
        """
        self.board.clear()
        self.allowance.renew()
        self._stderr_from = self._stderr.size()
        self._context = SlotContext(server, (self._stdout.fd, self._stderr.fd))
        try:
            channel = Channel()
        except OSError as error:
            raise WorkerStartError(refusal(error)) from error
        try:
            self.executor = ProcessPoolExecutor(
                1,
                mp_context=self._context,
                initializer=start_worker,
                initargs=(setup, self.index, n_threads, cpu, self.board, channel, has_init),
            )
            call = self.executor.submit(serve)
        except (OSError, MemoryError, RuntimeError) as error:
            channel.close()
            raise WorkerStartError(refusal(error)) from error
        except BaseException:
            channel.close()
            raise
        channel.passed()
        self.channel = channel
        return call

    @property
    def _process(self) -> SlotProcess | None:
        return self._context.last if self._context is not None else None

    @property
    def pid(self) -> int | None:
        """The process id of its worker, or of the one that it had last; None if it had none."""
        return self._process.pid if self._process is not None else None

    @property
    def said(self) -> str:
        """What its worker has written to standard error."""
        return self._stderr.between(self._stderr_from).decode(errors="backslashreplace").strip()

    def part(self) -> tuple[ProcessPoolExecutor, SlotProcess]:
        """Let go of a worker that is to end by itself, and return it; its channel is closed."""
        executor, process = self.executor, self._process
        assert executor is not None
        assert process is not None
        self.generation += 1  # its end is no news
        self.executor = self._context = None
        self._known.clear()
        self.allowance.renew()
        return executor, process

    def bury(self) -> tuple[int | None, int]:
        """Wait for the end of its worker, and return its exit code and peak memory; None and 0 where unknown.

        Its channel is closed. What it has left behind is still there, for `lost`.
        """
        self.generation += 1
        executor, self.executor = self.executor, None
        process = self._process
        if process is None or process.pid is None:
            return None, 0
        process.kill()
        process.join()
        if executor is not None:
            executor.shutdown(wait=True)
        return process.exit_status()

    def forget(self) -> None:
        """Forget all that its worker had. For the end of the worker."""
        self.generation += 1
        self.outstanding.clear()
        self.held = ()
        self.copies = ()
        self._n_copying = 0
        self._known.clear()
        self.kill_requested = False

    def close(self) -> None:
        """Let go of the memory."""
        self.board.close()
        self._stdout.close()
        self._stderr.close()

    # --- batches ----------------------------------------------------------------------------------------------------

    def pack_init(self, init: WorkerInit) -> bytes:
        """Return what its worker is to call first as what it is to be sent, and count the parts of it as sent."""
        self._known.update(part.number for part in init.parts)
        from dagron.engines.local.first_call import pack_init  # few runs have one

        return pack_init(init)

    def pack(self, attempts: Sequence[Attempt]) -> bytes:
        """Return a batch as what its worker is to be sent, and count it as sent."""
        nodes = [attempt.node for attempt in attempts]
        attempts = attempts[: self.allowance.take(len(attempts))]
        is_last = self.allowance.is_used_up
        copies, self.copies = self.copies, ()
        self._n_batches += 1
        number = self._n_batches
        batch = []
        new: list[Part] = []
        last, numbers = None, ()
        for node, name, task, parts, binding, inputs, *rest in attempts:
            if parts is not last:  # tasks that are alike have one tuple
                last = parts
                numbers = tuple([part.number for part in parts])
                for part in parts:
                    if part.number not in self._known:
                        self._known.add(part.number)
                        new.append(part)
            batch.append((node, name, task, numbers, binding, inputs, *rest))
        self.outstanding.append(_Batch(number, nodes, len(batch), len(copies), is_last))
        return pickle.dumps((number, [tuple(part) for part in new], batch, copies, is_last), 5)

    def returned(self, number: int, copies_refused: bool) -> Iterator[Copied | Returned]:
        """Take a batch as returned, and yield what is to be told of it."""
        expected, nodes, n_sent, n_copies, is_last = self.outstanding.popleft()
        assert expected == number, "a slot returns its batches in order"
        self.idle_deaths = 0
        outcomes = self._outcomes(number)
        self.allowance.give_back(n_sent - len(outcomes))
        # Those that came with it are written next; those that came with the one before are written.
        n_copied, self._n_copying = self._n_copying, n_copies
        if is_last:  # then those that came with it are written, too
            n_copied, self._n_copying = n_copied + n_copies, 0
        if copies_refused:
            n_copied = self._n_copying = 0
        if n_copied or copies_refused:
            yield Copied(self.index, n_copied, copies_refused)
        damage = self._damage(number)
        yield Returned(self.index, outcomes, nodes[len(outcomes) :], damage)
        if damage is not None and damage.found:
            # Its worker makes none of the others, and goes.
            self.allowance.end()
            while self.outstanding:
                yield Returned(self.index, [], self.outstanding.popleft().nodes)

    def kill_begins(self) -> None:
        """Note that its worker is being killed: what has ended by now counts, what ends later does not."""
        self.kill_requested = True
        self._n_returned = 0
        self._ended_before_kill = {
            outcome.node for number, *_ in self.outstanding for outcome in self._outcomes(number)
        }

    def returned_while_killed(self) -> bool:
        """Note that a batch returned from a worker that is being killed; tell whether it was the last."""
        self._n_returned += 1
        return self._n_returned == len(self.outstanding)

    def lost(self, exit_code: int | None, peak_rss_bytes: int) -> Lost:
        """Return what its worker, which has ended, leaves behind, and forget that.

        Args:
            exit_code: How it ended, None if that is not known.
            peak_rss_bytes: What it had in memory at most.
        """
        at_end = self.board.running()
        running = at_end.node
        outcomes: list[Outcome] = []
        late: list[int] = []
        unstarted: list[int] = []
        for number, nodes, *_ in self.outstanding:
            done = self._outcomes(number)
            if self.kill_requested:
                late += [outcome.node for outcome in done if outcome.node not in self._ended_before_kill]
                done = [outcome for outcome in done if outcome.node in self._ended_before_kill]
            outcomes += done
            unstarted += nodes[len(done) :]
        unstarted += [attempt.node for attempt in self.held]
        if late:
            # It came out of its task because it was being killed, or because a process that it waited for was.
            running = late[0]
        if running is not None and running in unstarted:
            unstarted.remove(running)
            if not self.kill_requested and (told := self._told(at_end, exit_code)) is not None:
                outcomes.append(told)
                running = None
        else:
            running = None  # it had noted the outcome, and not yet what comes next
        damage = next((found for batch in self.outstanding if (found := self._damage(batch.number))), None)
        figures, printed = NO_FIGURES, NOTHING_PRINTED
        if running is not None:
            seconds = time.monotonic() - at_end.began
            figures = Figures(time.time() - seconds, seconds, peak_rss_bytes=peak_rss_bytes)
            printed = self._printed(at_end.stdout_from, None, at_end.stderr_from, None)
        died_idle = running is None and not outcomes and not self.kill_requested
        self.idle_deaths = self.idle_deaths + 1 if died_idle else 0
        self.forget()
        loading = at_end.loads if running == at_end.node else None
        return Lost(
            self.index, outcomes, running, unstarted, exit_code, figures, printed, self.pid or 0, loading, damage
        )

    def _told(self, at_end: Running, exit_code: int | None) -> Outcome | None:
        """Return what an attempt had told of the exception that its worker did not survive; None if it raised none."""
        for batch in self.outstanding:
            if (packed := self.board.told(batch.number)) is None:
                continue
            outcome, _ = unpack_outcome(packed)
            fault = outcome.fault
            if outcome.node != at_end.node or fault is None:
                continue
            end = f"the worker {exit_text(exit_code)} while this exception told what it is, or was pickled"
            return outcome._replace(
                fault=fault._replace(traceback_text=f"{fault.traceback_text}\n{end}\n"),
                printed=self._printed(at_end.stdout_from, None, at_end.stderr_from, None),
            )
        return None

    def _damage(self, batch: int) -> Damage | None:
        noted = self.board.damage(batch)
        return None if noted is None else Damage(*pickle.loads(noted))

    # --- what can be seen of it -------------------------------------------------------------------------------------

    def observe(self, memory_limit: int | None) -> Observed:
        """Return what it runs, as `Engine.observe` does."""
        running = self.board.running()
        if running.node is None:
            since = self.board.in_init_since
            return Observed() if since is None else Observed(None, self._since(since), is_preparing=True)
        seconds = self._since(running.began)
        if memory_limit is None or self.pid is None:
            return Observed(running.node, seconds)
        memory = tree_bytes(self.pid, memory_limit)
        if self.board.running().node != running.node:
            return Observed()  # it has ended meanwhile, and this is not its memory
        return Observed(running.node, seconds, memory, running.rss_before_bytes)

    def output(self) -> Iterator[tuple[int, bytes]]:
        """Yield what its worker has written, as `Engine.output` does."""
        ended = not self.outstanding
        for fd, capture in ((1, self._stdout), (2, self._stderr)):
            for data in capture.lines(ended=ended):
                yield fd, data

    def _outcomes(self, batch: int) -> list[Outcome]:
        """Return the outcomes of a batch so far, with what the attempts wrote: its memory is given back later."""
        outcomes = []
        for packed in self.board.outcomes(batch):
            outcome, written = unpack_outcome(packed)
            outcomes.append(outcome if written is None else outcome._replace(printed=self._printed(*written)))
        return outcomes

    def _printed(self, stdout_from: int, stdout_to: int | None, stderr_from: int, stderr_to: int | None) -> Printed:
        """Return what was written between two positions of each stream, None for its end, if it is still there."""
        stdout_to = self._stdout.size() if stdout_to is None else stdout_to
        stderr_to = self._stderr.size() if stderr_to is None else stderr_to
        # A stream that ends before it began was truncated meanwhile.
        n_stdout = stdout_to - stdout_from if stdout_to >= stdout_from else stdout_to
        n_stderr = stderr_to - stderr_from if stderr_to >= stderr_from else stderr_to
        return Printed(
            self._stdout.between(stdout_from, stdout_to) if n_stdout else b"",
            self._stderr.between(stderr_from, stderr_to) if n_stderr else b"",
            n_stdout,
            n_stderr,
        )
