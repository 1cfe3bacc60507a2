"""Every system call is a crash point: the kernel kills the coordinator at each one, and a resume makes it right.

Real processes, killed by strace. An undisturbed run tells which calls concern the directory and may change it. Then,
for each kind of call and each N, a run of its own dies on entering the N-th call of that kind, before it has any
effect; so every state of the directory between two changes is met. What is left has to be a prefix of the commits; a
resume has to give the right results, to repeat nothing that was committed, and to leave other people's files alone and
nothing of ours behind. (Half a write is a matter of `test_store`, where the calls are those of a stand-in.)

A scenario has 15 to 50 points, and all of them are met: with a process that is ready and waiting, a point costs some
50 ms. With workers it costs 250 ms; there, one point of each kind is met, and all of them with `-m campaign`.
"""

import itertools
import json
import os
import pickle
import re
import shutil
import signal
import sys
import threading
from contextlib import contextmanager
from typing import ClassVar, NamedTuple

import pytest
from tracing import allow_tracing, attach_strace

import dagron
from dagron import DAG, CheckpointExecutor, NodeStatus
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.names import JOURNAL, LOCK, META
from dagron.checkpoint.reading.opening import read_ledger

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="strace is a program of Linux")

OURS = {JOURNAL, LOCK, META}
STRAY = "_dagron-0123456789abcdef.tmp"


def is_temporary(name):
    return re.fullmatch(r"_dagron-[0-9a-f]{16}\.tmp", name) is not None


# --- the job -----------------------------------------------------------------------------------------------------
# Its results are of the same size in both generations, so that an old file cannot be told from a new one by its size.


def build(ran, generation):
    """A small result and its child, whose name is escaped, a large one that goes by file and its reader, a failure."""
    builder = DAG.builder().add_edge("small", "a/b").add_edge("large", "reader")
    builder.add_edge("broken", "below")

    def noted(name, value):
        fd = os.open(os.path.join(ran, name.replace("/", "|")), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, b".")
        os.close(fd)
        return value

    def broken():
        noted("broken", None)
        raise ValueError("it always fails")

    tasks = {
        "small": lambda: noted("small", generation),
        "a/b": lambda small: noted("a/b", [small, "a/b"]),
        "large": lambda: noted("large", bytes([generation]) * 40_000),
        "reader": lambda large: noted("reader", (len(large), large[0])),
        "broken": broken,
        "below": lambda broken: noted("below", None),
    }
    if generation == 1:
        builder.add_nodes(["gone", "gone too"])
        tasks |= {"gone": lambda: noted("gone", bytes(40_000)), "gone too": lambda: noted("gone too", "gone")}
    return builder.build(), tasks


def expected(generation):
    values = {"small": generation, "a/b": [generation, "a/b"]}
    return values | {"large": bytes([generation]) * 40_000, "reader": (40_000, generation)}


FILES = {name: name.replace("/", "%2f") + ".pkl" for name in expected(2)}


def run(directory, ran, how, generation=2, **options):
    dag, tasks = build(ran, generation)
    executor = CheckpointExecutor(dag, directory, **{"pool": "inline", "durability": "process", **options})
    if how == "clear_checkpoint":
        return executor.clear_checkpoint()
    result = getattr(executor, how)(tasks)
    return {name: result[name].result for name in expected(2)} if __name__ != "traced_functions" else None


# --- where it starts ---------------------------------------------------------------------------------------------


def put_other_peoples_files(directory):
    (directory / "theirs.txt").write_text("theirs")
    (directory / "theirs.pkl").write_bytes(b"no pickle")
    (directory / "_dagron-notes.txt").write_text("theirs, too")
    (directory / "a").mkdir()
    (directory / "a" / STRAY).write_text("theirs, too")
    (directory / "large.pkl.link").symlink_to("theirs.txt")


def other_peoples_files(directory):
    found = {}
    for path in sorted(directory.rglob("*")) if directory.exists() else ():
        name = str(path.relative_to(directory))
        if name not in {*OURS, *FILES.values(), "gone.pkl", "gone too.pkl"} and not is_temporary(name):
            content = os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
            found[name] = content, path.lstat().st_mode
    return found


def nothing(directory, ran, traced):
    """No directory; its parents are missing, too."""


def old_checkpoint(directory, ran, traced):
    run(directory, ran, "execute", 1)
    put_other_peoples_files(directory)
    (directory / STRAY).write_bytes(b"left by a run of long ago")


def whole_checkpoint(directory, ran, traced):
    run(directory, ran, "execute", 2)
    put_other_peoples_files(directory)
    (directory / STRAY).write_bytes(b"left by a run of long ago")


def killed(directory, ran, traced, kind, about):
    """Execute, and die on entering the first call of this kind that is about this file."""
    start = directory.with_name("start")
    if directory.exists():
        shutil.copytree(directory, start, symlinks=True)
    arguments = {"directory": str(directory), "ran": str(ran), "how": "execute"}
    for _ in range(10):  # a slow run writes the metadata once more, which is a call more
        calls = traced.run("run", [], **arguments).calls
        named = next(call for call in calls if re.match(kind, call.name) and about in call.line)
        n = [call for call in calls if call.name == named.name].index(named) + 1
        shutil.rmtree(directory)
        if start.exists():
            shutil.copytree(start, directory, symlinks=True)
        ended = traced.run("run", ["-e", f"inject={named.name}:signal=SIGKILL:when={n}"], **arguments)
        assert ended.code == -signal.SIGKILL
        if about in ended.calls[-1].line:
            break
        shutil.rmtree(directory)
        if start.exists():
            shutil.copytree(start, directory, symlinks=True)
    else:
        pytest.fail(f"the {kind} of {about} was never met")
    if start.exists():
        shutil.rmtree(start)


def half_a_checkpoint(directory, ran, traced):
    """A large result that is recorded and has its temporary name still, and a torn tail."""
    killed(directory, ran, traced, "rename", "large.pkl")
    assert "large" in read_ledger(Directory(directory)).commits
    assert not (directory / "large.pkl").exists()
    journal = (directory / JOURNAL).read_bytes()
    (directory / JOURNAL).write_bytes(journal + journal[-400:-1])  # records that are not valid here
    put_other_peoples_files(directory)
    (directory / STRAY).write_bytes(b"left by a run of long ago")


def half_over_an_old_one(directory, ran, traced):
    """A small result that is recorded, and in the place of its file that of an older one, which has the same size."""
    old_checkpoint(directory, ran, traced)
    killed(directory, ran, traced, "ftruncate", FILES["a/b"])
    assert "a/b" in read_ledger(Directory(directory)).commits
    assert pickle.loads((directory / FILES["a/b"]).read_bytes()) == expected(1)["a/b"]


# --- dying -------------------------------------------------------------------------------------------------------


class Death(NamedTuple):
    """A process that was killed: the kind of its last call, the kind of file that it was about, and which it was."""

    kind: str
    about: str
    n: int

    def __str__(self):
        return f"killed on entering {self.kind} no. {self.n}, on {self.about}"


class Scenario:
    """A way to use a directory, killed at every call that may change it. Each death starts from the same directory."""

    _compiled: ClassVar = set()

    def __init__(self, tmp_path, traced, start, how, **options):
        self.directory = tmp_path / "some" / "where" / "ckpt"
        self.ran = tmp_path / "ran"
        self.how = how
        self._traced = traced
        self._options = options
        self._start = tmp_path / "start"
        self.ran.mkdir()
        start(self.directory, self.ran, traced)
        if self.directory.exists():
            self.directory.rename(self._start)
        self.others = other_peoples_files(self._start)
        self.old = read_ledger(Directory(self._start))
        kind = how, *sorted(options.items())
        if kind not in self._compiled:
            self._live([])  # it compiles modules that it loads, and so makes calls that no later one makes
            self._compiled.add(kind)
        ended = self._live([])
        assert ended.code == 0
        self.calls = ended.calls
        view = read_ledger(Directory(self.directory))
        self.order = [] if view is None else list(view.commits)

    def _live(self, options):
        shutil.rmtree(self.directory.parent.parent, ignore_errors=True)
        if self._start.exists():
            shutil.copytree(self._start, self.directory, symlinks=True)
        arguments = {"directory": str(self.directory), "ran": str(self.ran), "how": self.how, **self._options}
        return self._traced.run("run", options, **arguments)

    def about(self, call):
        """Which kind of file a call may change, here or on the way here; empty if none."""
        name = os.path.relpath(call.changes(self.directory.parent.parent) or "..", "where/ckpt")
        if name == "../../..":
            return ""
        if name in (".", "..", "../.."):
            return "the directory"
        return "a temporary file" if is_temporary(name) else "a result" if name.endswith(".pkl") else name

    def deaths(self):
        """Die again and again, at every call that there is; yield after each death."""
        for kind in sorted({call.name for call in self.calls if self.about(call)}):
            undisturbed = [self.about(call) for call in self.calls if call.name == kind]
            for n in itertools.count(1):
                if n <= len(undisturbed) and not undisturbed[n - 1]:
                    continue
                # Behind the last one, too: with workers the number varies.
                death = self._die(kind, n)
                if death is None:
                    break
                yield death

    def some_deaths(self):
        """Die at a call of each kind for each kind of file."""
        numbers = {}
        for kind in sorted({call.name for call in self.calls}):
            for n, call in enumerate((call for call in self.calls if call.name == kind), 1):
                if about := self.about(call):
                    numbers.setdefault((kind, about), []).append(n)
        for (kind, about), found in numbers.items():
            # With workers, the next run may make calls about something else in between.
            middle = len(found) // 2
            for n in [*found[middle:], *found[:middle]][:8]:
                death = self._die(kind, n)
                if death is not None:
                    yield death
                if death is None or death.about == about:
                    break

    def _die(self, kind, n):
        ended = self._live(["-e", f"trace={kind}", "-e", f"inject={kind}:signal=SIGKILL:when={n}"])
        if ended.code == 0:
            assert len(ended.calls) < n
            return None
        assert ended.code == -signal.SIGKILL
        assert ended.end == "+++ killed by SIGKILL +++"
        assert len(ended.calls) == n, "it was killed by something else"
        death = Death(kind, self.about(ended.calls[-1]) or "something elsewhere", n)
        assert other_peoples_files(self.directory) == self.others, death
        return death

    def n_ran(self):
        return {path.name.replace("|", "/"): path.stat().st_size for path in self.ran.iterdir()}

    def committed(self):
        """The generation of what is there, and what is committed, in order."""
        view = read_ledger(Directory(self.directory))
        if view is None or view.cleared:
            return 2, []
        is_old = self.old is not None and self.how == "execute" and view.checkpoint_id == self.old.checkpoint_id
        return (1 if is_old else 2), list(view.commits)

    def resume(self, death):
        """Resume what the dead left, and check everything."""
        generation, committed = self.committed()
        others, before = other_peoples_files(self.directory), self.n_ran()
        result = run(self.directory, self.ran, "resume")
        assert result == {name: expected(generation if name in committed else 2)[name] for name in expected(2)}, death
        after = self.n_ran()
        again = {name: after.get(name, 0) - before.get(name, 0) for name in (*result, "broken", "below")}
        assert again == {name: int(name not in committed) for name in result} | {"broken": 1, "below": 0}, death
        # For everyone who opens the files by hand.
        assert {name: pickle.loads((self.directory / file).read_bytes()) for name, file in FILES.items()} == result, (
            death
        )
        gone = {"gone.pkl", "gone too.pkl"} if generation == 1 else set()
        assert self.names() == OURS | set(FILES.values()) | gone | set(others), death
        assert other_peoples_files(self.directory) == others, death

    def clear(self, death):
        others = other_peoples_files(self.directory)
        run(self.directory, self.ran, "clear_checkpoint")
        assert self.names() - {LOCK} == set(others), death
        assert other_peoples_files(self.directory) == others, death

    def names(self):
        return {str(path.relative_to(self.directory)) for path in self.directory.rglob("*")}


# --- the coordinator ---------------------------------------------------------------------------------------------
# What these rely on, and fail without: in `CheckpointStore.commit`, that a result gets its name after its record; in
# `_recover`, the renames that a kill prevented, and that lagging files are written again; in `write_copies` and `end`,
# that files are spoken of after they were written; in `_begin_fresh`, that one step leads from the old checkpoint to
# the new, and that the new one knows the old one's files; in `begin`, the removal of dead runs' temporary files; in
# `AppendFile`, that a torn tail is cut off; in `clear`, the record that comes first and the order of the removals.

CHANGES = {("open", "a temporary file"), ("write", "a temporary file"), ("rename", "a temporary file")}
CHANGES |= {("write", JOURNAL), ("open", "a result"), ("write", "a result")}
FLUSHES = {("fdatasync", JOURNAL), ("fsync", "the directory")}


def check_coverage(deaths, n_least, expected, durability="process"):
    """Nothing is tested by a loop that finds nothing to kill."""
    assert len(deaths) >= n_least
    met = {(re.sub("at2?$", "", death.kind), death.about) for death in deaths}
    assert met >= (expected | FLUSHES if durability == "power" else expected)


REUSES = {("ftruncate", "a result"), ("unlink", "a result")}


SCENARIOS = {
    "execute-into-nothing": (nothing, "execute", 30, {("mkdir", "the directory")}),
    "execute-over-an-old-one": (old_checkpoint, "execute", 35, REUSES),
    "resume": (half_a_checkpoint, "resume", 25, {("ftruncate", JOURNAL)}),
    "resume-over-old-files": (half_over_an_old_one, "resume", 25, REUSES),
}


@pytest.mark.parametrize(
    ("start", "how", "n_least", "expected", "durability"),
    [
        # It does without the flushes what the others do without them, too.
        pytest.param(
            *scenario,
            durability,
            id=f"{name}-{durability}",
            marks=[pytest.mark.campaign] if (name, durability) == ("resume-over-old-files", "process") else [],
        )
        for name, scenario in SCENARIOS.items()
        for durability in ("power", "process")
    ],
)
def test_killed_at_any_system_call_a_run_is_resumed(tmp_path, traced, start, how, n_least, expected, durability):
    scenario = Scenario(tmp_path, traced, start, how, durability=durability)
    met = []
    for death in scenario.deaths():
        generation, committed = scenario.committed()
        if generation == 1:
            assert committed == list(scenario.old.commits), death
        else:
            assert committed == scenario.order[: len(committed)], death
            if how == "resume":
                assert len(committed) >= len(scenario.old.commits), death
        scenario.resume(death)
        scenario.clear(death)
        met.append(death)
    check_coverage(met, n_least, CHANGES | expected, durability)


@pytest.mark.parametrize("durability", ["power", "process"])
def test_killed_at_any_system_call_clearing_leaves_the_checkpoint_or_none(tmp_path, traced, durability):
    scenario = Scenario(tmp_path, traced, whole_checkpoint, "clear_checkpoint", durability=durability)
    copy = tmp_path / "copy"
    met = []
    for death in scenario.deaths():
        _, committed = scenario.committed()
        assert committed in ([], list(scenario.old.commits)), death
        shutil.copytree(scenario.directory, copy, symlinks=True)
        scenario.clear(death)
        shutil.rmtree(scenario.directory)
        copy.rename(scenario.directory)
        if not committed:
            (scenario.directory / "theirs.pkl").unlink()  # where there is no checkpoint it is refused
        scenario.resume(death)
        met.append(death)
    removed = {("unlink", name) for name in ("a result", "a temporary file", *OURS)}
    check_coverage(met, 12, removed | {("write", JOURNAL)})


@pytest.mark.parametrize(
    "n_least",
    [
        pytest.param(10, id="some"),
        pytest.param(25, id="every", marks=[pytest.mark.campaign, pytest.mark.timeout(600)]),
    ],
)
@pytest.mark.parametrize(
    ("start", "how"),
    [pytest.param(nothing, "execute", id="all"), pytest.param(half_a_checkpoint, "resume", id="half")],
)
def test_killed_at_any_system_call_it_takes_its_workers_along_and_is_resumed(tmp_path, traced, start, how, n_least):
    """The workers run on for a moment; what they did then was not committed. `Traced.run` sees that they end."""
    scenario = Scenario(tmp_path, traced, start, how, pool="process", max_workers=2, durability="power")
    parent = {"a/b": "small", "reader": "large"}
    met = []
    for death in scenario.deaths() if n_least > 10 else scenario.some_deaths():
        _, committed = scenario.committed()
        assert all(parent[name] in committed[: committed.index(name)] for name in parent if name in committed), death
        if how == "resume":
            assert committed[: len(scenario.old.commits)] == list(scenario.old.commits), death
        scenario.resume(death)
        met.append(death)
    check_coverage(met, n_least, {("write", JOURNAL), ("rename", "a temporary file")}, "power")


# --- a worker ----------------------------------------------------------------------------------------------------


def large_in_parts(n_parts=4):
    """Pickled, a part that is written on its own for each, and what stands between them."""
    return [bytes([i]) * 100_000 for i in range(n_parts)]


@contextmanager
def tracers(path):
    """Yield `trace(options, log)`, for a task: have strace attached to its worker. The logs are whole behind it.

    Attached from outside: a tracer that the worker had started would be killed with it, perhaps before it has written
    the call that was the last. They ask through pipes below `path`.
    """
    pipes = [f"{path}/ask", f"{path}/go"]
    for pipe in pipes:
        os.mkfifo(pipe)
    ask, go = (os.open(pipe, os.O_RDWR) for pipe in pipes)
    attached = []

    def trace(options, log):
        allow_tracing()
        ask, go = (os.open(pipe, os.O_RDWR) for pipe in pipes)
        os.write(ask, json.dumps([os.getpid(), options, log]).encode())
        assert os.read(go, 1) == b"1"

    def attach():
        while (request := os.read(ask, 65536)) != b"end":
            try:
                attached.append(attach_strace(*json.loads(request)))
            finally:
                os.write(go, b"1")

    thread = threading.Thread(target=attach)
    thread.start()
    try:
        yield trace
    finally:
        os.write(ask, b"end")
        thread.join()
        for tracer in attached:
            tracer.stderr.close()
            tracer.wait(timeout=30)
        os.close(ask)
        os.close(go)


@pytest.mark.parametrize("kind", ["openat", "write", "fdatasync"])
def test_a_worker_killed_at_any_call_that_makes_its_result_costs_an_attempt_and_publishes_nothing(
    strace, ckpt, tmp_path, log, kind
):
    """The kernel kills the N-th attempt at the N-th call. Relies on `TempFile`, which has its name when it is whole."""

    def make():
        log.note("attempt")
        n = log.count("attempt")
        trace(["-e", f"trace={kind}", "-e", f"inject={kind}:signal=SIGKILL:when={n}"], f"{tmp_path}/strace-{n}")
        return large_in_parts()

    left = []

    def on_retry(node, attempt, error):
        assert error.exit_code == -signal.SIGKILL
        left.append(sorted(os.listdir(ckpt)))

    dag = DAG.builder().add_node("made").build()
    callbacks = dagron.ExecutionCallbacks(on_retry=on_retry)
    executor = CheckpointExecutor(dag, ckpt, callbacks, max_workers=1, retries=50, retry_delay=0.0)
    with tracers(tmp_path) as trace:
        result = executor.execute({"made": make})
    assert result["made"].result == large_in_parts()
    assert log.count("attempt") == len(left) + 1
    assert set(os.listdir(ckpt)) == {"made.pkl", *OURS}
    assert all(set(filter(lambda name: not is_temporary(name), names)) == OURS for names in left)
    deadly = [(tmp_path / f"strace-{n}").read_text().splitlines()[-2] for n in range(1, len(left) + 1)]
    assert [line for line in deadly if f"{ckpt}/_dagron-" in line], "none of the deaths concerned the file"
    # The file of one that died is there, until the end of the run.
    assert len(left) < 2 or any(map(is_temporary, left[-1]))
    if kind == "write":
        assert len(left) >= 2 * len(large_in_parts())


class DiesWhenPickled:
    """Kills the process that pickles it."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("n_parts", [0, pytest.param(1, marks=pytest.mark.campaign), 20])
def test_a_worker_killed_in_the_midst_of_its_result_fails_its_node_and_leaves_nothing(ckpt, log, n_parts):
    """Relies on `worker_lost`, which makes the end of the run look for temporary files."""

    def make(dies=DiesWhenPickled):
        return [*large_in_parts(n_parts), dies()]

    dag = DAG.builder().add_node("plain").add_edge("made", "below").build()
    tasks = {"plain": lambda: log.note("plain") or large_in_parts(), "made": make, "below": lambda made: len(made)}
    executor = CheckpointExecutor(dag, ckpt, max_workers=2, durability="process")
    result = executor.execute(tasks)
    assert result["made"].status is NodeStatus.FAILED
    assert isinstance(result["made"].error, dagron.WorkerLostError)
    assert result["made"].error.exit_code == -signal.SIGKILL
    assert result["below"].status is NodeStatus.SKIPPED
    assert result["plain"].result == large_in_parts()
    assert set(os.listdir(ckpt)) == {"plain.pkl", *OURS}
    assert executor.checkpoint_info().completed_nodes == ["plain"]
    result = executor.resume({**tasks, "made": lambda: large_in_parts(n_parts)})
    assert result.ok
    assert result["below"].result == n_parts
    assert log.count("plain") == 1
