"""What is known of many nodes as rows: as a `pandas.DataFrame`, and as a table in the output of a notebook's cell."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from dagron.errors import MissingPackageError
from dagron.results.status import NodeStatus

if TYPE_CHECKING:
    import pandas  # type: ignore[import-not-found, import-untyped, unused-ignore]

__all__ = ["COLUMNS", "NodeFigures", "as_frame", "as_html", "as_preformatted"]

_TIMES = {"started_unix": "started", "ended_unix": "ended"}
"""Columns that are seconds since the epoch, and what they are called as times."""


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """One node; the fields of `dagron ls --json` and of `dagron export`.

    Attributes:
        name: The node.
        state: How it stands.
        attempts: Attempts in the run that ended it; 0 if none has ended.
        slot: The slot that ran it; -1 for none.
        started_unix: When the last attempt began, in seconds since the epoch; 0.0 if that is not known.
        duration_seconds: How long the last attempt took; a running one has taken so long until now.
        cpu_seconds: User and system time of that attempt.
        peak_rss_bytes: Peak resident memory of the worker up to its end.
        result_bytes: Size of the pickled result.
        error: The type and the first line of the message, if it failed.
        system_seconds: The part of `cpu_seconds` that was spent in the system; the rest was in user mode.
        ended_unix: When the last attempt ended; 0.0 if it has not, or that is not known.
        stored_bytes: What the result takes in the checkpoint; 0 if it is not there.
    """

    name: str
    state: NodeStatus
    attempts: int = 0
    slot: int = -1
    started_unix: float = 0.0
    duration_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0
    result_bytes: int = 0
    error: str = ""
    system_seconds: float = 0.0
    ended_unix: float = 0.0
    stored_bytes: int = 0

    @property
    def is_dropped(self) -> bool:
        """Whether the node is completed without its result, which was not to be kept."""
        return self.state is NodeStatus.COMPLETED and not self.stored_bytes

    def row(self) -> dict[str, Any]:
        """Return it as a dict."""
        return {**asdict(self), "state": self.state.value}


COLUMNS = tuple(field.name for field in fields(NodeFigures))
"""What a row about a node has, in order."""


def as_frame(rows: Sequence[Mapping[str, Any]], columns: Iterable[str], index: str) -> pandas.DataFrame:
    """Return rows as a frame. Seconds since the epoch become times in UTC, with `NaT` where they are 0.

    Args:
        rows: With the same keys in each.
        columns: These keys, also if there are no rows.
        index: The one that becomes the index.

    Raises:
        MissingPackageError: There is no pandas.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingPackageError("to_frame()", "pandas", "to_dicts() gives the same without it") from error
    # Column by column, or pandas would look into results that are lists or dicts.
    found: dict[str, Any] = {}
    for column in columns:
        cells = [row[column] for row in rows]
        if column in _TIMES:
            seconds = [cell or None for cell in cells]
            found[_TIMES[column]] = pandas.to_datetime(pandas.Series(seconds, dtype="float64"), unit="s", utc=True)
        elif set(map(type, cells)) <= {int, float, bool, str}:
            found[column] = pandas.Series(cells, dtype=None if cells else "object")
        else:
            series = pandas.Series([None] * len(cells), dtype="object")
            for i, cell in enumerate(cells):
                series.iat[i] = cell
            found[column] = series
    return pandas.DataFrame(found).set_index(index)


def as_html(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    """Return a table as HTML. Every text is escaped.

    Args:
        title: What stands above it.
        columns: The heads.
        rows: The cells.
        note: What stands below it; nothing if empty.
    """
    head = _line("th", columns)
    body = "".join(_line("td", row) for row in rows)
    table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>" if body else ""
    below = f"<div>{html.escape(note)}</div>" if note else ""
    return f"<div><div>{html.escape(title)}</div>{table}{below}</div>"


def _line(tag: str, cells: Iterable[str]) -> str:
    shown = "".join(f"<{tag} style='text-align:left'>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{shown}</tr>"


def as_preformatted(text: str) -> str:
    """Return a text of several lines as HTML."""
    return f"<pre>{html.escape(text)}</pre>"
