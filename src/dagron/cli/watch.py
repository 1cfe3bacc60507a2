"""`dagron status --watch`: a run, seen live from a second terminal."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.reading.opening import read_on, signing_key
from dagron.cli.ending import put, stop_on_signals
from dagron.cli.exit_codes import ExitCode
from dagron.cli.place import Place
from dagron.cli.reading import read_checkpoint, status_now
from dagron.looking.opening import directory_of
from dagron.looking.status import CheckpointStatus, shown_status
from dagron.results.status import NodeStatus

__all__ = ["watch"]

_LINE_SECONDS = 5.0
"""Between two lines where there is no terminal: as often as the progress of a run writes one there."""


def watch(where: Place, interval_seconds: float, *, as_json: bool) -> ExitCode:
    """Show a checkpoint until its run has ended. Reads each record of the journal once.

    Where standard output is a terminal, one text is drawn in place. Elsewhere, a line for every change, not more often
    than every five seconds; with `as_json` one JSON object a line for every look.

    Raises:
        NoCheckpointError: There is none, or it was cleared.
        CheckpointError: It cannot be read.
    """
    stop_on_signals()
    ledger = read_checkpoint(where)
    if as_json:
        return _watch_json(where, ledger, interval_seconds)
    if sys.stdout is not None and sys.stdout.isatty():
        return _watch_live(where, ledger, interval_seconds)
    return _watch_lines(where, ledger, interval_seconds)


def _next(where: Place, ledger: Ledger, interval_seconds: float) -> Ledger:
    time.sleep(interval_seconds)
    found = read_on(ledger, directory_of(where), signing_key())
    return read_checkpoint(where) if found is None or found.cleared else found


def _goes_on(status: CheckpointStatus) -> bool:
    # A run on another machine shows from here only when it has ended.
    return status.state in ("running", "running or interrupted")


def _code(status: CheckpointStatus) -> ExitCode:
    return ExitCode.OK if status.completed >= status.total else ExitCode.NODES


def _watch_json(where: Place, ledger: Ledger, interval_seconds: float) -> ExitCode:
    while True:
        status = status_now(ledger, where)
        put(json.dumps(asdict(status)))
        if not _goes_on(status):
            return _code(status)
        ledger = _next(where, ledger, interval_seconds)


def _watch_live(where: Place, ledger: Ledger, interval_seconds: float) -> ExitCode:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    encoding = sys.stdout.encoding  # what takes its place meanwhile has none
    with Live(console=Console(), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            status = status_now(ledger, where)
            text = shown_status(status, encoding, time.time())
            live.update(Text.from_ansi(text, no_wrap=True, overflow="ellipsis"), refresh=True)
            if not _goes_on(status):
                return _code(status)
            ledger = _next(where, ledger, interval_seconds)


def _watch_lines(where: Place, ledger: Ledger, interval_seconds: float) -> ExitCode:
    told, told_at = "", 0.0
    while True:
        status = status_now(ledger, where)
        counts = [(state, status.states.get(state, 0)) for state in (NodeStatus.FAILED, NodeStatus.TIMED_OUT)]
        failed = "".join(f", {n} {state.label}" for state, n in counts if n)
        preparing = f", {len(status.preparing)} in worker_init" if status.preparing else ""
        line = f"{status.completed}/{status.total} nodes completed{failed}, {len(status.running)} running{preparing}"
        ended = not _goes_on(status)
        if ended or (line != told and time.monotonic() >= told_at + _LINE_SECONDS):
            told, told_at = line, time.monotonic()
            put(f"{line}; {status.state}" if ended else line)
        if ended:
            return _code(status)
        ledger = _next(where, ledger, interval_seconds)
