"""Critical-path priorities: the chains are right, and of what is ready the longest goes first.

Leans on `remaining_seconds`, `Durations` and `ReadyNodes.reorder`.
"""

import heapq
import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagron import DAG, CheckpointExecutor, ExecutionCallbacks
from dagron.critical import Durations, remaining_seconds
from dagron.events import AttemptEnded, BatchReturned, Committed, Dispatch, End, Started
from dagron.state import Policy, RunState

NAN = math.nan


def dag_of(n, edges):
    builder = DAG.builder().add_nodes(f"n{i:04}" for i in range(n))
    return builder.add_edges((f"n{a:04}", f"n{b:04}") for a, b in edges).build()


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 12))
    pairs = [(a, b) for b in range(n) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=20)) if pairs else []
    return n, edges, draw(st.lists(st.floats(0, 100), min_size=n, max_size=n))


@given(graphs())
@settings(max_examples=200, deadline=None)
def test_what_remains_is_the_longest_chain(case):
    n, edges, seconds = case

    def longest(node):
        return seconds[node] + max([longest(b) for a, b in edges if a == node], default=0.0)

    assert list(remaining_seconds(dag_of(n, edges), seconds)) == pytest.approx([longest(node) for node in range(n)])


class TestDurations:
    def test_expected_is_what_was_recorded_else_the_mean_of_the_kind_else_that_of_the_longest_kind(self):
        durations = Durations([0, 0, 0, 1, 2], [4.0, NAN, 2.0, 9.0, NAN])
        assert list(durations.expected()) == [4.0, 3.0, 2.0, 9.0, 9.0]

    def test_without_anything_to_tell_nodes_apart_no_look_is_worth_it(self):
        durations = Durations([0, 0])
        durations.learn(0, 10.0)
        assert not durations.worth_a_look(2)

    def test_looks_are_few_and_none_is_for_short_nodes(self):
        for seconds, fewest, most in ((1.0, 10, 40), (1e-6, 0, 0)):
            durations = Durations([node % 5 for node in range(10_000)])
            looks = 0
            for node in range(10_000):
                durations.learn(node, seconds)
                if durations.worth_a_look(2):
                    looks += 1
                    durations.expected()
            assert fewest <= looks <= most


def simulated(n, edges, seconds, kinds, recorded=None, n_slots=2, priorities=None):
    """Run a state on slots that take exactly so long; return when it ends, and the nodes as they were started."""
    policies = [Policy(priority=priority) for priority in priorities or [0] * n]
    state = RunState(dag_of(n, edges), policies=policies, kinds=kinds, n_slots=n_slots, recorded_seconds=recorded)
    queues = [[] for _ in range(n_slots)]
    ends, started, now = [], [], 0.0
    commands = state.handle(Started(now))
    while True:
        for command in commands:
            if isinstance(command, Dispatch):
                queues[command.slot].append(command.nodes)
                if len(queues[command.slot]) == 1:
                    heapq.heappush(ends, (now + sum(seconds[i] for i in command.nodes), command.slot))
                    started += command.nodes
        if state.finished:
            return now, started
        now, slot = heapq.heappop(ends)
        nodes = queues[slot].pop(0)
        if queues[slot]:
            heapq.heappush(ends, (now + sum(seconds[i] for i in queues[slot][0]), slot))
            started += queues[slot][0]
        ended = [AttemptEnded(node, End.COMPLETED, False, seconds[node]) for node in nodes]
        commands = state.handle(BatchReturned(slot, ended, (), now))
        commands += state.handle(Committed(nodes, (), now))


class TestOrder:
    #  A long chain whose first node was added last, beside many short nodes.
    N = 14
    EDGES = ((12, 13),)
    SECONDS = (*[1.0] * 12, 6.0, 6.0)

    def test_a_chain_that_an_earlier_run_has_shown_to_be_long_goes_first(self):
        end, started = simulated(self.N, self.EDGES, self.SECONDS, [0] * self.N, recorded=self.SECONDS)
        assert started[0] == 12
        assert end == 12.0

    def test_without_an_earlier_run_and_with_one_kind_nodes_go_in_order(self):
        _, started = simulated(self.N, self.EDGES, self.SECONDS, [0] * self.N)
        assert started == list(range(14))

    def test_a_kind_of_which_one_was_slow_goes_first_from_then_on(self):
        # Node 0 is of the slow kind; what else is of it starts as soon as it has ended.
        kinds = [1, *[0] * 10, 1, 1]
        seconds = [4.0, *[1.0] * 10, 4.0, 4.0]
        end, started = simulated(13, (), seconds, kinds)
        assert started.index(11) < 8
        assert started.index(12) < 8
        assert end <= 12.0

    #  The last node is long, and the only one of its kind.
    KINDS = (*[0] * 12, 1)

    def test_one_node_of_each_unknown_kind_goes_first(self):
        end, started = simulated(13, (), [1.0] * 12 + [6.0], self.KINDS)
        assert started == [0, 12, *range(1, 12)]
        assert end == 9.0
        _, started = simulated(13, ((0, 12),), [1.0] * 13, self.KINDS)
        assert started.index(12) == 2

    def test_a_kind_that_an_earlier_run_has_met_is_not_unknown(self):
        recorded = [1.0] * 12 + [0.5]
        _, started = simulated(13, (), recorded, self.KINDS, recorded=recorded)
        assert started[-1] == 12

    def test_a_priority_comes_before_an_unknown_kind(self):
        _, started = simulated(13, (), [1.0] * 13, self.KINDS, priorities=[*[1] * 6, *[0] * 7])
        assert started[:6] == list(range(6))

    def test_on_one_slot_an_unknown_kind_keeps_its_place(self):
        _, started = simulated(13, (), [1.0] * 13, self.KINDS, n_slots=1)
        assert started == list(range(13))

    def test_a_priority_comes_before_the_longest_chain(self):
        priorities = [0] * 13 + [0]
        priorities[5] = 1
        _, started = simulated(
            self.N, self.EDGES, self.SECONDS, [0] * self.N, recorded=self.SECONDS, priorities=priorities
        )
        assert started[:2] == [5, 12]

    @pytest.mark.parametrize("seed", range(20))
    def test_it_keeps_grahams_bound_and_is_near_the_best_list_schedule(self, seed):
        rng = random.Random(seed)
        n = 60
        edges = sorted({(rng.randrange(b), b) for b in range(5, n) for _ in range(rng.randint(0, 2))})
        seconds = [rng.choice([0.5, 1.0, 8.0]) for _ in range(n)]
        end, started = simulated(n, edges, seconds, [0] * n, recorded=seconds)
        assert sorted(started) == list(range(n))
        chain = max(remaining_seconds(dag_of(n, edges), seconds))
        least = max(chain, sum(seconds) / 2)
        assert least <= end <= sum(seconds) / 2 + chain / 2
        assert end <= 1.1 * least

    def test_on_one_slot_the_order_is_the_same_in_every_run(self):
        seconds = list(self.SECONDS)
        _, started = simulated(self.N, self.EDGES, seconds, [0] * self.N, recorded=seconds, n_slots=1)
        assert started == list(range(14))


def test_a_rerun_starts_with_what_took_longest(ckpt):
    names = [*(f"n{i}" for i in range(8)), "slow"]
    tasks = {name: (lambda name=name: time.sleep(0.3 if name == "slow" else 0.02)) for name in names}
    dag = DAG.builder().add_nodes(names).build()
    for expected in (8, 0):
        # In the order in which they are sent: which worker is up first is another matter.
        sent = []
        callbacks = ExecutionCallbacks(on_start=sent.append)
        CheckpointExecutor(dag, ckpt, callbacks, max_workers=2, durability="process").execute(tasks)
        assert sent.index("slow") == expected
