"""The contract of lanes: cancelling at every await, deadlines, companions, crashes."""

from __future__ import annotations

import select
import socket

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
from nodeproxy.dataplane.stream import CLIENT, UPSTREAM, Stream, connect, wait_either

LONG = 60.0


class Ends:
    """A stream on the reactor and the peer's plain socket."""

    def __init__(self, lanes, faults=UPSTREAM):
        mine, self.peer = lanes.pair()
        self.stream = Stream(lanes.reactor, mine, faults)

    def close(self):
        self.stream.close()
        self.peer.close()

    def fill(self):
        """Until the kernel takes no more of what the stream sends."""
        self.stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        try:
            while True:
                self.stream.sock.send(bytes(65536))
        except BlockingIOError:
            pass


@pytest.fixture
def ends(lanes):
    both = [Ends(lanes), Ends(lanes, CLIENT)]
    yield both
    for end in both:
        end.close()


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


async def waits_recv(lanes, ends):
    await ends[0].stream.recv(LONG)


async def waits_readable(lanes, ends):
    await ends[0].stream.readable(LONG)


async def waits_writable(lanes, ends):
    ends[0].fill()
    await ends[0].stream.writable(LONG)


async def waits_send(lanes, ends):
    ends[0].fill()
    await ends[0].stream.send(bytes(1 << 20), LONG)


async def waits_sleep(lanes, ends):
    await sleep(lanes.reactor, LONG)


async def waits_either(lanes, ends):
    await wait_either(ends[0].stream, ends[1].stream, LONG)


async def waits_pump(lanes, ends):
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
def test_a_lane_is_cancelled_wherever_it_waits(lanes, ends, wait):
    seen = []

    async def body():
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


def test_cancelling_a_connect_in_progress_closes_its_socket(lanes):
    server, fillers = silent_listener()

    async def body():
        await connect(lanes.reactor, server.getsockname(), LONG)

    lane = lanes.spawn(body())
    watched = lanes.reactor.watched
    assert watched == 1
    lane.cancel()
    assert lanes.reactor.watched == 0
    for sock in [server, *fillers]:
        sock.close()


def test_cancelling_a_join_and_its_companion(lanes, ends):
    ended = []

    async def second():
        try:
            await ends[0].stream.recv(LONG)
        finally:
            ended.append("second")

    async def first():
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


def test_cancelling_in_the_middle_of_a_splice_leaks_no_pipe(lanes, ends):
    source, target = ends
    target.fill()
    meter = Bytes()

    async def body():
        await pump(source.stream, target.stream, UNBOUNDED, LONG, meter)

    # Make room, so that the copy comes to its end and splicing begins; then it is stuck.
    lane = lanes.spawn(body())
    source.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    def feed():
        try:
            source.peer.send(bytes(1 << 18))
        except BlockingIOError:
            pass
        if meter.value < 1 << 20:
            try:
                target.peer.recv(1 << 18)
            except BlockingIOError:
                pass
        return meter.value >= 1 << 20 and target.stream._writer is not None

    lanes.turn_until(feed)
    lane.cancel()
    assert lane.done
    assert lanes.crashes == []  # and the fixture finds no descriptor left open


def test_a_group_is_cancelled_with_all_its_lanes_and_tells_when_it_is_empty(lanes, ends):
    told = []
    lanes.group.on_empty = lambda: told.append(len(lanes.group))
    for _ in range(5):
        lanes.spawn(sleep_long(lanes))
    lanes.group.cancel()
    assert told == [0]


async def sleep_long(lanes):
    await sleep(lanes.reactor, LONG)


def test_a_group_is_cancelled_from_within_one_of_its_lanes(lanes):
    seen = []

    async def suicidal():
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


def test_an_error_for_a_lane_that_starts_another_is_raised_where_it_waits_next(lanes):
    seen = []

    async def second(first):
        first[0].throw(ClientGone("now"))

    async def body(me):
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


# -- deadlines -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wait", "error"),
    [
        (lambda e: e.stream.recv(0.03), UpstreamTimeout),
        (lambda e: e.stream.readable(0.03), UpstreamTimeout),
        (lambda e: e.stream.send(bytes(1 << 22), 0.03), UpstreamTimeout),
    ],
)
def test_every_wait_has_a_deadline(lanes, ends, wait, error):
    seen = []

    async def body():
        try:
            await wait(ends[0])
        except error:
            seen.append("late")

    lane = lanes.spawn(body())
    assert not lane.done
    lanes.turn_until(lambda: lane.done)
    assert seen == ["late"]


def test_a_connection_that_is_not_answered_times_out(lanes):
    server, fillers = silent_listener()
    seen = []

    async def body():
        try:
            await connect(lanes.reactor, server.getsockname(), 0.05)
        except ConnectTimeout:
            seen.append("late")

    lanes.spawn(body())
    lanes.turn_until(lambda: seen)
    assert lanes.reactor.watched == 0
    for sock in [server, *fillers]:
        sock.close()


def test_a_refused_connection_is_told(lanes):
    server = listen(("127.0.0.1", 0))
    address = server.getsockname()
    server.close()
    seen = []

    async def body():
        with pytest.raises(ConnectFailed, match="ECONNREFUSED"):
            await connect(lanes.reactor, address, 1.0)
        seen.append(1)

    lanes.spawn(body())
    lanes.turn_until(lambda: seen)


def test_wait_either_tells_which_and_when_neither(lanes, ends):
    seen = []

    async def body():
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


# -- companions ----------------------------------------------------------------------------


def test_the_error_of_a_companion_reaches_the_first_lane_where_it_waits(lanes, ends):
    seen = []

    async def second():
        await ends[0].stream.recv(LONG)
        raise ClientGone("left")

    async def first():
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


def test_the_error_of_a_companion_that_was_ended_reaches_nobody(lanes, ends):
    """Both have something to do in one batch, and the first lane has moved on by its end."""
    seen = []

    async def second():
        await ends[0].stream.recv(LONG)
        raise ClientGone("too late to matter")

    async def first():
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


def test_the_end_of_a_joined_lane_does_not_wake_who_was_told_to_do_something_else(lanes, ends):
    seen = []

    async def second():
        await ends[0].stream.recv(LONG)
        raise ClientGone("left")

    async def first():
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


# -- descriptors ---------------------------------------------------------------------------


def test_a_descriptor_closed_in_a_batch_is_not_reused_within_it(lanes):
    """Two sockets are ready in one batch; the first one's lane closes both and opens another.
    Its descriptor must not be a closed one's, or it would get that one's event."""
    ends = [Ends(lanes) for _ in range(2)]
    opened = []
    stray = []

    async def body(own):
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
    for end in ends:
        end.close()
    for fresh, peer in opened:
        fresh.close()
        peer.close()
    assert lanes.crashes == []


def test_what_arrives_while_nobody_waits_is_told_once_and_costs_nothing_more(lanes, ends):
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

    async def body():
        got.append(await ends[0].stream.recv(LONG))
        got.append(await ends[0].stream.recv(LONG))

    lanes.spawn(body())
    lanes.turn_until(lambda: len(got) == 2)
    assert got == [b"x", b""]


# -- crashes -------------------------------------------------------------------------------


def test_a_crash_is_reported_and_harms_no_other_lane(lanes, ends):
    got = []

    async def bad():
        await ends[0].stream.recv(LONG)
        raise ZeroDivisionError

    async def good():
        got.append(await ends[1].stream.recv(LONG))

    lanes.spawn(bad())
    lanes.spawn(good())
    ends[0].peer.send(b"x")
    ends[1].peer.send(b"y")
    lanes.turn_until(lambda: got)
    assert got == [b"y"]
    assert [type(e) for e in lanes.crashes] == [ZeroDivisionError]
    assert not lanes.group.lanes


def test_a_crash_of_a_callback_is_reported_and_harms_nobody(lanes, ends):
    beats = []

    def bad(*_):
        raise ZeroDivisionError

    lanes.reactor.every(0.02, bad)
    lanes.reactor.every(0.02, lambda: beats.append(1))
    ends[0].stream.on_idle = bad
    ends[0].peer.send(b"x")
    got = []

    async def good():
        got.append(await ends[1].stream.recv(LONG))

    lanes.spawn(good())
    ends[1].peer.send(b"y")
    lanes.turn_until(lambda: got and beats and len(lanes.crashes) >= 2)


def test_by_default_a_crash_is_raised(lanes):
    from nodeproxy.dataplane.reactor import Reactor

    reactor = Reactor()

    async def bad():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        reactor.spawn(bad(), lanes.group)
    reactor.close()
