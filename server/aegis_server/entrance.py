"""How callers come in: the port, who they prove to be, and the services about that."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from prometheus_client import CollectorRegistry

from aegis.serving.doors import Doors, by_certificate
from aegis.serving.metrics import CallMetrics
from aegis.serving.port import Port
from aegis.serving.revocation import Revocations
from aegis.v1 import (
    service_account_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    user_pb2_grpc,
)
from aegis_server.access import SERVICES, Access
from aegis_server.foundation import Base
from aegis_server.identity.authentication import Authentication
from aegis_server.identity.limits import Limits, parse_limits
from aegis_server.identity.machines.accounts import ServiceAccounts
from aegis_server.identity.machines.keys import ApiKeys
from aegis_server.identity.machines.rights import Rights
from aegis_server.identity.machines.service import ServiceAccountService
from aegis_server.identity.machines.verification import KeyVerification
from aegis_server.identity.openid.verification import OpenIdVerification
from aegis_server.identity.people.accounts import Accounts
from aegis_server.identity.people.bootstrap import Bootstrap
from aegis_server.identity.people.mail import Outbox, mailer
from aegis_server.identity.people.passwords import Passwords
from aegis_server.identity.people.resets import Resets
from aegis_server.identity.people.service import SessionService, UserService
from aegis_server.identity.people.sessions import Sessions
from aegis_server.identity.register import Register
from aegis_server.identity.throttle import AttemptThrottle
from aegis_server.policy.wire import is_left_to

Part = Coroutine[Any, Any, None]

# A rule file of 16 MiB with its model, a thousand questions; everything else is far smaller.
_MIB = 1024 * 1024
_RULE_FILE = 16 * _MIB + 128 * 1024
# A chunk of 256 KiB, and what is written around it.
_CHUNK = 256 * 1024 + 1024
LARGER = {
    # A thousand participants, each with a reason of 200 characters of any script.
    "/aegis.v1.CoordinatorService/CompleteRound": _MIB,
    "/aegis.v1.CoordinatorService/DispatchTasks": _CHUNK,
    "/aegis.v1.ParticipantService/Attend": _CHUNK,
    "/aegis.v1.PolicyService/ImportPolicy": _RULE_FILE,
    "/aegis.v1.PolicyService/BatchEvaluate": 4 * _MIB,
    "/aegis.v1.PolicyService/ReportDecisions": 4 * _MIB,
    "/aegis.v1.PolicyAdminService/ApplyPolicyChanges": 5 * _MIB,
    "/aegis.v1.PolicyAdminService/DiffPolicy": _RULE_FILE,
    "/aegis.v1.PolicyAdminService/LintPolicy": _RULE_FILE,
    "/aegis.v1.PolicyAdminService/SimulatePolicy": _RULE_FILE,
    # 16 MiB of rows, and a schema of 4,096 columns.
    "/aegis.v1.DatasetService/RegisterDataset": 18 * _MIB,
}


def open_doors(base: Base, registry: CollectorRegistry) -> tuple[Port, Callable[[], Part]]:
    """Returns the port, and what must run so that revoked certificates end what they opened."""
    revocations = Revocations(base.settings.tls)
    doors = Doors(
        admit=Access(base.decisions, base.audit).admit,
        metrics=CallMetrics(registry),
        authenticate=Authentication(
            base.directory,
            certificates=base.participants.guard(
                revocations.guard(by_certificate(base.settings.trust_domain))
            ),
            access_tokens=base.access_tokens,
            api_keys=KeyVerification(base.directory, base.key_uses, clock=base.clock),
            openid=_openid(base),
        ),
        limit=Limits(base.buckets, registry=registry, limits=parse_limits(base.settings.limits)),
        larger=LARGER,
        surely={
            "/aegis.v1.PolicyService/Evaluate": lambda asked: is_left_to(
                base.decisions.snapshot.engine, asked
            )
        },
    )
    base.directory.on_change(doors.leashes.expel)
    base.participants.on_change(doors.leashes.expel)
    port = Port(
        doors=doors,
        tls=base.settings.tls,
        services=SERVICES,
        reflect=base.settings.development,
        shared=base.settings.workers > 1,
    )
    return port, lambda: revocations.run(doors.leashes.expel)


async def serve_people(base: Base, port: Port, stack: AsyncExitStack) -> list[Outbox | Sessions]:
    """Returns what must run while we serve people."""
    settings = base.settings
    key = settings.cache_key.read_bytes()
    register = Register(
        base.database,
        base.audit,
        base.directory,
        clock=base.clock,
        address_key=hmac.digest(key, b"aegis identity: addresses", hashlib.sha256),
    )
    outbox = Outbox(mailer(settings.mail, settings.mail_password) if settings.mail else None)
    passwords = Passwords()
    stack.callback(passwords.close)
    throttle = throttle_of(base)
    resets = Resets(register, passwords, throttle, outbox)
    rights = Rights(base.decisions)
    user_pb2_grpc.add_UserServiceServicer_to_server(
        UserService(Accounts(register, rights, outbox), resets, base.deeds), port.server
    )
    service_account_pb2_grpc.add_ServiceAccountServiceServicer_to_server(
        ServiceAccountService(
            ServiceAccounts(register, rights), ApiKeys(register, rights), base.deeds
        ),
        port.server,
    )
    if base.access_tokens is None:
        return [outbox]
    sessions = Sessions(register, passwords, base.access_tokens, throttle)
    bootstrap = Bootstrap(
        register, passwords, sessions, throttle, file=settings.data_dir / "bootstrap-token"
    )
    await bootstrap.prepare()
    session_pb2_grpc.add_SessionServiceServicer_to_server(
        SessionService(
            bootstrap=bootstrap,
            sessions=sessions,
            resets=resets,
            deeds=base.deeds,
            identity_provider=_identity_provider(base),
        ),
        port.server,
    )
    return [outbox, sessions]


def throttle_of(base: Base) -> AttemptThrottle:
    """Returns what slows guessing down."""
    key = base.settings.cache_key.read_bytes()
    return AttemptThrottle(
        base.buckets,
        key=hmac.digest(key, b"aegis identity: devices", hashlib.sha256),
        clock=base.clock,
    )


def _openid(base: Base) -> OpenIdVerification | None:
    if base.provider is None:
        return None
    return OpenIdVerification(base.provider, base.directory, base.audit, clock=base.clock)


def _identity_provider(base: Base) -> session_pb2.IdentityProvider | None:
    if base.provider is None:
        return None
    settings = base.provider.settings
    return session_pb2.IdentityProvider(
        issuer=settings.issuer, client_id=settings.client_id, scopes=settings.scopes
    )
