"""The engine: PyCasbin over one immutable rule file.

An engine never changes. New rules make a new engine and the owner swaps one reference, because a
reload of a live enforcer empties its roles first and lets denied requests through meanwhile. Any
number of threads may ask the same engine.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import resources

import casbin
from casbin.model import Model
from casbin.persist import Adapter
from casbin.util import SimpleEval

from aegis_policy.conditions import Condition, Moment, Unanswerable
from aegis_policy.paths import fault_of_resource, matches
from aegis_policy.roles import RoleLinks, holding
from aegis_policy.rulefile import (
    ACTION,
    DOMAIN,
    SUBJECT,
    PolicyError,
    RuleFile,
    Violation,
    read_rules,
)

DEFAULT_MODEL = resources.files("aegis_policy").joinpath("model.conf").read_text("utf-8")
_DEFINITIONS = {
    "r": "sub, dom, obj, act, ctx",
    "p": "sub, dom, obj, act, cond, eft, id",
}
# The one effect that neither allows without a rule nor lets an allow outvote a deny.
_EFFECT = "some(where (p_eft == allow)) && !some(where (p_eft == deny))"


class RequestError(ValueError):
    """A request that cannot be asked; `field` names the part that is not canonical."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"{field}: {expected}")
        self.field = field
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer. `rule_id` is the rule that denied or allowed, empty when none matched.

    Without a new engine the answer stays the same until `valid_until`; None means for ever.
    """

    allowed: bool
    rule_id: str
    valid_until: datetime | None


class Engine:
    """Decides by the rules it was built from."""

    def __init__(self, rules: RuleFile, model_conf: str | None = None) -> None:
        self.rules = rules
        model_conf = DEFAULT_MODEL if model_conf is None else model_conf
        self.model_digest = hashlib.sha256(model_conf.encode()).digest()
        self._attributes = frozenset[str]().union(
            *(condition.attributes for condition in rules.conditions.values())
        )
        self._named = {line.fields[0] for line in rules.lines}
        self._roles = RoleLinks()
        self._enforcer = _enforcer(rules, model_conf, self._roles)
        # The first decision fills Casbin's shared function table. Doing it here proves that the
        # model runs, and leaves nothing for two threads to fill at once.
        self.decide(subject="user:nobody", domain="none", resource="/nothing", action="none")

    @classmethod
    def from_csv(cls, policy_csv: str, model_conf: str | None = None) -> Engine:
        """Builds an engine from a rule file; raises `PolicyError` naming every bad line."""
        return cls(read_rules(policy_csv), model_conf)

    def decide(
        self,
        *,
        subject: str,
        domain: str,
        resource: str,
        action: str,
        attributes: Mapping[str, object] | None = None,
        roles: Iterable[str] = (),
        now: datetime | None = None,
    ) -> Decision:
        """Returns the decision; raises `RequestError` for a request that is not canonical.

        `roles` are what the subject has beside the bindings of the rules, e.g. from a directory.
        `attributes` are what conditions read as ctx.NAME: texts, finite numbers, truth values,
        lists of these and mappings. `now` is an aware time, by default the present.
        """
        check_request(subject, domain, resource, action)
        now = now or datetime.now(UTC)
        if now.tzinfo is None:
            raise ValueError("a time without its zone could mean two instants")
        moment = Moment(attributes or {}, now)
        asking = holding(subject, roles)
        allowed, rule = self._enforcer.enforce_ex(asking, domain, resource, action, moment)
        return Decision(allowed, rule[-1] if rule else "", moment.valid_until)

    def roles_of(self, subject: str, domain: str, roles: Iterable[str] = ()) -> frozenset[str]:
        """Returns every role a subject has in a domain, directly or not, platform-wide ones too."""
        return self._roles.get_roles(holding(subject, roles), domain)

    def knows(self, subject: str) -> bool:
        """Says whether any rule or binding names the subject: if none does, none can match."""
        return subject in self._named

    def relevant(self, attributes: Mapping[str, object]) -> dict[str, object]:
        """Returns those attributes that some condition may read; no other can change an answer."""
        return {name: value for name, value in attributes.items() if name in self._attributes}


def check_request(subject: str, domain: str, resource: str, action: str) -> None:
    """Raises `RequestError` for a part that is not canonical, and so could mean two things."""
    if SUBJECT.fullmatch(subject) is None:
        raise RequestError("subject", "expected kind:name")
    if subject.startswith("role:"):
        # To Casbin users and roles are the same kind of name: asking as a role is having it.
        raise RequestError("subject", "a role cannot ask, only its members")
    if DOMAIN.fullmatch(domain) is None:
        raise RequestError("domain", "expected lower-case letters, digits and dashes")
    if ACTION.fullmatch(action) is None:
        raise RequestError("action", 'expected a verb such as "read"')
    if fault := fault_of_resource(resource):
        raise RequestError("resource", fault)


_PARSING = threading.Lock()


class _Enforcer(casbin.Enforcer):  # type: ignore[misc]  # casbin carries no types
    """Parses the matcher once a thread, where Casbin does it for every decision.

    That is not only slow. On Python 3.11 `ast.parse` in two threads at once can end in a
    SystemError, and every new evaluator swaps the process' warning filters for a moment.
    """

    def __init__(self, model: Model) -> None:
        self._evaluators = threading.local()
        super().__init__(model)

    def _get_expression(self, expr: str, functions: Mapping[str, object]) -> SimpleEval:
        evaluator = getattr(self._evaluators, "matcher", None)
        if evaluator is None:
            with _PARSING:
                evaluator = super()._get_expression(expr, functions)
            self._evaluators.matcher = evaluator
        return evaluator


def _enforcer(rules: RuleFile, model_conf: str, roles: RoleLinks) -> casbin.Enforcer:
    enforcer = _Enforcer(_model(model_conf))
    enforcer.enable_auto_save(False)
    for name in ("g", "g2"):
        enforcer.set_named_role_manager(name, roles)
    enforcer.add_function("resMatch", matches)
    enforcer.add_function("cond", partial(_holds, rules.conditions))
    enforcer.set_adapter(_InMemory(rules))
    enforcer.load_policy()
    return enforcer


def _model(model_conf: str) -> Model:
    """Reads a model; raises `PolicyError` for one that these rules or their safety do not fit."""
    model = Model()
    model.load_model_from_text(model_conf)
    try:
        definitions = {key: model[key][key].value for key in ("r", "p", "e", "m", "g")}
    except (KeyError, TypeError):
        raise _unfit("expected the sections of the default model") from None
    for key, expected in _DEFINITIONS.items():
        if definitions[key] != expected:
            raise _unfit(f"{key} must be {expected!r}")
    if definitions["e"] != _EFFECT:
        raise _unfit("the effect must be deny-overrides that needs an allow")
    if "eval(" in definitions["m"]:
        raise _unfit("eval() splices rules into the matcher as program text")
    return model


def _unfit(expected: str) -> PolicyError:
    return PolicyError([Violation(0, 0, f"model: {expected}")])


class _InMemory(Adapter):  # type: ignore[misc]  # casbin carries no types
    """Hands a checked rule file to Casbin; nothing is ever written back."""

    def __init__(self, rules: RuleFile) -> None:
        self._rules = rules

    def load_policy(self, model: Model) -> None:
        """Appends every line to the model, in order."""
        for kind, fields in self._rules.lines:
            model[kind[0]][kind].policy.append(list(fields))


def _holds(conditions: Mapping[str, Condition], source: str, effect: str, moment: Moment) -> bool:
    """The matcher's `cond`: what cannot be answered does not allow, and denies."""
    if not source:
        return True
    try:
        return conditions[source].holds(moment)
    except Unanswerable:
        return effect == "deny"
