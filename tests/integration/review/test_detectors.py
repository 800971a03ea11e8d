"""Detectors: jobs that make them, who lets them decide, and how they are taken back."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psycopg
import pytest
from tests.judged import Judged, judge
from tests.office import Office, answer, opened, refusal
from tests.schooling import die, examined, known, learn_slowly, once, unteachable

from aegis.errors import DataLoss
from aegis.v1 import detector_pb2 as pb
from aegis_policy.baseline import baseline_csv
from aegis_server.policy.revisions import Change
from aegis_server.review.case import Judgement, Ruling, Verdict
from aegis_server.review.detection import Detector, builtin
from aegis_server.review.detection.measures import NAMES
from aegis_server.review.detection.observing import SO_FAR
from aegis_server.review.detectors import lessons, store
from aegis_server.review.detectors.jobs import School
from aegis_server.review.detectors.records import HELD_BACK, Measured, rows
from aegis_server.review.store import RoundKey
from aegis_server.workers import Workers

TRAINING, TRAINED, FAILED, SHADOW, CHAMPION, RETIRED, ROLLED_BACK = range(1, 8)
SITES = tuple(f"site-{number:02d}" for number in range(16))
ROUNDS = 20


QUICK = School(learn=known, examine=examined, seeds=once)


def honest(random: np.random.Generator) -> dict[str, float]:
    """Features of an honest update, as the review remembers them."""
    about = {"round/updates": 16.0, "round/private": 0.0, "round/classes": 2.0}
    return {
        **dict(zip(NAMES, random.normal(size=len(NAMES)).tolist(), strict=True)),
        **{SO_FAR + name: float(random.normal()) for name in NAMES},
        **about,
        "round/core": 1.0,
        "round/remembered": 3.0,
    }


async def remember(office: Office, rounds: int = ROUNDS, sites: Sequence[str] = SITES) -> None:
    """Rounds that were judged: everybody was accepted."""
    random = np.random.default_rng(1)
    async with office.database.transaction() as connection:
        for number in range(rounds):
            key = RoundKey(f"run-{number % 4}", number // 4 + 1, 1)
            updates = {name: Judged(features=honest(random)) for name in sites}
            await judge(connection, key, updates, dataset="digits")


async def train(office: Office, by: str = "user:olga", **fields: Any) -> pb.Detector:
    stub = await office.scoring(by)
    request = pb.TrainDetectorRequest(**{"request_id": "r-1", "seed": 7} | fields)
    started: pb.Detector = (await answer(stub.TrainDetector(request, timeout=10))).detector
    return started


async def get(office: Office, version: str) -> pb.Detector:
    stub = await office.scoring("user:vera")
    request = pb.GetDetectorRequest(version=version)
    found: pb.Detector = (await answer(stub.GetDetector(request, timeout=10))).detector
    return found


async def until_done(office: Office, version: str) -> pb.Detector:
    async with asyncio.timeout(60):
        while (found := await get(office, version)).state == TRAINING:
            await asyncio.sleep(0.05)
    return found


async def shadow(office: Office, version: str, by: str = "user:olga") -> pb.Detector:
    stub = await office.scoring(by)
    request = pb.ShadowDetectorRequest(version=version)
    moved: pb.Detector = (await answer(stub.ShadowDetector(request, timeout=10))).detector
    return moved


async def promote(
    office: Office, version: str, by: str = "user:otto", fpr_max: float = 0.0, **fields: Any
) -> pb.Detector:
    moved: pb.Detector = (await promoted(office, version, by, fpr_max, **fields)).detector
    return moved


async def promoted(
    office: Office, version: str, by: str = "user:otto", fpr_max: float = 0.0, **fields: Any
) -> pb.PromoteDetectorResponse:
    stub = await office.scoring(by)
    request = pb.PromoteDetectorRequest(
        version=version, reason="better", false_positive_rate_max=fpr_max, **fields
    )
    response: pb.PromoteDetectorResponse
    response = await answer(stub.PromoteDetector(request, timeout=10))
    return response


async def a_trained(
    office: Office,
    *,
    fpr: float = 0.03,
    tpr: float = 0.9,
    file: bytes = b"",
    by: str = "user:olga",
    found: Sequence[Measured] = (),
) -> str:
    """A detector that was trained and measured, without the work."""
    data = file or Detector("v?", 0.03, builtin().regimes).encode()
    sha256 = await office.blobs.put(data)
    async with office.database.transaction() as connection:
        version = await store.insert(
            connection,
            request_id=f"made-{time.monotonic_ns()}",
            dataset="",
            target_fpr=0.03,
            seed=0,
            by=by,
            at=office.clock(),
        )
        assert version is not None
        measured = [Measured("sign-flip", tpr, tpr, 0.9, tpr, fpr), *found]
        await store.finish_training(
            connection, version, sha256=sha256, counts=(300, 20, 12), measured=rows(measured)
        )
    return version


async def states(office: Office) -> dict[str, str]:
    async with office.database.transaction() as connection:
        found = await store.page(connection, before=None, limit=100)
    return {each.version: each.state for each in found}


async def scored(
    office: Office,
    number: int,
    *,
    rejected: Sequence[str] = (),
    detector: str = builtin().version,
    sites: Sequence[str] = SITES,
    shadow_rejects: Sequence[str] | None = None,
    shadow_version: str = "",
    fallback: bool = False,
) -> dict[str, str]:
    """A round as the review leaves it, with what detectors made of it; returns update ids."""
    judged = {
        name: Judged(
            Verdict.REJECTED if name in rejected else Verdict.ACCEPTED, features={"norm": 1.0}
        )
        for name in sites
    }
    async with office.database.transaction() as connection:
        ids = await judge(connection, RoundKey("run-s", number, 1), judged)
        judgements = tuple(
            Judgement(
                update_id,
                judged[name].verdict,
                0.0,
                (),
                # The target is 0.03.
                false_positive_rate=0.001 if name in rejected else 0.5,
                features={"norm": 1.0},
                shadow_score=(
                    None if shadow_rejects is None else 1.5 if name in shadow_rejects else 0.2
                ),
            )
            for name, update_id in ids.items()
        )
        ruling = Ruling(judgements, fallback=fallback, detector=detector, shadow=shadow_version)
        await office.current.note(connection, ruling)
    return ids


# Jobs.


async def test_detector_is_trained_and_measured_before_anybody_may_use_it(office: Office):
    """From recorded updates to a file, with figures of attacks and of who was held back."""
    await remember(office)
    started = await train(office)
    assert (started.version, started.state, started.progress) == ("v1", TRAINING, 0)
    await office.train(School(examine=examined, seeds=once))
    done = await until_done(office, "v1")
    assert (done.state, done.progress, done.reason) == (TRAINED, 1, "")
    assert (done.updates, done.participants, done.rounds) == (12 * ROUNDS, 12, ROUNDS)
    detector = Detector.decode(await office.blobs.get(done.sha256))
    assert (detector.version, detector.target) == ("v1", pytest.approx(0.03))
    measured = {each.attack: each for each in done.measured}
    assert measured["sign-flip"].tpr == pytest.approx(0.92)
    assert math.isnan(measured["silent"].tpr)
    assert 0 <= measured[HELD_BACK].fpr < 0.2
    assert [(each.actor, each.outcome) for each in await office.records("train")] == [
        ("user:olga", "training"),
        ("server:aegis", "trained"),
    ]
    assert await office.current.champion() == b""


async def test_repeated_request_finds_its_job(office: Office):
    """Also at the same moment; with other wishes, or of somebody else, it is refused."""
    await remember(office)
    started = await asyncio.gather(*(train(office) for _ in range(5)))
    assert {each.version for each in started} == {started[0].version}
    assert len(await office.records("train")) == 1
    for changed in ({"seed": 8}, {"dataset": "digits"}, {"target_false_positive_rate": 0.1}):
        assert (await refusal(train(office, **changed))).reason == "REQUEST_ID_REUSED"
    assert (await refusal(train(office, by="user:otto"))).reason == "REQUEST_ID_REUSED"


async def test_job_needs_enough_to_learn_from(office: Office):
    """Enough updates, of enough participants, of the data set that was named."""
    await remember(office, rounds=10)
    error = await refusal(train(office))
    assert error.reason == "TRAINING_DATA_MISSING"
    assert (error.metadata["recorded"], error.metadata["needed"]) == ("160", str(lessons.NEEDED))
    error = await refusal(train(office, dataset="breast-cancer"))
    assert error.metadata["recorded"] == "0"
    assert await states(office) == {"builtin": "champion"}


async def test_job_learns_only_from_what_this_program_can_read(office: Office):
    """Rows of an earlier one, and of updates nobody could examine, are left out."""
    await remember(office)
    async with office.database.transaction() as connection:
        updates = {name: Judged(features={"forgotten": 1.0}) for name in SITES}
        await judge(connection, RoundKey("run-old", 1, 1), updates, dataset="digits")
        found = await lessons.recorded_of(connection, "")
    assert len(found) == ROUNDS * len(SITES)
    assert {each.run_id for each in found} == {"run-0", "run-1", "run-2", "run-3"}


async def test_many_updates_of_few_participants_are_too_little(office: Office):
    """Nobody could be held back."""
    await remember(office, rounds=60, sites=SITES[:6])
    error = await refusal(train(office))
    assert (error.reason, error.metadata["recorded"]) == ("TRAINING_DATA_MISSING", "360")


async def test_job_that_teaches_nothing_has_failed(office: Office):
    """With the reason, and others go on."""
    await remember(office)
    await train(office)
    await office.train(School(learn=unteachable, examine=examined, seeds=once))
    failed = await until_done(office, "v1")
    assert (failed.state, failed.reason) == (
        FAILED,
        "ValueError: there is nothing to be learnt",
    )
    assert [each.outcome for each in await office.records("train")] == ["training", "failed"]
    assert (await refusal(promote(office, "v1"))).reason == "STATE_CONFLICT"
    assert (await refusal(shadow(office, "v1"))).reason == "STATE_CONFLICT"


async def test_job_whose_process_keeps_dying_is_given_up(office: Office):
    """It would keep the others out for ever."""
    await remember(office)
    await train(office)
    await office.train(School(learn=die, examine=examined, seeds=once))
    failed = await until_done(office, "v1")
    assert (failed.state, "5 times" in failed.reason) == (FAILED, True)


async def test_job_survives_its_server(
    office: Office, office_url: str, office_workers: Workers, tmp_path: Path
):
    """Another server takes it up when the one that was at it is gone, and only then."""
    await remember(office)
    gate = tmp_path / "gate"
    gate.touch()
    slowly = School(learn=partial(learn_slowly, file=str(gate)), examine=examined, seeds=once)
    first = await office.train(slowly)
    await train(office)

    async def begun() -> int:
        return len(list(tmp_path.glob("gate.*")))

    async with asyncio.timeout(30):
        while await begun() == 0:
            await asyncio.sleep(0.05)
    async with opened(office_url, tmp_path, office_workers) as other:
        await other.train(slowly)
        await asyncio.sleep(0.5)
        assert await begun() == 1
        first.cancel()
        async with asyncio.timeout(30):
            while await begun() == 1:
                await asyncio.sleep(0.05)
        gate.unlink()
        assert (await until_done(office, "v1")).state == TRAINED
    async with office.database.transaction() as connection:
        job = await store.find(connection, "v1")
    assert job is not None
    assert job.attempts == 2
    assert [each.outcome for each in await office.records("train")] == ["training", "trained"]


async def test_jobs_are_done_one_at_a_time_in_their_order(office: Office):
    """However many servers there are."""
    await remember(office)
    for number in range(2):
        await train(office, request_id=f"r-{number}")
    await asyncio.gather(office.train(QUICK), office.train(QUICK))
    for version in ("v1", "v2"):
        assert (await until_done(office, version)).state == TRAINED
    done = [each for each in await office.records("train") if each.outcome == "trained"]
    assert [each.subject_id for each in done] == ["v1", "v2"]


# Who decides.


async def test_detector_that_ships_decides_at_first(office: Office):
    """It has a digest, though it is no blob, and rounds are given nothing else."""
    found = await get(office, "champion")
    assert (found.version, found.state) == ("builtin", CHAMPION)
    assert len(found.sha256) == 32
    assert await office.current.champion() == b""
    assert await office.current.shadow() == b""


async def test_promoted_detector_is_what_rounds_are_given(
    office: Office, office_url: str, office_workers: Workers, tmp_path: Path
):
    """By every server from the next round on; the one before is what a roll-back goes to."""
    version = await a_trained(office)
    async with opened(office_url, tmp_path, office_workers) as other:
        assert await other.current.champion() == b""
        promoted = await promote(office, version)
        assert promoted.state == CHAMPION
        assert promoted.HasField("promote_time")
        here, there = await office.current.champion(), await other.current.champion()
        assert here == there != b""
    assert await states(office) == {"builtin": "retired", version: "champion"}
    (record,) = await office.records("promote")
    assert (record.outcome, record.actor) == ("champion", "user:otto")
    assert record.details["former"] == "builtin"
    assert (record.details["fpr"], record.details["reason"]) == ("0.0300", "better")
    assert (await promote(office, "builtin", by="user:olga")).state == CHAMPION
    assert await office.current.champion() == b""


async def test_who_had_a_detector_trained_does_not_promote_it(office: Office):
    """One that counts nobody out is quickly made; with it in place everything is accepted."""
    version = await a_trained(office, fpr=0.0, tpr=0.0)
    error = await refusal(promote(office, version, by="user:olga"))
    assert (error.reason, error.metadata["first"]) == ("SECOND_PERSON_NEEDED", "user:olga")
    (record,) = await office.records("promote")
    assert (record.outcome, record.reason) == ("refused", "SECOND_PERSON_NEEDED")
    assert await states(office) == {"builtin": "champion", version: "trained"}
    assert (await promote(office, version, by="user:otto")).state == CHAMPION


async def test_program_is_neither_the_first_nor_the_second_person(office: Office):
    """Who holds its key would be two; what ships is nobody's, and a person may go back to it."""
    trained, made = await a_trained(office), await a_trained(office, by="service:autopilot")
    for version, by in ((trained, "service:autopilot"), (made, "user:otto")):
        error = await refusal(promote(office, version, by=by))
        assert error.reason == "SECOND_PERSON_NEEDED"
        assert "service:autopilot is none" in error.message
    records = await office.records("promote")
    assert [each.reason for each in records] == ["SECOND_PERSON_NEEDED"] * 2
    await promote(office, trained)
    error = await refusal(promote(office, "builtin", by="service:autopilot"))
    assert (error.reason, error.metadata["first"]) == ("SECOND_PERSON_NEEDED", "")
    assert (await promote(office, "builtin", by="user:otto")).state == CHAMPION


async def test_detector_that_was_measured_to_err_is_not_promoted(office: Office):
    """By default above six in a hundred; who asks for less is refused earlier."""
    errs, fits = await a_trained(office, fpr=0.07), await a_trained(office, fpr=0.05)
    error = await refusal(promote(office, errs))
    assert (error.reason, error.metadata["state"]) == ("STATE_CONFLICT", "TRAINED")
    assert (await refusal(promote(office, fits, fpr_max=0.04))).reason == "STATE_CONFLICT"
    records = await office.records("promote")
    assert [(each.outcome, each.reason) for each in records] == [("refused", "STATE_CONFLICT")] * 2
    assert (await promote(office, fits)).state == CHAMPION
    assert (await promote(office, errs, fpr_max=0.1)).state == CHAMPION


async def test_detector_that_finds_less_than_the_champion_is_not_promoted(office: Office):
    """In the mean over the attacks both were measured under; the error says which, and how much."""
    gentle = [Measured("alie", 0.4, 0.6, 0.9, 0.6, 0.03), Measured("new", 1, 1, 1, 1, 0)]
    blind = [Measured("alie", 0.4, 0.58, 0.9, 0.6, 0.03), Measured("silent", *[math.nan] * 5)]
    champion = await a_trained(office, tpr=0.9, found=gentle)
    response = await promoted(office, champion)
    assert response.attacks_compared == 0
    weak = await a_trained(office, tpr=0.7, found=blind)
    error = await refusal(promote(office, weak))
    assert (error.reason, error.code) == ("STATE_CONFLICT", grpc.StatusCode.FAILED_PRECONDITION)
    assert error.message == (
        f"{weak} was measured to find 64.0% of poisoned updates at 5 % false positives,"
        f" {champion}, which is in use, 75.0%: sign-flip 70.0% instead of 90.0%"
    )
    assert error.metadata["beside"] == champion
    assert (await states(office))[champion] == "champion"
    refused = (await office.records("promote"))[-1]
    assert (refused.outcome, refused.reason) == ("refused", "STATE_CONFLICT")
    error = await refusal(promote(office, weak, true_positive_rate_drop_max=0.01))
    assert error.message.endswith("sign-flip 70.0% instead of 90.0%, alie 58.0% instead of 60.0%")
    response = await promoted(office, weak, true_positive_rate_drop_max=0.12)
    assert response.attacks_compared == 2
    (told,) = [r for r in await office.records("promote") if r.details.get("former") == champion]
    assert (told.details["tpr_at_5_fpr"], told.details["tpr_at_5_fpr_former"]) == (
        "0.6400",
        "0.7500",
    )


async def test_detector_that_finds_nearly_as_much_is_promoted(office: Office):
    """Five points less are let through; what was not measured says nothing."""
    await promote(office, await a_trained(office, tpr=0.9))
    assert (await promote(office, await a_trained(office, tpr=0.85))).state == CHAMPION
    assert (await promoted(office, "builtin")).attacks_compared == 0


async def test_what_ships_in_between_makes_nobody_forget_what_was_measured(office: Office):
    """The champion has no figures; the one before it has, and is what a new one is held against."""
    sharp, blind = await a_trained(office, tpr=0.9), await a_trained(office, tpr=0.7)
    for version in (sharp, "builtin"):
        await promote(office, version)
    error = await refusal(promote(office, blind))
    assert error.message.startswith(f"{blind} was measured to find 70.0%")
    assert f"{sharp}, which was in use before, 90.0%" in error.message
    assert (await states(office))["builtin"] == "champion"
    assert (await promoted(office, sharp)).attacks_compared == 1


async def test_policy_sees_how_a_detector_was_measured(office: Office):
    """A condition on the rates holds whoever may promote at all."""
    rule = "p, role:operator, *, /review/detectors, promote, ctx.tpr < 0.8, deny, too-blind\n"
    change = Change(csv=baseline_csv() + rule, actor="user:admin", reason="test")
    await office.revisions.import_rules(change)
    blind, sharp = await a_trained(office, tpr=0.7), await a_trained(office, tpr=0.9)
    error = await refusal(promote(office, blind))
    assert (error.reason, error.metadata["rule_id"]) == ("POLICY_DENIED", "too-blind")
    assert (await promote(office, sharp)).state == CHAMPION


async def test_who_may_only_look_changes_nothing(office: Office):
    """Each of the changing calls has its own permission."""
    version = await a_trained(office)
    await remember(office)
    for call in (
        train(office, by="user:vera"),
        shadow(office, version, by="user:vera"),
        promote(office, version, by="user:vera"),
        promote(office, version, by="user:nobody"),
    ):
        assert (await refusal(call)).reason == "POLICY_DENIED"
    stub = await office.scoring("user:nobody")
    request = pb.GetDetectorRequest(version=version)
    assert (await refusal(stub.GetDetector(request, timeout=10))).reason == "POLICY_DENIED"
    assert await states(office) == {"builtin": "champion", version: "trained"}


async def test_what_is_not_there_is_not_found(office: Office):
    """Whatever one wants with it."""
    stub = await office.scoring("user:olga")
    compare = pb.CompareDetectorsRequest(version="champion", other="v9")
    for call in (
        get(office, "v9"),
        shadow(office, "v9"),
        promote(office, "v9"),
        stub.CompareDetectors(compare, timeout=10),
    ):
        assert (await refusal(call)).reason == "RESOURCE_NOT_FOUND"


async def test_two_replicas_promote_and_one_decides(
    office: Office, office_url: str, office_workers: Workers, tmp_path: Path
):
    """The others are retired, and each names the one before it."""
    versions = [await a_trained(office) for _ in range(4)]
    async with opened(office_url, tmp_path, office_workers) as other:
        await asyncio.gather(
            *(
                promote(at, version)
                for at, version in zip((office, other) * 2, versions, strict=True)
            )
        )
    found = await states(office)
    assert sorted(found.values()) == ["champion", *["retired"] * 4]
    async with office.database.transaction() as connection:
        seen, champion = set(), await store.in_state(connection, "champion")
        while champion is not None:
            seen.add(champion.version)
            champion = await store.find(connection, champion.former) if champion.former else None
    assert seen == {"builtin", *versions}


async def test_database_lets_one_decide(office: Office):
    """Whatever a program believes."""
    version = await a_trained(office)
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with office.database.transaction() as connection:
            await store.set_state(connection, version, "champion")


# Beside the champion.


async def test_shadow_scores_and_decides_nothing(office: Office):
    """Where it differs from the champion is counted."""
    version = await a_trained(office)
    assert (await shadow(office, version)).state == SHADOW
    assert await office.current.shadow() != b""
    assert await office.current.champion() == b""
    await scored(
        office,
        1,
        rejected=SITES[:3],
        shadow_rejects=SITES[2:7],
        shadow_version=version,
    )
    stub = await office.scoring("user:vera")
    found = await answer(
        stub.CompareDetectors(pb.CompareDetectorsRequest(version=version), timeout=10)
    )
    assert (found.detector.version, found.other.version) == (version, "builtin")
    assert (found.both_scored, found.only_first_rejects, found.only_second_rejects) == (16, 4, 2)
    assert (found.detector.scored, found.other.scored) == (0, 16)
    assert found.other.observed_rejection_rate == pytest.approx(3 / 16)


async def test_one_detector_scores_beside_the_champion(office: Office):
    """Another takes its place; it may come back, and it may be promoted."""
    first, second = await a_trained(office), await a_trained(office)
    await shadow(office, first)
    await shadow(office, second)
    assert await states(office) == {"builtin": "champion", first: "trained", second: "shadow"}
    assert (await refusal(shadow(office, second))).reason == "STATE_CONFLICT"
    assert (await refusal(shadow(office, "builtin"))).reason == "STATE_CONFLICT"
    await promote(office, second)
    assert await office.current.shadow() == b""
    await shadow(office, "builtin")
    assert await office.current.shadow() == builtin().encode()
    await shadow(office, first)
    assert (await states(office))["builtin"] == "retired"
    records = await office.records("shadow")
    assert [each.subject_id for each in records] == [first, second, "builtin", first]


async def test_round_that_detectors_cannot_judge_says_nothing_about_them(office: Office):
    """Too few updates, no numbers, or a fallback in which nobody was decided about."""
    await scored(office, 1, sites=SITES[:4], rejected=SITES[:4])
    await scored(office, 2, rejected=SITES, fallback=True)
    await scored(office, 3, rejected=SITES, detector="")
    found = await get(office, "builtin")
    assert (found.scored, found.observed_rejection_rate) == (0, 0)


async def test_detectors_are_listed_newest_first_page_by_page(office: Office):
    """What ships is the oldest."""
    versions = [await a_trained(office) for _ in range(4)]
    stub, found, token = await office.scoring("user:vera"), [], ""
    while True:
        request = pb.ListDetectorsRequest(page_size=2, page_token=token)
        page = await answer(stub.ListDetectors(request, timeout=10))
        found += [each.version for each in page.detectors]
        token = page.next_page_token
        if not token:
            break
    assert found == [*reversed(versions), "builtin"]
    request = pb.ListDetectorsRequest(page_token="nonsense")
    assert (await refusal(stub.ListDetectors(request, timeout=10))).reason == "PAGE_TOKEN_INVALID"


# Taken back.


async def test_champion_that_counts_everybody_out_is_taken_back(
    office: Office, office_url: str, office_workers: Workers, tmp_path: Path
):
    """Once, whoever looks; the one before decides again, and it is on record why."""
    first, second = await a_trained(office), await a_trained(office)
    await promote(office, first)
    await promote(office, second)
    for number in range(1, 9):
        rejected = [name for i, name in enumerate(SITES) if (i + number) % 4 == 0]
        await scored(office, number, rejected=rejected, detector=second)
    async with opened(office_url, tmp_path, office_workers) as other:
        await asyncio.gather(*(at.watch.look() for at in (office, other, office, other)))
    assert await states(office) == {
        "builtin": "retired",
        first: "champion",
        second: "rolled_back",
    }
    taken = await get(office, second)
    assert "of participants in good standing were counted out" in taken.reason
    (record,) = await office.records("roll-back")
    assert (record.actor, record.outcome) == ("server:aegis", "rolled_back")
    assert (record.details["champion"], record.details["reason"]) == (first, taken.reason)
    assert (await refusal(promote(office, second))).reason == "STATE_CONFLICT"
    assert (await refusal(shadow(office, second))).reason == "STATE_CONFLICT"
    counted = sum(
        office_.registry.get_sample_value("aegis_review_detector_rollbacks_total") or 0
        for office_ in (office, other)
    )
    assert counted == 1


async def test_champion_is_not_taken_back_for_finding_attackers(office: Office):
    """A few sites that are always counted out are what it is there for."""
    version = await a_trained(office)
    await promote(office, version)
    for number in range(1, 9):
        await scored(office, number, rejected=SITES[:5], detector=version)
    await office.watch.look()
    assert (await get(office, "champion")).version == version
    rate = office.registry.get_sample_value("aegis_review_detector_rejection_rate")
    assert rate == pytest.approx(5 / 16)


async def test_what_people_accept_against_a_champion_takes_it_back(office: Office):
    """Their word is the only one that says for sure that it erred."""
    version = await a_trained(office)
    await promote(office, version)
    for number in range(1, 5):
        ids = await scored(office, number, rejected=SITES[:2], detector=version)
        async with office.database.transaction() as connection:
            await connection.execute(
                "update aegis.review_update set verdict = 'accepted' where update_id = any(%s)",
                ([ids[name] for name in SITES[:2]],),
            )
    await office.watch.look()
    assert (await get(office, "champion")).version == "builtin"
    assert "accepted by a person" in (await get(office, version)).reason


async def test_roll_back_passes_over_those_that_were_taken_back(office: Office):
    """In the end what ships decides, and that is never taken back."""
    first, second = await a_trained(office), await a_trained(office)
    for version in (first, second, first):
        await promote(office, version)
    assert await office.promotion.roll_back(second, "not the champion") is None
    heir = await office.promotion.roll_back(first, "errs")
    assert heir is not None
    assert heir.version == second
    heir = await office.promotion.roll_back(second, "errs as well")
    assert heir is not None
    assert heir.version == "builtin"
    assert await office.promotion.roll_back("builtin", "errs, too") is None
    assert (await get(office, "champion")).version == "builtin"


async def test_champion_of_another_version_of_the_program_is_taken_back(office: Office):
    """Meanwhile what ships decides: rounds go on, and verdicts say who decided."""
    version = await a_trained(office, file=b"what an older program wrote")
    await promote(office, version)
    assert await office.current.champion() == b""
    await office.watch.look()
    assert (await get(office, "champion")).version == "builtin"
    assert "cannot read its file" in (await get(office, version)).reason


async def test_damaged_champion_judges_nobody(office: Office):
    """A round is not judged by another detector instead, as if nothing had happened."""
    version = await a_trained(office)
    await promote(office, version)
    digest = (await get(office, version)).sha256.hex()
    file = office.folder / "blobs" / digest[:2] / digest
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DataLoss):
        await office.current.champion()


# From a shell.


async def test_detector_comes_into_use_from_a_shell(office: Office):
    """Trained, looked at, watched and promoted; tables for people, JSON for programs."""
    await remember(office)
    await office.train(QUICK)
    trained = await office.aegis("detector", "train", "--dataset", "digits", "-o", "json")
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["state"] == "STATE_TRAINED"
    shown = await office.aegis("detector", "show", "v1")
    assert "sign-flip" in shown.stdout
    assert "learnt from 320 updates" in shown.stdout
    assert "shadow" in (await office.aegis("detector", "shadow", "v1")).stdout
    promoting = ("detector", "promote", "--reason", "try", "--fpr-max", "0.2")
    alone = await office.aegis(*promoting, "v1")
    assert (alone.returncode, "SECOND_PERSON_NEEDED" in alone.stderr) == (1, True)
    assert (await promote(office, "v1", fpr_max=0.2)).state == CHAMPION
    listed = await office.aegis("detector", "list", "-o", "json")
    assert [each["version"] for each in json.loads(listed.stdout)] == ["v1", "builtin"]
    compared = await office.aegis("detector", "compare", "builtin")
    assert "both scored 0 updates" in compared.stdout
    (line,) = (line for line in compared.stdout.splitlines() if line.startswith("sign-flip "))
    assert line.split()[1] == "-"
    builtin = await office.aegis("detector", "show", "builtin")
    assert "it was not measured here" in builtin.stdout
    assert "champion" in (await office.aegis(*promoting, "builtin")).stdout
    missing = await office.aegis("detector", "train", "--dataset", "nobody")
    assert (missing.returncode, "TRAINING_DATA_MISSING" in missing.stderr) == (1, True)
