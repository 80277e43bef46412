"""The back end ``aws``: metadata services, throttling, paging and refusals, by fakes."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from registry.aws import api as api_module
from registry.aws.api import Aws, Refused
from registry.aws.backend import AwsBackend
from registry.aws.credentials import Chain
from registry.aws.options import CloudMap, Options
from registry.aws.signing import load
from registry.aws.xmltext import text
from registry.base import Context, RegistryError
from registry.duration import Duration
from registry.http import client
from registry.testing import observe, sample
from tests.dataplane.http_fake import HttpFake, Reply, Request

PATIENCE = 20.0
KEYS = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "s3cret"}


class AwsFake(HttpFake):
    """Cloud Map with one service, and the metadata services of instances and containers."""

    def __init__(self) -> None:
        super().__init__()
        self.revision = 1
        self.health = "HEALTHY"
        self.keys = 0
        """Credentials that were handed out."""
        self.lifetime = "2100-01-01T00:00:00Z"
        self.calls: list[str] = []

    async def handle(self, request: Request) -> Reply:
        if request.path.startswith("/latest/"):
            return self._metadata(request)
        if request.path == "/container":
            if request.headers.get("authorization") != "t0ken":
                return Reply(401)
            return Reply(200, self._keys())
        action = request.headers.get("x-amz-target", "").rpartition(".")[2]
        self.calls.append(action)
        if not request.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 "):
            return Reply(403, b'{"__type":"MissingAuthenticationToken"}')
        if action == "DiscoverInstancesRevision":
            return Reply(200, json.dumps({"InstancesRevision": self.revision}).encode())
        instance = {
            "InstanceId": "a",
            "HealthStatus": self.health,
            "Attributes": {"AWS_INSTANCE_IPV4": "10.0.0.1", "AWS_INSTANCE_PORT": "8080"},
        }
        found = {"Instances": [instance], "InstancesRevision": self.revision}
        return Reply(200, json.dumps(found).encode())

    def _keys(self) -> bytes:
        self.keys += 1
        return json.dumps(
            {"AccessKeyId": f"A{self.keys}", "SecretAccessKey": "s3cret", "Token": "T",
             "Expiration": self.lifetime}
        ).encode()  # fmt: skip

    def _metadata(self, request: Request) -> Reply:
        if request.path == "/latest/api/token":
            known = request.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "").isdecimal()
            return Reply(200, b"session") if request.method == "PUT" and known else Reply(400)
        if request.headers.get("x-aws-ec2-metadata-token") != "session":
            return Reply(401)
        if request.path == "/latest/meta-data/placement/region":
            return Reply(200, b"eu-west-9")
        role = "/latest/meta-data/iam/security-credentials/"
        if request.path == role:
            return Reply(200, b"my-role")
        return Reply(200, self._keys()) if request.path == f"{role}my-role" else Reply(404)


@pytest.fixture
async def fake() -> AsyncIterator[AwsFake]:
    async with AwsFake().running() as found:
        yield found


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with client() as found:
        yield found


def chain(environment: dict[str, str], **more: Any) -> Chain:
    options = {"profile": None, "region": None, "metadata": True, **more}
    return Chain(environment={"HOME": "/nonexistent", **environment}, **options)


def aws(fake: AwsFake, http: httpx.AsyncClient, found: Chain | None = None, **more: Any) -> Aws:
    return Aws(
        http, found or chain(KEYS), load(), "eu-west-1", endpoint_url=fake.url, timeout=5.0,
        attempts=3, rng=random.Random(1), **more,
    )  # fmt: skip


async def test_the_instances_role_and_region(fake: AwsFake, http: httpx.AsyncClient) -> None:
    now = 0.0
    found = chain({"AWS_EC2_METADATA_SERVICE_ENDPOINT": fake.url}, now=lambda: now)
    assert await found.region(http) == "eu-west-9"
    first = await found.credentials(http)
    assert (first.access_key, first.token, found.source) == ("A1", "T", "the instance's role")
    assert await found.credentials(http) is first

    now = first.expires - 200
    assert (await found.credentials(http)).access_key == "A2"
    fake.stop()
    assert (await found.credentials(http)).access_key == "A2"
    now = first.expires + 1
    with pytest.raises(RegistryError, match="metadata service"):
        await found.credentials(http)


async def test_the_containers_service(fake: AwsFake, http: httpx.AsyncClient) -> None:
    found = chain(
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{fake.url}/container",
         "AWS_CONTAINER_AUTHORIZATION_TOKEN": "t0ken"}
    )  # fmt: skip
    assert (await found.credentials(http)).access_key == "A1"
    other = chain({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://evil.example/"})
    with pytest.raises(RegistryError, match="without https"):
        await other.credentials(http)


async def test_a_web_identity(fake: AwsFake, http: httpx.AsyncClient, tmp_path: Any) -> None:
    token = tmp_path / "token"
    token.write_text("jwt")
    environment = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(token), "AWS_ROLE_ARN": "arn:role"}
    fake.scripted.append(
        Reply(
            200,
            b"<R xmlns='https://sts/'><X><Credentials><AccessKeyId>W</AccessKeyId>"
            b"<SecretAccessKey>S</SecretAccessKey><SessionToken>T</SessionToken>"
            b"<Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></X></R>",
        )
    )
    found = chain(environment, endpoint_url=fake.url, region="eu-west-1")
    assert (await found.credentials(http)).access_key == "W"
    asked = parse_qs(fake.requests[0].body.decode())
    assert asked["WebIdentityToken"] == ["jwt"]
    assert "authorization" not in fake.requests[0].headers


async def test_without_any_credentials(http: httpx.AsyncClient) -> None:
    found = chain({}, metadata=False)
    with pytest.raises(RegistryError, match="no credentials"):
        await found.credentials(http)
    with pytest.raises(RegistryError, match="no region"):
        await found.region(http)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(429),
        Reply(400, b'{"__type":"ThrottlingException"}'),
        Reply(503, b"<E><Error><Code>Throttling</Code></Error></E>"),
        Reply(500),
    ],
)
async def test_throttling_is_waited_for_and_given_up(
    fake: AwsFake, http: httpx.AsyncClient, reply: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "FIRST_PAUSE", 0.01)
    found = aws(fake, http)
    fake.scripted.extend([reply, reply])
    assert b"10.0.0.1" in await found.cloud_map("DiscoverInstances", {})
    fake.scripted.extend([reply, reply, reply])
    with pytest.raises(RegistryError, match=r"AWS (throttles|fails)"):
        await found.cloud_map("DiscoverInstances", {})
    assert len(fake.requests) == 6


async def test_expired_credentials_are_renewed_once(fake: AwsFake, http: httpx.AsyncClient) -> None:
    found = aws(fake, http, chain({"AWS_EC2_METADATA_SERVICE_ENDPOINT": fake.url}))
    expired = Reply(400, b'{"__type":"ExpiredTokenException","message":"expired"}')
    await found.cloud_map("DiscoverInstances", {})
    fake.scripted.append(expired)
    assert b"10.0.0.1" in await found.cloud_map("DiscoverInstances", {})
    assert fake.keys == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [("AccessDeniedException", "needs servicediscovery:X"), ("ExpiredToken", "does not take")],
)
async def test_refusals_say_what_is_needed_and_no_secret(
    fake: AwsFake, http: httpx.AsyncClient, code: str, message: str
) -> None:
    fake.scripted.extend([Reply(403, json.dumps({"__type": code}).encode())] * 2)
    with pytest.raises(RegistryError, match=message) as caught:
        await aws(fake, http).cloud_map("X", {})
    assert "s3cret" not in str(caught.value)


async def test_an_error_that_no_attempt_changes(fake: AwsFake, http: httpx.AsyncClient) -> None:
    fake.scripted.append(Reply(400, b'{"__type":"ServiceNotFound","message":"no"}'))
    with pytest.raises(Refused, match="ServiceNotFound: no"):
        await aws(fake, http).cloud_map("X", {})


async def test_pages(fake: AwsFake, http: httpx.AsyncClient) -> None:
    page = b"<R xmlns='http://ec2/'><a>%d</a><nextToken>%s</nextToken></R>"
    fake.scripted.extend([Reply(200, page % (1, b"x")), Reply(200, page % (2, b""))])
    seen = [
        text(root, "a")
        async for root in aws(fake, http).pages(
            "ec2", "2016-11-15", "D", {"A": "b"}, asks="NextToken", gives="nextToken"
        )
    ]
    assert seen == ["1", "2"]
    assert parse_qs(fake.requests[1].body.decode())["NextToken"] == ["x"]

    fake.scripted.extend([Reply(200, page % (1, b"x"))] * 2)
    with pytest.raises(RegistryError, match="no end"):
        async for _ in aws(fake, http).pages("ec2", "1", "D", {}, asks="N", gives="nextToken"):
            pass


async def test_what_is_no_xml(fake: AwsFake, http: httpx.AsyncClient) -> None:
    fake.scripted.append(Reply(200, b"<R>" + b"x" * 100_000))
    with pytest.raises(RegistryError, match="not XML"):
        await aws(fake, http).query("ec2", "1", "D", {})


async def test_revisions_are_the_cheap_look(fake: AwsFake, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    options = Options(
        cloud_map=(CloudMap("prod", ("web",)),), region="eu-west-1", endpoint_url=fake.url,
        poll=Duration("100ms"), refresh=Duration("1h"),
    )  # fmt: skip
    async with observe(AwsBackend(options, Context("aws"))) as observer:
        await observer.sees([sample("web", "10.0.0.1")], PATIENCE)
        syncs = observer.syncs
        await observer.until(lambda: observer.syncs > syncs + 2, "confirmed", PATIENCE)
        assert fake.calls.count("DiscoverInstances") == 1
        fake.health, fake.revision = "UNHEALTHY", 2
        await observer.until(
            lambda: not observer._services["default/web"].endpoints[0].ready, "read", PATIENCE
        )
        assert fake.calls.count("DiscoverInstances") == 2
        assert not observer.errors


async def test_an_answer_cut_at_any_byte_and_a_frozen_service(
    fake: AwsFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    options = Options(
        cloud_map=(CloudMap("prod", ("web",)),), region="eu-west-1", endpoint_url=fake.url,
        poll=Duration("100ms"), refresh=Duration("100ms"), timeout=Duration("300ms"),
    )  # fmt: skip
    async with observe(AwsBackend(options, Context("aws"))) as observer:
        await observer.sees([sample("web", "10.0.0.1")], PATIENCE)
        for cut in range(0, 150, 23):
            seen = len(observer.errors)
            fake.cut = cut
            await observer.until(lambda n=seen: len(observer.errors) > n, f"{cut}", PATIENCE)
            assert len(observer.view) == 1
        fake.freeze()
        seen = len(observer.errors)
        await observer.until(lambda: len(observer.errors) > seen, "the freeze is told", PATIENCE)
        fake.thaw()
        syncs = observer.syncs
        await observer.until(lambda: observer.syncs > syncs, "it goes on", PATIENCE)
