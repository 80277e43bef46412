"""When a service is written to a registry and when it is taken out: one table. Pure."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["TABLE", "Event", "State", "step"]


class State(enum.Enum):
    """The value is the state as a sentence."""

    WAITING = "not announced: its checks have not passed often enough yet"
    ANNOUNCING = "it is well, and is being written to the registry"
    ANNOUNCED = "announced: the registry has it"
    WITHDRAWING = "its checks fail, and it is being taken out of the registry"
    WITHDRAWN = "not announced: its checks fail"
    LEAVING = "this node stops, and it is being taken out of the registry"
    LEFT = "not announced: this node stops"


class Event(enum.Enum):
    """The value says what happened."""

    WELL = "all checks pass"
    ILL = "a check fails"
    WRITTEN = "the registry took it"
    LOST = "the registry may not have it any more"
    REMOVED = "the registry does not have it any more"
    STOP = "this node stops"


_S, _E = State, Event
TABLE: Final = {
    (_S.WAITING, _E.WELL): _S.ANNOUNCING,
    (_S.WAITING, _E.ILL): _S.WITHDRAWN,
    (_S.WAITING, _E.STOP): _S.LEFT,
    (_S.ANNOUNCING, _E.ILL): _S.WITHDRAWING,
    (_S.ANNOUNCING, _E.WRITTEN): _S.ANNOUNCED,
    (_S.ANNOUNCING, _E.STOP): _S.LEAVING,
    (_S.ANNOUNCED, _E.ILL): _S.WITHDRAWING,
    (_S.ANNOUNCED, _E.LOST): _S.ANNOUNCING,
    (_S.ANNOUNCED, _E.STOP): _S.LEAVING,
    (_S.WITHDRAWING, _E.WELL): _S.ANNOUNCING,
    (_S.WITHDRAWING, _E.REMOVED): _S.WITHDRAWN,
    (_S.WITHDRAWING, _E.STOP): _S.LEAVING,
    (_S.WITHDRAWN, _E.WELL): _S.ANNOUNCING,
    (_S.WITHDRAWN, _E.STOP): _S.LEFT,
    (_S.LEAVING, _E.REMOVED): _S.LEFT,
}
"""What is not in here changes nothing. A service that may be in the registry is not forgotten: it
gets to WITHDRAWN and LEFT from there by REMOVED only."""


def step(state: State, event: Event) -> State:
    """The state after ``event``."""
    return TABLE.get((state, event), state)
