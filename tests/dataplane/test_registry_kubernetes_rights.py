"""The back end ``kubernetes``: its credentials, its permissions, and what it takes over."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from registry.base import Context
from registry.duration import Duration
from registry.kubernetes import api as api_module
from registry.kubernetes.backend import KubernetesBackend, Options
from registry.model import Service
from registry.testing import observe
from tests.dataplane.kube_api import KubeApi, kube_api
from tests.dataplane.kube_objects import (
    endpoint_object,
    put_model,
    service_object,
    slice_object,
)
from tests.dataplane.kube_rules import Failure
from tests.dataplane.kube_watching import API, WEB, backend, sees, until


@pytest.fixture
async def kube() -> AsyncIterator[KubeApi]:
    async with kube_api() as server:
        yield server


# --- credentials and permissions ---


@pytest.mark.parametrize(
    ("verb", "resource"),
    [("list", "services"), ("watch", "services"), ("list", "endpointslices")],
)
async def test_a_missing_permission_is_named(kube: KubeApi, verb: str, resource: str) -> None:
    kube.forbidden.add((verb, resource))
    async with observe(backend(kube)) as observer:
        await until(observer, lambda: bool(observer.errors), "a refusal is told")
        text = str(observer.errors[0])
        assert f"RBAC does not allow `{verb}` on `{resource}" in text
        kube.forbidden.clear()
        put_model(kube, [WEB])
        await sees(observer, WEB)


async def test_the_node_is_no_condition(kube: KubeApi) -> None:
    kube.forbidden.add(("get", "nodes"))
    put_model(kube, [WEB])
    async with observe(backend(kube)) as observer:
        await sees(observer, WEB)
        (problem,) = observer.reported
        assert problem.source == "Node node-1"
        assert "RBAC does not allow `get` on `nodes`" in problem.message


async def test_the_zone_is_the_nodes(kube: KubeApi) -> None:
    kube.write("nodes", "node-1", {"metadata": {"labels": {"topology.kubernetes.io/zone": "b"}}})
    put_model(kube, [WEB])
    subject = backend(kube, Context("kubernetes", "node-1", "a"))
    async with observe(subject) as observer:
        await sees(observer, WEB)
        assert subject.zone == "b"
        assert "its zone is 'b'" in observer.reported[0].message


async def test_too_many_requests_are_waited_for_and_told(
    kube: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "MAX_WAIT", 0.01)
    busy = Failure(429, "TooManyRequests", "please try again later", Retry_After="1")
    kube.answers.extend([busy] * 3)
    put_model(kube, [WEB])
    said: list[str] = []

    async with observe(backend(kube)) as observer:
        tell = observer.problems

        def noted(problems: Any) -> None:
            found = list(problems)
            said.extend(str(p) for p in found)
            tell(found)

        observer.problems = noted  # type: ignore[method-assign]
        await sees(observer, WEB)
        assert not observer.errors
    assert any("as it asks" in text for text in said)


# --- TLS ---


@asynccontextmanager
async def secured(folder: Path) -> AsyncIterator[tuple[KubeApi, trustme.CA, dict[str, Any]]]:
    """A server with a certificate of a private authority, and a pod's files for it."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_OPTIONAL
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1", "kubernetes.default.svc").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    (folder / "token").write_text("first\n")
    async with kube_api(context) as kube:
        kube.tokens = {"first"}
        files = {"ca_file": str(folder / "ca.crt"), "token_file": str(folder / "token")}
        yield kube, authority, files


async def test_a_pods_files_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with secured(tmp_path) as (kube, _, _):
        put_model(kube, [WEB])
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(kube.port))
        subject = KubernetesBackend(Options(), Context("kubernetes"))
        subject.pod = str(tmp_path)
        async with observe(subject) as observer:
            await sees(observer, WEB)
            assert not observer.errors


async def test_a_token_may_rotate(tmp_path: Path) -> None:
    async with secured(tmp_path) as (kube, _, files):
        put_model(kube, [WEB])
        async with observe(backend(kube, **files, watch_timeout=Duration("1s"))) as observer:
            await sees(observer, WEB)
            (tmp_path / "new").write_text("second")
            (tmp_path / "new").replace(tmp_path / "token")
            kube.tokens = {"second"}
            count = kube.requests["watch", "services"]
            await until(
                observer, lambda: kube.requests["watch", "services"] > count + 1, "watched again"
            )
            put_model(kube, [API])
            await sees(observer, API)
            assert not observer.errors


async def test_a_wrong_token_is_told_without_its_text(tmp_path: Path) -> None:
    async with secured(tmp_path) as (kube, _, files):
        (tmp_path / "token").write_text("sesame")
        async with observe(backend(kube, **files)) as observer:
            await until(observer, lambda: bool(observer.errors), "a refusal is told")
            text = str(observer.errors[0])
            assert "not accepted (401)" in text
            assert files["token_file"] in text
            assert "sesame" not in text
            put_model(kube, [WEB])
            (tmp_path / "new").write_text("first")
            (tmp_path / "new").replace(tmp_path / "token")
            await sees(observer, WEB)


async def test_a_strange_authority_is_refused(tmp_path: Path) -> None:
    async with secured(tmp_path) as (kube, _, files):
        trustme.CA().cert_pem.write_to_path(files["ca_file"])
        async with observe(backend(kube, **files)) as observer:
            await until(observer, lambda: bool(observer.errors), "a stranger is told")
            assert "CERTIFICATE_VERIFY_FAILED" in str(observer.errors[0])
        assert not kube.requests


async def test_a_kubeconfig_with_a_client_certificate_and_a_server_name(tmp_path: Path) -> None:
    async with secured(tmp_path) as (kube, authority, _):
        mine = authority.issue_cert("node@example.org")
        mine.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        mine.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
        (tmp_path / "config").write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: here\n"
            "contexts: [{name: here, context: {cluster: one, user: me}}]\n"
            f"clusters: [{{name: one, cluster: {{server: '{kube.url}',"
            " certificate-authority: ca.crt, tls-server-name: kubernetes.default.svc}}]\n"
            "users: [{name: me, user: {client-certificate: cert.pem, client-key: key.pem}}]\n"
        )
        put_model(kube, [WEB])
        subject = KubernetesBackend(
            Options(kubeconfig="config"), Context("kubernetes", base_dir=str(tmp_path))
        )
        async with observe(subject) as observer:
            await sees(observer, WEB)
            assert not observer.errors


# --- what is taken ---


async def taken(kube: KubeApi, marker: str = "default/web", **options: Any) -> dict[str, Service]:
    """What the back end publishes, once it has published ``marker``."""
    async with observe(backend(kube, **options)) as observer:
        await until(observer, lambda: marker in observer.view and observer.syncs > 0, "synced")
        return dict(observer._services)


def labelled(kube: KubeApi, name: str, ip: str, proxy: str | None, spec: Any = None) -> None:
    labels = {} if proxy is None else {"service.kubernetes.io/service-proxy-name": proxy}
    namespace, _, short = name.partition("/")
    kube.write("services", name, service_object(ip, labels=labels, **(spec or {})))
    kube.write("endpointslices", f"{name}-x", slice_object(short, "10.5.0.1", labels=labels))
    assert namespace


async def test_services_of_other_proxies_are_left_to_them(kube: KubeApi) -> None:
    labelled(kube, "default/web", "10.96.0.1", None)
    labelled(kube, "default/ours", "10.96.0.2", "nodeproxy")
    labelled(kube, "default/theirs", "10.96.0.3", "cilium")
    labelled(kube, "default/headless", "None", None)
    kube.write("services", "default/name", {"spec": {"type": "ExternalName"}})

    assert set(await taken(kube)) == {"default/web", "default/ours"}
    assert set(await taken(kube, "default/ours", services="handed-over")) == {"default/ours"}


async def test_a_service_is_handed_over_and_taken_back_while_we_watch(kube: KubeApi) -> None:
    labelled(kube, "default/other", "10.96.0.9", "nodeproxy")
    labelled(kube, "default/web", "10.96.0.1", None)
    async with observe(backend(kube, services="handed-over")) as observer:
        await until(observer, lambda: set(observer.view) == {"default/other"}, "one is ours")
        slices = kube.objects["endpointslices"]["default/web-x"]
        ours = {"service.kubernetes.io/service-proxy-name": "nodeproxy"}
        kube.write("services", "default/web", service_object("10.96.0.1", labels=ours))
        kube.bookmark()
        labels = slices["metadata"]["labels"] | ours
        kube.write("endpointslices", "default/web-x", slices | {"metadata": {"labels": labels}})
        await until(observer, lambda: "default/web" in observer.view, "handed over")
        assert observer.view["default/web"] == {("10.5.0.1", 8080)}, "never without endpoints"
        labelled(kube, "default/web", "10.96.0.1", None)
        await until(observer, lambda: set(observer.view) == {"default/other"}, "taken back")


async def test_only_some_namespaces(kube: KubeApi) -> None:
    for name in ("one/a", "two/b", "three/c"):
        labelled(kube, name, "10.96.0.1", None)

    found = await taken(kube, "one/a", namespaces=("one", "two"))

    assert set(found) == {"one/a", "two/b"}


async def test_local_services_have_this_nodes_endpoints_only(kube: KubeApi) -> None:
    local = {"internalTrafficPolicy": "Local"}
    labelled(kube, "default/web", "10.96.0.1", None)
    labelled(kube, "default/dns", "10.96.0.2", None, local)
    found = slice_object(
        "dns", endpoint_object("10.5.0.1"), endpoint_object("10.5.0.2", nodeName="node-2")
    )
    kube.write("endpointslices", "default/dns-x", found)

    # There is no such Node: better the kernel's way than none.
    async with observe(backend(kube)) as observer:
        await until(observer, lambda: "default/web" in observer.view, "synced")
        assert "default/dns" not in observer.view
        assert [p.source for p in observer.reported] == ["Node node-1", "default/dns"]
    kube.write("nodes", "node-1", {})
    services = await taken(kube)
    assert [e.address for e in services["default/dns"].endpoints] == ["10.5.0.1"]
