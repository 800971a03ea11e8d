"""Who may change the rules: nobody any more, or too many."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from aegis_policy.lint.clauses import is_over
from aegis_policy.lint.survey import Finding, Reading, Rule, Survey
from aegis_policy.paths import overlap

# What an administrator does to mend the rules.
_DOMAIN, _ACTION, _RESOURCE = "aegis", "write", "/policy"
_ADMINISTRATORS = "role:admin"


def broad_findings(survey: Survey) -> Iterator[Finding]:
    """Returns rules that allow everything."""
    for rule in survey.rules:
        if not (rule.allows and rule.action == "*" and rule.resource == "/**"):
            continue
        where = "in every tenant" if rule.domain == "*" else f"in tenant {rule.domain}"
        limit = ", where its condition holds" if rule.condition else ""
        text = f"{rule.subject} may do everything {where}{limit}, change these rules too"
        if rule.domain not in ("*", _DOMAIN):
            text = f"{rule.subject} may do everything {where}{limit}"
        expected = rule.subject == _ADMINISTRATORS
        yield rule.found("note" if expected else "warning", "over-broad", text)


def lockout_findings(
    survey: Survey, reading: Reading, now: datetime, *, directory_known: bool
) -> Iterator[Finding]:
    """Returns a finding when nobody could write /policy in domain aegis."""
    about = [rule for rule in survey.rules if _is_about_writing(rule)]
    denies = [rule for rule in about if not rule.allows and not rule.condition]
    allows = [rule for rule in about if rule.allows and not is_over(rule.condition, now)]
    waiting = ""
    for rule in allows:
        earlier = reading is Reading.FIRST_MATCH
        against = {deny.subject for deny in denies if not earlier or deny.line < rule.line}
        if _somebody(survey, rule, against):
            return
        if _is_free(survey, rule.subject, against):
            waiting = waiting or rule.subject
    if waiting and not directory_known:
        text = f"only who has {waiting} from a directory could write /policy: nobody in these rules"
        yield Finding("warning", "lock-out", 0, 0, "", text)
    else:
        text = "nobody could write /policy in domain aegis: these rules could never be changed"
        yield Finding("error", "lock-out", 0, 0, "", text)


def _is_about_writing(rule: Rule) -> bool:
    return (
        rule.domain in ("*", _DOMAIN)
        and rule.action in ("*", _ACTION)
        and overlap(rule.resource, _RESOURCE)
    )


def _somebody(survey: Survey, rule: Rule, against: set[str]) -> bool:
    """Says whether somebody is allowed by a rule and not denied."""
    if rule.subject in survey.held or not rule.subject.startswith("role:"):
        return _is_free(survey, rule.subject, against)
    return any(
        rule.subject in survey.roles_of(member, _DOMAIN) and _is_free(survey, member, against)
        for member in survey.members(_DOMAIN)
    )


def _is_free(survey: Survey, name: str, against: set[str]) -> bool:
    return against.isdisjoint({name, *survey.roles_of(name, _DOMAIN)})
