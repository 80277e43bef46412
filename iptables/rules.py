"""The rules as text: a pure function of the settings.

The number of rules is constant; services live in sets (see `sets_text`), never in rules:

- nat: what is addressed to a member of a set that is listed and alive in NP-OUT-LIVE goes to the
  proxy's address on `lo`. DNAT and not REDIRECT, which drops packets from an interface that has
  no IPv4 address. With `fail: closed` what is left of those services goes to the refusal port.
- mangle: the guard. Only intercepted flows may reach the proxy's ports, and while nobody listens
  a SYN is swallowed, so that the client tries again and not fails, until the switch has expired.
- filter: opens the proxy's ports to intercepted flows where INPUT drops, and the refusal port,
  which is closed, so that the kernel answers with a reset; refuses what went to `lo` by our
  route and is nobody's.

Rules are written exactly as `iptables-save` prints them: reading back is comparing text.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from iptables import names
from iptables.names import Family
from iptables.saved import Ruleset
from iptables.settings import Settings


@dataclass(frozen=True)
class Jump:
    """The way from a built-in chain into one of ours; `rule` is all after "-A CHAIN "."""

    chain: str
    rule: str
    target: str


@dataclass(frozen=True)
class TableRules:
    """Our part of one table."""

    name: str
    jumps: tuple[Jump, ...] = ()
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def rules(settings: Settings, family: Family) -> tuple[TableRules, ...]:
    """What must be in the tables of a family, in the order nat, mangle, filter."""
    return (_nat(settings, family), _mangle(settings, family), _filter(settings, family))


def install_text(expected: Iterable[TableRules], seen: Ruleset) -> str:
    """The one transaction (for `iptables-restore --noflush`) that leads from `seen` to `expected`.

    Jumps that are there are deleted by their own text; should one have gone meanwhile, the
    whole transaction fails and nothing has changed.
    """
    lines = []
    for table in expected:
        stale = _own_chains(seen, table.name) - set(table.chains)
        lines.append(f"*{table.name}")
        lines += [f":{chain} - [0:0]" for chain in (*table.chains, *sorted(stale))]
        lines += _deletions(seen, table.name)
        lines += [f"-X {chain}" for chain in sorted(stale)]
        lines += [f"-I {jump.chain} 1 {jump.rule}" for jump in table.jumps]
        for chain, body in table.chains.items():
            lines += [f"-A {chain} {rule}" for rule in body]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def removal_text(seen: Ruleset) -> str:
    """The transaction that takes everything of ours out of `seen`; "" if there is nothing."""
    lines = []
    for table in names.TABLES:
        chains = sorted(_own_chains(seen, table))
        deletions = _deletions(seen, table)
        if chains or deletions:
            lines.append(f"*{table}")
            lines += [f":{chain} - [0:0]" for chain in chains]
            lines += deletions
            lines += [f"-X {chain}" for chain in chains]
            lines.append("COMMIT")
    return "\n".join(lines) + "\n" if lines else ""


def saved_text(expected: Iterable[TableRules]) -> str:
    """What `iptables-save` would print on a machine where nobody else has rules."""
    builtin = {
        "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
        "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
        "filter": ("INPUT", "FORWARD", "OUTPUT"),
    }
    lines = []
    for table in expected:
        lines.append(f"*{table.name}")
        lines += [f":{chain} ACCEPT [0:0]" for chain in builtin[table.name]]
        lines += [f":{chain} - [0:0]" for chain in table.chains]
        lines += [f"-A {jump.chain} {jump.rule}" for jump in table.jumps]
        for chain, body in table.chains.items():
            lines += [f"-A {chain} {rule}" for rule in body]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def sets_text(settings: Settings) -> str:
    """What `ipset -exist restore` must be given before the rules can be installed.

    Sets of both families always: a list that serves both needs its members, and they are empty.
    The lists' default timeout never counts: every heartbeat carries its own.
    """
    plain = "create {} hash:ip,port family {} hashsize 1024 maxelem {} counters"
    lines = []
    for family in names.FAMILIES:
        inet = "inet" if family == 4 else "inet6"
        lines.append(plain.format(names.VIP[family], inet, 262144))
        if settings.fail == "closed":
            lines.append(plain.format(names.ENFORCED[family], inet, 262144))
        if settings.inbound:
            lines.append(plain.format(names.POD[family], inet, 65536))
    lines.append(f"create {names.OUT_LIVE} list:set size 8 timeout 2")
    if settings.inbound:
        lines.append(f"create {names.IN_LIVE} list:set size 8 timeout 2")
    return "\n".join(lines) + "\n"


def fill_text(name: str, family: Family, members: Iterable[tuple[str, int]], maxelem: int) -> str:
    """Replace what a set holds, at once: fill another one and swap them (ipset restore)."""
    new = f"{name}{names.SWAP_SUFFIX}"
    inet = "inet" if family == 4 else "inet6"
    head = f"create {new} hash:ip,port family {inet} hashsize 1024 maxelem {maxelem} counters"
    body = [f"add {new} {address},tcp:{port}" for address, port in members]
    return "\n".join([head, f"flush {new}", *body, f"swap {new} {name}", f"destroy {new}"]) + "\n"


def _nat(settings: Settings, family: Family) -> TableRules:
    address = settings.address(family)
    host = address if family == 4 else f"[{address}]"

    def dnat(set_name: str, port: int) -> str:
        match = f"-p tcp -m set --match-set {set_name} dst,dst"
        return f"{match} -j DNAT --to-destination {host}:{port}"

    outbound = dnat(names.OUT_LIVE, settings.outbound_port)
    closed = []
    if settings.fail == "closed":
        closed.append(dnat(names.ENFORCED[family], settings.refuse_port))
    inbound = [dnat(names.IN_LIVE, settings.inbound_port)] if settings.inbound else []
    own = f"-m mark --mark {settings.mark:#x}/{settings.mask:#x} -j RETURN"
    return TableRules(
        "nat",
        (_jump("PREROUTING", "", names.PRE), _jump("OUTPUT", "", names.OUT)),
        {
            names.PRE: (outbound, *inbound, *closed),
            names.OUT: (own, outbound, *closed),
        },
    )


def _mangle(settings: Settings, family: Family) -> TableRules:
    body = ["-m conntrack ! --ctstate DNAT -j DROP"]
    if settings.syn_guard:
        # Not for lo: there the flow is confirmed before it is dropped, a retry would not be
        # looked at afresh.
        body += [
            "-i lo -j RETURN",
            "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j RETURN",
            "-p tcp -m socket --nowildcard -j RETURN",
            "-p tcp -j DROP",
        ]
    match = f"-d {_single(settings, family)} -p tcp -m multiport --dports {_ports(settings)} "
    return TableRules("mangle", (_jump("INPUT", match, names.GUARD),), {names.GUARD: tuple(body)})


def _filter(settings: Settings, family: Family) -> TableRules:
    match = f"-d {_single(settings, family)} -p tcp "
    jumps = [_jump("INPUT", match, names.LOCAL)]
    refusal = f"-p tcp -m tcp --dport {settings.refuse_port} "
    translated = "-m conntrack --ctstate DNAT -j ACCEPT"
    local = [
        # The kernel's own answer for a closed port is the refusal. REJECT would send its reset
        # past NAT where the packet came over a bridge, from an address that the client never
        # spoke to.
        f"{refusal}{translated}",
        f"-p tcp -m multiport --dports {_ports(settings)} {translated}",
    ]
    if settings.syn_guard:  # should someone listen there after all, on every address
        local.insert(0, f"{refusal}-m socket --nowildcard -j DROP")
    chains: dict[str, tuple[str, ...]] = {names.LOCAL: tuple(local)}
    cidrs = settings.cidrs(family)
    if cidrs:
        jumps += [_jump(chain, "-o lo ", names.UNSERVED) for chain in ("FORWARD", "OUTPUT")]
        # An address that this machine really has is reached by way of lo, too: not ours.
        foreign = "-m addrtype ! --dst-type LOCAL -j REJECT --reject-with"
        unreachable = "icmp-port-unreachable" if family == 4 else "icmp6-port-unreachable"
        body: list[str] = []
        for cidr in cidrs:
            body += [
                f"-d {cidr} -p tcp {foreign} tcp-reset",
                f"-d {cidr} {foreign} {unreachable}",
            ]
        chains[names.UNSERVED] = tuple(body)
    return TableRules("filter", tuple(jumps), chains)


def _jump(chain: str, match: str, target: str) -> Jump:
    return Jump(chain, f"{match}-m comment --comment {names.COMMENT} -j {target}", target)


def _single(settings: Settings, family: Family) -> str:
    return f"{settings.address(family)}/{32 if family == 4 else 128}"


def _ports(settings: Settings) -> str:
    ports = [settings.outbound_port]
    if settings.inbound:
        ports.append(settings.inbound_port)
    return ",".join(map(str, ports))


def _own_chains(seen: Ruleset, table: str) -> set[str]:
    return {chain for chain in seen.chains(table) if chain in names.ALL_CHAINS}


def _deletions(seen: Ruleset, table: str) -> list[str]:
    """Every rule of a foreign chain that leads to a chain of ours."""
    return [
        f"-D {rule.chain} {rule.text}"
        for rule in seen.rules(table)
        if "NP-" in rule.text  # the quick look, at thousands of others' rules
        and rule.target in names.ALL_CHAINS
        and rule.chain not in names.ALL_CHAINS
    ]
