"""Ctrl-C, SIGTERM and SIGHUP during a run: held back until the run is where it can stop.

An exception that a signal handler raises comes between any two instructions, also between an append to the journal and
the note that it was made. So while a run goes on its handlers only take note. What the signal asks for is done by the
handler that was there before, at the next place where nothing is half done, or at once while code of the user's runs
in this thread. A second signal is never held back.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

__all__ = ["Interrupts"]

_Handler = Callable[[int, FrameType | None], object]


class Interrupts:
    """Holds signals back while it is entered.

    It does so in the main thread only, where Python runs handlers, and only for signals that have a handler in Python.
    A signal that is ignored stays ignored, and one that ends the process does so at once. The handlers are put back.

    Attributes:
        on_hold: Called when a signal is held back, to wake whoever waits; must be quick and safe in a signal handler.
        on_force: Called when a second signal raises, wherever that is: what must not depend on the code that it cuts
            short. Safe in a signal handler, too.
    """

    def __init__(self) -> None:
        self.on_hold: Callable[[], None] | None = None
        self.on_force: Callable[[], None] | None = None
        self._previous: dict[int, _Handler] = {}
        self._noted: int | None = None
        self._allowed = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # Windows was refused before
                handler = signal.getsignal(number)
                if callable(handler):  # not SIG_DFL, SIG_IGN or one that was installed by C code
                    self._previous[number] = handler
                    signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._on_signal:  # else somebody wants it otherwise by now
                signal.signal(number, handler)
        if error is None or isinstance(error, Exception):
            self.check()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._allowed or self._noted is not None:
            forced = self._noted is not None
            self._noted = None
            try:
                self._previous[number](number, frame)
            except BaseException:
                if forced and self.on_force is not None:
                    self.on_force()
                raise
            return
        self._noted = number
        if self.on_hold is not None:
            self.on_hold()

    def check(self) -> None:
        """Do now what a signal that was held back asks for.

        Raises:
            KeyboardInterrupt: Or whatever the handler of that signal raises.
        """
        number, self._noted = self._noted, None
        if number is not None:
            self._previous[number](number, None)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Hold nothing back meanwhile.

        Raises:
            KeyboardInterrupt: Or whatever the handler of a signal raises, at any point in between.
        """
        before, self._allowed = self._allowed, True
        try:
            self.check()
            yield
        finally:
            self._allowed = before
