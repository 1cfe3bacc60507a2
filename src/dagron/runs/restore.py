"""Which commits of a checkpoint still apply to a DAG. Pure: looks at no disk and no clock."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.reading.packed import PackedCommits
from dagron.graph.dag import DAG

__all__ = ["RestorePlan", "plan_restore"]

_NONE: Mapping[str, Commit] = {}


@dataclass(slots=True)
class RestorePlan:
    """What becomes of the nodes of a DAG in a resume. Nodes that stand in no list run.

    Attributes:
        restored: Nodes that keep their results whatever happens.
        held: Nodes that keep their results unless a parent changes; with each, the parents that had failed when it ran.
        outdated: Nodes that have a commit and run again, as one of three things is true of the node or an ancestor: its
            set of parents has changed; a parent's result has, while the DAG was without the node; or its result is of a
            class that has changed.
        remade: Nodes whose results were dropped, and that run again because something is going to take them, or may.
    """

    restored: list[int] = field(default_factory=list)
    held: dict[int, tuple[int, ...]] = field(default_factory=dict)
    outdated: list[int] = field(default_factory=list)
    remade: list[int] = field(default_factory=list)


def plan_restore(
    dag: DAG,
    commits: PackedCommits,
    stale: Collection[str],
    *,
    same_structure: bool,
    changed: Collection[str] = (),
    dropped: Mapping[str, Commit] = _NONE,
    keeps: Callable[[int], bool] = lambda node: True,
    takes: Callable[[int, int], bool] = lambda child, parent: True,
) -> RestorePlan:
    """Decide what a resume restores.

    Args:
        dag: The DAG.
        commits: The commits whose results are there.
        stale: Nodes whose commits are known to be no longer right and that have not run again since.
        same_structure: Whether nodes and edges are those of the last run, so that no set of parents need be compared.
        changed: Nodes whose results the script cannot load as what they were.
        dropped: The commits of completed nodes whose results are deleted because they were not to be kept.
        keeps: Whether the result of a node is to be kept now.
        takes: `takes(child, parent)` tells whether a child takes a parent's result.

    A node without a commit that a completed child took a result from has lost it. It runs again, and the child stays as
    it is: a parent that is recomputed only because its result was lost changes nothing.
    """
    plan = RestorePlan()
    if not commits and not dropped:
        return plan
    if same_structure and not stale and not changed and not _ran_without_some(commits, dropped):
        plan.restored = [i for i, name in enumerate(dag.nodes) if name in commits or name in dropped]
        _make_again(plan, dag, dropped, keeps, takes)
        return plan
    known = ChainMap[str, Commit](commits, dropped) if dropped else commits  # type: ignore[arg-type]
    outdated: set[int] = set()
    unsure = {dag.index_of(name) for name in stale if name in dag}
    for node in dag.order:
        commit = known.get(dag.name_of(node))
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
                and (commit.fingerprint != dag.parents_fingerprint(node) or _took_another(commit, parents, dag, known))
            )
        ) or any(name not in dag for name in commit.without):
            outdated.add(node)
            plan.outdated.append(node)
        elif commit.without or any(parent in unsure for parent in parents):
            unsure.add(node)
            plan.held[node] = tuple(dag.index_of(name) for name in commit.without)
        else:
            plan.restored.append(node)
    _make_again(plan, dag, dropped, keeps, takes)
    return plan


def _ran_without_some(commits: PackedCommits, dropped: Mapping[str, Commit]) -> bool:
    return commits.ran_without_some() or any(commit.without for commit in dropped.values())


def _make_again(
    plan: RestorePlan,
    dag: DAG,
    dropped: Mapping[str, Commit],
    keeps: Callable[[int], bool],
    takes: Callable[[int, int], bool],
) -> None:
    """Have those nodes run whose results are gone and that are needed by what runs or may run, children first.

    A held child may turn out to run when it is too late to make again what it takes. What is made again may have to be
    made of what is gone itself, so a node is decided on after its children.
    """
    if not dropped:
        return
    sure = set(plan.restored)
    for node in reversed(dag.order):
        if dag.name_of(node) not in dropped or not (node in sure or node in plan.held):
            continue
        takers = [child for child in dag.child_indices(node) if takes(child, node)]
        # What nobody takes is kept, so it is wanted.
        if keeps(node) or not takers or not sure.issuperset(takers):
            sure.discard(node)
            plan.held.pop(node, None)
            plan.remade.append(node)
    if plan.remade:
        plan.restored = [node for node in plan.restored if node in sure]


def _took_another(commit: Commit, parents: Sequence[int], dag: DAG, commits: Mapping[str, Commit]) -> bool:
    """Tell whether a parent's result has become another one since the node took it, in a run that had no such node."""
    for parent in parents:
        found = commits.get(dag.name_of(parent))
        if found is not None and found.since > commit.sequence:
            return True
    return False
