"""Watching from the change to the verdict, on a fake clock; the burns of others among it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.unit.executor.verification.objects import WEB, Scale, deployment, pod, replica_set

from aegis.errors import FailedPrecondition, Unavailable
from aegis.v1.envelope_pb2 import ActionRequest, ActionSpec
from aegis_executor.catalogue.base import ACTION_ID, Change, Seen
from aegis_executor.departing import Departure
from aegis_executor.kubernetes import ClusterRefused, ClusterSilent, ForbiddenRequest
from aegis_executor.verification.healing import Healing
from aegis_executor.verification.judgement import Verdict
from aegis_executor.verification.prometheus import Nobody, Rule, Unanswered
from aegis_executor.verification.store import Applied
from aegis_executor.verification.terms import Defaults

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
Checks = ActionSpec.Verification


class World:
    """Clock, cluster, Prometheus, journal and kill switch in one hand."""

    def __init__(self) -> None:
        self.now = NOW
        self.jumped = timedelta(0)
        self.live: Any = deployment(generation=5)
        self.pods: list[Any] = [pod("a"), pod("b"), pod("c")]
        self.metrics: Any = Nobody()
        self.silent = False
        self.meanwhile: Any = lambda: None
        self.answers: list[Any] = []
        self.sent: list[Change] = []
        self.rows: dict[str, Applied] = {}
        self.verdicts: dict[str, tuple[Verdict, Mapping[str, str]]] = {}
        self.paused = False
        self.rechecked: list[str] = []
        self.away = False

    # The clock.
    def __call__(self) -> datetime:
        return self.now

    # The cluster.
    async def deployment(self, namespace: str, name: str) -> Any:
        if self.silent:
            raise ClusterSilent("status 500")
        return self.live

    async def replica_sets(self, namespace: str, labels: Any) -> Any:
        return [replica_set()]

    async def pods_of(self, namespace: str, labels: Any) -> Any:
        return self.pods

    async def apply(self, change: Change) -> str:
        self.sent.append(change)
        self.meanwhile()
        if self.answers and (answer := self.answers.pop(0)) is not None:
            raise answer
        self.live = deployment(change.body["spec"]["replicas"], generation=change.generation + 1)
        return "audit-7"

    async def record_event(self, *told: Any) -> None:
        raise ClusterRefused(403, "Forbidden", (), "")

    # The journal.
    async def keep(self, request_id: str, baseline: Any) -> None:
        self.rows[request_id] = replace(self.rows[request_id], baseline=baseline.to_json())

    async def unjudged(self, since: Any, watched: Sequence[str]) -> list[Applied]:
        if self.away:
            raise Unavailable("DATABASE_UNAVAILABLE", "away")
        return [row for id_, row in self.rows.items() if id_ not in self.verdicts]

    async def sending(self, applied: Applied, number: int, change: Change) -> None:
        self.rows[applied.request_id] = replace(
            self.rows[applied.request_id],
            undo_number=number,
            undo_uid=change.place.uid,
            undo_resource_version=change.resource_version,
            undo_generation=change.generation,
            undo_sent_at=self.now,
        )

    async def judge(self, applied: Applied, verdict: Verdict, told: Any) -> datetime | None:
        if applied.request_id in self.verdicts:
            return None
        self.verdicts[applied.request_id] = (verdict, told)
        return self.now

    # The kill switch.
    async def recheck(self, applied: Applied, undo: Any) -> None:
        self.rechecked.append(undo.verb)
        if self.paused:
            raise FailedPrecondition("EXECUTION_PAUSED", "somebody stopped it")

    def started(self) -> Healing:
        """A fresh process in this world."""
        cluster: Any = type("Port", (), {})()
        for name in ("deployment", "replica_sets", "apply", "record_event"):
            setattr(cluster, name, getattr(self, name))
        cluster.pods = self.pods_of
        ledger: Any = self
        return Healing(
            ledger=ledger,
            cluster=cluster,
            metrics=self.metrics,
            defaults=Defaults(30, 300, 5, 2, 4),
            remedy_of=Scale.of_spec,
            recheck=self.recheck,
            clock=self,
            departure=Departure(65),
            registry=CollectorRegistry(),
            elapsed=lambda: (self.now - NOW - self.jumped).total_seconds(),
        )

    async def changed(self, checks: Checks | None = None, **told: Any) -> Healing:
        """`demo/web` was scaled from 2 to 3 a moment ago: generation 4 became 5."""
        spec = ActionSpec(scale_deployment=ActionSpec.ScaleDeployment(replicas=3))
        if checks is not None:
            spec.verification.CopyFrom(checks)
        self.rows["r-1"] = Applied(
            **{
                "request_id": "r-1",
                "action_id": "a-1",
                "action": "scale_deployment",
                "issuer": "automation:autopilot",
                "action_digest": bytes(32),
                "request": ActionRequest(spec=spec.SerializeToString()).SerializeToString(),
                "kind": "deployments",
                "namespace": "demo",
                "name": "web",
                "incident_id": "",
                "approved": False,
                "break_glass": False,
                "intent_at": NOW,
                "observations": {"changed": "yes", "replicas_before": "2"},
                "ended_at": NOW,
                "generation": 4,
                "sent_at": NOW,
                "baseline": None,
                **dict.fromkeys(
                    f"undo_{part}"
                    for part in ("number", "uid", "resource_version", "generation", "sent_at")
                ),
                **told,
            }
        )
        healing = self.started()
        live, self.live = self.live, deployment(2, generation=4)
        await healing.capture("r-1", Scale(WEB, 3), spec, Seen(self.live))
        self.live = live
        return healing

    async def until(self, healing: Healing, seconds: float) -> str:
        """Looks every 5 s until so long after the change; returns the state, or ""."""
        while self.now < NOW + timedelta(seconds=seconds) and not self.verdicts:
            self.now += timedelta(seconds=5)
            await healing.round()
        return self.state

    @property
    def state(self) -> str:
        return self.verdicts["r-1"][0].state if self.verdicts else ""

    @property
    def verdict(self) -> Verdict:
        return self.verdicts["r-1"][0]


class Prometheus:
    """Answers what it was told to."""

    def __init__(self, value: Any = 0.1, active: bool = False) -> None:
        self.number, self.active = value, active
        self.now: Any = lambda: NOW

    async def value(self, query: str) -> Any:
        return self.number

    async def rules(self, name: str) -> Any:
        if isinstance(self.number, Unanswered):
            return self.number
        active = [{"alertname": name}] if self.active else []
        return [Rule(name, {}, True, self.now(), active)]


def alerting(seconds: int = 0, **told: Any) -> Checks:
    probe = Checks.AlertProbe(labels={"alertname": "HighErrors"})
    probe.look_back.FromSeconds(seconds)
    return Checks(alerts=[probe], **told)


def measured(**told: Any) -> Checks:
    probe = Checks.MetricProbe(query="latency", better=Checks.MetricProbe.BETTER_LOWER)
    return Checks(metrics=[probe], **told)


COMPENSATE = Checks(on_failure=Checks.ON_FAILURE_COMPENSATE)


async def test_change_that_helps_is_verified():
    """Two good looks after the time to stabilise, and no sooner."""
    world = World()
    healing = await world.changed()
    assert await world.until(healing, 30) == ""
    assert await world.until(healing, 35) == "VERIFIED"
    assert world.verdicts["r-1"][1]["health"] == "settled and ready"


async def test_what_was_so_already_is_watched_the_same_way():
    """Nothing was changed, and whether it is well is asked all the same."""
    world = World()
    told = {"observations": {"changed": "no"}, "generation": None, "sent_at": None}
    healing = await world.changed(COMPENSATE, **told)
    world.rows["r-1"].baseline["generation"] = 5  # type: ignore[index]
    assert await world.until(healing, 35) == "VERIFIED"


async def test_metric_of_what_was_so_already_has_something_to_be_compared_with():
    """Or nothing that was so already could ever be verified by a metric."""
    world = World()
    world.metrics = Prometheus(0.1)
    told = {"observations": {"changed": "no"}, "generation": None, "sent_at": None}
    healing = await world.changed(measured(), **told)
    world.rows["r-1"].baseline["generation"] = 5  # type: ignore[index]
    assert await world.until(healing, 35) == "VERIFIED"


async def test_mechanical_success_is_not_healing():
    """kubernaut #214: completed, five times over, and nothing got better. That is INEFFECTIVE."""
    world = World()
    world.live = deployment(available=1)
    healing = await world.changed(Checks(on_failure=Checks.ON_FAILURE_NONE))
    assert await world.until(healing, 295) == ""
    assert await world.until(healing, 300) == "INEFFECTIVE"


async def test_ineffective_calls_a_person_unless_told_otherwise():
    """Nothing was said about failure, so somebody looks; the message says what was found."""
    world = World()
    world.live = deployment(available=1)
    healing = await world.changed()
    assert await world.until(healing, 300) == "ESCALATED"
    assert "not healed within the window" in world.verdict.message


async def test_healthy_but_still_under_remediation_is_not_healed():
    """medik8s #378: every old number fits, and the controller has not even looked yet."""
    world = World()
    world.live = deployment(observed=4)
    healing = await world.changed()
    assert await world.until(healing, 295) == ""


async def test_containers_that_restart_again_end_it_early():
    """The failure limit wins over the window."""
    world = World()
    healing = await world.changed()
    for restarts in range(1, 20):
        world.pods = [pod("a", restarts=restarts)]
        await world.until(healing, 20 + 5 * restarts)
    assert world.state == "ESCALATED"
    assert world.now < NOW + timedelta(seconds=60)


async def test_counter_alert_is_waited_for_as_long_as_it_looks_back():
    """kubernaut #364: increase(…[10m]) fires for ten minutes about what is long healed."""
    world = World()
    world.metrics = Prometheus(active=True)
    world.metrics.now = world
    healing = await world.changed(alerting(600))
    assert await world.until(healing, 595) == ""
    world.metrics.active = False
    assert await world.until(healing, 610) == "VERIFIED"


async def test_alert_that_outlives_its_look_back_is_ineffective():
    """Then it is about now."""
    world = World()
    world.metrics = Prometheus(active=True)
    world.metrics.now = world
    healing = await world.changed(alerting(600, on_failure=Checks.ON_FAILURE_NONE))
    assert await world.until(healing, 620) == "INEFFECTIVE"
    assert world.now >= NOW + timedelta(seconds=600)


async def test_prometheus_that_is_down_is_never_success():
    """Whatever the object looks like: nobody could tell."""
    for checks in (alerting(), measured()):
        world = World()
        world.metrics = Prometheus(Unanswered("down"))
        healing = await world.changed(checks)
        assert await world.until(healing, 300) == "INCONCLUSIVE"
        assert "down" in world.verdict.message


async def test_probe_without_a_prometheus_is_inconclusive():
    """The setting is absent and the probe was wanted."""
    world = World()
    healing = await world.changed(measured())
    assert await world.until(healing, 300) == "INCONCLUSIVE"
    assert "AEGIS_PROMETHEUS_URL is not set" in world.verdict.message


async def test_metric_is_compared_with_the_one_before_the_change():
    """Captured before, worse after: harm."""
    world = World()
    world.metrics = Prometheus(0.1)
    healing = await world.changed(measured(on_failure=Checks.ON_FAILURE_NONE))
    world.metrics.number = 0.3
    assert await world.until(healing, 300) == "INEFFECTIVE"
    assert "0.3 after 0.1, at most 0.1 wanted" in world.verdict.message


async def test_cluster_that_says_nothing_is_inconclusive():
    """Not seen is not healthy, nor ill."""
    world = World()
    healing = await world.changed()
    world.silent = True
    assert await world.until(healing, 300) == "INCONCLUSIVE"
    assert world.verdict.reason == "CLUSTER_UNAVAILABLE"


async def test_somebody_else_changing_it_is_inconclusive():
    """Neither our success nor our failure, and nothing of theirs is taken back."""
    world = World()
    world.live = deployment(generation=6, available=0)
    healing = await world.changed(COMPENSATE)
    assert await world.until(healing, 30) == "INCONCLUSIVE"
    assert (world.verdict.reason, world.sent) == ("TARGET_CHANGED", [])


async def test_watch_goes_on_after_a_restart():
    """A new process knows from the journal what it has to look at, and with what to compare."""
    world = World()
    world.metrics = Prometheus(0.1)
    await world.changed(measured(on_failure=Checks.ON_FAILURE_NONE))
    world.metrics.number = 0.3
    assert await world.until(world.started(), 300) == "INEFFECTIVE"


async def test_executor_that_was_away_looks_before_it_judges():
    """The window is over, and nobody has looked: it still takes its looks."""
    world = World()
    await world.changed()
    world.now = NOW + timedelta(hours=2)
    healing = world.started()
    await healing.round()
    assert world.state == ""
    world.now += timedelta(seconds=5)
    await healing.round()
    assert world.state == "VERIFIED"


async def test_odd_answer_of_prometheus_is_no_success_and_no_end():
    """A time without a zone cannot be compared: nobody was asked, and the watch goes on."""
    world = World()
    world.metrics = Prometheus()
    world.metrics.now = lambda: world.now.replace(tzinfo=None)
    healing = await world.changed(alerting())
    assert await world.until(healing, 300) == "INCONCLUSIVE"


async def test_what_cannot_be_read_does_not_keep_others_from_their_verdict():
    """What a newer executor wrote down is none of ours."""
    world = World()
    healing = await world.changed()
    odd = {"anchor": {"what": "is this"}}
    world.rows = {"r-0": replace(world.rows["r-1"], request_id="r-0", baseline=odd), **world.rows}
    assert await world.until(healing, 35) == "VERIFIED"


@pytest.mark.parametrize("hours", [1, -1])
async def test_clock_that_is_set_takes_nothing_from_the_window(hours: int):
    """Not healthy yet, and an hour later by the clock alone: nothing is taken back for that."""
    world = World()
    world.live = deployment(available=2)
    healing = await world.changed(COMPENSATE)
    await world.until(healing, 60)
    world.jumped = timedelta(hours=hours)
    world.now += world.jumped
    await world.until(healing, hours * 3600 + 285)
    assert (world.state, world.sent) == ("", [])
    world.live = deployment()
    assert await world.until(healing, hours * 3600 + 300) == "VERIFIED"


async def test_alert_that_nobody_evaluates_takes_nothing_back():
    """kubernaut's silence: the rule is there and stands still; who could tell is not asked."""
    world = World()
    world.metrics = Prometheus()
    healing = await world.changed(alerting(on_failure=Checks.ON_FAILURE_COMPENSATE))
    assert await world.until(healing, 300) == "INCONCLUSIVE"
    assert world.sent == []


async def test_ill_change_is_taken_back():
    """Scaled to 3 and never available: scaled to 2 again, pinned, and settled."""
    world = World()
    world.live = deployment(available=2)
    healing = await world.changed(COMPENSATE)
    assert await world.until(healing, 320) == "COMPENSATED"
    (change,) = world.sent
    assert (change.body, change.generation) == ({"spec": {"replicas": 2}}, 5)
    assert world.verdicts["r-1"][1]["undo_audit_id"] == "audit-7"


async def ill(**told: Any) -> tuple[World, Healing]:
    """Has not helped, and is about to be taken back."""
    world = World()
    world.live = deployment(available=2)
    healing = await world.changed(COMPENSATE, **told)
    assert await world.until(healing, 295) == ""
    return world, healing


async def test_kill_switch_stops_the_taking_back_too():
    """Looked at again immediately before it is sent."""
    world, healing = await ill()
    world.paused = True
    assert await world.until(healing, 300) == "ESCALATED"
    assert (world.verdict.reason, world.sent) == ("EXECUTION_PAUSED", [])


@pytest.mark.parametrize(
    ("marks", "reason"),
    [
        ({"annotations": {"aegis.dev/do-not-remediate": "ours"}}, "TARGET_VETOED"),
        ({"labels": {"aegis.dev/protected": "true"}}, "TARGET_PROTECTED"),
    ],
)
async def test_object_that_nobody_may_change_any_more_is_not_changed_back(
    marks: dict[str, Any], reason: str
):
    """Marks move no generation, so this is no drift; a person has to look."""
    world, healing = await ill()
    world.live = deployment(available=2, **marks)
    assert await world.until(healing, 300) == "ESCALATED"
    assert (world.verdict.reason, world.sent) == (reason, [])


async def test_mark_that_comes_between_two_tries_is_heeded():
    """Each try reads anew, and is asked anew."""
    world, healing = await ill()
    world.answers = [ClusterRefused(409, "Conflict", (), "")]
    vetoed = {"aegis.dev/do-not-remediate": "ours"}
    world.meanwhile = lambda: setattr(world, "live", deployment(available=2, annotations=vetoed))
    assert await world.until(healing, 300) == "ESCALATED"
    assert (len(world.sent), world.verdict.reason) == (1, "TARGET_VETOED")


async def test_own_rollout_that_does_not_come_to_an_end_is_taken_back():
    """That it rolls is what did not help; nobody else has changed it."""
    world = World()
    world.live = deployment(available=2, updated=2)
    healing = await world.changed(COMPENSATE)
    assert await world.until(healing, 320) == "COMPENSATED"
    assert world.rechecked == ["scale_deployment"]


async def test_conflicts_are_met_a_bounded_number_of_times():
    """Five times somebody was faster: a person."""
    world, healing = await ill()
    world.answers = [ClusterRefused(409, "Conflict", (), "")] * 9
    assert await world.until(healing, 300) == "ESCALATED"
    assert (len(world.sent), world.verdict.reason) == (5, "TARGET_CHANGED")


async def test_refused_taking_back_is_escalated():
    """The cluster said no, and that is final."""
    world, healing = await ill()
    world.answers = [ClusterRefused(403, "Forbidden", (), "")]
    assert await world.until(healing, 300) == "ESCALATED"
    assert world.verdict.reason == "CLUSTER_REFUSED"


async def test_busy_cluster_is_asked_again():
    """429 is no no: nothing was done, and it is taken back when there is room."""
    world, healing = await ill()
    world.answers = [ClusterRefused(429, "TooManyRequests", (), "")]
    assert await world.until(healing, 400) == "COMPENSATED"
    assert len(world.sent) == 2


async def test_taking_back_is_not_forced_over_somebody_else():
    """What changed since the last look is left alone."""
    world, healing = await ill()
    watch = healing._watched["r-1"]
    watch.undoing_since = world.now
    world.live = deployment(generation=6, available=2)
    assert await world.until(healing, 300) == "ESCALATED"
    assert (world.verdict.reason, world.sent) == ("TARGET_CHANGED", [])


async def test_place_that_is_no_longer_reached_is_escalated():
    """The settings became narrower: nothing is sent, and the executor lives on."""
    world, healing = await ill()
    world.answers = [ForbiddenRequest("PATCH")]
    assert await world.until(healing, 300) == "ESCALATED"
    assert world.verdict.reason == "NAMESPACE_NOT_ALLOWED"


async def test_nothing_to_take_back_is_escalated():
    """A pod that was evicted does not come back."""
    world, healing = await ill(observations={"changed": "yes"})
    assert await world.until(healing, 300) == "ESCALATED"
    assert "nothing that takes it back" in world.verdict.message


async def test_what_was_so_already_is_never_taken_back():
    """It was not our change."""
    world, healing = await ill(observations={"changed": "no", "replicas_before": "2"})
    assert await world.until(healing, 300) == "ESCALATED"
    assert world.sent == []


async def test_lost_answer_to_the_taking_back_is_recognised():
    """It took effect, and is not sent twice; not even by the process after a crash."""
    world, healing = await ill()
    world.answers = [ClusterSilent("cut")]
    await world.until(healing, 300)
    assert world.state == ""
    world.live = deployment(2, generation=6, annotations={ACTION_ID: "a-1-undo"})
    assert await world.until(world.started(), 320) == "COMPENSATED"
    assert len(world.sent) == 1


async def test_taking_back_that_never_took_effect_is_sent_again():
    """Once it can no longer arrive, and no sooner."""
    world, healing = await ill()
    world.answers = [ClusterSilent("cut")]
    await world.until(healing, 360)
    assert len(world.sent) == 1
    assert await world.until(healing, 400) == "COMPENSATED"
    assert [change.generation for change in world.sent] == [5, 5]


async def test_taken_back_and_not_settled_is_escalated():
    """A person has to look at what is still ill."""
    world, healing = await ill()
    await world.until(healing, 300)
    world.live = deployment(2, generation=6, available=1)
    assert await world.until(healing, 700) == "ESCALATED"
    assert "has not settled" in world.verdict.message


async def test_journal_that_is_away_delays_the_verdict_only():
    """Nothing is judged that cannot be written down."""
    world = World()
    healing = await world.changed()
    world.away = True
    for _ in range(3):
        try:
            await healing.round()
        except Unavailable:
            world.now += timedelta(seconds=20)
    world.away = False
    assert await world.until(healing, 120) == "VERIFIED"
