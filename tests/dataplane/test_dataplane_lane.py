"""The contract of lanes: cancelling at every await, deadlines, companions, crashes."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest

from nodeproxy.core.errors import (
    ClientGone,
    ConnectFailed,
    ConnectTimeout,
    UpstreamTimeout,
)
from nodeproxy.dataplane.lane import Cancelled, Companion, sleep
from nodeproxy.dataplane.listener import listen
from nodeproxy.dataplane.pump import UNBOUNDED, Bytes, pump
from nodeproxy.dataplane.stream import connect, wait_either

LONG = 60.0


def silent_listener():
    """A listener whose queue is full: it answers no SYN."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(server.getsockname())
        fillers.append(filler)
    return server, fillers


async def waits_recv(lanes: Any, ends: Any):
    await ends[0].stream.recv(LONG)


async def waits_readable(lanes: Any, ends: Any):
    await ends[0].stream.readable(LONG)


async def waits_writable(lanes: Any, ends: Any):
    ends[0].fill()
    await ends[0].stream.writable(LONG)


async def waits_send(lanes: Any, ends: Any):
    ends[0].fill()
    await ends[0].stream.send(bytes(1 << 20), LONG)


async def waits_sleep(lanes: Any, ends: Any):
    await sleep(lanes.reactor, LONG)


async def waits_either(lanes: Any, ends: Any):
    await wait_either(ends[0].stream, ends[1].stream, LONG)


async def waits_pump(lanes: Any, ends: Any):
    await pump(ends[0].stream, ends[1].stream, UNBOUNDED, LONG, Bytes())


WAITS = [
    waits_recv,
    waits_readable,
    waits_writable,
    waits_send,
    waits_sleep,
    waits_either,
    waits_pump,
]


@pytest.mark.parametrize("wait", WAITS)
def test_a_lane_is_cancelled_wherever_it_waits(lanes: Any, ends: Any, wait: Any):
    seen = []

    async def body() -> None:
        try:
            await wait(lanes, ends)
        except Cancelled:
            seen.append("cancelled")
            raise
        finally:
            seen.append("finally")

    lane = lanes.spawn(body())
    lanes.turn()
    assert not lane.done
    lane.cancel()
    assert lane.done
    assert seen == ["cancelled", "finally"]
    assert not lanes.group.lanes
    assert ends[0].stream._reader is None
    assert ends[0].stream._writer is None
    assert len(lanes.reactor.wheel) == 0
    lane.cancel()  # twice is harmless
    ends[0].peer.send(b"late")
    lanes.turn(3)
    assert lanes.crashes == []


def test_cancelling_a_connect_in_progress_closes_its_socket(lanes: Any):
    server, fillers = silent_listener()

    async def body() -> None:
        await connect(lanes.reactor, server.getsockname(), LONG)

    lane = lanes.spawn(body())
    watched = lanes.reactor.watched
    assert watched == 1
    lane.cancel()
    assert lanes.reactor.watched == 0
    for sock in [server, *fillers]:
        sock.close()


def test_cancelling_a_join_and_its_companion(lanes: Any, ends: Any):
    ended = []

    async def second() -> None:
        try:
            await ends[0].stream.recv(LONG)
        finally:
            ended.append("second")

    async def first() -> None:
        companion = Companion(lanes.reactor, lanes.group, second())
        try:
            await companion.join()
        finally:
            companion.cancel()
            ended.append("first")

    lane = lanes.spawn(first())
    assert len(lanes.group) == 2
    lane.cancel()
    assert ended == ["second", "first"]
    lanes.turn()
    assert lanes.crashes == []


def test_cancelling_in_the_middle_of_a_splice_leaks_no_pipe(lanes: Any, ends: Any):
    source, target = ends
    target.fill()
    meter = Bytes()

    async def body() -> None:
        await pump(source.stream, target.stream, UNBOUNDED, LONG, meter)

    # Make room, so that the copy comes to its end and splicing begins; then it is stuck.
    lane = lanes.spawn(body())
    source.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    def feed() -> bool:
        with contextlib.suppress(BlockingIOError):
            source.peer.send(bytes(1 << 18))
        if meter.value < 1 << 20:
            with contextlib.suppress(BlockingIOError):
                target.peer.recv(1 << 18)
        return meter.value >= 1 << 20 and target.stream._writer is not None

    lanes.turn_until(feed)
    lane.cancel()
    assert lane.done
    assert lanes.crashes == []  # and the fixture finds no descriptor left open


def test_a_group_is_cancelled_with_all_its_lanes_and_tells_when_it_is_empty(lanes: Any, ends: Any):
    told = []
    lanes.group.on_empty = lambda: told.append(len(lanes.group))
    for _ in range(5):
        lanes.spawn(sleep_long(lanes))
    lanes.group.cancel()
    assert told == [0]


async def sleep_long(lanes: Any):
    await sleep(lanes.reactor, LONG)


def test_a_group_is_cancelled_from_within_one_of_its_lanes(lanes: Any):
    seen = []

    async def suicidal() -> None:
        try:
            lanes.group.cancel()
            seen.append("still runs")
            await sleep(lanes.reactor, LONG)
        except Cancelled:
            seen.append("cancelled")

    other = lanes.spawn(sleep_long(lanes))
    lane = lanes.spawn(suicidal())
    assert other.done
    assert not lane.done
    lanes.turn()
    assert lane.done
    assert seen == ["still runs", "cancelled"]
    assert lanes.crashes == []


def test_an_error_for_a_lane_that_starts_another_is_raised_where_it_waits_next(lanes: Any):
    seen = []

    async def second(first: Any) -> None:
        first[0].throw(ClientGone("now"))

    async def body(me: Any) -> None:
        lanes.spawn(second(me))
        try:
            await sleep(lanes.reactor, LONG)
        except ClientGone as error:
            seen.append(str(error))

    me = []
    starter = body(me)
    from nodeproxy.dataplane.lane import Lane

    me.append(Lane(lanes.reactor, starter, lanes.group))
    me[0].step()
    lanes.turn()
    assert seen == ["now"]
    assert lanes.crashes == []


# -- deadlines ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wait", "error"),
    [
        (lambda e: e.stream.recv(0.03), UpstreamTimeout),
        (lambda e: e.stream.readable(0.03), UpstreamTimeout),
        (lambda e: e.stream.send(bytes(1 << 22), 0.03), UpstreamTimeout),
    ],
)
def test_every_wait_has_a_deadline(lanes: Any, ends: Any, wait: Any, error: Any):
    seen = []

    async def body() -> None:
        try:
            await wait(ends[0])
        except error:
            seen.append("late")

    lane = lanes.spawn(body())
    assert not lane.done
    lanes.turn_until(lambda: lane.done)
    assert seen == ["late"]


def test_a_connection_that_is_not_answered_times_out(lanes: Any):
    server, fillers = silent_listener()
    seen = []

    async def body() -> None:
        try:
            await connect(lanes.reactor, server.getsockname(), 0.05)
        except ConnectTimeout:
            seen.append("late")

    lanes.spawn(body())
    lanes.turn_until(lambda: seen)
    assert lanes.reactor.watched == 0
    for sock in [server, *fillers]:
        sock.close()


def test_a_refused_connection_is_told(lanes: Any):
    server = listen(("127.0.0.1", 0))
    address = server.getsockname()
    server.close()
    seen = []

    async def body() -> None:
        with pytest.raises(ConnectFailed, match="ECONNREFUSED"):
            await connect(lanes.reactor, address, 1.0)
        seen.append(1)

    lanes.spawn(body())
    lanes.turn_until(lambda: seen)


def test_wait_either_tells_which_and_when_neither(lanes: Any, ends: Any):
    seen = []

    async def body() -> None:
        for _ in range(2):
            ready = await wait_either(ends[0].stream, ends[1].stream, LONG)
            seen.append(ready)
            ready.recv_nowait()
        seen.append(await wait_either(ends[0].stream, ends[1].stream, 0.03))

    lanes.spawn(body())
    ends[1].peer.send(b"x")
    lanes.turn_until(lambda: len(seen) == 1)
    ends[0].peer.send(b"x")
    lanes.turn_until(lambda: len(seen) == 3)
    assert seen == [ends[1].stream, ends[0].stream, None]
    assert ends[0].stream._reader is None
