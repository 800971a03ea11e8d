"""The SDK's way from the wish to the verdict, over a real channel to a control plane that plays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from tests.factories import restart, rollback, scale
from tests.fake_execution import ONCALL, FakeExecution, serving

from aegis.errors import FailedPrecondition, PermissionDenied, Unauthenticated, Unavailable
from aegis.remediation import Remediator, Request
from aegis.v1 import envelope_pb2, execution_pb2

Action = execution_pb2.Action
AWAY = Unavailable("DATABASE_UNAVAILABLE", "Postgres is away")


@pytest.fixture
def fake() -> FakeExecution:
    return FakeExecution()


@pytest.fixture
def address(fake: FakeExecution) -> Iterator[str]:
    with serving(fake) as address:
        yield address


class Naps(list[float]):
    """Notes how long it would have slept."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
async def remediator(fake: FakeExecution, address: str, naps: Naps) -> AsyncIterator[Remediator]:
    async with grpc.aio.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
        yield Remediator(channel, key=fake.key, issuer="user:ann", sleep=naps)


def incident(spec: envelope_pb2.ActionSpec) -> envelope_pb2.ActionSpec:
    spec.incident_id = "INC-7"
    return spec


async def test_planned_bytes_are_what_is_signed(fake: FakeExecution, remediator: Remediator):
    """Not the spec that was asked about: the plan pins the object it saw."""
    plan = await remediator.plan(restart("shop", "web-1"))
    action = await remediator.submit(plan)
    assert action.spec_bytes == plan.spec == fake.requests[0].spec
    assert action.spec.preconditions.generation == 4


async def test_exact_bytes_are_sent_unchanged(fake: FakeExecution, remediator: Remediator):
    """Also those that this program would have written in another order."""
    spec = restart("shop", "web-1")
    odd = spec.restart_pod.SerializeToString()
    target = envelope_pb2.ActionSpec(target=spec.target).SerializeToString()
    backwards = b"\x12" + bytes([len(odd)]) + odd + target
    action = await remediator.submit(backwards)
    assert action.spec == spec
    assert fake.requests[0].spec == backwards != spec.SerializeToString()


async def test_run_without_approvals_is_signed_once(fake: FakeExecution, remediator: Remediator):
    """And watched to its verdict."""
    seen: list[int] = []
    action = await remediator.run(
        restart("shop", "web-1"), on_change=lambda each: seen.append(each.state)
    )
    assert action.state == Action.STATE_VERIFIED
    assert seen == [Action.STATE_APPLIED, Action.STATE_VERIFIED]
    assert fake.names() == ["PlanAction", "SubmitAction", "WatchAction"]


async def test_run_waits_for_people_and_signs_the_same_again(
    fake: FakeExecution, remediator: Remediator
):
    """The second request is fresh, and has the id, the bytes and the words of the first."""
    fake.steps = [ONCALL]
    seen: list[int] = []
    action = await remediator.run(
        restart("shop", "web-1"),
        Request(reason="it hangs", attributes={"severity": "high"}),
        on_change=lambda each: seen.append(each.state),
    )
    first, second = fake.requests
    assert action.state == Action.STATE_VERIFIED
    assert (first.request_id, first.spec) == (second.request_id, second.spec)
    assert (second.reason, dict(second.attributes)) == ("it hangs", {"severity": "high"})
    assert first.nonce != second.nonce
    assert seen == [
        Action.STATE_PENDING_APPROVAL,
        Action.STATE_APPROVED,
        Action.STATE_APPLIED,
        Action.STATE_VERIFIED,
    ]


async def test_rejected_action_is_not_signed_again(fake: FakeExecution, remediator: Remediator):
    """One rejection ends it."""
    fake.steps, fake.rejects = [ONCALL], True
    action = await remediator.run(restart("shop", "web-1"))
    assert action.state == Action.STATE_REJECTED
    assert len(fake.requests) == 1


async def test_action_of_before_is_taken_up(fake: FakeExecution, remediator: Remediator):
    """Its own request id and bytes are signed, by another process for all one knows."""
    fake.steps = [ONCALL]
    before = await remediator.submit(restart("shop", "web-1"))
    action = await remediator.resume(before)
    assert action.state == Action.STATE_VERIFIED
    assert {each.request_id for each in fake.requests} == {before.request_id}


async def test_lost_answer_is_asked_for_with_a_fresh_envelope(
    fake: FakeExecution, remediator: Remediator, naps: Naps
):
    """Same request id, so nothing is done twice; and never twice the same nonce."""
    fake.tell("SubmitAction", AWAY, AWAY)
    action = await remediator.submit(restart("shop", "web-1"), Request("11111111-1111-4111-8111-1"))
    sent = [request for name, request in fake.asked if name == "SubmitAction"]
    payloads = [envelope_pb2.ActionRequest.FromString(each.envelope.payload) for each in sent]
    assert action.state == Action.STATE_APPLIED
    assert len({each.request_id for each in payloads}) == 1
    assert len({each.nonce for each in payloads}) == 3
    assert len(naps) == 2


async def test_server_that_stays_away_is_reported(
    fake: FakeExecution, remediator: Remediator, naps: Naps
):
    """After five tries."""
    fake.tell("SubmitAction", *[AWAY] * 5)
    with pytest.raises(Unavailable) as refused:
        await remediator.submit(restart("shop", "web-1"))
    assert refused.value.reason == "DATABASE_UNAVAILABLE"
    assert len(naps) == 4
    assert all(0 < seconds <= 3 for seconds in naps)


async def test_refusal_is_not_asked_again(fake: FakeExecution, remediator: Remediator, naps: Naps):
    """Only who is away is asked again."""
    fake.tell("SubmitAction", PermissionDenied("POLICY_DENIED", "no", action_id="a"))
    with pytest.raises(PermissionDenied) as refused:
        await remediator.run(restart("shop", "web-1"))
    assert refused.value.metadata["action_id"] == "a"
    assert not naps


async def test_envelope_the_transport_sent_twice_is_signed_again(
    fake: FakeExecution, remediator: Remediator
):
    """The nonce is ours alone, so a replay of it is our own."""
    fake.tell("SubmitAction", Unauthenticated("REPLAY_DETECTED", "taken before"))
    action = await remediator.submit(restart("shop", "web-1"))
    assert action.state == Action.STATE_APPLIED


async def test_broken_stream_is_begun_again(fake: FakeExecution, remediator: Remediator):
    """A server that restarts does not end the watch."""
    fake.tell("WatchAction", AWAY)
    action = await remediator.run(restart("shop", "web-1"))
    assert action.state == Action.STATE_VERIFIED
    assert fake.names().count("WatchAction") == 2


async def test_stream_that_ends_early_is_begun_again(fake: FakeExecution, remediator: Remediator):
    """As when a server drains; what did not change is not told twice."""
    action = fake.add(Action(action_id="a", spec=restart("s", "w"), state=Action.STATE_APPLIED))
    fake.tell("WatchAction", execution_pb2.WatchActionResponse(action=action))
    seen: list[int] = []
    ended = await remediator.resume(action, on_change=lambda each: seen.append(each.state))
    assert ended.state == Action.STATE_VERIFIED
    assert seen == [Action.STATE_APPLIED, Action.STATE_VERIFIED]


async def test_watch_of_an_unknown_action_is_refused(fake: FakeExecution, remediator: Remediator):
    """With the server's reason."""
    fake.tell("WatchAction", PermissionDenied("POLICY_DENIED", "no"))
    with pytest.raises(PermissionDenied):
        async for _ in remediator.watch("a"):
            pass


async def test_ladder_is_climbed_until_it_helps(fake: FakeExecution, remediator: Remediator):
    """Each rung has a request of its own and the incident of the first."""
    fake.verdicts.extend([Action.STATE_INEFFECTIVE, Action.STATE_INCONCLUSIVE])
    fake.rungs.extend([scale("shop", "web", 4), rollback("shop", "web")])
    climb = await remediator.climb(incident(restart("shop", "web-1")))
    assert climb.healed
    assert [each.spec.WhichOneof("action") for each in climb.actions] == [
        "restart_pod",
        "scale_deployment",
        "rollback_deployment",
    ]
    assert {each.incident_id for each in climb.actions} == {"INC-7"}
    assert len({each.request_id for each in climb.actions}) == 3


async def test_ladder_ends_at_a_person(fake: FakeExecution, remediator: Remediator):
    """Where the action names no next rung."""
    fake.verdicts.append(Action.STATE_ESCALATED)
    climb = await remediator.climb(incident(restart("shop", "web-1")))
    assert (len(climb.actions), climb.healed, climb.refusal) == (1, False, None)


async def test_ladder_that_helped_goes_no_further(fake: FakeExecution, remediator: Remediator):
    """Whatever stands in `next`."""
    fake.rungs.append(scale("shop", "web", 4))
    climb = await remediator.climb(incident(restart("shop", "web-1")))
    assert (len(climb.actions), climb.healed) == (1, True)


async def test_refused_rung_is_told_with_those_before(fake: FakeExecution, remediator: Remediator):
    """What was done is not lost with the error."""
    fake.verdicts.append(Action.STATE_COMPENSATED)
    fake.rungs.append(scale("shop", "web", 4))
    spec = incident(restart("shop", "web-1"))
    first = await remediator.plan(spec)
    fake.tell("PlanAction", first, FailedPrecondition("HPA_OWNED", "an autoscaler sets them"))
    climb = await remediator.climb(spec)
    assert [each.state for each in climb.actions] == [Action.STATE_COMPENSATED]
    assert climb.refusal is not None
    assert climb.refusal.reason == "HPA_OWNED"
    assert not climb.healed


async def test_ladder_is_no_circle(fake: FakeExecution, remediator: Remediator):
    """A server that always names another rung is not followed for ever."""
    fake.verdicts.extend([Action.STATE_INEFFECTIVE] * 20)
    fake.rungs.extend([scale("shop", "web", 4)] * 20)
    climb = await remediator.climb(incident(restart("shop", "web-1")))
    assert len(climb.actions) == 6


async def test_ladder_without_an_incident_is_refused(remediator: Remediator):
    """Attempts are counted by it."""
    with pytest.raises(ValueError, match="incident"):
        await remediator.climb(restart("shop", "web-1"))


async def test_rungs_do_not_break_the_glass(fake: FakeExecution, remediator: Remediator):
    """It was broken for the first action."""
    fake.verdicts.append(Action.STATE_INEFFECTIVE)
    fake.rungs.append(scale("shop", "web", 4))
    await remediator.climb(incident(restart("shop", "web-1")), Request(break_glass=True))
    assert [each.break_glass for each in fake.requests] == [True, False]


async def test_dry_run_ends_as_one(fake: FakeExecution, remediator: Remediator):
    """The mode is inside the signed bytes."""
    mode = envelope_pb2.ActionRequest.MODE_DRY_RUN
    action = await remediator.run(restart("shop", "web-1"), Request(mode=mode))
    assert action.state == Action.STATE_DRY_RUN
    assert fake.requests[0].mode == mode


async def test_approvals_voided_over_and_over_are_not_collected_for_ever(
    fake: FakeExecution, remediator: Remediator
):
    """Three signings, then the caller is told where it stands."""
    fake.steps = [ONCALL]
    action = await remediator.submit(restart("shop", "web-1"))
    stuck = execution_pb2.Action()
    stuck.CopyFrom(action)
    stuck.state = Action.STATE_APPROVED
    fake.tell("SubmitAction", *[execution_pb2.SubmitActionResponse(action=stuck)] * 9)
    ended = await remediator.resume(stuck)
    assert ended.state == Action.STATE_APPROVED
    assert fake.names().count("SubmitAction") == 4
