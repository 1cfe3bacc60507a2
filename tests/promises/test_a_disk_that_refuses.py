"""A disk that is full, refuses, lies or is taken away: a clear error, nothing claimed that is not stored, and a way on.

A real kernel wherever that is possible: a small tmpfs, limits of the process, errors that strace puts in the place of
a call. Whatever happens, the run ends with an error of ours that names the directory and says what the system said.
`checkpoint_info()` then lists what a resume restores and nothing else, `on_complete` was called for nothing else, and
the resume repeats nothing of it.
"""

import errno
import itertools
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disk import stand_in
from places import SRC, SUPPORT

import dagron
from dagron import DAG, CheckpointExecutor, ExecutionCallbacks
from dagron.checkpoint.files.opened import TempFile
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.names import JOURNAL, LOCK, META
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.writing import store
from dagron.checkpoint.writing.committing import PendingCommit
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.figures import Figures

OURS = {JOURNAL, LOCK, META}
CAMPAIGN = pytest.mark.campaign
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the ways of Linux")


def is_temporary(name):
    return re.fullmatch(r"_dagron-[0-9a-f]{16}\.tmp", name) is not None


@pytest.fixture(autouse=True)
def nobody_is_shown_a_traceback(capfd):
    """An error of the disk is one line for its operator, also from the workers and their server."""
    yield
    assert "Traceback" not in capfd.readouterr().err


# --- the job -----------------------------------------------------------------------------------------------------

SMALL = [f"small{i}" for i in range(5)]
VALUES = {name: name.encode() * 2_000 for name in SMALL} | {"large": bytes(40_000), "reader": 40_000}


def build(note=lambda name: None):
    """Five small results of 12 kB, which ride in the journal; a large one, which goes by file; one that reads it."""

    def small(name):
        return lambda: note(name) or name.encode() * 2_000

    tasks = {name: small(name) for name in SMALL}
    tasks["large"] = lambda: note("large") or bytes(40_000)
    tasks["reader"] = lambda large: note("reader") or len(large)
    return DAG.builder().add_nodes(SMALL).add_edge("large", "reader").build(), tasks


class Job:
    """The job in one directory, and what became of it."""

    def __init__(self, directory, note=lambda name: None, **options):
        self.directory = Path(directory)
        self.dag, self.tasks = build(note)
        self.reported = []
        self._options = {"pool": "inline", "max_workers": 2, "retry_delay": 0.0, **options}

    def executor(self, **options):
        callbacks = ExecutionCallbacks(on_complete=lambda name, _: self.reported.append(name))
        return CheckpointExecutor(self.dag, self.directory, callbacks, **{**self._options, **options})

    def run(self, how="execute", tasks=None, **options):
        """Return the result, or the error if it is one of ours about the disk; let every other error through."""
        self.reported.clear()
        executor = self.executor(**options)
        try:
            if how in ("execute", "resume"):
                return getattr(executor, how)({**self.tasks, **(tasks or {})})
            return getattr(executor, how)()
        except (dagron.CommitError, dagron.CheckpointDirectoryError, dagron.ClearError) as error:
            ended = error
        assert str(self.directory) in str(ended)
        return ended

    def completed(self):
        info = self.executor().checkpoint_info()
        return [] if info is None else info.completed_nodes

    def check_way_on(self, log, what=""):
        """With the disk as it should be again, a resume restores what was committed, and that is what was claimed."""
        completed = self.completed()
        assert set(self.reported) <= set(completed), what
        before = log.counts()
        result = self.run("resume", pool="inline")
        assert {name: result[name].result for name in VALUES} == VALUES, what
        assert {name for name in VALUES if result[name].restored} == set(completed), what
        after = {name: log.count(name) - before.get(name, 0) for name in VALUES}
        assert after == {name: int(name not in completed) for name in VALUES}, what
        for name in VALUES:
            assert pickle.loads((self.directory / f"{name}.pkl").read_bytes()) == VALUES[name], what
        assert not list(filter(is_temporary, os.listdir(self.directory))), what


def note_in(directory):
    """As `RunLog.note`, for processes that have none."""

    def note(name):
        fd = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, b"%d\n" % os.getpid())
        os.close(fd)

    return note


def says(error, number):
    return isinstance(error, dagron.DagronError) and os.strerror(number) in str(error)


# --- a full disk -------------------------------------------------------------------------------------------------


class SmallDisk:
    """A tmpfs of 512 KiB in a mount namespace of its own, reached through the process that keeps the namespace."""

    def __init__(self, way_in, mount_point):
        command = [*way_in, "sh", "-c", 'echo there; while read -r line; do eval "$line"; echo $?; done']
        self._shell = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._mount_point = mount_point
        self.problem = ""
        if self._shell.stdout.readline() != "there\n" or not self.sh(
            f"mount -t tmpfs -o size=512k none '{mount_point}'"
        ):
            self.problem = "no tmpfs can be mounted here, neither directly nor in a user namespace"
        self.path = Path(f"/proc/{self._shell.pid}/root{mount_point}")
        self.ckpt = self.path / "ckpt"

    def sh(self, command):
        try:
            self._shell.stdin.write(command + "\n")
            self._shell.stdin.flush()
        except BrokenPipeError:
            return False
        return self._shell.stdout.readline() == "0\n"

    def leave(self, pages):
        """Leave so much free, by means of another file."""
        self.path.joinpath("filler").unlink(missing_ok=True)
        status = os.statvfs(self.path)
        with open(self.path / "filler", "wb") as file:
            file.write(bytes(max(0, status.f_bavail - pages) * status.f_bsize))

    def leave_entries(self, n):
        assert self.sh(
            f"mount -o remount,nr_inodes={os.statvfs(self.path).f_files - os.statvfs(self.path).f_ffree + n} "
            f"'{self._mount_point}'"
        )

    def read_only(self, yes):
        return self.sh(f"mount -o remount,{'ro' if yes else 'rw'} '{self._mount_point}'")

    def clean(self):
        for entry in os.scandir(self.path):
            shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)

    def close(self):
        self._shell.communicate()


@pytest.fixture
def disk(tmp_path):
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("needs the mount namespaces of Linux, and unshare of util-linux")
    (tmp_path / "disk").mkdir()
    for way_in in (["unshare", "-m"], ["unshare", "-Urm"]):
        made = SmallDisk(way_in, tmp_path / "disk")
        if not made.problem:
            break
        made.close()
    if made.problem:
        pytest.skip(made.problem)
    yield made
    made.close()


@pytest.mark.parametrize("how", ["execute", "resume"])
def test_whatever_space_is_left_a_full_disk_ends_the_run_and_costs_nothing_that_was_committed(disk, log, how):
    """Relies on the `except OSError` around the steps of `CheckpointStore`, and on commits that come before reports."""
    job = Job(disk.ckpt, log.note)
    n_completed = set()
    for pages in itertools.count():
        assert pages < 128
        disk.clean()
        earlier = []
        if how == "resume":
            job.run(tasks=dict.fromkeys(SMALL[2:], lambda: 1 / 0))
            earlier = job.completed()
        disk.leave(pages)
        ended = job.run(how)
        completed = job.completed()
        assert set(completed) >= set(earlier), pages
        (disk.path / "filler").unlink()
        job.check_way_on(log, pages)
        if isinstance(ended, dagron.ExecutionResult):
            assert ended.ok
            break
        assert says(ended, errno.ENOSPC), pages
        n_completed.add(len(completed))
    assert n_completed >= set(range(len(earlier), len(SMALL) + 1))


def test_a_disk_without_a_free_entry_is_a_full_disk(disk, log):
    """What makes files fails, and what writes to them does not. Relies on `open`, which says so of the lock, too."""
    job = Job(disk.ckpt, log.note)
    for n in itertools.count():
        assert n < 32
        disk.clean()
        disk.leave_entries(n)
        ended = job.run()
        disk.leave_entries(100)
        job.check_way_on(log, n)
        if isinstance(ended, dagron.ExecutionResult):
            break
        assert says(ended, errno.ENOSPC), n
    assert n > len(VALUES)


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_large_result_that_finds_no_space_ends_the_run_and_leaves_nothing(disk, log, durability):
    """Relies on `discard` in `dump_result`: the space of what was not finished is free at once."""
    job = Job(disk.ckpt, log.note, pool="process", durability=durability)
    disk.leave(40)
    ended = job.run(tasks={"large": lambda: log.note("large") or bytes(2_000_000)})
    assert says(ended, errno.ENOSPC)
    assert isinstance(ended, dagron.CommitError)
    assert not {"large", "reader"} & set(job.completed())
    assert not list(filter(is_temporary, os.listdir(disk.ckpt)))
    (disk.path / "filler").unlink()
    job.check_way_on(log)


def test_a_large_result_that_finds_no_space_is_named_by_its_node(disk):
    job = Job(disk.ckpt, pool="process")
    disk.leave(40)
    ended = job.run(tasks={"large": lambda: bytes(2_000_000)})
    assert "'large'" in str(ended)
    assert says(ended, errno.ENOSPC)


@pytest.mark.parametrize("durability", ["power", "process"])
def test_while_a_worker_still_holds_the_space_the_run_ends_with_its_name_and_leaves_nothing(disk, log, durability):
    """Relies on `interrupt`, which deletes what a worker has begun: here it is killed before it can do so itself."""
    job = Job(disk.ckpt, log.note, pool="process", durability=durability)
    disk.leave(40)
    gate = log.directory + "-full"

    def large():
        def discard(file):
            open(gate, "w").close()
            time.sleep(600)

        TempFile.discard = discard
        log.note("large")
        return bytes(2_000_000)

    def waits(name):
        def task():
            while name != "small0" and not os.path.exists(gate):
                time.sleep(0.005)  # in a task: until the disk is full
            log.note(name)
            return VALUES[name]

        return task

    ended = job.run(tasks={"large": large, **{name: waits(name) for name in SMALL}}, max_workers=3)
    assert isinstance(ended, dagron.CommitError)
    assert says(ended, errno.ENOSPC)
    assert "'large'" in str(ended)
    assert not {"large", "reader"} & set(job.completed())
    assert not list(filter(is_temporary, os.listdir(disk.ckpt)))
    (disk.path / "filler").unlink()
    job.check_way_on(log)


def test_the_command_line_says_it_in_one_line(disk, tmp_path):
    """Relies on `ending`, which takes every error of ours for what it is."""
    (tmp_path / "job.py").write_text("tasks = {f'n{i}': (lambda i=i: bytes([i]) * 12_000) for i in range(50)}")
    disk.leave(60)
    command = [sys.executable, "-m", "dagron", "run", "job.py", "-d", str(disk.ckpt)]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": SRC}, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 3
    assert "Traceback" not in ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("dagron: error:")]
    assert str(disk.ckpt) in line
    assert os.strerror(errno.ENOSPC) in line


# --- a disk that may only be read --------------------------------------------------------------------------------


def test_a_disk_that_may_only_be_read_is_refused_and_read(disk, log):
    """Relies on `check_directory`, which asks before anything runs, and on readers that need no lock."""
    job = Job(disk.ckpt, log.note)
    job.run(tasks={"large": lambda: 1 / 0})
    completed, ran = job.completed(), log.counts()
    assert set(completed) == set(SMALL)
    before = {path.name: path.read_bytes() for path in disk.ckpt.iterdir()}
    assert disk.read_only(True)
    for how in ("execute", "resume", "clear_checkpoint"):
        assert isinstance(job.run(how), dagron.CheckpointDirectoryError), how
        assert isinstance(Job(disk.path / "another").run(how), (dagron.CheckpointDirectoryError, type(None))), how
    assert job.completed() == completed
    assert {path.name: path.read_bytes() for path in disk.ckpt.iterdir()} == before
    assert log.counts() == ran
    assert disk.read_only(False)
    job.check_way_on(log)


# --- a limit of the process --------------------------------------------------------------------------------------


def limited(directory, ran, limit_bytes, pool, large_bytes):
    """Run the job where no file may become larger; the workers inherit the limit."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, most))
    try:
        return ended_job(directory, ran, pool, large_bytes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def limited_in_turn(all_arguments):
    return [limited(*arguments) for arguments in all_arguments]


def ended_job(directory, ran, pool, large_bytes):
    note = note_in(ran)
    job = Job(directory, note, pool=pool)
    try:
        ended = job.run(tasks={"large": lambda: note("large") or bytes(large_bytes)})
    except dagron.WorkerStartError as error:
        ended = error
    return {"error": type(ended).__name__, "text": str(ended), "reported": job.reported}


def in_a_process_of_its_own(function, *arguments):
    script = "import json, runpy, sys; f, *a = json.loads(sys.argv[2]); run = runpy.run_path(sys.argv[1])[f]"
    command = [sys.executable, "-c", f"{script}; print(json.dumps(run(*a)))", __file__]
    command.append(json.dumps([function, *arguments], default=str))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((SRC, SUPPORT))}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    return json.loads(ended.stdout)


@ON_LINUX
def test_a_limit_that_the_journal_meets_is_an_error_that_says_so(tmp_path, log):
    """Relies on CPython, which ignores SIGXFSZ, so that the write fails; and on `append`, which says so."""
    limits_bytes = (0, 300, 1_000, 20_000, 30_000, 50_000)
    all_arguments = [(tmp_path / f"ckpt-{limit}", log.directory, limit, "inline", 10) for limit in limits_bytes]
    for limit_bytes, ended in zip(limits_bytes, in_a_process_of_its_own("limited_in_turn", all_arguments), strict=True):
        assert ended["error"] == "CommitError", limit_bytes
        assert os.strerror(errno.EFBIG) in ended["text"], limit_bytes
        job = Job(tmp_path / f"ckpt-{limit_bytes}", log.note)
        job.reported = ended["reported"]
        assert limit_bytes < 30_000 or job.completed(), limit_bytes
        job.check_way_on(log, limit_bytes)


@ON_LINUX
@pytest.mark.parametrize("pool", ["process", "inline"])
def test_a_limit_that_a_large_result_meets_is_an_error_that_says_so(ckpt, log, pool):
    """Relies on `OutcomeKind.DISK`: it is not the task that failed."""
    ended = in_a_process_of_its_own("limited", ckpt, log.directory, 4_000_000, pool, 5_000_000)
    assert ended["error"] == "CommitError"
    assert os.strerror(errno.EFBIG) in ended["text"]
    assert not list(filter(is_temporary, os.listdir(ckpt)))
    job = Job(ckpt, log.note)
    job.reported = ended["reported"]
    job.check_way_on(log)


@ON_LINUX
def test_a_limit_that_no_worker_can_start_under_is_an_error_that_says_so(ckpt, log):
    ended = in_a_process_of_its_own("limited", ckpt, log.directory, 100_000, "process", 10)
    assert ended["error"] == "WorkerStartError"
    assert os.strerror(errno.EFBIG) in ended["text"]


# --- a disk that refuses a call ----------------------------------------------------------------------------------


def refused(directory, ran, how, durability):
    job = Job(directory, note_in(ran), durability=durability)
    ended = job.run(how)
    return {"error": type(ended).__name__, "text": str(ended), "reported": job.reported}


def old_checkpoint(directory):
    Job(directory).run()


def half_a_checkpoint(directory):
    Job(directory).run(tasks=dict.fromkeys([*SMALL[2:], "large"], lambda: 1 / 0))


@pytest.mark.parametrize("every_copy", [False, pytest.param(True, marks=CAMPAIGN)])
@pytest.mark.parametrize(
    ("start", "how", "n_least"),
    [(old_checkpoint, "execute", 35), (half_a_checkpoint, "resume", 25), (old_checkpoint, "clear_checkpoint", 10)],
)
def test_an_error_in_any_call_ends_the_run_for_good(tmp_path, traced, log, start, how, n_least, every_copy):
    """What was refused or not flushed once is in doubt, so nothing is added to the journal behind it.

    Relies on the errors of `fdatasync` and `fsync` being heard, on no second try of either, on nothing being taken for
    committed before, and on the removal of the temporary file by whoever could not finish it.
    """
    directory = tmp_path / "ckpt"
    start(tmp_path / "start")
    earlier = set(Job(tmp_path / "start").completed())

    def live(options):
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(tmp_path / "start", directory)
        arguments = {"directory": str(directory), "ran": log.directory, "how": how, "durability": "power"}
        return traced.run("refused", options, **arguments)

    calls = live([]).calls
    where = []
    for kind in sorted({call.name for call in calls if call.changes(directory)}):
        number = errno.ENOSPC if kind.startswith(("write", "pwrite", "mkdir")) else errno.EIO
        of_kind = [call for call in calls if call.name == kind]
        numbers = [n for n, call in enumerate(of_kind, 1) if call.changes(directory)]
        copies = [n for n in numbers if of_kind[n - 1].changes(directory).endswith(".pkl")]
        for n in numbers:
            if not every_copy and n in copies[1:-1]:
                continue  # they are alike
            ended = live(["-e", f"inject={kind}:error={errno.errorcode[number]}:when={n}"])
            what = f"{kind} no. {n}: {of_kind[n - 1].line}"
            assert ended.code == 0, what
            at, refusal = next((i, call) for i, call in enumerate(ended.calls) if call.line.endswith("(INJECTED)"))
            entry = refusal.changes(directory)
            where.append((kind, entry))
            if ended.result["error"] in ("CommitError", "CheckpointDirectoryError", "ClearError"):
                assert os.strerror(number) in ended.result["text"], what
            else:
                # There is another way: the directory is there already, and a file may be made anew.
                assert kind.startswith("mkdir" if entry == "." else ("open", "ftruncate")), what
                assert entry == "." or entry.endswith(".pkl"), what
                assert ended.result["error"] in ("ExecutionResult", "NoneType"), what
                assert "failed" not in ended.result["text"], what
            if is_temporary(entry) and kind in ("write", "fdatasync"):
                assert not list(filter(is_temporary, os.listdir(directory))), what
            if entry == JOURNAL:
                behind = [call.name for call in ended.calls[at + 1 :] if call.changes(directory) == JOURNAL]
                # What says that the checkpoint is cleared is cut off again.
                may_follow = {"unlink"} if how != "clear_checkpoint" else {"unlink", "openat", "ftruncate", "fdatasync"}
                assert set(behind) <= may_follow, what
            job = Job(directory, log.note)
            job.reported = ended.result["reported"]
            assert how != "resume" or set(job.completed()) >= earlier, what
            job.check_way_on(log, what)
    assert len(where) >= n_least
    assert {("write", JOURNAL), ("fdatasync", JOURNAL)} <= set(where)
    assert how == "clear_checkpoint" or ("fsync", ".") in where


def test_a_journal_that_cannot_be_read_is_an_error_of_ours(tmp_path, traced, log):
    half_a_checkpoint(tmp_path / "start")
    for how in ("resume", "checkpoint_info", "clear_checkpoint"):
        shutil.copytree(tmp_path / "start", tmp_path / how)
        arguments = {"directory": str(tmp_path / how), "ran": log.directory, "how": how, "durability": "process"}
        n = 0
        for n in itertools.count(1):
            ended = traced.run("refused", ["-e", f"inject=pread64:error=EIO:when={n}"], **arguments)
            assert ended.code == 0, f"{how}: an error that is none of ours"
            if ended.result["error"] != "CheckpointDirectoryError":
                break
            assert os.strerror(errno.EIO) in ended.result["text"], how
            assert JOURNAL in ended.result["text"], how
        assert n >= 3, how


def test_a_journal_that_cannot_be_closed_is_an_error_of_ours(ckpt, traced, log):
    """On a file system of another machine, this is where what could not be written comes to light."""

    def live(options):
        shutil.rmtree(ckpt, ignore_errors=True)
        arguments = {"directory": str(ckpt), "ran": log.directory, "how": "execute", "durability": "process"}
        return traced.run("refused", ["-e", "trace=close", *options], **arguments)

    for _ in range(10):  # a slow run writes the metadata once more, which is a call more
        n = max(n for n, call in enumerate(live([]).calls, 1) if f"{JOURNAL}>" in call.line)
        ended = live(["-e", f"inject=close:error=EDQUOT:when={n}"])
        if len(ended.calls) >= n and f"{JOURNAL}>" in ended.calls[n - 1].line:
            break
    else:
        pytest.fail("the close of the journal was never met")
    assert ended.code == 0, "an error that is none of ours"
    assert ended.result["error"] == "CommitError"
    assert os.strerror(errno.EDQUOT) in ended.result["text"]


def test_an_error_in_any_call_that_makes_a_large_result_ends_the_run(ckpt, strace, tmp_path, log):
    """The worker has strace make its own n-th call fail. Relies on `OutcomeKind.DISK` and on `discard`."""

    def run(options, name):
        job = Job(tmp_path / name, log.note, pool="process", durability="power")
        trace = f"{tmp_path}/strace-{name}"

        def large():
            log.note("large")
            strace(options, trace)
            return [bytes(30_000), bytes(30_001)]

        return job, job.run(tasks={"large": large}), Path(trace).read_text().splitlines()

    # Not `close`: its line is the last of the log, and the tracer goes with its worker, perhaps before it is written.
    errors = {"openat": "ENOSPC", "write": "EIO", "fdatasync": "EIO"}
    _, _, lines = run(["-e", f"trace={','.join(errors)}"], "undisturbed")
    for kind, error in errors.items():
        of_kind = [line for line in lines if line.startswith(f"{kind}(")]
        refused = [n for n, line in enumerate(of_kind, 1) if "/_dagron-" in line]
        assert refused, kind
        for n in refused:
            options = ["-e", f"trace={kind}", "-e", f"inject={kind}:error={error}:when={n}"]
            job, ended, calls = run(options, f"refused-{kind}-{n}")
            assert "/_dagron-" in calls[n - 1]
            assert calls[n - 1].endswith("(INJECTED)")
            assert isinstance(ended, dagron.CommitError), calls[n - 1]
            assert os.strerror(getattr(errno, error)) in str(ended), calls[n - 1]
            assert not list(filter(is_temporary, os.listdir(job.directory))), calls[n - 1]
            job.check_way_on(log, calls[n - 1])


class Reluctant:
    """Its pickling opens a file that is not there."""

    def __reduce__(self):
        return open, (open("/no/such/file").name,)


@pytest.mark.parametrize("pool", ["process", "inline"])
def test_an_error_of_the_system_in_the_pickling_of_a_result_is_one_of_its_node(ckpt, log, pool):
    job = Job(ckpt, log.note, pool=pool)
    ended = job.run(tasks={"large": lambda kind=Reluctant: [bytes(40_000), kind()]})
    assert isinstance(ended, dagron.ExecutionResult), ended
    assert isinstance(ended["large"].error, dagron.ResultNotPicklableError)
    assert "/no/such/file" in str(ended["large"].error)
    assert set(job.completed()) == set(SMALL)


# --- a disk that lies --------------------------------------------------------------------------------------------


class ForgetfulDisk:
    """Stands in for `os` in `files`: a kernel that, after a flush that failed, takes for clean what it could not write.

    What was written can be read all the same, and later flushes succeed without it (LWN 752063). The entries of the
    directory are taken to be durable at once; here it is the bytes that matter.

    Attributes:
        fails_at: Which `fdatasync` fails, counted from 0.
        dies_at: At which one the process dies.
        n_flushes: How many there were.
        behind: How much was written to the journal after the failure.
    """

    def __init__(self, fails_at=None):
        self.fails_at, self.dies_at = fails_at, None
        self.n_flushes = 0
        self.behind = []
        self.has_failed = False
        self._disk = {}
        self._dirty = {}

    def __getattr__(self, name):
        return getattr(os, name)

    def _wrote(self, fd, n, offset):
        inode = os.fstat(fd).st_ino
        self._dirty.setdefault(inode, []).append((offset, n))
        if self.has_failed and os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) == JOURNAL:
            self.behind.append(n)
        return n

    def write(self, fd, data):
        offset = os.lseek(fd, 0, os.SEEK_CUR)
        return self._wrote(fd, os.write(fd, data), offset)

    def pwrite(self, fd, data, offset):
        return self._wrote(fd, os.pwrite(fd, data, offset), offset)

    def ftruncate(self, fd, size):
        os.ftruncate(fd, size)
        inode = os.fstat(fd).st_ino
        self._disk[inode] = self._disk.get(inode, b"")[:size]

    def fdatasync(self, fd):
        n = self.n_flushes
        self.n_flushes += 1
        if n == self.dies_at:
            raise Killed
        inode = os.fstat(fd).st_ino
        dirty = self._dirty.pop(inode, [])
        if n == self.fails_at:
            self.has_failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        found = bytearray(self._disk.get(inode, b""))
        with open(f"/proc/self/fd/{fd}", "rb") as written:  # the descriptor itself may be for writing only
            for offset, size in dirty:
                found.extend(bytes(max(0, offset + size - len(found))))
                written.seek(offset)
                found[offset : offset + size] = written.read(size)
        self._disk[inode] = bytes(found)

    def fsync(self, fd):
        pass

    def lose_power(self, directory):
        """Leave in the directory what is on the disk."""
        for entry in list(os.scandir(directory)):
            os.truncate(entry.path, 0)
            with open(entry.path, "r+b") as file:
                file.write(self._disk.get(entry.inode(), b""))


class RefusingDisk:
    """Stands in for `os` in `files`: refuses some of the calls, by their numbers, and carries out the others.

    Attributes:
        calls: The names of those that it was asked for, in order.
    """

    KINDS = frozenset({"open", "write", "ftruncate", "fdatasync", "fsync", "replace", "unlink", "close"})

    def __init__(self, *refused):
        self.calls = []
        self._refused = refused

    def __getattr__(self, name):
        real = getattr(os, name)

        def call(*arguments, **options):
            self.calls.append(name)
            if len(self.calls) - 1 not in self._refused:
                return real(*arguments, **options)
            if name == "close":
                real(*arguments)  # the descriptor is gone whatever it says
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        return call if name in self.KINDS else real


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_clearing_that_is_refused_says_what_it_has_left(tmp_path, monkeypatch, log, durability):
    """One call is refused, or that and one of those behind it, with which the clearing is taken back or told of.

    Relies on `_take_back`, and on `_what_is_left`, which asks the journal.
    """
    old_checkpoint(tmp_path / "start")
    job = Job(tmp_path / "ckpt", log.note, durability=durability)
    said = set()

    def cleared(*refused):
        shutil.rmtree(job.directory, ignore_errors=True)
        shutil.copytree(tmp_path / "start", job.directory)
        disk = RefusingDisk(*refused)
        with monkeypatch.context() as patched:
            stand_in(patched, disk)
            ended = job.run("clear_checkpoint")
        what = [f"{n}: {name}" for n, name in enumerate(disk.calls) if n in refused]
        completed, text = set(job.completed()), str(ended)
        if ended is None:
            assert completed == set(), what
            return ended, disk.calls
        assert says(ended, errno.EIO), what
        if isinstance(ended, dagron.ClearError) and "cannot be read" not in text:
            assert ("counts as cleared" in text) == (not completed), what
            assert ("resume() goes on from it" in text) == (completed == set(VALUES)), what
            said.add((disk.calls[refused[0]], "counts as cleared" in text))
        else:
            assert isinstance(ended, dagron.CheckpointDirectoryError) or len(refused) == 2, what
            assert completed in (set(), set(VALUES)), what
        job.check_way_on(log, what)
        assert job.run("clear_checkpoint") is None, what
        assert os.listdir(job.directory) == [], what
        return ended, disk.calls

    for first in itertools.count():
        ended, calls = cleared(first)
        if len(calls) <= first:
            break
        if isinstance(ended, dagron.ClearError) and "resume()" in str(ended):
            for second in range(first + 1, len(calls)):
                cleared(first, second)
    assert first > 10
    assert {("write", False), ("unlink", True)} <= said
    assert (("fdatasync", False) in said) == (durability == "power")


def test_a_clearing_whose_flush_fails_is_taken_back_for_good_or_says_that_it_is_not(ckpt, monkeypatch):
    old_checkpoint(ckpt)
    job = Job(ckpt, durability="power")
    whole = (ckpt / JOURNAL).read_bytes()

    def cleared(*refused):
        disk = RefusingDisk(*refused)
        with monkeypatch.context() as patched:
            stand_in(patched, disk)
            ended = job.run("clear_checkpoint")
        assert isinstance(ended, dagron.ClearError)
        assert (ckpt / JOURNAL).read_bytes() == whole
        assert set(job.completed()) == set(VALUES)
        return str(ended), disk.calls

    probe = RefusingDisk()
    shutil.copytree(ckpt, ckpt.with_name("copy"))
    with monkeypatch.context() as patched:
        stand_in(patched, probe)
        Job(ckpt.with_name("copy"), durability="power").run("clear_checkpoint")
    flush = probe.calls.index("fdatasync")
    text, calls = cleared(flush)
    assert "loss of power" not in text
    again = calls.index("fdatasync", flush + 1)
    assert "ftruncate" in calls[flush:again]
    text, _ = cleared(flush, again)
    assert "loss of power" in text


@pytest.mark.parametrize("name", ["large.pkl", META])
def test_what_stands_in_the_way_of_a_file_is_named_by_the_name_to_be(ckpt, log, name):
    """Not by the temporary one, which nobody finds any more."""
    old_checkpoint(ckpt)
    (ckpt / name).unlink()
    (ckpt / name).mkdir()
    ended = Job(ckpt, log.note).run("resume")
    assert isinstance(ended, dagron.CommitError)
    assert f"{name}: {os.strerror(errno.EISDIR)}" in str(ended)
    (ckpt / name).rmdir()
    Job(ckpt, log.note).check_way_on(log)


def test_a_refused_lock_of_the_directory_leaves_none_behind(ckpt, monkeypatch, log):
    """Also while somebody keeps the error, and with it all that its traceback holds."""
    old_checkpoint(ckpt)
    job = Job(ckpt, log.note)
    refused = 0
    for n in itertools.count():
        disk = RefusingDisk(n)
        with monkeypatch.context() as patched:
            stand_in(patched, disk)
            ended = job.run("resume")
        if len(disk.calls) <= n:
            break
        refused += isinstance(ended, dagron.DagronError)
        job.reported.clear()
        job.check_way_on(log, f"{n}: {disk.calls[n]}")
    assert refused > 5


class Killed(BaseException):
    """Stands in for SIGKILL, in a process that goes on."""


def opened(directory, nodes, *, fresh=False):
    made = CheckpointStore(directory, durability="power")
    made.open()
    try:
        made.begin(fresh=fresh, nodes=nodes, structure=bytes(16))
    except BaseException:
        made.close()
        raise
    return made


def restored_by_a_run_that_is_killed(directory, nodes):
    made = opened(directory, nodes)
    made.close()
    return set(made.ledger.commits) - set(made.ledger.lost)


def small(name, value):
    data = pickle.dumps(value, 5)
    digest = Digests().of(data)
    commit = Commit(name, Storage.INLINE, 0, 1, len(data), digest, bytes(16), Figures(1.0, 0.5, 0.25, 0.0, 4096))
    return PendingCommit(commit, data, "")


def test_after_a_flush_that_failed_a_run_flushes_and_records_nothing_more(tmp_path, monkeypatch, log):
    """No later flush may seem to speak for what the failed one was for. Relies on `CommitError`, which ends the run."""
    for n in itertools.count():
        lying = ForgetfulDisk(fails_at=n)
        job = Job(tmp_path / f"ckpt-{n}", log.note, durability="power")
        with monkeypatch.context() as patched:
            stand_in(patched, lying)
            ended = job.run()
        if not lying.has_failed:
            break
        assert says(ended, errno.EIO)
        assert lying.n_flushes == n + 1
        assert lying.behind == []
        job.check_way_on(log, n)
    assert n > len(VALUES)


def test_a_run_that_a_flush_ended_says_nothing_about_files(ckpt, monkeypatch):
    """Else the file of an older result of the same size is taken for that of the record that was not flushed."""
    for value in (1, 2):  # their pickles have one size
        lying = ForgetfulDisk()
        with monkeypatch.context() as patched:
            stand_in(patched, lying)
            made = opened(ckpt, ["a", "b"], fresh=True)
            made.commit([small("a", value)])
            if value == 1:
                made.commit([small("b", value)])
                made.end()
            else:
                lying.fails_at = lying.n_flushes
                with pytest.raises(dagron.CommitError):
                    made.commit([small("b", value)])
                made.interrupt()  # as every run does that ends so
            made.close()
    assert lying.behind == []
    made = opened(ckpt, ["a", "b"])
    made.end()
    found = {name: pickle.loads(made.load(name)) for name in made.ledger.commits}
    made.close()
    assert {name: pickle.loads((ckpt / f"{name}.pkl").read_bytes()) for name in found} == found


def test_a_copy_that_is_refused_when_a_run_is_cut_short_is_told_and_written_by_the_next_run(ckpt, caplog):
    made = opened(ckpt, ["a", "b", "c"], fresh=True)
    made.commit([small("a", 1), small("b", 2)])
    (ckpt / "a.pkl" / "in the way").mkdir(parents=True)
    made.interrupt()
    made.close()
    assert [str(ckpt / "a.pkl") in record.getMessage() for record in caplog.records] == [True]
    shutil.rmtree(ckpt / "a.pkl")
    made = opened(ckpt, ["a", "b", "c"])
    assert [*made.ledger.commits] == ["a", "b"]
    made.interrupt()
    made.close()
    assert [pickle.loads((ckpt / f"{name}.pkl").read_bytes()) for name in "ab"] == [1, 2]


def test_what_a_resume_restores_after_a_flush_that_failed_survives_a_loss_of_power(tmp_path, monkeypatch, log):
    """The resume said so, and what was made from it may be recorded behind it."""
    for n in itertools.count():
        lying = ForgetfulDisk(fails_at=n)
        job = Job(tmp_path / f"ckpt-{n}", log.note, durability="power")
        with monkeypatch.context() as patched:
            stand_in(patched, lying)
            job.run()
            if not lying.has_failed:
                break
            restored = restored_by_a_run_that_is_killed(job.directory, job.dag.nodes)
        lying.lose_power(job.directory)
        with monkeypatch.context() as patched:
            patched.setattr(store, "boot_id", lambda: "after the loss of power")
            found = restored_by_a_run_that_is_killed(job.directory, job.dag.nodes)
        assert found >= restored, n
    assert n > len(VALUES)


def test_what_a_resume_restores_although_the_one_before_could_not_flush_survives_a_loss_of_power(ckpt, monkeypatch):
    """Killed between a record and its flush; then a resume whose first flush fails; then one whose flushes succeed."""
    nodes = ["a", "b"]
    lying = ForgetfulDisk()
    with monkeypatch.context() as patched:
        stand_in(patched, lying)
        made = opened(ckpt, nodes, fresh=True)
        made.commit([small("a", 1)])
        lying.dies_at = lying.n_flushes
        with pytest.raises(Killed):
            made.commit([small("b", 2)])
        made.close()
        lying.fails_at = lying.n_flushes
        with pytest.raises(dagron.CommitError):
            opened(ckpt, nodes)
        restored = restored_by_a_run_that_is_killed(ckpt, nodes)
    assert restored >= {"a"}
    lying.lose_power(ckpt)
    monkeypatch.setattr(store, "boot_id", lambda: "after the loss of power")
    assert restored_by_a_run_that_is_killed(ckpt, nodes) >= restored


# --- a directory that goes away ----------------------------------------------------------------------------------


def remove(directory):
    shutil.rmtree(directory)


def move(directory):
    directory.rename(directory.with_name("elsewhere"))


def empty(directory):
    """As `rm -rf ckpt/*` does, or whoever cleans up."""
    for entry in directory.iterdir():
        entry.unlink()


def exchange(directory):
    move(directory)
    directory.mkdir()


def remove_journal(directory):
    (directory / JOURNAL).unlink()


WAYS_TO_TAKE_AWAY = {
    remove: "the directory was deleted or moved away",
    move: "the directory was deleted or moved away",
    empty: "_journal was removed or replaced",
    exchange: "another directory has taken the place",
    remove_journal: "_journal was removed or replaced",
}
"""With what the error says."""


@pytest.mark.parametrize(
    ("take_away", "pool", "callbacks"),
    [
        # In processes, with callbacks for every second of them.
        pytest.param(
            take_away, pool, callbacks, marks=() if pool == "inline" or callbacks == (i % 2 == 0) else CAMPAIGN
        )
        for i, take_away in enumerate(WAYS_TO_TAKE_AWAY)
        for pool, callbacks in (("process", True), ("process", False), ("inline", False))
    ],
)
def test_a_run_whose_directory_is_taken_away_does_not_go_on_as_if_it_were_there(ckpt, log, take_away, pool, callbacks):
    """What the file system still takes, under no name or another one, is no checkpoint in this directory.

    Relies on the files that a run makes: the result's, its copy's, `_meta.json` at the latest.
    """
    dag = DAG.builder().add_edges(itertools.pairwise(["first", "thief", "large", "last"])).build()

    def thief(first):
        log.note("thief")
        if log.count("thief") == 1:
            take_away(ckpt)

    tasks = {
        "first": lambda: log.note("first"),
        "thief": thief,
        "large": lambda thief: log.note("large") or bytes(40_000),
        "last": lambda large: log.note("last") or len(large),
    }
    reported = []
    callback = ExecutionCallbacks(on_complete=lambda name, _: reported.append(name)) if callbacks else None
    executor = CheckpointExecutor(dag, ckpt, callback, pool=pool, max_workers=2)
    with pytest.raises(dagron.CheckpointGoneError) as caught:
        executor.execute(tasks)
    assert f"{str(ckpt)!r}: {WAYS_TO_TAKE_AWAY[take_away]}" in str(caught.value)
    assert "intact" not in str(caught.value)
    assert set(reported) <= {"first"}
    assert log.count("last") == 0, "a parent that was not recorded"
    # Put back, or given up for lost, it goes on.
    elsewhere = ckpt.with_name("elsewhere")
    if elsewhere.exists():
        if ckpt.exists():
            shutil.rmtree(ckpt)
        elsewhere.rename(ckpt)
    elif ckpt.exists():
        shutil.rmtree(ckpt)
    info = executor.checkpoint_info()
    completed = [] if info is None else info.completed_nodes
    before = log.counts()
    result = CheckpointExecutor(dag, ckpt, pool="inline").resume(tasks)
    assert result["last"].result == 40_000
    assert {name: log.count(name) - before.get(name, 0) for name in tasks} == {
        name: int(name not in completed) for name in tasks
    }


@pytest.mark.parametrize("pool", ["process", "inline"])
@pytest.mark.parametrize("take_away", [remove, exchange])
def test_a_directory_that_is_taken_away_is_told_as_that_also_by_a_result_that_finds_no_place(ckpt, take_away, pool):
    """There the first that is refused is the file of the result, in the worker."""

    def thief():
        take_away(ckpt)
        return bytes(40_000)

    executor = CheckpointExecutor(DAG(["thief"]), ckpt, pool=pool, max_workers=1)
    with pytest.raises(dagron.CheckpointGoneError, match=WAYS_TO_TAKE_AWAY[take_away]) as caught:
        executor.execute({"thief": thief})
    assert "intact" not in str(caught.value)
