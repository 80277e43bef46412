"""The back end ``aws``.

Every ``refresh`` everything is read: services and health from Cloud Map, targets from load
balancers, instances from EC2. In between, Cloud Map is asked for its revisions, and a service whose
revision is new is read at once.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Hashable, Mapping
from typing import Any, ClassVar, Final

import httpx
import msgspec
import trio

from registry.aws.api import Aws, Refused
from registry.aws.credentials import Chain
from registry.aws.decode import (
    Discovered,
    TargetGroup,
    map_endpoint,
    reservation_endpoints,
    target_endpoint,
    target_group,
)
from registry.aws.options import CloudMap, Instances, Options, TargetGroups
from registry.aws.signing import load
from registry.aws.xmltext import items, text
from registry.base import Context, Problem, RegistryError, Sink
from registry.board import BITE, Board, Part, together
from registry.fetch import server
from registry.http import client
from registry.model import Endpoint, Protocol, qualified_name
from registry.naming import PLAIN, ServiceSettings
from registry.pieces import pieces

__all__ = ["AwsBackend", "Options"]

MOST: Final = 1000
"""Instances in one answer of Cloud Map; it has no pages."""
AT_ONCE: Final = 8
"""Requests at a time."""
ELB: Final = ("elasticloadbalancing", "2015-12-01")
EC2: Final = ("ec2", "2016-11-15")
IDS: Final = 100
"""Instances that are named in one request."""
GONE: Final = frozenset(
    {"ServiceNotFound", "NamespaceNotFound", "TargetGroupNotFound", "LoadBalancerNotFound"}
)


class AwsBackend:
    """See the module's text. Credentials are kept between runs."""

    kind: ClassVar[str] = "aws"
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options, context: Context) -> None:
        """Raises ValueError."""
        groups = options.target_groups or TargetGroups()
        wanted = groups.names or groups.arns or groups.load_balancer_arn
        if not (options.cloud_map or options.instances or wanted):
            raise ValueError("one of `cloud_map`, `target_groups`, `instances` is needed")
        if any(not entry.tags for entry in options.instances):
            raise ValueError("`instances` need `tags`")
        for name in ("poll", "refresh"):
            if not 0.1 <= getattr(options, name) <= 3600:
                raise ValueError(f"{name} must be 100ms to 1h")
        if not 0.1 <= options.timeout <= 300:
            raise ValueError("timeout must be 100ms to 5m")
        if options.endpoint_url is not None:
            server(options.endpoint_url)
        self.options = options
        self._context = context
        self._sign = load()
        self._rng = random.Random()
        self.chain = Chain(
            profile=options.profile,
            region=options.region,
            metadata=options.metadata,
            endpoint_url=options.endpoint_url,
        )
        self.settings = {
            qualified_name(name, options.namespace): found
            for name, found in options.services.items()
        }

    async def run(self, sink: Sink) -> None:
        """See :class:`registry.base.Backend`."""
        settings = dict(self.settings)
        board = Board(sink, settings)
        async with client(mark=self._context.mark) as http, together() as nursery:
            aws = await self.aws(http)
            nursery.start_soon(board.run)
            nursery.start_soon(_Reader(self, aws, board, settings).run)

    async def aws(self, http: httpx.AsyncClient) -> Aws:
        """Raises RegistryError."""
        options = self.options
        region = await self.chain.region(http)
        return Aws(
            http, self.chain, self._sign, region,
            endpoint_url=options.endpoint_url, timeout=options.timeout,
            attempts=options.attempts, rng=self._rng,
        )  # fmt: skip


class _Mapped(msgspec.Struct, frozen=True):
    """A service of Cloud Map, as a question."""

    namespace: str
    service: str


class _Reader:
    """Asks and answers the board. One for each run."""

    def __init__(
        self, backend: AwsBackend, aws: Aws, board: Board, settings: dict[str, ServiceSettings]
    ) -> None:
        self._options = backend.options
        self._aws = aws
        self._board = board
        self._settings = settings
        """Of this run: what is configured, and the protocols that AWS names."""
        self._configured = backend.settings
        self._mapped: dict[_Mapped, CloudMap] = {}
        self._groups: dict[str, TargetGroup] = {}
        self._revisions: dict[_Mapped, int] = {}
        self._namespaces: dict[str, str] = {}
        """Ids by name."""
        self._limit = trio.CapacityLimiter(AT_ONCE)

    async def run(self) -> None:
        """Until cancelled. Raises RegistryError."""
        while True:
            await self._everything()
            due = trio.current_time() + self._options.refresh
            while (left := due - trio.current_time()) > 0:
                await trio.sleep(min(left, self._options.poll))
                if due > trio.current_time():
                    await self._look_for_revisions()

    # --- which questions there are ---

    async def _everything(self) -> None:
        trouble: list[Problem] = []
        mapped: dict[_Mapped, CloudMap] = {}
        for entry in self._options.cloud_map:
            for name in entry.follow or await self._services(entry, trouble):
                mapped.setdefault(_Mapped(entry.namespace, name), entry)
        self._mapped = mapped
        self._groups = await self._target_groups(trouble)
        questions: dict[Hashable, str] = {}
        for key, entry in mapped.items():
            questions[key] = self._map_name(key, entry)
        for arn, group in self._groups.items():
            questions[arn] = self._name(group.name, group.protocol)
        for i, wanted in enumerate(self._options.instances):
            questions[i] = self._name(wanted.service, wanted.protocol)
        self._board.follow(questions)
        self._board.trouble("lists", trouble)
        self._revisions = {k: v for k, v in self._revisions.items() if k in mapped}
        async with together() as nursery:
            for key, entry in mapped.items():
                nursery.start_soon(self._discover, key, entry)
            for group in self._groups.values():
                nursery.start_soon(self._targets, group)
            for i, wanted in enumerate(self._options.instances):
                nursery.start_soon(self._instances, i, wanted)

    def _name(self, name: str, protocol: Protocol) -> str:
        full = qualified_name(name, self._options.namespace)
        mine = self._configured.get(full, PLAIN)
        if protocol and not mine.protocol:
            self._settings[full] = msgspec.structs.replace(mine, protocol=protocol)
        return full

    def _map_name(self, key: _Mapped, entry: CloudMap) -> str:
        return qualified_name(key.service, entry.mesh_namespace or self._options.namespace)

    async def _services(self, entry: CloudMap, trouble: list[Problem]) -> list[str]:
        source = f"Cloud Map namespace {entry.namespace}"
        try:
            if entry.namespace not in self._namespaces:
                async for raw in self._map_pages("ListNamespaces", {}, "Namespaces"):
                    self._namespaces[str(raw.get("Name"))] = str(raw.get("Id"))
            found = self._namespaces.get(entry.namespace)
            if found is None:
                trouble.append(Problem("there is no such namespace", source))
                return []
            wanted = [{"Name": "NAMESPACE_ID", "Values": [found], "Condition": "EQ"}]
            names: list[str] = []
            async for raw in self._map_pages("ListServices", {"Filters": wanted}, "Services"):
                name = raw.get("Name")
                if isinstance(name, str) and name:
                    names.append(name)
                else:
                    trouble.append(Problem("a service without a name", source))
        except Refused as error:
            self._namespaces.pop(entry.namespace, None)
            if error.code in GONE:
                trouble.append(Problem(str(error), source))
                return []
            raise RegistryError(str(error)) from None
        return names

    async def _map_pages(
        self, action: str, payload: dict[str, Any], key: str
    ) -> AsyncGenerator[dict[str, Any], None]:
        mark: str | None = None
        while True:
            body = await self._aws.cloud_map(
                action, {**payload, "MaxResults": 100, **({"NextToken": mark} if mark else {})}
            )
            page = _json(body, action)
            members = page.get(key) or []
            for raw in members if isinstance(members, list) else []:
                if isinstance(raw, dict):
                    yield raw
            following = page.get("NextToken")
            if not following:
                return
            if following == mark:
                raise RegistryError(f"servicediscovery:{action}: the pages have no end")
            mark = str(following)

    async def _target_groups(self, trouble: list[Problem]) -> dict[str, TargetGroup]:
        wanted = self._options.target_groups or TargetGroups()
        questions: list[tuple[str, dict[str, str]]] = [
            *((f"target group {name}", {"Names.member.1": name}) for name in wanted.names),
            *((f"target group {arn}", {"TargetGroupArns.member.1": arn}) for arn in wanted.arns),
        ]
        if wanted.load_balancer_arn:
            arn = wanted.load_balancer_arn
            questions.append((f"load balancer {arn}", {"LoadBalancerArn": arn}))
        found: dict[str, TargetGroup] = {}
        for source, params in questions:
            try:
                async for page in self._aws.pages(
                    *ELB, "DescribeTargetGroups", params, asks="Marker", gives="NextMarker"
                ):
                    for member in items(page, "DescribeTargetGroupsResult/TargetGroups"):
                        try:
                            group = target_group(member)
                        except ValueError as error:
                            name = text(member, "TargetGroupName") or source
                            trouble.append(Problem(str(error), f"target group {name}"))
                        else:
                            found[group.arn] = group
            except Refused as error:
                trouble.append(Problem(str(error), source))
        return found

    # --- Cloud Map ---

    async def _look_for_revisions(self) -> None:
        async with together() as nursery:
            for key, entry in self._mapped.items():
                nursery.start_soon(self._look_for_revision, key, entry)

    async def _look_for_revision(self, key: _Mapped, entry: CloudMap) -> None:
        action = "DiscoverInstancesRevision"
        asked = {"NamespaceName": key.namespace, "ServiceName": key.service}
        try:
            async with self._limit:
                found = _json(await self._aws.cloud_map(action, asked), action)
        except Refused as error:
            self._refused(key, error, f"Cloud Map {key.namespace}/{key.service}")
            return
        if found.get("InstancesRevision") == self._revisions.get(key, -1):
            self._board.confirm(key)
        else:
            await self._discover(key, entry)

    async def _discover(self, key: _Mapped, entry: CloudMap) -> None:
        action = "DiscoverInstances"
        source = f"Cloud Map {key.namespace}/{key.service}"
        asked = {
            "NamespaceName": key.namespace,
            "ServiceName": key.service,
            "MaxResults": MOST,
            "HealthStatus": entry.health.upper().replace("-", "_"),
        }
        try:
            async with self._limit:
                body = await self._aws.cloud_map(action, asked)
        except Refused as error:
            self._refused(key, error, source)
            return
        endpoints: list[Endpoint] = []
        problems: list[Problem] = []
        try:
            for i, piece in enumerate(pieces(body, ("Instances",))):
                if i % BITE == BITE - 1:
                    await trio.lowlevel.checkpoint()
                where = source
                try:
                    found = msgspec.json.decode(piece, type=Discovered)
                    where = f"{source} instance {found.instance_id}"
                    endpoints.append(map_endpoint(found, entry, self._aws.region))
                except (ValueError, msgspec.MsgspecError) as error:
                    problems.append(Problem(str(error), where))
        except ValueError as error:
            raise RegistryError(f"servicediscovery:{action}: not JSON: {error}") from None
        if len(endpoints) + len(problems) >= MOST:
            message = f"Cloud Map tells of {MOST} instances at most; there may be more"
            problems.append(Problem(message, source))
        self._revisions[key] = _revision(body)
        part = Part(self._map_name(key, entry), _ordered(endpoints), origin=source)
        self._board.answer(key, part, problems)

    def _refused(self, key: Hashable, error: Refused, source: str) -> None:
        problem = Problem(str(error), source)
        if error.code in GONE:
            self._board.answer(key, None, [problem])
        else:
            self._board.unreadable(key, [problem])

    # --- target groups and instances ---

    async def _targets(self, group: TargetGroup) -> None:
        source = f"target group {group.name}"
        try:
            async with self._limit:
                root = await self._aws.query(
                    *ELB, "DescribeTargetHealth", {"TargetGroupArn": group.arn}
                )
            problems: list[Problem] = []
            found = []
            members = items(root, "DescribeTargetHealthResult/TargetHealthDescriptions")
            for i, member in enumerate(members):
                if i % BITE == BITE - 1:
                    await trio.lowlevel.checkpoint()
                try:
                    found.append(target_endpoint(member, group, self._aws.region))
                except ValueError as error:
                    problems.append(Problem(str(error), source))
            wanted = sorted({target.instance for target in found if target.instance})
            addresses = await self._addresses(wanted)
        except Refused as error:
            self._refused(group.arn, error, source)
            return
        endpoints: list[Endpoint] = []
        for target in found:
            endpoint = target.endpoint
            if target.instance:
                known = addresses.get(target.instance, "there is no such instance")
                if isinstance(known, str):
                    problems.append(Problem(known, f"{source} instance {target.instance}"))
                    continue
                endpoint = msgspec.structs.replace(
                    endpoint,
                    address=known.address,
                    locality=known.locality if known.locality.zone else endpoint.locality,
                )
            endpoints.append(endpoint)
        name = qualified_name(group.name, self._options.namespace)
        self._board.answer(group.arn, Part(name, _ordered(endpoints), origin=source), problems)

    async def _addresses(self, instances: list[str]) -> Mapping[str, Endpoint | str]:
        """By id: an endpoint of which only address and place count, or what is wrong."""
        found: dict[str, Endpoint | str] = {}
        # Named by a filter: ids that do not exist are left out, not an error for all.
        whole = Instances("", 1, {})
        for at in range(0, len(instances), IDS):
            names = instances[at : at + IDS]
            params = {"Filter.1.Name": "instance-id"}
            params.update((f"Filter.1.Value.{i + 1}", name) for i, name in enumerate(names))
            found.update(await self._described(params, whole))
        return found

    async def _instances(self, key: int, wanted: Instances) -> None:
        source = f"EC2 instances of {wanted.service}"
        params = {"Filter.1.Name": "instance-state-name", "Filter.1.Value.1": "running"}
        for i, (name, value) in enumerate(sorted(wanted.tags.items()), 2):
            params[f"Filter.{i}.Name"] = f"tag:{name}"
            params[f"Filter.{i}.Value.1"] = value
        try:
            found = await self._described(params, wanted)
        except Refused as error:
            self._refused(key, error, source)
            return
        problems = [
            Problem(what, f"{source}: {name}") for name, what in found.items()
            if isinstance(what, str)
        ]  # fmt: skip
        endpoints = [what for what in found.values() if isinstance(what, Endpoint)]
        name = qualified_name(wanted.service, self._options.namespace)
        self._board.answer(key, Part(name, _ordered(endpoints), origin=source), problems)

    async def _described(
        self, params: dict[str, str], wanted: Instances
    ) -> dict[str, Endpoint | str]:
        """Raises RegistryError and Refused."""
        found: dict[str, Endpoint | str] = {}
        params = {**params, "MaxResults": "200"}
        async with self._limit:
            async for page in self._aws.pages(
                *EC2, "DescribeInstances", params, asks="NextToken", gives="nextToken"
            ):
                for i, reservation in enumerate(items(page, "reservationSet")):
                    if i % BITE == BITE - 1:
                        await trio.lowlevel.checkpoint()
                    found.update(reservation_endpoints(reservation, wanted, self._aws.region))
        return found


class _Revision(msgspec.Struct, rename="pascal"):
    instances_revision: int = -1


def _revision(body: bytes) -> int:
    """-1 where it has none: the next look reads all again."""
    try:
        return msgspec.json.decode(body, type=_Revision).instances_revision
    except msgspec.MsgspecError:
        return -1


def _json(body: bytes, action: str) -> dict[str, Any]:
    """Raises RegistryError."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise RegistryError(f"servicediscovery:{action}: not JSON: {error}") from None


def _ordered(endpoints: list[Endpoint]) -> tuple[Endpoint, ...]:
    """In one order, whatever AWS' is: it changes from answer to answer."""
    united = {endpoint.key: endpoint for endpoint in reversed(endpoints)}
    return tuple(united[key] for key in sorted(united))
