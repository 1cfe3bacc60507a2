"""The benchmark runs, and its graphs and bounds are right; what it measures is not asserted here."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dagron

ROOT = Path(__file__).parent.parent


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


shapes, traces = load("shapes"), load("traces")


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
