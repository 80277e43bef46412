"""The kernel path: where connections go while the switch has fallen and no kube-proxy runs.

A table of our own in nf_tables, whose hooks come right after those of iptables; NAT is decided
once per connection, so it only sees what the rules of iptables let fall through. Two maps of
hash type carry everything::

    services    address . port         -> goto m3        (three slots; "goto refuse": no endpoint)
    endpoints   address . port . slot  -> address . port (slot: a random number below three)

so a lookup costs the same for one service and for 10,000, and the change of one endpoint is the
change of a few map elements. Weights are numbers of slots. What was sent to another machine or
pod is masqueraded, as the endpoint would otherwise answer the client directly (two pods on one
bridge, a pod that reaches itself); the endpoint sees the node, as it does behind the proxy.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from iptables import names
from iptables.names import Family
from iptables.settings import Backend, Frontend, Settings

Key = tuple[str, int]
Target = str  # "address . port", as nft writes it; not a tuple, to spare the garbage collector
MOST_SLOTS = 1024
BASE_CHAINS = ("prerouting", "output", "postrouting", "refuse")  # with one rule each


def slots(backends: Sequence[Backend], old: Sequence[Target] = ()) -> tuple[Target, ...]:
    """Which endpoint each slot holds, so that their numbers are as the weights.

    Exact as long as the reduced weights sum up to no more than 1024, else rounded (largest
    remainder). Weight 0 gets none. Slots of `old` stay where they are as far as possible.
    """
    weights: dict[Target, int] = {}
    for backend in backends:
        key = f"{backend.address} . {backend.port}"
        weights[key] = max(weights.get(key, 0), backend.weight)
    wanted = _apportion({key: weight for key, weight in weights.items() if weight > 0})
    total = sum(wanted.values())
    result: list[Target | None] = [None] * total
    for position, key in enumerate(old[:total]):
        if wanted.get(key, 0) > 0:
            result[position] = key
            wanted[key] -= 1
    rest = (key for key, count in wanted.items() for _ in range(count))
    return tuple(key if key is not None else next(rest) for key in result)


def _apportion(weights: Mapping[Target, int]) -> dict[Target, int]:
    divisor = math.gcd(*weights.values()) if weights else 1
    reduced = {key: weight // divisor for key, weight in weights.items()}
    total = sum(reduced.values())
    if total <= MOST_SLOTS:
        return reduced
    shares = {key: weight * MOST_SLOTS / total for key, weight in reduced.items()}
    counts = {key: int(share) for key, share in shares.items()}
    by_remainder = sorted(shares, key=lambda key: counts[key] - shares[key])
    for key in by_remainder[: MOST_SLOTS - sum(counts.values())]:
        counts[key] += 1
    return counts


class KernelPath:
    """One family's table: what it holds, and the text for `nft -f` that changes it.

    A text that could not be applied leaves the kernel as it was and this object ahead of it:
    the caller starts over with `replace`.
    """

    def __init__(self, settings: Settings, family: Family) -> None:
        self._settings = settings
        self._family = family
        self._table = f"{names.NFT_FAMILY[family]} {names.NFT_TABLE}"
        self.services: dict[Key, tuple[Target, ...]] = {}
        self._addresses: Counter[str] = Counter()
        self._moduli: set[int] = set()

    def serves(self, frontend: Frontend) -> bool:
        """Whether a service may use this path: not where the proxy must be."""
        return self._settings.fail == "open" or not frontend.intercept

    def replace(self, frontends: Iterable[Frontend]) -> str:
        """The transaction that makes the table anew with these services."""
        self.services = {f.key: slots(f.backends) for f in frontends if self.serves(f)}
        self._addresses = Counter(address for address, _ in self.services)
        self._moduli = {len(targets) for targets in self.services.values() if targets}
        lines = [f"table {self._table}", f"delete table {self._table}", *self._skeleton()]
        lines += [self._modulus(count) for count in sorted(self._moduli)]
        lines += self._element(
            "add",
            "services",
            (f"{_key(key)} : goto {_chain(targets)}" for key, targets in self.services.items()),
        )
        lines += self._element(
            "add",
            "endpoints",
            (
                f"{_key(key)} . {slot} : {target}"
                for key, targets in self.services.items()
                for slot, target in enumerate(targets)
            ),
        )
        lines += self._element("add", "addresses", self._addresses)
        return "\n".join(lines) + "\n"

    def change(self, upserts: Iterable[Frontend], removals: Iterable[Key]) -> str:
        """The transaction for a change; "" if nothing changes."""
        lines: list[str] = []
        for key in removals:
            if key in self.services:
                lines += self._set(key, None)
        for frontend in upserts:
            old = self.services.get(frontend.key, ())
            if self.serves(frontend):
                lines += self._set(frontend.key, slots(frontend.backends, old))
            elif frontend.key in self.services:
                lines += self._set(frontend.key, None)
        return "\n".join(lines) + "\n" if lines else ""

    def remove(self) -> str:
        """The transaction that leaves nothing, whether the table exists or not."""
        return f"table {self._table}\ndelete table {self._table}\n"

    def _set(self, key: Key, new: tuple[Target, ...] | None) -> list[str]:
        """Lead one service to other slots (None: it is gone)."""
        old = self.services.get(key)
        if old == new:
            return []
        lines: list[str] = []
        before = None if old is None else _chain(old)
        after = None if new is None else _chain(new)
        if new and len(new) not in self._moduli:
            self._moduli.add(len(new))
            lines.append(self._modulus(len(new)))
        if before is not None and before != after:
            lines += self._element("delete", "services", [_key(key)])
        was, now = old or (), new or ()
        changed = [i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b]
        gone = [*changed, *range(len(now), len(was))]
        come = [*changed, *range(len(was), len(now))]
        lines += self._element("delete", "endpoints", (f"{_key(key)} . {i}" for i in gone))
        lines += self._element("add", "endpoints", (f"{_key(key)} . {i} : {now[i]}" for i in come))
        if after is not None and before != after:
            lines += self._element("add", "services", [f"{_key(key)} : goto {after}"])
        address = key[0]
        if old is None:
            self._addresses[address] += 1
            if self._addresses[address] == 1:
                lines += self._element("add", "addresses", [address])
        elif new is None:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]
                lines += self._element("delete", "addresses", [address])
        if new is None:
            del self.services[key]
        else:
            self.services[key] = new
        return lines

    def _element(self, verb: str, name: str, elements: Iterable[str]) -> list[str]:
        body = ", ".join(elements)
        return [f"{verb} element {self._table} {name} {{ {body} }}"] if body else []

    def _modulus(self, count: int) -> str:
        ip = _ip(self._family)
        target = f"{ip} daddr . tcp dport . numgen random mod {count} map @endpoints"
        # `add chain` does nothing if the chain is there, and only the first one gets a rule.
        return (
            f"add chain {self._table} m{count}\n"
            f"add rule {self._table} m{count} meta l4proto tcp"
            f" counter name connections dnat to {target}"
        )

    def _skeleton(self) -> list[str]:
        ip = _ip(self._family)
        kind = "ipv4_addr" if self._family == 4 else "ipv6_addr"
        address = self._settings.address(self._family)
        refusal = f"{address if self._family == 4 else f'[{address}]'}:{self._settings.refuse_port}"
        lookup = f"{ip} daddr . tcp dport vmap @services"
        return [
            f"table {self._table} {{",
            "  counter connections { }",
            f"  map services {{ type {kind} . inet_service : verdict; }}",
            f"  map endpoints {{ typeof {ip} daddr . tcp dport . numgen random mod 2"
            f" : {ip} daddr . tcp dport; }}",
            f"  set addresses {{ type {kind}; }}",
            f"  chain refuse {{ meta l4proto tcp dnat to {refusal}; }}",
            "  chain prerouting { type nat hook prerouting priority -90; policy accept;",
            f"    {lookup};",
            "  }",
            "  chain output { type nat hook output priority -90; policy accept;",
            f"    {lookup};",
            "  }",
            "  chain postrouting { type nat hook postrouting priority 90; policy accept;",
            f'    oifname != "lo" ct status dnat ct original {ip} daddr @addresses masquerade;',
            "  }",
            "}",
        ]


def _ip(family: Family) -> str:
    return "ip" if family == 4 else "ip6"


def _chain(targets: Sequence[Target]) -> str:
    return f"m{len(targets)}" if targets else "refuse"


def _key(key: Key) -> str:
    return f"{key[0]} . {key[1]}"
