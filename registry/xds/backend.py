"""The back end ``xds``.

With ``server``: ask for the clusters (CDS), then for their assignments (EDS), a hundred in one
request, again and again. What a server says is unchanged, or says in the same bytes, is not
decoded again. With ``path``: the file back end does all, with another reader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Final

import httpx
import msgspec
import trio

from registry.base import Context, Problem, RegistryError, Sink
from registry.board import BITE, Board, Part, together
from registry.duration import Duration
from registry.fetch import read_secret, server, tls_context
from registry.file.backend import FileBackend
from registry.file.backend import Options as FileOptions
from registry.http import client
from registry.model import Protocol, Service, qualified_name
from registry.naming import PLAIN, ServiceName, ServiceSettings, dressed
from registry.pieces import pieces
from registry.xds import files
from registry.xds.resources import (
    CLUSTER,
    ENDPOINTS,
    Assignment,
    Bad,
    Cluster,
    decode,
    service_name,
)
from registry.xds.rest import Unchanged, ask, version_of

__all__ = ["Options", "XdsBackend"]

BATCH: Final = 100
"""Clusters in one request to EDS: answers stay small, and a change costs only its batch."""
CLUSTERS_PATH: Final = "/v3/discovery:clusters"
ENDPOINTS_PATH: Final = "/v3/discovery:endpoints"

Text = Annotated[str, msgspec.Meta(min_length=1)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``{kind: xds, server: "http://10.0.0.5:18000"}`` or ``{kind: xds, path: eds.json}``"""

    server: Text | None = None
    """The discovery service: ``http://HOST:PORT``, ``https://HOST:PORT`` or ``unix:///PATH``."""
    path: Text | None = None
    """Instead of a server: a file or a folder of DiscoveryResponses in JSON or YAML, relative to
    the file that configures the registry; followed while it changes."""
    clusters: tuple[Text, ...] = ()
    """Only the assignments of these names, and no question to CDS; by default those of all clusters
    that CDS names. Only with ``server``."""
    node_id: Text | None = None
    """The ``node.id`` of requests; by default the daemon's ``node``."""
    node_cluster: str = "nodeproxy"
    """The ``node.cluster`` of requests."""
    poll: Duration = Duration("5s")
    """How long to wait between two rounds of questions. 100ms to 1h."""
    timeout: Duration = Duration("10s")
    """How long the server may be silent while it answers. 100ms to 5m."""
    locality_weights: bool = False
    """Let the weights of localities count, as ``locality_weighted_lb_config`` of a cluster does."""
    token_file: Text | None = None
    """A file with a bearer token; read again at each new start of the back end."""
    ca_file: Text | None = None
    """A PEM file of the authorities to trust; by default the system's."""
    cert_file: Text | None = None
    """A PEM file with our certificate, where the server verifies its clients."""
    key_file: Text | None = None
    """The certificate's key, if it is not in the same file."""
    namespace: Text = "default"
    """The namespace of clusters whose name has none."""
    services: dict[ServiceName, ServiceSettings] = {}
    """Virtual addresses, ports and protocols of services, by name."""


class _Known(msgspec.Struct):
    """The last answer about a cluster."""

    digest: bytes
    assignment: Assignment
    confirmed: float
    """When the server last said so, by trio's clock of any run (monotonic)."""


class XdsBackend:
    """See the module's text. What was decoded is kept between runs."""

    kind: ClassVar[str] = "xds"
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options, context: Context) -> None:
        """Raises ValueError."""
        if (options.server is None) == (options.path is None):
            raise ValueError("exactly one of `server` and `path` is needed")
        if not 0.1 <= options.poll <= 3600:
            raise ValueError("poll must be 100ms to 1h")
        if not 0.1 <= options.timeout <= 300:
            raise ValueError("timeout must be 100ms to 5m")
        if options.path is not None and (options.clusters or options.locality_weights):
            raise ValueError("`clusters` and `locality_weights` need `server`")
        if options.key_file is not None and options.cert_file is None:
            raise ValueError("`key_file` needs `cert_file`")
        self._options = options
        self._context = context
        self.settings: dict[str, ServiceSettings] = {
            qualified_name(name, options.namespace): found
            for name, found in options.services.items()
        }
        self._file: FileBackend | None = None
        if options.path is not None:
            self._file = FileBackend(FileOptions(options.path), context)
            self._file.reader = files.reading
        else:
            self.server = server(options.server or "")
        self.known: dict[str, _Known] = {}
        """By the assignment's name."""
        self.digests: dict[bytes, str] = {}
        """The names of ``known`` by digest."""
        self.versions: dict[tuple[str, ...], str] = {}
        """Of the last answer to a question: its resource names."""
        self.decoded = 0
        """Assignments that were decoded, for tests."""

    async def run(self, sink: Sink) -> None:
        """See :class:`registry.base.Backend`."""
        if self._file is not None:
            await self._file.run(_Dressing(sink, self._options.namespace, self.settings))
            return
        self._say_stale(sink)
        options, base = self._options, self._context.base_dir
        tls = await trio.to_thread.run_sync(
            tls_context, base, options.ca_file, options.cert_file, options.key_file
        )
        headers = {}
        if options.token_file is not None:
            token = await trio.to_thread.run_sync(read_secret, base, options.token_file)
            headers["Authorization"] = f"Bearer {token}"
        settings = dict(self.settings)
        board = Board(sink, settings)
        async with (
            client(
                mark=self._context.mark,
                base_url=self.server.url,
                unix_socket=self.server.unix_socket,
                auth=self.server.auth,
                tls=tls,
            ) as http,
            together() as nursery,
        ):
            nursery.start_soon(board.run)
            nursery.start_soon(_Poller(self, board, settings, http, headers).run)

    def remember(self, known: _Known) -> None:
        """The last answer about a cluster is another one."""
        self.forget(known.assignment.name)
        self.known[known.assignment.name] = known
        self.digests[known.digest] = known.assignment.name

    def forget(self, name: str) -> None:
        """Decode the next answer about this cluster, whatever it says."""
        known = self.known.pop(name, None)
        if known is not None:
            self.digests.pop(known.digest, None)

    def _say_stale(self, sink: Sink) -> None:
        """Assignments that were too old to be used when nobody answered any more."""
        now = trio.current_time()
        late: list[Service] = []
        for known in self.known.values():
            age = known.assignment.stale_after
            if age and now - known.confirmed > age:
                unusable = tuple(
                    msgspec.structs.replace(e, ready=False, serving=False)
                    for e in known.assignment.endpoints
                )
                name = service_name(known.assignment.name, self._options.namespace)
                late.append(dressed(name, unusable, self.settings.get(name)))
        if late:
            sink.upsert(late)


class _Poller:
    """Asks and answers the board. One for each run."""

    def __init__(
        self,
        backend: XdsBackend,
        board: Board,
        settings: dict[str, ServiceSettings],
        http: httpx.AsyncClient,
        headers: dict[str, str],
    ) -> None:
        self._backend = backend
        self._options = backend._options
        self._board = board
        self._settings = settings
        """Of this run: what is configured, and the protocols that CDS names."""
        self._http = http
        self._headers = headers
        context = backend._context
        self._node: dict[str, Any] = {
            "id": self._options.node_id or context.node or "nodeproxy",
            "cluster": self._options.node_cluster,
        }
        if context.zone:
            self._node["locality"] = {"zone": context.zone}
        self._clusters: dict[str, Cluster] = {}
        """By the name of the assignment."""
        self._inline: dict[str, Cluster] = {}
        self._cds_version = ""
        self._asked: frozenset[tuple[str, ...]] = frozenset()
        """Questions of this run that the board has an answer to."""

    async def run(self) -> None:
        """Until cancelled. Raises RegistryError."""
        while True:
            if self._options.clusters:
                if not self._clusters:
                    self._clusters = {name: Cluster(name, name) for name in self._options.clusters}
                    await self._follow()
            else:
                await self._ask_clusters()
                if not (self._clusters or self._inline):
                    await self._follow()  # that there is nothing is so as of now
            names = sorted(self._clusters)
            batches = [tuple(names[at : at + BATCH]) for at in range(0, len(names), BATCH)]
            for batch in batches:
                await self._ask_assignments(batch)
            self._asked = frozenset(batches)
            self._forget(batches)
            for name in self._inline:
                self._board.confirm(name)
            await trio.sleep(self._options.poll)

    def _forget(self, batches: Iterable[tuple[str, ...]]) -> None:
        kept = set(batches)
        for question in [q for q in self._backend.versions if q not in kept]:
            del self._backend.versions[question]
        for name in [n for n in self._backend.known if n not in self._clusters]:
            self._backend.forget(name)

    async def _follow(self) -> None:
        namespace = self._options.namespace
        questions: dict[Any, str] = {}
        wrong: list[Problem] = []
        for found in (self._clusters, self._inline):
            for i, (key, cluster) in enumerate(list(found.items())):
                if i % 1000 == 999:
                    await trio.lowlevel.checkpoint()
                try:
                    questions[key] = service_name(cluster.name, namespace)
                except Bad as error:
                    wrong.append(Problem(str(error), _source(key)))
                    del found[key]
        self._board.follow(questions)
        self._board.trouble("names", wrong)

    # --- CDS ---

    async def _ask_clusters(self) -> None:
        body = await ask(
            self._http,
            CLUSTERS_PATH,
            type_url=CLUSTER,
            node=self._node,
            version=self._cds_version,
            names=(),
            headers=self._headers,
            timeout=self._options.timeout,
        )
        if isinstance(body, Unchanged):
            return
        from_eds: dict[str, Cluster] = {}
        inline: dict[str, Cluster] = {}
        problems: list[Problem] = []
        place = CLUSTERS_PATH
        try:
            for i, piece in enumerate(pieces(body, ("resources",))):
                if i % BITE == BITE - 1:
                    await trio.lowlevel.checkpoint()
                try:
                    found = decode(msgspec.json.decode(piece))
                    if not isinstance(found, Cluster):
                        raise Bad("an assignment where a cluster was asked for")
                except (Bad, msgspec.DecodeError) as error:
                    name = error.name if isinstance(error, Bad) else ""
                    source = _source(name) if name else f"{place} resources[{i}]"
                    problems.append(Problem(str(error), source))
                    self._stay(name, from_eds, inline)
                    continue
                if found.eds_name:
                    from_eds[found.eds_name] = found
                else:
                    inline[found.name] = found
        except ValueError as error:
            raise RegistryError(f"{self._backend.server.url}{place}: not JSON: {error}") from None
        self._cds_version = version_of(body)
        for name, cluster in from_eds.items():
            before = self._clusters.get(name)
            if before is not None and before.locality_weights != cluster.locality_weights:
                self._backend.forget(name)
                self._asked = frozenset()
        self._clusters, self._inline = from_eds, inline
        self._set_protocols()
        await self._follow()
        self._board.trouble("CDS", problems)
        for name, cluster in inline.items():
            assert cluster.assignment is not None
            self._tell(name, cluster, cluster.assignment)

    def _set_protocols(self) -> None:
        for found in (self._clusters, self._inline):
            for cluster in found.values():
                try:
                    name = service_name(cluster.name, self._options.namespace)
                except Bad:
                    continue  # told where the questions are made
                mine = self._backend.settings.get(name, PLAIN)
                if cluster.protocol and not mine.protocol:
                    self._settings[name] = msgspec.structs.replace(mine, protocol=cluster.protocol)

    def _stay(self, name: str, from_eds: dict[str, Cluster], inline: dict[str, Cluster]) -> None:
        """A cluster that cannot be read now is what it was."""
        for before, after in ((self._clusters, from_eds), (self._inline, inline)):
            for key, cluster in before.items():
                if name and cluster.name == name:
                    after[key] = cluster

    # --- EDS ---

    async def _ask_assignments(self, batch: tuple[str, ...]) -> None:
        backend = self._backend
        # A version is only good for a board that knows what it stands for.
        version = backend.versions.get(batch, "") if batch in self._asked else ""
        body = await ask(
            self._http,
            ENDPOINTS_PATH,
            type_url=ENDPOINTS,
            node=self._node,
            version=version,
            names=batch,
            headers=self._headers,
            timeout=self._options.timeout,
        )
        now = trio.current_time()
        if isinstance(body, Unchanged):
            for name in batch:
                if name in backend.known:
                    backend.known[name].confirmed = now
                self._board.confirm(name)
            return
        left = dict.fromkeys(batch)
        wrong: list[Problem] = []
        work = 0
        try:
            for i, piece in enumerate(pieces(body, ("resources",))):
                try:
                    name, cost = self._take(piece, now)
                except (Bad, msgspec.DecodeError) as error:
                    name, cost = error.name if isinstance(error, Bad) else "", 1
                    source = _source(name) if name else f"{ENDPOINTS_PATH} resources[{i}]"
                    problem = Problem(str(error), source)
                    if name in left:
                        self._board.unreadable(name, [problem])
                    else:
                        wrong.append(problem)
                left.pop(name, None)
                work += cost
                if work >= BITE:
                    work = 0
                    await trio.lowlevel.checkpoint()
        except ValueError as error:
            where = f"{self._backend.server.url}{ENDPOINTS_PATH}"
            raise RegistryError(f"{where}: not JSON: {error}") from None
        self._board.trouble(f"EDS {batch[0]}", wrong)
        for name in left:
            # By the protocol an assignment that is left out stays as it was; only CDS says that a
            # cluster is gone.
            problem = Problem("the server has no assignment of this name", _source(name))
            self._board.unreadable(name, [problem])
        backend.versions[batch] = version_of(body)

    def _take(self, piece: bytes, now: float) -> tuple[str, int]:
        """Tell the board of an assignment; its name, and the work that it was. Raises Bad and
        msgspec.DecodeError."""
        backend = self._backend
        digest = hashlib.blake2b(piece, digest_size=16).digest()
        known = backend.known.get(backend.digests.get(digest, ""))
        cost = 1
        if known is None:
            found = decode(msgspec.json.decode(piece), locality_weights=self._weighted)
            if not isinstance(found, Assignment):
                raise Bad("a cluster where an assignment was asked for", found.name)
            backend.decoded += 1
            known = _Known(digest, found, now)
            cost += len(found.endpoints)
            backend.remember(known)
        known.confirmed = now
        name = known.assignment.name
        cluster = self._clusters.get(name)
        if cluster is not None:
            self._tell(name, cluster, known.assignment)
        return name, cost

    def _weighted(self, name: str) -> bool:
        cluster = self._clusters.get(name)
        return self._options.locality_weights or (cluster is not None and cluster.locality_weights)

    def _tell(self, key: str, cluster: Cluster, assignment: Assignment) -> None:
        name = service_name(cluster.name, self._options.namespace)
        source = _source(cluster.name)
        problems = [Problem(text, source) for text in assignment.problems]
        self._board.answer(key, Part(name, assignment.endpoints, origin=source), problems)


def _source(name: str) -> str:
    return f"cluster {name}"


class _Dressing:
    """A sink between the file back end and the supervisor: gives services of a file their namespace
    and what is configured for them."""

    def __init__(self, sink: Sink, namespace: str, settings: Mapping[str, ServiceSettings]) -> None:
        self._sink = sink
        self._namespace = namespace
        self._settings = settings

    def _name(self, name: str) -> str:
        namespace, _, rest = name.partition("/")
        return f"{self._namespace}/{rest}" if namespace == "default" else name

    def _dress(self, service: Service) -> Service:
        name = self._name(service.name)
        settings = self._settings.get(name)
        if settings is None:
            return msgspec.structs.replace(service, name=name)
        dressed_ = dressed(name, service.endpoints, settings, origin=service.origin)
        protocol: Protocol = service.ports[0].protocol if service.ports else ""
        return files.with_protocol(dressed_, protocol)

    def upsert(self, services: Iterable[Service]) -> None:
        self._sink.upsert([self._dress(service) for service in services])

    def remove(self, names: Iterable[str]) -> None:
        self._sink.remove([self._name(name) for name in names])

    def replace(self, services: Iterable[Service]) -> None:
        self._sink.replace([self._dress(service) for service in services])

    def keep(self, names: Iterable[str]) -> None:
        self._sink.keep([self._name(name) for name in names])

    def problems(self, problems: Iterable[Problem]) -> None:
        self._sink.problems(problems)

    def synced(self) -> None:
        self._sink.synced()
