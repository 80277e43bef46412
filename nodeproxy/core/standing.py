"""Whether an endpoint may take new traffic, and if not, why: one table for the data plane and
for ``explain``."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from enum import Enum

from registry.model import Endpoint

__all__ = ["Standing", "standings"]


class Standing(Enum):
    """One endpoint's standing. The value is the sentence that operators read."""

    READY = "takes new traffic"
    FALLBACK = "terminating but still serving: used because no endpoint is ready"
    EJECTED = "ejected after failures in a row"
    PANIC = "ejected after failures in a row, and used because all others are too"
    NOT_READY = "not ready, says the registry"
    TERMINATING = "terminating, and others are ready"
    NO_WEIGHT = "weight 0"
    LOOP = "the proxy's own listener: dialling it would never end"

    @property
    def takes_traffic(self) -> bool:
        """True when the balancer may pick the endpoint."""
        return self in _TAKES_TRAFFIC


_TAKES_TRAFFIC = frozenset({Standing.READY, Standing.FALLBACK, Standing.PANIC})

Key = tuple[str, int, str]


def standings(
    endpoints: Iterable[Endpoint],
    ejected: Collection[Key],
    own: Container[tuple[str, int]] = (),
) -> dict[Key, Standing]:
    """The standing of each endpoint of a service port, by the endpoint's key.

    ``ejected``: keys of endpoints that are ejected now. ``own``: addresses and ports on which
    the proxy itself listens.

    Ready endpoints first; if the registry says that none is ready, those that are terminating
    and still serving (as kube-proxy does); and if every one of these is ejected, all of them:
    a guess that all are broken is worth less than a try.
    """
    result: dict[Key, Standing] = {}
    ready: list[Key] = []
    fallback: list[Key] = []
    for endpoint in endpoints:
        key = endpoint.key
        if (endpoint.address, endpoint.port) in own:
            result[key] = Standing.LOOP
        elif endpoint.weight == 0:
            result[key] = Standing.NO_WEIGHT
        elif endpoint.ready:
            result[key] = Standing.READY
            ready.append(key)
        elif endpoint.serving and endpoint.terminating:
            result[key] = Standing.TERMINATING
            fallback.append(key)
        else:
            result[key] = Standing.NOT_READY
    if not ready:
        ready = fallback
        result.update(dict.fromkeys(fallback, Standing.FALLBACK))
    out = [key for key in ready if key in ejected]
    result.update(dict.fromkeys(out, Standing.EJECTED if len(out) < len(ready) else Standing.PANIC))
    return result
