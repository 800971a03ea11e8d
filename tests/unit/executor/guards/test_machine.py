"""Guards under arbitrary histories and a fake clock: what must hold whatever anybody does.

The machine is an executor: it asks, claims what passes, ends it somehow, and time goes by. After
every step the promises are checked against everything that was ever let through.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.guarding import NOW, asked, deed, gates, history

from aegis_executor.guards.breakers import open_breakers
from aegis_executor.guards.gates import Asked, error_of
from aegis_executor.guards.history import Deed, History
from aegis_executor.guards.numbers import Numbers
from aegis_executor.guards.pauses import Pause
from aegis_executor.guards.storm import Health, Sight, Storm

NUMBERS = Numbers.of_table(
    {
        "cool_down_seconds": 120,
        "attempts": 6,
        "relapse_seconds": 600,
        "hourly": {"target": 2, "namespace": 4, "global": 6},
        "storm": {"quiet_seconds": 120, "ramp_seconds": 60},
        "breakers": {"open_seconds": 300, "window_seconds": 1800, "outcomes_min": 3},
    }
)
HOUR = timedelta(hours=1)
NAMES = st.sampled_from(["web", "api", "db"])
NAMESPACES = st.sampled_from(["demo", "shop", "pay"])
VERBS = st.sampled_from(["scale_deployment", "restart_rollout"])
ENDS = st.sampled_from(
    ["VERIFIED", "VERIFIED", "INEFFECTIVE", "INCONCLUSIVE", "COMPENSATED", "FAILED", "UNKNOWN"]
)


class Guarded(RuleBasedStateMachine):
    """One executor and its guards."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.deeds: list[Deed] = []
        self.free: set[str] = set()  # those of broken glass
        self.pauses: list[Pause] = []
        self.storm = Storm("CALM", NOW)
        self.sick = 0
        self.quiet_since: datetime | None = NOW

    def past(self) -> History:
        return history(*self.deeds, now=self.now, pauses=self.pauses, storm=self.storm)

    @rule(
        name=NAMES,
        namespace=NAMESPACES,
        verb=VERBS,
        incident=st.sampled_from(["", "i1", "i2"]),
        approved=st.booleans(),
        glass=st.sampled_from([False, False, False, True]),
    )
    def ask(
        self, name: str, namespace: str, verb: str, incident: str, approved: bool, glass: bool
    ) -> None:
        """Somebody asks; what passes is under way."""
        self._ask(
            asked(
                name,
                namespace=namespace,
                verb=verb,
                incident_id=incident,
                approved=approved,
                break_glass=glass,
            )
        )

    def _ask(self, ask: Asked) -> bool:
        before = self.past()
        refused = [gate for gate in gates(ask, before, NUMBERS) if not gate.passed]
        for gate in refused:
            error = error_of(gate, self.now)
            assert error.retry_seconds is None or error.retry_seconds >= 0
        if refused:
            return False
        self._check_entry(ask, before)
        self.deeds.append(
            deed(
                self.now,
                "APPLIED",
                ask.place.name,
                request_id=ask.request_id,
                namespace=ask.place.namespace,
                verb=ask.verb,
                incident_id=ask.incident_id,
            )
        )
        if ask.break_glass:
            self.free.add(ask.request_id)
        return True

    @rule(
        name=NAMES,
        verb=VERBS,
        state=ENDS,
        approved=st.booleans(),
        times=st.integers(2, 5),
        seconds=st.sampled_from([121, 301, 700]),
    )
    def insist(
        self, name: str, verb: str, state: str, approved: bool, times: int, seconds: int
    ) -> None:
        """Somebody asks for the same again and again, and it always ends the same way."""
        for _ in range(times):
            if self._ask(asked(name, verb=verb, approved=approved)):
                self.wait(30)
                self.deeds[-1] = replace(self.deeds[-1], state=state, ended_at=self.now)
            self.wait(seconds)

    @rule(verb=VERBS, state=ENDS)
    def sweep(self, verb: str, state: str) -> None:
        """Somebody asks for everything, one after the other."""
        for namespace in ("demo", "shop", "pay"):
            for name in ("web", "api", "db"):
                if self._ask(asked(name, namespace=namespace, verb=verb, approved=True)):
                    self.wait(1)
                    self.deeds[-1] = replace(self.deeds[-1], state=state, ended_at=self.now)

    def _check_entry(self, ask: Asked, before: History) -> None:
        for pause in before.pauses:
            over = pause.expires_at is not None and self.now >= pause.expires_at
            assert over or pause.namespace not in ("", ask.place.namespace)
        assert all(deed.target != ask.target for deed in before.under_way)
        if ask.break_glass:
            return
        assert self.storm.state in ("CALM", "RECOVERING")
        if self.storm.state == "RECOVERING":
            assert len(before.under_way) < self.storm.pace
        mine = {"global", f"action {ask.verb}", f"namespace {ask.place.namespace}"}
        mine.add("target " + "/".join(ask.target))
        for breaker in open_breakers(before, NUMBERS):
            if breaker.name in mine:
                assert breaker.state == "HALF_OPEN"
                assert ask.approved

    @precondition(lambda self: any(each.under_way for each in self.deeds))
    @rule(which=st.integers(0, 100), state=ENDS)
    def end(self, which: int, state: str) -> None:
        """One comes to an end."""
        going = [n for n, each in enumerate(self.deeds) if each.under_way]
        index = going[which % len(going)]
        self.deeds[index] = replace(self.deeds[index], state=state, ended_at=self.now)

    @precondition(lambda self: any(d.state == "UNKNOWN" and not d.resolved for d in self.deeds))
    @rule()
    def resolve(self) -> None:
        """A person looks at all that is unknown."""
        self.deeds = [
            replace(each, resolved=True) if each.state == "UNKNOWN" else each for each in self.deeds
        ]

    @rule(seconds=st.sampled_from([1, 30, 61, 301, 1200, 3601]))
    def wait(self, seconds: int) -> None:
        """Time goes by; the sensor looks every so often."""
        for _ in range(min(seconds, 20)):
            self.now += timedelta(seconds=seconds / min(seconds, 20))
            self._look()

    @rule(sick=st.integers(0, 10))
    def fall_ill(self, sick: int) -> None:
        """So many of ten workloads are ill from now on."""
        self.sick = sick
        self._look()

    def _look(self) -> None:
        workloads = {
            ("demo", f"a{n}"): Health.ILL if n < self.sick else Health.HEALTHY for n in range(10)
        }
        self.storm = self.storm.seen(Sight(self.now, workloads), NUMBERS.storm)
        loud = self.sick > 3
        self.quiet_since = None if loud else self.quiet_since or self.now
        if loud:
            assert self.storm.state == "STORM"

    @rule(namespace=st.sampled_from(["", "demo"]), minutes=st.integers(1, 60))
    def pause(self, namespace: str, minutes: int) -> None:
        """Somebody stops it."""
        until = self.now + timedelta(minutes=minutes)
        self.pauses.append(Pause("p", namespace, "", "user:ada", "x", self.now, until))

    @rule()
    def resume(self) -> None:
        """Somebody lets it go on."""
        self.pauses.clear()

    @invariant()
    def never_more_in_any_hour_than_allowed(self) -> None:
        """Whatever window one looks through; broken glass comes on top."""
        ordinary = [each for each in self.deeds if each.request_id not in self.free]
        for first in ordinary:
            within = [each for each in ordinary if first.at <= each.at < first.at + HOUR]
            assert len(within) <= 6
            for namespace in ("demo", "shop", "pay"):
                assert sum(each.namespace == namespace for each in within) <= 4
            assert sum(each.target == first.target for each in within) <= 2

    @invariant()
    def never_more_at_once_than_allowed(self) -> None:
        """And never two at one target, broken glass or not."""
        going = [each for each in self.deeds if each.under_way]
        targets = [each.target for each in going]
        assert len(targets) == len(set(targets))
        ordinary = [each for each in going if each.request_id not in self.free]
        assert len(ordinary) <= 5
        for namespace in ("demo", "shop", "pay"):
            assert sum(each.namespace == namespace for each in ordinary) <= 2

    @invariant()
    def open_breaker_has_a_probe_time_or_asks_for_a_person(self) -> None:
        """None latches silently."""
        for breaker in open_breakers(self.past(), NUMBERS):
            assert breaker.cause
            assert breaker.since is not None
            if breaker.probe_at is None:
                assert "resolve" in breaker.cause
            else:
                assert breaker.probe_at == breaker.since + timedelta(seconds=300)
                half = self.now >= breaker.probe_at
                assert breaker.state == ("HALF_OPEN" if half else "OPEN")

    @invariant()
    def storm_ends_after_quiet_and_ramp(self) -> None:
        """Two minutes, and one a step of the ramp; looks lie up to three minutes apart."""
        longest = timedelta(seconds=120 + 3 * 60 + 5 * 181)
        if self.quiet_since is not None and self.now - self.quiet_since > longest:
            assert self.storm.state == "CALM"


TestGuarded = Guarded.TestCase
TestGuarded.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
