"""Signals as a flag: remembered when they come, looked at where it suits."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, Final, Self

__all__ = ["Interrupted", "Interruption"]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal has asked for the end."""


class Interruption:
    """Remembers the first signal. From then on this process and the children that it will start
    ignore more of them: what is being removed is not to be disturbed.

    An exception that a signal raises may come between two instructions of a clean-up and leave
    something behind; a flag can't.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises Interrupted once there was a signal."""
        if self.number:
            raise Interrupted(signal.Signals(self.number).name)

    def ignore(self) -> None:
        """From now on, no signal is to stop anything."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.ignore()
