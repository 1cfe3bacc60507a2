"""Watching a run: what it says of the time that is left, and that watching takes a bounded share of the run."""

import json
import math
import time
from array import array

import pytest

import dagron
from dagron.runs.observing import Watch
from dagron.runs.outlook import Outlook
from dagron.runs.policy import Policy
from dagron.runs.state import RunState

NAN = math.nan


def test_nothing_is_said_before_anything_is_known():
    assert Outlook([0, 0], None, 2).seconds_left(1.0, [(0, 1.0)]) is None


def test_the_work_that_is_left_is_that_of_the_kinds_that_are_left():
    """Ten short nodes have ended, ten long ones are to come: their number alone would be wrong by a factor of ten."""
    outlook = Outlook([0] * 10 + [1] * 10, array("d", [1.0] * 10 + [10.0] * 10), 1)
    outlook.settled(range(10))
    for node in range(10):
        outlook.attempt_ended(node, 1.0, completed=True)
    assert outlook.seconds_left(10.0, []) == pytest.approx(100.0)


def test_a_kind_that_has_not_been_met_is_expected_to_be_like_the_others():
    outlook = Outlook([0, 1], None, 1)
    outlook.settled([0])
    outlook.attempt_ended(0, 4.0, completed=True)
    assert outlook.seconds_left(4.0, []) == pytest.approx(4.0)


def test_what_runs_counts_as_far_as_it_has_come_and_slots_work_side_by_side():
    outlook = Outlook([0] * 4, array("d", [10.0] * 4), 2)
    outlook.settled([0, 1])
    for node in (0, 1):
        outlook.attempt_ended(node, 10.0, completed=True)
    # Two nodes of 10 s have run for 5 s on two slots, without a gap.
    assert outlook.seconds_left(15.0, [(2, 5.0), (3, 5.0)]) == pytest.approx(5.0)


def test_time_that_nodes_wait_for_one_another_is_expected_to_go_on():
    outlook = Outlook([0] * 4, None, 2)
    outlook.settled([0, 1])
    for node in (0, 1):  # on two slots, and yet one after the other
        outlook.attempt_ended(node, 10.0, completed=True)
    assert outlook.seconds_left(20.0, []) == pytest.approx(20.0)


def test_failed_attempts_take_time_and_tell_nothing_about_a_completed_one():
    outlook = Outlook([0, 0], array("d", [NAN, 8.0]), 1)
    outlook.attempt_ended(0, 0.5, completed=False)
    assert outlook.seconds_left(0.5, []) == pytest.approx(16.0)


class Recorder:
    """An observer that takes its time."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.snapshots = []

    def run_started(self, snapshot):
        self.snapshots.append(snapshot)

    def run_moved(self, snapshot):
        self.snapshots.append(snapshot)
        until = time.thread_time() + self.seconds
        while time.thread_time() < until:
            pass

    run_ended = run_started


def test_an_observer_that_takes_long_is_told_less_often():
    """Relies on `_due`: whatever the observer takes, it is less than a hundredth of the run."""
    state = RunState(dagron.DAG(["a"]), policies=[Policy()], kinds=array("I", [0]), n_slots=1)
    for seconds in (0.0, 0.002, 0.02):
        watch = Watch(dagron.DAG(["a"]), state, Recorder(seconds), None, time.monotonic())
        watch.tell("run_moved", None, lambda function, *args: function(*args))
        waits = watch.due - time.monotonic()
        assert waits >= max(0.09, 100 * seconds)


def test_a_run_of_many_nodes_spends_less_than_a_hundredth_on_a_live_bar(ckpt, monkeypatch):
    import io

    from rich.console import Console

    from dagron.display.progress import ProgressBar

    monkeypatch.setenv("TERM", "xterm")
    spent = [0.0]
    tell = Watch.tell

    def timed(self, *args):
        began = time.thread_time()
        tell(self, *args)
        spent[0] += time.thread_time() - began

    monkeypatch.setattr(Watch, "tell", timed)
    n = 20_000
    dag = dagron.DAG([f"n{i}" for i in range(n)])
    bar = ProgressBar(Console(file=io.StringIO(), force_terminal=True, width=100))
    executor = dagron.CheckpointExecutor(dag, ckpt, durability="process", max_workers=2, progress=bar)
    began = time.monotonic()
    assert executor.execute(dict.fromkeys(dag.nodes, int)).ok
    seconds = time.monotonic() - began
    # The first and the last picture are drawn in any case.
    assert spent[0] < 0.01 * seconds + 0.2


def test_the_snapshot_says_what_each_slot_runs_and_the_metadata_say_it_to_others(ckpt, tmp_path):
    gate = tmp_path / "gate"
    seen = []

    class Observer(Recorder):
        def run_moved(self, snapshot):
            meta = json.loads((ckpt / "_meta.json").read_text())
            if snapshot.running and snapshot.running[0].memory_bytes and meta["running"]:
                seen.append((snapshot, meta["running"]))
                gate.touch()

    def wait():
        while not gate.exists():
            time.sleep(0.01)

    dag = dagron.DAG(["waits"])
    dagron.CheckpointExecutor(dag, ckpt, max_workers=1, progress=Observer()).execute({"waits": wait}, run_timeout=60)
    snapshot, running = seen[0]
    (node,) = snapshot.running
    assert (node.name, node.slot) == ("waits", 0)
    assert node.seconds > 0
    assert node.memory_bytes > 2**20
    assert [(item["node"], item["slot"]) for item in running] == [("waits", 0)]
    assert abs(running[0]["started_unix"] - time.time()) < 60
    assert json.loads((ckpt / "_meta.json").read_text())["running"] == []
