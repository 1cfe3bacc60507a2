"""Becomes `__main__` in a process that a task starts with `spawn` or `forkserver`: the script, as its worker has it.

The standard library would run the user's file there. It runs this module instead, when `sys.path` is that of the
worker and nothing else has been unpickled yet.
"""

from __future__ import annotations

import sys
from typing import Any

__all__: list[str] = []

if __name__ == "__mp_main__":
    from dagron.crossing import script_modules

    script_modules.become_script()
    script_modules.bind(script_modules.inherited)
    _script = sys.modules["__main__"]
    globals().update(vars(_script))

    def __getattr__(name: str) -> Any:
        return getattr(_script, name)
