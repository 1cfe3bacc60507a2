"""What a kill campaign did and found, for people and for machines."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dagron.testing.evidence import Finding, Lost

__all__ = ["Phase", "Report"]


class Phase:
    """What a kill is meant to hit."""

    EXECUTE = "execute"
    RESUME = "resume"
    START_UP = "start-up of resume"
    CLEAR = "clear"


@dataclass(slots=True)
class Report:
    """What a campaign did and found.

    Attributes:
        seed: To repeat it.
        directory: Where the evidence is, if it was kept.
        kills: Kills that hit, by phase.
        clears: How far the killed `clear_checkpoint()` calls were.
        rounds: Rounds, the last one included.
        runs: Coordinators started.
        nodes_in_dag: Nodes of the job.
        nodes_run: Attempts that were started.
        lost: For each kill in `execute` or `resume`, the attempts that it cost. In a start-up there are hardly any.
        gone_seconds: For each run, the time from its end until none of its processes was left.
        findings: What contradicts a promise: `check` and `evidence`, the number of the last `kill`, the `round`, and
            what was going on (`during`).
        seconds: What all of it took.
    """

    seed: int
    directory: str | None = None
    kills: Counter[str] = field(default_factory=Counter)
    clears: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    runs: int = 0
    nodes_in_dag: int = 0
    nodes_run: int = 0
    lost: list[int] = field(default_factory=list)
    gone_seconds: list[float] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return not self.findings

    @property
    def n_kills(self) -> int:
        """Kills that hit."""
        return self.kills.total()

    def add_findings(self, findings: Sequence[Finding], during: str) -> None:
        """Take what contradicts a promise."""
        where = {"kill": self.n_kills, "round": self.rounds, "during": during}
        self.findings += [{**finding._asdict(), **where} for finding in findings]

    def add_lost(self, lost: Lost) -> None:
        """Take what a kill cost."""
        self.lost.append(len(lost.running) + len(lost.ended))

    def as_json(self) -> dict[str, Any]:
        """Return the report for machines."""
        return {
            "ok": self.ok,
            "seed": self.seed,
            "directory": self.directory,
            "n_kills": self.n_kills,
            "kills": dict(self.kills),
            "clears": dict(self.clears),
            "rounds": self.rounds,
            "runs": self.runs,
            "nodes_in_dag": self.nodes_in_dag,
            "nodes_run": self.nodes_run,
            "lost_median": _median(self.lost),
            "lost_max": max(self.lost, default=0),
            "gone_seconds_max": max(self.gone_seconds, default=0.0),
            "seconds": self.seconds,
            "findings": self.findings,
        }

    def lines(self) -> list[str]:
        """Return the report for people."""
        lines = [
            "",
            f"kills                {self.n_kills}: {_listed(self.kills, 'in ')}",
            f"killed clears left   {_listed(self.clears)}",
            f"rounds, runs         {self.rounds}, {self.runs}",
            f"attempts             {self.nodes_run}, of {self.nodes_in_dag} nodes",
            f"lost per kill        {_median(self.lost):g} in the median, {max(self.lost, default=0)} at most",
            f"all processes gone   after {max(self.gone_seconds, default=0.0):.3f} s at most",
            f"took                 {self.seconds:.0f} s",
            f"seed                 {self.seed}",
        ]
        for finding in self.findings:
            where = f"kill {finding['kill']}, round {finding['round']}, seed {self.seed}; {finding['during']}"
            lines += ["", f"BROKEN: {finding['check']}", f"  {where}", f"  {finding['evidence']}"]
        if self.directory is not None:
            lines += ["", f"the evidence is kept in {self.directory}"]
        return [*lines, "", "every check held" if self.ok else "NOT every check held"]


def _median(values: Sequence[int]) -> float:
    return float(statistics.median(values)) if values else 0.0


def _listed(counts: Counter[str], before: str = "") -> str:
    return ", ".join(f"{n} {before}{what}" for what, n in sorted(counts.items())) or "none"
