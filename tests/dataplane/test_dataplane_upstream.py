"""Endpoints that cannot be reached, go stale, fail, are ejected, come and go."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from nodeproxy.dataplane.listener import listen
from registry.model import Endpoint, Port, Service

MIB = 1 << 20
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


async def hello(talk: Any):
    while True:
        _, fields = await talk.request()
        await talk.exactly(int(fields.get(b"content-length", 0)))
        await talk.send(HELLO)


async def stall(talk: Any):
    await trio.sleep_forever()


def dead_endpoint():
    sock = listen(("127.0.0.1", 0))
    address = sock.getsockname()[:2]
    sock.close()
    return Endpoint(*address)


# -- connecting -----------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [GET, POST])
async def test_a_connect_failure_moves_to_another_endpoint(make_harness: Any, request_: Any):
    async with make_harness(policy={"balance": "round_robin"}) as harness:
        backend = await harness.backend(hello)
        address = harness.serve(dead_endpoint(), dead_endpoint(), backend)
        for count in range(6):
            client = await harness.client(address)
            await client.send(request_)
            assert (await client.answer())[2] == b"hi"
            client.close()
            assert (await harness.record(count + 1)).flags == ""
        assert max(r.tries for r in harness.records) in (2, 3)
        assert {r.upstream for r in harness.records} == {f"127.0.0.1:{backend.address[1]}"}


async def test_the_failure_that_ejects_an_endpoint_still_moves_to_another(make_harness: Any):
    """The candidates shrink while one of them is being tried."""
    policy = {"balance": "round_robin"}
    async with make_harness(policy=policy) as harness:
        backend = await harness.backend(hello)
        address = harness.serve(dead_endpoint(), backend)
        for _ in range(20):
            assert (await harness.get(address))[0] == 200
        assert [event for event, _ in harness.logged] == ["endpoint ejected"]


async def test_no_endpoint_answers(harness: Any):
    address = harness.serve(dead_endpoint(), dead_endpoint())
    status, fields, _body = await harness.get(address)
    assert status == 503
    assert fields[b"proxy-status"].startswith(b"nodeproxy; error=connection_refused")
    assert fields[b"connection"] == b"close"
    record = await harness.record()
    assert (record.status, record.flags, record.tries) == (503, "UF", 2)


async def test_an_endpoint_that_answers_no_syn(make_harness: Any, monkeypatch: Any):
    import socket

    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(server.getsockname())
        fillers.append(filler)
    try:
        async with make_harness(policy={"connect_timeout": 0.05}, check=False) as harness:
            address = harness.serve(Endpoint(*server.getsockname()))
            assert (await harness.get(address))[0] == 504
            assert (await harness.record()).flags == "UF"
            await harness.settle()
    finally:
        for sock in [server, *fillers]:
            sock.close()


async def test_no_endpoints(harness: Any):
    status, _, body = await harness.get(harness.serve())
    assert status == 503
    assert b"nodeproxy endpoints test/web" in body
    assert (await harness.record()).flags == "UH"


async def test_the_limit_on_connections(make_harness: Any):
    async with make_harness(policy={"max_connections": 1}) as harness:
        backend = await harness.backend(stall)
        address = harness.serve(backend)
        first = await harness.client(address)
        await first.send(GET)
        await harness.until(lambda: backend.open)
        assert (await harness.get(address))[0] == 503
        assert (await harness.record()).flags == "UO"


async def test_idle_connections_make_room(make_harness: Any):
    policy = {"max_connections": 2, "balance": "round_robin"}
    async with make_harness(policy=policy) as harness:
        backends = [await harness.backend(hello) for _ in range(4)]
        address = harness.serve(*backends)
        for _ in range(8):
            assert (await harness.get(address))[0] == 200
        assert harness.upstream().connections <= 2


# -- stale connections ----------------------------------------------------------------------


def closes_after(answers: Any):
    """A back end that answers so many requests on a connection, and closes it without a word
    when the next one comes."""

    async def script(talk: Any) -> None:
        for _ in range(answers):
            _, fields = await talk.request()
            await talk.exactly(int(fields.get(b"content-length", 0)))
            await talk.send(HELLO)
        await talk.request()

    return script


async def test_a_stale_connection_is_replaced_for_idempotent_requests(harness: Any):
    backend = await harness.backend(closes_after(1))
    client = await harness.client(harness.serve(backend))
    for count in range(3):
        await client.send(GET)
        assert (await client.answer())[2] == b"hi"
        record = await harness.record(count + 1)
        assert record.flags == ""
        assert record.tries == (1 if count == 0 else 2)
    (target,) = harness.upstream().targets.values()
    assert target.series.failure.value == 0


async def test_a_whole_pool_gone_stale_costs_one_retry(harness: Any):
    backend = await harness.backend(closes_after(1))
    address = harness.serve(backend)
    started = trio.Event()

    async def held(talk: Any) -> None:
        await talk.request()
        await started.wait()
        await talk.send(HELLO)
        await talk.request()

    backend.script = held
    clients = [await harness.client(address) for _ in range(5)]
    for client in clients:
        await client.send(GET)
    await harness.until(lambda: backend.accepted == 5)
    started.set()
    for client in clients:
        await client.answer()
    (target,) = harness.upstream().targets.values()
    await harness.until(lambda: len(target.pool.idle) == 5)
    await clients[0].send(GET)
    assert (await clients[0].answer())[0] == 200
    assert (await harness.record(6)).tries == 2


async def test_a_stale_connection_is_an_error_for_a_post(harness: Any):
    backend = await harness.backend(closes_after(1))
    client = await harness.client(harness.serve(backend))
    await client.send(POST)
    assert (await client.answer())[0] == 200
    await client.send(POST)
    assert (await client.answer())[0] == 502
    record = await harness.record(2)
    assert (record.flags, record.tries) == ("UC", 1)


async def test_a_post_is_not_sent_on_a_connection_that_has_ended(harness: Any):
    """It ended so recently that the reactor does not know yet: the kernel does."""
    backend = await harness.backend(hello)
    client = await harness.client(harness.serve(backend))
    await client.send(POST)
    await client.answer()
    (target,) = harness.upstream().targets.values()
    (stream,) = target.pool.idle
    stream.on_idle = None  # the reactor tells nobody
    for talk in list(backend.open):
        talk.end()
    await harness.until(stream.ended)
    await client.send(POST)
    assert (await client.answer())[0] == 200
    record = await harness.record(2)
    assert (record.flags, record.tries) == ("", 2)


async def test_an_idle_connection_that_ends_is_taken_out_of_the_pool(harness: Any):
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(HELLO)

    backend = await harness.backend(script)
    client = await harness.client(harness.serve(backend))
    await client.send(POST[:-4].replace(b"4", b"0"))
    await client.answer()
    await harness.until(lambda: harness.upstream().connections == 0)
    await client.send(POST[:-4].replace(b"4", b"0"))
    assert (await client.answer())[0] == 200
    assert {r.tries for r in harness.records} == {1}


async def test_an_endpoint_that_speaks_out_of_turn_is_not_reused(harness: Any):
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(HELLO + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
        await trio.sleep_forever()

    backend = await harness.backend(script)
    client = await harness.client(harness.serve(backend))
    for _ in range(3):
        await client.send(GET)
        assert (await client.answer())[2] == b"hi"
    assert backend.accepted == 3


# -- health ---------------------------------------------------------------------------------


async def test_failures_in_a_row_eject_and_time_readmits(make_harness: Any):
    broken = [True]

    async def script(talk: Any) -> None:
        while True:
            await talk.request()
            await talk.send(
                b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n" if broken[0] else HELLO
            )

    from nodeproxy.core.policy import Outlier

    outlier = Outlier(base_ejection=0.2)
    policy = {"balance": "round_robin", "outlier": outlier}
    async with make_harness(policy=policy) as harness:
        bad, good = await harness.backend(script), await harness.backend(hello)
        address = harness.serve(bad, good)
        for _ in range(10):
            await harness.get(address)
        assert sum(r.status == 500 for r in harness.records) == 5
        bad_target = harness.upstream().targets[bad.endpoint.key]
        assert bad_target.health.ejected
        assert not bad_target.pool.idle
        for _ in range(5):
            assert (await harness.get(address))[0] == 200
        broken[0] = False
        await harness.until(lambda: not bad_target.health.ejected)
        assert len(harness.upstream().candidates) == 2
        for _ in range(4):
            assert (await harness.get(address))[0] == 200
        assert bad_target.series.success.value >= 1


async def test_the_last_endpoint_is_never_ejected(harness: Any):
    async def script(talk: Any) -> None:
        while True:
            await talk.request()
            await talk.send(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")

    address = harness.serve(await harness.backend(script))
    for _ in range(12):
        assert (await harness.get(address))[0] == 503
    assert harness.logged == []
    assert all(r.flags == "" for r in harness.records)  # the endpoint's answer, not ours


async def test_an_ejected_endpoint_that_is_all_that_remains_is_used(make_harness: Any):
    async with make_harness(policy={"balance": "round_robin"}) as harness:
        dead, backend = dead_endpoint(), await harness.backend(hello)
        address = harness.serve(dead, backend)
        for _ in range(10):
            await harness.get(address)
        assert harness.upstream().targets[dead.key].health.ejected
        harness.know(harness.service(dead))
        assert (await harness.get(address))[0] == 503
        assert harness.records[-1].flags == "UF"  # it was tried


# -- the catalog changes --------------------------------------------------------------------


async def test_an_endpoint_leaves_while_it_works(harness: Any):
    go = trio.Event()

    async def script(talk: Any) -> None:
        await talk.request()
        await go.wait()
        await talk.send(HELLO)
        await talk.rest()

    old = await harness.backend(script)
    address = harness.serve(old)
    client = await harness.client(address)
    await client.send(GET)
    await harness.until(lambda: old.open)
    new = await harness.backend(hello)
    harness.know(harness.service(new))
    go.set()
    assert (await client.answer())[0] == 200
    await harness.until(lambda: not old.open)  # not kept for another request
    await client.send(GET)
    assert (await client.answer())[0] == 200
    assert new.accepted == 1


async def test_idle_connections_to_endpoints_that_leave_are_closed(harness: Any):
    old, new = await harness.backend(hello), await harness.backend(hello)
    address = harness.serve(old)
    await harness.get(address)
    await harness.until(lambda: old.open)
    import msgspec

    not_ready = msgspec.structs.replace(old.endpoint, ready=False)
    harness.know(harness.service(not_ready, new))
    await harness.until(lambda: not old.open)
    assert (await harness.get(address))[0] == 200
    harness.know(harness.service())
    await harness.until(lambda: not new.open)
    assert (await harness.get(address))[0] == 503


async def test_a_service_leaves_and_comes_back(harness: Any):
    backend = await harness.backend(hello)
    address = harness.serve(backend)
    client = await harness.client(address)
    await client.send(GET)
    await client.answer()
    harness.know(gone=["test/web"])
    await client.send(GET)
    assert (await client.answer())[0] == 503
    assert await client.rest() == b""
    assert harness.records[-1].flags == "UH"
    harness.know(harness.service(backend))
    assert (await harness.get(address))[0] == 200


async def test_a_port_changes_its_protocol(harness: Any):
    backend = await harness.backend(hello)
    address = harness.serve(backend)
    client = await harness.client(address)
    await client.send(GET)
    await client.answer()
    harness.know(Service("test/web", (), (Port(80, "main", "tcp"),), (backend.endpoint,)))
    await client.send(GET)  # goes on as it began
    assert (await client.answer())[0] == 200
    other = await harness.client(address)
    await other.send(GET)
    await other.answer()
    other.close()
    record = await harness.record(3)
    assert record.protocol == "TCP"


async def test_the_service_leaves_while_connecting(harness: Any, monkeypatch: Any):
    from nodeproxy.dataplane import upstream as module
    from nodeproxy.dataplane.lane import sleep

    connect = module.connect

    async def slowly(reactor: Any, address: Any, timeout: Any, mark: Any = 0) -> Any:
        harness.know(gone=["test/web"])
        await sleep(reactor, 0.01)
        return await connect(reactor, address, timeout, mark)

    monkeypatch.setattr(module, "connect", slowly)
    assert (await harness.get(harness.serve(await harness.backend(hello))))[0] == 200
    (upstream,) = harness.upstreams
    await harness.until(lambda: upstream.connections == 0)


# -- draining -------------------------------------------------------------------------------


async def test_draining_tells_clients_to_close(harness: Any):
    address = harness.serve(await harness.backend(hello))
    client, idle = await harness.client(address), await harness.client(address)
    for each in (client, idle):
        await each.send(GET)
        assert b"connection" not in (await each.answer())[1]
    await client.send(GET)  # has come, and is not read yet
    harness.node.drain()
    assert (await client.answer())[1][b"connection"] == b"close"
    for each in (client, idle):
        assert await each.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        await harness.client(address)
    await harness.until(lambda: not harness.node.lanes.lanes)


# -- idle connections ----------------------------------------------------------------------


async def test_idle_connections_are_kept_for_a_while_only(make_harness: Any):
    async with make_harness(policy={"idle_timeout": 0.05}) as harness:
        backend = await harness.backend(hello)
        assert (await harness.get(harness.serve(backend)))[0] == 200
        await harness.until(lambda: harness.upstream().connections == 0)
        await harness.until(lambda: not backend.open)


async def test_only_so_many_idle_connections_are_kept(make_harness: Any):
    async with make_harness(policy={"idle_connections": 2}) as harness:
        go = trio.Event()

        async def held(talk: Any) -> None:
            await talk.request()
            await go.wait()
            await talk.send(HELLO)
            await talk.rest()

        backend = await harness.backend(held)
        address = harness.serve(backend)
        clients = [await harness.client(address) for _ in range(6)]
        for client in clients:
            await client.send(GET)
        await harness.until(lambda: backend.accepted == 6)
        go.set()
        for client in clients:
            assert (await client.answer())[0] == 200
        await harness.until(lambda: harness.upstream().connections == 2)
        await harness.until(lambda: len(backend.open) == 2)
