"""Failures that are alike, put together: ten thousand nodes may fail at one line. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dagron.checkpoint.format.records import Failed
from dagron.checkpoint.reading.history import History
from dagron.report.model import Failure
from dagron.results.failures import last_frame
from dagron.results.status import status_of_failure
from dagron.shown import without_middle

__all__ = ["MAX_NAMES", "MAX_TEXT", "failures_of"]

_MAX_FAILURES = 100
"""Kinds of failures on the page, the most frequent; never varied."""

MAX_NAMES = 50
"""Nodes that are named for a kind of failure; the page counts the others."""

_MAX_KIND = 200
"""Characters of the type of an error, which may be any text."""

MAX_TEXT = 20_000
"""Characters of a message, a traceback or an output. A recursion without end has more; its middle is left out."""


def failures_of(history: History) -> list[Failure]:
    """Return what failed: first what still stands, then what has completed since; the most frequent first.

    Failures are alike if they have the same status and type of error and come from the same line. Attempts that another
    one followed come last.
    """
    return [*_outcomes(history), *_tried_again(history)][:_MAX_FAILURES]


def _outcomes(history: History) -> list[Failure]:
    alike: dict[tuple[object, ...], Failure] = {}
    for run, failed, resolved in _last_of_each(history):
        raised = last_frame(failed.traceback)
        key = (resolved, failed.status, failed.type, raised and raised[:3])
        failure = alike.get(key)
        if failure is None:
            failure = alike[key] = Failure(
                status_of_failure(failed.status).label,
                without_middle(failed.type, _MAX_KIND),
                without_middle(failed.message, MAX_TEXT),
                without_middle(failed.traceback, MAX_TEXT),
                without_middle(failed.output.stderr, MAX_TEXT),
                failed.attempts,
                run,
                resolved,
            )
        failure.n_nodes += 1
        if len(failure.nodes) < MAX_NAMES:
            failure.nodes.append(failed.name)
    return sorted(alike.values(), key=lambda failure: (failure.resolved, -failure.n_nodes))


def _tried_again(history: History) -> list[Failure]:
    alike: dict[tuple[object, ...], Failure] = {}
    of_kind: dict[tuple[object, ...], set[str]] = {}
    places: dict[str, object] = {}
    for run, past in enumerate(history.runs):
        for retried in past.retried:
            name = retried.name
            if name in history.ledger.absent:
                continue
            if retried.traceback or retried.attempt == 1:  # without one, it is that of the attempt before
                raised = last_frame(retried.traceback)
                places[name] = raised and raised[:3]
            key = retried.outcome, retried.type, places.get(name)
            failure = alike.get(key)
            if failure is None:
                failure = alike[key] = Failure(
                    "tried again",
                    without_middle(retried.type, _MAX_KIND),
                    retried.message,
                    retried.traceback,
                    retried.stderr,
                    retried.attempt,
                    run,
                    resolved=True,
                )
            names = of_kind.setdefault(key, set())
            if name not in names:
                names.add(name)
                failure.n_nodes += 1
                if len(failure.nodes) < MAX_NAMES:
                    failure.nodes.append(name)
    return sorted(alike.values(), key=lambda failure: -failure.n_nodes)


def _last_of_each(history: History) -> Iterator[tuple[int, Failed, bool]]:
    ledger = history.ledger
    last = {failed.name: (run, failed) for run, past in enumerate(history.runs) for failed in past.failures}
    for name, (run, failed) in last.items():
        if name in ledger.absent:
            continue
        if name in ledger.failures:
            yield run, failed, False
        elif name in ledger.commits or name in ledger.dropped:
            yield run, failed, True
