"""What is measured: a scenario names a load, the listener it goes to, the unit of its cost."""

from dataclasses import dataclass
from typing import Literal

MIB = 1 << 20

Kind = Literal["wrk", "download", "idle"]
Listener = Literal["http", "tcp"]
Unit = Literal["request", "GiB", "connection"]

#: What a current browser sends besides Host: with wrk's own lines a head of about 600 bytes.
BROWSER_FIELDS: tuple[tuple[str, str], ...] = (
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/126.0.0.0 Safari/537.36",
    ),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"),
    ("Accept-Language", "en-GB,en;q=0.9,de;q=0.7"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Cache-Control", "no-cache"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Sec-Fetch-Dest", "document"),
    ("Upgrade-Insecure-Requests", "1"),
    ("Referer", "http://shop.example/catalogue/shoes"),
    ("Cookie", "session=7e1f0c2ab94d4c6f8a31; theme=dark; cart=4f9b1d; consent=1; region=eu-1"),
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load. `size` is the body length in bytes of every answer to `path`."""

    name: str
    title: str
    kind: Kind
    listener: Listener
    unit: Unit
    path: str
    size: int
    connections: int
    fields: tuple[tuple[str, str], ...] = ()
    close: bool = False  # a new connection for every request


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "http-small",
        "HTTP/1.1, keep-alive, 32 connections, 45-byte head, 128-byte body",
        "wrk",
        "http",
        "request",
        "/",
        128,
        32,
    ),
    Scenario(
        "http-browser",
        "HTTP/1.1, keep-alive, 32 connections, 600-byte head, 128-byte body",
        "wrk",
        "http",
        "request",
        "/",
        128,
        32,
        fields=BROWSER_FIELDS,
    ),
    Scenario(
        "http-1m",
        "HTTP/1.1, keep-alive, 8 connections, 1 MiB bodies",
        "download",
        "http",
        "GiB",
        "/1m",
        MIB,
        8,
    ),
    Scenario(
        "http-100m",
        "HTTP/1.1, keep-alive, 2 connections, 100 MiB bodies",
        "download",
        "http",
        "GiB",
        "/100m",
        100 * MIB,
        2,
    ),
    Scenario(
        "http-new",
        "HTTP/1.1, a new connection for every request, 32 at a time",
        "wrk",
        "http",
        "request",
        "/",
        128,
        32,
        close=True,
    ),
    Scenario(
        "tcp-stream",
        "TCP relay, 2 connections, long streams",
        "download",
        "tcp",
        "GiB",
        "/100m",
        100 * MIB,
        2,
    ),
    Scenario(
        "tcp-small",
        "TCP relay, 32 connections, small exchanges",
        "wrk",
        "tcp",
        "request",
        "/",
        128,
        32,
    ),
    Scenario(
        "tcp-connect",
        "TCP relay, a new connection for every exchange, 32 at a time",
        "wrk",
        "tcp",
        "request",
        "/",
        128,
        32,
        close=True,
    ),
    Scenario(
        "idle",
        "idle keep-alive connections after one request each",
        "idle",
        "http",
        "connection",
        "/",
        128,
        0,
    ),
)

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
