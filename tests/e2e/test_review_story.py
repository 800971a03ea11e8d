"""The review as those see it who answer for a model: one house, from an attack to its proof."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis.v1 import review_pb2, review_pb2_grpc, training_pb2
from tests.commands import command
from tests.e2e.conftest import left_behind
from tests.hospitals import House, dealt
from tests.processes import until

pytestmark = pytest.mark.timeout(240)

NAMES = ["east", "north", "south", "west"]
COMPLETED = training_pb2.Run.STATE_COMPLETED
EXAMINING = review_pb2.GetReviewQueueResponse.STATE_EXAMINING


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """One control plane and four hospitals for the whole story; no process stays."""
    with tempfile.TemporaryDirectory(prefix="aegis-e2e-") as folder:
        with House(Path(folder)) as house:
            for name, rows in zip(NAMES, dealt(len(NAMES)), strict=True):
                house.hospital(name, rows).start()
            for each in house.hospitals.values():
                each.present()
            yield house
        assert left_behind(folder) == []


def verdicts(house: House, run_id: str, *words: str) -> list[dict]:
    return house.aegis("update", "list", "--run", run_id, "--limit", "1000", *words)


def outcomes(run: training_pb2.Run, number: int) -> dict[str, str]:
    told = next(each for each in run.rounds if each.round == number).participants
    kinds = training_pb2.ParticipantRound.Outcome
    return {each.participant: kinds.Name(each.outcome)[8:] for each in told}


def test_attacker_is_rejected_and_the_evidence_holds_without_the_server(
    house: House, tmp_path: Path
):
    """Signature, files, the update's bytes and the audit log agree; another update does not."""
    house.hospitals["west"].poison("flip 10")
    try:
        run_id = house.start(house.plan(NAMES, rounds=3))
        house.until_state(run_id, COMPLETED)
    finally:
        house.hospitals["west"].poison("")
    listed = verdicts(house, run_id, "--verdict", "rejected")
    # The noise of honest sites is nobody's to repeat: now and then one of them is rejected, too.
    rejected = [each for each in listed if each["participant"] == "west"]
    assert [each["round"] for each in rejected] == [3, 2, 1]

    bundle, page, copy, first, second = (tmp_path / name for name in "epcab")
    asked = ("update", "evidence", rejected[0]["update_id"], "--to", bundle, "--open-dir", page)
    house.aegis(*map(str, asked))
    assert "was rejected" in (page / "index.html").read_text()
    for update, file in zip(rejected, (first, second), strict=False):
        words = ("update", "download", update["update_id"], file)
        assert command("--home", house.home, *words).returncode == 0

    # Somebody who has nothing but these files.
    trust = ("--trust", copy / "trust.json")
    check = ("--home", tmp_path, "update", "verify-evidence", bundle, *trust)

    def proven() -> str | None:
        """The newest records are under no checkpoint yet; one is told to copy the log again."""
        shutil.rmtree(copy, ignore_errors=True)
        assert command("--home", house.home, "audit", "export", "--out", copy).returncode == 0
        done = command(*check, "--update", first, "--audit", copy, "--output", "json")
        assert done.returncode == 0 or "copy the log again" in done.stdout, done.stdout
        return done.stdout if done.returncode == 0 else None

    found = json.loads(until(proven, house.words, 60))
    assert (found["verdict"], found["participant"]) == ("rejected", "west")
    assert {"signature", "files", "update", "audit"} <= set(found["checked"])
    assert command(*check, "--update", second).returncode == 1


def test_quarantine_is_proposed_enforced_and_respected(house: House):
    """Three rejections propose it, a person decides, and who is left out is not asked."""
    (proposed,) = house.aegis("quarantine", "list", "--participant", "west")
    assert proposed["state"] == "STATE_PROPOSED"
    assert house.aegis("standing", "list")[0]["participant"] == "west"
    which = (proposed["quarantine_id"], "--reason", "ten times the wrong way")
    assert house.aegis("quarantine", "enforce", *which)["state"] == "STATE_IN_FORCE"
    try:
        run = house.until_state(house.start(house.plan(NAMES, rounds=1)), COMPLETED)
    finally:
        assert house.aegis("quarantine", "lift", *which)["state"] == "STATE_LIFTED"
    told = outcomes(run, 1)
    assert told["west"] == "NOT_ASKED"
    assert "AGGREGATED" in told.values()


def test_run_waits_for_who_decides_about_held_updates(house: House):
    """Of two sites nobody can tell who is odd; a person can, and it takes two to undo that."""
    house.hospitals["west"].poison("flip 10")
    plan = house.plan(["north", "west"], rounds=1, min_participants=1)
    plan.review_hold.FromSeconds(120)
    try:
        run_id = house.start(plan)
        held = until(
            lambda: house.aegis("update", "held", "--run", run_id), house.words, 60, every=0.2
        )
    finally:
        house.hospitals["west"].poison("")
    assert "west" in {each["participant"] for each in held}
    why = ("--reason", "west has a broken scanner")
    for each in held:
        wanted = "reject" if each["participant"] == "west" else "accept"
        assert not house.aegis("update", "override", each["update_id"], wanted, *why)[
            "needs_second_person"
        ]
    run = house.until_state(run_id, COMPLETED)
    assert outcomes(run, 1) == {"north": "AGGREGATED", "west": "REJECTED"}

    (rejected,) = verdicts(house, run_id, "--verdict", "rejected")
    change = ("update", "override", rejected["update_id"], "accept", "--reason", "it was repaired")
    assert house.aegis("--as", "admin", *change)["needs_second_person"]
    again = command("--home", house.home, "--as", "admin", *change)
    assert (again.returncode, "SECOND_PERSON_NEEDED" in again.stderr) == (1, True)
    ada = ("--email", "ada@example.org", "--name", "Ada", "--password-stdin")
    house.aegis("bootstrap", *ada, text="seven purple otters")
    try:
        done = house.aegis(*change)
    finally:
        assert command("--home", house.home, "logout").returncode == 0
    assert done["update"]["verdict"] == "VERDICT_ACCEPTED"
    assert done["too_late_for_model"]


def test_round_whose_server_is_killed_while_it_is_judged_is_judged_once(house: House):
    """kill -9 in the middle: the run goes on, and no update has two verdicts in the log."""
    run_id = house.start(house.plan(NAMES, rounds=2))
    until(lambda: _is_examined(house, run_id), house.words, 60, every=0.005)
    house.kill_server()
    house.restart_server()
    house.until_state(run_id, COMPLETED)
    updates = verdicts(house, run_id)
    decided = [each for each in updates if each["verdict"] != "VERDICT_PENDING"]
    every = {(number, name) for number in (1, 2) for name in NAMES}
    assert {(each["round"], each["participant"]) for each in decided} == every
    judge = ("--kind", "review", "--action", "judge", "--limit", "1000")
    judged = Counter(each["subject_id"] for each in house.aegis("audit", "list", *judge))
    assert {judged[each["update_id"]] for each in decided} == {1}
    assert max(judged.values()) == 1


def _is_examined(house: House, run_id: str) -> bool:
    request = review_pb2.GetReviewQueueRequest()
    queue = house.call(review_pb2_grpc.ReviewServiceStub, "GetReviewQueue", request)
    return any(each.run_id == run_id and each.state == EXAMINING for each in queue.entries)
