"""docs/review-intake.md promises a test for each kind of bad input, and there is one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_row_of_the_table_is_a_test():
    """A promise without its test is none."""
    promised = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "review-intake.md").read_text())
    folders = ("integration/review", "unit/review", "unit/training")
    files = [file for each in folders for file in (ROOT / "tests" / each).glob("test_*.py")]
    there = set(re.findall(r"def (test_\w+)", "".join(file.read_text() for file in files)))
    assert len(promised) > 25
    assert set(promised) - there == set()
