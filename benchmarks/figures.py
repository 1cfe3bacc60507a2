"""Draw the figures and write the tables of docs/performance.md: `python benchmarks/figures.py RESULTS.json`.

Four figures, as SVG beside the page: efficiency against granularity for dependent and for independent tasks, cost per
node against the number of nodes, and memory of the coordinator against the size of results. The tables stand between
markers in the page; what is outside of them stays.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

from traces import short_name

DOCS = Path(__file__).parent.parent / "docs"

Runs = dict[str, list[dict[str, Any]]]

LINES = {"dagron process": ("C0", "-"), "dagron power": ("C0", "--"), "bare pool": ("C1", "-")}


def draw_efficiency(runs: Runs, shape: str, path: Path) -> bool:
    """Draw efficiency against granularity for every engine that ran this shape; return whether one did."""
    import matplotlib.pyplot as plt

    found = {
        name.split(f" {shape} ")[0].removeprefix("efficiency "): runs[name] for name in runs if f" {shape} " in name
    }
    if not found:
        return False
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for i, (engine, turns) in enumerate(found.items()):
        if not turns:
            continue
        length = min(len(turn["points"]) for turn in turns)
        points = [
            (
                statistics.median(turn["points"][at][0] for turn in turns) * 1e3,
                statistics.median(turn["points"][at][1] for turn in turns),
            )
            for at in range(length)
        ]
        color, style = LINES.get(engine, (f"C{2 + i}", "-"))
        axes.plot(*zip(*points, strict=True), color=color, linestyle=style, marker=".", label=engine)
    axes.axhline(0.5, color="0.7", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_ylim(0, 1)
    axes.set_xlabel("granularity: wall time x slots / tasks, ms")
    axes.set_ylabel("efficiency")
    axes.set_title(f"{shape}, 2 slots")
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return True


def _lines(runs: Runs, pattern: str, key: str) -> dict[str, list[tuple[float, float]]]:
    """Return by engine the sizes in the names of its cases, and the median that each has of a figure."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, turns in runs.items():
        match = re.fullmatch(pattern, name)
        if match and turns:
            lines.setdefault(match[1], []).append((float(match[2]), statistics.median(turn[key] for turn in turns)))
    return lines


def _draw_lines(lines: dict[str, list[tuple[float, float]]], path: Path, x: str, y: str, *, from_zero: bool) -> bool:
    import matplotlib.pyplot as plt

    if not lines:
        return False
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for i, (engine, points) in enumerate(lines.items()):
        color, style = LINES.get(engine, (f"C{2 + i}", "-"))
        axes.plot(*zip(*sorted(points), strict=True), color=color, linestyle=style, marker="o", label=engine)
    axes.set_xscale("log")
    if from_zero:
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_ylim(bottom=0.0)
    else:
        axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return True


def draw_cost(runs: Runs, path: Path) -> bool:
    """Draw the cost of a no-op node against the number of nodes; return whether it was measured."""
    lines = _lines(runs, r"noop (.+) (\d+)", "us_per_node")
    return _draw_lines(lines, path, "independent no-op nodes", "µs per node", from_zero=False)


def draw_memory(runs: Runs, path: Path) -> bool:
    """Draw what results of some size add to the coordinator's memory; return whether it was measured."""
    lines = _lines(runs, r"results (.+) \d+ (\S+)", "growth_mb")
    x, y = "size of each of 30 results, MB", "growth of the coordinator at its peak, MB"
    return _draw_lines(lines, path, x, y, from_zero=True)


def table_of_bounds(report: dict[str, Any]) -> str:
    """Return what was measured beside what is aimed at, as a table."""
    rows = ["| figure | measured | aim |", "|---|---:|---:|"]
    rows += [f"| {row['what']} | {row['measured']:.3g} | ≤ {row['bound']:g} |" for row in report["bounds"]]
    return "\n".join(rows)


def _median(runs: Runs, name: str, key: str, form: str) -> str:
    values = [turn[key] for turn in runs.get(name, []) if turn.get(key) is not None]
    return format(statistics.median(values), form) if values else "-"


def table_of_traces(runs: Runs) -> str:
    """Return the recorded workflows, one a row: runs beside schedules without overhead, to the window bound."""
    rows = ["| workflow | nodes | first run | knows nothing | rerun | knows all |", "|---|---:|---:|---:|---:|---:|"]
    for name in runs:
        if name.startswith("trace "):
            keys = ("first_ratio", "fifo_ratio", "rerun_ratio", "known_ratio")
            cells = [_median(runs, name, "nodes", "g"), *(_median(runs, name, key, ".3f") for key in keys)]
            rows.append(f"| {short_name(name.split()[1])} | {' | '.join(cells)} |")
    return "\n".join(rows)


def table_of_engines(runs: Runs) -> str:
    """Return the engines side by side, as a table of medians."""
    rows = ["| engine | no-op node, µs | METG(50 %) stencil, µs | METG(50 %) independent, µs |", "|---|---:|---:|---:|"]
    engines = [
        name.removeprefix("noop ").removesuffix(" 10000") for name in runs if re.fullmatch("noop .* 10000", name)
    ]
    for engine in engines:
        cells = (
            _median(runs, f"noop {engine} 10000", "us_per_node", ",.0f"),
            _median(runs, f"efficiency {engine} stencil_1d 4 50", "metg_us", ",.0f"),
            _median(runs, f"efficiency {engine} independent 8 50", "metg_us", ",.0f"),
        )
        rows.append(f"| {engine} | {' | '.join(cells)} |")
    return "\n".join(rows)


def conditions(report: dict[str, Any]) -> str:
    """Return where and when it was measured, as a sentence."""
    turns = max(len(found) for found in report["runs"].values())
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    dates, disks = _mostly(report, "date"), _mostly(report, "file_system")
    return (
        f"Measured on {dates} on {report['cores']} shared cores, {disks}, with 2 slots; medians of {turns} turns or "
        f"fewer. Versions: {versions}."
    )


def _mostly(report: dict[str, Any], key: str) -> str:
    """Return the condition of the most cases, and those of others with their names in brackets."""
    cases: dict[str, list[str]] = {}
    for name, found in report["conditions"].items():
        cases.setdefault(found[key], []).append(name)
    usual, *others = sorted(cases, key=lambda value: -len(cases[value]))
    return usual + "".join(f" ({value}: {', '.join(cases[value])})" for value in others)


def put(text: str, marker: str, content: str) -> str:
    """Return a page with new content between the two comments of a marker."""
    pattern = rf"(<!-- {marker} -->\n).*?(<!-- end -->)"
    found, n = re.subn(pattern, lambda match: f"{match[1]}{content}\n{match[2]}", text, flags=re.DOTALL)
    if n != 1:
        raise SystemExit(f"the page has {n} places for {marker}")
    return found


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--page", type=Path, default=DOCS / "performance.md")
    options = parser.parse_args()
    report = json.loads(options.results.read_text())
    runs: Runs = report["runs"]
    page = options.page
    draw_efficiency(runs, "stencil_1d", page.with_name("efficiency-stencil.svg"))
    draw_efficiency(runs, "independent", page.with_name("efficiency-independent.svg"))
    draw_cost(runs, page.with_name("cost-per-node.svg"))
    draw_memory(runs, page.with_name("memory-of-results.svg"))
    text = page.read_text(encoding="utf-8")
    text = put(text, "bounds", table_of_bounds(report))
    text = put(text, "traces", table_of_traces(runs))
    text = put(text, "engines", table_of_engines(runs))
    text = put(text, "conditions", conditions(report))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
