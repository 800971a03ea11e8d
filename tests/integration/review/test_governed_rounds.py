"""A round that is really judged, with the golden rows and the detectors that people put in use."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from tests.integration.review.test_detectors import a_trained, promote, shadow
from tests.integration.review.test_golden_sets import a_frozen
from tests.integration.review.test_golden_sets import promote as promote_rows
from tests.office import Office, answer
from tests.reviewing import Making, desks_for
from tests.unit.review.factories import a_round

from aegis.serving.doors import Call, Grant
from aegis.spiffe import Caller
from aegis.v1 import detector_pb2 as pb
from aegis_learning.datasets import load
from aegis_learning.parameters import digest
from aegis_server.review import store
from aegis_server.review.case import Verdict
from aegis_server.review.cases import Rooms
from aegis_server.review.detection import Detector, builtin
from aegis_server.review.updates import Base

CASE = a_round(sites=10, s3="sign-flip")
COORDINATOR = Call(
    "/aegis.v1.ReviewService/ReviewRound",
    Caller("service:coordinator", "spiffe://aegis.local/service/coordinator"),
    Grant(1, "r"),
)


class OneRun:
    """The training room's answer for any round."""

    def __init__(self, base: Base) -> None:
        self.base = base

    async def base_of(self, run_id: str, round: int) -> Base:  # noqa: A002
        """Every round starts from the same model."""
        return self.base


async def test_round_is_judged_with_what_is_in_use(office: Office):
    """Verdicts name the rows and the detector; the shadow's scores are kept beside."""
    rows = await promote_rows(office, await a_frozen(office))
    champion, beside = [
        await a_trained(office, file=Detector(version, 0.03, builtin().regimes).encode())
        for version in ("v1", "v2")
    ]
    await promote(office, champion)
    await shadow(office, beside)
    async with AsyncExitStack() as stack:
        base = Base(
            load("breast-cancer"),
            CASE.family.name,
            await office.blobs.put(CASE.base),
            examples={each.update_id: each.examples for each in CASE.submissions},
        )
        making = Making(
            office.database,
            office.audit,
            office.blobs,
            OneRun(base),
            office.decisions,
            office.clock,
            desks_for(stack),
            office.deeds,
            rooms=Rooms(golden=office.golden, detectors=office.current),
        )
        room, key = making.room(), store.RoundKey("run-1", 1, 1)
        async with office.database.transaction() as connection:
            await store.open_round(connection, key)
            for each in CASE.submissions:
                await office.blobs.put(each.data)
                await store.insert(
                    connection,
                    key,
                    update_id=f"upd-{each.update_id}",
                    participant=each.update_id,
                    enrolled=True,
                    sha256=digest(each.data),
                    size_bytes=len(each.data),
                    by="service:coordinator",
                    now=office.clock(),
                )
        await room.rounds.ask(key, COORDINATOR)
        judged = (await room.rounds.judged(key)).updates
        await office.deeds.drain()
    assert {each.detector for each in judged} == {champion}
    assert {each.golden_sha256 for each in judged} == {rows.sha256}
    rejected = {each.participant for each in judged if each.verdict is Verdict.REJECTED}
    assert "s3" in rejected
    stub = await office.scoring("user:vera")
    request = pb.CompareDetectorsRequest(version=beside)
    found = await answer(stub.CompareDetectors(request, timeout=10))
    assert (found.both_scored, found.only_first_rejects, found.only_second_rejects) == (10, 0, 0)
    assert (found.detector.scored, found.other.scored) == (0, 10)
    scores = await scores_of(office, champion), await scores_of(office, beside)
    # The same numbers under another name: they say the same about everybody.
    assert scores[0] == pytest.approx(scores[1])
    assert max(scores[0], key=scores[0].__getitem__) == "upd-s3"


async def scores_of(office: Office, version: str) -> dict[str, float]:
    async with office.database.transaction() as connection:
        cursor = await connection.execute(
            "select update_id, score from aegis.review_score where detector = %s", (version,)
        )
        return dict(await cursor.fetchall())
