"""A text in the output of a notebook's cell that can be replaced. Imports IPython only where it is there already."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["CellText", "in_notebook"]


def in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


class CellText:
    """One text below a cell. It stays when the notebook is closed, and raises nothing."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Show a text in place of the one before."""
        try:
            from IPython.display import display  # type: ignore[import-not-found, unused-ignore]

            data = {"text/plain": text}
            if self._handle is None:
                self._handle = display(data, raw=True, display_id=True)
            else:
                self._handle.update(data, raw=True)
        except Exception:
            pass  # the kernel is going down, or has another display
