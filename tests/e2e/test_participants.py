"""A site joins a control plane by the commands its people type."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.commands import command
from tests.e2e.test_cli import answer, run

ROWS = [f"{'ill' if number % 3 == 0 else 'well'},{number}" for number in range(40)]
DATASET = """\
name: ward
description: made up
consent_basis: none needed
schema:
  features:
    - {name: age, low: 0, high: 100}
  label: {name: outcome, classes: [well, ill]}
"""


def on_site(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """A command on the site's machine, which knows nothing but its folder."""
    return command("participant", *arguments, "--output", "json", stdin=text)


def test_site_is_invited_joins_adds_rows_and_is_revoked(home: Path, tmp_path: Path):
    """From `aegis up` to PARTICIPANT_REVOKED, with nothing on the site but its token."""
    (tmp_path / "ward.yaml").write_text(DATASET)
    csv = tmp_path / "rows.csv"
    csv.write_text("\n".join(("outcome,age", *ROWS, "ill,old", "")))
    evaluation = tmp_path / "evaluation.csv"
    evaluation.write_text("\n".join(("outcome,age", *ROWS, "")))
    folder, token = tmp_path / "site", tmp_path / "token"

    registering = ("dataset", "register", str(tmp_path / "ward.yaml"), "--evaluation")
    stored = answer(home, *registering, str(evaluation))
    assert (stored["golden_rows"], stored["test_rows"]) == ("14", "26")
    refused = run(home, *registering, str(csv))
    assert refused.returncode == 1
    assert "DATASET_ROWS_INVALID row 42, age: is not a number" in refused.stderr

    inviting = ("participant", "invite", "ward-1", "--dataset", "ward=30", "--out", str(token))
    invited = answer(home, *inviting)
    assert invited["participant"]["state"] == "STATE_INVITED"
    assert invited["token"] == ""
    joined = on_site("join", "-", "--dir", str(folder), text=token.read_text())
    assert joined.returncode == 0, joined.stderr
    assert json.loads(joined.stdout)["datasets"] == ["ward"]
    again = on_site("join", token.read_text().strip(), "--dir", str(tmp_path / "thief"))
    assert again.returncode == 1
    assert "INVITATION_INVALID" in again.stderr

    adding = ("data", "add", "ward", str(csv), "--dir", str(folder))
    added = on_site(*adding)
    assert added.returncode == 0, added.stderr
    told = json.loads(added.stdout)
    assert (told["rows"], told["holding"]["examples"]) == (40, "30")
    assert told["dropped"] == {"age: is not a number": 1}
    renewed = on_site("renew", "--dir", str(folder))
    assert renewed.returncode == 0, renewed.stderr

    shown = answer(home, "participant", "show", "ward-1")
    assert (shown["state"], shown["connected"]) == ("STATE_ENROLLED", False)
    assert [each["dataset"] for each in shown["holdings"]] == ["ward"]
    held = answer(home, "dataset", "show", "ward")["holdings"]
    assert [each["participant"] for each in held] == ["ward-1"]
    table = run(home, "participant", "list")
    assert "ward-1" in table.stdout

    revoking = ("participant", "revoke", "ward-1", "--reason", "a test", "--yes")
    assert answer(home, *revoking)["state"] == "STATE_REVOKED"
    refused = on_site(*adding)
    assert refused.returncode == 1
    assert "PARTICIPANT_REVOKED" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("data", "add", "ward", "rows.csv"), "join first"),
        (("renew",), "join first"),
        (("join", "aegis-join-abc"), "no whole join token"),
        (("join", "hello"), "begins with aegis-join-"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_site_is_told_what_to_do_first(tmp_path: Path, arguments: tuple[str, ...], words: str):
    """Before anything is called or written."""
    done = on_site(*arguments, "--dir", str(tmp_path / "site"))
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("a: [", "neither JSON nor YAML"),
        ("name: x\n", "needs a name and a schema"),
        (DATASET + "colour: red\n", "nobody knows colour"),
        (DATASET.replace("low: 0", "low: 200"), "low must be below high"),
        (DATASET + "public: [1]\n", "ward.yaml"),
    ],
    ids=["missing", "broken", "empty", "unknown", "bounds", "type"],
)
def test_description_that_is_none_is_refused_here(tmp_path: Path, content: str | None, words: str):
    """Without a server: the file is at fault."""
    file = tmp_path / "ward.yaml"
    if content is not None:
        file.write_text(content)
    done = command("dataset", "register", file, "--evaluation", tmp_path / "rows.csv")
    assert done.returncode == 2
    assert words.replace(" ", "") in "".join(done.stderr.split())
