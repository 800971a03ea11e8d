"""The access table and the contract say the same."""

from __future__ import annotations

import pytest

from aegis.v1 import (
    audit_pb2,
    dataset_pb2,
    detector_pb2,
    execution_pb2,
    golden_set_pb2,
    identity_pb2,
    model_pb2,
    participant_pb2,
    policy_admin_pb2,
    policy_pb2,
    privacy_pb2,
    review_pb2,
    service_account_pb2,
    session_pb2,
    standing_pb2,
    training_pb2,
    user_pb2,
)
from aegis_policy import Engine
from aegis_policy.baseline import baseline_csv
from aegis_server.access import ACCESS, DOMAIN, OPEN, Needs, in_scope

MODULES = (
    audit_pb2,
    dataset_pb2,
    detector_pb2,
    execution_pb2,
    golden_set_pb2,
    identity_pb2,
    model_pb2,
    participant_pb2,
    policy_admin_pb2,
    policy_pb2,
    privacy_pb2,
    review_pb2,
    service_account_pb2,
    session_pb2,
    standing_pb2,
    training_pb2,
    user_pb2,
)


def methods() -> set[str]:
    return {
        f"/{service.full_name}/{method.name}"
        for module in MODULES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def test_every_method_is_in_the_table_and_nothing_else():
    """An rpc without a line here could be called by nobody, or by everybody."""
    assert methods() == set(ACCESS)


def test_stranger_may_call_nothing_but_what_concerns_only_themselves():
    """A certificate of the trust domain that no rule names opens only these."""
    engine = Engine.from_csv(baseline_csv())
    allowed = {
        method
        for method, needs in ACCESS.items()
        if isinstance(needs, Needs)
        and engine.decide(
            subject="user:nobody", domain=DOMAIN, resource=needs.resource, action=needs.action
        ).allowed
    }
    assert allowed == set()
    assert {method for method, needs in ACCESS.items() if needs is None} == {
        "/aegis.v1.IdentityService/WhoAmI",
        "/aegis.v1.UserService/GetProfile",
        "/aegis.v1.UserService/UpdateProfile",
        "/aegis.v1.UserService/ChangePassword",
        "/aegis.v1.ExecutionService/CancelAction",
        # Their handlers ask the policy: about whose update it is, from which verdict to which, how
        # a detector was measured.
        "/aegis.v1.DetectorService/PromoteDetector",
        "/aegis.v1.GoldenSetService/PromoteGoldenSet",
        "/aegis.v1.StandingService/DecideQuarantine",
        "/aegis.v1.ReviewService/SubmitUpdate",
        "/aegis.v1.ReviewService/GetUpload",
        "/aegis.v1.ReviewService/OverrideVerdict",
    }


def test_only_ways_to_log_in_are_open_to_everybody():
    """What needs no identity at all is one service, and the way in for a site that was invited."""
    open_methods = {method for method, needs in ACCESS.items() if needs is OPEN}
    assert {method.rsplit("/", 1)[0] for method in open_methods} == {
        "/aegis.v1.SessionService",
        "/aegis.v1.ParticipantService",
    }
    assert "/aegis.v1.ParticipantService/Enrol" in open_methods


def test_admin_may_call_everything():
    """Nobody locks themselves out with the baseline."""
    engine = Engine.from_csv(baseline_csv())
    for needs in ACCESS.values():
        if isinstance(needs, Needs):
            decision = engine.decide(
                subject="user:admin", domain=DOMAIN, resource=needs.resource, action=needs.action
            )
            assert decision.allowed, needs


@pytest.mark.parametrize(
    ("scopes", "covered"),
    [
        ((), False),
        (("read:/audit",), True),
        (("*:/**",), True),
        (("read:/training/**",), False),
        (("write:/audit",), False),
        (("read:/policy", "read:/audit"), True),
    ],
)
def test_scope_covers_its_action_below_its_pattern(scopes: tuple[str, ...], covered: bool):
    """A key without any scope that fits may do nothing."""
    assert in_scope(scopes, Needs("/audit", "read")) is covered
