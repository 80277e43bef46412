"""Signatures by AWS' own vectors, credentials in files and environment, and what answers say."""

from __future__ import annotations

import datetime
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import botocore.auth
import httpx
import pytest

from registry.aws import files
from registry.aws.api import error_of, url_of
from registry.aws.backend import AwsBackend
from registry.aws.decode import (
    Discovered,
    map_endpoint,
    reservation_endpoints,
    target_endpoint,
    target_group,
)
from registry.aws.options import CloudMap, Instances, Options, TargetGroups
from registry.aws.signing import Credentials, load
from registry.base import Context, RegistryError
from registry.fetch import Answer
from registry.model import Endpoint, Locality

# The identity and the moment of AWS' Signature Version 4 test suite.
SUITE = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
FORM = "application/x-www-form-urlencoded; charset=utf-8"


@pytest.mark.parametrize(
    ("service", "method", "url", "headers", "signature"),
    [
        ("service", "GET", "https://example.amazonaws.com/", {},
         "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("service", "POST", "https://example.amazonaws.com/", {},
         "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ("service", "GET", "https://example.amazonaws.com/?Param2=value2&Param1=value1", {},
         "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
        ("iam", "GET", "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
         {"Content-Type": FORM},
         "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"),
    ],
)  # fmt: skip
def test_signatures_of_the_test_suite(
    service: str, method: str, url: str, headers: dict[str, str], signature: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    moment = datetime.datetime(2015, 8, 30, 12, 36, 0, tzinfo=datetime.UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: moment)

    signed = load()(SUITE, service, "us-east-1", method, url, headers, b"")

    assert signed["Authorization"].endswith(f"Signature={signature}")
    assert f"Credential=AKIDEXAMPLE/20150830/us-east-1/{service}/" in signed["Authorization"]


def test_a_session_token_is_signed_and_nothing_shows_secrets() -> None:
    keys = Credentials("AKIDEXAMPLE", "s3cret", "t0ken")
    signed = load()(keys, "ec2", "eu-west-1", "POST", "https://x/", {"Content-Type": FORM}, b"a=b")

    assert signed["X-Amz-Security-Token"] == "t0ken"
    assert "x-amz-security-token" in signed["Authorization"]
    assert "s3cret" not in f"{keys} {keys!r}"


def test_where_requests_go() -> None:
    assert url_of("ec2", "eu-west-1", None) == "https://ec2.eu-west-1.amazonaws.com/"
    assert url_of("ec2", "cn-north-1", None) == "https://ec2.cn-north-1.amazonaws.com.cn/"
    assert url_of("servicediscovery", "eu-west-1", None, data=True).startswith("https://data-")
    assert url_of("ec2", "eu-west-1", "http://127.0.0.1:5000") == "http://127.0.0.1:5000/"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b'{"__type":"com.amazonaws.x#ThrottlingException","message":"slow"}',
         "ThrottlingException", "slow"),
        (b'{"__type":"ServiceNotFound","Message":"x"}', "ServiceNotFound", "x"),
        (b"<ErrorResponse xmlns='http://elb/'><Error><Code>Throttling</Code>"
         b"<Message>Rate</Message></Error></ErrorResponse>", "Throttling", "Rate"),
        (b"<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></Errors></Response>",
         "RequestLimitExceeded", ""),
        (b"<html", "", ""),
        (b"{", "", ""),
        (b"", "", ""),
    ],
)  # fmt: skip
def test_errors(body: bytes, code: str, message: str) -> None:
    assert error_of(Answer(400, httpx.Headers(), body)) == (code, message)


# --- files and environment ---


def test_the_shared_files(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = S%x\n"
        "[dev]\naws_access_key_id = B\naws_secret_access_key = T\naws_session_token = U\n"
    )
    (tmp_path / ".aws" / "config").write_text(
        "[default]\nregion = eu-west-1\n[profile dev]\nregion = eu-west-2\n"
        "[profile role]\nrole_arn = arn:x\nsource_profile = default\n"
    )
    environment = {"HOME": str(tmp_path)}

    default, dev = files.read("default", environment), files.read("dev", environment)
    assert (default.region, dev.region) == ("eu-west-1", "eu-west-2")
    assert default.keys() == Credentials("A", "S%x")
    assert dev.keys() == Credentials("B", "T", "U")
    with pytest.raises(RegistryError, match="role_arn"):
        files.read("role", environment).keys()
    other = files.read("none", environment)
    assert (other.known, other.keys()) == (False, None)


def test_a_broken_shared_file_does_not_show_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.write_text("aws_secret_access_key = s3cret\n")
    with pytest.raises(RegistryError) as caught:
        files.read("default", {"AWS_SHARED_CREDENTIALS_FILE": str(path)})

    assert "s3cret" not in str(caught.value)


def test_the_environment() -> None:
    both = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S"}
    assert files.from_environment(both) == Credentials("A", "S")
    assert files.from_environment({"AWS_ACCESS_KEY_ID": "A"}) is None
    assert files.region_of({"AWS_DEFAULT_REGION": "x"}) == "x"
    assert files.profile_of(None, {"AWS_PROFILE": "dev"}) == "dev"
    assert files.profile_of("mine", {"AWS_PROFILE": "dev"}) == "mine"


# --- answers ---


def test_an_instance_of_cloud_map() -> None:
    found = Discovered(
        "i-1",
        "HEALTHY",
        {
            "AWS_INSTANCE_IPV4": "10.0.0.1",
            "AWS_INSTANCE_PORT": "8080",
            "AVAILABILITY_ZONE": "eu-west-1a",
            "REGION": "eu-west-1",
            "ECS_CLUSTER_NAME": "x",
            "version": "v1",
        },
    )

    endpoint = map_endpoint(found, CloudMap("prod"), "eu-west-1")
    assert endpoint == Endpoint(
        "10.0.0.1", 8080, locality=Locality("eu-west-1", "eu-west-1a"), labels=(("version", "v1"),)
    )


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "AWS_INSTANCE_IPV4"),
        ({"AWS_INSTANCE_CNAME": "x.example"}, "names are not resolved"),
        ({"AWS_INSTANCE_IPV4": "10.0.0.1"}, "AWS_INSTANCE_PORT"),
        ({"AWS_INSTANCE_IPV4": "10.0.0.1", "AWS_INSTANCE_PORT": "x"}, "not a port"),
        ({"AWS_INSTANCE_IPV4": "169.254.169.254", "AWS_INSTANCE_PORT": "80"}, "link-local"),
    ],
)
def test_instances_that_cannot_be_used(attributes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        map_endpoint(Discovered("i", attributes=attributes), CloudMap("prod"), "r")


def test_health_and_the_port_of_instances() -> None:
    options = CloudMap("prod", port=80)
    ill = Discovered("i", "UNHEALTHY", {"AWS_INSTANCE_IPV6": "2001:db8::1"})
    endpoint = map_endpoint(ill, options, "r")
    assert (endpoint.address, endpoint.port, endpoint.ready) == ("2001:db8::1", 80, False)


def group(**fields: str) -> ET.Element:
    known = {"TargetGroupName": "web", "TargetGroupArn": "arn:web", "TargetType": "ip",
             "Protocol": "HTTP", "ProtocolVersion": "HTTP1", "Port": "80", **fields}  # fmt: skip
    return ET.fromstring(
        "<member>" + "".join(f"<{k}>{v}</{k}>" for k, v in known.items()) + "</member>"
    )


@pytest.mark.parametrize(
    ("spoken", "version", "protocol"),
    [("HTTP", "HTTP1", "http"), ("HTTP", "GRPC", "grpc"), ("HTTP", "HTTP2", "http2"),
     ("HTTPS", "HTTP1", "tls"), ("TCP", "", "tcp"), ("TCP_UDP", "", "")],
)  # fmt: skip
def test_protocols_of_target_groups(spoken: str, version: str, protocol: str) -> None:
    assert target_group(group(Protocol=spoken, ProtocolVersion=version)).protocol == protocol


@pytest.mark.parametrize(
    "fields",
    [{"TargetType": "lambda"}, {"TargetType": "alb"}, {"Protocol": "UDP"},
     {"TargetGroupName": ""}, {"Port": "http"}],
)  # fmt: skip
def test_target_groups_that_cannot_be_used(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        target_group(group(**fields))


@pytest.mark.parametrize(
    ("state", "reason", "ready", "serving", "terminating"),
    [
        ("healthy", "", True, True, False),
        ("initial", "Elb.RegistrationInProgress", False, False, False),
        ("unhealthy", "Target.Timeout", False, False, False),
        ("draining", "Target.DeregistrationInProgress", False, True, True),
        ("unused", "Target.NotInUse", True, True, False),
        ("unused", "Target.InvalidState", False, False, False),
        ("unavailable", "Target.HealthCheckDisabled", True, True, False),
    ],
)
def test_states_of_targets(
    state: str, reason: str, ready: bool, serving: bool, terminating: bool
) -> None:
    member = ET.fromstring(
        "<member><Target><Id>10.0.0.1</Id><Port>8080</Port>"
        "<AvailabilityZone>eu-west-1a</AvailabilityZone></Target>"
        f"<TargetHealth><State>{state}</State><Reason>{reason}</Reason></TargetHealth></member>"
    )
    endpoint = target_endpoint(member, target_group(group()), "eu-west-1").endpoint

    assert (endpoint.address, endpoint.port) == ("10.0.0.1", 8080)
    assert endpoint.locality == Locality("eu-west-1", "eu-west-1a")
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (
        ready, serving, terminating,
    )  # fmt: skip


def test_a_target_that_is_an_instance_has_no_address_yet() -> None:
    member = ET.fromstring("<member><Target><Id>i-1</Id></Target></member>")
    found = target_endpoint(member, target_group(group(TargetType="instance")), "r")
    assert (found.instance, found.endpoint.address, found.endpoint.port) == ("i-1", "", 80)
    with pytest.raises(ValueError, match="no port"):
        target_endpoint(member, target_group(group(TargetType="instance", Port="")), "r")


def test_instances_of_ec2() -> None:
    reservation = ET.fromstring(
        "<item><instancesSet>"
        "<item><instanceId>i-1</instanceId><privateIpAddress>10.0.0.1</privateIpAddress>"
        "<ipAddress>198.51.100.1</ipAddress><placement><availabilityZone>a</availabilityZone>"
        "</placement><networkInterfaceSet><item><ipv6AddressesSet><item>"
        "<ipv6Address>2001:db8::1</ipv6Address></item></ipv6AddressesSet></item>"
        "</networkInterfaceSet></item>"
        "<item><instanceId>i-2</instanceId></item></instancesSet></item>"
    )

    def seen(kind: Any) -> list[tuple[str, Endpoint | str]]:
        return reservation_endpoints(reservation, Instances("web", 80, {"a": "b"}, kind), "r")

    place = Locality("r", "a")
    assert seen("private")[0] == ("i-1", Endpoint("10.0.0.1", 80, locality=place))
    assert seen("public")[0] == ("i-1", Endpoint("198.51.100.1", 80, locality=place))
    assert seen("ipv6")[0] == ("i-1", Endpoint("2001:db8::1", 80, locality=place))
    assert seen("private")[1] == ("i-2", "it has no private address")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "is needed"),
        ({"instances": (Instances("web", 80, {}),)}, "tags"),
        ({"target_groups": TargetGroups(("x",)), "poll": 0.01}, "poll"),
        ({"target_groups": TargetGroups(("x",)), "refresh": 0.01}, "refresh"),
        ({"target_groups": TargetGroups(("x",)), "timeout": 0.01}, "timeout"),
        ({"cloud_map": (CloudMap("x"),), "endpoint_url": "x"}, "http://HOST:PORT"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AwsBackend(Options(**options), Context("aws"))
