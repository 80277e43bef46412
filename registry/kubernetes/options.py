"""The options of the back end ``kubernetes``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from registry.duration import Duration

__all__ = ["IN_CLUSTER", "Options"]

IN_CLUSTER = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where a pod finds its service account's token and the cluster's CA."""

Text = Annotated[str, msgspec.Meta(min_length=1)]
Namespace = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``{kind: kubernetes}`` in a pod; elsewhere with ``kubeconfig`` or ``server``."""

    kubeconfig: Text | None = None
    """A kubeconfig file, relative to the file that configures the registry. Without it the pod's
    service account is used."""
    context: Text | None = None
    """The kubeconfig's context; by default its ``current-context``."""
    server: Text | None = None
    """The API server's URL, in place of the one that kubeconfig or the pod's environment name."""
    token_file: Text | None = None
    """A file with a bearer token, in place of the pod's or the kubeconfig's; read again for each
    request, so it may rotate."""
    ca_file: Text | None = None
    """A PEM file of the authorities to trust, in place of the pod's or the kubeconfig's."""
    namespaces: tuple[Namespace, ...] = ()
    """Only these namespaces, each listed and watched by itself; by default all."""
    services: Literal["all", "handed-over"] = "all"
    """``all``: services without the label ``service.kubernetes.io/service-proxy-name`` and those
    whose label says ``nodeproxy``. ``handed-over``: only the latter."""
    external_ips: bool = False
    """Take over ``spec.externalIPs``, too. Whoever may write Services may then catch any
    address (CVE-2020-8554)."""
    load_balancer_ips: bool = False
    """Take over ``status.loadBalancer.ingress[].ip``, too, so that pods reach it without leaving
    the cluster; not where ``ipMode`` is ``Proxy`` or ``loadBalancerSourceRanges`` is set."""
    node: Text | None = None
    """This node's name in Kubernetes; by default the environment's ``NODE_NAME``, else the name
    in the daemon's ``node``."""
    page: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 500
    """The most objects in one page of a list. Pages are smaller where objects are large."""
    watch_timeout: Duration = Duration("60s")
    """How long a watch lasts before it is renewed; a quarter more at random. A server that is
    frozen is noticed ten seconds later. 1s to 30m."""
