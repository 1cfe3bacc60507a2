"""What a report says, as values. Knows neither journals nor HTML."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from dagron.results.status import NodeStatus

__all__ = ["Attempt", "CriticalStep", "Edges", "Failure", "Group", "Node", "Report", "Run"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt.

    Attributes:
        run: Which run, from 0.
        node: Position in `Report.nodes`, or after these in `Report.gone`; see `Report.name_of`.
        slot: The slot; -1 for the coordinator itself.
        start_seconds: When it began, in seconds after the run did.
        duration_seconds: How long it took.
        cpu_seconds: User and system time; 0.0 where it is not recorded, as for an attempt whose worker died.
        peak_rss_bytes: Peak resident memory of the worker up to its end; 0 where it is not recorded.
        result_bytes: Size of the pickled result.
        attempts: Attempts made in that run up to this one.
        outcome: COMPLETED, FAILED or TIMED_OUT.
        is_retried: Whether another one followed it in that run.
    """

    run: int
    node: int
    slot: int
    start_seconds: float
    duration_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    result_bytes: int
    attempts: int
    outcome: NodeStatus
    is_retried: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """A node.

    Attributes:
        name: Its name: any text, not to be trusted.
        state: How it stands.
        last: Position of its last attempt in `Report.attempts` that no other one followed; -1 for none.
    """

    name: str
    state: NodeStatus
    last: int = -1


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        started_unix: When it began, in seconds since the epoch; 0.0 if that is not known.
        wall_seconds: From its beginning to its end, or to its last record if it has not ended.
        how: `finished`, `interrupted`, `running`, or `running or interrupted`.
        n_slots: Its slots: as recorded, else those that were seen at work.
        n_completed: Nodes that it completed.
        n_failed: Nodes that failed or timed out in it.
        busy_seconds: Sum of the durations of its attempts.
        cpu_seconds: Sum of their CPU time.
        host: Its machine.
        pid: Its process.
    """

    started_unix: float
    wall_seconds: float
    how: str
    n_slots: int
    n_completed: int
    n_failed: int
    busy_seconds: float
    cpu_seconds: float
    host: str = ""
    pid: int = 0

    @property
    def cpu_efficiency(self) -> float:
        """The CPU time of its attempts as a share of slots times wall time; above 1 if tasks use several cores."""
        available = self.n_slots * self.wall_seconds
        return self.cpu_seconds / available if available > 0 else 0.0

    @property
    def occupancy(self) -> float:
        """The time in which attempts were running as a share of slots times wall time."""
        available = self.n_slots * self.wall_seconds
        return min(1.0, self.busy_seconds / available) if available > 0 else 0.0


@dataclass(slots=True)
class Group:
    """Nodes that are drawn as one: `nodes[start:end]`.

    Attributes:
        label: What they have in common, or the name of the only one.
        start: The first, as a position in `Report.nodes`.
        end: Behind the last.
        parts: What it is made of; empty where its nodes are few enough to be drawn themselves.
    """

    label: str
    start: int
    end: int
    parts: list[Group] = field(default_factory=list)

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Edges:
    """The parents of each node: those of node i are `parents[offsets[i] : offsets[i + 1]]`, as positions in `nodes`."""

    offsets: array[int]
    parents: array[int]


@dataclass(frozen=True, slots=True)
class CriticalStep:
    """A node of the longest chain.

    Attributes:
        node: Position in `Report.nodes`.
        duration_seconds: What it took.
        waited_seconds: From the end of the step before it to its start; None if that was in another run, or not known.
    """

    node: int
    duration_seconds: float
    waited_seconds: float | None


@dataclass(slots=True)
class Failure:
    """Nodes that failed alike: with errors of one type from one place.

    Attributes:
        status: `failed` or `timed out`; or `tried again`, for attempts that another one followed.
        type: The type of the error.
        message: Its text, for the first node.
        traceback: The remote traceback, for the first node.
        stderr: The last lines on standard error, for the first node.
        attempts: Attempts that were made for the first node.
        run: The run in which it failed, from 0.
        resolved: Whether the nodes have completed since; always so for attempts that another one followed, whose nodes
            stand once more among the failures if they failed in the end.
        nodes: Names of the first nodes.
        n_nodes: How many there are.
    """

    status: str
    type: str
    message: str
    traceback: str
    stderr: str
    attempts: int
    run: int
    resolved: bool
    nodes: list[str] = field(default_factory=list)
    n_nodes: int = 0


@dataclass(slots=True)
class Report:
    """All that the page shows.

    Attributes:
        directory: The checkpoint directory, as it was given.
        generated_unix: When the journal was read, in seconds since the epoch.
        version: The version of dagron.
        total: Nodes of the DAG of the last run; more than `nodes` if those that never ran are not known by name.
        nodes: The nodes, in an order in which each group is a stretch.
        attempts: What ran, run after run, by time.
        runs: The runs.
        group: All nodes, as they are grouped.
        gone: Names of nodes that the DAG no longer has, and that attempts of earlier runs are of.
        edges: None where they are not known.
        critical: The longest chain of work; empty where the edges are not known.
        failures: Those that stand first, then those that are resolved.
        notices: What the page does not show or cannot know, each a sentence.
    """

    directory: str
    generated_unix: float
    version: str
    total: int
    nodes: list[Node]
    attempts: list[Attempt]
    runs: list[Run]
    group: Group
    gone: list[str] = field(default_factory=list)
    edges: Edges | None = None
    critical: list[CriticalStep] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def name_of(self, node: int) -> str:
        """Return the name of the node of an attempt, also of one that is no longer in the DAG."""
        return self.nodes[node].name if node < len(self.nodes) else self.gone[node - len(self.nodes)]

    def counts(self) -> dict[NodeStatus, int]:
        """Return how many nodes are in each state; those that are not known by name are PENDING."""
        counts: dict[NodeStatus, int] = dict.fromkeys(NodeStatus, 0)
        for node in self.nodes:
            counts[node.state] += 1
        counts[NodeStatus.PENDING] += max(0, self.total - len(self.nodes))
        return counts

    @property
    def critical_seconds(self) -> float:
        """The duration of the longest chain: no number of workers makes the job shorter."""
        return sum(step.duration_seconds for step in self.critical)
