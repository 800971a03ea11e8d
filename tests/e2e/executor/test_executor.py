"""The executor as a process: over mTLS, to a cluster's API, with its journal in Postgres."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from tests.factories import flipped, restart, restart_rollout, rollback, scale
from tests.processes import until

from aegis.errors import AegisError, from_rpc_error
from aegis.executor.v1 import executor_pb2
from aegis.v1 import envelope_pb2, execution_pb2
from aegis.v1.envelope_pb2 import ActionSpec

from .conftest import Stack

APPLIED = executor_pb2.Execution.STATE_APPLIED
FAILED = executor_pb2.Execution.STATE_FAILED


_SOMEBODY_ELSES = {"metadata": {"annotations": {"deployed-by": "somebody"}}}


async def refusal(stack: Stack, *arguments, **keywords) -> AegisError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.execute(*arguments, **keywords)
    return from_rpc_error(caught.value)


def names(pods) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods}


def request_id(envelope) -> str:
    return envelope_pb2.ActionRequest.FromString(envelope.payload).request_id


async def test_restart_replaces_an_ill_pod(stack: Stack):
    """A crashing pod is evicted, its replacement is well, and the evidence is in the answer."""
    stack.cluster.tell("break", namespace="shop", deployment="checkout")
    until(lambda: stack.cluster.deployment("shop", "checkout")["status"]["readyReplicas"] == 0)
    before = stack.cluster.pods("shop", "checkout")
    for pod in before:
        metadata = pod["metadata"]
        execution = await stack.do(restart("shop", metadata["name"], uid=metadata["uid"]))
        assert execution.state == APPLIED
        assert execution.observations["uid"] == metadata["uid"]
    stack.cluster.settled("shop", "checkout")
    assert names(before).isdisjoint(names(stack.cluster.pods("shop", "checkout")))
    audit_ids = [effect["audit_id"] for effect in stack.cluster.effects()]
    assert len(audit_ids) == 3
    assert execution.observations["audit_id"] == audit_ids[-1]


async def test_scale_sets_the_number_and_repeats_harmlessly(stack: Stack):
    """An absolute number: a second request finds nothing left to do."""
    before = stack.cluster.replicas("demo", "api")
    first = await stack.do(scale("demo", "api", before + 1))
    assert first.state == APPLIED
    assert first.observations["replicas_before"] == str(before)
    assert first.observations["replicas_after"] == str(before + 1)
    stack.cluster.settled("demo", "api")
    second = await stack.do(scale("demo", "api", before + 1))
    assert (second.state, second.observations["changed"]) == (APPLIED, "no")
    assert len(stack.cluster.effects()) == 1
    assert len(stack.cluster.pods("demo", "api")) == before + 1


async def test_rollback_puts_the_earlier_template_back(stack: Stack):
    """The image is the former one, the hash label did not travel, the action left its mark."""
    before = stack.cluster.deployment("demo", "web")
    execution = await stack.do(rollback("demo", "web"))
    assert execution.state == APPLIED
    after = stack.cluster.settled("demo", "web")
    template = after["spec"]["template"]
    assert template["spec"]["containers"][0]["image"] == "registry.example/web:1.0"
    assert len(template["spec"]["containers"]) == 2
    assert template["metadata"]["labels"] == {"app": "web"}
    annotations = after["metadata"]["annotations"]
    assert annotations["aegis.dev/action-id"] == execution.action_id
    # The old ReplicaSet is used again under a new number.
    revision = "deployment.kubernetes.io/revision"
    assert int(annotations[revision]) == int(before["metadata"]["annotations"][revision]) + 1


async def test_actions_during_a_rollout_get_through(stack: Stack):
    """Status updates move the version all the time; the write is read, checked and tried again."""
    earlier = stack.cluster.deployment("demo", "web")["spec"]["template"]
    await stack.do(rollback("demo", "web"))
    execution = await stack.do(rollback("demo", "web", _hash_of(stack, earlier)))
    assert (execution.state, execution.reason) == (APPLIED, "")
    assert stack.cluster.settled("demo", "web")["spec"]["template"] == earlier


async def test_nothing_else_is_done_during_a_rollout(stack: Stack):
    """Two changes at once, and nobody knows which of them helped; whoever made the first."""
    await stack.execute(stack.signers.request(rollback("demo", "web")))
    busy = await refusal(stack, stack.signers.request(scale("demo", "web", 4)))
    assert busy.reason == "TARGET_BUSY"
    stack.watched()
    stack.cluster.patch_deployment("demo", "web", {"spec": {"template": _SOMEBODY_ELSES}})
    execution = await stack.do(scale("demo", "web", 4))
    assert (execution.state, execution.reason) == (FAILED, "TARGET_UNSETTLED")
    stack.cluster.settled("demo", "web")
    assert len(stack.cluster.effects()) == 1


async def test_disruption_budget_is_respected(stack: Stack):
    """It is asked before the API server would say no, and nothing is sent."""
    pod = stack.cluster.pods("shop", "cart")[0]["metadata"]
    execution = await stack.do(restart("shop", pod["name"]))
    assert (execution.state, execution.reason) == (FAILED, "PDB_EXHAUSTED")
    assert execution.observations["budget"] == "cart"
    assert stack.cluster.writes() == stack.cluster.tried() == []


async def test_plan_is_signed_and_carried_out_as_it_was_shown(stack: Stack):
    """The spec of the plan goes back unchanged; once the world has moved it is refused."""
    number = stack.cluster.replicas("demo", "api")
    planned = await stack.plan(scale("demo", "api", number + 1))
    (difference,) = planned.differences
    assert (difference.path, difference.after) == ("spec.replicas", str(number + 1))
    assert {gate.verdict for gate in planned.gates} == {execution_pb2.Gate.VERDICT_PASSED}
    assert stack.cluster.writes() == []
    spec = ActionSpec.FromString(planned.spec)
    assert (await stack.do(spec)).state == APPLIED
    stack.cluster.settled("demo", "api")
    again = await stack.do(spec)
    assert (again.state, again.reason) == (FAILED, "TARGET_CHANGED")
    assert len(stack.cluster.effects()) == 1


async def test_dry_run_is_tried_and_nothing_more(stack: Stack):
    """Every check of the real thing, and the cluster's own word that it would do."""
    asked = envelope_pb2.ActionRequest.FromString(stack.signers.request(_one_more(stack)).payload)
    asked.mode = envelope_pb2.ActionRequest.MODE_DRY_RUN
    execution = await stack.execute(_resigned(stack, asked))
    assert execution.state == executor_pb2.Execution.STATE_DRY_RUN
    assert stack.cluster.writes() == []
    assert len(stack.cluster.tried()) == 1


async def test_rollout_is_restarted_once_however_often_it_is_asked(stack: Stack):
    """Every pod is replaced, and the same request again replaces none."""
    before = stack.cluster.pods("demo", "api")
    asked = stack.signers.request(restart_rollout("demo", "api"))
    execution = await stack.execute(asked)
    assert execution.state == APPLIED
    after = stack.cluster.settled("demo", "api")
    mark = after["spec"]["template"]["metadata"]["annotations"]["aegis.dev/restarted-by"]
    assert mark == execution.action_id
    assert names(before).isdisjoint(names(stack.cluster.pods("demo", "api")))
    assert await stack.execute(asked) == execution
    assert len(stack.cluster.effects()) == 1


async def test_repeated_request_returns_the_stored_execution(stack: Stack):
    """The very same envelope, and one signed anew with the same id: one effect, one answer."""
    asked = stack.signers.request(_one_more(stack))
    first = await stack.execute(asked)
    again = await stack.execute(asked)
    same = ActionSpec.FromString(envelope_pb2.ActionRequest.FromString(asked.payload).spec)
    signed_anew = stack.signers.request(same, request_id=request_id(asked))
    third = await stack.execute(signed_anew)
    assert first == again == third
    assert len(stack.cluster.effects()) == 1


async def test_concurrent_repeats_have_one_effect(stack: Stack):
    """Ten at once: one executes, nine get its answer."""
    asked = stack.signers.request(_one_more(stack))
    decided = stack.signers.decision(asked)
    answers = await asyncio.gather(*(stack.execute(asked, decided) for _ in range(10)))
    assert [answer.state for answer in answers] == [APPLIED] * 10
    assert len(stack.cluster.writes()) == 1


async def test_nonce_on_another_request_is_a_replay(stack: Stack):
    """A nonce is spent once, even when the asker's own key signs it again."""
    asked = stack.signers.request(_one_more(stack))
    await stack.execute(asked)
    spent = envelope_pb2.ActionRequest.FromString(asked.payload)
    other = stack.signers.request(_one_more(stack))
    changed = envelope_pb2.ActionRequest.FromString(other.payload)
    changed.nonce = spent.nonce
    resigned = _resigned(stack, changed)
    assert (await refusal(stack, resigned)).reason == "REPLAY_DETECTED"
    assert len(stack.cluster.effects()) == 1


async def test_request_id_for_another_action_is_refused(stack: Stack):
    """An id names one action for ever."""
    asked = stack.signers.request(_one_more(stack))
    await stack.execute(asked)
    other = stack.signers.request(_one_more(stack), request_id=request_id(asked))
    assert (await refusal(stack, other)).reason == "REQUEST_ID_REUSED"
    assert len(stack.cluster.effects()) == 1


@pytest.mark.refuses("PEER_NOT_ALLOWED", step=1)
@pytest.mark.refuses("DEADLINE_REQUIRED", step=2)
async def test_refusals_leave_no_trace_in_cluster_or_journal(stack: Stack):
    """Tampered, expired, foreign or from the wrong peer: refused before anything is claimed."""
    asked = stack.signers.request(_one_more(stack))
    decided = stack.signers.decision(asked)
    now = datetime.now(UTC)
    over = stack.signers.decision(asked, now=now - timedelta(seconds=61))
    foreign = stack.signers.request(scale("payments", "ledger", 3))
    found = [
        (await refusal(stack, flipped(asked), decided)).reason,
        (await refusal(stack, asked, flipped(decided))).reason,
        (await refusal(stack, asked, over)).reason,
        (await refusal(stack, foreign)).reason,
        (await refusal(stack, asked, decided, peer="coordinator")).reason,
        (await refusal(stack, asked, decided, seconds=None)).reason,
        (await refusal(stack, asked, decided, seconds=600)).reason,
    ]
    assert found == [
        "SIGNATURE_INVALID",
        "DECISION_INVALID",
        "DECISION_EXPIRED",
        "NAMESPACE_NOT_ALLOWED",
        "PEER_NOT_ALLOWED",
        "DEADLINE_REQUIRED",
        "DEADLINE_REQUIRED",
    ]
    assert stack.cluster.writes() == []
    assert stack.intents() == 0


async def test_oversized_request_is_refused(stack: Stack):
    """64 KiB are enough for anything honest."""
    asked = stack.signers.request(_one_more(stack))
    asked.payload += bytes(70_000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.execute(asked, stack.signers.decision(stack.signers.request(restart("d", "n"))))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_unknown_request_is_not_found(stack: Stack):
    """What never got past the checks does not exist."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.find("00000000-0000-4000-8000-000000000000")
    assert from_rpc_error(caught.value).reason == "RESOURCE_NOT_FOUND"


async def test_execution_survives_a_client_that_goes_away(stack: Stack):
    """The client's deadline ends the call, not the deed."""
    stack.cluster.fault("before", 1.5)
    asked = stack.signers.request(_one_more(stack))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.execute(asked, seconds=0.7)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await stack.find(request_id(asked))).state == executor_pb2.Execution.STATE_INTENT
    await _ended(stack, request_id(asked), APPLIED)
    assert len(stack.cluster.effects()) == 1


async def test_lost_answer_is_looked_into(stack: Stack):
    """A 504 says nothing: the execution stays open until the cluster has told, and ends once."""
    stack.cluster.fault("instead", 0)
    asked = stack.signers.request(_one_more(stack))
    assert (await stack.execute(asked)).state == executor_pb2.Execution.STATE_INTENT
    await _ended(stack, request_id(asked), FAILED)
    assert (await stack.find(request_id(asked))).reason == "CLUSTER_UNAVAILABLE"
    assert len(stack.cluster.writes()) == 1
    assert stack.cluster.effects() == []


@pytest.mark.parametrize(
    ("patch", "state", "reason"),
    [
        ({"metadata": {"annotations": {"seen": "now"}}}, APPLIED, ""),
        ({"spec": {"revisionHistoryLimit": 9}}, FAILED, "TARGET_CHANGED"),
    ],
    ids=["status", "spec"],
)
async def test_conflict_is_retried_only_while_the_intent_holds(
    stack: Stack, patch: dict[str, Any], state: int, reason: str
):
    """A new version alone is read and tried again; a new spec is somebody else's will."""
    stack.cluster.fault("before", 0.5)
    running = asyncio.create_task(stack.do(_one_more(stack)))
    await asyncio.sleep(0.25)
    stack.cluster.patch_deployment("demo", "api", patch)
    execution = await running
    assert (execution.state, execution.reason) == (state, reason)
    assert stack.cluster.writes()[0]["code"] == 409
    stack.cluster.patch_deployment(
        "demo",
        "api",
        {"metadata": {"annotations": {"seen": None}}, "spec": {"revisionHistoryLimit": 10}},
    )


async def test_sigterm_lets_the_current_execution_finish(stack: Stack):
    """A drain ends with an outcome in the journal and exit status 0."""
    stack.cluster.fault("after", 1)
    running = asyncio.create_task(stack.execute(stack.signers.request(_one_more(stack))))
    await asyncio.to_thread(until, stack.cluster.effects)
    assert await asyncio.to_thread(stack.executor.stop) == 0
    assert (await running).state == APPLIED


async def test_without_its_journal_the_executor_does_nothing(stack: Stack):
    """No place to write the INTENT, no change; UNAVAILABLE may be retried without thought."""
    asked = stack.signers.request(_one_more(stack))
    with stack.database_away():
        assert (await refusal(stack, asked)).reason == "DATABASE_UNAVAILABLE"
    assert stack.cluster.writes() == []
    assert (await stack.execute(asked)).state == APPLIED


@pytest.mark.parametrize(
    ("where", "state", "effects"), [("after", APPLIED, 1), ("instead", FAILED, 0)]
)
@pytest.mark.parametrize("action", ["restart", "scale", "rollback"])
async def test_killed_executor_finds_out_what_it_did(
    stack: Stack, action: str, where: str, state: int, effects: int
):
    """kill -9 between INTENT and end: the next start asks the cluster, and repeats nothing."""
    pod = stack.cluster.pods("demo", "api")[0]["metadata"]["name"]
    spec = {
        "restart": restart("demo", pod),
        "scale": _one_more(stack),
        "rollback": rollback("demo", "api"),
    }[action]
    stack.cluster.fault(where, 3)
    asked = stack.signers.request(spec)
    lost = asyncio.create_task(stack.execute(asked))
    sent = f"select from aegis_executor.attempt where request_id = '{request_id(asked)}'"
    await asyncio.to_thread(until, lambda: stack.journal(sent))
    if effects:
        await asyncio.to_thread(until, stack.cluster.effects)
    stack.executor.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await lost
    await asyncio.to_thread(stack.start_executor)
    await _ended(stack, request_id(asked), state)
    # The retry of the lost call gets the stored end.
    assert (await stack.execute(asked)).state == state
    assert len(stack.cluster.effects()) == effects
    assert stack.journal("select count(*) from aegis_executor.intent") == stack.journal(
        "select count(*) from aegis_executor.ending"
    )


async def test_failpoint_kills_the_program_where_it_was_told(stack: Stack):
    """The cluster has changed and nobody was told; the next start finds that out."""
    await asyncio.to_thread(stack.executor.stop)
    armed = {"AEGIS_PROFILE": "development", "AEGIS_FAILPOINT": "after-mutate:scale_deployment"}
    await asyncio.to_thread(lambda: stack.start_executor(**armed))
    asked = stack.signers.request(_one_more(stack))
    with pytest.raises(grpc.aio.AioRpcError):
        pytest.fail(str(await stack.execute(asked)))
    await asyncio.to_thread(until, lambda: not stack.executor.running())
    await asyncio.to_thread(stack.start_executor)
    await _ended(stack, request_id(asked), APPLIED)
    assert len(stack.cluster.effects()) == 1


async def test_second_executor_does_not_share_a_journal(stack: Stack):
    """It would reconcile what the first one is still doing, so it refuses to start."""
    with pytest.raises(AssertionError, match="another executor is using this journal"):
        first = stack.executor
        try:
            await asyncio.to_thread(stack.start_executor)
        finally:
            stack.executor = first


def _one_more(stack: Stack) -> ActionSpec:
    """Scales demo/api to a number it does not have."""
    now = stack.cluster.replicas("demo", "api")
    return scale("demo", "api", now + 1 if now < 6 else now - 1)


def _hash_of(stack: Stack, template: dict[str, Any]) -> str:
    """The pod-template-hash of the ReplicaSet with this image."""
    image = template["spec"]["containers"][0]["image"]
    return next(
        found["metadata"]["labels"]["pod-template-hash"]
        for found in stack.cluster.replica_sets("demo", "web")
        if found["spec"]["template"]["spec"]["containers"][0]["image"] == image
    )


async def _ended(stack: Stack, request_id_: str, state: int) -> None:
    async with asyncio.timeout(15):
        while (found := await stack.find(request_id_)).state != state:
            assert found.state == executor_pb2.Execution.STATE_INTENT, found
            await asyncio.sleep(0.1)


def _resigned(stack: Stack, request: envelope_pb2.ActionRequest) -> envelope_pb2.SignedEnvelope:
    return stack.signers.resigned(request)
