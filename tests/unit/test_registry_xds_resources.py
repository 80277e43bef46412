"""Resources of xDS, decoded from the JSON that control planes send."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.base import Context
from registry.model import Locality, Port
from registry.strict import DocumentError
from registry.xds import files
from registry.xds.backend import Options, XdsBackend
from registry.xds.levels import Entry, spread
from registry.xds.resources import CLUSTER, ENDPOINTS, Assignment, Bad, Cluster, decode
from registry.xds.rest import version_of


def member(address: Any = "10.0.0.1", port: Any = 8080, **more: Any) -> dict[str, Any]:
    place = {"address": {"socket_address": {"address": address, "port_value": port}}}
    return {"endpoint": place, **more}


def group(*members: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"lb_endpoints": list(members), **more}


def assignment(*groups: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"@type": ENDPOINTS, "cluster_name": "web", "endpoints": list(groups), **more}


def decoded(*groups: dict[str, Any], weighted: bool = False, **more: Any) -> Assignment:
    found = decode(assignment(*groups, **more), locality_weights=lambda name: weighted)
    assert isinstance(found, Assignment)
    return found


def weights(found: Assignment) -> list[int]:
    return [endpoint.weight for endpoint in found.endpoints]


def test_an_assignment_in_snake_case() -> None:
    found = decoded(
        group(
            member(
                health_status="HEALTHY",
                load_balancing_weight=3,
                metadata={"filter_metadata": {"envoy.lb": {"version": "v1", "canary": True}}},
            ),
            member("2001:DB8::1", 8081),
            locality={"region": "eu", "zone": "eu-1", "sub_zone": "rack-7"},
        ),
        policy={"endpoint_stale_after": "1.5s", "overprovisioning_factor": 140},
    )

    first, second = found.endpoints
    assert (first.address, first.port, first.weight) == ("10.0.0.1", 8080, 3)
    assert first.labels == (("sub_zone", "rack-7"), ("version", "v1"))
    assert first.locality == second.locality == Locality("eu", "eu-1")
    assert second.address == "2001:db8::1"
    assert found.stale_after == 1.5
    assert found.problems == ()


def test_the_same_in_camel_case_with_numbers_as_texts_and_enumerations_as_numbers() -> None:
    found = decode(
        {
            "@type": "type.googleapis.com/envoy.service.discovery.v3.Resource",
            "name": "web",
            "ttl": "60s",
            "resource": {
                "@type": ENDPOINTS,
                "clusterName": "web",
                "policy": {"endpointStaleAfter": "90s"},
                "endpoints": [
                    {
                        "lbEndpoints": [
                            {
                                "endpoint": {
                                    "address": {
                                        "socketAddress": {
                                            "address": "10.0.0.1",
                                            "portValue": "8080",
                                        }
                                    }
                                },
                                "healthStatus": 2,
                                "loadBalancingWeight": "7",
                            }
                        ]
                    }
                ],
            },
        }
    )

    assert isinstance(found, Assignment)
    (endpoint,) = found.endpoints
    assert (endpoint.port, endpoint.weight, endpoint.ready) == (8080, 7, False)
    assert found.stale_after == 60


@pytest.mark.parametrize(
    ("status", "ready", "serving", "terminating"),
    [
        (None, True, True, False),
        ("UNKNOWN", True, True, False),
        ("HEALTHY", True, True, False),
        ("UNHEALTHY", False, False, False),
        ("TIMEOUT", False, False, False),
        ("DRAINING", False, True, True),
        ("DEGRADED", True, True, False),
    ],
)
def test_health(status: str | None, ready: bool, serving: bool, terminating: bool) -> None:
    (endpoint,) = decoded(group(member(health_status=status))).endpoints

    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (
        ready,
        serving,
        terminating,
    )


# The figures of Envoy's documentation on priority levels, in hundredths of the load.
@pytest.mark.parametrize(
    ("healthy", "shares"),
    [
        ((100, 100), (100, 0)),
        ((72, 72), (100, 0)),
        ((71, 71), (99, 1)),
        ((50, 50), (70, 30)),
        ((25, 100), (35, 65)),
        ((25, 25), (50, 50)),
        ((100, 0), (100, 0)),
        ((0, 100), (0, 100)),
    ],
)
def test_priorities_as_envoy_documents_them(
    healthy: tuple[int, int], shares: tuple[int, int]
) -> None:
    groups = [
        group(
            *(
                member(
                    f"10.{priority}.0.{i}", health_status="HEALTHY" if i < count else "UNHEALTHY"
                )
                for i in range(100)
            ),
            priority=priority,
        )
        for priority, count in enumerate(healthy)
    ]
    endpoints = decoded(*groups).endpoints
    total = sum(e.weight for e in endpoints)
    first = sum(e.weight for e in endpoints if e.address.startswith("10.0."))

    assert round(100 * first / total) in (shares[0], shares[0] + 1)
    assert dict(endpoints[-1].labels)["priority"] == "1"


def test_degraded_endpoints_take_what_healthy_ones_cannot() -> None:
    some = decoded(group(member(), member("10.0.0.2", health_status="DEGRADED")))
    most = decoded(group(*(member(f"10.0.0.{i}") for i in range(9)), member("10.0.0.9")))
    few = decoded(
        group(member(), *(member(f"10.0.1.{i}", health_status="DEGRADED") for i in range(3)))
    )

    assert weights(some)[0] / sum(weights(some)) == pytest.approx(0.7, abs=0.001)
    assert weights(most) == [1] * 10
    assert weights(few)[0] > weights(few)[1] > 0


def test_weights_of_localities_count_where_they_are_meant_to() -> None:
    groups = (
        group(member("10.0.0.1"), locality={"zone": "a"}, load_balancing_weight=3),
        group(
            member("10.0.1.1"),
            member("10.0.1.2"),
            locality={"zone": "b"},
            load_balancing_weight=1,
        ),
    )

    assert weights(decoded(*groups)) == [1, 1, 1]
    assert weights(decoded(*groups, weighted=True)) == [6, 1, 1]


def test_when_nothing_is_ready_weights_stay() -> None:
    found = decoded(
        group(member(health_status="DRAINING", load_balancing_weight=5)),
        group(member("10.0.0.2", health_status="UNHEALTHY"), priority=1),
    )

    assert weights(found) == [5, 1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (member("web.example"), "not an IP address"),
        (member(port=0), "not a port"),
        (member(port=None), "not a port"),
        (member("0.0.0.0"), "unspecified"),
        ({"endpoint": {"address": {"pipe": {"path": "/run/x"}}}}, "pipe is not a socket_address"),
        ({"endpoint_name": "x"}, "no `endpoint`"),
        (member(health_status="ILL"), "health_status"),
        (member(load_balancing_weight=-1), "32 bits"),
        (member(load_balancing_weight="many"), "32 bits"),
        (
            {
                "endpoint": {
                    "address": {"socket_address": {"address": "10.0.0.2", "named_port": "http"}}
                }
            },
            "named ports",
        ),
        (7, "expected a mapping"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_left_out_and_told(bad: Any, message: str) -> None:
    found = decoded(group(member(), bad))

    assert [e.address for e in found.endpoints] == ["10.0.0.1"]
    (problem,) = found.problems
    assert message in problem
    assert problem.startswith("endpoints[0].lb_endpoints[1]")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "x"},
        {"@type": ENDPOINTS},
        {"cluster_name": "web", "endpoints": {}},
        {"cluster_name": "web", "endpoints": [{"priority": 200}]},
        {"cluster_name": "web", "endpoints": [{"locality": {"zone": 3}}]},
        {"cluster_name": "web", "policy": {"endpoint_stale_after": "soon"}},
        {"cluster_name": "web", "endpoints": [{"leds_cluster_locality_config": {}}]},
        {"name": "web", "type": "ORIGINAL_DST"},
        {"name": "web", "cluster_type": {"name": "envoy.clusters.redis"}},
    ],
)
def test_a_resource_that_cannot_be_used(value: Any) -> None:
    with pytest.raises(Bad) as caught:
        decode(value)

    assert str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(
            ["@type", "cluster_name", "endpoints", "lb_endpoints", "endpoint", "address", "policy",
             "socket_address", "port_value", "priority", "locality", "name", "type", "resource"]
        ), inner, max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_no_value_is_worse_than_bad(value: Any) -> None:
    try:
        decode(value)
    except Bad:
        return


def test_clusters() -> None:
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "explicit_http_config": {"http2_protocol_options": {}}
        }
    }
    eds = decode(
        {
            "@type": CLUSTER,
            "name": "web",
            "type": "EDS",
            "eds_cluster_config": {"service_name": "web-eds"},
            "common_lb_config": {"locality_weighted_lb_config": {}},
            "typed_extension_protocol_options": http2,
        }
    )
    static = decode({"name": "api", "load_assignment": {"endpoints": [group(member())]}})

    assert eds == Cluster("web", "web-eds", "http2", True)
    assert isinstance(static, Cluster)
    assert static.assignment is not None
    assert static.assignment.endpoints[0].address == "10.0.0.1"


def test_a_file_of_resources() -> None:
    bad = {"@type": ENDPOINTS, "cluster_name": "shop/bad", "endpoints": 7}
    static = {
        "@type": CLUSTER,
        "name": "api",
        "http2_protocol_options": {},
        "load_assignment": {"endpoints": [group(member())]},
    }
    value = {"version_info": "1", "resources": [assignment(group(member())), bad, static, 7]}
    content = files.read(msgspec.json.encode(value).decode(), "eds.json")

    web, api = (fragment.service for fragment in reversed(content.fragments))
    assert (web.name, web.ports) == ("default/web", (Port(8080),))
    assert (api.name, api.ports) == ("default/api", (Port(8080, protocol="http2"),))
    assert content.unreadable == ("shop/bad",)
    assert content.partial
    assert [p.field for p in content.problems] == ["resources[1]", "resources[3]"]


@pytest.mark.parametrize("text", ["[]", "services: []", "resources: 3", "resorces: []", ": :"])
def test_a_file_that_is_no_discovery_response(text: str) -> None:
    with pytest.raises(DocumentError):
        files.read(text, "eds.yaml")


def test_an_empty_file_says_nothing() -> None:
    assert len(files.read("", "eds.yaml").problems) == 1
    assert files.read("resources: []", "eds.yaml").problems == ()


def test_versions() -> None:
    assert version_of(b'{"version_info": "a\\"b", "resources": []}') == 'a"b'
    assert version_of(b'{"versionInfo":"2"}') == "2"
    assert version_of(b"{}") == ""
    assert version_of(b'{"version_info":"\\x"}') == ""


def test_spread_of_nothing() -> None:
    assert spread([], 140, True) == []
    assert Entry.__annotations__["endpoint"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one"),
        ({"server": "http://x:1", "path": "x"}, "exactly one"),
        ({"path": "x", "clusters": ("web",)}, "need `server`"),
        ({"server": "ftp://x"}, "http://HOST:PORT"),
        ({"server": "http://x:1", "poll": 0.01}, "poll"),
        ({"server": "http://x:1", "timeout": 0.01}, "timeout"),
        ({"server": "http://x:1", "key_file": "k"}, "cert_file"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        XdsBackend(Options(**options), Context("xds"))
