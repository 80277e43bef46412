"""From the bytes of a DNS query to those of the answer. Pure.

Authoritative for one zone and nothing else: no recursion, no forwarding, no transfer. A service's
name has its virtual addresses as A and AAAA records, and each of its ports with a name an SRV
record at ``_port._tcp.service.namespace.zone`` (RFC 2782). What is not there is denied with the
zone's SOA record (RFC 2308); a name above existing ones exists (RFC 8020). EDNS as in RFC 6891.
"""

from __future__ import annotations

import contextlib
import struct
from typing import Final, NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from nodeproxy.dns.names import Names
from registry.catalog import Catalog
from registry.model import Service

__all__ = ["DROPPED", "MAX_UDP", "Answer", "Zone", "answer"]

MAX_UDP: Final = 1232
"""Bytes of an answer by UDP at most: what passes every path unfragmented (DNS flag day 2020)."""
_MIN_UDP: Final = 512
_MAX_QUERY: Final = 4096
"""Bytes; a longer query asks for nothing that we have."""
DROPPED: Final = "DROPPED"
_IN: Final = dns.rdataclass.IN


class Answer(NamedTuple):
    """What to send."""

    wire: bytes
    """Empty: nothing."""
    rcode: str
    """``NOERROR``, ``NXDOMAIN``, ...; DROPPED where nothing is sent."""


class Zone(NamedTuple):
    """What is known, as of now."""

    origin: dns.name.Name
    """``mesh.``"""
    ttl: int
    """Seconds."""
    names: Names
    catalog: Catalog


def answer(wire: bytes, zone: Zone, *, udp: bool) -> Answer:
    """The answer to ``wire``, whatever that is."""
    if len(wire) < 12 or len(wire) > _MAX_QUERY or wire[2] & 0x80:
        return Answer(b"", DROPPED)  # no header, or an answer itself: two servers could go on
    try:
        query = dns.message.from_wire(wire)
    except (dns.exception.DNSException, ValueError, struct.error, IndexError):
        return _unread(wire)
    made = dns.message.make_response(query, recursion_available=False, our_payload=MAX_UDP)
    made.flags &= ~dns.flags.AD
    if query.opcode() != dns.opcode.QUERY:
        made.set_rcode(dns.rcode.NOTIMP)
    elif query.edns > 0:
        made.use_edns(0, 0, MAX_UDP)
        made.set_rcode(dns.rcode.BADVERS)
    elif len(query.question) != 1:
        made.set_rcode(dns.rcode.FORMERR)
    else:
        _fill(made, query.question[0], zone)
    size = 65535
    if udp:
        size = min(max(query.payload if query.edns >= 0 else 0, _MIN_UDP), MAX_UDP)
    return Answer(_sent(made, size), dns.rcode.to_text(made.rcode()))


def _unread(wire: bytes) -> Answer:
    """FORMERR with the query's number and kind, and nothing of its content."""
    flags = struct.unpack_from(">H", wire, 2)[0]
    flags = dns.flags.QR | (flags & 0x7800) | (flags & dns.flags.RD) | dns.rcode.FORMERR
    return Answer(wire[:2] + struct.pack(">H", flags) + bytes(8), "FORMERR")


def _sent(made: dns.message.Message, size: int) -> bytes:
    try:
        return made.to_wire(max_size=size)
    except dns.exception.TooBig:
        pass
    # RFC 2181, 9: what does not fit is left out; the client asks again by TCP.
    made.additional.clear()
    with contextlib.suppress(dns.exception.TooBig):
        return made.to_wire(max_size=size)
    made.answer.clear()
    made.authority.clear()
    made.flags |= dns.flags.TC
    return made.to_wire(max_size=size)


def _fill(made: dns.message.Message, asked: dns.rrset.RRset, zone: Zone) -> None:
    if asked.rdclass not in (_IN, dns.rdataclass.ANY) or not asked.name.is_subdomain(zone.origin):
        made.set_rcode(dns.rcode.REFUSED)
        return
    if asked.rdtype in (dns.rdatatype.AXFR, dns.rdatatype.IXFR):
        made.set_rcode(dns.rcode.REFUSED)
        return
    made.flags |= dns.flags.AA
    relative = asked.name.relativize(zone.origin)
    # A dot within a label is no border of labels.
    labels = [
        label.decode("ascii", "backslashreplace").lower().replace(".", "\\.")
        for label in relative.labels
    ]
    any_ = asked.rdtype == dns.rdatatype.ANY
    if relative == dns.name.empty:
        if any_ or asked.rdtype == dns.rdatatype.SOA:
            made.answer.append(_soa(zone))
        else:
            made.authority.append(_soa(zone))
        return
    exists = False
    if service := _service(labels, zone):
        exists = True
        _addresses(made.answer, asked.name, asked.rdtype, service, zone)
    elif labels[0].startswith("_") and (found := _port(labels, zone)):
        exists = True
        name, service, port = found
        if port is not None and (any_ or asked.rdtype == dns.rdatatype.SRV):
            target = dns.name.Name(asked.name.labels[name:])
            srv = _records(dns.rdatatype.SRV, f"0 1 {port} {target}")
            made.answer.append(_rrset(asked.name, zone, srv))
            _addresses(made.additional, target, dns.rdatatype.ANY, service, zone)
    if not made.answer:
        if not exists and not zone.names.exists(".".join(labels)):
            made.set_rcode(dns.rcode.NXDOMAIN)
        made.authority.append(_soa(zone))


def _service(labels: list[str], zone: Zone) -> Service | None:
    name = zone.names.service(".".join(labels))
    return None if name is None else zone.catalog.get(name)


def _port(labels: list[str], zone: Zone) -> tuple[int, Service, int | None] | None:
    """Of ``_http._tcp.web.shop``: labels before the service, the service, and the port's number;
    of ``_tcp.web.shop`` no number. None where nothing of this kind is there."""
    if labels[0] == "_tcp":
        service = _service(labels[1:], zone)
        named = service is not None and any(port.name for port in service.ports)
        return (1, service, None) if service is not None and named else None
    if len(labels) < 3 or labels[1] != "_tcp":
        return None
    service = _service(labels[2:], zone)
    if service is None:
        return None
    for port in service.ports:
        if port.name and port.name.lower() == labels[0][1:]:
            return 2, service, port.port
    return None


def _addresses(
    section: list[dns.rrset.RRset],
    name: dns.name.Name,
    wanted: dns.rdatatype.RdataType,
    service: Service,
    zone: Zone,
) -> None:
    for type_, is_six in ((dns.rdatatype.A, False), (dns.rdatatype.AAAA, True)):
        vips = [vip for vip in service.vips if (":" in vip) == is_six]
        if vips and wanted in (type_, dns.rdatatype.ANY):
            section.append(_rrset(name, zone, _records(type_, *vips)))


def _records(type_: dns.rdatatype.RdataType, *texts: str) -> list[dns.rdata.Rdata]:
    return [dns.rdata.from_text(_IN, type_, text) for text in texts]


def _soa(zone: Zone) -> dns.rrset.RRset:
    """The serial is the catalog's generation; nobody may transfer the zone."""
    serial = zone.catalog.generation & 0xFFFFFFFF
    text = f"ns.{zone.origin} nobody.{zone.origin} {serial} 3600 600 86400 {zone.ttl}"
    return _rrset(zone.origin, zone, _records(dns.rdatatype.SOA, text))


def _rrset(name: dns.name.Name, zone: Zone, records: list[dns.rdata.Rdata]) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, zone.ttl, records)
