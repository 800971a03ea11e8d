"""Whatever is wrong with a call: the right code and reason, the field named, nothing done."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from aegis.channel import Identity, connect
from aegis.errors import AegisError, from_rpc_error
from aegis.local.state import server_address
from aegis.plans import Attacker, default_plan
from aegis.spiffe import spiffe_id
from aegis.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    review_pb2,
    review_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)
from aegis_learning import models, parameters

pytestmark = pytest.mark.asyncio


async def refusal_of(call) -> AegisError:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    error = from_rpc_error(refusal.value)
    assert "Traceback" not in error.message
    return error


def fields_of(error: AegisError) -> list[str]:
    return [violation.field for violation in error.violations]


async def start(channel: grpc.aio.Channel, plan: training_pb2.RunPlan) -> AegisError:
    request = training_pb2.StartRunRequest(request_id=str(uuid.uuid4()), plan=plan)
    stub = training_pb2_grpc.TrainingServiceStub(channel)
    return await refusal_of(stub.StartRun(request, timeout=20))


async def test_unknown_enum_is_refused_by_field(admin: grpc.aio.Channel):
    """A strategy nobody defined is INVALID_ARGUMENT on plan.strategy."""
    plan = default_plan()
    plan.strategy = 99
    error = await start(admin, plan)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert fields_of(error) == ["plan.strategy"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
async def test_number_that_is_none_is_refused_by_field(admin: grpc.aio.Channel, value: float):
    """NaN, infinity, negative values and zero for epsilon name plan.target_epsilon."""
    plan = default_plan()
    plan.target_epsilon = value
    error = await start(admin, plan)
    assert error.reason == "FIELD_INVALID"
    assert set(fields_of(error)) == {"plan.target_epsilon"}


async def test_missing_field_is_refused_by_field(admin: grpc.aio.Channel):
    """A run without a plan is refused for its plan."""
    stub = training_pb2_grpc.TrainingServiceStub(admin)
    request = training_pb2.StartRunRequest(request_id=str(uuid.uuid4()))
    error = await refusal_of(stub.StartRun(request, timeout=20))
    assert (error.reason, fields_of(error)) == ("FIELD_INVALID", ["plan"])


async def test_attack_outside_a_simulation_is_refused(admin: grpc.aio.Channel):
    """The attack lab cannot be let loose on private data."""
    plan = default_plan(attacker=Attacker("sign-flip"))
    plan.simulation = False
    error = await start(admin, plan)
    assert error.reason == "FIELD_INVALID"


async def test_run_without_review_on_private_data_is_denied_by_rule(admin: grpc.aio.Channel):
    """Not even an administrator starts an unreviewed run that is no simulation."""
    plan = default_plan(review=False)
    plan.simulation = False
    error = await start(admin, plan)
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "POLICY_DENIED")
    assert error.metadata["rule_id"] == "no-run-without-review"


async def test_oversize_message_is_refused(admin: grpc.aio.Channel):
    """A message above its method's limit is refused with the limit, a far larger one by gRPC."""
    stub = policy_pb2_grpc.PolicyServiceStub(admin)
    large = policy_pb2.EvaluateRequest(subject="user:a", resource="/x", action="read")
    large.attributes["text"] = "x" * 300_000
    error = await refusal_of(stub.Evaluate(large, timeout=20))
    assert (error.code, error.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "REQUEST_TOO_LARGE",
    )
    assert error.metadata["limit_bytes"] == str(256 * 1024)
    huge = policy_pb2.ImportPolicyRequest(csv="#" * 36_000_000, reason="too much")
    error = await refusal_of(stub.ImportPolicy(huge, timeout=60))
    assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_oversize_metadata_is_refused_and_the_connection_goes_on(admin: grpc.aio.Channel):
    """Headers have a bound of their own, far below a message's."""
    stub = policy_pb2_grpc.PolicyServiceStub(admin)
    question = policy_pb2.EvaluateRequest(subject="user:a", resource="/x", action="read")
    for metadata in (
        (("authorization", "x" * 60_000),),
        tuple((f"x-{n}", "y" * 900) for n in range(90)),
    ):
        error = await refusal_of(stub.Evaluate(question, timeout=20, metadata=metadata))
        assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    await stub.Evaluate(question, timeout=20)


async def test_malformed_rule_file_names_every_bad_line_and_changes_nothing(
    admin: grpc.aio.Channel,
):
    """Two bad lines, two violations, and the old revision goes on."""
    stub = policy_pb2_grpc.PolicyServiceStub(admin)
    before = await stub.GetPolicy(policy_pb2.GetPolicyRequest(), timeout=20)
    csv = "p, role:a, *, /x, read, , Deny, typo\ng2, user:admin, role:a\nq, what\n"
    request = policy_pb2.ImportPolicyRequest(csv=csv, reason="a bad day")
    error = await refusal_of(stub.ImportPolicy(request, timeout=20))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "POLICY_INVALID")
    assert {"line 1", "line 3"} <= set(fields_of(error))
    after = await stub.GetPolicy(policy_pb2.GetPolicyRequest(), timeout=20)
    assert after.revision.revision == before.revision.revision


@pytest.mark.parametrize("resource", ["no-slash", "/a//b", "/a/", "/a/../b", "/a/\x01"])
async def test_resource_that_is_not_canonical_is_refused(admin: grpc.aio.Channel, resource: str):
    """Only one spelling of a path can be asked about."""
    stub = policy_pb2_grpc.PolicyServiceStub(admin)
    request = policy_pb2.EvaluateRequest(subject="user:a", resource=resource, action="read")
    error = await refusal_of(stub.Evaluate(request, timeout=20))
    assert (error.reason, fields_of(error)) == ("FIELD_INVALID", ["resource"])


async def test_attribute_that_is_not_finite_is_refused(admin: grpc.aio.Channel):
    """NaN would slip past every comparison in a condition."""
    stub = policy_pb2_grpc.PolicyServiceStub(admin)
    request = policy_pb2.EvaluateRequest(subject="user:a", resource="/x", action="read")
    request.attributes["replicas"] = float("nan")
    error = await refusal_of(stub.Evaluate(request, timeout=20))
    assert (error.reason, fields_of(error)) == ("FIELD_INVALID", ["attributes.replicas"])


async def test_page_token_of_another_query_is_refused(admin: grpc.aio.Channel):
    """A token is good for the query that handed it out."""
    stub = audit_pb2_grpc.AuditServiceStub(admin)
    page = await stub.ListAuditRecords(audit_pb2.ListAuditRecordsRequest(page_size=1), timeout=20)
    request = audit_pb2.ListAuditRecordsRequest(
        page_size=1, page_token=page.next_page_token, subject_id="other"
    )
    error = await refusal_of(stub.ListAuditRecords(request, timeout=20))
    assert error.reason == "PAGE_TOKEN_INVALID"


async def test_unknown_run_is_not_found(admin: grpc.aio.Channel):
    """A name nobody gave is NOT_FOUND and says which."""
    stub = training_pb2_grpc.TrainingServiceStub(admin)
    error = await refusal_of(stub.GetRun(training_pb2.GetRunRequest(run_id="run-x"), timeout=20))
    assert (error.reason, error.metadata["resource"]) == ("RESOURCE_NOT_FOUND", "run-x")


async def test_caller_without_a_rule_is_denied(autopilot: grpc.aio.Channel):
    """Automation may not read the audit log, and the refusal says what was asked."""
    stub = audit_pb2_grpc.AuditServiceStub(autopilot)
    error = await refusal_of(stub.GetAuditHead(audit_pb2.GetAuditHeadRequest(), timeout=20))
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "POLICY_DENIED")
    assert error.metadata["resource"] == "/audit"


# --- certificates -----------------------------------------------------------------------------


def issue(home: Path, folder: Path, *, uri: str, ends: datetime) -> Identity:
    """A certificate by the home's own CA."""
    ca = x509.load_pem_x509_certificate((home / "pki" / "ca.crt").read_bytes())
    ca_key = load_pem_private_key((home / "pki" / "ca.key").read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - timedelta(days=2))
        .not_valid_after(ends)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True
        )
        .sign(ca_key, hashes.SHA256())
    )
    (folder / "x.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "x.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return Identity(folder / "x.crt", folder / "x.key", home / "pki" / "ca.crt")


async def who_am_i(home: Path, identity: Identity) -> identity_pb2.WhoAmIResponse:
    async with connect(str(server_address(home)), identity, retries=False) as channel:
        stub = identity_pb2_grpc.IdentityServiceStub(channel)
        return await stub.WhoAmI(identity_pb2.WhoAmIRequest(), timeout=10)


async def test_expired_certificate_is_refused(home: Path, tmp_path: Path):
    """The handshake fails; nothing behind it is reached."""
    uri = spiffe_id("user:admin", "aegis.local")
    identity = issue(home, tmp_path, uri=uri, ends=datetime.now(UTC) - timedelta(hours=1))
    error = await refusal_of(who_am_i(home, identity))
    assert error.code == grpc.StatusCode.UNAVAILABLE


async def test_certificate_of_a_foreign_trust_domain_is_nobody(home: Path, tmp_path: Path):
    """Our CA's signature on somebody else's name opens nothing."""
    uri = "spiffe://elsewhere.org/user/admin"
    identity = issue(home, tmp_path, uri=uri, ends=datetime.now(UTC) + timedelta(hours=1))
    error = await refusal_of(who_am_i(home, identity))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "PEER_UNIDENTIFIED")


async def test_unknown_caller_is_known_by_name_and_may_nothing(home: Path, tmp_path: Path):
    """A valid certificate without a rule can ask who it is, and is denied the rest."""
    uri = spiffe_id("user:mallory", "aegis.local")
    identity = issue(home, tmp_path, uri=uri, ends=datetime.now(UTC) + timedelta(hours=1))
    me = await who_am_i(home, identity)
    assert (me.subject, list(me.roles)) == ("user:mallory", [])
    async with connect(str(server_address(home)), identity) as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        error = await refusal_of(stub.ListRuns(training_pb2.ListRunsRequest(), timeout=10))
    assert error.reason == "POLICY_DENIED"


async def test_connection_without_a_certificate_is_refused(home: Path):
    """mTLS means both sides."""
    roots = (home / "pki" / "ca.crt").read_bytes()
    credentials = grpc.ssl_channel_credentials(root_certificates=roots)
    async with grpc.aio.secure_channel(str(server_address(home)), credentials) as channel:
        stub = identity_pb2_grpc.IdentityServiceStub(channel)
        error = await refusal_of(stub.WhoAmI(identity_pb2.WhoAmIRequest(), timeout=10))
    assert error.code == grpc.StatusCode.UNAVAILABLE


# --- model updates ----------------------------------------------------------------------------

SHAPES = models.family("mlp", 30, 2).shapes


@pytest.fixture
async def run_id(admin: grpc.aio.Channel) -> AsyncIterator[str]:
    """A run whose first round takes longer than somebody needs to try and feed it."""
    plan = default_plan()
    plan.rounds, plan.local_steps = 3, 400
    stub = training_pb2_grpc.TrainingServiceStub(admin)
    request = training_pb2.StartRunRequest(request_id=str(uuid.uuid4()), plan=plan)
    run = (await stub.StartRun(request, timeout=20)).run
    async for event in stub.WatchRun(training_pb2.WatchRunRequest(run_id=run.run_id), timeout=60):
        if event.HasField("round"):
            break
    yield run.run_id
    # How it ends is no matter of this test: whether its own updates pass, with that much noise.
    with contextlib.suppress(grpc.aio.AioRpcError):
        await stub.StopRun(training_pb2.StopRunRequest(run_id=run.run_id), timeout=20)
    async for event in stub.WatchRun(training_pb2.WatchRunRequest(run_id=run.run_id), timeout=120):
        run = event.run


def update(**changes: np.ndarray) -> bytes:
    arrays = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    return parameters.encode(arrays | changes)


async def submitted(
    channel: grpc.aio.Channel, data: bytes, changes: dict[str, object]
) -> AegisError:
    header = {
        "round": 1,
        # The second try, if there is one: what is refused here is not simply too late.
        "attempt": 2,
        "participant": "site-1",
        "sha256": hashlib.sha256(data).digest(),
        "size_bytes": len(data),
    } | changes

    async def parts() -> AsyncIterator[review_pb2.SubmitUpdateRequest]:
        yield review_pb2.SubmitUpdateRequest(header=review_pb2.SubmitUpdateRequest.Header(**header))
        for start in range(0, len(data), 65536):
            yield review_pb2.SubmitUpdateRequest(chunk=data[start : start + 65536])

    stub = review_pb2_grpc.ReviewServiceStub(channel)
    return await refusal_of(stub.SubmitUpdate(parts(), timeout=20))


async def updates_of(channel: grpc.aio.Channel, run_id: str) -> list[review_pb2.Update]:
    stub = review_pb2_grpc.ReviewServiceStub(channel)
    request = review_pb2.ListUpdatesRequest(run_id=run_id)
    return list((await stub.ListUpdates(request, timeout=20)).updates)


async def test_bad_updates_are_refused_and_leave_nothing(admin: grpc.aio.Channel, run_id: str):
    """NaN, infinity, wrong shape, a pickle, a wrong digest: each its reason, no row stored."""
    first = next(iter(SHAPES))
    bad = np.zeros(SHAPES[first], np.float32)
    bad.flat[0] = np.nan
    worse = np.zeros(SHAPES[first], np.float32)
    worse.flat[-1] = np.inf
    for data, changes, reason in (
        (update(**{first: bad}), {}, "UPDATE_NOT_FINITE"),
        (update(**{first: worse}), {}, "UPDATE_NOT_FINITE"),
        (update(**{first: np.zeros((3, 3), np.float32)}), {}, "UPDATE_SHAPE_MISMATCH"),
        (pickle.dumps({first: [1.0]}), {}, "UPDATE_FORMAT_INVALID"),
        (update(), {"sha256": bytes(32)}, "DIGEST_MISMATCH"),
        (update(), {"size_bytes": 10**12}, "REQUEST_TOO_LARGE"),
        (update(), {"run_id": "run-nothing"}, "RESOURCE_NOT_FOUND"),
        (update(), {"participant": "Site One"}, "FIELD_INVALID"),
    ):
        error = await submitted(admin, data, {"run_id": run_id} | changes)
        assert error.reason == reason, (reason, error.message)
    assert all(update.attempt != 2 for update in await updates_of(admin, run_id))
