"""What becomes of a run that a job asks for while somebody only loads the job: it does not begin.

The command line loads a job to take its DAG and its tasks from it, and a worker imports modules to find its tasks. A
script that ends in `flow.run(...)` would run all of its nodes there: before a dry run, or once more in every worker.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from dagron.errors import UnguardedRunError

if TYPE_CHECKING:
    from dagron.graph.dag import DAG

__all__ = ["Loading", "Reached", "begin_no_run_while_loading", "this_is_a_worker"]


class Reached(BaseException):
    """Ends the loading of a job where it asks for a run. No `Exception`, which scripts catch.

    Attributes:
        dag: What is to be run.
        tasks: Its tasks.
        checkpoint_dir: Where its checkpoint was to be, absolute; empty if that is no path.
        within: The modules that are loaded for it, each with the line where it is, the innermost first.
    """

    def __init__(
        self,
        dag: DAG,
        tasks: Mapping[str, Any],
        checkpoint_dir: str,
        within: list[tuple[str, int, types.ModuleType | None]],
    ) -> None:
        super().__init__("a run was asked for while the job was loaded")
        self.dag = dag
        self.tasks = tasks
        self.checkpoint_dir = checkpoint_dir
        self.within = within


class Loading:
    """While it is entered, no run begins in this process: asking for one raises `Reached`.

    Attributes:
        reached: What was asked for, in order, also if the job has caught the exception; the same DAG counts once.
    """

    def __init__(self) -> None:
        self.reached: list[Reached] = []
        self._n_around = 0

    def __enter__(self) -> Self:
        global _loading
        _loading = self
        self._n_around = len(_within(sys._getframe(1)))
        return self

    def __exit__(self, *_: object) -> None:
        global _loading
        _loading = None

    def note(self, dag: DAG, tasks: Mapping[str, Any], checkpoint_dir: object, frame: types.FrameType) -> Reached:
        """Note that this was asked for, and return what is to be raised."""
        frames = _within(frame)
        within = []
        for module in frames[: max(0, len(frames) - self._n_around)]:
            name = str(module.f_globals.get("__name__"))
            within.append((name, module.f_lineno, sys.modules.get(name)))
        reached = Reached(dag, tasks, _path_of(checkpoint_dir), within)
        if all(dag is not other.dag for other in self.reached):
            self.reached.append(reached)
        return reached


_loading: Loading | None = None
_is_worker = False


def this_is_a_worker() -> None:
    """Let no module of this process begin a run while it is imported, from now on."""
    global _is_worker
    _is_worker = True


def begin_no_run_while_loading(dag: DAG, tasks: Mapping[str, Any], checkpoint_dir: object) -> None:
    """Return if a run may begin here and now. Whoever begins one calls this first, also with arguments that are wrong.

    Raises:
        Reached: The command line loads a job.
        UnguardedRunError: This is a worker, and a module that it imports asks for the run.
    """
    if _loading is None and not _is_worker:
        return
    frame = sys._getframe(1)
    if _loading is not None:
        raise _loading.note(dag, tasks, checkpoint_dir, frame)
    for module in _within(frame):
        # What a task executes by itself, with `runpy` say, is no import.
        if getattr(module.f_globals.get("__spec__"), "_initializing", False):
            raise UnguardedRunError(repr(module.f_globals["__name__"]))


def _path_of(checkpoint_dir: object) -> str:
    try:
        return (
            os.path.abspath(checkpoint_dir) if isinstance(checkpoint_dir, (str, os.PathLike)) and checkpoint_dir else ""
        )
    except (OSError, ValueError):
        return ""


def _within(frame: types.FrameType | None) -> list[types.FrameType]:
    """Return the frames of modules that are being executed, the innermost first."""
    found = []
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            found.append(frame)
        frame = frame.f_back
    return found
