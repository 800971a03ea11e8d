"""Golden sets: what is taken, who may put it in use, and what rounds are given."""

from __future__ import annotations

import asyncio
import json
import pickle
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
import psycopg
import pytest
import safetensors.numpy
from tests.office import Office, answer, opened, refusal

from aegis.errors import DataLoss
from aegis.v1 import golden_set_pb2 as pb
from aegis.v1 import training_pb2
from aegis_learning import parameters, rowfiles
from aegis_learning.datasets import Split, load
from aegis_learning.models import family
from aegis_learning.schema import Categorical, Continuous, Schema
from aegis_policy.baseline import baseline_csv
from aegis_server.participants.datasets.catalogue import Registration
from aegis_server.policy.revisions import Change
from aegis_server.review.golden import store
from aegis_server.workers import Workers

CANCER = load("breast-cancer")
GoldenSet = pb.GoldenSet
DRAFT, FROZEN, ACTIVE, RETIRED = 1, 2, 3, 4
WARD = Schema(
    (Continuous("age", 0, 100), Categorical("sex", ("f", "m"))), "outcome", ("well", "ill")
)


def ward_rows(count: int = 40, seed: int = 1) -> Split:
    random = np.random.default_rng(seed)
    sex = np.where(random.random(count) < 0.5, -1.0, 1.0)
    x = np.stack([random.uniform(-1, 1, count), sex, -sex], axis=1).astype(np.float32)
    return Split(x, np.arange(count, dtype=np.int64) % 2)


def cancer_rows(count: int = 60, start: int = 0) -> Split:
    return CANCER.shared.take(np.arange(start, start + count))


def stream(
    data: bytes, dataset: str = "breast-cancer", chunk: int = 4096, **header: Any
) -> list[pb.CreateGoldenSetRequest]:
    fields = {
        "dataset": dataset,
        "description": "of the ward",
        "sha256": parameters.digest(data),
        "size_bytes": len(data),
    } | header
    return [
        pb.CreateGoldenSetRequest(header=pb.CreateGoldenSetRequest.Header(**fields)),
        *(
            pb.CreateGoldenSetRequest(chunk=data[at : at + chunk])
            for at in range(0, len(data), chunk)
        ),
    ]


async def create(
    office: Office, rows: Split | None = None, by: str = "user:olga", **header: Any
) -> GoldenSet:
    stub = await office.golden_sets(by)
    parts = stream(rowfiles.encode(rows or cancer_rows()), **header)
    created: GoldenSet = (await answer(stub.CreateGoldenSet(iter(parts), timeout=20))).golden_set
    return created


async def freeze(office: Office, name: str, by: str = "user:olga") -> GoldenSet:
    stub = await office.golden_sets(by)
    request = pb.FreezeGoldenSetRequest(golden_set_id=name)
    frozen: GoldenSet = (await answer(stub.FreezeGoldenSet(request, timeout=10))).golden_set
    return frozen


async def promote(
    office: Office, name: str, by: str = "user:otto", reason: str = "newer rows"
) -> GoldenSet:
    stub = await office.golden_sets(by)
    request = pb.PromoteGoldenSetRequest(golden_set_id=name, reason=reason)
    promoted: GoldenSet = (await answer(stub.PromoteGoldenSet(request, timeout=10))).golden_set
    return promoted


async def get(office: Office, name: str) -> GoldenSet:
    stub = await office.golden_sets("user:vera")
    request = pb.GetGoldenSetRequest(golden_set_id=name)
    found: GoldenSet = (await answer(stub.GetGoldenSet(request, timeout=10))).golden_set
    return found


async def a_frozen(office: Office, rows: Split | None = None, **header: Any) -> str:
    created = await create(office, rows, **header)
    return (await freeze(office, created.golden_set_id)).golden_set_id


async def register_ward(office: Office, by: str = "user:olga") -> None:
    rows = "\n".join(f"{'ill' if i % 2 else 'well'},{i},{'fm'[i % 3 % 2]}" for i in range(60))
    asked = Registration(
        name="ward",
        schema=WARD,
        description="",
        provenance="made up",
        consent_basis="none needed",
        public=False,
        evaluation_csv=f"outcome,age,sex\n{rows}\n".encode(),
        golden_share=0.5,
    )
    await office.datasets.register(asked, actor=by)


# What is taken in.


async def test_rows_become_a_draft_that_nobody_uses(office: Office):
    """Counted by class, named by their digest, encrypted where they lie, and on record."""
    rows = cancer_rows()
    draft = await create(office, rows)
    assert (draft.golden_set_id, draft.version, draft.state) == ("breast-cancer@1", 1, DRAFT)
    assert draft.sha256 == parameters.digest(rowfiles.encode(rows))
    assert list(draft.class_counts) == np.bincount(rows.y).tolist()
    assert (draft.rows, draft.created_by) == (60, "user:olga")
    assert await office.golden.active("breast-cancer") is None
    (record,) = await office.records()
    assert (record.action, record.outcome) == ("create", "draft")
    assert record.resource == "/review/golden-sets/breast-cancer@1"
    assert record.details["sha256"] == draft.sha256.hex()
    for file in (office.folder / "blobs").rglob("*"):
        assert file.is_dir() or rows.x[0].tobytes() not in file.read_bytes()


async def test_same_rows_again_return_the_version_that_has_them(office: Office):
    """Whatever else the file carries, and however many send it at once."""
    first = await create(office)
    arrays = {"y": cancer_rows().y, "x": cancer_rows().x}
    other = safetensors.numpy.save(arrays, metadata={"made": "by somebody else"})
    stub = await office.golden_sets("user:otto")
    again = await answer(stub.CreateGoldenSet(iter(stream(other)), timeout=20))
    assert again.golden_set == first
    at_once = await asyncio.gather(*(create(office, cancer_rows(50)) for _ in range(4)))
    assert {each.version for each in at_once} == {2}
    assert [record.outcome for record in await office.records("create")] == ["draft", "draft"]


async def test_rows_a_data_set_came_with_are_its_version_zero(office: Office):
    """Sending them again makes no other version."""
    found = await create(office, CANCER.golden)
    assert (found.version, found.state, found.created_by) == (0, ACTIVE, "")
    assert not found.HasField("create_time")
    assert await office.records() == []


async def test_rows_that_do_not_fit_the_schema_are_refused(office: Office):
    """The first row and its column are named, never a value; nothing is stored."""
    await register_ward(office)
    outside, unknown, few = ward_rows(), ward_rows(), ward_rows()
    outside.x[7, 0] = 1.5
    unknown.y[9] = 2
    few.y[:] = np.arange(40) < 4
    wrong = {
        ("8", "age"): rowfiles.encode(outside),
        # A class no model of this data set has an output for.
        ("10", "outcome"): rowfiles.encode(unknown),
        ("0", "outcome"): rowfiles.encode(few),
        ("0", ""): pickle.dumps({"x": [1.0]}),
    }
    stub = await office.golden_sets()
    for place, data in wrong.items():
        error = await refusal(stub.CreateGoldenSet(iter(stream(data, "ward")), timeout=20))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.reason == "DATASET_ROWS_INVALID"
        assert (error.metadata["row"], error.metadata["column"]) == place
    records = await office.records("create")
    assert {(each.outcome, each.reason) for each in records} == {
        ("refused", "DATASET_ROWS_INVALID")
    }
    versions = await office.golden.page(dataset="ward", before=None, limit=10)
    assert [each.version for each in versions] == [0]


async def test_stream_out_of_form_is_refused(office: Office):
    """Header first, once; then chunks, none empty; then exactly what was announced."""
    data = rowfiles.encode(cancer_rows())
    header, *chunks = stream(data)
    streams = {
        "nothing": ([], "FIELD_INVALID"),
        "no header": (chunks, "FIELD_INVALID"),
        "second header": ([header, chunks[0], header], "FIELD_INVALID"),
        "empty chunk": ([header, pb.CreateGoldenSetRequest(chunk=b"")], "FIELD_INVALID"),
        "oversize chunk": (
            [header, pb.CreateGoldenSetRequest(chunk=bytes(65537))],
            "FIELD_INVALID",
        ),
        "breaks off": ([header, *chunks[:-1]], "DIGEST_MISMATCH"),
        "too much": ([header, *chunks, chunks[0]], "DIGEST_MISMATCH"),
        "other digest": (stream(data, sha256=bytes(32)), "DIGEST_MISMATCH"),
        "unknown data set": (stream(data, "nobody"), "RESOURCE_NOT_FOUND"),
        "too large": (stream(data, size_bytes=2_000_000), "REQUEST_TOO_LARGE"),
    }
    stub = await office.golden_sets()
    for name, (parts, reason) in streams.items():
        error = await refusal(stub.CreateGoldenSet(iter(parts), timeout=20))
        assert (name, error.reason) == (name, reason)
    assert [
        each.version for each in await office.golden.page(dataset="", before=None, limit=9)
    ] == [0]


# Who puts rows in use.


async def test_promoted_rows_are_what_rounds_are_given(office: Office):
    """With their digest; the version before is out of use, and can come back."""
    rows = cancer_rows()
    name = await a_frozen(office, rows)
    promoted = await promote(office, name)
    assert (promoted.state, promoted.promoted_by) == (ACTIVE, "user:otto")
    found = await office.golden.active("breast-cancer")
    assert found is not None
    assert np.array_equal(found[0].x, rows.x)
    assert np.array_equal(found[0].y, rows.y)
    assert found[1] == promoted.sha256
    assert (await get(office, "breast-cancer@0")).state == RETIRED
    (record,) = await office.records("promote")
    assert (record.outcome, record.actor) == ("active", "user:otto")
    assert (record.details["former"], record.details["reason"]) == (
        "breast-cancer@0",
        "newer rows",
    )
    assert (await promote(office, "breast-cancer@0", by="user:olga")).state == ACTIVE
    assert await office.golden.active("breast-cancer") is None


async def test_nobody_promotes_rows_they_brought(office: Office):
    """Whoever chooses the rows does not decide alone that they judge."""
    name = await a_frozen(office)
    stub = await office.golden_sets("user:olga")
    request = pb.PromoteGoldenSetRequest(golden_set_id=name, reason="mine")
    error = await refusal(stub.PromoteGoldenSet(request, timeout=10))
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert (error.reason, error.metadata["first"]) == ("SECOND_PERSON_NEEDED", "user:olga")
    (record,) = await office.records("promote")
    assert (record.outcome, record.reason) == ("refused", "SECOND_PERSON_NEEDED")
    assert (await get(office, name)).state == FROZEN


async def test_program_neither_brings_nor_promotes_rows_that_are_used(office: Office):
    """Who holds its key would be two; going back to what shipped takes one person."""
    name = await a_frozen(office)
    error = await refusal(promote(office, name, by="service:autopilot"))
    assert (error.reason, error.metadata["first"]) == ("SECOND_PERSON_NEEDED", "user:olga")
    assert (await promote(office, name)).state == ACTIVE
    error = await refusal(promote(office, "breast-cancer@0", by="service:autopilot"))
    assert error.reason == "SECOND_PERSON_NEEDED"
    assert (await promote(office, "breast-cancer@0")).state == ACTIVE
    async with office.database.transaction() as connection:
        await connection.execute(
            "update aegis.golden_set set created_by = 'service:autopilot' where version = 1"
        )
    error = await refusal(promote(office, name))
    assert (error.reason, error.metadata["first"]) == ("SECOND_PERSON_NEEDED", "service:autopilot")
    assert "service:autopilot is none" in error.message


async def test_rows_a_program_registered_can_come_back(office: Office):
    """They judged before anybody decided, so one person may go back to them; a program may not."""
    await register_ward(office, by="service:autopilot")
    name = await a_frozen(office, ward_rows(), dataset="ward")
    await promote(office, name)
    error = await refusal(promote(office, "ward@0", by="service:autopilot"))
    assert error.reason == "SECOND_PERSON_NEEDED"
    assert (await promote(office, "ward@0")).state == ACTIVE


async def test_rows_that_may_still_change_are_not_promoted(office: Office):
    """Frozen first, by anybody who may; what is frozen is not frozen again."""
    name = (await create(office)).golden_set_id
    error = await refusal(promote(office, name))
    assert (error.reason, error.metadata["state"]) == ("STATE_CONFLICT", "DRAFT")
    assert (await freeze(office, name)).state == FROZEN
    assert (await refusal(freeze(office, name))).reason == "STATE_CONFLICT"
    assert (await promote(office, name)).state == ACTIVE
    error = await refusal(promote(office, name))
    assert (error.reason, error.metadata["state"]) == ("STATE_CONFLICT", "ACTIVE")


async def test_policy_sees_what_is_to_be_promoted_and_why(office: Office):
    """A condition on the rows holds whoever may promote at all."""
    rule = "p, role:operator, *, /review/golden-sets, promote, ctx.rows < 60, deny, too-few\n"
    change = Change(csv=baseline_csv() + rule, actor="user:admin", reason="test")
    await office.revisions.import_rules(change)
    name = await a_frozen(office, cancer_rows(50))
    error = await refusal(promote(office, name))
    assert (error.reason, error.metadata["rule_id"]) == ("POLICY_DENIED", "too-few")
    assert (await promote(office, await a_frozen(office, cancer_rows(60)))).state == ACTIVE


async def test_who_may_only_look_changes_nothing(office: Office):
    """Each of the changing calls has its own permission."""
    name = await a_frozen(office)
    calls = (
        create(office, by="user:vera"),
        freeze(office, name, by="user:vera"),
        promote(office, name, by="user:vera"),
        create(office, by="user:nobody"),
    )
    for call in calls:
        assert (await refusal(call)).reason == "POLICY_DENIED"
    stub = await office.golden_sets("user:nobody")
    request = pb.GetGoldenSetRequest(golden_set_id=name)
    assert (await refusal(stub.GetGoldenSet(request, timeout=10))).reason == "POLICY_DENIED"


async def test_what_is_not_there_is_not_found(office: Office):
    """Whatever is wrong with the name."""
    for name in ("breast-cancer@7", "nobody@0", "breast-cancer", "breast-cancer@-1", "@0", "a@b@0"):
        for call in (get(office, name), freeze(office, name), promote(office, name)):
            assert (await refusal(call)).reason == "RESOURCE_NOT_FOUND"


async def test_two_replicas_promote_and_one_version_is_in_use(
    office: Office, office_url: str, office_workers: Workers
):
    """The last one stays; both servers give rounds the same rows."""
    names = [await a_frozen(office, cancer_rows(50 + more)) for more in range(4)]
    async with opened(office_url, office.folder, office_workers) as other:
        replicas = (office, other, office, other)
        promoted = await asyncio.gather(
            *(promote(at, name) for at, name in zip(replicas, names, strict=True))
        )
        assert [each.state for each in promoted] == [ACTIVE] * 4
        here, there = await asyncio.gather(
            office.golden.active("breast-cancer"), other.golden.active("breast-cancer")
        )
    assert here is not None
    assert there is not None
    assert here[1] == there[1]
    versions = await office.golden.page(dataset="breast-cancer", before=None, limit=10)
    assert sorted(each.state for each in versions) == ["active", *["retired"] * 4]


async def test_database_lets_one_version_be_in_use(office: Office):
    """Whatever a program believes."""
    await a_frozen(office)
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with office.database.transaction() as connection:
            await store.set_state(connection, "breast-cancer", 1, "active")


async def test_rows_that_were_damaged_judge_nobody(office: Office):
    """A round is not judged with other rows instead."""
    promoted = await promote(office, await a_frozen(office))
    digest = promoted.sha256.hex()
    file = office.folder / "blobs" / digest[:2] / digest
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DataLoss):
        await office.golden.active("breast-cancer")


# Looking at them.


async def test_versions_are_listed_newest_first_page_by_page(office: Office):
    """What a data set came with is there without anybody's doing, and is the oldest."""
    await register_ward(office)
    for more in range(3):
        await create(office, cancer_rows(50 + more))
    await create(office, ward_rows(), dataset="ward")
    stub, found, token = await office.golden_sets("user:vera"), [], ""
    while True:
        request = pb.ListGoldenSetsRequest(page_size=2, page_token=token)
        page = await answer(stub.ListGoldenSets(request, timeout=10))
        found += [each.golden_set_id for each in page.golden_sets]
        token = page.next_page_token
        if not token:
            break
    cancer = [f"breast-cancer@{version}" for version in (3, 2, 1)]
    assert found == ["ward@1", *cancer, "ward@0", "breast-cancer@0"]
    only = await answer(stub.ListGoldenSets(pb.ListGoldenSetsRequest(dataset="ward"), timeout=10))
    assert [each.golden_set_id for each in only.golden_sets] == ["ward@1", "ward@0"]
    for wrong in ("nonsense", page.next_page_token or "e30"):
        request = pb.ListGoldenSetsRequest(page_token=wrong)
        assert (await refusal(stub.ListGoldenSets(request, timeout=10))).reason == (
            "PAGE_TOKEN_INVALID"
        )


async def test_comparison_says_what_changes(office: Office):
    """Rows in common, and how far each feature's distribution is apart."""
    await register_ward(office)
    rows = ward_rows()
    older = Split(rows.x.copy(), rows.y)
    older.x[:, 0] = np.abs(older.x[:, 0])
    first = await create(office, rows, dataset="ward")
    second = await create(office, older, dataset="ward")
    stub = await office.golden_sets("user:vera")
    request = pb.CompareGoldenSetsRequest(
        golden_set_id=first.golden_set_id, other_id=second.golden_set_id
    )
    found = await answer(stub.CompareGoldenSets(request, timeout=10))
    assert (found.golden_set, found.other) == (first, second)
    assert found.rows_in_common == (rows.x[:, 0] >= 0).sum()
    distances = {each.feature: each.distance for each in found.differences}
    assert distances["age"] == pytest.approx((rows.x[:, 0] < 0).mean(), abs=0.1)
    assert distances["sex"] == 0
    assert not found.HasField("tried")
    request = pb.CompareGoldenSetsRequest(golden_set_id=first.golden_set_id)
    in_use = await answer(stub.CompareGoldenSets(request, timeout=10))
    assert in_use.other.golden_set_id == "ward@0"


async def test_comparison_tries_a_runs_newest_model_on_both(office: Office):
    """As that model does on the rows, which stay here."""
    rows, net = cancer_rows(), family("logistic", 30, 2)
    params = net.initial(3)
    await a_run(office, "run-1", parameters.encode(params))
    name = (await create(office, rows)).golden_set_id
    stub = await office.golden_sets("user:vera")
    request = pb.CompareGoldenSetsRequest(golden_set_id=name, run_id="run-1")
    found = await answer(stub.CompareGoldenSets(request, timeout=10))
    right = (net.logits(params, rows.x).argmax(axis=1) == rows.y).mean()
    assert found.tried.accuracy == pytest.approx(right)
    assert found.tried.loss > 0
    there = net.logits(params, CANCER.golden.x).argmax(axis=1) == CANCER.golden.y
    assert found.other_tried.accuracy == pytest.approx(there.mean())


async def test_comparison_of_what_does_not_belong_together_is_refused(office: Office):
    """Two data sets, a run about another one, a run without a model."""
    await register_ward(office)
    await a_run(office, "run-1", parameters.encode(family("logistic", 30, 2).initial(3)))
    stub = await office.golden_sets("user:vera")
    for fields, reason in (
        ({"golden_set_id": "ward@0", "other_id": "breast-cancer@0"}, "FIELD_INVALID"),
        ({"golden_set_id": "ward@0", "run_id": "run-1"}, "FIELD_INVALID"),
        ({"golden_set_id": "ward@0", "run_id": "run-2"}, "RESOURCE_NOT_FOUND"),
        ({"golden_set_id": "ward@0", "other_id": "ward@9"}, "RESOURCE_NOT_FOUND"),
    ):
        request = pb.CompareGoldenSetsRequest(**fields)
        assert (await refusal(stub.CompareGoldenSets(request, timeout=10))).reason == reason


async def a_run(office: Office, run_id: str, model: bytes) -> None:
    """A run of breast cancer that has one model."""
    plan = training_pb2.RunPlan(dataset="breast-cancer", model="logistic")
    digest = await office.blobs.put(model)
    async with office.database.transaction() as connection:
        await connection.execute(
            "insert into aegis.run (run_id, request_id, plan, state, actor, policy_revision,"
            " rule_id, noise_multiplier, created_at, updated_at) values"
            " (%s, gen_random_uuid(), %s, 3, 'user:olga', 1, 'r', 1, now(), now())",
            (run_id, plan.SerializeToString()),
        )
        await connection.execute(
            "insert into aegis.run_round (run_id, round, attempt, model_sha256, accuracy, loss,"
            " epsilon, steps, completed_at) values (%s, 0, 1, %s, 0, 0, 0, 0, now())",
            (run_id, digest),
        )
        await connection.execute(
            "insert into aegis.model (model_sha256, run_id, round, size_bytes, created_at,"
            " code_version, ingredients, key_id) values (%s, %s, 0, %s, %s, '1', %s, 'k')",
            (digest, run_id, len(model), datetime.now(UTC), json.dumps([])),
        )


# From a shell.


async def test_rows_of_a_csv_file_come_into_use_from_a_shell(office: Office):
    """Created by one, frozen and promoted by another; tables for people, JSON for programs."""
    await register_ward(office)
    file = office.folder / "rows.csv"
    lines = [f"{'ill' if i % 2 else 'well'},{i + 0.5},{'fm'[i % 2]}" for i in range(30)]
    file.write_text("\n".join(["outcome,age,sex", *lines, ""]))
    created = await office.aegis(
        *(
            "golden",
            "create",
            str(file),
            "--dataset",
            "ward",
            "--description",
            "ward 7",
            "-o",
            "json",
        )
    )
    assert created.returncode == 0, created.stderr
    assert json.loads(created.stdout)["golden_set_id"] == "ward@1"
    assert json.loads(created.stdout)["class_counts"] == [15, 15]
    frozen = await office.aegis("golden", "freeze", "ward@1")
    assert "frozen" in frozen.stdout
    refused = await office.aegis("golden", "promote", "ward@1", "--reason", "mine")
    assert (refused.returncode, "SECOND_PERSON_NEEDED" in refused.stderr) == (1, True)
    await promote(office, "ward@1", by="user:olga")
    shown = await office.aegis("golden", "show", "ward@active")
    assert "promoted by user:olga" in shown.stdout
    listed = await office.aegis("golden", "list", "--dataset", "ward", "-o", "json")
    assert [each["state"] for each in json.loads(listed.stdout)] == [
        "STATE_ACTIVE",
        "STATE_RETIRED",
    ]
    compared = await office.aegis("golden", "compare", "ward@0")
    assert "rows in common" in compared.stdout
    assert "age" in compared.stdout


async def test_row_of_a_csv_file_that_does_not_fit_is_named(office: Office):
    """Before anything is sent."""
    file = office.folder / "rows.csv"
    await register_ward(office)
    file.write_text("outcome,age,sex\nill,5,f\nill,old,f\n")
    done = await office.aegis("golden", "create", str(file), "--dataset", "ward")
    assert done.returncode == 2
    assert "row 3, age: is not a number" in done.stderr
