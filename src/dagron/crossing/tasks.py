"""The tasks of a run to bytes."""

from __future__ import annotations

from typing import Any

from dagron.crossing.culprits import find_culprit
from dagron.crossing.picklers import CallablePickler, dumps, forget_classes
from dagron.errors import HandleError, TaskNotPicklableError

__all__ = ["TaskPickler"]


class TaskPickler:
    """Pickles the tasks of one run; the same object is pickled once."""

    def __init__(self) -> None:
        self._blobs: dict[int, bytes] = {}
        self._kept: list[Any] = []  # an id is only good while its object lives
        forget_classes()  # one may have changed since an earlier run

    def dump(self, node: str, task: Any) -> bytes:
        """Return `task`, a callable or a pair of one and something else, as bytes.

        Raises:
            TaskNotPicklableError: It cannot be pickled; with the path to the culprit.
            HandleError: It holds the handle of a node; with the path to that.
        """
        blob = self._blobs.get(id(task))
        if blob is None:
            try:
                blob = dumps(CallablePickler, task)
            except Exception as error:
                path, reason = find_culprit(task, error, CallablePickler)
                if isinstance(task, tuple):
                    path = path.removeprefix("item 0").removeprefix(" -> ")  # the callable of the pair
                if isinstance(error, HandleError):
                    where = f"stands in the task of node {node!r} at {path}, where no result can take its place"
                    raise HandleError(error.node, where) from None
                raise TaskNotPicklableError(node, path, reason) from error
            self._blobs[id(task)] = blob
            self._kept.append(task)
        return blob
