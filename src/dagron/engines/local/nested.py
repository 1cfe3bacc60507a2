"""Processes that a task starts by itself: they get the script as the worker has it, whatever the start method.

A fork has it anyway. What `spawn` and `forkserver` start is told to run the user's file as `__main__`; here it is told
to run a module of ours that binds the definitions which the worker has.
"""

from __future__ import annotations

from multiprocessing import spawn
from typing import Any

from dagron.crossing.script_modules import inherit

__all__ = ["hand_down_script"]

_MAIN = ("init_main_from_name", "init_main_from_path")


class _Script:
    """Pickled with what a new process is prepared with; unpickled there first of all."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce__(self) -> Any:
        return inherit, (self._data,)


def hand_down_script() -> None:
    """Have processes that are started from now on know the script."""
    original = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        from dagron.crossing.table import script_here  # few tasks start processes

        data = {key: value for key, value in original(name).items() if key not in _MAIN}
        script = script_here()
        if script:
            data["dagron"] = _Script(script)
            data[_MAIN[0]] = "dagron.crossing.inherited"
        return data

    spawn.get_preparation_data = get_preparation_data
