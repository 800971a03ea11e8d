"""Every use a key may have can be shown."""

from __future__ import annotations

from aegis.trust import USAGES
from aegis.v1 import identity_pb2
from aegis_server.identity.service import _USAGES


def test_every_usage_of_a_bundle_has_a_name_on_the_wire():
    """A key of a use that nobody named would make the list of keys fail."""
    assert set(_USAGES) == set(USAGES)
    assert set(_USAGES.values()) == set(identity_pb2.KeyUsage.values()) - {0}
