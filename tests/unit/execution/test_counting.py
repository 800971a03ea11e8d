"""Approvals, counted: what is missing, whose turn it is, and what can never be met."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_policy import Engine
from aegis_policy.baseline import baseline_csv
from aegis_server.execution.approvals.counting import (
    Demand,
    Given,
    askable,
    demands_of,
    missing,
    read_demands,
    shortage,
    written_demands,
)
from aegis_server.execution.approvals.obligations import names_of

ONCALL = Demand(1, "role:oncall", False, 1)
TWO = Demand(1, "role:oncall", False, 2)
SIGNED = Demand(1, "role:oncall", True, 1)
OWNERS = Demand(2, "role:owners", False, 1)


def approval(who: str, demand: Demand = ONCALL, *, detached: bool = False) -> Given:
    return Given(who, demand.step, demand.group, detached)


def test_demands_come_from_names_and_the_larger_counts():
    """Two of a group are also one of it, and who signs for it also approves."""
    assert demands_of(["without_1_oncall", "without_2_oncall", "step2_without_1_owners"]) == (
        TWO,
        OWNERS,
    )
    assert demands_of(["without_1_oncall", "without_signed_1_oncall"]) == (SIGNED,)
    assert demands_of(["without_2_oncall", "without_signed_1_oncall"]) == (TWO, SIGNED)
    assert demands_of(["restart_pod"]) == ()


def test_demands_are_stored_as_they_are():
    """And read back."""
    assert read_demands(written_demands((TWO, SIGNED, OWNERS))) == (TWO, SIGNED, OWNERS)
    assert read_demands(b"") == ()


@pytest.mark.parametrize(
    ("demand", "words", "count"),
    [
        (TWO, [approval("a")], 1),
        (TWO, [approval("a"), approval("a")], 1),
        (ONCALL, [approval("a", OWNERS)], 0),
        (ONCALL, [Given("a", 2, "role:oncall", False)], 0),
        (SIGNED, [approval("a")], 0),
    ],
)
def test_what_does_not_count_is_missing(demand: Demand, words: list[Given], count: int):
    """The same person, another group or step, no key of their own."""
    (unmet,) = missing([demand], words)
    assert unmet.given == count


def test_signed_approval_counts_where_none_is_wanted():
    """It is more."""
    assert missing([ONCALL, SIGNED], [approval("a", detached=True)]) == []


def test_later_step_waits_for_the_earlier_one():
    """Its people are asked once the others have spoken."""
    assert [each.demand for each in askable([ONCALL, OWNERS], [])] == [ONCALL]
    assert [each.demand for each in askable([ONCALL, OWNERS], [approval("a")])] == [OWNERS]
    assert askable([], []) == []


def test_people_move_over_where_they_can():
    """Whoever is of both groups speaks for the one that has nobody else."""
    assert shortage([ONCALL, OWNERS], {ONCALL: ["a", "b"], OWNERS: ["a"]}) is None
    assert shortage([ONCALL, OWNERS], {ONCALL: ["a"], OWNERS: ["a"]}) == OWNERS
    assert shortage([TWO], {TWO: ["a"]}) == TWO
    assert shortage([], {}) is None


def test_one_with_a_key_is_one_of_two():
    """A signed approval also is an approval: two people suffice for both demands."""
    people = {TWO: ["a", "b"], SIGNED: ["a"]}
    assert shortage([TWO, SIGNED], people) is None


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.sets(st.sampled_from("abcde"), max_size=5)),
        min_size=1,
        max_size=3,
    )
)
def test_shortage_is_told_exactly_when_no_assignment_exists(wanted: list[tuple[int, set[str]]]):
    """Compared with trying them all."""
    demands = [Demand(step, "role:x", False, needed) for step, (needed, _) in enumerate(wanted, 1)]
    eligible = {demand: sorted(people) for demand, (_, people) in zip(demands, wanted, strict=True)}
    seats = [demand for demand in demands for _ in range(demand.needed)]
    possible = len(seats) <= 5 and any(
        all(person in eligible[seat] for person, seat in zip(people, seats, strict=True))
        for people in itertools.permutations("abcde", len(seats))
    )
    assert (shortage(demands, eligible) is None) == possible


def test_obligations_are_found_in_the_rules():
    """Those of the baseline are none, so that nobody has to approve."""
    assert names_of(Engine.from_csv(baseline_csv())).good == ()
    rule = "p, role:x, *, /clusters/**, {}, , deny, {}\n"
    lines = rule.format("without_1_oncall", "one") + rule.format("step2_without_1_a", "two")
    assert names_of(Engine.from_csv(baseline_csv() + lines)) == (
        ("step2_without_1_a", "without_1_oncall"),
        (),
    )
    meant = rule.format("without_oncall", "without-oncall") + rule.format("read", "without_a_doubt")
    assert names_of(Engine.from_csv(baseline_csv() + meant)) == ((), ("without_oncall",))
