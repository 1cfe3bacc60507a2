"""Find the DAG and the tasks that the user means: in a file or in a module."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dagron.cli.exit_codes import UsageError
from dagron.cli.target import is_file_target, split_target
from dagron.errors import GraphError, OptionError, TaskDefinitionError
from dagron.flow import Flow
from dagron.graph.dag import DAG
from dagron.script import FILE_MODULE, process

__all__ = ["Job", "load_function", "load_job"]


class Job(NamedTuple):
    """What is to be run."""

    dag: DAG
    tasks: Mapping[str, Any]


def load_job(target: str) -> Job:
    """Import the user's file or module and take `flow` from it, or `dag` and `tasks`; or what a colon names.

    A file becomes the module `__dagron_file__`, so its `if __name__ == "__main__":` block does not run, and what it
    defines travels to the workers by value. Its directory comes first in `sys.path`, as with `python FILE`; for a
    module that is the working directory, as with `python -m MODULE`.

    Raises:
        UsageError: There is no such file or module, it cannot be imported, or it does not define what it has to.
        GraphError: `tasks` alone makes no graph.
        TaskDefinitionError: As for `GraphError`.
    """
    source, attribute = split_target(target)
    module = _load_file(source) if is_file_target(source) else _load_module(source)
    if not attribute:
        return _job_of(module, source)
    found = getattr(module, attribute, None)
    if isinstance(found, Flow):
        return Job(found.dag, found.tasks)
    if isinstance(found, Mapping):
        return _job_of_tasks(found)
    if isinstance(found, DAG):
        return _job_of(types.SimpleNamespace(dag=found, tasks=getattr(module, "tasks", None)), source)
    what = f"is of type {type(found).__name__}" if hasattr(module, attribute) else "is not defined"
    wanted = "a dagron.Flow, a mapping of node names to callables, or a dagron.DAG beside `tasks`"
    raise UsageError(f"`{attribute}` in {source!r} {what}; what a colon names has to be {wanted}")


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


def _load_file(target: str) -> types.ModuleType:
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
    sys.argv = [target]
    send_by_value(module)

    # Compiled here and not by importlib, which would leave a cached copy beside the user's file, and might take an old
    # one for an edit within the same second.
    def execute() -> None:
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)

    _imported(execute, target)
    return module


def _load_module(target: str) -> types.ModuleType:
    if not all(part.isidentifier() for part in target.split(".")):
        raise UsageError(f"{target!r} is neither a file nor the name of a module")
    sys.path.insert(0, os.getcwd())
    sys.argv = [target]
    process.target = target
    try:
        # Unlike importlib.import_module, the builtin leaves the frames of the import system out of tracebacks.
        _imported(lambda: __import__(target), target)
    except UsageError as error:
        cause = error.__cause__
        # The module itself, or a package that it is in; not something else that it imports.
        if isinstance(cause, ModuleNotFoundError) and cause.name and f"{target}.".startswith(f"{cause.name}."):
            raise UsageError(f"there is no module {cause.name!r}, and no file {target!r}") from cause
        raise
    return sys.modules[target]


def _imported(execute: Callable[[], object], target: str) -> None:
    try:
        execute()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        text = _traceback_text(error)
        what = "called sys.exit" if isinstance(error, SystemExit) else f"raised {type(error).__name__}"
        raise UsageError(f"{target!r} {what} while it was loaded; nothing was run", text) from error


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
        raise UsageError(f"{target!r} defines no `tasks`; {wanted}")
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
