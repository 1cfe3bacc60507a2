"""From a DAG and its tasks to what a run needs: inputs bound, options resolved, tasks pickled. Runs nothing."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dagron.errors import MissingTaskError, NotCallableError, UnknownTaskError
from dagron.graph import DAG
from dagron.parts import PickledTask, pickle_tasks
from dagron.state import Policy
from dagron.task import NO_INPUTS, Binding, Parameters, Task, bind, parameters_of, parse_bytes, signature_key

__all__ = ["Defaults", "RunPlan", "plan_run"]


@dataclass(frozen=True, slots=True)
class Defaults:
    """The options of nodes whose `Task` does not say otherwise."""

    retries: int = 0
    retry_delay: float = 0.0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    timeout: float | None = None
    memory_limit: int | None = None


@dataclass(slots=True)
class RunPlan:
    """What is known about every node before the run, by index.

    Attributes:
        bindings: How its task takes its inputs.
        policies: What is asked for it.
        kinds: Equal for nodes whose callables have the same code: they are expected to take similar time.
        tasks: The pickled callable with the exceptions that are worth a retry.
    """

    bindings: list[Binding]
    policies: list[Policy]
    kinds: array[int]
    tasks: list[PickledTask]

    def consumes(self, dag: DAG, child: int, parent: int) -> bool:
        """Tell whether a child's task takes a parent's result."""
        parents = dag.parent_indices(child)
        return any(parents[position] == parent for position in self.bindings[child].consumed)


def plan_run(dag: DAG, tasks: Mapping[str, Callable[..., Any] | Task[Any]], defaults: Defaults) -> RunPlan:
    """Check the tasks against the DAG and pickle them.

    Raises:
        MissingTaskError: A node has no task.
        UnknownTaskError: A task has no node.
        NotCallableError: A task is no callable.
        MissingInputError: A task requires a parameter that no parent provides.
        TaskNotPicklableError: A task cannot be pickled.
    """
    missing = [name for name in dag.nodes if name not in tasks]
    if missing:
        raise MissingTaskError(missing)
    if len(tasks) != len(dag):
        raise UnknownTaskError([name for name in tasks if name not in dag])
    plan = RunPlan([], [], array("I"), [])
    default_policy = _policy(None, defaults)
    policies: dict[Policy, Policy] = {default_policy: default_policy}
    bindings: dict[Binding, Binding] = {}
    kinds: dict[object, int] = {}
    # What depends on the callable only, by its id: tasks of many nodes are often one.
    known: dict[int, tuple[Parameters, int]] = {}
    signatures: dict[object, Parameters] = {}
    bound_alone: dict[int, Binding] = {}
    # The pair that is pickled, one object for each combination, so that equal ones are pickled and sent once.
    pairs: dict[tuple[int, int], tuple[Any, Any]] = {}
    uses: dict[int, int] = {}
    chosen: list[tuple[Any, Any]] = []
    # The policy, kind and pair of a task that takes no inputs, and so is the same for every node that has it.
    alike: dict[int, tuple[Policy, int, tuple[Any, Any]]] = {}
    for index, name in enumerate(dag.nodes):
        task = tasks[name]
        if (same := alike.get(id(task))) is not None:
            policy, kind, shared = same
            plan.bindings.append(NO_INPUTS)
            plan.policies.append(policy)
            plan.kinds.append(kind)
            chosen.append(shared)
            uses[id(shared)] += 1
            continue
        options = task if isinstance(task, Task) else None
        fn: Any = options.fn if options is not None else task
        found = known.get(id(fn))
        if found is None:
            if not callable(fn):
                raise NotCallableError(name, type(fn).__name__)
            key = signature_key(fn)
            parameters = signatures.get(key) if key is not None else None
            if parameters is None:
                parameters = parameters_of(fn)
                if key is not None:
                    signatures[key] = parameters
            found = known[id(fn)] = parameters, kinds.setdefault(_kind(fn), len(kinds))
        parameters, kind = found
        if not parameters:
            plan.bindings.append(NO_INPUTS)
        else:
            parents = [dag.name_of(parent) for parent in dag.parent_indices(index)]
            # Without parents it depends on the callable only.
            binding = None if parents else bound_alone.get(id(parameters))
            if binding is None:
                binding = bind(name, fn, parents, dag.__contains__, parameters)
                binding = NO_INPUTS if binding == NO_INPUTS else bindings.setdefault(binding, binding)
                if not parents:
                    bound_alone[id(parameters)] = binding
            plan.bindings.append(binding)
        policy = default_policy
        if options is not None:
            policy = _policy(options, defaults)
            policy = policies.setdefault(policy, policy)
        plan.policies.append(policy)
        plan.kinds.append(kind)
        retry_on = defaults.retry_on if options is None or options.retry_on is None else options.retry_on
        ids = id(fn), id(retry_on)
        pair = pairs.get(ids)
        if pair is None:
            pair = pairs[ids] = (fn, retry_on)
        chosen.append(pair)
        uses[id(pair)] = uses.get(id(pair), 0) + 1
        if not parameters:
            alike[id(task)] = policy, kind, pair
    plan.tasks = pickle_tasks(zip(dag.nodes, chosen, strict=True), uses)
    return plan


def _policy(options: Task[Any] | None, defaults: Defaults) -> Policy:
    if options is None:
        return Policy(defaults.retries, defaults.retry_delay, defaults.timeout, 0, defaults.memory_limit)
    return Policy(
        defaults.retries if options.retries is None else options.retries,
        defaults.retry_delay if options.retry_delay is None else options.retry_delay,
        defaults.timeout if options.timeout is None else options.timeout,
        options.priority,
        parse_bytes("memory_limit", options.memory_limit) or defaults.memory_limit,
        options.exclusive,
    )


def _kind(fn: Any) -> object:
    while hasattr(fn, "func"):  # partial objects
        fn = fn.func
    fn = getattr(fn, "__func__", fn)
    code = getattr(fn, "__code__", None)
    return id(code) if code is not None else id(type(fn)) if not isinstance(fn, type) else id(fn)
