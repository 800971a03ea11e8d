"""What differs between two rule files, as a person would say it.

Rules are matched by their id, bindings and lines of an admin's own model by all they say. Places
matter only between rules of one effect that can match the same request: of those the order decides
which one an answer names. Where the first match decides they matter between all that can.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aegis_policy.lines import Line, to_csv
from aegis_policy.paths import overlap

# Beyond this many moved rules their number is told instead of each place.
MOVES_MAX = 30


@dataclass(frozen=True, slots=True)
class Difference:
    """One change. `before` and `after` are the line as it was and is; empty when there is none."""

    text: str
    before: str
    after: str


class _Rule(NamedTuple):
    """A rule of Aegis' own model."""

    subject: str
    domain: str
    resource: str
    action: str
    condition: str
    effect: str
    rule_id: str


def differences(
    before: Sequence[Line], after: Sequence[Line], *, first_match: bool = False
) -> list[Difference]:
    """Returns what changed: what is gone, then what is new or otherwise, in the order of lines.

    `first_match` says that the first rule in the file that matches decides.
    """
    rules_before, others_before = _known(before)
    rules_after, others_after = _known(after)
    found = []
    for line in before:
        if rule := _rule(line):
            if rule.rule_id not in rules_after:
                found.append(Difference(_rule_gone(rule), _text(line), ""))
        elif line not in others_after:
            found.append(Difference(_said(line, "is no longer", "is gone"), _text(line), ""))
    for line in after:
        if rule := _rule(line):
            found.extend(_rule_now(rules_before.get(rule.rule_id), rule))
        elif line not in others_before:
            found.append(Difference(_said(line, "becomes", "is new"), "", _text(line)))
    return [*found, *_moves(rules_before, rules_after, first_match=first_match)]


def _rule(line: Line) -> _Rule | None:
    if line.kind != "p" or len(line.fields) != len(_Rule._fields):
        return None
    return _Rule(*line.fields)


def _known(lines: Sequence[Line]) -> tuple[dict[str, _Rule], set[Line]]:
    rules = {rule.rule_id: rule for line in lines if (rule := _rule(line))}
    return rules, {line for line in lines if not _rule(line)}


def _text(line: Line | _Rule) -> str:
    line = Line("p", tuple(line)) if isinstance(line, _Rule) else line
    return to_csv([line]).removesuffix("\n")


def _said(line: Line, of_binding: str, of_line: str) -> str:
    if line.kind == "p" or len(line.fields) not in (2, 3):
        return f"the line {_text(line)!r} {of_line}"
    member, role, *domain = line.fields
    return f"{member} {of_binding} {role} {f'in tenant {domain[0]}' if domain else 'everywhere'}"


def _rule_gone(rule: _Rule) -> str:
    verb = "may no longer" if rule.effect == "allow" else "is no longer forbidden to"
    return f"{rule.subject} {verb} {_about(rule)} (rule {rule.rule_id})"


def _rule_new(rule: _Rule) -> str:
    verb = "may now" if rule.effect == "allow" else "is now forbidden to"
    return f"{rule.subject} {verb} {_about(rule)} (rule {rule.rule_id})"


def _about(rule: _Rule) -> str:
    action = "do anything" if rule.action == "*" else rule.action
    condition = f" when {rule.condition}" if rule.condition else ""
    return f"{action} on {rule.resource} {_where(rule.domain)}{condition}"


def _any(action: str) -> str:
    return "any" if action == "*" else action


def _where(domain: str) -> str:
    return "in every tenant" if domain == "*" else f"in tenant {domain}"


def _rule_now(was: _Rule | None, now: _Rule) -> Iterator[Difference]:
    if was is None:
        yield Difference(_rule_new(now), "", _text(now))
    elif was != now:
        changes = "; ".join(_changes(was, now))
        yield Difference(f"rule {now.rule_id}: {changes}", _text(was), _text(now))


def _changes(was: _Rule, now: _Rule) -> Iterator[str]:
    if was.effect != now.effect:
        allows = now.effect == "allow"
        yield "it now allows, and denied before" if allows else "it now denies, and allowed before"
    if was.subject != now.subject:
        yield f"it is now about {now.subject}, was about {was.subject}"
    if was.action != now.action:
        yield f"the action is now {_any(now.action)}, was {_any(was.action)}"
    if was.resource != now.resource:
        yield f"the resource is now {now.resource}, was {was.resource}"
    if was.domain != now.domain:
        yield f"it now counts {_where(now.domain)}, before {_where(was.domain)}"
    if not was.condition and now.condition:
        yield f"it now counts only when {now.condition}"
    elif was.condition and not now.condition:
        yield f"it now counts always, before only when {was.condition}"
    elif was.condition != now.condition:
        yield f"the condition is now {now.condition}, was {was.condition}"


def _moves(
    before: Mapping[str, _Rule], after: Mapping[str, _Rule], *, first_match: bool
) -> Iterator[Difference]:
    """Returns the rules that have another place among those they can be in each other's way of."""
    place = {rule_id: at for at, rule_id in enumerate(each for each in before if each in after)}
    order = [rule for rule_id, rule in after.items() if rule_id in place]
    stayed = _longest_rising([place[rule.rule_id] for rule in order])
    moved = [at for at, rule in enumerate(order) if place[rule.rule_id] not in stayed]
    what = "which rule decides" if first_match else "which rule an answer names"
    if len(moved) > MOVES_MAX:
        yield Difference(f"{len(moved)} rules have another place: {what} may differ", "", "")
        return
    for at in moved:
        rule = order[at]
        was_at = place[rule.rule_id]
        later = (each for each in order[at + 1 :] if place[each.rule_id] < was_at)
        earlier = (each for each in order[:at][::-1] if place[each.rule_id] > was_at)
        for others, where in ((later, "before"), (earlier, "after")):
            if other := _in_the_way(rule, others, first_match=first_match):
                text = f"rule {rule.rule_id} moved {where} {other.rule_id}: {what} may differ"
                yield Difference(text, _text(before[rule.rule_id]), _text(rule))
                break


def _in_the_way(rule: _Rule, others: Iterable[_Rule], *, first_match: bool) -> _Rule | None:
    """Returns the first of the others that can match what this rule does."""
    for other in others:
        if (
            (first_match or other.effect == rule.effect)
            and _same_or_any(rule.domain, other.domain)
            and _same_or_any(rule.action, other.action)
            and overlap(rule.resource, other.resource)
        ):
            return other
    return None


def _same_or_any(one: str, other: str) -> bool:
    return one == other or "*" in (one, other)


def _longest_rising(numbers: Sequence[int]) -> set[int]:
    """Returns a longest part of different numbers that rises: what need not have moved."""
    ends: list[int] = []
    at_length: list[list[int]] = []
    for number in numbers:
        length = bisect_left(ends, number)
        if length == len(ends):
            ends.append(number)
            at_length.append([number])
        else:
            ends[length] = number
            at_length[length].append(number)
    return _walked_back(numbers, at_length)


def _walked_back(numbers: Sequence[int], at_length: Sequence[Sequence[int]]) -> set[int]:
    index = {number: at for at, number in enumerate(numbers)}
    kept: set[int] = set()
    bound, before = len(numbers) + 1, len(numbers)
    for level in reversed(at_length):
        # Of one level the latest that is smaller and stands earlier than the one kept last.
        for number in reversed(level):
            if number < bound and index[number] < before:
                kept.add(number)
                bound, before = number, index[number]
                break
    return kept
