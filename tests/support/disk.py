"""A stand-in for `os` wherever the files of a checkpoint are touched."""

from importlib import import_module
from pkgutil import iter_modules

from dagron.checkpoint import files

_ROOM = [import_module(f"{files.__name__}.{module.name}") for module in iter_modules(files.__path__)]


def stand_in(monkeypatch, calls):
    """Let `calls` be called in place of `os` by every module of `checkpoint/files`."""
    for module in _ROOM:
        if hasattr(module, "os"):
            monkeypatch.setattr(module, "os", calls)
