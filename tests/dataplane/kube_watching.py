"""What the tests of the Kubernetes registry have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from registry.base import Context
from registry.kubernetes.backend import KubernetesBackend, Options
from registry.model import Service
from registry.testing import Observer, sample
from tests.dataplane.kube_api import KubeApi

PATIENCE = 20.0
WEB = sample("web", "10.0.0.1", "10.0.0.2")
API = sample("api", "10.0.0.3", port=9090)


def backend(kube: KubeApi, context: Context | None = None, **options: Any) -> KubernetesBackend:
    return KubernetesBackend(
        Options(server=kube.url, **options), context or Context("kubernetes", "node-1")
    )


async def sees(observer: Observer, *services: Service) -> None:
    await observer.sees(services, PATIENCE)


async def watched(observer: Observer, kube: KubeApi) -> None:
    """Wait until both watches are there."""
    both = ("services", "endpointslices")
    await until(observer, lambda: all(kube.requests["watch", r] for r in both), "watched")


async def until(observer: Observer, condition: Callable[[], bool], what: str) -> None:
    """Also for what the observer is not told of."""
    with trio.move_on_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the server tells nobody
            await trio.sleep(0.005)
    assert condition(), f"{what}; {observer.view}, {observer.reported}, {observer.errors}"
