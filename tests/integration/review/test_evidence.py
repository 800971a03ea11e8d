"""Evidence from the verdict to the auditor: on real Postgres, drawn in real worker processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import CollectorRegistry
from tests.auditing import START, Keys, Written, entry
from tests.blobs import blobs_in
from tests.doors import DoorsFor
from tests.reviewing import Making
from tests.unit.review.bundles import RUN, a_named_round, undrawn, undrawn_slowly
from tests.unit.review.factories import DATASET
from typer.testing import CliRunner, Result

from aegis import algorithms
from aegis.cli.main import app
from aegis.errors import AegisError, NotFound, from_rpc_error
from aegis.evidence.archive import pack, unpack
from aegis.evidence.verification import Check, verify_bundle
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Grant
from aegis.spiffe import Caller
from aegis.trust import REVIEW_EVIDENCE, TrustBundle, TrustedKey
from aegis.v1 import audit_pb2, review_pb2, review_pb2_grpc
from aegis_server.objects.blobs import BlobStore
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Revisions
from aegis_server.review.case import Submission
from aegis_server.review.desks import Desks
from aegis_server.review.evidence.bundle import drawn
from aegis_server.review.evidence.downloads import Draw
from aegis_server.review.evidence.numbers import numbers
from aegis_server.review.isolation import Examining
from aegis_server.review.population import Population
from aegis_server.review.service import ReviewService
from aegis_server.review.updates import Base
from aegis_server.review.vetting import vet
from aegis_server.workers import Workers

CALLER = Caller("service:coordinator", "spiffe://aegis.local/service/coordinator")
CASE = a_named_round(s3="sign-flip")
RULING = vet(CASE)
NUMBERS = numbers(CASE, RULING, Population(CASE))
KEY, LOG = Ed25519PrivateKey.generate(), Keys()
MADE = review_pb2.DownloadEvidenceRequest(update_id="s3")


class Runs:
    """The training room's answer for one run."""

    def __init__(self, base: Base) -> None:
        self._base = base

    async def base_of(self, run_id: str, round: int) -> Base:  # noqa: A002
        """Knows one run."""
        if run_id != RUN:
            raise NotFound("RESOURCE_NOT_FOUND", f"there is no run {run_id}", resource=run_id)
        return self._base


@dataclass
class Room:
    """The served rpc, and what is behind it."""

    stub: review_pb2_grpc.ReviewServiceStub
    log: Written
    blobs: BlobStore
    folder: Path

    async def parts(self, update_id: str = "s3") -> list[review_pb2.DownloadEvidenceResponse]:
        """Everything that comes; raises the server's error."""
        request = review_pb2.DownloadEvidenceRequest(update_id=update_id)
        try:
            return [part async for part in self.stub.DownloadEvidence(request, timeout=120)]
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def bundle(self, update_id: str = "s3") -> bytes:
        """The bundle's bytes."""
        return b"".join(part.chunk for part in await self.parts(update_id))

    async def refusal(self, update_id: str = "s3") -> AegisError:
        """Why there is none."""
        with pytest.raises(AegisError) as refused:
            await self.parts(update_id)
        return refused.value

    async def execute(self, statement: str, *values: object) -> None:
        """Changes what is stored."""
        async with self.log.database.transaction() as connection:
            await connection.execute(statement, values)

    async def records(self, action: str) -> list[audit_pb2.AuditRecord]:
        """Audit records of one action."""
        stored = [audit_pb2.AuditRecord.FromString(each.record) for each in await self.log.stored()]
        return [record for record in stored if record.action == action]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    started = Workers(1)
    yield started
    started.close()


@asynccontextmanager
async def serving(
    database: Database,
    folder: Path,
    workers: Workers,
    *,
    key: Ed25519PrivateKey | None = KEY,
    draw: Draw = undrawn,
) -> AsyncIterator[Room]:
    log, blobs, deeds = Written(database, keys=LOG), blobs_in(folder / "blobs"), Deeds()
    decisions = Decisions(database, cache=None, clock=log.clock, registry=CollectorRegistry())
    revisions = Revisions(database, audit=log.audit, decisions=decisions, clock=log.clock)
    await revisions.ensure_first()
    await decisions.open()
    examples = {each.participant: each.examples for each in CASE.submissions}
    base = Base(DATASET, CASE.family.name, await blobs.put(CASE.base), examples=examples)
    with ExitStack() as stack:
        desks = Desks(1)
        stack.callback(desks.close)
        making = Making(
            *(database, log.audit, blobs, Runs(base), decisions, log.clock, desks, deeds),
            examining=Examining(vet, 60.0, numbers),
            workers=workers,
            evidence_key=key,
            draw=draw,
        )
        writer = asyncio.create_task(log.audit.run())
        async with served(making.service(), folder) as stub:
            yield Room(stub, log, blobs, folder)
        await deeds.drain()
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


@asynccontextmanager
async def served(
    service: ReviewService, folder: Path
) -> AsyncIterator[review_pb2_grpc.ReviewServiceStub]:
    async def admit(method: str, caller: Caller) -> Grant:
        return Grant(revision=7, rule_id="auditor-reads-evidence")

    server = grpc.aio.server(interceptors=[DoorsFor(CALLER, admit)])
    review_pb2_grpc.add_ReviewServiceServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{folder}/evidence.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{folder}/evidence.sock") as channel:
        yield review_pb2_grpc.ReviewServiceStub(channel)
    await server.stop(1)


@pytest.fixture
async def room(database: Database, tmp_path: Path, workers: Workers) -> AsyncIterator[Room]:
    async with serving(database, tmp_path, workers) as served:
        await judge(served)
        yield served


async def judge(room: Room) -> None:
    """Stores the round as it was judged, with its audit records."""
    await room.execute(
        "insert into aegis.review_round (run_id, round, attempt, closed_at, judged_at)"
        " values (%s, 1, 1, %s, %s)",
        *(RUN, START, START),
    )
    for submission, judgement in zip(CASE.submissions, RULING.judgements, strict=True):
        sha256 = await room.blobs.put(submission.data)
        evidence = await room.blobs.put(NUMBERS[submission.update_id])
        await room.execute(
            "insert into aegis.review_update (update_id, run_id, round, attempt, participant,"
            " sha256, size_bytes, created_at, verdict, score, reviewed_at, evidence_sha256)"
            " values (%s, %s, 1, 1, %s, %s, %s, %s, %s, %s, %s, %s)",
            *(submission.update_id, RUN, submission.participant, sha256, len(submission.data)),
            *(START, judgement.verdict.value, judgement.score, START, evidence),
        )
        await room.log.write(
            entry(
                judgement.verdict.value,
                kind=audit_pb2.AUDIT_KIND_REVIEW,
                action="judge",
                subject_id=submission.update_id,
                details={
                    "run_id": RUN,
                    "round": "1",
                    "attempt": "1",
                    "participant": submission.participant,
                    "sha256": sha256.hex(),
                    "evidence_sha256": evidence.hex(),
                },
            )
        )


def trusted() -> TrustBundle:
    """The keys of evidence, of the log and of its witness."""
    public = KEY.public_key()
    times = {"not_before": START - timedelta(days=1), "not_after": START + timedelta(days=365)}
    evidence = TrustedKey(
        algorithms.key_id(public), REVIEW_EVIDENCE, "server:aegis", public, **times
    )
    return TrustBundle((evidence, *LOG.trust().keys))


async def copy_of(room: Room) -> Path:
    """A copy of the log, under a checkpoint."""
    room.log.clock.move(seconds=10)
    await room.log.kept.cut_if_due()
    return await room.log.copy(room.folder / "copy")


async def test_bundle_comes_in_pieces_and_verifies_against_update_and_log(
    database: Database, tmp_path: Path, workers: Workers
):
    """An auditor downloads it, and believes it without asking the server again."""
    async with serving(database, tmp_path, workers, draw=drawn) as room:
        await judge(room)
        parts = await room.parts()
        copy = await copy_of(room)
    header, chunks = parts[0].header, [part.chunk for part in parts[1:]]
    data = b"".join(chunks)
    assert (header.sha256, header.size_bytes) == (hashlib.sha256(data).digest(), len(data))
    assert max(map(len, chunks)) == 64 * 1024
    result = verify_bundle(data, trust=trusted(), update=CASE.submissions[2].data, audit=copy)
    assert result.findings == []
    assert result.checked == list(Check)
    assert result.manifest is not None
    assert (result.manifest.participant, result.manifest.verdict) == ("hospital-s3", "rejected")
    assert unpack(data)["evidence.json"] == NUMBERS["s3"]
    # The page knows the columns' names.
    assert b"mean radius" in unpack(data)["index.html"]


async def test_evidence_of_a_round_from_submission_to_proof(
    database: Database, tmp_path: Path, workers: Workers
):
    """What the examiners measured is recorded with the verdict, and comes back signed."""
    async with serving(database, tmp_path, workers) as room:
        for submission in CASE.submissions:
            await submit(room, submission)
        request = review_pb2.ReviewRoundRequest(run_id=RUN, round=1, attempt=1)
        judged = (await room.stub.ReviewRound(request, timeout=60)).updates
        update = judged[2]
        data = await room.bundle(update.update_id)
        copy = await copy_of(room)
    result = verify_bundle(data, trust=trusted(), update=CASE.submissions[2].data, audit=copy)
    assert result.findings == []
    assert result.manifest is not None
    assert result.manifest.evidence_sha256 == update.evidence_sha256
    assert result.manifest.verdict == "rejected"


async def submit(room: Room, submission: Submission) -> None:
    """Sends an update."""
    header = review_pb2.SubmitUpdateRequest.Header(
        run_id=RUN,
        round=1,
        attempt=1,
        participant=submission.participant,
        sha256=hashlib.sha256(submission.data).digest(),
        size_bytes=len(submission.data),
    )
    parts = [
        review_pb2.SubmitUpdateRequest(header=header),
        review_pb2.SubmitUpdateRequest(chunk=submission.data),
    ]
    await room.stub.SubmitUpdate(iter(parts), timeout=20)


async def test_bundle_has_the_same_bytes_ever_after(room: Room):
    """Signed once, with one record of it, however often and whenever it is asked for."""
    together = await asyncio.gather(room.bundle(), room.bundle())
    room.log.clock.move(days=30)
    assert {*together, await room.bundle()} == {together[0]}
    (record,) = await room.records("sign_evidence")
    assert (record.outcome, record.actor, record.subject_id) == ("signed", CALLER.subject, "s3")
    assert record.details["bundle_sha256"] == hashlib.sha256(together[0]).hexdigest()
    assert record.details["evidence_sha256"] == hashlib.sha256(NUMBERS["s3"]).hexdigest()


async def test_caller_who_leaves_does_not_stop_the_bundle(
    database: Database, tmp_path: Path, workers: Workers
):
    """It is made for whoever asks next."""
    async with serving(database, tmp_path, workers, draw=undrawn_slowly) as room:
        await judge(room)
        call = room.stub.DownloadEvidence(MADE, timeout=0.3)
        with pytest.raises(grpc.RpcError):
            await call.read()
        data = await room.bundle()
        assert len(await room.records("sign_evidence")) == 1
    assert verify_bundle(data, trust=trusted()).good


async def test_override_does_not_change_what_the_examiners_said(room: Room):
    """The evidence is of the review; what people decided afterwards has its own records."""
    await room.execute("update aegis.review_update set verdict = 'accepted' where update_id = 's3'")
    data = await room.bundle()
    result = verify_bundle(data, trust=trusted(), audit=await copy_of(room))
    assert result.findings == []
    assert result.manifest is not None
    assert result.manifest.verdict == "rejected"


async def test_pending_update_has_no_evidence_yet(room: Room):
    """Nothing was decided, so there is nothing to show."""
    await room.execute(
        "update aegis.review_update set verdict = 'pending', reviewed_at = null"
        " where update_id = 's3'"
    )
    refusal = await room.refusal()
    assert (refusal.reason, refusal.metadata["state"]) == ("STATE_CONFLICT", "PENDING")


async def test_unknown_update_and_one_judged_without_evidence_are_not_found(room: Room):
    """The message tells which it is."""
    assert (await room.refusal("upd-0")).reason == "RESOURCE_NOT_FOUND"
    await room.execute("update aegis.review_update set evidence_sha256 = '' where update_id = 's3'")
    refusal = await room.refusal()
    assert refusal.reason == "RESOURCE_NOT_FOUND"
    assert "judged without evidence" in refusal.message


@pytest.mark.parametrize("lost", ["evidence", "update", "bundle"])
async def test_damaged_bytes_are_never_handed_out(room: Room, lost: str):
    """Neither those of the bundle nor what it would be drawn from."""
    digest = hashlib.sha256({"evidence": NUMBERS["s3"]}.get(lost, CASE.submissions[2].data))
    name = digest.hexdigest()
    if lost == "bundle":
        name = hashlib.sha256(await room.bundle()).hexdigest()
    (file,) = (room.folder / "blobs").rglob(name)
    stored = bytearray(file.read_bytes())
    stored[-1] ^= 1
    file.chmod(0o600)
    file.write_bytes(stored)
    assert (await room.refusal()).reason == "DATA_DAMAGED"


async def test_server_without_a_key_says_which_setting_is_missing(
    database: Database, tmp_path: Path, workers: Workers
):
    """An unsigned bundle would be worth nothing, so there is none."""
    async with serving(database, tmp_path, workers, key=None) as room:
        await judge(room)
        refusal = await room.refusal()
    assert refusal.reason == "EVIDENCE_UNAVAILABLE"
    assert refusal.metadata["lacks"] == "AEGIS_EVIDENCE_KEY"


async def test_server_without_the_libraries_says_what_to_install(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Only who draws needs the extra `explain`; the verdicts do not."""
    missing = tmp_path / "without" / "matplotlib.py"
    missing.parent.mkdir()
    missing.write_text("raise ModuleNotFoundError('not installed', name='matplotlib')")
    # Worker processes get this process's path.
    monkeypatch.setattr(sys, "path", [str(missing.parent), *sys.path])
    workers = Workers(1)
    try:
        async with serving(database, tmp_path, workers, draw=drawn) as room:
            await judge(room)
            refusal = await room.refusal()
    finally:
        workers.close()
    assert refusal.reason == "EVIDENCE_UNAVAILABLE"
    assert "install aegis-control-plane[explain]" in refusal.message


class TestAgainstTheLog:
    """What a copy of the audit log can contradict."""

    async def test_evidence_that_was_not_recorded_is_found(self, room: Room):
        """The key alone makes no evidence: the log has to know it."""
        await room.execute(
            "update aegis.review_update set evidence_sha256 = %s where update_id = 's3'",
            await room.blobs.put(NUMBERS["s3"].replace(b'"rejected"', b'"accepted"', 1)),
        )
        result = verify_bundle(await room.bundle(), trust=trusted(), audit=await copy_of(room))
        assert {each.check for each in result.findings} == {Check.AUDIT}
        problems = " ".join(each.problem for each in result.findings)
        assert "another evidence_sha256" in problems
        assert "another outcome" in problems

    async def test_log_without_the_verdict_is_found(self, room: Room):
        """A copy of before the verdict proves nothing about it."""
        data = await room.bundle()
        empty = Path(room.folder / "none")
        empty.mkdir()
        (finding,) = verify_bundle(data, trust=trusted(), audit=empty).findings
        assert finding.check is Check.AUDIT

    async def test_verdict_behind_the_last_checkpoint_is_not_proven(self, room: Room):
        """Whoever owns the database could still write those records anew."""
        copy = await room.log.copy(room.folder / "copy")
        (finding,) = verify_bundle(await room.bundle(), trust=trusted(), audit=copy).findings
        assert "no signed checkpoint" in finding.problem

    async def test_altered_log_proves_nothing(self, room: Room):
        """Its own verification comes first."""
        data, copy = await room.bundle(), await copy_of(room)
        (file,) = copy.rglob("records.bin")
        stored = bytearray(file.read_bytes())
        stored[40] ^= 1
        file.write_bytes(stored)
        (finding,) = verify_bundle(data, trust=trusted(), audit=copy).findings
        assert (finding.check, "does not verify" in finding.problem) == (Check.AUDIT, True)

    async def test_command_checks_all_of_it(self, room: Room):
        """`aegis update verify-evidence` says what was checked, and by its status whether good."""
        folder = room.folder
        data, copy = await room.bundle(), await copy_of(room)
        (folder / "s3.zip").write_bytes(data)
        (folder / "other.zip").write_bytes(pack(unpack(data) | {"index.html": b"all good"}))
        (folder / "trust.json").write_bytes(trusted().to_json())
        (folder / "s3.safetensors").write_bytes(CASE.submissions[2].data)
        options = ["--trust", str(folder / "trust.json"), "--audit", str(copy)]
        options += ["--update", str(folder / "s3.safetensors"), "--output", "json"]
        command = ["update", "verify-evidence", *options]
        good = await asyncio.to_thread(CliRunner().invoke, app, [*command, str(folder / "s3.zip")])
        assert (good.exit_code, json.loads(good.output)["checked"]) == (0, list(Check))
        bad = await asyncio.to_thread(
            CliRunner().invoke, app, [*command, str(folder / "other.zip")]
        )
        assert bad.exit_code == 1
        (finding,) = json.loads(bad.output)["findings"]
        assert (finding["check"], finding["file"]) == ("files", "index.html")

    @pytest.mark.parametrize("missing", ["--audit", "--update", "bundle"])
    async def test_command_that_could_not_look_accuses_nobody(self, room: Room, missing: str):
        """A wrong path is no bad evidence: status 2, and what is missing is named."""
        folder = room.folder
        (folder / "s3.zip").write_bytes(await room.bundle())
        (folder / "trust.json").write_bytes(trusted().to_json())
        bundle = folder / ("nowhere" if missing == "bundle" else "s3.zip")
        command = ["update", "verify-evidence", str(bundle)]
        command += ["--trust", str(folder / "trust.json")]
        command += [missing, str(folder / "nowhere")] if missing != "bundle" else []
        done = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert done.exit_code == 2
        # A long path is folded.
        assert "nowhere" in "".join(done.stderr.split())


class TestCommand:
    """`aegis update evidence`, over another way to the same server."""

    @pytest.fixture
    def command(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., Awaitable[Result]]:
        @asynccontextmanager
        async def channel() -> AsyncIterator[grpc.aio.Channel]:
            async with grpc.aio.insecure_channel(f"unix:{room.folder}/evidence.sock") as opened:
                yield opened

        monkeypatch.setattr("aegis.cli.evidence.channel", channel)
        trust = room.folder / "trust.json"
        trust.write_bytes(trusted().to_json())

        async def run(*arguments: str) -> Result:
            words = ["update", "evidence", *arguments, "--trust", str(trust)]
            return await asyncio.to_thread(CliRunner().invoke, app, words)

        return run

    async def test_bundle_is_brought_verified_and_unpacked(
        self, room: Room, command: Callable[..., Awaitable[Result]]
    ):
        """The file is the server's, the folder is for reading."""
        file, folder = room.folder / "s3.zip", room.folder / "s3"
        done = await command("s3", "--to", str(file), "--open-dir", str(folder))
        assert done.exit_code == 0, done.output
        assert file.read_bytes() == await room.bundle()
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert found == unpack(file.read_bytes())

    async def test_folder_that_is_there_is_left_alone(
        self, room: Room, command: Callable[..., Awaitable[Result]]
    ):
        """Nothing is mixed with what somebody has."""
        file = room.folder / "s3.zip"
        done = await command("s3", "--to", str(file), "--open-dir", str(room.folder))
        assert (done.exit_code, file.exists()) == (2, False)

    async def test_bundle_that_does_not_verify_is_not_unpacked(
        self, room: Room, command: Callable[..., Awaitable[Result]]
    ):
        """A page that nobody vouches for is not put where people open it."""
        (room.folder / "trust.json").write_bytes(LOG.trust().to_json())
        folder = room.folder / "s3"
        done = await command("s3", "--to", str(room.folder / "s3.zip"), "--open-dir", str(folder))
        assert (done.exit_code, folder.exists()) == (1, False)

    async def test_refusal_has_its_reason(self, command: Callable[..., Awaitable[Result]]):
        """As everywhere."""
        done = await command("upd-0")
        assert done.exit_code == 1
        assert "RESOURCE_NOT_FOUND" in done.output
