"""docs/policy.md names every check of lint, with lines that it finds."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from aegis_policy.cases import read_cases
from aegis_policy.lint import lint_csv

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "policy.md").read_text()
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
_, _, LINT = PAGE.partition("\n## Lint\n")
LINT = LINT.partition("\n## ")[0]
TOLD = re.findall(r"^\*\*([a-z-]+)\*\* \(([a-z]+)", LINT, re.MULTILINE)
EXAMPLES = re.findall(
    r"^\*\*([a-z-]+)\*\* \([^*]*?\n\n```\n(.*?)```", LINT, re.MULTILINE | re.DOTALL
)


def test_page_names_every_check() -> None:
    """And none that does not exist."""
    made = set()
    for file in (ROOT / "policy" / "aegis_policy" / "lint").glob("*.py"):
        made |= set(re.findall(r'"(?:error|warning|note)", "([a-z-]+)"', file.read_text()))
        made |= set(re.findall(r'severity, "([a-z-]+)"', file.read_text()))
    made |= {"own-model", "over-broad"}
    assert {check for check, _ in TOLD} == made - {"error", "warning", "note"}


@pytest.mark.parametrize(("check", "lines"), EXAMPLES, ids=[check for check, _ in EXAMPLES])
def test_example_of_a_check_is_found_by_it(check: str, lines: str) -> None:
    """A reader can copy the lines and see it."""
    admin = "p, user:boss, aegis, /policy, write, , allow, boss-writes\n"
    findings = lint_csv(lines if check == "lock-out" else lines + admin, now=NOW)
    severities = {each.severity for each in findings if each.check == check}
    assert severities == {dict(TOLD)[check]}


def test_stories_of_the_page_can_be_read() -> None:
    """The example is a file that `aegis policy test` takes."""
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(read_cases("page", yaml.safe_load(example)).cases) == 2


def test_library_example_of_the_page_decides(capsys: pytest.CaptureFixture[str]) -> None:
    """The engine works as it is shown, without a server."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "docs/policy.md", "exec"), {})
    assert capsys.readouterr().out == "True restarts-few None\n"
