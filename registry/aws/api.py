"""Signed requests to AWS: where they go, what fails, and when to try again."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import httpx
import msgspec
import trio

from registry.aws.credentials import Chain
from registry.aws.signing import Signer
from registry.aws.xmltext import parse, text
from registry.base import RegistryError
from registry.fetch import Answer, fetch

__all__ = ["Aws", "Refused", "error_of", "url_of"]

THROTTLED: Final = frozenset(
    {
        "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled",
        "RequestThrottledException", "RequestLimitExceeded", "TooManyRequestsException",
        "RequestLimitExceededException", "BandwidthLimitExceeded", "SlowDown",
        "PriorRequestNotComplete", "EC2ThrottledException", "TransactionInProgressException",
    }
)  # fmt: skip
EXPIRED: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "UnrecognizedClientException",
     "InvalidClientTokenId", "AuthFailure"}
)  # fmt: skip
DENIED: Final = frozenset(
    {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "UnauthorizedAccess"}
)
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 20.0
MAP_TARGET: Final = "Route53AutoNaming_v20170314"


class Refused(Exception):
    """AWS answered with an error that another attempt would not change."""

    def __init__(self, doing: str, code: str, message: str) -> None:
        super().__init__(f"{doing}: {code}: {message}" if message else f"{doing}: {code}")
        self.code = code


def url_of(service: str, region: str, endpoint_url: str | None, *, data: bool = False) -> str:
    """``data``: of Cloud Map's own end point for discovery."""
    if endpoint_url:
        return endpoint_url.rstrip("/") + "/"
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    prefix = "data-" if data else ""
    return f"https://{prefix}{service}.{region}.{suffix}/"


def error_of(answer: Answer) -> tuple[str, str]:
    """Code and message of an error, in JSON or XML; empty texts where there is none."""
    body = answer.body.lstrip()
    if body[:1] == b"{":
        try:
            found = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            return "", ""
        code = str(found.get("__type") or found.get("code") or "").rpartition("#")[2]
        message = found.get("message") or found.get("Message") or ""
        return code.partition(":")[0], str(message)[:300]
    if body[:1] == b"<" and len(body) < 65536:
        try:
            root = ET.fromstring(body)
        except ET.ParseError:
            return "", ""
        fields = {e.tag.rpartition("}")[2]: (e.text or "").strip() for e in root.iter()}
        return fields.get("Code", ""), fields.get("Message", "")[:300]
    return "", ""


class Aws:
    """One region with one identity."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        chain: Chain,
        sign: Signer,
        region: str,
        *,
        endpoint_url: str | None,
        timeout: float,
        attempts: int,
        rng: random.Random,
    ) -> None:
        self.region = region
        self._http = http
        self._chain = chain
        self._sign = sign
        self._endpoint_url = endpoint_url
        self._timeout = timeout
        self._attempts = attempts
        self._rng = rng
        self.throttled = 0
        """Answers that asked for patience."""

    async def cloud_map(self, action: str, payload: Mapping[str, Any]) -> bytes:
        """The answer's JSON. Raises RegistryError and Refused."""
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"{MAP_TARGET}.{action}",
        }
        url = url_of(
            "servicediscovery",
            self.region,
            self._endpoint_url,
            data=action.startswith("DiscoverInstances"),
        )
        body = msgspec.json.encode(dict(payload))
        return await self._send("servicediscovery", action, url, headers, body)

    async def query(
        self, service: str, version: str, action: str, params: Mapping[str, str]
    ) -> ET.Element:
        """The root of the answer. Raises RegistryError and Refused."""
        body = urlencode({"Action": action, "Version": version, **params}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        url = url_of(service, self.region, self._endpoint_url)
        answer = await self._send(service, action, url, headers, body)
        try:
            return await parse(answer)
        except ValueError as error:
            raise RegistryError(f"{service}:{action}: {error}") from None

    async def pages(
        self,
        service: str,
        version: str,
        action: str,
        params: Mapping[str, str],
        *,
        asks: str,
        gives: str,
    ) -> AsyncGenerator[ET.Element, None]:
        """One root for each page; ``asks`` and ``gives`` are what a page's mark is called."""
        mark = ""
        while True:
            root = await self.query(
                service, version, action, {**params, asks: mark} if mark else params
            )
            yield root
            following = next((text(e, ".") for e in root.iter(gives)), "")
            if not following:
                return
            if following == mark:
                raise RegistryError(f"{service}:{action}: the pages have no end")
            mark = following

    async def _send(
        self, service: str, action: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> bytes:
        doing = f"{service}:{action}"
        renewed = False
        pause = FIRST_PAUSE
        attempt = 1
        while True:
            keys = await self._chain.credentials(self._http)
            signed = self._sign(keys, service, self.region, "POST", url, headers, body)
            answer = await fetch(
                self._http,
                url,
                doing=doing,
                content=body,
                headers=signed,
                read_timeout=self._timeout,
            )
            if answer.status == 200:
                return answer.body
            code, message = error_of(answer)
            if code in EXPIRED and not renewed:
                renewed = True
                self._chain.forget()
                continue
            patience = answer.status == 429 or code in THROTTLED
            self.throttled += patience
            if not patience and answer.status < 500:
                raise self._refused(doing, answer, code, message)
            if attempt >= self._attempts:
                why = "AWS throttles" if patience else "AWS fails"
                raise RegistryError(f"{doing}: {why}: {answer.status} {code} {message}".rstrip())
            attempt += 1
            # Full jitter, as AWS advises, but never at once.
            await trio.sleep(pause * self._rng.uniform(0.5, 1.0))
            pause = min(LONGEST_PAUSE, pause * 2)

    def _refused(self, doing: str, answer: Answer, code: str, message: str) -> Exception:
        if code in DENIED:
            return RegistryError(f"this identity ({self._chain.source}) needs {doing}: {code}")
        if code in EXPIRED or answer.status in (401, 403):
            return RegistryError(
                f"{doing}: AWS does not take the credentials of {self._chain.source}:"
                f" {code or answer.status}"
            )
        return Refused(doing, code or str(answer.status), message)
