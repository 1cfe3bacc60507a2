"""The command line: the real command in a process of its own, on small files."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from places import SRC
from proposed import MANY_FAIL, PROPOSED

import dagron
from dagron import errors
from dagron.cli import main
from dagron.cli.exit_codes import MEANINGS, ExitCode, UsageError, exit_code_of
from dagron.cli.summary import resume_command
from dagron.cli.terminal import NOT_FOR_A_LINE
from dagron.looking.status import checkpoint_status
from dagron.script import FILE_MODULE

WAIT_SECONDS = 30

PRELUDE = """\
import os, sys, time
HERE = os.path.dirname(os.path.abspath(__file__))

def note(name):
    fd = os.open(os.path.join(HERE, "run-log", name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"%d\\n" % os.getpid())
    os.close(fd)

def wait_for(name):
    while not os.path.exists(os.path.join(HERE, name)):
        time.sleep(0.005)

"""

CHAIN = """
def first():
    note("first")
    return 20

def second(first):
    note("second")
    return first + 2

tasks = {"first": first, "second": second}
"""

GATED = """
def first():
    note("first")
    return 20

def second(first):
    note("second")
    wait_for("gate")
    return first + 2

tasks = {"first": first, "second": second}
"""

HANGS_WHILE_IT_STOPS = (
    GATED
    + """
from dagron.engines.local.context import Server

def stop(self):
    note("stops")
    wait_for("nothing")

Server.stop = stop
"""
)

FAILING = """
def good():
    note("good")
    return 1

def bad(good):
    note("bad")
    raise ValueError(f"no use for {good}\\nat all")

def after(bad):
    note("after")

tasks = {"good": good, "bad": bad, "after": after}
"""


class Cli:
    """Runs the command in a directory that holds the user's files."""

    def __init__(self, directory):
        self.directory = directory
        self.environment = {**os.environ, "PYTHONPATH": SRC, "PYTHONUNBUFFERED": ""}

    def write(self, text, name="job.py"):
        (self.directory / name).write_text(PRELUDE + text)
        return name

    def start(self, *arguments, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        environment = {**self.environment, **options.pop("env", {})}
        command = [sys.executable, "-m", "dagron", *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=self.directory, env=environment, preexec_fn=_signals_as_in_a_terminal, **options
        )

    def __call__(self, *arguments, expect, **options):
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=60)
        assert process.returncode == expect, f"exit code {process.returncode}\n{out}\n{err}"
        return Ended(out, err, process.pid)

    def status(self, directory="checkpoints/job"):
        return checkpoint_status(self.directory / directory)


class Ended:
    def __init__(self, out, err, pid):
        self.out, self.err, self.pid = out, err, pid


def _signals_as_in_a_terminal():
    # A test run in the background ignores SIGINT, one under nohup SIGHUP, and what it starts would inherit that.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def eventually(fact, process=None):
    """Wait until a fact holds; fail if it does not within half a minute, or if the process has ended without it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not fact():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


@pytest.fixture
def cli(tmp_path, log):
    return Cli(tmp_path)


@pytest.fixture
def here(cli, monkeypatch, capfd):
    """The command in this process, which is faster: for what depends on no process of its own."""
    monkeypatch.chdir(cli.directory)
    monkeypatch.setattr(sys, "path", sys.path[:])
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in numbers]

    def call(*arguments, expect):
        monkeypatch.setattr(sys, "argv", ["dagron", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        out, err = capfd.readouterr()
        assert exit.value.code == expect, f"exit code {exit.value.code}\n{out}\n{err}"
        return Ended(out, err, os.getpid())

    yield call
    for name, module in list(sys.modules.items()):
        if name == FILE_MODULE or (getattr(module, "__file__", None) or "").startswith(f"{cli.directory}{os.sep}"):
            del sys.modules[name]
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def gated(cli, log, tmp_path):
    """A run whose first node is committed, whose second one runs, and which the file `gate` lets go on."""
    cli.write(GATED)
    process = cli.start("run", "job.py")
    eventually(lambda: log.count("second"), process)
    yield process
    (tmp_path / "gate").touch()
    process.communicate(timeout=60)


# --- what a run gives ------------------------------------------------------------------------------------------------


def test_a_run_in_which_every_node_completes_ends_with_0_says_so_on_stderr_and_prints_nothing(cli, log):
    ended = cli("run", cli.write(CHAIN), expect=0)
    assert ended.out == ""
    assert "2 of 2 nodes completed" in ended.err
    assert os.path.join("checkpoints", "job") in ended.err
    assert log.counts() == {"first": 1, "second": 1}
    assert (cli.directory / "checkpoints" / "job" / "second.pkl").exists()


def test_show_prints_a_text_as_it_is_and_other_values_prettily_and_in_the_order_asked_for(cli, here):
    text = """
tasks = {
    "text": lambda: "two\\nlines\\n",
    "open": lambda: "no line break",
    "data": lambda: {"b": list(range(40)), "a": None},
}
"""
    ended = here("run", cli.write(text), "--inline", "--show", "text", "--show", "open", "--show", "data", expect=0)
    assert ended.out.startswith("two\nlines\nno line break\n{'a': None,\n 'b': [0,\n")


def test_nothing_but_the_shown_result_comes_to_stdout_whatever_the_file_and_its_tasks_print(cli):
    text = """
print("from the file")

def noisy():
    print("from the task")
    os.system("echo from a child of the task")
    sys.__stdout__.flush()
    return "the result"

tasks = {"noisy": noisy}
"""
    for inline in ([], ["--inline"]):
        ended = cli("run", cli.write(text), "--fresh", "--show", "noisy", *inline, expect=0)
        assert ended.out == "the result\n"
        for line in ("from the file", "from the task", "from a child of the task"):
            assert f"{line}\n" in ended.err


def test_show_of_a_node_that_has_no_result_says_why_and_prints_the_others(cli, here):
    ended = here("run", cli.write(FAILING), "--inline", "--show", "after", "--show", "good", expect=1)
    assert ended.out == "1\n"
    assert "'after' has no result to show: it is skipped" in ended.err


def test_a_shown_result_that_stdout_does_not_take_is_an_error_and_a_reader_that_left_is_none(cli):
    job = cli.write("tasks = {'a': lambda: 'x' * 1_000_000}")
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            ended = cli("run", job, "--show", "a", stdout=full, expect=4)
        assert "cannot write to standard output" in ended.err
        assert "Traceback" not in ended.err
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        ended = cli("run", job, "--resume", "--show", "a", stdout=theirs, expect=0)
    finally:
        os.close(theirs)
    assert "Broken pipe" not in ended.err
    assert "Traceback" not in ended.err


def test_a_module_is_run_by_its_name_from_the_working_directory(cli, here):
    (cli.directory / "jobs").mkdir()
    (cli.directory / "jobs" / "__init__.py").touch()
    cli.write("tasks = {'a': lambda: __name__}", "jobs/nightly.py")
    ended = here("run", "jobs.nightly", "--inline", "--show", "a", expect=0)
    assert ended.out == "jobs.nightly\n"
    assert (cli.directory / "checkpoints" / "jobs.nightly").is_dir()


def test_a_dag_in_the_file_is_used_and_its_edges_need_no_parameters(cli, here):
    text = """
import dagron
dag = dagron.DAG(["a", "b"], [("b", "a")])
tasks = {"a": lambda *rest: f"after {rest}", "b": lambda: "b"}
"""
    assert here("run", cli.write(text), "--inline", "--show", "a", expect=0).out == "after ('b',)\n"


def test_the_directory_of_the_checkpoint_can_be_chosen(cli, here):
    ended = here("run", cli.write(CHAIN), "--inline", "-d", "else/where", expect=0)
    assert "else/where" in ended.err
    assert not (cli.directory / "checkpoints").exists()
    assert cli.status("else/where").completed == 2


def test_a_trace_is_a_json_file_with_a_span_for_every_attempt(cli, here):
    here("run", cli.write(CHAIN), "--trace", "trace.json", expect=0)
    events = json.loads((cli.directory / "trace.json").read_text())["traceEvents"]
    assert {event["name"] for event in events if event["ph"] == "B"} == {"first", "second"}


def test_retries_and_workers_are_passed_on(cli, here, log):
    text = """
def flaky():
    note("flaky")
    if not os.path.exists(os.path.join(HERE, "again")):
        open(os.path.join(HERE, "again"), "w").close()
        raise OSError("not yet")
    return 1

tasks = {"flaky": flaky}
"""
    here("run", cli.write(text), "--retries", "1", "--workers", "1", expect=0)
    assert log.count("flaky") == 2


def test_inline_runs_the_tasks_in_the_process_of_the_command(cli, here, log):
    ended = here("run", cli.write(CHAIN), "--inline", expect=0)
    assert log.pids("first") == log.pids("second") == [ended.pid]


# --- the user's file -------------------------------------------------------------------------------------------------


def test_a_class_of_the_file_comes_back_as_that_class_in_the_tasks_and_after_a_resume_in_another_process(cli):
    # A copy by value would know the process of the first run.
    text = """
PID = os.getpid()

class Point:
    def __repr__(self):
        return f"Point of {PID}"

def same(point):
    return type(point) is Point

tasks = {"point": lambda: Point(), "same": same}
"""
    job = cli.write(text)
    first = cli("run", job, "--show", "point", "--show", "same", expect=0)
    assert first.out == f"Point of {first.pid}\nTrue\n"
    second = cli("run", job, "--resume", "--show", "point", "--show", "same", expect=0)
    assert second.out == f"Point of {second.pid}\nTrue\n"


def test_the_main_block_of_the_file_does_not_run_and_no_cached_copy_of_it_is_left(cli):
    cli.write("value = 1", "neighbour.py")
    text = CHAIN + '\nimport neighbour\nif __name__ == "__main__":\n    raise SystemExit("main ran")\n'
    cli("run", cli.write(text), expect=0)
    caches = Path(os.environ.get("PYTHONPYCACHEPREFIX") or "/") / cli.directory.relative_to("/")
    cached = [path.name for path in caches.rglob("*.pyc")]
    assert any(name.startswith("neighbour.") for name in cached)
    assert not any(name.startswith("job.") for name in cached)


def test_the_file_sees_itself_as_argv_and_imports_its_neighbours_also_in_the_workers(cli, here):
    (cli.directory / "sub").mkdir()
    (cli.directory / "sub" / "neighbour.py").write_text("def value():\n    return 'from the neighbour'\n")
    cli.write("import neighbour\nARGV = sys.argv\ntasks = {'a': lambda: f'{neighbour.value()} {ARGV}'}", "sub/job.py")
    assert here("run", "sub/job.py", "--show", "a", expect=0).out == "from the neighbour ['sub/job.py']\n"


def test_the_traceback_of_a_file_that_raises_begins_in_that_file(cli, here):
    (cli.directory / "neighbour.py").write_text("def fail():\n    return 1 / 0\n")
    ended = here("run", cli.write("import neighbour\nneighbour.fail()\n"), expect=2)
    lines = ended.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "job.py" in lines[1]
    assert "ZeroDivisionError: division by zero" in lines
    assert lines[-1].startswith("dagron: error: 'job.py' raised ZeroDivisionError")
    assert "dagron/cli" not in ended.err


# --- exit codes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def x(:\n", "SyntaxError"),
        ("import no_such_module\n", "No module named 'no_such_module'"),
        ("sys.exit(0)\n", "called sys.exit"),
        ("dag = 1\n", "defines no `tasks`"),
        ("tasks = [1]\n", "is of type list"),
        ("tasks = {}\ndag = 1\n", "is of type int"),
        ("tasks = {'a': lambda b: 1, 'b': lambda a: 1}\n", "cycle: 'a' -> 'b' -> 'a'"),
        ("tasks = {'a': lambda other: 1}\n", "requires the parameter 'other'"),
        ("tasks = {'a': 1}\n", "not callable"),
        ("import threading\nlock = threading.Lock()\ntasks = {'a': lambda: lock}\n", "cannot be pickled"),
    ],
)
def test_a_file_that_makes_no_job_ends_with_2_and_leaves_no_checkpoint(cli, here, text, message):
    ended = here("run", cli.write(text), expect=2)
    assert message in ended.err
    assert ended.err.splitlines()[-1].startswith("dagron: error: ")
    assert not (cli.directory / "checkpoints").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.py"], "cannot read 'missing.py'"),
        (["no_such.module"], "there is no module 'no_such'"),
        (["dagron.no_such"], "there is no module 'dagron.no_such'"),
        (["not a module"], "neither a file nor the name of a module"),
        (["job.py", "--show", "frist"], "did you mean 'first'?"),
        (["job.py", "--resume", "--fresh"], "contradict"),
        (["job.py", "--inline", "--timeout", "1"], "--inline has none"),
        (["job.py", "--trace", "no/such/file"], "its directory does not exist"),
        (["job.py", "--inline", "--memory-limit", "1 GB"], "--inline has none"),
        (["job.py", "--timeout", "nan"], "--timeout"),
        (["job.py", "--run-timeout", "inf"], "--run-timeout"),
        (["job.py", "--retry-delay", "-1"], "--retry-delay"),
        (["job.py", "--memory-limit", "much"], "memory_limit='much'"),
        (["job.py", "--workers", "0"], "--workers"),
        (["job.py", "--durability", "luck"], "--durability"),
    ],
)
def test_a_command_that_cannot_be_meant_ends_with_2_and_runs_nothing(cli, here, log, arguments, message):
    cli.write(CHAIN)
    ended = here("run", *arguments, expect=2)
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert log.counts() == {}


def test_a_failed_node_ends_with_1_its_error_and_remote_traceback_are_shown_and_what_to_do(cli, here, log):
    ended = here("run", cli.write(FAILING), "-w", "1", expect=1)
    assert "1 of 3 nodes completed, 1 failed, 1 skipped" in ended.err
    assert "dagron: bad: ValueError: no use for 1 ...\n" in ended.err
    assert "in bad\n" in ended.err  # a frame of the traceback
    assert "run job.py -w 1 --resume\n" in ended.err
    assert log.counts() == {"good": 1, "bad": 1}


def test_at_most_ten_failures_are_listed(cli, here):
    ended = here(
        "run", cli.write("def f(): raise OSError('x')\ntasks = {f'n{i}': f for i in range(13)}"), "--inline", expect=1
    )
    assert len(re.findall(r"^dagron: n\d+: OSError: x$", ended.err, re.MULTILINE)) == 10
    assert ended.err.count(" failed in attempt 1: OSError: x\n") == 1  # and the first is told in full
    assert "3 more" in ended.err


def test_without_fail_fast_what_does_not_take_the_failed_result_is_attempted(cli, here, log):
    text = """
import dagron
def bad(): raise ValueError
dag = dagron.DAG(["bad", "after"], [("bad", "after")])
tasks = {"bad": bad, "after": lambda: note("after")}
"""
    here("run", cli.write(text), "--inline", expect=1)
    assert log.count("after") == 0
    here("run", "job.py", "--inline", "--no-fail-fast", expect=1)
    assert log.count("after") == 1


@pytest.mark.parametrize("option", ["--timeout", "--run-timeout"])
def test_a_run_that_exceeds_a_time_limit_ends_with_1_and_says_so(cli, here, log, option):
    ended = here("run", cli.write(GATED), option, "3", expect=1)
    assert "1 of 2 nodes completed, 1 timed out" in ended.err


def test_an_attempt_above_the_memory_limit_is_killed_and_tried_again_after_the_delay(cli, here, log):
    text = """
def grow():
    note("grow")
    kept = bytearray(b"x") * 400_000_000
    time.sleep(60)
tasks = {"grow": grow}
"""
    options = ["--memory-limit", "200 MB", "--retries", "1", "--retry-delay", "0", "--kill-grace-seconds", "0"]
    ended = here("run", cli.write(text), *options, expect=1)
    assert "grow (attempt 2): MemoryLimitExceededError" in ended.err
    assert log.counts() == {"grow": 2}


def test_a_directory_that_cannot_hold_the_checkpoint_ends_with_3_and_is_left_alone(cli, here, log):
    job = cli.write(CHAIN)
    (cli.directory / "foreign").mkdir()
    (cli.directory / "foreign" / "a.pkl").write_text("mine")
    ended = here("run", job, "-d", "foreign", expect=3)
    assert ended.err.startswith("dagron: error: ")
    assert "Traceback" not in ended.err
    assert os.listdir(cli.directory / "foreign") == ["a.pkl"]
    assert "is a file" in here("run", job, "-d", "job.py", expect=3).err
    assert log.counts() == {}


def test_a_worker_that_cannot_be_started_ends_with_4_in_one_line(cli):
    text = "import multiprocessing\nmultiprocessing.set_executable('/no/such/python')\ntasks = {'a': lambda: 1}\n"
    ended = cli("run", cli.write(text), expect=4)
    assert "could not start a worker" in ended.err
    assert "Traceback" not in ended.err


def test_what_nobody_expected_ends_with_4_and_a_traceback(cli, here):
    text = """
class Odd(dict):
    def __len__(self):
        raise RuntimeError("odd")

import dagron
dag, tasks = dagron.DAG(["a"], []), Odd(a=lambda: 1)
"""
    ended = here("run", cli.write(text), "--inline", expect=4)
    assert "RuntimeError: odd" in ended.err
    assert "please report it" in ended.err.splitlines()[-1]


def test_every_error_of_dagron_has_an_exit_code_of_its_kind():
    kinds = {
        ExitCode.USAGE: (errors.GraphError, errors.TaskDefinitionError, errors.OptionError, UsageError),
        ExitCode.CHECKPOINT: (errors.CheckpointError,),
    }
    for name in errors.__all__:
        kind = getattr(errors, name)
        if issubclass(kind, errors.DagronError):
            expected = [code for code, bases in kinds.items() if issubclass(kind, bases)] or [ExitCode.INTERNAL]
            # A group is never without errors.
            arguments = (["node"], [ValueError()]) if issubclass(kind, ExceptionGroup) else ()
            assert [exit_code_of(kind.__new__(kind, *arguments))] == expected


# --- going on, and starting again --------------------------------------------------------------------------------


def test_resuming_what_is_complete_runs_nothing_again_however_often(cli, here, log):
    here("run", cli.write(CHAIN), "--inline", expect=0)
    for _ in range(2):
        ended = here("run", "job.py", "--inline", "--resume", "--show", "second", expect=0)
        assert ended.out == "22\n"
        assert "2 of 2 nodes completed (2 restored)" in ended.err
    assert log.counts() == {"first": 1, "second": 1}


def test_resuming_after_a_failure_runs_only_what_has_no_result(cli, here, log):
    here("run", cli.write(FAILING), "--inline", expect=1)
    cli.write(FAILING.replace("raise ValueError", "return "))
    here("run", "job.py", "--inline", "-r", expect=0)
    assert log.counts() == {"good": 1, "bad": 2, "after": 1}


def test_resuming_where_there_is_no_checkpoint_runs_everything(cli, here, log):
    here("run", cli.write(CHAIN), "--inline", "--resume", expect=0)
    assert log.counts() == {"first": 1, "second": 1}


def test_a_checkpoint_is_superseded_only_with_fresh(cli, here, log):
    here("run", cli.write(FAILING), "--inline", expect=1)
    ended = here("run", "job.py", "--inline", expect=2)
    assert ended.err == (
        f"dagron: error: '{os.path.join('checkpoints', 'job')}' holds a checkpoint with 1/3 nodes completed, 1 failed; "
        "pass --resume to go on or --fresh to start again\n"
    )
    assert log.counts() == {"good": 1, "bad": 1}
    assert cli.status().completed == 1
    here("run", "job.py", "--inline", "--fresh", expect=1)
    assert log.counts() == {"good": 2, "bad": 2}


def test_a_checkpoint_in_which_nothing_completed_is_not_asked_about(cli, here, log):
    here("run", "--inline", cli.write("def a():\n    note('a')\n    raise OSError\ntasks = {'a': a}"), expect=1)
    here("run", "--inline", "job.py", expect=1)
    assert log.count("a") == 2


def test_a_damaged_checkpoint_ends_with_3_and_fresh_starts_again(cli, here, log):
    cli.write(CHAIN)
    (cli.directory / "checkpoints" / "job").mkdir(parents=True)
    (cli.directory / "checkpoints" / "job" / "_journal").write_bytes(b"dagron\x1a\n\1\0\0\0 nonsense")
    for command in (["run", "job.py"], ["run", "job.py", "--resume"], ["status", "checkpoints/job"]):
        ended = here(*command, expect=3)
        assert "damaged" in ended.err
        assert "Traceback" not in ended.err
    here("run", "job.py", "--inline", "--fresh", expect=0)
    assert log.counts() == {"first": 1, "second": 1}


def test_a_second_run_on_a_checkpoint_that_is_being_written_ends_with_3(here, gated):
    for flags in ([], ["--resume"], ["--fresh"]):
        ended = here("run", "job.py", *flags, expect=3)
        assert f"held by process {gated.pid} " in ended.err


# --- signals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_stopped_run_says_in_one_line_what_is_kept_and_how_to_go_on_and_does(cli, log, gated, number, code):
    gated.send_signal(number)
    _, err = gated.communicate(timeout=60)
    assert gated.returncode == code
    assert err.count("\n") == 1
    assert err.startswith("dagron: interrupted; 1/2 nodes are kept in ")
    assert err.endswith(" run job.py --resume\n")
    assert cli.status().state == "interrupted"
    (cli.directory / "gate").touch()
    assert cli("run", "job.py", "--resume", "--show", "second", expect=0).out == "22\n"
    assert log.counts() == {"first": 1, "second": 2}


@pytest.mark.skipif(sys.platform != "linux", reason="how a terminal becomes that of a session is Linux's")
def test_a_run_whose_terminal_is_closed_ends_as_one_that_is_stopped(cli, log):
    """With a bar on it, which is still to be taken away."""
    ours, theirs = pty.openpty()
    terminal = os.ttyname(theirs)
    # The first that the leader of a session opens becomes its terminal, and then SIGHUP comes from the kernel.
    command = f'exec "$@" <>{terminal} 2>&0'
    dagron = [sys.executable, "-m", "dagron", "run", cli.write(GATED)]
    process = subprocess.Popen(
        ["sh", "-c", command, "sh", *dagron],
        cwd=cli.directory,
        env={**cli.environment, "TERM": "xterm"},
        preexec_fn=_signals_as_in_a_terminal,
        start_new_session=True,
    )
    os.close(theirs)
    eventually(lambda: log.count("second"), process)
    os.close(ours)
    assert process.wait(timeout=60) == 129
    assert cli.status().state == "interrupted"
    assert cli.status().completed == 1


@pytest.mark.skipif(sys.platform != "linux", reason="that the server follows its coordinator's death is told by prctl")
def test_a_second_ctrl_c_ends_a_run_that_hangs_while_it_stops(cli, log):
    process = cli.start("run", cli.write(HANGS_WHILE_IT_STOPS))
    eventually(lambda: log.count("second"), process)
    (server,) = psutil.Process(process.pid).children()
    everyone = [server, *server.children(recursive=True)]
    process.send_signal(signal.SIGINT)
    eventually(lambda: log.count("stops"), process)
    deadline = time.monotonic() + WAIT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped at once" in err
    assert psutil.wait_procs(everyone, timeout=WAIT_SECONDS)[1] == []


def test_ctrl_c_while_the_file_is_loaded_ends_with_130_and_without_a_traceback(cli, log):
    process = cli.start("run", cli.write("note('loading')\nwait_for('gate')\n"))
    eventually(lambda: log.count("loading"), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "dagron: interrupted; nothing was run\n"


# --- status ------------------------------------------------------------------------------------------------------


def test_status_shows_a_run_while_it_goes_on_and_that_it_was_killed_after_it_was(cli, here, log, gated):
    found = json.loads(cli("status", "checkpoints/job", "--json", expect=0).out)
    assert (found["state"], found["pid"], found["completed"], found["total"]) == ("running", gated.pid, 1, 2)
    text = here("status", "checkpoints/job", expect=0).out
    assert "1/2 50%" in text
    assert f"process {gated.pid} on {found['host']}" in text
    gated.kill()
    gated.wait()
    assert cli.status().state == "interrupted"
    # The server ends what was left; the test is over when it has.
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in log.pids("second")))


def test_status_shows_failures_costs_and_the_number_of_runs(cli, here):
    here("run", cli.write(FAILING), "--inline", "--durability", "process", expect=1)
    here("run", "job.py", "--inline", "--resume", expect=1)
    found = json.loads(here("status", "checkpoints/job", "--json", expect=0).out)
    assert found["state"] == "finished"
    assert found["runs"] == 2
    assert found["durability"] == "power"
    assert found["wall_seconds"] > 0
    assert found["result_bytes"] > 0
    assert [failed["name"] for failed in found["failed"]] == ["bad"]
    assert found["failed"][0]["message"] == "no use for 1\nat all"
    text = here("status", "checkpoints/job", expect=0).out
    assert "finished, 2 nodes without a result" in text
    assert "  bad: ValueError: no use for 1 ...\n" in text


def test_status_loads_no_result(cli, here):
    # Unpickling this result makes a directory.
    text = """
class Trap:
    def __reduce__(self):
        return os.mkdir, (os.path.join(HERE, "sprung"),)

tasks = {"trap": lambda: Trap()}
"""
    here("run", cli.write(text), "--inline", expect=0)
    here("status", "checkpoints/job", "--json", expect=0)
    assert "1/1" in here("status", "checkpoints/job", expect=0).out
    assert not (cli.directory / "sprung").exists()


@pytest.mark.parametrize("directory", ["missing", ".", "job.py", "x" * 300])
def test_status_ends_with_3_in_one_line_where_there_is_no_checkpoint(cli, here, directory):
    cli.write(CHAIN)
    before = sorted(os.listdir(cli.directory))
    ended = here("status", directory, expect=3)
    assert ended.out == ""
    assert ended.err.startswith("dagron: error: ")
    assert ended.err.count("\n") == 1
    assert sorted(os.listdir(cli.directory)) == before


def test_names_and_messages_cannot_reach_the_terminal_as_escape_sequences(cli, here):
    text = r"""
def fail(): raise ValueError("\x1b[2J hidden")
tasks = {"odd\x1b]0;title\x07\nname": fail}
"""
    ended = here("run", cli.write(text), "--inline", expect=1)
    shown = next(line for line in ended.err.splitlines() if "ValueError" in line)
    assert shown == r"dagron: odd\x1b]0;title\x07\nname: ValueError: \x1b[2J hidden"
    assert "\x1b" not in here("status", "checkpoints/job", expect=0).out


# --- progress ----------------------------------------------------------------------------------------------------


def test_without_a_terminal_there_is_no_progress_unless_it_is_asked_for(cli, here, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    job = cli.write(CHAIN)
    assert "nodes completed, " not in here("run", job, "--inline", expect=0).err
    err = here("run", job, "--inline", "--fresh", "--progress", expect=0).err
    assert err.startswith("dagron: 0/2 nodes completed\n")
    assert "dagron: 2/2 nodes completed" in err
    assert "\x1b" not in err


def test_on_a_terminal_the_bar_and_what_is_printed_do_not_tear_each_other(cli):
    text = r"""
import threading, time

def talk():
    for i in range(50):
        print(f"line {i} of the task")
    print("to stderr", file=sys.stderr)
    os.system("echo from a child")
    meet("begun", "said")
    return "the result"

def meet(made, awaited):
    open(os.path.join(HERE, made), "w").close()
    while not os.path.exists(os.path.join(HERE, awaited)):
        time.sleep(0.005)

def thread_of_the_job():
    meet("there", "begun")
    os.write(2, b"past \x1b[5Asys.stderr\n")
    open(os.path.join(HERE, "said"), "w").close()

threading.Thread(target=thread_of_the_job, daemon=True).start()
tasks = {"talk": talk}
"""
    ours, theirs = pty.openpty()
    process = cli.start("run", cli.write(text), "--show", "talk", stderr=theirs, env={"TERM": "xterm", "COLUMNS": "80"})
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:  # Linux's end of file
            break
        if not data:
            break
        shown += data
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == "the result\n"
    text = shown.decode()
    for line in [*(f"line {i} of the task" for i in range(50)), "to stderr", "past sys.stderr", "from a child"]:
        assert f"{line}\r\n" in text
    assert "1/1 100%" in text
    assert "1 of 1 nodes completed" in text
    # Whatever hid the cursor showed it again, before anything could be killed.
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")


@pytest.mark.parametrize(("answer", "counts", "code"), [("\n", 1, 0), ("f\n", 2, 0), ("x\nq\n", 1, 2), ("", 1, 2)])
def test_on_a_terminal_the_user_is_asked_whether_a_run_goes_on(cli, here, log, answer, counts, code):
    """Relies on `ask`: a line break stands for going on, what is no answer is asked again, and an end leaves it."""
    job = cli.write(CHAIN)
    here("run", job, "--inline", expect=0)
    ours, theirs = pty.openpty()
    process = cli.start("run", job, "--inline", stdin=theirs, stderr=theirs, env={"TERM": "dumb"})
    os.close(theirs)
    os.write(ours, answer.encode() or b"\x04")  # Ctrl-D: the end of the input
    process.communicate(timeout=60)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert process.returncode == code
    assert "has 2/2 nodes completed" in shown
    assert "[r] go on from there, [f] start again, [q] leave it (default: r)" in shown
    assert log.counts() == {"first": counts, "second": counts}


# --- help, version, imports --------------------------------------------------------------------------------------


def test_help_says_how_it_is_used_and_what_every_exit_code_means(here):
    everything = here("--help", expect=0).out
    assert "dagron run job.py --resume" in everything
    run = here("run", "--help", expect=0).out
    for code, meaning in MEANINGS.items():
        assert f"{code.value:>3}  {meaning}\n" in everything
        assert f"{code.value:>3}  {meaning}\n" in run
    assert "checkpoints/<name of TARGET>" in run
    assert set(MEANINGS) == set(ExitCode)


def test_version_prints_the_version(cli, here):
    assert here("--version", expect=0).out == f"dagron {dagron.__version__}\n"


def test_importing_dagron_imports_neither_rich_nor_click():
    code = "import sys, dagron; dagron.CheckpointExecutor; print(sorted({'rich', 'click'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": SRC}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# --- small parts -------------------------------------------------------------------------------------------------


def test_a_shell_takes_the_commands_that_are_proposed_as_they_stand(cli, tmp_path):
    (tmp_path / "tools of mine").mkdir()
    # Through a shell, as pip does it, because a line that begins with #! takes no interpreter with a blank in its path.
    (tmp_path / "tools of mine" / "dagron").write_text(
        f"#!/bin/sh\n'''exec' {shlex.quote(sys.executable)} \"$0\" \"$@\"\n' '''\nfrom dagron.cli import main\nmain()\n"
    )
    (tmp_path / "tools of mine" / "dagron").chmod(0o755)
    cli.write(MANY_FAIL, "my job.py")

    def bash(command, expect):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=cli.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == expect, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout, done.stderr

    _, err = bash("'./tools of mine/dagron' run 'my job.py' -d 'check points' --inline --no-progress", 1)
    debug, listing, resume = sorted(PROPOSED.findall(err), key=lambda command: command.split("dagron' ")[1])
    assert resume == "'./tools of mine/dagron' run 'my job.py' -d 'check points' --inline --no-progress --resume"
    assert "ValueError: 0" in bash(debug, 1)[1]
    assert len(bash(listing, 0)[0].splitlines()) == 12


def test_the_command_that_resumes_keeps_every_option_but_fresh():
    assert resume_command(["run", "a b.py", "--fresh", "-w", "2"]) == "dagron run 'a b.py' -w 2 --resume"
    assert resume_command(["run", "job.py", "-r"]) == "dagron run job.py -r"
    assert resume_command(["run", "--resume", "job.py"]) == "dagron run --resume job.py"
    given = ["run", "job.py", "--", "--fresh", "-r"]  # which are the job's
    assert resume_command(given) == "dagron run job.py --resume -- --fresh -r"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[31mred\x1b[0m \x1b[1;38:5:3mbold", "\x1b[31mred\x1b[0m \x1b[1;38:5:3mbold"),
        ("a\x1b[2Jb\x1b[5Ac\x1b[?25ld", "abcd"),
        ("a\x1b]0;title\x07b\x1b]8;;http://x\x1b\\c", "abc"),
        ("a\x1bMb\x1b", "aMb"),
        ("tab\tand\nbreak, bell\x07, \x9b", "tab\tand\nbreak, bell, "),
    ],
)
def test_of_what_tasks_write_only_text_and_colours_come_above_the_bar(written, shown):
    assert NOT_FOR_A_LINE.sub("", written) == shown
