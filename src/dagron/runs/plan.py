"""From a DAG and its tasks to what a run needs: inputs bound, options resolved, tasks pickled. Runs nothing."""

from __future__ import annotations

import os
import types
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dagron.crossing.changed import shapes_now
from dagron.crossing.sharing import PickledTasks, pickle_tasks
from dagron.engines.protocol import WorkerInit
from dagron.errors import (
    HandleError,
    MissingTaskError,
    NotCallableError,
    OptionError,
    SharedOutputError,
    TaskNotPicklableError,
    UnknownTaskError,
)
from dagron.graph.dag import DAG
from dagron.runs.options import Options
from dagron.runs.policy import Policy
from dagron.tasks.binding import NO_INPUTS, Binding, Parameters, bind, parameters_of, refuse_deferred, signature_key
from dagron.tasks.options import Task, parse_bytes

__all__ = ["RunPlan", "bind_node", "plan_run"]


_INIT = ""
"""Where `worker_init` is pickled, the name of its node, which none can have."""

_IN_SEVERAL = 2
"""How many nodes have a task that is sent as a whole; how many more makes no difference."""


@dataclass(slots=True)
class RunPlan:
    """What is known about every node before the run, by index.

    Attributes:
        bindings: How its task takes its inputs.
        policies: What is asked for it.
        kinds: Equal for nodes whose callables have the same code: they are expected to take similar time.
        tasks: The pickled callable with the exceptions that are worth a retry.
        definitions: What the script defines; see `changed.shapes_now`.
        init: What each worker calls before its first attempt; None for nothing.
        outputs: The files that the task of a node writes, by its index, as absolute paths; without the nodes that have
            none.
        directory: The working directory, where relative paths of outputs begin; empty if no node has outputs.
    """

    bindings: list[Binding]
    policies: list[Policy]
    kinds: array[int]
    tasks: PickledTasks
    definitions: dict[str, str] = field(default_factory=dict)
    init: WorkerInit | None = None
    outputs: dict[int, tuple[str, ...]] = field(default_factory=dict)
    directory: str = ""

    def consumes(self, dag: DAG, child: int, parent: int) -> bool:
        """Tell whether a child's task takes a parent's result."""
        parents = dag.parent_indices(child)
        return any(parents[position] == parent for position in self.bindings[child].consumed)

    def taken(self, dag: DAG, node: int) -> Sequence[int]:
        """Return the parents whose results the task of a node takes."""
        parents = dag.parent_indices(node)
        return [parents[position] for position in self.bindings[node].consumed]


def plan_run(dag: DAG, tasks: Mapping[str, Callable[..., Any] | Task[Any]], options: Options) -> RunPlan:
    """Check the tasks against the DAG and pickle them.

    Args:
        dag: The DAG.
        tasks: A task for each of its nodes.
        options: What holds for nodes whose `Task` does not say otherwise.

    Raises:
        MissingTaskError: A node has no task.
        UnknownTaskError: A task has no node.
        NotCallableError: A task is no callable.
        NotRunByCallError: A task is a coroutine function or a generator function.
        MissingInputError: A task requires a parameter that no parent provides.
        TaskNotPicklableError: A task cannot be pickled.
        OptionError: `worker_init` cannot be pickled; or an output has a relative path, and the working directory is
            gone.
        SharedOutputError: Two nodes have the same output.
    """
    missing = [name for name in dag.nodes if name not in tasks]
    if missing:
        raise MissingTaskError(missing)
    if len(tasks) != len(dag):
        raise UnknownTaskError([name for name in tasks if name not in dag])
    found = _Found(options)
    # Many nodes often have one task, and many more tasks one code, so what is known of a task is not asked again.
    numbers: list[int] = []
    bindings: list[Binding] = []
    bound: dict[Binding, Binding] = {}
    for index, (name, n_parents) in enumerate(zip(dag.nodes, dag.indegrees(), strict=True)):
        task = tasks[name]
        number = found.numbers.get(id(task))
        if number is None:
            number = found.add(name, task)
        numbers.append(number)
        signature = found.signatures[number]
        binding = signature.always if n_parents else signature.alone
        if binding is None:
            fn = task.fn if isinstance(task, Task) else task
            parents = [dag.name_of(parent) for parent in dag.parent_indices(index)]
            binding = bind(name, fn, parents, dag.__contains__, signature.parameters)
            binding = NO_INPUTS if binding == NO_INPUTS else bound.setdefault(binding, binding)
            if not parents:
                signature.alone = binding
        bindings.append(binding)
    plan = found.plan(numbers, bindings)
    if any(policy.outputs for policy in found.policies):
        plan.directory, plan.outputs = _outputs(dag, plan.policies)
    return plan


def _outputs(dag: DAG, policies: Sequence[Policy]) -> tuple[str, dict[int, tuple[str, ...]]]:
    """Return the working directory, and the absolute paths of the outputs of each node that has some."""
    try:
        here = os.getcwd()
    except OSError as error:
        outputs = next(policy.outputs for policy in policies if policy.outputs)
        raise OptionError("outputs", repr(outputs), "a working directory that is still there") from error
    owners: dict[str, int] = {}
    found: dict[int, tuple[str, ...]] = {}
    for node, policy in enumerate(policies):
        if policy.outputs:
            # As the task opens them: `..` behind a symbolic link is not what is left of the text without both.
            found[node] = paths = tuple(os.path.join(here, path) for path in policy.outputs)
            for path in map(_one_spelling, paths):
                if (other := owners.setdefault(path, node)) != node:
                    raise SharedOutputError(dag.name_of(other), dag.name_of(node), path)
    return here, found


def _one_spelling(path: str) -> str:
    if os.pardir in path.split(os.sep):
        directory, name = os.path.split(path)
        path = os.path.join(os.path.realpath(directory), name)
    return os.path.normpath(path)


def bind_node(dag: DAG, tasks: Mapping[str, Callable[..., Any] | Task[Any]], name: str) -> tuple[Any, Binding]:
    """Return the callable of one node and how it takes its inputs, whatever the tasks of other nodes are.

    Raises:
        MissingTaskError: The node has no task.
        NotCallableError: Its task is no callable.
        MissingInputError: Its task requires a parameter that no parent provides.
    """
    if name not in tasks:
        raise MissingTaskError([name])
    task = tasks[name]
    fn = task.fn if isinstance(task, Task) else task
    if not callable(fn):
        raise NotCallableError(name, type(fn).__name__)
    return fn, bind(name, fn, dag.parents(name), dag.__contains__)


class _Signature:
    """What depends on a callable's parameters and code only.

    Attributes:
        parameters: What `parameters_of` returns.
        kind: As in `RunPlan`.
        always: How inputs are taken, whatever parents there are; None if that depends on them.
        alone: How they are taken without parents; None if nobody has asked yet.
    """

    __slots__ = ("alone", "always", "kind", "parameters")

    def __init__(self, parameters: Parameters, kind: int) -> None:
        self.parameters = parameters
        self.kind = kind
        self.always: Binding | None = None if parameters else NO_INPUTS
        self.alone = self.always


class _Found:
    """The tasks of a run, each looked at once.

    Attributes:
        numbers: By the id of a task, its number.
        signatures: The signature of each task.
        policies: The different ones, each as the object that stands for all that are equal.
    """

    def __init__(self, options: Options) -> None:
        self.numbers: dict[int, int] = {}
        self.signatures: list[_Signature] = []
        self._tasks: list[Any] = []  # an id is only good while its object lives
        self._policy_of: list[Policy] = []
        self._pickled_as: list[int] = []
        self._retry_on_default = options.retry_on
        self._worker_init = options.worker_init
        self._default_policy = Policy(
            options.retries,
            options.retry_delay,
            options.timeout,
            memory_limit=parse_bytes("memory_limit", options.memory_limit),
            memory_limit_as_given=options.memory_limit,
            keep=options.keep,
        )
        self.policies = {self._default_policy: self._default_policy}
        self._kinds: dict[object, int] = {}
        # By what tells that it is the same; for most callables that is the id of their code.
        self._known: dict[object, _Signature] = {}
        # Equal exceptions are one object, and a callable with the same ones is pickled and sent once.
        self._exceptions: dict[tuple[int, ...], tuple[type[BaseException], ...]] = {}
        self._pickled: dict[int, dict[int, int]] = {}
        self._names: list[str] = []
        self._callables: list[Any] = []
        self._retry_on: list[tuple[type[BaseException], ...]] = []

    def add(self, name: str, task: Any) -> int:
        """Look at a task, the node of which is to be named in an error, and return its number."""
        fn, policy, retry_on = task, self._default_policy, self._retry_on_default
        if isinstance(task, Task):
            fn, policy = task.fn, _policy(task, self._default_policy)
            policy = self.policies.setdefault(policy, policy)
            if task.retry_on is not None:
                retry_on = self._exceptions.setdefault(tuple(map(id, task.retry_on)), task.retry_on)
        signature = self._signature(name, fn)
        same = self._pickled.setdefault(id(retry_on), {})
        pickled = same.get(id(fn))
        if pickled is None:
            pickled = same[id(fn)] = len(self._names)
            self._names.append(name)
            self._callables.append(fn)
            self._retry_on.append(retry_on)
        number = self.numbers[id(task)] = len(self._tasks)
        self._tasks.append(task)
        self.signatures.append(signature)
        self._policy_of.append(policy)
        self._pickled_as.append(pickled)
        return number

    def _signature(self, name: str, fn: Any) -> _Signature:
        # An attribute of a function may be `__signature__`, which need not be that of its code.
        is_function = type(fn) is types.FunctionType and not fn.__dict__
        known = self._known.get(id(fn.__code__) if is_function else id(fn))
        if known is not None:
            return known
        if not callable(fn):
            raise NotCallableError(name, type(fn).__name__)
        key = signature_key(fn)
        found = self._known.get(key) if key is not None else None
        if found is None:
            refuse_deferred(name, fn)
            found = _Signature(parameters_of(fn), self._kinds.setdefault(_kind(fn), len(self._kinds)))
            self._known[id(fn) if key is None else key] = found
            if is_function and not found.parameters:
                self._known[id(fn.__code__)] = found
        return found

    def plan(self, numbers: list[int], bindings: list[Binding]) -> RunPlan:
        """Pickle the tasks and return the plan.

        Args:
            numbers: The number of each node's task.
            bindings: How each node takes its inputs.
        """
        pickled_as = list(map(self._pickled_as.__getitem__, numbers))
        n_nodes = Counter(pickled_as)
        counts = [n_nodes[i] for i in range(len(n_nodes))]
        tasks, init = self._pickled_tasks(counts) if self._worker_init is None else self._pickled_with_init(counts)
        return RunPlan(
            bindings,
            list(map(self._policy_of.__getitem__, numbers)),
            array("I", map([signature.kind for signature in self.signatures].__getitem__, numbers)),
            PickledTasks(list(map(tasks.own.__getitem__, pickled_as)), list(map(tasks.parts.__getitem__, pickled_as))),
            shapes_now(tasks.modules),
            init,
        )

    def _pickled_tasks(self, n_nodes: list[int]) -> tuple[PickledTasks, None]:
        return pickle_tasks(self._names, self._callables, self._retry_on, n_nodes), None

    def _pickled_with_init(self, n_nodes: list[int]) -> tuple[PickledTasks, WorkerInit]:
        """Pickle `worker_init` with the tasks, as one of several workers: so the two agree on what names mean."""
        init = self._worker_init
        shown = repr(init)[:80]
        try:
            tasks = pickle_tasks(
                [*self._names, _INIT], [*self._callables, init], [*self._retry_on, ()], [*n_nodes, _IN_SEVERAL]
            )
        except TaskNotPicklableError as error:
            if error.node != _INIT:
                raise
            where = f" at {error.path}" if error.path else ""
            raise OptionError("worker_init", shown, f"what can be pickled{where}: {error.reason}") from error
        except HandleError as error:
            if error.held_by != _INIT:
                raise
            raise OptionError("worker_init", shown, "a callable that holds no handle of a node") from error
        return tasks, WorkerInit(tasks.own.pop(), tasks.parts.pop())


def _policy(task: Task[Any], default: Policy) -> Policy:
    memory_limit = parse_bytes("memory_limit", task.memory_limit)
    return Policy(
        default.retries if task.retries is None else task.retries,
        default.retry_delay if task.retry_delay is None else task.retry_delay,
        default.timeout if task.timeout is None else task.timeout,
        task.priority,
        default.memory_limit if memory_limit is None else memory_limit,
        task.exclusive,
        tuple(str(os.fspath(path)) for path in task.outputs),
        default.memory_limit_as_given if memory_limit is None else task.memory_limit,
        default.keep if task.keep is None else task.keep,
    )


def _kind(fn: Any) -> object:
    while hasattr(fn, "func"):  # partial objects
        fn = fn.func
    fn = getattr(fn, "__func__", fn)
    code = getattr(fn, "__code__", None)
    return id(code) if code is not None else id(type(fn)) if not isinstance(fn, type) else id(fn)
