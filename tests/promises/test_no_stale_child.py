"""What a resume restores: promise 3, no stale child, and promise 1, nothing is redone without a reason."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagron import CheckpointExecutor
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.reading.packed import PackedCommits
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.graph.dag import DAG
from dagron.runs.restore import RestorePlan, plan_restore


def pairs(*edges):
    return [tuple(edge) for edge in edges]


CHAIN = DAG(list("abcd"), pairs("ab", "bc", "cd"))
DIAMOND = DAG(list("abcd"), pairs("ab", "ac", "bd", "cd"))


def commit(dag, name, without=()):
    """What a node of `dag` left when it completed while the parents `without` were failed."""
    return Commit(name, 0, 0, 1, 0, b"", dag.parents_fingerprint(dag.index_of(name)), without=tuple(without))


def plan(dag, completed, *, before=None, stale=(), without=None, same_structure=None):
    """Plan a resume of `dag` after a run of `before` in which the nodes `completed` did."""
    before = before or dag
    commits = PackedCommits(commit(before, name, (without or {}).get(name, ())) for name in completed)
    if same_structure is None:
        same_structure = dag.structure_digest() == before.structure_digest()
    return plan_restore(dag, commits, stale, same_structure=same_structure)


def names(dag, nodes):
    return {dag.name_of(node) for node in nodes}


class TestTheSameGraph:
    def test_without_a_commit_everything_runs(self):
        assert plan(CHAIN, "") == RestorePlan()
        assert plan(CHAIN, "", stale="ab") == RestorePlan()

    def test_everything_that_completed_is_restored(self):
        assert plan(CHAIN, "abcd") == RestorePlan([0, 1, 2, 3])
        assert plan(CHAIN, "ab") == RestorePlan([0, 1])

    def test_a_node_that_lost_its_result_runs_again_and_its_children_stay_as_they_are(self):
        assert plan(CHAIN, "acd") == RestorePlan([0, 2, 3])
        assert plan(CHAIN, "acd", same_structure=False) == RestorePlan([0, 2, 3])
        assert plan(CHAIN, "d") == RestorePlan([3])

    def test_what_is_below_a_stale_node_waits_for_its_new_result(self):
        assert plan(CHAIN, "acd", stale="b") == RestorePlan([0], {2: (), 3: ()})

    def test_what_is_not_below_a_stale_node_is_restored(self):
        assert plan(DIAMOND, "acd", stale="b") == RestorePlan([0, 2], {3: ()})

    def test_of_several_stale_nodes_each_counts(self):
        assert plan(CHAIN, "bd", stale="ac") == RestorePlan([], {1: (), 3: ()})

    def test_a_stale_node_that_the_graph_has_no_more_counts_for_nothing(self):
        assert plan(CHAIN, "abcd", stale=["gone"]) == RestorePlan([0, 1, 2, 3])

    def test_what_ran_without_a_failed_parent_waits_for_that_parent(self):
        assert plan(CHAIN, "acd", without={"c": "b"}) == RestorePlan([0], {2: (1,), 3: ()})

    def test_what_ran_without_several_failed_parents_waits_for_each(self):
        dag = DAG(list("abcd"), pairs("ad", "bd", "cd"))
        assert plan(dag, "bd", without={"d": "ca"}) == RestorePlan([1], {3: (2, 0)})

    def test_a_parent_that_has_completed_since_is_no_reason_to_restore_at_once(self):
        # A run was killed between the parent's commit and the child's next attempt.
        assert plan(CHAIN, "abc", without={"c": "b"}) == RestorePlan([0, 1], {2: (1,)})


class TestAnotherGraph:
    def test_a_node_that_got_a_parent_runs_again_with_all_that_is_below(self):
        after = DAG([*"abcd", "new"], [*pairs("ab", "bc", "cd"), ("new", "b")])
        assert plan(after, "abcd", before=CHAIN) == RestorePlan([0], {}, [1, 2, 3])

    def test_a_node_that_lost_a_parent_runs_again(self):
        after = DAG(list("abcd"), pairs("ab", "ac", "bd"))
        assert plan(after, "abcd", before=DIAMOND) == RestorePlan([0, 1, 2], {}, [3])

    def test_a_node_that_lost_all_parents_runs_again(self):
        after = DAG(list("abcd"), pairs("bc", "cd"))
        assert plan(after, "abcd", before=CHAIN) == RestorePlan([0], {}, [1, 2, 3])

    def test_a_node_whose_parent_has_another_name_runs_again(self):
        after = DAG(["A", "b", "c", "d"], [("A", "b"), *pairs("bc", "cd")])
        assert plan(after, "abcd", before=CHAIN) == RestorePlan([], {}, [1, 2, 3])

    def test_a_node_with_the_same_parents_in_another_order_is_restored(self):
        after = DAG(list("dcba"), pairs("cd", "bd", "ac", "ab"))
        assert names(after, plan(after, "abcd", before=DIAMOND, same_structure=False).restored) == set("abcd")

    def test_a_new_leaf_runs_and_nothing_else(self):
        after = DAG([*"abcd", "new"], [*pairs("ab", "bc", "cd"), ("a", "new")])
        assert plan(after, "abcd", before=CHAIN) == RestorePlan([0, 1, 2, 3])

    def test_commits_of_nodes_that_the_graph_has_no_more_are_passed_over(self):
        after = DAG(list("ab"), pairs("ab"))
        assert plan(after, "abcd", before=CHAIN) == RestorePlan([0, 1])

    def test_another_set_of_parents_outweighs_a_stale_parent(self):
        after = DAG([*"abcd", "new"], [*pairs("ab", "bc", "cd"), ("new", "c")])
        assert plan(after, "bcd", before=CHAIN, stale="a") == RestorePlan([], {1: ()}, [2, 3])

    def test_another_set_of_parents_outweighs_a_parent_that_had_failed(self):
        after = DAG([*"abcd", "new"], [*pairs("ab", "bc", "cd"), ("new", "b")])
        assert plan(after, "bcd", before=CHAIN, without={"b": "a"}) == RestorePlan([], {}, [1, 2, 3])

    def test_a_change_goes_through_a_node_that_lost_its_result(self):
        # `c` is not recomputed only because it was lost: what it is made from has changed, so `d` is not safe.
        after = DAG([*"abcd", "new"], [*pairs("ab", "bc", "cd"), ("new", "b")])
        found = plan(after, "abd", before=CHAIN)
        assert found.outdated == [1, 3]
        assert found.restored == [0]

    def test_a_doubt_goes_through_a_node_that_lost_its_result(self):
        found = plan(CHAIN, "ad", stale="b")
        assert found.restored == [0]
        assert 3 in found.held or 3 in found.outdated


# --- any graph --------------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 8))
    labels = [f"n{i}" for i in range(n)]
    candidates = [(p, c) for i, p in enumerate(labels) for c in labels[i + 1 :]]
    edges = draw(st.lists(st.sampled_from(candidates), unique=True)) if candidates else []
    return DAG(draw(st.permutations(labels)), edges)


@st.composite
def checkpoints(draw):
    """A graph, an earlier one with some of its nodes, and what a run of that may have left; no result was lost."""
    dag, before = draw(graphs()), draw(graphs())
    if draw(st.booleans()):
        before = dag
    completed, stale, without = [], [], {}
    for name in before.topological_order():
        failed = [p for p in before.parents(name) if p not in completed and p not in stale]
        if (failed and not draw(st.booleans())) or not draw(st.integers(0, 5)):
            continue
        (stale if not draw(st.integers(0, 4)) else completed).append(name)
        without[name] = failed
    return dag, before, completed, stale, without


@given(graphs(), st.data())
@settings(deadline=None)
def test_the_short_way_restores_what_the_long_way_does(dag, data):
    completed = data.draw(st.lists(st.sampled_from(dag.nodes), unique=True))
    short = plan(dag, completed, same_structure=True)
    long = plan(dag, completed, same_structure=False)
    assert sorted(short.restored) == sorted(long.restored)
    assert (short.held, short.outdated) == (long.held, long.outdated) == ({}, [])


@given(checkpoints())
@settings(deadline=None)
def test_every_node_is_planned_as_the_rules_say(checkpoint):
    dag, before, completed, stale, without = checkpoint
    found = plan(dag, completed, before=before, stale=stale, without=without)
    known = [name for name in dag.nodes if name in completed]
    changed = {name for name in known if set(dag.parents(name)) != set(before.parents(name))}
    # A node's fate comes down along paths of nodes that have a commit; without a commit there is nothing to lose.
    outdated, unsure = set(), {name for name in stale if name in dag}
    for name in dag.topological_order():
        if name in known:
            if name in changed or outdated & set(dag.parents(name)):
                outdated.add(name)
            elif without[name] or unsure & set(dag.parents(name)):
                unsure.add(name)
        elif outdated & set(dag.parents(name)) or (name not in stale and unsure & set(dag.parents(name))):
            return  # goes through a node without a result: has tests of its own
    assert names(dag, found.outdated) == outdated
    assert names(dag, found.held) == unsure - set(stale)
    assert names(dag, found.restored) == set(known) - outdated - unsure
    for node, parents in found.held.items():
        assert names(dag, parents) == set(without[dag.name_of(node)])
    planned = [*found.restored, *found.held, *found.outdated]
    assert len(planned) == len(set(planned))


@given(checkpoints())
@settings(deadline=None)
def test_outdated_nodes_come_parents_first_and_nothing_below_one_is_kept(checkpoint):
    dag, before, completed, stale, without = checkpoint
    found = plan(dag, completed, before=before, stale=stale, without=without)
    order = {node: i for i, node in enumerate(dag.order)}
    assert found.outdated == sorted(found.outdated, key=order.__getitem__)
    for node in found.outdated:
        for child in dag.child_indices(node):
            assert child not in found.restored
            assert child not in found.held


# --- with a checkpoint on disk ----------------------------------------------------------------------------------------


class Pipeline:
    """Tasks that count their runs, and whose results show what they were made from."""

    def __init__(self, ckpt):
        self.ckpt = ckpt
        self.ran = []
        self.suffix = {}

    def task(self, name):
        def run(**parents):
            self.ran.append(name)
            return f"{name}{self.suffix.get(name, '')}({','.join(parents[p] for p in sorted(parents))})"

        return run

    def executor(self, dag):
        return CheckpointExecutor(dag, self.ckpt, pool="inline", durability="process", fail_fast=False)

    def __call__(self, how, dag):
        """Execute or resume; return what ran and the results."""
        self.ran.clear()
        # Inline tasks come through pickle too; only the module's own registry lets them reach this object.
        PIPELINES[str(self.ckpt)] = self
        try:
            tasks = {name: Reach(str(self.ckpt), name) for name in dag.nodes}
            result = getattr(self.executor(dag), how)(tasks)
        finally:
            del PIPELINES[str(self.ckpt)]
        assert result.ok, {name: node.error for name, node in result.node_results.items() if node.error}
        return "".join(self.ran), {name: result[name].result for name in dag.nodes}


PIPELINES = {}


class Reach:
    """A task by name: pickles small, and runs in whichever pipeline is there."""

    def __init__(self, pipeline, name):
        self.pipeline = pipeline
        self.name = name

    def __call__(self, **parents):
        return PIPELINES[self.pipeline].task(self.name)(**parents)


@pytest.fixture
def pipeline(ckpt):
    return Pipeline(ckpt)


def expected(dag, suffix):
    """What every node gives if it is made from the others as they are now."""
    results = {}
    for name in dag.topological_order():
        results[name] = f"{name}{suffix.get(name, '')}({','.join(results[p] for p in sorted(dag.parents(name)))})"
    return results


class TestOnDisk:
    def test_a_resume_of_the_same_graph_runs_nothing(self, pipeline):
        assert pipeline("execute", CHAIN)[0] == "abcd"
        assert pipeline("resume", CHAIN)[0] == ""

    def test_an_edge_more_runs_what_is_below_it(self, pipeline):
        pipeline("execute", CHAIN)
        after = DAG(list("abcd"), pairs("ab", "bc", "cd", "ac"))
        ran, results = pipeline("resume", after)
        assert ran == "cd"
        assert results == expected(after, {})

    def test_a_lost_result_runs_one_node_and_leaves_its_children(self, pipeline):
        pipeline("execute", CHAIN)
        self.lose(pipeline, "b")
        pipeline.suffix["b"] = "'"
        ran, results = pipeline("resume", CHAIN)
        assert ran == "b"
        assert results["c"] == "c(b(a()))"

    def lose(self, pipeline, name, *, lost=True):
        """Take a result away as a loss of its file would, or as a change of what it was made from would."""
        store = CheckpointStore(pipeline.ckpt, durability="process")
        store.open()
        try:
            store.begin(fresh=False, nodes=CHAIN.nodes, structure=CHAIN.structure_digest())
            store.invalidate([name], "a test takes it away", lost=lost)
        finally:
            store.close()

    def test_a_change_reaches_what_is_below_a_lost_result(self, pipeline):
        pipeline("execute", CHAIN)
        self.lose(pipeline, "c")
        after = DAG([*"abcd", "n"], [*pairs("ab", "bc", "cd"), ("n", "b")])
        assert pipeline("resume", after)[1] == expected(after, {})

    def test_a_doubt_reaches_what_is_below_a_lost_result(self, pipeline):
        pipeline("execute", CHAIN)
        self.lose(pipeline, "c")
        # A run that made `b` again, with another result than before, was killed before it got there.
        self.lose(pipeline, "b", lost=False)
        pipeline.suffix["b"] = "'"
        assert pipeline("resume", CHAIN)[1] == expected(CHAIN, pipeline.suffix)

    def test_a_doubt_that_comes_to_nothing_leaves_what_is_below_a_lost_result(self, pipeline):
        pipeline("execute", CHAIN)
        self.lose(pipeline, "c")
        self.lose(pipeline, "b", lost=False)
        assert pipeline("resume", CHAIN)[1] == expected(CHAIN, {})

    def test_a_kill_just_after_a_changed_graph_was_noted_loses_no_change(self, pipeline):
        pipeline("execute", CHAIN)
        after = DAG(list("abcd"), pairs("ab", "bc", "cd", "ac"))
        # As far as a resume comes before it has looked at what is outdated.
        store = CheckpointStore(pipeline.ckpt, durability="process")
        store.open()
        try:
            store.begin(fresh=False, nodes=after.nodes, structure=after.structure_digest())
        finally:
            store.close()
        assert pipeline("resume", after)[1] == expected(after, {})

    def test_a_node_that_was_left_out_while_its_parent_changed_is_not_taken_up_as_it_was(self, pipeline):
        pipeline("execute", CHAIN)
        smaller = DAG(list("abn"), pairs("ab", "nb"))
        pipeline("resume", smaller)
        larger = DAG(list("abncd"), pairs("ab", "nb", "bc", "cd"))
        assert pipeline("resume", larger)[1] == expected(larger, {})

    def test_what_another_graph_has_made_is_not_taken_up_either_if_nothing_was_restored_for_that(self, pipeline):
        pipeline("execute", CHAIN)
        with closing(CheckpointStore(pipeline.ckpt)) as store:
            store.open()
            store.invalidate_between_runs(list("abcd"), "by hand")
        pipeline("resume", DAG(list("cd"), pairs("cd")))
        assert pipeline("resume", CHAIN)[1] == expected(CHAIN, {})

    def test_a_checkpoint_on_disk_survives_a_graph_without_its_nodes(self, pipeline):
        pipeline("execute", CHAIN)
        pipeline("resume", DAG(["other"]))
        ran, results = pipeline("resume", CHAIN)
        assert ran == ""
        assert results == expected(CHAIN, {})
        assert {path.name for path in Path(pipeline.ckpt).glob("?.pkl")} == {"a.pkl", "b.pkl", "c.pkl", "d.pkl"}
