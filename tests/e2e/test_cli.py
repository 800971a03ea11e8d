"""`aegis` as a person and a script use it, against a running control plane."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands import command


def run(home: Path, *arguments: str, name: str = "admin") -> subprocess.CompletedProcess[str]:
    return command("--home", home, "--as", name, *arguments)


def answer(home: Path, *arguments: str, name: str = "admin") -> object:
    done = run(home, *arguments, "--output", "json", name=name)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_status_names_every_part_healthy(home: Path):
    """Six parts, each asked, each well."""
    found = answer(home, "status")
    names = [part["name"] for part in found["parts"]]
    assert names == ["postgres", "valkey", "sandbox", "witness", "executor", "server"]
    assert found["healthy"] is True


def test_second_up_on_the_same_home_says_so(home: Path):
    """Two control planes never share a home."""
    done = run(home, "up")
    assert done.returncode == 2
    assert "already runs" in done.stderr


def test_policy_check_says_which_rule_and_exits_by_effect(home: Path):
    """ALLOW exits 0, DENY exits 1, both with the deciding rule."""
    target = "/clusters/sandbox/namespaces/{}/pods/web"
    question = ("automation:autopilot", target, "restart_pod", "--attr", "namespace={}")

    def ask(namespace: str) -> subprocess.CompletedProcess[str]:
        return run(home, "policy", "check", *(word.format(namespace) for word in question))

    allowed, denied = ask("shop"), ask("payments")
    assert (allowed.returncode, denied.returncode) == (0, 1)
    assert "automation-restarts-pods-in-shop" in allowed.stdout
    assert "automation-outside-its-namespaces" in denied.stdout


def test_policy_can_be_shown_checked_and_imported(home: Path, tmp_path: Path):
    """What `show` prints can be imported again as the next revision."""
    file = tmp_path / "rules.csv"
    file.write_text(run(home, "policy", "show").stdout)
    before = answer(home, "policy", "show")["revision"]["revision"]
    dry = run(home, "policy", "import", str(file), "--reason", "none", "--dry-run")
    assert "nothing was stored" in dry.stdout
    imported = answer(home, "policy", "import", str(file), "--reason", "again")
    assert int(imported["revision"]) == int(before) + 1


def test_malformed_rule_file_is_refused_with_its_lines(home: Path, tmp_path: Path):
    """The lines to mend are printed, and the exit code is 1."""
    file = tmp_path / "rules.csv"
    file.write_text("p, role:a, *, /x, read, , Deny, typo\n")
    done = run(home, "policy", "import", str(file), "--reason", "a bad day")
    assert done.returncode == 1
    assert "POLICY_INVALID" in done.stderr
    assert "line 1" in done.stderr


def test_run_is_started_followed_and_reviewed(home: Path):
    """A short run completes; its updates and their findings can be read."""
    done = run(home, "train", "start", "--rounds", "2", "--attack", "sign-flip")
    assert done.returncode == 0, done.stderr
    assert "round   2" in done.stdout
    assert "site-5 rejected" in done.stdout
    runs = answer(home, "train", "list")
    assert runs[0]["state"] == "STATE_COMPLETED"
    updates = answer(home, "update", "list", "--run", runs[0]["run_id"])
    assert len(updates) == 10
    rejected = next(u for u in updates if u["verdict"] == "VERDICT_REJECTED")
    shown = answer(home, "update", "show", rejected["update_id"])
    assert any(finding["severity"] == "SEVERITY_CRITICAL" for finding in shown["findings"])
    shown_run = run(home, "train", "show", runs[0]["run_id"])
    assert "accuracy" in shown_run.stdout


def test_action_is_signed_applied_and_listed(home: Path):
    """Automation scales a deployment; the administrator sees it."""
    arguments = ("scale", "web", "--namespace", "demo", "--replicas", "4")
    action = answer(home, "action", "submit", *arguments, "--no-wait", name="autopilot")
    assert action["state"] == "STATE_APPLIED"
    assert action["observations"]["replicas_after"] == "4"
    listed = answer(home, "action", "list")
    assert listed[0]["action_id"] == action["action_id"]
    shown = run(home, "action", "show", action["action_id"])
    assert "automation-scales-in-demo" in shown.stdout


def test_denied_action_exits_1_and_names_the_rule(home: Path):
    """A refusal is for people to read: rule and next step."""
    arguments = ("scale", "ledger", "--namespace", "payments", "--replicas", "4")
    done = run(home, "action", "submit", *arguments, "--no-plan", name="autopilot")
    assert done.returncode == 1
    assert "automation-outside-its-namespaces" in done.stderr
    assert "next:" in done.stderr


def test_audit_copy_is_verified_without_a_server(home: Path, tmp_path: Path):
    """An exported copy verifies offline; one changed byte does not, and exits 1."""
    here = answer(home, "audit", "verify")
    assert (here["verdict"], here["findings"]) == ("good", [])
    assert {log["log_id"] for log in here["logs"]} == {"aegis-server", "aegis-executor"}
    # Who looks on has seen no more than the copy has, although the logs grow meanwhile.
    seen = []
    for place in ("checkpoints", "witness"):
        seen += ["--external", str(shutil.copytree(home / place, tmp_path / "seen" / place))]
    assert run(home, "audit", "export", "--out", str(tmp_path)).returncode == 0
    assert run(tmp_path, "audit", "verify", "--records", str(tmp_path)).returncode == 0
    done = run(tmp_path, "audit", "verify", "--records", str(tmp_path), *seen)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "aegis-server" / "records.bin"
    altered = bytearray(file.read_bytes())
    altered[100] ^= 1
    file.write_bytes(bytes(altered))
    done = run(tmp_path, "audit", "verify", "--records", str(tmp_path))
    assert done.returncode == 1
    assert "record 0" in done.stderr


def test_both_logs_are_sealed_witnessed_and_hold_each_other(home: Path):
    """Signed by their own keys, cosigned by the witness; each records the other's checkpoint."""
    for found in answer(home, "audit", "verify")["logs"]:
        assert found["checkpoints"] > 0
        assert found["witnessed_size"]["witness:local"] > 0
    for log, other in (("aegis-server", "aegis-executor"), ("aegis-executor", "aegis-server")):
        records = answer(home, "audit", "list", "--log", log, "--kind", "checkpoint_peer")
        assert {record["actor"] for record in records} == {f"log:{other}"}


def test_record_is_shown_with_its_proof(home: Path):
    """The proof is checked here, against the signed tree."""
    shown = answer(home, "audit", "show", "0")
    assert (shown["proven"], shown["problem"], shown["record"]["index"]) == (True, "", "0")


def test_what_is_beside_a_record_can_be_erased(home: Path):
    """The signed request with its free text goes; the record stays proven and the log good."""
    arguments = ("scale", "checkout", "--namespace", "shop", "--replicas", "3")
    done = run(home, "action", "submit", *arguments, "--no-wait", name="autopilot")
    assert done.returncode == 0, done.stderr
    filters = ("--kind", "action", "--outcome", "dispatched", "--limit", "1")
    (record,) = answer(home, "audit", "list", *filters)
    index = record["index"]
    assert list(answer(home, "audit", "show", index)["attachments"]) == ["request"]
    assert run(home, "audit", "erase", index, "--reason", "ticket 7").returncode == 0
    shown = answer(home, "audit", "show", index)
    assert (shown["attachments"], shown["proven"]) == ({}, True)
    assert answer(home, "audit", "verify")["verdict"] == "good"
    again = run(home, "audit", "erase", index, "--reason", "ticket 7")
    assert "RESOURCE_NOT_FOUND" in again.stderr


def test_records_can_be_listed_by_kind(home: Path):
    """Filters reach the server."""
    records = answer(home, "audit", "list", "--kind", "policy_change")
    assert {record["kind"] for record in records} == {"AUDIT_KIND_POLICY_CHANGE"}


def test_who_am_i_and_keys(home: Path):
    """The certificate decides who you are; the keys that count are public."""
    me = answer(home, "whoami", name="autopilot")
    assert (me["subject"], me["roles"][0]) == ("automation:autopilot", "role:automation")
    owners = {key["owner"] for key in answer(home, "keys", "list")}
    assert owners == {
        "server:aegis",
        "automation:autopilot",
        "log:aegis-server",
        "log:aegis-executor",
        "witness:local",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "watch", "run-nothing"), "RESOURCE_NOT_FOUND"),
        (("policy", "check", "user:a", "not-a-path", "read"), "resource"),
        (("demo", "--attack", "bribery"), "sign-flip"),
        (("train", "start", "--attack", "bribery"), "sign-flip"),
        (("train", "start", "--participants", "1"), "participants"),
        (("train", "start", "--rounds", "99999999999"), "rounds"),
        (("audit", "list", "--kind", "gossip"), "gossip"),
        (("action", "submit", "explode", "web", "-n", "demo"), "restart-pod"),
    ],
)
def test_mistake_is_answered_with_what_is_wrong(home: Path, arguments: tuple[str, ...], words: str):
    """No traceback: the problem and the next step."""
    done = run(home, *arguments)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("policy", "import", "{}", "--reason", "x"), "UTF-8"),
        (("action", "submit", "restart-pod", "w", "-n", "demo", "--key", "{}"), "in PEM"),
    ],
)
def test_file_that_is_something_else_is_named(
    home: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
):
    """Bytes that are no rule file and no key are a mistake, not a crash."""
    file = tmp_path / "noise"
    file.write_bytes(b"\xff\xfe\x00")
    done = run(home, *(word.format(file) for word in arguments))
    assert done.returncode == 2
    assert str(file) in done.stderr.replace("\n", "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_attacker_is_the_last_of_however_many_sites(home: Path):
    """With three sites it is the third that is rejected."""
    done = run(home, "train", "start", "--rounds", "1", "--participants", "3", "--attack", "noise")
    assert done.returncode == 0, done.stderr
    assert "site-3 rejected" in done.stdout


def test_without_a_control_plane_the_next_step_is_up(tmp_path: Path):
    """An empty home says how to start."""
    done = run(tmp_path, "train", "list")
    assert done.returncode == 2
    assert "aegis up" in done.stderr
