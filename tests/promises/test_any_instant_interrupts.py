"""Signals that ask a run to stop are held back until nothing is half done, and handled as the caller wants it.

Each test fails if `Interrupts` installs nothing (`__enter__` without its `signal.signal`).
"""

import os
import pickle
import signal
import threading

import pytest
from disk import stand_in

from dagron import DAG, CheckpointExecutor, ExecutionCallbacks
from dagron.runs.interrupts import Interrupts


@pytest.fixture
def seen():
    """Signals that a handler of the caller's has seen; it raises KeyboardInterrupt for each."""
    seen = []

    def handler(number, frame):
        seen.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    yield seen
    for number, old in before.items():
        assert signal.getsignal(number) is handler, "the handler of the caller is not as before"
        signal.signal(number, old)


class TestHolding:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_first_one_waits_for_a_check(self, seen, number):
        woken = []
        with Interrupts() as interrupts:
            interrupts.on_hold = lambda: woken.append(1)
            signal.raise_signal(number)
            assert (seen, woken) == ([], [1])
            with pytest.raises(KeyboardInterrupt):
                interrupts.check()
            assert seen == [number]
            interrupts.check()  # once only

    def test_the_second_one_does_not_wait(self, seen):
        with Interrupts():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert seen == [signal.SIGINT]

    def test_where_it_is_allowed_none_waits(self, seen):
        with Interrupts() as interrupts, interrupts.allowed(), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    def test_one_that_came_before_it_was_allowed_is_handled_first(self, seen):
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt), interrupts.allowed():
                pytest.fail("the code of the user's was begun")

    def test_one_that_nobody_asked_about_is_handled_at_the_end(self, seen):
        with pytest.raises(KeyboardInterrupt), Interrupts():
            signal.raise_signal(signal.SIGINT)
        assert seen == [signal.SIGINT]

    def test_a_handler_that_raises_nothing_is_called_and_the_run_goes_on(self):
        seen = []
        before = signal.signal(signal.SIGINT, lambda *args: seen.append(args[0]))
        try:
            with Interrupts() as interrupts:
                signal.raise_signal(signal.SIGINT)
                interrupts.check()
            assert seen == [signal.SIGINT]
        finally:
            signal.signal(signal.SIGINT, before)


class TestHandlers:
    @pytest.mark.parametrize("action", [signal.SIG_IGN, signal.SIG_DFL])
    def test_what_the_process_does_without_a_handler_stays_so(self, action):
        before = signal.signal(signal.SIGTERM, action)
        try:
            with Interrupts():
                assert signal.getsignal(signal.SIGTERM) is action
        finally:
            signal.signal(signal.SIGTERM, before)

    def test_outside_of_the_main_thread_none_is_installed(self, monkeypatch):
        monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("a handler was installed"))

        def enter():
            with Interrupts() as interrupts:
                interrupts.check()
            done.append(1)

        done = []
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert done

    def test_one_that_was_installed_meanwhile_stays(self):
        before = signal.getsignal(signal.SIGINT)
        try:
            with Interrupts():
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGINT, before)


class TestRuns:
    """A signal in the middle of a commit: the worst moment, forced by raising it from within the write."""

    DAG = DAG.builder().add_nodes(["a", "b", "c"]).build()
    TASKS = {"a": lambda: 1, "b": lambda: 2, "c": lambda: 3}

    def executor(self, ckpt, **options):
        return CheckpointExecutor(self.DAG, ckpt, max_workers=1, **options)

    @pytest.mark.parametrize("pool", ["process", "inline"])
    @pytest.mark.parametrize("write", range(1, 8))
    def test_a_signal_at_any_write_ends_the_run_behind_it_and_the_checkpoint_is_whole(
        self, ckpt, seen, monkeypatch, pool, write
    ):
        class Interrupted:
            n = 0

            def __getattr__(self, name):
                return getattr(os, name)

            def write(self, fd, data):
                self.n += 1
                if self.n == write:
                    signal.raise_signal(signal.SIGINT)  # between the bytes and the note of them
                return os.write(fd, data)

        stand_in(monkeypatch, Interrupted())
        with pytest.raises(KeyboardInterrupt):
            self.executor(ckpt, pool=pool).execute(self.TASKS)
        assert seen == [signal.SIGINT]
        monkeypatch.undo()
        info = self.executor(ckpt).checkpoint_info()
        for name in info.completed_nodes:
            assert pickle.loads((ckpt / f"{name}.pkl").read_bytes()) == self.TASKS[name]()
        result = self.executor(ckpt).resume(self.TASKS)
        assert (result.succeeded, result.restored) == (3, len(info.completed_nodes))

    def test_a_task_in_this_thread_is_interrupted_at_once(self, ckpt, seen):
        def task():
            signal.raise_signal(signal.SIGINT)
            pytest.fail("it was held back")

        with pytest.raises(KeyboardInterrupt):
            self.executor(ckpt, pool="inline").execute({**self.TASKS, "b": task})
        assert self.executor(ckpt).resume(self.TASKS).restored == 1

    def test_a_callback_is_interrupted_at_once_behind_its_commit(self, ckpt, seen):
        def on_complete(name, result):
            signal.raise_signal(signal.SIGINT)
            pytest.fail("it was held back")

        with pytest.raises(KeyboardInterrupt):
            self.executor(ckpt, callbacks=ExecutionCallbacks(on_complete=on_complete)).execute(self.TASKS)
        assert self.executor(ckpt).resume(self.TASKS).restored >= 1

    def test_an_outcome_that_has_come_in_is_not_lost(self, ckpt, seen):
        def on_start(name):
            if name == "b":  # the outcome of "a" is there and not yet in the journal
                signal.raise_signal(signal.SIGINT)

        executor = self.executor(ckpt, callbacks=ExecutionCallbacks(on_start=on_start))
        with pytest.raises(KeyboardInterrupt):
            executor.execute(self.TASKS)
        assert executor.checkpoint_info().completed_nodes == ["a"]

    def test_a_run_that_waits_is_woken(self, ckpt, seen, log):
        # The task ends only when it is killed, and nothing but the signal ends the wait of the coordinator.
        def task():
            log.note("started")
            threading.Event().wait()

        def press():
            while not log.count("started"):
                threading.Event().wait(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=press)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            self.executor(ckpt).execute({**self.TASKS, "c": task})
        thread.join()
        assert self.executor(ckpt).resume(self.TASKS).restored == 2
