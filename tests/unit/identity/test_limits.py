"""Classes of methods, and how limits are written."""

from __future__ import annotations

import pytest

from aegis_server.access import ACCESS, OPEN_METHODS
from aegis_server.identity.buckets import Bucket
from aegis_server.identity.limits import _OF_METHOD, DEFAULTS, class_of, parse_limits

READERS = (
    *("Get", "List", "Watch", "Export", "WhoAmI", "Why", "Plan"),
    *("Diff", "Lint", "Simulate", "Explain", "Compare", "Certify", "Download"),
)


@pytest.mark.parametrize("method", sorted(ACCESS))
def test_class_of_a_method_is_what_its_name_says(method: str):
    """Nothing that changes something passes as a read, and nothing that reads waits for Redis."""
    kind, name = class_of(method), method.rsplit("/", 1)[1]
    assert kind in DEFAULTS
    if method in OPEN_METHODS:
        assert kind == "session"
    elif kind == "mutate":
        assert not name.startswith(READERS)
    elif kind == "read":
        assert name.startswith(READERS)


def test_kill_switch_waits_for_nobody():
    """Whoever stops execution may do so while nobody can count; to let it go on waits."""
    assert class_of("/aegis.v1.ExecutionService/PauseExecution") == "stop"
    assert class_of("/aegis.v1.ExecutionService/ResumeExecution") == "mutate"


def test_every_exception_is_about_a_method_there_is():
    """A renamed method does not fall out of its class unseen."""
    assert _OF_METHOD.keys() <= ACCESS.keys()


def test_unknown_method_counts_as_a_change():
    """What nobody classified is what is refused first."""
    assert class_of("/aegis.v1.PolicyService/Forgotten") == "mutate"


def test_limits_that_are_not_named_stay():
    """Only what is written changes."""
    limits = parse_limits("mutate=0.5/4  read=10/20")
    assert limits["mutate"] == Bucket("mutate", rate=0.5, burst=4)
    assert limits["read"] == Bucket("read", rate=10, burst=20)
    assert limits["evaluate"] == DEFAULTS["evaluate"]
    assert parse_limits("") == DEFAULTS


@pytest.mark.parametrize(
    "text", ["reads=1/2", "read=1", "read=-1/2", "read=0/2", "read=1/0", "read=1e9/2", "read=a/b"]
)
def test_limit_that_makes_no_sense_is_named(text: str):
    """A limit of nothing would be an outage."""
    with pytest.raises(ValueError, match=f"AEGIS_LIMITS: '{text}'"):
        parse_limits(text)
