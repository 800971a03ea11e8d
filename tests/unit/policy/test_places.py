"""Places: what a change of the file touches, and what stays where it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aegis_policy import Line
from aegis_server.policy.places import STRIDE, Placed, Slot, arranged, filled, fresh, step


def rule(name: str, action: str = "read") -> Line:
    return Line("p", ("user:ann", "*", "/a", action, "", "allow", name))


FILE = [rule(name) for name in "abcdef"]


def test_line_between_two_takes_the_middle_and_moves_neither() -> None:
    """An insertion is one added line; everything else stays."""
    before = fresh(FILE)
    after = arranged(before, [*FILE[:2], rule("new"), *FILE[2:]])
    removed, added = step(before, after)
    assert (removed, added) == ([], [Placed(2 * STRIDE + STRIDE // 2, rule("new"))])


def test_changed_rule_keeps_its_place() -> None:
    """A rule known by its id is replaced where it stands."""
    before = fresh(FILE)
    after = arranged(before, [rule("c", "write") if line == rule("c") else line for line in FILE])
    assert step(before, after) == ([3 * STRIDE], [Placed(3 * STRIDE, rule("c", "write"))])


def test_moved_line_is_the_only_one_that_moves() -> None:
    """Of lines that keep their order the most keep their places."""
    before = fresh(FILE)
    removed, added = step(before, arranged(before, [*FILE[1:], FILE[0]]))
    assert (removed, [placed.line for placed in added]) == ([STRIDE], [FILE[0]])


def test_there_is_room_before_the_first_line() -> None:
    """Zero is no place, and still something fits before the first."""
    after = arranged(fresh(FILE), [rule("new"), *FILE])
    assert 0 < after[0].place < STRIDE


def test_file_is_placed_anew_when_there_is_no_room_left() -> None:
    """A gap holds some twenty insertions at the same spot; the next one moves all lines."""
    lines, placed = list(FILE), fresh(FILE)
    for number in range(25):
        lines.insert(1, rule(f"new-{number}"))
        placed = arranged(placed, lines)
        assert [each.line for each in placed] == lines
    assert [each.place for each in placed] != sorted({p.place for p in fresh(FILE)})
    places = [each.place for each in placed]
    assert places == sorted(set(places))


def test_slots_without_a_gap_are_placed_anew() -> None:
    """Two neighbours at the next two numbers leave nothing between them."""
    slots = [Slot(1, rule("a")), Slot(None, rule("b")), Slot(2, rule("c"))]
    assert filled(slots) == fresh([rule("a"), rule("b"), rule("c")])


names = st.lists(
    st.tuples(st.sampled_from("abcdefghij"), st.sampled_from(["read", "write"])),
    unique_by=lambda item: item[0],
)


@given(st.lists(names, min_size=1, max_size=6))
def test_any_history_of_files_reads_back_as_it_was(history: list[list[tuple[str, str]]]) -> None:
    """Whatever follows whatever: places rise, the lines are those of the file, steps lead there."""
    placed: list[Placed] = []
    for drawn in history:
        lines = [rule(*item) for item in drawn]
        after = arranged(placed, lines)
        assert [each.line for each in after] == lines
        places = [each.place for each in after]
        assert places == sorted(set(places))
        assert all(place > 0 for place in places)
        removed, added = step(placed, after)
        stepped = dict(placed)
        for place in removed:
            del stepped[place]
        stepped.update(added)
        assert sorted(stepped.items()) == [tuple(each) for each in after]
        placed = after
