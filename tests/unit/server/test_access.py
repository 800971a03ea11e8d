"""The access table and the contract say the same."""

from __future__ import annotations

from aegis.v1 import (
    audit_pb2,
    execution_pb2,
    identity_pb2,
    policy_pb2,
    review_pb2,
    training_pb2,
)
from aegis_policy import Engine
from aegis_policy.baseline import baseline_csv
from aegis_server.access import ACCESS, DOMAIN

MODULES = (audit_pb2, execution_pb2, identity_pb2, policy_pb2, review_pb2, training_pb2)


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


def test_stranger_may_call_nothing_but_who_am_i():
    """A certificate of the trust domain that no rule names opens only the open methods."""
    engine = Engine.from_csv(baseline_csv())
    allowed = {
        method
        for method, needs in ACCESS.items()
        if needs is None
        or engine.decide(
            subject="user:nobody", domain=DOMAIN, resource=needs.resource, action=needs.action
        ).allowed
    }
    assert allowed == {"/aegis.v1.IdentityService/WhoAmI"}


def test_admin_may_call_everything():
    """Nobody locks themselves out with the baseline."""
    engine = Engine.from_csv(baseline_csv())
    for needs in filter(None, ACCESS.values()):
        decision = engine.decide(
            subject="user:admin", domain=DOMAIN, resource=needs.resource, action=needs.action
        )
        assert decision.allowed, needs
