"""The back end ``dns`` against knot, whose zone changes under way."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from registry.base import Context
from registry.dns.backend import DnsBackend, Options
from registry.dns.options import DnsService
from registry.duration import Duration
from registry.model import Service
from registry.testing import CHECKS, Check, observe, sample
from tests.system.dns_fake import DnsFake

PATIENCE = 20.0
CONF = """\
server:
    rundir: {folder}
    listen: 127.0.0.1@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
control:
    listen: {folder}/knot.sock
database:
    storage: {folder}
zone:
  - domain: mesh.test
    file: {folder}/mesh.test.zone
    zonefile-load: whole
"""


def free_port() -> int:
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        return int(tcp.getsockname()[1])


class Knot:
    """A name server with the zone mesh.test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.serial = 0
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "knot.conf").write_text(CONF.format(folder=folder, port=self.port))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def put(self, *records: str) -> None:
        """The zone has exactly these records."""
        self.serial += 1
        head = [
            "$ORIGIN mesh.test.",
            f"@ 1 SOA ns hostmaster {self.serial} 3600 600 86400 1",
            "@ 1 NS ns",
            "ns 1 A 127.0.0.1",
        ]
        (self.folder / "mesh.test.zone").write_text("\n".join([*head, *records, ""]))
        if self.process is None:
            await self.start()
        else:
            await self.control("zone-reload", "mesh.test")

    async def control(self, *words: str) -> None:
        await trio.run_process(
            ["/usr/sbin/knotc", "-b", "-s", str(self.folder / "knot.sock"), *words],
            capture_stdout=True,
            capture_stderr=True,
        )

    async def start(self) -> None:
        self.process = self._spawn()
        with trio.fail_after(PATIENCE):
            while True:
                try:
                    await self.control("zone-status", "mesh.test")
                except subprocess.CalledProcessError:
                    assert self.process.poll() is None, (self.folder / "log").read_text()
                    await trio.sleep(0.02)
                else:
                    return

    def _spawn(self) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                ["/usr/sbin/knotd", "-c", str(self.folder / "knot.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def knot(tmp_path: Path) -> Iterator[Knot]:
    made = Knot(tmp_path)
    yield made
    made.kill()


def backend(server: str, services: dict[str, DnsService], **more: Any) -> DnsBackend:
    options: dict[str, Any] = {"min_ttl": Duration("100ms"), "timeout": Duration("500ms")} | more
    options.setdefault("max_negative_ttl", Duration("200ms"))
    return DnsBackend(Options(services, (server,), **options), Context("dns"))


def short(service: Service) -> str:
    return service.name.removeprefix("default/")


class Srv:
    """Conformance harness: SRV records."""

    patience = PATIENCE

    def __init__(self, knot: Knot) -> None:
        self.knot = knot

    def backend(self) -> DnsBackend:
        names = ("web", "api", "new", "other")
        services = {name: DnsService((f"_{name}._tcp.mesh.test",)) for name in names}
        return backend(self.knot.address, services)

    def records(self, services: Sequence[Service]) -> list[str]:
        found = []
        for service in services:
            for endpoint in service.endpoints:
                host = "h-" + endpoint.address.replace(".", "-")
                found.append(f"_{short(service)}._tcp 0 SRV 1 1 {endpoint.port} {host}")
                found.append(f"{host} 0 A {endpoint.address}")
        return found

    async def put(self, services: Sequence[Service]) -> None:
        await self.knot.put(*self.records(services))

    async def garbage(self, services: Sequence[Service]) -> None:
        bad = f"_{short(services[0])}._tcp 0 SRV 1 1 80 nowhere"
        await self.knot.put(*self.records(services), bad)

    async def vanish(self) -> None:
        self.knot.kill()


class Addresses(Srv):
    """Conformance harness: A records."""

    def backend(self) -> DnsBackend:
        ports = {"web": 8080, "api": 9090, "new": 8080, "other": 8080}
        services = {
            name: DnsService((f"{name}.mesh.test",), port=port) for name, port in ports.items()
        }
        return backend(self.knot.address, services)

    def records(self, services: Sequence[Service]) -> list[str]:
        return [f"{short(s)} 0 A {e.address}" for s in services for e in s.endpoints]

    async def garbage(self, services: Sequence[Service]) -> None:
        bad = f"{short(services[0])} 0 A 127.0.0.1"
        await self.knot.put(*self.records(services), bad)


@pytest.mark.parametrize("kind", [Srv, Addresses])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Check, kind: type[Srv], knot: Knot) -> None:
    await check(kind(knot))


async def test_answers_that_do_not_fit_come_by_tcp(knot: Knot) -> None:
    many = [f"10.0.{i // 100}.{i % 100 + 1}" for i in range(600)]
    await knot.put(*(f"web 1 A {address}" for address in many))
    services = {"web": DnsService(("web.mesh.test",), port=80)}
    async with observe(backend(knot.address, services)) as observer:
        await observer.sees([sample("web", *many, port=80)], PATIENCE)


async def test_tcp_only(knot: Knot) -> None:
    await knot.put("web 1 A 10.0.0.1")
    services = {"web": DnsService(("web.mesh.test",), port=80)}
    async with observe(backend(knot.address, services, tcp=True)) as observer:
        await observer.sees([sample("web", "10.0.0.1", port=80)], PATIENCE)


async def test_aliases_search_and_several_names(knot: Knot) -> None:
    await knot.put("web 1 CNAME real", "real 1 A 10.0.0.1", "two 1 A 10.0.0.2", "two 1 A 10.0.0.1")
    services = {"web": DnsService(("web", "two.mesh.test."), port=80)}
    search = ("absent.mesh.test", "mesh.test.")
    async with observe(backend(knot.address, services, search=search)) as observer:
        await observer.sees([sample("web", "10.0.0.1", "10.0.0.2", port=80)], PATIENCE)


@pytest.mark.parametrize(
    ("families", "addresses"),
    [
        ("ipv4", ["10.0.0.1"]),
        ("ipv6", ["2001:db8::1", "2001:db8::2"]),
        ("prefer-ipv4", ["10.0.0.1", "2001:db8::2"]),
        ("prefer-ipv6", ["2001:db8::1", "2001:db8::2"]),
        ("both", ["10.0.0.1", "2001:db8::1", "2001:db8::2"]),
    ],
)
@pytest.mark.parametrize("srv", [False, True])
async def test_families(knot: Knot, families: str, addresses: list[str], srv: bool) -> None:
    await knot.put(
        "one 1 A 10.0.0.1",
        "one 1 AAAA 2001:db8::1",
        "two 1 AAAA 2001:db8::2",
        "_web._tcp 1 SRV 1 1 80 one",
        "_web._tcp 1 SRV 1 1 80 two",
    )
    names = ("_web._tcp.mesh.test",) if srv else ("one.mesh.test", "two.mesh.test")
    services = {"web": DnsService(names, port=80)}
    async with observe(backend(knot.address, services, families=families)) as observer:
        await observer.sees([sample("web", *addresses, port=80)], PATIENCE)


async def test_the_next_priority_is_used_when_the_first_has_no_address(knot: Knot) -> None:
    records = (
        "_web._tcp 0 SRV 1 10 80 first",
        "_web._tcp 0 SRV 2 10 81 second",
        "second 0 A 10.0.0.2",
    )
    await knot.put(*records, "first 0 A 10.0.0.1")
    services = {"web": DnsService(("_web._tcp.mesh.test",))}
    async with observe(backend(knot.address, services)) as observer:
        await observer.sees([sample("web", "10.0.0.1", port=80)], PATIENCE)
        await knot.put(*records)
        await observer.sees([sample("web", "10.0.0.2", port=81)], PATIENCE)
        assert "first.mesh.test. has no address" in observer.reported[0].message


async def test_a_frozen_server_keeps_the_view(knot: Knot) -> None:
    await knot.put("web 0 A 10.0.0.1")
    services = {"web": DnsService(("web.mesh.test",), port=80)}
    async with observe(backend(knot.address, services)) as observer:
        await observer.sees([sample("web", "10.0.0.1", port=80)], PATIENCE)
        assert knot.process is not None
        knot.process.send_signal(signal.SIGSTOP)
        await observer.until(lambda: bool(observer.errors), "an error", PATIENCE)
        assert "no answer in time" in str(observer.errors[0])
        assert set(observer.view) == {"default/web"}
        knot.process.send_signal(signal.SIGCONT)
        await knot.put("web 0 A 10.0.0.2")
        await observer.sees([sample("web", "10.0.0.2", port=80)], PATIENCE)


async def test_an_expired_zone_is_a_failure_not_an_empty_answer(knot: Knot) -> None:
    await knot.put("web 0 A 10.0.0.1")
    services = {"web": DnsService(("web.mesh.test",), port=80)}
    async with observe(backend(knot.address, services)) as observer:
        await observer.sees([sample("web", "10.0.0.1", port=80)], PATIENCE)
        await knot.control("-f", "zone-purge", "+expire", "mesh.test")
        await observer.until(lambda: bool(observer.errors), "an error", PATIENCE)
        assert set(observer.view) == {"default/web"}


# --- what a real server does not do on demand ---


@pytest.fixture
async def fake() -> AsyncIterator[DnsFake]:
    async with DnsFake().running() as running:
        yield running


WEB = {"web": DnsService(("web.test",), port=80)}


@pytest.mark.parametrize("trouble", ["SERVFAIL", "REFUSED", "garbage", "wrong id", "question"])
async def test_no_answer_is_no_news(fake: DnsFake, trouble: str) -> None:
    fake.records = ["web.test. 0 A 10.0.0.1"]
    services = WEB | {"api": DnsService(("api.test",), port=80)}
    fake.records += ["api.test. 0 A 10.0.0.2"]
    wanted = [sample("web", "10.0.0.1", port=80), sample("api", "10.0.0.2", port=80)]
    async with observe(backend(fake.address, services, timeout=Duration("100ms"))) as observer:
        await observer.sees(wanted, PATIENCE)
        fake.trouble = {"web.test.": trouble}
        await observer.until(lambda: bool(observer.reported), "a problem", PATIENCE)
        assert observer.reported[0].source == "dns web.test"
        # One name of two: the registry as a whole works.
        assert not observer.errors
        fake.records[1] = "api.test. 0 A 10.0.0.3"
        wanted[1] = sample("api", "10.0.0.3", port=80)
        await observer.sees(wanted, PATIENCE)
        fake.trouble = {}
        fake.records[0] = "web.test. 0 A 10.0.0.4"
        await observer.sees([sample("web", "10.0.0.4", port=80), wanted[1]], PATIENCE)


async def test_the_next_server_is_asked(fake: DnsFake) -> None:
    fake.records = ["web.test. 0 A 10.0.0.1"]
    options = Options(
        WEB, ("127.0.0.1:1", fake.address), min_ttl=Duration("100ms"), timeout=Duration("1s")
    )
    async with observe(DnsBackend(options, Context("dns"))) as observer:
        await observer.sees([sample("web", "10.0.0.1", port=80)], PATIENCE)
        assert not observer.errors


async def test_a_server_without_edns(fake: DnsFake) -> None:
    fake.records = ["web.test. 0 A 10.0.0.1"]
    fake.edns = False
    async with observe(backend(fake.address, WEB)) as observer:
        await observer.sees([sample("web", "10.0.0.1", port=80)], PATIENCE)


@pytest.mark.parametrize("cut", [0, 1, 2, 20, 40])
async def test_tcp_cut_at_any_byte(fake: DnsFake, cut: int) -> None:
    fake.records = ["web.test. 0 A 10.0.0.1"]
    fake.truncate = True
    fake.cut = cut
    async with observe(backend(fake.address, WEB)) as observer:
        await observer.sees([sample("web", "10.0.0.1", port=80)], PATIENCE)
        assert fake.cut is None


async def test_targets_in_the_additional_section_are_not_asked_for(fake: DnsFake) -> None:
    """As Consul's DNS answers."""
    fake.records = [
        "web.service.consul. 0 SRV 1 3 8080 0a000001.addr.dc1.consul.",
        "web.service.consul. 0 SRV 1 0 8081 0a000002.addr.dc1.consul.",
    ]
    fake.additional = [
        "0a000001.addr.dc1.consul. 0 A 10.0.0.1",
        "0a000002.addr.dc1.consul. 0 A 10.0.0.2",
    ]
    services = {"web": DnsService(("web.service.consul",), type="srv")}
    async with observe(backend(fake.address, services)) as observer:
        await observer.until(lambda: bool(observer.view), "the service", PATIENCE)
        assert observer.view == {"default/web": frozenset({("10.0.0.1", 8080), ("10.0.0.2", 8081)})}
    assert set(fake.asked) == {("web.service.consul.", "SRV")}


async def test_the_servers_of_resolv_conf(fake: DnsFake, tmp_path: Path) -> None:
    made = DnsBackend(Options(WEB), Context("dns"))
    made.resolv_conf = str(tmp_path / "resolv.conf")
    async with observe(made) as observer:
        await observer.until(lambda: bool(observer.errors), "an error", PATIENCE)
        assert "names no nameserver" in str(observer.errors[0])


async def test_sockets_are_marked_before_they_connect(
    fake: DnsFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks: list[tuple[int, int]] = []
    made = trio.socket.socket

    def watched(*args: Any) -> trio.socket.SocketType:
        sock = made(*args)
        connect = sock.connect

        async def noted(address: Any) -> None:
            mark = sock.getsockopt(socket.SOL_SOCKET, 36)
            marks.append((sock.type & 0xF, mark))
            await connect(address)

        monkeypatch.setattr(sock, "connect", noted, raising=False)
        return sock

    monkeypatch.setattr("registry.dns.exchange.trio.socket.socket", watched)
    fake.records = ["web.test. 0 A 10.0.0.1"]
    fake.truncate = True
    options = Options(WEB, (fake.address,))
    async with observe(DnsBackend(options, Context("dns", mark=0x4E500000))) as observer:
        await observer.sees([sample("web", "10.0.0.1", port=80)], PATIENCE)
    assert marks[:2] == [
        (int(socket.SOCK_DGRAM), 0x4E500000),
        (int(socket.SOCK_STREAM), 0x4E500000),
    ]
