"""`aegis audit report` on copies of a real log: what it writes, what it says, how it exits."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.auditing import START, Written, entry
from tests.commands import invoke

from aegis.audit.copies import RECORDS, TRUST
from aegis.serving.database import Database
from aegis.v1 import audit_pb2

AS_OF = f"{START + timedelta(days=1, minutes=5):%Y-%m-%dT%H:%M:%S}"
FIRST_OF_MAY = ("2026-05-01", "2026-05-02")


@pytest.fixture
async def copy(database: Database, tmp_path: Path) -> Path:
    """Three decisions on the first of May, one and a refused login on the second."""
    log = Written(database)
    await log.write(entry(), entry("deny"), entry("deny", rule_id="guard"))
    log.clock.move(days=1)
    login = entry(
        "refused",
        kind=audit_pb2.AUDIT_KIND_IDENTITY,
        action="login",
        resource="/identity/users/u-1",
        reason="LOGIN_FAILED",
    )
    await log.write(entry(), login)
    log.clock.move(seconds=10)
    assert await log.kept.cut_if_due() is not None
    folder = await log.copy(tmp_path / "copy")
    log.keys.write(folder / TRUST)
    return folder


def report(copy: Path, *more: str, period: tuple[str, str] = FIRST_OF_MAY) -> Any:
    words = ["--records", str(copy), "--from", period[0], "--to", period[1], "--as-of", AS_OF]
    return invoke(["audit", "report", *words, *more])


def test_report_counts_one_day_of_a_real_log(copy: Path, tmp_path: Path):
    """Three records of five, and the verification is of all of them."""
    file = tmp_path / "report.json"
    done = report(copy, "--format", "json", "--out", str(file), "--output", "json")
    assert done.exit_code == 0, done.output
    summary, found = json.loads(done.stdout), json.loads(file.read_text())
    assert summary["verdict"] == found["verification"]["verdict"] == "good"
    assert (summary["records"], found["records"]) == (3, 3)
    decisions = found["facts"]["decisions"]
    assert (decisions["allowed"], decisions["denied"]) == (1, 2)
    assert found["facts"]["identity"]["failed_logins"] == 0
    (log,) = found["verification"]["logs"]
    assert (log["records"], log["newest_checkpoint"]["tree_size"]) == (5, 5)
    assert list(summary["frameworks"]) == ["hipaa", "gdpr", "eu-ai-act", "nist-ai-rmf", "iso27001"]


def test_periods_that_follow_each_other_share_no_record(copy: Path, tmp_path: Path):
    """Three on one day, two on the next."""
    counted = []
    for begin, end in (FIRST_OF_MAY, ("2026-05-02", "2026-05-03")):
        file = tmp_path / "report.json"
        assert (
            report(copy, "--format", "json", "--out", str(file), period=(begin, end)).exit_code == 0
        )
        counted.append(json.loads(file.read_text())["records"])
    assert counted == [3, 2]


def test_frameworks_are_those_that_were_named(copy: Path, tmp_path: Path):
    """In their order, each once."""
    file = tmp_path / "report.json"
    done = report(copy, "--framework", "gdpr, hipaa,gdpr", "--format", "json", "--out", str(file))
    assert done.exit_code == 0
    assert [each["id"] for each in json.loads(file.read_text())["frameworks"]] == ["gdpr", "hipaa"]


def test_each_format_has_a_name_of_its_own(copy: Path, tmp_path: Path, monkeypatch):
    """Without --out the file is in this folder and called after its period."""
    monkeypatch.chdir(tmp_path)
    for form, begins in (("html", b"<!doctype html>"), ("json", b"{"), ("pdf", b"%PDF-")):
        assert report(copy, "--format", form).exit_code == 0
        written = tmp_path / f"aegis-report-2026-05-01-2026-05-02.{form}"
        assert written.read_bytes().startswith(begins)


def test_altered_copy_is_reported_as_altered(copy: Path, tmp_path: Path):
    """The report is written, says so first, counts what holds, and the exit status is 1."""
    path = copy / "aegis-server" / RECORDS
    content = bytearray(path.read_bytes())
    content[-120] ^= 1
    path.write_bytes(content)
    file = tmp_path / "report.html"
    done = report(copy, "--out", str(file))
    assert done.exit_code == 1
    assert "THE RECORD WAS ALTERED" in done.output
    page = file.read_text()
    assert page.index("THE RECORD WAS ALTERED") < page.index("At a glance")
    assert "aegis-server, record 4" in page


def test_old_copy_without_as_of_is_stale(copy: Path, tmp_path: Path):
    """A log that fell silent is told, with exit status 5."""
    words = ["--from", "2026-05-01", "--to", "2026-05-02", "--out", str(tmp_path / "report.html")]
    done = invoke(["audit", "report", "--records", str(copy), *words])
    assert done.exit_code == 5
    assert "NO RECENT CHECKPOINT" in (tmp_path / "report.html").read_text()


def test_keys_that_came_with_the_copy_are_said_to(copy: Path, tmp_path: Path):
    """Who makes the copy could make the keys; own keys are told apart."""
    own = tmp_path / "own.json"
    own.write_bytes((copy / TRUST).read_bytes())
    file = tmp_path / "report.json"
    for more, expected in ((), False), (("--trust", str(own)), True):
        assert report(copy, "--format", "json", "--out", str(file), *more).exit_code == 0
        assert json.loads(file.read_text())["verification"]["own_keys"] is expected


@pytest.mark.parametrize(
    ("more", "period", "problem", "step"),
    [
        (("--framework", "soc2"), FIRST_OF_MAY, "no framework 'soc2'", "hipaa, gdpr, eu-ai-act"),
        (("--framework", ","), FIRST_OF_MAY, "no framework is named", "hipaa, gdpr"),
        ((), ("2026-05-02", "2026-05-01"), "is not before --to", "the day after the last"),
        ((), ("2026-05-01", "2026-05-01"), "is not before --to", "the day after the last"),
        (("--external", "/nowhere"), FIRST_OF_MAY, "/nowhere is no folder", "name the folder"),
        (("--out", "/nowhere/x.html"), FIRST_OF_MAY, "cannot be written", "--out"),
    ],
)
def test_mistakes_are_told_with_a_next_step(copy: Path, more, period, problem: str, step: str):
    """Exit status 2, and words instead of a traceback."""
    done = report(copy, *more, period=period)
    assert done.exit_code == 2
    told = " ".join(done.output.split())
    assert problem in told
    assert step in told


def test_folder_without_a_copy_is_told(tmp_path: Path, copy: Path):
    """The next step is to make one."""
    done = report(tmp_path / "nothing", "--trust", str(copy / TRUST))
    assert done.exit_code == 2
    assert "aegis audit export --out DIR" in " ".join(done.output.split())


def test_pdf_without_the_extra_says_what_to_install(copy: Path, tmp_path: Path, monkeypatch):
    """Whoever wants HTML or JSON needs nothing more."""
    for name in [each for each in sys.modules if each.split(".")[0] == "reportlab"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "aegis.audit.report.render_pdf", raising=False)
    monkeypatch.setitem(sys.modules, "reportlab", None)
    done = report(copy, "--format", "pdf", "--out", str(tmp_path / "report.pdf"))
    assert done.exit_code == 2
    assert "aegis-control-plane[cli,report]" in " ".join(done.output.split())
    assert not (tmp_path / "report.pdf").exists()
