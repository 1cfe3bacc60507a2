"""Run the benchmark and print its table: `python benchmarks/run.py [--smoke] [--repeats N] [--only WORD] ...`.

Each case runs in a process of its own; the cases take turns, so that a machine that speeds up or slows down meets all
of them. Figures are medians over the repeats; ratios are taken within one turn. Wait five minutes after a run or after
anything else that deletes thousands of files on that disk: until then ext4 makes creating files ten times dearer.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagron
from engines import ENGINES, installed
from traces import short_name

HERE = Path(__file__).parent

_SECONDS = 600
"""What one case may take."""

Case = tuple[str, dict[str, Any]]

OURS = ("dagron process", "dagron power")
SHAPES = ("fft", "tree", "all_to_all", "spread", "random_nearest")
SLOW = ("dask.distributed", "parsl", "pipefunc", "ray")
PACKAGES = ("cloudpickle", "dask", "distributed", "joblib", "numpy", "parsl", "pipefunc", "ray")


def cases(*, smoke: bool, peers: bool, traces: Path | None) -> list[Case]:
    """Return the cases: a name of `cases.py` with its options."""
    few = smoke
    engines = [name for name in ENGINES if name in (*OURS, "bare pool") or (peers and installed(name))]
    found: list[Case] = [("noop", {"engine": engine, "n": 50 if few else 10_000}) for engine in engines]
    found += [("noop", {"engine": engine, "n": n}) for engine in OURS for n in (2_000, 100_000) if not few]
    found += [("over_an_old_one", {"n": 50 if few else 10_000}), ("closures", {"n": 50 if few else 10_000})]
    for engine in engines:
        # Half of their time goes to tasks of some 10 ms and more, so that is where they begin.
        longest = 8e-6 if few else 0.064 if engine in SLOW else 0.008
        if engine != "joblib":
            options = {"width": 4, "steps": 5 if few else 50, "longest": longest}
            found.append(("efficiency", {"engine": engine, "shape": "stencil_1d", **options}))
        options = {"width": 8, "steps": 5 if few else 50, "longest": longest}
        found.append(("efficiency", {"engine": engine, "shape": "independent", **options}))
    longest = 8e-6 if few else 0.004
    for shape in SHAPES[:1] if few else SHAPES:
        for engine in (*OURS, "bare pool"):
            options = {"width": 8, "steps": 3 if few else 30, "longest": longest}
            found.append(("efficiency", {"engine": engine, "shape": shape, **options}))
    found.append(("cpu", {"n": 2, "seconds": 0.01} if few else {"n": 64}))
    if traces is not None:
        found += [
            ("trace", {"path": str(path), "total": 0.1 if few else 20.0}) for path in sorted(traces.glob("*.json"))
        ]
    if importlib.util.find_spec("numpy") is not None:
        found += [("arrays", {"n": 2, "mb": 1} if few else {"n": 40, "mb": 25})]
        found += [("broadcast", {"n": 3, "mb": 1} if few else {"n": 200, "mb": 200})]
    sizes_mb = (0.01,) if few else (0.01, 0.1, 1, 10, 50)
    found += [
        ("results", {"engine": engine, "n": 2 if few else 30, "mb": mb})
        for engine in (OURS[0], "bare pool")
        for mb in sizes_mb
    ]
    found += [("resume", {"n": 50 if few else 100_000}), ("memory", {"n": 50 if few else 200_000})]
    found.append(("starting", {"n": 1 if few else 9}))
    return found


def chosen_by(words: Sequence[str], text: str) -> bool:
    """Tell whether a label has one of the words or phrases as a whole; `arrays 40 25` has no `ray`."""
    return any(re.search(rf"(?<![a-zA-Z0-9]){re.escape(word)}(?![a-zA-Z0-9])", text) for word in words)


def label(case: Case) -> str:
    """Return what a case is called in the results."""
    name, options = case
    shown = [Path(str(value)).stem if key == "path" else value for key, value in options.items() if key != "longest"]
    return " ".join(map(str, (name, *shown)))


def measure(case: Case, directory: str) -> dict[str, Any]:
    """Run a case in a process of its own."""
    name, options = case
    command = [sys.executable, str(HERE / "cases.py"), name, *(f"{key}={value}" for key, value in options.items())]
    # Parsl looks for its own programs on the path.
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ.get('PATH', '')}"
    env = {**os.environ, "DAGRON_BENCH_DIR": directory, "PATH": path}
    os.sync()  # or the kernel would still be writing what the case before has left, on the same cores
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=_SECONDS)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def file_system(directory: str) -> str:
    """Return the type of the file system that was written to."""
    # Not `stat -f`, which goes by the magic number and so calls ext4 ext2.
    done = subprocess.run(["df", "--output=fstype", directory], capture_output=True, text=True, check=False)
    return done.stdout.split()[-1] if done.returncode == 0 else "unknown"


def versions() -> dict[str, str]:
    """Return the versions of what took part."""
    found = {"dagron": dagron.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


Runs = dict[str, list[dict[str, Any]]]


def bounds(runs: Runs, *, few: bool = False) -> list[tuple[str, float, float]]:
    """Return what is to be reached: what it is, the median that was measured, and the bound on it."""
    found: list[tuple[str, float, float]] = []

    def add(text: str, bound: float, name: str, key: str, to: str | None = None) -> None:
        above, below = runs.get(name, []), runs.get(to, []) if to is not None else None
        if below is None:
            values = [run[key] for run in above if run[key] is not None]
        else:
            values = [a[key] / b[key] for a, b in zip(above, below, strict=False) if a[key] and b[key]]
        if values:
            found.append((text, statistics.median(values), bound))

    n, steps, thirty = (50, 5, 3) if few else (10_000, 50, 30)
    bare = f"noop bare pool {n}"
    add("no-op node, process, to the bare pool", 0.30, f"noop dagron process {n}", "us_per_node", bare)
    add("no-op node, power, to the bare pool", 0.40, f"noop dagron power {n}", "us_per_node", bare)
    add("execute over an old checkpoint, to an empty directory", 1.3, f"over_an_old_one {n}", "ratio")
    many, some = "noop dagron process 100000", "noop dagron process 2000"
    add("time per node at 100,000 nodes, to 2,000", 1.15, many, "us_per_node", some)
    metg = [
        ("stencil_1d", 4, steps, {"process": 0.9, "power": 1.3}),
        ("independent", 8, steps, {"process": 0.6}),
        *((shape, 8, thirty, {"process": 1.1, "power": 1.1}) for shape in SHAPES),
    ]
    for shape, width, n_steps, aims in metg:
        size = f"{shape} {width} {n_steps}"
        for durability, aim in aims.items():
            name = f"efficiency dagron {durability} {size}"
            text = f"METG {shape}, dagron {durability}, to the bare pool"
            add(text, aim, name, "metg_us", f"efficiency bare pool {size}")
    add("64 x 0.25 s of CPU: wall to half of the CPU time", 1.02, "cpu 64", "ratio")
    for text, key, aim in (("first run", "first_ratio", 1.05), ("rerun", "rerun_ratio", 1.03)):
        medians = [
            (statistics.median(turn[key] for turn in turns), short_name(name.split()[1]))
            for name, turns in runs.items()
            if name.startswith("trace ") and turns
        ]
        if medians:
            worst, name = max(medians)
            found.append((f"recorded workflows, {text}, to the window bound: the worst, {name}", worst, aim))
    add("40 x 25 MB: growth of the coordinator, MB", 64, "arrays 40 25", "coordinator_growth_mb")
    add("40 x 25 MB: time to that of plain files", 1.0, "arrays 40 25", "inverse_ratio")
    add("200 MB read by 200 children, to a memory map", 1.3, "broadcast 200 200", "ratio")
    add("closures over 1 MB, to no-op nodes", 1.5, f"closures {n}", "closure_ratio")
    add("partials with 1 MB, to no-op nodes", 1.5, f"closures {n}", "partial_ratio")
    add("resume with nothing to do, us per node", 8, "resume 100000", "us_per_node")
    add("resume of 1,000,000 nodes, s", 10, "resume 1000000", "seconds")
    add("resume of 1,000,000 nodes, peak MB", 1000, "resume 1000000", "peak_mb")
    add("coordinator, bytes per node", 600, "memory 200000", "bytes_per_node")
    add("coordinator, bytes per node at 1,000,000", 600, "memory 1000000", "bytes_per_node")
    add("import dagron, ms", 60, "starting 9", "import_ms")
    add("first result of a run of one node, ms", 200, "starting 9", "first_result_ms")
    return found


def merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return a report with those cases of an earlier one that it does not have itself, each with its conditions."""
    return {**now, **{key: {**before[key], **now[key]} for key in ("versions", "conditions", "runs")}}


def report_of(runs: Runs, kind: str, before: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured on this kind of file system, with what an earlier report, if there is one, has else."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    measured = {name: turns for name, turns in runs.items() if turns}
    report: dict[str, Any] = {
        "versions": versions(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "conditions": {name: {"date": today, "file_system": kind} for name in measured},
        "bounds": [],
        "runs": measured,
    }
    if before:
        report = merged(before, report)
    for figures in report["runs"].get("arrays 40 25", []):
        figures["inverse_ratio"] = 1 / figures["throughput_ratio"]
    return report


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, once: only shows that everything runs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--only", action="append", metavar="WORD", help="only cases whose label has this word or phrase"
    )
    parser.add_argument("--no-peers", action="store_true", help="only dagron and the bare pool")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="a directory of workflows in WfFormat 1.5")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where to write; on a disk rather than on a tmpfs"
    )
    parser.add_argument("--million", action="store_true", help="resume and memory with 1,000,000 nodes, too")
    parser.add_argument("--output", type=Path, help="write all figures to this file as JSON")
    parser.add_argument("--merge", action="store_true", help="keep what the file has of cases that are not run now")
    options = parser.parse_args()
    repeats = 1 if options.smoke else options.repeats
    chosen = cases(smoke=options.smoke, peers=not options.no_peers, traces=options.traces)
    if options.million:
        chosen += [("resume", {"n": 1_000_000}), ("memory", {"n": 1_000_000})]
    if options.only:
        chosen = [case for case in chosen if chosen_by(options.only, label(case))]
    if options.smoke:
        os.environ["DAGRON_BENCH_START_UPS"] = "1"
    where = options.directory or ("/var/tmp" if os.path.isdir("/var/tmp") else None)
    directory = tempfile.mkdtemp(prefix="dagron-bench-", dir=where)  # deleted only when all is measured
    runs: Runs = {label(case): [] for case in chosen}
    before = {}
    if options.merge and options.output is not None and options.output.exists():
        before = json.loads(options.output.read_text())
    table: list[tuple[str, float, float]] = []
    try:
        for turn in range(repeats):
            for case in chosen:
                if turn and case[1].get("n") == 1_000_000:
                    continue  # takes minutes
                try:
                    figures = measure(case, directory)
                except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
                    if case[1].get("engine", OURS[0]) in (*OURS, "bare pool"):
                        raise
                    print(f"{label(case)} FAILED", file=sys.stderr, flush=True)
                    continue
                runs[label(case)].append(figures)
                shown = {key: round(value, 3) for key, value in figures.items() if isinstance(value, (int, float))}
                print(f"{turn + 1}/{repeats} {label(case):45} {shown}", file=sys.stderr, flush=True)
            # Behind each turn: what was measured is not lost if the next one is cut short.
            report = report_of(runs, file_system(directory), before)
            table = bounds(report["runs"], few=options.smoke)
            report["bounds"] = [{"what": text, "measured": value, "bound": bound} for text, value, bound in table]
            if options.output is not None:
                options.output.write_text(json.dumps(report, indent=1) + "\n")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for text, value, bound in table:
        print(f"{'ok  ' if value <= bound else 'OVER'} {value:10.3f}  at most {bound:7.2f}  {text}")


if __name__ == "__main__":
    main()
