"""Microseconds for each step on an HTTP/1.1 head: ``python tests/bench/http1_heads.py``.

Prints the best of several rounds of one process on one core, for our reader and writer and,
where installed, for h11 and httptools, which only parse. The steps are those of the data plane:
read the client's head, write the endpoint's, read the endpoint's answer, write the client's.
"""

from __future__ import annotations

import argparse
import os
import timeit
from collections.abc import Callable
from functools import partial

import h11

from nodeproxy.core.http1 import (
    Chunked,
    parse_request,
    parse_response,
    request_head,
    response_head,
)

try:
    import httptools
except ImportError:
    httptools = None

AGENT = (
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    b"Chrome/124.0.0.0 Safari/537.36\r\n"
)
REQUESTS = {
    "small (44 bytes)": b"GET /hello HTTP/1.1\r\nHost: 10.96.0.10:80\r\n\r\n",
    "curl (80 bytes)": b"GET /hello HTTP/1.1\r\nHost: echo.default\r\nUser-Agent: curl/8.5.0\r\n"
    b"Accept: */*\r\n\r\n",
    "mesh (trace and forwarded fields)": b"POST /v1/orders?dry=1 HTTP/1.1\r\n"
    b"Host: orders.shop.svc:8080\r\nUser-Agent: python-httpx/0.28\r\nAccept: application/json\r\n"
    b"Content-Type: application/json\r\nContent-Length: 512\r\n"
    b"X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n"
    b"X-Request-Id: 6f0c1d5b1c4a4a5e8b6f0c1d5b1c4a4a\r\n"
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
    "browser (600 bytes)": b"GET /products/list?page=2 HTTP/1.1\r\nHost: shop.example.com\r\n"
    b'Connection: keep-alive\r\nsec-ch-ua: "Chromium";v="124", "Not-A.Brand";v="99"\r\n'
    b'sec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: "Linux"\r\nUpgrade-Insecure-Requests: 1\r\n'
    + AGENT
    + b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n"
    b"Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nAccept-Encoding: gzip, deflate, br\r\n"
    b"Accept-Language: en-US,en;q=0.9\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\r\n",
}
RESPONSES = {
    "nginx": b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Mon, 23 Nov 2026 04:00:00 GMT\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 128\r\nConnection: keep-alive\r\n\r\n",
    "clean": b"HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 04:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 128\r\n\r\n",
    "application": b"HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 04:00:00 GMT\r\n"
    b"Content-Type: text/html; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
    b"Cache-Control: private, max-age=0, must-revalidate\r\nVary: Accept-Encoding\r\n"
    b"Set-Cookie: session=0123456789abcdef0123456789abcdef; Path=/; HttpOnly\r\n"
    b"Strict-Transport-Security: max-age=31536000\r\nX-Frame-Options: DENY\r\n\r\n",
}
CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"


def h11_request(data: bytes) -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    connection.next_event()


class Sink:
    def on_header(self, name: bytes, value: bytes) -> None:
        pass


def httptools_request(data: bytes) -> None:
    parser = httptools.HttpRequestParser(Sink())
    parser.feed_data(data)
    parser.get_method()


def drip(data: bytes) -> None:
    """One byte at a time: what a slow client costs."""
    for size in range(1, len(data) + 1):
        parse_request(data[:size])


def measure(title: str, step: Callable[[], object], seconds: float) -> None:
    timer = timeit.Timer(step)
    number = max(1, int(seconds / 5 / max(timer.timeit(20) / 20, 1e-9)))
    best = min(timer.repeat(5, number)) / number * 1e6
    print(f"  {title:<34} {best:10.2f}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--seconds", type=float, default=0.3, help="time for each figure")
    arguments.add_argument("--core", type=int, help="pin the process to this core")
    options = arguments.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})

    def show(title: str, step: Callable[..., object], *values: object, **named: object) -> None:
        measure(title, partial(step, *values, **named), options.seconds)

    def both(data: bytes) -> bytes:
        head = parse_request(data)
        assert head is not None
        return request_head(head, forwarded_for=b"10.244.1.11", proto=b"http", extra=b"")

    def answer(data: bytes) -> bytes:
        head = parse_response(data, b"GET")
        assert head is not None
        return response_head(head, close=False)

    for name, data in REQUESTS.items():
        print(f"request, {name}: {len(data)} bytes; microseconds")
        head = parse_request(data)
        show("parse_request", parse_request, data)
        show("request_head", request_head, head, forwarded_for=b"10.244.1.11", proto=b"http")
        show("both", both, data)
        show("head.header(b'x-version')", head.header, b"x-version")
        show("h11", h11_request, data)
        if httptools is not None:
            show("httptools", httptools_request, data)
    for name, data in RESPONSES.items():
        print(f"response, {name}: {len(data)} bytes; microseconds")
        head = parse_response(data, b"GET")
        show("parse_response", parse_response, data, b"GET")
        show("response_head", response_head, head, close=False)
        show("both", answer, data)
    print("chunked bodies; microseconds")
    show("one small chunk", lambda: Chunked().feed(CHUNKED))
    chunks = b"400\r\n%b\r\n" % bytes(1024) * 100
    show("100 chunks of 1 KiB", lambda: Chunked().feed(chunks))
    long = b"100000\r\n" + bytes(1 << 18)
    show("256 KiB of one chunk", lambda: Chunked().feed(long))
    print("hostile; microseconds")
    show("600-byte head by single bytes", drip, REQUESTS["browser (600 bytes)"])
    field = b"X-Filler: " + b"x" * 600 + b"\r\n"
    large = b"GET / HTTP/1.1\r\nHost: a\r\n" + field * 99
    show("60 KiB head, unfinished", parse_request, large)
    show("60 KiB head, unfinished, seen", parse_request, large, seen=len(large) - 1)
    show("60 KiB head, whole", parse_request, large + b"\r\n")


if __name__ == "__main__":
    main()
