"""The pages name what the code reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = ROOT / "docs" / "operations.md"


def section(heading: str) -> str:
    """The text of a page's section, up to the next heading of the same level."""
    _, found, rest = OPERATIONS.read_text().partition(f"\n## {heading}\n")
    assert found, heading
    return rest.partition("\n## ")[0]


@pytest.mark.parametrize(
    ("program", "settings"),
    [
        ("aegis-server", "server/aegis_server/settings.py"),
        ("aegis-executor", "executor/aegis_executor/settings.py"),
        ("aegis-witness", "clients/aegis_witness/settings.py"),
    ],
)
def test_table_of_settings_names_what_the_program_reads(program: str, settings: str):
    """Every variable of the settings module has one row, and no row is of another one."""
    table = section(f"Settings of {program}")
    rows = re.findall(r"^\| `(AEGIS_[A-Z0-9_]+)` \|", table, re.MULTILINE)
    read = re.findall(r'"(AEGIS_[A-Z0-9_]+)"', (ROOT / settings).read_text())
    assert sorted(rows) == sorted(set(read))


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("d*/**/*.md")]))
def test_links_of_pages_lead_somewhere(page: Path):
    """A relative link names a file that is there."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_test_that_a_page_names_is_there():
    """The table of bad input rests on tests; one that was renamed is named anew."""
    page = (ROOT / "docs" / "participants-protocol.md").read_text()
    named = re.findall(r"`((?:unit|integration|e2e)/[a-z/_]+\.py)::(test_[a-z0-9_]+)`", page)
    assert len(named) >= 25
    for file, name in named:
        source = (ROOT / "tests" / file).read_text()
        assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{file}::{name}"
