"""Run the benchmark and print its table: `python benchmarks/run.py [--smoke] [--repeats N] [--output FILE]`.

Each case runs in a process of its own; the cases take turns, so that a machine that speeds up or slows down meets all
of them. Figures are medians over the repeats, bounds are on ratios within one run. Wait five minutes after a run or
after anything else that deletes thousands of files on that disk: until then ext4 makes creating files ten times dearer.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import dagron

HERE = Path(__file__).parent

FULL = [
    ("bare_pool", 2_000),
    ("noop_process", 2_000),
    ("noop_power", 2_000),
    ("bare_pool", 20_000),
    ("noop_process", 20_000),
    ("noop_power", 20_000),
    ("resume", 20_000),
    ("cpu", 64),
]
SMOKE = [("bare_pool", 50), ("noop_process", 50), ("noop_power", 50), ("resume", 50), ("cpu", 2)]


def measure(case: str, n: int, directory: str) -> dict[str, float]:
    command = [sys.executable, str(HERE / "cases.py"), case, str(n)]
    env = {**os.environ, "DAGRON_BENCH_DIR": directory}
    os.sync()  # or the kernel would still be writing what the case before has left, on the same two cores
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def file_system(directory: str) -> str:
    done = subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def summarize(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the medians, and the ratios that the bounds are on."""
    seconds = {name: [run["seconds"] for run in figures] for name, figures in runs.items()}
    summary: dict[str, Any] = {
        name: {
            "median_seconds": statistics.median(values),
            "min_seconds": min(values),
            "max_seconds": max(values),
            "us_per_node": statistics.median(values) / figures[0]["nodes"] * 1e6,
        }
        for (name, figures), values in zip(runs.items(), seconds.values(), strict=True)
    }

    def paired(above: str, below: str) -> float | None:
        if above not in seconds or below not in seconds:
            return None
        return statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))

    per_node = paired("noop_process 20000", "noop_process 2000")
    cpu = runs.get("cpu 64")
    ratios = {
        "2,000 no-op nodes, process, to the bare pool (at most 1.0)": paired("noop_process 2000", "bare_pool 2000"),
        "2,000 no-op nodes, power, to the bare pool": paired("noop_power 2000", "bare_pool 2000"),
        "20,000 no-op nodes, process, to the bare pool": paired("noop_process 20000", "bare_pool 20000"),
        "20,000 no-op nodes, power, to the bare pool": paired("noop_power 20000", "bare_pool 20000"),
        "time per node at 20,000 nodes to that at 2,000 (at most 1.3)": None if per_node is None else per_node / 10,
        "resume with 20,000 completed nodes, seconds (under 1)": summary.get("resume 20000", {}).get("median_seconds"),
        "64 x 0.25 s of CPU, wall to half of the CPU time (at most 1.05)": None
        if cpu is None
        else statistics.median(run["seconds"] / run["ideal_seconds"] for run in cpu),
    }
    return {"cases": summary, "ratios": {name: value for name, value in ratios.items() if value is not None}}


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, once: only shows that everything runs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write all figures to this file as JSON")
    options = parser.parse_args()
    cases, repeats = (SMOKE, 1) if options.smoke else (FULL, options.repeats)
    # On a disk rather than on a tmpfs, and deleted only when all is measured.
    directory = tempfile.mkdtemp(prefix="dagron-bench-", dir="/var/tmp" if os.path.isdir("/var/tmp") else None)
    try:
        runs: dict[str, list[dict[str, float]]] = {f"{case} {n}": [] for case, n in cases}
        for _ in range(repeats):
            for case, n in cases:
                runs[f"{case} {n}"].append(measure(case, n, directory))
        report = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "dagron": dagron.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "file_system": file_system(directory),
            "repeats": repeats,
            **summarize(runs),
        }
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if options.output is not None:
        options.output.write_text(json.dumps({**report, "runs": runs}, indent=1) + "\n")
    for name, figures in report["cases"].items():
        print(f"{name:22} {figures['median_seconds']:8.3f} s  {figures['us_per_node']:10.1f} us per node")
    for name, value in report["ratios"].items():
        print(f"{value:8.3f}  {name}")


if __name__ == "__main__":
    main()
