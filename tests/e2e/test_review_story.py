"""The review as those see it who answer for a model: one house, from an attack to its proof."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aegis.channel import connect
from aegis.cli.planfiles import written
from aegis.local.stack import Stack
from aegis.plans import Attacker, default_plan
from aegis.v1 import review_pb2, review_pb2_grpc
from tests.commands import command

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

ADA = ("--email", "ada@example.org", "--password-stdin")
PASSWORD = "seven purple otters"
_EXAMINING = review_pb2.GetReviewQueueResponse.STATE_EXAMINING


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[Stack]:
    """One control plane for the whole story."""
    with tempfile.TemporaryDirectory(prefix="aegis-e2e-") as folder:
        async with Stack(Path(folder), sandbox=True) as running:
            yield running


async def give(
    house: Stack, *words: object, name: str = "admin", stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Gives a command as somebody with a certificate; "" is who is logged in."""
    who = ("--as", name) if name else ()
    told = ("--home", str(house.home), *who, *map(str, words))
    return await asyncio.to_thread(command, *told, stdin=stdin)


async def ask(house: Stack, *words: object, name: str = "admin", stdin: str = "") -> Any:
    done = await give(house, *words, "--output", "json", name=name, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def attacked(house: Stack, *words: object, sites: int = 5, rounds: int = 3) -> str:
    """Starts a run in which the last site sends the opposite, ten times; returns its name."""
    plan = default_plan(attacker=Attacker("sign-flip", 10), participants=sites)
    plan.rounds, plan.min_participants = rounds, 1
    file = house.home / "plan.yaml"
    file.write_text(written(plan))
    started = await ask(house, "train", "start", "--plan", file, "--no-watch", *words)
    return str(started["run_id"])


async def ended(house: Stack, run_id: str) -> dict[str, Any]:
    watched = await give(house, "train", "watch", run_id)
    assert watched.returncode == 0, watched.stderr + watched.stdout
    return dict(await ask(house, "train", "show", run_id))


async def verdicts(house: Stack, run_id: str, *words: object) -> list[dict[str, Any]]:
    return list(await ask(house, "update", "list", "--run", run_id, "--limit", 1000, *words))


async def test_attacker_is_rejected_and_the_evidence_holds_without_the_server(
    house: Stack, tmp_path: Path
):
    """Signature, files, the update's bytes and the audit log agree; another update does not."""
    run_id = await attacked(house)
    await ended(house, run_id)
    rejected = await verdicts(house, run_id, "--verdict", "rejected")
    assert [each["participant"] for each in rejected] == ["site-5"] * 3
    bundle, update, other = (tmp_path / name for name in ("evidence.zip", "update", "other"))
    fetched = await give(
        house, *("update", "evidence", rejected[0]["update_id"]),
        *("--to", bundle, "--open-dir", tmp_path / "page"),
    )  # fmt: skip
    assert fetched.returncode == 0, fetched.stderr
    assert "was rejected" in (tmp_path / "page" / "index.html").read_text()
    for which, file in zip(rejected, (update, other), strict=False):
        assert (await give(house, "update", "download", which["update_id"], file)).returncode == 0
    copy = tmp_path / "copy"
    assert (await give(house, "audit", "export", "--out", copy)).returncode == 0

    elsewhere = tmp_path / "elsewhere"
    check = ("--home", elsewhere, "update", "verify-evidence", bundle, "--audit", copy)
    trust = ("--trust", copy / "trust.json")
    checked = command(*check, *trust, "--update", update, "--output", "json")
    assert checked.returncode == 0, checked.stderr
    found = json.loads(checked.stdout)
    assert (found["verdict"], found["participant"]) == ("rejected", "site-5")
    assert {"signature", "files", "update", "audit"} <= set(found["checked"])
    assert command(*check, *trust, "--update", other).returncode == 1
    assert command(*check[:-1], elsewhere, *trust).returncode == 2


async def test_quarantine_is_proposed_enforced_and_respected(house: Stack):
    """Three rejections propose it, a person decides, and whoever is left out is not asked."""
    (proposed,) = await ask(house, "quarantine", "list", "--participant", "site-5")
    assert proposed["state"] == "STATE_PROPOSED"
    assert (await ask(house, "standing", "list"))[0]["participant"] == "site-5"
    which = ("quarantine", "enforce", proposed["quarantine_id"])
    assert (await ask(house, *which, "--reason", "ten times the wrong way"))["state"] == (
        "STATE_IN_FORCE"
    )
    try:
        run = await ended(house, await attacked(house, rounds=1))
        (first,) = (each["participants"] for each in run["rounds"] if each["round"] == 1)
        told = {each["participant"]: (each["outcome"], each["reason"]) for each in first}
        assert told.pop("site-5") == ("OUTCOME_NOT_ASKED", "in quarantine")
        assert {outcome for outcome, _ in told.values()} == {"OUTCOME_AGGREGATED"}
    finally:
        lift = ("quarantine", "lift", proposed["quarantine_id"], "--reason", "repaired")
        assert (await ask(house, *lift))["state"] == "STATE_LIFTED"


async def test_run_waits_for_who_decides_about_held_updates(house: Stack):
    """Of two sites nobody can tell who is odd; a person can, and two may accept it later."""
    run_id = await attacked(house, "--review-hold", "120s", sites=2, rounds=1)
    async with asyncio.timeout(60):
        while not (held := await ask(house, "update", "held", "--run", run_id)):
            await asyncio.sleep(0.2)
    assert "site-2" in {each["participant"] for each in held}
    for each in held:
        wanted = "reject" if each["participant"] == "site-2" else "accept"
        override = ("update", "override", each["update_id"], wanted)
        await ask(house, *override, "--reason", "site-2 has a broken scanner")
    run = await ended(house, run_id)
    outcomes = {each["participant"]: each["outcome"] for each in run["rounds"][-1]["participants"]}
    assert outcomes == {"site-1": "OUTCOME_AGGREGATED", "site-2": "OUTCOME_REJECTED"}

    (rejected,) = await verdicts(house, run_id, "--verdict", "rejected")
    change = ("update", "override", rejected["update_id"], "accept", "--reason", "it was repaired")
    assert (await ask(house, *change))["needs_second_person"]
    again = await give(house, *change)
    assert again.returncode == 1
    assert "SECOND_PERSON_NEEDED" in again.stderr
    await ask(house, "bootstrap", *ADA, "--name", "Ada", name="", stdin=PASSWORD)
    done = await ask(house, *change, name="")
    assert done["update"]["verdict"] == "VERDICT_ACCEPTED"
    assert done["too_late_for_model"]


async def test_round_whose_server_is_killed_while_it_is_judged_is_judged_once(house: Stack):
    """kill -9 in the middle: the run goes on, and every update has one verdict in the log."""
    async with connect(house.address, house.identity("admin")) as opened:
        review = review_pb2_grpc.ReviewServiceStub(opened)
        run_id = await attacked(house, sites=9)
        async with asyncio.timeout(60):
            while not await _examining(review, run_id):
                await asyncio.sleep(0.005)
        house.kill("server")
    await house.restart("server")
    await ended(house, run_id)
    updates = await verdicts(house, run_id)
    assert len(updates) == 27
    assert "VERDICT_PENDING" not in {each["verdict"] for each in updates}
    records = await ask(house, "audit", "list", "--kind", "review", "--limit", 1000)
    judged = Counter(each["subject_id"] for each in records if each["action"] == "judge")
    assert {judged[each["update_id"]] for each in updates} == {1}


async def _examining(review: review_pb2_grpc.ReviewServiceStub, run_id: str) -> bool:
    queue = await review.GetReviewQueue(review_pb2.GetReviewQueueRequest(), timeout=10)
    return any(each.run_id == run_id and each.state == _EXAMINING for each in queue.entries)
