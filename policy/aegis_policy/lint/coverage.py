"""Rules that other rules make pointless."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from datetime import datetime
from typing import TypeAlias

from aegis_policy.lint.clauses import is_over, meaning
from aegis_policy.lint.survey import EVERYWHERE, Finding, Reading, Rule, Survey
from aegis_policy.obligations import obligation_of
from aegis_policy.patterns import Exhausted, Patterns, Steps

# Some seconds. Real files need about thirty steps a rule.
STEPS_MAX = 10_000_000

_Key: TypeAlias = tuple[str, str, Hashable]


def coverage_findings(
    survey: Survey, reading: Reading, now: datetime, steps_max: int = STEPS_MAX
) -> Iterator[Finding]:
    """Returns rules that are there twice, that never decide, and denies of what nobody may."""
    yield from _bindings_twice(survey)
    try:
        steps = Steps(steps_max)
        yield from _Coverage(survey, reading, now, steps).findings()
        yield from _idle_denies(survey, steps)
    except Exhausted:
        text = "too many patterns overlap: not every rule was compared with every other"
        yield Finding("note", "not-all-compared", 0, 0, "", text)


def _bindings_twice(survey: Survey) -> Iterator[Finding]:
    everywhere = {(each.member, each.role): each for each in survey.bindings if not each.domain}
    for binding in survey.bindings:
        wider = everywhere.get((binding.member, binding.role))
        if binding.domain != EVERYWHERE and wider is not None:
            text = f"line {wider.line} gives {binding.member} this role in every tenant"
            yield binding.found("warning", "duplicate-binding", text)


class _Coverage:
    """Rules by effect, subject and condition, each group a tree of what they are about."""

    def __init__(self, survey: Survey, reading: Reading, now: datetime, steps: Steps) -> None:
        self._survey = survey
        self._reading = reading
        self._steps = steps
        self._groups: dict[_Key, Patterns[Rule]] = {}
        conditions = {rule.condition for rule in survey.rules}
        self._meanings = {condition: meaning(condition) for condition in conditions}
        self._over = {condition for condition in conditions if is_over(condition, now)}

    def findings(self) -> Iterator[Finding]:
        check = self._decided_before if self._reading is Reading.FIRST_MATCH else self._outweighed
        distinct = []
        for rule in self._survey.rules:
            first = self._group(rule).add(rule.steps, rule)
            if first is not rule:
                text = f"says the same as {first.rule_id} in line {first.line}"
                yield rule.found("warning", "duplicate-rule", text)
            elif rule.condition not in self._over:
                distinct.append(rule)
        for rule in distinct:
            if finding := check(rule):
                yield finding

    def _group(self, rule: Rule) -> Patterns[Rule]:
        key = rule.effect, rule.subject, self._meanings[rule.condition]
        if key not in self._groups:
            self._groups[key] = Patterns(self._steps)
        return self._groups[key]

    def _outweighed(self, rule: Rule) -> Finding | None:
        """One deny outweighs every allow, and of several denies the first is named."""
        if not rule.allows:
            if wider := self._wider(rule, "deny", lambda other: other.line < rule.line):
                text = f"never decides: {_name(wider)} comes first and denies all of it"
                return rule.found("note", "shadowed-rule", text)
            return None
        if deny := self._wider(rule, "deny", lambda _: True):
            text = f"never allows anything: {_name(deny)} denies all of it"
            return rule.found("warning", "unreachable-rule", text)
        if wider := self._wider(rule, "allow", lambda _: True):
            text = f"adds nothing: {_name(wider)} allows all of it"
            return rule.found("warning", "shadowed-rule", text)
        return None

    def _decided_before(self, rule: Rule) -> Finding | None:
        """The first rule in the file that matches decides."""
        for effect in ("deny", "allow"):
            if before := self._wider(rule, effect, lambda other: other.line < rule.line):
                text = f"never decides: {_name(before)} comes first and decides all of it"
                check = "shadowed-rule" if effect == rule.effect else "unreachable-rule"
                return rule.found("warning", check, text)
        return None

    def _wider(self, rule: Rule, effect: str, fits: Callable[[Rule], bool]) -> Rule | None:
        """Returns a rule of an effect that matches whenever this one does."""
        conditions = {"": None, self._meanings[rule.condition]: None}
        if effect == "allow" and not rule.allows:
            # What has no answer matches a deny, and not an allow with the same condition.
            conditions = {"": None}
        roles = self._survey.roles_of(rule.subject, rule.domain)
        self._steps.take(len(roles))
        for subject in (rule.subject, *sorted(roles)):
            for condition in conditions:
                group = self._groups.get((effect, subject, condition))
                for other in group.covering(rule.steps) if group else ():
                    if other is not rule and other.condition not in self._over and fits(other):
                        return other
        return None


def _idle_denies(survey: Survey, steps: Steps) -> Iterator[Finding]:
    # Of all subjects together: who has which roles is not only in this file.
    allowed: Patterns[Rule] = Patterns(steps)
    for rule in survey.rules:
        if rule.allows:
            allowed.add(rule.steps, rule)
    for rule in survey.rules:
        # An obligation is about whatever is allowed there.
        about = rule._replace(action="*") if obligation_of(rule.action) else rule
        if not rule.allows and not allowed.meets(about.steps):
            yield rule.found("note", "idle-deny", "no rule allows anything that this denies")


def _name(rule: Rule) -> str:
    return f"{rule.rule_id} in line {rule.line}"
