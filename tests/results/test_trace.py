"""The trace of a run: a span for each attempt and each restored node, and the Chrome trace that is made of them."""

from __future__ import annotations

import json
import os
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagron import DAG, CheckpointExecutor, Task
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.reading.opening import read_ledger
from dagron.cli.verbs.trace import trace_of as trace_of_checkpoint
from dagron.figures import Figures
from dagron.results.trace import ExecutionTrace, Span

START = 1_700_000_000.0


def trace_of(*spans, n_slots=2):
    return ExecutionTrace(n_slots, START, list(spans))


def span(name, slot, begin, seconds, attempt=1, outcome="completed", cpu_seconds=0.0, result_bytes=0):
    return Span(name, slot, attempt, outcome, Figures(START + begin, seconds, cpu_seconds), result_bytes)


def restored(name, begin=0.0):
    return Span(name, -1, 0, "restored", Figures(START + begin))


def chrome(trace):
    """The events of the Chrome trace after a round trip through JSON: without metadata, and the metadata."""
    document = json.loads(json.dumps(trace.to_chrome_trace()))
    events = document["traceEvents"]
    return [e for e in events if e["ph"] != "M"], [e for e in events if e["ph"] == "M"]


def check_lanes(events):
    """Each lane has pairs of B and E, in the order of time, each closed before the next one opens."""
    lanes = {}
    for event in events:
        lanes.setdefault(event["tid"], []).append(event)
    for lane in lanes.values():
        if any(event["ph"] == "i" for event in lane):
            assert {event["ph"] for event in lane} == {"i"}
            continue
        assert [event["ph"] for event in lane] == ["B", "E"] * (len(lane) // 2)
        for begin, end in zip(lane[::2], lane[1::2], strict=True):
            assert begin["name"] == end["name"]
            assert begin["cat"] == end["cat"]
        times = [event["ts"] for event in lane]
        assert times == sorted(times)
        assert times[0] >= 0.0


class TestChromeTrace:
    def test_an_attempt_is_a_pair_in_the_lane_of_its_slot(self):
        events, _ = chrome(trace_of(span("a", 1, 0.5, 0.25, cpu_seconds=0.2, result_bytes=7)))
        begin, end = events
        assert begin == {
            "ph": "B",
            "name": "a",
            "cat": "completed",
            "pid": 1,
            "tid": 1,
            "ts": pytest.approx(500_000.0),
            "args": {"attempt": 1, "outcome": "completed", "cpu_seconds": 0.2, "result_bytes": 7},
        }
        assert end == {
            "ph": "E",
            "name": "a",
            "cat": "completed",
            "pid": 1,
            "tid": 1,
            "ts": pytest.approx(750_000.0),
        }

    def test_each_attempt_of_a_node_has_a_pair(self):
        spans = [
            span("a", 0, 0.0, 1.0, 1, "raised"),
            span("a", 1, 2.0, 1.0, 2, "lost"),
            span("a", 0, 4.0, 1.0, 3, "timed_out"),
            span("a", 0, 6.0, 1.0, 4),
        ]
        events, _ = chrome(trace_of(*spans))
        check_lanes(events)
        begun = [event for event in events if event["ph"] == "B"]
        assert sorted((e["args"]["attempt"], e["args"]["outcome"], e["tid"]) for e in begun) == [
            (1, "raised", 0),
            (2, "lost", 1),
            (3, "timed_out", 0),
            (4, "completed", 0),
        ]

    def test_a_restored_node_is_an_instant_in_a_lane_of_its_own(self):
        events, names = chrome(trace_of(restored("a", 0.25), span("b", 0, 1.0, 1.0)))
        assert events[0] == {
            "ph": "i",
            "s": "t",
            "name": "a",
            "cat": "restored",
            "pid": 1,
            "tid": 2,
            "ts": pytest.approx(250_000.0),
        }
        assert [event["args"]["name"] for event in names] == ["dagron", "worker 0", "worker 1", "restored"]
        assert [event.get("tid") for event in names] == [None, 0, 1, 2]

    def test_without_restored_nodes_there_is_no_lane_for_them(self):
        _, names = chrome(trace_of(span("b", 0, 1.0, 1.0)))
        assert [event["args"]["name"] for event in names] == ["dagron", "worker 0", "worker 1"]

    def test_a_run_without_attempts_is_a_valid_trace(self):
        document = trace_of().to_chrome_trace()
        assert {event["ph"] for event in document["traceEvents"]} == {"M"}
        assert document["displayTimeUnit"] == "ms"
        assert document["otherData"] == {"start_unix": START}

    def test_spans_that_became_known_late_stand_in_the_order_of_time(self):
        events, _ = chrome(trace_of(span("b", 0, 2.0, 1.0), span("a", 0, 0.0, 1.0)))
        check_lanes(events)
        assert [event["name"] for event in events] == ["a", "a", "b", "b"]

    def test_spans_that_overlap_are_moved_apart(self):
        events, _ = chrome(trace_of(span("a", 0, 0.0, 1.0), span("b", 0, 0.5, 1.0), span("c", 0, 0.6, 0.1)))
        check_lanes(events)
        assert [event["ts"] for event in events] == pytest.approx([0.0, 1e6, 1e6, 1.5e6, 1.5e6, 1.5e6])

    def test_what_began_before_the_run_begins_with_it(self):
        # A clock was set back.
        events, _ = chrome(trace_of(span("a", 0, -5.0, 1.0), restored("b", -5.0)))
        check_lanes(events)
        assert {event["ts"] for event in events} == {0.0}

    @given(
        st.lists(
            st.tuples(st.text(max_size=3), st.integers(-1, 2), st.floats(-10, 10), st.floats(0, 10), st.integers(1, 3)),
            max_size=12,
        )
    )
    @settings(deadline=None)
    def test_whatever_the_clocks_said_lanes_are_in_order_and_nothing_is_lost(self, rows):
        spans = [
            restored(name, begin) if slot < 0 else span(name, slot, begin, seconds, attempt)
            for name, slot, begin, seconds, attempt in rows
        ]
        events, _ = chrome(trace_of(*spans, n_slots=3))
        check_lanes(events)
        for phase, wanted in (("B", 0), ("E", 0), ("i", -1)):
            found = sorted(event["name"] for event in events if event["ph"] == phase)
            assert found == sorted(s.name for s in spans if (s.slot < 0) == (wanted < 0))


class TestFiles:
    @pytest.mark.parametrize("as_text", [False, True])
    def test_save_writes_the_chrome_trace(self, as_text, tmp_path):
        trace = trace_of(span("naïve \N{SNOWMAN} \ud800", 0, 0.0, 1.0), restored('"quoted"\n'))
        path = tmp_path / "trace.json"
        trace.save(str(path) if as_text else path)
        with open(path, encoding="utf-8") as file:
            assert json.load(file) == trace.to_chrome_trace()

    def test_save_replaces_what_was_there(self, tmp_path):
        path = tmp_path / "trace.json"
        path.write_text("x" * 10_000)
        trace_of().save(path)
        json.loads(path.read_text())

    def test_add_restored_adds_a_span_for_each_name(self):
        trace = trace_of(span("a", 0, 0.0, 1.0))
        trace.add_restored(["b", "c"])
        assert [(s.name, s.slot, s.attempt, s.duration_seconds, s.outcome) for s in trace.spans[1:]] == [
            ("b", -1, 0, 0.0, "restored"),
            ("c", -1, 0, 0.0, "restored"),
        ]


class TestOfARun:
    DAG = DAG(["good", "flaky", "dying", "below"], [("good", "below"), ("flaky", "below"), ("dying", "below")])

    def run(self, ckpt, log, how):
        def flaky():
            log.note("flaky")
            if log.count("flaky") == 1:
                raise ValueError("the first attempt")

        def dying():
            log.note("dying")
            if log.count("dying") == 1:
                os._exit(3)

        tasks = {
            "good": lambda: 1,
            "flaky": Task(flaky, retries=1),
            "dying": Task(dying, retries=1),
            "below": lambda: bytes(50_000),
        }
        executor = CheckpointExecutor(
            self.DAG, ckpt, enable_tracing=True, max_workers=2, durability="process", retry_delay=0.0
        )
        result = getattr(executor, how)(tasks)
        assert result.ok
        return result.trace

    def test_there_is_a_pair_for_each_attempt_and_an_instant_for_each_restored_node(self, ckpt, log):
        trace = self.run(ckpt, log, "execute")
        events, _ = chrome(trace)
        check_lanes(events)
        begun = sorted((e["name"], e["args"]["attempt"], e["args"]["outcome"]) for e in events if e["ph"] == "B")
        assert begun == [
            ("below", 1, "completed"),
            ("dying", 1, "lost"),
            ("dying", 2, "completed"),
            ("flaky", 1, "raised"),
            ("flaky", 2, "completed"),
            ("good", 1, "completed"),
        ]
        assert {e["tid"] for e in events} <= {0, 1}
        assert next(s for s in trace.spans if s.name == "below").result_bytes > 50_000

        events, names = chrome(self.run(ckpt, log, "resume"))
        assert sorted((e["ph"], e["name"]) for e in events) == [("i", name) for name in sorted(self.DAG.nodes)]
        assert names[-1]["args"] == {"name": "restored"}

    def test_without_tracing_there_is_none(self, ckpt):
        executor = CheckpointExecutor(DAG(["a"]), ckpt, pool="inline", durability="process")
        assert executor.execute({"a": lambda: 1}).trace is None

    @pytest.mark.skipif(sys.platform != "linux", reason="needs the proportional set size")
    def test_that_of_a_checkpoint_says_how_the_last_attempt_of_each_node_ended(self, ckpt):
        def raised():
            raise ValueError("no")

        def greedy():
            taken = [b"x" * 2**20 for _ in range(400)]
            time.sleep(600)
            return len(taken)

        tasks = {
            "completed": lambda: 1,
            "raised": raised,
            "lost": lambda: os._exit(3),
            "timed_out": Task(lambda: time.sleep(600), timeout=0.2),
            "out_of_memory": Task(greedy, memory_limit="200 MiB"),
        }
        executor = CheckpointExecutor(
            DAG(tasks), ckpt, enable_tracing=True, max_workers=2, durability="process", kill_grace_seconds=0.0
        )
        trace = executor.execute(tasks).trace
        assert {span.name: span.outcome for span in trace.spans} == {name: name for name in tasks}
        recorded = trace_of_checkpoint(read_ledger(Directory(ckpt)))
        assert sorted(recorded.spans, key=str) == sorted(trace.spans, key=str)
        said = {span.name: span.error for span in trace.spans}
        assert said["completed"] == ""
        assert all("Error: " in error for name, error in said.items() if name != "completed"), said
        shown = {event["name"]: event["args"].get("error", "") for event in chrome(trace)[0] if event["ph"] == "B"}
        assert shown == said
