"""An admin's own model, evaluated by PyCasbin: every rule for every request.

"As Casbin" means as PyCasbin here, without what is dangerous in it: nothing is ever reloaded or
saved, names that were asked about are not remembered, and the program text of a matcher is parsed
once a thread.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import partial

import casbin
from casbin.model import Model as CasbinModel
from casbin.persist import Adapter
from casbin.rbac import RoleManager
from casbin.util import SimpleEval

from aegis_policy.conditions import Condition, Moment, Unanswerable
from aegis_policy.faults import PolicyError, RequestError, Violation
from aegis_policy.lines import Line
from aegis_policy.models import Model
from aegis_policy.paths import MAX_BYTES, matches
from aegis_policy.requests import segments_of
from aegis_policy.roles import EVERYWHERE, Link, Roles
from aegis_policy.rulefile import RuleFile

_log = logging.getLogger(__name__)
_SOME_TIME = datetime(2000, 1, 1, tzinfo=UTC)


class Interpreter:
    """Decides by the rules of one model."""

    def __init__(self, rules: RuleFile, model: Model) -> None:
        """Raises `PolicyError` for a model that does not run."""
        self._model = model
        self._managers = {kind: _Links() for kind in model.roles}
        self._enforcer = _enforcer(rules, model, self._managers)
        self._id_at = model.rule.index("id") if "id" in model.rule else None
        # Rows without ids are named by their number, equal ones by the first.
        rows = [line.fields for line in rules.lines if line.kind == "p"]
        self._number = {row: len(rows) - at for at, row in enumerate(reversed(rows))}
        self._wants_paths = any(call.name == "resMatch" for call in model.matcher.calls)
        sub_at = model.rule.index("sub") if "sub" in model.rule else 0
        self.names = Counter(line.fields[sub_at if line.kind == "p" else 0] for line in rules.lines)
        # The first decision fills Casbin's shared function table. Doing it here proves that the
        # model runs, and leaves nothing for two threads to fill at once. An address is what every
        # function takes.
        probe: dict[str, object] = dict.fromkeys(model.request, "192.0.2.1")
        if "ctx" in probe:
            probe["ctx"] = Moment({}, _SOME_TIME)
        try:
            self._enforcer.enforce_ex(*probe.values())
        except Exception as error:  # whatever PyCasbin raises, the model is what is wrong
            raise PolicyError([Violation(0, 0, f"model: does not run: {error}")]) from error

    def decide(
        self,
        subject: str,
        domain: str,
        resource: str,
        action: str,
        moment: Moment,
        roles: Iterable[str],
    ) -> tuple[bool, str]:
        """Returns whether it is allowed and by which rule; raises `RequestError`.

        Where the model cannot be evaluated nothing is allowed, and "model: KIND OF ERROR" stands
        in place of the rule.
        """
        named = {"sub": subject, "dom": domain, "obj": resource, "act": action}
        for name, text in named.items():
            _check(name, text)
        if self._wants_paths:
            segments_of(resource)
        values = {**named, "sub": _Asking(subject, roles), "ctx": moment}
        try:
            allowed, rule = self._enforcer.enforce_ex(*(values[n] for n in self._model.request))
        except Exception as error:  # e.g. ipMatch of what is no address
            # Without the request, whose names and attributes may be personal.
            _log.warning("a model could not be evaluated: %s", type(error).__name__)
            return False, f"model: {type(error).__name__}"
        if not rule:
            return bool(allowed), ""
        if self._id_at is not None:
            return bool(allowed), rule[self._id_at]
        return bool(allowed), f"p#{self._number[tuple(rule)]}"

    def roles_of(self, subject: str, domain: str, roles: Iterable[str]) -> frozenset[str]:
        """Returns every role of a subject in a domain."""
        asking = _Asking(subject, roles)
        return frozenset().union(
            *(manager.reached(asking, domain) for manager in self._managers.values()),
            *(manager.reached(asking, EVERYWHERE) for manager in self._managers.values()),
        )


def _check(name: str, text: str) -> None:
    field = {"sub": "subject", "dom": "domain", "obj": "resource", "act": "action"}[name]
    # A lone surrogate is not printable, and has no bytes to be counted.
    if not text or not text.isprintable() or len(text.encode()) > MAX_BYTES:
        raise RequestError(field, f"expected 1 to {MAX_BYTES} bytes of printable text")
    if name == "sub" and text.startswith("role:"):
        raise RequestError(field, "a role cannot ask, only its members")


class _Asking(str):
    """A subject, with the roles it holds beside the rules; it compares as its name."""

    __slots__ = ("held",)
    held: tuple[str, ...]

    def __new__(cls, name: str, held: Iterable[str]) -> _Asking:
        """Both together."""
        asking = super().__new__(cls, name)
        asking.held = tuple(held)
        return asking


class _Links(RoleManager):  # type: ignore[misc]  # casbin carries no types
    """The links of one kind. Casbin's own manager remembers whoever was ever asked about."""

    def __init__(self) -> None:
        self._links: list[Link] = []
        self._roles = Roles({})

    def clear(self) -> None:
        """Casbin calls it before it adds links."""
        self._links = []

    def add_link(self, name1: str, name2: str, *domain: str) -> None:
        """Gives `name1` the role `name2`."""
        self._links.append((domain[0] if domain else EVERYWHERE, name1, name2))

    def print_roles(self) -> None:
        """Casbin calls it when all links are added."""
        self._roles = Roles({}).with_links((), self._links)

    def has_link(self, name1: str, name2: str, *domain: str) -> bool:
        """Says whether `name1`, maybe with roles it holds, is `name2` or has it as a role."""
        scope = domain[0] if domain else EVERYWHERE
        return name1 == name2 or name2 in self.reached(name1, scope)

    def reached(self, name: str, scope: str) -> frozenset[str]:
        """Returns the roles of a name, with what it holds if it is who asks."""
        return self._roles.of(name, scope, getattr(name, "held", ()))


_PARSING = threading.Lock()


class _Enforcer(casbin.Enforcer):  # type: ignore[misc]  # casbin carries no types
    """Parses the matcher once a thread, where Casbin does it for every decision.

    That is not only slow. On Python 3.11 `ast.parse` in two threads at once can end in a
    SystemError, and every new evaluator swaps the process' warning filters for a moment.
    """

    def __init__(self, model: CasbinModel) -> None:
        self._evaluators = threading.local()
        super().__init__(model)

    def _get_expression(self, expr: str, functions: Mapping[str, object]) -> SimpleEval:
        evaluator = getattr(self._evaluators, "matcher", None)
        if evaluator is None:
            with _PARSING:
                evaluator = super()._get_expression(expr, functions)
            self._evaluators.matcher = evaluator
        return evaluator


def _enforcer(rules: RuleFile, model: Model, managers: Mapping[str, _Links]) -> casbin.Enforcer:
    read = CasbinModel()
    read.load_model_from_text(model.to_conf())
    enforcer = _Enforcer(read)
    enforcer.enable_auto_save(False)
    for name, manager in managers.items():
        enforcer.set_named_role_manager(name, manager)
    enforcer.add_function("resMatch", matches)
    enforcer.add_function("cond", partial(_holds, rules.conditions))
    enforcer.set_adapter(_InMemory(rules.lines))
    enforcer.load_policy()
    return enforcer


class _InMemory(Adapter):  # type: ignore[misc]  # casbin carries no types
    """Hands checked lines to Casbin; nothing is ever written back."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = lines

    def load_policy(self, model: CasbinModel) -> None:
        """Appends every line to the model, in order."""
        for kind, fields in self._lines:
            model[kind[0]][kind].policy.append(list(fields))


def _holds(conditions: Mapping[str, Condition], source: str, effect: str, moment: Moment) -> bool:
    """The matcher's `cond`: what cannot be answered does not allow, and denies."""
    if not source:
        return True
    try:
        return conditions[source].holds(moment)
    except Unanswerable:
        return effect == "deny"
