"""A Kubernetes API server, as far as a client that lists and watches can tell, in memory.

It keeps the rules of kubernetes.io/docs/reference/using-api/api-concepts and refuses what the real
one refuses: pages of one resourceVersion, continue tokens that expire with the history,
watches from any position within the history and 410 before it (as a status or as an event), silence
for a position that lies ahead, bookmarks only for whom asked for them, selectors with their
transitions (an object that leaves a selector is DELETED for its watchers), and credentials before
permissions before objects. Where the real one is lenient (parameters it does not know), this one
is not: a client has no reason to send them.

Faults are the test's to set: ``cut`` a stream after any number of bytes, ``freeze``, ``stop`` and
``start``, ``compact``, ``lose_etcd``, scripted ``answers``.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import trio

from registry.model import Service

Object = dict[str, Any]

ROOTS = {
    "services": ("/api/v1", "v1", "Service", ""),
    "nodes": ("/api/v1", "v1", "Node", ""),
    "endpointslices": (
        "/apis/discovery.k8s.io/v1",
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "discovery.k8s.io",
    ),
}
PARAMETERS = {
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "timeoutSeconds",
    "watch",
}


class Failure(Exception):
    """A Status with a code of its own."""

    def __init__(self, code: int, reason: str, message: str, **headers: str) -> None:
        self.code, self.headers = code, headers
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


class Written(NamedTuple):
    """One entry of the history."""

    version: int
    resource: str
    old: Object | None
    new: Object | None


def selector(text: str) -> Callable[[Mapping[str, str]], bool]:
    """A label selector. Raises Failure."""
    tests: list[Callable[[Mapping[str, str]], bool]] = []
    for part in re.split(r",(?![^()]*\))", text) if text else ():
        if found := re.fullmatch(r"!\s*([\w./-]+)", part):
            tests.append(lambda labels, k=found[1]: k not in labels)
        elif found := re.fullmatch(r"([\w./-]+)\s*(=|==|!=)\s*([\w.-]*)", part):
            same = found[2] != "!="
            tests.append(lambda labels, k=found[1], v=found[3], s=same: (labels.get(k) == v) is s)
        elif found := re.fullmatch(r"([\w./-]+)\s+(in|notin)\s+\(([^()]*)\)", part):
            values = {v.strip() for v in found[3].split(",")}
            inside = found[2] == "in"
            tests.append(lambda labels, k=found[1], v=values, i=inside: (labels.get(k) in v) is i)
        elif found := re.fullmatch(r"[\w./-]+", part):
            tests.append(lambda labels, k=part: k in labels)
        else:
            raise Failure(400, "BadRequest", f"unable to parse requirement: {part!r}")
    return lambda labels: all(test(labels) for test in tests)


class Query:
    """A request for a collection, checked. Raises Failure."""

    def __init__(self, resource: str, namespace: str, params: Mapping[str, str]) -> None:
        if unknown := set(params) - PARAMETERS:
            raise Failure(400, "BadRequest", f"unknown parameters: {sorted(unknown)}")
        self.resource, self.namespace = resource, namespace
        self.watch = self._flag(params, "watch")
        self.bookmarks = self._flag(params, "allowWatchBookmarks")
        self.version = params.get("resourceVersion", "")
        if self.version and not self.version.isdecimal():
            raise Failure(400, "BadRequest", f"Invalid value: {self.version!r}: resourceVersion")
        self.limit = self._number(params, "limit")
        self.timeout = self._number(params, "timeoutSeconds") or 1800
        self.token = params.get("continue", "")
        if self.token and self.version not in ("", "0"):
            raise Failure(
                400,
                "BadRequest",
                "specifying resource version is not allowed when using continue",
            )
        if self.watch and (self.limit or self.token):
            raise Failure(400, "BadRequest", "a watch has no pages")
        if self.bookmarks and not self.watch:
            raise Failure(400, "BadRequest", "bookmarks are for watches")
        self.labels = selector(params.get("labelSelector", ""))
        self.fields = dict(
            part.split("=", 1) for part in params.get("fieldSelector", "").split(",") if part
        )
        if unknown := set(self.fields) - {"metadata.name", "metadata.namespace"}:
            raise Failure(400, "BadRequest", f"field label not supported: {sorted(unknown)[0]}")

    @staticmethod
    def _flag(params: Mapping[str, str], name: str) -> bool:
        text = params.get(name, "false")
        if text not in ("true", "1", "false", "0"):
            raise Failure(400, "BadRequest", f"Invalid value: {text!r}: {name}")
        return text in ("true", "1")

    @staticmethod
    def _number(params: Mapping[str, str], name: str) -> int:
        text = params.get(name, "0")
        if not text.isdecimal():
            raise Failure(400, "BadRequest", f"Invalid value: {text!r}: {name}")
        return int(text)

    def wants(self, found: Object | None) -> bool:
        if found is None:
            return False
        meta = found["metadata"]
        names = {"metadata.name": meta["name"], "metadata.namespace": meta.get("namespace", "")}
        return (
            self.namespace in ("", meta.get("namespace"))
            and self.labels(meta.get("labels") or {})
            and all(names[field] == value for field, value in self.fields.items())
        )


class KubeApi:
    """The server. Everything public may be called and set by a test at any moment."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.port = 0
        self.version = 0
        """The newest resourceVersion: etcd's revision."""
        self.compacted = 0
        """History up to here is gone."""
        self.objects: dict[str, dict[str, Object]] = {}
        self.tokens: set[str] = set()
        """Bearer tokens that are accepted; empty: nobody is asked for one."""
        self.forbidden: set[tuple[str, str]] = set()
        """(verb, resource) that the caller has no permission for."""
        self.answers: deque[Failure | bytes] = deque()
        """Instead of what the next requests deserve; bytes are sent raw."""
        self.gone_as_event = True
        """How a watch learns that its position is too old."""
        self.cut: int | None = None
        """Bytes of watches' bodies after which the next connection is cut, once."""
        self.end_watches = 0
        """So many watches end as soon as they have begun."""
        self.piece = 0
        """Bytes to send at once; 0: all."""
        self.expire_pages = False
        """Forget the history after each page."""
        self.requests: Counter[tuple[str, str]] = Counter()
        """(verb, resource) of all requests."""
        self.queries: list[dict[str, str]] = []
        self.largest_page = 0
        self._history: list[Written] = []
        self._marks = 0
        self._news = trio.Event()
        self._thawed = trio.Event()
        self._thawed.set()
        self._ended = trio.Event()
        self._ended.set()
        self._scope: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None
        self.lose_etcd()

    # --- state ---

    def lose_etcd(self, version: int = 0) -> None:
        """A new etcd, without anything."""
        self.objects = {resource: {} for resource in ROOTS}
        self._history.clear()
        self.version = self.compacted = version
        self.write("services", "default/kubernetes", None)

    def write(self, resource: str, key: str, new: Object | None) -> None:
        """Create, update or (None) delete an object."""
        self.version += 1
        old = self.objects[resource].pop(key, None)
        stored = None
        if new is not None:
            namespace, _, name = key.rpartition("/")
            _, version, kind, _ = ROOTS[resource]
            meta = {"name": name, "resourceVersion": str(self.version)}
            if namespace:
                meta["namespace"] = namespace
            stored = {
                "apiVersion": version,
                "kind": kind,
                **new,
                "metadata": (new.get("metadata") or {}) | meta,
            }
            self.objects[resource][key] = stored
        elif old is not None:
            meta = old["metadata"] | {"resourceVersion": str(self.version)}
            old = old | {"metadata": meta}
        self._history.append(Written(self.version, resource, old, stored))
        self._tell()

    def compact(self) -> None:
        """Forget the history, as etcd does every five minutes."""
        self.compacted = self.version
        self._history.clear()
        self._tell()

    def bookmark(self) -> None:
        """Send all who asked for it a bookmark."""
        self._marks += 1
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    # --- life ---

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def freeze(self) -> None:
        """Connections are taken, and nothing is ever said."""
        self._thawed = trio.Event()

    def thaw(self) -> None:
        self._thawed.set()

    async def start(self) -> None:
        """Listen, on the port of before."""
        assert self._nursery is not None
        if self._scope is None:
            await self._ended.wait()
            listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
            self.port = listeners[0].socket.getsockname()[1]
            await self._nursery.start(self._serve, listeners)

    def stop(self) -> None:
        """Like kill -9."""
        if self._scope is not None:
            self._scope.cancel()
            self._scope = None

    async def _serve(
        self, listeners: list[trio.SocketListener], task_status: trio.TaskStatus[None]
    ) -> None:
        self._ended = trio.Event()
        with trio.CancelScope() as scope:
            self._scope = scope
            task_status.started()
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, nursery)
        self._ended.set()

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        async with listener:
            while True:
                stream = await listener.accept()
                nursery.start_soon(self._connection, stream)

    async def _connection(self, stream: trio.SocketStream) -> None:
        wrapped: trio.abc.Stream = stream
        if self.tls is not None:
            wrapped = trio.SSLStream(stream, self.tls, server_side=True, https_compatible=True)
        try:
            await _Connection(self, wrapped).run()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, _Cut):
            pass
        finally:
            with trio.CancelScope(shield=True), suppress(trio.BrokenResourceError):
                # At once, whatever TLS thinks of it.
                await trio.aclose_forcefully(wrapped)

    # --- answers ---

    def _authorise(self, verb: str, resource: str, authorization: str, certified: bool) -> None:
        known = {f"Bearer {token}" for token in self.tokens}
        if known and authorization not in known and not certified:
            raise Failure(401, "Unauthorized", "Unauthorized")
        if (verb, resource) in self.forbidden:
            raise Failure(
                403,
                "Forbidden",
                f"{resource} is forbidden: User"
                f' "system:serviceaccount:nodeproxy:nodeproxy" cannot {verb} resource'
                f' "{resource}" in API group "{ROOTS[resource][3]}" at the cluster scope',
            )

    def _list(self, query: Query) -> bytes:
        _, api, kind, _ = ROOTS[query.resource]
        if query.token:
            version, after = json.loads(base64.b64decode(query.token))
            if version < self.compacted or version > self.version:
                raise Failure(410, "Expired", "The provided continue parameter is too old")
        else:
            version, after = self.version, ""
            if query.version and int(query.version) > self.version:
                raise Failure(504, "Timeout", "Too large resource version")
        found = self._as_of(version, query.resource)
        items = [found[k] for k in sorted(found) if k > after and query.wants(found[k])]
        meta: Object = {"resourceVersion": str(version)}
        if query.limit and len(items) > query.limit:
            left = len(items) - query.limit
            items = items[: query.limit]
            last = items[-1]["metadata"]
            key = f"{last['namespace']}/{last['name']}" if "namespace" in last else last["name"]
            meta["continue"] = base64.b64encode(json.dumps([version, key]).encode()).decode()
            meta["remainingItemCount"] = left
        self.largest_page = max(self.largest_page, len(items))
        answer = {"kind": f"{kind}List", "apiVersion": api, "metadata": meta, "items": items}
        if self.expire_pages:
            self.write("nodes", "other", {})
            self.compact()
        return json.dumps(answer, separators=(",", ":")).encode()

    def _as_of(self, version: int, resource: str) -> dict[str, Object]:
        """The collection at a version within the history."""
        found = dict(self.objects[resource])
        for written in reversed(self._history):
            if written.version <= version:
                break
            if written.resource == resource:
                meta = (written.new or written.old or {}).get("metadata")
                if meta is None:
                    continue
                key = f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else meta["name"]
                found.pop(key, None)
                if written.old is not None:
                    found[key] = written.old
        return found

    def _since(self, version: int, query: Query) -> list[tuple[int, str, Object]]:
        """The events after a version, as this watcher sees them."""
        events: list[tuple[int, str, Object]] = []
        for written in self._history:
            if written.version <= version or written.resource != query.resource:
                continue
            was, is_ = query.wants(written.old), query.wants(written.new)
            if is_:
                assert written.new is not None
                events.append((written.version, "MODIFIED" if was else "ADDED", written.new))
            elif was:
                assert written.old is not None
                meta = written.old["metadata"] | {"resourceVersion": str(written.version)}
                events.append((written.version, "DELETED", written.old | {"metadata": meta}))
        return events


class _Cut(Exception):
    """The connection was cut by the test's wish."""


class _Connection:
    """One client's connection, kept alive."""

    def __init__(self, api: KubeApi, stream: trio.abc.Stream) -> None:
        self._api = api
        self._stream = stream

    async def run(self) -> None:
        http = h11.Connection(h11.SERVER)
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await self._stream.receive_some(65536)))
            elif isinstance(event, h11.Request):
                await self._answer(event)
            elif isinstance(event, h11.EndOfMessage):
                # The answer is written by hand; h11 only has to know that it has been.
                http.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                http.send(h11.EndOfMessage())
                http.start_next_cycle()
            else:
                return

    async def _answer(self, request: h11.Request) -> None:
        api = self._api
        await api._thawed.wait()
        try:
            if api.answers:
                scripted = api.answers.popleft()
                if isinstance(scripted, Failure):
                    raise scripted
                await self._write(scripted)
                raise _Cut
            await self._route(request)
        except Failure as failure:
            await self._send(failure.code, json.dumps(failure.body).encode(), failure.headers)

    async def _route(self, request: h11.Request) -> None:
        api = self._api
        if request.method != b"GET":
            raise Failure(405, "MethodNotAllowed", "only reading")
        headers = {k.decode(): v.decode() for k, v in request.headers}
        parts = urlsplit(request.target.decode())
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        params = dict(pairs)
        if len(params) != len(pairs):
            raise Failure(400, "BadRequest", "a parameter stands twice")
        api.queries.append(params)
        resource, namespace, name = _place(parts.path)
        watch = params.get("watch") in ("true", "1")
        verb = "get" if name else "watch" if watch else "list"
        api.requests[verb, resource] += 1
        certified = isinstance(self._stream, trio.SSLStream) and bool(self._stream.getpeercert())
        api._authorise(verb, resource, headers.get("authorization", ""), certified)
        if name:
            found = api.objects[resource].get(f"{namespace}/{name}" if namespace else name)
            if found is None:
                raise Failure(404, "NotFound", f'{resource} "{name}" not found')
            await self._send(200, json.dumps(found).encode(), {})
            return
        query = Query(resource, namespace, params)
        if query.watch:
            if not api.gone_as_event and 0 < int(query.version or 0) < api.compacted:
                raise self._too_old(query)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._leaving)
                await self._watch(query)
                nursery.cancel_scope.cancel()
        else:
            await self._send(200, api._list(query), {})

    @staticmethod
    def _too_old(query: Query) -> Failure:
        return Failure(410, "Expired", f"too old resource version: {query.version}")

    async def _leaving(self) -> None:
        """Ends the connection when the client has, which may not say anything meanwhile."""
        assert not await self._stream.receive_some(1)
        raise _Cut

    async def _watch(self, query: Query) -> None:
        api = self._api
        position = int(query.version or 0)
        marks = api._marks
        too_old = self._too_old(query)
        await self._write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        if api.end_watches:
            api.end_watches -= 1
            await self._write(b"0\r\n\r\n")
            return
        if not position:
            position = api.version
            for _, found in sorted(api.objects[query.resource].items()):
                if query.wants(found):
                    await self._event("ADDED", found)
        with trio.move_on_after(query.timeout):
            while True:
                news = api._news
                if position < api.compacted:
                    await self._event("ERROR", too_old.body)
                    break
                for version, kind, found in api._since(position, query):
                    await self._event(kind, found)
                    position = version
                if news is not api._news:
                    continue
                # Of a position that lies ahead nothing is ever said.
                if position <= api.version:
                    position = api.version
                    if query.bookmarks and marks != api._marks:
                        marks = api._marks
                        await self._bookmark(query, position)
                        continue
                await news.wait()
        if query.bookmarks and position <= api.version:
            await self._bookmark(query, position)
        await self._write(b"0\r\n\r\n")

    async def _bookmark(self, query: Query, version: int) -> None:
        _, api, kind, _ = ROOTS[query.resource]
        meta = {"resourceVersion": str(version), "creationTimestamp": None}
        await self._event("BOOKMARK", {"kind": kind, "apiVersion": api, "metadata": meta})

    async def _event(self, kind: str, found: Object) -> None:
        api = self._api
        await api._thawed.wait()
        line = json.dumps({"type": kind, "object": found}, separators=(",", ":")).encode() + b"\n"
        if api.cut is not None:
            if api.cut < len(line):
                line, api.cut = line[: api.cut], None
                if line:
                    await self._write(b"%x\r\n%s\r\n" % (len(line), line))
                raise _Cut
            api.cut -= len(line)
        await self._write(b"%x\r\n%s\r\n" % (len(line), line))

    async def _send(self, code: int, body: bytes, headers: Mapping[str, str]) -> None:
        await self._api._thawed.wait()
        more = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items())
        head = (
            f"HTTP/1.1 {code} Status\r\nContent-Type: application/json\r\n{more}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        await self._write(head.encode() + body)

    async def _write(self, data: bytes) -> None:
        size = self._api.piece or len(data) or 1
        for at in range(0, len(data), size):
            await self._stream.send_all(data[at : at + size])


def _place(path: str) -> tuple[str, str, str]:
    """Resource, namespace and name. Raises Failure."""
    for resource, (root, *_) in ROOTS.items():
        found = re.fullmatch(rf"{root}(?:/namespaces/([^/]+))?/{resource}(?:/([^/]+))?", path)
        if found:
            return resource, unquote(found[1] or ""), unquote(found[2] or "")
    raise Failure(404, "NotFound", "the server could not find the requested resource")


@asynccontextmanager
async def kube_api(tls: ssl.SSLContext | None = None) -> AsyncIterator[KubeApi]:
    """A server that listens on loopback until the block ends."""
    api = KubeApi(tls)
    async with trio.open_nursery() as nursery:
        api._nursery = nursery
        await api.start()
        yield api
        nursery.cancel_scope.cancel()


# --- objects ---


def service_object(
    *cluster_ips: str,
    ports: list[Object] | None = None,
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> Object:
    """A Service as the API server completes it."""
    ips = list(cluster_ips) or ["10.96.0.10"]
    return {
        "metadata": {"labels": labels or {}},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ips[0],
            "clusterIPs": ips,
            "ports": ports or [{"name": "http", "port": 80, "protocol": "TCP"}],
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
        }
        | spec,
        "status": {"loadBalancer": {}},
    }


def endpoint_object(address: str, **more: Any) -> Object:
    return {
        "addresses": [address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": "node-1",
        "zone": "zone-a",
    } | more


def slice_object(
    service: str,
    *addresses: str | Object,
    ports: list[Object] | None = None,
    family: str = "IPv4",
    labels: dict[str, str] | None = None,
) -> Object:
    """An EndpointSlice of ``service`` (the name without its namespace)."""
    return {
        "metadata": {"labels": {"kubernetes.io/service-name": service} | (labels or {})},
        "addressType": family,
        "endpoints": [a if isinstance(a, dict) else endpoint_object(a) for a in addresses],
        "ports": ports or [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def put_model(api: KubeApi, services: list[Service]) -> None:
    """Exactly these services; what is as it was is written again, as controllers do."""
    wanted = {s.name: s for s in services}
    for resource in ("services", "endpointslices"):
        for key in list(api.objects[resource]):
            if key.removesuffix("-x") not in wanted:
                api.write(resource, key, None)
    for i, (key, service) in enumerate(sorted(wanted.items())):
        name = key.partition("/")[2]
        ports = [{"name": "p", "port": port.port, "protocol": "TCP"} for port in service.ports]
        known = api.objects["services"].get(key)
        ip = known["spec"]["clusterIP"] if known else f"10.96.1.{i + 1}"
        api.write("services", key, service_object(ip, ports=ports))
        numbers = {e.port for e in service.endpoints} or {1}
        assert len(numbers) == 1
        slice_ports = [{"name": "p", "port": numbers.pop(), "protocol": "TCP"}]
        found = slice_object(name, *(e.address for e in service.endpoints), ports=slice_ports)
        api.write("endpointslices", f"{key}-x", found)
