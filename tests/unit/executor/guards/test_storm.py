"""Storm mode and its sensor: too much at once, quiet, ramp, and blindness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.guarding import NOW, asked, deed, gates, history, named, refusals

from aegis.errors import FailedPrecondition
from aegis_executor.catalogue.base import Object
from aegis_executor.guards.dependencies import Dependency
from aegis_executor.guards.gates import error_of
from aegis_executor.guards.numbers import StormNumbers
from aegis_executor.guards.onsets import Onsets
from aegis_executor.guards.sensor import Sensor, rolling, short
from aegis_executor.guards.storm import Health, Sight, Storm

NUMBERS = StormNumbers()
ILL, UNSURE = Health.ILL, Health.UNSURE


def sight(minutes: float, ill: int, watched: int = 10, how: Health = ILL) -> Sight:
    workloads = {("demo", f"app{n}"): how if n < ill else Health.HEALTHY for n in range(watched)}
    return Sight(NOW + timedelta(minutes=minutes), workloads)


def after(storm: Storm, *sights: Sight) -> Storm:
    for each in sights:
        storm = storm.seen(each, NUMBERS)
    return storm


CALM = Storm("CALM", NOW)
STORM = after(CALM, sight(0, 4))


def test_more_than_thirty_percent_is_a_storm():
    """Three of ten are not more."""
    assert after(CALM, sight(1, 3)).state == "CALM"
    storm = after(CALM, sight(1, 4))
    assert (storm.state, storm.cause) == ("STORM", "4 of 10 workloads are anomalous")
    assert (storm.watched, storm.anomalous) == (10, 4)


def test_whole_namespace_is_a_storm():
    """However small a share of everything it is."""
    workloads = {("demo", f"a{n}"): Health.HEALTHY for n in range(20)}
    shop = {("shop", f"b{n}"): ILL for n in range(3)}
    storm = after(CALM, Sight(NOW, {**workloads, **shop}))
    assert storm.cause == "all 3 workloads of shop are anomalous"


def test_many_that_fall_ill_within_minutes_are_a_storm():
    """However few they are of all: six in five minutes where none is usual, and not five."""
    first = Onsets().seen([], NOW, NUMBERS)
    five = first.seen([("demo", f"app{n}") for n in range(5)], minutes(1), NUMBERS)
    six = five.seen([("demo", f"app{n}") for n in range(6)], minutes(4), NUMBERS)
    assert fast(five, 1).state == "CALM"
    storm = fast(six, 4)
    assert storm.state == "STORM"
    assert storm.cause == "6 workloads fell ill within 300 s, where 0.0 is usual"


def test_what_is_usual_is_no_storm():
    """Two in every five minutes for an hour: eleven at once are more than five times that."""
    onsets = Onsets().seen([], NOW, NUMBERS)
    for step in range(60):
        one = [("demo", f"app{step}")] if step % 5 < 2 else []
        onsets = onsets.seen(one, minutes(step), NUMBERS)
    many = [("demo", f"late{n}") for n in range(11)]
    assert fast(onsets.seen(many[:8], minutes(60), NUMBERS), 60).state == "CALM"
    assert fast(onsets.seen(many, minutes(60), NUMBERS), 60).state == "STORM"


def test_ill_before_the_first_look_did_not_fall_ill_now():
    """An executor that starts in front of ten ill ones of a hundred has seen nothing happen."""
    ill = [("demo", f"app{n}") for n in range(10)]
    assert fast(Onsets().seen(ill, NOW, NUMBERS), 0).state == "CALM"


def test_onsets_are_forgotten_after_their_time():
    """The storm they were ends, and they stop being what is usual."""
    six = Onsets().seen([], NOW, NUMBERS)
    six = six.seen([("demo", f"app{n}") for n in range(6)], NOW, NUMBERS)
    later = six.seen([], minutes(5), NUMBERS)
    assert fast(six, 0).state == "STORM"
    assert fast(later, 5).state == "CALM"
    assert later.seen([], minutes(66), NUMBERS).times == ()


def minutes(number: float) -> datetime:
    return NOW + timedelta(minutes=number)


def fast(onsets: Onsets, at: float) -> Storm:
    """What a hundred workloads look like of which few are ill now."""
    looks = sight(at, 5, watched=100)
    return after(CALM, Sight(looks.at, looks.workloads, onsets))


async def test_sensor_counts_how_fast_they_fall_ill():
    """Six of fifty short of pods for longer than the grace, all since the last look."""
    watched = Watched()
    watched.cluster.fill(available=3, count=50)
    await watched.look()
    for each in watched.cluster.found["demo"][:6]:
        each["status"] = {**each["status"], "availableReplicas": 1}
    await watched.look(5)
    assert watched.sensor.storm.state == "CALM"
    await watched.look(30)
    assert watched.sensor.storm.state == "STORM"
    assert "6 workloads fell ill" in watched.sensor.storm.cause


def test_few_ill_are_what_remediation_is_for():
    """Two of two are a third of nothing."""
    assert after(CALM, sight(1, 2, watched=2)).state == "CALM"


def test_storm_ends_after_quiet_and_a_ramp():
    """Five minutes of quiet, then 1, 2, 4 at once, five minutes each."""
    seen = [after(STORM, *(sight(m, 0) for m in range(1, end + 1))) for end in (5, 6, 11, 16, 21)]
    assert [(storm.state, storm.pace) for storm in seen] == [
        ("STORM", 0),
        ("RECOVERING", 1),
        ("RECOVERING", 2),
        ("RECOVERING", 4),
        ("CALM", 0),
    ]


def test_storm_that_comes_back_begins_anew():
    """Out of the ramp, too."""
    ramping = after(STORM, sight(1, 0), sight(6, 0))
    assert ramping.state == "RECOVERING"
    again = after(ramping, sight(7, 4))
    assert (again.state, again.pace, again.quiet_since) == ("STORM", 0, None)


def test_healthy_but_under_remediation_is_no_quiet():
    """It would begin a storm by nothing, and end one too early."""
    assert after(CALM, sight(1, 4, how=UNSURE)).state == "CALM"
    assert after(STORM, *(sight(m, 4, how=UNSURE) for m in range(1, 30))).state == "STORM"


@pytest.mark.parametrize(("storm", "state"), [(None, "BLIND"), (STORM, "STORM")])
def test_storm_and_blindness_refuse(storm: Storm | None, state: str):
    """An approval does not help: people act by breaking the glass."""
    gate = named(gates(asked(approved=True), history(storm=storm)), "storm")
    error = error_of(gate, NOW)
    assert isinstance(error, FailedPrecondition)
    assert (error.reason, error.metadata) == ("STORM_ACTIVE", {"state": state})
    assert refusals(asked(break_glass=True), history(storm=storm)) == []


def test_recovery_lets_so_many_at_once():
    """What was held back must not come all at once."""
    recovering = Storm("RECOVERING", NOW, "after a storm, 2 at once", pace=2)
    one = [deed(NOW, "APPLIED", namespace="shop")]
    two = [*one, deed(NOW, "APPLIED", namespace="pay")]
    assert refusals(asked(), history(*one, storm=recovering)) == []
    assert refusals(asked(), history(*two, storm=recovering)) == ["storm"]


def deployment(available: int, wanted: int = 3, **status: Any) -> Object:
    return {
        "metadata": {"name": "web", "generation": 2},
        "spec": {"replicas": wanted},
        "status": {
            "observedGeneration": 2,
            "updatedReplicas": wanted,
            "availableReplicas": available,
            **status,
        },
    }


class Workloads:
    """A cluster of deployments; raises what it is told to."""

    def __init__(self) -> None:
        self.found: dict[str, list[Object]] = {"demo": []}
        self.error: Exception | None = None
        self.asked = 0

    def fill(self, available: int, count: int = 4) -> None:
        self.found["demo"] = [
            {**deployment(available), "metadata": {"name": f"app{n}", "generation": 2}}
            for n in range(count)
        ]

    async def deployments(self, namespace: str) -> Sequence[Object]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.found[namespace]


class Watched:
    """A sensor on such a cluster, and its clock."""

    def __init__(self) -> None:
        self.now = NOW
        self.cluster = Workloads()
        self.dependency = Dependency("kubernetes", clock=self.clock, jitter=lambda: 1.0)
        self.sensor = Sensor(
            self.cluster, {"demo"}, numbers=NUMBERS, clock=self.clock, dependency=self.dependency
        )

    def clock(self) -> datetime:
        return self.now

    async def look(self, seconds: float = 0, under_way: Mapping[Any, Any] | set[Any] = frozenset()):
        self.now += timedelta(seconds=seconds)
        await self.sensor.look(set(under_way))


async def test_nobody_who_has_not_looked_says_calm():
    """Missing input counts as tripped."""
    watched = Watched()
    assert watched.sensor.storm is None
    await watched.look()
    assert watched.sensor.storm is not None
    assert watched.sensor.storm.state == "CALM"


async def test_sensor_finds_a_storm_after_its_grace():
    """A pod that is just being replaced is no anomaly."""
    watched = Watched()
    watched.cluster.fill(available=1)
    await watched.look()
    assert watched.sensor.storm.state == "CALM"
    await watched.look(29)
    assert watched.sensor.storm.state == "CALM"
    await watched.look(1)
    assert watched.sensor.storm.state == "STORM"


async def test_rollout_that_nobody_carries_on_is_ill_after_its_deadline():
    """A controller that is dead never says that it failed."""
    watched = Watched()
    watched.cluster.fill(available=1)
    for each in watched.cluster.found["demo"]:
        each["metadata"]["generation"] = 3
    await watched.look()
    await watched.look(599)
    assert watched.sensor.storm.state == "CALM"
    await watched.look(1)
    assert watched.sensor.storm.state == "STORM"


async def test_short_time_begins_anew_after_recovery():
    """Two short dips are not one long."""
    watched = Watched()
    for seconds, available in ((0, 1), (20, 3), (20, 1), (20, 1)):
        watched.cluster.fill(available)
        await watched.look(seconds)
    assert watched.sensor.storm.state == "CALM"


async def test_sensor_that_cannot_look_goes_blind_and_says_why():
    """After its bound, not at the first failure; and it asks less and less meanwhile."""
    watched = Watched()
    await watched.look()
    watched.cluster.error = ConnectionError("refused")
    for _ in range(6):
        await watched.look(5)
    assert watched.sensor.storm is not None
    await watched.look(1)
    assert watched.sensor.storm is None
    assert watched.cluster.asked < 8
    breaker = watched.dependency.breaker()
    assert (breaker.name, "refused" in breaker.cause) == ("dependency kubernetes", True)
    watched.cluster.error = None
    await watched.look(60)
    assert watched.sensor.storm.state == "CALM"
    assert watched.dependency.breaker().state == "CLOSED"


async def test_clock_that_goes_back_makes_no_old_look_young():
    """What was seen before is not believed for an hour more; the next look is."""
    watch = Watched()
    await watch.look()
    assert watch.sensor.storm is not None
    watch.now -= timedelta(hours=1)
    assert watch.sensor.storm is None
    await watch.look()
    assert watch.sensor.storm is not None


async def test_blindness_is_no_quiet_time():
    """A storm goes on where it was, and its quiet time begins anew."""
    watched = Watched()
    watched.sensor.begin(STORM)
    await watched.look()
    await watched.look(299)
    watched.cluster.error = ConnectionError()
    await watched.look(5)
    watched.cluster.error = None
    await watched.look(100)
    assert watched.sensor.storm.state == "STORM"
    await watched.look(20)
    await watched.look(279)
    assert watched.sensor.storm.state == "STORM"


async def test_storm_survives_a_restart():
    """Where it stood, but without the quiet that nobody saw."""
    watched = Watched()
    watched.sensor.begin(Storm("RECOVERING", NOW, "x", pace=2, quiet_since=NOW))
    await watched.look(400)
    assert (watched.sensor.storm.state, watched.sensor.storm.pace) == ("RECOVERING", 2)


async def test_target_under_way_is_unsure():
    """Healthy pods of a deployment that is being remediated prove nothing yet."""
    watched = Watched()
    watched.sensor.begin(STORM)
    watched.cluster.fill(available=3)
    busy = {("demo", "deployments", f"app{n}") for n in range(3)}
    await watched.look(0, busy)
    await watched.look(400, busy)
    assert watched.sensor.storm.state == "STORM"
    assert watched.sensor.storm.quiet_since is None


@pytest.mark.parametrize(
    ("seen", "is_short", "is_rolling"),
    [
        (deployment(3), False, False),
        (deployment(2), True, False),
        (deployment(1, observedGeneration=1), True, True),
        (deployment(1, updatedReplicas=1), True, True),
        (
            deployment(
                1,
                updatedReplicas=1,
                conditions=[{"type": "Progressing", "status": "False"}],
            ),
            True,
            False,
        ),
        ({"metadata": {"name": "x"}, "spec": {"replicas": 0}}, False, False),
        ({"metadata": {"name": "x"}}, True, True),
        ({"metadata": {"name": "x"}, "status": {"availableReplicas": "many"}}, True, True),
    ],
)
def test_deployment_is_judged_by_its_status(seen: Object, is_short: bool, is_rolling: bool):
    """A rollout has until its deadline; a status that is missing or odd is none that serves."""
    assert (short(seen), rolling(seen)) == (is_short, is_rolling)
