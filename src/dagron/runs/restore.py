"""Which commits of a checkpoint still apply to a DAG. Pure: looks at no disk and no clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.reading.packed import PackedCommits
from dagron.graph.dag import DAG

__all__ = ["RestorePlan", "plan_restore"]


@dataclass(slots=True)
class RestorePlan:
    """What becomes of the nodes of a DAG in a resume. Nodes that stand in no list run.

    Attributes:
        restored: Nodes that keep their results whatever happens.
        held: Nodes that keep their results unless a parent changes; with each, the parents that had failed when it ran.
        outdated: Nodes that have a commit and run again, as one of three things is true of the node or an ancestor: its
            set of parents has changed; a parent's result has, while the DAG was without the node; or its result is of a
            class that has changed.
    """

    restored: list[int] = field(default_factory=list)
    held: dict[int, tuple[int, ...]] = field(default_factory=dict)
    outdated: list[int] = field(default_factory=list)


def plan_restore(
    dag: DAG,
    commits: PackedCommits,
    stale: Collection[str],
    *,
    same_structure: bool,
    changed: Collection[str] = (),
) -> RestorePlan:
    """Decide what a resume restores.

    Args:
        dag: The DAG.
        commits: The commits whose results are there.
        stale: Nodes whose commits are known to be no longer right and that have not run again since.
        same_structure: Whether nodes and edges are those of the last run, so that no set of parents need be compared.
        changed: Nodes whose results the script cannot load as what they were.

    A node without a commit that a completed child took a result from has lost it. It runs again, and the child stays as
    it is: a parent that is recomputed only because its result was lost changes nothing.
    """
    plan = RestorePlan()
    if not commits:
        return plan
    if same_structure and not stale and not changed and not commits.ran_without_some():
        plan.restored = [i for i, name in enumerate(dag.nodes) if name in commits]
        return plan
    outdated: set[int] = set()
    unsure = {dag.index_of(name) for name in stale if name in dag}
    for node in dag.order:
        commit = commits.get(dag.name_of(node))
        parents = dag.parent_indices(node)
        if any(parent in outdated for parent in parents):
            outdated.add(node)
            if commit is not None:
                plan.outdated.append(node)
        elif commit is None:
            # What it is made from is in doubt, so what was made from it is, too.
            if any(parent in unsure for parent in parents):
                unsure.add(node)
        elif (
            commit.name in changed
            or (
                not same_structure
                and (
                    commit.fingerprint != dag.parents_fingerprint(node) or _took_another(commit, parents, dag, commits)
                )
            )
        ) or any(name not in dag for name in commit.without):
            outdated.add(node)
            plan.outdated.append(node)
        elif commit.without or any(parent in unsure for parent in parents):
            unsure.add(node)
            plan.held[node] = tuple(dag.index_of(name) for name in commit.without)
        else:
            plan.restored.append(node)
    return plan


def _took_another(commit: Commit, parents: Sequence[int], dag: DAG, commits: Mapping[str, Commit]) -> bool:
    """Tell whether a parent's result has become another one since the node took it, in a run that had no such node."""
    for parent in parents:
        found = commits.get(dag.name_of(parent))
        if found is not None and found.since > commit.sequence:
            return True
    return False
