"""The configuration of given addresses, of the DNS responder and of composition."""

from __future__ import annotations

import pytest

from nodeproxy import settings
from nodeproxy.config import Config, ConfigError, parse


def read(text: str) -> Config:
    return parse(text, "np.yaml")


def wrong(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


def test_both_are_off_by_default() -> None:
    config = read("")
    assert not config.dns.listen.enabled
    assert config.dns.suffix == "mesh"
    assert config.dns.ttl == 5
    assert config.vips.networks == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vips: {cidr: fd00::/64}", "np.yaml:1: vips.cidr: fd00::/64 is not a network of IPv4"),
        ("vips: {cidr6: 10.0.0.0/8}", "vips.cidr6: 10.0.0.0/8 is not a network of IPv6"),
        ("vips: {cidr: 10.0.0.0/31}", "vips.cidr: 10.0.0.0/31 has no room"),
        ("vips: {cidr: 10.97.0.1/16}", "the network is 10.97.0.0/16"),
        (
            "interception: {vip_cidrs: [10.96.0.0/16]}\nvips: {cidr: 10.0.0.0/8}",
            "np.yaml:2: vips.cidr: 10.0.0.0/8 contains interception.vip_cidrs[0], 10.96.0.0/16",
        ),
        ("dns: {listen: '0.0.0.0:53'}", "dns.listen: needs to be one address"),
        ("dns: {listen: '[::]:53'}", "dns.listen: needs to be one address"),
        ("dns: {listen: localhost:53}", "dns.listen: 'localhost' is not an IP address"),
        ("dns: {listen: '127.0.0.1:15020'}", "127.0.0.1:15020 is taken by telemetry.metrics"),
        ("dns: {ttl: 1500ms}", "dns.ttl: needs to be whole seconds"),
        ("dns: {suffix: Mesh}", "dns.suffix: 'Mesh' is not a DNS name"),
        ("dns: {suffix: mesh.}", "'mesh.' is not a DNS name"),
        (f"dns: {{suffix: {'a.' * 60}b}}", "leaves no room"),
    ],
)
def test_what_cannot_work_is_refused(text: str, message: str) -> None:
    (problem,) = wrong(text)
    assert message in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dns: {suffix: corp.local}", "multicast DNS"),
        ("dns: {listen: '10.0.0.5:53'}", "can be asked by other hosts"),
        ("interception: {mode: none}\nvips: {cidr: 10.97.0.0/16}", "mode none: nothing takes"),
    ],
)
def test_what_is_doubtful_is_told(text: str, message: str) -> None:
    assert any(message in str(warning) for warning in read(text).warnings)


@pytest.mark.parametrize(
    ("text", "cidrs"),
    [
        ("vips: {cidr: 10.97.0.0/16, cidr6: 'fd00:97::/112'}", ("10.97.0.0/16", "fd00:97::/112")),
        (
            "interception: {vip_cidrs: [10.96.0.0/16]}\nvips: {cidr: 10.97.0.0/16}",
            ("10.96.0.0/16", "10.97.0.0/16"),
        ),
        # Part of a network that is routed already.
        (
            "interception: {vip_cidrs: [10.96.0.0/12]}\nvips: {cidr: 10.97.0.0/16}",
            ("10.96.0.0/12",),
        ),
        (
            "interception: {vip_cidrs: [10.97.0.0/16]}\nvips: {cidr: 10.97.0.0/16}",
            ("10.97.0.0/16",),
        ),
    ],
)
def test_given_addresses_are_routed_as_the_others(text: str, cidrs: tuple[str, ...]) -> None:
    assert settings.interception_settings(read(text)).vip_cidrs == cidrs


def test_the_keys_of_an_entry_are_checked_on_their_lines() -> None:
    config = read(
        """\
registries:
  - kind: file
    path: x.yaml
    priorty: 1
  - kind: file
    name: two
    path: y.yaml
    rename:
      - {match: "a/*", to: "b/{1}"}
      - match: "c/*"
        to: "b/{2}"
    only:
      - {label: env, vlue: prod}
    default_endpoints:
      shop/web: ["10.0.0.9"]
"""
    )
    assert [str(problem) for problem in settings.registry_problems(config)] == [
        "np.yaml:4: priorty: unknown key 'priorty'; did you mean 'priority'?",
        "np.yaml:10: rename[1]: to: {2} is not a part of the name, nor a group",
        "np.yaml:13: only[0].vlue: unknown key 'vlue'; did you mean 'value'?",
        "np.yaml:15: default_endpoints[\"shop/web\"][0]: '10.0.0.9' is not ADDRESS:PORT",
    ]
