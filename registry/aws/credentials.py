"""Where credentials come from, in the order of AWS' own tools, and when they are renewed.

Environment, web identity (the service account of a pod), shared files, the container's credentials
service, the instance's metadata service (IMDSv2).
"""

from __future__ import annotations

import datetime
import os
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
import msgspec
import trio

from registry.aws import files
from registry.aws.signing import Credentials
from registry.base import RegistryError
from registry.fetch import Answer, fetch, read_secret

__all__ = ["Chain", "sts_url"]

IMDS: Final = "http://169.254.169.254"
CONTAINER: Final = "http://169.254.170.2"
SOON: Final = 300.0
"""Seconds before their end at which credentials are renewed."""
PATIENCE: Final = 2.0
"""Seconds that a metadata service may be silent: it is on this machine, or there is none."""
_CONTAINER_HOSTS: Final = (
    "169.254.170.2",
    "169.254.170.23",
    "fd00:ec2::23",
    "localhost",
    "127.0.0.1",
)
_SESSION: Final = "21600"
"""Seconds that a session with the metadata service lasts."""


class _Keys(msgspec.Struct, rename="pascal"):
    """What container and instance services answer."""

    access_key_id: str
    secret_access_key: str
    token: str = ""
    expiration: str = ""


def sts_url(region: str) -> str:
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://sts.{region}.{suffix}/"


class Chain:
    """Credentials and region. ``now``: seconds since the epoch."""

    def __init__(
        self,
        *,
        profile: str | None,
        region: str | None,
        metadata: bool,
        endpoint_url: str | None = None,
        environment: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._environment = os.environ if environment is None else environment
        self._profile = files.profile_of(profile, self._environment)
        self._explicit = profile is not None
        self._region = region or ""
        self._endpoint = endpoint_url
        self._metadata = metadata and (
            self._environment.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true"
        )
        self._now = now
        self._found: Credentials | None = None
        self.source = ""
        """Where the credentials came from, for people."""

    def forget(self) -> None:
        """AWS did not take them."""
        self._found = None

    async def region(self, http: httpx.AsyncClient) -> str:
        """Raises RegistryError."""
        if not self._region:
            self._region = files.region_of(self._environment) or (await self._shared()).region
        if not self._region and self._metadata:
            body = await self._imds(http, "/latest/meta-data/placement/region", "the region")
            self._region = body.decode("ascii", "replace").strip()
        if not self._region:
            raise RegistryError("no region is known: set `region` or AWS_REGION")
        return self._region

    async def credentials(self, http: httpx.AsyncClient) -> Credentials:
        """Good for some minutes. Raises RegistryError."""
        found = self._found
        if found is not None and found.expires - self._now() > SOON:
            return found
        try:
            self._found = await self._search(http)
        except RegistryError:
            # As long as the old ones are good, a service that is away harms nobody.
            if found is None or found.expires <= self._now():
                raise
            return found
        return self._found

    async def _search(self, http: httpx.AsyncClient) -> Credentials:
        environment = self._environment
        if not self._explicit:
            found = files.from_environment(environment)
            if found is not None:
                return self._from(found, "the environment")
            if environment.get("AWS_WEB_IDENTITY_TOKEN_FILE") and environment.get("AWS_ROLE_ARN"):
                return self._from(await self._web_identity(http), "a web identity")
        shared = await self._shared()
        found = shared.keys()
        if found is not None:
            return self._from(found, f"the profile {self._profile!r}")
        if self._explicit:
            raise RegistryError(f"the profile {self._profile!r} has no keys")
        if any(environment.get(f"AWS_CONTAINER_CREDENTIALS_{x}_URI") for x in ("RELATIVE", "FULL")):
            return self._from(await self._container(http), "the container's service")
        if self._metadata:
            return self._from(await self._instance(http), "the instance's role")
        raise RegistryError(
            "no credentials were found: neither in the environment nor in the shared files"
        )

    def _from(self, found: Credentials, source: str) -> Credentials:
        self.source = source
        return found

    async def _shared(self) -> files.Shared:
        return await trio.to_thread.run_sync(files.read, self._profile, self._environment)

    # --- services ---

    async def _web_identity(self, http: httpx.AsyncClient) -> Credentials:
        environment = self._environment
        token = await trio.to_thread.run_sync(
            read_secret, "/", environment["AWS_WEB_IDENTITY_TOKEN_FILE"]
        )
        region = self._region or files.region_of(environment) or (await self._shared()).region
        url = self._endpoint or sts_url(region or "us-east-1")
        doing = "credentials by a web identity: AssumeRoleWithWebIdentity"
        answer = await fetch(
            http,
            url,
            doing=doing,
            form={
                "Action": "AssumeRoleWithWebIdentity",
                "Version": "2011-06-15",
                "RoleArn": environment["AWS_ROLE_ARN"],
                "RoleSessionName": environment.get("AWS_ROLE_SESSION_NAME", "nodeproxy"),
                "WebIdentityToken": token,
            },
        )
        if answer.status != 200:
            raise RegistryError(f"{doing}: {answer.status}")
        fields = {}
        try:
            for element in ET.fromstring(answer.body).iter():
                fields[element.tag.rpartition("}")[2]] = element.text or ""
            return Credentials(
                fields["AccessKeyId"],
                fields["SecretAccessKey"],
                fields["SessionToken"],
                _epoch(fields["Expiration"]),
            )
        except (ET.ParseError, KeyError, ValueError):
            raise RegistryError(f"{doing}: the answer has no credentials") from None

    async def _container(self, http: httpx.AsyncClient) -> Credentials:
        environment = self._environment
        relative = environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        url = f"{CONTAINER}{relative}" if relative else ""
        headers: dict[str, str] = {}
        if not relative:
            url = environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
            parsed = httpx.URL(url)
            if parsed.scheme != "https" and parsed.host not in _CONTAINER_HOSTS:
                raise RegistryError(
                    f"AWS_CONTAINER_CREDENTIALS_FULL_URI names {parsed.host!r} without https"
                )
        token = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
        if file := environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
            token = await trio.to_thread.run_sync(read_secret, "/", file)
        if token:
            headers["Authorization"] = token
        doing = "credentials of the container"
        answer = await fetch(http, url, doing=doing, headers=headers, read_timeout=PATIENCE)
        return _keys(answer, doing)

    async def _instance(self, http: httpx.AsyncClient) -> Credentials:
        doing = "credentials of the instance's role"
        place = "/latest/meta-data/iam/security-credentials/"
        role = (await self._imds(http, place, doing)).decode("utf-8", "replace").split("\n")[0]
        if not role:
            raise RegistryError(f"{doing}: the instance has no role")
        body = await self._imds(http, place + role, doing)
        return _keys(Answer(200, httpx.Headers(), body), doing)

    async def _imds(self, http: httpx.AsyncClient, path: str, doing: str) -> bytes:
        """Version 2: with a token of the session. Raises RegistryError."""
        base = self._environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", IMDS).rstrip("/")
        token = await fetch(
            http,
            f"{base}/latest/api/token",
            doing=f"{doing}: the instance metadata service",
            method="PUT",
            headers={"X-aws-ec2-metadata-token-ttl-seconds": _SESSION},
            read_timeout=PATIENCE,
        )
        if token.status != 200:
            raise RegistryError(f"{doing}: the instance metadata service: {token.status}")
        answer = await fetch(
            http,
            f"{base}{path}",
            doing=doing,
            headers={"X-aws-ec2-metadata-token": token.body.decode("ascii", "replace")},
            read_timeout=PATIENCE,
        )
        if answer.status != 200:
            raise RegistryError(f"{doing}: the instance metadata service: {answer.status}")
        return answer.body


def _keys(answer: Answer, doing: str) -> Credentials:
    """Raises RegistryError; its message has nothing of the answer."""
    if answer.status != 200:
        raise RegistryError(f"{doing}: {answer.status}")
    try:
        found: Any = msgspec.json.decode(answer.body, type=_Keys)
        expires = _epoch(found.expiration) if found.expiration else float("inf")
    except (msgspec.MsgspecError, ValueError):
        raise RegistryError(f"{doing}: the answer has no credentials") from None
    return Credentials(found.access_key_id, found.secret_access_key, found.token, expires)


def _epoch(text: str) -> float:
    """Raises ValueError."""
    return datetime.datetime.fromisoformat(text).timestamp()
