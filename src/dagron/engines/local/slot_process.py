"""What of a slot's context is in its worker, too: the process object, its locks and its descriptors. Kept light."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import process
from typing import Any, Protocol

from dagron.engines.local.server import inherited_fd

__all__ = ["InheritedFd", "OnePartyLock", "SlotProcess"]


class OnePartyLock:
    """A lock or a semaphore that only one process would ever take, so that it can be no lock at all."""

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take it, as always."""
        return True

    def release(self) -> None:
        """Do nothing."""

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_: object) -> None:
        pass

    # `Queue.full()` looks inside; a slot never holds more calls than its queue does.
    @property
    def _semlock(self) -> OnePartyLock:
        return self

    def _is_zero(self) -> bool:
        return False


class InheritedFd:
    """What multiprocessing pickles in the place of a descriptor: where it stands among those that are passed."""

    def __init__(self, index: int) -> None:
        self._index = index

    def detach(self) -> int:
        """Return the descriptor."""
        return inherited_fd(self._index)


class ServedProcess(Protocol):
    """What is known of a process that runs."""

    peak_rss_bytes: int | None

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        ...


class SlotProcess(process.BaseProcess):
    """A process that the server forks. Made by a `SlotContext`.

    Args:
        launch: Has the server fork it.
        kwargs: As of any process.
    """

    _start_method = "forkserver"
    _popen: ServedProcess | None

    def __init__(self, launch: Callable[[SlotProcess], ServedProcess], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Of celery's processes it is of a class of their own, which cannot be pickled here.
        self._config["authkey"] = process.AuthenticationString(self._config["authkey"])  # type: ignore[attr-defined]
        self._launch: Callable[[SlotProcess], ServedProcess] | None = launch

    @staticmethod
    def _Popen(process_obj: SlotProcess) -> ServedProcess:
        assert process_obj._launch is not None, "it is started where it was made"
        return process_obj._launch(process_obj)

    def exit_status(self) -> tuple[int | None, int]:
        """Return the exit code and the peak memory of a process that has ended; None and 0 where unknown."""
        popen = self._popen
        assert popen is not None
        code = popen.poll()
        if popen.peak_rss_bytes is None:
            return None, 0
        return code, popen.peak_rss_bytes

    def start(self) -> None:
        """Start it, also where this process is daemonic: what ends the worker with it is the server."""
        # In the worker tasks start processes as they like.
        self._config["daemon"] = False  # type: ignore[attr-defined]
        own = process.current_process()._config  # type: ignore[attr-defined]
        daemon = own.pop("daemon", None)
        try:
            super().start()
        finally:
            if daemon is not None:
                own["daemon"] = daemon

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_launch": None}
