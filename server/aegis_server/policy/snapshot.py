"""One revision of the rules, ready to decide, and the answers it gave.

A snapshot never mixes with another: key, memory and evaluation of a decision all take the one
that was in use when the question came.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from aegis.errors import FieldViolation as Violation
from aegis.errors import InvalidArgument
from aegis_policy import Engine, RequestError
from aegis_server.policy.cache import Verdict
from aegis_server.policy.question import Question, digest_of

_REMEMBERED_MAX = 10_000
# PyCasbin looks at every rule, at some microseconds each; above this many lines that is too long
# to hold the event loop.
_INLINE_LINES_MAX = 500
_SECONDS_A_LINE = 7e-6
_WEIGHT = 0.2

# What makes a question another one, hashed by Python itself: half a microsecond.
Key: TypeAlias = tuple[object, ...]


@dataclass(slots=True)
class Cost:
    """What an evaluation costs here lately."""

    seconds: float

    def note(self, seconds: float) -> None:
        """Takes one more into account."""
        self.seconds += _WEIGHT * (seconds - self.seconds)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One revision of the rules, ready to decide."""

    revision: int
    digest: bytes
    engine: Engine
    _remembered: OrderedDict[Key, Verdict] = field(default_factory=OrderedDict, repr=False)
    _cost: Cost = field(default_factory=lambda: Cost(0.0), repr=False)

    @property
    def cost_seconds(self) -> float:
        """What an evaluation costs: a few microseconds, or as PyCasbin has taken lately."""
        if self.engine.compiled:
            return 0.0
        return self._cost.seconds or self.engine.size * _SECONDS_A_LINE

    def key_of(self, question: Question) -> Key | None:
        """Returns under what an answer is kept, or None when it is not worth keeping.

        Subjects no rule names get the same refusal for everything: keeping those would only let
        strangers fill the cache.
        """
        if not question.roles and not self.engine.knows(question.subject):
            return None
        return (
            question.subject,
            question.domain,
            question.resource,
            question.action,
            question.roles,
            _frozen(self.engine.relevant(question.attributes)) if question.attributes else None,
        )

    def name_of(self, question: Question) -> str:
        """Returns the key in Redis.

        The digests keep apart what shares a revision number, as two databases on one Redis do.
        """
        digest = digest_of(
            self.engine.model.digest.hex(),
            self.digest.hex(),
            question.domain,
            question.subject,
            question.roles,
            question.resource,
            question.action,
            self.engine.relevant(question.attributes),
        )
        return f"r{self.revision}:aegis:decision:{digest}"

    def recall(self, key: Key, now: datetime) -> Verdict | None:
        """Returns the remembered answer if it is still good."""
        verdict = self._remembered.get(key)
        if verdict is None or not verdict.good_at(now):
            return None
        self._remembered.move_to_end(key)
        return verdict

    def remember(self, key: Key, verdict: Verdict) -> None:
        """Keeps an answer, and forgets the one unused for longest when there are too many."""
        self._remembered[key] = verdict
        if len(self._remembered) > _REMEMBERED_MAX:
            self._remembered.popitem(last=False)

    def forget(self) -> None:
        """Drops the answers in memory, as a restart would."""
        self._remembered.clear()

    async def evaluate(self, question: Question, now: datetime) -> Verdict:
        """Asks the engine, in a thread where that takes long; raises as `ask`."""
        began = time.perf_counter()
        if self.engine.compiled or self.engine.size <= _INLINE_LINES_MAX:
            verdict = self.ask(question, now)
        else:
            verdict = await asyncio.to_thread(self.ask, question, now)
        self._cost.note(time.perf_counter() - began)
        return verdict

    def ask(self, question: Question, now: datetime) -> Verdict:
        """Asks the engine; raises `InvalidArgument` (FIELD_INVALID)."""
        try:
            answer = self.engine.decide(
                subject=question.subject,
                domain=question.domain,
                resource=question.resource,
                action=question.action,
                attributes=question.attributes,
                roles=question.roles,
                now=now,
            )
        except RequestError as error:
            violation = Violation(error.field, error.expected)
            raise InvalidArgument("FIELD_INVALID", str(error), violations=[violation]) from None
        return Verdict(answer.allowed, answer.rule_id, now, answer.valid_until)


def _frozen(value: object) -> object:
    """Returns a value as a key: 1, 1.0 and true are three different ones."""
    if isinstance(value, Mapping):
        return ("m", *((name, _frozen(value[name])) for name in sorted(value)))
    if isinstance(value, list | tuple):
        return ("l", *map(_frozen, value))
    return (value.__class__, value)
