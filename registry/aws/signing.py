"""Signature Version 4, by botocore; the request itself goes through our own client.

Known vectors of AWS hold it in the tests. botocore is imported when a back end is made: it belongs
to the extra ``aws``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

import msgspec

__all__ = ["Credentials", "Signer", "load"]


class Credentials(msgspec.Struct, frozen=True):
    """Keys, and until when they are good."""

    access_key: str
    secret_key: str
    token: str = ""
    expires: float = float("inf")
    """Seconds since the epoch."""

    def __repr__(self) -> str:
        # Nothing of it may come into a log by accident.
        return "Credentials(...)"


class Signer(Protocol):
    """Signs requests."""

    def __call__(
        self,
        credentials: Credentials,
        service: str,
        region: str,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> dict[str, str]:
        """All headers to send, as they are signed."""


def load() -> Signer:
    """Raises ValueError if botocore is not installed."""
    try:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials as Keys
    except ImportError:
        raise ValueError("the registry aws needs botocore: pip install 'nodeproxy[aws]'") from None
    # At the level debug it writes what it signs, session tokens included.
    logging.getLogger("botocore.auth").setLevel(logging.INFO)

    def sign(
        credentials: Credentials,
        service: str,
        region: str,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> dict[str, str]:
        request = AWSRequest(method=method, url=url, headers=dict(headers), data=body)
        keys = Keys(credentials.access_key, credentials.secret_key, credentials.token or None)
        SigV4Auth(keys, service, region).add_auth(request)
        return {str(name): str(value) for name, value in request.headers.items()}

    return sign
