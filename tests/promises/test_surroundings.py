"""Whatever surrounds the coordinator: a run works there, or ends before anything runs with an error that names it.

Each surrounding is put up in a process of its own, which a program forks that has imported everything before
(`traced.py`), so that one costs no more than its run.
"""

import asyncio
import ctypes
import errno
import io
import json
import multiprocessing
import os
import pathlib
import platform
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings

import pytest
from places import SRC
from tracing import Traced

import dagron
import dagron.engines.local.pool
import dagron.runs.coordinator  # and by that all that a run loads, before the program forks
from dagron.cli.ending import exit_code_of_work
from dagron.cli.exit_codes import ExitCode
from dagron.engines.local import surroundings

FLOW_OPTIONS = {"durability": "process", "max_workers": 1}


def run(path, task=lambda: 1, **options):
    """The result of a run of one node, or the name and the text of the error of dagron's that it ends with."""
    flow = dagron.Flow()
    node = flow.add("a", task)
    try:
        return flow.run(path, resume=True, **{**FLOW_OPTIONS, **options}).value(node)
    except dagron.DagronError as error:
        return [type(error).__name__, str(error)]


# --- surroundings: each a function that puts it up, and returns what the run gives ----------------------------------


def default_timeout(path):
    socket.setdefaulttimeout(0.05)
    table = bytes(30_000_000)  # more than a socket takes at once
    flow = dagron.Flow()
    nodes = flow.map("n[{}]", lambda i, table: len(table), range(2), table=table)
    result = flow.run(path, resume=True, **FLOW_OPTIONS)
    return [result.value(node) for node in nodes] == [30_000_000] * 2


def gevent_patches(path):
    """Sockets that are never blocking, as gevent has them, without gevent."""

    class Socket(socket.socket):
        def settimeout(self, seconds):
            os.set_blocking(self.fileno(), False)

    original = socket.socketpair
    socket.socketpair = lambda *arguments: [Socket(fileno=end.detach()) for end in original(*arguments)]
    flow = dagron.Flow()
    nodes = flow.map("n[{}]", lambda i, table: len(table), range(2), table=bytes(30_000_000))
    result = flow.run(path, resume=True, **FLOW_OPTIONS)
    return [result.value(node) for node in nodes] == [30_000_000] * 2


def eventlet_patches(path):
    del select.poll
    return run(path)


class NoKey(bytes):
    """As celery's billiard has keys."""

    def __reduce__(self):
        raise TypeError("Pickling an AuthenticationString object is disallowed for security reasons")


def celery_process(path):
    multiprocessing.current_process()._config.update(authkey=NoKey(b"key"), daemon=True)
    return run(path)


def embedded(path):
    del sys.argv, sys.orig_argv, sys.modules["__main__"]
    return no_executable(path)


def closed_streams(path):
    for fd in (0, 1, 2):
        os.close(fd)
    kept, sys.stdin, sys.stdout, sys.stderr = (sys.stdin, sys.stdout, sys.stderr), None, None, None
    try:
        return run(path, lambda: print("printed") or 1)
    finally:
        sys.stdin, sys.stdout, sys.stderr = kept


def small_files_only(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return run(path)


def in_a_loop(path):
    async def main():
        return run(path)

    return asyncio.run(main())


def traced(path):
    def tracer(*_):
        return tracer

    sys.settrace(tracer)
    threading.settrace(tracer)
    return run(path)


def warnings_are_errors(path):
    warnings.simplefilter("error")
    return run(path)


def forked_after_a_run(path):
    found = [run(path + "-1")]
    read, write = os.pipe()
    if not (pid := os.fork()):
        os.write(write, b"%d" % run(path + "-2"))
        os._exit(0)
    os.waitpid(pid, 0)
    return [*found, int(os.read(read, 9)), run(path + "-3")]


def path_objects(path):
    sys.path += [pathlib.Path("/opt/some-package"), b"/opt/bytes", None]
    return run(path)


def long_path(path):
    sys.path += [f"/opt/{'x' * 1000}/{i}" for i in range(220)]
    return run(path)


def no_directory(path):
    gone = path + "-gone"
    os.mkdir(gone)
    os.chdir(gone)
    os.rmdir(gone)
    sys.path.insert(0, "")
    return run(path)


def many_files(path):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < 2000:
        return 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    for _ in range(1100):
        os.open(os.devnull, os.O_RDONLY)
    return run(path)


def few_files(path, n=40):
    resource.setrlimit(resource.RLIMIT_NOFILE, (n, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return run(path, max_workers=8)


def fewer_files_than_one_worker_takes(path):
    return few_files(path, surroundings._FEWEST_FILES - 1)


def fewest_files(path):
    n = surroundings._FEWEST_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (n, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    flow = dagron.Flow()
    nodes = flow.map("n[{}]", lambda i: os.getpid(), range(6))
    result = flow.run(path, resume=True, **FLOW_OPTIONS)
    return len({result.value(node) for node in nodes})  # none was taken for damaged


def just_enough_files(path):
    n_open = len(os.listdir("/proc/self/fd")) - 1
    n_checkpoint = 3  # that are open already when it is checked: two locks and the journal
    n = n_open + n_checkpoint + surroundings._FILES_OF_A_RUN + 2 * surroundings._FILES_OF_A_SLOT
    resource.setrlimit(resource.RLIMIT_NOFILE, (n, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    flow = dagron.Flow()

    def together(i):
        open(f"{path}-{i}", "w").close()
        while not os.path.exists(f"{path}-{1 - i}"):  # in a task: until both workers are there
            time.sleep(0.005)
        return i

    nodes = flow.map("n[{}]", together, range(2))
    result = flow.run(path, resume=True, durability="process", max_workers=2)
    return [result.value(node) for node in nodes]


def no_executable(path):
    sys.executable = None
    multiprocessing.set_executable(None)
    return run(path)


def no_executable_and_none_beside(path):
    sys.exec_prefix = "/nowhere"
    return no_executable(path)


def executable_that_is_no_python(path):
    multiprocessing.set_executable("/bin/true")
    return run(path)


def no_argv(path):
    del sys.argv
    return run(path)


def daemonic(path):
    def job():
        def starts_another():
            other = multiprocessing.get_context("fork").Process(target=os._exit, args=(3,))
            other.start()
            other.join()
            return other.exitcode

        theirs.send(run(path, starts_another))

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=job, daemon=True)
    process.start()
    process.join()
    return ours.recv() if process.exitcode == 0 else process.exitcode


def sigpipe_ends_a_process(path):
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    flow = dagron.Flow()
    node = flow.add("dies", os._exit, 3)
    other = flow.add("next", lambda: 1)
    result = flow.run(path, resume=True, **FLOW_OPTIONS)
    return [result[node].error.exit_code, result.value(other)]


def children_are_ignored(path):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    return run(path)


def in_a_thread(path):
    found = []
    thread = threading.Thread(target=lambda: found.append(run(path)))
    thread.start()
    thread.join()
    return found[0]


def priority_of(path):
    """The policy of a worker, and whether it has the nice level of the coordinator."""
    policy, level = run(path, lambda: [os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)])
    return [policy, level == os.getpriority(os.PRIO_PROCESS, 0)]


def nice(path):
    os.nice(2)
    return priority_of(path)


def scheduled_idle(path):
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    return priority_of(path)


def scheduled_batch(path):
    os.nice(2)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    return priority_of(path)


def scheduling_forbidden(path):
    for name in ("sched_setscheduler", "sched_getscheduler", "sched_setaffinity", "sched_getaffinity"):
        forbid(name)
    return run(path, pin_cpus=True, max_workers=1)


def no_more_processes(path):
    for name in ("fork", "vfork", "clone", "clone3"):
        forbid(name, errno.EAGAIN)
    return run(path)


def no_more_threads(path):
    forbid("clone3", errno.ENOSYS)  # which has its flags where a filter cannot see them
    forbid("clone", errno.EAGAIN, flag=0x10000)  # CLONE_THREAD
    return run(path)


def few_processes_for_this_user(path):
    resource.setrlimit(resource.RLIMIT_NPROC, (1, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
    return run(path)


def little_memory(path):
    """With so many MiB more than this process has: it works, or ends with an error that names the limit."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return {str(mib): with_memory(size + mib * 2**20, f"{path}-{mib}") for mib in (4, 64, 1024)}


def with_memory(limit, path):
    read, write = os.pipe()
    if not (pid := os.fork()):
        try:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            found = run(path)
        except BaseException as error:
            found = [type(error).__name__, str(error)]
        os.write(write, json.dumps(found).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    found = json.loads(os.read(read, 100_000))
    if found != 1 and not (found[0] == "WorkerStartError" and ("`ulimit -v`" in found[1] or "memory" in found[1])):
        return found
    return "it works, or is told"


NUMBERS = {  # of system calls, in <asm/unistd_64.h> and <asm-generic/unistd.h>
    "x86_64": {
        "clone": 56,
        "fork": 57,
        "vfork": 58,
        "clone3": 435,
        "sched_setscheduler": 144,
        "sched_getscheduler": 145,
        "sched_setaffinity": 203,
        "sched_getaffinity": 204,
    },
    "aarch64": {
        "clone": 220,
        "clone3": 435,
        "sched_setscheduler": 119,
        "sched_getscheduler": 120,
        "sched_setaffinity": 122,
        "sched_getaffinity": 123,
    },
}


def forbid(name, number=errno.EPERM, flag=0):
    """Have the kernel refuse a system call to this process and all that it starts, as a sandbox does.

    Args:
        name: The call; nothing is done where there is none of this name.
        number: What it is refused with.
        flag: Refuse it only with this bit in its first argument.
    """
    if name not in NUMBERS[platform.machine()]:
        return
    pr_set_no_new_privs, pr_set_seccomp, mode_filter = 38, 22, 2
    load, jump_if_equal, jump_if_set, give_back = 0x20, 0x15, 0x45, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | number
    steps = [(load, 0, 0, 0), (jump_if_equal, 0, 3 if flag else 1, NUMBERS[platform.machine()][name])]
    steps += [(load, 0, 0, 16), (jump_if_set, 0, 1, flag)] if flag else []
    steps += [(give_back, 0, 0, refuse), (give_back, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(pr_set_no_new_privs, 1, 0, 0, 0) == 0
    if libc.prctl(pr_set_seccomp, mode_filter, program, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def bytes_only(path):
    kept, shown = (sys.stdout, sys.stderr), io.BytesIO()
    sys.stdout = sys.stderr = shown
    try:
        value = run(path, lambda: print("printed"))
    finally:
        sys.stdout, sys.stderr = kept
    return [value, shown.getvalue().decode()]


def stdout_that_is_no_stream(path):
    kept, sys.stdout = sys.stdout, object()
    try:
        return run(path, lambda: print("printed"))
    finally:
        sys.stdout = kept


WORKS = {
    default_timeout: True,
    gevent_patches: True,
    eventlet_patches: ["WorkerStartError", "eventlet.monkey_patch()"],
    celery_process: 1,
    embedded: 1,
    closed_streams: 1,
    small_files_only: ["WorkerStartError", "`ulimit -f`"],
    in_a_loop: 1,
    traced: 1,
    warnings_are_errors: 1,
    forked_after_a_run: [1, 1, 1],
    path_objects: 1,
    long_path: 1,
    no_directory: 1,
    many_files: 1,
    few_files: ["WorkerStartError", "8 worker(s) take"],
    fewer_files_than_one_worker_takes: ["WorkerStartError", "raise the limit (`ulimit -n`"],
    fewest_files: 1,
    just_enough_files: [0, 1],
    no_executable: 1,
    no_executable_and_none_beside: ["WorkerStartError", "multiprocessing.set_executable()"],
    executable_that_is_no_python: ["WorkerStartError", "'/bin/true'"],
    no_argv: 1,
    daemonic: 3,
    sigpipe_ends_a_process: [3, 1],
    children_are_ignored: 1,
    in_a_thread: 1,
    nice: [0, True],  # SCHED_OTHER
    scheduled_idle: [5, True],
    scheduled_batch: [3, True],
    scheduling_forbidden: 1,
    no_more_processes: ["WorkerStartError", "`ulimit -u`"],
    no_more_threads: ["WorkerStartError", "`ulimit -u`"],
    few_processes_for_this_user: ["WorkerStartError", "`ulimit -u`"],
    little_memory: dict.fromkeys(("4", "64", "1024"), "it works, or is told"),
    bytes_only: [None, "printed\n"],
    stdout_that_is_no_stream: None,
}


@pytest.fixture
def no_process_is_left():
    """Looked at by `Traced` for each run; the program itself stays for all tests of this module."""


@pytest.fixture(scope="module")
def clean(request, tmp_path_factory):
    made = Traced(request.path, tmp_path_factory.mktemp("surroundings") / "unused")
    yield made
    made.close()


LINUX_ONLY = {
    *(just_enough_files, nice, scheduled_idle, scheduled_batch, scheduling_forbidden),
    *(no_more_processes, no_more_threads, few_processes_for_this_user, little_memory),
}
FORBIDS = {scheduling_forbidden, no_more_processes, no_more_threads}


@pytest.mark.parametrize("surrounding", WORKS, ids=lambda function: function.__name__)
def test_it_works_or_is_an_error_that_names_the_cause(clean, surrounding, ckpt):
    if surrounding in LINUX_ONLY and sys.platform != "linux":
        pytest.skip("is there on Linux only")
    if surrounding is few_processes_for_this_user and not os.geteuid():
        pytest.skip("root may start as many processes as it likes")
    if surrounding in FORBIDS and platform.machine() not in NUMBERS:
        pytest.skip("the numbers of the system calls are not known")
    ended = clean.run(surrounding.__name__, path=str(ckpt))
    assert ended.code == 0
    expected = WORKS[surrounding]
    if isinstance(expected, list) and expected[0] == "WorkerStartError":
        name, text = ended.result
        assert name == expected[0]
        assert expected[1] in text
        assert not list(ckpt.glob("*.pkl"))
    else:
        assert ended.result == expected


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()], ids=["files", "memory"]
)
def test_what_a_limit_causes_is_not_to_be_reported(capsys, error):
    def work():
        raise error

    assert exit_code_of_work(work) == ExitCode.INTERNAL
    said = capsys.readouterr().err
    assert "`ulimit -" in said
    assert "report" not in said


WITHOUT_PROC = """
import os, sys, dagron

def run(name, task, **options):
    flow = dagron.Flow()
    node = flow.add("a", task)
    result = flow.run(os.path.join(sys.argv[1], name), max_workers=1, durability="process", **options)
    return result[node]

assert not os.listdir("/proc")
print(run("works", lambda: 1, timeout=60.0).result)
print(run("dies", lambda: os._exit(3)).error.exit_code)
print(run("hangs", lambda: __import__("time").sleep(600), timeout=0.2, kill_grace_seconds=0.0).status)
try:
    run("refused", lambda: 1, memory_limit="1GB")
except dagron.OptionError as error:
    print(error)
"""


def test_without_proc_nodes_run_and_what_needs_it_is_refused_or_told(tmp_path):
    command = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    if sys.platform != "linux" or os.geteuid() or shutil.which("unshare") is None:
        pytest.skip("nobody but root takes /proc away, on Linux and with unshare(1)")
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this container lets even root take nothing away")
    (tmp_path / "script.py").write_text(WITHOUT_PROC)
    done = subprocess.run(
        [*command, sys.executable, str(tmp_path / "script.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": SRC},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == ["1", "3", "timed_out"]
    assert "memory_limit" in done.stdout.splitlines()[3]
    assert "/proc is not there" in done.stderr
