"""Critical-path priorities: the chains are right, of what is ready the longest goes first, and runs keep their bounds.

Leans on `remaining_seconds`, `Durations` and `ReadyNodes.reorder`.
"""

import math
import random
import time
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workflows import STRUCTURES, benchmark_module, shapes, workflow

from dagron import DAG, CheckpointExecutor, ExecutionCallbacks
from dagron.graph.chains import remaining_seconds
from dagron.runs.durations import Durations
from dagron.runs.ready import BATCH_SECONDS, PLENTY_PREFETCH_SECONDS

simulation = benchmark_module("simulated")

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


def simulated(n, edges, seconds, kinds, recorded=None, **options):
    """Run a state on slots that take exactly so long; return when it ends, and the nodes as they were started."""
    run = simulation.simulated(dag_of(n, edges), seconds, kinds, recorded, **options)
    return run.end, run.started


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


@pytest.mark.parametrize("n_slots", [2, 3])
@pytest.mark.parametrize("structure", [*STRUCTURES, *shapes.PARENTS])
class TestBounds:
    SEEDS = range(5)

    def test_no_run_beats_the_window_bound_or_exceeds_grahams_by_more_than_batches_add(self, structure, n_slots):
        for seed in self.SEEDS:
            trace = workflow(structure, seed)
            for rerun in (False, True):
                run = simulation.simulated_trace(trace, rerun=rerun, n_slots=n_slots)
                assert sorted(run.started) == list(range(len(trace.parents)))
                least = max(trace.lower_bound(n_slots), trace.window_bound(n_slots))
                assert least <= run.end * (1 + 1e-9)
                assert run.end <= simulation.upper_bound(trace, run, n_slots) * (1 + 1e-9)

    def test_a_rerun_is_near_the_best_that_the_critical_path_gives(self, structure, n_slots):
        for seed in self.SEEDS:
            trace = workflow(structure, seed)
            end = simulation.simulated_trace(trace, rerun=True, n_slots=n_slots).end
            best = max(trace.window_bound(n_slots), trace.list_schedule(n_slots, known=True))
            assert end <= 1.03 * best

    def test_with_durations_known_batches_add_little_for_each_node_of_the_longest_path(self, structure, n_slots):
        # Each node of the chain that Graham counts waits in a slot beside an empty one at most for the batch before it,
        # which was expected to take PLENTY_PREFETCH_SECONDS at most, and for the rest of its own.
        for seed in self.SEEDS:
            trace = workflow(structure, seed)
            end = simulation.simulated_trace(trace, rerun=True, n_slots=n_slots).end
            waits = (1 - 1 / n_slots) * depth(trace) * (PLENTY_PREFETCH_SECONDS + BATCH_SECONDS)
            assert end <= (trace.graham_bound(n_slots) + waits) * (1 + 1e-9)


def depth(trace):
    """Nodes of the path that has the most."""
    return max(replace(trace, seconds=dict.fromkeys(trace.seconds, 1)).remaining().values())


def test_a_rerun_starts_with_what_took_longest(ckpt):
    class Clock:
        """That of a worker's attempts, which only goes on when a task says so."""

        now = 0.0
        time = staticmethod(time.time)

        def perf_counter(self):
            return self.now

    def give_clock():
        from dagron.engines import attempt

        attempt.time = Clock()

    def takes(seconds):
        from dagron.engines import attempt

        attempt.time.now += seconds

    names = [*(f"n{i}" for i in range(8)), "slow"]
    tasks = {name: partial(takes, 300.0 if name == "slow" else 1.0) for name in names}
    dag = DAG.builder().add_nodes(names).build()
    for expected in (8, 0):
        # In the order in which they are sent: which worker is up first is another matter.
        sent = []
        callbacks = ExecutionCallbacks(on_start=sent.append)
        options = {"max_workers": 2, "durability": "process", "worker_init": give_clock}
        CheckpointExecutor(dag, ckpt, callbacks, **options).execute(tasks)
        assert sent.index("slow") == expected
