"""What answers say, and what endpoints follow from it. Pure.

SRV: RFC 2782. Only the targets of the lowest priority that has any address are used; a weight of
0 beside others above 0 means "hardly ever", not "never".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

__all__ = ["Addresses", "Srv", "Srvs", "addresses", "by_priority", "shares", "srvs"]

NO_TTL: Final = 5
"""Seconds until a name is asked again whose "there is none" came without an SOA record."""
TINY: Final = 100
"""How much more than a weight of 0 a weight of 1 gets."""


class Addresses(NamedTuple):
    """The addresses of a name."""

    found: tuple[str, ...]
    ttl: int
    exists: bool = True
    """False: there is no such name (NXDOMAIN)."""


class Srv(NamedTuple):
    """One SRV record."""

    priority: int
    weight: int
    port: int
    target: dns.name.Name


class Srvs(NamedTuple):
    """The SRV records of a name, and the addresses that came along with them."""

    found: tuple[Srv, ...]
    ttl: int
    exists: bool
    additional: dict[dns.name.Name, tuple[str, ...]]


def addresses(answer: dns.message.QueryMessage) -> Addresses:
    """To a question for A or AAAA. Raises DNSException for a chain of aliases without an end."""
    chain = answer.resolve_chaining()
    if answer.rcode() == dns.rcode.NXDOMAIN:
        return Addresses((), _negative(answer, chain.minimum_ttl), exists=False)
    if chain.answer is None:
        return Addresses((), _negative(answer, chain.minimum_ttl))
    return Addresses(tuple(sorted(r.address for r in chain.answer)), chain.minimum_ttl)


def srvs(answer: dns.message.QueryMessage) -> Srvs:
    """To a question for SRV. A target of "." says that there is no service here."""
    chain = answer.resolve_chaining()
    exists = answer.rcode() != dns.rcode.NXDOMAIN
    if not exists or chain.answer is None:
        return Srvs((), _negative(answer, chain.minimum_ttl), exists, {})
    found = [
        Srv(r.priority, r.weight, r.port, r.target)
        for r in chain.answer
        if r.target != dns.name.root
    ]
    ttl = chain.minimum_ttl
    additional: dict[dns.name.Name, tuple[str, ...]] = {}
    targets = {srv.target for srv in found}
    for rrset in answer.additional:
        if rrset.name in targets and rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            ttl = min(ttl, rrset.ttl)
            more = tuple(sorted(r.address for r in rrset))
            additional[rrset.name] = additional.get(rrset.name, ()) + more
    return Srvs(tuple(sorted(found)), ttl, exists, additional)


def _negative(answer: dns.message.QueryMessage, ttl: int) -> int:
    """RFC 2308: without an SOA record nothing is said about how long it holds."""
    soa = any(rrset.rdtype == dns.rdatatype.SOA for rrset in answer.authority)
    return ttl if soa else min(ttl, NO_TTL)


def by_priority(found: Sequence[Srv]) -> Iterator[list[Srv]]:
    """Records of one priority together, the most wanted first."""
    for _, group in groupby(sorted(found), key=lambda srv: srv.priority):
        yield list(group)


def shares(weights: Sequence[int]) -> list[int]:
    """SRV weights as weights of ours, where 0 would mean "no new traffic"."""
    top = max(weights, default=0)
    if min(weights, default=1) > 0:
        return list(weights)
    if not top:
        return [1] * len(weights)
    factor = min(TINY, 65535 // top)
    return [weight * factor or 1 for weight in weights]
