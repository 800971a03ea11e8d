"""Roles, actions and tenants that are named in one place and known in no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from aegis_policy.lint.survey import Binding, Finding, Rule, Severity, Survey
from aegis_policy.obligations import is_malformed, obligation_of

# Shorter words are neighbours by chance.
_SPELLED_MIN = 4


class Spelling:
    """Words, and which of them another one was probably meant to be.

    Words are neighbours when leaving out at most one character of each makes them the same, which
    is looked up instead of comparing every word with every other.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._by_variant: dict[str, str] = {}
        for word in sorted(words):
            for variant in _variants(word):
                self._by_variant.setdefault(variant, word)

    def nearest(self, word: str) -> str:
        """Returns a neighbour other than the word itself, or an empty string."""
        if len(word) < _SPELLED_MIN:
            return ""
        found = (self._by_variant.get(variant, "") for variant in _variants(word))
        return next((each for each in found if each not in ("", word)), "")


def _variants(word: str) -> list[str]:
    return [word, *(word[:at] + word[at + 1 :] for at in range(len(word)))]


def role_findings(survey: Survey, *, directory_known: bool) -> Iterator[Finding]:
    """Returns roles that lead to no rule, and rules of roles that nobody has."""
    speaking = {rule.subject for rule in survey.rules}
    first_given: dict[str, Binding] = {}
    for binding in survey.bindings:
        first_given.setdefault(binding.role, binding)
    named = {name for name in speaking if name.startswith("role:")}
    spelling = Spelling(named)
    for role, binding in first_given.items():
        leads_to = {role, *survey.roles_of(role, binding.domain or "*")}
        if leads_to.isdisjoint(speaking) and not _leads_elsewhere(survey, role, speaking):
            text = f"no rule speaks of {role}{_perhaps(spelling.nearest(role))}"
            yield binding.found("warning", "unknown-role", text)
    yield from _unbound(survey, first_given, directory_known=directory_known)


def _leads_elsewhere(survey: Survey, role: str, speaking: Collection[str]) -> bool:
    domains = {binding.domain for binding in survey.bindings if binding.member == role}
    return any(not survey.roles_of(role, each).isdisjoint(speaking) for each in domains)


def _unbound(
    survey: Survey, given: Mapping[str, Binding], *, directory_known: bool
) -> Iterator[Finding]:
    members = {binding.member for binding in survey.bindings}
    known = {*given, *survey.held, *(name for name in members if name.startswith("role:"))}
    spelling = Spelling(known)
    told: set[tuple[str, str]] = set()
    for rule in survey.rules:
        role = rule.subject
        if not role.startswith("role:") or role in survey.reached(rule.domain):
            continue
        elsewhere = rule.domain != "*" and role in survey.reached("*")
        key = role, rule.domain if elsewhere else ""
        if key in told:
            continue
        told.add(key)
        meant = spelling.nearest(role) if role not in known else ""
        yield _unreached(rule, meant, elsewhere=elsewhere, directory_known=directory_known)


def _unreached(rule: Rule, meant: str, *, elsewhere: bool, directory_known: bool) -> Finding:
    role = rule.subject
    if elsewhere:
        return rule.found("warning", "empty-tenant", f"nobody is {role} in tenant {rule.domain}")
    if meant:
        return rule.found("warning", "unknown-role", f"nobody is {role}{_perhaps(meant)}")
    if directory_known:
        return rule.found("warning", "unreachable-rule", f"nobody is {role}")
    text = f"no binding gives {role}: only a directory of people or programs could"
    return rule.found("note", "unbound-role", text)


def action_findings(survey: Survey, known: Collection[str] | None) -> Iterator[Finding]:
    """Returns rules of actions that are not known or, when that is unknown, look misspelt.

    Without a list an action that one rule names is compared with those that several do.
    """
    counts = Counter(rule.action for rule in survey.rules if rule.action != "*")
    usual = known if known is not None else [word for word, count in counts.items() if count > 1]
    spelling = Spelling(usual)
    for rule in survey.rules:
        action = rule.action
        if is_malformed(action):
            text = (
                f"{action} obliges nobody: approvals are written as step2_without_signed_1_owners"
            )
            yield rule.found("warning", "malformed-obligation", text)
            continue
        if action == "*" or action in usual or (known is None and counts[action] > 1):
            continue
        if obligation_of(action) is not None:
            continue
        meant = spelling.nearest(action)
        if known is not None or meant:
            severity: Severity = "warning" if known is not None else "note"
            text = f"{action} is no action that anything else names{_perhaps(meant)}"
            yield rule.found(severity, "unknown-action", text)


def _perhaps(meant: str) -> str:
    return f"; was {meant} meant?" if meant else ""
