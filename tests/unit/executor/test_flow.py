"""The way from an admitted request to its end, step by step, with a scripted cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.clusters import FakeCluster, conflict, deployment, node, pod, replica_set
from tests.factories import Signers, cordon, restart, restart_rollout, rollback, scale

from aegis.errors import Aborted, AegisError, FailedPrecondition, Unavailable
from aegis.v1.envelope_pb2 import ActionRequest, ActionSpec
from aegis_executor.admission import Admission, Admitted, Limits
from aegis_executor.catalogue import REMEDIES, of_spec
from aegis_executor.catalogue.base import Change, Kind, Sent
from aegis_executor.changing import Changing
from aegis_executor.departing import Departure
from aegis_executor.executions import Executions
from aegis_executor.failpoints import POINTS, Failpoints
from aegis_executor.journal import Ending, Execution
from aegis_executor.kubernetes import (
    ClusterRefused,
    ClusterSilent,
    ClusterUnreachable,
    ForbiddenRequest,
)
from aegis_executor.looking import Looking
from aegis_executor.planning import Planner, filled

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SIGNERS = Signers.fresh()
SCALE = scale("demo", "web", 4)


@dataclass
class FakeIntent:
    request_id: str
    action_id: str
    request: bytes


class FakeJournal:
    """Remembers in the order of writing; `faults` are raised, one a call."""

    def __init__(self, steps: list[str], clock: Callable[[], datetime]) -> None:
        self.steps = steps
        self.clock = clock
        self.claims: dict[str, Admitted] = {}
        self.attempts: list[tuple[Sent, datetime]] = []
        self.endings: dict[str, Ending] = {}
        self.faults: dict[str, list[Exception]] = {}

    async def stored(self, admitted: Admitted) -> Execution | None:
        self._fail("stored")
        return self._execution(admitted.request_id) if admitted.request_id in self.claims else None

    async def claim(self, admitted: Admitted, condition: Any) -> tuple[Execution, bool]:
        self._fail("claim")
        await condition(None)
        self.steps.append("claim")
        self.claims[admitted.request_id] = admitted
        return self._execution(admitted.request_id), True

    async def sending(self, request_id: str, number: int, change: Change) -> None:
        self._fail("sending")
        self.steps.append(f"attempt {number}")
        sent = Sent(
            change.place.uid, change.resource_version, change.generation, change.observations
        )
        self.attempts.append((sent, self.clock()))

    async def end(self, request_id: str, ending: Ending) -> Execution:
        self._fail("end")
        self.steps.append("ending")
        self.endings.setdefault(request_id, ending)
        return self._execution(request_id)

    async def find(self, request_id: str) -> Execution:
        return self._execution(request_id)

    async def last_sent(self, request_id: str) -> tuple[Sent, datetime] | None:
        return self.attempts[-1] if self.attempts else None

    async def unfinished(self) -> list[FakeIntent]:
        return [
            FakeIntent(request_id, admitted.action_id, admitted.request)
            for request_id, admitted in self.claims.items()
            if request_id not in self.endings
        ]

    def _execution(self, request_id: str) -> Execution:
        admitted = self.claims[request_id]
        ending = self.endings.get(request_id)
        return Execution(request_id, admitted.action_id, admitted.action_digest, NOW, ending)

    def _fail(self, what: str) -> None:
        if self.faults.get(what):
            raise self.faults[what].pop(0)


class FakeGuards:
    """Refuses where it is told to, and remembers what it was asked."""

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps
        self.refusals: dict[str, AegisError] = {}
        self.asked: list[Any] = []

    async def enter(self, asked: Any) -> None:
        self.asked.append(asked)
        self._say("enter")

    async def claim(self, connection: Any, asked: Any) -> None:
        self._say("guards.claim")

    async def recheck(self, asked: Any) -> None:
        self._say("recheck")

    async def gates(self, asked: Any) -> list[Any]:
        return []

    def _say(self, what: str) -> None:
        self.steps.append(what)
        if what in self.refusals:
            raise self.refusals[what]


class FakeHealing:
    def __init__(self, steps: list[str]) -> None:
        self.steps = steps
        self.captured: list[Any] = []

    async def capture(self, request_id: str, remedy: Any, spec: Any, seen: Any) -> None:
        self.steps.append("baseline")
        self.captured.append((request_id, remedy, seen.live))


class Points(Failpoints):
    """Remembers what was come by."""

    def __init__(self, steps: list[str]) -> None:
        super().__init__()
        self.steps = steps
        self.at: dict[str, Callable[[], None]] = {}

    def reach(self, point: str, verb: str = "") -> None:
        self.steps.append(f"@{point}")
        self.at.get(point, lambda: None)()


class Watched(FakeCluster):
    """Tells the steps apart that change something."""

    steps: list[str]

    def _call(self, what: str) -> None:
        if what in ("dry_run", "apply", "record_event"):
            self.steps.append(what)
        super()._call(what)


@dataclass
class World:
    """An executor without its wires."""

    steps: list[str] = field(default_factory=list)
    now: datetime = NOW

    def __post_init__(self) -> None:
        self.cluster = Watched(
            (Kind.DEPLOYMENT, deployment()), (Kind.POD, pod()), (Kind.NODE, node())
        )
        self.cluster.steps = self.steps
        self.cluster.others["replica_sets"] = [replica_set(9, "web:2"), replica_set(10, "web:3")]
        self.journal = FakeJournal(self.steps, lambda: self.now)
        self.guards = FakeGuards(self.steps)
        self.healing = FakeHealing(self.steps)
        self.planner = Planner(self.cluster)
        self.admission = self._admission()
        self.registry = CollectorRegistry()
        points = self.points = Points(self.steps)
        self.executions = Executions(
            journal=self.journal,
            cluster=self.cluster,
            guards=self.guards,
            changing=Changing(
                journal=self.journal,
                cluster=self.cluster,
                planner=self.planner,
                admission=self.admission,
                guards=self.guards,
                healing=self.healing,
                failpoints=points,
                departure=Departure(65),
                clock=lambda: self.now,
            ),
            looking=Looking(self.cluster, clock=lambda: self.now, departure=Departure(65)),
            failpoints=points,
            registry=self.registry,
        )

    def _admission(self) -> Admission:
        return Admission(
            trust=SIGNERS.trust(NOW, revoked_at=NOW + timedelta(seconds=20)),
            name="executor:local",
            cluster="sandbox",
            audience="aegis",
            limits=Limits(frozenset({"demo"}), frozenset(REMEDIES), 10, nodes=frozenset({"n-1"})),
            clock=lambda: self.now,
        )

    def admitted(self, spec: ActionSpec = SCALE, *, dry_run: bool = False) -> Admitted:
        asked = SIGNERS.request(spec, now=NOW)
        decided = SIGNERS.decision(asked, now=NOW)
        admitted = self.admission.admit(asked, decided, peer="server:aegis")
        return replace(admitted, dry_run=dry_run)

    async def do(self, spec: ActionSpec = SCALE, **told: Any) -> Ending:
        execution = await self.executions.carry_out(self.admitted(spec, **told))
        await self.executions.drain()
        assert execution.ending is not None
        return execution.ending

    async def planned(self, spec: ActionSpec = SCALE) -> ActionSpec:
        """The spec as a plan fills it."""
        planned = await self.planner.plan(of_spec(spec))
        self.steps.clear()
        return ActionSpec.FromString(filled(spec, planned))

    @property
    def web(self) -> dict[str, Any]:
        return self.cluster.objects[Kind.DEPLOYMENT, "web"]

    def told(self) -> list[str]:
        """The steps without the failpoints between them."""
        return [step for step in self.steps if not step.startswith("@")]


@pytest.fixture
def world() -> World:
    return World()


async def test_steps_are_taken_in_their_order(world: World):
    """12 to 17, each failpoint where its name says."""
    assert (await world.do()).state == "APPLIED"
    assert world.steps == [
        "@after-admission",
        "enter",
        "@before-claim",
        "guards.claim",
        "claim",
        "@after-claim",
        "@after-read",
        "dry_run",
        "@after-dry-run",
        "baseline",
        "@after-baseline",
        "attempt 1",
        "@after-attempt",
        "recheck",
        "@before-mutate",
        "apply",
        "@after-mutate",
        "@before-ending",
        "ending",
        "@after-ending",
        "record_event",
    ]
    assert [step[1:] for step in world.steps if step.startswith("@")] == list(POINTS)


@pytest.mark.parametrize(
    "spec",
    [
        restart("demo", "web-1"),
        restart_rollout("demo", "web"),
        SCALE,
        rollback("demo", "web"),
        cordon("n-1"),
    ],
    ids=lambda spec: spec.WhichOneof("action"),
)
async def test_every_remedy_goes_the_same_way(world: World, spec: ActionSpec):
    """Planned, signed as planned, done, told to who looks at the object."""
    ending = await world.do(await world.planned(spec))
    assert (ending.state, ending.reason) == ("APPLIED", "")
    assert ending.observations["audit_id"] == "audit-1"
    assert ending.observations["changed"] == "yes"
    assert len(world.cluster.sent) == len(world.cluster.events) == 1


async def test_guards_are_asked_with_everything_they_count_by(world: World):
    """Who, what, where, for which incident, and what was granted."""
    spec = scale("demo", "web", 4)
    spec.incident_id = "inc-7"
    await world.do(spec)
    (asked,) = world.guards.asked
    assert (asked.verb, asked.place.name, asked.incident_id) == ("scale_deployment", "web", "inc-7")
    assert (asked.issuer, asked.approved) == ("automation:autopilot", False)
    assert not asked.break_glass


@pytest.mark.parametrize("where", ["enter", "guards.claim"])
async def test_guard_that_refuses_before_the_claim_leaves_nothing(world: World, where: str):
    """12 and 13: the caller gets the refusal, the journal gets nothing."""
    world.guards.refusals[where] = FailedPrecondition("BREAKER_OPEN", "too much went wrong")
    with pytest.raises(AegisError) as caught:
        await world.do()
    assert caught.value.reason == "BREAKER_OPEN"
    assert world.journal.claims == {}
    assert world.cluster.calls == []


async def test_repeat_is_answered_although_execution_was_paused_since(world: World):
    """A pause must not make the server believe that the first was refused."""
    admitted = world.admitted()
    first = await world.executions.carry_out(admitted)
    world.guards.refusals["enter"] = FailedPrecondition("EXECUTION_PAUSED", "stop")
    assert await world.executions.carry_out(admitted) == first
    assert len(world.cluster.sent) == 1


@pytest.mark.refuses("TARGET_CHANGED", step=14)
async def test_generation_that_is_not_the_planned_one_is_refused(world: World):
    """14: somebody changed the object since it was approved."""
    spec = await world.planned()
    world.web["metadata"]["generation"] = 5
    world.web["status"]["observedGeneration"] = 5
    ending = await world.do(spec)
    assert (ending.state, ending.reason) == ("FAILED", "TARGET_CHANGED")
    assert world.cluster.sent == []
    assert "dry_run" not in world.told()


@pytest.mark.refuses("TARGET_CHANGED", step=14)
async def test_object_that_was_replaced_is_refused(world: World):
    """14: the uid of the plan is that of another object now."""
    spec = await world.planned()
    world.web["metadata"]["uid"] = "d-2"
    assert (await world.do(spec)).reason == "TARGET_CHANGED"


@pytest.mark.refuses("TARGET_VETOED", step=14)
async def test_object_gate_refuses_before_anything_is_tried(world: World):
    """14: as the object is now, whatever it was when it was planned."""
    spec = await world.planned()
    world.web["metadata"]["annotations"] = {"aegis.dev/do-not-remediate": "please"}
    ending = await world.do(spec)
    assert (ending.state, ending.reason) == ("FAILED", "TARGET_VETOED")
    assert world.told() == ["enter", "guards.claim", "claim", "ending"]


@pytest.mark.parametrize("gone", ["ReplicaSet", "Deployment", "other Deployment"])
async def test_pod_whose_owner_is_not_found_is_refused(world: World, gone: str):
    """14: its deployment may carry a veto, and nobody has read it."""
    match gone:
        case "ReplicaSet":
            world.cluster.others["replica_sets"].clear()
        case "Deployment":
            del world.cluster.objects[Kind.DEPLOYMENT, "web"]
        case _:
            world.web["metadata"]["uid"] = "d-2"
    ending = await world.do(restart("demo", "web-1"))
    assert (ending.state, ending.reason) == ("FAILED", "TARGET_CHANGED")
    assert world.cluster.sent == []


async def test_veto_is_read_although_a_pod_lost_its_hash(world: World):
    """14: the owner is found by its uid; the label only narrows the list."""
    del world.cluster.objects[Kind.POD, "web-1"]["metadata"]["labels"]["pod-template-hash"]
    world.web["metadata"]["annotations"] = {"aegis.dev/do-not-remediate": "please"}
    assert (await world.do(restart("demo", "web-1"))).reason == "TARGET_VETOED"


@pytest.mark.refuses("PLAN_DRIFT", step=15)
async def test_other_difference_than_the_planned_one_is_refused(world: World):
    """15: the same generation and yet another effect, as by a webhook or a cleaned history."""
    spec = await world.planned(rollback("demo", "web"))
    world.cluster.others["replica_sets"][0] = replica_set(9, "web:evil")
    ending = await world.do(spec)
    assert (ending.state, ending.reason) == ("FAILED", "PLAN_DRIFT")
    assert world.told()[-2:] == ["dry_run", "ending"]


async def test_spec_without_a_plan_is_carried_out(world: World):
    """Nobody planned: the policy decides whether that is enough."""
    assert (await world.do(SCALE)).state == "APPLIED"


async def test_dry_run_ends_before_anything_is_written(world: World):
    """MODE_DRY_RUN: every check and the trial, and nothing more."""
    ending = await world.do(await world.planned(), dry_run=True)
    assert ending.state == "DRY_RUN"
    assert world.told() == ["enter", "guards.claim", "claim", "dry_run", "ending"]
    assert world.cluster.sent == world.cluster.events == []


async def test_dry_run_meets_the_same_refusals(world: World):
    """Or it would promise what would not be done."""
    world.web["spec"]["paused"] = True
    assert (await world.do(dry_run=True)).reason == "TARGET_UNSETTLED"


async def test_nothing_to_change_is_applied_without_a_write(world: World):
    """It was so already: no attempt, no event; but a baseline, for it is watched all the same."""
    ending = await world.do(scale("demo", "web", 3))
    assert (ending.state, ending.observations) == ("APPLIED", {"changed": "no"})
    assert world.told() == ["enter", "guards.claim", "claim", "baseline", "ending"]


async def test_baseline_is_of_the_object_before_the_change(world: World):
    """What verification compares with."""
    await world.do()
    ((_, remedy, live),) = world.healing.captured
    assert remedy.verb == "scale_deployment"
    assert live["spec"]["replicas"] == 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FailedPrecondition("EXECUTION_PAUSED", "stop"), "EXECUTION_PAUSED"),
        (FailedPrecondition("CLOCK_UNTRUSTED", "what time is it"), "CLOCK_UNTRUSTED"),
    ],
)
@pytest.mark.refuses("EXECUTION_PAUSED", "CLOCK_UNTRUSTED", step=16)
async def test_pause_reaches_what_was_claimed(world: World, error: AegisError, reason: str):
    """16: after the attempt was written down, and before anything is sent."""
    world.guards.refusals["recheck"] = error
    ending = await world.do()
    assert (ending.state, ending.reason) == ("FAILED", reason)
    assert world.told()[-3:] == ["attempt 1", "recheck", "ending"]
    assert world.cluster.sent == []


@pytest.mark.parametrize("seconds", [21, 61], ids=["key revoked", "decision expired"])
@pytest.mark.refuses("DECISION_EXPIRED", step=16)
async def test_time_that_passed_while_planning_is_noticed(world: World, seconds: int):
    """16: a plan that waited is a stale plan."""

    def wait() -> None:
        world.now = NOW + timedelta(seconds=seconds)

    world.cluster.before["dry_run"] = wait
    ending = await world.do()
    assert (ending.state, ending.reason) == ("FAILED", "DECISION_EXPIRED")
    assert world.cluster.sent == []


@pytest.mark.refuses("FENCED", step=16)
async def test_fenced_executor_leaves_the_end_to_its_successor(world: World):
    """16: it was only slow, and must neither send nor say how it ended."""
    world.guards.refusals["recheck"] = Aborted("FENCED", "epoch 2 acts")
    execution = await world.executions.carry_out(world.admitted())
    assert execution.ending is None
    assert world.journal.endings == {}
    assert world.cluster.sent == []


async def test_executor_that_stood_still_before_the_wire_sends_nothing(world: World):
    """Its successor has said by now that the change never took effect."""

    def stand_still() -> None:
        world.now += timedelta(seconds=5.1)

    world.points.at["before-mutate"] = stand_still
    execution = await world.executions.carry_out(world.admitted())
    assert execution.ending is None
    assert world.cluster.sent == []


async def test_conflict_of_versions_is_read_again_and_checked_again(world: World):
    """17: a status update alone is nobody's will; each attempt is written down and rechecked."""
    world.cluster.before["apply"] = lambda: world.cluster.touch(Kind.DEPLOYMENT, "web")
    ending = await world.do()
    assert ending.state == "APPLIED"
    attempt = ["recheck", "apply"]
    assert world.told()[5:] == [
        "attempt 1",
        *attempt,
        "attempt 2",
        *attempt,
        "ending",
        "record_event",
    ]


@pytest.mark.parametrize(
    ("meanwhile", "reason"),
    [
        ({"metadata": {"generation": 5}}, "TARGET_CHANGED"),
        ({"metadata": {"uid": "d-2"}}, "TARGET_CHANGED"),
        ({"metadata": {"annotations": {"aegis.dev/do-not-remediate": ""}}}, "TARGET_VETOED"),
        ({"spec": {"paused": True}}, "TARGET_UNSETTLED"),
    ],
    ids=["spec", "object", "veto", "pause"],
)
async def test_intent_that_no_longer_holds_ends_the_retry(
    world: World, meanwhile: dict[str, dict[str, Any]], reason: str
):
    """17: what somebody else wants now counts more."""

    def change() -> None:
        world.cluster.touch(Kind.DEPLOYMENT, "web")
        for part, values in meanwhile.items():
            world.web[part].update(values)

    world.cluster.before["apply"] = change
    ending = await world.do()
    assert (ending.state, ending.reason) == ("FAILED", reason)
    assert len(world.cluster.sent) == 1


async def test_conflict_does_not_let_another_change_through(world: World):
    """17: the revision before was approved; meanwhile it is gone, and another is before."""
    world.cluster.others["replica_sets"].insert(0, replica_set(8, "web:1"))

    def cleaned() -> None:
        world.cluster.touch(Kind.DEPLOYMENT, "web")
        del world.cluster.others["replica_sets"][1]

    world.cluster.before["apply"] = cleaned
    ending = await world.do(await world.planned(rollback("demo", "web")))
    assert (ending.state, ending.reason) == ("FAILED", "PLAN_DRIFT")
    assert len(world.cluster.sent) == 1


@pytest.mark.refuses("TARGET_CHANGED", step=17)
async def test_conflicts_are_bounded(world: World):
    """17: five times, and then it is told."""
    world.cluster.faults["apply"] = [conflict()] * 9
    ending = await world.do()
    assert (ending.state, ending.reason) == ("FAILED", "TARGET_CHANGED")
    assert len(world.cluster.sent) == 5


async def test_somebody_who_did_the_same_meanwhile_ends_it(world: World):
    """17: cordoned by hand in between: nothing is left to do."""

    def cordoned() -> None:
        world.cluster.touch(Kind.NODE, "n-1")
        world.cluster.objects[Kind.NODE, "n-1"]["spec"]["unschedulable"] = True

    world.cluster.before["apply"] = cordoned
    ending = await world.do(cordon("n-1"))
    assert (ending.state, ending.observations) == ("APPLIED", {"changed": "no"})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ClusterUnreachable("ConnectError"), "CLUSTER_UNAVAILABLE"),
        (ClusterRefused(404, "NotFound", (), "a"), "TARGET_GONE"),
        (ClusterRefused(409, "Conflict", (), "a"), "TARGET_CHANGED"),
        (ClusterRefused(429, "TooManyRequests", ("DisruptionBudget",), "a"), "PDB_EXHAUSTED"),
        (ClusterRefused(429, "TooManyRequests", (), "a"), "CLUSTER_REFUSED"),
        (ClusterRefused(403, "Forbidden", (), "a"), "CLUSTER_REFUSED"),
        (ForbiddenRequest("PATCH /api/v1/nodes/n-1"), "CLUSTER_REFUSED"),
    ],
    ids=str,
)
@pytest.mark.parametrize("call", ["dry_run", "apply"])
@pytest.mark.refuses(
    "TARGET_GONE",
    "TARGET_CHANGED",
    "PDB_EXHAUSTED",
    "CLUSTER_REFUSED",
    "CLUSTER_UNAVAILABLE",
    step=17,
)
async def test_refusal_of_the_cluster_is_translated(
    world: World, error: Exception, reason: str, call: str
):
    """Nothing was changed, and the reason says why."""
    world.cluster.faults[call] = [error]
    ending = await world.do(restart("demo", "web-1"))
    assert (ending.state, ending.reason) == ("FAILED", reason)


@pytest.mark.parametrize("call", ["deployment", "dry_run"])
async def test_silence_before_the_change_is_no_doubt(world: World, call: str):
    """Nothing was sent that could have taken effect."""
    world.cluster.faults[call] = [ClusterSilent("504")]
    ending = await world.do()
    assert (ending.state, ending.reason) == ("FAILED", "CLUSTER_UNAVAILABLE")
    assert world.journal.attempts == []


async def test_lost_answer_is_looked_into(world: World):
    """The cluster took it, and says so when it is asked."""
    world.cluster.faults["apply"] = [ClusterSilent("504")]
    world.cluster.before["apply"] = lambda: world.web["spec"].update(replicas=4)
    ending = await world.do()
    assert ending.state == "APPLIED"
    assert ending.observations == {
        "uid": "d-1",
        "replicas_before": "3",
        "replicas_after": "4",
        "reconciled": "yes",
        "changed": "yes",
    }
    # So it can be taken back as any other.
    undo = of_spec(SCALE).undo(ending.observations)
    assert getattr(undo, "replicas", 0) == 3


async def test_lost_answer_that_tells_nothing_yet_stays_open_for_the_sweep(world: World):
    """Until the write can no longer land; then the sweep says that it never did."""
    world.cluster.faults["apply"] = [ClusterSilent("504")]
    admitted = world.admitted()
    execution = await world.executions.carry_out(admitted)
    assert execution.ending is None
    assert await world.executions._sweep_once()
    world.now = NOW + timedelta(seconds=70)
    assert not await world.executions._sweep_once()
    ending = world.journal.endings[admitted.request_id]
    assert (ending.state, ending.reason) == ("FAILED", "CLUSTER_UNAVAILABLE")
    assert len(world.cluster.sent) == 1


async def test_lost_answer_under_a_changed_object_is_unknown(world: World):
    """Neither applied nor not: a person has to look, and sees that."""
    world.cluster.faults["apply"] = [ClusterSilent("504")]
    world.cluster.before["apply"] = lambda: world.web["metadata"].update(generation=7)
    ending = await world.do()
    assert (ending.state, ending.reason) == ("UNKNOWN", "TARGET_CHANGED")
    assert world.cluster.events == []


async def test_cluster_that_never_tells_is_left_to_a_person(world: World):
    """After ten minutes without an answer it is UNKNOWN."""
    world.cluster.faults["apply"] = [ClusterSilent("504")]
    world.cluster.faults["deployment"] = [None, *[ClusterSilent("504")] * 3]
    admitted = world.admitted()
    await world.executions.carry_out(admitted)
    assert await world.executions._sweep_once()
    world.now = NOW + timedelta(minutes=11)
    await world.executions._sweep_once()
    ending = world.journal.endings[admitted.request_id]
    assert (ending.state, ending.reason) == ("UNKNOWN", "CLUSTER_UNAVAILABLE")


async def test_place_that_is_no_longer_reached_does_not_stop_the_sweep(world: World):
    """The settings became narrower while something was open: it would fail at every start."""
    world.cluster.faults["apply"] = [ClusterSilent("504")]
    world.cluster.faults["deployment"] = [None, *[ForbiddenRequest("GET")] * 3]
    admitted = world.admitted()
    await world.executions.carry_out(admitted)
    assert await world.executions._sweep_once()
    world.now = NOW + timedelta(minutes=11)
    await world.executions._sweep_once()
    ending = world.journal.endings[admitted.request_id]
    assert (ending.state, ending.reason) == ("UNKNOWN", "CLUSTER_UNAVAILABLE")


async def test_odd_object_does_not_stop_the_sweep(world: World):
    """An answer without what the API promises is no answer."""
    world.cluster.faults["apply"] = [ClusterSilent("504")]
    world.cluster.before["apply"] = lambda: world.web.pop("spec")
    execution = await world.executions.carry_out(world.admitted())
    assert execution.ending is None
    assert await world.executions._sweep_once()


async def test_odd_object_ends_what_was_claimed(world: World):
    """Nothing was sent, and nobody has to wait for a sweep to hear it."""
    del world.web["spec"]["selector"]
    ending = await world.do(rollback("demo", "web"))
    assert (ending.state, ending.reason) == ("FAILED", "INTERNAL")
    assert world.cluster.sent == []


async def test_intent_of_an_unknown_remedy_does_not_stop_the_sweep(world: World):
    """What a newer executor left; all others have their end."""
    odd, other = world.admitted(), world.admitted()
    world.journal.claims[odd.request_id] = replace(odd, request=b"")
    world.journal.claims[other.request_id] = other
    await world.executions._sweep_once()
    assert list(world.journal.endings) == [other.request_id]


async def test_intent_without_an_attempt_is_ended_as_not_begun(world: World):
    """What a crash between claim and attempt leaves."""
    admitted = world.admitted()
    world.journal.claims[admitted.request_id] = admitted
    assert not await world.executions._sweep_once()
    ending = world.journal.endings[admitted.request_id]
    assert (ending.state, ending.reason) == ("FAILED", "EXECUTOR_UNAVAILABLE")


@pytest.mark.parametrize("call", ["sending", "end"])
async def test_journal_that_goes_away_leaves_the_intent_open(world: World, call: str):
    """An error now would say "nothing was done"; the sweep finds out what was."""
    world.journal.faults[call] = [Unavailable("DATABASE_UNAVAILABLE", "away")]
    admitted = world.admitted()
    execution = await world.executions.carry_out(admitted)
    assert execution.ending is None
    await world.executions._sweep_once()
    state = world.journal.endings[admitted.request_id].state
    assert state == ("APPLIED" if call == "end" else "FAILED")
    assert len(world.cluster.sent) == (1 if call == "end" else 0)


@pytest.mark.refuses("DATABASE_UNAVAILABLE", step=13)
async def test_journal_that_is_away_refuses(world: World):
    """No place to write the INTENT, no change."""
    world.journal.faults["stored"] = [Unavailable("DATABASE_UNAVAILABLE", "away")]
    with pytest.raises(Unavailable):
        await world.do()
    assert world.cluster.calls == []


async def test_ends_are_counted_by_action_state_and_reason(world: World):
    """Once each."""
    await world.do()
    labels = {"action": "scale_deployment", "state": "APPLIED", "reason": ""}
    count = world.registry.get_sample_value("aegis_executor_executions_total", labels)
    assert count == 1


async def test_concurrent_repeats_have_one_effect(world: World):
    """Those that overtake the first wait for it."""
    admitted = world.admitted()
    answers = await asyncio.gather(*(world.executions.carry_out(admitted) for _ in range(5)))
    assert len({id(answer.ending) for answer in answers}) == 1
    assert len(world.cluster.sent) == 1


def test_request_says_whether_it_is_a_dry_run(world: World):
    """The mode is inside the signed bytes."""
    asked = SIGNERS.request(SCALE, now=NOW)
    request = ActionRequest.FromString(asked.payload)
    request.mode = ActionRequest.MODE_DRY_RUN
    resigned = SIGNERS.resigned(request)
    decided = SIGNERS.decision(resigned, now=NOW)
    assert world.admission.admit(resigned, decided, peer="server:aegis").dry_run
    assert not world.admitted().dry_run


@pytest.mark.parametrize("asked", [False, True])
def test_glass_is_broken_only_when_asked(world: World, asked: bool):
    """Leave to do it is not used unasked."""
    request = ActionRequest.FromString(SIGNERS.request(SCALE, now=NOW).payload)
    request.break_glass = asked
    resigned = SIGNERS.resigned(request)
    decided = SIGNERS.decision(resigned, now=NOW, break_glass=True)
    admitted = world.admission.admit(resigned, decided, peer="server:aegis")
    assert admitted.standing.break_glass is asked
