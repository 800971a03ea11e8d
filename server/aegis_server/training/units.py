"""Whom a plan protects, and by whose noise.

A record is protected at the site that has it, by noise in every step. A whole participant is
protected where updates are added up, by noise at the server. Sites that are machines of their own
add theirs in both cases: what they send is seen by more than the sum. Embedded ones, whose rows are
public, then add none.

What the server releases is counted without sampling (q = 1), one release a round: who is asked in a
round follows from quorums, quarantine and a seed, so nobody's absence is a secret that could count.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from aegis.errors import FieldViolation
from aegis.v1 import training_pb2
from aegis_learning import privacy
from aegis_learning.datasets import Dataset
from aegis_server.privacy.book import PARTICIPANT, RECORD, Mechanism

Plan = training_pb2.RunPlan


def embedded(plan: Plan) -> bool:
    """Whether the sites are in the coordinator's process."""
    return plan.sites in (training_pb2.SITES_UNSPECIFIED, training_pb2.SITES_EMBEDDED)


def protects_participants(plan: Plan) -> bool:
    """Whether the server adds noise for whole participants."""
    return plan.privacy_unit == training_pb2.PRIVACY_UNIT_PARTICIPANT


def only_at_server(plan: Plan) -> bool:
    """Whether the server's noise is the only one."""
    return protects_participants(plan) and embedded(plan)


def server_noise(plan: Plan) -> float:
    """Returns the noise at the server in multiples of `update_clip_norm`; 0 for none.

    It keeps all rounds together within the plan's target. Raises ValueError when none does.
    """
    if not protects_participants(plan):
        return 0.0
    return _noise(plan.target_epsilon, plan.delta, plan.rounds)


@lru_cache(maxsize=32)
def _noise(epsilon: float, delta: float, rounds: int) -> float:
    return privacy.noise_multiplier(epsilon, delta, 1.0, rounds)


def site_noise(plan: Plan, noise_multiplier: float) -> float:
    """Returns the noise of a site's steps in a run with that noise multiplier."""
    return 0.0 if only_at_server(plan) else noise_multiplier


def mechanism_of(plan: Plan, noise_multiplier: float, steps: int) -> Mechanism:
    """Returns what so many private steps of a run are to the accountant.

    `steps` are those of a site; where only the server adds noise, the rounds they make up count.
    """
    if only_at_server(plan):
        return Mechanism(
            noise_multiplier=noise_multiplier,
            sample_rate=1.0,
            steps=-(-steps // plan.local_steps),
            clip_norm=plan.update_clip_norm,
            delta=plan.delta,
            unit=PARTICIPANT,
        )
    return Mechanism(
        noise_multiplier=noise_multiplier,
        sample_rate=plan.sample_rate,
        steps=steps,
        clip_norm=plan.clip_norm,
        delta=plan.delta,
        unit=RECORD,
    )


def epsilon_of(plan: Plan, noise_multiplier: float, steps: int) -> float:
    """Returns what so many steps cost whom the plan protects, at the plan's delta."""
    if steps == 0:
        return 0.0
    mechanism = mechanism_of(plan, noise_multiplier, steps)
    return privacy.epsilon(
        mechanism.noise_multiplier, mechanism.sample_rate, mechanism.steps, mechanism.delta
    )


def violations(plan: Plan, data: Dataset) -> Iterator[FieldViolation]:
    """Yields what keeps a plan from protecting whom it says it protects."""
    if not protects_participants(plan):
        if plan.update_clip_norm:
            yield FieldViolation("plan.update_clip_norm", "is for privacy_unit PARTICIPANT")
        return
    if plan.strategy != training_pb2.STRATEGY_FED_AVG:
        yield FieldViolation(
            "plan.privacy_unit", "PARTICIPANT needs FED_AVG: no other rule has its bound"
        )
    if not plan.update_clip_norm:
        yield FieldViolation("plan.update_clip_norm", "is needed: it bounds what the noise hides")
    if plan.review:
        yield FieldViolation(
            "plan.review", "a verdict depends on all updates, so the noise would not cover it"
        )
    if plan.settings.share_max:
        yield FieldViolation("plan.settings.share_max", "with PARTICIPANT all weigh the same")
    if plan.settings.server_momentum:
        yield FieldViolation(
            "plan.settings.server_momentum", "with PARTICIPANT a round remembers nothing"
        )
    if plan.delta * plan.participants >= 1:
        yield FieldViolation("plan.delta", "must be below 1 / participants")
    if embedded(plan) and not data.public:
        yield FieldViolation(
            "plan.privacy_unit", "embedded sites add no noise, so their rows have to be public"
        )
