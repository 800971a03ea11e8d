"""The registry: one line a remedy, and a target that fits its kind."""

from __future__ import annotations

import pytest
from tests.factories import cordon, restart, restart_rollout, rollback, scale, uncordon

from aegis.errors import InvalidArgument
from aegis.v1.envelope_pb2 import ActionSpec
from aegis_executor.catalogue import REMEDIES, of_spec
from aegis_executor.catalogue.gates import protected, vetoed

SPECS = [
    restart("demo", "web-1"),
    restart_rollout("demo", "web"),
    scale("demo", "web", 2),
    rollback("demo", "web"),
    cordon("n-1"),
    uncordon("n-1"),
]


def test_every_action_of_the_proto_has_its_remedy():
    """The catalogue is closed and complete, and each is found under its own name."""
    actions = {field.name for field in ActionSpec.DESCRIPTOR.oneofs_by_name["action"].fields}
    assert set(REMEDIES) == actions == {of_spec(spec).verb for spec in SPECS}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.WhichOneof("action"))
def test_namespace_that_is_missing_or_superfluous_is_refused(spec: ActionSpec):
    """Nodes have none; everything else has one."""
    odd = ActionSpec()
    odd.CopyFrom(spec)
    odd.target.namespace = "" if spec.target.namespace else "demo"
    with pytest.raises(InvalidArgument) as caught:
        of_spec(odd)
    assert caught.value.reason == "PAYLOAD_INVALID"


def test_spec_without_an_action_is_refused():
    """Nothing is guessed."""
    with pytest.raises(InvalidArgument):
        of_spec(ActionSpec(target=SPECS[0].target))


@pytest.mark.parametrize("verb", sorted(REMEDIES))
def test_every_remedy_respects_protection_and_veto(verb: str):
    """Whatever it does, and before anything else."""
    assert REMEDIES[verb].gates[:2] == (protected, vetoed)
