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
import ssl
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import h11
import trio

from tests.dataplane.kube_rules import ROOTS, Failure, Object, Query, place


class Written(NamedTuple):
    """One entry of the history."""

    version: int
    resource: str
    old: Object | None
    new: Object | None


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
        resource, namespace, name = place(parts.path)
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


@asynccontextmanager
async def kube_api(tls: ssl.SSLContext | None = None) -> AsyncIterator[KubeApi]:
    """A server that listens on loopback until the block ends."""
    api = KubeApi(tls)
    async with trio.open_nursery() as nursery:
        api._nursery = nursery
        await api.start()
        yield api
        nursery.cancel_scope.cancel()
