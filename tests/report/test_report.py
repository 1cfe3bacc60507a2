"""What a report says about a checkpoint, and that hostile text stays text: without a browser."""

import hashlib
import html.parser
import json
import re
import subprocess
import sys
import threading
import time
from base64 import b64decode
from pathlib import Path

import pytest

import dagron
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.records import NO_RUN, Failed, Output, RunStarted
from dagron.checkpoint.reading.history import History, RunHistory, read_history
from dagron.checkpoint.reading.ledger import Ledger
from dagron.frozen import replaced
from dagron.looking.groups import pattern_of
from dagron.report.build import MAX_ATTEMPTS, build_report
from dagron.report.failures import MAX_NAMES, MAX_TEXT, failures_of
from dagron.report.grouping import MAX_SHOWN, group_nodes
from dagron.report.model import Group, Node, Report, Run
from dagron.report.render import render
from dagron.results.status import NodeStatus

VENDOR = Path(dagron.__file__).parent / "report" / "vendor"

HOSTILE = "</script><img src=x onerror=alert(1)>\u202e\x1b[31m\ud800&amp;{{ 7*7 }}"


def history_of(directory):
    return read_history(Directory(directory))


def built(directory, dag, *, how="interrupted"):
    return build_report(
        history_of(directory), dag, directory=str(directory), version="0", generated_unix=time.time(), how=how
    )


def states(report):
    return {node.name: node.state for node in report.nodes}


# --- groups ---------------------------------------------------------------------------------------------------------


def groups_of(group):
    yield group
    for part in group.parts:
        yield from groups_of(part)


def check_groups(names, levels=None):
    order, root = group_nodes(names, levels)
    assert sorted(order) == list(range(len(names)))
    assert (root.start, root.end) == (0, len(names))
    for group in groups_of(root):
        assert len(group.parts) <= MAX_SHOWN + 1
        if group.parts:
            assert len(group.parts) > 1
            assert [part.start for part in group.parts] == [group.start, *[part.end for part in group.parts[:-1]]]
            assert group.parts[-1].end == group.end
        else:
            assert len(group) <= MAX_SHOWN
    return order, root


class TestGrouping:
    @pytest.mark.parametrize(
        ("name", "pattern"),
        [
            ("count[3]", "count[*]"),
            ("count[a/b.txt]", "count[*]"),
            ("cell_3_17", "cell_*"),
            ("shard-0012 of 0100", "shard-* of *"),
            ("f(x, 1)", "f(*)"),
            ("plain", "plain"),
            ("", ""),
        ],
    )
    def test_a_pattern_leaves_out_numbers_and_what_is_in_brackets(self, name, pattern):
        assert pattern_of(name) == pattern

    def test_few_nodes_are_shown_as_they_are(self):
        order, root = check_groups(["b", "a"])
        assert order == [0, 1]
        assert root.parts == []

    def test_many_nodes_are_grouped_by_their_pattern(self):
        names = [f"{kind}[{i}]" for i in range(50) for kind in ("load", "clean")] + ["total"]
        order, root = check_groups(names)
        assert [(part.label, len(part)) for part in root.parts] == [("load[*]", 50), ("clean[*]", 50), ("total", 1)]
        assert [names[i] for i in order[:2]] == ["load[0]", "load[1]"]

    def test_too_many_patterns_are_grouped_by_how_names_begin(self):
        letters = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(100)]
        names = [f"file:{a}" for a in letters] + [f"package:{a}" for a in letters]
        _, root = check_groups(names)
        assert [part.label for part in root.parts] == ["file:…", "package:…"]

    @pytest.mark.parametrize("n", [41, 1_000, 20_000])
    def test_names_that_are_alike_are_grouped_by_level_and_then_in_stretches(self, n):
        names = [f"n{i}" for i in range(n)]
        check_groups(names, list(range(n)))
        check_groups(names, [0] * n)
        check_groups(names, [min(i, 40) for i in range(n)])  # all but a few in the last level
        check_groups(names, [max(0, i - n + 40) for i in range(n)])  # all but a few in the first
        check_groups(names)

    def test_names_without_anything_in_common_are_grouped_too(self):
        check_groups([hashlib.sha256(str(i).encode()).hexdigest() for i in range(2_000)])
        check_groups([chr(0x4E00 + i) for i in range(2_000)])

    def test_ten_times_the_nodes_take_about_ten_times_as_long(self):
        def seconds(n):
            names = [f"cell_{i}_{i % 7}" for i in range(n)]
            began = time.process_time()
            group_nodes(names, [i % 100 for i in range(n)])
            return time.process_time() - began

        small = min(seconds(5_000) for _ in range(3))
        assert seconds(50_000) < 40 * small


# --- history --------------------------------------------------------------------------------------------------------

DIAMOND = (
    dagron.DAG.builder()
    .add_edge("load", "left")
    .add_edge("load", "right")
    .add_edge("left", "join")
    .add_edge("right", "join")
    .add_node("alone")
    .build()
)


def diamond_tasks(*, broken=False):
    def right(load):
        if broken:
            raise ValueError("no such column")
        return load

    return {
        "load": lambda: 1,
        "left": lambda load: load,
        "right": right,
        "join": lambda left, right: left + right,
        "alone": lambda: 0,
    }


def executor(directory, dag=DIAMOND):
    return dagron.CheckpointExecutor(dag, directory, pool="inline", durability="process")


def hang():
    threading.Event().wait(60)


class TestHistory:
    def test_there_is_none_without_a_checkpoint(self, tmp_path):
        assert history_of(tmp_path) is None

    def test_each_run_has_what_it_did(self, tmp_path):
        executor(tmp_path).execute(diamond_tasks(broken=True))
        executor(tmp_path).resume(diamond_tasks())
        first, second = history_of(tmp_path).runs
        assert {commit.name for commit in first.commits} == {"load", "left", "alone"}
        assert [failure.name for failure in first.failures] == ["right"]
        assert {commit.name for commit in second.commits} == {"right", "join"}
        assert second.failures == []
        assert first.started.slots == second.started.slots == 1
        assert first.ended is not None
        assert first.updated_unix <= second.started.at

    def test_a_fresh_run_forgets_the_ones_before(self, tmp_path):
        executor(tmp_path).execute(diamond_tasks(broken=True))
        executor(tmp_path).execute(diamond_tasks())
        (run,) = history_of(tmp_path).runs
        assert len(run.commits) == 5

    def test_a_commit_that_was_superseded_is_still_there(self, tmp_path):
        executor(tmp_path).execute(diamond_tasks())
        wider = dagron.DAG(DIAMOND.nodes, [*DIAMOND.edges, ("alone", "join")])
        executor(tmp_path, wider).resume({**diamond_tasks(), "join": lambda left, right, alone: 9})
        first, second = history_of(tmp_path).runs
        assert "join" in {commit.name for commit in first.commits}
        assert [commit.name for commit in second.commits] == ["join"]
        assert second.n_invalidated == 1


# --- the model ------------------------------------------------------------------------------------------------------


class TestModel:
    def test_states_are_those_at_the_end(self, tmp_path):
        executor(tmp_path).execute(diamond_tasks(broken=True))
        report = built(tmp_path, DIAMOND)
        assert states(report) == {
            "load": NodeStatus.COMPLETED,
            "left": NodeStatus.COMPLETED,
            "right": NodeStatus.FAILED,
            "join": NodeStatus.SKIPPED,
            "alone": NodeStatus.COMPLETED,
        }
        assert report.counts()[NodeStatus.COMPLETED] == 3

    def test_without_edges_what_never_ran_is_counted(self, tmp_path):
        executor(tmp_path).execute(diamond_tasks(broken=True))
        report = built(tmp_path, None)
        assert "join" not in states(report)
        assert report.counts()[NodeStatus.PENDING] == 1
        assert report.critical == []
        assert report.edges is None
        assert any("--dag" in notice for notice in report.notices)

    def test_another_dag_is_not_believed(self, tmp_path):
        executor(tmp_path).execute(diamond_tasks())
        report = built(tmp_path, dagron.DAG(["other"]))
        assert report.edges is None
        assert any("another one" in notice for notice in report.notices)

    def test_attempts_of_all_runs_are_in_order(self, tmp_path):
        executor(tmp_path).execute(diamond_tasks(broken=True))
        executor(tmp_path).resume(diamond_tasks())
        report = built(tmp_path, DIAMOND)
        ran = [(attempt.run, report.nodes[attempt.node].name, attempt.outcome) for attempt in report.attempts]
        assert (0, "right", NodeStatus.FAILED) in ran
        assert (1, "right", NodeStatus.COMPLETED) in ran
        assert [run for run, _, _ in ran] == sorted(run for run, _, _ in ran)
        assert all(attempt.start_seconds >= 0 for attempt in report.attempts)
        for node in report.nodes:
            assert report.nodes[report.attempts[node.last].node] is node
        right = next(node for node in report.nodes if node.name == "right")
        assert report.attempts[right.last].run == 1

    def test_an_attempt_that_was_killed_has_its_place_and_its_length(self, tmp_path):
        dag = dagron.DAG(["hangs", "raises"])
        run = dagron.CheckpointExecutor(dag, tmp_path, max_workers=2, durability="process", kill_grace_seconds=0.0)
        run.execute({"hangs": dagron.Task(hang, timeout=0.3), "raises": lambda: sum(range(300_000)) / 0})
        report = built(tmp_path, dag)
        attempts = {report.nodes[attempt.node].name: attempt for attempt in report.attempts}
        assert attempts["hangs"].outcome == NodeStatus.TIMED_OUT
        assert attempts["hangs"].duration_seconds >= 0.3
        end = attempts["hangs"].start_seconds + attempts["hangs"].duration_seconds
        assert end <= report.runs[0].wall_seconds + 0.01
        assert attempts["raises"].cpu_seconds > 0
        assert attempts["raises"].peak_rss_bytes > 0

    def test_edges_lead_to_the_parents(self, tmp_path):
        executor(tmp_path).execute(diamond_tasks())
        report = built(tmp_path, DIAMOND)
        names = [node.name for node in report.nodes]
        at = names.index("join")
        start, end = report.edges.offsets[at : at + 2]
        assert [names[parent] for parent in report.edges.parents[start:end]] == ["left", "right"]

    def test_the_critical_path_is_the_longest_chain(self, tmp_path):
        executor(tmp_path).execute({**diamond_tasks(), "right": lambda load: time.sleep(0.02)})
        report = built(tmp_path, DIAMOND)
        took = {report.nodes[attempt.node].name: attempt.duration_seconds for attempt in report.attempts}
        longer = max("left", "right", key=took.__getitem__)  # the one that sleeps, unless the machine has stood still
        assert [report.nodes[step.node].name for step in report.critical] == ["load", longer, "join"]
        assert report.critical_seconds == pytest.approx(took["load"] + took[longer] + took["join"])
        assert report.critical[0].waited_seconds is None
        assert report.critical[1].waited_seconds >= 0

    def test_attempts_that_were_tried_again_are_drawn_and_are_not_what_a_node_took(self, tmp_path):
        def flaky():
            if dagron.current().attempt < 3:
                raise ConnectionError("no route\nto host")

        dag = dagron.DAG(["a"])
        executor(tmp_path, dag).execute({"a": dagron.Task(flaky, retries=2, retry_delay=0)})
        report = built(tmp_path, dag)
        assert [(attempt.attempts, attempt.is_retried, attempt.outcome) for attempt in report.attempts] == [
            (1, True, NodeStatus.FAILED),
            (2, True, NodeStatus.FAILED),
            (3, False, NodeStatus.COMPLETED),
        ]
        assert report.nodes[0].last == 2
        assert report.notices == []
        (failure,) = report.failures
        assert (failure.status, failure.nodes, failure.n_nodes) == ("tried again", ["a"], 1)
        page = render(report)
        assert "</strong> in 1 node: <bdi>no route ...</bdi>" in page
        assert "completed since" not in page

    def test_of_many_that_were_tried_again_those_that_are_not_recorded_are_counted(self, tmp_path):
        def flaky():
            if dagron.current().attempt < 10:
                raise ConnectionError

        dag = dagron.DAG(["a"])
        executor(tmp_path, dag).execute({"a": dagron.Task(flaky, retries=20, retry_delay=0)})
        report = built(tmp_path, dag)
        assert len(report.attempts) == 7
        assert report.notices[0].startswith("3 attempts that were tried again are not shown")

    def test_attempts_of_nodes_that_left_the_job_are_drawn_and_counted_nowhere_else(self, tmp_path, monkeypatch):
        wide = dagron.DAG(["a", "old", "older"])

        def fails():
            raise ValueError("gone")

        executor(tmp_path, wide).execute({"a": lambda: 1, "old": lambda: 2, "older": fails})
        narrow = dagron.DAG(["a", "b"])
        executor(tmp_path, narrow).resume({"a": lambda: 1, "b": lambda: 3})
        report = built(tmp_path, narrow)
        assert [node.name for node in report.nodes] == ["a", "b"]
        assert [(attempt.run, report.name_of(attempt.node)) for attempt in report.attempts] == [
            (0, "a"),
            (0, "old"),
            (0, "older"),
            (1, "b"),
        ]
        assert report.gone == ["old", "older"]
        assert report.failures == []
        data = json.loads(re.search('id="data">(.*?)</script>', render(report))[1])
        assert (data["gone"], data["attempts"]["node"]) == (["old", "older"], [0, 2, 3, 1])
        monkeypatch.setattr("dagron.report.build.MAX_ATTEMPTS", 1)
        report = built(tmp_path, narrow)  # the one that failed
        assert (report.gone, [report.name_of(attempt.node) for attempt in report.attempts]) == (["older"], ["older"])

    def test_the_critical_path_is_called_what_it_is(self, tmp_path):
        dag = dagron.DAG(["a", "b"], [("a", "b")])

        def fails():
            raise ValueError

        executor(tmp_path, dag).execute({"a": fails, "b": lambda a: 1})
        page = render(built(tmp_path, dag))
        assert '<h2 id="critical-title">Longest node</h2>' in page
        assert "than this one node alone, which failed after" in page
        assert "no less" not in page
        executor(tmp_path, dag).resume({"a": lambda: 0, "b": lambda a: 1 / a})
        page = render(built(tmp_path, dag))
        assert '<h2 id="critical-title">Critical path</h2>' in page
        assert "has 2 nodes; its last one failed, so how long the job takes at least" in page
        executor(tmp_path, dag).resume({"a": lambda: 0, "b": lambda a: 1})
        page = render(built(tmp_path, dag))
        assert "however many workers there are, the job takes no less. It has 2 nodes." in page

    def test_how_a_run_ended_is_told(self, tmp_path):
        executor(tmp_path).execute(diamond_tasks())
        history = history_of(tmp_path)
        history.runs[-1].ended = None
        history.runs.append(RunHistory(history.ledger.run, updated_unix=history.runs[0].updated_unix))
        report = build_report(history, None, directory="d", version="0", generated_unix=1.0, how="running")
        assert [run.how for run in report.runs] == ["interrupted", "running"]

    def test_efficiency_is_a_share_of_all_slots(self):
        run = Run(0.0, 10.0, "finished", 4, 2, 0, 30.0, 20.0)
        assert run.cpu_efficiency == 0.5
        assert run.occupancy == 0.75
        assert Run(0.0, 0.0, "finished", 4, 0, 0, 0.0, 0.0).cpu_efficiency == 0.0

    def test_of_too_many_attempts_the_longest_are_kept(self, tmp_path, monkeypatch):
        monkeypatch.setattr("dagron.report.build.MAX_ATTEMPTS", 2)
        assert MAX_ATTEMPTS > 100_000
        executor(tmp_path).execute({**diamond_tasks(broken=True), "alone": lambda: time.sleep(0.02)})
        with monkeypatch.context() as patched:
            patched.setattr("dagron.report.build.MAX_ATTEMPTS", 4)
            every = built(tmp_path, DIAMOND)
        took = {every.nodes[attempt.node].name: attempt.duration_seconds for attempt in every.attempts}
        failed = took.pop("right")
        assert failed > 0
        longest = max(took, key=took.__getitem__)  # the one that sleeps, unless the machine has stood still
        report = built(tmp_path, DIAMOND)
        assert {report.nodes[attempt.node].name for attempt in report.attempts} == {"right", longest}
        assert {node.name for node in report.nodes if node.last >= 0} == {"right", longest}
        assert any("of 4 attempts" in notice for notice in report.notices)


def failed(name, at, *, message="m", kind="ValueError", line=7):
    text = f'Traceback (most recent call last):\n  File "job.py", line {line}, in f\n{kind}: {message}\n'
    return Failed(name, at, type=kind, message=message, traceback=text)


def history_with(failures, commits=(), absent=()):
    view = Ledger(b"", failures={failure.name: failure for failure in failures if failure.name not in commits})
    view.commits = dict.fromkeys(commits)
    view.absent = set(absent)
    return History(view, [RunHistory(NO_RUN, failures=list(failures))])


class TestFailures:
    def test_those_from_one_line_stand_together(self):
        alike = [failed(f"n{i}", i, message=f"bad row {i}") for i in range(1_000)]
        first, second = failures_of(history_with([*alike, failed("other", 1, line=8)]))
        assert (first.n_nodes, first.message) == (1_000, "bad row 0")
        assert first.nodes == [f"n{i}" for i in range(MAX_NAMES)]
        assert second.nodes == ["other"]

    def test_what_has_completed_since_comes_last_and_what_is_gone_not_at_all(self):
        history = history_with([failed("a", 1), failed("b", 2), failed("gone", 3)], commits=["a"], absent=["gone"])
        assert [(failure.nodes, failure.resolved) for failure in failures_of(history)] == [
            (["b"], False),
            (["a"], True),
        ]

    def test_the_middle_of_a_long_text_is_left_out(self):
        (failure,) = failures_of(history_with([failed("a", 1, message="x" * 10 * MAX_TEXT)]))
        assert len(failure.traceback) < MAX_TEXT + 100
        assert failure.traceback.startswith("Traceback")
        assert "characters" in failure.traceback


# --- the page -------------------------------------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    """Everything in a page that could do something."""

    def __init__(self, page):
        super().__init__()
        self.seen, self.scripts, self.policy, self.text = set(), [], "", ""
        self._in = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self._in = tag
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "action", "srcdoc", "style"), (tag, name)
            if name == "href":
                assert value.startswith(("#", "data:,"))
        if tag == "script" and ("type", "application/json") not in attrs:
            self.scripts.append("")
        if tag == "meta" and dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

    def handle_data(self, data):
        if self._in == "script" and self.scripts:
            self.scripts[-1] += data
        elif self._in != "script":
            self.text += data

    def handle_endtag(self, tag):
        self._in = ""


def hostile_report():
    failure = failed(HOSTILE, 1.0, message=HOSTILE, kind=HOSTILE)
    failure = replaced(failure, output=Output(stderr=HOSTILE))
    run = RunStarted(1.0, fresh=True, total=1, host=HOSTILE, pid=1)
    view = Ledger(b"", failures={HOSTILE: failure}, run=run)
    history = History(view, [RunHistory(run, failures=[failure])])
    dag = dagron.DAG([HOSTILE])
    return build_report(history, dag, directory=HOSTILE, version="0", generated_unix=2.0, how="interrupted")


class TestPage:
    def test_hostile_text_stays_text(self):
        page = render(hostile_report())
        page.encode()
        tags = Tags(page)
        assert "img" not in tags.seen
        assert r"</script><img src=x onerror=alert(1)>\u202e\u001b[31m\ud800&amp;{{ 7*7 }}" in tags.text
        assert "<img" not in page
        assert not re.search("[\x00-\x08\x1b\u202e\ud800]", tags.text)

    def test_the_data_is_what_was_given(self):
        page = render(hostile_report())
        (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
        assert json.loads(data)["nodes"]["name"] == [HOSTILE]

    def test_only_its_own_scripts_may_run_and_nothing_may_be_loaded(self):
        tags = Tags(render(hostile_report()))
        allowed = re.search(r"script-src ([^;]*)", tags.policy)[1].split()
        hashes = [hashlib.sha256(script.encode()).digest() for script in tags.scripts]
        assert [b64decode(source[len("'sha256-") : -1]) for source in allowed] == hashes
        assert "default-src 'none'" in tags.policy
        assert "sourceMappingURL" not in "".join(tags.scripts)

    def test_a_checkpoint_of_which_nothing_is_known_makes_a_page_too(self):
        history = History(Ledger(b""), [])
        report = build_report(history, None, directory="d", version="0", generated_unix=1.0, how="interrupted")
        assert "no run is recorded" in render(report)

    def test_what_draws_is_as_it_was_published(self):
        rows = re.findall(r"^\| `(\S+)` \|.*`(\w{64})` \|$", (VENDOR / "README.md").read_text(), re.MULTILINE)
        assert {name for name, _ in rows} == {path.name for path in VENDOR.glob("*.js")}
        for name, digest in rows:
            assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name

    def test_ten_thousand_nodes_make_a_page_of_a_megabyte(self):
        nodes = [Node(f"node[{i}]", NodeStatus.COMPLETED) for i in range(10_000)]
        _, group = group_nodes([node.name for node in nodes])
        report = Report("d", 1.0, "0", 10_000, nodes, [], [], group)
        assert isinstance(report.group, Group)
        assert len(render(report)) < 2**20


# --- the command ----------------------------------------------------------------------------------------------------


def command(*arguments, prelude="", cwd=None):
    code = f"{prelude}\nfrom dagron.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd)


class TestCommand:
    def test_it_writes_the_page_with_the_edges_that_are_recorded(self, tmp_path):
        executor(tmp_path / "ckpt").execute(diamond_tasks(broken=True))
        ended = command("report", "ckpt", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "no such column" in page
        assert "Critical path" in page
        assert "report.html" in ended.stderr

    def test_without_a_checkpoint_it_says_so_and_writes_nothing(self, tmp_path):
        ended = command("report", "nothing", cwd=tmp_path)
        assert ended.returncode == 3
        assert list(tmp_path.iterdir()) == []

    def test_nothing_of_it_is_imported_before(self):
        code = "import dagron, sys; dagron.CheckpointExecutor, dagron.DAG; import dagron.cli; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert "jinja2" not in loaded
        assert not [name for name in loaded if name.startswith("dagron.report")]
