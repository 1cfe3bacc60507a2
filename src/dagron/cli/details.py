"""All that a checkpoint knows about one node, and as text."""

from __future__ import annotations

import os
import pprint
import sys
import time
from dataclasses import dataclass
from typing import Any

from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.reading.opening import printed_by, retried_of, signing_key
from dagron.cli.exit_codes import UsageError
from dagron.cli.place import Place
from dagron.cli.reading import figures_now, read_checkpoint
from dagron.cli.terminal import NOT_FOR_A_LINE, styled, styled_state, terminal_width
from dagron.looking.opening import directory_of, recorded_dag
from dagron.looking.outputs import shown_outputs
from dagron.results.earlier import EarlierAttempt, earlier_attempts, shown_earlier
from dagron.results.failures import folded, last_own_frame
from dagron.results.patterns import no_such_node
from dagron.results.tables import NodeFigures
from dagron.shown import shown_bytes, shown_name, shown_seconds, shown_time, text_of

__all__ = ["NodeDetails", "details_of", "shown_details", "shown_result"]

_MAX_NAMES = 12
"""Parents or children that are named; `dagron show --json` has all."""

_MAX_DIGESTED_BYTES = 2**30
"""A larger result is not shown unless --full asks for it, because all of it is digested first: so much takes about a
second, where the disk is not slower than that."""

_WIDTH = 100
"""Columns of a line where standard output is no terminal. Never varied."""

_MAX_LINES = 20
"""Lines of an output that are shown without `--full`: as many as the report of a failure has."""


@dataclass(frozen=True, slots=True)
class NodeDetails:
    """One node; the fields of `dagron show --json`.

    Attributes:
        figures: As `dagron ls` has them.
        parents: Its parents in the DAG of the last run; None if that is not recorded.
        children: Its children there.
        file: The file of its result; empty if it has none.
        digest: Of the pickled result, in hexadecimal.
        digest_algorithm: What that is: `blake3`, with a signing key `keyed blake3`.
        outputs: A line for each file that it wrote beside its result and that is checked.
        value: The result as text; empty if there is none.
        traceback: Of its last attempt, if that failed.
        pid: The process that made that attempt; 0 if it is not known.
        retried: What is recorded of the attempts before the last one, in order: all but the middle ones of many.
        inputs: The arguments with which that was called, as pairs of a name and a short text, if its task raised.
        stdout: The end of what its last attempt wrote to standard output.
        stderr: The same for standard error.
        stdout_bytes: How much it wrote there in all.
        stderr_bytes: The same for standard error.
    """

    figures: NodeFigures
    parents: list[str] | None
    children: list[str] | None
    file: str
    digest: str
    digest_algorithm: str
    outputs: list[str]
    value: str
    traceback: str
    pid: int
    retried: list[EarlierAttempt]
    inputs: list[tuple[str, str]]
    stdout: str
    stderr: str
    stdout_bytes: int
    stderr_bytes: int


def details_of(where: Place, name: str, *, full: bool, unpickle: bool, plain: bool = False) -> NodeDetails:
    """Read what a checkpoint knows about a node.

    Args:
        where: The checkpoint.
        name: The node.
        full: Do not shorten the result.
        unpickle: Load the result, which runs code that it names; else show it without.
        plain: Show a result that is a text as it is.

    Raises:
        UsageError: There is no such node.
        CheckpointDamagedError: Its result is damaged.
        ResultNotLoadableError: With `unpickle`, its result cannot be loaded.
    """
    ledger = read_checkpoint(where)
    dag = recorded_dag(ledger)
    directory = directory_of(where)
    nodes = {node.name: node for node in figures_now(ledger, dag, where)}
    figures = nodes.get(name)
    if figures is None:
        raise UsageError(no_such_node(name, list(nodes)))
    parents = children = None
    if dag is not None:
        parents, children = dag.parents(name), dag.children(name)
    failure = ledger.failures.get(name)
    # A result that was taken away is no result of an attempt that has failed since.
    commit = ledger.completed_commit(name) or (None if failure else ledger.stale.get(name))
    printed = printed_by(ledger, directory, name, signing_key())
    return NodeDetails(
        figures,
        parents,
        children,
        file=str(directory.path / commit.file_name) if commit is not None and not figures.is_dropped else "",
        digest=commit.digest.hex() if commit is not None else "",
        digest_algorithm=Digests(signing_key()).name if commit is not None else "",
        outputs=shown_outputs(ledger, commit, signing_key()) if commit is not None else [],
        value=_value(where, ledger, name, full=full, unpickle=unpickle, plain=plain),
        traceback=failure.traceback if failure is not None else "",
        pid=failure.pid if failure is not None else 0,
        retried=earlier_attempts(retried_of(ledger, directory, name, Digests(signing_key()))),
        inputs=[*failure.inputs] if failure is not None else [],
        stdout=printed.stdout,
        stderr=printed.stderr,
        stdout_bytes=printed.stdout_bytes,
        stderr_bytes=printed.stderr_bytes,
    )


def _value(where: Place, ledger: Ledger, name: str, *, full: bool, unpickle: bool, plain: bool) -> str:
    from dagron.checkpoint.blobs import load_result
    from dagron.preview.previewing import preview

    commit = ledger.commits.get(name)
    if commit is None:
        return ""
    if commit.size > _MAX_DIGESTED_BYTES and not (full or unpickle):
        return f"<{shown_bytes(commit.size)}; --full reads it>"
    directory = directory_of(where)
    data = load_result(directory, commit, Digests(signing_key()))
    if not unpickle:
        return preview(data, full=full, plain=plain, width=terminal_width() or _WIDTH)
    from dagron.crossing.loading import load_result_of

    sys.path.insert(0, os.getcwd())  # as for the run that made it
    return shown_result(load_result_of(name, data, str(directory.path)))


def shown_result(value: Any) -> str:
    """Return the value of a result as text; of one that cannot tell what it is, its type and why."""
    if isinstance(value, str):
        return value
    try:
        return pprint.pformat(value)
    except Exception as error:
        kind = type(value)
        return f"<{kind.__module__}.{kind.__qualname__}, whose repr raised {type(error).__name__}: {text_of(error)}>"


# --- as text ---------------------------------------------------------------------------------------------------------


def shown_details(details: NodeDetails, *, full: bool) -> str:
    """Return what is known about a node as text of several lines; with `full` nothing is shortened."""
    node = details.figures
    rows = [("state", f"{styled_state(node.state.label)}: {node.state.meaning}")]
    if node.attempts:
        rows.append(("attempts", str(node.attempts)))
    if node.started_unix:
        rows.append(("started", shown_time(node.started_unix, time.time())))
        cpu = f", {shown_seconds(node.cpu_seconds)} of CPU" if node.cpu_seconds else ""
        rows.append(("time", f"{shown_seconds(node.duration_seconds)}{cpu}"))
    if node.slot >= 0:
        memory = f", {shown_bytes(node.peak_rss_bytes)} of memory" if node.peak_rss_bytes else ""
        process = f", process {details.pid}" if details.pid else ""
        rows.append(("worker", f"slot {node.slot}{process}{memory}"))
    if details.file:
        rows.append(("result", f"{shown_bytes(node.result_bytes)} in {shown_name(details.file)}"))
        rows.append(("digest", f"{details.digest_algorithm} {details.digest}"))
    if node.is_dropped:
        rows.append(("result", f"{shown_bytes(node.result_bytes)}, not kept; keep=True and a resume make it again"))
    rows += [("output", line) for line in details.outputs]
    for label, names in (("parents", details.parents), ("children", details.children)):
        if names:
            rows.append((label, _shown_names(names)))
    lines = [styled(shown_name(node.name), "1"), *(f"{label:<9} {text}" for label, text in rows)]
    if node.error and not details.traceback:
        lines.append(f"error     {node.error}")
    if (frame := last_own_frame(details.traceback)) is not None:
        lines.append(f"raised    {shown_name(f'{frame.path}:{frame.line}, in {frame.function}: {frame.source}')}")
    inputs = [f"{shown_name(name)} = {shown_name(text)}" for name, text in details.inputs]
    sections = [
        ("value", details.value),
        ("inputs", "\n".join(inputs)),
        ("earlier attempts", "\n".join(shown_earlier(details.retried, full=full))),
        ("traceback", details.traceback if full else folded(details.traceback)),
        (_stream_title("stdout", details.stdout, details.stdout_bytes, full=full), _end(details.stdout, full=full)),
        (_stream_title("stderr", details.stderr, details.stderr_bytes, full=full), _end(details.stderr, full=full)),
    ]
    for title, text in sections:
        if text:
            lines += ["", styled(title, "1"), NOT_FOR_A_LINE.sub("", text.rstrip())]
    return "\n".join(lines)


def _end(text: str, *, full: bool) -> str:
    return text if full else "\n".join(text.splitlines()[-_MAX_LINES:])


def _stream_title(stream: str, text: str, n_bytes: int, *, full: bool) -> str:
    n_lines = len(text.splitlines())
    if not full and n_lines > _MAX_LINES:
        return f"{stream}, the last {_MAX_LINES} lines of {shown_bytes(n_bytes)}; --full shows more"
    # Characters and bytes differ, and so do a line and what was written over it; much more was left out on purpose.
    return f"{stream}, the end of {shown_bytes(n_bytes)}" if n_bytes > 4 * len(text) + 16 else stream


def _shown_names(names: list[str]) -> str:
    shown = ", ".join(map(shown_name, names[:_MAX_NAMES]))
    return f"{shown} and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else shown
