"""Lanes that work together, descriptors that are closed, and lanes that crash."""

from __future__ import annotations

import select
from typing import Any, Never

import pytest

from nodeproxy.core.errors import ClientGone
from nodeproxy.dataplane.lane import Companion, sleep
from nodeproxy.dataplane.reactor import Reactor
from nodeproxy.dataplane.stream import UPSTREAM, Stream

LONG = 60.0


# -- companions -----------------------------------------------------------------------------


def test_the_error_of_a_companion_reaches_the_first_lane_where_it_waits(lanes: Any, ends: Any):
    seen = []

    async def second() -> Never:
        await ends[0].stream.recv(LONG)
        raise ClientGone("left")

    async def first() -> None:
        companion = Companion(lanes.reactor, lanes.group, second())
        try:
            await ends[1].stream.recv(LONG)
        except ClientGone as error:
            seen.append(error)
        companion.cancel()

    lanes.spawn(first())
    ends[0].peer.send(b"x")
    lanes.turn_until(lambda: seen)
    assert not lanes.group.lanes


def test_the_error_of_a_companion_that_was_ended_reaches_nobody(lanes: Any, ends: Any):
    """Both have something to do in one batch, and the first lane has moved on by its end."""
    seen = []

    async def second() -> Never:
        await ends[0].stream.recv(LONG)
        raise ClientGone("too late to matter")

    async def first() -> None:
        companion = Companion(lanes.reactor, lanes.group, second())
        await ends[1].stream.recv(LONG)
        companion.cancel()
        await ends[1].stream.recv(LONG)
        seen.append("went on")

    lanes.spawn(first())
    ends[0].peer.send(b"x")
    ends[1].peer.send(b"x")
    lanes.turn(3)
    ends[1].peer.send(b"y")
    lanes.turn_until(lambda: seen)
    assert lanes.crashes == []


def test_the_end_of_a_joined_lane_does_not_wake_who_was_told_to_do_something_else(
    lanes: Any, ends: Any
):
    seen = []

    async def second() -> Never:
        await ends[0].stream.recv(LONG)
        raise ClientGone("left")

    async def first() -> None:
        companion = Companion(lanes.reactor, lanes.group, second())
        with pytest.raises(ClientGone):
            await companion.join()
        seen.append("told")
        # Were it woken by the joined lane's end, this would be over at once.
        await sleep(lanes.reactor, 0.1)
        seen.append("slept")

    lanes.spawn(first())
    ends[0].peer.send(b"x")
    lanes.turn_until(lambda: seen)
    assert seen == ["told"]
    lanes.turn_until(lambda: len(seen) == 2)


# -- descriptors ----------------------------------------------------------------------------


def test_a_descriptor_closed_in_a_batch_is_not_reused_within_it(lanes: Any, ends: Any):
    """Two sockets are ready in one batch; the first one's lane closes both and opens another.
    Its descriptor must not be a closed one's, or it would get that one's event."""
    opened = []
    stray = []

    async def body(own: Any) -> None:
        await own.stream.recv(LONG)
        fds = {e.stream.fd for e in ends if e.stream.fd >= 0}
        for end in ends:
            end.stream.close()
        mine, peer = lanes.pair()
        assert mine.fileno() not in fds
        fresh = Stream(lanes.reactor, mine, UPSTREAM)
        fresh.on_idle = lambda *event: stray.append(event)
        opened.append((fresh, peer))

    tasks = [lanes.spawn(body(end)) for end in ends]
    for end in ends:
        end.peer.send(b"x")
    lanes.turn_until(lambda: opened)
    assert len(opened) == 1  # the other one's event was for a closed descriptor: not delivered
    assert stray == []
    for task in tasks:
        task.cancel()
    for fresh, peer in opened:
        fresh.close()
        peer.close()
    assert lanes.crashes == []


def test_what_arrives_while_nobody_waits_is_told_once_and_costs_nothing_more(lanes: Any, ends: Any):
    told = []
    ends[0].stream.on_idle = lambda stream, events: told.append(events)
    ends[0].peer.send(b"x")
    lanes.turn(3)
    assert told == [select.EPOLLIN]
    ends[0].peer.close()
    lanes.turn(3)
    assert len(told) == 2
    assert told[1] & select.EPOLLRDHUP
    assert lanes.reactor.sweep() == 0
    got = []

    async def body() -> None:
        got.append(await ends[0].stream.recv(LONG))
        got.append(await ends[0].stream.recv(LONG))

    lanes.spawn(body())
    lanes.turn_until(lambda: len(got) == 2)
    assert got == [b"x", b""]


# -- crashes --------------------------------------------------------------------------------


def test_a_crash_is_reported_and_harms_no_other_lane(lanes: Any, ends: Any):
    got = []

    async def bad() -> Never:
        await ends[0].stream.recv(LONG)
        raise ZeroDivisionError

    async def good() -> None:
        got.append(await ends[1].stream.recv(LONG))

    lanes.spawn(bad())
    lanes.spawn(good())
    ends[0].peer.send(b"x")
    ends[1].peer.send(b"y")
    lanes.turn_until(lambda: got)
    assert got == [b"y"]
    assert [type(e) for e in lanes.crashes] == [ZeroDivisionError]
    assert not lanes.group.lanes


def test_a_crash_of_a_callback_is_reported_and_harms_nobody(lanes: Any, ends: Any):
    beats = []

    def bad(*_: Any) -> Never:
        raise ZeroDivisionError

    lanes.reactor.every(0.02, bad)
    lanes.reactor.every(0.02, lambda: beats.append(1))
    ends[0].stream.on_idle = bad
    ends[0].peer.send(b"x")
    got = []

    async def good() -> None:
        got.append(await ends[1].stream.recv(LONG))

    lanes.spawn(good())
    ends[1].peer.send(b"y")
    lanes.turn_until(lambda: got and beats and len(lanes.crashes) >= 2)


def test_by_default_a_crash_is_raised(lanes: Any):
    reactor = Reactor()

    async def bad() -> Never:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        reactor.spawn(bad(), lanes.group)
    reactor.close()
