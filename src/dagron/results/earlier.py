"""The attempts of a node that failed before its last one: as figures, and as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dagron.checkpoint.format.records import Retried
from dagron.results.failures import folded, last_own_frame
from dagron.results.reasons import shown_reason
from dagron.shown import shown_name, shown_seconds

__all__ = ["EarlierAttempt", "earlier_attempts", "shown_earlier"]


@dataclass(frozen=True, slots=True)
class EarlierAttempt:
    """An attempt that failed and that another one followed.

    Attributes:
        attempt: Which one, from 1.
        error: Why it failed, in one line.
        traceback: Its traceback; empty if there is none, or if it is that of the attempt before.
        slot: The slot that made it.
        started_unix: When it began, in seconds since the epoch.
        duration_seconds: How long it took.
        cpu_seconds: User and system time.
        peak_rss_bytes: Peak resident memory of the worker up to its end.
        stderr: The end of what it wrote to standard error.
    """

    attempt: int
    error: str
    traceback: str
    slot: int
    started_unix: float
    duration_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    stderr: str


def earlier_attempts(retried: Iterable[Retried]) -> list[EarlierAttempt]:
    """Return what is recorded of the attempts of a node that another one followed."""
    return [
        EarlierAttempt(
            attempt.attempt,
            shown_reason(attempt),
            attempt.traceback,
            attempt.slot,
            attempt.figures.started_unix,
            attempt.figures.duration_seconds,
            attempt.figures.cpu_seconds,
            attempt.figures.peak_rss_bytes,
            attempt.stderr,
        )
        for attempt in retried
    ]


def shown_earlier(attempts: Sequence[EarlierAttempt], *, full: bool = False) -> list[str]:
    """Return the lines about attempts that were followed by another one.

    Args:
        attempts: Those that are recorded, in order.
        full: Show the tracebacks and what was written last, too; else where each was raised, unless it is the same
            place again.
    """
    lines: list[str] = []
    before, place = 0, ""
    for attempt in attempts:
        if attempt.attempt > before + 1:
            lines.append(f"... {_numbers(before + 1, attempt.attempt - 1)} not recorded")
        before = attempt.attempt
        took = f" after {shown_seconds(attempt.duration_seconds)}" if attempt.duration_seconds else ""
        lines.append(f"{attempt.attempt}{took}: {attempt.error}")
        if full:
            lines += _indented(folded(attempt.traceback.rstrip()))
            lines += ["    it wrote last to stderr:", *_indented(attempt.stderr, 8)] if attempt.stderr else []
        elif (frame := last_own_frame(attempt.traceback)) is not None:
            raised = shown_name(f"{frame.path}:{frame.line}, in {frame.function}: {frame.source}")
            lines += [f"    at {raised}"] if raised != place else []
            place = raised
    return lines


def _numbers(first: int, last: int) -> str:
    return f"attempt {first} is" if first == last else f"attempts {first} to {last} are"


def _indented(text: str, width: int = 4) -> list[str]:
    return [f"{' ' * width}{line}".rstrip() for line in text.splitlines()]
