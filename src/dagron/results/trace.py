"""What ran when and where: spans of attempts, written as a Chrome trace that Perfetto and chrome://tracing open."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dagron.figures import Figures

__all__ = ["ExecutionTrace", "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """One attempt, or one restored node.

    Attributes:
        name: The node.
        slot: The slot that ran it; -1 for a restored node.
        attempt: Which attempt; 0 for a restored node.
        outcome: `completed`; `raised`; `lost`, if its worker died; `timed_out` or `out_of_memory`, if it was killed for
            a limit; `cancelled`; `put_back`, if its worker was killed for what was not its own, and the attempt does
            not count; or `restored`.
        figures: What the attempt took; a restored node has only the time at which it was known to be restored.
        result_bytes: Size of the pickled result.
        error: Type and text of what an attempt failed with; empty if it did not.
    """

    name: str
    slot: int
    attempt: int
    outcome: str
    figures: Figures
    result_bytes: int = 0
    error: str = ""

    @property
    def started_unix(self) -> float:
        """When it began, in seconds since the epoch."""
        return self.figures.started_unix

    @property
    def duration_seconds(self) -> float:
        """How long it took; 0.0 for a restored node."""
        return self.figures.duration_seconds

    @property
    def cpu_seconds(self) -> float:
        """User and system time of the attempt; 0.0 if its worker died, which takes that along."""
        return self.figures.cpu_seconds


@dataclass(slots=True)
class ExecutionTrace:
    """The spans of one run, in the order in which they became known.

    Attributes:
        spans: All of them.
        n_slots: Slots of the run.
        start_unix: When the run began, in seconds since the epoch.
    """

    n_slots: int
    start_unix: float
    spans: list[Span] = field(default_factory=list)

    def add_restored(self, names: Iterable[str]) -> None:
        """Add a span for each node whose result was taken from the checkpoint."""
        now = Figures(started_unix=time.time())
        self.spans.extend(Span(name, -1, 0, "restored", now) for name in names)

    def to_chrome_trace(self) -> dict[str, Any]:
        """Return the trace in the JSON object format of the Trace Event Format.

        One lane (thread) per worker slot with a `B` and an `E` event for each attempt, and a lane "restored" with an
        instant event for each restored node. Times are microseconds since the run began.
        """
        pid = 1
        restored_lane = self.n_slots
        events: list[dict[str, Any]] = [{"ph": "M", "name": "process_name", "pid": pid, "args": {"name": "dagron"}}]
        lanes = [f"worker {slot}" for slot in range(self.n_slots)]
        if any(span.outcome == "restored" for span in self.spans):
            lanes.append("restored")
        events += [
            {"ph": "M", "name": "thread_name", "pid": pid, "tid": lane, "args": {"name": name}}
            for lane, name in enumerate(lanes)
        ]
        ends = [0.0] * self.n_slots
        for span in sorted(self.spans, key=lambda span: (span.slot, span.started_unix)):
            begin = max(0.0, (span.started_unix - self.start_unix) * 1e6)
            if span.slot < 0:
                events.append(
                    {
                        "ph": "i",
                        "s": "t",
                        "name": span.name,
                        "cat": "restored",
                        "pid": pid,
                        "tid": restored_lane,
                        "ts": begin,
                    }
                )
                continue
            # A worker runs one attempt at a time; what overlaps by clock resolution is moved, so that B and E nest.
            begin = max(begin, ends[span.slot])
            end = ends[span.slot] = max(begin, (span.figures.ended_unix - self.start_unix) * 1e6)
            event = {"name": span.name, "cat": span.outcome, "pid": pid, "tid": span.slot}
            args: dict[str, Any] = {
                "attempt": span.attempt,
                "outcome": span.outcome,
                "cpu_seconds": span.cpu_seconds,
                "result_bytes": span.result_bytes,
            }
            if span.error:
                args["error"] = span.error
            events.append({"ph": "B", **event, "ts": begin, "args": args})
            events.append({"ph": "E", **event, "ts": end})
        return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"start_unix": self.start_unix}}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the Chrome trace to a file, which https://ui.perfetto.dev opens."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.to_chrome_trace(), file)
