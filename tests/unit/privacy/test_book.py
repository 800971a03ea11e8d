"""The arithmetic of a ledger: who bears what, what it sums up to, and who would be overdrawn."""

from __future__ import annotations

import numpy as np
import pytest

from aegis_learning import privacy
from aegis_server.privacy.book import ALL, PARTICIPANT, Book, Limit, Line, Mechanism
from aegis_server.privacy.ledger import exhausted, statement


def _line(participant: str, noise: float, rate: float, steps: int, **more: object) -> Line:
    open_steps = int(more.pop("open_steps", 0))  # type: ignore[call-overload]
    return Line(participant, Mechanism(noise, rate, steps, **more), open_steps, 1)  # type: ignore[arg-type]


def _book(*lines: Line, **more: object) -> Book:
    parts = {"limits": {}, "accounts": {}, "usual": Limit(20.0, 1e-3), **more}
    return Book("rows", lines, **parts)  # type: ignore[arg-type]


TWO = (_line("north", 1.4, 0.3, 60), _line("north", 2.0, 0.1, 30))


def test_runs_of_different_kinds_add_up_as_vectors() -> None:
    """More than either of them, less than the sum of both."""
    one, other = (_book(line).spent("north") for line in TWO)
    assert max(one, other) < _book(*TWO).spent("north") < one + other


@pytest.mark.filterwarnings("ignore:Optimal order")
def test_sum_is_that_of_opacus() -> None:
    """Over the same segments, to four decimals."""
    from opacus.accountants import RDPAccountant

    theirs = RDPAccountant()
    theirs.history = [(1.4, 0.3, 60), (2.0, 0.1, 30)]
    assert _book(*TWO).spent("north") == pytest.approx(theirs.get_epsilon(delta=1e-3), abs=5e-5)


def test_everybody_bears_what_sites_without_a_name_have_cost() -> None:
    """Nobody can tell whose rows those were."""
    book = _book(TWO[0], _line(ALL, 2.0, 0.1, 30))
    assert book.spent("north") == pytest.approx(_book(*TWO).spent("north"))
    assert book.spent("south") == book.spent(ALL) == _book(_line(ALL, 2.0, 0.1, 30)).spent(ALL)
    assert book.known == [ALL, "north"]


def test_one_account_whatever_the_family_of_models() -> None:
    """The line has no model: a row is spent once, by whatever was trained on it."""
    split = _book(_line("north", 1.4, 0.3, 20), _line("north", 1.4, 0.3, 40))
    assert np.allclose(split.cost("north"), _book(TWO[0]).cost("north"))


def test_limit_of_ones_own_comes_before_that_of_all() -> None:
    """And that before the usual one."""
    book = _book(limits={"north": Limit(3.0, 1e-4), ALL: Limit(5.0, 1e-5)})
    assert [book.limit(name) for name in ("north", "south", ALL)] == [
        *(Limit(3.0, 1e-4), Limit(5.0, 1e-5), Limit(5.0, 1e-5))
    ]
    assert _book().limit("north") == Limit(20.0, 1e-3)


def test_first_who_would_be_overdrawn_is_named() -> None:
    """In the order they were asked about; the others' room does not help."""
    book = _book(_line("south", 1.0, 0.3, 60), _line("west", 1.0, 0.3, 60))
    wanted = privacy.rdp(1.0, 0.3, 60)
    overdrawn = book.overdrawn(["north", "west", "south"], wanted)
    assert overdrawn is not None
    assert (overdrawn.participant, overdrawn.limit) == ("west", Limit(20.0, 1e-3))
    assert overdrawn.spent == book.spent("west")
    assert book.overdrawn(["north"], wanted) is None


def test_run_of_everybody_has_to_fit_at_everybody() -> None:
    """Also at those it does not name."""
    wanted = privacy.rdp(1.0, 0.3, 60)
    assert _book().overdrawn([ALL], wanted) is None
    for book in (
        _book(_line("north", 1.0, 0.3, 60)),
        _book(limits={"north": Limit(0.1, 1e-3)}),
    ):
        overdrawn = book.overdrawn([ALL], wanted)
        assert overdrawn is not None
        assert overdrawn.participant == "north"


def test_what_open_runs_hold_is_told_apart() -> None:
    """Reserved is the part of spent that would come back if they ended now."""
    book = _book(_line("north", 1.4, 0.3, 60, open_steps=30))
    standing = book.standing("north")
    half = _book(_line("north", 1.4, 0.3, 30)).spent("north")
    assert standing.reserved == pytest.approx(standing.spent - half)
    assert _book(*TWO).standing("north").reserved == 0


def test_nothing_spent_is_nothing() -> None:
    """Neither from no lines nor from lines without steps."""
    assert _book().spent(ALL) == _book(_line("north", 1.4, 0.3, 0)).spent("north") == 0


def test_statement_is_of_who_has_used_most_of_its_limit() -> None:
    """A small limit that is nearly used up matters more than a large one that is not."""
    book = _book(*TWO, _line("south", 2.0, 0.1, 30), limits={"south": Limit(1.5, 1e-3)})
    assert book.spent("south") < book.spent("north")
    said = statement(book)
    assert (said["budget_participant"], said["budget_limit_epsilon"]) == ("south", "1.5")
    assert said["budget_spent_epsilon"] == f"{book.spent('south'):.6f}"


def test_refusal_tells_programs_who_and_how_much() -> None:
    """The sentence is for people."""
    overdrawn = _book(_line("north", 1.0, 0.3, 60)).overdrawn(["north"], privacy.rdp(0.5, 0.3, 60))
    assert overdrawn is not None
    error = exhausted("rows", overdrawn)
    assert (error.reason, error.code.name) == ("PRIVACY_BUDGET_EXHAUSTED", "FAILED_PRECONDITION")
    assert error.metadata == {
        "dataset": "rows",
        "participant": "north",
        "epsilon_spent": f"{overdrawn.spent:.4f}",
        "epsilon_limit": "20",
    }
    assert "rows at north has spent epsilon" in error.message


@pytest.mark.parametrize(
    "values",
    [
        {"noise_multiplier": 0.0},
        {"sample_rate": 0.0},
        {"sample_rate": 1.5},
        {"steps": -1},
        {"noise_multiplier": float("nan")},
        {"unit": "hospital"},
        {"unit": PARTICIPANT},  # which is counted at a rate of 1 only
    ],
)
def test_mechanism_that_cannot_be_counted_is_none(values: dict[str, object]) -> None:
    """Nothing enters a ledger that it could not add up."""
    with pytest.raises(ValueError):
        Mechanism(**{"noise_multiplier": 1.0, "sample_rate": 0.3, "steps": 10, **values})  # type: ignore[arg-type]
