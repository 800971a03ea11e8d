"""A bundle of a real round, with the keys that count for it."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.unit.review.factories import DATASET, a_round

from aegis import algorithms
from aegis.evidence.manifest import Manifest
from aegis.trust import REVIEW_EVIDENCE, TrustBundle, TrustedKey
from aegis_server.review.case import Case
from aegis_server.review.evidence.bundle import Draft
from aegis_server.review.evidence.numbers import numbers
from aegis_server.review.evidence.words import Words
from aegis_server.review.population import Population
from aegis_server.review.vetting import vet

JUDGED = datetime(2026, 5, 1, 12, tzinfo=UTC)
MADE = JUDGED + timedelta(hours=1)
RUN = "run-1"


def a_named_round(**attackers: str) -> Case:
    """A round whose participants are hospital-s1 and so on."""
    case = a_round(**attackers)
    submissions = tuple(
        replace(each, participant=f"hospital-{each.update_id}") for each in case.submissions
    )
    return replace(case, submissions=submissions)


def draft_of(case: Case, position: int = 2) -> Draft:
    """Returns what the bundle of one update of the round is drawn from."""
    ruling, submission = vet(case), case.submissions[position]
    evidence = numbers(case, ruling, Population(case))[submission.update_id]
    about = Manifest(
        update_id=submission.update_id,
        update_sha256=hashlib.sha256(submission.data).digest(),
        run_id=RUN,
        round=case.round,
        attempt=1,
        participant=submission.participant,
        verdict=ruling.judgements[position].verdict.value,
        review_time=JUDGED,
        create_time=MADE,
        evidence_sha256=hashlib.sha256(evidence).digest(),
        files={},
    )
    return Draft(
        about=about,
        evidence=evidence,
        words=Words.of(DATASET.schema),
        family=case.family,
        base=case.base,
        update=submission.data,
        golden=case.golden,
    )


def undrawn(draft: Draft) -> dict[str, bytes]:
    """What a worker makes of it where the test does not look at pictures."""
    return {"evidence.json": draft.evidence, "index.html": b"<!doctype html>"}


def undrawn_slowly(draft: Draft) -> dict[str, bytes]:
    """As `undrawn`, after a while."""
    time.sleep(1)
    return undrawn(draft)


@dataclass(frozen=True)
class Signer:
    """A key for evidence, and the bundle that says since when and until when it counts."""

    key: Ed25519PrivateKey
    usage: str = REVIEW_EVIDENCE
    revoked_at: datetime | None = None

    @property
    def trust(self) -> TrustBundle:
        public = self.key.public_key()
        known = TrustedKey(
            key_id=algorithms.key_id(public),
            usage=self.usage,
            owner="server:aegis",
            public_key=public,
            not_before=JUDGED - timedelta(days=1),
            not_after=JUDGED + timedelta(days=365),
            revoked_at=self.revoked_at,
        )
        return TrustBundle((known,))
