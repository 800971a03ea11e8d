"""IdentityService: who the caller is, and whose signatures count."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from aegis.serving.doors import Context, current_call
from aegis.trust import (
    ACTION_APPROVAL,
    ACTION_REQUEST,
    APPROVAL_ATTESTATION,
    AUDIT_CHECKPOINT,
    AUDIT_WITNESS,
    POLICY_DECISION,
    REVIEW_EVIDENCE,
    TrustBundle,
    TrustedKey,
)
from aegis.v1 import identity_pb2, identity_pb2_grpc

_USAGES = {
    ACTION_REQUEST: identity_pb2.KEY_USAGE_ACTION_REQUEST,
    POLICY_DECISION: identity_pb2.KEY_USAGE_POLICY_DECISION,
    AUDIT_CHECKPOINT: identity_pb2.KEY_USAGE_AUDIT_CHECKPOINT,
    AUDIT_WITNESS: identity_pb2.KEY_USAGE_AUDIT_WITNESS,
    ACTION_APPROVAL: identity_pb2.KEY_USAGE_APPROVAL,
    APPROVAL_ATTESTATION: identity_pb2.KEY_USAGE_APPROVAL_ATTESTATION,
    REVIEW_EVIDENCE: identity_pb2.KEY_USAGE_REVIEW_EVIDENCE,
}


class IdentityService(identity_pb2_grpc.IdentityServiceServicer):
    """Answers from the caller's certificate, the policy's roles and the trust bundle."""

    def __init__(self, trust: TrustBundle, roles_of: Callable[[str], list[str]]) -> None:
        self._trust = trust
        self._roles_of = roles_of

    async def WhoAmI(
        self, request: identity_pb2.WhoAmIRequest, context: Context
    ) -> identity_pb2.WhoAmIResponse:
        """The caller as its certificate or token names it."""
        caller = current_call().caller
        response = identity_pb2.WhoAmIResponse(
            subject=caller.subject,
            spiffe_id=caller.spiffe_id,
            roles=self._roles_of(caller.subject),
            method=caller.method,
        )
        if caller.expires_at is not None:
            response.expire_time.FromDatetime(caller.expires_at)
        return response

    async def ListSigningKeys(
        self, request: identity_pb2.ListSigningKeysRequest, context: Context
    ) -> identity_pb2.ListSigningKeysResponse:
        """The public keys of the trust bundle."""
        return identity_pb2.ListSigningKeysResponse(keys=map(_signing_key, self._trust.keys))


def _signing_key(key: TrustedKey) -> identity_pb2.SigningKey:
    message = identity_pb2.SigningKey(
        key_id=key.key_id, usage=_USAGES[key.usage], algorithm=key.algorithm, owner=key.owner
    )

    def put(field: str, moment: datetime | None) -> None:
        if moment is not None:
            getattr(message, field).FromDatetime(moment)

    put("not_before", key.not_before)
    put("not_after", key.not_after)
    put("revoke_time", key.revoked_at)
    return message
