"""Find the DAG and the tasks that the user means: in a file or in a module."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from traceback import walk_tb
from typing import Any, NamedTuple

from dagron.cli.ending import say
from dagron.cli.exit_codes import UsageError
from dagron.cli.program import proposed
from dagron.cli.target import is_file_target, split_target
from dagron.errors import GraphError, OptionError, TaskDefinitionError, UnguardedRunError
from dagron.flow import Flow
from dagron.graph.dag import DAG
from dagron.loading import Loading, Reached
from dagron.script import FILE_MODULE, process

__all__ = ["Job", "load_function", "load_job"]


class Job(NamedTuple):
    """What is to be run.

    Attributes:
        dag: The DAG.
        tasks: Its tasks.
        module: What it was taken from.
        checkpoint_dir: Where it says itself that its checkpoint is, absolute; empty if it does not.
    """

    dag: DAG
    tasks: Mapping[str, Any]
    module: types.ModuleType | None = None
    checkpoint_dir: str = ""

    @property
    def path(self) -> str:
        """The file that it is from, absolute; empty if that is not known."""
        file = None if self.module is None else self.module.__file__
        return os.path.abspath(file) if file else ""

    def defines(self, name: str) -> bool:
        """Tell whether the module has something of this name that may be a job; for "", `flow` or `tasks`."""
        names = (name,) if name else ("flow", "tasks")
        found = [getattr(self.module, name, None) for name in names]
        return any(callable(value) or isinstance(value, (Flow, DAG, Mapping)) for value in found)


def load_job(target: str, arguments: Sequence[str] = (), parameters: Sequence[tuple[str, str]] = ()) -> Job:
    """Import the user's file or module and take `flow` from it, or `dag` and `tasks`; or what a colon names.

    A file becomes the module `__dagron_file__`, so its `if __name__ == "__main__":` block does not run, and what it
    defines travels to the workers by value. Its directory comes first in `sys.path`, as with `python FILE`; for a
    module that is the working directory, as with `python -m MODULE`.

    Nothing that the job asks for is run meanwhile. Where it begins a run, what that is to run is taken, and the rest of
    it is not executed.

    Args:
        target: The file or module, perhaps with a colon and a name.
        arguments: What the job finds in `sys.argv` after its own name.
        parameters: What the function that the colon names is called with, as names and texts.

    Raises:
        UsageError: There is no such file or module, it cannot be imported, or it does not define what it has to; or
            the parameters do not fit.
        UnguardedRunError: It begins a run, and which job is meant is not clear from that.
        GraphError: `tasks` alone makes no graph.
        TaskDefinitionError: As for `GraphError`.
    """
    source, attribute = split_target(target)
    with Loading() as loading:
        module = (_load_file if is_file_target(source) else _load_module)(source, arguments)
    found = _job_in(module, source, attribute, parameters, _only_one(loading, source))
    return found._replace(module=module)


def _job_in(
    module: types.ModuleType,
    source: str,
    attribute: str,
    parameters: Sequence[tuple[str, str]],
    reached: Reached | None,
) -> Job:
    if reached is not None and reached.within and reached.within[0][0] != module.__name__:
        raise UnguardedRunError(f"the module {reached.within[0][0]!r}, which {source!r} imports,")
    line = f" in line {reached.within[0][1]}" if reached is not None and reached.within else ""
    if attribute:
        if reached is not None and not hasattr(module, attribute):
            raise UnguardedRunError(f"{source!r} has no `{attribute}` where it{line}")
        found = _job_named(module, source, attribute, parameters)
        is_begun = reached is not None and found.dag is reached.dag and not callable(getattr(module, attribute))
        return found._replace(checkpoint_dir=reached.checkpoint_dir) if reached is not None and is_begun else found
    flow = getattr(module, "flow", None)
    if parameters or (reached is None and isinstance(flow, types.FunctionType) and not hasattr(module, "tasks")):
        if not isinstance(flow, types.FunctionType):
            raise UsageError(f"-p is for a function that makes the flow, as in {source}:make")
        return _job_named(module, source, "flow", parameters)
    if reached is None:
        return _job_of(module, source)
    if isinstance(flow, Flow) and flow.dag is not reached.dag:
        raise UnguardedRunError(f"{source!r} has a `flow`, and{line}")
    _refuse_further(module, source, reached)
    where = line or ", in another thread"
    say(f"{source} begins a run itself{where}; what that is to run is taken, and the rest of the job is left out")
    return Job(reached.dag, reached.tasks, checkpoint_dir=reached.checkpoint_dir)


def _refuse_further(module: types.ModuleType, source: str, reached: Reached) -> None:
    from dagron.cli.further_runs import further_run

    if reached.within and module.__file__ and module.__file__.endswith(".py"):
        line = reached.within[0][1]
        with open(module.__file__, "rb") as file:
            second = further_run(file.read(), vars(module), line, reached.dag)
        if second:
            lines = f"in line {line} again and again" if second == line else f"in lines {line} and {second}"
            raise UnguardedRunError(f"{source!r} begins several runs, {lines}, and")


def _only_one(loading: Loading, source: str) -> Reached | None:
    if len(loading.reached) > 1:
        raise UnguardedRunError(f"{source!r} has more than one flow, and")
    return loading.reached[0] if loading.reached else None


def _job_named(module: types.ModuleType, source: str, attribute: str, parameters: Sequence[tuple[str, str]]) -> Job:
    found = getattr(module, attribute, None)
    if callable(found) and not isinstance(found, (Flow, Mapping, DAG)):
        return _job_made(found, source, attribute, parameters)
    if parameters:
        what = f"is of type {type(found).__name__}" if hasattr(module, attribute) else "is not defined"
        raise UsageError(f"`{attribute}` in {source!r} {what}; -p is for a function that makes the flow")
    if isinstance(found, Flow):
        return Job(found.dag, found.tasks)
    if isinstance(found, Mapping):
        return _job_of_tasks(found)
    if isinstance(found, DAG):
        return _job_of(types.SimpleNamespace(dag=found, tasks=getattr(module, "tasks", None)), source)
    what = f"is of type {type(found).__name__}" if hasattr(module, attribute) else "is not defined"
    wanted = (
        "a dagron.Flow, a mapping of node names to callables, a dagron.DAG beside `tasks`, or a function that makes"
    )
    raise UsageError(f"`{attribute}` in {source!r} {what}; what a colon names has to be {wanted} a flow")


def _job_made(function: Callable[..., Any], source: str, attribute: str, parameters: Sequence[tuple[str, str]]) -> Job:
    """Call the function that makes the flow; a run that it begins is not begun, and is what it makes."""
    from dagron.cli.factory import call_factory

    made: list[Any] = []
    name = f"{source}:{attribute}"
    with Loading() as loading:
        _executed(lambda: made.append(call_factory(name, function, parameters)), name, ())
    reached = _only_one(loading, name)
    if reached is not None:
        return Job(reached.dag, reached.tasks, checkpoint_dir=reached.checkpoint_dir)
    match made:
        case [Flow() as flow]:
            return Job(flow.dag, flow.tasks)
        case [(DAG() as dag, Mapping() as tasks)]:
            return Job(dag, tasks)
        case [Mapping() as tasks]:
            return _job_of_tasks(tasks)
        case [other]:
            wanted = "a dagron.Flow, a mapping of node names to callables, or a pair of a dagron.DAG and such a mapping"
            raise UsageError(f"{name!r} returned a value of type {type(other).__name__}; it has to return {wanted}")
    raise AssertionError("the function has neither returned nor raised")


def load_function(target: str, name: str) -> Callable[[], object]:
    """Return a function of the file or module of a target that has been loaded.

    Raises:
        UsageError: It has none of this name, or what it has cannot be called without arguments.
    """
    from dagron.tasks.binding import check_plain_call

    source, _ = split_target(target)
    found: Any = sys.modules[FILE_MODULE if is_file_target(source) else source]
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise UsageError(f"`{name}` in {source!r} is not defined; it has to be a function without arguments")
    try:
        check_plain_call(name, found)
    except OptionError as error:
        raise UsageError(f"`{name}` in {source!r} has to be {error.expected}") from error
    function: Callable[[], object] = found
    return function


def _load_file(target: str, arguments: Sequence[str]) -> types.ModuleType:
    from dagron.crossing.names import send_by_value

    path = os.path.abspath(target)
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise UsageError(f"cannot read {target!r}: {error.strerror}") from error
    # With the loader that an imported file would have: what shows a traceback asks it for the source, and from Python
    # 3.15 on warns about a module that names none.
    loader = importlib.machinery.SourceFileLoader(FILE_MODULE, path)
    spec = importlib.util.spec_from_file_location(FILE_MODULE, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[FILE_MODULE] = module
    process.target = ""
    # Links resolved, as the interpreter does for a script.
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    sys.argv = [target, *arguments]
    send_by_value(module)

    # Compiled here and not by importlib, which would leave a cached copy beside the user's file, and might take an old
    # one for an edit within the same second.
    def execute() -> None:
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)

    _executed(execute, target, arguments)
    return module


def _load_module(target: str, arguments: Sequence[str]) -> types.ModuleType:
    if not all(part.isidentifier() for part in target.split(".")):
        raise UsageError(f"{target!r} is neither a file nor the name of a module")
    sys.path.insert(0, os.getcwd())
    sys.argv = [target, *arguments]
    process.target = target
    try:
        # Unlike importlib.import_module, the builtin leaves the frames of the import system out of tracebacks.
        reached = _executed(lambda: __import__(target), target, arguments)
    except UsageError as error:
        cause = error.__cause__
        # The module itself, or a package that it is in; not something else that it imports.
        if isinstance(cause, ModuleNotFoundError) and cause.name and f"{target}.".startswith(f"{cause.name}."):
            raise UsageError(f"there is no module {cause.name!r}, and no file {target!r}") from cause
        raise
    if reached is not None:
        _keep_modules(reached)
    if target not in sys.modules:
        raise UnguardedRunError(f"a package around {target!r}")
    return sys.modules[target]


def _keep_modules(reached: Reached) -> None:
    """Put back the modules whose import was ended by a run that they begin."""
    for name, _, module in reached.within:
        if module is not None and sys.modules.setdefault(name, module) is module:
            parent, _, last = name.rpartition(".")
            if parent in sys.modules:
                setattr(sys.modules[parent], last, module)


def _executed(execute: Callable[[], object], target: str, arguments: Sequence[str]) -> Reached | None:
    """Execute the user's code, up to its end or to where it begins a run; return where that was."""
    try:
        execute()
    except (KeyboardInterrupt, UsageError):
        raise
    except Reached as reached:
        return reached
    except BaseException as error:
        if isinstance(error, SystemExit) and not isinstance(error.code, str) and _is_of_library(error):
            # Whatever parses arguments has said what is wrong with them, or how it is used.
            more = (
                "" if arguments else f"; what it wants to be given comes after --: {proposed('run', target, '--')} ..."
            )
            raise UsageError(f"{target!r} has ended before it made a job; nothing was run{more}") from error
        text = _traceback_text(error)
        what = "called sys.exit" if isinstance(error, SystemExit) else f"raised {type(error).__name__}"
        raise UsageError(f"{target!r} {what} while it was loaded; nothing was run", text) from error
    return None


def _is_of_library(error: BaseException) -> bool:
    from dagron.results.frames import is_library

    *_, last = walk_tb(error.__traceback__)
    return is_library(last[0].f_code.co_filename)


def _traceback_text(error: BaseException) -> str:
    """Return a traceback that begins with the user's code."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def _job_of(module: types.ModuleType | types.SimpleNamespace, target: str) -> Job:
    wanted = (
        "it has to define `flow`, a dagron.Flow, or `tasks`, a mapping of node names to callables, and `dag`, unless "
        "parameter names tell"
    )
    flow = getattr(module, "flow", None)
    if isinstance(flow, Flow):
        return Job(flow.dag, flow.tasks)
    if not hasattr(module, "tasks"):
        maker = next(
            (name for name in ("make", "main") if isinstance(getattr(module, name, None), types.FunctionType)), ""
        )
        hint = f"; a function that makes or runs a flow can be named: {target}:{maker}" if maker else ""
        raise UsageError(f"{target!r} defines no `tasks`; {wanted}{hint}")
    tasks = module.tasks
    if not isinstance(tasks, Mapping):
        raise UsageError(f"`tasks` in {target!r} is of type {type(tasks).__name__}; {wanted}")
    if not hasattr(module, "dag"):
        return _job_of_tasks(tasks)
    if not isinstance(module.dag, DAG):
        raise UsageError(f"`dag` in {target!r} is of type {type(module.dag).__name__}; make it a dagron.DAG")
    return Job(module.dag, tasks)


def _job_of_tasks(tasks: Mapping[str, Any]) -> Job:
    try:
        return Job(DAG.from_tasks(tasks), tasks)
    except (GraphError, TaskDefinitionError) as error:
        error.add_note("the graph was made from the tasks' parameters, as there is no `dag`")
        raise
