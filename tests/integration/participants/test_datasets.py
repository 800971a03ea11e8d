"""Data sets: registered once, the same for ever, and what sites say they hold of them."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from tests.integration.participants.house import House, reason

from aegis.errors import AegisError, NotFound, from_rpc_error
from aegis.schemas import message_of
from aegis.v1 import dataset_pb2 as pb
from aegis.v1 import participant_pb2
from aegis_learning.datasets import SCHEMA
from aegis_learning.schema import Categorical, Continuous, Schema
from aegis_server.training.seats.store import enrolled_for

PATIENTS = Schema(
    (Continuous("age", 0, 100), Categorical("sex", ("f", "m"))), "outcome", ("well", "ill")
)
ROWS = [
    f"{'ill' if number % 4 == 0 else 'well'},{number},{'fm'[number % 2]}" for number in range(60)
]


def csv(*rows: str, header: str = "outcome,age,sex") -> bytes:
    return "\n".join((header, *rows, "")).encode()


def registration(**changes: Any) -> pb.RegisterDatasetRequest:
    told = {
        "name": "patients",
        "schema": message_of(PATIENTS),
        "description": "of two wards",
        "provenance": "made up",
        "consent_basis": "none needed",
        "evaluation_csv": csv(*ROWS),
    }
    return pb.RegisterDatasetRequest(**told | changes)


async def register(house: House, **changes: Any) -> pb.Dataset:
    async with house.calling("admin") as call:
        answer = await call(call.datasets.RegisterDataset, registration(**changes))
    return answer.dataset


async def test_registered_data_set_is_split_and_found_again(empty_house: House):
    """By every server, after a restart as well, with the rows in the same two parts."""
    async with empty_house.serving() as server:
        stored = await register(empty_house, golden_share=0.25)
        first = await server.participation.datasets.find("patients")
        assert await server.participation.datasets.find("patients") is first
    async with empty_house.serving() as server:
        again = await server.participation.datasets.find("patients")
    assert (stored.golden_rows, stored.test_rows) == (15, 45)
    assert stored.schema_sha256 == PATIENTS.sha256
    assert stored.owner == "user:admin"
    assert again.schema == PATIENTS
    assert again.train is None
    assert again.public is False
    for before, after in ((first.golden, again.golden), (first.test, again.test)):
        assert np.array_equal(before.x, after.x)
        assert np.array_equal(before.y, after.y)
    # A quarter of the rows is ill, in each part.
    assert again.golden.y.mean() == pytest.approx(0.25, abs=0.04)
    assert again.test.y.mean() == pytest.approx(0.25, abs=0.02)
    ages = {round(float(x[0]), 4) for part in (again.golden, again.test) for x in part.x}
    assert len(ages) == len(ROWS)
    assert again.family("mlp").shapes


async def test_same_content_is_registered_once(house: House):
    """Whoever repeats the call gets what is stored."""
    first = await register(house)
    again = await register(house)
    assert again == first
    records = await house.records("register")
    assert [record.resource for record in records] == ["/training/datasets/patients"]


@pytest.mark.parametrize(
    "change",
    [
        {"description": "of three wards"},
        {"public": True},
        {"golden_share": 0.5},
        {"evaluation_csv": csv(*ROWS[:-1])},
        {"schema": message_of(Schema(PATIENTS.features, "outcome", ("ill", "well")))},
        {"name": "breast-cancer"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_name_never_stands_for_anything_else(house: House, change: dict[str, Any]):
    """Neither one that was registered nor the one that ships."""
    await register(house)
    assert await reason(register(house, **change)) == "STATE_CONFLICT"


@pytest.mark.parametrize(
    ("rows", "row", "column"),
    [
        ((*ROWS, "ill,nan,f"), "62", "age"),
        (("ill,5,x", *ROWS), "2", "sex"),
        ((*ROWS[:9], "dead,5,f", "ill,5,x"), "11", "outcome"),
        (("ill,,f",), "2", "age"),
    ],
)
async def test_row_that_does_not_fit_is_named_without_its_value(
    house: House, rows: tuple[str, ...], row: str, column: str
):
    """The first one; nothing is registered."""
    with pytest.raises(AegisError) as refusal:
        await register(house, evaluation_csv=csv(*rows))
    error = refusal.value
    assert (error.reason, error.metadata) == (
        "DATASET_ROWS_INVALID",
        {"row": row, "column": column},
    )
    assert await house.records("register") == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"evaluation_csv": csv(*ROWS, header="outcome,age,gender")}, "column sex is missing"),
        ({"evaluation_csv": csv()}, "no rows"),
        ({"evaluation_csv": b"\xff\xfe"}, "UTF-8"),
        ({"evaluation_csv": csv("well,1,f", "well,2,f")}, "no row is of class ill"),
        ({"evaluation_csv": csv("well,1,f", "well,2,f", "ill,3,m")}, "too few rows"),
        ({"schema": message_of(Schema(PATIENTS.features, "o", ("a", "b"))), "name": "No"}, "name"),
        ({"golden_share": 0.95}, "golden_share"),
    ],
    ids=["column", "empty", "encoding", "class", "few", "name", "share"],
)
async def test_file_that_cannot_judge_is_refused(house: House, change: dict[str, Any], text: str):
    """Each class has to be in both parts."""
    with pytest.raises(AegisError, match=text) as refusal:
        await register(house, **change)
    assert refusal.value.reason == "FIELD_INVALID"


async def test_schema_that_makes_no_sense_is_refused(house: House):
    """Two columns of one name."""
    schema = message_of(PATIENTS)
    schema.features[1].name = "age"
    with pytest.raises(AegisError, match="two columns have the same name"):
        await register(house, schema=schema)


async def test_sixteen_mebibytes_of_rows_pass_the_doors(house: House):
    """What is larger does not."""
    note = "x" * 100_000
    rows = [f"{ROWS[number % 60]},{note}" for number in range(160)]
    large = csv(*rows, header="outcome,age,sex,note")
    stored = await register(house, evaluation_csv=large)
    assert stored.golden_rows + stored.test_rows == 160
    larger = registration(evaluation_csv=csv(*ROWS) + b" " * (19 * 1024 * 1024))
    async with house.calling("admin") as call:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call.datasets.RegisterDataset(larger, timeout=30)
    assert from_rpc_error(refusal.value).reason == "REQUEST_TOO_LARGE"


async def test_what_ships_is_always_there(house: House):
    """With its schema, and nobody's."""
    await register(house)
    async with house.calling("admin") as call:
        listed = (await call(call.datasets.ListDatasets, pb.ListDatasetsRequest())).datasets
        one = await call(call.datasets.GetDataset, pb.GetDatasetRequest(name="breast-cancer"))
    assert [each.name for each in listed] == ["breast-cancer", "patients"]
    assert one.dataset == listed[0]
    assert one.dataset.schema_sha256 == SCHEMA.sha256
    assert (one.dataset.golden_rows, one.dataset.test_rows, one.dataset.public) == (64, 114, True)
    found = await house.servers[0].participation.datasets.find("breast-cancer")
    assert found.train is not None


async def test_unknown_data_set_is_not_found(house: House):
    """By a caller or by another room."""
    async with house.calling("admin") as call:
        get = call(call.datasets.GetDataset, pb.GetDatasetRequest(name="nothing"))
        assert await reason(get) == "RESOURCE_NOT_FOUND"
    with pytest.raises(NotFound):
        await house.servers[0].participation.datasets.find("nothing")


async def test_damaged_evaluation_rows_are_never_used(empty_house: House):
    """Figures by other rows would be figures about another data set."""
    async with empty_house.serving():
        await register(empty_house)
    blobs = [path for path in (empty_house.folder / "blobs").rglob("*") if len(path.name) == 64]
    blobs[0].write_bytes(blobs[0].read_bytes()[:-1] + b"\x07")
    async with empty_house.serving() as server:
        with pytest.raises(AegisError) as refusal:
            await server.participation.datasets.find("patients")
    assert refusal.value.reason == "DATA_DAMAGED"


def declaration(**changes: Any) -> participant_pb2.DeclareHoldingRequest:
    told = {
        "dataset": "breast-cancer",
        "schema_sha256": SCHEMA.sha256,
        "rows": 80,
        "class_counts": [30, 50],
        "provenance": "ward 3, 2019 to 2024",
    }
    return participant_pb2.DeclareHoldingRequest(**told | changes)


async def test_declared_rows_count_up_to_the_bound_of_the_invitation(house: House):
    """A site that says it has a million rows weighs as much as whoever invited it allowed."""
    site = await house.joined()
    async with house.calling(site.identity) as call:
        few = await call(call.participants.DeclareHolding, declaration())
        many = await call(
            call.participants.DeclareHolding, declaration(rows=1_000_000, class_counts=[])
        )
    assert (few.holding.rows, few.holding.examples) == (80, 80)
    assert (many.holding.rows, many.holding.examples) == (1_000_000, 100)
    base = house.servers[0].base
    async with base.database.transaction() as connection:
        [one] = await enrolled_for(connection, "run-1", "breast-cancer", [])
    assert (one.name, one.examples) == ("hospital-a", 100)
    assert one.node_id > 1000
    actions = [(r.actor, r.details["rows"]) for r in await house.records("declare")]
    assert actions == [("participant:hospital-a", "80"), ("participant:hospital-a", "1000000")]


async def test_revoked_and_silent_participants_are_no_sites(house: House):
    """Nor is one that is only invited."""
    await house.invite("invited")
    await house.joined("silent")
    site = await house.joined("gone")
    async with house.calling(site.identity) as call:
        await call(call.participants.DeclareHolding, declaration())
    async with house.calling("admin") as call:
        request = participant_pb2.RevokeParticipantRequest(name="gone", reason="left")
        await call(call.participants.RevokeParticipant, request)
    base = house.servers[0].base
    async with base.database.transaction() as connection:
        assert await enrolled_for(connection, "run-1", "breast-cancer", []) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schema_sha256": bytes(32)}, "schema_sha256"),
        ({"dataset": "patients", "schema_sha256": PATIENTS.sha256}, "dataset"),
        ({"dataset": "nothing"}, "dataset"),
        ({"class_counts": [80]}, "class_counts"),
        ({"class_counts": [1, 2]}, "class_counts"),
        ({"rows": 0}, "rows"),
        ({"class_counts": [-1, 81]}, "class_counts"),
    ],
    ids=["schema", "not-invited", "unknown", "classes", "sum", "none", "negative"],
)
async def test_holding_that_makes_no_sense_is_refused(
    house: House, change: dict[str, Any], field: str
):
    """By the field that is to blame."""
    await register(house)
    site = await house.joined()
    async with house.calling(site.identity) as call:
        with pytest.raises(AegisError) as refusal:
            await call(call.participants.DeclareHolding, declaration(**change))
    assert refusal.value.reason == "FIELD_INVALID"
    assert refusal.value.violations[0].field.startswith(field)


async def test_noised_counts_need_not_add_up(house: House):
    """Each has noise of its own."""
    site = await house.joined()
    async with house.calling(site.identity) as call:
        answer = await call(
            call.participants.DeclareHolding, declaration(noised=True, class_counts=[31, 47])
        )
    assert answer.holding.noised


async def test_holdings_are_shown_to_operators_and_to_their_own_site(house: House):
    """How many patients another hospital has is not a participant's business."""
    for name in ("hospital-a", "hospital-b"):
        site = await house.joined(name)
        async with house.calling(site.identity) as call:
            await call(call.participants.DeclareHolding, declaration())
    seen = {}
    for who in ("admin", site.identity):
        async with house.calling(who) as call:
            request = pb.GetDatasetRequest(name="breast-cancer")
            found = (await call(call.datasets.GetDataset, request)).dataset
        seen[str(who)] = [holding.participant for holding in found.holdings]
    assert list(seen.values()) == [["hospital-a", "hospital-b"], ["hospital-b"]]
    async with house.calling("admin") as call:
        request = participant_pb2.GetParticipantRequest(name="hospital-a")
        shown = (await call(call.participants.GetParticipant, request)).participant
    assert [holding.dataset for holding in shown.holdings] == ["breast-cancer"]
