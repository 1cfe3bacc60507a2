"""What a run was suspended for counts towards no timeout: `docker pause`, Slurm's suspend, a laptop's sleep."""

import os
import subprocess
import sys
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import SRC
from scripted import ScriptedRun
from waiting import wait_for

from dagron import NodeStatus, Task
from dagron.engines.awake import STEP_SECONDS, AwakeClock
from dagron.engines.local.server import _Server
from dagron.engines.local.slot import Slot
from dagron.engines.local.surroundings import blocking_pair


class Time:
    """A clock that a test sets, and the time of the processor."""

    def __init__(self):
        self.now = 1_000.0
        self.cpu = 5.0

    def clock(self, step=STEP_SECONDS):
        return AwakeClock(step, lambda: self.now, lambda: self.cpu)


class TestTheClock:
    def test_it_goes_on_as_long_as_somebody_looks(self):
        at = Time()
        clock, began = at.clock(), at.now
        start = clock.monotonic()
        for _ in range(100):
            at.now += STEP_SECONDS
            clock.look()
        assert clock.monotonic() - start == clock.since(began) == 25.0

    def test_a_gap_counts_as_one_step_before_and_after_it_was_seen(self):
        at = Time()
        clock, began = at.clock(), at.now
        start = clock.monotonic()
        at.now += 3600.0
        assert clock.monotonic() - start == clock.since(began) == STEP_SECONDS
        clock.look()
        assert clock.monotonic() - start == clock.since(began) == STEP_SECONDS
        at.now += 0.1
        assert clock.since(began) == pytest.approx(STEP_SECONDS + 0.1)
        assert clock.since(at.now - 0.1) == pytest.approx(0.1), "the gap was before that"

    def test_what_began_in_a_gap_lost_no_more_than_was_left_of_it(self):
        at = Time()
        clock = at.clock()
        at.now += 100.0
        clock.look()
        assert clock.since(at.now - 10.0) == 0.0

    def test_who_uses_the_processor_is_not_suspended(self):
        at = Time()
        clock, began = at.clock(), at.now
        at.now += 30.0
        at.cpu += 29.9  # in C, and nobody else got to run
        assert clock.since(began) == 30.0

    def test_without_looks_it_is_a_plain_clock(self):
        at = Time()
        clock, began = AwakeClock(monotonic=lambda: at.now, cpu=lambda: at.cpu), at.now
        at.now += 3600.0
        assert clock.since(began) == 3600.0

    def test_a_thread_looks_while_it_is_entered(self):
        clock = AwakeClock()
        with clock:
            began = time.monotonic()
            wait_for(lambda: time.monotonic() > began + 2 * STEP_SECONDS)
            # Of a busy machine some of it may be lost, and never more than there was.
            assert STEP_SECONDS / 2 < clock.since(began) <= time.monotonic() - began
        assert clock._thread is not None
        assert not clock._thread.is_alive()

    @given(st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=20))
    def test_it_never_goes_back_and_never_faster_than_time(self, steps):
        at = Time()
        clock = at.clock()
        last, real = clock.monotonic(), at.now
        for seconds, looks in steps:
            at.now += seconds
            if looks:
                clock.look()
            now = clock.monotonic()
            assert last - 1e-9 <= now <= last + (at.now - real) + 1e-9
            last, real = now, at.now


def one():
    return 1


class Looked:
    """The clock of a scripted run, which is looked at wherever the run would wait."""

    def __init__(self, at):
        self.at = at
        self.clock = at.clock(step=1.0)

    def monotonic(self):
        return self.clock.monotonic()

    def sleep(self, seconds):
        self.at.now += seconds
        self.clock.look()


class TestDecisions:
    """On a scripted pool: where the wait of the coordinator comes back an hour late, no deadline has come nearer."""

    def run(self, ckpt, script, **options):
        at = Time()
        run = ScriptedRun(ckpt, {"a": Task(one, timeout=options.pop("timeout", None))}, script(at), **options)
        clock = Looked(at)
        run.pool.clock = run.coordinator._clock = clock
        run.coordinator._began = clock.monotonic()
        run.coordinator._deadline = run.coordinator._began + (options.get("run_timeout") or 1e9)
        return run

    def test_the_timeout_of_a_run(self, ckpt):
        def script(at):
            def steps(pool):
                for _ in range(20):
                    yield None  # up to 0.2 s each
                at.now += 3600.0
                yield None
                yield None
                yield [pool.ran(0)]

            return steps

        assert self.run(ckpt, script, run_timeout=10.0).run().coordinator.cancel_reason == ""

    def test_a_run_that_was_suspended_still_takes_too_long_in_the_end(self, ckpt):
        def script(at):
            def steps(pool):
                at.now += 3600.0
                while not pool.calls or pool.calls[-1][0] != "kill":
                    yield None
                yield [pool.lost(0)]

            return steps

        run = self.run(ckpt, script, run_timeout=10.0).run()
        assert run.coordinator.cancel_reason == "the run took longer than 10 s"
        assert run.coordinator._clock.at.now > 4_600.0 + 8.0


def test_the_grace_of_what_is_killed_goes_on_where_it_was():
    ours, theirs = blocking_pair()
    server, at, pid = _Server(ours), Time(), 4_194_305  # above what Linux gives
    server.clock = at.clock(step=1.0)
    try:
        server.kill(pid, 2.0)
        at.now += 3600.0
        server.kill_overdue()
        assert pid in server.dying
        for _ in range(2):
            server.clock.look()
            at.now += 1.0
        server.kill_overdue()
        assert not server.dying
    finally:
        for fd in (server.wakeup_read, server.wakeup_write):
            os.close(fd)
        ours.close()
        theirs.close()


def test_how_long_an_attempt_runs_is_told_by_the_clock_of_timeouts():
    slot = Slot(0, None, lambda moment: 42.0 - moment)
    slot.board.attempt_started(3, 2.0)
    assert slot.observe(None)[:2] == (3, 40.0)
    slot.close()


JOB = """
import os, sys, time, dagron

directory, timeout = sys.argv[1], float(sys.argv[2])

def work():
    open(os.path.join(directory, "began"), "w").close()
    while not os.path.exists(os.path.join(directory, "go")):
        time.sleep(0.01)  # in a task: waits for the fact
    return 1

flow = dagron.Flow()
node = flow.add("a", work, timeout=timeout)
result = flow.run(os.path.join(directory, "ckpt"), resume=False, max_workers=1, run_timeout=timeout)
print(result[node].status, result[node].error)
"""
TIMEOUT_SECONDS = 3.0


def stopped(process):
    return process.status() == psutil.STATUS_STOPPED


def n_waits(process):
    """How often its main thread has waited for something."""
    return process.num_ctx_switches().voluntary


@pytest.mark.skipif(sys.platform != "linux", reason="tells how often a process waits")
def test_all_processes_of_a_run_are_stopped_for_longer_than_its_timeouts_and_it_completes(tmp_path):
    env = {**os.environ, "PYTHONPATH": SRC}
    command = [sys.executable, "-c", JOB, str(tmp_path), str(TIMEOUT_SECONDS)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        wait_for((tmp_path / "began").exists)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            member.suspend()
        try:
            wait_for(lambda: all(map(stopped, family)))
            until = time.monotonic() + TIMEOUT_SECONDS
            wait_for(lambda: time.monotonic() > until)
            coordinator = family[0]
            n = n_waits(coordinator)
            coordinator.resume()
            wait_for(lambda: n_waits(coordinator) >= n + 2)  # so it has decided whether anything is due
            (tmp_path / "go").touch()
        finally:
            for member in family:
                member.resume()
        assert process.communicate(timeout=60)[0] == f"{NodeStatus.COMPLETED} None\n"
