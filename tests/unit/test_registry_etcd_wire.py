"""The messages of etcd's JSON gateway, and the options."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.etcd.options import Options
from registry.etcd.wire import (
    Bad,
    GatewayError,
    Lines,
    Range,
    WatchLine,
    decode,
    prefix_range,
    watch_request,
)
from registry.plugins import Spec, check
from registry.zookeeper.options import Options as ZookeeperOptions
from registry.zookeeper.walk import Pattern

DOCS = Path(__file__).parents[2] / "docs" / "registries"


@given(st.lists(st.binary(min_size=1).filter(lambda b: b"\n" not in b and b.strip())), st.data())
def test_lines_are_cut_at_any_byte(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    reader, found = Lines(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += list(reader.feed(stream[:size]))
        stream = stream[size:]
    assert found == lines


def test_real_messages() -> None:
    created = decode(
        b'{"result":{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437",'
        b'"revision":"4","raft_term":"2"},"created":true}}',
        WatchLine,
    ).result
    assert created is not None
    assert (created.created, created.header.revision, created.header.raft_term) == (True, 4, 2)
    changed = decode(
        b'{"result":{"header":{"revision":"6"},"events":[{"kv":{"key":"Zm9v","value":"YmFy",'
        b'"mod_revision":"6"}},{"type":"DELETE","kv":{"key":"Zm9v","mod_revision":"6"}}]}}',
        WatchLine,
    ).result
    assert changed is not None
    assert [(e.type, e.kv.key, e.kv.value) for e in changed.events] == [
        ("PUT", b"foo", b"bar"),
        ("DELETE", b"foo", b""),
    ]
    compacted = decode(
        b'{"result":{"header":{"revision":"9"},"canceled":true,"compact_revision":"5"}}', WatchLine
    ).result
    assert compacted is not None
    assert (compacted.canceled, compacted.compact_revision) == (True, 5)
    stopped = decode(
        b'{"error":{"grpc_code":14,"http_code":503,"message":"transport is closing"}}', WatchLine
    ).error
    assert stopped == GatewayError(message="transport is closing", grpc_code=14)
    empty = decode(b'{"header":{"revision":"1"}}', Range)
    assert (empty.kvs, empty.more, empty.count) == ([], False, 0)


@given(st.binary() | st.text().map(str.encode))
def test_garbage_is_no_answer(data: bytes) -> None:
    for type_ in (Range, WatchLine):
        try:
            decode(data, type_)
        except Bad:
            continue


def test_ranges() -> None:
    assert prefix_range("/skydns") == prefix_range("/skydns/") == (b"/skydns/", b"/skydns0")
    assert prefix_range("/") == (b"\0", b"\0")
    request = watch_request(b"a/", b"a0", 7)["create_request"]
    assert base64.b64decode(request["key"]) == b"a/"
    assert request["start_revision"] == 7


ETCD = {"endpoints": ["http://10.0.0.5:2379"], "layout": "skydns"}
ZOOKEEPER = {"servers": ["10.0.0.5:2181", "[2001:db8::5]:2181", "zk1"], "layout": "nerve"}


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("etcd", ETCD, ""),
        (
            "etcd",
            ETCD | {"services": {"a/web": {"vips": ["10.96.0.1"], "ports": [{"port": 80}]}}},
            "",
        ),
        ("etcd", ETCD | {"timeout": "2s", "silence": "1m", "protocol": "http"}, ""),
        ("etcd", ETCD | {"endpoints": []}, "endpoints"),
        ("etcd", ETCD | {"endpoints": ["10.0.0.5:2379"]}, "endpoints"),
        ("etcd", ETCD | {"endpoints": ["http://u:p@10.0.0.5:2379"]}, "endpoints"),
        ("etcd", ETCD | {"layout": "skydn"}, "layout"),
        ("etcd", ETCD | {"layout": "grpc"}, "the layout grpc needs `prefix`"),
        ("etcd", ETCD | {"username": "reader"}, "belong together"),
        ("etcd", ETCD | {"key_file": "key.pem"}, "`key_file` needs `certificate_file`"),
        ("etcd", ETCD | {"timeout": "2h"}, "timeout must be"),
        ("etcd", ETCD | {"silence": "1ms"}, "silence must be"),
        ("etcd", ETCD | {"services": {"web": {"vips": ["x"]}}}, "'x' is not an IP address"),
        ("etcd", ETCD | {"services": {"web": {"vip": ["x"]}}}, "vip"),
        ("zookeeper", ZOOKEEPER, ""),
        ("zookeeper", ZOOKEEPER | {"path": "/a/*/b", "chroot": "/c"}, ""),
        ("zookeeper", ZOOKEEPER | {"path": "a"}, "path"),
        ("zookeeper", ZOOKEEPER | {"servers": ["http://zk"]}, "servers"),
        ("zookeeper", ZOOKEEPER | {"session_timeout": "1ms"}, "session_timeout must be"),
        ("zookeeper", ZOOKEEPER | {"password_file": "x"}, "belong together"),
        ("zookeeper", ZOOKEEPER | {"password_file": "x", "username": "a:b"}, "colon"),
    ],
)
def test_options(kind: str, options: dict[str, Any], words: str) -> None:
    problems = check(Spec(kind, kind, options, origin="nodeproxy.yaml:3"))
    assert bool(problems) == bool(words), problems
    assert words in " ".join(map(str, problems))


def test_patterns() -> None:
    assert Pattern.of("/a/b") == Pattern.of("/a/b/*") == Pattern(("a", "b", "*"))
    assert Pattern.of("/a/*/b").root == "/a"
    assert Pattern.of("/").root == "/"


@pytest.mark.parametrize(
    ("page", "options"), [("etcd.md", Options), ("zookeeper.md", ZookeeperOptions)]
)
def test_every_option_is_explained(page: str, options: type[Any]) -> None:
    text = (DOCS / page).read_text()
    for name in options.__struct_fields__:
        assert f"| `{name}` |" in text, name
