"""The daemon announces this node's services: health, kill -9, and the order of its stop."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.etcd_server import EtcdServer

pytestmark = pytest.mark.system

QUICK = {"interval": "100ms", "timeout": "2s", "rise": 2, "fall": 2}


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path)
    server.start()
    yield server
    server.close()


def configure(daemon: Any, etcd: EtcdServer, port: int, **more: Any) -> None:
    """The daemon announces default/web, and reads it from the same registry."""
    main = {"kind": "etcd", "name": "main", "endpoints": [etcd.url], "layout": "grpc"}
    main |= {"prefix": "/mesh", "keep_on_empty": False, "port": 80}
    one = {"service": "web", "port": port, "registry": "main", "address": "127.0.0.1"}
    one |= {"ttl": "2s", "withdraw_delay": "0s", "checks": [{"kind": "tcp", **QUICK}]}
    daemon.configure(registries=[main], register=[one | more])


def bound(port: int) -> socket.socket:
    """A socket on loopback, also where connections of an earlier one linger."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def registration(daemon: Any) -> Any:
    with daemon.client() as client:
        (found,) = client.registrations()
    return found


def announced(daemon: Any) -> Any:
    found = registration(daemon)
    assert found.announced, found
    return found


def test_a_service_is_announced_read_withdrawn_and_announced_again(
    etcd: EtcdServer, daemon: Any, backends: Any, kit: Any
) -> None:
    first = bound(0)
    number = first.getsockname()[1]
    one = backends("one", first)
    port = daemon.listen("web")
    configure(daemon, etcd, number)
    daemon.start()
    kit.eventually(lambda: announced(daemon))
    assert etcd.keys("/mesh/") == [f"/mesh/web/127.0.0.1:{number}"]
    # What it announces it reads, and traffic goes there.
    kit.eventually(lambda: kit.ask("127.0.0.1", port).body == "one")
    labels = {"service": "default/web", "registry": "main"}
    assert daemon.metric("nodeproxy_registration_up", **labels) == 1
    assert daemon.metric("nodeproxy_registration_announced", **labels) == 1
    one.close()
    kit.eventually(lambda: registration(daemon).state == "withdrawn")
    assert etcd.keys("/mesh/") == []
    found = registration(daemon)
    assert (found.up, found.checks[0].state) == (False, "down")
    assert found.checks[0].last_error == "Connection refused"
    assert daemon.metric("nodeproxy_registration_up", **labels) == 0
    assert daemon.metric("nodeproxy_registration_announced", **labels) == 0
    assert daemon.metric("nodeproxy_registration_check_failures_total", check="tcp") >= 2
    shown = daemon.cli("registrations")
    assert "withdrawn" in shown.stdout
    assert "Connection refused" in shown.stdout
    assert json.loads(daemon.cli("registrations", "-o", "json").stdout)[0]["service"] == (
        "default/web"
    )
    backends("again", bound(number))
    kit.eventually(lambda: announced(daemon))
    kit.eventually(lambda: kit.ask("127.0.0.1", port).body == "again")
    assert daemon.log("service announced")[0]["place"] == f"/mesh/web/127.0.0.1:{number}"
    assert daemon.log("service withdrawn")[0]["error"] == "tcp: Connection refused"


def test_after_kill_9_the_lease_runs_out(etcd: EtcdServer, daemon: Any, kit: Any) -> None:
    configure(daemon, etcd, 80, checks=[])
    daemon.start()
    kit.eventually(lambda: announced(daemon))
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    assert etcd.keys("/mesh/") == ["/mesh/web/127.0.0.1:80"]
    kit.eventually(lambda: etcd.keys("/mesh/") == [], 20)


def test_at_sigterm_it_is_withdrawn_before_listeners_close(
    etcd: EtcdServer, daemon: Any, backends: Any, kit: Any
) -> None:
    one = backends("one")
    port = daemon.listen("web")
    configure(daemon, etcd, int(one.address.rpartition(":")[2]), ttl="1m", withdraw_delay="3s")
    daemon.start()
    kit.eventually(lambda: announced(daemon))
    kit.eventually(lambda: kit.ask("127.0.0.1", port).body == "one")
    daemon.signal(signal.SIGTERM)
    kit.eventually(lambda: etcd.keys("/mesh/") == [])
    # Taken out, and still serving; and it says that it is going.
    assert kit.ask("127.0.0.1", port).body == "one"
    with daemon.client() as client:
        assert client.ready().reasons == ("the daemon is stopping",)
    assert registration(daemon).state == "left"
    assert not daemon.log("stopped")
    assert daemon.wait() == 0
    with pytest.raises(ConnectionRefusedError):
        kit.ask("127.0.0.1", port)
    events = [line["event"] for line in daemon.log()]
    assert events.index("stopping") < events.index("service withdrawn for good")
    assert events.index("service withdrawn for good") < events.index("stopped")


def test_a_second_sigterm_does_not_wait(etcd: EtcdServer, daemon: Any, kit: Any) -> None:
    configure(daemon, etcd, 80, checks=[], withdraw_delay="1m")
    daemon.start()
    kit.eventually(lambda: announced(daemon))
    daemon.signal(signal.SIGTERM)
    kit.eventually(lambda: etcd.keys("/mesh/") == [])
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def test_a_registry_that_is_down_holds_up_neither_start_nor_stop(
    etcd: EtcdServer, daemon: Any, kit: Any
) -> None:
    etcd.stop()
    configure(daemon, etcd, 80, checks=[])
    daemon.start()
    kit.eventually(lambda: "refused" in registration(daemon).last_error.lower())
    assert registration(daemon).state == "announcing"
    assert daemon.log("registering failed")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait(30) == 0


def test_what_cannot_be_announced_is_refused(etcd: EtcdServer, daemon: Any) -> None:
    configure(daemon, etcd, 80, weight=3)
    code, said = daemon.refusal()
    assert code == 2
    assert "register[0].registry: the layout grpc has no weights" in said
    validated = daemon.cli("validate", str(daemon.folder / "nodeproxy.yaml"))
    assert validated.returncode == 1
    assert "the layout grpc has no weights" in validated.stdout
