"""`aegis policy lint FILE` and `aegis policy test --rules FILE`: no server, no network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import Result
from tests.commands import invoke

from aegis.cli.policy.lines import line_of
from aegis.v1 import policy_admin_pb2

ROOT = Path(__file__).parents[3]
BASELINE = ROOT / "policy" / "rules" / "baseline.csv"
STORIES = ROOT / "policy" / "cases"

GOOD = "p, user:ann, aegis, /policy, write, , allow, ann-writes\n"
STORY = """
cases:
  - {story: Ann changes the rules, subject: user:ann, action: write, resource: /policy,
     expect: allow}
  - {story: Bob does, too, subject: user:bob, action: write, resource: /policy, expect: allow}
"""


def aegis(*words: object) -> Result:
    return invoke(["policy", *map(str, words)])


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    file = tmp_path / "rules.csv"
    file.write_text(GOOD)
    return file


def test_aegis_starts_without_the_policy_engine() -> None:
    """Only who tries rules here loads it; nobody who asks a server needs casbin."""
    program = (
        "import sys, aegis.cli.main;"
        "print([name for name in ('aegis_policy', 'casbin', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_lint_of_a_good_file_says_none_and_exits_0(rules: Path) -> None:
    """Without a server."""
    done = aegis("lint", rules)
    assert done.exit_code == 0
    assert done.stdout.split()[-1] == "none"


def test_lint_names_line_and_check_and_exits_by_severity(rules: Path) -> None:
    """Errors exit 1; warnings do where that is asked for."""
    rules.write_text(GOOD + "p, user:bob, *, /**, *, , allow, bob-may-all\n")
    assert aegis("lint", rules).exit_code == 0
    strict = aegis("lint", rules, "--strict")
    assert strict.exit_code == 1
    assert "over-broad" in strict.stdout
    (finding,) = json.loads(aegis("lint", rules, "--output", "json").stdout)
    assert (finding["severity"], finding["line"]) == ("SEVERITY_WARNING", 2)
    rules.write_text("p, user:bob, *, /a, Read, , allow, x\n")
    refused = aegis("lint", rules, "-o", "json")
    assert refused.exit_code == 1
    assert [each["column"] for each in json.loads(refused.stdout)] == [21]


def test_lint_of_a_model_of_its_own_says_that_it_is_not_compiled(tmp_path: Path) -> None:
    """--model names it."""
    (tmp_path / "rules.csv").write_text("p, ann, /a\n")
    (tmp_path / "model.conf").write_text(
        "[request_definition]\nr = sub, obj\n[policy_definition]\np = sub, obj\n"
        "[policy_effect]\ne = some(where (p.eft == allow))\n"
        "[matchers]\nm = r.sub == p.sub && r.obj == p.obj\n"
    )
    done = aegis("lint", tmp_path / "rules.csv", "--model", tmp_path / "model.conf")
    assert done.exit_code == 0
    assert "own-model" in done.stdout


def test_stories_of_the_baseline_pass() -> None:
    """A folder is looked through for YAML files."""
    done = aegis("test", STORIES, "--rules", BASELINE)
    assert done.exit_code == 0, done.output
    assert "0 failed" in done.stdout


def test_failed_story_is_told_and_exits_1(rules: Path, tmp_path: Path) -> None:
    """With what was expected and what came, in the JUnit report, too."""
    stories, report = tmp_path / "my.yaml", tmp_path / "junit.xml"
    stories.write_text(STORY.replace("Bob does, too", "Bob does"))
    done = aegis("test", stories, "--rules", rules, "--junit", report)
    assert done.exit_code == 1
    assert "my.yaml: Bob does" in "".join(done.stdout.split("\n"))
    assert "expected allow, got deny, since no rule allows it" in done.stdout
    assert "1 passed, 1 failed" in done.stdout
    root = ET.fromstring(report.read_text())
    assert root.attrib == {"tests": "2", "failures": "1"}
    cases = [(case.get("name"), case.find("failure") is None) for case in root.iter("testcase")]
    assert cases == [("Ann changes the rules", True), ("Bob does", False)]
    answer = json.loads(aegis("test", stories, "--rules", rules, "-o", "json").stdout)
    assert answer["passed"] == 1
    assert answer["failed"][0] | {"file": ""} == {
        "file": "",
        "story": "Bob does",
        "problem": "expected allow, got deny, since no rule allows it",
        "effect": "deny",
        "rule_id": "",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cases: [", "is no YAML"),
        ("cases: []", "expected a list of cases"),
        ("cases: [{story: S, subjects: user:ann}]", "'subjects' means nothing here"),
        ("!!python/object/apply:os.system [exit 1]", "is no YAML"),
    ],
)
def test_file_that_tells_no_stories_is_refused_with_a_next_step(
    rules: Path, tmp_path: Path, text: str, words: str
) -> None:
    """Exit 2: that is not the rules' fault."""
    stories = tmp_path / "my.yaml"
    stories.write_text(text)
    done = aegis("test", stories, "--rules", rules)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())
    assert "next:" in done.stderr


def test_folder_without_stories_is_refused(rules: Path, tmp_path: Path) -> None:
    """A test of nothing would pass."""
    (tmp_path / "empty").mkdir()
    done = aegis("test", tmp_path / "empty", "--rules", rules)
    assert done.exit_code == 2
    assert "has no story" in " ".join(done.stderr.split())


def test_rules_that_cannot_be_used_are_refused_with_their_lines(
    rules: Path, tmp_path: Path
) -> None:
    """As an import would refuse them."""
    rules.write_text("p, user:ann, *, /a, Read, , allow, x\n")
    stories = tmp_path / "my.yaml"
    stories.write_text(STORY.replace("Bob does, too", "Bob does"))
    done = aegis("test", stories, "--rules", rules)
    assert done.exit_code == 1
    assert "POLICY_INVALID" in done.stderr
    assert "line 1, column 21" in done.stderr


def test_line_of_a_rule_reads_back() -> None:
    """What `aegis policy rules` shows can be given to `aegis policy add`."""
    fields = ["user:ann", "*", "/a", "read", "ctx.a in [1, 2]", "allow", "x"]
    line = line_of(policy_admin_pb2.PolicyRule(kind="p", fields=fields))
    assert line == 'p, user:ann, *, /a, read, "ctx.a in [1, 2]", allow, x'


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["permitted"], "neither --subject nor --resource"),
        (["diff", "1", "2", "--file", BASELINE], "both TO and --file"),
        (["check", "user:ann", "/a", "read", "--attr", "x"], "is not name=value"),
    ],
)
def test_options_that_contradict_are_refused_before_the_server_is_asked(
    words: list[object], problem: str
) -> None:
    """With the next step."""
    done = aegis(*words)
    assert done.exit_code == 2
    assert problem in done.stderr
    assert "next:" in done.stderr
