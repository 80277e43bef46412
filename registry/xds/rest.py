"""REST-JSON polling of a discovery service: one request, and what its answer says. Thin I/O.

Protocol: Envoy's documentation, "xDS REST and gRPC protocol", "REST-JSON polling subscriptions".
``POST /v3/discovery:endpoints`` with a DiscoveryRequest; 304 without a body: nothing new since
``version_info``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx
import msgspec

from registry.base import RegistryError
from registry.fetch import fetch

__all__ = ["UNCHANGED", "Unchanged", "ask", "version_of"]

_VERSION: Final = re.compile(rb'"version_?[iI]nfo"\s*:\s*("(?:[^"\\]|\\.)*")')


class Unchanged:
    """The answer 304."""


UNCHANGED: Final = Unchanged()


def version_of(body: bytes) -> str:
    """``version_info`` of a DiscoveryResponse; empty where it has none. The first one counts: it
    stands before the resources, or no resource has such a field."""
    match = _VERSION.search(body)
    try:
        return msgspec.json.decode(match[1], type=str) if match else ""
    except msgspec.DecodeError:
        return ""


async def ask(
    http: httpx.AsyncClient,
    path: str,
    *,
    type_url: str,
    node: Mapping[str, Any],
    version: str,
    names: Sequence[str],
    headers: Mapping[str, str],
    timeout: float = 10.0,
) -> bytes | Unchanged:
    """The body of a DiscoveryResponse. Raises RegistryError."""
    request = {"version_info": version, "node": node, "type_url": type_url}
    if names:
        request["resource_names"] = list(names)
    doing = f"POST {str(http.base_url).rstrip('/')}{path}"
    answer = await fetch(
        http,
        path,
        doing=doing,
        content=msgspec.json.encode(request),
        headers={"Content-Type": "application/json", **headers},
        read_timeout=timeout,
    )
    if answer.status == 304:
        if not version:
            raise RegistryError(f"{doing}: 304 (unchanged) to a first request")
        return UNCHANGED
    if answer.status in (401, 403):
        raise RegistryError(
            f"{doing}: {answer.status}: this node may not read it ({answer.said()})"
        )
    if answer.status != 200:
        raise RegistryError(f"{doing}: {answer.status} {answer.said()}")
    return answer.body
