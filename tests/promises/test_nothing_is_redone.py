"""Kill -9 at random moments: nothing recorded runs twice, nothing is left, the report is exact.

`TestCampaign` runs the campaign that ships with the package. It fails within its thirty kills if one of these is taken
out: in `CheckpointStore`, going on from what is there and the deletion of temporary files (`begin`), writing again what
a kill kept from its file (`_recover`), the append of the records (`commit`), the CLEARED record in front of the
deletions and the list of what is ours (`clear`); in `AppendFile.append`, the write; in the server of the workers, the
subreaper and `kill_everything`. Giving a large result the name that a kill kept from it (`_recover`) takes some more
kills to miss.

A campaign that cannot fail proves nothing, so all that it checks is given false evidence here, too.
"""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from places import SRC

import dagron
from dagron.checkpoint.files.opened import TEMP_PREFIX, TEMP_SUFFIX
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.names import JOURNAL, LOCK, META
from dagron.checkpoint.format.storage import Storage
from dagron.engines.local.board import MAX_BATCHES
from dagron.testing import campaign, evidence, kill_campaign
from dagron.testing.campaign import Options, run_campaign
from dagron.testing.evidence import Clearing, Finding, Look, Lost, Notes
from dagron.testing.job import LONG, Noted, Order, build_job, expected_end, note
from dagron.testing.report import Phase, Report
from dagron.testing.strikes import plan_round, start_up_seconds
from dagron.testing.victim import MARKER, Victim, wait_until_gone

SEED = 20261123

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="what a task has detached may outlive it elsewhere")


def text(report):
    return "\n".join(report.lines())


# --- the campaign itself ---------------------------------------------------------------------------------------------


@linux_only
class TestCampaign:
    @pytest.mark.timeout(300)
    def test_thirty_kills_lose_nothing_that_was_recorded_and_leave_nothing_behind(self, tmp_path):
        report = run_campaign(Options(kills=30, seed=SEED, share=48, directory=str(tmp_path / "work")))
        assert report.ok, text(report)
        assert report.n_kills == 30
        # A campaign that hit nothing would hold, too.
        assert report.kills.keys() == {Phase.EXECUTE, Phase.RESUME, Phase.START_UP, Phase.CLEAR}
        assert sum(report.clears.values()) == report.kills[Phase.CLEAR]
        assert max(report.lost) >= 1
        assert report.nodes_run > report.rounds * report.nodes_in_dag / 2

    @pytest.mark.campaign
    @pytest.mark.timeout(3600)
    def test_five_hundred_kills_lose_nothing_that_was_recorded_and_leave_nothing_behind(self, tmp_path):
        report = run_campaign(Options(kills=500, seed=SEED, share=12, directory=str(tmp_path / "work")))
        assert report.ok, text(report)
        assert report.n_kills == 500
        assert report.clears.keys() >= {Clearing.AS_IT_WAS, Clearing.HALF}


def command(*arguments):
    env = {**os.environ, "PYTHONPATH": SRC}
    full = [sys.executable, "-m", "dagron.testing.kill_campaign", *map(str, arguments)]
    return subprocess.run(full, env=env, capture_output=True, text=True, timeout=100)


class TestCommand:
    @linux_only
    def test_json_is_all_that_it_prints_and_a_temporary_directory_goes_with_success(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        done = command("--kills", 1, "--seed", 3, "--share", 200, "--durability", "process", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        report = json.loads(done.stdout)
        assert (report["ok"], report["seed"], report["n_kills"], report["findings"]) == (True, 3, 1, [])
        assert report["directory"] is None
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--kills", "0"],
            ["--share", "-1"],
            ["--workers", "two"],
            ["--durability", "hard"],
            ["--seed", "x"],
            ["--loud"],
            ["more"],
        ],
        ids=" ".join,
    )
    def test_a_bad_option_is_exit_code_2_and_says_what_is_wrong(self, arguments, capsys):
        with pytest.raises(SystemExit) as ended:
            kill_campaign.main(arguments)
        assert ended.value.code == 2
        assert arguments[-1] in capsys.readouterr().err.splitlines()[-1]

    def test_a_directory_with_something_in_it_is_refused_and_stays_as_it_is(self, tmp_path, capsys):
        (tmp_path / "precious").write_text("mine")
        with pytest.raises(SystemExit) as ended:
            kill_campaign.main(["--directory", str(tmp_path)])
        assert ended.value.code == 2
        assert str(tmp_path) in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["precious"]

    @linux_only
    def test_a_checkpoint_that_forgets_is_exit_code_1_with_the_evidence(self, tmp_path, monkeypatch, capsys):
        # Whoever looks at a checkpoint that is half done cuts off the end of its journal, as no kill does.
        def look_and_tear(directory):
            seen = evidence.look(directory)
            if 10 < len(seen.commits) < 200:
                in_journal = [commit for commit in seen.commits.values() if commit.payload_offset > 0]
                os.truncate(directory / JOURNAL, in_journal[0].payload_offset)
            return seen

        monkeypatch.setattr(campaign, "look", look_and_tear)
        work = tmp_path / "work"
        # With this seed the first kill is in the midst of the run.
        arguments = ["--kills", "20", "--seed", "34", "--share", "200", "--durability", "process"]
        assert kill_campaign.main([*arguments, "--directory", str(work)]) == 1
        out = capsys.readouterr().out
        assert "BROKEN: nothing recorded is ever redone\n" in out or "BROKEN: nothing recorded is lost\n" in out
        assert "seed 34; " in out
        assert f"the evidence is kept in {work}" in out
        assert out.endswith("NOT every check held\n")
        assert (work / "checkpoint" / JOURNAL).exists()

    @linux_only
    def test_a_class_that_a_resume_takes_for_another_is_exit_code_1(self, tmp_path, monkeypatch):
        (tmp_path / "sitecustomize.py").write_text(TWO_CLASSES)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        options = Options(kills=20, seed=3, share=200, durability="process", directory=str(tmp_path / "work"))
        report = run_campaign(options)
        assert not report.ok
        assert "in the coordinator: differs: class of 0" in text(report)
        assert all("resume" in finding["during"] for finding in report.findings)


TWO_CLASSES = """
import functools, os, sys

if any('["resume"' in argument for argument in sys.orig_argv):
    os.environ["TWO_CLASSES"] = "1"  # in its workers, too
if "TWO_CLASSES" in os.environ:
    from dagron.stored import names as stored

    original = stored.of_script

    @functools.cache
    def twin(cls):
        return type(cls.__name__, (cls,), {"__slots__": ()})

    @functools.wraps(original)
    def of_script(*args):
        found = original(*args)
        return twin(found) if isinstance(found, type) and found.__name__ == "Point" else found

    stored.of_script = of_script
"""
"""A run that resumes, whose results have a `Point` that is no more the script's."""


class TestPlan:
    def test_the_same_seed_draws_the_same_plan_and_another_one_another(self):
        plans = [[plan_round(seed, number) for number in range(20)] for seed in (1, 1, 2)]
        assert plans[0] == plans[1] != plans[2]

    def test_each_round_has_every_kind_of_kill(self):
        for number in range(100):
            runs, clears = plan_round(SEED, number)
            assert runs[0].phase == Phase.EXECUTE
            assert {strike.phase for strike in runs} == {Phase.EXECUTE, Phase.RESUME, Phase.START_UP}
            assert {strike.phase for strike in clears} == {Phase.CLEAR}

    def test_moments_of_a_start_up_are_as_often_short_as_long(self):
        assert start_up_seconds(0.0) == pytest.approx(0.0002)
        assert start_up_seconds(1.0) == pytest.approx(0.3)
        assert start_up_seconds(0.5) < 0.01


class TestJob:
    def test_it_has_the_shipped_job_and_every_nasty_node_ends_in_its_last_one(self):
        dag, tasks = build_job(200, "unused", 0)
        assert tasks.keys() == set(dag.nodes)
        assert dag.leaves() == ["final"]
        assert "report" in dag.parents("final")
        nasty = {name.partition(":")[0] for name in dag.parents("final")} - {"report"}
        assert nasty == {"family", "gil", LONG.rstrip(":"), "short", "same"}
        assert {name for i in range(3) for name in dag.parents(f"same:{i}")} == {f"made:{i}" for i in range(6)}

    def test_the_last_result_is_known_beforehand_and_tells_one_salt_from_another(self):
        _, tasks = build_job(200, "unused", 7)
        short = [task.func() for name, task in tasks.items() if name.startswith("short")]
        assert "short 3 7" in short
        assert expected_end("report\n", 7).startswith("report\n")
        assert expected_end("report\n", 7) != expected_end("report\n", 8)

    def test_a_noted_task_leaves_a_line_before_it_is_called_and_one_behind(self, tmp_path):
        log = tmp_path / "log"

        def task(*, number):
            assert evidence.read_notes(log) == Notes({os.getpid(): ["node"]})
            return number

        assert Noted(task, "node", str(log))(number=5) == 5
        assert evidence.read_notes(log) == Notes({os.getpid(): ["node"]}, {"node"})

    def test_a_torn_line_costs_no_other(self, tmp_path):
        log = tmp_path / "log"
        note(str(log), "start", 1, "a")
        with log.open("ab") as file:
            file.write(b'\n["start", 1, "b')
        note(str(log), "start", 1, "c")
        note(str(log), "process", 7, 0.5)
        assert evidence.read_notes(log) == Notes({1: ["a", "c"]}, set(), [(7, 0.5)])

    def test_a_run_that_started_nothing_has_no_log(self, tmp_path):
        assert evidence.read_notes(tmp_path / "none") == Notes()


# --- that its checks can fail ----------------------------------------------------------------------------------------


def commit(name, result=b"r"):
    return Commit(name, Storage.INLINE, 0, 1, len(result), digest_of(result), b"")


def digest_of(result):
    from dagron.checkpoint.format.digests import Digests

    return Digests().of(result)


def checkpoint(*names, identity=b"one", **fields):
    return Look(identity, {name: commit(name) for name in names}, **fields)


def checks(findings):
    assert all(finding.evidence for finding in findings)
    return [finding.check for finding in findings]


BEFORE = checkpoint("a", "b")
AFTER = checkpoint("a", "b", "c", "d")
NOTES = Notes({11: ["c", "e"], 12: ["d", "f"]}, {"c", "d", "e"})


def check(how="resume", before=BEFORE, after=AFTER, notes=NOTES, n_slots=2):
    return evidence.check_run(how, before, after, notes, n_slots)


class TestRunIsJudged:
    def test_what_a_kill_may_leave_is_accepted(self):
        assert check() == []
        assert evidence.lost_in(NOTES, AFTER) == Lost(("f",), ("e",))

    def test_a_recorded_node_that_ran_again_is_found_with_its_count(self):
        notes = Notes({11: ["c", "a", "a"], 12: ["d"]}, {"c", "d", "a"})
        findings = check(notes=notes)
        assert "nothing recorded is ever redone" in checks(findings)
        (found,) = [finding for finding in findings if finding.check == "nothing recorded is ever redone"]
        assert "'a x 2'" in found.evidence

    def test_a_node_that_ran_twice_in_one_run_is_found(self):
        assert checks(check(notes=Notes({11: ["c", "d", "e", "e"]}, {"c", "d", "e"}))) == ["a run starts a node once"]

    def test_a_record_that_is_gone_is_found(self):
        findings = check(after=checkpoint("a", "c", "d"))
        assert checks(findings) == ["nothing recorded is lost"]
        assert "'b'" in findings[0].evidence

    def test_a_record_with_another_result_is_found(self):
        changed = Look(b"one", {**AFTER.commits, "b": commit("b", b"other")})
        assert checks(check(after=changed)) == ["nothing recorded is changed"]

    @pytest.mark.parametrize("after", [Look(), checkpoint("c", "d", identity=b"two"), checkpoint(cleared=True)])
    def test_a_resume_that_leaves_another_checkpoint_or_none_is_found(self, after):
        assert "nothing recorded is lost" in checks(check(after=after))

    def test_a_fresh_run_may_replace_the_checkpoint_and_redo_all_of_it(self):
        notes = Notes({11: ["a", "b"]}, {"a"})
        assert check("execute", after=checkpoint("a", identity=b"two"), notes=notes) == []

    def test_a_fresh_run_that_starts_something_while_the_old_checkpoint_stands_is_found(self):
        notes = Notes({11: ["a"]})
        assert checks(check("execute", after=BEFORE, notes=notes)) == ["nothing recorded is ever redone"]

    def test_a_record_of_what_had_not_ended_is_found(self):
        notes = Notes({11: ["c"], 12: ["d"]}, {"c"})
        assert checks(check(notes=notes)) == ["only what ended is recorded"]

    def test_a_worker_with_two_attempts_at_once_is_found(self):
        notes = Notes({11: ["c", "e", "f"], 12: ["d"]}, {"c", "d"})
        assert checks(check(notes=notes)) == ["a kill costs one attempt a slot"]

    def test_more_workers_than_slots_are_found(self):
        assert checks(check(n_slots=1)) == ["a slot has one worker"]

    def test_a_loss_before_something_recorded_is_found(self):
        notes = Notes({11: ["e", "c"], 12: ["d"]}, {"c", "d", "e"})
        assert checks(check(notes=notes)) == ["a kill costs the last attempts only"]

    def test_results_that_are_held_back_are_found(self):
        held_back = [f"{LONG}{i}" for i in range(2 * MAX_BATCHES + 1)]
        allowed = Notes({11: ["c", *held_back[1:]], 12: ["d"]}, {"c", "d", *held_back})
        assert check(notes=allowed) == []
        notes = Notes({11: ["c", *held_back], 12: ["d"]}, {"c", "d", *held_back})
        assert checks(check(notes=notes)) == ["a kill costs what is on its way only"]

    def test_a_checkpoint_that_cannot_be_read_is_found(self):
        assert check(after=Look(problem="damaged")) == [Finding("the checkpoint can be read", "damaged")]

    def test_looking_at_a_damaged_checkpoint_says_so(self, ckpt):
        dag = dagron.DAG(["a", "b"])
        executor = dagron.CheckpointExecutor(dag, ckpt, pool="inline")
        executor.execute({"a": lambda: 1, "b": lambda: 2})
        assert (evidence.look(ckpt).problem, evidence.look(ckpt).is_there) == ("", True)
        journal = ckpt / JOURNAL
        whole = bytearray(journal.read_bytes())
        whole[evidence.look(ckpt).commits["a"].payload_offset - 1] ^= 1
        journal.write_bytes(whole)
        assert "damaged" in evidence.look(ckpt).problem
        journal.write_bytes(b"nonsense")
        assert "CheckpointDamagedError" in evidence.look(ckpt).problem


class TestEndIsJudged:
    good = {"end": "the report", "restored": 2, "warnings": [], "seconds": 1.0}

    def test_the_end_of_an_undisturbed_run_is_accepted(self):
        assert evidence.check_outcome(self.good, "the report", 2) == []

    @pytest.mark.parametrize(
        ("fields", "found"),
        [
            ({"end": "another"}, "the report is the same"),
            ({"restored": 1}, "what is recorded is restored"),
            ({"warnings": ["a.pkl is missing"]}, "a kill leaves nothing to warn of"),
            ({"error": "Traceback"}, "it resumes"),
        ],
    )
    def test_what_differs_is_found(self, fields, found):
        assert checks(evidence.check_outcome({**self.good, **fields}, "the report", 2)) == [found]


@pytest.fixture
def finished(tmp_path):
    """A directory as a finished run leaves it, with a file of somebody else's."""
    directory = tmp_path / "finished"
    directory.mkdir()
    for name in (JOURNAL, META, LOCK):
        (directory / name).write_bytes(b"")
    for name in AFTER.commits:
        (directory / f"{name}.pkl").write_bytes(b"r")
    (directory / "theirs").write_bytes(b"content")
    return directory


THEIRS = {"theirs": b"content"}


def check_finished(directory, after=AFTER, **options):
    return checks(evidence.check_finished(directory, after, THEIRS, 4, **options))


class TestDirectoryIsJudged:
    def test_a_whole_one_is_accepted(self, finished):
        assert check_finished(finished) == []

    def test_a_missing_node_is_found(self, finished):
        assert "all nodes are recorded" in check_finished(finished, checkpoint("a", "b", "c"))

    def test_a_checkpoint_that_counts_as_deleted_is_found(self, finished):
        assert check_finished(finished, checkpoint(*AFTER.commits, cleared=True)) == ["all nodes are recorded"]

    @pytest.mark.parametrize("content", [b"x", b"", None])
    def test_a_file_without_its_nodes_result_is_found(self, finished, content):
        (finished / "a.pkl").unlink()
        if content is not None:
            (finished / "a.pkl").write_bytes(content)
        assert check_finished(finished) == ["each node's file has its result"]

    @pytest.mark.parametrize("content", [b"", None])
    def test_harm_to_what_is_not_ours_is_found(self, finished, content):
        (finished / "theirs").unlink()
        if content is not None:
            (finished / "theirs").write_bytes(content)
        assert check_finished(finished) == ["it deletes only what it wrote"]

    def test_what_is_left_over_is_found(self, finished):
        (finished / "old.pkl").write_bytes(b"")
        assert check_finished(finished) == ["nothing is left over"]

    def test_a_temporary_file_is_found_unless_a_worker_outlived_the_last_look(self, finished):
        (finished / f"{TEMP_PREFIX}1{TEMP_SUFFIX}").write_bytes(b"")
        assert check_finished(finished) == ["nothing is left over"]
        assert check_finished(finished, temporary=True) == []


def check_clear(directory, after):
    how_far, findings = evidence.check_killed_clear(directory, AFTER, after, THEIRS)
    return how_far, checks(findings)


class TestKilledClearIsJudged:
    def test_nothing_done_half_done_and_all_done_are_accepted_and_told_apart(self, finished):
        assert check_clear(finished, AFTER) == (Clearing.AS_IT_WAS, [])
        (finished / "a.pkl").unlink()
        assert check_clear(finished, checkpoint(cleared=True)) == (Clearing.HALF, [])
        for path in finished.iterdir():
            if path.name != "theirs":
                path.unlink()
        assert check_clear(finished, Look()) == (Clearing.GONE, [])

    def test_files_gone_from_a_checkpoint_that_still_stands_are_found(self, finished):
        (finished / "b.pkl").unlink()
        assert check_clear(finished, AFTER) == (Clearing.AS_IT_WAS, ["each node's file has its result"])

    def test_records_gone_from_a_checkpoint_that_still_stands_are_found(self, finished):
        assert "a killed clear leaves all or nothing" in check_clear(finished, checkpoint("a", "b", "c"))[1]

    def test_files_without_a_checkpoint_are_found(self, finished):
        assert check_clear(finished, Look()) == (Clearing.GONE, ["nothing is left over"])

    @pytest.mark.parametrize("after", [AFTER, checkpoint(cleared=True)])
    def test_harm_to_what_is_not_ours_is_found(self, finished, after):
        (finished / "theirs").unlink()
        assert check_clear(finished, after)[1] == ["it deletes only what it wrote"]

    def test_a_journal_that_cannot_be_read_is_found(self, finished):
        assert check_clear(finished, Look(problem="damaged"))[1] == ["the checkpoint can be read"]


# --- that it sees what is left, and how a coordinator ends -----------------------------------------------------------


@pytest.fixture
def stray():
    """A process that ends when the test does."""
    process = subprocess.Popen(["sleep", "60"], env={**os.environ, MARKER: "the run"})
    yield process
    process.kill()
    process.wait()


def dead(marker="another run", descendants=()):
    """What is needed of a coordinator that has just ended."""
    return SimpleNamespace(marker=marker, ended_at=time.monotonic(), descendants=list(descendants))


class TestProcesses:
    @pytest.mark.parametrize("known_by", ["its environment", "its place below the coordinator", "its own word"])
    def test_one_that_is_left_is_found_and_killed(self, stray, known_by):
        victim, noted = dead(), []
        if known_by == "its environment":
            victim = dead("the run")
        elif known_by == "its place below the coordinator":
            victim = dead(descendants=[psutil.Process(stray.pid)])
        else:
            noted = [(stray.pid, time.time())]
        gone = wait_until_gone(victim, lambda: noted, 0.1)
        assert gone.seconds > 0.1
        assert [left.partition(" ")[0] for left in gone.left] == [str(stray.pid)]
        assert "sleep 60" in gone.left[0]
        assert stray.wait(30) == -signal.SIGKILL

    def test_the_time_until_the_last_one_went_is_told(self, stray):
        victim = dead("the run")
        asked = []

        def noted():
            asked.append(None)
            if len(asked) == 3:
                stray.kill()  # and not waited for: a zombie counts as gone
            return ()

        gone = wait_until_gone(victim, noted, 60.0)
        assert gone.left == ()
        assert 0.0 < gone.seconds < 60.0

    def test_one_that_was_never_ours_is_left_alone_though_it_has_the_process_id(self, stray):
        assert wait_until_gone(dead(), lambda: [(stray.pid, time.time() - 3600)], 0.1).left == ()
        assert stray.poll() is None

    def test_a_process_of_a_killed_run_that_is_left_fails_the_campaign(self, tmp_path, monkeypatch, stray):
        # As if it had been below each coordinator; and not waited for as long as the real limit.
        def wait(victim, noted, limit_seconds):
            victim.descendants.append(psutil.Process(stray.pid))
            return wait_until_gone(victim, noted, 0.1)

        monkeypatch.setattr(campaign, "wait_until_gone", wait)
        options = Options(kills=1, share=200, durability="process", directory=str(tmp_path / "work"))
        report = run_campaign(options)
        assert not report.ok
        assert {finding["check"] for finding in report.findings} == {"nothing outlives the coordinator"}
        assert f"{stray.pid} (sleep 60)" in text(report)


def order(tmp_path, how, **fields):
    directory = fields.pop("directory", tmp_path / "ckpt")
    return Order(how, str(directory), str(tmp_path / "log"), 200, 2, "process", 0, -1)


class TestVictim:
    @pytest.fixture
    def start(self, tmp_path):
        victims = []

        def started(how, **fields):
            victims.append(Victim(order(tmp_path, how, **fields), "a run", tmp_path / "stderr"))
            return victims[-1]

        yield started
        for victim in victims:
            victim.close()
            assert wait_until_gone(victim, lambda: (), 30.0).left == ()

    def test_an_error_of_the_executor_is_told(self, start, tmp_path):
        (tmp_path / "file").write_text("")
        victim = start("execute", directory=tmp_path / "file")
        assert victim.begin(60) is None
        assert "CheckpointDirectoryError" in victim.finish(60)["error"]

    def test_a_death_that_was_not_ours_is_an_error_and_no_kill(self, start):
        victim = start("execute")
        assert victim.begin(60) is None
        os.kill(victim._process.pid, signal.SIGSEGV)
        assert "exit code -11" in victim.kill_after(60)["error"]

    def test_a_run_that_ends_before_its_kill_says_how_it_ended(self, start):
        victim = start("clear")
        assert victim.begin(60) is None
        assert victim.kill_after(60).keys() == {"what", "seconds", "warnings"}

    def test_a_run_that_hangs_is_given_up(self, start):
        victim = start("execute")
        assert victim.begin(60) is None
        os.kill(victim._process.pid, signal.SIGSTOP)
        assert "not done after 0.1 s" in victim.finish(0.1)["error"]
        assert victim._process.returncode == -signal.SIGKILL

    def test_a_kill_is_told_by_saying_nothing(self, start):
        victim = start("execute")
        assert victim.begin(60) is None
        assert victim.kill_after(0.0) is None
        assert victim._process.returncode == -signal.SIGKILL


class TestReport:
    def report(self):
        report = Report(seed=5, rounds=2, runs=9, nodes_in_dag=10, nodes_run=30, gone_seconds=[0.1, 0.25], seconds=3.0)
        report.kills.update([Phase.EXECUTE, Phase.CLEAR, Phase.CLEAR])
        report.clears.update([Clearing.GONE, Clearing.HALF])
        for lost in (Lost(("a",), ()), Lost((), ()), Lost(("a", "b"), ("c",))):
            report.add_lost(lost)
        return report

    def test_it_says_what_was_done_and_what_that_cost(self):
        lines = [" ".join(line.split()) for line in self.report().lines()]
        assert "kills 3: 2 in clear, 1 in execute" in lines
        assert "killed clears left 1 gone, 1 half deleted" in lines
        assert "lost per kill 1 in the median, 3 at most" in lines
        assert "all processes gone after 0.250 s at most" in lines
        assert "seed 5" in lines
        assert lines[-1] == "every check held"

    def test_machines_get_the_same(self):
        made = json.loads(json.dumps(self.report().as_json()))
        assert made["kills"] == {"execute": 1, "clear": 2}
        assert (made["ok"], made["lost_median"], made["lost_max"], made["gone_seconds_max"]) == (True, 1, 3, 0.25)

    def test_a_finding_comes_with_kill_round_and_seed(self):
        report = self.report()
        report.add_findings([Finding("the promise", "node 'a' ran 2 times")], "the resume")
        assert not report.ok
        assert "BROKEN: the promise\n  kill 3, round 2, seed 5; the resume\n  node 'a' ran 2 times" in text(report)
        (made,) = report.as_json()["findings"]
        assert made == {
            "check": "the promise",
            "evidence": "node 'a' ran 2 times",
            "kill": 3,
            "round": 2,
            "during": "the resume",
        }
