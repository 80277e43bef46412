"""The services as the kernel holds them: members of the sets, elements of the kernel path.

`replace` builds everything anew (at start, and when something was found broken), `change` costs
as much as what changes. Both take the whole way or raise; after a failure `replace` is next.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
import trio

from iptables import names
from iptables.host import Host
from iptables.kernel_path import KernelPath, Key
from iptables.names import Family
from iptables.netlink import IpSets
from iptables.rules import fill_text
from iptables.settings import Backend, Frontend, Settings, canonical, family_of

Member = tuple[str, str, int]  # set, address, port
_MAXELEM = 262144
_SLICE = 32  # set members changed between two looks at the loop: about 4 ms
# From here on starting over in one transaction is cheaper than single steps.
MANY = 1000


class Programmed:
    """What was given to the kernel. `frontends` is the truth that `replace` restores."""

    def __init__(self, host: Host, settings: Settings, families: Sequence[Family]) -> None:
        self._host = host
        self._settings = settings
        self.families = tuple(families)
        self.frontends: dict[Key, Frontend] = {}
        self.kernel: dict[Family, KernelPath] = {}
        self.given = False  # whether anything was given since the start
        self.complete = False  # whether the kernel holds all of it, as far as we know
        self._sizes: Counter[str] = Counter()

    def adopt(self, families: Sequence[Family], kernel_path: bool) -> None:
        """The machine is (or has become) one with these families and ways; nothing is sent."""
        if self.families != tuple(families) or bool(self.kernel) != kernel_path:
            self.families = tuple(families)
            self.kernel = {f: KernelPath(self._settings, f) for f in families if kernel_path}
            self.complete = False

    def set_sizes(self) -> dict[str, int | None]:
        """The sets that must exist, with their sizes if everything has been given to them."""
        sizes: dict[str, int | None] = {
            name: self._sizes[name] if self.complete else None for name in self._sets()
        }
        sizes[names.OUT_LIVE] = None
        if self._settings.inbound:
            sizes[names.IN_LIVE] = None
        return sizes

    async def replace(self, frontends: Iterable[Frontend]) -> None:
        """``frontends`` is iterated in another thread: what it reads must not change."""
        self.complete, self.given = False, True
        # In a thread: 10,000 services are a second of work.
        sets_text, kernel_text = await trio.to_thread.run_sync(self._prepare, frontends)
        if kernel_text:
            # Before the sets: what the proxy is given must have somewhere to fall.
            await self._host.run("nft", "-f", "-", text=kernel_text)
        await self._host.run("ipset", "-exist", "restore", text=sets_text)
        self.complete = True

    async def change(
        self, sets: IpSets, upserts: Iterable[Frontend], removals: Iterable[Key]
    ) -> None:
        """Apply a change. Removals come first, so a key in both is there afterwards."""
        come, gone = tuple(upserts), tuple(removals)
        if not self.complete or len(gone) + len(come) > MANY:
            await self.replace(self._changed(come, gone))
            return
        self.complete = False
        if len(gone) + len(come) > _SLICE:
            prepared = await trio.to_thread.run_sync(self._prepare_change, come, gone)
        else:
            prepared = self._prepare_change(come, gone)
        leave, enter, text = prepared
        if text:
            await self._host.run("nft", "-f", "-", text=text)
        for start in range(0, len(leave), _SLICE):
            sets.delete(leave[start : start + _SLICE])
            await trio.lowlevel.checkpoint()
        for start in range(0, len(enter), _SLICE):
            sets.add(enter[start : start + _SLICE])
            await trio.lowlevel.checkpoint()
        self._sizes.subtract(entry[0] for entry in leave)
        self._sizes.update(entry[0] for entry in enter)
        self.complete = True

    def _changed(self, upserts: Iterable[Frontend], removals: Iterable[Key]) -> Iterator[Frontend]:
        """All that is to be served after a change."""
        wanted = dict(self.frontends)
        for address, port in removals:
            wanted.pop((canonical(address), port), None)
        wanted.update((f.key, f) for f in map(normal, upserts))
        yield from wanted.values()

    def _prepare_change(
        self, upserts: Sequence[Frontend], removals: Sequence[Key]
    ) -> tuple[list[Member], list[Member], str]:
        """Take over a change: the members that leave and enter sets, and the text for nft."""
        gone = [(canonical(address), port) for address, port in removals]
        come = [f for f in map(normal, upserts) if self._usable(f)]
        leave: list[Member] = []
        enter: list[Member] = []
        for key in gone:
            old = self.frontends.pop(key, None)
            if old is not None:
                leave += [(name, *key) for name in self._memberships(old)]
        for frontend in come:
            old = self.frontends.get(frontend.key)
            was = self._memberships(old) if old is not None else ()
            now = self._memberships(frontend)
            leave += [(name, *frontend.key) for name in was if name not in now]
            enter += [(name, *frontend.key) for name in now if name not in was]
            self.frontends[frontend.key] = frontend
        text = "".join(
            path.change(
                [f for f in come if family_of(f.address) == family],
                [key for key in gone if family_of(key[0]) == family],
            )
            for family, path in self.kernel.items()
        )
        return leave, enter, text

    def _usable(self, frontend: Frontend) -> bool:
        return family_of(frontend.address) in self.families

    def _sets(self) -> list[str]:
        found: list[str] = []
        for family in names.FAMILIES:
            found.append(names.VIP[family])
            if self._settings.fail == "closed":
                found.append(names.ENFORCED[family])
        return found

    def _memberships(self, frontend: Frontend) -> tuple[str, ...]:
        if not frontend.intercept:
            return ()
        family = family_of(frontend.address)
        if self._settings.fail == "closed":
            return (names.ENFORCED[family], names.VIP[family])
        return (names.VIP[family],)

    def _prepare(self, frontends: Iterable[Frontend]) -> tuple[str, str]:
        """Take these as what is to be served; the texts for ipset and nft."""
        self.frontends = {f.key: f for f in map(normal, frontends) if self._usable(f)}
        kernel = "".join(
            path.replace(f for f in self.frontends.values() if family_of(f.address) == family)
            for family, path in self.kernel.items()
        )
        members: Mapping[str, list[Key]] = {name: [] for name in self._sets()}
        for frontend in self.frontends.values():
            for name in self._memberships(frontend):
                members[name].append(frontend.key)
        self._sizes = Counter({name: len(keys) for name, keys in members.items()})
        sets = "".join(
            fill_text(name, family, members[name], _MAXELEM)
            for family in names.FAMILIES
            for name in (names.VIP[family], names.ENFORCED[family])
            if name in members
        )
        return sets, kernel


def normal(frontend: Frontend) -> Frontend:
    """With addresses as the kernel spells them, and only backends of the same family."""
    address = canonical(frontend.address)
    family = family_of(address)
    backends = tuple(
        Backend(canonical(b.address), b.port, b.weight)
        for b in frontend.backends
        if family_of(b.address) == family
    )
    return msgspec.structs.replace(frontend, address=address, backends=backends)
