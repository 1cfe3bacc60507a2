"""The benchmark runs; what it measures is not asserted here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagron

ROOT = Path(__file__).parent.parent


def test_every_case_runs_at_its_smallest_size(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(dagron.__file__))}
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "run.py"),
        "--smoke",
        "--output",
        str(tmp_path / "figures.json"),
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert all(case["median_seconds"] > 0 for case in figures["cases"].values())
    assert {"python", "cores", "file_system", "date", "dagron"} <= figures.keys()
