"""The benchmark runs, and its graphs and bounds are right; what it measures is not asserted here."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import pytest
from places import ROOT
from workflows import benchmark_module, shapes, traces

import dagron

figures, run, simulation = map(benchmark_module, ("figures", "run", "simulated"))


def test_every_case_runs_at_its_smallest_size(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(dagron.__file__))}
    results = tmp_path / "results.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--smoke", "--no-peers", "--output", str(results)]
    done = subprocess.run([*command, "--traces", str(write_trace(tmp_path))], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(results.read_text())
    assert {"python", "dagron"} <= report["versions"].keys()
    assert report["bounds"]
    assert all(math.isfinite(row["measured"]) for row in report["bounds"])
    assert all(turns for turns in report["runs"].values())


def write_trace(tmp_path):
    """A workflow of three nodes in WfFormat."""
    tasks = [
        {"name": f"{kind}_0000{i}", "id": f"{kind}_0000{i}", "parents": parents, "children": []}
        for i, (kind, parents) in enumerate([("split", []), ("part", ["split_00000"]), ("part", ["split_00000"])])
    ]
    measured = [{"id": task["id"], "runtimeInSeconds": 1.0 + i} for i, task in enumerate(tasks)]
    (tmp_path / "traces").mkdir()
    workflow = {"workflow": {"specification": {"tasks": tasks}, "execution": {"tasks": measured}}}
    (tmp_path / "traces" / "three.json").write_text(json.dumps(workflow))
    return tmp_path / "traces"


class TestShapes:
    @pytest.mark.parametrize("shape", shapes.PARENTS)
    @pytest.mark.parametrize(("width", "steps"), [(1, 1), (1, 5), (4, 10), (8, 3)])
    def test_every_parent_is_in_the_step_before(self, shape, width, steps):
        graph = shapes.graph(shape, width, steps)
        for node, parents in graph.items():
            assert all(parent in graph and int(parent[1:4]) == int(node[1:4]) - 1 for parent in parents)

    def test_they_are_those_of_task_bench(self):
        assert shapes.graph("stencil_1d", 4, 2)["s001c00"] == ["s000c00", "s000c01"]
        assert shapes.graph("fft", 8, 4)["s003c05"] == ["s002c01", "s002c05"]
        assert len(shapes.graph("tree", 8, 4)) == 1 + 2 + 4 + 8
        assert all(len(parents) in (0, 8) for parents in shapes.graph("all_to_all", 8, 3).values())
        assert not any(shapes.graph("independent", 8, 3).values())

    def test_the_smallest_granularity_is_where_half_is_kept(self):
        assert shapes.smallest_granularity([(4.0, 0.9), (2.0, 0.7), (1.0, 0.3)]) == pytest.approx(1.5)
        assert shapes.smallest_granularity([(4.0, 0.4)]) is None
        assert shapes.smallest_granularity([(4.0, 0.9), (2.0, 0.6)]) == 2.0


def test_the_window_bound_is_the_longest_chain_or_what_must_fit_beside_it(tmp_path):
    trace = traces.load_trace(write_trace(tmp_path) / "three.json")
    assert trace.category == {"split_00000": "split", "part_00001": "part", "part_00002": "part"}
    assert trace.window_bound(2) == 4.0  # 1, then 3 beside 2
    assert trace.window_bound(1) == 6.0
    assert trace.scaled(12.0).window_bound(1) == pytest.approx(12.0)


def test_schedules_that_know_nothing_and_all():
    seconds = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 3.0}
    trace = traces.Trace("four", {node: [] for node in seconds}, seconds, dict.fromkeys(seconds, "kind"))
    assert trace.list_schedule(2, known=False) == 4.0
    assert trace.list_schedule(2, known=True) == trace.lower_bound(2) == 3.0
    assert trace.graham_bound(2) == 4.5
    chain = dataclasses.replace(trace, parents={"a": ["d"], "b": ["a"], "c": ["b"], "d": []})
    assert chain.list_schedule(2, known=False) == chain.lower_bound(2) == chain.graham_bound(2) == 6.0


def test_a_simulated_run_says_how_long_a_node_waited_beside_an_empty_slot():
    # Node 0 shows its kind to be short, so 1 and 2 are sent together; but 1 is long, and the other slot is empty soon.
    dag = dagron.DAG(["0", "1", "2", "3"], [("0", "1"), ("0", "2"), ("0", "3")])
    run = simulation.simulated(dag, [1e-6, 2.0, 0.5, 0.5], [0, 0, 0, 0])
    assert run.end == pytest.approx(2.5)
    assert run.held_up == pytest.approx(1.5)
    assert simulation.simulated(dag, [1.0, 2.0, 0.5, 0.5], [0, 0, 0, 0]).held_up == 0.0


def test_simulated_runs_of_a_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["simulated.py", str(write_trace(tmp_path)), "--slots", "1"])
    simulation.main()
    assert capsys.readouterr().out.splitlines()[1].split() == ["three", "3", *["1.0000"] * 4]


class TestReport:
    def test_words_are_whole_ones(self):
        assert run.chosen_by(["ray"], "efficiency ray stencil_1d 4 50")
        assert not run.chosen_by(["ray"], "arrays 40 25")
        assert run.chosen_by(["dask", "hic"], "trace hic-dirt02-001 20.0")
        assert run.chosen_by(["stencil"], "efficiency dask.distributed stencil_1d 4 50")
        assert run.chosen_by(["dagron power"], "noop dagron power 2000")
        assert not run.chosen_by(["noop 2000"], "noop dagron power 2000")

    def test_a_merged_report_keeps_the_conditions_of_each_case(self):
        def report(name, disk, value):
            where = {name: {"date": "2026-01-01", "file_system": disk}}
            return {"versions": {name: "1"}, "cores": 2, "conditions": where, "runs": {name: [value]}}

        both = run.merged(report("a", "tmpfs", 1), report("b", "ext4", 2))
        both = run.merged(both, report("c", "ext4", 3))
        assert both["runs"] == {"a": [1], "b": [2], "c": [3]}
        assert both["versions"].keys() == both["runs"].keys()
        assert "Measured on 2026-01-01 on 2 shared cores, ext4 (tmpfs: a), with" in figures.conditions(both)
        assert run.merged(both, report("a", "ext4", 4))["runs"]["a"] == [4]

    def test_of_the_recorded_workflows_the_worst_counts_and_each_has_a_row(self):
        def turn(first, rerun):
            return {"nodes": 3, "first_ratio": first, "fifo_ratio": 1.1, "rerun_ratio": rerun, "known_ratio": 1.0}

        runs = {
            "trace big-chameleon-9p-001 20.0": [turn(1.2, 1.01), turn(1.4, 1.03), turn(1.3, 1.02)],
            "trace small-dirt02-001 20.0": [turn(1.1, 1.05)],
        }
        text = "recorded workflows, {}, to the window bound: the worst, {}"
        assert run.bounds(runs) == [
            (text.format("first run", "big-9p"), 1.3, 1.05),
            (text.format("rerun", "small"), 1.05, 1.03),
        ]
        assert figures.table_of_traces(runs).splitlines()[2:] == [
            "| big-9p | 3 | 1.300 | 1.100 | 1.020 | 1.000 |",
            "| small | 3 | 1.100 | 1.100 | 1.050 | 1.000 |",
        ]
