"""Revisions on the wire."""

from __future__ import annotations

import hashlib

from aegis.v1 import policy_pb2
from aegis_server.policy.store import Revision


def revision_message(revision: Revision) -> policy_pb2.PolicyRevision:
    """Returns a revision as its message."""
    message = policy_pb2.PolicyRevision(
        revision=revision.number,
        digest=revision.digest,
        prev_digest=revision.prev_digest,
        actor=revision.actor,
        reason=revision.reason,
        rule_count=revision.rule_count,
    )
    if revision.model_conf:
        message.model_digest = hashlib.sha256(revision.model_conf.encode()).digest()
    if revision.at is not None:
        message.create_time.FromDatetime(revision.at)
    return message
