"""What the demo makes of its clients' results."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.demo.load import Result
from nodeproxy.demo.processes import Span
from nodeproxy.demo.report import (
    AT_THE_BACKEND,
    AT_THE_KILL,
    HOST_REFUSED,
    NOBODY,
    Moments,
    Verdict,
    distribution,
    explain,
    phases,
    reasons,
    verdict,
)

CLIENTS = ("pod", "host")
BACKENDS = ("a", "b", "c")


def result(started: float, **changes: Any) -> Result:
    """A request that went well, through the proxy, within 10 ms; with changes."""
    given: dict[str, Any] = {
        "client": "pod",
        "started": started,
        "ended": started + 0.01,
        "target": "10.96.0.10:80",
        "kept": False,
        "outcome": "ok",
        "status": 200,
        "backend": "a",
        "via": True,
    }
    return Result(**given | changes)


def failed(started: float, outcome: str, **changes: Any) -> Result:
    return result(
        started, **{"outcome": outcome, "status": 0, "backend": "", "via": False} | changes
    )


def moments(**changes: Any) -> Moments:
    """The back end b dies at 10, the proxy at 20; it is back at 30."""
    given: dict[str, Any] = {
        "intercepted": True,
        "expiry": 2.0,
        "host_client": "host",
        "killed_backend": "b",
        "backend_killed": Span(10.0, 10.01),
        "proxy_killed": Span(20.0, 20.02),
        "proxy_ready": 30.0,
    }
    return Moments(**given | changes)


def good_story() -> list[Result]:
    """Results to which there is nothing to object."""
    story = [result(i / 10, client=CLIENTS[i % 2], backend=BACKENDS[i % 3]) for i in range(60)]
    story += [result(11 + i / 10, client=CLIENTS[i % 2], backend="ac"[i % 2]) for i in range(20)]
    story += [failed(20.01, "reset", client="pod"), failed(20.5, "refused", client="host")]
    story += [result(20.5, ended=22.6, via=False), result(23.0, client="host", via=False)]
    story += [result(31 + i / 10, client=CLIENTS[i % 2]) for i in range(20)]
    return story


def judge(results: list[Result], when: Moments | None = None, **changes: Any) -> list[Verdict]:
    when = when or moments()
    given: dict[str, Any] = {"clients": CLIENTS, "backends": BACKENDS, "sent": len(results)}
    return verdict(phases(results, when), when, **given | changes)


def not_held(verdicts: list[Verdict]) -> list[str]:
    return [f"{v.claim}: {v.why}" for v in verdicts if not v.held]


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (failed(19.99, "reset", ended=20.01), AT_THE_KILL),
        (failed(19.0, "closed", ended=20.001), AT_THE_KILL),
        (failed(20.01, "reset"), AT_THE_KILL),
        (failed(20.01, "refused", client="host"), HOST_REFUSED),
        (failed(21.9, "refused", client="host"), HOST_REFUSED),
        (failed(9.99, "status", status=502), AT_THE_BACKEND),
        (failed(10.02, "status", status=503), AT_THE_BACKEND),
    ],
)
def test_a_failure_with_its_excuse(request_: Result, why: str) -> None:
    assert explain(request_, moments()) == why


@pytest.mark.parametrize(
    "request_",
    [
        failed(5.0, "reset"),
        failed(19.0, "reset", ended=19.9),
        failed(20.5, "reset"),
        failed(20.5, "refused", client="pod"),
        failed(23.0, "refused", client="host"),
        failed(18.0, "timeout", ended=23.0),
        failed(20.5, "timeout", ended=25.5, client="host"),
        failed(12.0, "status", status=502),
        failed(10.0, "status", status=404),
        failed(31.0, "unreachable"),
        failed(20.0, "error"),
    ],
)
def test_a_failure_without_excuse(request_: Result) -> None:
    assert explain(request_, moments()) is None
    assert "no request failed without a reason that is given" in " ".join(
        not_held(judge([*good_story(), request_]))
    )


def test_without_interception_a_dead_proxy_refuses_until_it_is_back() -> None:
    when = moments(intercepted=False, expiry=0.0, host_client="")
    assert explain(failed(29.9, "refused"), when) == NOBODY
    assert explain(failed(30.1, "refused"), when) is None
    assert explain(failed(19.0, "refused"), when) is None
    assert explain(failed(99.0, "refused"), moments(intercepted=False, proxy_ready=None)) == NOBODY


def test_before_anything_was_killed_nothing_is_excused() -> None:
    when = Moments(intercepted=True)
    for outcome in ("refused", "reset", "closed", "timeout", "status"):
        assert explain(failed(1.0, outcome, status=503), when) is None


def test_phases_follow_the_story_as_far_as_it_went() -> None:
    assert [p.title for p in phases([], Moments(intercepted=True))] == ["all is well"]
    found = phases(good_story(), moments())
    assert [p.title for p in found] == [
        "all is well",
        "a back end is dead",
        "the proxy is dead",
        "the proxy is back",
    ]
    assert [len(p.results) for p in found] == [60, 20, 4, 20]
    assert [len(p.direct) for p in found] == [0, 0, 2, 0]
    assert found[2].slowest == pytest.approx(2.1)
    assert found[0].median == pytest.approx(0.01)
    assert phases([], moments())[0].median == 0


def test_a_failure_belongs_to_what_caused_it() -> None:
    found = phases([failed(19.99, "reset", ended=20.01), result(19.99, ended=20.01)], moments())
    assert [len(p.results) for p in found] == [0, 1, 1, 0]


def test_the_proxy_is_back_with_its_first_request() -> None:
    when = moments(proxy_started=28.0)
    early = [result(19.9), result(29.0), result(29.5, via=False)]
    found = phases([*good_story(), *early], when)
    assert found[-1].begins == 29.0
    assert (len(found[-1].proxied), len(found[-1].direct)) == (21, 1)
    assert phases([], when)[-1].begins == 30.0


def test_a_good_story_is_held_to_be_one() -> None:
    assert not_held(judge(good_story())) == []
    assert len(judge(good_story())) == 7


@pytest.mark.parametrize(
    ("spoil", "claim"),
    [
        (lambda story: story[1:], "every request that was sent has a result"),
        (lambda story: [result(1.0, via=False), *story], "1 went past the proxy"),
        (lambda story: [result(1.0) for _ in range(60)] + story[60:], "b got 0 of 60"),
        (lambda story: [*story, result(12.0, backend="b")], "nothing went to the dead back end"),
        (
            lambda story: [r for r in story if r.via or r.client == "pod" or not r.ok],
            "the kernel carried every client's requests: not those of host",
        ),
        (
            lambda story: [r for r in story if r.client == "host" or r.started < 30],
            "came back to the proxy: not those of pod",
        ),
        (lambda story: [*story, result(99.0, via=False)], "the last request went through"),
    ],
)
def test_what_does_not_hold_is_named(spoil: Any, claim: str) -> None:
    sent = len(good_story())
    found = not_held(judge(spoil(good_story()), sent=sent))
    assert any(claim in line for line in found), found


def test_a_client_that_did_not_end_is_a_hole() -> None:
    assert any(
        "did not come to its end" in line for line in not_held(judge(good_story(), sent=None))
    )


def test_no_requests_prove_nothing() -> None:
    assert not_held(judge([], sent=0))


def test_reasons_are_counted_together() -> None:
    story = [failed(20.5, "refused", client="host") for _ in range(3)]
    story += [failed(1.0, "status", status=500, detail="")]
    assert reasons(story, moments()) == [
        ("host: refused", 3, HOST_REFUSED),
        ("pod: status 500", 1, "NOT EXPLAINED"),
    ]


def test_distribution_is_of_answers() -> None:
    story = [result(1.0, backend="a")] * 3 + [result(1.0, backend="b"), failed(1.0, "reset")]
    assert distribution(story) == "a 75%, b 25%"
    assert distribution([]) == "nobody"


@given(
    st.lists(
        st.builds(
            lambda start, length, outcome: (
                failed(start, outcome, ended=start + length)
                if outcome != "ok"
                else result(start, ended=start + length)
            ),
            st.floats(0, 40),
            st.floats(0, 5),
            st.sampled_from(["ok", "reset", "refused", "timeout", "status"]),
        )
    )
)
def test_every_result_is_in_one_phase(results: list[Result]) -> None:
    found = phases(results, moments())
    assert sorted(r.started for p in found for r in p.results) == sorted(r.started for r in results)
    for phase in found:
        assert len(phase.ok) + len(phase.failed) == len(phase.results)
        assert len(phase.direct) + len(phase.proxied) == len(phase.ok)
