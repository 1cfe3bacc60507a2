"""A campaign: a real run that is killed again and again, and checked each time.

A campaign goes in rounds. In each, a coordinator runs the job of `dagron.testing.job` and gets SIGKILL at random
moments: during `execute()`, during `resume()`, and in the start-up of a resume that follows a kill at once. Then a
resume finishes undisturbed, and its report is compared with that of a run that nobody killed. At last
`clear_checkpoint()` is killed, on that same checkpoint. The next round begins in what that left. What is checked after
each kill, and why that is what can be promised, is in `dagron.testing.evidence`; the way to find every process that a
run leaves behind is in `dagron.testing.victim`.

The same seed draws the same plan. What a kill hits depends on the machine, too, so a failure need not come again at
once; the work directory of a campaign that failed is kept, with the checkpoint, the log and the complaints.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dagron.checkpoint.writing.store import Durability
from dagron.testing import evidence
from dagron.testing.evidence import Clearing, Finding, Look, Lost, look, lost_in, read_notes
from dagron.testing.job import Order, build_job, expected_end
from dagron.testing.report import Phase, Report
from dagron.testing.strikes import Strike, plan_round, start_up_seconds
from dagron.testing.victim import Gone, Said, Victim, wait_until_gone

__all__ = ["Campaign", "Options", "run_campaign", "work_directory"]

GONE_SECONDS = 2.0
"""How long a process of a killed run may live on: four looks of the server at its parent, of which one is enough."""

_PATIENCE_SECONDS = 120.0
"""After which a coordinator is taken to hang; a run takes seconds."""

_FOREIGN = {"notes.txt": b"mine", "_journal.old": b"mine, too", "sub/inner.pkl": b"and this", ".hidden": b""}
_FOREIGN_RESULT = "foreign.pkl"

Say = Callable[[str], None]


class _Run(NamedTuple):
    """A coordinator that was started: where its tasks leave their lines, and whether the last one's workers lived."""

    victim: Victim
    log: Path
    overlaps: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """What a campaign is to be.

    Attributes:
        kills: How many; it goes on until so many have hit a run.
        seed: For all that is random.
        share: Every how many-th file of the standard library is analysed.
        workers: Slots.
        durability: `"power"`, `"process"`, or `"both"` for one round after the other.
        directory: Where to work; empty or not yet there. None for a temporary one, which goes if all is well.
    """

    kills: int = 30
    seed: int = 0
    share: int = 12
    workers: int = 2
    durability: str = "both"
    directory: str | None = None


class Campaign:
    """A campaign in a directory of its own.

    Args:
        options: What it is to be.
        work: An empty directory.
        say: Takes a line when something has happened.

    Attributes:
        report: What it has done and found so far.
    """

    def __init__(self, options: Options, work: Path, say: Say) -> None:
        self.report = Report(options.seed)
        self._options = options
        self._say = say
        self._id = uuid.uuid4().hex
        self._checkpoint = work / "checkpoint"
        self._backup = work / "backup"
        self._undisturbed = work / "undisturbed"
        self._logs = work / "logs"
        self._stderr = work / "stderr"
        self._foreign = dict(_FOREIGN)
        self._rng = random.Random(f"{options.seed}/between")
        self._look = Look()
        self._open: list[Victim] = []
        self._started: _Run | None = None
        self._first = Phase.EXECUTE
        self._during = ""
        self._report = ""
        self._salts: dict[bytes, int] = {}
        self._run_seconds = 0.0
        self._clear_seconds = 0.0
        self._durability: Durability = "power"

    def run(self) -> Report:
        """Run it until it has its kills, or until something is found."""
        began = time.monotonic()
        try:
            self._logs.mkdir()
            self._measure_undisturbed()
            self._plant(_FOREIGN)
            while self.report.ok and self.report.n_kills < self._options.kills:
                self.report.rounds += 1
                self._round(*plan_round(self._options.seed, self.report.rounds))
        finally:
            for victim in self._open:
                victim.close()
            self.report.seconds = time.monotonic() - began
        return self.report

    # --- rounds -----------------------------------------------------------------------------------------------------

    def _measure_undisturbed(self) -> None:
        """Take the report that every other run has to give, and how long it all takes."""
        self._during = "the undisturbed run"
        self._durability = _durability_of(self._options.durability, 1)
        dag, _ = build_job(self._options.share, "", 0)
        self.report.nodes_in_dag = len(dag)
        said = self._undisturbed_call("execute", self._undisturbed)
        if said.get("error"):
            self._found([Finding("it runs", str(said["error"]))])
            return
        self._found(evidence.check_outcome(said, expected_end(said["report"], 0), 0))
        self._report, self._run_seconds = said["report"], said["seconds"]
        said = self._undisturbed_call("clear", self._undisturbed)
        self._clear_seconds = said.get("seconds", 0.0)
        self._found(evidence.check_cleared(self._undisturbed, {}))
        self._say(f"undisturbed: {len(dag)} nodes in {self._run_seconds:.2f} s")

    def _round(self, strikes: Sequence[Strike], clears: Sequence[Strike]) -> None:
        self._durability = _durability_of(self._options.durability, self.report.rounds)
        for strike, following in zip(strikes, [*strikes[1:], None], strict=True):
            if self._may_go_on():
                self._strike(strike, at_once=following is not None and following.phase == Phase.START_UP)
        if self.report.ok:
            self._finish()
        if self._may_go_on():
            self._plant({_FOREIGN_RESULT: b"not a result of ours"})
            shutil.copytree(self._checkpoint, self._backup)
            for strike in clears:
                if self._may_go_on():
                    self._strike_clear(strike)
            shutil.rmtree(self._backup)
            if self.report.ok:
                self._leave_for_the_next_round()

    def _may_go_on(self) -> bool:
        return self.report.ok and self.report.n_kills < self._options.kills

    # --- kills of runs ----------------------------------------------------------------------------------------------

    def _strike(self, strike: Strike, *, at_once: bool) -> None:
        """Start a run, kill it, and check; if `at_once`, the next one starts before the workers of this have ended."""
        if strike.phase == Phase.EXECUTE:
            strike, self._first = strike._replace(phase=self._first), Phase.EXECUTE
        how = "execute" if strike.phase == Phase.EXECUTE else "resume"
        self._during = f"{how} after kill {self.report.n_kills}"
        before = self._look
        run = self._take_or_start(how)
        said = run.victim.begin(_PATIENCE_SECONDS)
        seconds = self._moment(strike)
        if said is None:
            said = run.victim.kill_after(seconds, look_below=strike.phase != Phase.START_UP)
        after = self._look_again()
        if said is not None:
            self._check_end(how, run, said, before)
            return
        self.report.kills[strike.phase] += 1
        self._during = f"{strike.phase}, killed after {seconds:.4f} s"
        if at_once and self._may_go_on():
            self._started = self._start("resume")._replace(overlaps=True)
        gone = self._check_gone(run)
        notes = read_notes(run.log)
        self._found(evidence.check_run(how, before, after, notes, self._options.workers))
        lost = lost_in(notes, after)
        if strike.phase != Phase.START_UP:
            self.report.add_lost(lost)
        self.report.nodes_run += notes.starts().total()
        self._say(self._line(after, lost, gone))

    def _moment(self, strike: Strike) -> float:
        if strike.phase == Phase.START_UP:
            return start_up_seconds(strike.part)
        if strike.phase == Phase.EXECUTE:
            return strike.part * 1.05 * self._run_seconds
        # It has so much less to do, but to start up it has all the same. Rather too early than too late: a run that is
        # killed early goes on, and one that came to its end is of no more use in this round.
        left = 1.0 - len(self._look.commits) / self.report.nodes_in_dag
        return strike.part * (0.15 + 0.7 * left) * self._run_seconds

    def _finish(self) -> None:
        """Let a resume come to its end."""
        self._during = f"the resume after kill {self.report.n_kills}"
        before = self._look
        run = self._take_or_start("resume")
        said = run.victim.begin(_PATIENCE_SECONDS) or run.victim.finish(_PATIENCE_SECONDS)
        self._look_again()
        self._check_end("resume", run, said, before)

    def _check_end(self, how: str, run: _Run, said: Said, before: Look) -> None:
        """Check a run that came to its end."""
        self._check_gone(run)
        notes = read_notes(run.log)
        self.report.nodes_run += notes.starts().total()
        if how == "execute":
            self._run_seconds = said.get("seconds", self._run_seconds)  # it depends on what else the machine does
        n_restored = len(before.commits) if how == "resume" and before.is_there else 0
        after = self._look
        # A fresh run may have been killed before it replaced the checkpoint of the round before.
        end = expected_end(self._report, self._salts.get(after.checkpoint_id, -1))
        self._found(evidence.check_outcome(said, end, n_restored))
        if said.get("error"):
            return
        self._found(evidence.check_run(how, before, after, notes, self._options.workers))
        n_nodes = self.report.nodes_in_dag
        self._found(evidence.check_finished(self._checkpoint, after, self._foreign, n_nodes, temporary=run.overlaps))

    # --- kills of clear_checkpoint ----------------------------------------------------------------------------------

    def _strike_clear(self, strike: Strike) -> None:
        """Kill `clear_checkpoint()`, and check that it has deleted the checkpoint or not, and nothing else."""
        if not self._look.is_there:
            self._restore_backup()
        before = self._look
        seconds = strike.part * 1.2 * self._clear_seconds
        self._during = f"clear, killed after {seconds:.4f} s"
        run = self._start("clear")
        said = run.victim.begin(_PATIENCE_SECONDS) or run.victim.kill_after(seconds, look_below=False)
        gone = self._check_gone(run)
        after = self._look_again()
        if said is not None:
            if said.get("error"):
                self._found([Finding("it can be cleared", str(said["error"]))])
            self._clear_seconds = said.get("seconds", self._clear_seconds)
            self._found(evidence.check_cleared(self._checkpoint, self._foreign))
            return
        self.report.kills[Phase.CLEAR] += 1
        how_far, findings = evidence.check_killed_clear(self._checkpoint, before, after, self._foreign)
        self.report.clears[how_far] += 1
        self._found(findings)
        self._say(self._line(after, Lost((), ()), gone) + f"; {how_far}")
        if self.report.ok and how_far == Clearing.AS_IT_WAS:
            self._finish()

    def _restore_backup(self) -> None:
        shutil.rmtree(self._checkpoint)
        shutil.copytree(self._backup, self._checkpoint)
        self._look_again()

    def _leave_for_the_next_round(self) -> None:
        """Have what is half deleted cleared again, or leave it to an execute or to a resume."""
        self._during = "the clear after a clear that was killed"
        if not self._look.is_there:
            self._first = self._rng.choice([Phase.EXECUTE, Phase.RESUME])
            if self._rng.random() < 0.3:
                self._undisturbed_call("clear", self._checkpoint)
                self._look_again()
                self._found(evidence.check_cleared(self._checkpoint, self._foreign))
        # A directory with a result file of others, and without a checkpoint, would be refused.
        (self._checkpoint / _FOREIGN_RESULT).unlink()
        del self._foreign[_FOREIGN_RESULT]

    # --- parts ------------------------------------------------------------------------------------------------------

    def _look_again(self) -> Look:
        self._look = look(self._checkpoint)
        self._salts.setdefault(self._look.checkpoint_id, self.report.rounds)
        return self._look

    def _plant(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            path = self._checkpoint / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._foreign.update(files)

    def _start(self, how: str, directory: Path | None = None) -> _Run:
        self.report.runs += 1
        options = self._options
        log = self._logs / str(self.report.runs)
        where = str(directory or self._checkpoint)
        order = Order(how, where, str(log), options.share, options.workers, self._durability, self.report.rounds, -1)
        victim = Victim(order, f"{self._id}-{self.report.runs}", self._stderr)
        self._open.append(victim)
        return _Run(victim, log)

    def _take_or_start(self, how: str) -> _Run:
        started, self._started = self._started, None
        return started or self._start(how)

    def _undisturbed_call(self, how: str, directory: Path) -> Said:
        run = self._start(how, directory)
        said = run.victim.begin(_PATIENCE_SECONDS) or run.victim.finish(_PATIENCE_SECONDS)
        self._check_gone(run)
        return said

    def _check_gone(self, run: _Run) -> Gone:
        gone = wait_until_gone(run.victim, lambda: read_notes(run.log).processes, GONE_SECONDS)
        self.report.gone_seconds.append(gone.seconds)
        if gone.left:
            text = f"{gone.seconds:.1f} s after its coordinator: {'; '.join(gone.left)}"
            self._found([Finding("nothing outlives the coordinator", text)])
        run.victim.close()
        self._open.remove(run.victim)
        return gone

    def _found(self, findings: Sequence[Finding]) -> None:
        self.report.add_findings(findings, self._during)

    def _line(self, after: Look, lost: Lost, gone: Gone) -> str:
        return (
            f"kill {self.report.n_kills:>3}  round {self.report.rounds:>2}  {self._during}:"
            f" {len(after.commits)} recorded, {len(lost.running)} running and {len(lost.ended)} ended ones lost,"
            f" processes gone after {gone.seconds:.3f} s"
        )


def _durability_of(durability: str, number: int) -> Durability:
    if durability == "both":
        return "power" if number % 2 else "process"
    return "power" if durability == "power" else "process"


def work_directory(path: str | None) -> Path:
    """Return an empty directory to work in, made if it is not there; a temporary one for None.

    Raises:
        OSError: There is something in it, or it cannot be made.
    """
    if path is None:
        return Path(tempfile.mkdtemp(prefix="dagron-campaign-"))
    work = Path(path).absolute()  # for coordinators, too
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        raise FileExistsError(f"there is something in {path!r} already")
    return work


def run_campaign(options: Options, say: Say = lambda line: None) -> Report:
    """Run a campaign. It ends when it has its kills, or at the first that broke a promise.

    Args:
        options: What it is to be.
        say: Takes a line when something has happened.

    Returns:
        What it did and found.

    Raises:
        OSError: It cannot work in that directory.
    """
    work = work_directory(options.directory)
    temporary = options.directory is None
    try:
        report = Campaign(options, work, say).run()
    except KeyboardInterrupt:
        if temporary:
            shutil.rmtree(work, ignore_errors=True)  # the workers of the last run may still be about to end
        raise
    if temporary and report.ok:
        shutil.rmtree(work)
    else:
        report.directory = str(work)
    return report
