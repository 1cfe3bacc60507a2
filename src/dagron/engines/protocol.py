"""What a run asks of an engine: values that go in, events that come out, and a sheet of what the engine can do.

An engine has slots. A slot takes batches of attempts, makes the attempts one after another, and tells how they ended.
If the worker of a slot dies, the engine says which attempt the worker had in hand. An engine decides nothing about
nodes: what is retried, killed or skipped is the run's business.

Without deferred annotations, for the reason that `outcomes` has.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from dagron.engines.outcomes import Attempt, Outcome, Printed
from dagron.figures import Figures

if TYPE_CHECKING:
    from dagron.crossing.parts import Own

__all__ = [
    "Copied",
    "Damage",
    "Engine",
    "Features",
    "Happened",
    "Lost",
    "Observed",
    "Returned",
    "Spawned",
    "TakesCopies",
    "WorkerInit",
]


class Features(NamedTuple):
    """What an engine can do; known before it is started.

    Attributes:
        kills: Whether an attempt that runs can be killed, as timeouts demand.
        observes_memory: Whether the memory of what runs can be seen, as memory limits demand.
        replaces: Whether what has made so many attempts is replaced, as `max_tasks_per_worker` demands.
        captures: Whether what attempts print comes with their outcomes; else it goes to the streams of the engine.
        batches: Whether several attempts may go to a slot in one batch.
        max_batches: How many batches a slot may have at a time.
        is_for_debugging: Whether a limit that the engine cannot keep is only warned of, so that whoever looks for a
            fault need not change the tasks. Any other engine refuses it.
    """

    kills: bool
    observes_memory: bool
    replaces: bool
    captures: bool
    batches: bool
    max_batches: int
    is_for_debugging: bool = False


# --- what happens in an engine ----------------------------------------------------------------------------------------


class WorkerInit(NamedTuple):
    """What is to be called in each worker before its first attempt.

    Attributes:
        task: As in `Attempt`.
        parts: As in `Attempt`.
    """

    task: "Own"
    parts: tuple[Any, ...]


class Damage(NamedTuple):
    """What was found of the process that makes the attempts of a slot, after an attempt.

    Attributes:
        nodes: Whose attempt did that; several if it is not known which.
        found: What cannot be put back, in words. If there is any, another process takes its place.
        restored: What was put back.
    """

    nodes: list[int]
    found: list[str]
    restored: list[str]


class Returned(NamedTuple):
    """The oldest batch of a slot is done.

    Attributes:
        slot: Where.
        outcomes: Of its attempts.
        unstarted: Nodes whose attempts were not begun.
        damage: What its attempts have done to their process; None for nothing.
    """

    slot: int
    outcomes: list[Outcome]
    unstarted: list[int]
    damage: Damage | None = None


class Spawned(NamedTuple):
    """Processes were started on this machine, which a later run ends if they outlive this one.

    Attributes:
        processes: Process ids and `created_at`.
        namespace: Where the process ids mean this.
    """

    processes: dict[int, float]
    namespace: str


class Copied(NamedTuple):
    """What became of copies that a slot was given; see `TakesCopies`.

    Attributes:
        slot: Where.
        n: How many of the copies, the oldest first, were written since the last `Copied` of this slot.
        refused: Whether a copy could not be written; the worker writes no more.
    """

    slot: int
    n: int
    refused: bool


class Lost(NamedTuple):
    """What made the attempts of a slot is gone, with all that the slot had; the slot takes new batches.

    Attributes:
        slot: Where.
        outcomes: Of the attempts that had ended.
        running: The node that it had in hand, None if it had none.
        unstarted: Nodes whose attempts were not begun.
        exit_code: How the worker ended: its exit code, or a signal's number below zero; None if that is not known.
        figures: What the attempt of `running` took, as far as that is known; the peak memory is the worker's.
        printed: What that attempt wrote.
        pid: The worker's process id; 0 if it is not known.
        loading: The position of the input that was being loaded for `running`; None for none.
        damage: What the attempts have done to their process, as far as that is known; None for nothing.
    """

    slot: int
    outcomes: list[Outcome]
    running: int | None
    unstarted: list[int]
    exit_code: int | None
    figures: Figures
    printed: Printed
    pid: int = 0
    loading: int | None = None
    damage: Damage | None = None


class Observed(NamedTuple):
    """What a slot runs.

    Attributes:
        node: The node; None for none.
        seconds: For how long.
        memory_bytes: What its worker and all below it have in memory; 0 if that was not asked for.
        before_bytes: What its worker had when it began; 0 if it was new.
        is_preparing: Whether it runs no node because its worker is in what `prepare` has asked for.
    """

    node: int | None = None
    seconds: float = 0.0
    memory_bytes: int = 0
    before_bytes: int = 0
    is_preparing: bool = False


Happened = Returned | Lost | Spawned | Copied


class Engine(Protocol):
    """What the coordinator needs of whatever makes attempts. Used from one thread.

    Attributes:
        features: What it can do.
        n_slots: How many slots it has.
    """

    features: Features
    n_slots: int

    def prepare(self, init: WorkerInit) -> None:
        """Call something in each worker before its first attempt. Asked for before the first `submit`, if at all.

        It is part of no attempt. If it fails, a `wait` raises `WorkerInitError`.
        """
        ...

    def submit(self, slot: int, attempts: Sequence[Attempt]) -> None:
        """Make attempts one after another in a slot, after what it has already. Does not wait for them.

        Args:
            slot: The slot; it has fewer than `max_batches` batches.
            attempts: At least one.
        """
        ...

    def wait(self, timeout_seconds: float | None) -> list[Happened]:
        """Wait until something happened, at most this long, and return what did.

        The batches of a slot return in the order in which they were submitted. A `Lost` is returned alone: it tells
        about all that the slot has, and whatever else happens may bring the slot another batch. It comes first, however
        much has returned.
        """
        ...

    def wake(self) -> None:
        """End a `wait` that goes on. Safe in a signal handler."""
        ...

    def abandon(self) -> None:
        """End all workers and everything below them without waiting for it. Safe in a signal handler."""
        ...

    def kill(self, slot: int, *, at_once: bool = False) -> None:
        """Kill the worker of a slot and everything below it. A `Lost` follows in any case.

        An engine that cannot kill drops what has not begun; if something runs, the `Lost` follows when that has ended.

        Outcomes that the slot had by then count. An attempt that ends later counts as running: the kill may have made
        its outcome.

        Args:
            slot: The slot.
            at_once: With SIGKILL, whatever the grace.
        """
        ...

    def observe(self, slot: int, memory_limit: int | None = None) -> Observed:
        """Return what a slot runs.

        Args:
            slot: The slot.
            memory_limit: Look at its memory, too, and the more closely if it is above this many bytes.
        """
        ...

    def output(self) -> Iterator[tuple[int, bytes]]:
        """Yield what workers have written, with the descriptor, 1 or 2, that it was written to."""
        ...

    def stop(self) -> None:
        """End all workers and everything below them; nothing is left when it returns. `output` may be called still."""
        ...

    def close(self) -> None:
        """Stop, and let go of everything. Safe to call twice."""
        ...


@runtime_checkable
class TakesCopies(Protocol):
    """An engine whose workers write copies of small results beside the attempts that they make.

    An engine is one only if its workers share the directory of the checkpoint, and the coordinator's time is scarce.
    """

    def give_copies(self, slot: int, copies: Sequence[tuple[str, bytes, bool]]) -> None:
        """Let a slot write copies after the batch that it is given next; a `Copied` tells of them later.

        Args:
            slot: The slot.
            copies: Arguments of `Directory.write_copy`.
        """
        ...
