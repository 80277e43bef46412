"""The manifests and the image file: one fits the other, and both ask for no more than needed."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeproxy.config import Traffic, load

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "docs" / "deploy"

Object = dict[str, Any]


def documents() -> list[Object]:
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [d for f in files for d in yaml.safe_load_all(f.read_text())]


def the(kind: str) -> Object:
    (found,) = (d for d in documents() if d["kind"] == kind)
    return found


@pytest.fixture
def pod() -> Object:
    spec: Object = the("DaemonSet")["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: Object) -> Object:
    (only,) = pod["containers"]
    found: Object = only
    return found


def test_the_objects_come_in_the_order_in_which_they_need_each_other() -> None:
    kinds = [d["kind"] for d in documents()]

    assert kinds == [
        "Namespace",
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DaemonSet",
    ]


def test_every_object_has_a_version_a_name_and_the_namespace() -> None:
    for document in documents():
        assert document["apiVersion"] in ("v1", "apps/v1", "rbac.authorization.k8s.io/v1")
        assert document["metadata"]["name"] == "nodeproxy"
        if document["kind"] not in ("Namespace", "ClusterRole", "ClusterRoleBinding"):
            assert document["metadata"]["namespace"] == "nodeproxy"


def test_the_api_server_is_asked_for_what_the_registry_reads_and_no_more(pod: Object) -> None:
    account, role = the("ServiceAccount"), the("ClusterRole")
    binding = the("ClusterRoleBinding")

    asked = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert asked == {
        ("", "services", "list"),
        ("", "services", "watch"),
        ("discovery.k8s.io", "endpointslices", "list"),
        ("discovery.k8s.io", "endpointslices", "watch"),
        ("", "nodes", "get"),
    }
    assert binding["roleRef"]["kind"] == role["kind"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (subject,) = binding["subjects"]
    assert (subject["kind"], subject["name"]) == ("ServiceAccount", account["metadata"]["name"])
    assert subject["namespace"] == account["metadata"]["namespace"]
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert account["automountServiceAccountToken"] is False
    assert pod["automountServiceAccountToken"] is True


def test_the_pod_is_told_its_nodes_name(container: Object) -> None:
    (name,) = (e for e in container["env"] if e["name"] == "NODE_NAME")

    assert name["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


def test_the_daemonset_selects_its_own_pods() -> None:
    spec = the("DaemonSet")["spec"]

    wanted = spec["selector"]["matchLabels"].items()
    assert wanted <= spec["template"]["metadata"]["labels"].items()


def test_the_container_has_two_capabilities_and_no_other_power(container: Object) -> None:
    context = container["securityContext"]

    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}
    assert context["privileged"] is False
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True


def test_every_mount_has_its_volume(pod: Object, container: Object) -> None:
    volumes = [v["name"] for v in pod["volumes"]]
    mounts = [m["name"] for m in container["volumeMounts"]]

    assert sorted(volumes) == sorted(mounts)
    assert len(set(volumes)) == len(volumes)


def test_the_lock_is_the_hosts(pod: Object) -> None:
    (lock,) = (v for v in pod["volumes"] if v["name"] == "xtables-lock")

    assert lock["hostPath"] == {"path": "/run/xtables.lock", "type": "FileOrCreate"}


def test_the_pod_is_the_nodes_own(pod: Object) -> None:
    assert pod["hostNetwork"] is True
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert the("DaemonSet")["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0


def test_the_probes_reach_the_port_that_the_settings_open(container: Object) -> None:
    settings = yaml.safe_load(the("ConfigMap")["data"]["nodeproxy.yaml"])
    address, _, port = settings["telemetry"]["metrics"].rpartition(":")
    (metrics,) = container["ports"]

    assert (metrics["containerPort"], metrics["hostPort"]) == (int(port), int(port))
    for probe, path in (
        ("startupProbe", "/live"),
        ("livenessProbe", "/live"),
        ("readinessProbe", "/ready"),
    ):
        assert container[probe]["httpGet"] == {
            "host": address,
            "path": path,
            "port": metrics["name"],
        }


def test_the_settings_name_what_is_mounted(pod: Object, container: Object) -> None:
    data = the("ConfigMap")["data"]
    settings = yaml.safe_load(data["nodeproxy.yaml"])
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}

    assert container["args"] == ["run", "--config", f"{mounts['config']}/nodeproxy.yaml"]
    assert settings["registries"] == [{"kind": "kubernetes"}]
    assert settings["admin"]["socket"] == f"{mounts['run']}/admin.sock"
    assert settings["state_dir"] == mounts["state"]
    (config,) = (v for v in pod["volumes"] if v["name"] == "config")
    assert config["configMap"]["name"] == the("ConfigMap")["metadata"]["name"]


def test_the_settings_are_valid(tmp_path: Path) -> None:
    for name, text in the("ConfigMap")["data"].items():
        (tmp_path / name).write_text(text)

    assert load(tmp_path / "nodeproxy.yaml").warnings == ()


def test_a_pod_may_take_longer_to_leave_than_it_drains(pod: Object) -> None:
    assert pod["terminationGracePeriodSeconds"] > Traffic().drain_timeout + 10


def test_the_image_is_of_this_version(container: Object) -> None:
    source = (ROOT / "nodeproxy" / "__init__.py").read_text()
    version = re.search(r'__version__ = "(.+)"', source)

    assert version is not None
    assert container["image"] == f"nodeproxy:{version[1]}"
    assert container["image"] in (DEPLOY / "Dockerfile").read_text()


def test_the_image_file_copies_what_exists_and_what_is_not_ignored() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    kept = [
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    sources = [
        source
        for line in text.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]

    assert sources
    assert sorted(s.removeprefix("./") for s in sources) == sorted(kept)
    for source in sources:
        assert (ROOT / source).exists(), source


def test_the_image_has_the_programs_that_interception_calls() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    (packages,) = re.findall(r"apt-get install -y --no-install-recommends ([^\\]+)", text)

    assert {"iptables", "ipset", "nftables", "iproute2"} <= set(packages.split())


def test_the_image_starts_what_the_pod_starts(container: Object) -> None:
    text = (DEPLOY / "Dockerfile").read_text()

    assert 'ENTRYPOINT ["/opt/nodeproxy/bin/nodeproxy"]' in text
    assert f"CMD {container['args']}".replace("'", '"') in text
