"""SkyDNS and CoreDNS's plug-in ``etcd``; registrator's ``skydns2://`` writes it, too.

``/skydns/local/cluster/web/x1`` -> ``{"host":"10.0.0.1","port":8080,"priority":10,"weight":20}``
stands for ``x1.web.cluster.local``. The service is what all but the last part name, as a
domain below the prefix: with the prefix ``/skydns/local/cluster`` it is ``web``, with ``/skydns``
it is ``web.cluster.local``.
"""

from __future__ import annotations

import itertools
from typing import Final

import msgspec

from registry.layouts.entry import (
    Entry,
    Layout,
    Parts,
    Unusable,
    address_of,
    json_value,
    name_of,
    port_of,
    weight_of,
)
from registry.model import Endpoint

__all__ = ["SkyDns"]

_APEX: Final = frozenset(("apex", "ns", "stub"))


class _Record(msgspec.Struct):
    host: str = ""
    port: int | None = None
    priority: int | None = None
    weight: float | None = None
    mail: bool | None = None


class SkyDns(Layout):
    """See the module's text."""

    kind = "skydns"
    prefix = "/skydns"
    # CoreDNS counts a record without a weight as 100.
    unset_weight = 100

    def service(self, parts: Parts) -> str | None:
        if parts[0] == "arpa" or any(
            part == "dns" and after in _APEX for part, after in itertools.pairwise(parts)
        ):
            return None  # reverse names; the zone's own records and name servers
        if len(parts) < 2:
            raise Unusable("the key names no service: the prefix is too long")
        return name_of([".".join(reversed(parts[:-1]))])

    def decode(self, parts: Parts, value: bytes) -> Entry | None:
        record = json_value(value, _Record)
        if not record.host or record.mail:
            return None  # TXT and MX
        port = port_of(record.port) if record.port else 0
        return Entry(
            (Endpoint(address_of(record.host), port),),
            weight=weight_of(record.weight or None),
            # SRV: a lower number is tried first; SkyDNS reads 0 as 10.
            priority=record.priority or 10,
        )
