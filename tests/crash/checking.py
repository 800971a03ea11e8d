"""The rules a history is held against; pure, so that each can be shown to find what it is for.

double        more than one effect of a request (and more than one undo)
lost          something that was promised or written down is not there
unexplained   something is there that nobody wrote down, allowed or told
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta

from tests.crash.history import (
    Asked,
    Attempt,
    Budget,
    Effect,
    Ending,
    Finding,
    History,
    Intent,
    Kind,
    Told,
)

# The kill switch works within a second of its acknowledgement.
PAUSE_GRACE = timedelta(seconds=1)
UNTOUCHED = frozenset({"FAILED", "REFUSED", "DRY_RUN"})


def check(history: History) -> list[Finding]:
    """Returns everything that is wrong with a history; nothing means that all four agree."""
    requests = {
        row.request_id
        for rows in (history.asked, history.intents, history.endings, history.verdicts)
        for row in rows
    }
    findings = [*_effects(history), *_budgets(history)]
    for request_id in sorted(requests):
        findings += _Request(history, request_id).findings()
    if history.broken:
        findings.append(Finding("unexplained", "", f"the audit log: {history.broken}"))
    return findings


class _Request:
    """One request, seen from all sides."""

    def __init__(self, history: History, request_id: str) -> None:
        def rows(of: tuple[object, ...]) -> list[object]:
            return [row for row in of if row.request_id == request_id]

        self.id = request_id
        self.paused = history.paused
        self.asked: list[Asked] = rows(history.asked)
        self.told: list[Told] = sorted(rows(history.told), key=lambda told: told.at)
        self.intents: list[Intent] = rows(history.intents)
        self.endings: list[Ending] = rows(history.endings)
        self.verdicts = rows(history.verdicts)
        names = {intent.action_id for intent in self.intents}
        self.records = [r.outcome for r in history.records if r.action_id in names]
        self.done: list[Effect] = []
        self.undone: list[Effect] = []
        for effect in history.effects:
            attempt = history.attempt_behind(effect)
            if attempt is not None and attempt.request_id == request_id:
                (self.undone if attempt.undo else self.done).append(effect)

    def findings(self) -> list[Finding]:
        """Returns what is wrong with it."""
        rules = (self._once, self._ends, self._matches, self._recorded, self._heard, self._in_time)
        return [finding for rule in rules for finding in rule()]

    def _found(self, kind: Kind, sentence: str) -> Finding:
        return Finding(kind, self.id, sentence)

    def _once(self) -> Iterator[Finding]:
        """At most one effect, and one undo where one was ordered."""
        if len(self.done) > 1:
            yield self._found("double", f"it took effect {len(self.done)} times")
        if len(self.undone) > 1:
            yield self._found("double", f"it was taken back {len(self.undone)} times")
        if self.undone and not any(asked.takes_back for asked in self.asked):
            yield self._found("unexplained", "it was taken back and nobody had ordered that")

    def _ends(self) -> Iterator[Finding]:
        """Every INTENT ends once, and every APPLIED has one verdict."""
        for rows, name in ((self.intents, "INTENT"), (self.endings, "end")):
            if len(rows) > 1:
                yield self._found("double", f"the journal holds its {name} {len(rows)} times")
        if self.intents and not self.endings:
            yield self._found("lost", "its INTENT never ended")
        if self.endings and not self.intents:
            yield self._found("unexplained", "it ended and there is no INTENT")
        if len(self.verdicts) > 1:
            yield self._found("double", f"it was judged {len(self.verdicts)} times")
        applied = any(ending.state == "APPLIED" for ending in self.endings)
        if applied and not self.verdicts:
            yield self._found("lost", "it was applied and never judged")
        if self.verdicts and not applied:
            yield self._found("unexplained", "it was judged and had not been applied")
        if any(verdict.state == "COMPENSATED" for verdict in self.verdicts) and not self.undone:
            yield self._found("lost", "it is said to be taken back and was not")

    def _matches(self) -> Iterator[Finding]:
        """The end says what the cluster says."""
        for ending in self.endings:
            nothing_to_do = ending.observations.get("changed") == "no"
            if ending.state == "APPLIED" and not nothing_to_do and not self.done:
                yield self._found("lost", "it is said to be applied and had no effect")
            if ending.state == "APPLIED" and nothing_to_do and self.done:
                yield self._found("unexplained", "it took effect and is said to be so already")
            if ending.state in UNTOUCHED and self.done:
                yield self._found("unexplained", f"it ended as {ending.state} and took effect")
            if ending.state == "UNKNOWN":
                yield self._found("unexplained", "nobody else was there and its end is UNKNOWN")
            named = ending.observations.get("audit_id", "")
            if ending.state == "APPLIED" and named and named not in _names(self.done):
                yield self._found("unexplained", "its evidence names another write")
        if self.done and any(asked.dry_run for asked in self.asked):
            yield self._found("unexplained", "a dry run took effect")

    def _recorded(self) -> Iterator[Finding]:
        """The audit log holds the INTENT and the end, once each."""
        expected = [("intent", len(self.intents))]
        expected += [(ending.state.lower(), 1) for ending in self.endings]
        for outcome, count in expected:
            found = self.records.count(outcome)
            if found < count:
                yield self._found("lost", f"the audit log does not hold its {outcome}")
            if found > count:
                yield self._found("double", f"the audit log holds its {outcome} {found} times")

    def _heard(self) -> Iterator[Finding]:
        """What the client was told is what is stored, and in the end it was told."""
        states = [row.state for row in (*self.endings, *self.verdicts)]
        path = ["INTENT", *states] if self.intents else []
        for told in self.told:
            if told.reason and not told.state:
                yield from self._refused(told)
            if not told.state:
                continue
            sentence = f"the client was told {told.state}"
            if told.state not in path:
                stored = ", ".join(path) or "nothing"
                yield self._found("unexplained", f"{sentence}; stored is {stored}")
                continue
            # Answers of calls that were under way together may arrive in any order.
            before = (e for e in self.told if e.at <= (told.began or told.at) and e is not told)
            reached = max((path.index(e.state) for e in before if e.state in path), default=0)
            if path.index(told.state) < reached:
                yield self._found("unexplained", f"{sentence} after {path[reached]}")
        heard = [told for told in self.told if not told.lost]
        if self.asked and (not heard or (path and path[-1] not in {e.state for e in heard})):
            yield self._found("lost", "the client never learned how it ended")

    def _refused(self, told: Told) -> Iterator[Finding]:
        ended_so = any(ending.reason == told.reason for ending in self.endings)
        # What came after the refusal is another story: a client may ask again.
        held = any(intent.at <= told.at for intent in self.intents)
        if held and not ended_so:
            yield self._found(
                "unexplained", f"the client was refused ({told.reason}) what the journal holds"
            )

    def _in_time(self) -> Iterator[Finding]:
        """Nothing after the decision's end or under a pause."""
        for asked in self.asked:
            for effect in self.done:
                if effect.at > asked.not_after:
                    late = (effect.at - asked.not_after).total_seconds()
                    yield self._found("unexplained", f"it took effect {late:.1f} s too late")
                if any(pause.covers(asked, effect.at, PAUSE_GRACE) for pause in self.paused):
                    yield self._found("unexplained", "it took effect while that was paused")


def _names(effects: list[Effect]) -> set[str]:
    return {effect.audit_id for effect in effects}


def _effects(history: History) -> Iterator[Finding]:
    """No effect without an INTENT and an attempt before it."""
    intents = {intent.request_id: intent for intent in history.intents}
    for effect in history.effects:
        where = f"{effect.verb} {effect.resource} {effect.namespace}/{effect.name}"
        attempt = history.attempt_behind(effect)
        if attempt is None:
            yield Finding("unexplained", "", f"{where}: no attempt was written down before it")
            continue
        intent = intents.get(attempt.request_id)
        if intent is None or intent.at > effect.at:
            yield Finding("unexplained", attempt.request_id, f"{where}: no INTENT before it")


def _budgets(history: History) -> Iterator[Finding]:
    for budget in history.budgets:
        groups: dict[tuple[str, ...], list[Effect]] = defaultdict(list)
        for effect in history.effects:
            attempt: Attempt | None = history.attempt_behind(effect)
            if attempt is None or not attempt.undo:
                groups[_group(budget, effect)].append(effect)
        for group, effects in groups.items():
            effects.sort(key=lambda effect: effect.at)
            for first, beyond in zip(effects, effects[budget.most :], strict=False):
                if beyond.at - first.at < budget.window:
                    where = "/".join(group) or "everything"
                    sentence = f"more than {budget.most} effects on {where} in {budget.window}"
                    yield Finding("unexplained", "", sentence)


def _group(budget: Budget, effect: Effect) -> tuple[str, ...]:
    if budget.scope == "target":
        # The scale subresource is the deployment all the same.
        return (effect.namespace, effect.resource.partition("/")[0], effect.name)
    return (effect.namespace,) if budget.scope == "namespace" else ()
