"""From a name to an endpoint, in network namespaces: the DNS responder, a given address, the
interception."""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

import pytest

from nodeproxy.demo.lab import Lab

pytestmark = [pytest.mark.system, pytest.mark.netns]


def test_a_service_without_an_address_is_reached_by_its_name(
    make_daemon: Any, backends: Any, kit: Any
):
    with Lab(nodes=1, pods=2) as lab:
        daemon = make_daemon(lambda command: lab.command("node1", *command))
        pod = lab.pod(1, 2)
        made = []
        for address in (pod.address4, pod.address6):
            sock = lab.socket(pod.name, socket.AF_INET6 if ":" in address else socket.AF_INET)
            sock.bind((address, 8080))
            made.append(backends(pod.name, sock))
        daemon.configure(
            interception={"mode": "iptables"},
            telemetry={"metrics": "127.0.0.1:15020"},
            vips={"cidr": "10.97.0.0/16", "cidr6": "fd00:97::/112"},
            # The interception's own address, which is not there when the daemon starts.
            dns={"listen": "169.254.171.1:5353"},
        )
        daemon.serve(kit.service("shop/web", made))
        daemon.start()
        query = (
            "import dns.message as m, dns.query as q, sys\n"
            "for kind in 'A', 'AAAA':\n"
            "    a = q.udp(m.make_query('web.shop.mesh', kind), '169.254.171.1', 10, 5353)\n"
            "    print(a.answer[0][0].address)\n"
        )
        named = lab.run("node1", sys.executable, "-c", query).split()
        # A pod, whose route leads to its node, is told the same.
        assert lab.run("pod1-1", sys.executable, "-c", query).split() == named
        four, six = named
        assert four.startswith("10.97.")
        assert six.startswith("fd00:97::")
        # Processes of the host too: the network of given addresses is routed.
        for source in ("pod1-1", "node1"):
            connect = kit.dial_from(lab, source)
            for vip in named:
                answer = kit.eventually(lambda v=vip, c=connect: kit.ask(v, 80, connect=c))
                assert answer.proxied
                assert answer.body == pod.name
        assert json.loads(daemon.cli("rules", "verify", "-o", "json").stdout)["ok"]
