"""Is the alert gone, and would it still be there if nothing had helped?

An expression that looks back, such as increase(…[10m]), fires about the past for as long as it
looks back. And an alert that nobody evaluates is not gone: the rule has to be there, to be healthy,
and to have been evaluated since the change.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from aegis_executor.verification.judgement import Finding, Outcome
from aegis_executor.verification.prometheus import Rule, Unanswered
from aegis_executor.verification.terms import AlertAsked


def alert(
    asked: AlertAsked,
    answer: Sequence[Rule] | Unanswered,
    *,
    changed_at: datetime,
    now: datetime,
) -> Finding:
    """Judges one alert by its rules, as Prometheus tells about them."""
    name = asked.labels.get("alertname", "")
    probe = f"alert {name}"
    if isinstance(answer, Unanswered):
        return Finding(probe, Outcome.UNASKED, answer.why)
    rules = [rule for rule in answer if _could_be(rule, asked)]
    if not rules:
        return Finding(probe, Outcome.UNASKED, "Prometheus has no such rule")
    if any(not rule.healthy for rule in rules):
        return Finding(probe, Outcome.UNASKED, "its rule cannot be evaluated")
    active = sum(asked.labels.items() <= labels.items() for r in rules for labels in r.active)
    if active:
        until = changed_at + asked.look_back
        about_the_past = f", and may until {until:%H:%M:%S}" if now < until else ""
        return Finding(probe, Outcome.WAITING, f"still active{about_the_past}")
    if any(rule.evaluated_at <= changed_at for rule in rules):
        # That nobody looks is no illness, for which anything would be taken back.
        return Finding(probe, Outcome.UNASKED, "not evaluated since the change")
    return Finding(probe, Outcome.GOOD, "gone")


def _could_be(rule: Rule, asked: AlertAsked) -> bool:
    own = {"alertname": rule.name, **rule.labels}
    # Labels with a template in them are only known of the alerts themselves.
    return all(
        asked.labels.get(name, value) == value for name, value in own.items() if "{{" not in value
    )
