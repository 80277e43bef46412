"""Follows the nodes of a path pattern, with a watch on each, into a table.

The pattern's stars stand for the services; below each service's node are its instances. Requests
are made by a fixed number of workers. What a service's node and its instances say is put into the
table in one go when all of them have answered, so that an instance which replaces another one never
leaves a moment without any.

After a (new) connection every watch is gone: the whole is walked again, which changes nothing in
the table where nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from registry.base import RegistryError
from registry.layouts.entry import Layout, Unusable
from registry.layouts.nerve import value_in_name
from registry.layouts.publisher import BITE
from registry.layouts.table import Table
from registry.zookeeper.session import Gone, Lost, Refused, Session

__all__ = ["Pattern", "Tree", "Walk"]


class Pattern(msgspec.Struct, frozen=True):
    """``/nerve/services/*/services``."""

    parts: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Pattern:
        """A star is added where there is none."""
        parts = tuple(part for part in text.split("/") if part)
        return cls(parts if "*" in parts else (*parts, "*"))

    @property
    def root(self) -> str:
        """The node above the first star."""
        return "/" + "/".join(self.parts[: self.parts.index("*")])


class _Node(msgspec.Struct):
    """A node whose children are watched: a folder of services, or a service."""

    depth: int
    """How many of the pattern's parts lead to it."""
    stars: tuple[str, ...]
    """What the stars among these stand for."""
    round: int = 0
    """The walk that came by last."""
    fresh: bool = True
    """In this walk its children have not been looked at yet."""
    children: dict[str, None] = {}
    pending: set[str] = set()
    """Instances that have not answered yet."""
    vanished: set[str] = set()
    """Instances that were not there when asked: what is to be done the next list tells."""
    staged: dict[str, bytes | str | None] = {}
    """What is to be put into the table, by instance: a value, why there is none, or None for
    an instance that is gone."""


class Tree:
    """What is known of the nodes; kept between sessions."""

    def __init__(self, pattern: Pattern, layout: Layout, table: Table) -> None:
        self.pattern: Final = pattern
        self.layout: Final = layout
        self.table: Final = table
        self.nodes: dict[str, _Node] = {}
        self.round = 0


class Walk:
    """One session's work on a tree."""

    def __init__(self, tree: Tree, session: Session) -> None:
        self._tree = tree
        self._session = session
        self._broken = True
        """There is no connection; or something that was asked was not answered."""
        self._todo: dict[tuple[str, str], None] = {}
        """Jobs: the node whose children are asked for and empty, or a node and its instance."""
        self._jobs = trio.Semaphore(0)
        self._under_way = 0
        self.lock = trio.Lock()
        """Held while a service is put into the table."""
        self.missing = False
        """The pattern's root is not there."""
        self.news = trio.Event()
        """Something was put into the table, or the walk came to rest; to be replaced by who
        waits for it."""

    @property
    def idle(self) -> bool:
        """All has been answered since the connection was made."""
        return not (self._broken or self._todo or self._under_way)

    def begin(self) -> None:
        """A connection has been made: walk everything."""
        tree = self._tree
        tree.round += 1
        self._broken = False
        self._todo.clear()
        root = tree.pattern.root
        node = tree.nodes.setdefault(root, _Node(tree.pattern.parts.index("*"), ()))
        self._visit(root, node)

    def _visit(self, path: str, node: _Node) -> None:
        node.round = self._tree.round
        node.fresh = True
        node.pending.clear()
        self._add(path)

    def stop(self) -> None:
        """The connection is lost: what was to be asked will be asked again."""
        self._broken = True
        self._todo.clear()

    # --- jobs ---

    def _add(self, path: str, instance: str = "") -> None:
        job = (path, instance)
        if job not in self._todo:
            self._todo[job] = None
            self._jobs.release()

    async def work(self) -> None:
        """One worker's part, until cancelled. Raises RegistryError."""
        while True:
            await self._jobs.acquire()
            if not self._todo:
                continue
            path, instance = job = next(iter(self._todo))
            del self._todo[job]
            node = self._tree.nodes.get(path)
            if node is None or (instance and instance not in node.children):
                continue
            self._under_way += 1
            try:
                if instance:
                    await self._ask(path, node, instance)
                else:
                    await self._list(path, node)
            except Lost:
                # A new connection walks everything again.
                self._broken = True
            finally:
                self._under_way -= 1
                if self.idle:
                    self.news.set()

    def _again(self, path: str, instance: str = "") -> Callable[[], None]:
        """What a watch does when it fires."""
        now = self._tree.round

        def changed() -> None:
            node = self._tree.nodes.get(path)
            if node is None or self._tree.round != now:
                return
            if instance:
                if instance not in node.children:
                    return
                node.pending.add(instance)
            self._add(path, instance)

        return changed

    # --- a node's children ---

    async def _list(self, path: str, node: _Node) -> None:
        now = self._tree.round
        root = path == self._tree.pattern.root
        problem = ""
        names: list[str] | None = None
        try:
            names = await self._session.children(path, self._again(path))
        except Gone:
            pass
        except Refused as error:
            problem = f"the children of {error}"
            if root:
                self._broken = True
                raise RegistryError(problem) from None
        if self._tree.round != now or self._tree.nodes.get(path) is not node:
            return
        self._tree.table.note(path, problem)
        if problem:
            return
        if root:
            self.missing = names is None
        if names is None:
            await self._gone(path, node)
        elif node.depth == len(self._tree.pattern.parts):
            await self._instances(path, node, names)
        else:
            await self._folders(path, node, names)

    async def _gone(self, path: str, node: _Node) -> None:
        if not self.missing and self._tree.pattern.parts[node.depth - 1] == "*":
            # It comes back by its parent.
            await self._forget(path)
            return
        # A fixed part of the pattern has to be watched for. Without the root nothing is known.
        if not self.missing:
            await self._forget_children(path, node)
        if await self._session.exists(path, self._again(path)):
            self._again(path)()

    def _fixed(self, depth: int) -> tuple[str, int]:
        """The fixed parts of the pattern from this depth to the next star or the end."""
        parts = self._tree.pattern.parts
        end = depth
        while end < len(parts) and parts[end] != "*":
            end += 1
        return "".join(f"/{part}" for part in parts[depth:end]), end

    async def _folders(self, path: str, node: _Node, names: Sequence[str]) -> None:
        fixed, depth = self._fixed(node.depth + 1)
        before, node.children = node.children, dict.fromkeys(names)
        for name in [name for name in before if name not in node.children]:
            await self._forget(_below(path, name) + fixed)
        for i, name in enumerate(names):
            # While others worked this may have been looked at anew.
            if name in node.children:
                below = _below(path, name) + fixed
                child = self._tree.nodes.get(below)
                if child is None:
                    child = self._tree.nodes[below] = _Node(depth, (*node.stars, name))
                if child.round != self._tree.round:
                    self._visit(below, child)
            if i % BITE == BITE - 1:
                await trio.lowlevel.checkpoint()

    async def _instances(self, path: str, node: _Node, names: Sequence[str]) -> None:
        fresh, node.fresh = node.fresh, False
        before, node.children = node.children, dict.fromkeys(names)
        for name in before:
            if name not in node.children:
                node.staged[name] = None
                node.pending.discard(name)
        for name in node.vanished:
            if name not in node.children:
                node.staged[name] = None
        node.vanished.clear()
        # In a new walk every instance is asked again, else those that are new.
        wanted = [name for name in names if fresh or name not in before]
        asked = [name for name in wanted if self._is_asked(node, name)]
        node.pending.update(asked)
        for i, name in enumerate(asked):
            self._add(path, name)
            if i % BITE == BITE - 1:
                await trio.lowlevel.checkpoint()
        await self._settle(path, node)

    def _is_asked(self, node: _Node, name: str) -> bool:
        """Whether an instance has to be asked for its value; else what its name says is staged."""
        try:
            if self._tree.layout.service((*node.stars, name)) is None:
                return False
            if self._tree.layout.kind != "nerve" or value_in_name(name) is None:
                return True
        except Unusable:
            pass  # the table says what is wrong
        node.staged[name] = b""
        return False

    # --- an instance ---

    async def _ask(self, path: str, node: _Node, name: str) -> None:
        now = self._tree.round
        value: bytes | str | None
        try:
            value = await self._session.get(_below(path, name), self._again(path, name))
        except Gone:
            value = None
        except Refused as error:
            value = str(error)
        if self._tree.round != now or self._tree.nodes.get(path) is not node:
            return
        if (path, name) not in self._todo:
            node.pending.discard(name)
        if name in node.children:
            if value is None:
                # The watch on the service's node fires, too: who came in its place?
                del node.children[name]
                node.vanished.add(name)
            else:
                node.staged[name] = value
        await self._settle(path, node)

    # --- into the table ---

    async def _settle(self, path: str, node: _Node) -> None:
        """Put what a service's instances said into the table, if all have."""
        if node.pending or not node.staged:
            return
        async with self.lock:
            staged, node.staged = node.staged, {}
            for i, (name, value) in enumerate(staged.items()):
                key = _below(path, name)
                if value is None:
                    self._tree.table.delete(key)
                elif isinstance(value, str):
                    self._tree.table.fail(key, (*node.stars, name), value)
                else:
                    self._tree.table.put(key, (*node.stars, name), value)
                if i % BITE == BITE - 1:
                    await trio.lowlevel.checkpoint()
        self.news.set()

    async def _forget(self, path: str) -> None:
        """A node, and all below it, is gone."""
        node = self._tree.nodes.pop(path, None)
        if node is not None:
            self._tree.table.note(path, "")
            await self._forget_children(path, node)

    async def _forget_children(self, path: str, node: _Node) -> None:
        names, node.children = {**node.children, **dict.fromkeys(node.vanished)}, {}
        node.pending.clear()
        node.vanished.clear()
        if node.depth == len(self._tree.pattern.parts):
            node.staged = {**node.staged, **dict.fromkeys(names)}
            await self._settle(path, node)
            return
        fixed, _ = self._fixed(node.depth + 1)
        for name in names:
            await self._forget(_below(path, name) + fixed)


def _below(path: str, name: str) -> str:
    return f"/{name}" if path == "/" else f"{path}/{name}"
