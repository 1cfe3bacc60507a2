"""From a DAG, its tasks and its checkpoint to what a run begins with.

A dry run goes the same way with a checkpoint that it has only looked at, so it foresees what a run would do.
"""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.records import NO_ORIGIN, Origin
from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.reading.packed import PackedCommits
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.crossing.changed import changed_results, may_have_changed, versions
from dagron.errors import OptionError
from dagron.frozen import frozen
from dagron.graph.dag import DAG
from dagron.outputs import difference
from dagron.runs.leftovers import end_leftovers
from dagron.runs.options import Options
from dagron.runs.restore import RestorePlan, plan_restore
from dagron.runs.state import RunState
from dagron.tasks.options import shown_limit

if TYPE_CHECKING:
    from dagron.engines.protocol import Features
    from dagron.runs.engine import ChosenEngine
    from dagron.runs.plan import RunPlan

__all__ = ["Earlier", "Prepared", "begin_run", "check_limits", "has_deadlines", "prepare"]

logger = logging.getLogger("dagron")

_NAMES_SHOWN = 8
"""Nodes that a warning or an error names: as many as a `TaskDefinitionError` does."""


_UNKEYED, _NOTHING_DROPPED = Digests(), PackedCommits()


class Earlier(NamedTuple):
    """What earlier runs have left in a checkpoint.

    Attributes:
        ledger: What the journal said; None if there is none, or if nothing of it counts.
        commits: Those whose results are there.
        stale: Nodes whose commits no longer apply, and that have not run again since.
        load: Returns the bytes of a result; None if there is none.
        digests: How results and outputs are digested.
        dropped: The commits of completed nodes whose results were not to be kept, and are gone.
    """

    ledger: Ledger | None
    commits: PackedCommits
    stale: Collection[str]
    load: Callable[[str], bytes | memoryview] | None = None
    digests: Digests = _UNKEYED
    dropped: PackedCommits = _NOTHING_DROPPED

    def recorded_seconds(self, dag: DAG) -> array[float] | None:
        """Return how long each node took when it last completed, NaN where that is not known; None if nowhere."""
        ledger = self.ledger
        if ledger is None or not (ledger.commits or ledger.stale or ledger.dropped):
            return None
        seconds = ledger.commits.seconds(dag.nodes)
        for known in (ledger.stale, ledger.dropped):
            for name in known:
                if name in dag and math.isnan(seconds[node := dag.index_of(name)]):
                    seconds[node] = known[name].figures.duration_seconds
        return seconds


@frozen
class Prepared:
    """What is known of a run before its first node runs.

    Attributes:
        dag: The DAG.
        plan: What is known of each node.
        restore: Which results are taken from earlier runs.
        is_same: Whether the commits were last compared with a DAG of the same structure. Where they were not, what
            `restore` says of them has to be recorded before anything is restored.
        recorded_seconds: How long each node took when it last completed, NaN where that is not known; None if nowhere.
        changed: Why results cannot be loaded as what they were, by node.
        outputs: What has become of an output of a node, for each node that is made again because of that.
        dropped: The nodes that stay completed without their results, which are gone.
        gone: The nodes that run because their results are gone, lost or dropped.
    """

    dag: DAG
    plan: RunPlan
    restore: RestorePlan
    is_same: bool
    recorded_seconds: array[float] | None
    changed: Mapping[str, str]
    outputs: Mapping[str, str]
    dropped: Collection[int] = ()
    gone: Collection[int] = ()

    def state(self, options: Options, engine: ChosenEngine) -> RunState:
        """Return where the run stands at its beginning."""
        return RunState(
            self.dag,
            policies=self.plan.policies,
            kinds=self.plan.kinds,
            n_slots=engine.n_slots,
            fail_fast=options.fail_fast,
            consumes=partial(self.plan.consumes, self.dag),
            taken=partial(self.plan.taken, self.dag),
            dropped=self.dropped,
            gone=self.gone,
            restored=self.restore.restored,
            held=self.restore.held,
            batching=engine.features.batches,
            max_batches=engine.features.max_batches,
            recorded_seconds=self.recorded_seconds,
        )


def prepare(dag: DAG, plan: RunPlan, earlier: Earlier) -> Prepared:
    """Decide what is taken from earlier runs. Changes nothing.

    Args:
        dag: The DAG.
        plan: Of its tasks.
        earlier: What the checkpoint has.
    """
    ledger, restore, is_same = earlier.ledger, RestorePlan(), True
    changed: dict[str, str] = {}
    outputs = _outputs_changed(dag, plan, earlier) if plan.outputs else {}
    if outputs:
        earlier = earlier._replace(
            commits=earlier.commits.without(outputs),
            dropped=earlier.dropped.without(outputs),
            stale={*earlier.stale, *outputs},
        )
    decide = partial(
        plan_restore,
        dag,
        earlier.commits,
        earlier.stale,
        dropped=earlier.dropped,
        keeps=lambda node: plan.policies[node].keep,
        takes=partial(plan.consumes, dag),
    )
    if earlier.commits or earlier.dropped or outputs:
        # After damage nothing may be taken for granted: what is missing may have been what mattered.
        is_same = ledger is not None and ledger.structure == dag.structure_digest().hex() and not ledger.damage
        recorded = {} if ledger is None else dict(ledger.definitions)
        if earlier.load is not None and ledger is not None and recorded != plan.definitions:
            if may_have_changed(recorded, plan.definitions):
                names = [name for name in dag.nodes if name in earlier.commits]
                changed = changed_results(names, earlier.load, recorded, plan.definitions)
            # Also if nothing has to be made again: the next resume is to compare with this script.
            restore = decide(same_structure=is_same, changed=changed)
            is_same = False
        else:
            restore = decide(same_structure=is_same)
    is_all_there = len(restore.restored) == len(dag)
    seconds = None if is_all_there else earlier.recorded_seconds(dag)
    dropped = {
        node for node in (*restore.restored, *restore.held) if earlier.dropped and dag.name_of(node) in earlier.dropped
    }
    lost = () if ledger is None else ledger.lost
    gone = {*restore.remade, *(dag.index_of(name) for name in lost if name in dag)}
    return Prepared(dag, plan, restore, is_same, seconds, changed, outputs, dropped, gone)


def _outputs_changed(dag: DAG, plan: RunPlan, earlier: Earlier) -> dict[str, str]:
    """Return what has become of an output of each node that has one that does not stand as the node left it."""
    found: dict[str, str] = {}
    for node, paths in plan.outputs.items():
        name = dag.name_of(node)
        commit = earlier.commits.get(name) or earlier.dropped.get(name)
        if commit is None:
            continue
        recorded = dict(commit.outputs)
        for declared, path in zip(plan.policies[node].outputs, paths, strict=True):
            if what := difference(path, recorded.get(declared), earlier.digests):
                found[commit.name] = f"its output {declared!r} {what}"
                break
    return found


def begin_run(
    store: CheckpointStore,
    dag: DAG,
    plan: RunPlan,
    options: Options,
    engine: ChosenEngine,
    *,
    fresh: bool,
    origin: Origin = NO_ORIGIN,
    look: Callable[[Ledger], None] | None = None,
) -> Prepared:
    """Take the checkpoint directory, begin a run in it, and prepare that.

    Args:
        store: The checkpoint, neither open nor begun.
        dag: The DAG.
        plan: Of its tasks.
        options: What is asked for.
        engine: What is going to make the attempts.
        fresh: Whether what is there is superseded.
        origin: The job that the run is of.
        look: Called with what is there before anything is changed; may raise.

    Raises:
        CheckpointError: As `CheckpointStore.open` and `CheckpointStore.begin`.

    Guarantees:
        What earlier runs have left of processes has ended. The journal says which of the commits apply to the DAG.

    On crash:
        The old checkpoint, or one of which a resume decides the same again.
    """
    store.open()
    if look is not None and store.ledger is not None:
        look(store.ledger)
    end_leftovers(store)
    ledger = store.ledger
    structure = dag.structure_digest()
    definitions = tuple(sorted(plan.definitions.items()))
    commits = store.begin(
        fresh=fresh,
        nodes=dag.nodes,
        structure=structure,
        edges=dag.parent_arrays,
        fail_fast=options.fail_fast,
        n_slots=engine.n_slots,
        definitions=definitions,
        versions=versions(),
        origin=origin,
        working_directory=plan.directory,
    )
    prepared = prepare(dag, plan, Earlier(ledger, commits, store.stale, store.load, store.digests, store.dropped))
    if prepared.outputs:
        store.invalidate([*prepared.outputs], "an output is gone or has changed")
        _warn_of_outputs(prepared.outputs)
    begun = store.ledger
    assert begun is not None
    # Also where nothing is restored: what this run makes is not to be taken for made of the parents of an earlier DAG.
    if not prepared.is_same or begun.structure != structure.hex() or begun.definitions != definitions:
        absent = [name for name in (*commits, *store.dropped) if name not in dag]
        outdated = [dag.name_of(node) for node in prepared.restore.outdated]
        reason = "the script has changed what it is made of" if prepared.changed else "its set of parents changed"
        store.reconcile(outdated, absent, structure, definitions, reason)
    _warn_of_changes(prepared.changed)
    return prepared


def _warn_of_outputs(outputs: Mapping[str, str]) -> None:
    for name, what in islice(outputs.items(), _NAMES_SHOWN):
        logger.warning("node %r is made again: %s", name, what)
    if len(outputs) > _NAMES_SHOWN:
        logger.warning("%d more nodes are made again because of their outputs", len(outputs) - _NAMES_SHOWN)


def _warn_of_changes(changed: Mapping[str, str]) -> None:
    for reason in dict.fromkeys(changed.values()):
        names = [name for name, other in changed.items() if other == reason]
        shown = ", ".join(map(repr, names[:_NAMES_SHOWN])) + (" ..." if len(names) > _NAMES_SHOWN else "")
        logger.warning("%s; made again: %s, and what was made of it", reason, shown)


def has_deadlines(plan: RunPlan, run_timeout: float | None) -> bool:
    """Tell whether the run or any of its attempts has a timeout."""
    different = {id(policy): policy for policy in plan.policies}.values()
    return run_timeout is not None or any(policy.timeout is not None for policy in different)


def check_limits(dag: DAG, plan: RunPlan, options: Options, features: Features) -> None:
    """Refuse limits that the engine cannot keep; an engine for debuggers only warns of them.

    Args:
        dag: The DAG.
        plan: Of its tasks.
        options: Of the run.
        features: What the engine can do.

    Raises:
        OptionError: The run or a node has such a limit.
    """
    if options.max_tasks_per_worker is not None and not features.replaces:
        if not features.is_for_debugging:
            expected = "None, as this engine cannot replace a worker"
            raise OptionError("max_tasks_per_worker", repr(options.max_tasks_per_worker), expected)
        logger.warning("max_tasks_per_worker is not kept where there are no workers that could be replaced")
    different = set(plan.policies)
    sees = features.kills and features.observes_memory
    for option, is_kept, cannot in (
        ("timeout", features.kills, "kill what runs"),
        ("memory_limit", sees, "see how much memory what runs has, and kill it"),
    ):
        if is_kept or all(getattr(policy, option) is None for policy in different):
            continue
        limits = {dag.name_of(i): policy for i, policy in enumerate(plan.policies) if getattr(policy, option)}
        shown = ", ".join(map(repr, islice(limits, _NAMES_SHOWN))) + (" ..." if len(limits) > _NAMES_SHOWN else "")
        if not features.is_for_debugging:
            policy = next(iter(limits.values()))
            limit = policy.timeout if option == "timeout" else shown_limit(policy.memory_limit_as_given)
            raise OptionError(option, f"{limit} (nodes: {shown})", f"None, as this engine cannot {cannot}")
        logger.warning("%s is not kept where nothing can be killed; of these nodes: %s", option, shown)
