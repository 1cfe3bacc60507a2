"""What a pickle names, found out without running any of it. Light: workers import it, too."""

from __future__ import annotations

import io
import mmap
import pickle
from itertools import repeat
from typing import Any

from dagron.checkpoint.format.buffers import out_of_band

__all__ = ["Inert", "names_in", "pickle_of"]


def pickle_of(data: bytes | memoryview | mmap.mmap) -> Any:
    """Return the pickle of a result, without the large buffers of one that is mapped."""
    mapped = data.obj if isinstance(data, memoryview) else data
    return out_of_band(mapped)[0] if isinstance(mapped, mmap.mmap) else data


class Inert:
    """Stands for whatever a pickle makes, and takes what is done to it."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Take any arguments."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> Inert:
        """Take any arguments."""
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Take an item."""

    def extend(self, items: Any) -> None:
        """Take items."""

    def add(self, item: Any) -> None:
        """Take an item."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class _Names(pickle.Unpickler):
    def __init__(self, data: Any) -> None:
        super().__init__(io.BytesIO(data), buffers=repeat(b""))
        self.found: dict[tuple[str, str], None] = {}

    def find_class(self, module: str, name: str) -> Any:
        self.found[module, name] = None
        return Inert

    def persistent_load(self, pid: Any) -> Any:
        return Inert()


def names_in(data: bytes | memoryview | mmap.mmap) -> list[tuple[str, str]]:
    """Return what the pickle of a result looks up, as modules and names in them, in its order.

    Of a pickle that cannot be read, those that come before the fault.
    """
    names = _Names(pickle_of(data))
    try:
        names.load()
    except Exception:
        pass  # what was found until then is what there is to tell
    return [*names.found]
