"""A progress bar for a run: live where standard error is a terminal, elsewhere a line now and then.

Reads no clock: all times are those of the snapshots. Never raises: a terminal that went away must not end a run.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from dagron.callbacks import RunningNode, RunObserver, RunSnapshot
from dagron.display.notebook import CellText, in_notebook
from dagron.shown import bar_cells, glyphs_for, shown_bytes, shown_duration, shown_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

__all__ = ["ProgressBar"]

_LINE_SECONDS = 5.0
"""Between two lines where there is no terminal, so that the log of a run of a day stays readable."""

_CELL_SECONDS = 0.5
"""Between two texts of a notebook, which keeps all of them until the page is loaded anew."""

_CELL_WIDTH = 100
"""Characters in a line of a notebook's cell, which does not tell its width. Never varied."""

_MAX_ROWS = 16
"""Slots that have a row of their own, so that the bar leaves room for what else is on a screen of 24 lines."""

_NAME_WIDTH = 28
"""Characters of a name in a line without a terminal: two or three names in 80."""

_MIN_BAR_WIDTH, _MAX_BAR_WIDTH = 8, 60
"""Cells of the bar. With fewer it tells nothing; more tell no more. Never varied."""


def _shown_rate(per_second: float) -> str:
    for unit, rate in (("s", per_second), ("min", per_second * 60)):
        if rate >= 1:
            return f"{rate:.0f}/{unit}" if rate >= 10 else f"{rate:.1f}/{unit}"
    return f"{per_second * 3600:.1f}/h"


class _Pace:
    """How fast a run is: what it has run itself, over all of its time.

    Not over the last few seconds: a run may have a node a millisecond or a node an hour, and no window suits both. The
    time left is that of the snapshot, which knows how long nodes of each kind take; without it, that of their number.
    """

    def __init__(self, snapshot: RunSnapshot) -> None:
        without = snapshot.failed + snapshot.timed_out
        done = snapshot.completed - snapshot.restored + without
        left = snapshot.total - snapshot.completed - without - snapshot.skipped - snapshot.cancelled
        per_second = done / snapshot.elapsed_seconds if snapshot.elapsed_seconds > 0 else 0.0
        self.rate = _shown_rate(per_second) if per_second else ""
        seconds = snapshot.left_seconds
        if seconds is None and per_second:
            seconds = left / per_second
        self.left = shown_duration(seconds) if seconds is not None and left else ""


def _counts(snapshot: RunSnapshot) -> list[tuple[str, str]]:
    """Return what is worth saying besides the nodes that are done, each with its style."""
    every = (
        (snapshot.restored, "restored", "cyan"),
        (snapshot.failed, "failed", "bold red"),
        (snapshot.timed_out, "timed out", "bold red"),
        (snapshot.skipped, "skipped", "yellow"),
        (snapshot.cancelled, "cancelled", "yellow"),
    )
    facts = [(f"{count} {word}", style) for count, word, style in every if count]
    if snapshot.retries:
        facts.append(("1 retry" if snapshot.retries == 1 else f"{snapshot.retries} retries", "yellow"))
    if snapshot.preparing:
        facts.append((f"{len(snapshot.preparing)} in worker_init, {shown_duration(max(snapshot.preparing))}", ""))
    memory = sum(node.memory_bytes for node in snapshot.running)
    if memory:
        facts.append((f"{shown_bytes(memory)} in workers", ""))
    return facts


class ProgressBar(RunObserver):
    """Shows how far a run is, on standard error.

    On a terminal: a bar, completed nodes of all, elapsed time, pace, time left, and what each slot runs, for how long
    and with how much memory. The cursor stays visible, so that a killed run leaves the terminal as it was. In a
    notebook: the same as text below the cell. Elsewhere: a line at the start, one at the end, and between them one for
    every five seconds in which something changed.

    What callbacks and tasks print appears above the bar. What comes to the terminal past `sys.stdout` and `sys.stderr`,
    as from a process that a callback starts, tears the bar; the command line leads it around.

    Args:
        console: Where to write, if not to standard error; its `is_terminal` decides between the two.

    Attributes:
        console: The console of the live bar, for what is to appear above it; None where there is no terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._file: TextIO | None
        if console is None:
            self._file = sys.stderr
            if self._file is not None and self._file.isatty():
                # Imported here: where there is no terminal nothing of it is needed.
                from rich.console import Console

                # Said to be a terminal, because FORCE_COLOR and its like are for colours, not for cursor movements.
                console = Console(file=self._file, force_terminal=True)
        else:
            self._file = console.file  # type: ignore[assignment]  # any IO[str] can be written to
        live = console is not None and console.is_terminal and not console.is_dumb_terminal
        self.console = console if live else None
        encoding = console.encoding if console is not None else getattr(self._file, "encoding", None)
        self._glyphs = glyphs_for(encoding)
        self._live: Live | None = None
        self._last_line = (-1, 0.0)
        self._n_rows = 0
        self._cell = CellText() if console is None and in_notebook() else None

    def run_started(self, snapshot: RunSnapshot) -> None:
        """Show the bar, or write the first line."""
        if self._cell is not None:
            self._cell.show("\n".join(self._texts(snapshot, _CELL_WIDTH)))
            return
        if self.console is None:
            self._write_line(snapshot)
            return
        from rich.live import Live

        try:
            # What the user's callbacks print goes above the bar, unless it does not go to the terminal at all.
            live = Live(
                self._drawn(snapshot),
                console=self.console,
                auto_refresh=False,
                redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
                redirect_stderr=sys.stderr is not None and sys.stderr.isatty(),
            )
            self._live = live
            live.start(refresh=True)
            self.console.show_cursor(True)
        except (OSError, ValueError):
            self.close()

    def run_moved(self, snapshot: RunSnapshot) -> None:
        """Draw the bar anew, or write a line if one is due."""
        if self._cell is not None:
            if snapshot.elapsed_seconds >= self._last_line[1] + _CELL_SECONDS:
                self._last_line = (0, snapshot.elapsed_seconds)
                self._cell.show("\n".join(self._texts(snapshot, _CELL_WIDTH)))
            return
        if self._live is not None:
            try:
                self._live.update(self._drawn(snapshot), refresh=True)
            except (OSError, ValueError):
                self.close()
        elif self.console is None:
            done, at = self._last_line
            if self._n_ended(snapshot) != done and snapshot.elapsed_seconds >= at + _LINE_SECONDS:
                self._write_line(snapshot)

    def run_ended(self, snapshot: RunSnapshot) -> None:
        """Leave the bar as it is at the end, or write the last line."""
        if self._cell is not None:
            self._cell.show("\n".join(self._texts(snapshot, _CELL_WIDTH, ended=True)))
        elif self.console is None:
            self._write_line(snapshot, ended=True)
        elif self._live is not None:
            try:
                self._live.update(self._drawn(snapshot, ended=True))
            except (OSError, ValueError):
                pass  # the terminal is gone; there is still the rest to put back
            self.close()

    def close(self) -> None:
        """Leave the terminal as it was. Safe to call twice, and not needed after `run_ended`."""
        live, self._live = self._live, None
        if live is not None:
            try:
                live.stop()
            except (OSError, ValueError):
                pass  # the terminal is gone

    # --- lines ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _n_ended(snapshot: RunSnapshot) -> int:
        without = snapshot.failed + snapshot.timed_out + snapshot.skipped + snapshot.cancelled
        return snapshot.completed + without

    def _write_line(self, snapshot: RunSnapshot, *, ended: bool = False) -> None:
        self._last_line = (self._n_ended(snapshot), snapshot.elapsed_seconds)
        parts = [f"{snapshot.completed}/{snapshot.total} nodes completed", *(text for text, _ in _counts(snapshot))]
        if snapshot.elapsed_seconds >= 1 or ended:
            pace = _Pace(snapshot)
            parts.append(f"{shown_duration(snapshot.elapsed_seconds)} elapsed")
            if pace.rate:
                parts.append(pace.rate)
            if pace.left and not ended:
                parts.append(f"{pace.left} left")
        line = f"dagron: {', '.join(parts)}"
        if snapshot.running and not ended:
            line += f"; running {self._running(snapshot.running, 80)}"
        if self._file is not None:
            try:
                print(line, file=self._file, flush=True)
            except (OSError, ValueError):
                self._file = None

    def _running(self, nodes: tuple[RunningNode, ...], width: int) -> str:
        shown = ""
        names = [node.name for node in nodes]
        for i, name in enumerate(names):
            rest = len(names) - i - 1
            room = width - (len(f" +{rest}") if rest else 0)
            # The first one is shown in any case.
            text = shown_name(name, _NAME_WIDTH if shown else max(8, min(_NAME_WIDTH, room)), self._glyphs.ellipsis)
            longer = f"{shown}, {text}" if shown else text
            if shown and len(longer) > room:
                return f"{shown} +{rest + 1}"
            shown = longer
        return shown

    # --- the bar --------------------------------------------------------------------------------------------------

    def _drawn(self, snapshot: RunSnapshot, *, ended: bool = False) -> Text:
        assert self.console is not None
        # The last column stays free: what some terminals do behind it would move the bar.
        width = self.console.width - 1
        text = self._first_line(snapshot, width, ended=ended)
        facts = _counts(snapshot)
        if facts:
            text.append("\n")
        for i, (fact, style) in enumerate(facts):
            if i:
                text.append(self._glyphs.separator, "dim")
            text.append(fact, style)
        if not ended:
            rows = self._rows(snapshot.running, width, min(_MAX_ROWS, max(1, self.console.height - 4)))
            # What was drawn once stays as high as it was, or everything below it would jump with each short node.
            self._n_rows = max(self._n_rows, len(rows))
            for row in [*rows, *[""] * (self._n_rows - len(rows))]:
                text.append(f"\n{row}", "dim")
        return text

    def _texts(self, snapshot: RunSnapshot, width: int, *, ended: bool = False) -> list[str]:
        facts = self._glyphs.separator.join(fact for fact, _ in _counts(snapshot))
        rows = [] if ended else self._rows(snapshot.running, width, _MAX_ROWS)
        return [self._first_line(snapshot, width, ended=ended).plain, *([facts] if facts else []), *rows]

    def _rows(self, running: tuple[RunningNode, ...], width: int, n_rows: int) -> list[str]:
        """Return what the slots run: all of them by slot, or those that have run longest."""
        nodes = list(running)
        if len(nodes) > n_rows:
            nodes = sorted(nodes, key=lambda node: -node.seconds)[: n_rows - 1]
        figures = []
        for node in nodes:
            seconds = f"{node.seconds:.1f} s" if node.seconds < 60 else shown_duration(node.seconds)
            figures.append(f"{seconds:>9}{shown_bytes(node.memory_bytes) if node.memory_bytes else '':>11}")
        room = max(8, width - 2 - 20)
        names = [shown_name(node.name, room, self._glyphs.ellipsis) for node in nodes]
        longest = max(map(len, names), default=0)
        rows = [f"  {name:<{longest}}{figure}".rstrip() for name, figure in zip(names, figures, strict=True)]
        if len(running) > len(nodes):
            rows.append(f"  {self._glyphs.ellipsis} and {len(running) - len(nodes)} more")
        return rows

    def _first_line(self, snapshot: RunSnapshot, width: int, *, ended: bool) -> Text:
        from rich.text import Text

        done, total = snapshot.completed, snapshot.total
        percent = f"{100 * done // total if total else 100}%".rjust(4)
        pace = _Pace(snapshot)
        fields = [
            f" {str(done).rjust(len(str(total)))}/{total} {percent}",
            f"  {shown_duration(snapshot.elapsed_seconds)}",
        ]
        if pace.left and not ended:
            fields.append(f", {pace.left} left")
        if pace.rate:
            fields.append(f"  {pace.rate}")
        numbers = ""
        for field in fields:
            # What does not fit beside the smallest bar is left out, the least important first.
            if len(numbers) + len(field) + _MIN_BAR_WIDTH > width:
                break
            numbers += field
        # What the numbers take in most runs, where there is room, so that the bar keeps its length.
        bar_width = max(_MIN_BAR_WIDTH, min(_MAX_BAR_WIDTH, width - max(len(numbers), 40 if width >= 80 else 0)))
        text = Text(no_wrap=True, overflow="ellipsis")
        kinds = [
            (snapshot.restored, "cyan"),
            (done - snapshot.restored, "green"),
            (snapshot.failed + snapshot.timed_out, "red"),
            (snapshot.skipped + snapshot.cancelled, "yellow"),
        ]
        cells = bar_cells([count for count, _ in kinds], total, bar_width)
        for (_, style), n in zip(kinds, cells, strict=True):
            text.append(self._glyphs.full * n, style)
        text.append(self._glyphs.rest * (bar_width - sum(cells)), "dim")
        text.append(numbers)
        return text
