"""Where the API server is and what it is shown: pods, kubeconfigs, and what is refused."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
import yaml

from registry.base import Context, RegistryError
from registry.kubernetes.access import Access, access, read_token
from registry.kubernetes.backend import KubernetesBackend
from registry.kubernetes.options import Options
from registry.plugins import Spec, check

ROOT = Path(__file__).resolve().parents[2]
SECRET = "sesame-0815"


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text(f"{SECRET}\n")
    trustme.CA().cert_pem.write_to_path(str(folder / "ca.crt"))
    return folder


def in_cluster(pod: Path, host: str = "10.96.0.1", **options: Any) -> Access:
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "6443"}
    return access(Options(**options), str(pod.parent), environ, str(pod))


@pytest.mark.parametrize(
    ("host", "url"),
    [("10.96.0.1", "https://10.96.0.1:6443"), ("fd00::1", "https://[fd00::1]:6443")],
)
def test_in_a_pod(pod: Path, host: str, url: str) -> None:
    found = in_cluster(pod, host)

    assert found.server == url
    assert read_token(found) == SECRET
    assert found.tls().verify_mode is ssl.CERT_REQUIRED
    assert SECRET not in repr(found)
    (pod / "token").write_text("next")
    assert read_token(found) == "next"


def test_outside_of_a_pod_it_is_said_what_to_do(pod: Path) -> None:
    with pytest.raises(RegistryError, match="give `kubeconfig` or `server`"):
        access(Options(), ".", {}, str(pod))
    (pod / "ca.crt").unlink()
    with pytest.raises(RegistryError, match=r"the pod's CA: .*ca\.crt: No such file"):
        in_cluster(pod)


def test_each_part_may_be_another(pod: Path) -> None:
    (pod.parent / "mine").write_text("other")
    (pod / "ca.crt").rename(pod.parent / "ca.pem")
    found = in_cluster(pod, server="https://api.example.org/", token_file="mine", ca_file="ca.pem")

    assert found.server == "https://api.example.org"
    assert read_token(found) == "other"
    assert found.ca


def test_a_token_never_goes_over_plain_http(pod: Path) -> None:
    found = in_cluster(pod, server="http://127.0.0.1:8001")

    assert read_token(found) == ""


@pytest.mark.parametrize("text", ["", " \n", "two words", "line\nbreak", "\u00fc", "a\x00b"])
def test_what_is_no_token_is_not_sent(pod: Path, text: str) -> None:
    (pod / "token").write_text(text)

    with pytest.raises(RegistryError, match="does not hold a token"):
        read_token(in_cluster(pod))


@pytest.mark.parametrize(
    "server", ["api", "ftp://x", "https://", "https://x:99999", "https://u:p@x", "https://x/?a=b"]
)
def test_what_is_no_url_is_refused(pod: Path, server: str) -> None:
    with pytest.raises(RegistryError, match="is not the URL of an API server"):
        in_cluster(pod, server=server)


def test_a_ca_that_is_none_is_told(pod: Path) -> None:
    (pod / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n")

    with pytest.raises(RegistryError, match=r"the CA for .* cannot be used"):
        in_cluster(pod).tls()


# --- kubeconfig ---


def kubeconfig(
    folder: Path, user: dict[str, Any] | None, cluster: dict[str, Any] | None = None, **more: Any
) -> Path:
    path = folder / "config"
    value = {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "current-context": "one",
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "x"}},
            {"name": "two", "context": {"cluster": "d", "user": ""}},
        ],
        "clusters": [
            {"name": "c", "cluster": {"server": "https://c:6443"} | (cluster or {})},
            {"name": "d", "cluster": {"server": "http://127.0.0.1:8001/base/"}},
        ],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(value | more))
    return path


def configured(path: Path, context: str | None = None) -> Access:
    return access(Options(kubeconfig=path.name, context=context), str(path.parent), {})


def test_a_kubeconfig_with_a_token(tmp_path: Path) -> None:
    found = configured(kubeconfig(tmp_path, {"token": SECRET}))
    assert (found.server, read_token(found)) == ("https://c:6443", SECRET)

    (tmp_path / "t").write_text("fresh")
    found = configured(kubeconfig(tmp_path, {"token": SECRET, "tokenFile": "t"}))
    assert read_token(found) == "fresh"


def test_another_context(tmp_path: Path) -> None:
    found = configured(kubeconfig(tmp_path, {"token": SECRET}), "two")

    assert (found.server, read_token(found)) == ("http://127.0.0.1:8001/base", "")


def test_certificates_inline_and_in_files(tmp_path: Path) -> None:
    authority = trustme.CA()
    mine = authority.issue_cert("node@example.org")
    chain = b"".join(pem.bytes() for pem in mine.cert_chain_pems)
    key = mine.private_key_pem.bytes()
    cluster = {"certificate-authority-data": base64.b64encode(authority.cert_pem.bytes()).decode()}
    inline = {
        "client-certificate-data": base64.b64encode(chain).decode(),
        "client-key-data": base64.b64encode(key).decode(),
    }
    found = configured(kubeconfig(tmp_path, inline, cluster | {"tls-server-name": "kube"}))
    assert found.tls().verify_mode is ssl.CERT_REQUIRED
    assert found.server_name == "kube"

    (tmp_path / "crt").write_bytes(chain)
    (tmp_path / "key").write_bytes(key)
    files = {"client-certificate": "crt", "client-key": str(tmp_path / "key")}
    assert configured(kubeconfig(tmp_path, files, cluster)).tls().check_hostname

    (tmp_path / "key").write_bytes(trustme.CA().issue_cert("x@y").private_key_pem.bytes())
    with pytest.raises(RegistryError, match=r"client certificate .* cannot be used"):
        configured(kubeconfig(tmp_path, files, cluster)).tls()


def test_verification_may_be_switched_off(tmp_path: Path) -> None:
    cluster = {"insecure-skip-tls-verify": True}
    found = configured(kubeconfig(tmp_path, {"token": SECRET}, cluster))

    assert found.tls().verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("user", "cluster", "message"),
    [
        ({"exec": {"command": "aws"}}, {}, "exec plug-in"),
        ({"auth-provider": {"name": "gcp"}}, {}, "auth-provider"),
        ({"username": "me", "password": SECRET}, {}, "a password"),
        ({"token": SECRET, "as": "admin"}, {}, "impersonation"),
        ({"token": SECRET}, {"proxy-url": "http://proxy"}, "needs a proxy"),
        ({"client-certificate": "x"}, {}, "client-certificate: .*/x: No such file"),
        ({"client-key-data": "AAAA"}, {}, "come together"),
        ({"client-key-data": "%"}, {}, "client-key-data is not base64"),
        ({"token": [SECRET]}, {}, "token"),
        ({}, {"server": "c:6443"}, "is not the URL"),
        ({}, {"certificate-authority-data": "/w=="}, "is not PEM"),
    ],
)
def test_what_is_not_done_is_said(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any], message: str
) -> None:
    path = kubeconfig(tmp_path, user, cluster)

    with pytest.raises(RegistryError, match=message) as caught:
        configured(path)
    assert SECRET not in str(caught.value)


def test_names_that_are_not_there(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"token": SECRET})
    with pytest.raises(RegistryError, match="no context 'three'"):
        configured(path, "three")
    with pytest.raises(RegistryError, match="no user 'u'"):
        configured(kubeconfig(tmp_path, None, users=[]))
    with pytest.raises(RegistryError, match="no cluster 'c'"):
        configured(kubeconfig(tmp_path, None, clusters=[{"name": "z", "cluster": {"server": ""}}]))
    with pytest.raises(RegistryError, match="no current-context"):
        configured(kubeconfig(tmp_path, None, **{"current-context": ""}))
    path.write_text(f"token: {SECRET}\n: :")
    with pytest.raises(RegistryError) as caught:
        configured(path)
    assert SECRET not in str(caught.value)


# --- options ---


def test_every_option_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "registries" / "kubernetes.md").read_text()

    for field in msgspec.structs.fields(Options):
        assert f"| `{field.name}` |" in page, field.name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"watch_timeout": "10ms"}, "watch_timeout must be 1s to 30m"),
        ({"context": "x"}, "`context` needs `kubeconfig`"),
        ({"namespaces": ["Not_A_Name"]}, "namespaces"),
        ({"services": "some"}, "services"),
        ({"page": 0}, "page"),
        ({"kubeconf": "x"}, "kubeconfig"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], message: str) -> None:
    (problem,) = check(Spec("kubernetes", "kubernetes", options))

    assert message in str(problem)


def test_right_options_are_not() -> None:
    options = {"namespaces": ["a", "b-1"], "services": "handed-over", "watch_timeout": "5m"}

    assert check(Spec("kubernetes", "kubernetes", options)) == []


def test_the_nodes_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODE_NAME", raising=False)
    context = Context("kubernetes", "host")
    assert KubernetesBackend(Options(), context).node == "host"
    monkeypatch.setenv("NODE_NAME", "pod")
    assert KubernetesBackend(Options(), context).node == "pod"
    assert KubernetesBackend(Options(node="option"), context).node == "option"
