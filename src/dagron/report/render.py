"""From a report to one HTML file that opens without a network.

Names, tracebacks and all else that comes from a job are hostile text. Three things stand between them and the page:
Jinja escapes whatever the template puts in; the data block is JSON without `<`, `>` and `&`, and the scripts put text
in with `textContent` only; and the page's own Content-Security-Policy lets no script run but those whose hashes it
names, and nothing be loaded from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from dagron.errors import LAST_LINES
from dagron.report.model import CriticalStep, Group, Report
from dagron.results.reasons import shown_line
from dagron.results.status import NodeStatus
from dagron.shown import shown_bytes, shown_seconds

__all__ = ["render"]

_STATUSES = tuple(NodeStatus)
"""In the data of the page a status is its position in this."""

_MAX_STEPS = 100
"""Nodes of the critical path that are listed."""

_LIBRARIES = ("dispatch", "timer", "color", "ease", "interpolate", "selection", "transition", "drag", "zoom", "array")
_SCRIPTS = ("data", "timeline", "graph", "nodes")

_COLUMNS = (
    ("name", "Node"),
    ("state", "State"),
    ("run", "Run"),
    ("slot", "Worker"),
    ("attempts", "Attempts"),
    ("duration", "Took"),
    ("cpu", "CPU time"),
    ("share", "CPU"),
    ("rss", "Peak memory"),
    ("size", "Result"),
)


# Control characters, and those that are not seen or turn text around: a name cannot look like another one.
_INVISIBLE = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff"
_NOT_FOR_TEXT = re.compile(f"[{_INVISIBLE}]")
_NOT_FOR_A_LINE = re.compile(rf"[{_INVISIBLE}\t\n]")


def render(report: Report) -> str:
    """Return the page. It holds only characters that UTF-8 can encode."""
    environment = Environment(autoescape=True, trim_blocks=True)
    environment.filters.update(
        duration=shown_seconds,
        one_line=shown_line,
        visible=lambda text: _NOT_FOR_A_LINE.sub(_escaped, text),
        visible_text=lambda text: _NOT_FOR_TEXT.sub(_escaped, text),
        when=_when,
    )
    scripts = _scripts()
    css = environment.from_string(_read("page/page.css")).render(states=[status.value for status in _STATUSES])
    counts = report.counts()
    longest = sorted(range(len(report.critical)), key=lambda at: -report.critical[at].duration_seconds)[:_MAX_STEPS]
    return environment.from_string(_read("page/page.html")).render(
        report=report,
        directory=_NOT_FOR_A_LINE.sub(_escaped, report.directory),
        how=_how(report),
        policy=_policy(scripts, css),
        css=Markup(css),
        scripts=[Markup(script) for script in scripts],
        data=Markup(_data(report)),
        counts=list(counts.items()),
        last_lines=LAST_LINES,
        critical_title=_critical_title(report),
        critical_text=_critical_text(report),
        shares=_shares(counts),
        facts=_facts(report),
        columns=_COLUMNS,
        critical=[report.critical[at] for at in sorted(longest)],
    )


def _read(name: str) -> str:
    return files("dagron.report").joinpath(name).read_text(encoding="utf-8")


def _scripts() -> list[str]:
    libraries = [_read(f"vendor/d3-{name}.min.js") for name in _LIBRARIES] + [_read("vendor/dagre.min.js")]
    own = [_read(f"page/{name}.js") for name in _SCRIPTS]
    # A map of the source would be asked for as a file beside the page.
    return [re.sub(r"\n//# sourceMappingURL=.*", "", text).strip() for text in (*libraries, *own)]


def _policy(scripts: Iterable[str], css: str) -> str:
    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    hashes = " ".join(source(script) for script in scripts)
    nothing_else = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:"
    return f"{nothing_else}; script-src {hashes}; style-src {source(css)}"


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _when(unix_seconds: float) -> str:
    return (
        f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%d %H:%M:%S} UTC" if unix_seconds else "at an unknown time"
    )


def _how(report: Report) -> str:
    if not report.runs:
        return "no run is recorded"
    return f"{len(report.runs)} {'run' if len(report.runs) == 1 else 'runs'}, the last one {report.runs[-1].how}"


def _shares(counts: Mapping[NodeStatus, int]) -> list[tuple[float, float, NodeStatus]]:
    total = sum(counts.values()) or 1
    shares, x = [], 0.0
    for status, count in counts.items():
        if count:
            width = max(5.0, 1000 * count / total)  # one failure among many thousand nodes is to be seen
            shares.append((round(x, 2), round(width, 2), status))
            x += width
    return shares


def _facts(report: Report) -> list[tuple[str, str, str]]:
    runs = report.runs
    wall = sum(run.wall_seconds for run in runs)
    cpu = sum(run.cpu_seconds for run in runs)
    available = sum(run.wall_seconds * run.n_slots for run in runs)
    facts = [
        ("Nodes", f"{report.total:,}", ""),
        ("Time of all runs", shown_seconds(wall), ""),
        ("CPU time", shown_seconds(cpu), "User and system time of attempts; that of killed workers is not known"),
    ]
    if available:
        facts.append(
            ("CPU efficiency", f"{100 * cpu / available:.0f} %", "CPU time as a share of slots times wall time")
        )
    if report.critical:
        facts.append((_critical_title(report), shown_seconds(report.critical_seconds), "The longest chain of nodes"))
    if report.attempts:
        peak = max(report.attempts, key=lambda attempt: attempt.peak_rss_bytes)
        name = _NOT_FOR_A_LINE.sub(_escaped, report.name_of(peak.node))
        facts.append(("Peak memory of a worker", shown_bytes(peak.peak_rss_bytes), name))
        last = {attempt.node: attempt.result_bytes for attempt in report.attempts if not attempt.is_retried}
        last = {node: n for node, n in last.items() if node < len(report.nodes)}
        facts.append(("Results", shown_bytes(sum(last.values())), "Size of the pickled results"))
    return facts


def _critical_title(report: Report) -> str:
    return "Critical path" if len(report.critical) > 1 or _is_complete(report) else "Longest node"


def _n_steps(steps: Sequence[CriticalStep]) -> str:
    return f"It has {len(steps):,} nodes." if len(steps) > 1 else ""


def _is_complete(report: Report) -> bool:
    return report.counts()[NodeStatus.COMPLETED] == report.total


def _critical_text(report: Report) -> str:
    """Return what the critical path is: a bound for the job only as far as it has completed."""
    steps = report.critical
    if not steps:
        return ""
    took = shown_seconds(report.critical_seconds)
    failed = [step for step in steps if report.nodes[step.node].state in (NodeStatus.FAILED, NodeStatus.TIMED_OUT)]
    if _is_complete(report):
        text = f"The longest chain of nodes that wait for one another takes {took}"
        if len(steps) == 1:
            text = (
                f"No chain of nodes that wait for one another takes longer than this one node alone, which took {took}"
            )
        return f"{text}: however many workers there are, the job takes no less. {_n_steps(steps)}".rstrip()
    if len(steps) == 1:
        state = report.nodes[steps[0].node].state
        how = f"{'failed' if state == NodeStatus.FAILED else state.label} after" if failed else "took"
        text = "Of what has run, no chain of nodes that wait for one another took longer than this one node alone"
        return f"{text}, which {how} {took}. How long the job takes at least is known when it has completed."
    text = f"Of what has run, the longest chain of nodes that wait for one another took {took}"
    text += f" and has {len(steps):,} nodes"
    if failed:
        which = "its last one" if failed == steps[-1:] else f"{len(failed):,} of them"
        return f"{text}; {which} failed, so how long the job takes at least is known when it has completed."
    return f"{text}: however many workers there are, the job takes no less."


def _data(report: Report) -> str:
    attempts, edges = report.attempts, report.edges
    fields: dict[str, Any] = {
        "stateNames": [status.value for status in _STATUSES],
        "states": [status.label for status in _STATUSES],
        "runs": [
            {"wall": round(run.wall_seconds, 6), "slots": run.n_slots, "how": run.how, "started": run.started_unix}
            for run in report.runs
        ],
        "nodes": {
            "name": [node.name for node in report.nodes],
            "state": [_STATUSES.index(node.state) for node in report.nodes],
            "last": [node.last for node in report.nodes],
        },
        "gone": report.gone,
        "attempts": {
            "run": [attempt.run for attempt in attempts],
            "node": [attempt.node for attempt in attempts],
            "slot": [attempt.slot for attempt in attempts],
            "start": [round(attempt.start_seconds, 6) for attempt in attempts],
            "duration": [round(attempt.duration_seconds, 6) for attempt in attempts],
            "cpu": [round(attempt.cpu_seconds, 6) for attempt in attempts],
            "rss": [attempt.peak_rss_bytes for attempt in attempts],
            "size": [attempt.result_bytes for attempt in attempts],
            "attempts": [attempt.attempts for attempt in attempts],
            "retried": [int(attempt.is_retried) for attempt in attempts],
            "outcome": [_STATUSES.index(attempt.outcome) for attempt in attempts],
        },
        "group": _group(report.group),
        "edges": {"offsets": edges.offsets.tolist(), "parents": edges.parents.tolist()} if edges is not None else None,
        "critical": _positions(report.critical),
    }
    text = json.dumps(fields, separators=(",", ":"))
    # Inside of a script element only `</` and `<!--` mean something, but nothing is lost by having no `<` at all.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _group(group: Group) -> dict[str, Any]:
    parts = [_group(part) for part in group.parts]
    return {"label": group.label, "start": group.start, "end": group.end, "parts": parts}


def _positions(steps: Sequence[CriticalStep]) -> list[int]:
    return [step.node for step in steps]
