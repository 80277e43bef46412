"""The examples of docs/routing.md are valid, and its tables name every feature."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nodeproxy.routes.reading import read
from registry.strict import parse
from tests.unit.routing_samples import load

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "routing.md").read_text(encoding="utf-8")
BLOCKS = [
    block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "apiVersion:" in block
]
MESH = """
MeshClusterIPMatching MeshConsumerRoute MeshHTTPRouteRewritePath MeshHTTPRouteSchemeRedirect
MeshHTTPRouteRedirectPort MeshHTTPRouteRedirectPath MeshHTTPRouteBackendRequestHeaderModification
MeshHTTPRouteQueryParamMatching MeshHTTPRouteNamedRouteRule
"""
GATEWAY = """
Port8080 StaticAddresses HTTPListenerIsolation InfrastructurePropagation AddressEmpty
FrontendClientCertificateValidation ListenerSet BackendTLSPolicy DestinationPortMatching
BackendRequestHeaderModification QueryParamMatching MethodMatching ResponseHeaderModification
PortRedirect SchemeRedirect PathRedirect HostRewrite PathRewrite RequestMirror
RequestMultipleMirrors RequestPercentageMirror RequestTimeout BackendTimeout ParentRefPort
BackendProtocolH2C BackendProtocolWebSocket NamedRouteRule CORS 303RedirectStatusCode Retry
RetryBackendTimeout RetryConnectionError BackendURLRewrite BackendRequestRedirect ReferenceGrant
"""


@pytest.mark.parametrize("block", BLOCKS)
def test_examples_are_valid(block: str) -> None:
    assert len(load(block)) == len(parse(block, "x"))
    assert read(block, "x")[1] == []


def test_there_are_examples() -> None:
    assert len(BLOCKS) == 2


@pytest.mark.parametrize(("profile", "features"), [("MESH-HTTP", MESH), ("GATEWAY-HTTP", GATEWAY)])
def test_every_feature_of_a_profile_is_in_its_table(profile: str, features: str) -> None:
    table = PAGE.partition(f"### {profile}\n")[2].partition("\n### ")[0]
    assert [name for name in features.split() if name not in table] == []
