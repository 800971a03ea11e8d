"""PyCasbin as it comes, with the same rules: what the compiled engine has to agree with.

Its own role managers are used. Aegis lets a role that is held in one domain bring there what it
has everywhere; to say that in plain Casbin, every link of `g2` is also one of `g` in each domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import casbin
from casbin.model import Model

from aegis_policy import RuleFile, matches
from aegis_policy.conditions import Moment, Unanswerable


class Oracle:
    """A stock `casbin.Enforcer`."""

    def __init__(self, rules: RuleFile, domains: list[str]) -> None:
        model = Model()
        model.load_model_from_text(rules.model.text)
        enforcer = casbin.Enforcer(model)
        self._conditions = rules.conditions
        enforcer.add_function("resMatch", matches)
        enforcer.add_function("cond", self._holds)
        # With it, every link compares all names; without it, the answers are the same.
        enforcer.get_role_manager().matching_func = None
        for line in rules.lines:
            fields = list(line.fields)
            if line.kind == "p":
                model["p"]["p"].policy.append(fields)
                continue
            model["g"][line.kind].policy.append(fields)
            if line.kind == "g2":
                model["g"]["g"].policy += [[*fields, domain] for domain in domains]
        enforcer.build_role_links()
        self._enforcer = enforcer

    def decide(
        self,
        subject: str,
        domain: str,
        resource: str,
        action: str,
        attributes: Mapping[str, object],
        now: datetime,
    ) -> tuple[bool, str]:
        """Returns whether it is allowed, and the id of the rule it explains that with."""
        moment = Moment(attributes, now)
        allowed, rule = self._enforcer.enforce_ex(subject, domain, resource, action, moment)
        return allowed, rule[-1] if rule else ""

    def _holds(self, source: str, effect: str, moment: Moment) -> bool:
        if not source:
            return True
        try:
            return self._conditions[source].holds(moment)
        except Unanswerable:
            return effect == "deny"
