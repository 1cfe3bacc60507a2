"""The progress bar: lines where there is no terminal, a live bar where there is one; never an error."""

import io
import sys
import time
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from dagron.callbacks import RunningNode, RunSnapshot
from dagron.display.progress import ProgressBar
from dagron.executor import CheckpointExecutor
from dagron.frozen import replaced
from dagron.graph.dag import DAG
from dagron.shown import bar_cells, glyphs_for, shown_duration, shown_name


def at(seconds, completed=0, *, total=100, restored=0, failed=0, skipped=0, cancelled=0, running=()):
    nodes = tuple(node if isinstance(node, RunningNode) else RunningNode(node, 0, 1.5) for node in running)
    return RunSnapshot(total, completed, restored, failed, skipped, cancelled, nodes, float(seconds))


class Broken(io.StringIO):
    """A terminal that goes away after some writes."""

    def __init__(self, n_writes, error):
        super().__init__()
        self.n_left = n_writes
        self.error = error

    def write(self, text):
        self.n_left -= 1
        if self.n_left < 0:
            raise self.error
        return super().write(text)


def lines_of(*snapshots):
    """The lines for a run that starts with the first snapshot and ends with the last."""
    out = io.StringIO()
    bar = ProgressBar(Console(file=out))
    bar.run_started(snapshots[0])
    for snapshot in snapshots[1:-1]:
        bar.run_moved(snapshot)
    bar.run_ended(snapshots[-1])
    return out.getvalue().splitlines()


def terminal(width=100, file=None):
    # Without colours, so that the text can be compared.
    return Console(
        file=file or io.StringIO(), force_terminal=True, width=width, color_system=None, legacy_windows=False
    )


def drawn(snapshot, width=100):
    """The lines of a bar that shows this snapshot."""
    bar = ProgressBar(terminal(width))
    return bar._drawn(snapshot).plain.splitlines()


# --- lines -------------------------------------------------------------------------------------------------------


def test_without_a_terminal_there_is_a_line_at_the_start_and_one_at_the_end():
    assert lines_of(at(0), at(2, 100)) == [
        "dagron: 0/100 nodes completed",
        "dagron: 100/100 nodes completed, 0:02 elapsed, 50/s",
    ]


def test_without_a_terminal_there_is_at_most_one_line_in_five_seconds_and_only_for_a_change():
    moves = [at(tenth / 10, min(90, tenth)) for tenth in range(1, 400)]
    lines = lines_of(at(0), *moves, at(40, 100))
    shown = [line.split()[1] for line in lines]
    # The nodes of the first ten seconds are done at 5.0 s and at 10.0 s; then nothing changes any more.
    assert shown == ["0/100", "50/100", "90/100", "100/100"]


def test_a_line_tells_restored_failed_skipped_and_cancelled_nodes_and_what_runs():
    lines = lines_of(
        at(0, 10, restored=10),
        at(5, 20, restored=10, failed=2, skipped=3, cancelled=1, running=["a", "b"]),
        at(6, 20, restored=10, failed=2, skipped=3, cancelled=75),
    )
    assert lines == [
        "dagron: 10/100 nodes completed, 10 restored",
        "dagron: 20/100 nodes completed, 10 restored, 2 failed, 3 skipped, 1 cancelled, 0:05 elapsed, 2.4/s, "
        "0:30 left; running a, b",
        "dagron: 20/100 nodes completed, 10 restored, 2 failed, 3 skipped, 75 cancelled, 0:06 elapsed, 2.0/s",
    ]


def test_lines_go_to_standard_error_by_default(capsys):
    bar = ProgressBar()
    bar.run_started(at(0))
    bar.run_ended(at(1, 100))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 2


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    out = io.StringIO()
    bar = ProgressBar(terminal(file=out))
    bar.run_started(at(0))
    bar.run_ended(at(1, 100))
    assert out.getvalue().count("\n") == 2
    assert "\x1b" not in out.getvalue()


# --- the bar -----------------------------------------------------------------------------------------------------


def test_on_a_terminal_the_bar_is_drawn_in_place_and_its_end_stays(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    bar = ProgressBar(terminal(file=out))
    bar.run_started(at(0, running=["a"]))
    bar.run_moved(at(1, 50, running=["b"]))
    bar.run_ended(at(2, 100))
    text = out.getvalue()
    assert " 50/100  50%" in text
    assert "  b    1.5 s" in text
    assert "\x1b[2K" in text  # erased, to be drawn again
    assert text.removesuffix("\x1b[?25h").endswith(" 100/100 100%  0:02  50/s\n")
    # Shown again at once: a killed run leaves a visible cursor.
    assert text.index("\x1b[?25h") < text.index(" 50/100")


def test_workers_that_are_in_worker_init_are_counted_with_the_longest_time():
    snapshot = replaced(at(75, 0), preparing=(61.0, 72.5))
    assert drawn(snapshot, width=80)[1:] == ["2 in worker_init, 1:12"]
    assert lines_of(snapshot, at(75, 0))[0] == "dagron: 0/100 nodes completed, 2 in worker_init, 1:12, 1:15 elapsed"


def test_the_bar_shows_counts_pace_and_the_time_left_for_what_is_not_restored():
    # 100 of 900 were run in 10 s, so the other 800 take 80 s.
    running = [RunningNode("x", 0, 5.04, 3 * 2**20), RunningNode("longer", 1, 61.0, 2**30)]
    assert drawn(at(10, 200, total=1000, restored=100, running=running), width=80) == [
        "━━━━━━━━─────────────────────────────────  200/1000  20%  0:10, 1:20 left  10/s",
        "100 restored · 1.0 GiB in workers",
        "  x         5.0 s    3.0 MiB",
        "  longer     1:01    1.0 GiB",
    ]


def test_the_time_left_is_that_of_the_durations_where_these_are_known():
    (first,) = drawn(replaced(at(10, 200, total=1000), left_seconds=3600.0))
    assert ", 1:00:00 left" in first


def test_what_was_drawn_once_keeps_its_height_until_the_end():
    bar = ProgressBar(terminal())
    assert bar._drawn(at(1, running=["a", "b"])).plain.count("\n") == 2
    assert bar._drawn(at(2, running=["c"])).plain.count("\n") == 2
    assert bar._drawn(at(3, 100), ended=True).plain.count("\n") == 0


def test_of_more_slots_than_there_is_room_for_the_longest_running_nodes_are_shown():
    names = [RunningNode(f"n{i}", i, float(i)) for i in range(40)]
    rows = drawn(at(1, 1, running=names))[1:]
    assert len(rows) == 16
    assert rows[0] == "  n39   39.0 s"
    assert rows[-1] == "  … and 25 more"


def test_in_a_notebook_there_is_one_text_below_the_cell_that_is_replaced(monkeypatch, capsys):
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append((data["text/plain"], raw))

    def display(data, raw, display_id):
        assert (raw, display_id) == (True, True)
        Handle().update(data, raw)
        return Handle()

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    bar = ProgressBar()
    bar.run_started(at(0))
    for tenth in range(1, 20):
        bar.run_moved(at(tenth / 10, tenth, running=["a"]))
    bar.run_ended(at(2, 100))
    texts = [text for text, _ in shown]
    assert len(texts) == 5
    assert "  a    1.5 s" in texts[1]
    assert "100/100" in texts[-1]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("width", [20, 30, 40, 60, 100, 300])
def test_no_line_of_the_bar_is_longer_than_the_terminal_is_wide(width):
    names = [f"package:{'very' * 30}:{i}" for i in range(50)]
    snapshot = at(1e6, 54321, total=123456, restored=1234, failed=12, skipped=12, cancelled=12, running=names)
    console = terminal(width)
    bar = ProgressBar(console)
    lines = [
        "".join(segment.text for segment in line) for line in console.render_lines(bar._drawn(snapshot), pad=False)
    ]
    assert len(lines) == 2 + 16
    assert all(cell_len(line) <= width for line in lines)
    assert "54321/123456" in lines[0] or width < 30


def test_many_running_nodes_are_counted_and_long_names_keep_their_ends():
    names = ["file:a/very/long/path/to/some/module.py", *"abcdefghijklmnopqrstuvwxyz" * 4]
    first, _ = lines_of(at(0, running=names), at(1))
    _, _, second = first.partition("; running ")
    assert second.startswith("file:a/ve…/to/some/module.py, a, b, c, ")
    shown, _, rest = second.rpartition(" +")
    assert len(shown.split(", ")) + int(rest) == 1 + 4 * 26


def test_what_the_callbacks_print_on_a_terminal_comes_above_the_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    console = terminal(file=out)
    bar = ProgressBar(console)
    bar.run_started(at(0))
    console.print("from a callback")
    bar.run_ended(at(1, 100))
    lines = out.getvalue().removesuffix("\x1b[?25h").splitlines()
    assert any(line.endswith("from a callback") for line in lines)
    assert "100/100" in lines[-1]


def test_the_bar_costs_little(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    bar = ProgressBar(terminal())
    bar.run_started(at(0))
    names = [f"file:package/module_{i}.py" for i in range(64)]
    began = time.process_time()
    for i in range(100):
        bar.run_moved(at(i, i, failed=1, running=names))
    seconds = time.process_time() - began
    bar.close()
    # Ten a second: 5 % of one processor at the very most; it is about 1 %.
    assert seconds / 100 * 10 < 0.05


# --- it never gets in the way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(5, "gone"), ValueError("I/O operation on closed file")])
@pytest.mark.parametrize("n_writes", range(4))
@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_that_goes_away_ends_the_bar_and_not_the_run(monkeypatch, error, n_writes, is_terminal):
    monkeypatch.setenv("TERM", "xterm")
    file = Broken(n_writes, error)
    bar = ProgressBar(Console(file=file, force_terminal=is_terminal))
    bar.run_started(at(0))
    for i in range(20):
        bar.run_moved(at(5 * i, i))
    bar.run_ended(at(100, 100))
    bar.close()


def test_closing_twice_and_closing_what_never_started_do_nothing(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    bar = ProgressBar(terminal())
    bar.close()
    bar.run_started(at(0))
    bar.close()
    bar.close()
    bar.run_moved(at(1, 1))
    bar.run_ended(at(2, 2))


def test_an_executor_shows_its_progress_on_standard_error(ckpt, capsys):
    CheckpointExecutor(DAG(["a"]), ckpt, pool="inline", progress=True).execute({"a": int})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "dagron: 0/1 nodes completed"
    assert lines[-1].startswith("dagron: 1/1 nodes completed")


def test_an_interrupted_run_leaves_the_terminal_as_it_was(ckpt, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")

    def interrupted():
        raise KeyboardInterrupt

    out = io.StringIO()
    bar = ProgressBar(terminal(file=out))
    with pytest.raises(KeyboardInterrupt):
        CheckpointExecutor(DAG(["a"]), ckpt, pool="inline", progress=bar).execute({"a": interrupted})
    text = out.getvalue()
    assert bar._live is None
    assert text.endswith(("\n", "\x1b[?25h"))
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")


# --- small parts -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), max_size=5), st.integers(0, 20), st.integers(0, 100))
def test_the_cells_of_a_bar_are_never_more_than_its_width_and_full_only_when_all_is_done(counts, rest, width):
    total = sum(counts) + rest
    cells = bar_cells(counts, total, width)
    assert len(cells) == len(counts)
    assert all(n >= 0 for n in cells)
    assert sum(cells) <= width
    if counts and width:
        assert (sum(cells) == width) == (rest == 0)


@given(st.text(), st.integers(0, 60))
def test_a_shown_name_is_printable_and_no_longer_than_it_may_be(name, width):
    shown = shown_name(name, width)
    assert shown.isprintable()
    assert not width or len(shown) <= max(width, 3)


def test_a_name_that_fits_is_shown_as_it_is():
    assert shown_name("file:ä/日本.py", 28) == "file:ä/日本.py"
    assert shown_name("two\nlines") == r"two\nlines"


def test_durations_are_shown_up_to_days():
    assert [shown_duration(s) for s in (0, 59.9, 61, 3600, 86_399, 90_061, 1e6)] == [
        "0:00",
        "0:59",
        "1:01",
        "1:00:00",
        "23:59:59",
        "1 d 1:01:01",
        "11 d 13:46:40",
    ]


def test_an_encoding_without_lines_gets_ascii():
    assert glyphs_for("utf-8").full == "━"
    for encoding in ("ascii", "latin-1", None, "no-such-encoding"):
        assert glyphs_for(encoding).full == "#"
