"""What the ``rules`` commands do where no daemon answers: ask the kernel itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import trio

from iptables.errors import InterceptionError
from iptables.manager import Interception
from iptables.settings import Settings
from nodeproxy.admin.views import InterceptionView, RulesView, VerifyView
from nodeproxy.cli.session import Failure
from nodeproxy.rulestext import drift_views, rules_text

if TYPE_CHECKING:
    from nodeproxy.config import Config

__all__ = ["remove", "show", "verify"]

T = TypeVar("T")


def show(config: Config | None) -> RulesView:
    """What is in the kernel, in the syntax of iptables-save and ipset save."""

    async def ask(kernel: Interception) -> RulesView:
        text = await rules_text(kernel.settings)
        state = InterceptionView(
            mode="iptables",
            installed=bool(text),
            last_error="in the kernel, while no daemon answers: traffic passes by the proxy",
        )
        return RulesView(state, text)

    return _with_kernel(config, ask)


def verify(config: Config | None) -> VerifyView:
    """Compared with what a daemon with this configuration would have put there."""

    async def ask(kernel: Interception) -> VerifyView:
        found = await kernel.verify()
        return VerifyView(not found, drift_views(found))

    return _with_kernel(config, ask)


def remove(config: Config | None) -> tuple[str, ...]:
    """Remove everything; what was removed, in words."""
    return _with_kernel(config, lambda kernel: kernel.remove())


def _with_kernel(config: Config | None, ask: Callable[[Interception], Awaitable[T]]) -> T:
    if config is None:
        settings = Settings()
    else:
        from nodeproxy.settings import interception_settings

        settings = interception_settings(config)

    async def run() -> T:
        with Interception(settings) as kernel:
            return await ask(kernel)

    try:
        return trio.run(run)
    except InterceptionError as exc:
        message = str(exc.args[0])
        raise Failure(message, exc.hint) from exc
