"""Engines: what every one promises, as far as its sheet says, and what the local one does beside that.

A new engine is added to `ENGINES`; the first three classes then hold it to the protocol.
"""

import atexit
import os
import pickle
import select
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager
from itertools import islice

import cloudpickle
import psutil
import pytest
from waiting import wait_for

from dagron import (
    DAG,
    CheckpointDamagedError,
    CheckpointExecutor,
    Flow,
    ResultNotPicklableError,
    WorkerInitError,
    WorkerStartError,
)
from dagron.checkpoint.blobs import BlobFile
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.storage import Storage
from dagron.crossing.parts import Part
from dagron.engines.attempt import WorkerSetup
from dagron.engines.inline import InlineEngine
from dagron.engines.local import board
from dagron.engines.local.board import MAX_BATCHES
from dagron.engines.local.context import Server
from dagron.engines.local.pool import ProcessPool
from dagron.engines.outcomes import NOTHING_PRINTED, Attempt, OutcomeKind
from dagron.engines.protocol import Copied, Lost, Observed, Returned, Spawned, TakesCopies, WorkerInit
from dagron.figures import NO_FIGURES
from dagron.runs.engine import choose_engine
from dagron.runs.interrupts import Interrupts
from dagron.runs.options import Options
from dagron.tasks.binding import NO_INPUTS, Binding

ENGINES = {"local": lambda setup: ProcessPool(2, setup), "inline": InlineEngine}


@pytest.fixture
def setup(ckpt):
    ckpt.mkdir()
    return WorkerSetup(str(ckpt), Digests(), durable=False)


@pytest.fixture(params=ENGINES)
def engine(request, setup):
    made = ENGINES[request.param](setup)
    yield made
    made.close()


@pytest.fixture
def pool(setup):
    made = ProcessPool(2, setup)
    yield made
    made.close()


def attempt(node, fn, *, inputs=(), binding=NO_INPUTS, retry_on=(), **options):
    return Attempt(node, f"n{node}", cloudpickle.dumps((fn, retry_on)), (), binding, inputs, **options)


def happened(engine):
    """Wait until something happened beside the start of processes, and return it."""
    return wait_for(lambda: [item for item in engine.wait(1) if not isinstance(item, Spawned)])


def ends(engine, n):
    """Wait until `n` batches have returned or been lost, and return how, in order."""
    found = []
    while len(found) < n:
        found += [item for item in happened(engine) if not isinstance(item, Copied)]
    return found


def copied(pool):
    """Wait for a batch, and return what is told of copies with it."""
    *copies, batch = happened(pool)
    assert isinstance(batch, Returned)
    return copies


def values(returned):
    return {outcome.node: pickle.loads(outcome.blob.data) for outcome in returned.outcomes}


# --- what every engine promises ------------------------------------------------------------------------------------


class TestOutcomes:
    def test_the_result_comes_with_what_the_attempt_took(self, engine):
        before = time.time()
        engine.submit(0, [attempt(7, lambda: [1, 2])])
        (returned,) = ends(engine, 1)
        (outcome,) = returned.outcomes
        assert (returned.slot, returned.unstarted) == (0, [])
        assert (outcome.node, outcome.kind, outcome.fault) == (7, OutcomeKind.COMPLETED, None)
        assert pickle.loads(outcome.blob.data) == [1, 2]
        assert before - 1 < outcome.figures.started_unix < time.time() + 1
        assert outcome.figures.duration_seconds > 0
        assert outcome.figures.peak_rss_bytes > 1_000_000

    def test_node_zero_is_one_like_the_others(self, engine):
        engine.submit(0, [attempt(0, lambda: "zero")])
        assert values(ends(engine, 1)[0]) == {0: "zero"}

    def test_an_exception_is_an_outcome_with_all_that_is_known_of_it(self, engine):
        def fails():
            raise ValueError("odd")

        for retry_on, retryable in (((), False), ((ValueError,), True)):
            engine.submit(0, [attempt(1, fails, retry_on=retry_on)])
            (outcome,) = ends(engine, 1)[0].outcomes
            assert (outcome.kind, outcome.blob) == (OutcomeKind.RAISED, None)
            assert (outcome.fault.type_name, outcome.fault.message) == ("ValueError", "odd")
            first = outcome.fault.traceback_text.splitlines()[1]
            assert first.endswith("in fails"), "it begins with the task, and not with what has called it"
            assert repr(pickle.loads(outcome.fault.exception)) == "ValueError('odd')"
            assert outcome.fault.retryable == retryable
            assert outcome.fault.pid

    @pytest.mark.parametrize("how", [SystemExit, GeneratorExit, KeyboardInterrupt])
    def test_whatever_else_a_task_raises_is_an_outcome_too(self, engine, how):
        if how is KeyboardInterrupt and isinstance(engine, InlineEngine):
            pytest.skip("there it is the user's")

        def fails():
            raise how

        engine.submit(0, [attempt(1, fails)])
        (outcome,) = ends(engine, 1)[0].outcomes
        assert (outcome.kind, outcome.fault.type_name) == (OutcomeKind.RAISED, how.__name__)

    def test_a_result_that_cannot_be_pickled_is_the_nodes_own_fault(self, engine):
        engine.submit(0, [attempt(1, threading.Lock)])
        (outcome,) = ends(engine, 1)[0].outcomes
        assert outcome.kind == OutcomeKind.UNPICKLABLE
        assert outcome.fault.type_name == "dagron.errors.ResultNotPicklableError"

    @pytest.mark.parametrize("error", [CheckpointDamagedError("dir", 3, "odd"), ResultNotPicklableError("a", "b", "c")])
    def test_errors_of_a_run_that_a_task_makes_are_what_the_task_raised(self, engine, error):
        def runs_another():
            raise error

        engine.submit(0, [attempt(1, runs_another, retry_on=(Exception,))])
        (outcome,) = ends(engine, 1)[0].outcomes
        assert (outcome.kind, outcome.fault.retryable) == (OutcomeKind.RAISED, True)

    def test_a_damaged_input_is_no_fault_of_the_task(self, engine, ckpt):
        (ckpt / "parent.pkl").write_bytes(b"damaged")
        file = BlobFile("parent.pkl", 7, bytes(32), Storage.FILE)
        engine.submit(0, [attempt(1, lambda parent: parent, inputs=(file,), binding=Binding((0,)))])
        (outcome,) = ends(engine, 1)[0].outcomes
        assert (outcome.kind, outcome.fault.retryable) == (OutcomeKind.DAMAGED_INPUT, False)

    def test_a_large_result_is_in_a_file_of_the_directory(self, engine, ckpt):
        engine.submit(0, [attempt(1, lambda: bytes(1 << 20))])
        (outcome,) = ends(engine, 1)[0].outcomes
        assert outcome.blob.data == b""
        assert outcome.blob.size == (ckpt / outcome.blob.temp_name).stat().st_size > 1 << 20

    def test_a_node_that_cannot_write_its_result_says_what_the_disk_said(self, engine, ckpt):
        def takes_the_directory_away(path):
            os.rmdir(path)
            return bytes(1 << 20)

        engine.submit(0, [attempt(1, lambda path=str(ckpt): takes_the_directory_away(path))])
        (outcome,) = ends(engine, 1)[0].outcomes
        assert outcome.kind == OutcomeKind.DISK
        assert outcome.fault.message == "the worker of node 'n1' could not write the result: No such file or directory"
        ckpt.mkdir()

    def test_parts_that_tasks_share_are_there_in_each_batch_of_each_slot_also_after_a_kill(self, engine):
        shared = Part(1, cloudpickle.dumps((lambda: "shared", ())), False)
        for killed in (False, False, True):
            for slot in range(engine.n_slots):
                if killed:
                    engine.kill(slot)
                    assert isinstance(ends(engine, 1)[0], Lost)
                engine.submit(slot, [Attempt(1, "n1", b"", (shared,), NO_INPUTS, ())])
                assert values(ends(engine, 1)[0]) == {1: "shared"}

    def test_what_an_attempt_prints_comes_with_its_outcome_where_it_is_captured(self, engine, capfd):
        def speaks(text):
            print(text)
            os.write(2, b"\xff" * 3)

        outcomes = {}
        for node, fn in ((1, lambda: speaks("one")), (2, int)):
            engine.submit(0, [attempt(node, fn)])
            (outcomes[node],) = ends(engine, 1)[0].outcomes
        if not engine.features.captures:
            assert outcomes[1].printed == NOTHING_PRINTED
            assert capfd.readouterr().out == "one\n"
            assert [*engine.output()] == []
            return
        assert outcomes[1].printed == (b"one\n", b"\xff" * 3, 4, 3)
        assert outcomes[2].printed is NOTHING_PRINTED
        assert sorted(engine.output()) == [(1, b"one\n"), (2, b"\xff" * 3)]


class TestBatches:
    def test_a_slot_takes_as_many_batches_as_its_sheet_says_and_returns_them_in_order(self, engine):
        for number in range(3):
            nodes = [engine.features.max_batches * number + i for i in range(engine.features.max_batches)]
            for node in nodes:
                engine.submit(0, [attempt(node, lambda node=node: node)])
            assert [values(returned) for returned in ends(engine, len(nodes))] == [{node: node} for node in nodes]

    def test_attempts_of_a_batch_are_made_in_order_and_none_is_forgotten(self, engine):
        nodes = [5, 3, 9] if engine.features.batches else [5]
        engine.submit(0, [attempt(node, lambda node=node: node) for node in nodes])
        made, left = [], nodes
        while left:
            (returned,) = ends(engine, 1)
            made += values(returned)
            left = returned.unstarted
            if left:
                engine.submit(0, [attempt(node, lambda node=node: node) for node in left])
        assert made == nodes

    def test_to_submit_is_not_to_wait(self, engine, ckpt):
        gate = ckpt / "gate"

        def passes(gate=str(gate)):
            while not os.path.exists(gate):
                time.sleep(0.005)  # in a task: waits for the fact

        engine.submit(0, [attempt(1, passes)])
        gate.touch()
        assert ends(engine, 1)[0].outcomes[0].kind == OutcomeKind.COMPLETED

    def test_a_wait_ends_when_nothing_happens_and_when_it_is_woken(self, engine):
        assert [item for item in engine.wait(0) if not isinstance(item, Spawned)] == []
        engine.wake()
        assert engine.wait(600) == []


class TestEnds:
    def test_a_slot_that_runs_nothing_is_seen_to_run_nothing(self, engine):
        assert engine.observe(0) == engine.observe(0, 1) == Observed()
        engine.submit(0, [attempt(1, int)])
        ends(engine, 1)
        assert engine.observe(0, 1) == Observed()

    def test_a_slot_that_is_killed_is_lost_and_works_again(self, engine):
        engine.submit(0, [attempt(1, int)])
        ends(engine, 1)
        engine.kill(0)
        (lost,) = ends(engine, 1)
        assert (lost.slot, lost.outcomes, lost.running, lost.unstarted) == (0, [], None, [])
        assert (lost.figures, lost.printed) == (NO_FIGURES, NOTHING_PRINTED)
        engine.submit(0, [attempt(2, lambda: 2)])
        assert values(ends(engine, 1)[0]) == {2: 2}

    def test_what_a_killed_slot_has_is_told_as_running_or_as_not_begun(self, engine, ckpt):
        gate = ckpt / "gate"

        def hangs(gate=str(gate)):
            while not os.path.exists(gate):
                time.sleep(0.005)  # in a task: for ever, where it can be killed

        nodes = [*range(engine.features.max_batches)]
        for node in nodes:
            engine.submit(0, [attempt(node, hangs)])
        if engine.features.kills:
            seen = wait_for(lambda: engine.observe(0, 1 if engine.features.observes_memory else None).node == 0)
            assert seen
        engine.kill(0)
        if not engine.features.kills:
            gate.touch()  # what runs comes to its own end
        (lost,) = ends(engine, 1)
        assert isinstance(lost, Lost)
        running = [] if lost.running is None else [lost.running]
        assert ([*running, *lost.unstarted], lost.outcomes) == (nodes, [])
        if engine.features.kills:
            assert running == [0]
            assert lost.figures.duration_seconds > 0
            assert lost.figures.started_unix > time.time() - 600

    def test_what_runs_is_seen_with_its_memory_where_the_sheet_says_so(self, engine):
        if not engine.features.kills:
            pytest.skip("nothing is seen of what runs in this thread")
        engine.submit(0, [attempt(3, lambda: time.sleep(600), memory_limited=True)])
        seen = wait_for(lambda: (at := engine.observe(0, 1)).node is not None and at)
        assert (seen.node, seen.before_bytes) == (3, 0)
        assert seen.seconds >= 0
        assert (seen.memory_bytes > 1_000_000) == engine.features.observes_memory
        assert engine.observe(0).memory_bytes == 0  # which was not asked for

    @pytest.mark.parametrize("how", [lambda: os._exit(3), lambda: os.kill(os.getpid(), signal.SIGKILL)])
    def test_a_death_is_of_its_attempt_alone(self, engine, how):
        if not engine.features.kills:
            pytest.skip("it would be the death of this process")

        def has_patience():  # noise must not break a later batch up before its second attempt
            from dagron.engines.local import worker

            worker._PATIENCE_SECONDS = 600

        engine.submit(0, [attempt(3, has_patience)])
        ends(engine, 1)
        engine.submit(0, [attempt(0, lambda: 0), attempt(1, how), attempt(2, int)])
        (lost,) = ends(engine, 1)
        assert ([outcome.node for outcome in lost.outcomes], lost.running, lost.unstarted) == ([0], 1, [2])
        assert lost.exit_code in (3, -9)
        engine.submit(0, [attempt(4, lambda: 4)])
        assert values(ends(engine, 1)[0]) == {4: 4}

    def test_the_first_attempt_of_a_batch_is_made_however_late_it_is(self, pool):
        def loses_patience():
            from dagron.engines.local import worker

            worker._PATIENCE_SECONDS = -1.0

        pool.submit(0, [attempt(0, loses_patience)])
        ends(pool, 1)
        pool.submit(0, [attempt(1, lambda: 1), attempt(2, int)])
        (returned,) = ends(pool, 1)
        assert (values(returned), returned.unstarted) == ({1: 1}, [2])

    def test_nothing_is_left_when_it_is_closed_and_to_close_it_again_is_no_error(self, engine):
        hangs = engine.features.kills  # else what runs is waited for
        for slot in range(engine.n_slots):
            engine.submit(slot, [attempt(slot, lambda: hangs and time.sleep(600))])
        engine.stop()
        assert [*engine.output()] == []
        engine.close()
        engine.close()

    def test_what_is_abandoned_can_be_closed(self, engine):
        engine.submit(0, [attempt(1, int)])
        engine.abandon()
        engine.close()


class TestInit:
    """What is called in each worker before its first attempt."""

    VARIABLE = "DAGRON_TEST_INIT"

    @pytest.fixture(autouse=True)
    def unset(self, monkeypatch):
        monkeypatch.setenv(self.VARIABLE, "")

    def init(self, fn):
        return WorkerInit(cloudpickle.dumps((fn, ())), ())

    def noted(self):
        def note(name=self.VARIABLE):
            os.environ[name] += "x"

        return self.init(note)

    def looks(self, node):
        return attempt(node, lambda name=self.VARIABLE: os.environ[name])

    def test_it_is_called_once_in_each_worker_and_before_the_first_attempt(self, engine):
        engine.prepare(self.noted())
        for slot in range(engine.n_slots):
            for node in range(3):
                engine.submit(slot, [self.looks(node)])
                assert values(ends(engine, 1)[0]) == {node: "x"}

    def test_it_is_called_in_the_worker_that_takes_the_place_of_a_killed_one(self, engine):
        engine.prepare(self.noted())
        for node in range(3):
            engine.submit(0, [self.looks(node)])
            assert values(ends(engine, 1)[0]) == {node: "x"}
            engine.kill(0)
            assert isinstance(ends(engine, 1)[0], Lost)

    @pytest.mark.parametrize("how", [ValueError("no model"), SystemExit(3), GeneratorExit()])
    def test_that_it_raises_is_an_error_with_its_traceback(self, engine, how):
        def fails():
            raise how

        engine.prepare(self.init(fails))
        engine.submit(0, [attempt(0, int)])
        with pytest.raises(WorkerInitError) as caught:
            ends(engine, 1)
        assert str(caught.value).startswith(f"worker_init failed: {type(how).__name__}")
        assert str(how) in str(caught.value)
        assert caught.value.traceback_text.splitlines()[1].endswith("in fails")
        assert caught.value.exit_code is None

    def test_that_it_cannot_be_unpickled_is_such_an_error(self, engine):
        engine.prepare(WorkerInit(b"cnowhere\nnothing\n.", ()))
        engine.submit(0, [attempt(0, int)])
        with pytest.raises(WorkerInitError, match="ModuleNotFoundError: No module named 'nowhere'"):
            ends(engine, 1)

    def test_it_is_part_of_no_attempt(self, engine, ckpt):
        def takes_its_time(ended=str(ckpt / "loaded")):
            print("loading")
            deadline = time.process_time() + 0.2
            while time.process_time() < deadline:
                pass
            with open(ended, "w") as file:
                file.write(repr(time.time()))

        engine.prepare(self.init(takes_its_time))
        engine.submit(0, [attempt(0, int)])
        (outcome,) = ends(engine, 1)[0].outcomes
        assert outcome.figures.started_unix >= float((ckpt / "loaded").read_text())
        assert outcome.figures.cpu_seconds < 0.2
        assert outcome.printed is NOTHING_PRINTED
        if engine.features.captures:
            assert [*engine.output()] == [(1, b"loading\n")]

    @pytest.mark.parametrize(
        ("how", "exit_code", "text"),
        [
            (lambda: os._exit(3), 3, "exited with code 3"),
            (lambda: os.kill(os.getpid(), signal.SIGSEGV), -11, r"was killed by signal 11 \(SIGSEGV\)"),
        ],
    )
    def test_that_it_ends_its_worker_is_told_at_once_with_what_it_said(self, engine, how, exit_code, text):
        if not engine.features.kills:
            pytest.skip("it would be the death of this process")

        def dies():
            os.write(2, b"no licence\n")
            how()

        engine.prepare(self.init(dies))
        engine.submit(0, [attempt(0, int)])
        with pytest.raises(WorkerInitError, match=f"its worker {text}; the last lines(?s:.)*no licence") as caught:
            ends(engine, 1)
        assert caught.value.exit_code == exit_code

    def test_while_it_goes_on_nothing_runs_and_a_kill_is_a_loss_without_blame(self, engine, ckpt):
        if not engine.features.kills:
            pytest.skip("it would go on in this thread")
        engine.prepare(
            self.init(lambda ready=str(ckpt / "ready"): (open(ready, "w").close(), print("hangs"), time.sleep(600)))
        )
        engine.submit(0, [attempt(0, int), attempt(1, int)])
        wait_for((ckpt / "ready").exists)
        seen = engine.observe(0, 1)
        assert (seen.node, seen.is_preparing) == (None, True)
        assert 0 < seen.seconds < 600
        if engine.features.captures:
            assert wait_for(lambda: [*engine.output()]) == [(1, b"hangs\n")]
        engine.kill(0)
        (lost,) = ends(engine, 1)
        assert (lost.running, lost.unstarted, lost.outcomes) == (None, [0, 1], [])


class TestSystem:
    @pytest.mark.parametrize("pool", ["process", "inline"])
    def test_where_nothing_can_be_forked_a_run_says_so_before_it_begins(self, ckpt, monkeypatch, pool):
        monkeypatch.delattr(os, "fork")
        executor = CheckpointExecutor(DAG(["a"]), ckpt, pool=pool)
        with pytest.raises(WorkerStartError, match="Windows"):
            executor.execute({"a": int})
        assert not ckpt.exists()


# --- what the inline engine does beside that -----------------------------------------------------------------------


class TestInline:
    def test_an_attempt_is_made_in_this_thread_within_what_was_given(self, setup):
        inside = []

        @contextmanager
        def around():
            inside.append("entered")
            yield
            inside.append("left")

        engine = InlineEngine(setup, around)
        engine.submit(0, [attempt(1, threading.get_ident)])
        assert inside == []
        (returned,) = engine.wait(0)
        assert (inside, values(returned)) == (["entered", "left"], {1: threading.get_ident()})

    def test_the_users_interrupt_is_not_an_outcome(self, setup):
        def interrupted():
            raise KeyboardInterrupt

        engine = InlineEngine(setup)
        engine.submit(0, [attempt(1, interrupted)])
        with pytest.raises(KeyboardInterrupt):
            engine.wait(0)


# --- what the local engine does beside that ------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["inline", "process"])
def test_what_is_known_of_an_engine_before_it_starts_is_true_of_it(setup, pool):
    chosen = choose_engine(Options(pool=pool, max_workers=3))
    engine = chosen.start(setup, Interrupts())
    try:
        assert (engine.n_slots, engine.features) == (chosen.n_slots, chosen.features)
    finally:
        engine.close()


class TestLocal:
    def test_its_sheet_is_what_its_board_has_room_for(self, pool):
        assert pool.features.max_batches == MAX_BATCHES == 2
        assert isinstance(pool, TakesCopies)

    def test_a_batch_more_than_the_board_has_room_for_is_refused(self, pool):
        for node in range(MAX_BATCHES):
            pool.submit(0, [attempt(node, lambda: time.sleep(600))])
        with pytest.raises(AssertionError, match="half of the board"):
            pool.submit(0, [attempt(9, int)])

    def test_processes_are_told_once_and_before_what_they_did(self, pool):
        pool.submit(0, [attempt(1, os.getpid)])
        spawned, (returned,) = pool.wait(30), ends(pool, 1)
        assert [type(item) for item in spawned] == [Spawned]
        (pid,) = values(returned).values()
        assert {pid, pool._server._process.pid} == spawned[0].processes.keys()
        pool.submit(0, [attempt(2, int)])
        assert all(not isinstance(item, Spawned) for item in pool.wait(30))

    def test_a_task_that_ends_by_itself_when_it_is_asked_to_ends_its_grace(self, setup, ckpt, monkeypatch):
        asked = []
        kill = Server.kill

        def noted(self, pid, grace_seconds):
            asked.append(grace_seconds)
            kill(self, pid, grace_seconds)

        monkeypatch.setattr(Server, "kill", noted)
        pool = ProcessPool(1, setup, kill_grace_seconds=3600.0)

        def obeys(ready):
            told = []
            signal.signal(signal.SIGTERM, lambda *_: told.append(1))
            open(ready, "w").close()
            while not told:
                time.sleep(0.005)  # in a task: waits for the fact

        try:
            pool.submit(0, [attempt(1, lambda ready=str(ckpt / "ready"): obeys(ready))])
            pool.submit(0, [attempt(2, int)])
            wait_for((ckpt / "ready").exists)
            pool.kill(0)
            (lost,) = ends(pool, 1)
        finally:
            pool.close()
        assert (lost.running, lost.outcomes, lost.unstarted) == (1, [], [2])
        assert asked == [3600.0, 0.0], "its worker is killed when all it had has returned, and not by the clock"

    def test_a_death_right_behind_a_batch_tells_about_both(self, pool):
        # Told of one after the other, the coordinator would send a batch after the first that the second does not know.
        pool.submit(0, [attempt(1, int)])
        pool.submit(0, [attempt(2, lambda: os._exit(3))])
        wait_for(lambda: pool._ends)  # what came before has been sent before; neither has been asked for
        (lost,) = happened(pool)
        assert [outcome.node for outcome in lost.outcomes] == [1]
        assert (lost.running, lost.exit_code, lost.unstarted) == (2, 3, [])
        pool.submit(0, [attempt(3, int)])
        (returned,) = happened(pool)
        assert [outcome.node for outcome in returned.outcomes] == [3]

    def test_a_batch_that_turns_out_to_be_long_reports_what_it_has_and_gives_back_the_rest(self, pool):
        pool.submit(0, [attempt(1, lambda: time.sleep(0.05)), attempt(2, int), attempt(3, int)])
        (returned,) = happened(pool)
        assert ([outcome.node for outcome in returned.outcomes], returned.unstarted) == ([1], [2, 3])

    def test_servers_that_start_no_worker_are_told_as_that_and_leave_nothing(self, setup, monkeypatch):
        def spawn(self, fds):
            raise WorkerStartError("the server of the workers is gone")

        monkeypatch.setattr(Server, "spawn", spawn)
        before = {child.pid for child in psutil.Process().children()}
        pool = ProcessPool(1, setup)
        with pytest.raises(WorkerStartError, match="server of the workers is gone"):
            pool.submit(0, [attempt(1, int)])
        pool.close()
        assert threading.enumerate() == [threading.main_thread()]
        assert {child.pid for child in psutil.Process().children()} <= before

    def test_copies_are_written_behind_their_batch_and_told_with_the_next(self, pool, ckpt):
        (ckpt / "old.pkl").write_bytes(b"an older result")
        pool.give_copies(0, [("new.pkl", b"new", False), ("old.pkl", b"renewed", True)])
        pool.submit(0, [attempt(1, int)])
        assert copied(pool) == []
        pool.submit(0, [attempt(2, int)])
        assert copied(pool) == [Copied(0, 2, refused=False)]
        assert (ckpt / "new.pkl").read_bytes() == b"new"
        assert (ckpt / "old.pkl").read_bytes() == b"renewed"
        pool.submit(0, [attempt(3, int)])
        assert copied(pool) == []

    def test_a_worker_that_cannot_write_copies_says_so_and_writes_no_more(self, pool, ckpt):
        (ckpt / "taken.pkl").mkdir()
        told = []
        for i, copies in enumerate([[("taken.pkl", b"1", False)], [("free.pkl", b"2", False)], []], 1):
            pool.give_copies(0, copies)
            pool.submit(0, [attempt(i, int)])
            told.append(copied(pool))
        assert told == [[], [Copied(0, 0, refused=True)], [Copied(0, 0, refused=True)]]
        assert not (ckpt / "free.pkl").exists()

    def test_a_death_is_told_alone_before_what_else_has_happened(self, pool):
        # Else what has returned could bring the slot of the dead a batch that its report knows nothing of.
        for slot, fn in enumerate([int, lambda: os._exit(7)]):
            pool.submit(slot, [attempt(slot, fn)])
        wait_for(lambda: pool._ends and select.select([pool._slots[0].channel.fd], [], [], 0)[0])
        assert [[(type(item).__name__, item.slot) for item in happened(pool)] for _ in range(2)] == [
            [("Lost", 1)],
            [("Returned", 0)],
        ]


class TestReplacedWorkers:
    """After so many attempts a worker makes place for another, and nobody is blamed for it."""

    @pytest.fixture
    def make(self, setup):
        made = []

        def make(max_tasks, n_slots=1):
            made.append(ProcessPool(n_slots, setup, max_tasks=max_tasks))
            return made[-1]

        yield make
        for pool in made:
            pool.close()

    def pids(self, pool, sizes):
        """Let a slot make batches of these sizes, as many at a time as it takes, and return who made which node."""
        nodes = iter(range(sum(sizes)))
        made, waiting, left = {}, [[*islice(nodes, size)] for size in sizes], []
        while waiting or left:
            while waiting and len(left) < pool.features.max_batches:
                left.append(batch := waiting.pop(0))
                pool.submit(0, [attempt(node, os.getpid) for node in batch])
            for returned in ends(pool, 1):
                assert isinstance(returned, Returned)
                assert [*(outcome.node for outcome in returned.outcomes), *returned.unstarted] == left.pop(0)
                made |= values(returned)
                if returned.unstarted:
                    waiting.append(returned.unstarted)
        return made

    @pytest.mark.parametrize("max_tasks", [1, 2, 3, 7])
    @pytest.mark.parametrize("sizes", [[1] * 8, [8], [5, 3], [2, 2, 2, 2], [3, 1, 4]])
    def test_none_makes_more_attempts_than_it_may_and_none_is_forgotten(self, make, max_tasks, sizes):
        made = self.pids(make(max_tasks), sizes)
        assert made.keys() == set(range(8))
        by_worker = Counter(made.values())
        assert max(by_worker.values()) <= max_tasks
        assert len(by_worker) >= -(-8 // max_tasks)

    def test_one_that_has_made_all_its_attempts_ends_by_itself_while_the_slot_is_idle(self, make, ckpt):
        def registers(path):
            atexit.register(lambda: open(path, "w").close())
            return os.getpid()

        pool = make(1)
        pool.submit(0, [attempt(1, lambda path=str(ckpt / "said goodbye"): registers(path))])
        (pid,) = values(ends(pool, 1)[0]).values()
        wait_for(lambda: not psutil.pid_exists(pid))
        assert (ckpt / "said goodbye").exists()
        assert pool.wait(0) == []

    def test_one_that_does_not_go_is_killed(self, make, monkeypatch):
        monkeypatch.setattr("dagron.engines.local.spent._GOODBYE_SECONDS", 0.0)
        pool = make(1)

        def hangs():
            atexit.register(time.sleep, 600)
            return os.getpid()

        pool.submit(0, [attempt(1, hangs)])
        (pid,) = values(ends(pool, 1)[0]).values()
        wait_for(lambda: pool.wait(0.01) == [] and not psutil.pid_exists(pid))
        wait_for(lambda: pool.wait(0.01) == [] and not pool._leaving)

    def test_each_is_prepared_and_none_is_that_was_not_needed(self, make, ckpt):
        def notes(directory=str(ckpt)):
            open(f"{directory}/init-{os.getpid()}", "w").close()

        pool = make(2)
        pool.prepare(WorkerInit(cloudpickle.dumps((notes, ())), ()))
        made = self.pids(pool, [1] * 4)
        assert {path.name for path in ckpt.glob("init-*")} == {f"init-{pid}" for pid in made.values()}

    def test_a_kill_takes_what_waits_for_the_next_worker_with_it(self, make, ckpt):
        pool = make(1)
        pool.submit(0, [attempt(1, lambda ready=str(ckpt / "ready"): (open(ready, "w").close(), time.sleep(600)))])
        pool.submit(0, [attempt(2, int)])
        wait_for((ckpt / "ready").exists)
        with pytest.raises(AssertionError, match="half of the board"):
            pool.submit(0, [attempt(3, int)])
        pool.kill(0)
        (lost,) = ends(pool, 1)
        assert (lost.running, lost.unstarted) == (1, [2])
        pool.submit(0, [attempt(2, lambda: "two")])
        assert values(ends(pool, 1)[0]) == {2: "two"}

    def test_a_slot_whose_worker_is_gone_can_be_killed(self, make):
        pool = make(1)
        pool.submit(0, [attempt(1, int)])
        ends(pool, 1)
        pool.kill(0)
        (lost,) = ends(pool, 1)
        assert (lost.running, lost.unstarted, lost.outcomes) == (None, [], [])
        pool.submit(0, [attempt(2, lambda: 2)])
        assert values(ends(pool, 1)[0]) == {2: 2}

    def test_the_copies_that_came_with_the_last_batch_are_told_with_it(self, make, ckpt):
        pool = make(2)
        for node in (1, 2, 3):
            pool.give_copies(0, [(f"{node}.pkl", b"copy", False)])
            pool.submit(0, [attempt(node, int)])
            assert copied(pool) == ([Copied(0, 2, refused=False)] if node == 2 else [])
        assert (ckpt / "2.pkl").exists()

    def test_that_the_last_ones_could_not_be_written_is_told_with_it(self, make, ckpt):
        (ckpt / "taken.pkl").mkdir()
        pool = make(1)
        pool.give_copies(0, [("taken.pkl", b"copy", False)])
        pool.submit(0, [attempt(1, int)])
        assert copied(pool) == [Copied(0, 0, refused=True)]
        pool.give_copies(0, [("free.pkl", b"copy", False)])
        pool.submit(0, [attempt(2, int)])
        assert copied(pool) == [Copied(0, 1, refused=False)]

    def test_nothing_is_left_of_those_that_are_just_leaving(self, make):
        pool = make(1, n_slots=2)
        for slot in range(2):
            pool.submit(slot, [attempt(slot, os.getpid)])
        pids = [pid for returned in ends(pool, 2) for pid in values(returned).values()]
        pool.close()
        assert not any(map(psutil.pid_exists, pids))
        assert threading.enumerate() == [threading.main_thread()]


def test_no_two_places_in_the_head_of_a_board_overlap():
    sizes = {
        0: board._RUNNING.size,
        board._COUNT_AT[0]: board._COUNT.size,
        board._COUNT_AT[1]: board._COUNT.size,
        board._INIT_AT: board._INIT.size,
        board._TELLING_AT: 1,
        board._LOADS_AT: board._LOADS.size,
        board._DAMAGE_AT[0]: 1,
        board._DAMAGE_AT[1]: 1,
    }
    ends = [at + sizes[at] for at in sorted(sizes)]
    assert all(end <= start for end, start in zip(ends, [*sorted(sizes)[1:], board._HEAD_BYTES], strict=True))


@pytest.mark.parametrize("jump", [8 * 3600.0, -1e9], ids=["the machine slept", "the clock was set to 1970 or so"])
def test_an_attempt_ended_when_it_ended_whatever_became_of_the_clock_meanwhile(ckpt, monkeypatch, jump):
    clock, late = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: clock() + late[0])
    flow = Flow()
    node = flow.add("a", lambda: late.__setitem__(0, jump))
    found = flow.run(ckpt, pool="inline")[node]
    assert abs(found.ended_unix - time.time()) < 60.0
    assert 0.0 < found.duration_seconds < 60.0


def test_durations_are_told_by_a_clock_that_stands_still_while_the_machine_sleeps():
    # clock_gettime(2) has CLOCK_BOOTTIME for the other one; mach_absolute_time does not count either.
    assert time.get_clock_info("perf_counter").implementation in (
        "clock_gettime(CLOCK_MONOTONIC)",
        "mach_absolute_time()",
    )
