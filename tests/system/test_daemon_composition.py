"""Several registries, given addresses and names, in a daemon as operators have it."""

from __future__ import annotations

import json
import socket
from typing import Any

import dns.message
import dns.query
import dns.rcode
import pytest

pytestmark = pytest.mark.system


def write(daemon: Any, name: str, *services: dict[str, Any]) -> None:
    """Replace one of the services files."""
    beside = daemon.folder / "services.new"
    beside.write_text(json.dumps({"services": list(services)}))
    beside.replace(daemon.folder / name)


def served(kit: Any, port: int) -> str:
    try:
        answer = kit.ask("127.0.0.1", port)
    except ConnectionResetError:
        return "reset"
    return answer.body if answer.status == 200 else str(answer.status)


def test_a_second_registry_serves_while_the_first_has_nothing_usable(
    daemon: Any, backends: Any, kit: Any
):
    near, far, last = backends("near"), backends("far"), backends("last")
    port = daemon.listen("shop/web")
    other = daemon.listen("shop/other")
    daemon.configure(
        registries=[
            {
                "kind": "file",
                "name": "far",
                "path": "far.yaml",
                "priority": 1,
                "rename": [{"match": "prod/*", "to": "shop/{1}"}],
                "only": [{"label": "env", "value": "prod"}],
                "default_endpoints": {"shop/web": [last.address]},
            },
            {
                "kind": "file",
                "name": "near",
                "path": "near.yaml",
                "keep_on_empty": False,
            },
        ]
    )
    wrong = {"address": "127.0.0.1", "port": 1, "labels": {"env": "test"}}
    right = {"address": far.host, "port": far.port, "labels": {"env": "prod"}}
    write(daemon, "far.yaml", kit.service("prod/web", [wrong, right]), kit.service("a/b", []))
    write(daemon, "near.yaml", kit.service("shop/web", [near]), kit.service("shop/other", [near]))
    daemon.start()
    assert {served(kit, port) for _ in range(5)} == {"near"}
    assert served(kit, other) == "near"
    assert daemon.metric("nodeproxy_registry_services_used", registry="far") == 1
    # Not ready, gone, and back: each time without a request that fails.
    broken = {"address": near.host, "port": near.port, "ready": False}
    write(daemon, "near.yaml", kit.service("shop/web", [broken]), kit.service("shop/other", []))
    kit.eventually(lambda: served(kit, port) == "far")
    write(daemon, "near.yaml")
    kit.eventually(lambda: served(kit, other) == "reset")
    assert served(kit, port) == "far"
    shown = {r["name"]: r for r in json.loads(daemon.cli("registries", "-o", "json").stdout)}
    assert (shown["far"]["priority"], shown["far"]["services_alone"]) == (1, 2)
    assert shown["near"]["services"] == 0
    write(daemon, "near.yaml", kit.service("shop/web", [near]))
    kit.eventually(lambda: served(kit, port) == "near")
    # Nobody has anything: what was configured for this serves.
    write(daemon, "near.yaml", kit.service("shop/web", [broken]))
    write(daemon, "far.yaml", kit.service("prod/web", [wrong]), kit.service("a/b", []))
    kit.eventually(lambda: served(kit, port) == "last")
    listed = {s["name"]: s for s in json.loads(daemon.cli("services", "-o", "json").stdout)}
    assert listed["shop/web"]["registries"] == ["near", "far", "(default endpoints)"]


def test_a_name_leads_to_a_given_address_that_stays(daemon: Any, backends: Any, kit: Any):
    port = kit.free_port()
    daemon.configure(
        vips={"cidr": "10.97.0.0/16", "cidr6": "fd00:97::/112"},
        dns={"listen": f"127.0.0.1:{port}", "ttl": "7s"},
    )
    one = backends("one")
    daemon.serve(
        kit.service("shop/web", [one]), kit.service("shop/own", [one], vips=["192.0.2.10"])
    )
    daemon.start()

    def ask(name: str, type_: str = "A", how: Any = dns.query.udp) -> Any:
        return how(dns.message.make_query(name, type_), "127.0.0.1", port=port, timeout=10)

    answer = ask("web.shop.mesh")
    (rrset,) = answer.answer
    (address,) = [record.address for record in rrset]
    assert address.startswith("10.97.")
    assert rrset.ttl == 7
    assert ask("own.shop.mesh").answer[0][0].address == "192.0.2.10"
    assert ask("web.shop.mesh", "AAAA", dns.query.tcp).answer[0][0].address.startswith("fd00:97::")
    assert ask("_http._tcp.web.shop.mesh", "SRV").answer[0][0].port == 80
    assert ask("none.shop.mesh").rcode() == dns.rcode.NXDOMAIN
    assert ask("example.org").rcode() == dns.rcode.REFUSED
    assert daemon.metric("nodeproxy_dns_queries_total", rcode="NOERROR") == 4
    assert daemon.metric("nodeproxy_vips_given") == 1

    lines = daemon.cli("hosts").stdout.splitlines()
    assert f"{address} web.shop.mesh web.shop" in lines
    assert "192.0.2.10 own.shop.mesh own.shop" in lines
    assert len(lines) == 3
    assert "1 of 65,534 in 10.97.0.0/16, fd00:97::/112" in daemon.cli("status").stdout

    # Changes are answered at once, and a restart changes nothing.
    daemon.serve(kit.service("shop/web", [one]), kit.service("shop/new", [one]))
    kit.eventually(lambda: ask("new.shop.mesh").answer)
    assert ask("own.shop.mesh").rcode() == dns.rcode.NXDOMAIN
    kit.eventually((daemon.folder / "state" / "vips.state").exists)
    daemon.stop()
    daemon.start()
    assert ask("web.shop.mesh").answer[0][0].address == address


def test_an_address_that_is_taken_is_named(daemon: Any, kit: Any):
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        daemon.configure(dns={"listen": f"127.0.0.1:{port}"})
        daemon.serve()
        code, said = daemon.refusal()
    assert code == 1
    assert f"dns.listen: cannot listen on 127.0.0.1:{port}: another process has it" in said
