"""The back end ``aws`` against moto: requests as AWS wants them, answers as AWS gives them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from registry.aws.api import Aws
from registry.aws.backend import AwsBackend
from registry.aws.options import CloudMap, Instances, Options, TargetGroups
from registry.aws.xmltext import text
from registry.base import Context
from registry.duration import Duration
from registry.http import client
from registry.model import Service
from registry.testing import CHECKS, Check, Observer, observe
from tests.system.moto_server import Moto

pytestmark = pytest.mark.system

PATIENCE = 20.0
SOON = Duration("100ms")
EC2, ELB = ("ec2", "2016-11-15"), ("elasticloadbalancing", "2015-12-01")


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    found = Moto(tmp_path_factory.mktemp("moto"))
    try:
        yield found
    finally:
        found.kill()


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-key")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")


def backend(moto: Moto, **options: Any) -> AwsBackend:
    options = {"poll": SOON, "refresh": Duration("300ms"), **options}
    return AwsBackend(Options(endpoint_url=moto.url, **options), Context("aws"))


async def until(observer: Observer, condition: Callable[[], bool], what: str) -> None:
    await observer.until(condition, what, PATIENCE)


class World:
    """The hands on moto: our own requests, which thereby prove that they are understood."""

    def __init__(self, aws: Aws) -> None:
        self.aws = aws

    async def map(self, action: str, **payload: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.aws.cloud_map(action, payload))
        return found

    async def put(self, services: Sequence[Service]) -> None:
        """Exactly these in the namespace "prod" of Cloud Map."""
        namespaces = await self.map("ListNamespaces")
        ids = {n["Name"]: n["Id"] for n in namespaces["Namespaces"]}
        if "prod" not in ids:
            await self.map("CreateHttpNamespace", Name="prod")
            namespaces = await self.map("ListNamespaces")
            ids = {n["Name"]: n["Id"] for n in namespaces["Namespaces"]}
        known = {s["Name"]: s["Id"] for s in (await self.map("ListServices"))["Services"]}
        wanted = {service.name.partition("/")[2]: service for service in services}
        for name, service in wanted.items():
            if name not in known:
                made = await self.map("CreateService", Name=name, NamespaceId=ids["prod"])
                known[name] = made["Service"]["Id"]
            here = {f"{e.address}-{e.port}": e for e in service.endpoints}
            there = await self.map("ListInstances", ServiceId=known[name])
            old = {i["Id"] for i in there["Instances"]}
            for instance in here.keys() - old:
                attributes = {
                    "AWS_INSTANCE_IPV4": here[instance].address,
                    "AWS_INSTANCE_PORT": str(here[instance].port),
                }
                await self.register(known[name], instance, attributes)
            for instance in old - here.keys():
                await self.map("DeregisterInstance", ServiceId=known[name], InstanceId=instance)
        for name in known.keys() - wanted.keys():
            for instance in (await self.map("ListInstances", ServiceId=known[name]))["Instances"]:
                await self.map(
                    "DeregisterInstance", ServiceId=known[name], InstanceId=instance["Id"]
                )
            await self.map("DeleteService", Id=known[name])

    async def register(self, service: str, instance: str, attributes: dict[str, str]) -> None:
        await self.map(
            "RegisterInstance", ServiceId=service, InstanceId=instance, Attributes=attributes,
            CreatorRequestId=instance,
        )  # fmt: skip


@asynccontextmanager
async def world(moto: Moto) -> AsyncIterator[World]:
    await trio.to_thread.run_sync(moto.start)
    found = backend(moto, cloud_map=(CloudMap("prod"),))
    async with client() as http:
        yield World(await found.aws(http))


class Harness:
    patience = PATIENCE

    def __init__(self, moto: Moto) -> None:
        self.moto = moto

    def backend(self) -> AwsBackend:
        return backend(self.moto, cloud_map=(CloudMap("prod"),))

    async def put(self, services: Sequence[Service]) -> None:
        async with world(self.moto) as hands:
            await hands.put(services)

    async def garbage(self, services: Sequence[Service]) -> None:
        async with world(self.moto) as hands:
            await hands.put(services)
            known = (await hands.map("ListServices"))["Services"]
            await hands.register(known[0]["Id"], "bad", {"AWS_INSTANCE_IPV4": "nowhere"})

    async def vanish(self) -> None:
        await trio.to_thread.run_sync(self.moto.kill)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Check, moto: Moto) -> None:
    await check(Harness(moto))


async def test_target_groups_of_instances_and_addresses(moto: Moto) -> None:
    async with world(moto) as hands:
        aws = hands.aws
        vpc = (await aws.query(*EC2, "DescribeVpcs", {})).find("vpcSet/item")
        assert vpc is not None
        made = await aws.query(
            *EC2, "RunInstances",
            {"ImageId": "ami-12c6146b", "MinCount": "1", "MaxCount": "1",
             "TagSpecification.1.ResourceType": "instance",
             "TagSpecification.1.Tag.1.Key": "role", "TagSpecification.1.Tag.1.Value": "web"},
        )  # fmt: skip
        instance = made.find("instancesSet/item")
        assert instance is not None
        address = text(instance, "privateIpAddress")
        arns: dict[str, str] = {}
        for name, kind in (("by-instance", "instance"), ("by-ip", "ip"), ("fn", "lambda")):
            params = {"Name": name, "TargetType": kind}
            if kind != "lambda":
                params |= {"Protocol": "HTTP", "Port": "8080", "VpcId": text(vpc, "vpcId")}
            group = await aws.query(*ELB, "CreateTargetGroup", params)
            arns[name] = next(text(e, ".") for e in group.iter("TargetGroupArn"))
        for name, target in (
            ("by-instance", text(instance, "instanceId")), ("by-ip", "10.0.0.7")
        ):  # fmt: skip
            await aws.query(
                *ELB, "RegisterTargets",
                {"TargetGroupArn": arns[name], "Targets.member.1.Id": target},
            )  # fmt: skip
        found = backend(
            moto,
            target_groups=TargetGroups(("by-instance", "fn", "none"), (arns["by-ip"],)),
            instances=(Instances("tagged", 9090, {"role": "w*"}), Instances("no", 1, {"a": "b"})),
        )
        async with observe(found) as observer:
            await until(
                observer,
                lambda: (
                    observer.view
                    == {
                        "default/by-instance": frozenset({(address, 8080)}),
                        "default/by-ip": frozenset({("10.0.0.7", 8080)}),
                        "default/tagged": frozenset({(address, 9090)}),
                        "default/no": frozenset(),
                    }
                ),
                "targets and instances",
            )
            service = observer._services["default/by-instance"]
            assert service.ports[0].protocol == "http"
            assert service.endpoints[0].locality.zone.startswith("eu-west-1")
            told = {p.source for p in observer.reported}
            assert told == {"target group fn", "target group none"}

            await aws.query(
                *ELB, "DeregisterTargets",
                {"TargetGroupArn": arns["by-ip"], "Targets.member.1.Id": "10.0.0.7"},
            )  # fmt: skip
            await until(
                observer,
                lambda: not any(e.ready for e in observer._services["default/by-ip"].endpoints),
                "no target is left",
            )
            assert not observer.errors
            assert observer.syncs > 0


async def test_a_namespace_that_is_not_there(moto: Moto) -> None:
    async with world(moto):
        found = backend(moto, cloud_map=(CloudMap("none"), CloudMap("nor", ("web",))))
        async with observe(found) as observer:
            await until(observer, lambda: len(observer.reported) == 2, "both are told")
            assert observer.view == {}
