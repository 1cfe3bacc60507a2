"""The run's state machine: whole command lists, the numbered invariants after every event, and a model of the outcome.

`Run` checks the invariants after every event and each change of a phase, so every test here does. Nodes are numbers,
and time is an argument.
"""

from __future__ import annotations

import copy
import random
import sys
from array import array
from collections import deque
from itertools import cycle

import pytest
from hypothesis import Phase as HypothesisPhase
from hypothesis import given, settings
from hypothesis import strategies as st
from invariants import check_invariants, checked

from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.reading.packed import PackedCommits
from dagron.errors import InternalError
from dagron.graph.dag import DAG
from dagron.runs.events import (
    AttemptEnded,
    BatchReturned,
    CancelRequested,
    Changed,
    CommitFailures,
    CommitResults,
    Committed,
    Dispatch,
    End,
    Invalidate,
    Kill,
    NoteLoss,
    Observe,
    Restore,
    Retry,
    Skip,
    SlotLost,
    SlotObserved,
    Started,
    TimeReached,
)
from dagron.runs.phases import TRANSITIONS, Phase
from dagron.runs.policy import Policy
from dagron.runs.ready import BATCH_SECONDS, MAX_BATCH_NODES, PLENTY, PLENTY_PREFETCH_SECONDS, PREFETCH_SECONDS
from dagron.runs.restore import plan_restore
from dagron.runs.state import RunState


class FixedJitter(random.Random):
    """Gives the same fraction every time."""

    fraction = 0.0

    def random(self):
        return self.fraction


def dag_of(n, edges=()):
    return DAG([str(i) for i in range(n)], [(str(parent), str(child)) for parent, child in edges])


def state_of(n, edges=(), *, policies=None, kinds=None, n_slots=1, rng=None, **options):
    policies = policies or {}
    return RunState(
        dag_of(n, edges),
        policies=[policies.get(node, Policy()) for node in range(n)] if isinstance(policies, dict) else policies,
        # Each node of a kind of its own: nothing is known about any of them, so they go one by one.
        kinds=range(n) if kinds is None else kinds,
        n_slots=n_slots,
        rng=rng or FixedJitter(),
        **options,
    )


def completed(node, seconds=1.0):
    return AttemptEnded(node, True, False, seconds)


def raised(node, retryable=True):
    return AttemptEnded(node, False, retryable, 1.0)


def noted(node, end=End.LOST, attempt=1, memory=0):
    return NoteLoss(node, attempt, end, memory)


class Run:
    """A run driven by hand. Each method hands in one event and returns the commands."""

    def __init__(self, n, edges=(), **options):
        self.state = checked(state_of(n, edges, **options))
        check_invariants(self.state)

    def handle(self, event):
        commands = self.state.handle(event)
        check_invariants(self.state)
        return commands

    def start(self, now=0.0):
        return self.handle(Started(now))

    def returned(self, slot, *ended, unstarted=(), now=0.0):
        return self.handle(BatchReturned(slot, ended, unstarted, now))

    def lost(self, slot, *ended, running=None, unstarted=(), now=0.0):
        return self.handle(SlotLost(slot, ended, running, unstarted, now))

    def changed(self, *nodes):
        return self.handle(Changed(nodes))

    def committed(self, *nodes, now=0.0):
        return self.handle(Committed(nodes, now))

    def observed(self, slot, node, seconds, now, memory=0, before=0):
        return self.handle(SlotObserved(slot, node, seconds, now, memory, before))

    def time(self, now):
        return self.handle(TimeReached(now))

    def cancel(self, now=0.0, *, timed_out=False):
        return self.handle(CancelRequested(now, timed_out))

    def complete(self, slot, node, seconds=1.0, changed=()):
        """Return a batch of one completed node, commit it, and give back what follows from the commit."""
        commands = self.returned(slot, completed(node, seconds))
        assert CommitResults((node,)) in commands
        invalidated = self.changed(*changed) if changed else []
        return [*invalidated, *self.committed(node)]

    def fail(self, slot, node):
        """Return a batch of one node that failed for good, commit it, and give back what follows from that."""
        commands = self.returned(slot, raised(node, retryable=False))
        assert CommitFailures((node,)) in commands
        return self.committed(node)

    @property
    def phases(self):
        return [Phase(phase).name for phase in self.state.phase]


class TestExclusive:
    ALONE = Policy(exclusive=True)

    def test_it_waits_for_the_end_of_what_runs_and_what_comes_next_waits_for_its_end(self):
        run = Run(4, policies={1: self.ALONE}, n_slots=2)
        assert run.start() == [Dispatch(0, (0,))]  # the second is next, so the third may not pass it
        assert run.returned(0, completed(0)) == [CommitResults((0,)), Dispatch(0, (1,))]
        assert run.committed(0) == []
        assert run.returned(0, completed(1)) == [CommitResults((1,)), Dispatch(0, (2,)), Dispatch(1, (3,))]

    def test_two_of_them_run_one_after_the_other_and_share_no_batch(self):
        run = Run(4, [(0, 1), (0, 2), (0, 3)], kinds=[0] * 4, policies={1: self.ALONE, 2: self.ALONE}, n_slots=2)
        assert run.start() == [Dispatch(0, (0,))]
        assert run.complete(0, 0, seconds=1e-6) == [Dispatch(0, (1,))]
        assert run.returned(0, completed(1, 1e-6)) == [CommitResults((1,)), Dispatch(0, (2,))]
        assert run.returned(0, completed(2, 1e-6)) == [CommitResults((2,)), Dispatch(0, (3,))]

    def test_what_stands_before_it_is_still_batched(self):
        run = Run(5, [(0, n) for n in range(1, 5)], kinds=[0] * 5, policies={3: self.ALONE}, n_slots=1)
        run.start()
        assert run.complete(0, 0, seconds=1e-6) == [Dispatch(0, (1, 2))]

    def test_a_worker_that_dies_beside_nothing_makes_room_again(self):
        run = Run(2, policies={0: Policy(exclusive=True, retries=1, retry_delay=0.0)}, n_slots=2)
        assert run.start() == [Dispatch(0, (0,))]
        assert run.lost(0, running=0, now=1.0) == [noted(0), Retry(0, 0.0), Dispatch(0, (1,))]
        assert run.time(9.0) == []
        assert run.returned(0, completed(1), now=9.0) == [CommitResults((1,)), Dispatch(0, (0,))]


class TestStart:
    def test_a_run_without_nodes_is_finished_at_once(self):
        run = Run(0)
        assert run.start() == []
        assert run.state.finished

    def test_nodes_without_parents_go_to_idle_slots_in_order(self):
        run = Run(4, [(0, 3)], n_slots=2)
        assert run.start() == [Dispatch(0, (0,)), Dispatch(1, (1,))]
        assert run.phases == ["RUNNING", "RUNNING", "READY", "WAITING"]
        assert not run.state.finished
        assert run.state.n_running == 2
        assert run.state.wake_at is None

    def test_slots_without_work_stay_idle(self):
        assert Run(1, n_slots=3).start() == [Dispatch(0, (0,))]

    def test_the_higher_priority_goes_first_and_the_lower_index_among_equals(self):
        policies = {0: Policy(priority=-1), 2: Policy(priority=7), 3: Policy(priority=7)}
        run = Run(4, policies=policies, n_slots=4)
        assert run.start() == [Dispatch(0, (2,)), Dispatch(1, (3,)), Dispatch(2, (1,)), Dispatch(3, (0,))]

    def test_the_higher_priority_goes_first_also_if_it_becomes_ready_later(self):
        run = Run(4, [(0, 3)], policies={3: Policy(priority=1)})
        assert run.start() == [Dispatch(0, (0,))]
        assert run.returned(0, completed(0)) == [CommitResults((0,)), Dispatch(0, (1,))]
        assert run.committed(0) == []
        assert run.returned(0, completed(1)) == [CommitResults((1,)), Dispatch(0, (3,))]

    #  Node 4 comes before all others and is ready once 0 is committed; 2 is ready before.
    URGENT = (5, [(0, 4)])

    def test_a_slot_waits_for_a_commit_that_makes_a_more_urgent_node_ready(self):
        run = Run(*self.URGENT, policies={4: Policy(priority=1)}, n_slots=2)
        run.start()
        assert run.returned(0, completed(0)) == [CommitResults((0,))]
        assert run.committed(0) == [Dispatch(0, (4,))]
        assert run.returned(1, completed(1)) == [CommitResults((1,)), Dispatch(1, (2,))]

    def test_a_slot_does_not_wait_for_a_child_that_comes_later_or_has_another_parent(self):
        run = Run(*self.URGENT, n_slots=2)
        run.start()
        assert run.returned(0, completed(0)) == [CommitResults((0,)), Dispatch(0, (2,))]
        run = Run(5, [(0, 4), (1, 4)], policies={4: Policy(priority=1)}, n_slots=2)
        run.start()
        assert run.returned(0, completed(0)) == [CommitResults((0,)), Dispatch(0, (2,))]

    @pytest.mark.parametrize(("commit_seconds", "waits"), [(0.001, True), (0.5, False)])
    def test_a_slot_does_not_wait_for_a_commit_that_takes_long_beside_the_nodes(self, commit_seconds, waits):
        run = Run(6, [(1, 5)], policies={5: Policy(priority=1)}, n_slots=2)
        run.start()
        run.returned(0, completed(0))
        run.committed(0, now=commit_seconds)
        later = [] if waits else [Dispatch(1, (3,))]
        assert run.returned(1, completed(1), now=1.0) == [CommitResults((1,)), *later]

    def test_if_all_are_restored_nothing_is_commanded(self):
        run = Run(2, [(0, 1)], restored=[0, 1])
        assert run.start() == []
        assert run.state.finished
        assert run.state.n_restored == 2

    def test_children_of_restored_nodes_are_dispatched(self):
        run = Run(3, [(0, 1), (0, 2)], restored=[0], n_slots=2)
        assert run.start() == [Dispatch(0, (1,)), Dispatch(1, (2,))]

    def test_a_restored_child_of_a_node_that_runs_stays_as_it_is(self):
        run = Run(3, [(0, 1), (1, 2)], restored=[1, 2])
        assert run.start() == [Dispatch(0, (0,))]
        assert run.complete(0, 0, changed=[0]) == []
        assert run.state.finished
        assert run.phases == ["COMPLETED"] * 3


class TestCompleted:
    def test_children_wait_for_the_commit(self):
        run = Run(3, [(0, 1), (0, 2)], n_slots=2)
        run.start()
        assert run.returned(0, completed(0)) == [CommitResults((0,))]
        assert run.phases == ["COMMITTING", "WAITING", "WAITING"]
        assert not run.state.finished
        assert run.committed(0) == [Dispatch(0, (1,)), Dispatch(1, (2,))]
        assert run.phases == ["COMPLETED", "RUNNING", "RUNNING"]

    def test_a_child_waits_for_all_of_its_parents(self):
        run = Run(3, [(0, 2), (1, 2)], n_slots=2)
        run.start()
        assert run.complete(0, 0) == []
        assert run.complete(1, 1) == [Dispatch(0, (2,))]

    def test_the_slot_is_filled_before_the_commit(self):
        run = Run(2)
        run.start()
        assert run.returned(0, completed(0)) == [CommitResults((0,)), Dispatch(0, (1,))]

    def test_several_nodes_are_committed_with_one_event(self):
        run = Run(4, [(0, 2), (1, 3)], n_slots=2)
        run.start()
        run.returned(1, completed(1))
        run.returned(0, completed(0))
        assert run.committed(1, 0) == [Dispatch(0, (2,)), Dispatch(1, (3,))]

    def test_a_batch_with_every_kind_of_end_gives_one_command_for_each(self):
        run = Run(
            7, [(0, node) for node in range(1, 7)], kinds=[0] * 7, policies={3: Policy(retries=1, retry_delay=5.0)}
        )
        run.start()
        assert run.complete(0, 0, BATCH_SECONDS / 6) == [Dispatch(0, (1, 2, 3, 4, 5, 6))]
        ended = [completed(1), raised(2), raised(3), completed(4)]
        assert run.returned(0, *ended, unstarted=[5, 6], now=1.0) == [
            Retry(3, 5.0),
            CommitResults((1, 4)),
            CommitFailures((2,)),
            Dispatch(0, (5,)),  # alone: the kind is known for long ones by now
        ]
        assert run.phases[1:] == ["COMMITTING", "COMMITTING", "BACKOFF", "COMMITTING", "RUNNING", "READY"]
        assert list(run.state.attempts) == [1, 1, 1, 1, 1, 1, 0]
        assert run.state.wake_at == 6.0

    def test_a_node_is_failing_until_its_failure_is_committed(self):
        run = Run(1)
        run.start()
        assert run.returned(0, raised(0)) == [CommitFailures((0,))]
        assert run.phases == ["COMMITTING"]
        assert run.state._failing[0] == Phase.FAILED
        assert not run.state.finished
        assert run.committed(0) == []
        assert run.phases == ["FAILED"]
        assert run.state.finished


class TestRetries:
    def test_a_further_attempt_waits_for_its_time(self):
        run = Run(1, policies={0: Policy(retries=1, retry_delay=2.0)})
        run.start()
        assert run.returned(0, raised(0), now=10.0) == [Retry(0, 2.0)]
        assert run.phases == ["BACKOFF"]
        assert run.state.wake_at == 12.0
        assert not run.state.finished
        assert run.time(11.9) == []
        assert run.time(12.0) == [Dispatch(0, (0,))]
        assert run.state.wake_at is None
        assert run.state.attempts[0] == 2

    def test_the_delay_doubles(self):
        run = Run(1, policies={0: Policy(retries=4, retry_delay=3.0)})
        run.start()
        delays = []
        for _ in range(4):
            (retry,) = run.returned(0, raised(0), now=100.0)
            assert retry == Retry(0, run.state.wake_at - 100.0)
            delays.append(retry.delay_seconds)
            assert run.time(run.state.wake_at) == [Dispatch(0, (0,))]
        assert delays == [3.0, 6.0, 12.0, 24.0]
        assert run.returned(0, raised(0)) == [CommitFailures((0,))]

    def test_the_jitter_is_at_most_a_quarter(self):
        jitter = FixedJitter()
        jitter.fraction = 1.0
        run = Run(1, policies={0: Policy(retries=1, retry_delay=2.0)}, rng=jitter)
        run.start()
        run.returned(0, raised(0), now=10.0)
        assert run.state.wake_at == 12.5

    def test_without_a_delay_the_node_waits_for_the_next_event(self):
        run = Run(1, policies={0: Policy(retries=1)})
        run.start()
        assert run.returned(0, raised(0), now=1.0) == [Retry(0, 0.0)]
        assert run.state.wake_at == 1.0
        assert run.time(1.0) == [Dispatch(0, (0,))]

    def test_the_earliest_of_several_wakes_the_run(self):
        policies = {0: Policy(retries=1, retry_delay=9.0), 1: Policy(retries=1, retry_delay=4.0)}
        run = Run(2, policies=policies, n_slots=2)
        run.start()
        run.returned(0, raised(0))
        run.returned(1, raised(1))
        assert run.state.wake_at == 4.0
        assert run.time(4.0) == [Dispatch(0, (1,))]
        assert run.state.wake_at == 9.0
        assert run.time(9.0) == [Dispatch(1, (0,))]

    def test_what_is_not_worth_a_retry_fails_at_once(self):
        run = Run(1, policies={0: Policy(retries=5)})
        run.start()
        assert run.returned(0, raised(0, retryable=False)) == [CommitFailures((0,))]

    def test_retries_count_the_further_attempts(self):
        run = Run(1, policies={0: Policy(retries=2)})
        run.start()
        for _ in range(2):
            assert run.returned(0, raised(0)) == [Retry(0, 0.0)]
            assert run.time(0.0) == [Dispatch(0, (0,))]
        assert run.returned(0, raised(0)) == [CommitFailures((0,))]
        assert run.state.attempts[0] == 3

    def test_children_wait_through_the_retries(self):
        run = Run(2, [(0, 1)], policies={0: Policy(retries=1)})
        run.start()
        run.returned(0, raised(0))
        run.time(0.0)
        assert run.complete(0, 0) == [Dispatch(0, (1,))]
        assert run.phases == ["COMPLETED", "RUNNING"]

    def test_another_node_uses_the_slot_meanwhile(self):
        run = Run(2, policies={0: Policy(retries=1, retry_delay=1.0)})
        run.start()
        assert run.returned(0, raised(0)) == [Retry(0, 1.0), Dispatch(0, (1,))]
        assert run.time(1.0) == []
        assert run.returned(0, completed(1)) == [CommitResults((1,)), Dispatch(0, (0,))]

    def test_sixty_six_thousand_retries_are_carried_out(self):
        # Someone polls with retry_delay=1.0 for a day.
        state = state_of(1, policies={0: Policy(retries=66_000)})
        state.handle(Started(0.0))
        for _ in range(66_000):
            assert state.handle(BatchReturned(0, [raised(0)], (), 0.0)) == [Retry(0, 0.0)]
            assert state.handle(TimeReached(0.0)) == [Dispatch(0, (0,))]
        assert state.attempts[0] == 66_001
        assert state.handle(BatchReturned(0, [raised(0)], (), 0.0)) == [CommitFailures((0,))]


class TestLostWorkers:
    def test_what_it_ran_failed(self):
        run = Run(2, n_slots=1)
        run.start()
        assert run.lost(0, running=0) == [noted(0), CommitFailures((0,)), Dispatch(0, (1,))]
        assert run.state._failing[0] == Phase.FAILED

    def test_what_it_ran_is_tried_again(self):
        run = Run(1, policies={0: Policy(retries=1)})
        run.start()
        assert run.lost(0, running=0) == [noted(0), Retry(0, 0.0)]
        assert run.time(0.0) == [Dispatch(0, (0,))]
        assert run.state.attempts[0] == 2

    def test_the_other_slots_are_left_alone(self):
        run = Run(2, n_slots=2)
        run.start()
        assert run.lost(0, running=0) == [noted(0), CommitFailures((0,))]
        assert run.phases == ["COMMITTING", "RUNNING"]
        assert run.returned(1, completed(1)) == [CommitResults((1,))]

    def test_what_had_ended_is_committed_and_what_was_not_begun_is_put_back_unblamed(self):
        run = Run(6, [(0, node) for node in range(1, 6)], kinds=[0] * 6)
        run.start()
        assert run.complete(0, 0, BATCH_SECONDS / 5) == [Dispatch(0, (1, 2, 3, 4, 5))]
        assert run.lost(0, completed(1, 0.0), completed(2, 0.0), running=3, unstarted=[4, 5]) == [
            noted(3),
            CommitResults((1, 2)),
            CommitFailures((3,)),
            Dispatch(0, (4, 5)),
        ]
        assert list(run.state.attempts) == [1, 1, 1, 1, 1, 1]

    def test_a_death_between_two_nodes_blames_nobody(self):
        run = Run(1)
        run.start()
        assert run.lost(0, unstarted=[0]) == [Dispatch(0, (0,))]
        assert run.state.attempts[0] == 1

    def test_the_death_of_an_idle_worker_blames_nobody(self):
        run = Run(2, n_slots=3)
        run.start()
        assert run.lost(2) == []
        assert run.phases == ["RUNNING", "RUNNING"]

    def test_both_batches_of_the_slot_come_back(self):
        run = known_short(12, seconds=BATCH_SECONDS / 2)
        assert run.commands == [Dispatch(0, (1, 2)), Dispatch(0, (3, 4))]
        assert run.lost(0, completed(1, 0.0), running=2, unstarted=[3, 4]) == [
            noted(2),
            CommitResults((1,)),
            CommitFailures((2,)),
            Dispatch(0, (3, 4)),
            Dispatch(0, (5, 6)),
        ]
        assert run.state.attempts[3] == 1


class TestTimeouts:
    def one(self, **options):
        run = Run(2, policies={0: Policy(timeout=10.0, **options), 1: Policy(timeout=10.0)})
        assert run.start(now=100.0) == [Dispatch(0, (0,))]
        assert run.state.wake_at == 110.0
        return run

    def test_the_slot_is_looked_at_when_the_first_timeout_may_be_due(self):
        run = self.one()
        assert run.time(109.0) == []
        assert run.time(110.0) == [Observe(0)]

    def test_a_node_that_began_later_gets_the_rest_of_its_time(self):
        run = self.one()
        assert run.observed(0, 0, 7.0, now=110.0) == []
        assert run.state.wake_at == 113.0
        assert run.time(113.0) == [Observe(0)]

    def test_between_two_nodes_the_slot_is_looked_at_again(self):
        run = self.one()
        assert run.observed(0, None, 0.0, now=110.0) == []
        assert run.state.wake_at == 120.0

    def test_a_node_that_ran_too_long_is_killed_and_has_timed_out(self):
        run = self.one()
        assert run.observed(0, 0, 10.0, now=110.0) == [Kill(0, 0, End.TIMED_OUT)]
        assert run.state.wake_at is None
        assert run.lost(0, running=0, now=110.5) == [
            noted(0, End.TIMED_OUT),
            CommitFailures((0,)),
            Dispatch(0, (1,)),
        ]
        assert run.state._failing[0] == Phase.TIMED_OUT
        assert run.committed(0) == []
        assert run.phases == ["TIMED_OUT", "RUNNING"]

    def test_a_node_that_ran_too_long_is_tried_again(self):
        run = self.one(retries=1, retry_delay=3.0)
        assert run.observed(0, 0, 11.0, now=111.0) == [Kill(0, 0, End.TIMED_OUT)]
        assert run.lost(0, running=0, now=112.0) == [noted(0, End.TIMED_OUT), Retry(0, 3.0), Dispatch(0, (1,))]
        assert run.phases[0] == "BACKOFF"
        assert run.state.wake_at == 115.0

    def test_a_slot_is_killed_once(self):
        run = self.one()
        assert run.observed(0, 0, 10.0, now=110.0) == [Kill(0, 0, End.TIMED_OUT)]
        assert run.observed(0, 0, 20.0, now=120.0) == []
        assert run.time(200.0) == []

    def test_a_killed_slot_gets_no_work_before_its_worker_is_gone(self):
        run = self.one()
        run.observed(0, 0, 10.0, now=110.0)
        assert run.returned(0, completed(0)) == [CommitResults((0,))]
        assert run.committed(0) == []
        assert run.phases == ["COMPLETED", "READY"]
        assert run.lost(0) == [Dispatch(0, (1,))]

    def test_a_node_that_ended_before_the_kill_keeps_its_outcome_and_the_next_one_is_put_back_unblamed(self):
        policies = {node: Policy(timeout=10.0) for node in range(1, 4)}
        run = Run(4, [(0, node) for node in range(1, 4)], kinds=[0] * 4, policies=policies)
        run.start()
        assert run.complete(0, 0, BATCH_SECONDS / 3) == [Dispatch(0, (1, 2, 3))]
        assert run.observed(0, 1, 10.0, now=10.0) == [Kill(0, 1, End.TIMED_OUT)]
        assert run.lost(0, completed(1, 0.0), running=2, unstarted=[3], now=11.0) == [
            noted(2, End.PUT_BACK),
            CommitResults((1,)),
            Dispatch(0, (2, 3)),
        ]
        assert run.phases == ["COMPLETED", "COMMITTING", "RUNNING", "RUNNING"]
        assert list(run.state.attempts) == [1, 1, 1, 1]

    def test_in_a_batch_only_the_one_that_ran_too_long_is_blamed(self):
        policies = {node: Policy(timeout=10.0) for node in range(1, 4)}
        run = Run(4, [(0, node) for node in range(1, 4)], kinds=[0] * 4, policies=policies)
        run.start()
        run.complete(0, 0, BATCH_SECONDS / 3)
        assert run.observed(0, 2, 10.0, now=10.0) == [Kill(0, 2, End.TIMED_OUT)]
        assert run.lost(0, completed(1, 0.0), running=2, unstarted=[3], now=11.0) == [
            noted(2, End.TIMED_OUT),
            CommitResults((1,)),
            CommitFailures((2,)),
            Dispatch(0, (3,)),
        ]
        assert run.state._failing[2] == Phase.TIMED_OUT

    def test_a_node_without_a_timeout_is_never_killed(self):
        run = Run(1)
        run.start()
        assert run.observed(0, 0, 1e9, now=1e9) == []
        assert run.state.wake_at is None

    def test_the_shortest_timeout_in_a_batch_decides_when_to_look(self):
        policies = {1: Policy(timeout=50.0), 2: Policy(timeout=5.0)}
        run = Run(3, [(0, 1), (0, 2)], kinds=[0] * 3, policies=policies)
        run.start()
        assert run.complete(0, 0, BATCH_SECONDS / 3) == [Dispatch(0, (1, 2))]
        assert run.state.wake_at == 5.0

    def test_the_shortest_timeout_in_a_batch_decides_when_to_look_again(self):
        policies = {1: Policy(timeout=50.0), 2: Policy(timeout=5.0)}
        run = Run(3, [(0, 1), (0, 2)], kinds=[0] * 3, policies=policies)
        run.start()
        run.complete(0, 0, BATCH_SECONDS / 3)
        # The next one may begin right after this look.
        assert run.observed(0, 1, 1.0, now=6.0) == []
        assert run.state.wake_at == 11.0
        assert run.observed(0, 2, 1.0, now=11.0) == []
        assert run.state.wake_at == 15.0

    def test_the_timeout_of_a_node_that_is_over_wakes_nobody(self):
        run = Run(2, policies={0: Policy(timeout=5.0), 1: Policy(timeout=50.0)})
        run.start(now=0.0)
        assert run.returned(0, completed(0), now=1.0) == [CommitResults((0,)), Dispatch(0, (1,))]
        assert run.state.wake_at == 51.0

    def test_the_shortest_timeout_in_two_batches_decides_when_to_look(self):
        # Otherwise a node that hangs is noticed only when the longer timeout of another one is over.
        policies = {1: Policy(timeout=500.0), 2: Policy(timeout=5.0)}
        run = Run(3, [(0, 1), (0, 2)], kinds=[0] * 3, policies=policies)
        run.start()
        assert run.complete(0, 0, BATCH_SECONDS) == [Dispatch(0, (1,)), Dispatch(0, (2,))]
        assert run.returned(0, completed(1, BATCH_SECONDS)) == [CommitResults((1,))]
        assert run.state.wake_at == 5.0


class TestMemory:
    LIMIT = 8_000_000_000

    def one(self, **options):
        run = Run(2, policies={0: Policy(memory_limit=self.LIMIT, **options), 1: Policy(memory_limit=3)})
        assert run.start(now=100.0) == [Dispatch(0, (0,))]
        return run

    def test_the_slot_is_looked_at_ten_times_a_second_with_the_limit_in_mind(self):
        run = self.one()
        assert run.state.wake_at == 100.1
        assert run.time(100.1) == [Observe(0, self.LIMIT)]
        assert run.observed(0, 0, 0.1, now=100.1, memory=1) == []
        assert run.state.wake_at == pytest.approx(100.2)

    @pytest.mark.parametrize(("free", "seconds"), [(400_000_000, 0.05), (1, 0.005), (0, 0.005)])
    def test_it_is_looked_at_sooner_the_less_is_free(self, free, seconds):
        run = self.one()
        assert run.observed(0, 0, 0.1, now=200.0, memory=self.LIMIT - free) == []
        assert run.state.wake_at == pytest.approx(200.0 + seconds)

    def test_a_node_with_more_is_killed_and_has_failed(self):
        run = self.one()
        assert run.observed(0, 0, 0.1, now=100.1, memory=self.LIMIT + 1) == [
            Kill(0, 0, End.OUT_OF_MEMORY, self.LIMIT + 1)
        ]
        assert run.state.wake_at is None
        assert run.lost(0, running=0, now=100.2) == [
            noted(0, End.OUT_OF_MEMORY, memory=self.LIMIT + 1),
            CommitFailures((0,)),
            Dispatch(0, (1,)),
        ]
        assert run.state._failing[0] == Phase.FAILED

    def test_it_is_tried_again_if_asked(self):
        run = self.one(retries=1, retry_delay=1.0)
        run.observed(0, 0, 0.1, now=100.1, memory=self.LIMIT + 1)
        run.lost(0, running=0, now=100.2)
        assert run.phases == ["BACKOFF", "RUNNING"]

    def test_a_node_whose_worker_had_more_already_gets_another_worker_unblamed(self):
        run = self.one()
        observed = run.observed(0, 0, 0.1, now=100.1, memory=self.LIMIT + 2, before=self.LIMIT + 1)
        assert observed == [Kill(0, None, End.OUT_OF_MEMORY, self.LIMIT + 2)]
        assert run.lost(0, running=0, now=100.2) == [noted(0, End.PUT_BACK), Dispatch(0, (0,))]
        assert run.state.attempts[0] == 1

    def test_both_limits_of_a_slot_are_kept_in_mind(self):
        run = Run(1, policies={0: Policy(timeout=0.05, memory_limit=self.LIMIT)})
        run.start(now=100.0)
        assert run.state.wake_at == 100.05
        run.observed(0, 0, 0.01, now=100.01, memory=self.LIMIT - 80_000_000)
        assert run.state.wake_at == pytest.approx(100.02)


class TestCancel:
    def test_what_has_not_begun_is_cancelled_and_what_runs_is_killed(self):
        policies = {1: Policy(retries=1, retry_delay=9.0)}
        run = Run(5, [(0, 4)], policies=policies, n_slots=2)
        assert run.start() == [Dispatch(0, (0,)), Dispatch(1, (1,))]
        assert run.returned(1, raised(1)) == [Retry(1, 9.0), Dispatch(1, (2,))]
        assert run.phases == ["RUNNING", "BACKOFF", "RUNNING", "READY", "WAITING"]
        assert run.cancel() == [Kill(0, None), Kill(1, None)]
        assert run.phases == ["RUNNING", "CANCELLED", "RUNNING", "CANCELLED", "CANCELLED"]
        assert run.state.wake_at is None
        assert not run.state.finished
        assert run.lost(0, running=0) == [noted(0, End.CANCELLED)]
        assert run.lost(1, running=2) == [noted(2, End.CANCELLED)]
        assert run.phases == ["CANCELLED"] * 5
        assert run.state.finished

    def test_afterwards_no_timeout_is_waited_for(self):
        run = Run(1, policies={0: Policy(timeout=5.0)})
        run.start()
        run.cancel()
        assert run.state.wake_at is None
        assert run.time(100.0) == []

    def test_before_the_start_it_cancels_everything(self):
        run = Run(2, [(0, 1)])
        assert run.cancel() == []
        assert run.start() == []
        assert run.phases == ["CANCELLED", "CANCELLED"]
        assert run.state.finished

    def test_after_the_end_it_changes_nothing(self):
        run = Run(1)
        run.start()
        run.complete(0, 0)
        assert run.cancel() == []
        assert run.phases == ["COMPLETED"]

    def test_a_second_one_changes_nothing(self):
        run = Run(1)
        run.start()
        assert run.cancel() == [Kill(0, None)]
        assert run.cancel(timed_out=True) == []
        run.lost(0, running=0)
        assert run.phases == ["CANCELLED"]

    def test_because_of_the_time_of_the_run_what_ran_has_timed_out(self):
        run = Run(2)
        run.start()
        assert run.cancel(timed_out=True) == [Kill(0, None)]
        assert run.lost(0, running=0) == [noted(0, End.CANCELLED)]
        assert run.phases == ["TIMED_OUT", "CANCELLED"]
        assert run.state.finished

    def test_what_completed_just_before_the_kill_is_committed(self):
        run = Run(2, [(0, 1)])
        run.start()
        run.cancel()
        assert run.returned(0, completed(0)) == [CommitResults((0,))]
        assert not run.state.finished
        assert run.committed(0) == []
        assert run.phases == ["COMPLETED", "CANCELLED"]
        assert run.state.finished
        assert run.lost(0) == []

    def test_what_raised_just_before_the_kill_failed_whatever_retries_it_had(self):
        run = Run(1, policies={0: Policy(retries=3)})
        run.start()
        run.cancel()
        assert run.returned(0, raised(0)) == [CommitFailures((0,))]
        assert run.committed(0) == []
        assert run.phases == ["FAILED"]

    @pytest.mark.parametrize("timed_out", [False, True])
    def test_what_a_batch_had_not_begun_is_cancelled_without_an_attempt(self, timed_out):
        run = known_short(7, seconds=BATCH_SECONDS / 3)
        assert run.commands == [Dispatch(0, (1, 2, 3)), Dispatch(0, (4, 5, 6))]
        assert run.cancel(timed_out=timed_out) == [Kill(0, None)]
        assert run.lost(0, completed(1), running=2, unstarted=[3, 4, 5, 6]) == [
            noted(2, End.CANCELLED),
            CommitResults((1,)),
        ]
        killed = "TIMED_OUT" if timed_out else "CANCELLED"
        assert run.phases == ["COMPLETED", "COMMITTING", killed, *["CANCELLED"] * 4]
        assert list(run.state.attempts) == [1, 1, 1, 0, 0, 0, 0]
        run.committed(1)
        assert run.state.finished

    def test_what_a_cut_short_batch_had_not_begun_is_cancelled(self):
        run = known_short(4, seconds=BATCH_SECONDS / 3)
        assert run.commands == [Dispatch(0, (1, 2, 3))]
        run.cancel()
        assert run.returned(0, completed(1), unstarted=[2, 3]) == [CommitResults((1,))]
        assert run.phases[2:] == ["CANCELLED", "CANCELLED"]

    def test_what_is_being_committed_completes_and_its_children_are_cancelled(self):
        run = Run(2, [(0, 1)])
        run.start()
        run.returned(0, completed(0))
        assert run.cancel() == []
        assert not run.state.finished
        assert run.committed(0) == []
        assert run.phases == ["COMPLETED", "CANCELLED"]
        assert run.state.finished

    @pytest.mark.parametrize("fail_fast", [False, True])
    def test_what_is_being_recorded_as_failed_fails_and_its_children_are_cancelled(self, fail_fast):
        run = Run(2, [(0, 1)], fail_fast=fail_fast)
        run.start()
        run.returned(0, raised(0))
        run.cancel()
        assert run.committed(0) == []
        assert run.phases == ["FAILED", "CANCELLED"]

    def test_a_slot_that_is_being_killed_for_a_timeout_is_not_killed_again(self):
        run = Run(1, policies={0: Policy(timeout=1.0, retries=3)})
        run.start()
        assert run.observed(0, 0, 1.0, now=1.0) == [Kill(0, 0, End.TIMED_OUT)]
        assert run.cancel() == []
        assert run.lost(0, running=0) == [noted(0, End.CANCELLED)]
        assert run.phases == ["CANCELLED"]
        assert run.state.finished

    def test_a_held_node_that_has_not_been_decided_is_cancelled(self):
        run = Run(2, [(0, 1)], held={1: ()})
        run.start()
        run.cancel()
        run.lost(0, running=0)
        assert run.phases == ["CANCELLED", "CANCELLED"]
        assert run.state.n_restored == 0

    def test_restored_nodes_stay_completed(self):
        run = Run(2, [(0, 1)], restored=[0])
        run.start()
        run.cancel()
        run.lost(0, running=1)
        assert run.phases == ["COMPLETED", "CANCELLED"]


class TestFailFast:
    edges = ((0, 1), (1, 2), (1, 3), (0, 4))

    def test_every_descendant_is_skipped_and_other_branches_go_on(self):
        run = Run(5, self.edges, n_slots=2)
        run.start()
        assert run.complete(0, 0) == [Dispatch(0, (1,)), Dispatch(1, (4,))]
        assert run.fail(0, 1) == [Skip((2, 3), 1)]
        assert run.state.cause_of(2) == run.state.cause_of(3) == 1
        assert run.complete(1, 4) == []
        assert run.phases == ["COMPLETED", "FAILED", "SKIPPED", "SKIPPED", "COMPLETED"]
        assert run.state.finished

    def test_a_node_below_two_failed_ones_is_skipped_once(self):
        run = Run(3, [(0, 2), (1, 2)], n_slots=2)
        run.start()
        assert run.fail(0, 0) == [Skip((2,), 0)]
        assert run.fail(1, 1) == []
        assert run.state.cause_of(2) == 0
        assert run.state.finished

    def test_a_node_that_timed_out_counts_as_failed(self):
        run = Run(2, [(0, 1)], policies={0: Policy(timeout=1.0)})
        run.start()
        run.observed(0, 0, 1.0, now=1.0)
        run.lost(0, running=0)
        assert run.committed(0) == [Skip((1,), 0)]

    def test_a_child_of_a_failed_and_a_later_parent_is_not_started(self):
        run = Run(3, [(0, 2), (1, 2)], n_slots=2)
        run.start()
        run.fail(0, 0)
        assert run.complete(1, 1) == []
        assert run.phases == ["FAILED", "COMPLETED", "SKIPPED"]

    @pytest.mark.parametrize("fails_first", [True, False])
    def test_a_node_whose_parents_all_completed_runs_whenever_an_ancestor_fails(self, fails_first):
        # 1 is restored, and 0 runs again because its result was lost.
        run = Run(4, [(0, 1), (1, 3), (2, 3)], restored=[1], n_slots=2)
        assert run.start() == [Dispatch(0, (0,)), Dispatch(1, (2,))]
        if fails_first:
            run.fail(0, 0)
            run.complete(1, 2)
        else:
            run.complete(1, 2)
            run.fail(0, 0)
        assert run.phases == ["FAILED", "COMPLETED", "COMPLETED", "RUNNING"]

    def test_failures_above_a_shared_subtree_walk_it_once(self):
        walked = 0

        class Counting(DagProxy):
            def child_indices(self, node):
                nonlocal walked
                found = self.dag.child_indices(node)
                walked += 1 + len(found)
                return found

            def descendant_indices(self, seeds):
                nonlocal walked
                found = self.dag.descendant_indices(seeds)
                walked += 1 + len(found)
                return found

        n = 300
        dag = dag_of(2 * n, [(root, n) for root in range(n)] + [(node, node + 1) for node in range(n, 2 * n - 1)])
        state = RunState(Counting(dag), policies=[Policy()] * (2 * n), kinds=range(2 * n), n_slots=n)
        state.handle(Started(0.0))
        walked = 0
        for root in range(n):
            state.handle(BatchReturned(root, [raised(root)], (), 0.0))
            state.handle(Committed([root], 0.0))
        assert state.finished
        assert walked <= 4 * (len(dag) + dag.edge_count)


class DagProxy:
    """Stands in for a DAG, so that a test can count or wrap what is asked of it."""

    def __init__(self, dag):
        self.dag = dag

    def __len__(self):
        return len(self.dag)

    def __getattr__(self, name):
        return getattr(self.dag, name)


class TestMissing:
    def test_parents_without_a_result_are_those_that_failed_or_were_skipped(self):
        run = Run(5, [(0, 1), (0, 4), (1, 4), (3, 4)], fail_fast=False, consumes=lambda child, parent: child == 1)
        run.start()
        assert run.state.parents_without_result(0) == ()
        run.fail(0, 0)
        run.complete(0, 2)
        run.complete(0, 3)
        assert run.phases == ["FAILED", "SKIPPED", "COMPLETED", "COMPLETED", "RUNNING"]
        assert run.state.parents_without_result(4) == [0, 1]


class TestNotFailFast:
    def test_a_child_that_does_not_take_the_result_is_attempted(self):
        run = Run(3, [(0, 1), (0, 2)], fail_fast=False, consumes=lambda child, parent: child == 2)
        run.start()
        assert run.fail(0, 0) == [Skip((2,), 0), Dispatch(0, (1,))]
        assert run.complete(0, 1) == []
        assert run.phases == ["FAILED", "COMPLETED", "SKIPPED"]

    def test_it_is_attempted_only_when_its_other_parents_are_settled(self):
        run = Run(3, [(0, 2), (1, 2)], fail_fast=False, consumes=lambda child, parent: False, n_slots=2)
        run.start()
        assert run.fail(0, 0) == []
        assert run.complete(1, 1) == [Dispatch(0, (2,))]

    def test_what_takes_the_result_of_a_skipped_node_is_skipped_because_of_the_failed_one(self):
        run = Run(4, [(0, 1), (1, 2), (2, 3)], fail_fast=False)
        run.start()
        assert run.fail(0, 0) == [Skip((1,), 0), Skip((2,), 0), Skip((3,), 0)]
        assert [run.state.cause_of(node) for node in (1, 2, 3)] == [0, 0, 0]

    def test_what_does_not_take_the_result_of_a_skipped_node_is_attempted(self):
        run = Run(3, [(0, 1), (1, 2)], fail_fast=False, consumes=lambda child, parent: child == 1)
        run.start()
        assert run.fail(0, 0) == [Skip((1,), 0), Dispatch(0, (2,))]

    def test_two_failed_parents_skip_it_once_because_of_the_first(self):
        run = Run(3, [(0, 2), (1, 2)], fail_fast=False, n_slots=2)
        run.start()
        assert run.fail(1, 1) == []
        assert run.fail(0, 0) == [Skip((2,), 1)]
        assert run.state.finished


class TestHeld:
    def test_a_chain_keeps_its_results_if_the_first_one_gives_the_same(self):
        run = Run(3, [(0, 1), (1, 2)], held={1: (), 2: ()})
        assert run.start() == [Dispatch(0, (0,))]
        assert run.complete(0, 0) == [Restore((1, 2))]
        assert run.phases == ["COMPLETED"] * 3
        assert run.state.finished
        assert run.state.restored == [1, 2]

    def test_a_child_runs_again_if_its_parent_gave_another_result(self):
        run = Run(3, [(0, 1), (1, 2)], held={1: (), 2: ()})
        run.start()
        assert run.complete(0, 0, changed=[0]) == [Invalidate((1,)), Dispatch(0, (1,))]
        assert run.state.is_in_doubt(1)
        assert not run.state.is_in_doubt(2)
        assert run.complete(0, 1) == [Restore((2,))]
        assert run.state.attempts_of(1) == 1

    def test_a_change_goes_down_as_far_as_results_differ(self):
        run = Run(4, [(0, 1), (1, 2), (2, 3)], held={1: (), 2: (), 3: ()})
        run.start()
        assert run.complete(0, 0, changed=[0]) == [Invalidate((1,)), Dispatch(0, (1,))]
        assert run.complete(0, 1, changed=[1]) == [Invalidate((2,)), Dispatch(0, (2,))]
        assert run.complete(0, 2) == [Restore((3,))]

    def test_one_changed_parent_of_two_is_enough(self):
        run = Run(3, [(0, 2), (1, 2)], held={2: ()}, n_slots=2)
        run.start()
        assert run.complete(0, 0, changed=[0]) == [Invalidate((2,))]
        assert run.complete(1, 1) == [Dispatch(0, (2,))]

    def test_a_child_of_two_that_changed_is_invalidated_once(self):
        run = Run(3, [(0, 2), (1, 2)], held={2: ()}, n_slots=2)
        run.start()
        run.returned(0, completed(0))
        run.returned(1, completed(1))
        assert run.changed(0, 1) == [Invalidate((2,))]
        assert run.committed(0, 1) == [Dispatch(0, (2,))]

    def test_it_is_decided_at_the_start_if_all_parents_are_restored(self):
        run = Run(4, [(0, 1), (1, 2), (2, 3)], restored=[0], held={1: (), 2: ()})
        assert run.start() == [Restore((1, 2)), Dispatch(0, (3,))]

    def test_a_held_root_is_restored(self):
        run = Run(1, held={0: ()})
        assert run.start() == [Restore((0,))]
        assert run.state.finished

    def test_it_runs_again_if_a_parent_that_had_failed_completes(self):
        run = Run(2, [(0, 1)], held={1: (0,)}, fail_fast=False, consumes=lambda child, parent: False)
        run.start()
        assert run.complete(0, 0) == [Dispatch(0, (1,))]

    def test_it_runs_again_if_a_parent_that_had_failed_is_restored(self):
        run = Run(2, [(0, 1)], restored=[0], held={1: (0,)})
        assert run.start() == [Dispatch(0, (1,))]

    def test_it_keeps_its_result_if_the_parent_that_had_failed_fails_again(self):
        run = Run(2, [(0, 1)], held={1: (0,)}, fail_fast=False, consumes=lambda child, parent: False)
        run.start()
        assert run.fail(0, 0) == [Restore((1,))]
        assert run.phases == ["FAILED", "COMPLETED"]

    def test_it_is_skipped_if_a_parent_fails(self):
        run = Run(2, [(0, 1)], held={1: ()})
        run.start()
        assert run.fail(0, 0) == [Skip((1,), 0)]
        assert run.phases == ["FAILED", "SKIPPED"]
        assert run.state.n_restored == 0

    def test_one_that_ran_again_and_failed_has_failed(self):
        run = Run(3, [(0, 1), (1, 2)], held={1: (), 2: ()})
        run.start()
        run.complete(0, 0, changed=[0])
        assert run.fail(0, 1) == [Skip((2,), 1)]

    def test_the_children_of_one_that_kept_its_result_are_started(self):
        run = Run(3, [(0, 1), (1, 2)], held={1: ()})
        run.start()
        assert run.complete(0, 0) == [Restore((1,)), Dispatch(0, (2,))]


def known_short(n, seconds, *, n_slots=1, kinds=None, **options):
    """A run in which node 0 is over and has taught that its kind takes `seconds`; all others are its children.

    `commands` are those with which they were sent out.
    """
    run = Run(n, [(0, node) for node in range(1, n)], kinds=kinds or [0] * n, n_slots=n_slots, **options)
    assert run.start() == [Dispatch(0, (0,))]
    run.commands = run.complete(0, 0, seconds)
    return run


class TestBatches:
    def test_the_first_of_a_kind_goes_alone(self):
        run = Run(5, kinds=[0] * 5)
        assert run.start() == [Dispatch(0, (0,))]

    def test_short_nodes_go_together(self):
        assert known_short(5, BATCH_SECONDS / 4).commands == [Dispatch(0, (1, 2, 3, 4))]

    def test_a_batch_takes_no_longer_than_batch_seconds(self):
        run = known_short(12, BATCH_SECONDS * 0.3)
        assert run.commands == [Dispatch(0, (1, 2, 3)), Dispatch(0, (4, 5, 6))]
        assert run.returned(0, *[completed(node, 0.0) for node in (1, 2, 3)])[0] == CommitResults((1, 2, 3))

    def test_a_batch_has_at_most_max_batch_nodes(self):
        n = 4 * MAX_BATCH_NODES
        first, second = known_short(n, 1e-9).commands
        assert first == Dispatch(0, tuple(range(1, MAX_BATCH_NODES + 1)))
        assert second == Dispatch(0, tuple(range(MAX_BATCH_NODES + 1, 2 * MAX_BATCH_NODES + 1)))

    def test_a_slot_has_at_most_max_batches(self):
        run = known_short(100, BATCH_SECONDS)
        assert run.commands == [Dispatch(0, (1,)), Dispatch(0, (2,))]
        assert len(run.commands) == 2
        for node in range(1, 90):
            assert run.returned(0, completed(node, BATCH_SECONDS)) == [CommitResults((node,)), Dispatch(0, (node + 2,))]
            run.committed(node)

    def test_every_slot_gets_a_fair_share(self):
        run = known_short(7, 1e-6, n_slots=3)
        assert run.commands == [Dispatch(0, (1, 2)), Dispatch(1, (3, 4)), Dispatch(2, (5,)), Dispatch(2, (6,))]

    def test_idle_slots_come_before_second_batches(self):
        run = known_short(4, BATCH_SECONDS, n_slots=2)
        assert run.commands == [Dispatch(0, (1,)), Dispatch(1, (2,)), Dispatch(0, (3,))]

    def test_without_batching_nodes_go_one_by_one(self):
        run = known_short(5, 1e-6, batching=False)
        assert run.commands == [Dispatch(0, (1,))]
        assert run.returned(0, completed(1, 1e-6)) == [CommitResults((1,)), Dispatch(0, (2,))]

    def test_long_nodes_go_one_by_one(self):
        assert known_short(5, BATCH_SECONDS * 1.01).commands == [Dispatch(0, (1,)), Dispatch(0, (2,))]
        assert known_short(5, PREFETCH_SECONDS).commands == [Dispatch(0, (1,)), Dispatch(0, (2,))]
        assert known_short(5, PREFETCH_SECONDS * 1.01).commands == [Dispatch(0, (1,))]

    def test_a_node_of_an_unknown_kind_stands_behind_nobody(self):
        assert known_short(3, 1e-6, kinds=[0, 0, 1]).commands == [Dispatch(0, (1,))]

    def test_nobody_stands_behind_a_node_of_an_unknown_kind(self):
        # It may take an hour, and the other slots may be idle by then.
        assert known_short(3, 1e-6, kinds=[0, 1, 0]).commands == [Dispatch(0, (1,))]

    def test_nobody_stands_behind_a_node_of_an_unknown_kind_after_a_batch_has_returned(self):
        run = known_short(6, 1e-6, kinds=[0, 0, 1, 0, 0, 0])
        assert run.commands == [Dispatch(0, (1,))]
        assert run.returned(0, completed(1, 1e-6)) == [CommitResults((1,)), Dispatch(0, (2,))]
        assert run.committed(1) == []

    @pytest.mark.parametrize(
        ("seconds", "behind"),
        [(PREFETCH_SECONDS * 0.9, [Dispatch(0, (3, 4, 5))]), (PREFETCH_SECONDS * 1.1, []), (3600.0, [])],
    )
    def test_nobody_stands_behind_a_long_node(self, seconds, behind):
        run = Run(6, [(node, later) for node in (0, 1) for later in (2, 3, 4, 5)], kinds=[0, 1, 1, 0, 0, 0])
        assert run.start() == [Dispatch(0, (0,))]
        assert run.returned(0, completed(0, 1e-6)) == [CommitResults((0,)), Dispatch(0, (1,))]
        assert run.committed(0) == []
        assert run.complete(0, 1, seconds) == [Dispatch(0, (2,)), *behind]

    def test_where_plenty_is_ready_a_slot_gets_its_next_long_node_early(self):
        run = known_short(PLENTY + 4, PLENTY_PREFETCH_SECONDS)
        assert run.commands == [Dispatch(0, (1,)), Dispatch(0, (2,))]
        assert run.returned(0, completed(1, PLENTY_PREFETCH_SECONDS)) == [CommitResults((1,)), Dispatch(0, (3,))]
        run.committed(1)
        # From here on the last nodes wait for whichever slot is free first.
        assert run.returned(0, completed(2, PLENTY_PREFETCH_SECONDS)) == [CommitResults((2,))]
        assert known_short(PLENTY + 4, PLENTY_PREFETCH_SECONDS * 1.1).commands == [Dispatch(0, (1,))]

    def test_an_estimate_rises_at_once(self):
        run = known_short(9, BATCH_SECONDS / 4)
        assert run.commands == [Dispatch(0, (1, 2, 3, 4)), Dispatch(0, (5, 6, 7, 8))]
        longer = completed(1, BATCH_SECONDS * 1.1)
        batches = [Dispatch(0, (2,)), Dispatch(0, (3,))]
        assert run.lost(0, longer, unstarted=[2, 3, 4, 5, 6, 7, 8]) == [CommitResults((1,)), *batches]

    def test_an_estimate_falls_slowly(self):
        run = known_short(200, 1.0)
        sizes = []
        node = 1
        while node < 150:
            batch = run.state._dispatcher._slots[0].batches[0]
            sizes.append(len(batch))
            run.returned(0, *[completed(node, 0.0) for node in batch])
            run.committed(*batch)
            node = batch[-1]
        assert sizes[:28] == [1] * 28
        assert sizes == sorted(sizes)
        assert sizes[-1] > 1

    def test_what_failed_teaches_nothing(self):
        run = Run(4, kinds=[0] * 4)
        run.start()
        assert run.returned(0, AttemptEnded(0, False, False, 0.0)) == [CommitFailures((0,)), Dispatch(0, (1,))]


# --- events that contradict the state -------------------------------------------------------------------------------


def snapshot(value):
    """Everything that a state knows, in values that later changes do not reach and that can be compared."""
    if isinstance(value, DAG) or callable(value):
        return None
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, (deque, list, array, tuple)):
        return [snapshot(item) for item in value]
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, (bytearray, set)):
        return bytes(value) if isinstance(value, bytearray) else set(value)
    if type(value).__module__.startswith("dagron."):
        names = getattr(value, "__slots__", None) or vars(value)
        return {name: snapshot(getattr(value, name)) for name in names}
    return value


def busy_run():
    """Slot 0 has the batches (1, 2) and (5,), slot 1 has (3, 4); 6 and 7 are being committed, and 8 waits for them."""
    edges = [(0, node) for node in range(1, 6)]
    policies = {1: Policy(timeout=1.0)}
    run = Run(9, [*edges, (6, 8), (7, 8)], kinds=[0, 1, 1, 1, 1, 1, 1, 3, 1], n_slots=2, policies=policies)
    assert run.start() == [Dispatch(0, (0,)), Dispatch(1, (6,))]
    assert run.returned(1, completed(6, BATCH_SECONDS / 2)) == [CommitResults((6,)), Dispatch(1, (7,))]
    assert run.returned(1, completed(7)) == [CommitResults((7,))]
    run.returned(0, completed(0))
    assert run.committed(0) == [Dispatch(0, (1, 2)), Dispatch(1, (3, 4)), Dispatch(0, (5,))]
    return run


CONTRADICTIONS = {
    "a batch with a node too few": BatchReturned(0, [completed(1)], (), 0.0),
    "a batch with a node of the next one": BatchReturned(0, [completed(1), completed(2)], (5,), 0.0),
    "a batch with a node twice": BatchReturned(0, [completed(1), completed(1)], (), 0.0),
    "a batch with a node that ended and was not begun": BatchReturned(0, [completed(1)], (1,), 0.0),
    "a batch with a node of another slot": BatchReturned(0, [completed(1), completed(3)], (), 0.0),
    "a batch with a node that does not exist": BatchReturned(0, [completed(1), completed(99)], (), 0.0),
    "an empty batch": BatchReturned(0, [], (), 0.0),
    "a slot that does not exist": BatchReturned(7, [], (), 0.0),
    "a slot with a negative number": BatchReturned(-2, [completed(1)], (2,), 0.0),
    "a loss of a slot that does not exist": SlotLost(7, [], None, (), 0.0),
    "a loss of a node that it did not have": SlotLost(0, [], 6, (), 0.0),
    "a loss that forgets a node": SlotLost(0, [completed(1)], None, (), 0.0),
    "a change of a node that waits": Changed([8]),
    "a change of a node that runs": Changed([6, 1]),
    "a change of a node that does not exist": Changed([99]),
    "a commit of a node that waits": Committed([8], 0.0),
    "a commit of a node that runs": Committed([6, 1], 0.0),
    "a commit of a node that completed": Committed([6, 7, 0], 0.0),
    "a commit of a node twice": Committed([6, 7, 6], 0.0),
    "a commit of a node that does not exist": Committed([6, 99], 0.0),
    "an observation of a node that the slot does not have": SlotObserved(1, 1, 5.0, 0.0),
    "an observation of a slot that does not exist": SlotObserved(7, 1, 5.0, 0.0),
}


class TestContradictions:
    @pytest.mark.parametrize("event", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
    def test_it_raises_and_changes_nothing(self, event):
        state = busy_run().state
        before = snapshot(state)
        with pytest.raises(InternalError):
            state.handle(event)
        assert snapshot(state) == before
        check_invariants(state)

    def test_a_run_starts_once(self):
        run = Run(1)
        run.start()
        before = snapshot(run.state)
        with pytest.raises(InternalError, match="started before"):
            run.start()
        assert snapshot(run.state) == before

    @pytest.mark.parametrize("cancelled", [False, True])
    def test_a_batch_returns_once(self, cancelled):
        run = Run(1)
        run.start()
        if cancelled:
            run.cancel()
        run.returned(0, completed(0))
        before = snapshot(run.state)
        with pytest.raises(InternalError, match="slot 0"):
            run.returned(0, completed(0))
        assert snapshot(run.state) == before

    def test_a_commit_is_reported_once(self):
        run = Run(1)
        run.start()
        run.complete(0, 0)
        before = snapshot(run.state)
        with pytest.raises(InternalError, match="node 0 was committed in phase COMPLETED"):
            run.committed(0)
        assert snapshot(run.state) == before


# --- the life of a node ----------------------------------------------------------------------------------------------


def drawing():
    """The table as the docstring of the module has it."""
    for phase, to in TRANSITIONS.items():
        for i, (target, why) in enumerate(to.items()):
            mark = "┬" if not i else "└" if i == len(to) - 1 else "├"
            head = f"{phase.name} ".ljust(11, "─") if not i else " " * 11
            yield f"    {head}{mark}▶ {target.name:<10}  {why}\n"


class TestTransitions:
    def test_the_diagram_of_the_module_is_the_table(self):
        assert "".join(drawing()) in sys.modules[Phase.__module__].__doc__

    def test_final_are_those_from_completed_on_and_no_others(self):
        assert {phase for phase in Phase if phase not in TRANSITIONS} == {p for p in Phase if p >= Phase.COMPLETED}

    def test_every_change_of_the_table_happens(self):
        seen = set()

        def run(n, *args, **options):
            made = Run(n, *args, **options)
            runs.append(made)
            made.start()
            return made

        runs = []
        policies = {0: Policy(retries=1), 2: Policy(timeout=1.0)}
        one = run(4, [(2, 3)], policies=policies, n_slots=3)
        one.returned(0, raised(0))
        one.time(1.0)
        one.returned(0, completed(0))
        one.lost(1, unstarted=[1])
        one.observed(2, 2, 2.0, now=2.0)
        one.lost(2, running=2)
        one.committed(0, 2)
        one.fail(0, 1)
        two = run(5, [(0, 4)], policies={1: Policy(retries=1)}, n_slots=2)
        two.returned(1, raised(1))
        two.cancel()
        two.lost(0, running=0)
        three = run(1)
        three.cancel(timed_out=True)
        three.lost(0, running=0)
        run(1, held={0: ()})
        for made in runs:
            seen |= made.state.phase.seen
        assert seen == {(phase, target) for phase, to in TRANSITIONS.items() for target in to}


# --- large graphs -----------------------------------------------------------------------------------------------------

MANY = 15_000


def large(edges, n=MANY, **options):
    options = {"policies": [Policy()] * n, "kinds": [0] * n, "n_slots": 2, "rng": FixedJitter(), **options}
    return RunState(dag_of(n, edges), **options)


def drive(state, completes=True):
    """Carry out everything at once, where each attempt completes or none does; return how many commands there were."""
    todo = deque(state.handle(Started(0.0)))
    n_commands = 0
    while todo:
        n_commands += 1
        command = todo.popleft()
        match command:
            case Dispatch(slot, nodes):
                ended = [AttemptEnded(node, completes, False, 1e-6) for node in nodes]
                todo.extend(state.handle(BatchReturned(slot, ended, (), 0.0)))
            case CommitResults(nodes) | CommitFailures(nodes):
                todo.extend(state.handle(Committed(nodes, 0.0)))
    return n_commands


CHAIN = [(node, node + 1) for node in range(MANY - 1)]
STAR_OUT = [(0, node) for node in range(1, MANY)]
STAR_IN = [(node, MANY - 1) for node in range(MANY - 1)]
SHAPES = {"chain": CHAIN, "star out": STAR_OUT, "star in": STAR_IN}


class TestLarge:
    @pytest.mark.parametrize("edges", SHAPES.values(), ids=SHAPES)
    def test_every_node_completes(self, edges):
        state = large(edges)
        drive(state)
        assert state.finished
        assert state.phase.count(Phase.COMPLETED) == MANY
        check_invariants(state)

    @pytest.mark.parametrize("edges", SHAPES.values(), ids=SHAPES)
    @pytest.mark.parametrize("fail_fast", [False, True])
    def test_every_node_below_a_failed_one_is_skipped(self, edges, fail_fast):
        state = large(edges, fail_fast=fail_fast)
        drive(state, completes=False)
        assert state.finished
        assert state.phase.count(Phase.FAILED) + state.phase.count(Phase.SKIPPED) == MANY
        assert state.phase[0] == Phase.FAILED
        assert state.phase[MANY - 1] == Phase.SKIPPED
        check_invariants(state)

    @pytest.mark.parametrize("edges", SHAPES.values(), ids=SHAPES)
    def test_every_held_node_is_restored(self, edges):
        state = large(edges, restored=[0], held=dict.fromkeys(range(1, MANY), ()))
        assert drive(state) == 1
        assert state.finished
        assert state.n_restored == MANY
        check_invariants(state)

    @pytest.mark.parametrize("edges", [CHAIN, STAR_OUT], ids=["chain", "star out"])
    def test_every_held_node_below_one_that_ran_is_restored(self, edges):
        state = large(edges, held=dict.fromkeys(range(1, MANY), ()))
        assert drive(state) == 3
        assert state.n_restored == MANY - 1

    @pytest.mark.parametrize("edges", [CHAIN, STAR_OUT], ids=["chain", "star out"])
    def test_every_node_is_cancelled(self, edges):
        state = large(edges)
        state.handle(Started(0.0))
        state.handle(CancelRequested(0.0))
        for index, slot in enumerate(state._dispatcher._slots):
            if slot.batches:
                state.handle(SlotLost(index, (), slot.batches[0][0], (), 0.0))
        assert state.finished
        assert state.phase.count(Phase.CANCELLED) == MANY
        check_invariants(state)


# --- random runs, and a model of what must become of the nodes --------------------------------------------------------

FATES = ("complete", "raise", "flaky", "die", "hang", "grow")


TIMEOUTS = {"hang": [1.0, 30.0], "grow": [None]}
LITTLE = 10
"""Bytes that a new worker has."""


class Case:
    """A random DAG with everything that decides how its nodes end. No order of events may make a difference.

    Attributes:
        fates: How each attempt of a node ends; `flaky` fails as often as `n_flaky` says.
        differs: Whether a node that runs again gives another result than it had.
    """

    def __init__(self, draw, *, lost=False, cancel=False):
        n = draw(st.integers(1, 12))
        pairs = [(p, c) for c in range(n) for p in range(c)]
        edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=2 * n)) if pairs else []
        self.dag = dag_of(n, edges)
        flags = st.lists(st.booleans(), min_size=n, max_size=n)
        self.fates = draw(st.lists(st.sampled_from(FATES[:1] * 5 + FATES), min_size=n, max_size=n))
        self.n_flaky = draw(st.lists(st.integers(1, 3), min_size=n, max_size=n))
        self.differs = draw(flags)
        self.taken = {pair for pair in edges if draw(st.booleans())}
        numbers = st.integers(0, 2)
        self.policies = [
            Policy(
                retries=draw(numbers),
                retry_delay=draw(st.sampled_from([0.0, 1.0])),
                timeout=draw(st.sampled_from(TIMEOUTS.get(self.fates[node], [None, 1.0, 30.0]))),
                priority=draw(numbers),
                exclusive=draw(st.sampled_from([False] * 5 + [True])),
                memory_limit=draw(
                    st.sampled_from([100, 2 * LITTLE] if self.fates[node] == "grow" else [None, 2 * LITTLE])
                ),
            )
            for node in range(n)
        ]
        self.kinds = draw(st.lists(numbers, min_size=n, max_size=n))
        self.seconds = draw(st.lists(st.sampled_from([1e-6, 1e-3, 0.5]), min_size=3, max_size=3))
        self.n_slots = draw(st.integers(1, 3))
        self.fail_fast = draw(st.booleans())
        self.batching = draw(st.booleans())
        self.cancels = cancel
        self.timed_out = cancel and draw(st.booleans())
        self.order = draw(st.integers(0, 2**32))  # seeds the order of events
        self._draw_checkpoint(draw, flags, lost)

    def _draw_checkpoint(self, draw, flags, lost):
        """What an earlier run left: as `plan_restore` would have it, whatever it is."""
        dag = self.dag
        there, bad = draw(flags), draw(flags)
        commits, stale = [], []
        for node in dag.order:
            name, parents = dag.name_of(node), dag.parent_indices(node)
            # Without lost results a node has a commit only if each of its parents has one, is stale, or had failed.
            failed = [p for p in parents if not there[p]] if draw(st.booleans()) else []
            if not there[node] or (not lost and any(not there[p] and p not in failed for p in parents)):
                there[node] = False
            elif bad[node] and draw(st.booleans()):
                stale.append(name)
            else:
                without = tuple(dag.name_of(p) for p in failed)
                commits.append(Commit(name, 0, 0, 1, 0, b"", b"", without=without))
        self.plan = plan_restore(dag, PackedCommits(commits), stale, same_structure=True)
        # Only of these does anybody ask whether they differ: the children of the others are restored anyway.
        self.has_old = {*map(dag.index_of, stale), *self.plan.held}

    def state(self):
        return RunState(
            self.dag,
            policies=self.policies,
            kinds=self.kinds,
            n_slots=self.n_slots,
            fail_fast=self.fail_fast,
            consumes=lambda child, parent: (parent, child) in self.taken,
            restored=self.plan.restored,
            held=self.plan.held,
            batching=self.batching,
            rng=random.Random(1),
        )

    def outcome(self, node, attempt):
        """How this attempt ends."""
        fate = self.fates[node]
        if fate == "flaky":
            return "raise again" if attempt <= self.n_flaky[node] else "complete"
        return fate

    # --- the model: too simple to be wrong

    def expected(self):
        """The final phase and the attempts of every node if nothing is cancelled."""
        phase, attempts, changed = {}, {}, set()
        for node in map(int, self.dag.topological_order()):
            attempts[node] = 0
            if node in self.plan.restored:
                phase[node] = Phase.COMPLETED
                continue
            parents = self.dag.parent_indices(node)
            missing = [p for p in parents if phase[p] != Phase.COMPLETED]
            if any(self.fail_fast or (p, node) in self.taken for p in missing):
                phase[node] = Phase.SKIPPED
                continue
            if node in self.plan.held:
                completed_since = [p for p in self.plan.held[node] if phase[p] == Phase.COMPLETED]
                if not completed_since and changed.isdisjoint(parents):
                    phase[node] = Phase.COMPLETED
                    continue
            phase[node], attempts[node] = self._alone(node)
            if phase[node] == Phase.COMPLETED and self.differs[node] and node in self.has_old:
                changed.add(node)
        return phase, attempts

    def _alone(self, node):
        fate, tries = self.fates[node], self.policies[node].retries + 1
        match fate:
            case "complete":
                return Phase.COMPLETED, 1
            case "raise":
                return Phase.FAILED, 1
            case "flaky" if self.n_flaky[node] < tries:
                return Phase.COMPLETED, self.n_flaky[node] + 1
            case "hang":
                return Phase.TIMED_OUT, tries
            case "grow":
                return Phase.FAILED, tries
        return Phase.FAILED, tries


class Worker:
    """What a slot has in the simulation."""

    def __init__(self):
        self.batches = deque()
        self.done = []  # ends of attempts of the oldest batch
        self.began = None  # when the node in hand began
        self.killed = False
        self.leaves = self.left = 0  # bytes: what there is before the next node, and was before this one

    @property
    def in_hand(self):
        return self.batches[0][len(self.done)] if self.began is not None else None

    def rest(self):
        nodes = [node for batch in self.batches for node in batch]
        return nodes[len(self.done) + (self.began is not None) :]


class Simulation:
    """Coordinator, checkpoint and workers in one: carries out commands and makes up events in a random order."""

    def __init__(self, case):
        self.case = case
        self.state = checked(case.state())
        self.random = random.Random(case.order)
        self.now = 0.0
        self.workers = [Worker() for _ in range(case.n_slots)]
        self.to_commit = []
        self.events = []
        self.commands = []
        self.announced = {Skip: [], Restore: [], CommitResults: [], CommitFailures: [], Retry: []}
        self.committed = set()
        self.recorded = set()
        self.tries = dict.fromkeys(range(len(case.dag)), 0)
        self.killed_in_hand = set()
        self.n_steps_to_cancel = self.random.randrange(30) if case.cancels else None

    def run(self):
        self.handle(Started(self.now))
        for step in range(10_000):
            if self.state.finished:
                return self
            if step == self.n_steps_to_cancel:
                self.handle(CancelRequested(self.now, self.case.timed_out))
                continue
            moves = self.moves()
            assert moves, "the run is stuck"
            self.random.choice(moves)()
        raise AssertionError("the run does not end")

    def handle(self, event):
        self.events.append(event)
        commands = self.state.handle(event)
        check_invariants(self.state)
        self.commands.append(commands)
        # What is seen is told when everything else is done, as the coordinator does it.
        for command in sorted(commands, key=lambda command: isinstance(command, Observe)):
            self.carry_out(command)

    def carry_out(self, command):
        match command:
            case Dispatch(slot, nodes):
                worker = self.workers[slot]
                assert not self.state.cancelled, "a node was sent out after the end was asked for"
                assert not worker.killed, "a node was sent to a worker that is to be killed"
                worker.batches.append(nodes)
            case CommitResults(nodes) | CommitFailures(nodes):
                self.announced[type(command)].extend(nodes)
                self.to_commit.append(command)
            case Skip(nodes, _) | Restore(nodes):
                self.announced[type(command)].extend(nodes)
            case Retry(node, _):
                self.announced[Retry].append(node)
            case NoteLoss(node, attempt, end):
                assert end not in (End.COMPLETED, End.RAISED)
                if end != End.PUT_BACK:
                    self.tries[node] += 1
                    assert attempt == self.tries[node]
            case Kill(slot):
                assert not self.workers[slot].killed, "a worker was killed twice"
                self.workers[slot].killed = True
            case Observe(slot, memory_limit):
                worker = self.workers[slot]
                seconds = 0.0 if worker.began is None else self.now - worker.began
                memory = self.memory_of(worker) if memory_limit is not None else (0, 0)
                self.handle(SlotObserved(slot, worker.in_hand, seconds, self.now, *memory))

    def moves(self):
        moves = []
        for slot, worker in enumerate(self.workers):
            if worker.killed:
                moves.append(lambda slot=slot: self.die(slot))
            if worker.batches:
                if len(worker.done) == len(worker.batches[0]):
                    moves.append(lambda slot=slot: self.give_back(slot))
                elif worker.began is None:
                    moves.append(lambda slot=slot: self.begin(slot))
                    if worker.done:
                        moves.append(lambda slot=slot: self.give_back(slot))  # its board is full
                elif self.will(worker) not in ("hang", "grow"):
                    moves.append(lambda slot=slot: self.finish(slot))
            elif not worker.killed and self.random.random() < 0.02:
                moves.append(lambda slot=slot: self.die(slot))
            if worker.batches and worker.began is None and self.random.random() < 0.02:
                moves.append(lambda slot=slot: self.die(slot))
        if self.to_commit:
            moves.append(self.commit)
        if self.state.wake_at is not None:
            moves.append(self.wait)
        return moves

    def will(self, worker):
        return self.case.outcome(worker.in_hand, self.state.attempts[worker.in_hand])

    def memory_of(self, worker):
        """What the worker has now, and had when the node began: earlier ones may have left more than its limit."""
        if worker.began is None:
            return 0, 0
        if self.will(worker) == "grow":
            return 1000, worker.left
        return max(LITTLE, worker.left), worker.left

    def begin(self, slot):
        self.now += 1e-7
        worker = self.workers[slot]
        worker.began = self.now
        worker.left = worker.leaves

    def finish(self, slot):
        worker = self.workers[slot]
        node, outcome = worker.in_hand, self.will(worker)
        if outcome == "die":
            self.die(slot)
            return
        seconds = self.case.seconds[self.case.kinds[node]]
        # Time goes on only as far as nobody's timeout is over: whether one is, is the fate of a node.
        self.now += 1e-7
        worker.done.append(AttemptEnded(node, outcome == "complete", outcome == "raise again", seconds))
        worker.began = None
        worker.leaves = self.random.choice([LITTLE, 3 * LITTLE])
        self.tries[node] += 1

    def give_back(self, slot):
        worker = self.workers[slot]
        batch = worker.batches.popleft()
        done, worker.done = worker.done, []
        self.handle(BatchReturned(slot, done, batch[len(done) :], self.now))

    def die(self, slot):
        worker = self.workers[slot]
        if worker.in_hand is not None:
            self.killed_in_hand.add(worker.in_hand)
        self.workers[slot] = Worker()
        self.handle(SlotLost(slot, worker.done, worker.in_hand, worker.rest(), self.now))

    def commit(self):
        self.random.shuffle(self.to_commit)
        n = self.random.randint(1, len(self.to_commit))
        group, self.to_commit = self.to_commit[:n], self.to_commit[n:]
        completed = [node for command in group if isinstance(command, CommitResults) for node in command.nodes]
        failed = [node for command in group if isinstance(command, CommitFailures) for node in command.nodes]
        self.committed.update(completed)
        self.recorded.update(failed)
        changed = {node for node in completed if self.case.differs[node] and node in self.case.has_old}
        if changed:
            self.handle(Changed(changed))
        self.handle(Committed([*completed, *failed], self.now))

    def wait(self):
        # Nobody but a node that hangs may be seen to take too long.
        for slot, worker in enumerate(self.workers):
            if worker.began is not None and self.will(worker) not in ("hang", "grow"):
                self.finish(slot)
                return
        self.now = max(self.now, self.state.wake_at) + 0.5  # or a long timeout would take ever so many looks
        self.handle(TimeReached(self.now))


@st.composite
def cases(draw, **options):
    return Case(draw, **options)


def many(max_examples):
    # Without `explain`, which traces every line and takes minutes here.
    phases = (HypothesisPhase.explicit, HypothesisPhase.reuse, HypothesisPhase.generate, HypothesisPhase.shrink)
    return settings(deadline=None, max_examples=max_examples, phases=phases)


class TestRandomRuns:
    def check_outcome(self, case):
        simulation = Simulation(case).run()
        state = simulation.state
        phase, attempts = case.expected()
        assert {node: Phase(found) for node, found in enumerate(state.phase)} == phase
        assert dict(enumerate(state.attempts)) == attempts
        for node in phase:
            skipped, restored = phase[node] == Phase.SKIPPED, phase[node] == Phase.COMPLETED and not attempts[node]
            assert simulation.announced[Skip].count(node) == skipped
            assert simulation.announced[Restore].count(node) == (restored and node not in case.plan.restored)
            assert (node in state.restored) == restored
            assert simulation.announced[CommitResults].count(node) == (phase[node] == Phase.COMPLETED and not restored)
            assert simulation.announced[CommitFailures].count(node) == (phase[node] in (Phase.FAILED, Phase.TIMED_OUT))
            assert simulation.announced[Retry].count(node) == max(0, attempts[node] - 1)
            assert simulation.tries[node] == attempts[node], "an attempt was not told of, or one too many"
            if skipped:
                assert phase[state.cause_of(node)] in (Phase.FAILED, Phase.TIMED_OUT)
                assert str(state.cause_of(node)) in case.dag.ancestors(str(node))

    @given(cases())
    @many(60)
    def test_every_node_ends_as_its_fate_and_its_parents_say(self, case):
        self.check_outcome(case)

    @given(cases(lost=True))
    @many(60)
    def test_every_node_ends_as_its_fate_and_its_parents_say_also_where_results_were_lost(self, case):
        self.check_outcome(case)

    @given(cases(lost=True, cancel=True))
    @many(60)
    def test_a_cancelled_run_ends_with_every_node_final_and_every_commit_kept(self, case):
        simulation = Simulation(case).run()
        state = simulation.state
        assert all(phase >= Phase.COMPLETED for phase in state.phase)
        assert state.wake_at is None or not state.cancelled
        done = {node for node, phase in enumerate(state.phase) if phase == Phase.COMPLETED}
        assert done == simulation.committed | set(state.restored)
        failed = {node for node, phase in enumerate(state.phase) if phase == Phase.FAILED}
        assert failed <= simulation.recorded
        if case.timed_out and state.cancelled:
            timed_out = {node for node, phase in enumerate(state.phase) if phase == Phase.TIMED_OUT}
            assert timed_out - simulation.recorded <= simulation.killed_in_hand
        else:
            assert {node for node, phase in enumerate(state.phase) if phase == Phase.TIMED_OUT} <= simulation.recorded

    @given(cases(lost=True, cancel=True))
    @many(50)
    def test_the_same_events_give_the_same_commands(self, case):
        simulation = Simulation(case).run()
        again = case.state()
        assert [again.handle(event) for event in simulation.events] == simulation.commands
        assert snapshot(again) == snapshot(simulation.state)

    @given(cases(lost=True, cancel=True), st.data())
    @many(40)
    def test_an_event_is_refused_and_changes_nothing_or_is_taken_and_every_invariant_holds(self, case, data):
        simulation = Simulation(case)
        state = simulation.state
        handle = state.handle
        drawn = data.draw(st.lists(events(len(case.dag), case.n_slots), min_size=1, max_size=40))
        turn = cycle(drawn)

        def check(event):
            before = snapshot(state)
            for wrong in [] if isinstance(event, Started) else wrong_events(state):
                with pytest.raises(InternalError):
                    handle(wrong)
            assert snapshot(state) == before
            trial = copy.deepcopy(state, {id(state.graph): state.graph})
            del trial.handle
            before = snapshot(trial)
            for _ in range(3):
                try:
                    trial.handle(next(turn))
                except InternalError:
                    assert snapshot(trial) == before
                else:
                    check_invariants(trial)
                    before = snapshot(trial)
            return handle(event)

        state.handle = check
        try:
            simulation.run()
        finally:
            del state.handle


def wrong_events(state):
    """Events that contradict a state, whatever it is."""
    yield Started(0.0)
    for slot, has in enumerate(state._dispatcher._slots):
        ended = [completed(node) for node in has.batches[0]] if has.batches else []
        yield BatchReturned(slot, ended[1:], (), 0.0)
        yield BatchReturned(slot, [*ended, *ended, completed(0)], (), 0.0)
        yield SlotLost(slot, [*ended, completed(0), completed(0)], None, (), 0.0)
    for node, phase in enumerate(state.phase):
        if phase != Phase.COMMITTING:
            yield Committed([node], 0.0)
            yield Changed([node])


def events(n, n_slots):
    """Any events at all, with numbers that mostly exist."""
    node, slot, now = st.integers(-1, n), st.integers(-1, n_slots), st.floats(0, 100)
    nodes = st.lists(node, max_size=3)
    ended = st.lists(st.builds(AttemptEnded, node, st.booleans(), st.booleans(), st.floats(0, 1)), max_size=3)
    return st.one_of(
        st.builds(BatchReturned, slot, ended, nodes, now),
        st.builds(SlotLost, slot, ended, st.none() | node, nodes, now),
        st.builds(Committed, nodes, now),
        st.builds(Changed, nodes),
        st.builds(
            SlotObserved, slot, st.none() | node, st.floats(0, 100), now, st.integers(0, 200), st.integers(0, 200)
        ),
        st.builds(TimeReached, now),
        st.builds(CancelRequested, now, st.booleans()),
        st.builds(Started, now),
    )
