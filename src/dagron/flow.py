"""`Flow`: a job written once, as calls whose arguments are the results of others. It makes the DAG and the tasks."""

from __future__ import annotations

import itertools
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    NoReturn,
    TypeAlias,
    TypeVar,
    Unpack,
    final,
    overload,
)

from dagron.errors import (
    CheckpointExistsError,
    DuplicateNodeError,
    GraphError,
    HandleError,
    OptionError,
    TaskDefinitionError,
)
from dagron.graph.dag import DAG, DAGBuilder
from dagron.loading import begin_no_run_while_loading
from dagron.tasks.arguments import ArgumentReader
from dagron.tasks.calls import OPTIONS, Calls, TaskLike
from dagron.tasks.handle import Node
from dagron.tasks.keyword_items import KeywordItems, is_endless, mentions, side_by_side
from dagron.tasks.meant import check_keywords
from dagron.tasks.names import checked_name, namer
from dagron.tasks.nodes import Nodes
from dagron.tasks.options import Task

if TYPE_CHECKING:
    from dagron.looking.status import CheckpointStatus
    from dagron.results.results import ExecutionResult
    from dagron.runs.coordinator import CancelEvent
    from dagron.runs.forecast import Forecast
    from dagron.runs.options import ExecutorOptions

__all__ = ["Flow"]

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

# What handles may be nested in. No type says "a list of T, or of handles of T, at any depth", so these are not checked.
Nested: TypeAlias = list[Any] | tuple[Any, ...] | dict[Any, Any] | Nodes[Any]


@final
class Flow:
    """Collects nodes, each a name, a callable and its arguments, and runs them.

    What `add` returns stands for the node's result. Given to another node, it is an edge, and the callable gets the
    result in its place: as an argument, and at any depth in lists, tuples, named tuples, the values of dicts and the
    fields of dataclasses. In sets, as a key, and inside of other objects it is refused.

    `dag` and `tasks` are what a `CheckpointExecutor` takes; `run` is a short way to one.

    Lists, dicts and sets among the arguments are copied when a node is added; other objects are pickled when a run
    starts, and must not change before. A call that raises leaves the flow as it was.
    """

    __slots__ = ("_builder", "_calls", "_dag", "_owner", "_reader", "_tasks")

    def __init__(self) -> None:
        self._owner = object()  # not the flow, or a handle would keep every task alive
        self._reader = ArgumentReader(self._owner)
        self._builder = DAGBuilder()
        self._tasks: dict[str, TaskLike] = {}
        self._calls = Calls()
        self._dag: DAG | None = None

    # A type checker sees that arguments, or the results that they stand for, fit the first two parameters. `add` itself
    # checks what is given by keyword, after these two, and to a `Task`. A type variable and a handle of it have
    # overloads of their own, because with a union of the two a lambda's parameter would have no type.
    # fmt: off
    @overload
    def add(self, name: str, fn: Task[T], /, *args: Any, **kwargs: Any) -> Node[T]: ...
    @overload
    def add(self, name: str, fn: Callable[..., T], /, **kwargs: Any) -> Node[T]: ...
    @overload
    def add(self, name: str, fn: Callable[[A], T], a: Node[A], /, **kwargs: Any) -> Node[T]: ...
    @overload
    def add(self, name: str, fn: Callable[[A], T], a: A | Nested, /, **kwargs: Any) -> Node[T]: ...
    @overload
    def add(self, name: str, fn: Callable[Concatenate[A, ...], T], a: A | Node[A] | Nested, /,
            **kwargs: Any) -> Node[T]: ...
    @overload
    def add(self, name: str, fn: Callable[[A, B], T], a: Node[A], b: Node[B], /, **kwargs: Any) -> Node[T]: ...
    @overload
    def add(self, name: str, fn: Callable[[A, B], T], a: Node[A], b: B | Nested, /, **kwargs: Any) -> Node[T]: ...
    @overload
    def add(self, name: str, fn: Callable[[A, B], T], a: A | Nested, b: Node[B], /, **kwargs: Any) -> Node[T]: ...
    @overload
    def add(self, name: str, fn: Callable[[A, B], T], a: A | Nested, b: B | Nested, /, **kwargs: Any) -> Node[T]: ...
    @overload
    def add(self, name: str, fn: Callable[Concatenate[A, B, ...], T], a: A | Node[A] | Nested,
            b: B | Node[B] | Nested, /, **kwargs: Any) -> Node[T]: ...
    @overload
    def add(self, name: str, fn: Callable[..., T], a: object, b: object, c: object, /,
            *args: Any, **kwargs: Any) -> Node[T]: ...
    # fmt: on
    def add(self, name: str, fn: TaskLike, /, *args: Any, **kwargs: Any) -> Node[Any]:
        """Add a node that calls `fn(*args, **kwargs)`, and return its handle.

        Keywords named like an option of `Task` (`retries`, `retry_delay`, `retry_on`, `timeout`, `priority`,
        `memory_limit`, `exclusive`, `outputs`, `keep`) are options of the node; the others go to `fn`. If `fn` may have
        such a parameter itself, that is an error. Then give a `Task`: it holds the options, and every keyword goes to
        its callable.

        Args:
            name: The node's name. A resume finds its result by this name alone.
            fn: A callable, or a `Task` around one.
            args: Its arguments: values, handles, and containers of these.
            kwargs: Its arguments by keyword, and the options.

        Raises:
            InvalidNameError: `name` is no string.
            UnstableNameError: `name` shows a memory address.
            DuplicateNodeError: A node of that name was added before.
            NotCallableError: `fn` is no callable.
            NotRunByCallError: `fn` is a coroutine function or a generator function.
            ArgumentsError: The arguments do not fit `fn`.
            HandleError: A handle is of another flow, or stands where no result can take its place.
            OptionError: An option has a value that it cannot have.
        """
        name = checked_name(name)
        if name in self._tasks:
            raise DuplicateNodeError(name)
        call = self._calls.read(name, fn, len(args), kwargs)
        parents: dict[str, int] = {}
        taken = [self._reader.read(value, parents) for value in args]
        keywords = {key: self._reader.read(value, parents) for key, value in call.keywords.items()}
        return self._insert(name, name, parents, call.task(taken, keywords, parents))

    # fmt: off
    @overload
    def map(self, name: str | Callable[..., str], fn: Task[T], /, **kwargs: Any) -> Nodes[T]: ...
    @overload
    def map(self, name: str | Callable[..., str], fn: Callable[..., T], /, **kwargs: Any) -> Nodes[T]: ...
    @overload
    def map(self, name: str | Callable[..., str], fn: Task[T], items: Iterable[Any], /, *more: Iterable[Any],
            **kwargs: Any) -> list[Node[T]]: ...
    @overload
    def map(self, name: str | Callable[[Node[A]], str], fn: Callable[[A], T], items: Iterable[Node[A]], /,
            **kwargs: Any) -> list[Node[T]]: ...
    @overload
    def map(self, name: str | Callable[[A], str], fn: Callable[[A], T], items: Iterable[A | Nested], /,
            **kwargs: Any) -> list[Node[T]]: ...
    @overload
    def map(self, name: str | Callable[..., str], fn: Callable[Concatenate[A, ...], T],
            items: Iterable[A | Node[A] | Nested], /, **kwargs: Any) -> list[Node[T]]: ...
    @overload
    def map(self, name: str | Callable[..., str], fn: Callable[[A, B], T], items: Iterable[A | Node[A] | Nested],
            more: Iterable[B | Node[B] | Nested], /, **kwargs: Any) -> list[Node[T]]: ...
    @overload
    def map(self, name: str | Callable[..., str], fn: Callable[Concatenate[A, B, ...], T],
            items: Iterable[A | Node[A] | Nested], more: Iterable[B | Node[B] | Nested], /,
            **kwargs: Any) -> list[Node[T]]: ...
    @overload
    def map(self, name: str | Callable[..., str], fn: Callable[..., T], items: Iterable[object],
            more: Iterable[object], third: Iterable[object], /, *others: Iterable[object],
            **kwargs: Any) -> list[Node[T]]: ...
    # fmt: on
    def map(
        self, name: str | Callable[..., str], fn: TaskLike, /, *iterables: Iterable[Any], **kwargs: Any
    ) -> list[Node[Any]] | Nodes[Any]:
        """Add a node that calls `fn` for each item, or for each of the items of several iterables side by side.

        In `name`, `{}` stands for the item, as in `"count[{}]"`; with several iterables, one `{}` for all of their
        items, or a `{}` for each. Text, numbers, paths, dates, members of enums, None and tuples of these are shown as
        they are, a text of more than 100 characters cut and with a digest; a handle is shown by its label, so that a
        stage is named like the one before; anything else is shown by its position, which is what a resume then goes by.
        `{index}` is the position, and format specifications apply: `"block[{:02}]"`. A function in place of the text
        takes the items and returns the name.

        The paths in `outputs` are filled in the same way, as in `outputs=["counts/{}.csv"]`.

        Items may be given by keyword instead: `map("fit[{C},{seed}]", fit, C=[1, 10], seed=[7, 8], X=X)` adds two
        nodes. The keywords that the name mentions, here `C` and `seed`, have an item for each node; the others are the
        same for all.

        Args:
            name: What names the nodes.
            fn: A callable, or a `Task` around one.
            iterables: Of equal lengths. They are read to the end here.
            kwargs: What is the same for all nodes: arguments of `fn` and options, as for `add`. If there are no
                iterables, those of the items that the name mentions, too.

        Returns:
            The handles, in the order of the items: a list; for items by keyword `Nodes`, which finds them by these.

        Raises:
            GraphError: `name` cannot be filled, or an iterable is none, is text, or has another length.
            UnstableNameError: A name shows a memory address, or the position of an item of a set.
            DuplicateNodeError: Two items give the same name, or a node has it already.
            DagronError: As for `add`.
        """
        if isinstance(name, (list, tuple)):
            reason = "put {} into one text for where the items go, or give a function that makes a name of them"
            raise GraphError(f"map takes no {type(name).__name__} of names, but what makes each name: {reason}")
        if not iterables and mentions(name, kwargs):
            return self._fan_out("map", name, fn, kwargs, side_by_side)
        columns, ordered = _columns(iterables)
        make = namer(name, len(columns), ordered=ordered)
        call = self._calls.read(name if isinstance(name, str) else "map", fn, len(columns), kwargs)
        outputs = [namer(path, len(columns), ordered=ordered) for path in call.outputs]
        read = self._reader.read
        common: dict[str, int] = {}
        keywords = {key: read(value, common) for key, value in call.keywords.items()}
        made: dict[str, tuple[int, str, dict[str, int], TaskLike]] = {}
        for index, items in enumerate(zip(*columns, strict=True)):
            node, label = make(index, items)
            if node in made or node in self._tasks:
                raise _twice(node, index, made[node][0] if node in made else None)
            parents = common.copy()
            taken = [read(item, parents) for item in items]
            paths = tuple(fill(index, items).name for fill in outputs)
            made[node] = index, label, parents, call.task(taken, keywords, parents, paths)
        return [self._insert(node, label, parents, task) for node, (_, label, parents, task) in made.items()]

    # fmt: off
    @overload
    def product(self, name: str | Callable[..., str], fn: Task[T], /, **kwargs: Any) -> Nodes[T]: ...
    @overload
    def product(self, name: str | Callable[..., str], fn: Callable[..., T], /, **kwargs: Any) -> Nodes[T]: ...
    # fmt: on
    def product(self, name: str | Callable[..., str], fn: TaskLike, /, **kwargs: Any) -> Nodes[Any]:
        """Add a node that calls `fn` for each combination of items, as nested loops do; the last keyword is innermost.

        `product("fit[C={C},{fold}]", fit, C=[0.1, 1], fold=range(5), X=X)` adds ten nodes, `fit[C=0.1,0]` first. The
        name decides what has items: the keywords that it mentions, here `C` and `fold`. The others, here `X`, are the
        same for all. Items are shown as for `map`; one that cannot be is shown by its position among those of its
        keyword. Format specifications apply, as in `{C:g}`. A function in place of the text takes items by the names of
        its parameters. The paths in `outputs` are filled like the name.

        Args:
            name: What names the nodes.
            fn: A callable, or a `Task` around one. It is given everything by keyword.
            kwargs: An iterable of items for each keyword that the name mentions; what is the same for all nodes; and
                options, as for `add`.

        Returns:
            The handles, in the order of the combinations; `nodes.at(C=1, fold=0)` finds one by its items.

        Raises:
            GraphError: The name mentions no keyword, or one that is not given; or what has the items is no iterable, or
                is text.
            UnstableNameError: A name shows a memory address, or the position of an item of a set.
            DuplicateNodeError: Two combinations give one name, because their items are shown alike, or a node has it
                already. The error names both.
            DagronError: As for `add`.
        """
        return self._fan_out("product", name, fn, kwargs, itertools.product)

    def _fan_out(
        self,
        method: str,
        name: str | Callable[..., str],
        fn: TaskLike,
        kwargs: dict[str, Any],
        combine: Callable[..., Iterable[tuple[Any, ...]]],
    ) -> Nodes[Any]:
        options = () if isinstance(fn, Task) else OPTIONS
        items = KeywordItems(method, name, kwargs, options, combine)
        axes, looked_into = items.axes, items.axes_to_read()
        call = self._calls.read(name if isinstance(name, str) else method, fn, 0, kwargs)
        read = self._reader.read
        common: dict[str, int] = {}
        keywords = {key: read(value, common) for key, value in call.keywords.items() if key not in axes}
        outputs: Iterable[tuple[str, ...]] = itertools.repeat(())
        if call.outputs:
            outputs = zip(*map(items.filled, call.outputs), strict=True)
        made: dict[str, tuple[int, str, dict[str, int], TaskLike]] = {}
        for index, (row, (node, label), paths) in enumerate(zip(items.rows, items.names(), outputs, strict=False)):
            if node in made or node in self._tasks:
                raise items.alike(node, index, made[node][0] if node in made else None)
            parents = common.copy()
            taken = dict(zip(axes, row, strict=True))
            for axis in looked_into:
                taken[axis] = read(taken[axis], parents)
            taken.update(keywords)
            made[node] = index, label, parents, call.task((), taken, parents, paths)
        nodes = [self._insert(node, label, parents, task) for node, (_, label, parents, task) in made.items()]
        return Nodes(nodes, items.columns())

    @property
    def dag(self) -> DAG:
        """The DAG of the nodes that were added so far."""
        if self._dag is None:
            self._dag = self._builder.build()
        return self._dag

    @property
    def tasks(self) -> Mapping[str, TaskLike]:
        """The tasks of the nodes by name, for a `CheckpointExecutor` of `dag`; read only."""
        return types.MappingProxyType(self._tasks)

    def run(
        self,
        checkpoint_dir: str | os.PathLike[str],
        *,
        resume: bool | None = None,
        run_timeout: float | None = None,
        cancel_event: CancelEvent | None = None,
        **options: Unpack[ExecutorOptions],
    ) -> ExecutionResult:
        """Run the flow, and checkpoint each node as it completes.

        A resume goes by names and edges: a node that completed is not run again because its function or one of its
        other arguments has changed. So nobody else decides: without a word about it, a checkpoint with completed nodes
        is neither taken nor given up.

        Args:
            checkpoint_dir: The directory of the checkpoint; created if it does not exist.
            resume: True to go on from the checkpoint, if there is one; False to give it up and start again.
            run_timeout: Seconds after which the run is stopped and what runs is killed.
            cancel_event: Stops the run when it is set; asked twenty times a second.
            options: Those of `CheckpointExecutor`; `timeout` is that of an attempt.

        Returns:
            How every node ended, by handle or name: `result[node]`, and `result.value(node)`, which raises if the node
            has no result.

        Raises:
            CheckpointExistsError: There is a checkpoint with completed nodes, and `resume` does not say what to do.
            DagronError: As for `CheckpointExecutor` and its `execute` and `resume`.
        """
        from dagron.executor import CheckpointExecutor
        from dagron.runs.options import ExecutorOptions

        of_run = ("checkpoint_dir", "resume", "run_timeout", "cancel_event")
        check_keywords(options, [*ExecutorOptions.__annotations__, *of_run], "Flow.run")
        begin_no_run_while_loading(self.dag, self._tasks, checkpoint_dir)
        executor = CheckpointExecutor(self.dag, checkpoint_dir, **options)
        if resume is None:
            found = executor.checkpoint_info()
            if found is not None and found.completed_nodes:
                raise CheckpointExistsError(executor.checkpoint_dir, len(found.completed_nodes))
        start = executor.resume if resume else executor.execute
        result = start(self._tasks, run_timeout=run_timeout, cancel_event=cancel_event)
        result._flow = self._owner
        return result

    def plan(
        self, checkpoint_dir: str | os.PathLike[str], *, fresh: bool = False, **options: Unpack[ExecutorOptions]
    ) -> Forecast:
        """Return what a run would do and why, as `dagron run --dry-run` says. Runs, locks and changes nothing.

        Args:
            checkpoint_dir: The directory of the checkpoint; without one everything would run.
            fresh: Whether the run would start again. Default: it goes on, as with `resume=True`.
            options: Those of `run`. The tasks are checked as for a run.

        Raises:
            TaskDefinitionError: The tasks do not fit the DAG.
            OptionError: An option has a value that it cannot have.
            CheckpointError: There is a checkpoint that cannot be read.
        """
        from dagron.runs.forecast import forecast
        from dagron.runs.options import ExecutorOptions, Options

        check_keywords(options, [*ExecutorOptions.__annotations__, "fresh"], "Flow.plan")
        return forecast(self.dag, self._tasks, checkpoint_dir, Options(**options), fresh=fresh)

    def status(self, checkpoint_dir: str | os.PathLike[str], *, signing_key: bytes | None = None) -> CheckpointStatus:
        """Return how the checkpoint stands, as `dagron status` says; also while a run goes on, in another process, say.

        Args:
            checkpoint_dir: The directory of the checkpoint.
            signing_key: As of `CheckpointExecutor`.

        Raises:
            NoCheckpointError: There is none yet.
            CheckpointError: There is one that cannot be read.
        """
        from dagron.checkpoint.reading.opening import signing_key as key_of_environment
        from dagron.looking.status import look

        return look(checkpoint_dir, signing_key or key_of_environment())

    def invalidate(
        self,
        checkpoint_dir: str | os.PathLike[str],
        *nodes: str | Node[Any] | Iterable[Node[Any]],
        if_changed: bool = False,
        dry_run: bool = False,
        signing_key: bytes | None = None,
        allow_untrusted: bool = False,
    ) -> list[str]:
        """Make the results of nodes and of their descendants not count, as `dagron invalidate` does. Runs nothing.

        The next resume makes them again. Nodes that have failed or have never run are run by it anyway.

        Args:
            checkpoint_dir: The directory of the checkpoint.
            nodes: Handles, lists of handles, names, and patterns (`*` for any text, `?` for any character).
            if_changed: What is downstream of these nodes runs again only if a result that it takes has changed.
            dry_run: Only look.
            signing_key: As of `CheckpointExecutor`.
            allow_untrusted: As of `CheckpointExecutor`.

        Returns:
            The nodes whose results no longer count, in the order of the DAG.

        Raises:
            UnknownNodeError: The flow has no such node.
            HandleError: A handle is of another flow.
            NoCheckpointError: There is no checkpoint.
            CheckpointLockedError: A run is writing it.
            CheckpointError: It cannot be used.

        On crash:
            All of the results count still, or none does.
        """
        from dagron.checkpoint.reading.opening import signing_key as key_of_environment
        from dagron.runs.invalidation import invalidate

        begin_no_run_while_loading(self.dag, self._tasks, checkpoint_dir)
        patterns, names = self._named(nodes)
        return invalidate(
            checkpoint_dir,
            self.dag,
            patterns,
            names,
            descendants=not if_changed,
            dry_run=dry_run,
            key=signing_key or key_of_environment(),
            allow_untrusted=allow_untrusted,
        )

    def rerun(
        self,
        checkpoint_dir: str | os.PathLike[str],
        *nodes: str | Node[Any] | Iterable[Node[Any]],
        if_changed: bool = False,
        run_timeout: float | None = None,
        cancel_event: CancelEvent | None = None,
        **options: Unpack[ExecutorOptions],
    ) -> ExecutionResult:
        """Run nodes and their descendants again, with whatever else has no result: `invalidate`, and then `run`.

        This is for code that was mended: a resume does not run a node again because its function has changed.

        Args:
            checkpoint_dir: The directory of the checkpoint.
            nodes: As for `invalidate`.
            if_changed: As for `invalidate`.
            run_timeout: As for `run`.
            cancel_event: As for `run`.
            options: As for `run`.

        Returns:
            How every node ended, as `run` does.

        Raises:
            DagronError: As for `invalidate` and `run`. If the flow itself is wrong, nothing was invalidated.

        On crash:
            A `run` with `resume=True` goes on.
        """
        from dagron.runs.options import ExecutorOptions, Options
        from dagron.runs.plan import plan_run

        check_keywords(options, [*ExecutorOptions.__annotations__, "if_changed", "run_timeout"], "Flow.rerun")
        begin_no_run_while_loading(self.dag, self._tasks, checkpoint_dir)
        checked = Options(**options)
        plan_run(self.dag, self._tasks, checked)  # before anything is given up
        key, trusting = checked.key, checked.allow_untrusted
        self.invalidate(checkpoint_dir, *nodes, if_changed=if_changed, signing_key=key, allow_untrusted=trusting)
        return self.run(checkpoint_dir, resume=True, run_timeout=run_timeout, cancel_event=cancel_event, **options)

    def _named(self, nodes: Iterable[str | Node[Any] | Iterable[Node[Any]]]) -> tuple[list[str], list[str]]:
        """Return the patterns among nodes, and the names of the handles."""
        patterns: list[str] = []
        names: list[str] = []
        for item in nodes:
            if isinstance(item, str):
                patterns.append(item)
                continue
            for node in (item,) if isinstance(item, Node) else item:
                if not isinstance(node, Node):
                    raise OptionError("nodes", repr(node)[:80], "handles, or names and patterns by themselves")
                if not node.belongs_to(self._owner):
                    raise HandleError(node.name, "is of another flow")
                names.append(node.name)
        if not patterns and not names:
            raise OptionError("nodes", "()", "at least one node")
        return patterns, names

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"Flow({len(self)} nodes)"

    def __reduce__(self) -> NoReturn:
        # A task that refers to it by mistake would take every other task along.
        raise TaskDefinitionError("a flow does not leave its process; give the task what it needs as arguments")

    def _insert(self, name: str, label: str, parents: Mapping[str, int], task: TaskLike) -> Node[Any]:
        self._builder.add_node(name)
        for parent in parents:
            self._builder.add_edge(parent, name)
        self._tasks[name] = task
        self._dag = None
        return Node(name, label, self._owner)


def _columns(iterables: Sequence[Any]) -> tuple[list[list[Any]], bool]:
    """Return the items of what `map` was given, and whether they come in the same order in every run."""
    if not iterables:
        raise GraphError("map needs an iterable")
    for i, iterable in enumerate(iterables):
        if isinstance(iterable, Node):
            reason = "is one result, and how many items that has is not known yet; pass the handles that map returned"
            raise HandleError(iterable.name, reason)
        if isinstance(iterable, (str, bytes)):
            raise GraphError(f"expected an iterable of items, but iterable {i} of map is text; put it in a list")
        if not isinstance(iterable, Iterable) and not hasattr(iterable, "__getitem__"):
            kind = type(iterable).__name__
            raise GraphError(f"iterable {i} of map is none, but a {kind}; give what is the same for all by keyword")
        if is_endless(iterable):
            raise GraphError(f"iterable {i} of map has no end; give what is the same for all by keyword")
    columns = [list(iterable) for iterable in iterables]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise GraphError(
            f"the iterables of map have different lengths: {', '.join(map(str, lengths))}; their items go "
            "together one by one, as in zip(strict=True); for every combination use itertools.product, and give what "
            "is the same for all nodes by keyword"
        )
    return columns, not any(isinstance(iterable, (set, frozenset)) for iterable in iterables)


def _twice(name: str, index: int, first: int | None) -> DuplicateNodeError:
    error = DuplicateNodeError(name)
    whose = "a node that was added before" if first is None else f"item {first}"
    error.add_note(f"item {index} of map has the same name as {whose}; {{index}} in the name would tell them apart")
    return error
