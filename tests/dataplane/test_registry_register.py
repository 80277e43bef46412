"""Checks of real services, and announcing to a Consul agent."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from registry.base import Context
from registry.consul.backend import ConsulBackend
from registry.consul.backend import Options as ConsulOptions
from registry.plugins import Spec, SpecError
from registry.register.checks import OUTPUT, perform
from registry.register.encode import Instance
from registry.register.health import Health
from registry.register.machine import State
from registry.register.options import Check
from registry.register.runner import Registrations, problems
from registry.testing import observe
from tests.dataplane.consul_agent import ConsulAgent
from tests.dataplane.registering import Events, Patient, announcing, entry, only, until

QUICK = {"interval": "100ms", "timeout": "2s", "rise": 2, "fall": 2}


@pytest.fixture
async def patient() -> AsyncIterator[Patient]:
    async with Patient().running() as running:
        yield running


@pytest.fixture
async def agent() -> AsyncIterator[ConsulAgent]:
    async with ConsulAgent().running() as running:
        yield running


def consul(agent: ConsulAgent, **options: Any) -> Spec:
    return Spec("consul", "consul", {"address": agent.url, **options})


def checked(**keys: Any) -> Check:
    return entry(service="web", port=1, registry="x", checks=[keys]).what.checks[0]


# --- checks ---


async def ask(port: int, address: str = "127.0.0.1", **keys: Any) -> str:
    return await perform(checked(**keys), Instance("default/web", address, port, "node-a"), 0)


async def test_http_asks_for_the_path_and_looks_at_the_status(patient: Patient) -> None:
    assert await ask(patient.port, kind="http", path="/health?deep=1", host="web.example") == ""
    (request,) = patient.requests
    assert (request.method, request.path) == ("GET", "/health")
    assert request.params == [("deep", "1")]
    assert request.headers["host"] == "web.example"
    patient.status = 503
    assert await ask(patient.port, kind="http") == "status 503"
    assert await ask(patient.port, kind="http", status=[200, 503]) == ""
    patient.status = 302
    assert await ask(patient.port, kind="http") == ""
    assert await ask(patient.port, kind="http", status=[200]) == "status 302"


async def test_what_is_no_answer_is_a_failure(patient: Patient) -> None:
    patient.cut = 5
    assert "closed without an answer" in await ask(patient.port, kind="http")
    patient.freeze()
    assert await ask(patient.port, kind="http", timeout="100ms") == "no answer within 0.1 s"
    patient.thaw()
    patient.stop()
    await trio.testing.wait_all_tasks_blocked()
    assert await ask(patient.port, kind="tcp") == "Connection refused"
    assert await ask(patient.port, kind="http") == "Connection refused"
    await patient.start()
    assert await ask(patient.port, kind="tcp") == ""


async def test_garbage_in_place_of_http_is_a_failure() -> None:
    async def garbage(stream: trio.SocketStream) -> None:
        await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        async for _ in stream:
            pass

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, garbage, listeners)
        assert "not an answer of HTTP/1.1" in await ask(port, kind="http")
        nursery.cancel_scope.cancel()


async def test_a_check_may_ask_elsewhere(patient: Patient) -> None:
    there = checked(kind="tcp", address="127.0.0.1", port=patient.port)
    assert await perform(there, Instance("default/web", "192.0.2.1", 1, "node-a"), 0) == ""
    assert await ask(patient.port, "", kind="tcp") == "", "without an address: this node"


async def run(tmp_path: Path, script: str, **keys: Any) -> str:
    return await ask(8080, kind="command", run=[sys.executable, "-c", script], **keys)


async def test_a_command_tells_by_its_exit_code(tmp_path: Path) -> None:
    told = "import os; assert os.environ['NODEPROXY_SERVICE'] == 'default/web'"
    assert await run(tmp_path, told, timeout="20s") == ""
    said = await run(tmp_path, "import sys; sys.exit('no  such\\nhost')", timeout="20s")
    assert said == "ended with 1: no such host"
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    assert await run(tmp_path, killed, timeout="20s") == "killed by signal 15"
    assert "No such file" in await ask(1, kind="command", run=["/nowhere/to/be/found"])


async def test_a_commands_output_is_cut_and_never_fills_its_pipe(tmp_path: Path) -> None:
    script = "import sys; sys.stdout.write('x' * 1_000_000); sys.exit(3)"
    said = await run(tmp_path, script, timeout="20s")
    assert said == f"ended with 3: {'x' * OUTPUT}..."
    escape = "import sys; sys.exit('\\x1b[31mred')"
    assert "\x1b" not in await run(tmp_path, escape, timeout="20s")


async def test_a_command_has_no_shell(tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert await ask(1, kind="command", run=["echo", f"; touch {made}"], timeout="20s") == ""
    assert not made.exists()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("patient_parent", [True, False])
async def test_a_command_is_ended_with_all_that_it_started(
    tmp_path: Path, patient_parent: bool
) -> None:
    """Whether it waits for its child, or goes and leaves the child with the pipe."""
    note = tmp_path / "pid"
    wait = "c.wait()" if patient_parent else "pass"
    script = (
        "import subprocess, sys\n"
        "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(note)!r}, 'w').write(str(c.pid))\n{wait}\n"
    )
    said = await run(tmp_path, script, timeout="3s")
    assert said == ("no end within 3 s" if patient_parent else "")
    child = int(note.read_text())
    await until(lambda: not lives(child))


async def test_a_command_is_ended_when_the_check_is(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, tmp_path, script)
        await until(lambda: note.exists() and note.read_text() != "")
        nursery.cancel_scope.cancel()
    assert not lives(int(note.read_text()))


@pytest.mark.netns
async def test_checks_are_marked(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = []
    real = trio.socket.socket

    def made(*args: Any) -> Any:
        sock = real(*args)
        connect = sock.connect

        async def marked(address: Any) -> None:
            marks.append(sock.getsockopt(1, 36))
            await connect(address)

        sock.connect = marked
        return sock

    monkeypatch.setattr(trio.socket, "socket", made)
    check = checked(kind="http")
    assert await perform(check, Instance("a/b", "127.0.0.1", patient.port, "n"), 0x4E500000) == ""
    assert marks == [0x4E500000]


# --- announcing to Consul ---


async def test_it_is_announced_withdrawn_and_announced_again(
    agent: ConsulAgent, patient: Patient
) -> None:
    events = Events()
    one = entry(
        service="web",
        port=patient.port,
        registry="consul",
        address="127.0.0.1",
        weight=7,
        labels={"version": "v2", "tag.blue": "true"},
        checks=[{"kind": "http", "path": "/health", **QUICK}, {"kind": "tcp", **QUICK}],
    )
    reader = ConsulBackend(ConsulOptions(agent.url, allow_loopback=True), Context("consul"))
    here = {"default/web": frozenset({("127.0.0.1", patient.port)})}
    async with observe(reader) as observer:
        async with announcing(one, registries=(consul(agent),), events=events) as made:
            await observer.until(lambda: observer.view == here, "announced", 20)
            await until(lambda: only(made).state is State.ANNOUNCED)
            (endpoint,) = observer._services["default/web"].endpoints
            assert endpoint.weight == 7
            assert dict(endpoint.labels) == {"version": "v2", "tag.blue": "true"}
            patient.status = 500
            await observer.until(lambda: "default/web" not in observer.view, "withdrawn", 20)
            await until(lambda: only(made).state is State.WITHDRAWN)
            status = only(made)
            assert status.health is Health.DOWN
            assert [check.error for check in status.checks] == ["status 500", ""]
            assert status.checks[0].failures >= 2
            patient.status = 200
            await observer.until(lambda: observer.view == here, "announced again", 20)
            await until(lambda: only(made).announced)
            await made.withdraw(10)
            assert only(made).state is State.LEFT
            assert not agent.registered
        await observer.until(lambda: "default/web" not in observer.view, "gone", 20)
    assert [line["event"] for line in events.lines if line["event"].startswith("service")] == [
        "service announced",
        "service withdrawn",
        "service announced",
        "service withdrawn for good",
    ]
    assert "status 500" in str(events.named("check changed"))


async def test_an_announcer_that_dies_lets_its_check_run_out(agent: ConsulAgent) -> None:
    one = entry(service="web", port=80, registry="consul", ttl="2s")
    reader = ConsulBackend(ConsulOptions(agent.url), Context("consul"))
    async with observe(reader) as observer:
        async with announcing(one, registries=(consul(agent),)):
            await observer.until(lambda: "default/web" in observer.view, "announced", 20)
            # Without an address of its own it has that of Consul's node.
            assert observer.view["default/web"] == {("10.1.1.1", 80)}
            await until(lambda: agent.passed >= 5)
            assert "default/web" in observer.view
        assert agent.registered
        await observer.until(lambda: not observer.view.get("default/web"), "run out", 20)


async def test_an_agent_that_forgot_is_told_again(agent: ConsulAgent) -> None:
    one = entry(service="web", port=80, registry="consul", ttl="2s")
    async with announcing(one, registries=(consul(agent),)) as made:
        await until(lambda: only(made).state is State.ANNOUNCED)
        agent.forget(only(made).place)
        await until(lambda: bool(agent.registered))
        await until(lambda: only(made).state is State.ANNOUNCED)
        assert (only(made).writes, only(made).losses) == (2, 1)


async def test_it_waits_for_an_agent_that_is_down_and_outlives_its_restart(
    agent: ConsulAgent,
) -> None:
    agent.stop()
    one = entry(service="web", port=80, registry="consul", ttl="2s")
    two = entry("register[1]", service="api", port=81, registry="consul", ttl="2s")
    async with announcing(one, two, registries=(consul(agent),)) as made:
        await until(lambda: all("refused" in s.error for s in made.statuses()))
        assert {s.state for s in made.statuses()} == {State.ANNOUNCING}
        await agent.start()
        await until(lambda: all(s.announced for s in made.statuses()), made.statuses)
        assert [s.error for s in made.statuses()] == ["", ""]
        agent.stop()
        await until(lambda: not any(s.announced for s in made.statuses()))
        agent.registered.clear()
        await agent.start()
        await until(lambda: len(agent.registered) == 2)
        await until(lambda: all(s.announced for s in made.statuses()))


async def test_a_new_token_is_read_from_its_file(agent: ConsulAgent, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("old\n")
    agent.token = "new"
    spec = Spec("consul", "consul", {"address": agent.url, "token_file": "token"}, str(tmp_path))
    events = Events()
    one = entry(service="web", port=80, registry="consul")
    async with announcing(one, registries=(spec,), events=events) as made:
        await until(lambda: "403" in only(made).error)
        assert "service:write" in only(made).error
        (tmp_path / "token").write_text("new\n")
        await until(lambda: only(made).announced, made.statuses)
    assert "old" not in str(events.lines).replace("holder", "")


async def test_a_registry_that_is_gone_at_the_end_is_not_waited_for(agent: ConsulAgent) -> None:
    one = entry(service="web", port=80, registry="consul", withdraw_delay="0s")
    events = Events()
    async with announcing(one, registries=(consul(agent),), events=events) as made:
        await until(lambda: only(made).announced)
        agent.freeze()
        begun = trio.current_time()
        await made.withdraw(0.5)
        assert trio.current_time() - begun < 10
        assert only(made).state is State.LEAVING
    (line,) = events.named("not withdrawn in time: the leases will run out")
    assert line["services"] == ["default/web"]


async def test_a_service_that_never_was_well_is_never_announced(
    agent: ConsulAgent, patient: Patient
) -> None:
    patient.status = 500
    one = entry(
        service="web", port=patient.port, registry="consul", checks=[{"kind": "http", **QUICK}]
    )
    async with announcing(one, registries=(consul(agent),)) as made:
        await until(lambda: only(made).state is State.WITHDRAWN)
        await made.withdraw(10)
        assert only(made).state is State.LEFT
    assert not [r for r in agent.requests if r.path.startswith("/v1/agent")]


# --- configuration ---


def wrong(*registries: Spec, **keys: Any) -> str:
    (problem,) = problems([entry(**{"service": "web", "port": 80, **keys})], _named(registries))
    return str(problem)


def _named(registries: tuple[Spec, ...]) -> dict[str, Spec]:
    return {spec.name: spec for spec in registries}


ETCD = Spec("main", "etcd", {"endpoints": ["http://127.0.0.1:1"], "layout": "skydns"})


def test_what_cannot_be_announced_is_refused_at_the_start() -> None:
    file = Spec("file", "file", {"path": "x.yaml"})
    assert "did you mean 'main'" in wrong(ETCD, registry="mian")
    assert "test.yaml:1: register[0].registry" in wrong(ETCD, registry="mian")
    assert "kind file: etcd, zookeeper, consul" in wrong(file, registry="file")
    assert "'kind' is missing" in wrong(registry={})
    assert "endpoint" in wrong(registry={"kind": "etcd", "layout": "skydns"})
    assert "namespace of the registry" in wrong(ETCD, registry="main", service="shop/web")
    assert "skydns has no labels" in wrong(ETCD, registry="main", labels={"a": "b"})
    assert "needs `prefix`" in wrong(ETCD, registry="main", layout="grpc")
    assert "leave `layout` out" in wrong(
        Spec("consul", "consul", {}), registry="consul", layout="catalog"
    )
    assert "registrator-kv cannot be written" in wrong(
        Spec("consul", "consul", {"layout": "registrator-kv"}), registry="consul"
    )
    assert problems([entry(service="web", port=80, registry="main")], _named((ETCD,))) == []
    with pytest.raises(SpecError):
        Registrations([entry(service="web", port=80, registry="x")], [], node="n", log=None)


def test_a_layout_of_its_own_comes_with_its_own_place() -> None:
    spec = Spec("main", "etcd", dict(ETCD.options) | {"prefix": "/dns"})
    made = Registrations(
        [entry(service="web", port=80, registry="main", layout="registrator")],
        [spec],
        node="n",
        log=None,
    )
    (status,) = made.statuses()
    assert (status.layout, status.state, status.address) == ("registrator", State.WAITING, "")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "command"}, "a command needs `run`"),
        ({"kind": "tcp", "run": ["true"]}, "`run` belongs to kind: command"),
        ({"kind": "tcp", "path": "/x"}, "belong to kind: http"),
        ({"kind": "command", "run": ["true"], "port": 5}, "no `address` and no `port`"),
        ({"kind": "tcp", "interval": "50ms"}, "100ms or more"),
        ({"kind": "tcp", "timeout": "0s"}, "more than 0"),
        ({"kind": "tcp", "address": "localhost"}, "localhost"),
        ({"kind": "http", "path": "/a b"}, "matching regex"),
        ({"kind": "http", "host": "a\r\nX: b"}, "matching regex"),
    ],
)
def test_a_check_that_makes_no_sense_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message.replace("\\", "")):
        checked(**keys)


def test_titles_are_short() -> None:
    assert checked(kind="tcp").title == "tcp"
    assert checked(kind="http", port=81, path="/health").title == "http :81/health"
    assert checked(kind="tcp", address="::1", port=81).title == "tcp [::1]:81"
    assert checked(kind="command", run=["/usr/bin/pg_isready", "-q"]).title == "command pg_isready"
