"""Failures that are alike, put together: ten thousand nodes may fail at one line. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dagron.checkpoint.reading.history import History
from dagron.report.model import Failure
from dagron.results.failures import last_frame
from dagron.shown import without_middle

__all__ = ["MAX_FAILURES", "MAX_NAMES", "MAX_TEXT", "failures_of"]

MAX_FAILURES = 100
MAX_NAMES = 50
_MAX_KIND = 200
MAX_TEXT = 20_000
"""Characters of a traceback; a recursion without end has more. Its middle is left out."""


def failures_of(history: History) -> list[Failure]:
    """Return what failed: first what still stands, then what has completed since; the most frequent first.

    Failures are alike if they have the same status and type of error and come from the same line.
    """
    alike: dict[tuple[object, ...], Failure] = {}
    for run, fields, resolved in _last_of_each(history):
        status, kind, text = (str(fields.get(key, "")) for key in ("status", "type", "traceback"))
        raised = last_frame(text)
        key = (resolved, status, kind, raised and raised[:3])
        failure = alike.get(key)
        if failure is None:
            failure = alike[key] = Failure(
                status.replace("_", " "),
                without_middle(kind, _MAX_KIND),
                without_middle(str(fields.get("message", "")), MAX_TEXT),
                without_middle(text, MAX_TEXT),
                without_middle(str(fields.get("stderr", "")), MAX_TEXT),
                int(fields.get("attempts", 0)),
                run,
                resolved,
            )
        failure.n_nodes += 1
        if len(failure.nodes) < MAX_NAMES:
            failure.nodes.append(str(fields["name"]))
    return sorted(alike.values(), key=lambda failure: (failure.resolved, -failure.n_nodes))[:MAX_FAILURES]


def _last_of_each(history: History) -> Iterator[tuple[int, dict[str, Any], bool]]:
    view = history.view
    last = {fields["name"]: (run, fields) for run, past in enumerate(history.runs) for fields in past.failures}
    for name, (run, fields) in last.items():
        if name in view.absent:
            continue
        if name in view.failures:
            yield run, fields, False
        elif name in view.commits:
            yield run, fields, True
