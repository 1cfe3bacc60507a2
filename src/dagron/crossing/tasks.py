"""The tasks of a run to bytes."""

from __future__ import annotations

import functools
import io
from typing import Any

from dagron.crossing.culprits import find_culprit
from dagron.crossing.picklers import PROTOCOL, CallablePickler, WholePickler, dumps
from dagron.crossing.table import Table
from dagron.errors import HandleError, TaskNotPicklableError
from dagron.script import process
from dagron.shapes import forget_shapes

__all__ = ["TaskPickler", "not_picklable"]


class TaskPickler:
    """Pickles the tasks of one run; the same object is pickled once.

    Attributes:
        table: What the names mean that the tasks use.
    """

    def __init__(self) -> None:
        self.table = Table()
        self._pickler = functools.partial(CallablePickler, table=self.table)
        self._blobs: dict[int, bytes] = {}
        self._kept: list[Any] = []  # an id is only good while its object lives
        process.has_script = True
        forget_shapes()  # a class may have changed since an earlier run

    def dump(self, node: str, task: Any) -> bytes:
        """Return `task`, a callable or a pair of one and something else, as bytes.

        Raises:
            TaskNotPicklableError: It cannot be pickled; with the path to the culprit.
            HandleError: It holds the handle of a node; with the path to that.
        """
        blob = self._blobs.get(id(task))
        if blob is None:
            try:
                blob = dumps(self._pickler, task)
            except Exception as error:
                raise not_picklable(node, task, error) from error
            self._blobs[id(task)] = blob
            self._kept.append(task)
        return blob

    def dump_part(self, obj: Any) -> tuple[bytes, dict[int, Any]]:
        """Return an object as bytes, and what in it could be told from a copy, by id."""
        out = io.BytesIO()
        pickler = CallablePickler(out, PROTOCOL, self.table)
        pickler.dump(obj)
        return out.getvalue(), pickler.told_apart()


def not_picklable(node: str, task: Any, error: BaseException) -> Exception:
    """Return the error that says what in a task, or in what its code uses, cannot be pickled."""
    path, reason = find_culprit(task, error, WholePickler)
    if isinstance(task, tuple):
        path = path.removeprefix("item 0").removeprefix(" -> ")  # the callable of the pair
    if isinstance(error, HandleError):
        return HandleError(error.node, f"at {path}, where no result can take its place", held_by=node)
    return TaskNotPicklableError(node, path, reason)
